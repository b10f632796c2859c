"""Your own folder: pairing by stem, and what stored numbers become."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fathom.config import parse_config
from fathom.data.config import DatasetConfig, load_dataset_config
from fathom.data.folder import FolderDataset, decode, match_files
from fathom.errors import ConfigError, InputError
from fathom.io import FathomWarning, write_depth
from fathom.types import Depth, DepthKind

RGB = np.full((4, 6, 3), 60, np.uint8)


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def config(**values: Any) -> DatasetConfig:
    return parse_config({"name": "t", "images": "rgb/{stem}.*", "depth": "depth/{stem}.*"} | values, DatasetConfig)


@pytest.mark.parametrize(
    ("values", "stored", "metres"),
    [
        ({"scale": 1 / 256}, 2560, 10.0),
        ({"scale": 1 / 5000}, 5000, 1.0),
        ({"unit": "mm"}, 1500, 1.5),
        ({"unit": "cm", "offset": 50.0}, 100, 1.5),
        ({"scale": 2.0, "offset": 1.0}, 3, 7.0),
        ({"kind": "inverse_depth", "scale": 0.001}, 500, 0.5),
        ({"kind": "inverse_depth", "unit": "mm"}, 2, 2000.0),
        ({"kind": "disparity", "scale": 1 / 3}, 36, 12.0),
    ],
)
def test_scale_offset_unit(values: dict[str, Any], stored: int, metres: float) -> None:
    decoded, valid = decode(np.array([[stored]], np.uint16), config(**values))
    assert decoded[0, 0] == pytest.approx(metres) and valid.all()


def test_16b_invalid_values_and_range() -> None:
    stored = np.array([[0, 65535, 100, 5000, 20000]], np.uint16)
    decoded, valid = decode(stored, config(unit="mm", invalid=[0, 65535], min_depth=0.5, max_depth=10.0))
    assert valid.tolist() == [[False, False, False, True, False]] and decoded[0, 3] == 5.0
    floats, valid = decode(np.array([[np.nan, np.inf, -np.inf, 2.0]]), config(invalid=[]))
    assert valid.tolist() == [[False, False, False, True]] and floats[0, 3] == 2.0


def test_16a_distance_along_rays_becomes_depth() -> None:
    # A wall at z = 2 m seen by a camera with f = 3 px: the ray to a pixel is longer by sqrt(1 + x^2 + y^2).
    height, width, focal = 4, 6, 3.0
    x = (np.arange(width) + 0.5 - 3) / focal
    y = (np.arange(height) + 0.5 - 2) / focal
    ray = 2.0 * np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)
    depth, _ = decode(ray, config(along="ray", intrinsics=[focal, focal, 3.0, 2.0]))
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)


def test_pairs_by_stem(tmp_path: Path) -> None:
    for stem in ("a/001", "a/002", "b/001"):
        write_png(tmp_path / f"rgb/{stem}.png", RGB)
        write_png(tmp_path / f"depth/{stem}.png", np.full((4, 6), 2000, np.uint16))
    write_png(tmp_path / "depth/b/009.png", np.full((4, 6), 2000, np.uint16))
    dataset = FolderDataset(config(root=str(tmp_path), unit="mm"))
    assert dataset.stems == ["a/001", "a/002", "b/001"] and [dataset.scene(i) for i in range(3)] == ["a", "a", "b"]
    assert dataset[2].target[0, 0] == 2.0 and dataset.maps_without_image == ["b/009"]


def test_a_picture_without_map_is_counted_and_named(tmp_path: Path) -> None:
    for stem in ("1", "2"):
        write_png(tmp_path / f"{stem}_rgb.png", RGB)
    write_png(tmp_path / "1_depth.png", np.full((4, 6), 2000, np.uint16))
    described = config(root=str(tmp_path), images="{stem}_rgb.png", depth="{stem}_depth.png")
    with pytest.warns(FathomWarning, match="1 of 2 pictures have no map"):
        dataset = FolderDataset(described)
    assert dataset.images_without_map == ["2"] and len(dataset) == 1


def test_every_format_gives_the_same_metres(tmp_path: Path) -> None:
    metres = np.array([[1.5, 2.0, 0.0]], np.float32)
    for folder in ("rgb", "png", "npy", "npz", "tiff", "pfm", "exr"):
        (tmp_path / folder).mkdir()
    write_png(tmp_path / "rgb/1.png", np.zeros((1, 3, 3), np.uint8))
    write_png(tmp_path / "png/1.png", (metres * 1000).astype(np.uint16))
    np.save(tmp_path / "npy/1.npy", metres)
    np.savez(tmp_path / "npz/1.npz", depth=metres)
    Image.fromarray(metres).save(tmp_path / "tiff/1.tiff")
    (tmp_path / "pfm/1.pfm").write_bytes(b"Pf\n3 1\n-1.0\n" + metres[::-1].astype("<f4").tobytes())
    write_depth(Depth(metres, DepthKind.METRIC_DEPTH), tmp_path / "exr/1.exr")
    for folder in ("png", "npy", "npz", "tiff", "pfm", "exr"):
        unit = "mm" if folder == "png" else "m"
        sample = FolderDataset(config(root=str(tmp_path), depth=f"{folder}/{{stem}}.{folder}", unit=unit))[0]
        np.testing.assert_allclose(sample.target, metres, err_msg=folder)
        assert sample.valid_mask.tolist() == [[True, True, False]], folder


def test_yaml_splits_and_labels(tmp_path: Path) -> None:
    for stem in ("1", "2", "3"):
        write_png(tmp_path / f"data/rgb/{stem}.png", RGB)
        write_png(tmp_path / f"data/seg/{stem}.png", np.full((4, 6), int(stem), np.uint8))
    (tmp_path / "data/train.txt").write_text("3\n1\n")
    (tmp_path / "room.yaml").write_text(
        "name: room\nroot: data\nimages: rgb/{stem}.png\nlabels: seg/{stem}.png\nignore_label: 0\n"
        "class_names: [void, wall]\nsplits: {train: train.txt}\n"
    )
    dataset = FolderDataset(tmp_path / "room.yaml", "train")
    assert [sample.meta["labels"][0, 0] for sample in dataset] == [3, 1] and dataset.kind is None
    assert dataset.ignore_label == 0 and dataset.class_names() == ("void", "wall")
    with pytest.raises(ConfigError, match="no split 'val'"):
        FolderDataset(tmp_path / "room.yaml", "val")
    (tmp_path / "data/train.txt").write_text("3\n7\n")
    with pytest.raises(InputError, match="first 7"):
        FolderDataset(tmp_path / "room.yaml", "train")
    assert load_dataset_config(tmp_path / "room.yaml").root == (tmp_path / "data").resolve()


def test_nothing_pairs(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb/1.png", RGB)
    write_png(tmp_path / "depth/2.png", RGB[..., 0])
    with pytest.raises(InputError, match="fathom data doctor"):
        FolderDataset(config(root=str(tmp_path)))


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb/1.png", RGB)
    write_png(tmp_path / "rgb/1.jpg", RGB)
    with pytest.raises(InputError, match="both have the stem 1"):
        match_files(tmp_path, "rgb/{stem}.*")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"depth": None}, "Set `depth` or `labels`"),
        ({"images": "rgb/*.png"}, "holds {stem} once"),
        ({"along": "ray"}, "needs `intrinsics`"),
        ({"kind": "disparity", "unit": "mm"}, "has none"),
        ({"min_depth": 5.0, "max_depth": 2.0}, "below `max_depth`"),
        ({"scal": 2.0}, "Did you mean 'scale'"),
        ({"scale": "1e-3"}, "1.0e-3"),
        ({"kind": "metric"}, "'metric_depth'"),
    ],
)
def test_configuration_sentences(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    assert sentence in str(caught.value)


def test_misfit_of_picture_and_map_is_named(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb/1.png", RGB)
    write_png(tmp_path / "depth/1.png", np.full((8, 12), 9, np.uint16))
    with warnings.catch_warnings():
        dataset = FolderDataset(config(root=str(tmp_path)))
    with pytest.raises(ValueError, match="6 x 4 but its target is 12 x 8"):
        dataset[0]
