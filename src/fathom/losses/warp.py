"""Horizontal inverse warping, which the stereo losses need."""

from typing import Literal

import torch
from torch import Tensor

from fathom.errors import ShapeError


def sample_horizontal(image: Tensor, shift_px: Tensor, *, padding: Literal["border", "zeros"] = "border") -> Tensor:
    """Read an image at ``x + shift`` on each row, linearly between pixels: ``out(x, y) = image(x + shift(x, y), y)``.

    For a rectified pair, ``left(x) = right(x - d)`` and ``right(x) = left(x + d)``. Differentiable in both arguments.

    Args:
        image: Shape (B, C, H, W).
        shift_px: Shift [px] of this resolution, shape (B, 1, H, W), finite.
        padding: Beyond the image, ``border`` repeats its outermost column, ``zeros`` reads 0.

    Returns:
        Shape (B, C, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> ramp = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> sample_horizontal(ramp, torch.full((1, 1, 1, 4), -0.5)).tolist()
        [[[[0.0, 0.5, 1.5, 2.5]]]]
    """
    if image.ndim != 4 or shift_px.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ShapeError(
            f"`image` must be (B, C, H, W) and `shift_px` (B, 1, H, W); got {tuple(image.shape)} and "
            f"{tuple(shift_px.shape)}."
        )
    width = image.shape[-1]
    x = torch.arange(width, device=image.device, dtype=shift_px.dtype) + shift_px
    if padding == "border":
        x = x.clamp(0, width - 1)
    floor = x.detach().floor()
    fraction = x - floor
    return _column(image, floor, padding) * (1 - fraction) + _column(image, floor + 1, padding) * fraction


def _column(image: Tensor, x: Tensor, padding: str) -> Tensor:
    """Read whole columns x, shape (B, 1, H, W)."""
    width = image.shape[-1]
    index = x.clamp(0, width - 1).long().expand_as(image)
    values = image.gather(-1, index)
    return values if padding == "border" else torch.where((x >= 0) & (x <= width - 1), values, 0.0)
