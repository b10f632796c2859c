"""Combine the predictions of several models for one picture.

`fuse` takes `Depth` maps, brings them to one scale where their kinds differ or are relative, and combines them pixel by
pixel. The functions below it work on plain stacks, shape (M, H, W) for M models, NaN where a model has no value; they
use what is valid, and give NaN where nothing is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import fit_scale_median, fit_scale_shift
from fathom.config import nearest_name
from fathom.errors import ConfigError, EmptyMaskError, KindError, ShapeError
from fathom.types import Camera, Depth, DepthKind, Provenance

Stack = NDArray[np.floating]
FloatMap = NDArray[np.float64]

_AFFINE = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
_SCALE_KINDS = (DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.DISPARITY)


def fuse_mean(stack: Stack) -> FloatMap:
    """Take the mean of the valid values.

    Args:
        stack: Maps, shape (M, H, W); NaN where there is no value.

    Returns:
        Shape (H, W); NaN where no map has a value.

    Example:
        >>> fuse_mean(np.array([[[1.0, np.nan]], [[3.0, 4.0]]])).tolist()
        [[2.0, 4.0]]
    """
    has = np.isfinite(stack)
    count = has.sum(axis=0)
    total = np.where(has, stack, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fuse_median(stack: Stack) -> FloatMap:
    """Take the median; an even count takes the mean of the two middle values. Arguments as in `fuse_mean`.

    Example:
        >>> fuse_median(np.array([[[1.0]], [[2.0]], [[9.0]], [[4.0]]])).tolist()
        [[3.0]]
    """
    return fuse_trimmed(stack, trim=0.5)


def fuse_trimmed(stack: Stack, *, trim: float = 0.25) -> FloatMap:
    """Take the mean without the smallest and largest values.

    Args:
        stack: Maps, shape (M, H, W); NaN where there is no value.
        trim: Share left out at *each* end, 0 to 0.5; at least one value (of an even count, two) is always kept, so 0.5
            is the median.

    Returns:
        Shape (H, W); NaN where no map has a value.

    Raises:
        ConfigError: If `trim` is not in [0, 0.5].

    Example:
        >>> fuse_trimmed(np.array([[[1.0]], [[2.0]], [[4.0]], [[90.0]]]), trim=0.25).tolist()
        [[3.0]]
    """
    if not 0 <= trim <= 0.5:
        raise ConfigError(f"`trim` is the share left out at each end, 0 to 0.5; got {trim}. Use for instance 0.25.")
    # NaN sorts last, so the valid values of a pixel are its first `count`.
    ordered = np.sort(np.asarray(stack, np.float64), axis=0)
    count = np.isfinite(ordered).sum(axis=0)
    left_out = np.minimum((trim * count).astype(np.intp), np.maximum(count - 1, 0) // 2)
    rank = np.arange(len(ordered)).reshape(-1, *(1,) * (ordered.ndim - 1))
    kept = (rank >= left_out) & (rank < count - left_out)
    total = np.where(kept, ordered, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(kept.sum(axis=0), 1), np.nan)


def fuse_geometric(stack: Stack) -> FloatMap:
    """Take the geometric mean of positive values: the mean in log depth, fair to every scale.

    Example:
        >>> fuse_geometric(np.array([[[1.0]], [[4.0]]])).round(6).tolist()
        [[2.0]]
    """
    return np.asarray(np.exp(fuse_mean(np.log(_positive(stack, "geometric")))))


def fuse_harmonic(stack: Stack) -> FloatMap:
    """Take the harmonic mean of positive values: for depth, the mean in inverse depth.

    Example:
        >>> fuse_harmonic(np.array([[[1.0]], [[4.0]]])).round(6).tolist()
        [[1.6]]
    """
    return np.asarray(1.0 / fuse_mean(1.0 / _positive(stack, "harmonic")))


def fuse_weighted(stack: Stack, weights: NDArray[np.floating]) -> FloatMap:
    """Take the weighted mean of the valid values; the weights of the valid maps are made to add up to 1.

    Args:
        stack: Maps, shape (M, H, W); NaN where there is no value.
        weights: Not negative, shape (M,) or (M, H, W); see `softmax_weights` and `fit_weights`.

    Returns:
        Shape (H, W); NaN where no map with a weight has a value.

    Raises:
        ShapeError: If the shape of the weights is neither.
        ConfigError: If a weight is negative or not finite.

    Example:
        >>> fuse_weighted(np.array([[[1.0]], [[3.0]]]), np.array([0.25, 0.75])).tolist()
        [[2.5]]
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape not in ((len(stack),), stack.shape):
        raise ShapeError(f"`weights` must have shape ({len(stack)},) or {stack.shape}; got {weights.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ConfigError("`weights` must be finite and not negative. Use softmax_weights for free parameters.")
    if weights.ndim == 1:
        weights = weights.reshape(-1, *(1,) * (stack.ndim - 1))
    has = np.isfinite(stack)
    used = np.where(has, weights, 0.0)
    total = used.sum(axis=0)
    value = (used * np.where(has, stack, 0.0)).sum(axis=0)
    return np.where(total > 0, value / np.where(total > 0, total, 1.0), np.nan)


def fuse_inverse_variance(stack: Stack, sigma: Stack) -> tuple[FloatMap, FloatMap]:
    """Weight independent estimates by one over their variance, the combination of least variance.

    Args:
        stack: Maps, shape (M, H, W); NaN where there is no value.
        sigma: Standard deviations in the unit of `stack`, above 0, same shape.

    Returns:
        value: Shape (H, W); NaN where no map has a value.
        sigma: Its standard deviation, ``1 / sqrt(sum(1 / sigma**2))``, shape (H, W).

    Raises:
        ShapeError: If the shapes differ.
        ConfigError: If a sigma of a valid value is not above 0.

    Example:
        >>> value, sigma = fuse_inverse_variance(np.array([[[2.0]], [[3.0]]]), np.array([[[0.1]], [[0.2]]]))
        >>> round(float(value[0, 0]), 6), round(float(sigma[0, 0]), 7)
        (2.2, 0.0894427)
    """
    if stack.shape != sigma.shape:
        raise ShapeError(f"`sigma` must have the shape of the stack, {stack.shape}; got {sigma.shape}.")
    has = np.isfinite(stack)
    if not (sigma[has] > 0).all():
        raise ConfigError("Every valid value needs a standard deviation above 0.")
    precision = np.where(has, 1.0 / np.where(has, sigma, 1.0).astype(np.float64) ** 2, 0.0)
    total = precision.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    value = (precision * np.where(has, stack, 0.0)).sum(axis=0) / safe
    return np.where(total > 0, value, np.nan), np.where(total > 0, 1.0 / np.sqrt(safe), np.nan)


def ensemble_variance(stack: Stack, sigma: Stack | None = None) -> FloatMap:
    """Compute the variance of an ensemble: mean of the members' variances plus the variance of their means.

    Args:
        stack: Maps, shape (M, H, W); NaN where there is no value.
        sigma: Standard deviations of the members, same shape; default: none are known.

    Returns:
        Shape (H, W); NaN where no map has a value.

    Example:
        >>> ensemble_variance(np.array([[[1.0]], [[3.0]]]), np.array([[[1.0]], [[2.0]]])).tolist()
        [[3.5]]

    Reference:
        Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation", NeurIPS 2017.
    """
    spread = fuse_mean((stack - fuse_mean(stack)) ** 2)
    if sigma is None:
        return spread
    return spread + fuse_mean(np.where(np.isfinite(stack), sigma, np.nan) ** 2)


def softmax_weights(logits: NDArray[np.floating]) -> FloatMap:
    """Turn free parameters, one for each model (and pixel), into weights that add up to 1 over the first axis.

    Example:
        >>> softmax_weights(np.array([0.0, np.log(3.0)])).round(6).tolist()
        [0.25, 0.75]
    """
    raised = np.exp(logits - logits.max(axis=0))
    return np.asarray(raised / raised.sum(axis=0), np.float64)


def fit_weights(
    preds: Sequence[NDArray[np.floating]],
    target: NDArray[np.floating],
    *,
    valid_mask: NDArray[np.bool_],
    ridge: float = 0.0,
) -> FloatMap:
    """Learn one weight for each model by ridge regression, ``w = (A^T A + ridge I)^-1 A^T y``.

    The weights may be negative and need not add up to 1; apply them with ``np.tensordot(weights, stack, 1)``.

    Args:
        preds: One map for each model, each of the target's shape and quantity.
        target: Ground truth, any shape.
        valid_mask: Pixels to learn from, same shape.
        ridge: Strength of the pull towards 0.

    Returns:
        Weights, shape (M,).

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If fewer pixels than models are valid in all maps.
        ConfigError: If `ridge` is negative, or is 0 while the models are linearly dependent.

    Example:
        >>> one, two = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0])
        >>> fit_weights([one, two], 0.3 * one + 0.7 * two, valid_mask=one > 0).round(6).tolist()
        [0.3, 0.7]

    Reference:
        Breiman, "Stacked Regressions", 1996.
    """
    if ridge < 0:
        raise ConfigError(f"`ridge` must not be negative; got {ridge}.")
    stack = np.stack([np.asarray(pred, np.float64) for pred in preds])
    if stack.shape[1:] != target.shape or target.shape != valid_mask.shape:
        raise ShapeError(
            f"Maps, `target` and `valid_mask` must have one shape; got {stack.shape[1:]}, {target.shape} and "
            f"{valid_mask.shape}."
        )
    used = valid_mask & np.isfinite(target) & np.isfinite(stack).all(axis=0)
    matrix = stack[:, used].T
    if len(matrix) < len(stack):
        raise EmptyMaskError(f"{len(stack)} weights need at least as many valid pixels; got {len(matrix)}.")
    gram = matrix.T @ matrix + ridge * np.eye(len(stack))
    if np.linalg.matrix_rank(gram) < len(stack):
        raise ConfigError("Two of the models are linearly dependent, so their weights are not unique. Set ridge > 0.")
    return np.asarray(np.linalg.solve(gram, matrix.T @ target[used].astype(np.float64)))


FUSIONS: dict[str, Callable[..., FloatMap]] = {
    "mean": fuse_mean,
    "median": fuse_median,
    "trimmed": fuse_trimmed,
    "geometric": fuse_geometric,
    "harmonic": fuse_harmonic,
    "weighted": fuse_weighted,
}
"""Combinations that `fuse` knows by name."""


@dataclass(frozen=True)
class Fused:
    """A fused map and what was done to reach it.

    Attributes:
        depth: The fused map.
        spread: Standard deviation between the aligned models, in the unit of `depth`, shape (H, W); NaN where none has
            a value.
        fits: Scale and shift applied to each model, in the space of its fit; (1, 0) where none was needed.
    """

    depth: Depth
    spread: FloatMap
    fits: tuple[tuple[float, float], ...]


def fuse(
    depths: Sequence[Depth],
    method: str = "median",
    *,
    weights: NDArray[np.floating] | None = None,
    reference: int | None = None,
) -> Fused:
    """Fuse the maps of several models for one picture.

    Models are first brought to the scale of the reference, unless all have a true unit: a map of unknown scale and
    shift by least squares in inverse depth, one of unknown scale by the ratio of medians. The combination happens in
    depth; only where every map is affine-invariant, in inverse depth.

    Args:
        depths: One map for each model, all of one size.
        method: A name in `FUSIONS`.
        weights: For "weighted": shape (M,) or (M, H, W).
        reference: Index of the map that sets the scale; default: the first with a true unit, else the first whose
            shift is known, else the first.

    Returns:
        The fused map: metric depth if the reference has a true unit, else depth of unknown scale, else
        affine-invariant inverse depth. Valid where any model is.

    Raises:
        ConfigError: If the method is unknown, `weights` are missing or of no use, or the reference does not exist.
        ShapeError: If there are fewer than two maps, or their sizes differ.
        KindError: If the method has no meaning for affine-invariant maps, or the reference knows less than another.
        EmptyMaskError: If a map shares fewer than two valid pixels with the reference.

    Example:
        >>> metric = Depth(np.array([[1.0, 2.0, 4.0]]), DepthKind.METRIC_DEPTH)
        >>> relative = Depth(np.array([[2.1, 1.1, 0.6]]), DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
        >>> fused = fuse([relative, metric], "mean")
        >>> fused.depth.kind.value, fused.depth.values.round(4).tolist()
        ('metric_depth', [[1.0, 2.0, 4.0]])
    """
    if method not in FUSIONS:
        raise ConfigError(f"Unknown fusion '{method}'. {nearest_name(method, FUSIONS)}")
    if (method == "weighted") != (weights is not None):
        raise ConfigError("`weights` go with the method 'weighted', and only with it.")
    sizes = sorted({(depth.height, depth.width) for depth in depths})
    if len(depths) < 2 or len(sizes) != 1:
        raise ShapeError(f"Fusion takes at least two maps of one size; got {len(depths)} maps of {sizes}. Resize them.")
    maps = [_known_unit(depth) for depth in depths]
    index = _reference(maps, reference)
    base = maps[index]
    if base.kind is _AFFINE:
        if method in ("geometric", "harmonic"):
            raise KindError(
                f"The {method} mean needs positive values of one scale, which {_AFFINE.value} has not. Add a metric "
                "model, or use median."
            )
        anchor = _values(base)
        fitted = [_fit_affine(map_, anchor, is_self=map_ is base) for map_ in maps]
        kind = _AFFINE
    else:
        kind = DepthKind.METRIC_DEPTH if _rank(base) == 0 else DepthKind.SCALE_INVARIANT_DEPTH
        anchor = _as_depth(base)
        fitted = [_fit_depth(map_, anchor, is_self=map_ is base) for map_ in maps]
    stack = np.stack([values for values, _ in fitted])
    combined = FUSIONS[method](stack) if weights is None else fuse_weighted(stack, weights)
    names = [depth.provenance.model or "?" for depth in depths]
    licences = sorted({depth.provenance.licence for depth in depths if depth.provenance.licence})
    provenance = Provenance(
        model=f"{method} of {', '.join(names)}",
        preprocessing={"fusion": method, "reference": index, "members": [d.provenance.to_dict() for d in depths]},
        licence=" and ".join(licences),
    )
    camera: Camera | None = base.camera
    result = Depth(combined.astype(np.float32), kind, np.isfinite(combined), camera=camera, provenance=provenance)
    return Fused(result, np.sqrt(ensemble_variance(stack)), tuple(fit for _, fit in fitted))


def _known_unit(depth: Depth) -> Depth:
    """Convert a disparity whose camera is known to metres."""
    has_camera = depth.camera is not None and depth.camera.baseline_m is not None
    return depth.to_metric_depth() if depth.kind is DepthKind.DISPARITY and has_camera else depth


def _rank(depth: Depth) -> int:
    """Count what is unknown: nothing, the scale, or scale and shift."""
    if depth.kind is _AFFINE:
        return 2
    return 1 if depth.kind in _SCALE_KINDS else 0


def _reference(maps: Sequence[Depth], wanted: int | None) -> int:
    ranks = [_rank(map_) for map_ in maps]
    best = ranks.index(min(ranks))
    if wanted is None:
        return best
    if not 0 <= wanted < len(maps):
        raise ConfigError(f"`reference` must be an index from 0 to {len(maps) - 1}; got {wanted}.")
    if ranks[wanted] > ranks[best]:
        raise KindError(
            f"Map {wanted} ({maps[wanted].kind.value}) cannot set the scale of map {best} ({maps[best].kind.value}), "
            f"of which more is known. Set reference={best}."
        )
    return wanted


def _values(depth: Depth) -> FloatMap:
    return np.where(depth.valid_mask, depth.values, np.nan).astype(np.float64)


def _as_depth(depth: Depth) -> FloatMap:
    """Return depth, NaN where there is none; of unknown scale where the kind's is."""
    values = _values(depth)
    if depth.kind in (DepthKind.METRIC_DEPTH, DepthKind.SCALE_INVARIANT_DEPTH):
        return values
    with np.errstate(divide="ignore"):
        inverse = 1.0 / values
    return np.where(np.isfinite(inverse), inverse, np.nan)


Fit = tuple[float, float]


def _fit_affine(depth: Depth, anchor: FloatMap, *, is_self: bool) -> tuple[FloatMap, Fit]:
    """Fit an affine-invariant map to another one."""
    values = _values(depth)
    if is_self:
        return values, (1.0, 0.0)
    both = _shared(values, anchor)
    scale, shift = fit_scale_shift(values, anchor, valid_mask=both)
    return scale * values + shift, (scale, shift)


def _fit_depth(depth: Depth, anchor: FloatMap, *, is_self: bool) -> tuple[FloatMap, Fit]:
    """Bring a map to the depth scale of the reference; pixels that come out at 0 or below have no depth."""
    if depth.kind is _AFFINE:
        values = _values(depth)
        scale, shift = fit_scale_shift(values, 1.0 / anchor, valid_mask=_shared(values, anchor))
        inverse = scale * values + shift
        usable = inverse > 0
        return np.where(usable, 1.0 / np.where(usable, inverse, 1.0), np.nan), (scale, shift)
    values = _as_depth(depth)
    if is_self or _rank(depth) == 0:
        return values, (1.0, 0.0)
    scale = fit_scale_median(values, anchor, valid_mask=_shared(values, anchor))
    return scale * values, (scale, 0.0)


def _shared(values: FloatMap, anchor: FloatMap) -> Any:
    both = np.isfinite(values) & np.isfinite(anchor)
    if np.count_nonzero(both) < 2:
        raise EmptyMaskError("Two maps to be fitted share fewer than two valid pixels. Leave one of them out.")
    return both


def _positive(stack: Stack, name: str) -> FloatMap:
    has = np.isfinite(stack)
    if not (stack[has] > 0).all():
        raise KindError(f"The {name} mean needs values above 0. Fuse depth or inverse depth, or use mean or median.")
    return np.where(has, stack, np.nan).astype(np.float64)
