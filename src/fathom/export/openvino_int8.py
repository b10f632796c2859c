"""INT8 for OpenVINO, with NNCF: weights alone, or static with a bound on the loss.

In a transformer a few hidden units of a few tokens are hundreds of times larger than all others; where 256 steps span
them, the rest is lost, and the depth with it. So a part of each channel's size is moved into the weights (smoothing),
and only the matrix products with stored weights are quantised. The quantisers that lose most can be taken out again.

References: Xiao et al., "SmoothQuant", ICML 2023, arXiv 2211.10438; Sun et al., "Massive Activations in Large Language
Models", COLM 2024, arXiv 2402.17762.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.export.quantise import NUM_JUDGED, FloatBatch, Run, Sensitivity, judge, quiet
from fathom.runtime.base import thread_count
from fathom.types import DepthKind

LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul")
BETWEEN = ("Interpolate", "ScaledDotProductAttention")
"""Other operations that NNCF would quantise, too."""
POINTWISE = ("Add", "Clamp", "Elu", "Gelu", "Multiply", "PRelu", "Relu", "Sigmoid", "Swish", "Tanh")
SMOOTHING = 0.5
"""How much of a channel's size goes from the input of a matrix product to its weights; the paper's value."""
NUM_RANKED = 4
"""Pictures on which each quantiser is judged alone."""


def quantise_openvino(job: Job, model: Any) -> Any:
    """Quantise an OpenVINO model, as a job asks.

    The layer that gives the single channel of depth stays in float. In a transformer it and the convolution before it
    are computed in float32 even where the rest uses bf16, because far away their sums cancel.

    Args:
        job: Its precision is int8 or int8-weights.
        model: OpenVINO model with one input (B, 3, h, w).

    Returns:
        The quantised model.

    Raises:
        ModelError: If the bound on delta1 cannot be met.
        MissingExtraError: If NNCF is not installed.
    """
    nncf = require("nncf", "nncf", "Quantisation with OpenVINO")
    if job.precision == "int8-weights":
        with quiet():
            return nncf.compress_weights(model)
    assert job.calibration, "static quantisation has calibration inputs"
    nodes = model.get_ordered_ops()
    heads = [node for node in nodes if node.get_type_name() == "Convolution" and _channels(node) == 1]
    ignored = {node.get_friendly_name() for node in heads}
    options: dict[str, Any] = {}
    # All weights in 7 bits, for the sake of CPUs without VNNI (see `fathom.export.quantise`).
    advanced: dict[str, Any] = {"overflow_fix": nncf.OverflowFix.ENABLE}
    if any(node.get_type_name() == "Softmax" for node in nodes):
        stored = _stored(nodes)
        ignored |= {before.get_friendly_name() for head in heads for before in _convolution_before(head, stored)}
        model = in_float32(model, ignored)
        for node in nodes:
            kind = node.get_type_name()
            # The convolutions of the decoder would save 7 % of the time and cost most of the accuracy.
            if kind in BETWEEN or (kind in LAYERS and not (kind == "MatMul" and _is_stored(node, 1, stored))):
                ignored.add(node.get_friendly_name())
        options["model_type"] = nncf.ModelType.TRANSFORMER
        advanced["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING, convolution=-1)
    with quiet():
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(job.calibration)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(job.calibration),
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(**advanced),
            **options,
        )
    if job.max_delta1_loss is None:
        return quantised
    is_affine = job.card.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    return meet_bound(model, quantised, job.calibration, job.max_delta1_loss, is_affine=is_affine)


def meet_bound(
    model: Any, quantised: Any, inputs: Sequence[FloatBatch], bound: float, *, is_affine: bool = False
) -> Any:
    """Take out the quantisers that lose most, twice as many each time, until delta1 loses less than a bound.

    A quantiser is judged by what the network loses with it alone. Weights stay in 8 bits.

    Args:
        model: In float32.
        quantised: The same network with quantisers.
        inputs: Network inputs (1, 3, h, w); a few, spread evenly, are used.
        bound: Largest loss in delta1 against the float32 network.
        is_affine: Whether the zero of the output is arbitrary.

    Returns:
        The quantised model, or a copy with fewer quantisers.

    Raises:
        ModelError: If the bound cannot be met with half of them.
    """
    judged = inputs[:: max(1, len(inputs) // NUM_JUDGED)][:NUM_JUDGED]
    run = _run(model, exact=True)
    expected = [run(image) for image in judged]
    names = _quantisers(quantised)

    def loss(candidate: Any, step: int = 1) -> Sensitivity:
        return judge("", _run(candidate), judged[::step], expected[::step], is_affine=is_affine)

    if 1 - loss(quantised).delta1 <= bound:
        return quantised
    ranked = []
    for name in names:
        alone = without(quantised, [other for other in names if other != name])
        ranked.append((loss(alone, max(1, NUM_JUDGED // NUM_RANKED)).mean_relative, name))
    order = [name for _, name in sorted(ranked, reverse=True)]
    count = 1
    while count <= len(order) // 2:
        candidate = without(quantised, order[:count])
        if 1 - loss(candidate).delta1 <= bound:
            return candidate
        count *= 2
    raise ModelError(
        f"delta1 loses more than {bound:g} even with half of the {len(order)} layers in float. "
        "Calibrate on pictures like yours (--calibrate DIR), allow more, or use int8-weights."
    )


def _quantisers(model: Any) -> list[str]:
    """List the quantisers of activations; those of weights are stored as integers already."""
    nodes = model.get_ordered_ops()
    stored = _stored(nodes)
    return [
        node.get_friendly_name()
        for node in nodes
        if node.get_type_name() == "FakeQuantize" and not _is_stored(node, 0, stored)
    ]


def without(model: Any, names: Collection[str]) -> Any:
    """Copy a quantised model without some of its quantisers."""
    copy, left_out = model.clone(), set(names)
    for node in copy.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and node.get_friendly_name() in left_out:
            node.output(0).replace(node.input_value(0))
    return copy


def _run(model: Any, *, exact: bool = False) -> Run:
    openvino = require("openvino", "openvino", "Quantisation with OpenVINO")
    core = openvino.Core()
    # As `fathom.runtime.openvino` runs int8.
    is_half = not exact and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16" if is_half else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(thread_count(None)),
    }
    compiled = core.compile_model(model, "CPU", properties)

    def run(image: FloatBatch) -> npt.NDArray[np.float32]:
        return np.array(compiled(image)[0])

    return run


def in_float32(model: Any, names: Collection[str]) -> Any:
    """Mark nodes to be computed in float32 wherever the model runs.

    Args:
        model: OpenVINO model.
        names: Friendly names of the nodes.

    Returns:
        A copy with the marks, which survive in its file.
    """
    openvino = require("openvino", "openvino", "Quantisation with OpenVINO")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        # Python cannot set this attribute on a node, so it is written into the file.
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            if layer.get("name") in names:
                marks = layer.find("rt_info")
                if marks is None:
                    marks = ElementTree.Element("rt_info")
                    layer.insert(1 if layer.find("data") is not None else 0, marks)
                ElementTree.SubElement(marks, "attribute", {"name": "precise", "version": "0"})
        tree.write(path)
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file goes
        return core.read_model(path)


def _channels(node: Any) -> int:
    return int(node.get_output_partial_shape(0)[1].get_max_length())


def _stored(nodes: Sequence[Any]) -> set[str]:
    """Name the nodes, in the order of their computation, that are made from stored numbers and shapes alone."""
    names: set[str] = set()
    for node in nodes:
        before = [node.input_value(place).get_node().get_friendly_name() for place in range(node.get_input_size())]
        kind = node.get_type_name()
        if kind in ("Constant", "ShapeOf") or (kind != "Parameter" and names.issuperset(before)):
            names.add(node.get_friendly_name())
    return names


def _is_stored(node: Any, place: int, stored: Collection[str]) -> bool:
    return node.input_value(place).get_node().get_friendly_name() in stored


def _convolution_before(node: Any, stored: Collection[str]) -> list[Any]:
    """Find the convolution that feeds a node through pointwise operations alone, if there is one."""
    before = node.input_value(0).get_node()
    while before.get_type_name() in POINTWISE and all(
        _is_stored(before, place, stored) for place in range(1, before.get_input_size())
    ):
        before = before.input_value(0).get_node()
    return [before] if before.get_type_name() == "Convolution" else []
