"""Open an exported file by what its card calls it."""

from pathlib import Path

from fathom.errors import ModelError, require
from fathom.runtime.base import Precision, Runtime, RuntimeName

RUNTIME_OF: dict[str, RuntimeName] = {
    "onnx": "onnxruntime",
    "onnx_int8": "onnxruntime",
    "openvino": "openvino",
    "litert": "litert",
    "savedmodel": "tensorflow",
    "executorch": "executorch",
    "ncnn": "ncnn",
    "torch_export": "torch",
}
"""Which runtime opens which file of a card. Core ML is missing: it runs on Apple's systems only."""


def open_artefact(
    role: str,
    path: Path,
    *,
    weights: Path | None = None,
    precision: Precision = "fp32",
    num_threads: int | None = None,
    device: str = "auto",
) -> Runtime:
    """Open an exported file with the runtime that is made for it.

    Args:
        role: What the card calls the file.
        path: The file or folder.
        weights: The file of the weights, for a graph in two files.
        precision: What the file holds.
        num_threads: CPU threads for one run; default: every core this process may use.
        device: Device of the runtime; only OpenVINO and torch know others than the CPU.

    Raises:
        ModelError: If the file cannot be opened here.
        MissingExtraError: If the runtime is not installed.
    """
    if role not in ("openvino", "torch_export") and device not in ("auto", "cpu"):
        raise ModelError(f"A {role} file runs on the CPU here; got device '{device}'.")
    match role:
        case "onnx" | "onnx_int8":
            from fathom.runtime.onnx import OnnxRuntime

            return OnnxRuntime(path, num_threads=num_threads, precision=precision)
        case "openvino":
            from fathom.runtime.openvino import OpenVinoRuntime

            return OpenVinoRuntime(path, num_threads=num_threads, precision=precision, device=device)
        case "litert":
            from fathom.runtime.litert import LiteRtRuntime

            return LiteRtRuntime(path, num_threads=num_threads, precision=precision)
        case "savedmodel":
            from fathom.runtime.tensorflow import TensorFlowRuntime

            return TensorFlowRuntime(path)
        case "executorch":
            from fathom.runtime.executorch import ExecuTorchRuntime

            return ExecuTorchRuntime(path)
        case "ncnn":
            from fathom.runtime.ncnn import NcnnRuntime

            assert weights is not None, "a card of an ncnn model names both files"
            return NcnnRuntime(path, weights, num_threads=num_threads)
        case "torch_export":
            from fathom.runtime.torch import TorchRuntime

            torch = require("torch", "export", "A torch.export program")
            return TorchRuntime(torch.export.load(path).module(), device=device, precision=precision)
    raise ModelError(
        f"A {role} file does not run here. Core ML runs on Apple's systems only: use Xcode or coremltools."
    )
