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
ANY_SHAPE: tuple[int, ...] = ()
"""Stands for the graph of an ONNX file with its sizes left open."""


class OpenVinoRuntime:
    """One network, compiled by OpenVINO.

    An ONNX file is compiled for the first shape that comes, which saves a tenth of the time (a video has no other), and
    once more, for all sizes, when another comes. A torch network is traced and compiled for each input shape, because
    position embeddings and the like freeze when traced; the last few shapes are kept.

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
        self._graph_for: Callable[[tuple[int, ...]], Any]
        self._is_file = isinstance(model, Path)
        if isinstance(model, Path):
            graph = self._checked(lambda: self._core.read_model(model), str(model))
            self._graph_for = lambda shape: _with_shape(graph, shape)
        else:
            network = model.eval().requires_grad_(False)
            self._graph_for = lambda shape: _trace(self._openvino, network, shape)

    def _checked(self, make: Callable[[], Any], what: str) -> Any:
        try:
            return make()
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(f"OpenVINO cannot compile {what}: {lines[-1] if lines else error}") from error

    def _compile(self, shape: tuple[int, ...]) -> Any:
        what = "the file for all sizes" if shape == ANY_SHAPE else f"the network at {shape}"
        return self._checked(
            lambda: self._core.compile_model(self._graph_for(shape), self.device, self._properties), what
        )

    def _model_for(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        """Return the compiled network for a shape, and under which it is kept."""
        with self._lock:
            if self._is_file and self._compiled and shape not in self._compiled:
                shape = ANY_SHAPE
            if shape not in self._compiled:
                while len(self._compiled) >= MAX_COMPILED_SHAPES:
                    self._compiled.popitem(last=False)
                self._compiled[shape] = self._compile(shape)
            self._compiled.move_to_end(shape)
            return shape, self._compiled[shape]

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""
        shape, model = self._model_for(batch.shape)
        # One request per thread and model: a request is not safe to share, and making one is not free.
        held = getattr(self._requests, "held", {})
        if shape not in held or held[shape][0] is not model:
            kept = {key: value for key, value in held.items() if key in self._compiled}
            held = self._requests.held = kept | {shape: (model, model.create_infer_request())}
        request = held[shape][1]
        request.infer({0: batch}, share_inputs=True)
        return single_channel(request.get_output_tensor(0).data, len(batch)).copy()


def _with_shape(graph: Any, shape: tuple[int, ...]) -> Any:
    """Return a graph of a file whose input has one shape, unless its sizes are fixed anyway or shall stay open."""
    if shape == ANY_SHAPE or not graph.is_dynamic():
        return graph
    fixed = graph.clone()
    fixed.reshape(list(shape))
    return fixed


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
