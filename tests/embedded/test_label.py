"""Labelling: what is stored of a picture and of what the teacher says, whatever their shapes."""

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def label(load_stage):
    return load_stage("label")


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 40 pictures that grow darker from left to right, 4:3 and 3:4, and a broken file."""
    for number in range(40):
        height, width = (90, 120) if number % 2 else (120, 90)
        grey = np.tile(np.linspace(250, 5 + number, width, dtype=np.uint8), (height, 1))
        (tmp_path / "photos" / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / f"{number % 3}" / f"{number:02d}.png"), np.dstack([grey] * 3))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_every_picture_is_stored_with_its_own_label(label, folder, tmp_path, capsys):
    todo = label.find([f"photos={folder}"], tmp_path / "cache")
    assert len(todo) == 40
    assert "broken.jpg: not a picture" in capsys.readouterr().out
    for bucket in {picture.bucket for picture in todo}:
        size = label.sides(bucket, 56)
        seen = []

        def teacher(pixels, size=size, seen=seen):
            assert pixels.shape[1:] == (3, *size)
            seen.append(len(pixels))
            return pixels.mean(1)

        done = list(label.label([p for p in todo if p.bucket == bucket], teacher, size))
        assert done == seen == [16, 4]
    assert not label.find([f"photos={folder}"], tmp_path / "cache")  # a second run has nothing to do
    assert len(list((tmp_path / "cache" / "photos").iterdir())) == 40  # and nothing else lies there
    for picture in todo:
        with np.load(picture.target) as data:
            image, inverse, aspect = data["image"], data["inverse_depth"], float(data["aspect"])
        assert image.shape == (336, 448, 3) and inverse.shape == (336, 448)
        assert aspect == pytest.approx(4 / 3 if int(picture.path.stem) % 2 else 3 / 4)
        # The fake label is the picture's own grey, so it belongs to this picture and lies where it should.
        grey = ((image / 255 - label.MEAN) / label.STD).mean(-1)
        np.testing.assert_allclose(inverse, grey, atol=0.12)


def test_the_error_of_one_picture_is_not_swallowed(label, folder, tmp_path):
    [picture, *_] = label.find([f"photos={folder}"], tmp_path / "cache")
    picture.path.unlink()
    with pytest.raises(cv2.error):
        list(label.label([picture], lambda pixels: pixels.mean(1), (56, 56)))


@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 3 / 4, 16 / 9, 3.2])
def test_sides_are_whole_patches_of_about_the_aspect(label, aspect):
    height, width = label.sides(aspect, 392)
    assert height % label.PATCH == width % label.PATCH == 0
    assert width / height == pytest.approx(aspect, rel=0.04)
