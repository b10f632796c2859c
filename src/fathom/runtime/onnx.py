"""ONNX Runtime on the CPU: the default, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError
from fathom.runtime.base import Precision, single_channel, thread_count

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntime:
    """One ONNX file with an input (B, 3, h, w), or a picture, uint8 (B, H, W, 3), and one depth output.

    Args:
        path: The file.
        num_threads: Threads for one run; default: every core this process may use.
        precision: What the file holds: ``"fp32"`` arithmetic, or ``"int8"``.
        spin: Let idle threads wait in a busy loop: lower latency when nothing else runs, wasteful otherwise.

    Raises:
        ModelError: If ONNX Runtime cannot load the file, or its input or output is not a picture and a map.
    """

    name: Literal["onnxruntime"] = "onnxruntime"
    batches = False

    def __init__(
        self, path: Path, *, num_threads: int | None = None, precision: Precision = "fp32", spin: bool = False
    ) -> None:
        import onnxruntime

        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count(num_threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own types, which derive from Exception or RuntimeError
            reason = str(error).splitlines()[0]
            raise ModelError(f"ONNX Runtime cannot load {path}: {reason}") from error
        self.input_name = _picture_input(self.session, path)
        self.output_name = _depth_output(self.session, path)

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""
        try:
            outputs: list[Any] = self.session.run([self.output_name], {self.input_name: batch})
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"ONNX Runtime failed on an input of shape {batch.shape}: {reason}") from error
        return single_channel(outputs[0], len(batch))


def _picture_input(session: "onnxruntime.InferenceSession", path: Path) -> str:
    inputs = session.get_inputs()
    if len(inputs) == 1 and inputs[0].type == "tensor(uint8)" and list(inputs[0].shape[3:]) == [3]:
        return str(inputs[0].name)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (3, "C", None):
        shapes = ", ".join(f"{item.name} {item.shape}" for item in inputs)
        raise ModelError(f"{path} must have one input of shape (B, 3, h, w); it has {shapes}.")
    if inputs[0].type != "tensor(float)":
        raise ModelError(f"{path} must take float32; its input '{inputs[0].name}' is {inputs[0].type}.")
    return str(inputs[0].name)


def _depth_output(session: "onnxruntime.InferenceSession", path: Path) -> str:
    names = [item.name for item in session.get_outputs()]
    for name in ("depth", "predicted_depth"):
        if name in names:
            return name
    if len(names) == 1:
        return str(names[0])
    raise ModelError(f"{path} must have one output, or one called 'depth'; it has {', '.join(names)}.")
