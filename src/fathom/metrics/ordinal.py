"""Ordinal metrics: which of two points is nearer."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError


class PointPairs(NamedTuple):
    """Pairs of pixels with a known order of depth.

    Attributes:
        first: Row and column of the first pixel, shape (N, 2), integers.
        second: Row and column of the second pixel, shape (N, 2), integers.
        relation: 1 if the first is farther, -1 if it is nearer, 0 if they are equal, shape (N,).
        weight: Weight of each pair, shape (N,).
    """

    first: NDArray[np.integer]
    second: NDArray[np.integer]
    relation: NDArray[np.integer]
    weight: FloatArray


def depth_relation(first: FloatArray, second: FloatArray, *, ratio_threshold: float) -> NDArray[np.int64]:
    """Order pairs of depths: 1 if ``first / second > threshold``, -1 if below ``1 / threshold``, else 0.

    Args:
        first: Depths, shape (N,), above 0, any scale.
        second: Depths, shape (N,), above 0.
        ratio_threshold: At least 1. A paper's tolerance of 0.02 is a threshold of 1.02; 1 leaves no "equal" but exact.

    Returns:
        1, -1 or 0, shape (N,).

    Raises:
        ConfigError: If the threshold is below 1.

    Example:
        >>> depth_relation(np.array([2.0, 1.0, 1.01]), np.array([1.0, 2.0, 1.0]), ratio_threshold=1.02).tolist()
        [1, -1, 0]
    """
    if ratio_threshold < 1:
        raise ConfigError(f"`ratio_threshold` must be at least 1; got {ratio_threshold}. For a tolerance t use 1 + t.")
    ratio = first / second
    return (ratio > ratio_threshold).astype(np.int64) - (ratio < 1 / ratio_threshold).astype(np.int64)


def whdr(pred: FloatArray, pairs: PointPairs, *, ratio_threshold: float) -> float:
    """Compute the weighted human disagreement rate, ``sum w [relation wrong] / sum w``.

    Args:
        pred: Depth, shape (H, W), any scale. Invert an inverse depth first: it orders the other way round.
        pairs: Pixel pairs with their true relation.
        ratio_threshold: See `depth_relation`.

    Returns:
        Rate in [0, 1].

    Raises:
        ShapeError: If the pairs do not fit each other.
        EmptyMaskError: If there is no pair, or no weight.
        InputError: If a pair lies outside the map, or on a depth that is not finite and above 0.
        ConfigError: If the threshold is below 1.

    Example:
        >>> corners = np.array([[0, 0]]), np.array([[0, 1]])
        >>> whdr(np.array([[1.0, 2.0]]), PointPairs(*corners, np.array([-1]), np.ones(1)), ratio_threshold=1.02)
        0.0

    Reference:
        Bell et al., "Intrinsic Images in the Wild", TOG 2014; Chen et al., "Single-Image Depth Perception in the
        Wild", NeurIPS 2016.
    """
    num_pairs = pairs.relation.shape[0]
    shapes = (pairs.first.shape, pairs.second.shape, pairs.relation.shape, pairs.weight.shape)
    if pred.ndim != 2 or shapes != ((num_pairs, 2), (num_pairs, 2), (num_pairs,), (num_pairs,)):
        raise ShapeError(
            f"`pred` must be (H, W) and the pairs (N, 2), (N, 2), (N,), (N,); got {pred.shape} and {shapes}."
        )
    if num_pairs == 0 or pairs.weight.sum() <= 0:
        raise EmptyMaskError("At least one pair with a weight above 0 is needed; there is none. Skip this image.")
    both = np.concatenate((pairs.first, pairs.second))
    if both.min() < 0 or (both >= np.array(pred.shape)).any():
        raise InputError(f"A point pair lies outside the map of {pred.shape}. Scale the pairs with the image.")
    first, second = pred[tuple(pairs.first.T)], pred[tuple(pairs.second.T)]
    depths = np.concatenate((first, second))
    if not (np.isfinite(depths).all() and (depths > 0).all()):
        raise InputError("`pred` must be finite and above 0 at every point pair. Clamp the prediction.")
    wrong = depth_relation(first, second, ratio_threshold=ratio_threshold) != pairs.relation
    return float(pairs.weight[wrong].sum() / pairs.weight.sum())


def sample_pairs(
    target: FloatArray, valid_mask: BoolArray, *, num_pairs: int, ratio_threshold: float, seed: int
) -> PointPairs:
    """Draw random pixel pairs from a depth map, with weight 1 and the relation of the target.

    Args:
        target: Depth, shape (H, W).
        valid_mask: Pixels to draw from, shape (H, W).
        num_pairs: N.
        ratio_threshold: See `depth_relation`.
        seed: Seed of the draw; the same seed gives the same pairs.

    Returns:
        The pairs.

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If fewer than two pixels are valid.

    Example:
        >>> target = np.array([[1.0, 2.0], [0.0, 0.0]])
        >>> pairs = sample_pairs(target, target > 0, num_pairs=50, ratio_threshold=1.02, seed=0)
        >>> whdr(target, pairs, ratio_threshold=1.02)
        0.0
    """
    if target.shape != valid_mask.shape:
        raise ShapeError(f"`target` and `valid_mask` must have one shape; got {target.shape} and {valid_mask.shape}.")
    pixels = np.argwhere(valid_mask & np.isfinite(target) & (target > 0))
    if len(pixels) < 2:
        raise EmptyMaskError(f"Pairs need at least two valid pixels; got {len(pixels)}. Skip this image and count it.")
    generator = np.random.default_rng(seed)
    first = generator.integers(len(pixels), size=num_pairs)
    # An offset of 1 to n - 1 makes the second pixel another one.
    second = (first + generator.integers(1, len(pixels), size=num_pairs)) % len(pixels)
    a, b = pixels[first], pixels[second]
    relation = depth_relation(target[tuple(a.T)], target[tuple(b.T)], ratio_threshold=ratio_threshold)
    return PointPairs(a, b, relation, np.ones(num_pairs))
