import threading

import numpy as np
import pytest

from fathom.errors import MissingExtraError, ModelError
from fathom.runtime.base import single_channel, thread_count
from fathom.runtime.onnx import OnnxRuntime
from tiny_models import make_model

IMAGE = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model")) / "model.onnx"


def torch_twin(path):
    """The tiny network as a torch module with the weights of its file."""
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    weights = {w.name: torch.tensor(onnx.numpy_helper.to_array(w)) for w in onnx.load(path).graph.initializer}
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 3, padding=1)
    )
    network.load_state_dict({"0.weight": weights["w1"], "2.weight": weights["w2"], "2.bias": weights["b2"]})
    return network


def test_onnx_runtime_gives_one_map_for_each_picture(model_path):
    runtime = OnnxRuntime(model_path, num_threads=1)
    out = runtime.run(np.concatenate([IMAGE, IMAGE]))
    assert out.shape == (2, 64, 96)
    assert (runtime.name, runtime.precision, runtime.batches) == ("onnxruntime", "fp32", False)
    np.testing.assert_array_equal(out[0], out[1])


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 64, 96), (2, 3, 96, 32)])
def test_runtimes_agree(model_path, shape):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime
    from fathom.runtime.torch import TorchRuntime

    image = np.random.default_rng(1).random(shape, np.float32)
    expected = OnnxRuntime(model_path, num_threads=1).run(image)
    network = torch_twin(model_path)
    for runtime in (
        TorchRuntime(network, device="cpu"),
        OpenVinoRuntime(model_path, num_threads=1),
        OpenVinoRuntime(network, num_threads=1),
    ):
        np.testing.assert_allclose(runtime.run(image), expected, atol=1e-5)


def test_bf16_is_close(model_path, monkeypatch):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime
    from fathom.runtime.torch import TorchRuntime

    monkeypatch.setattr("fathom.runtime.torch.cpu_has_bf16", lambda: True)
    expected = OnnxRuntime(model_path, num_threads=1).run(IMAGE)
    for runtime in (
        TorchRuntime(torch_twin(model_path), device="cpu", precision="bf16"),
        OpenVinoRuntime(model_path, precision="bf16", num_threads=1),
    ):
        out = runtime.run(IMAGE)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, rtol=0.03, atol=0.03)


def test_without_bf16_the_arithmetic_is_fp32_and_is_called_that(model_path, monkeypatch):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime
    from fathom.runtime.torch import TorchRuntime

    monkeypatch.setattr("fathom.runtime.torch.cpu_has_bf16", lambda: False)
    monkeypatch.setattr("fathom.runtime.openvino._computes_bf16", lambda core, device: False)
    expected = OnnxRuntime(model_path, num_threads=1).run(IMAGE)
    for runtime in (
        TorchRuntime(torch_twin(model_path), device="cpu", precision="bf16"),
        OpenVinoRuntime(model_path, precision="bf16", num_threads=1),
    ):
        assert runtime.precision == "fp32"
        np.testing.assert_allclose(runtime.run(IMAGE), expected, atol=1e-5)


def test_openvino_keeps_a_bounded_number_of_traced_shapes(model_path, monkeypatch):
    pytest.importorskip("openvino")
    from fathom.runtime import openvino

    monkeypatch.setattr(openvino, "MAX_COMPILED_SHAPES", 1)
    runtime = openvino.OpenVinoRuntime(torch_twin(model_path), num_threads=1)
    for width in (32, 64, 64, 32):
        assert runtime.run(np.zeros((1, 3, 32, width), np.float32)).shape == (1, 32, width)
    assert list(runtime._compiled) == [(1, 3, 32, 32)]


def test_openvino_compiles_a_file_for_its_first_shape_and_once_for_all_others(model_path):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import ANY_SHAPE, OpenVinoRuntime

    runtime, reference = OpenVinoRuntime(model_path, num_threads=1), OnnxRuntime(model_path, num_threads=1)
    for width in (32, 32, 64, 96, 32):
        image = np.random.default_rng(width).random((1, 3, 32, width), np.float32)
        np.testing.assert_allclose(runtime.run(image), reference.run(image), atol=1e-5)
    assert sorted(runtime._compiled) == [ANY_SHAPE, (1, 3, 32, 32)]
    assert not runtime._compiled[1, 3, 32, 32].input(0).partial_shape.is_dynamic
    assert runtime._compiled[ANY_SHAPE].input(0).partial_shape.is_dynamic


def test_threads_may_share_a_runtime(model_path):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime

    images = [np.random.default_rng(seed).random((1, 3, 32, 32), np.float32) for seed in range(8)]
    for runtime in (OnnxRuntime(model_path, num_threads=1), OpenVinoRuntime(model_path, num_threads=1)):
        expected = [runtime.run(image) for image in images]
        got: dict[int, np.ndarray] = {}

        def work(index, runtime=runtime, got=got):
            for _ in range(5):
                got[index] = runtime.run(images[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, image in enumerate(expected):
            np.testing.assert_array_equal(got[index], image)


def test_a_broken_file_is_told(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="cannot load"):
        OnnxRuntime(path)
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime

    with pytest.raises(ModelError, match="cannot compile"):
        OpenVinoRuntime(path)


def test_a_wrong_input_is_told(model_path):
    runtime = OnnxRuntime(model_path, num_threads=1)
    with pytest.raises(ModelError, match=r"shape \(1, 2, 32, 32\)"):
        runtime.run(np.zeros((1, 2, 32, 32), np.float32))


def test_a_model_that_takes_no_picture_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 5])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    path = tmp_path / "a.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(ModelError, match=r"one input of shape \(B, 3, h, w\)"):
        OnnxRuntime(path)


def test_unknown_devices_are_told(model_path):
    pytest.importorskip("openvino")
    from fathom.runtime.openvino import OpenVinoRuntime
    from fathom.runtime.torch import TorchRuntime

    with pytest.raises(ModelError, match="no device 'fpga'"):
        OpenVinoRuntime(model_path, device="fpga")
    with pytest.raises(ModelError, match="cannot use the device 'fpga'"):
        TorchRuntime(torch_twin(model_path), device="fpga")


def test_a_missing_runtime_names_its_cure(model_path, monkeypatch):
    import sys

    from fathom.runtime.openvino import OpenVinoRuntime

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fathom-depth\[openvino\]'"):
        OpenVinoRuntime(model_path)


def test_outputs_must_be_one_map_for_each_picture():
    assert single_channel(np.zeros((2, 1, 3, 4)), 2).shape == (2, 3, 4)
    assert single_channel(np.zeros((2, 3, 4)), 2).dtype == np.float32
    for shape in ((2, 2, 3, 4), (1, 3, 4), (3, 4)):
        with pytest.raises(ModelError, match="Expected an output"):
            single_channel(np.zeros(shape), 2)


def test_thread_count():
    assert thread_count(None) >= 1
    with pytest.raises(ModelError, match="at least 1"):
        thread_count(0)
