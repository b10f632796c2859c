"""INT8 for OpenVINO: a small transformer with a channel that 8 bits cannot hold, and the bound that mends it."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="export needs onnx (pip install 'fathom-depth[export]')")
pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("nncf", reason="NNCF is not installed")
pytest.importorskip("torch", reason="torch is not installed")

import onnx
import openvino
import torch
from torch import nn

from fathom.errors import ModelError
from fathom.export.job import Job
from fathom.export.onnx import drop_softmax_guards, network_to_onnx
from fathom.export.openvino import read_ir
from fathom.export.openvino_int8 import in_float32, meet_bound, quantise_openvino, without
from fathom.export.parity import compare
from fathom.export.source import Source
from fathom.models.cards import InputSpec, ModelCard
from fathom.types import DepthKind

SPEC = InputSpec(law="fixed", height=32, width=48, multiple=8)
RNG = np.random.default_rng(11)
INPUTS = [RNG.random((1, 3, 32, 48)).astype(np.float32) for _ in range(4)]


class Attend(nn.Module):
    """Attention over the cells of a patch embedding, and a layer with one hidden unit far above all others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.qkv = nn.Linear(16, 48)
        self.wide = nn.Linear(16, 32)
        self.back = nn.Linear(32, 16)
        self.before = nn.Conv2d(16, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, 1, 1)
        with torch.no_grad():
            self.wide.weight[0] *= 3000.0
            self.back.weight[:, 0] = 0.0

    def forward(self, image):
        cells = self.embed(image)
        tokens = cells.flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).reshape(tokens.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + mixed.transpose(1, 2).flatten(2)
        tokens = tokens + self.back(torch.relu(self.wide(tokens)))
        maps = nn.functional.interpolate(tokens.transpose(1, 2).reshape(cells.shape), scale_factor=4.0, mode="bilinear")
        return torch.relu(self.head(torch.relu(self.before(maps)))) + 1e-3


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(2)
    network = Attend().eval().requires_grad_(False)
    return Source(ModelCard(name="attend", kind=DepthKind.METRIC_DEPTH, input=SPEC), network, None, "")


@pytest.fixture(scope="module")
def graph(source, tmp_path_factory):
    return network_to_onnx(source, SPEC, tmp_path_factory.mktemp("graph") / "attend.onnx", dynamic=False)


@pytest.fixture
def model(graph):
    return read_ir(graph)


def job_for(source, tmp_path, **options):
    return Job(source, SPEC, tmp_path, "model", False, False, "int8", INPUTS, **options)


def outputs(model):
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(compiled(image)[0]) for image in INPUTS]


def delta1(model, expected):
    return np.mean(
        [compare(got.ravel(), want.ravel())["delta1"] for got, want in zip(outputs(model), expected, strict=True)]
    )


def types_of(model, kind):
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def test_guard_behind_softmax_goes_where_no_row_is_masked(source, graph):
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    assert "Softmax" in kinds and "IsNaN" not in kinds and "Where" not in kinds
    compiled = openvino.compile_model(openvino.Core().read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = source.network(torch.from_numpy(INPUTS[0])).numpy()
    np.testing.assert_allclose(compiled(INPUTS[0])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fill", "num_left"), [(-np.inf, 1), (-3e38, 0)])
def test_guard_stays_where_a_mask_can_hide_a_whole_row(fill, num_left):
    nodes = [
        onnx.helper.make_node("MatMul", ["a", "b"], ["scores"]),
        onnx.helper.make_node("Where", ["seen", "zero", "fill"], ["mask"]),
        onnx.helper.make_node("Add", ["scores", "mask"], ["masked"]),
        onnx.helper.make_node("Softmax", ["masked"], ["share"]),
        onnx.helper.make_node("IsNaN", ["share"], ["hidden"]),
        onnx.helper.make_node("Where", ["hidden", "zero", "share"], ["out"]),
        onnx.helper.make_node("Relu", ["out"], ["answer"]),
    ]
    value, tensor = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    made = onnx.helper.make_graph(
        nodes,
        "masked",
        [value("a", 1, [2, 3]), value("b", 1, [3, 4]), value("seen", onnx.TensorProto.BOOL, [2, 4])],
        [value("answer", 1, [2, 4])],
        [tensor(np.float32(0), "zero"), tensor(np.float32(fill), "fill")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = drop_softmax_guards(onnx.helper.make_model(made, opset_imports=[opset], ir_version=8))
    onnx.checker.check_model(model)
    assert sum(node.op_type == "IsNaN" for node in model.graph.node) == num_left


@pytest.mark.slow
def test_of_a_transformer_only_products_with_stored_weights_are_quantised(source, model, tmp_path):
    quantised = quantise_openvino(job_for(source, tmp_path), model)
    fed = {
        target.get_node().get_type_name()
        for node in types_of(quantised, "FakeQuantize")
        for target in node.output(0).get_target_inputs()
    }
    assert fed and not fed & {"Interpolate", "ScaledDotProductAttention", "Softmax", "Convolution"}
    # Two products fit in 16 bits, which is where CPUs without VNNI add them.
    stored = [node for node in types_of(quantised, "Constant") if node.get_element_type().is_integral()]
    largest = [np.abs(node.data.astype(int)).max() for node in stored if len(node.shape) == 2]
    assert len(largest) == 3 and all(60 < value <= 64 for value in largest)
    path = tmp_path / "model.xml"
    openvino.save_model(quantised, path)
    compiled = openvino.compile_model(openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    run = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    floats = [info for info in run if "Convolution" == info["layerType"].astype(str)][-2:]
    assert [info["runtimePrecision"].astype(str) for info in floats] == ["f32", "f32"]


def test_marked_nodes_compute_in_float32(model):
    names = [node.get_friendly_name() for node in types_of(model, "Convolution")]
    marked = in_float32(model, names)
    expected = outputs(model)
    compiled = openvino.compile_model(marked, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    run = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = {i["runtimePrecision"].astype(str) for i in run if i["layerType"].astype(str) == "Convolution"}
    assert kinds == {"f32"}
    np.testing.assert_allclose(outputs(marked)[0], expected[0], rtol=1e-5)


@pytest.mark.slow
def test_bound_takes_out_the_quantiser_that_loses_most(model):
    import nncf

    from fathom.export.quantise import quiet

    # Without smoothing, so that the wide unit meets one grid for all.
    plain = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    with quiet():
        quantised = nncf.quantize(
            model,
            nncf.Dataset(INPUTS),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(INPUTS),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=plain),
        )
    expected = outputs(model)
    before = 1 - delta1(quantised, expected)
    assert before > 0.01
    better = meet_bound(model, quantised, INPUTS, before / 2)
    assert 1 - delta1(better, expected) < before
    num_before, num_after = (len(types_of(one, "FakeQuantize")) for one in (quantised, better))
    assert num_before / 2 <= num_after < num_before
    assert meet_bound(model, quantised, INPUTS, 1.0) is quantised
    with pytest.raises(ModelError, match="loses more than"):
        meet_bound(model, quantised, INPUTS, -1.0)


def test_without_takes_out_what_it_is_told(source, model, tmp_path):
    quantised = quantise_openvino(job_for(source, tmp_path), model)
    names = [node.get_friendly_name() for node in types_of(quantised, "FakeQuantize")]
    assert len(types_of(without(quantised, names[:1]), "FakeQuantize")) == len(names) - 1
    assert len(types_of(quantised, "FakeQuantize")) == len(names)
