"""Steadiness of a depth video.

Align it with one scale and shift for the whole clip first: a fit for each frame hides flicker.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray, select_valid
from fathom.errors import EmptyMaskError, ShapeError


def temporal_change_error(
    frames: Iterable[tuple[FloatArray, FloatArray, BoolArray]],
) -> float:
    """Compare how the depth of each pixel changes from frame to frame with how it truly changes.

    ``mean |(ln p_t - ln p_{t-1}) - (ln g_t - ln g_{t-1})|`` over the pixels valid in both frames, pooled over the clip.
    One scale for the whole clip cancels; a scale of its own for each frame does not. Only two frames are held.

    Args:
        frames: ``pred, target, valid_mask`` of each frame in order, each (H, W); depth [m].

    Returns:
        Mean error, a log ratio: 0.01 is about 1 % flicker.

    Raises:
        EmptyMaskError: If no pixel is valid in two frames that follow each other.
        ShapeError, InputError: As in `fathom.alignment.select_valid`.

    Example:
        >>> truth = np.ones((2, 2))
        >>> clip = [(truth * s, truth, truth > 0) for s in (1.0, 1.1, 1.0)]
        >>> round(temporal_change_error(clip), 6)
        0.09531
    """
    total, num_pixels = 0.0, 0
    for (errors_0, usable_0), (errors_1, usable_1) in itertools.pairwise(_log_errors(*frame) for frame in frames):
        if errors_0.shape != errors_1.shape:
            raise ShapeError(f"Frames must have one size; got {errors_0.shape} and {errors_1.shape}.")
        both = usable_0 & usable_1
        total += float(np.abs(errors_1[both] - errors_0[both]).sum())
        num_pixels += int(np.count_nonzero(both))
    if num_pixels == 0:
        raise EmptyMaskError("No pixel is valid in two frames that follow each other. Skip this clip and count it.")
    return total / num_pixels


def static_flicker(frames: Iterable[tuple[FloatArray, BoolArray]]) -> float:
    """Measure the change of depth under a camera and a scene that stand still, where any change is flicker.

    ``mean |ln p_t - ln p_{t-1}|`` over the pixels valid in both frames.

    Args:
        frames: ``pred, valid_mask`` of each frame in order, each (H, W).

    Returns:
        Mean change, a log ratio.

    Raises:
        As `temporal_change_error`.

    Example:
        >>> depth = np.ones((2, 2))
        >>> static_flicker([(depth, depth > 0), (depth, depth > 0)])
        0.0
    """
    return temporal_change_error((pred, np.ones(pred.shape), valid_mask) for pred, valid_mask in frames)


def scale_wobble(frames: Iterable[tuple[FloatArray, FloatArray, BoolArray]]) -> float:
    """Measure how much the best scale of each frame varies: the standard deviation of ``ln median(g / p)``.

    Args:
        frames: ``pred, target, valid_mask`` of each frame, each (H, W); depth [m].

    Returns:
        Standard deviation over the frames, a log ratio.

    Raises:
        EmptyMaskError: If there is no frame, or one without a valid pixel.
        ShapeError, InputError: As in `fathom.alignment.select_valid`.

    Example:
        >>> truth = np.ones((2, 2))
        >>> round(scale_wobble([(truth, truth, truth > 0), (truth * np.e, truth, truth > 0)]), 6)
        0.5
    """
    scales = []
    for pred, target, valid_mask in frames:
        p, g = select_valid(pred, target, valid_mask, positive=True)
        scales.append(math.log(float(np.median(g / p))))
    if not scales:
        raise EmptyMaskError("At least one frame is needed; got none.")
    return float(np.std(scales))


def _log_errors(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> tuple[NDArray[np.float64], BoolArray]:
    usable = valid_mask & np.isfinite(target) & (target > 0)
    errors = np.zeros(pred.shape)
    if usable.any():
        p, g = select_valid(pred, target, usable, positive=True)
        errors[usable] = np.log(p / g)
    return errors, usable
