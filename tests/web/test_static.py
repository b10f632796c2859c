import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from serve_helpers import encoded
from web_helpers import open_page, serve_folder

from fathom.errors import ModelError, OutputError
from fathom.export import web
from fathom.export.web import export_web
from fathom.io import read_depth
from fathom.models.cards import FileEntry, InputSpec, ModelCard, write_card
from fathom.predict import Predictor
from fathom.types import DepthKind

onnx = pytest.importorskip("onnx", reason="small networks are made with onnx")

LAWS = {
    "area": InputSpec(law="area", area=(96, 128), multiple=32),
    "aspect": InputSpec(
        law="keep_aspect",
        height=70,
        width=70,
        multiple=14,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "fixed": InputSpec(law="fixed", height=64, width=96, interpolation="bilinear"),
}


def make_model(folder, name, spec, kind):
    """Write a model whose output is five plus the mean of its three input channels."""
    weight = onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), 1 / 3, np.float32), "weight")
    bias = onnx.numpy_helper.from_array(np.array([5], np.float32), "bias")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weight", "bias"], ["depth"])],
        name,
        [value("image", onnx.TensorProto.FLOAT, ["B", 3, "h", "w"])],
        [value("depth", onnx.TensorProto.FLOAT, ["B", 1, "h", "w"])],
        [weight, bias],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir()
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    entry = FileEntry(name="model.onnx", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    write_card(ModelCard(name=name, kind=kind, input=spec, files={"onnx": entry}), folder / "card.json")
    return folder


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    kinds = {"aspect": DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH}
    return [make_model(root / name, name, spec, kinds.get(name, DepthKind.METRIC_DEPTH)) for name, spec in LAWS.items()]


def test_without_the_built_page_the_export_says_so(model_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "WEB_FOLDER", tmp_path / "nothing")
    with pytest.raises(OutputError, match=r"Node\.js"):
        export_web(model_folders[0], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_models_must_exist_and_differ(model_folders, tmp_path):
    with pytest.raises(ModelError, match="different names"):
        export_web([model_folders[0], model_folders[0]], tmp_path / "site")
    with pytest.raises(ModelError):
        export_web("no-such-model", tmp_path / "site")


def test_a_file_that_holds_the_steps_itself_is_refused(model_folders, tmp_path):
    card = json.loads((model_folders[0] / "card.json").read_text())
    card["input"]["in_graph"] = True
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "model.onnx").write_bytes((model_folders[0] / "model.onnx").read_bytes())
    with pytest.raises(ModelError, match="inside its file"):
        export_web(tmp_path, tmp_path / "site")


@pytest.fixture(scope="module")
def page(browser, model_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "site"
    written = export_web(model_folders, folder)
    assert {path.name for path in written} >= {"index.html", "fathom.json", "colormaps.json"}
    server, address = serve_folder(folder)
    page = open_page(browser, address)
    yield page
    assert page.errors == []
    page.context.close()
    server.shutdown()
    server.server_close()


def measure(page, content, model):
    page.set_input_files("#file", {"name": "room.png", "mimeType": "image/png", "buffer": content})
    page.wait_for_selector("#busy", state="hidden")
    page.select_option("#right-source", model)
    page.wait_for_selector(f"#facts dd:first-of-type:text-is('{model}')")
    page.wait_for_selector("#busy", state="hidden")


def save(page, form, folder):
    with page.expect_download() as waiting:
        page.click(f"button[data-format={form}]")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("size", [(120, 160), (301, 203), (40, 37)])
@pytest.mark.parametrize("model", list(LAWS))
def test_the_browser_gives_the_depth_that_python_gives(page, model_folders, tmp_path, model, size):
    content = encoded(*size, seed=11)
    (tmp_path / "room.png").write_bytes(content)
    expected = Predictor(model_folders[list(LAWS).index(model)]).predict(tmp_path / "room.png")
    measure(page, content, model)
    got = read_depth(save(page, "npz", tmp_path))
    assert (got.kind, got.provenance.model) == (expected.kind, model)
    assert got.camera == expected.camera
    # Pillow resizes 8-bit pictures in fixed point: one grey level of 255, over the standard deviation of the law.
    level = 1 / 255 / min(LAWS[model].std)
    np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=1e-5 if model == "area" else level)
    assert np.abs(got.values - expected.values).mean() < 1e-3


@pytest.mark.slow
def test_files_made_in_the_browser_are_read_back(page, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    measure(page, encoded(120, 160, seed=12), "area")
    depth = read_depth(save(page, "npz", tmp_path))
    counts = read_depth(save(page, "png16", tmp_path))
    np.testing.assert_allclose(counts.values, depth.values, atol=6e-4)
    np.testing.assert_array_equal(np.load(save(page, "npy", tmp_path)), depth.values)
    with Image.open(save(page, "color", tmp_path)) as picture:
        assert picture.size == (160, 120)
    points = trimesh.load(save(page, "ply", tmp_path))
    scene = trimesh.load(save(page, "glb", tmp_path))
    [cloud] = scene.geometry.values()
    assert len(points.vertices) == len(cloud.vertices) > 10_000
    np.testing.assert_allclose(points.vertices * [1, -1, -1], cloud.vertices, atol=1e-5)
    assert points.vertices[:, 2].min() > 4.9  # metres, z forward
