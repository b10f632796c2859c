"""Depth metrics, in NumPy float64: one short function each, and all of them at once for a whole image.

Notation: ``p`` prediction, ``g`` target, ``d = ln p - ln g``; means run over the valid pixels.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray, select_valid
from fathom.errors import ConfigError, EmptyMaskError

LN_10 = math.log(10.0)
DELTA_BASE = 1.25

Score = TypeVar("Score")


@dataclass(frozen=True)
class SilogVariant:
    """One of the scale-invariant log errors that papers call "silog".

    The value is ``scale * sqrt(mean(d**2) - mean_weight * mean(d)**2)``, without the root where `root` is False. With
    `unbiased` the spread is divided by n - 1: ``scale * sqrt(var(d) + (1 - mean_weight) * mean(d)**2)``.

    Attributes:
        mean_weight: Weight of the squared mean (lambda); 1 is fully scale invariant.
        scale: Factor of the result.
        root: Whether the square root is taken.
        unbiased: Whether the variance divides by n - 1.
    """

    mean_weight: float
    scale: float
    root: bool
    unbiased: bool = False

    def value(self, mean: float, mean_square: float, num_pixels: int) -> float:
        """Compute the error from ``mean(d)``, ``mean(d**2)`` and the number of pixels."""
        spread = max(mean_square - mean * mean, 0.0)
        if self.unbiased:
            if num_pixels < 2:
                raise EmptyMaskError("An unbiased variance needs at least two valid pixels; got 1. Skip this image.")
            spread *= num_pixels / (num_pixels - 1)
        inside = spread + (1.0 - self.mean_weight) * mean * mean
        return self.scale * (math.sqrt(inside) if self.root else inside)


SILOG_VARIANTS: dict[str, SilogVariant] = {
    "kitti": SilogVariant(mean_weight=1.0, scale=100.0, root=True),
    "eigen2014": SilogVariant(mean_weight=0.5, scale=1.0, root=False),
    "bts": SilogVariant(mean_weight=0.85, scale=10.0, root=True),
    "adabins": SilogVariant(mean_weight=0.85, scale=10.0, root=True, unbiased=True),
    "depth_anything": SilogVariant(mean_weight=0.5, scale=1.0, root=True),
}


def abs_rel(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute the mean relative error, ``mean(|p - g| / g)``.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W); not finite or not above 0 is never scored.
        valid_mask: Pixels to score, shape (H, W).

    Returns:
        The error, a share.

    Raises:
        ShapeError, EmptyMaskError, InputError: As in `fathom.alignment.select_valid`; so do all functions here.

    Example:
        >>> pred, target = np.array([1.1, 1.8, 5.0, 8.0]), np.array([1.0, 2.0, 4.0, 8.0])
        >>> round(abs_rel(pred, target, target > 0), 6)
        0.1125
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean(np.abs(p - g) / g))


def sq_rel(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``mean((p - g)**2 / g)`` [m]: divided by g, not by its square. Arguments as in `abs_rel`."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean((p - g) ** 2 / g))


def mse(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``mean((p - g)**2)`` [m^2]. Arguments as in `abs_rel`."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean((p - g) ** 2))


def rmse(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``sqrt(mean((p - g)**2))`` [m] of one image; the root of a pooled mean is another number."""
    return math.sqrt(mse(pred, target, valid_mask))


def mae(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``mean(|p - g|)`` [m]. Arguments as in `abs_rel`."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean(np.abs(p - g)))


def median_ae(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``median(|p - g|)`` [m]; an even count takes the middle of the two. Arguments as in `abs_rel`."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.median(np.abs(p - g)))


def rmse_log(pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, base: Literal["e", "10"] = "e") -> float:
    """Compute ``sqrt(mean((log p - log g)**2))``, natural log unless `base` is "10" (one Make3D code)."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return math.sqrt(float(np.mean(np.log(p / g) ** 2))) / _log_divisor(base)


def log10(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``mean(|log10 p - log10 g|)``. Arguments as in `abs_rel`."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean(np.abs(np.log10(p) - np.log10(g))))


def silog(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, variant: SilogVariant = SILOG_VARIANTS["kitti"]
) -> float:
    """Compute the scale-invariant log error; KITTI's ``100 * sqrt(mean(d**2) - mean(d)**2)`` unless told otherwise.

    Example:
        >>> pred, target = np.array([1.1, 1.8, 5.0, 8.0]), np.array([1.0, 2.0, 4.0, 8.0])
        >>> round(silog(pred, target, target > 0), 5)
        12.10638
        >>> round(silog(pred, target, target > 0, variant=SILOG_VARIANTS["bts"]), 6)
        1.228094
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    d = np.log(p / g)
    return variant.value(float(d.mean()), float(np.mean(d * d)), d.size)


def delta(pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, power: int = 1) -> float:
    """Compute the share of pixels with ``max(p/g, g/p) < 1.25**power``; a ratio of exactly 1.25 does not count.

    Example:
        >>> pred, target = np.array([5.0, 1.0]), np.array([4.0, 1.0])
        >>> delta(pred, target, target > 0)
        0.5
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean(np.maximum(p / g, g / p) < DELTA_BASE**power))


def irmse(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``sqrt(mean((1/p - 1/g)**2))`` [1/m]; KITTI prints 1/km, 1000 times as much."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return math.sqrt(float(np.mean((1 / p - 1 / g) ** 2)))


def imae(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute ``mean(|1/p - 1/g|)`` [1/m]; KITTI prints 1/km, 1000 times as much."""
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return float(np.mean(np.abs(1 / p - 1 / g)))


def d1(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> float:
    """Compute the share of disparity outliers: error at least 3 px and at least 5 % of the target.

    Args:
        pred: Disparity [px] at the target's resolution, shape (H, W).
        target: Disparity [px], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).

    Returns:
        A share; tables print per cent.

    Example:
        >>> pred, target = np.array([13.0, 12.9, 103.0]), np.array([10.0, 10.0, 100.0])
        >>> round(d1(pred, target, target > 0), 6)
        0.333333

    Reference:
        Menze and Geiger, CVPR 2015; the inclusive comparison is that of Godard et al., CVPR 2017.
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    error = np.abs(p - g)
    return float(np.mean((error >= 3.0) & (error >= 0.05 * g)))


@dataclass(frozen=True)
class DepthSums:
    """Sums over the valid pixels of one image, or of many added up: all that the usual metrics need.

    Attributes:
        num_pixels: Number of pixels summed.
        abs_rel: Sum of ``|p - g| / g``.
        sq_rel: Sum of ``(p - g)**2 / g``.
        abs_error: Sum of ``|p - g|``.
        sq_error: Sum of ``(p - g)**2``.
        log_error: Sum of ``d``.
        abs_log_error: Sum of ``|d|``.
        sq_log_error: Sum of ``d**2``.
        abs_inverse_error: Sum of ``|1/p - 1/g|``.
        sq_inverse_error: Sum of ``(1/p - 1/g)**2``.
        num_within_1: Pixels with a ratio below 1.25.
        num_within_2: Pixels with a ratio below 1.25**2.
        num_within_3: Pixels with a ratio below 1.25**3.
    """

    num_pixels: int
    abs_rel: float
    sq_rel: float
    abs_error: float
    sq_error: float
    log_error: float
    abs_log_error: float
    sq_log_error: float
    abs_inverse_error: float
    sq_inverse_error: float
    num_within_1: int
    num_within_2: int
    num_within_3: int

    def __add__(self, other: "DepthSums") -> "DepthSums":
        return DepthSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scores(
        self, *, silog_variant: SilogVariant = SILOG_VARIANTS["kitti"], rmse_log_base: Literal["e", "10"] = "e"
    ) -> dict[str, float]:
        """Turn the sums into named scores (those of `score_depth` without ``median_ae``, which is no sum)."""
        n = self.num_pixels
        return {
            "abs_rel": self.abs_rel / n,
            "sq_rel": self.sq_rel / n,
            "rmse": math.sqrt(self.sq_error / n),
            "rmse_log": math.sqrt(self.sq_log_error / n) / _log_divisor(rmse_log_base),
            "log10": self.abs_log_error / n / LN_10,
            "silog": silog_variant.value(self.log_error / n, self.sq_log_error / n, n),
            "delta1": self.num_within_1 / n,
            "delta2": self.num_within_2 / n,
            "delta3": self.num_within_3 / n,
            "mae": self.abs_error / n,
            "mse": self.sq_error / n,
            "irmse": math.sqrt(self.sq_inverse_error / n),
            "imae": self.abs_inverse_error / n,
        }


# Pixels handled at a time: the handful of float64 temporaries then stays in the processor's cache.
_CHUNK = 16384


def depth_sums(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> DepthSums:
    """Sum what the depth metrics need over the valid pixels of one image. Arguments and errors as in `abs_rel`.

    Sums of several images add up with ``+``; that is how pooled averages are made.
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    return _sums(p, g)


def _sums(p: NDArray[np.float64], g: NDArray[np.float64]) -> DepthSums:
    totals = np.zeros(9)
    within = [0, 0, 0]
    for start in range(0, p.size, _CHUNK):
        pc, gc = p[start : start + _CHUNK], g[start : start + _CHUNK]
        error = np.abs(pc - gc)
        ratio = pc / gc
        relative = error / gc
        d = np.log(ratio)
        inverse_error = relative / pc  # |1/p - 1/g| = |p - g| / (p g)
        totals += (
            relative.sum(),
            relative @ error,
            error.sum(),
            error @ error,
            d.sum(),
            np.abs(d).sum(),
            d @ d,
            inverse_error.sum(),
            inverse_error @ inverse_error,
        )
        # g/p is divided anew: 1/(p/g) could round to the other side of a threshold.
        worst = np.maximum(ratio, gc / pc)
        for index in range(3):
            within[index] += int(np.count_nonzero(worst < DELTA_BASE ** (index + 1)))
    sum_relative, sq_relative, absolute, squared, log_, abs_log, sq_log, inverse, sq_inverse = totals.tolist()
    return DepthSums(
        num_pixels=p.size,
        abs_rel=sum_relative,
        sq_rel=sq_relative,
        abs_error=absolute,
        sq_error=squared,
        log_error=log_,
        abs_log_error=abs_log,
        sq_log_error=sq_log,
        abs_inverse_error=inverse,
        sq_inverse_error=sq_inverse,
        num_within_1=within[0],
        num_within_2=within[1],
        num_within_3=within[2],
    )


def score_depth(
    pred: FloatArray,
    target: FloatArray,
    valid_mask: BoolArray,
    *,
    silog_variant: SilogVariant = SILOG_VARIANTS["kitti"],
    rmse_log_base: Literal["e", "10"] = "e",
) -> dict[str, float]:
    """Compute all usual depth metrics of one image in one pass.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W); not finite or not above 0 is never scored.
        valid_mask: Pixels to score, shape (H, W).
        silog_variant: Which scale-invariant log error ``silog`` is.
        rmse_log_base: Base of the logarithm of ``rmse_log``.

    Returns:
        Scores by name, in a fixed order: abs_rel, sq_rel, rmse, rmse_log, log10, silog, delta1, delta2, delta3, mae,
        mse, irmse, imae, median_ae. Equal to the functions of this module to rounding.

    Raises:
        ShapeError, EmptyMaskError, InputError: As in `fathom.alignment.select_valid`.

    Example:
        >>> pred, target = np.array([1.1, 1.8, 5.0, 8.0]), np.array([1.0, 2.0, 4.0, 8.0])
        >>> scores = score_depth(pred, target, target > 0)
        >>> round(scores["abs_rel"], 6), scores["delta1"], round(scores["rmse"], 6)
        (0.1125, 0.75, 0.512348)
    """
    p, g = select_valid(pred, target, valid_mask, positive=True)
    scores = _sums(p, g).scores(silog_variant=silog_variant, rmse_log_base=rmse_log_base)
    np.subtract(p, g, out=p)
    np.abs(p, out=p)
    scores["median_ae"] = _median_in_place(p)
    return scores


def _median_in_place(values: NDArray[np.float64]) -> float:
    """Median of finite values, twice as fast as np.median, which also sorts out the largest to look for NaN."""
    middle = values.size // 2
    values.partition(middle)
    upper = float(values[middle])
    return upper if values.size % 2 else 0.5 * (upper + float(values[:middle].max()))


def average_per_image(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average scores image by image: every image counts the same, whatever its number of valid pixels.

    Args:
        scores: One dict for each scored image, all with the same names.

    Returns:
        The mean of each score.

    Raises:
        EmptyMaskError: If no image was scored.

    Example:
        >>> average_per_image([{"rmse": 1.0}, {"rmse": 3.0}])
        {'rmse': 2.0}
    """
    if not scores:
        raise EmptyMaskError("At least one scored image is needed; got none. Check the masks and the crop.")
    return {name: math.fsum(image[name] for image in scores) / len(scores) for name in scores[0]}


def average_pooled(
    sums: Iterable[DepthSums],
    *,
    silog_variant: SilogVariant = SILOG_VARIANTS["kitti"],
    rmse_log_base: Literal["e", "10"] = "e",
) -> dict[str, float]:
    """Average over all valid pixels of all images at once: every pixel counts the same.

    The median error is left out, since medians of images do not combine.

    Args:
        sums: `depth_sums` of each scored image.
        silog_variant: Which scale-invariant log error ``silog`` is.
        rmse_log_base: Base of the logarithm of ``rmse_log``.

    Returns:
        Scores by name, as from `DepthSums.scores`.

    Raises:
        EmptyMaskError: If no image was scored.

    Example:
        >>> one, two = np.array([1.0]), np.array([2.0, 2.0, 2.0])
        >>> near = depth_sums(one, one, one > 0)
        >>> far = depth_sums(two, two + 2.0, two > 0)
        >>> average_pooled([near, far])["mse"]
        3.0
    """
    total: DepthSums | None = None
    for image in sums:
        total = image if total is None else total + image
    if total is None:
        raise EmptyMaskError("At least one scored image is needed; got none. Check the masks and the crop.")
    return total.scores(silog_variant=silog_variant, rmse_log_base=rmse_log_base)


def by_range(
    score: Callable[[FloatArray, FloatArray, BoolArray], Score],
    pred: FloatArray,
    target: FloatArray,
    valid_mask: BoolArray,
    *,
    edges: Sequence[float],
) -> dict[tuple[float, float], Score]:
    """Compute any metric for each distance range of the target.

    Args:
        score: A function of ``pred, target, valid_mask``.
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        edges: Increasing distances [m]; range i holds ``edges[i] <= target < edges[i + 1]``.

    Returns:
        The score of each range by its (from, to); a range without a valid pixel is absent.

    Raises:
        ConfigError: If the edges do not increase.

    Example:
        >>> pred, target = np.array([1.0, 3.0, 6.0]), np.array([1.0, 4.0, 5.0])
        >>> by_range(mae, pred, target, target > 0, edges=(0.0, 2.0, 10.0, 20.0))
        {(0.0, 2.0): 0.0, (2.0, 10.0): 1.0}
    """
    if len(edges) < 2 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ConfigError(f"Range edges must be at least two increasing distances; got {list(edges)}. Sort them.")
    result: dict[tuple[float, float], Score] = {}
    for low, high in itertools.pairwise(edges):
        inside = valid_mask & np.isfinite(target) & (target > 0) & (target >= low) & (target < high)
        if inside.any():
            result[low, high] = score(pred, target, inside)
    return result


def _log_divisor(base: str) -> float:
    if base not in ("e", "10"):
        raise ConfigError(f"The base of rmse_log must be 'e' or '10'; got {base!r}.")
    return 1.0 if base == "e" else LN_10
