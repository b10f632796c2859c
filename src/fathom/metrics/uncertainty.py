"""Whether a predicted uncertainty tells where the depth is wrong: sparsification, likelihood, calibration."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray, select_valid
from fathom.errors import ConfigError

NUM_INTERVALS = 50
_ERROR_NAMES = ("abs_rel", "rmse", "delta1")


class SparsificationScore(NamedTuple):
    """Area between the curve and the oracle's (smaller is better), and gain over random (larger is better)."""

    ause: float
    aurg: float


def sparsification(
    pred: FloatArray,
    target: FloatArray,
    valid_mask: BoolArray,
    *,
    uncertainty: FloatArray,
    error: Literal["abs_rel", "rmse", "delta1"] = "abs_rel",
) -> SparsificationScore:
    """Remove the most uncertain pixels step by step, and compare the error curve with the oracle's and with chance.

    The curve holds the error of the remaining pixels after removing k/50 of them, k = 0 to 49, and 0 for none left.
    The oracle removes by the true error. AUSE is the area between curve and oracle, AURG the area between the constant
    error of random removal and the curve; both by the trapezoidal rule over the removed share.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        uncertainty: Larger means less sure, shape (H, W), any monotone scale.
        error: ``abs_rel``, ``rmse``, or ``delta1`` (share with a ratio of 1.25 or more).

    Returns:
        AUSE and AURG; AUSE is 0 when the uncertainty orders the pixels by their true error.

    Raises:
        ShapeError, EmptyMaskError, InputError: As in `fathom.alignment.select_valid`.
        ConfigError: If `error` is not a known one.

    Example:
        >>> target = np.full((10, 10), 2.0)
        >>> pred = target + np.linspace(0.0, 1.0, 100).reshape(10, 10)
        >>> score = sparsification(pred, target, target > 0, uncertainty=pred - target)
        >>> score.ause, score.aurg > 0
        (0.0, True)

    Reference:
        Ilg et al., "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow", ECCV 2018; Poggi et al., "On
        the Uncertainty of Self-Supervised Monocular Depth Estimation", CVPR 2020 (AURG).
    """
    if error not in _ERROR_NAMES:
        raise ConfigError(f"Unknown error '{error}' for sparsification. Known: {', '.join(_ERROR_NAMES)}.")
    p, g = select_valid(pred, target, valid_mask, positive=True)
    usable = valid_mask & np.isfinite(target) & (target > 0)
    doubt, _ = select_valid(uncertainty, target, usable, positive=False)
    if error == "abs_rel":
        errors = np.abs(p - g) / g
    elif error == "rmse":
        errors = (p - g) ** 2
    else:
        errors = (np.maximum(p / g, g / p) >= 1.25).astype(np.float64)
    curve = _curve(errors, doubt, root=error == "rmse")
    oracle = _curve(errors, errors, root=error == "rmse")
    area = _area(curve)
    return SparsificationScore(ause=area - _area(oracle), aurg=float(curve[0]) - area)


def _area(curve: NDArray[np.float64]) -> float:
    """Trapezoidal rule over the removed share, 0 to 1."""
    return float(np.mean(curve[1:] + curve[:-1])) / 2


def _curve(errors: NDArray[np.float64], doubt: NDArray[np.float64], *, root: bool) -> NDArray[np.float64]:
    sums = np.cumsum(errors[np.argsort(doubt, kind="stable")])
    # At least one pixel stays until the last point, also in a tiny image.
    steps = np.arange(NUM_INTERVALS)
    kept = np.maximum(np.ceil(errors.size * (NUM_INTERVALS - steps) / NUM_INTERVALS).astype(np.int64), 1)
    means = sums[kept - 1] / kept
    return np.append(np.sqrt(means) if root else means, 0.0)


def gaussian_nll(pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, sigma: FloatArray) -> float:
    """Compute the mean negative log likelihood of a Gauss, ``(p - g)^2 / (2 sigma^2) + ln sigma + ln(2 pi) / 2``.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        sigma: Standard deviation [m], shape (H, W), above 0.

    Returns:
        The mean [nats].

    Raises:
        ShapeError, EmptyMaskError, InputError: As in `fathom.alignment.select_valid`.

    Example:
        >>> one = np.ones((1, 1))
        >>> round(gaussian_nll(one, one, one > 0, sigma=one), 6)
        0.918939
    """
    p, g, s = _with_sigma(pred, target, valid_mask, sigma)
    return float(np.mean(0.5 * ((p - g) / s) ** 2 + np.log(s))) + 0.5 * math.log(2 * math.pi)


def laplace_nll(pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, scale: FloatArray) -> float:
    """Compute the mean negative log likelihood of a Laplace, ``|p - g| / b + ln(2 b)``, with b = `scale` [m].

    Arguments and errors as in `gaussian_nll`.

    Example:
        >>> one = np.ones((1, 1))
        >>> round(laplace_nll(one, one, one > 0, scale=one), 6)
        0.693147
    """
    p, g, b = _with_sigma(pred, target, valid_mask, scale)
    return float(np.mean(np.abs(p - g) / b + np.log(2 * b)))


def calibration_error(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, sigma: FloatArray, num_levels: int = 10
) -> float:
    """Compare how often the truth lies in the central Gauss interval with how often it should.

    For the levels ``q = 1/(L+1), ..., L/(L+1)`` it computes the share of pixels whose target lies within the central
    interval of probability q, and returns the mean of ``|share - q|``. Arguments and errors as in `gaussian_nll`.

    Example:
        >>> one = np.ones((1, 1))
        >>> round(calibration_error(one, one, one > 0, sigma=one, num_levels=1), 6)
        0.5

    Reference:
        Kuleshov et al., "Accurate Uncertainties for Deep Learning Using Calibrated Regression", ICML 2018.
    """
    p, g, s = _with_sigma(pred, target, valid_mask, sigma)
    deviations = np.sort(np.abs(p - g) / s)
    levels = np.arange(1, num_levels + 1) / (num_levels + 1)
    # The probability of |z| <= x is erf(x / sqrt(2)); comparing in probability needs no inverse of erf.
    probabilities = np.array([math.erf(z / math.sqrt(2)) for z in deviations])
    shares = np.searchsorted(probabilities, levels, side="right") / deviations.size
    return float(np.mean(np.abs(shares - levels)))


def _with_sigma(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray, sigma: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    p, g = select_valid(pred, target, valid_mask, positive=True)
    usable = valid_mask & np.isfinite(target) & (target > 0)
    s, _ = select_valid(sigma, target, usable, positive=True)
    return p, g, s
