"""Structural similarity of depth maps, in NumPy float64."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError


def ssim(
    pred: FloatArray,
    target: FloatArray,
    valid_mask: BoolArray,
    *,
    data_range: float,
    window: Literal["gaussian", "uniform"] = "gaussian",
) -> float:
    """Compute the structural similarity of two depth maps, with a stated data range.

    ``S = (2 m_p m_g + C1)(2 s_pg + C2) / ((m_p^2 + m_g^2 + C1)(s_p^2 + s_g^2 + C2))`` with local means m and
    (population) variances s, ``C1 = (0.01 L)^2`` and ``C2 = (0.03 L)^2``, averaged over the windows that lie inside
    the image and hold no invalid pixel.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        data_range: L, for instance the largest depth of the protocol [m]. It sets the constants, so scores with
            different ranges do not compare.
        window: ``gaussian`` (11 x 11, sigma 1.5) or ``uniform`` (7 x 7).

    Returns:
        Mean similarity; 1 for identical maps.

    Raises:
        EmptyMaskError: If no window is valid throughout.

    Example:
        >>> depth = np.linspace(1.0, 2.0, 144).reshape(12, 12)
        >>> round(ssim(depth, depth, depth > 0, data_range=10.0), 9)
        1.0

    Reference:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004.
    """
    if not pred.shape == target.shape == valid_mask.shape or pred.ndim != 2:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must have one shape (H, W); got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}. Resize the prediction to the target."
        )
    usable = valid_mask & np.isfinite(target)
    if not np.isfinite(pred[usable]).all():
        raise InputError("`pred` must be finite wherever `valid_mask` is True. Clamp it, or mask these pixels out.")
    taps = ssim_taps(window)
    if min(pred.shape) < taps.size:
        raise EmptyMaskError(f"SSIM needs at least {taps.size} x {taps.size} pixels; got {pred.shape}.")
    p, g = np.where(usable, pred, 0.0).astype(np.float64), np.where(usable, target, 0.0).astype(np.float64)
    mean_p, mean_g = _filter_valid(p, taps), _filter_valid(g, taps)
    var_p = _filter_valid(p * p, taps) - mean_p**2
    var_g = _filter_valid(g * g, taps) - mean_g**2
    covariance = _filter_valid(p * g, taps) - mean_p * mean_g
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_p * mean_g + c1) * (2 * covariance + c2)) / (
        (mean_p**2 + mean_g**2 + c1) * (var_p + var_g + c2)
    )
    whole = _filter_valid((~usable).astype(np.float64), np.ones(taps.size)) < 0.5
    if not whole.any():
        raise EmptyMaskError(
            f"SSIM needs one {taps.size} x {taps.size} window without an invalid pixel; there is none. "
            "Use a dense target, or leave SSIM out."
        )
    return float(similarity[whole].mean())


def ssim_taps(window: str) -> NDArray[np.float64]:
    """Return the one-dimensional window of `ssim`, normalised to 1."""
    if window == "gaussian":
        taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    elif window == "uniform":
        taps = np.ones(7)
    else:
        raise ConfigError(f"Unknown SSIM window '{window}'. Known: gaussian, uniform.")
    normalised: NDArray[np.float64] = taps / taps.sum()
    return normalised


def _filter_valid(values: NDArray[np.float64], taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter rows and columns with `taps`, keeping only windows that lie inside; shape (H - n + 1, W - n + 1)."""
    height, width = values.shape[0] - taps.size + 1, values.shape[1] - taps.size + 1
    rows = np.zeros((height, values.shape[1]))
    for offset, tap in enumerate(taps):
        rows += tap * values[offset : offset + height]
    result = np.zeros((height, width))
    for offset, tap in enumerate(taps):
        result += tap * rows[:, offset : offset + width]
    return result
