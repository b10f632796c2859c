"""Export end to end: the file, its card, its report, and what is left after a failure."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="export needs onnx (pip install 'fathom-depth[export]')")

from fathom.errors import ExportError, ModelError, WeightsError
from fathom.export import FORMATS, Tolerance, export_model
from fathom.export.convert import place_of
from fathom.io import read_image
from fathom.models.cards import find_model
from fathom.predict import Predictor
from tiny_models import make_model, make_photo


@pytest.fixture
def source(tmp_path):
    """A model that is only an ONNX file, so that nothing is traced."""
    return make_model(tmp_path / "source")


@pytest.fixture
def photo(tmp_path):
    return make_photo(tmp_path / "photo.png", 90, 130)


def test_picture_goes_in_and_the_same_metres_come_out(source, photo, tmp_path):
    done = export_model(source, "onnx", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "card.json",
        "model.onnx",
        "parity.json",
        "parity.md",
    ]
    assert done.report.failures == () and done.card.input.in_graph
    export, original = Predictor(tmp_path / "out"), Predictor(source)
    assert (export.runtime, export.kind, export.precision) == ("onnxruntime", original.kind, "fp32")
    depth = export.predict(photo)
    np.testing.assert_allclose(depth.values, original.predict(photo).values, rtol=1e-4)
    assert depth.provenance.preprocessing["in_graph"] is True


def test_file_runs_without_fathom(source, photo, tmp_path):
    import onnxruntime

    export_model(source, "onnx", tmp_path / "room.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "room.onnx")
    rgb = read_image(photo).rgb
    (depth,) = session.run(None, {"picture": rgb[None]})
    assert depth.shape == (1, 90, 130)
    np.testing.assert_allclose(depth[0], Predictor(source).predict(photo).values, rtol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["fathom.unit"] == "m"


def test_named_file_has_its_card_beside_it(source, tmp_path):
    done = export_model(source, "onnx", tmp_path / "room.onnx", in_graph=False)
    assert done.card_path == tmp_path / "room.json"
    card = find_model(tmp_path / "room.onnx").card
    assert card.export.format == "onnx" and card.export.parity["delta1"] == 1.0
    assert json.loads((tmp_path / "room.parity.json").read_text())["failures"] == []
    assert Predictor(tmp_path / "room.onnx").kind == "metric_depth"


@pytest.mark.parametrize("in_graph", [False, True])
def test_openvino_gives_the_same_metres(source, photo, tmp_path, in_graph):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    done = export_model(source, "openvino", tmp_path / "room.xml", in_graph=in_graph, precision="fp16")
    assert {path.name for path in done.files[:2]} == {"room.xml", "room.bin"}
    export = Predictor(tmp_path / "room.xml")
    assert export.runtime == "openvino"
    np.testing.assert_allclose(export.predict(photo).values, Predictor(source).predict(photo).values, rtol=2e-3)


def test_openvino_runs_an_onnx_export(source, photo, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    export_model(source, "onnx", tmp_path / "out")
    export = Predictor(tmp_path / "out", runtime="openvino", precision="fp32")
    np.testing.assert_allclose(export.predict(photo).values, Predictor(source).predict(photo).values, rtol=2e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-weights", "int8-dynamic", "int8"])
def test_small_precisions_run_and_say_so(source, photo, tmp_path, precision):
    done = export_model(source, "onnx", tmp_path / "out", precision=precision)
    assert done.card.export.precision == precision
    export = Predictor(tmp_path / "out")
    assert export.precision == ("int8" if precision == "int8" else "fp32")
    np.testing.assert_allclose(export.predict(photo).values, Predictor(source).predict(photo).values, rtol=0.05)


def test_difference_beyond_the_tolerance_leaves_only_the_report(source, tmp_path):
    strict = Tolerance(max_relative=0.0, mean_relative=0.0, min_delta1=1.0)
    with pytest.raises(ExportError, match="was removed"):
        export_model(source, "onnx", tmp_path / "out", precision="bf16", tolerance=strict)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["parity.json", "parity.md"]
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["failures"]


def test_failed_export_keeps_the_good_file_that_was_there(source, tmp_path):
    export_model(source, "onnx", tmp_path / "out")
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    strict = Tolerance(max_relative=0.0, mean_relative=0.0, min_delta1=1.0)
    with pytest.raises(ExportError):
        export_model(source, "onnx", tmp_path / "out", precision="bf16", tolerance=strict)
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before
    Predictor(tmp_path / "out")


def test_changed_file_is_refused(source, tmp_path):
    export_model(source, "onnx", tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="not the file its card describes"):
        Predictor(tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "options", "words"),
    [
        ("onxx", {}, "Did you mean 'onnx'"),
        ("ncnn", {"precision": "int8"}, "it can: fp32, fp16"),
        ("ncnn", {"dynamic": True}, "is fixed here"),
        ("ncnn", {"in_graph": True}, "holds the network alone"),
        ("onnx", {"dynamic": True, "size": (64, 64)}, "not both"),
        ("executorch", {}, "only an ONNX file"),
        ("torch-export", {}, "only an ONNX file"),
        ("onnx", {"dynamic": False}, "dynamic already"),
    ],
)
def test_wrong_choices(source, tmp_path, to, options, words):
    with pytest.raises(ModelError, match=words):
        export_model(source, to, tmp_path / "out", **options)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_export_of_an_export_is_refused(source, tmp_path):
    export_model(source, "onnx", tmp_path / "out")
    with pytest.raises(ModelError, match="export of tiny already"):
        export_model(tmp_path / "out", "openvino", tmp_path / "again")


def test_exports_choose_their_runtime(source, tmp_path):
    export_model(source, "onnx", tmp_path / "out")
    with pytest.raises(ModelError, match="runs with onnxruntime"):
        Predictor(tmp_path / "out", runtime="torch")
    with pytest.raises(ModelError, match="holds fp32"):
        Predictor(tmp_path / "out", precision="int8")
    with pytest.raises(ModelError, match="size is part of this file"):
        Predictor(tmp_path / "out", size=96)


def test_checkpoint_that_does_not_fit(tmp_path):
    pytest.importorskip("torch", reason="networks need torch")
    from safetensors.numpy import save_file

    save_file({"wrong": np.zeros(1, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError):
        export_model("fcrn-compact", "onnx", tmp_path / "out", weights=tmp_path / "weights.safetensors")


def test_place():
    assert place_of("a/room.tflite", FORMATS["litert"]).stem == "room"
    assert place_of("a/b", FORMATS["litert"]).card == "card.json"
    with pytest.raises(ModelError, match=r"is the name of a file in onnx; litert needs \.tflite"):
        place_of("a/room.onnx", FORMATS["litert"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_network_that_cannot_leave_its_size_gets_the_one_size_of_its_law(photo, tmp_path):
    pytest.importorskip("torch", reason="networks need torch")
    from export_helpers import sized_source

    with pytest.raises(ModelError, match="--static"):
        export_model(sized_source(), "onnx", tmp_path / "free", dynamic=True)
    assert not any((tmp_path / "free").iterdir())
    done = export_model(sized_source(), "onnx", tmp_path / "one")
    assert not done.card.export.dynamic and done.report.failures == ()
    assert Predictor(tmp_path / "one").predict(photo).values.shape == (90, 130)
