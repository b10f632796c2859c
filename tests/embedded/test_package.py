"""The last stage of the embedded models' training: ONNX, safetensors and card from a network."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from fathom.errors import ModelError  # noqa: E402
from fathom.export.parity import find_pictures  # noqa: E402
from fathom.models import MODELS  # noqa: E402
from fathom.models.cards import find_model  # noqa: E402
from fathom.models.four_bits import find_grid  # noqa: E402
from fathom.predict import Predictor  # noqa: E402

TRAINING = Path(__file__).resolve().parents[2] / "training" / "embedded"
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module")
def package(load_stage):
    return load_stage("package")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, package):
    """`fathom-indoor` with four narrow blocks and random weights, packaged."""
    import yaml

    torch.manual_seed(0)
    options = {"taps": [1, 2, 3, 4], "heads": 2, "hidden": 64, "grid": [4, 5]}
    network = MODELS["fathom-indoor"].build(**options).eval()
    pictures = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        smooth = np.random.default_rng(index).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(smooth).resize((120, 90)).save(pictures / f"{index}.png")
    out = tmp_path_factory.mktemp("weights")
    written = yaml.safe_load((TRAINING / "fathom-indoor.yaml").read_text())
    written["architecture"]["options"] = options
    # Random weights answer with little more than noise, so 8 bits show more than they do after training.
    package.package(network, written, pictures, out, tolerance=0.2)
    return out


def test_several_checkpoints_are_averaged(package, tmp_path):
    for name, value in (("start", 1.0), ("end", 4.0)):
        torch.save({"average": {"layer.weight": torch.full((2, 3), value)}}, tmp_path / f"{name}.pt")
    one, both = (package.mean_weights([tmp_path / f"{n}.pt" for n in names]) for names in (["end"], ["start", "end"]))
    assert (one["layer.weight"] == 4).all() and (both["layer.weight"] == 2.5).all()


def test_grids_that_all_checkpoints_share_are_kept(package, tmp_path):
    first, second = (
        {"w": tuple(find_grid(torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))))} for seed in (0, 1)
    )
    for name, grids in {"a": {"grids": first}, "b": {"grids": first}, "c": {"grids": second}, "d": {}}.items():
        torch.save({"average": {}} | grids, tmp_path / f"{name}.pt")
    found = package.fixed_grids([tmp_path / "a.pt", tmp_path / "b.pt"])
    assert all(torch.equal(*pair) for pair in zip(found["w"], first["w"], strict=True))
    for names in ("ac", "ad", "da", "d"):
        assert package.fixed_grids([tmp_path / f"{name}.pt" for name in names]) == {}


def test_the_three_files_are_small_and_belong_together(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "fathom-indoor.json",
        "fathom-indoor.onnx",
        "fathom-indoor.safetensors",
    ]
    files = find_model(folder / "fathom-indoor.json")
    assert files.card.graph_role == "onnx_int8"
    assert files.path("onnx_int8").stat().st_size <= 10_000_000
    assert "onnx" not in files.card.files
    network = MODELS["fathom-indoor"].build(**files.card.architecture.options)
    assert files.card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert files.card.kind == "metric_depth"


def test_every_runtime_gives_the_same_metres(folder):
    pytest.importorskip("openvino")
    card = folder / "fathom-indoor.json"
    maps = [
        Predictor(card, runtime=runtime, num_threads=1).predict(IMAGE).values
        for runtime in ("onnxruntime", "openvino", "torch")
    ]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=0.1)
        assert np.abs(other / maps[0] - 1).mean() < 0.03


def test_both_files_hold_the_same_4_bits(folder):
    import onnx
    import onnxruntime
    from onnx.numpy_helper import to_array

    from fathom.models.weights import read_state_dict

    path = folder / "fathom-indoor.onnx"
    weights = read_state_dict(folder / "fathom-indoor.safetensors")
    wanted = {name: w.numpy().T for name, w in weights.items() if name.startswith("blocks.") and w.ndim == 2}
    model = onnx.load(path)
    used = {node.input[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    made = [node.output[0] for node in model.graph.node if node.op_type == "Reshape" and node.output[0] in used]
    assert len(made) == len(wanted) == 16
    scales = {item.name: to_array(item) for item in model.graph.initializer}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(made, {"image": np.zeros((1, 3, 56, 70), np.float32)})
    for values, name in zip(found, made, strict=True):
        assert values.dtype == np.int8
        matrix = values * scales[used[name]]
        assert any(other.shape == matrix.shape and np.allclose(other, matrix, rtol=1e-6) for other in wanted.values())


@pytest.mark.parametrize("name", ["made here", "fathom-general", "fathom-indoor"])
def test_no_two_products_of_the_decoder_exceed_16_bits(folder, name):
    """CPUs without VNNI add two products of an input (255 at most) and a weight in 16 bits, and cut off the rest."""
    import onnx
    from onnx.numpy_helper import to_array

    path = folder / "fathom-indoor.onnx" if name == "made here" else find_model(name).path("onnx_int8")
    graph = onnx.load(path).graph
    stored = {item.name: item for item in graph.initializer}
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    kinds = ("Conv", "ConvTranspose", "Gemm")
    found = [source[node.input[1]] for node in graph.node if node.op_type in kinds and node.input[1] in source]
    assert len(found) == 22
    for weight in found:
        values = to_array(stored[weight]).astype(int)
        assert 2 * 255 * np.abs(values).max() < 2**15, weight


@pytest.mark.parametrize("name", ["fathom-general", "fathom-indoor"])
def test_every_runtime_gives_what_the_packaged_network_gives(name):
    pytest.importorskip("openvino")
    exact, *others = (Predictor(name, runtime=runtime) for runtime in ("torch", "onnxruntime", "openvino"))
    expected = [exact.predict(picture).values for picture in find_pictures()]
    for other in others:
        maps = [other.predict(picture).values for picture in find_pictures()]
        shares = [np.abs(a - b).mean() / b.std() for a, b in zip(maps, expected, strict=True)]
        assert np.mean(shares) < 0.07  # 0.35 with the seventh version of the indoor model on a CPU without VNNI


def test_precision_says_what_runs(folder):
    card = folder / "fathom-indoor.json"
    assert Predictor(card, num_threads=1).precision == "int8"
    assert Predictor(card, runtime="torch").precision == "fp32"
    with pytest.raises(ModelError, match="no onnx file"):
        Predictor(card, runtime="onnxruntime", precision="fp32")


def test_batch_and_size_are_dynamic_and_do_not_change_a_bit(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "fathom-indoor.onnx", providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).random((3, 3, 56, 154), np.float32)
    together = session.run(None, {"image": batch})[0]
    assert together.shape == (3, 1, 56, 154)
    for index in range(3):
        np.testing.assert_array_equal(session.run(None, {"image": batch[index : index + 1]})[0][0], together[index])


def test_equalising_keeps_the_function_and_levels_the_channels(load_stage):
    equalise = load_stage("equalise").equalise
    torch.manual_seed(1)
    network = MODELS["fathom-general"].build(taps=(1, 2, 3, 4), heads=2, hidden=64, grid=(4, 5)).eval()
    with torch.no_grad():
        for block in network.blocks:
            block.norm1.weight[7] = 40.0  # one channel drowns the others
    image = np.random.default_rng(1).random((1, 3, 56, 84), np.float32)

    def answer():
        largest = []
        handle = network.blocks[1].qkv.register_forward_pre_hook(lambda _, x: largest.append(x[0].abs().amax((0, 1))))
        with torch.no_grad():
            depth = network(torch.from_numpy(image))
        handle.remove()
        return depth, float(largest[0].max() / largest[0].median())

    before, spread = answer()
    equalise(network, [image])
    after, levelled = answer()
    assert float((after - before).abs().max()) < 1e-4 * float(before.std() + before.abs().max())
    assert levelled < spread / 4
