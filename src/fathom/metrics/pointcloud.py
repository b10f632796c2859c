"""Distances between two point clouds."""

from typing import NamedTuple

import numpy as np

from fathom.alignment import FloatArray
from fathom.errors import EmptyMaskError, InputError, ShapeError, require


class PointCloudScore(NamedTuple):
    """Distances in the unit of the points; shares in [0, 1].

    Attributes:
        accuracy: Mean distance from a predicted point to the nearest true one.
        completeness: Mean distance from a true point to the nearest predicted one.
        chamfer: Their sum.
        precision: Share of predicted points closer than the threshold to a true one.
        recall: Share of true points closer than the threshold to a predicted one.
        f_score: Harmonic mean of precision and recall; 0 if both are.
    """

    accuracy: float
    completeness: float
    chamfer: float
    precision: float
    recall: float
    f_score: float


def score_points(pred: FloatArray, target: FloatArray, *, threshold: float) -> PointCloudScore:
    """Compute Chamfer distance and F-score of two point clouds.

    Args:
        pred: Points [m], shape (N, 3).
        target: Points [m], shape (M, 3).
        threshold: Distance below which a point is right [m], strictly; 0.1 in rooms, more outdoors.

    Returns:
        All six numbers. Distances are Euclidean, not squared.

    Raises:
        ShapeError: If a cloud is not (N, 3).
        EmptyMaskError: If a cloud is empty.
        InputError: If a coordinate is not finite.
        MissingExtraError: If SciPy is not installed.

    Example:
        >>> target = np.array([[0.0, 0, 0], [1, 0, 0]])
        >>> score = score_points(target + [0, 0.1, 0], target, threshold=0.2)
        >>> round(score.chamfer, 6), score.f_score
        (0.2, 1.0)

    Reference:
        Knapitsch et al., "Tanks and Temples", TOG 2017; Oernek et al., "From 2D to 3D: Re-thinking Benchmarking of
        Monocular Depth Prediction", 2022.
    """
    for name, points in (("pred", pred), ("target", target)):
        if points.ndim != 2 or points.shape[1] != 3:
            raise ShapeError(f"`{name}` must be points of shape (N, 3); got {points.shape}.")
        if len(points) == 0:
            raise EmptyMaskError(f"`{name}` holds no point. Skip this image and count it.")
        if not np.isfinite(points).all():
            raise InputError(f"`{name}` must be finite. Unproject valid pixels only.")
    spatial = require("scipy.spatial", "train", "Comparing point clouds")
    to_target = spatial.KDTree(target).query(pred)[0]
    to_pred = spatial.KDTree(pred).query(target)[0]
    accuracy, completeness = float(to_target.mean()), float(to_pred.mean())
    precision, recall = float(np.mean(to_target < threshold)), float(np.mean(to_pred < threshold))
    f_score = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return PointCloudScore(accuracy, completeness, accuracy + completeness, precision, recall, f_score)
