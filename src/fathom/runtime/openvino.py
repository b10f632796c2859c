"""OpenVINO: the faster CPU runtime, for ONNX files and for torch networks."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import Precision, single_channel, thread_count

if TYPE_CHECKING:
    from torch import nn

MAX_COMPILED_SHAPES = 4
"""How many input shapes of a torch network stay compiled; each holds its own copy of the weights."""


class OpenVinoRuntime:
    """One network, compiled by OpenVINO.

    An ONNX file keeps dynamic sizes and is compiled once. A torch network is traced and compiled for each input shape,
    because position embeddings and the like freeze when traced; the last few shapes are kept.

    Args:
        model: ONNX or OpenVINO file, or a torch module that maps (B, 3, h, w) to (B, 1, h, w).
        device: OpenVINO's device name; ``"auto"`` means CPU.
        precision: ``"fp32"`` arithmetic; ``"bf16"``, or fp32 where the hardware has none; ``"int8"`` for a quantised
            file, whose other operations use bf16 in the same way.
        num_threads: Threads for one run; default: every core this process may use.

    Raises:
        ModelError: If OpenVINO cannot load or compile the model, or does not know the device.
        MissingExtraError: If OpenVINO is not installed.
    """

    name: Literal["openvino"] = "openvino"
    batches = False

    def __init__(
        self,
        model: "Path | nn.Module",
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        num_threads: int | None = None,
    ) -> None:
        self._openvino = require("openvino", "openvino", "The OpenVINO runtime")
        self.device = "CPU" if device in ("auto", "cpu") else device.upper()
        self._core = self._openvino.Core()
        if self.device.split(".")[0] not in {name.split(".")[0] for name in self._core.available_devices}:
            have = ", ".join(self._core.available_devices)
            raise ModelError(f"OpenVINO has no device '{device}' here; it has: {have}.")
        short = precision != "fp32" and _computes_bf16(self._core, self.device)
        self.precision: Precision = "fp32" if precision == "bf16" and not short else precision
        self._properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if short else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.device == "CPU":
            self._properties["INFERENCE_NUM_THREADS"] = str(thread_count(num_threads))
        self._lock = threading.Lock()
        self._requests = threading.local()
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._whole: Any = None
        self._graph_for: Callable[[tuple[int, ...]], Any] | None = None
        if isinstance(model, Path):
            self._whole = self._compile(lambda: self._core.read_model(model), str(model))
        else:
            network = model.eval().requires_grad_(False)
            self._graph_for = lambda shape: _trace(self._openvino, network, shape)

    def _compile(self, graph: Callable[[], Any], what: str) -> Any:
        try:
            return self._core.compile_model(graph(), self.device, self._properties)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(f"OpenVINO cannot compile {what}: {lines[-1] if lines else error}") from error

    def _model_for(self, shape: tuple[int, ...]) -> Any:
        if self._graph_for is None:
            return self._whole
        with self._lock:
            if shape not in self._compiled:
                graph_for = self._graph_for
                while len(self._compiled) >= MAX_COMPILED_SHAPES:
                    self._compiled.popitem(last=False)
                self._compiled[shape] = self._compile(lambda: graph_for(shape), f"the network at {shape}")
            self._compiled.move_to_end(shape)
            return self._compiled[shape]

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""
        model = self._model_for(batch.shape)
        # One request per thread and model: a request is not safe to share, and making one is not free.
        held = getattr(self._requests, "held", None)
        if held is None or held[0] is not model:
            held = self._requests.held = (model, model.create_infer_request())
        held[1].infer({0: batch}, share_inputs=True)
        return single_channel(held[1].get_output_tensor(0).data, len(batch)).copy()


def _trace(openvino: Any, network: "nn.Module", shape: tuple[int, ...]) -> Any:
    """Convert a torch network at one input shape."""
    torch = require("torch", "hub", "A torch network")
    with warnings.catch_warnings():
        # Tracing warns about each size that it freezes; that is meant, since there is one graph for each shape.
        warnings.simplefilter("ignore")
        return openvino.convert_model(network, example_input=torch.zeros(shape), input=list(shape))


def _computes_bf16(core: Any, device: str) -> bool:
    """Tell whether a device computes bf16 in hardware; asked for it elsewhere, OpenVINO silently takes float32."""
    return "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")
