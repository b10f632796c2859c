"""Camera trajectory errors over short snippets, with the definitions of SfMLearner, and plain relative pose errors."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import FloatArray
from fathom.errors import EmptyMaskError, InputError, ShapeError

SNIPPET_LENGTH = 5


class RelativePoseError(NamedTuple):
    """Root mean squares over the frame pairs: translation [unit of the truth] and rotation [degrees]."""

    translation: float
    rotation_deg: float


class SnippetError(NamedTuple):
    """Mean and (population) standard deviation over all snippets of a sequence."""

    ate_mean: float
    ate_std: float
    num_snippets: int


def trajectory_scale(pred: FloatArray, target: FloatArray) -> float:
    """Fit the scale of a trajectory after both start at the origin: ``sum(g . p) / sum(p . p)``.

    Args:
        pred: Camera centres, shape (N, 3), any scale.
        target: Camera centres [m], shape (N, 3).

    Returns:
        The scale; multiplies `pred`.

    Raises:
        ShapeError: If the shapes differ.
        InputError: If a value is not finite, or the predicted camera does not move.

    Example:
        >>> path = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 2]])
        >>> trajectory_scale(path, 3.0 * path + 7.0)
        3.0
    """
    p, g = _from_origin(pred, target)
    power = float(np.sum(p * p))
    if power == 0:
        raise InputError("The predicted camera does not move, so its scale cannot be fitted. Check the pose network.")
    return float(np.sum(g * p)) / power


def trajectory_ate(pred: FloatArray, target: FloatArray) -> float:
    """Compute the absolute trajectory error of one snippet, ``sqrt(sum err^2) / N``.

    Both trajectories start at the origin, the prediction is scaled by `trajectory_scale`. The division by N outside
    the root (not the root of a mean) is what the published numbers use.

    Args:
        pred: Camera centres, shape (N, 3), any scale.
        target: Camera centres [m], shape (N, 3).

    Returns:
        The error [m].

    Raises:
        ShapeError, InputError: As in `trajectory_scale`.

    Example:
        >>> target = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4]])
        >>> round(trajectory_ate(0.1 * target, target), 9)
        0.0

    Reference:
        Zhou et al., "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR 2017 (its evaluation code).
    """
    scale = trajectory_scale(pred, target)
    p, g = _from_origin(pred, target)
    return math.sqrt(float(np.sum((scale * p - g) ** 2))) / len(p)


def snippet_ate(pred: FloatArray, target: FloatArray, *, length: int = SNIPPET_LENGTH) -> SnippetError:
    """Compute `trajectory_ate` over all snippets of a sequence, each in the frame of its own first camera.

    Args:
        pred: Camera-to-world poses, shape (N, 4, 4), any scale.
        target: Camera-to-world poses, shape (N, 4, 4) [m].
        length: Frames of a snippet.

    Returns:
        Mean and standard deviation over the N - length + 1 snippets.

    Raises:
        ShapeError: If the shapes differ or are not (N, 4, 4).
        EmptyMaskError: If there are fewer frames than one snippet needs.
        InputError: If a value is not finite, or a predicted snippet does not move.

    Example:
        >>> poses = np.tile(np.eye(4), (6, 1, 1))
        >>> poses[:, 2, 3] = np.arange(6)
        >>> snippet_ate(poses, poses)
        SnippetError(ate_mean=0.0, ate_std=0.0, num_snippets=2)
    """
    _check_poses(pred, target, at_least=length)
    errors = []
    for start in range(len(pred) - length + 1):
        local_pred, local_target = (_local(poses[start : start + length]) for poses in (pred, target))
        errors.append(trajectory_ate(local_pred[:, :3, 3], local_target[:, :3, 3]))
    return SnippetError(float(np.mean(errors)), float(np.std(errors)), len(errors))


def relative_pose_error(pred: FloatArray, target: FloatArray, *, step: int = 1) -> RelativePoseError:
    """Compare the motion over `step` frames: ``E_i = (Q_i^-1 Q_{i+step})^-1 (P_i^-1 P_{i+step})``.

    The translation of a prediction without scale is first multiplied by a scale the caller fits, for instance with
    `trajectory_scale`; the rotation needs none.

    Args:
        pred: Camera-to-world poses P, shape (N, 4, 4).
        target: Camera-to-world poses Q, shape (N, 4, 4).
        step: Frames between the two poses of a pair.

    Returns:
        Root mean squares of the translation length and of the rotation angle of E.

    Raises:
        ShapeError: If the shapes differ or are not (N, 4, 4).
        EmptyMaskError: If there is no pair.
        InputError: If a value is not finite.

    Example:
        >>> target = np.tile(np.eye(4), (3, 1, 1))
        >>> pred = target.copy()
        >>> pred[:, 0, 3] = [0.0, 1.0, 2.0]
        >>> relative_pose_error(pred, target)
        RelativePoseError(translation=1.0, rotation_deg=0.0)

    Reference:
        Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012.
    """
    _check_poses(pred, target, at_least=step + 1)
    motion_pred = np.linalg.inv(pred[:-step]) @ pred[step:]
    motion_target = np.linalg.inv(target[:-step]) @ target[step:]
    error = np.linalg.inv(motion_target) @ motion_pred
    translation = np.sum(error[:, :3, 3] ** 2, axis=-1)
    angles = rotation_angles(error[:, :3, :3])
    return RelativePoseError(math.sqrt(float(translation.mean())), math.sqrt(float(np.mean(angles**2))))


def rotation_angles(rotations: FloatArray) -> NDArray[np.float64]:
    """Compute the angle [degrees, 0 to 180] of rotation matrices, shape (N, 3, 3).

    The sine comes from the skew part and the cosine from the trace, which keeps small angles exact.

    Example:
        >>> rotation_angles(np.array([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])).round(9).tolist()
        [90.0]
    """
    skew = rotations - np.swapaxes(rotations, -1, -2)
    double_sine = np.sqrt(skew[:, 0, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 2] ** 2)
    double_cosine = np.trace(rotations, axis1=-2, axis2=-1) - 1.0
    angles: NDArray[np.float64] = np.degrees(np.arctan2(double_sine, double_cosine))
    return angles


def _local(poses: FloatArray) -> NDArray[np.float64]:
    return np.asarray(np.linalg.inv(poses[0]) @ poses, dtype=np.float64)


def _from_origin(pred: FloatArray, target: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if pred.shape != target.shape or pred.ndim != 2 or pred.shape[1] != 3 or len(pred) < 2:
        raise ShapeError(f"Trajectories must both be (N, 3) with N of at least 2; got {pred.shape} and {target.shape}.")
    p, g = pred.astype(np.float64), target.astype(np.float64)
    if not (np.isfinite(p).all() and np.isfinite(g).all()):
        raise InputError("Trajectories must be finite. Leave lost frames out of both.")
    return p - p[0], g - g[0]


def _check_poses(pred: FloatArray, target: FloatArray, *, at_least: int) -> None:
    if pred.shape != target.shape or pred.ndim != 3 or pred.shape[1:] != (4, 4):
        raise ShapeError(f"Poses must both be (N, 4, 4); got {pred.shape} and {target.shape}.")
    if len(pred) < at_least:
        raise EmptyMaskError(f"At least {at_least} frames are needed; got {len(pred)}. Skip this sequence.")
    if not (np.isfinite(pred).all() and np.isfinite(target).all()):
        raise InputError("Poses must be finite. Leave lost frames out of both.")
