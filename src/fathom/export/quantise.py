"""Quantisation of ONNX files: static INT8 (QDQ) and dynamic INT8; for OpenVINO see `fathom.export.openvino_int8`.

A symmetric grid with scale s stores x as round(x / s); inside the range the error is at most s / 2. Weights have one
scale for each output channel, activations one for each tensor, from the smallest and largest value seen on pictures.

CPUs without VNNI (most from before 2020, and many since) add two products of bytes in 16 bits, and what does not fit
there is cut off without a word. So static weights use 7 of their 8 bits: 2 * 255 * 64 fits.

References: Jacob et al., CVPR 2018, arXiv 1712.05877 (integer arithmetic); ONNX Runtime, "Quantize ONNX models".
"""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.export.parity import choose_zero, compare
from fathom.types import DepthKind

FloatBatch = npt.NDArray[np.float32]
Run = Callable[[FloatBatch], npt.NDArray[np.float32]]

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operations with weights, which hold nearly all of the time and of the size."""
BETWEEN = ("Add", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Resize")
"""Operations of a convolutional network that run on integers between its layers."""
DELICATE = ("Softmax", "LayerNormalization", "Erf", "Gelu")
"""Operations of a transformer; where one is found, nothing between the layers is quantised."""
SMALLEST_PATCH = 8
"""Sides of the patches of a transformer begin here [px]."""
NUM_JUDGED = 8
"""Pictures on which a layer is judged."""


@dataclass(frozen=True)
class Sensitivity:
    """How much one layer alone loses when it is quantised.

    Args:
        layer: Name of the graph node.
        mean_relative: Mean relative difference of the output.
        delta1: Share of output pixels within a factor of 1.25.
    """

    layer: str
    mean_relative: float
    delta1: float


def head_layers(model: Any) -> list[str]:
    """List the layers that give or take a single channel: the depth itself, where every step of the grid shows."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 1:
            shape = shapes.get(node.input[1], (0, 0))
            is_grouped = any(one.name == "group" and one.i > 1 for one in node.attribute)
            if shape[0] == 1 or (shape[1] == 1 and not is_grouped):
                found.append(node.name)
    return found


def patch_layers(model: Any) -> list[str]:
    """List the layers that cut the picture into patches, kernels as large as their stride.

    Behind them lies the whole transformer, and their own 8 bits cost more than those of any other layer. On a CPU with
    AVX-512 VNNI but without AMX, OpenVINO 2026.4 moreover computes them wrongly in 8 bits.
    """
    found = []
    for node in model.graph.node:
        options = {one.name: list(one.ints) for one in node.attribute if one.name in ("kernel_shape", "strides")}
        kernel = options.get("kernel_shape", [0])
        if node.op_type == "Conv" and min(kernel) >= SMALLEST_PATCH and kernel == options.get("strides"):
            found.append(node.name)
    return found


def quantise_onnx(job: Job, path: Path) -> list[str]:
    """Quantise an ONNX file in place, as a job asks.

    Args:
        job: Its precision is int8 or int8-dynamic.
        path: Network in float32, with the input ``image``.

    Returns:
        Names of the layers that stayed in float32.

    Raises:
        ModelError: If the bound on delta1 cannot be met.
        MissingExtraError: If onnx is not installed.
    """
    onnx = require("onnx", "export", "Quantisation")
    tools = require("onnxruntime.quantization", "export", "Quantisation")
    if job.precision == "int8-dynamic":
        model = onnx.load(path)
        del model.graph.value_info[:]  # it holds shapes of weights, too, which the tool transposes
        onnx.save(model, path)
        with quiet():
            # ConvInteger takes unsigned weights only.
            tools.quantize_dynamic(path, path, op_types_to_quantize=list(LAYERS), weight_type=tools.QuantType.QUInt8)
        return []
    is_affine = job.card.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    return quantise_static(path, job.calibration, max_delta1_loss=job.max_delta1_loss, is_affine=is_affine)


def quantise_static(
    path: Path, calibration: Sequence[FloatBatch], *, max_delta1_loss: float | None = None, is_affine: bool = False
) -> list[str]:
    """Quantise an ONNX file in place, with the ranges that activations have on calibration inputs.

    In a transformer only the layers that hold weights are quantised, and their sums stay in float32.

    Args:
        path: Network in float32, with the input ``image``.
        calibration: Network inputs (1, 3, h, w).
        max_delta1_loss: Leave sensitive layers in float32 until delta1 loses less than this share.
        is_affine: Whether the zero of the output is arbitrary; see `judge`.

    Returns:
        Names of the layers that stayed in float32.

    Raises:
        ModelError: If the bound on delta1 cannot be met.
        MissingExtraError: If onnx is not installed.
    """
    onnx = require("onnx", "export", "Quantisation")
    assert calibration, "static quantisation has calibration inputs"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder, "plain.onnx")
        shape_inference = require("onnxruntime.quantization.shape_inference", "export", "Quantisation")
        with quiet():
            shape_inference.quant_pre_process(path, plain, skip_symbolic_shape=True)
        model = onnx.load(plain)
        del model.graph.value_info[:]  # what was inferred before folding contradicts what is inferred after it
        name_nodes(model)
        onnx.save(model, plain)
        static = _Static(plain, Path(folder), calibration, is_affine=is_affine)
        kept = head_layers(model) + patch_layers(model)
        if max_delta1_loss is not None:
            kept = static.meet(max_delta1_loss, kept)
        static.quantise(path, exclude=kept)
        return kept


def name_nodes(model: Any) -> None:
    """Give every node of a graph a name of its own, so that layers can be told apart."""
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"


class _Static:
    """Static quantisation of one file, again and again, with the ranges measured once."""

    def __init__(self, path: Path, folder: Path, calibration: Sequence[FloatBatch], *, is_affine: bool) -> None:
        self.is_affine = is_affine
        self.tools = require("onnxruntime.quantization", "export", "Quantisation")
        onnx = require("onnx", "export", "Quantisation")
        self.path, self.folder, self.calibration = path, folder, calibration
        graph = onnx.load(path).graph
        is_delicate = any(node.op_type in DELICATE for node in graph.node)
        self.types = [*LAYERS, *(() if is_delicate else BETWEEN)]
        weights = {tensor.name for tensor in graph.initializer}
        self.layers = [
            node.name for node in graph.node if node.op_type in LAYERS and (not is_delicate or node.input[1] in weights)
        ]
        # Between a transformer's layers lies float arithmetic, so a layer's sum is handed on as it is, unrounded.
        self.options = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]} if is_delicate else {}
        self.is_delicate = is_delicate
        self.judged = calibration[:: max(1, len(calibration) // NUM_JUDGED)][:NUM_JUDGED]

    def quantise(self, out: Path, *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> None:
        """Write the quantised file."""
        with quiet():
            self.tools.quantize_static(
                self.path,
                out,
                _Reader(self.calibration),
                quant_format=self.tools.QuantFormat.QDQ,
                op_types_to_quantize=self.types,
                per_channel=True,
                reduce_range=True,
                activation_type=self.tools.QuantType.QUInt8,
                weight_type=self.tools.QuantType.QInt8,
                nodes_to_quantize=list(only) or (self.layers if self.is_delicate else []),
                nodes_to_exclude=list(exclude),
                extra_options=self.options,
                calibration_cache_path=None if only or exclude else self.folder / "ranges.json",
            )

    def loss(self, path: Path, expected: Sequence[npt.NDArray[np.float32]]) -> Sensitivity:
        """Compare a quantised file with the network's outputs."""
        return judge(path.stem, _session(path), self.judged, expected, is_affine=self.is_affine)

    def meet(self, bound: float, kept: Sequence[str]) -> list[str]:
        """Keep the most sensitive layers in float32 until delta1 loses less than the bound."""
        expected = [_session(self.path)(image) for image in self.judged]
        trial = self.folder / "trial.onnx"
        self.quantise(trial, exclude=kept)
        if 1 - self.loss(trial, expected).delta1 <= bound:
            return list(kept)
        ranked = []
        for layer in self.layers:
            if layer not in kept:
                self.quantise(trial, only=[layer])
                ranked.append((self.loss(trial, expected).mean_relative, layer))
        order = [layer for _, layer in sorted(ranked, reverse=True)]
        count = 1
        while count < len(order):
            exclude = [*kept, *order[:count]]
            self.quantise(trial, exclude=exclude)
            if 1 - self.loss(trial, expected).delta1 <= bound:
                return exclude
            count *= 2
        raise ModelError(
            f"delta1 loses more than {bound:g} even with half of the {len(order)} layers in float32. "
            "Calibrate on pictures like yours (--calibrate DIR), allow more, or use int8-weights."
        )


class _Reader:
    """Feeds calibration inputs to ONNX Runtime."""

    def __init__(self, inputs: Sequence[FloatBatch]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, FloatBatch] | None:
        """Return the next input, or None at the end."""
        image = next(self._inputs, None)
        return None if image is None else {"image": image}


def _session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: FloatBatch) -> npt.NDArray[np.float32]:
        (output,) = session.run(None, {"image": image})
        return np.asarray(output)

    return run


def judge(
    name: str,
    run: Run,
    inputs: Sequence[FloatBatch],
    expected: Sequence[npt.NDArray[np.float32]],
    *,
    is_affine: bool,
) -> Sensitivity:
    """Compare what a network gives for some inputs with what is expected.

    Args:
        name: Goes into the answer.
        run: The network.
        inputs: Its inputs (1, 3, h, w).
        expected: An output for each.
        is_affine: Whether the zero of the outputs is arbitrary, so that ratios need one chosen (`choose_zero`).
    """
    rows = []
    for image, wanted in zip(inputs, expected, strict=True):
        pair = run(image).ravel(), wanted.ravel()
        rows.append(compare(*(choose_zero(*pair) if is_affine else pair)))
    return Sensitivity(
        name,
        float(np.mean([row["mean_relative"] for row in rows])),
        float(np.mean([row["delta1"] for row in rows])),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the converters' own log and progress bars while they work."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
