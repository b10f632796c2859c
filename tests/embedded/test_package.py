"""The last stage of the embedded models' training: ONNX, safetensors and card from a network."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from fathom.models import MODELS  # noqa: E402
from fathom.models.cards import find_model  # noqa: E402
from fathom.predict import Predictor  # noqa: E402

TRAINING = Path(__file__).resolve().parents[2] / "training" / "embedded"
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`fathom-indoor` on timm's smallest encoder, with random weights, packaged."""
    import yaml

    sys.path.insert(0, str(TRAINING))
    try:
        import package
    finally:
        sys.path.remove(str(TRAINING))
    torch.manual_seed(0)
    options = {"encoder": "test_efficientnet", "widths": [16, 16, 8, 8, 8]}
    network = MODELS["fathom-indoor"].build(**options).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        network.head.weight.normal_(0, 0.1)
    out = tmp_path_factory.mktemp("weights")
    written = yaml.safe_load((TRAINING / "fathom-indoor.yaml").read_text())
    written["architecture"]["options"] = options
    # Random weights have no spread to speak of, so float16 shows more than it does after training.
    package.package(network, written, out, tolerance=0.05)
    return out


def test_the_three_files_are_small_and_belong_together(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "fathom-indoor.json",
        "fathom-indoor.onnx",
        "fathom-indoor.safetensors",
    ]
    files = find_model(folder / "fathom-indoor.json")
    assert files.path("onnx").stat().st_size <= 10_000_000
    assert files.path("safetensors").stat().st_size <= 10_000_000
    network = MODELS["fathom-indoor"].build(**files.card.architecture.options)
    assert files.card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert files.card.kind == "metric_depth"


def test_every_runtime_gives_the_same_metres(folder):
    pytest.importorskip("openvino")
    maps = [
        Predictor(folder / "fathom-indoor.json", runtime=runtime, precision="fp32", num_threads=1).predict(IMAGE).values
        for runtime in ("onnxruntime", "openvino", "torch")
    ]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=2e-3)


def test_batch_and_size_are_dynamic_and_do_not_change_a_bit(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "fathom-indoor.onnx", providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).random((3, 3, 64, 160), np.float32)
    together = session.run(None, {"image": batch})[0]
    assert together.shape == (3, 1, 64, 160)
    for index in range(3):
        np.testing.assert_array_equal(session.run(None, {"image": batch[index : index + 1]})[0][0], together[index])
