"""How well depth edges and planes are kept: Depth Pro's boundary F1, and the geometric errors of iBims-1."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray
from fathom.errors import EmptyMaskError, InputError, ShapeError, require

NUM_THRESHOLDS = 10
THRESHOLD_RANGE = (1.05, 1.25)
MAX_EDGE_DISTANCE = 10.0


class BoundaryScore(NamedTuple):
    """Boundary precision, recall and F1, each averaged over the thresholds with its own weight."""

    precision: float
    recall: float
    f1: float


class EdgeError(NamedTuple):
    """Depth boundary errors [px]; NaN where the target has no edge."""

    accuracy: float
    completeness: float


class DirectedDepthError(NamedTuple):
    """Shares of pixels on the right side of a plane, wrongly behind it, and wrongly in front of it."""

    correct: float
    too_far: float
    too_near: float


class PlanarityError(NamedTuple):
    """Scatter about the fitted plane [cm], and angle between fitted and true normal [degrees]."""

    flatness_cm: float
    orientation_deg: float


def boundary_f1(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> BoundaryScore:
    """Compare the occluding contours of two depth maps, whatever the scale of either.

    On inverse depth ``1 / max(depth, 1e-6)``, a pixel pair is an edge of one direction (left, top, right, bottom) when
    the ratio of the two values exceeds t. For each of ten thresholds t from 1.05 to 1.25, precision and recall are the
    mean over the four directions of ``matches / max(edges of the prediction, 1)`` and ``matches / max(edges of the
    target, 1)``, and F1 is their harmonic mean. All three are averaged with weights ``t / sum(t)``.

    A direction without edges counts as 0, so a *perfect* prediction of a single vertical step scores 0.25.

    Args:
        pred: Depth, shape (H, W), any scale.
        target: Depth, shape (H, W), any scale.
        valid_mask: Pixels to score, shape (H, W); a pair counts only where both its pixels do.

    Returns:
        Precision, recall and F1. F1 is averaged over the thresholds, not made from the averaged two.

    Raises:
        ShapeError: If the shapes differ or are not (H, W).
        EmptyMaskError: If no pixel is valid.
        InputError: If a prediction that counts is not finite.

    Example:
        >>> depth = np.full((8, 8), 4.0)
        >>> depth[2:6, 2:6] = 2.0
        >>> [round(value, 9) for value in boundary_f1(depth, depth, depth > 0)]
        [1.0, 1.0, 1.0]

    Reference:
        Bochkovskii et al., "Depth Pro: Sharp Monocular Metric Depth in Less Than a Second", ICLR 2025, section 3.2.
    """
    usable = _check_map(pred, target, valid_mask)
    thresholds = np.linspace(*THRESHOLD_RANGE, NUM_THRESHOLDS)
    weights = thresholds / thresholds.sum()
    ratio_pairs = _edge_candidates(pred, target, usable, float(thresholds[0]))
    precision = recall = f1 = 0.0
    for threshold, weight in zip(thresholds, weights, strict=True):
        p_sum = r_sum = 0.0
        for pred_ratio, target_ratio in ratio_pairs:
            pred_edges, target_edges = pred_ratio > threshold, target_ratio > threshold
            num_matches = int(np.count_nonzero(pred_edges & target_edges))
            p_sum += num_matches / max(int(np.count_nonzero(pred_edges)), 1)
            r_sum += num_matches / max(int(np.count_nonzero(target_edges)), 1)
        p_t, r_t = p_sum / 4, r_sum / 4
        precision += float(weight) * p_t
        recall += float(weight) * r_t
        if p_t + r_t > 0:
            f1 += float(weight) * 2 * p_t * r_t / (p_t + r_t)
    return BoundaryScore(precision, recall, f1)


def canny_edges(depth: FloatArray, valid_mask: BoolArray) -> BoolArray:
    """Detect the edges of a depth map as iBims-1 does.

    The map is normalised to [0, 1] over its valid pixels; Canny with sigma sqrt(2) and thresholds 0.15 and 0.3. A step
    between two pixels is symmetric, and gives an edge two pixels wide.

    Args:
        depth: Depth, shape (H, W), any scale.
        valid_mask: Pixels to use, shape (H, W).

    Returns:
        Edges, shape (H, W). The outermost pixels never are; a constant map has none.

    Raises:
        ShapeError: If the shapes differ or are not (H, W).
        EmptyMaskError: If no pixel is valid.
        InputError: If a valid value is not finite.
        MissingExtraError: If scikit-image is not installed.

    Example:
        >>> depth = (1.0 + np.clip(np.arange(20) - 9, 0, 2)) * np.ones((20, 1))
        >>> sorted(set(np.nonzero(canny_edges(depth, depth > 0))[1].tolist()))
        [10]
    """
    feature = require("skimage.feature", "train", "Edge detection")
    usable = _check_map(depth, depth, valid_mask)
    values = depth[usable].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(depth.shape, dtype=np.bool_)
    normalised = np.zeros(depth.shape)
    normalised[usable] = (values - low) / (high - low)
    mask = None if usable.all() else usable
    edges: BoolArray = feature.canny(normalised, sigma=math.sqrt(2), low_threshold=0.15, high_threshold=0.3, mask=mask)
    return edges


def depth_boundary_error(pred: FloatArray, target_edges: BoolArray, valid_mask: BoolArray) -> EdgeError:
    """Measure how far the edges of a predicted depth map lie from the true ones (iBims-1, DBE).

    With D_t the distance to the nearest true edge and D_p to the nearest predicted one, both truncated at 10 px:
    accuracy is the mean of D_t over the predicted edges with ``D_t < 10``; completeness is ``(sum of D_t over all
    predicted edges + sum of D_p over the true edges) / (number of both)``. This completeness is the *symmetric* one of
    the published Python code; the paper's is directed from truth to prediction.

    Args:
        pred: Predicted depth, shape (H, W), any scale.
        target_edges: Edges of the truth, shape (H, W), bool.
        valid_mask: Pixels where the prediction is usable, shape (H, W).

    Returns:
        Accuracy and completeness [px]. 10 and 10 if no predicted edge lies within 10 px; NaN if there is no true edge.

    Raises:
        As `canny_edges`; also MissingExtraError if SciPy is not installed.

    Example:
        >>> depth = (1.0 + np.clip(np.arange(40) - 19, 0, 2)) * np.ones((40, 1))
        >>> truth = np.roll(canny_edges(depth, depth > 0), 3, axis=1)
        >>> depth_boundary_error(depth, truth, depth > 0)
        EdgeError(accuracy=3.0, completeness=3.0)

    Reference:
        Koch et al., "Evaluation of CNN-based Single-Image Depth Estimation Methods", ECCV Workshops 2018.
    """
    ndimage = require("scipy.ndimage", "train", "The depth boundary error")
    if target_edges.shape != pred.shape or target_edges.dtype != np.bool_:
        raise ShapeError(
            f"`target_edges` must be a bool map of shape {pred.shape}; got {target_edges.dtype} {target_edges.shape}."
        )
    if not target_edges.any():
        return EdgeError(math.nan, math.nan)
    pred_edges = canny_edges(pred, valid_mask)
    to_target = ndimage.distance_transform_edt(~target_edges)
    close = pred_edges & (to_target < MAX_EDGE_DISTANCE)
    if not close.any():
        return EdgeError(MAX_EDGE_DISTANCE, MAX_EDGE_DISTANCE)
    to_pred = ndimage.distance_transform_edt(~pred_edges)
    total = (
        np.minimum(to_target[pred_edges], MAX_EDGE_DISTANCE).sum()
        + np.minimum(to_pred[target_edges], MAX_EDGE_DISTANCE).sum()
    )
    num_edges = np.count_nonzero(pred_edges) + np.count_nonzero(target_edges)
    return EdgeError(float(to_target[close].mean()), float(total / num_edges))


def directed_depth_error(
    pred: FloatArray, target: FloatArray, valid_mask: BoolArray, *, plane_depth: float = 3.0
) -> DirectedDepthError:
    """Count the pixels that the prediction puts on the wrong side of a fronto-parallel plane (iBims-1, DDE).

    A depth of exactly `plane_depth` counts as in front. The three shares add up to 1.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        plane_depth: Depth of the plane [m].

    Returns:
        Shares: correct; too far (truth in front, prediction behind); too near.

    Raises:
        ShapeError, EmptyMaskError, InputError: As `boundary_f1`.

    Example:
        >>> pred, target = np.array([[1.0, 4.0, 2.0, 5.0]]), np.array([[1.0, 2.0, 4.0, 6.0]])
        >>> directed_depth_error(pred, target, target > 0)
        DirectedDepthError(correct=0.5, too_far=0.25, too_near=0.25)
    """
    usable = _check_map(pred, target, valid_mask)
    pred_behind, target_behind = pred[usable] > plane_depth, target[usable] > plane_depth
    return DirectedDepthError(
        correct=float(np.mean(pred_behind == target_behind)),
        too_far=float(np.mean(pred_behind & ~target_behind)),
        too_near=float(np.mean(~pred_behind & target_behind)),
    )


def planarity_error(
    pred: FloatArray,
    target: FloatArray,
    plane_mask: BoolArray,
    *,
    intrinsics: FloatArray,
    plane_normal: FloatArray,
) -> PlanarityError:
    """Measure how flat, and how well oriented, one planar region is predicted (iBims-1, PE).

    The predicted depth of the region is scaled to the median of the target, unprojected, and fitted with a plane in
    total least squares. Flatness is the standard deviation of the distances to that plane, orientation the angle of
    its normal to the true one. iBims-1 leaves out regions below 5 % of the image; that is up to the caller.

    Args:
        pred: Depth [m], shape (H, W).
        target: Depth [m], shape (H, W).
        plane_mask: The region, shape (H, W), bool.
        intrinsics: Camera matrix [px], shape (3, 3), pixel centres at whole numbers from 0.
        plane_normal: True normal in camera axes (x right, y down, z forward), shape (3,), any length and sign.

    Returns:
        Flatness [cm] and orientation [degrees, 0 to 90].

    Raises:
        ShapeError, InputError: As `boundary_f1`.
        EmptyMaskError: If the region has fewer than three valid pixels.

    Example:
        >>> camera = np.array([[100.0, 0, 5], [0, 100, 5], [0, 0, 1]])
        >>> depth = np.full((10, 10), 2.0)
        >>> error = planarity_error(depth, depth, depth > 0, intrinsics=camera, plane_normal=np.array([0, 0, 1.0]))
        >>> round(error.flatness_cm, 6), round(error.orientation_deg, 4)
        (0.0, 0.0)
    """
    usable = _check_map(pred, target, plane_mask)
    if np.count_nonzero(usable) < 3:
        raise EmptyMaskError("A plane needs at least three valid pixels. Skip this region and count it.")
    depth = pred[usable].astype(np.float64)
    depth *= float(np.median(target[usable])) / float(np.median(depth))
    rows, columns = np.nonzero(usable)
    x = (columns - intrinsics[0, 2]) * depth / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) * depth / intrinsics[1, 1]
    points = np.stack((x, y, depth), axis=1)
    points -= points.mean(axis=0)
    # The direction of least spread: last eigenvector of the (3, 3) scatter matrix, eigenvalues ascending.
    _, directions = np.linalg.eigh(points.T @ points)
    normal = directions[:, 0]
    distances = points @ normal
    true_normal = np.asarray(plane_normal, dtype=np.float64) / np.linalg.norm(plane_normal)
    # atan2 keeps its digits at small angles, where acos loses them.
    sine = float(np.linalg.norm(np.cross(true_normal, normal)))
    angle = math.degrees(math.atan2(sine, abs(float(true_normal @ normal))))
    return PlanarityError(flatness_cm=100.0 * float(distances.std()), orientation_deg=angle)


def _check_map(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> BoolArray:
    """Check three (H, W) maps; return where both the mask and the target allow scoring."""
    if not pred.shape == target.shape == valid_mask.shape or pred.ndim != 2:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must have one shape (H, W); got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}. Resize the prediction to the target."
        )
    usable = valid_mask & np.isfinite(target) & (target > 0)
    if not usable.any():
        raise EmptyMaskError("At least one valid pixel is needed; there is none. Skip this image and count it.")
    if not np.isfinite(pred[usable]).all():
        raise InputError("`pred` must be finite wherever `valid_mask` is True. Clamp it, or mask these pixels out.")
    return usable


def _edge_candidates(
    pred: FloatArray, target: FloatArray, usable: BoolArray, threshold: float
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Ratios of neighbouring inverse depths for each direction (left, right, top, bottom), prediction and target.

    Pairs that are an edge in neither map, at the lowest threshold, are left out: they are no edge at any other one,
    and usually all but a few per cent.
    """
    maps = [np.maximum(np.where(usable, depth, 1.0), 1e-6) for depth in (pred, target)]
    # A little below the threshold, so that rounding here never loses a pair that the exact ratio would keep.
    least = threshold * (1.0 - 1e-5)
    ratios = []
    for first, second in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1),), (slice(1, None),)),
    ):
        near = np.zeros(usable[first].shape, dtype=np.bool_)
        far = near.copy()
        for depth in maps:
            one, two = depth[first], depth[second]
            near |= two > least * one
            far |= one > least * two
        both = usable[first] & usable[second]
        for chosen, is_reversed in ((near & both, False), (far & both, True)):
            pair = []
            for depth in maps:
                one, two = (1.0 / depth[side][chosen].astype(np.float64) for side in (first, second))
                pair.append(two / one if is_reversed else one / two)
            ratios.append((pair[0], pair[1]))
    return ratios
