"""Resize pictures and maps, with one convention everywhere: the centre of pixel i lies at i + 0.5.

Only NumPy and Pillow, so that training, prediction and an exported graph can agree without a heavy dependency.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Interpolation = Literal["area", "bilinear", "bicubic"]


def _footprints(size_in: int, size_out: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return for each output pixel the input pixels under its footprint and their share, both (size_out, taps)."""
    scale = size_in / size_out
    start = np.arange(size_out)[:, None] * scale
    index = np.floor(start).astype(np.intp) + np.arange(int(np.ceil(scale)) + 1)
    share = np.clip(np.minimum(index + 1, start + scale) - np.maximum(index, start), 0, None) / scale
    return np.minimum(index, size_in - 1), share.astype(np.float32)


def _average_rows(image: npt.NDArray, height: int) -> npt.NDArray[np.float32]:
    """Average the rows of (H, N) under the footprints of `height` output rows."""
    index, share = _footprints(image.shape[0], height)
    out = image[index[:, 0]] * share[:, :1]
    for tap in range(1, index.shape[1]):
        out += image[index[:, tap]] * share[:, tap, None]
    return np.asarray(out, np.float32)


def _average_blocks(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float32]:
    """Average whole blocks of pixels, the footprints of sides that divide, with sums of whole numbers."""
    down, across = image.shape[0] // height, image.shape[1] // width
    lines: npt.NDArray[np.uint8] = image.reshape(height, down, -1)
    # The sum of 257 pixels still fits into 16 bits.
    rows: npt.NDArray[Any] = lines[:, 0].astype(np.uint16 if down * across <= 257 else np.uint32)
    for step in range(1, down):
        rows += lines[:, step]
    blocks = rows.reshape(height, width, across, 3)
    total: npt.NDArray[np.float32] = blocks[:, :, 0].astype(np.float32)
    for step in range(1, across):
        total += blocks[:, :, step]
    return np.asarray(total / np.float32(down * across), np.float32)


def resize_image(
    image: npt.NDArray[np.uint8], height: int, width: int, interpolation: Interpolation = "area"
) -> npt.NDArray[np.float32]:
    """Resize an RGB picture for a network.

    ``"area"`` is the exact mean under each output pixel's footprint along an axis that shrinks (what OpenCV calls
    INTER_AREA) and bilinear along one that grows. ``"bilinear"`` and ``"bicubic"`` (a = -0.5) widen their kernel when
    shrinking, as Pillow and torchvision's antialiased resize do, and round to whole grey levels as they do.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        height: Rows wanted.
        width: Columns wanted.
        interpolation: Which kernel.

    Returns:
        Float32, shape (height, width, 3), on the scale 0 to 255.

    Example:
        >>> image = np.array([[[0, 0, 0], [255, 255, 255], [10, 20, 30]]], np.uint8)
        >>> resize_image(image, 1, 2)[0, :, 0].round(3).tolist()
        [85.0, 91.66699981689453]
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image.astype(np.float32)
    if interpolation != "area":
        kernel = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image).resize((width, height), kernel), np.float32)
    if rows % height == 0 and columns % width == 0:
        return _average_blocks(image, height, width)
    # Grow first, because Pillow works on uint8; where one axis shrinks, its mean is taken afterwards.
    if height > rows or width > columns:
        grown = (max(width, columns), max(height, rows))
        image = np.asarray(Image.fromarray(image).resize(grown, Image.Resampling.BILINEAR))
    out = image.astype(np.float32) if image.shape[0] == height else image
    if image.shape[0] > height:
        out = _average_rows(image.reshape(image.shape[0], -1), height).reshape(height, -1, 3)
    if out.shape[1] > width:
        index, share = _footprints(out.shape[1], width)
        wide, out = out, out[:, index[:, 0]] * share[None, :, :1]
        for tap in range(1, index.shape[1]):
            out += wide[:, index[:, tap]] * share[None, :, tap, None]
    return np.ascontiguousarray(out, np.float32)


def resize_map(values: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Resize a dense map that has no holes, bilinearly; the kernel widens when shrinking.

    Args:
        values: Float32, shape (h, w).
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        Float32, shape (height, width).

    Example:
        >>> resize_map(np.array([[0.0, 1.0]], np.float32), 1, 4).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    if values.shape == (height, width):
        return values
    resized = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized, np.float32)
