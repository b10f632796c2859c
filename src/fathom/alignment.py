"""Bring a prediction into the unit of its target before scoring.

Alignment is the largest lever of an evaluation: a protocol states its method, its space and its clamp. The ``fit_*``
functions take two maps of the *same* quantity and return numbers; ``align`` takes a prediction of a stated kind and a
target in metres, and returns metres.

No function here knows torch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fathom.errors import ConfigError, EmptyMaskError, InputError, KindError, ShapeError
from fathom.types import DepthKind

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

Method = Literal[
    "none",
    "median",
    "median_of_ratios",
    "least_squares_scale",
    "least_squares",
    "trimmed",
    "l1",
]
Space = Literal["depth", "inverse_depth", "log"]

METHODS: tuple[str, ...] = (
    "none",
    "median",
    "median_of_ratios",
    "least_squares_scale",
    "least_squares",
    "trimmed",
    "l1",
)
SPACES: tuple[str, ...] = ("depth", "inverse_depth", "log")

_INVERSE_KINDS = (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
_UNKNOWN_SCALE_KINDS = (DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.DISPARITY)
_FITS_SHIFT = ("least_squares", "trimmed", "l1")


@dataclass(frozen=True)
class Aligned:
    """A prediction in metres, and the fit that brought it there.

    Attributes:
        depth: Depth [m], shape of the prediction, clamped to ``[min_depth, max_depth]``.
        scale: Factor of the fit, in the space of the fit.
        shift: Added after scaling, in the space of the fit (1/m for inverse depth, natural log of metres for log).
    """

    depth: NDArray[np.float64]
    scale: float
    shift: float


def select_valid(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, positive: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pick the pixels to compute with, as float64 vectors.

    A target that is not finite is never used, whatever the mask says; with `positive`, neither is a target of 0 or
    below. A prediction must be usable wherever it is compared: dropping its bad pixels would flatter it.

    Args:
        pred: Prediction, any shape.
        target: Target, same shape.
        valid_mask: True where the pixel counts, same shape, bool.
        positive: Whether the quantity must be above 0 (depth, inverse depth, disparity).

    Returns:
        pred: Selected predictions, shape (N,).
        target: Selected targets, shape (N,).

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.
        EmptyMaskError: If no pixel is left.
        InputError: If a prediction that counts is not finite, or not above 0 where `positive`.

    Example:
        >>> pred, target = np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, np.inf])
        >>> select_valid(pred, target, np.array([True, False, True]), positive=True)
        (array([1.]), array([2.]))
    """
    if not pred.shape == target.shape == valid_mask.shape:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must have one shape; got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}. Resize the prediction to the target."
        )
    if valid_mask.dtype != np.bool_:
        raise ShapeError(f"`valid_mask` must be bool; got {valid_mask.dtype}. Use for instance `target > 0`.")
    # Selecting before converting keeps the work at the valid pixels and never touches masked NaN.
    pred_valid = pred[valid_mask].astype(np.float64)
    target_valid = target[valid_mask].astype(np.float64)
    usable = np.isfinite(target_valid)
    if positive:
        usable &= target_valid > 0
    if not usable.all():
        pred_valid, target_valid = pred_valid[usable], target_valid[usable]
    if pred_valid.size == 0:
        raise EmptyMaskError(
            "At least one valid pixel is needed; `valid_mask` and the finite target leave none. "
            "Skip this image and count it."
        )
    lowest, highest = pred_valid.min(), pred_valid.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)) or (positive and lowest <= 0):
        bad = ~np.isfinite(pred_valid) | ((pred_valid <= 0) if positive else False)
        need = "finite and above 0" if positive else "finite"
        raise InputError(
            f"`pred` must be {need} wherever `valid_mask` is True; {np.count_nonzero(bad)} of {bad.size} pixels are "
            "not. Clamp the prediction, or take these pixels out of the mask."
        )
    return pred_valid, target_valid


def fit_scale_median(pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray) -> float:
    """Fit a scale as the ratio of the two medians, ``median(target) / median(pred)``.

    Args:
        pred: Prediction, shape (H, W), any unit.
        target: Target of the same quantity, shape (H, W).
        valid_mask: Pixels to use, shape (H, W).

    Returns:
        scale: Multiplies `pred`.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If no pixel is valid.
        InputError: If a prediction that counts is not finite, or their median is 0.

    Example:
        >>> pred, target = np.array([1.0, 2.0, 4.0]), np.array([2.0, 6.0, 4.0])
        >>> fit_scale_median(pred, target, valid_mask=target > 0)
        2.0

    Reference:
        Zhou et al., "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR 2017 (evaluation).
    """
    values, truth = select_valid(pred, target, valid_mask, positive=False)
    return float(np.median(truth)) / _nonzero(float(np.median(values)), "the median of `pred`")


def fit_scale_median_of_ratios(pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray) -> float:
    """Fit a scale as the median of the per-pixel ratios, ``median(target / pred)``.

    This is another protocol than the ratio of medians: on ``(1, 2, 8)`` against ``(3, 8, 8)`` it gives 3, the other 4.

    Args:
        pred: Prediction, shape (H, W), above 0.
        target: Target of the same quantity, shape (H, W), above 0.
        valid_mask: Pixels to use, shape (H, W).

    Returns:
        scale: Multiplies `pred`.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If no pixel is valid.
        InputError: If a prediction that counts is not finite and above 0.

    Example:
        >>> pred, target = np.array([1.0, 2.0, 8.0]), np.array([3.0, 8.0, 8.0])
        >>> fit_scale_median_of_ratios(pred, target, valid_mask=target > 0)
        3.0
    """
    values, truth = select_valid(pred, target, valid_mask, positive=True)
    return float(np.median(truth / values))


def fit_scale(pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray) -> float:
    """Fit the scale alone in least squares.

    Minimises ``sum(valid_mask * (scale * pred - target) ** 2)``, so ``scale = sum(pred * target) / sum(pred ** 2)``.

    Args:
        pred: Prediction, shape (H, W), any unit.
        target: Target of the same quantity, shape (H, W).
        valid_mask: Pixels to use, shape (H, W).

    Returns:
        scale: Multiplies `pred`.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If no pixel is valid.
        InputError: If a prediction that counts is not finite, or all are 0.

    Example:
        >>> pred = np.array([1.0, 2.0])
        >>> fit_scale(pred, 3.0 * pred, valid_mask=pred > 0)
        3.0
    """
    values, truth = select_valid(pred, target, valid_mask, positive=False)
    return float(values @ truth) / _nonzero(float(values @ values), "the sum of squares of `pred`")


def fit_scale_shift(pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray) -> tuple[float, float]:
    """Fit the scale and shift that map `pred` onto `target` in least squares.

    Minimises ``sum(valid_mask * (scale * pred + shift - target) ** 2)`` for one image. Both maps must be the same
    quantity (both depth, or both inverse depth). For a constant prediction the minimiser is not unique; scale 0 and
    the mean of the target is returned.

    Args:
        pred: Prediction, shape (H, W), any unit.
        target: Target, shape (H, W), depth [m] or inverse depth [1/m].
        valid_mask: Pixels to use, shape (H, W).

    Returns:
        scale: Multiplies `pred`; unit of `target` over unit of `pred`.
        shift: Added after scaling; unit of `target`.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If fewer than two pixels are valid.
        InputError: If a prediction that counts is not finite.

    Example:
        >>> pred = np.array([[0.0, 1.0], [2.0, 9.0]])
        >>> scale, shift = fit_scale_shift(pred, 2.0 * pred + 1.0, valid_mask=pred >= 0)
        >>> round(scale, 6), round(shift, 6)
        (2.0, 1.0)

    Reference:
        Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, section 5.
    """
    values, truth = _two_or_more(pred, target, valid_mask)
    return _weighted_line(values, truth, np.ones_like(values))


def fit_scale_shift_l1(
    pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray, num_iterations: int = 50
) -> tuple[float, float]:
    """Fit scale and shift in least absolute deviations, by iteratively reweighted least squares.

    Minimises ``sum(valid_mask * abs(scale * pred + shift - target))``. Each step is a least-squares fit with weights
    ``1 / max(abs(residual), floor)``; the floor is 1e-6 of the target's spread.

    Args:
        pred: Prediction, shape (H, W), any unit.
        target: Target of the same quantity, shape (H, W).
        valid_mask: Pixels to use, shape (H, W).
        num_iterations: Most steps taken; it stops earlier once scale and shift stand still.

    Returns:
        scale: Multiplies `pred`.
        shift: Added after scaling.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If fewer than two pixels are valid.
        InputError: If a prediction that counts is not finite.

    Example:
        >>> pred = np.arange(9.0)
        >>> target = 2.0 * pred + 1.0
        >>> target[4] = 500.0
        >>> scale, shift = fit_scale_shift_l1(pred, target, valid_mask=pred >= 0)
        >>> round(scale, 3), round(shift, 3)
        (2.0, 1.0)
    """
    values, truth = _two_or_more(pred, target, valid_mask)
    return _l1_line(values, truth, num_iterations)


def fit_scale_shift_trimmed(
    pred: FloatArray, target: FloatArray, *, valid_mask: BoolArray, trim: float = 0.2
) -> tuple[float, float]:
    """Fit scale and shift in least squares over the pixels that fit best (least trimmed squares).

    Minimises the sum of the ``(1 - trim)`` share of smallest squared residuals. It starts from the L1 fit and repeats
    "keep the best pixels, fit them" until the kept set stands still, which never raises the objective.

    Args:
        pred: Prediction, shape (H, W), any unit.
        target: Target of the same quantity, shape (H, W).
        valid_mask: Pixels to use, shape (H, W).
        trim: Share of pixels left out, 0 <= trim < 1.

    Returns:
        scale: Multiplies `pred`.
        shift: Added after scaling.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If fewer than two pixels are valid.
        InputError: If a prediction that counts is not finite.
        ConfigError: If `trim` is not in [0, 1).

    Example:
        >>> pred = np.arange(10.0)
        >>> target = 2.0 * pred + 1.0
        >>> target[3], target[8] = 500.0, -40.0
        >>> scale, shift = fit_scale_shift_trimmed(pred, target, valid_mask=pred >= 0)
        >>> round(scale, 6), round(shift, 6)
        (2.0, 1.0)

    Reference:
        Rousseeuw and Van Driessen, "Computing LTS Regression for Large Data Sets", 2006 (concentration steps).
    """
    if not 0 <= trim < 1:
        raise ConfigError(f"`trim` must lie in [0, 1); got {trim}. Use for instance 0.2.")
    values, truth = _two_or_more(pred, target, valid_mask)
    num_kept = max(2, int(np.ceil((1 - trim) * values.size)))
    scale, shift = _l1_line(values, truth, num_iterations=50)
    previous: NDArray[np.intp] | None = None
    for _ in range(20):
        residuals = np.abs(scale * values + shift - truth)
        kept = np.sort(np.argpartition(residuals, num_kept - 1)[:num_kept])
        if previous is not None and np.array_equal(kept, previous):
            break
        scale, shift = _weighted_line(values[kept], truth[kept], np.ones(num_kept))
        previous = kept
    return scale, shift


def align(
    pred: FloatArray,
    target: FloatArray,
    *,
    valid_mask: BoolArray,
    method: Method,
    space: Space,
    max_depth: float,
    min_depth: float = 1e-3,
    kind: DepthKind = DepthKind.METRIC_DEPTH,
) -> Aligned:
    """Fit `pred` to `target` in one space, and return depth in metres, clamped after the fit.

    The fit sees only the valid pixels; it is applied to the whole map. In inverse depth the fitted value is clamped at
    ``1 / max_depth`` before it is inverted, so that a fitted value of 0 or below becomes `max_depth` and every score
    stays finite. Scale-only methods in log space fit the shift of the log, which is a factor of the depth.

    Args:
        pred: Prediction, shape (H, W), of the kind named by `kind`.
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to fit on, shape (H, W).
        method: One of `METHODS`: ``none``; ``median`` (ratio of medians); ``median_of_ratios``;
            ``least_squares_scale``; ``least_squares``, ``trimmed`` and ``l1`` (all three scale and shift).
        space: Where the fit happens: ``depth``, ``inverse_depth`` or ``log`` (natural log of depth).
        max_depth: Upper clamp [m].
        min_depth: Lower clamp [m].
        kind: What `pred` holds; decides how it is brought into `space`, and which fits are legal.

    Returns:
        The depth [m] with the scale and shift used; NaN only where `pred` is NaN outside the mask.

    Raises:
        KindError: If the kind has an unknown shift and `space` is not inverse depth, or if `method` leaves a number
            unfitted that the kind leaves unknown.
        ConfigError: If `method`, `space` or the range is not a known one.
        ShapeError: If the shapes differ.
        EmptyMaskError: If too few pixels are valid.
        InputError: If a prediction that counts is not finite, or not above 0 where its inverse or log is needed.

    Example:
        >>> target = np.array([[1.0, 2.0], [4.0, 8.0]])
        >>> inverse_depth = 3.0 / target - 0.2
        >>> result = align(inverse_depth, target, valid_mask=target > 0, method="least_squares", space="inverse_depth",
        ...                max_depth=10.0, kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
        >>> result.depth.round(6).tolist(), round(result.scale, 6)
        ([[1.0, 2.0], [4.0, 8.0]], 0.333333)

    Reference:
        Ranftl et al., TPAMI 2022 (inverse depth); Ke et al., "Marigold", CVPR 2024 (depth); Zhou et al., CVPR 2017
        (median).
    """
    _check_choice(method, space, kind, min_depth, max_depth)
    if not pred.shape == target.shape == valid_mask.shape:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must have one shape; got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}. Resize the prediction to the target."
        )
    is_inverse = kind in _INVERSE_KINDS
    usable = valid_mask & np.isfinite(target) & (target > 0)
    changes_quantity = space == "log" or is_inverse != (space == "inverse_depth")
    if changes_quantity:
        # Raises for predictions that have no inverse or log, before NumPy would warn about them.
        select_valid(pred, target, usable, positive=True)
    mapped = _to_space(pred.astype(np.float64), is_inverse, space)
    mapped_target = _to_space(np.where(usable, target, 1.0).astype(np.float64), False, space)
    scale, shift = _fit(mapped, mapped_target, usable, method, in_log=space == "log")
    fitted = scale * mapped + shift
    if space == "inverse_depth":
        depth = 1.0 / np.maximum(fitted, 1.0 / max_depth)
    elif space == "log":
        depth = np.exp(np.minimum(fitted, np.log(max_depth)))
    else:
        depth = fitted
    return Aligned(depth=np.clip(depth, min_depth, max_depth), scale=scale, shift=shift)


def _check_choice(method: str, space: str, kind: DepthKind, min_depth: float, max_depth: float) -> None:
    for name, value, known in (("method", method, METHODS), ("space", space, SPACES)):
        if value not in known:
            raise ConfigError(f"Unknown alignment {name} '{value}'. Known: {', '.join(known)}.")
    if not 0 < min_depth < max_depth:
        raise ConfigError(
            f"The clamp needs 0 < min_depth < max_depth; got {min_depth} and {max_depth} m. "
            "Use for instance 1e-3 and 80."
        )
    if kind == DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
        if space != "inverse_depth":
            raise KindError(
                f"{kind.value} has an unknown shift, so it can only be fitted in inverse_depth; got space '{space}'. "
                "Set the space to inverse_depth."
            )
        if method not in _FITS_SHIFT:
            raise KindError(
                f"{kind.value} needs a method that fits a shift ({', '.join(_FITS_SHIFT)}); got '{method}'. "
                "Choose one of them."
            )
    if kind in _UNKNOWN_SCALE_KINDS and method == "none":
        raise KindError(
            f"{kind.value} has no metres before its scale is fitted; got method 'none'. Choose for instance 'median'."
        )


def _to_space(values: NDArray[np.float64], is_inverse: bool, space: str) -> NDArray[np.float64]:
    """Convert depth or inverse depth to the space of the fit; what has no inverse or log (outside the mask) is NaN."""
    if space == "log":
        logs = np.full_like(values, np.nan)
        np.log(values, out=logs, where=values > 0)
        return -logs if is_inverse else logs
    if is_inverse == (space == "inverse_depth"):
        return values
    inverse = np.full_like(values, np.nan)
    np.divide(1.0, values, out=inverse, where=values > 0)
    return inverse


def _fit(
    pred: NDArray[np.float64], target: NDArray[np.float64], usable: BoolArray, method: str, *, in_log: bool
) -> tuple[float, float]:
    if method == "none":
        return 1.0, 0.0
    if method == "least_squares":
        return fit_scale_shift(pred, target, valid_mask=usable)
    if method == "trimmed":
        return fit_scale_shift_trimmed(pred, target, valid_mask=usable)
    if method == "l1":
        return fit_scale_shift_l1(pred, target, valid_mask=usable)
    if in_log:
        values, truth = select_valid(pred, target, usable, positive=False)
        if method == "median":
            return 1.0, float(np.median(truth)) - float(np.median(values))
        differences = truth - values
        return 1.0, float(np.median(differences) if method == "median_of_ratios" else np.mean(differences))
    fit = {
        "median": fit_scale_median,
        "median_of_ratios": fit_scale_median_of_ratios,
        "least_squares_scale": fit_scale,
    }[method]
    return fit(pred, target, valid_mask=usable), 0.0


def _two_or_more(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, truth = select_valid(pred, target, valid_mask, positive=False)
    if values.size < 2:
        raise EmptyMaskError("A scale and a shift need at least two valid pixels; got 1. Skip this image and count it.")
    return values, truth


def _nonzero(value: float, what: str) -> float:
    if value == 0:
        raise InputError(f"A scale cannot be fitted, because {what} is 0. Check that the prediction is not all zero.")
    return value


def _weighted_line(
    values: NDArray[np.float64], truth: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Least-squares line through weighted points, in centred form, which loses fewer digits than raw sums."""
    total = weights.sum()
    mean_value, mean_truth = float(weights @ values / total), float(weights @ truth / total)
    centred = values - mean_value
    variance = float(weights @ centred**2)
    # A spread at the level of rounding is a constant prediction.
    if variance <= total * (1e-14 * (abs(mean_value) + np.finfo(np.float64).tiny)) ** 2:
        return 0.0, mean_truth
    scale = float(weights @ (centred * (truth - mean_truth))) / variance
    return scale, mean_truth - scale * mean_value


def _l1_line(values: NDArray[np.float64], truth: NDArray[np.float64], num_iterations: int) -> tuple[float, float]:
    scale, shift = _weighted_line(values, truth, np.ones_like(values))
    floor = 1e-6 * float(np.abs(truth - np.median(truth)).mean()) + np.finfo(np.float64).tiny
    for _ in range(num_iterations):
        weights = floor / np.maximum(np.abs(scale * values + shift - truth), floor)
        new_scale, new_shift = _weighted_line(values, truth, weights)
        still = abs(new_scale - scale) <= 1e-9 * abs(scale) and abs(new_shift - shift) <= 1e-9 * (abs(shift) + floor)
        scale, shift = new_scale, new_shift
        if still:
            break
    return scale, shift
