"""Quantisation: the error of the grid, what stays in float32, and the bound on delta1."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx", reason="export needs onnx (pip install 'fathom-depth[export]')")

import onnx

from fathom.errors import ModelError
from fathom.export.job import Job
from fathom.export.onnx import compact_weights
from fathom.export.quantise import head_layers, patch_layers, quantise_onnx
from fathom.export.source import Source
from fathom.models.cards import InputSpec, find_model
from tiny_models import make_model

RNG = np.random.default_rng(5)


def weight_of(model, name):
    """Run the casts and scales of one weight."""
    parts = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return parts[f"{name}_small"].astype(np.float32) * parts[f"{name}_scale"], parts[f"{name}_scale"]


def one_conv(weight):
    nodes = [onnx.helper.make_node("Conv", ["image", "w"], ["depth"], pads=[1, 1, 1, 1])]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [value("image", 1, ["B", 3, "h", "w"])],
        [value("depth", 1, ["B", weight.shape[0], "h", "w"])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("precision", "steps"), [("int8-weights", 1 / 254), ("fp16", 2**-11), ("bf16", 2**-8)])
def test_weights_are_at_most_half_a_step_away(precision, steps):
    # Channels of very different size, as folding a batch norm leaves them: each has a scale of its own.
    weight = (RNG.normal(size=(6, 3, 3, 3)) * 10.0 ** np.arange(-6, 6, 2)[:, None, None, None]).astype(np.float32)
    stored, _ = weight_of(compact_weights(one_conv(weight), precision), "w")
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(stored - weight) / largest).max() <= steps * 1.001


def test_channel_of_zeros_stays_zero():
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[1] = 1.0
    stored, scale = weight_of(compact_weights(one_conv(weight), "int8-weights"), "w")
    np.testing.assert_array_equal(stored, weight)
    assert (scale > 0).all()


@pytest.fixture
def job(tmp_path):
    """A job for a network of ONNX alone, with calibration inputs."""
    files = find_model(make_model(tmp_path / "model"))
    spec = InputSpec(law="fixed", height=32, width=32)
    inputs = [RNG.random((1, 3, 32, 32)).astype(np.float32) for _ in range(4)]
    return Job(Source(files.card, None, files, ""), spec, tmp_path, "model", True, False, "int8", inputs)


def copy_of(job, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(job.source.files.path("onnx").read_bytes())
    return path


def num_quantised(path):
    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_head_of_one_channel_stays_in_float32(job, tmp_path):
    path = copy_of(job, tmp_path)
    kept = quantise_onnx(job, path)
    model = onnx.load(path)
    assert kept == [node.name for node in model.graph.node if node.op_type == "Conv"][-1:]
    assert num_quantised(path) > 0


def test_two_products_fit_in_16_bits(job, tmp_path):
    """CPUs without VNNI cut off what is over."""
    path = copy_of(job, tmp_path)
    quantise_onnx(job, path)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    weights = [values.astype(int) for values in stored if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    for values in weights:
        assert 60 < np.abs(values).max() <= 2**15 // (2 * 255)


def test_bound_excludes_layers_until_it_holds(job, tmp_path):
    from dataclasses import replace

    path = copy_of(job, tmp_path)
    assert quantise_onnx(replace(job, max_delta1_loss=0.5), path)  # only the head: the bound holds at once
    with pytest.raises(ModelError, match="loses more than"):
        quantise_onnx(replace(job, max_delta1_loss=-1.0), copy_of(job, tmp_path))


def test_head_layers_are_found_by_their_width():
    model = one_conv(np.ones((1, 3, 3, 3), np.float32))
    model.graph.node[0].name = "head"
    assert head_layers(model) == ["head"]
    assert head_layers(one_conv(np.ones((2, 3, 3, 3), np.float32))) == []
    behind = one_conv(np.ones((4, 1, 3, 3), np.float32))
    behind.graph.node[0].name = "enlarge"
    assert head_layers(behind) == ["enlarge"]
    behind.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 4))
    assert head_layers(behind) == []  # a depthwise layer


def test_patch_layers_are_as_wide_as_their_step():
    def conv(kernel, stride):
        model = one_conv(np.ones((4, 3, kernel, kernel), np.float32))
        node = model.graph.node[0]
        node.name = "patches"
        del node.attribute[:]
        for name, value in (("kernel_shape", kernel), ("strides", stride)):
            node.attribute.append(onnx.helper.make_attribute(name, [value, value]))
        return model

    assert patch_layers(conv(14, 14)) == ["patches"]
    assert patch_layers(conv(14, 7)) == []
    assert patch_layers(conv(3, 3)) == []
    assert patch_layers(one_conv(np.ones((4, 3, 14, 14), np.float32))) == []


def test_dynamic_quantisation_may_turn_a_weight_round(job, tmp_path):
    # Gemm with transB, whose weight has a stated shape, as torch's exporter leaves it.
    weight = RNG.normal(size=(4, 12)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["image"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "w"], ["depth"], transB=1),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "gemm",
        [value("image", 1, [1, 3, 2, 2])],
        [value("depth", 1, [1, 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
        value_info=[value("w", 1, [4, 12])],
    )
    path = tmp_path / "gemm.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    quantise_onnx(replace(job, precision="int8-dynamic"), path)
    onnx.checker.check_model(onnx.load(path))
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(path).graph.node)
