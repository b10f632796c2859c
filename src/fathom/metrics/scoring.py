"""Score one image under a protocol; training's validation and `fathom.evaluate` both come here, so they agree.

The steps, in this order: the target's size, the scored pixels, the prediction brought to that size, missing pixels,
clamp before, fit, clamp after, sums. Fitting one scale to several images (a clip) takes the three middle functions:
`gather_pixels` for each image, `fit_pixels` for all, `score_pixels` for each.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import (
    align,
    fit_scale,
    fit_scale_median,
    fit_scale_median_of_ratios,
    fit_scale_shift,
    fit_scale_shift_l1,
    fit_scale_shift_trimmed,
)
from fathom.errors import ConfigError, EmptyMaskError, InputError, KindError
from fathom.metrics.boundary import boundary_f1
from fathom.metrics.depth import DepthSums, SilogVariant, _median_in_place, _sums, d1
from fathom.metrics.resample import nearest_index, resample
from fathom.protocol import Protocol, crop_box, score_mask
from fathom.types import Depth, DepthKind, Sample

FloatVector = NDArray[np.float64]

EDGE_RATIO = 1.1
"""Neighbours whose target depths differ by more than this factor form an edge."""
EDGE_RADIUS = 2
"""Pixels this close to an edge count as edge pixels."""

_INVERSE_KINDS = (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
_FITS_SHIFT = ("least_squares", "trimmed", "l1")
_FITS: dict[str, Callable[..., float | tuple[float, float]]] = {
    "median": fit_scale_median,
    "median_of_ratios": fit_scale_median_of_ratios,
    "least_squares_scale": fit_scale,
    "least_squares": fit_scale_shift,
    "trimmed": fit_scale_shift_trimmed,
    "l1": fit_scale_shift_l1,
}
_TINY_INVERSE = 1e-6  # a stored 0 stands for "very far"; this keeps its reciprocal finite while it is resized
_TINY_DEPTH = 1e-12


@dataclass(frozen=True)
class Pixels:
    """The scored pixels of one image, before the fit.

    Attributes:
        pred: Predictions in the unit of `kind`, shape (N,).
        target: Target depths [m], shape (N,).
        cells: Which cell of the breakdown each pixel falls in, uint8, shape (N,).
        num_missing: Scored pixels without a prediction.
        missing_target: Their target depths, where the protocol sets them to the far limit, shape (M,).
        missing_cells: Their cells, shape (M,).
        kind: What `pred` is.
        maps: Prediction, target and mask inside the crop, where boundaries are scored too.
        stereo_constant: Focal length times baseline of the sample's camera [px m], where both are known and the
            prediction is not fitted to the target; None elsewhere.
    """

    pred: FloatVector
    target: FloatVector
    cells: NDArray[np.uint8]
    num_missing: int
    missing_target: FloatVector
    missing_cells: NDArray[np.uint8]
    kind: DepthKind
    maps: tuple[FloatVector, FloatVector, NDArray[np.bool_]] | None
    stereo_constant: float | None


@dataclass(frozen=True)
class Fit:
    """Scale and shift in the space of the fit, and the depth [m] that an inverse depth of 0 or below becomes."""

    scale: float
    shift: float
    far_limit: float


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image.

    Attributes:
        scores: Metric values by name.
        sums: Sums over all scored pixels, from which pooled averages are made.
        by_range: Sums for each distance range, by (from, to) [m]; ranges without a pixel are absent.
        by_edge: Sums near depth edges (``"edge"``) and elsewhere (``"flat"``).
        fit: Scale and shift used.
        num_missing: Scored pixels without a prediction.
        max_pred: Largest depth that was scored [m].
    """

    scores: dict[str, float]
    sums: DepthSums
    by_range: dict[tuple[float, float], DepthSums]
    by_edge: dict[str, DepthSums]
    fit: Fit
    num_missing: int
    max_pred: float


def score_image(
    pred: Depth,
    sample: Sample,
    protocol: Protocol,
    *,
    range_edges: Sequence[float] = (),
    boundary: bool = False,
) -> ImageScore:
    """Score one prediction against its ground truth.

    Args:
        pred: Prediction of the whole picture, any size.
        sample: Ground truth.
        protocol: How to score; its alignment must have the unit "image".
        range_edges: Increasing distances [m] of the breakdown by range.
        boundary: Whether Depth Pro's boundary F1 is computed too.

    Returns:
        The scores.

    Raises:
        KindError: If the protocol's alignment is not legal for the kind of the prediction.
        EmptyMaskError: If no pixel is scored; skip the image and count it.
        InputError: If scored pixels have no prediction and the protocol refuses that.
        ConfigError: If the crop does not fit the target.

    Example:
        >>> from fathom.protocol import load_protocol
        >>> target = np.full((480, 640), 2.0, np.float32)
        >>> sample = Sample(np.zeros((480, 640, 3), np.uint8), target, target > 0)
        >>> score = score_image(Depth(target * 1.1, DepthKind.METRIC_DEPTH), sample, load_protocol("nyu-eigen"))
        >>> round(score.scores["abs_rel"], 6), score.sums.num_pixels
        (0.1, 238560)
    """
    if protocol.alignment.unit != "image":
        raise ConfigError(
            f"One image alone cannot be scored with alignment.unit '{protocol.alignment.unit}'. Use fathom.evaluate."
        )
    pixels = gather_pixels(pred, sample, protocol, range_edges=range_edges, boundary=boundary)
    return score_pixels(pixels, fit_pixels([pixels], protocol), protocol, range_edges=range_edges)


def check_kind(kind: DepthKind, protocol: Protocol) -> None:
    """Refuse a protocol that cannot score this kind of prediction.

    Args:
        kind: What the predictions are.
        protocol: The protocol.

    Raises:
        KindError: With the cure.

    Example:
        >>> from fathom.protocol import load_protocol
        >>> check_kind(DepthKind.METRIC_DEPTH, load_protocol("nyu-eigen"))
        >>> check_kind(DepthKind.SCALE_INVARIANT_DEPTH, load_protocol("nyu-eigen"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fathom.errors.KindError: scale_invariant_depth has no known scale, and a protocol with alignment.method...
    """
    fit = protocol.alignment
    if kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
        cure = (
            "Use a protocol that fits scale and shift in inverse depth, such as zero-shot-midas, "
            "or --set alignment.method=least_squares --set alignment.space=inverse_depth."
        )
        if fit.method not in _FITS_SHIFT:
            raise KindError(
                f"{kind.value} has neither a scale nor a shift, and a protocol with alignment.method '{fit.method}' "
                f"does not fit both. {cure}"
            )
        if fit.space != "inverse_depth":
            raise KindError(
                f"{kind.value} is linear in inverse depth only, and a protocol with alignment.space '{fit.space}' "
                f"would invert it before its shift is known. {cure}"
            )
        if protocol.resize.quantity == "depth":
            raise KindError(
                f"{protocol.name} resizes depth, which {kind.value} is not. Set resize.quantity=prediction."
            )
    elif kind in (DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.DISPARITY):
        if fit.method == "none" and fit.fixed_scale is None:
            raise KindError(
                f"{kind.value} has no known scale, and a protocol with alignment.method 'none' scores metres. "
                "Calibrate the predictions, or use a protocol that fits a scale, such as monodepth2-mono."
            )


def gather_pixels(
    pred: Depth,
    sample: Sample,
    protocol: Protocol,
    *,
    range_edges: Sequence[float] = (),
    boundary: bool = False,
) -> Pixels:
    """Bring a prediction to the target's frame and pick the scored pixels. Arguments and errors as in `score_image`."""
    pred = _to_metric_inverse(pred)
    check_kind(pred.kind, protocol)
    target, valid = _target(sample, protocol)
    mask = score_mask(protocol, target, valid)
    if not mask.any():
        raise EmptyMaskError("No pixel of the target is valid, inside the crop and inside the range.")
    values, kind = _prediction(pred, target.shape, protocol)
    top, bottom, left, right = crop_box(protocol.score_crop, *target.shape)
    window = (slice(top, bottom), slice(left, right))
    mask, values, inside = mask[window], values[window], target[window]
    cells = _cells(target, valid, window, range_edges)[mask]
    chosen, truth = values[mask].astype(np.float64), inside[mask].astype(np.float64)
    has = np.isfinite(chosen)
    num_missing = int(np.count_nonzero(~has))
    is_far = ~has if protocol.missing_prediction == "far_limit" else np.zeros_like(has)
    missing_target, missing_cells = truth[is_far], cells[is_far]
    if num_missing:
        if protocol.missing_prediction == "refuse" or (num_missing == has.size and is_far.any()):
            raise InputError(
                f"{num_missing} of {has.size} scored pixels have no prediction. Fill them "
                "(fathom.postprocess.fill_holes), or set missing_prediction to exclude or far_limit, which changes the "
                "protocol's hash."
            )
        if num_missing == has.size:
            raise EmptyMaskError("No scored pixel has a prediction.")
        chosen, truth, cells = chosen[has], truth[has], cells[has]
    maps = None
    if boundary:
        mask = mask & np.isfinite(values)
        maps = (np.where(mask, values, np.nan).astype(np.float64), inside.astype(np.float64), mask)
    camera, stereo_constant = sample.camera, None
    if protocol.alignment.method == "none" and camera is not None and camera.baseline_m is not None:
        stereo_constant = camera.focal_px * camera.baseline_m
    return Pixels(chosen, truth, cells, num_missing, missing_target, missing_cells, kind, maps, stereo_constant)


def fit_pixels(images: Sequence[Pixels], protocol: Protocol) -> Fit:
    """Fit one scale and shift to the pixels of one or more images. Errors as in `score_image`."""
    pred = images[0].pred if len(images) == 1 else np.concatenate([image.pred for image in images])
    target = images[0].target if len(images) == 1 else np.concatenate([image.target for image in images])
    choice = protocol.alignment
    far_limit = float(target.max()) if choice.far_limit == "target" else _clamp_limits(protocol)[1]
    kind = images[0].kind
    if choice.method == "none":
        return Fit(choice.fixed_scale or 1.0, 0.0, far_limit)
    if choice.space == "depth" and kind is DepthKind.INVERSE_DEPTH:
        pred, kind = 1.0 / np.maximum(pred, 1.0 / far_limit), DepthKind.METRIC_DEPTH
    pred = _clamped_before(pred, kind, protocol)
    everything = np.ones(pred.shape, np.bool_)
    if choice.space == "log":
        result = align(
            pred,
            target,
            valid_mask=everything,
            method=choice.method,
            space="log",
            max_depth=far_limit,
            min_depth=min(_TINY_DEPTH, far_limit / 2),
            kind=kind,
        )
        return Fit(result.scale, result.shift, far_limit)
    # Only the two numbers are needed here; `align` would also map every pixel and clamp it.
    is_inverse, wants_inverse = kind in _INVERSE_KINDS, choice.space == "inverse_depth"
    if is_inverse != wants_inverse:
        if not pred.min() > 0:
            raise InputError(
                f"Predictions must be above 0 to be fitted in {choice.space}; the smallest of this image is "
                f"{pred.min():.3g}. Clamp them, or take these pixels out of their valid_mask."
            )
        pred = 1.0 / pred
    fitted = _FITS[choice.method](pred, 1.0 / target if wants_inverse else target, valid_mask=everything)
    scale, shift = fitted if isinstance(fitted, tuple) else (fitted, 0.0)
    return Fit(scale, shift, far_limit)


def score_pixels(pixels: Pixels, fit: Fit, protocol: Protocol, *, range_edges: Sequence[float] = ()) -> ImageScore:
    """Apply a fit and score the pixels of one image. Errors as in `score_image`."""
    depth = apply_fit(pixels.pred, pixels.kind, fit, protocol)
    max_pred = float(depth.max())
    target, cells = pixels.target, pixels.cells
    if pixels.missing_target.size:
        depth = np.concatenate((depth, np.full(pixels.missing_target.size, fit.far_limit)))
        target = np.concatenate((target, pixels.missing_target))
        cells = np.concatenate((cells, pixels.missing_cells))
    by_cell = _sums_by_cell(depth, target, cells)
    total, *rest = by_cell.values()
    for part in rest:
        total = total + part
    scores = scores_from_sums(total, protocol)
    if pixels.stereo_constant is not None:
        scores["d1"] = _disparity_outliers(pixels, fit, target, pixels.stereo_constant)
    if pixels.maps is not None:
        values, inside, mask = pixels.maps
        depth_map = apply_fit(values, pixels.kind, fit, protocol)
        edges = boundary_f1(depth_map, inside, mask)
        scores |= {"boundary_f1": edges.f1, "boundary_precision": edges.precision, "boundary_recall": edges.recall}
    np.subtract(depth, target, out=depth)
    scores["median_ae"] = _median_in_place(np.abs(depth, out=depth))
    spans = list(itertools.pairwise(range_edges))
    by_range: dict[tuple[float, float], DepthSums] = {}
    by_edge: dict[str, DepthSums] = {}
    for cell, part in by_cell.items():
        name = "edge" if cell % 2 else "flat"
        by_edge[name] = by_edge[name] + part if name in by_edge else part
        if 1 <= cell // 2 <= len(spans):
            span = spans[cell // 2 - 1]
            by_range[span] = by_range[span] + part if span in by_range else part
    return ImageScore(scores, total, by_range, by_edge, fit, pixels.num_missing, max_pred)


def _disparity_outliers(pixels: Pixels, fit: Fit, target: FloatVector, stereo_constant: float) -> float:
    """Compute D1 of a prediction that is not fitted; `target` [m] ends with the pixels that have no prediction.

    Disparities are compared before any clamp: a limit in metres would move the small ones by whole pixels.
    """
    inverse = pixels.pred if pixels.kind in _INVERSE_KINDS else 1.0 / np.maximum(pixels.pred, _TINY_DEPTH)
    disparity = stereo_constant / fit.scale * inverse
    if pixels.missing_target.size:
        missing = np.full(pixels.missing_target.size, stereo_constant / fit.far_limit)
        disparity = np.concatenate((disparity, missing))
    # A disparity of 0, infinitely far, is a prediction like any other; the metric asks for positive numbers.
    return d1(np.maximum(disparity, _TINY_DEPTH), stereo_constant / target, target > 0)


def apply_fit(values: FloatVector, kind: DepthKind, fit: Fit, protocol: Protocol) -> FloatVector:
    """Turn predictions into clamped depth [m] with a fit that is known.

    Args:
        values: Predictions in the unit of `kind`, any shape; NaN stays NaN.
        kind: What they are.
        fit: From `fit_pixels`.
        protocol: The protocol.

    Returns:
        Depth [m], same shape.

    Raises:
        InputError: If a depth comes out at 0 or below and the protocol has no clamp.
    """
    choice = protocol.alignment
    is_inverse = kind in _INVERSE_KINDS
    floor = 1.0 / fit.far_limit
    if choice.space == "inverse_depth" and choice.method != "none":
        inverse = values if is_inverse else 1.0 / _clamped_before(values, kind, protocol)
        depth = 1.0 / np.maximum(fit.scale * inverse + fit.shift, floor)
    else:
        # A scale of the depth: a disparity of unknown unit only gets its floor once it is in 1/m.
        if is_inverse and kind is DepthKind.INVERSE_DEPTH:
            depth = 1.0 / np.maximum(values, floor)
        else:
            with np.errstate(divide="ignore"):
                depth = 1.0 / values if is_inverse else values
        depth = _clamped_before(depth, kind, protocol)
        depth = (
            np.exp(fit.scale * np.log(depth) + fit.shift) if choice.space == "log" else fit.scale * depth + fit.shift
        )
    if protocol.clamp.when == "after_alignment":
        return np.clip(depth, *_clamp_limits(protocol))
    lowest = np.nanmin(depth)
    if not lowest > 0:
        raise InputError(
            f"{protocol.name} has no clamp, and the fitted depth goes down to {lowest:.3g} m. Clamp the predictions, "
            "or set clamp.when, clamp.min_depth and clamp.max_depth, which changes the protocol's hash."
        )
    return depth


def fitted_maps(
    pred: Depth, sample: Sample, protocol: Protocol, fit: Fit
) -> tuple[FloatVector, NDArray[np.floating], NDArray[np.bool_]]:
    """Return whole maps, for pictures of a result.

    Args:
        pred: Prediction of the whole picture.
        sample: Ground truth.
        protocol: How it was scored.
        fit: The fit that was used.

    Returns:
        pred: Fitted depth [m] at the size that is scored, shape (H, W); NaN where there is none.
        target: Target depth [m], shape (H, W).
        mask: Scored pixels, shape (H, W).
    """
    target, valid = _target(sample, protocol)
    values, kind = _prediction(_to_metric_inverse(pred), target.shape, protocol)
    mask = score_mask(protocol, target, valid) & np.isfinite(values)
    values = values.astype(np.float64)
    if kind is not DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
        values = np.where(values > 0, values, np.nan)
    # Unclamped protocols refuse a depth of 0 or below in scored pixels; elsewhere in the picture there is just none.
    fitted = np.full(values.shape, np.nan)
    fitted[mask] = apply_fit(values[mask], kind, fit, protocol)
    rest = np.isfinite(values) & ~mask
    if protocol.clamp.when == "after_alignment" and rest.any():
        fitted[rest] = apply_fit(values[rest], kind, fit, protocol)
    return fitted, target, mask


def _to_metric_inverse(pred: Depth) -> Depth:
    """Turn a disparity whose camera is known into inverse depth [1/m]."""
    if pred.kind is DepthKind.DISPARITY and pred.camera is not None and pred.camera.baseline_m is not None:
        return pred.to_inverse_depth()
    return pred


def scores_from_sums(sums: DepthSums, protocol: Protocol) -> dict[str, float]:
    """Name the scores that sums give, in the definitions of a protocol (median_ae is no sum)."""
    metrics = protocol.metrics
    variant = SilogVariant(
        metrics.silog_lambda, metrics.silog_scale, metrics.silog_sqrt, unbiased=metrics.silog_unbiased
    )
    return sums.scores(silog_variant=variant, rmse_log_base=metrics.rmse_log_base)


def edge_pixels(depth: NDArray[np.floating], valid_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels near a jump of the depth.

    Two neighbours in a row or column that are both valid and differ by more than a factor of `EDGE_RATIO` form an edge;
    pixels within `EDGE_RADIUS` of one of them, in a square, are marked.

    Args:
        depth: Depth [m], shape (H, W).
        valid_mask: Pixels with a depth, shape (H, W).

    Returns:
        True near an edge, shape (H, W). Sparse lidar has hardly any neighbours, and so hardly any edges.

    Example:
        >>> depth = np.array([[1.0] * 5 + [2.0] * 5])
        >>> edge_pixels(depth, depth > 0)[0].astype(int).tolist()
        [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    safe = np.where(valid_mask, depth, np.float32(np.nan)).astype(np.float32)
    ratio = np.float32(EDGE_RATIO)
    edge = np.zeros(depth.shape, np.bool_)
    for one, two in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        a, b = safe[one], safe[two]
        jump = (a > ratio * b) | (b > ratio * a)
        edge[one] |= jump
        edge[two] |= jump
    for axis in (0, 1):
        grown = edge.copy()
        rows, out = np.moveaxis(edge, axis, 0), np.moveaxis(grown, axis, 0)
        for step in range(1, EDGE_RADIUS + 1):
            out[step:] |= rows[:-step]
            out[:-step] |= rows[step:]
        edge = grown
    return edge & valid_mask


def _target(sample: Sample, protocol: Protocol) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the target depth [m] and its mask at the size that is scored."""
    target: NDArray[np.floating] = sample.target
    valid = sample.valid_mask
    if sample.kind is not DepthKind.METRIC_DEPTH:
        valid = valid & np.isfinite(target) & (target > 0)
        metres = Depth(target, sample.kind, valid, camera=sample.camera).to_metric_depth()
        target, valid = metres.values, metres.valid_mask
    size = protocol.target_size
    if size is not None and target.shape != (size.height, size.width):
        rows, columns = nearest_index(target.shape[0], size.height), nearest_index(target.shape[1], size.width)
        target, valid = target[np.ix_(rows, columns)], valid[np.ix_(rows, columns)]
    return target, valid


def _prediction(pred: Depth, shape: tuple[int, ...], protocol: Protocol) -> tuple[NDArray[np.floating], DepthKind]:
    """Return the prediction at the size that is scored, NaN where there is none, and what it is afterwards."""
    values: NDArray[np.floating] = pred.values
    if not pred.valid_mask.all():
        values = np.where(pred.valid_mask, values, np.float32(np.nan))
    if values.shape == shape:
        return values, pred.kind
    kind, wanted = pred.kind, protocol.resize.quantity
    if wanted != "prediction" and (kind in _INVERSE_KINDS) != (wanted == "inverse_depth"):
        values = 1.0 / np.maximum(values.astype(np.float64), _TINY_INVERSE)
        kind = {
            DepthKind.METRIC_DEPTH: DepthKind.INVERSE_DEPTH,
            DepthKind.INVERSE_DEPTH: DepthKind.METRIC_DEPTH,
            DepthKind.DISPARITY: DepthKind.SCALE_INVARIANT_DEPTH,
            # One over a depth of unknown scale is an inverse depth of unknown scale, as a disparity without camera is.
            DepthKind.SCALE_INVARIANT_DEPTH: DepthKind.DISPARITY,
        }[kind]
    height, width = shape
    resized = resample(values, height, width, mode=protocol.resize.mode, align_corners=protocol.resize.align_corners)
    return resized, kind


def _cells(
    target: NDArray[np.floating],
    valid: NDArray[np.bool_],
    window: tuple[slice, slice],
    range_edges: Sequence[float],
) -> NDArray[np.uint8]:
    """Number the cells of the breakdown: twice the range (0: nearer than all), plus 1 near an edge."""
    cells = edge_pixels(target, valid)[window].astype(np.uint8)
    inside = target[window]
    for distance in range_edges:
        cells += np.uint8(2) * (inside >= distance)
    return cells


def _sums_by_cell(depth: FloatVector, target: FloatVector, cells: NDArray[np.uint8]) -> dict[int, DepthSums]:
    """Sum each cell on its own; sorting the small numbers once is cheaper than one mask for each cell."""
    counts = np.bincount(cells)
    if np.count_nonzero(counts) == 1:
        return {int(cells[0]): _sums(depth, target)}
    order = np.argsort(cells, kind="stable")
    depth, target = depth[order], target[order]
    ends = np.cumsum(counts)
    return {
        cell: _sums(depth[end - count : end], target[end - count : end])
        for cell, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True))
        if count
    }


def _clamp_limits(protocol: Protocol) -> tuple[float, float]:
    low, high = protocol.clamp.min_depth, protocol.clamp.max_depth
    assert low is not None and high is not None, "a protocol whose far limit is the clamp has one"
    return low, high


def _clamped_before(depth: FloatVector, kind: DepthKind, protocol: Protocol) -> FloatVector:
    """Clamp metric predictions where the protocol does so before the fit."""
    if protocol.clamp.when != "before_alignment" or kind in _INVERSE_KINDS:
        return depth
    return np.clip(depth, *_clamp_limits(protocol))


__all__ = [
    "EDGE_RADIUS",
    "EDGE_RATIO",
    "Fit",
    "ImageScore",
    "Pixels",
    "apply_fit",
    "check_kind",
    "edge_pixels",
    "fit_pixels",
    "fitted_maps",
    "gather_pixels",
    "score_image",
    "score_pixels",
    "scores_from_sums",
]
