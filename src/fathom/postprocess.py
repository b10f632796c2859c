"""Improve a prediction after the network: test-time augmentation, smoothing, hole filling, edge-aware up-sampling.

All are pure functions over `Depth`; those that run the network take any callable from an image to a `Depth`. Maps are
smoothed in their own quantity and keep their kind. Pixels that are not valid never enter a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import fit_scale_median, fit_scale_shift
from fathom.errors import ConfigError, ShapeError
from fathom.geometry import resize_image, resize_map
from fathom.types import Depth, DepthKind, InvalidReason

RgbImage = NDArray[np.uint8]
FloatMap = NDArray[np.float64]
Predict = Callable[[RgbImage], Depth]

_DEPTH_KINDS = (DepthKind.METRIC_DEPTH, DepthKind.SCALE_INVARIANT_DEPTH)

RAMP_END, RAMP_WIDTH = 0.10, 0.05
"""Share of the width where monodepth's border ramp has run out, and over which it falls."""


def predict_flipped(predict: Predict, image: RgbImage, *, border_blend: bool = False) -> Depth:
    """Predict a picture and its mirror image, and combine the two.

    Args:
        predict: Callable from an image to a `Depth` of the same size.
        image: RGB, uint8, shape (H, W, 3).
        border_blend: Combine as monodepth does (`blend_borders`), in inverse depth, instead of taking the mean of the
            maps as they are.

    Returns:
        The combined map, of the kind that `predict` gives.

    Raises:
        ShapeError: If `predict` changes the size.

    Example:
        >>> def predict(image):
        ...     return Depth(np.arange(1.0, 5.0)[None], DepthKind.METRIC_DEPTH)  # depends on the column, wrongly
        >>> predict_flipped(predict, np.zeros((1, 4, 3), np.uint8)).values.tolist()
        [[2.5, 2.5, 2.5, 2.5]]

    Reference:
        Godard et al., "Unsupervised Monocular Depth Estimation with Left-Right Consistency", CVPR 2017, section 4;
        Bhat et al., "AdaBins", CVPR 2021, evaluation code (mean).
    """
    plain = predict(image)
    mirrored = predict(np.ascontiguousarray(image[:, ::-1]))
    if (plain.height, plain.width) != (mirrored.height, mirrored.width):
        raise ShapeError(
            f"Both passes must have one size; got {(plain.height, plain.width)} and "
            f"{(mirrored.height, mirrored.width)}. Let `predict` return maps at the size of its picture."
        )
    one, two = _with_nan(plain), _with_nan(mirrored)[:, ::-1]
    if border_blend:
        if plain.kind in _DEPTH_KINDS:
            return _rebuilt(plain, 1.0 / _either(blend_borders(1.0 / one, 1.0 / two), 1.0 / one, 1.0 / two))
        return _rebuilt(plain, _either(blend_borders(one, two), one, two))
    return _rebuilt(plain, _either(0.5 * (one + two), one, two))


def predict_at_scales(predict: Predict, image: RgbImage, scales: Sequence[float]) -> Depth:
    """Predict a picture at several sizes and take the mean.

    Maps without metres (a disparity counts pixels of the resized picture) are first fitted to that of the first size:
    in least squares (scale and shift) where the shift is unknown too, else by the ratio of medians.

    Args:
        predict: Callable from an image to a `Depth` of the same size.
        image: RGB, uint8, shape (H, W, 3).
        scales: Factors of the size of the picture.

    Returns:
        The mean at the size of `image`, of the kind that `predict` gives.

    Raises:
        ConfigError: If no scale is given, or one is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ConfigError(f"`scales` must be one or more positive factors; got {list(scales)}. Use for instance [1.0].")
    height, width = image.shape[:2]
    maps: list[FloatMap] = []
    first: Depth | None = None
    for scale in scales:
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        sized = image
        if (rows, columns) != (height, width):
            sized = np.rint(resize_image(image, rows, columns)).astype(np.uint8)
        depth = predict(sized)
        values = _resized(_with_nan(depth), height, width)
        if first is None:
            first = depth
        elif first.kind not in (DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH):
            both = np.isfinite(values) & np.isfinite(maps[0])
            if first.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
                factor, shift = fit_scale_shift(values, maps[0], valid_mask=both)
            else:
                factor, shift = fit_scale_median(values, maps[0], valid_mask=both), 0.0
            values = factor * values + shift
        maps.append(values)
    assert first is not None, "there is at least one scale"
    stack = np.stack(maps)
    has = np.isfinite(stack)
    count = has.sum(axis=0)
    mean = np.where(has, stack, 0.0).sum(axis=0) / np.maximum(count, 1)
    return _rebuilt(first, np.where(count > 0, mean, np.nan))


def blend_borders(plain: FloatMap, unmirrored: FloatMap) -> FloatMap:
    """Blend two disparity maps as monodepth does: their mean, but at each side border the map that sees it.

    With x from 0 to 1 across the columns, the weight of `unmirrored` on the left is ``1 - clip(20 (x - 0.05), 0, 1)``:
    1 up to 5 % of the width, 0 from 10 %. The right side mirrors it for `plain`.

    Args:
        plain: Disparity or inverse depth of the picture, shape (H, W).
        unmirrored: That of the mirrored picture, mirrored back, shape (H, W).

    Returns:
        The blend, shape (H, W).

    Example:
        >>> blend_borders(np.ones((1, 21)), np.full((1, 21), 3.0))[0, [0, 1, 2, 10, 20]].round(6).tolist()
        [3.0, 3.0, 2.0, 2.0, 1.0]

    Reference:
        Godard et al., CVPR 2017, section 4 ("post-processing").
    """
    if plain.shape != unmirrored.shape:
        raise ShapeError(f"Both maps must have one shape; got {plain.shape} and {unmirrored.shape}.")
    x = np.linspace(0.0, 1.0, plain.shape[1])
    left = 1.0 - np.clip((x - (RAMP_END - RAMP_WIDTH)) / RAMP_WIDTH, 0.0, 1.0)
    right = left[::-1]
    return right * plain + left * unmirrored + (1.0 - left - right) * 0.5 * (plain + unmirrored)


def smooth_median(depth: Depth, *, radius: int = 2) -> Depth:
    """Replace each pixel by the median of the valid pixels in a square around it.

    Removes speckle and keeps straight edges. An even count takes the mean of the two middle values.

    Args:
        depth: The map.
        radius: Half the side of the square [px].

    Returns:
        The smoothed map; pixels that were not valid stay so.

    Raises:
        ConfigError: If the radius is not at least 1.

    Example:
        >>> depth = Depth(np.array([[1.0, 1.0, 9.0, 1.0, 1.0]]), DepthKind.METRIC_DEPTH)
        >>> smooth_median(depth, radius=1).values.tolist()
        [[1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    _check_radius(radius)
    values = _with_nan(depth).astype(np.float32)
    # Sorting puts NaN last, so the valid values are the first `count` of each stack.
    stack = np.sort(np.stack([moved for _, moved in _shifts(values, radius, np.nan)]), axis=0)
    count = np.isfinite(stack).sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(stack) - 1)
    middle = 0.5 * (np.take_along_axis(stack, low[None], 0)[0] + np.take_along_axis(stack, high[None], 0)[0])
    return _rebuilt(depth, np.where(depth.valid_mask, middle, np.nan))


def smooth_bilateral(depth: Depth, *, radius: int = 3, sigma_space: float = 2.0, sigma_value: float = 0.05) -> Depth:
    """Average neighbours that are near and alike, so that edges stay.

    Weights are ``exp(-distance**2 / (2 sigma_space**2)) * exp(-difference**2 / (2 sigma_value**2))``; differences are
    relative to the span of the valid values (5th to 95th percentile).

    Args:
        depth: The map.
        radius: Half the side of the window [px].
        sigma_space: Falloff with distance [px].
        sigma_value: Falloff with difference, a share of the span.

    Returns:
        The smoothed map; pixels that were not valid stay so.

    Raises:
        ConfigError: If a parameter is not positive.

    Reference:
        Tomasi and Manduchi, "Bilateral Filtering for Gray and Color Images", ICCV 1998.
    """
    values = _with_nan(depth)
    guide = np.where(depth.valid_mask, values, 0.0) / _span(values)
    return _joint(depth, guide[..., None], radius, sigma_space, sigma_value)


def smooth_joint_bilateral(
    depth: Depth, image: RgbImage, *, radius: int = 4, sigma_space: float = 3.0, sigma_color: float = 0.1
) -> Depth:
    """Average neighbours that are near and have a similar colour in the picture.

    Args:
        depth: The map.
        image: RGB, uint8, of the same height and width.
        radius: Half the side of the window [px].
        sigma_space: Falloff with distance [px].
        sigma_color: Falloff with the colour distance; black to white in one channel is 1.

    Returns:
        The smoothed map; pixels that were not valid stay so.

    Raises:
        ConfigError: If a parameter is not positive.
        ShapeError: If picture and map differ in size.

    Reference:
        Petschnigg et al., "Digital Photography with Flash and No-Flash Image Pairs", SIGGRAPH 2004.
    """
    _check_image(depth, image)
    return _joint(depth, image.astype(np.float32) / np.float32(255), radius, sigma_space, sigma_color)


def smooth_guided(depth: Depth, image: RgbImage, *, radius: int = 8, epsilon: float = 1e-3) -> Depth:
    """Smooth a map with the guided filter: locally, the result is a linear function of the picture's brightness.

    Args:
        depth: The map.
        image: RGB, uint8, of the same height and width.
        radius: Half the side of the window [px].
        epsilon: Variance of the brightness (0 to 1) below which a window counts as flat and is averaged.

    Returns:
        The smoothed map; pixels that were not valid stay so.

    Raises:
        ConfigError: If a parameter is not positive.
        ShapeError: If picture and map differ in size.

    Reference:
        He et al., "Guided Image Filtering", TPAMI 2013, section 3.
    """
    _check_image(depth, image)
    guide = _brightness(image)
    slope, offset = _guided_coefficients(_with_nan(depth), guide, radius, epsilon)
    return _limited(depth, np.where(depth.valid_mask, slope * guide + offset, np.nan))


def upsample_guided(depth: Depth, image: RgbImage, *, radius: int = 4, epsilon: float = 1e-4) -> Depth:
    """Enlarge a map to the size of its picture, with edges where the picture has them.

    The guided filter's coefficients are found at the size of the map and applied at the size of the picture.

    Args:
        depth: The map, smaller than the picture.
        image: RGB, uint8, shape (H, W, 3).
        radius: Half the side of the window, in pixels of the small map.
        epsilon: As in `smooth_guided`.

    Returns:
        The map at (H, W). Every pixel whose window holds a valid one is valid; values stay within the range of `depth`.

    Raises:
        ConfigError: If a parameter is not positive.

    Reference:
        He and Sun, "Fast Guided Filter", 2015.
    """
    height, width = image.shape[:2]
    guide = _brightness(image)
    small = _brightness(np.rint(resize_image(image, depth.height, depth.width)).astype(np.uint8))
    slope, offset = _guided_coefficients(_with_nan(depth), small, radius, epsilon)
    values = _resized(slope, height, width) * guide + _resized(offset, height, width)
    grown = _limited(depth, values)
    camera = depth.camera and depth.camera.scaled(width / depth.width, height / depth.height)
    return replace(grown, camera=camera)


def fill_holes(depth: Depth) -> Depth:
    """Fill pixels without a value smoothly from around them, at coarser and coarser sizes.

    Each level halves the map, averaging valid pixels only, until no hole is left; going back, holes take the enlarged
    coarser level. Values stay within the range of the valid ones. Sky stays without a value.

    Args:
        depth: The map.

    Returns:
        The filled map; unchanged where no pixel is valid.

    Example:
        >>> depth = Depth(np.array([[2.0, np.nan, 4.0]]), DepthKind.METRIC_DEPTH)
        >>> bool(2.0 <= fill_holes(depth).values[0, 1] <= 4.0)
        True

    Reference:
        Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4 (pull-push).
    """
    values = _with_nan(depth)
    if not depth.valid_mask.any() or depth.valid_mask.all():
        return depth
    filled = _limited(depth, _push_pull(values))
    is_sky = depth.invalid_reason == InvalidReason.SKY
    if not is_sky.any():
        return filled
    reason = np.where(is_sky, np.uint8(InvalidReason.SKY), filled.invalid_reason)
    return replace(filled, valid_mask=filled.valid_mask & ~is_sky, invalid_reason=reason)


def _push_pull(values: FloatMap) -> FloatMap:
    hole = np.isnan(values)
    if not hole.any() or values.size == 1:
        return values
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2)
    has = np.isfinite(blocks)
    count = has.sum(axis=(1, 3))
    mean = np.where(has, blocks, 0.0).sum(axis=(1, 3)) / np.maximum(count, 1)
    coarse = _push_pull(np.where(count > 0, mean, np.nan))
    fine = resize_map(coarse.astype(np.float32), *padded.shape)[:height, :width]
    return np.where(hole, fine, values)


def _joint(depth: Depth, guide: NDArray[Any], radius: int, sigma_space: float, sigma_guide: float) -> Depth:
    """Average over a window with weights from distance and from the difference of a guide, shape (H, W, C)."""
    _check_radius(radius)
    if sigma_space <= 0 or sigma_guide <= 0:
        raise ConfigError(f"Both sigmas must be above 0; got {sigma_space} and {sigma_guide}.")
    values = np.where(depth.valid_mask, depth.values, np.float32(0))
    valid = depth.valid_mask.astype(np.float32)
    guide = guide.astype(np.float32)
    total, weights = np.zeros_like(values), np.zeros_like(values)
    moved_guides = _shifts(guide, radius, 0.0)
    for (offset, moved_guide), (_, moved), (_, moved_valid) in zip(
        moved_guides, _shifts(values, radius, 0.0), _shifts(valid, radius, 0.0), strict=True
    ):
        difference = ((moved_guide - guide) ** 2).sum(axis=2)
        distance = (offset[0] ** 2 + offset[1] ** 2) / (2 * sigma_space**2)
        weight = np.exp(-difference / (2 * sigma_guide**2) - distance) * moved_valid
        total += weight * moved
        weights += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return _rebuilt(depth, np.where(depth.valid_mask, total / weights, np.nan).astype(np.float64))


def _guided_coefficients(values: FloatMap, guide: FloatMap, radius: int, epsilon: float) -> tuple[FloatMap, FloatMap]:
    """Return slope and offset of the guided filter, averaged over windows; NaN where a window has no valid pixel."""
    _check_radius(radius)
    if epsilon <= 0:
        raise ConfigError(f"`epsilon` must be above 0; got {epsilon}. Use for instance 1e-3.")
    valid = np.isfinite(values)
    known = np.where(valid, values, 0.0)
    count = _box(valid.astype(np.float64), radius)
    safe = np.maximum(count, 1e-9)

    def mean(array: FloatMap) -> FloatMap:
        return _box(np.where(valid, array, 0.0), radius) / safe

    mean_guide, mean_value = mean(guide), mean(known)
    variance = mean(guide * guide) - mean_guide**2
    covariance = mean(guide * known) - mean_guide * mean_value
    slope = covariance / (np.maximum(variance, 0.0) + epsilon)
    offset = mean_value - slope * mean_guide
    has = count > 0.5
    num_windows = np.maximum(_box(has.astype(np.float64), radius), 1e-9)
    empty = ~has & (num_windows < 0.5)
    slope, offset = (
        np.where(empty, np.nan, _box(np.where(has, array, 0.0), radius) / num_windows) for array in (slope, offset)
    )
    return slope, offset


def _box(values: FloatMap, radius: int) -> FloatMap:
    """Sum over a square around each pixel, cut at the border."""
    for axis in (0, 1):
        size = values.shape[axis]
        sums = np.concatenate((np.zeros_like(values.take([0], axis)), values.cumsum(axis)), axis)
        index = np.arange(size)
        values = sums.take(np.minimum(index + radius + 1, size), axis) - sums.take(np.maximum(index - radius, 0), axis)
    return values


def _shifts(array: NDArray[Any], radius: int, fill: float) -> Any:
    """Yield each offset (rows, columns) of a square window with the array moved by it."""
    height, width = array.shape[:2]
    pad = ((radius, radius), (radius, radius)) + ((0, 0),) * (array.ndim - 2)
    padded = np.pad(array, pad, constant_values=fill)
    for row in range(2 * radius + 1):
        for column in range(2 * radius + 1):
            yield (row - radius, column - radius), padded[row : row + height, column : column + width]


def _brightness(image: RgbImage) -> FloatMap:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]) / 255.0, np.float64)


def _span(values: FloatMap) -> float:
    known = values[np.isfinite(values)]
    if known.size == 0:
        return 1.0
    low, high = np.percentile(known, (5, 95))
    return float(high - low) or 1.0


def _with_nan(depth: Depth) -> FloatMap:
    return np.where(depth.valid_mask, depth.values, np.nan).astype(np.float64)


def _resized(values: FloatMap, height: int, width: int) -> FloatMap:
    """Resize bilinearly; a pixel that needs a hole becomes one."""
    if values.shape == (height, width):
        return values
    hole = np.isnan(values)
    resized = resize_map(np.where(hole, 0.0, values).astype(np.float32), height, width).astype(np.float64)
    if hole.any():
        resized[resize_map(hole.astype(np.float32), height, width) > 0] = np.nan
    return resized


def _either(combined: FloatMap, one: FloatMap, two: FloatMap) -> FloatMap:
    """Fill the pixels of a combination where only one of its maps has a value."""
    return np.where(np.isfinite(combined), combined, np.where(np.isfinite(one), one, two))


def _limited(depth: Depth, values: FloatMap) -> Depth:
    """Keep the values within the range of the map they came from, so that no local line runs off."""
    limits = depth.value_range
    return _rebuilt(depth, values if limits is None else np.clip(values, *limits))


def _rebuilt(depth: Depth, values: FloatMap) -> Depth:
    """Return a map of the same kind and origin with new values, NaN where there is none, without confidence."""
    mask = np.isfinite(values)
    reason = np.full(values.shape, InvalidReason.UNKNOWN, np.uint8)
    if values.shape == depth.invalid_reason.shape:
        reason = np.where(depth.valid_mask, reason, depth.invalid_reason)
    reason = np.where(mask, np.uint8(InvalidReason.NONE), reason)
    return Depth(
        np.where(mask, values, np.nan), depth.kind, mask, reason, camera=depth.camera, provenance=depth.provenance
    )


def _check_radius(radius: int) -> None:
    if radius < 1:
        raise ConfigError(f"`radius` must be at least 1 pixel; got {radius}.")


def _check_image(depth: Depth, image: RgbImage) -> None:
    if image.shape != (depth.height, depth.width, 3) or image.dtype != np.uint8:
        raise ShapeError(
            f"`image` must be RGB uint8 of shape {(depth.height, depth.width, 3)}; got {image.dtype} {image.shape}. "
            "Resize it, or use upsample_guided."
        )


__all__ = [
    "blend_borders",
    "fill_holes",
    "predict_at_scales",
    "predict_flipped",
    "smooth_bilateral",
    "smooth_guided",
    "smooth_joint_bilateral",
    "smooth_median",
    "upsample_guided",
]
