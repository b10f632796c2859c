"""The steps inside a file are those of `fathom.runtime.steps`, for every law, kernel and size."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs need onnx (pip install 'fathom-depth[export]')")

import onnx
import onnxruntime

from fathom.errors import ModelError
from fathom.export.picture_graph import _after, _before, wrap_network
from fathom.geometry import resize_map
from fathom.models.cards import InputSpec, ModelCard, find_model
from fathom.runtime.steps import preprocess
from tiny_models import make_model

LAWS = {
    "area": InputSpec(law="area", area=(64, 80), multiple=32),
    "keep_aspect bicubic": InputSpec(
        law="keep_aspect",
        height=70,
        width=70,
        multiple=14,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "fixed bilinear": InputSpec(law="fixed", height=57, width=76, multiple=1, interpolation="bilinear"),
    "native": InputSpec(law="native", multiple=32),
}
SIZES = [(90, 120), (120, 90), (64, 80), (40, 300), (300, 31), (33, 47), (65, 64)]


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("law", LAWS)
def test_graph_prepares_a_picture_as_the_steps_do(law):
    spec = LAWS[law]
    model = onnx.parser.parse_model(_before(spec, 10))
    onnx.checker.check_model(model)
    run = session(model)
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        got, rows, columns = run.run(None, {"picture": picture[None]})
        expected = preprocess(picture, spec).array
        assert got.shape == expected.shape, (height, width)
        assert (rows, columns) == (height, width)
        levels = np.abs(got - expected) * 255 * np.asarray(spec.std, np.float32)[:, None, None]
        # A sum that lies on the border between two grey levels may fall to either side.
        assert levels.max() < 2.01 and levels.mean() < 0.25, (height, width)


def test_area_law_shrinks_exactly():
    picture = np.random.default_rng(1).integers(0, 256, (200, 260, 3), np.uint8)
    got = session(onnx.parser.parse_model(_before(LAWS["area"], 10))).run(None, {"picture": picture[None]})[0]
    np.testing.assert_allclose(got, preprocess(picture, LAWS["area"]).array, atol=1e-6)


def test_graph_resizes_a_map_as_the_steps_do():
    run = session(onnx.parser.parse_model(_after(10)))
    raw = np.random.default_rng(2).random((2, 1, 24, 32), np.float32)
    for height, width in ((48, 64), (24, 32), (7, 100), (100, 7), (1, 1)):
        depth = run.run(None, {"raw": raw, "H": np.array(height), "W": np.array(width)})[0]
        assert depth.shape == (2, height, width)
        for index in range(2):
            np.testing.assert_allclose(depth[index], resize_map(raw[index, 0], height, width), atol=1e-6)


def test_batch_of_pictures_gives_each_its_own_depth(tmp_path):
    files = find_model(make_model(tmp_path / "model"))
    run = session(wrap_network(onnx.load(files.path("onnx")), files.card))
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (3, 50, 70, 3), np.uint8)
    together = run.run(None, {"picture": pictures})[0]
    assert together.shape == (3, 50, 70)
    alone = [run.run(None, {"picture": picture[None]})[0][0] for picture in pictures]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_mirrored_border_is_refused(tmp_path):
    files = find_model(make_model(tmp_path / "model"))
    spec = files.card.input.model_copy(update={"mirror_border": True})
    card = ModelCard(name="zoe", kind=files.card.kind, input=spec)
    with pytest.raises(ModelError, match="--graph network"):
        wrap_network(onnx.load(files.path("onnx")), card)
