import numpy as np
import pytest
from PIL import Image

from fathom.demo import PHOTOS, photo_path
from fathom.io import read_depth
from tiny_models import make_model


@pytest.mark.parametrize("name", PHOTOS)
def test_the_photographs_are_there_and_small(name):
    with Image.open(photo_path(name)) as image:
        assert min(image.size) >= 300
        assert image.mode == "RGB"
    assert photo_path(name).stat().st_size < 80_000


def test_no_photograph_without_a_credit():
    files = {path.stem for path in photo_path("x").parent.glob("*.jpg")}
    assert files == set(PHOTOS)
    assert all(credit.startswith(("CC0", "public domain")) for credit in PHOTOS.values())


def test_demo(command, tmp_path, monkeypatch):
    """With tiny models in the place of the packaged ones: every kind of file is written and named."""
    weights = tmp_path / "weights"
    for name, kind in (("fathom-general", "affine_invariant_inverse_depth"), ("fathom-indoor", "metric_depth")):
        folder = make_model(tmp_path / name, name=name, kind=kind)
        weights.mkdir(exist_ok=True)
        card = (folder / "card.json").read_text().replace("model.onnx", f"{name}.onnx")
        (weights / f"{name}.json").write_text(card)
        (folder / "model.onnx").rename(weights / f"{name}.onnx")
    monkeypatch.setattr("fathom.models.cards.WEIGHTS_FOLDER", weights)
    out = tmp_path / "out"
    code, printed, err = command("demo", "-o", out)
    assert code == 0, err
    for name in PHOTOS:
        assert read_depth(out / f"{name}.png").kind == "affine_invariant_inverse_depth"
        assert np.load(out / f"{name}.npy").dtype == np.float32
        assert f"{out / name}_panel.png" in printed
        assert PHOTOS[name] in printed
    assert read_depth(out / "astronaut_metric.png").kind == "metric_depth"
    for suffix in (".ply", ".glb"):
        assert (out / f"astronaut_metric{suffix}").stat().st_size > 1000
    assert "fathom predict PHOTO" in printed


def test_demo_without_weights_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setattr("fathom.models.cards.WEIGHTS_FOLDER", tmp_path)
    code, _, err = command("demo", "-o", tmp_path / "out")
    assert code == 2
    assert "No model is called 'fathom-general'" in err
