"""Camera trajectory errors over short snippets, as SfMLearner and monodepth2 define them, and relative pose errors."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import FloatArray
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError

SNIPPET_LENGTH = 5
ATE_DEFINITIONS = ("sfmlearner", "monodepth2")


class RelativePoseError(NamedTuple):
    """Root mean squares over the frame pairs: translation [unit of the truth] and rotation [degrees]."""

    translation: float
    rotation_deg: float


class SnippetError(NamedTuple):
    """Mean and (population) standard deviation over all snippets of a sequence."""

    ate_mean: float
    ate_std: float
    num_snippets: int


class SnippetRelativeError(NamedTuple):
    """Mean and (population) standard deviation over all snippets, of translation and of rotation [degrees]."""

    translation_mean: float
    translation_std: float
    rotation_deg_mean: float
    rotation_deg_std: float
    num_snippets: int


def chain_motions(motions: FloatArray) -> NDArray[np.float64]:
    """Turn the motions between consecutive frames into a trajectory: ``P_{i+1} = P_i inverse(M_i)``, ``P_0 = I``.

    Args:
        motions: M_i takes points of camera i to camera i + 1, as pose networks say it, shape (N, 4, 4).

    Returns:
        Camera-to-world poses P, shape (N + 1, 4, 4), in the unit of the motions.

    Raises:
        ShapeError: If the shape is not (N, 4, 4).

    Example:
        >>> ahead = np.eye(4)
        >>> ahead[2, 3] = -1.0  # what was 5 m ahead is 4 m ahead: the camera has moved forward
        >>> chain_motions(np.stack([ahead, ahead]))[:, 2, 3].tolist()
        [0.0, 1.0, 2.0]
    """
    if motions.ndim != 3 or motions.shape[1:] != (4, 4):
        raise ShapeError(f"`motions` must be (N, 4, 4); got {motions.shape}.")
    poses = [np.eye(4)]
    for motion in motions:
        poses.append(poses[-1] @ np.linalg.inv(motion.astype(np.float64)))
    return np.stack(poses)


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


def snippet_ate(
    pred: FloatArray,
    target: FloatArray,
    *,
    length: int = SNIPPET_LENGTH,
    definition: Literal["sfmlearner", "monodepth2"] = "sfmlearner",
) -> SnippetError:
    """Compute `trajectory_ate` over all snippets of a sequence, each in the frame of its own first camera.

    Args:
        pred: Camera-to-world poses, shape (N, 4, 4), any scale.
        target: Camera-to-world poses, shape (N, 4, 4) [m].
        length: Frames of a snippet.
        definition: ``sfmlearner``: camera centres, in the N - length + 1 whole snippets. ``monodepth2``: as its
            published code does it, which differs twice. Its tracks multiply the motions from each camera to the next
            rather than their inverses, so they are those of the film played backwards; and the tracks of the last
            length - 2 starts, which are cut off by the end, count too: N - 1 in all.

    Returns:
        Mean and standard deviation over the snippets.

    Raises:
        ShapeError: If the shapes differ or are not (N, 4, 4).
        EmptyMaskError: If there are fewer frames than one snippet needs.
        InputError: If a value is not finite, or a predicted snippet does not move.
        ConfigError: If there is no such definition.

    Example:
        >>> poses = np.tile(np.eye(4), (6, 1, 1))
        >>> poses[:, 2, 3] = np.arange(6)
        >>> snippet_ate(poses, poses)
        SnippetError(ate_mean=0.0, ate_std=0.0, num_snippets=2)

    Reference:
        Zhou et al., CVPR 2017, section 4.2 (its kitti_eval); Godard et al., ICCV 2019, appendix (its evaluate_pose).
    """
    if definition not in ATE_DEFINITIONS:
        raise ConfigError(f"`definition` must be one of {', '.join(ATE_DEFINITIONS)}; got '{definition}'.")
    _check_poses(pred, target, at_least=length)
    backwards = definition == "monodepth2"
    last_start = len(pred) - 2 if backwards else len(pred) - length
    errors = []
    for start in range(last_start + 1):
        tracks = []
        for poses in (pred, target):
            snippet = poses[start : start + length].astype(np.float64)
            if backwards:
                motions = np.linalg.inv(snippet[1:]) @ snippet[:-1]
                snippet = chain_motions(np.linalg.inv(motions))
            tracks.append(_local(snippet)[:, :3, 3])
        errors.append(trajectory_ate(*tracks))
    return SnippetError(float(np.mean(errors)), float(np.std(errors)), len(errors))


def snippet_rpe(pred: FloatArray, target: FloatArray, *, length: int = SNIPPET_LENGTH) -> SnippetRelativeError:
    """Compute `relative_pose_error` of consecutive frames in all whole snippets, each with the scale of its ATE.

    Args:
        pred: Camera-to-world poses, shape (N, 4, 4), any scale.
        target: Camera-to-world poses, shape (N, 4, 4) [m].
        length: Frames of a snippet.

    Returns:
        Means and standard deviations over the N - length + 1 snippets.

    Raises:
        ShapeError, EmptyMaskError, InputError: As in `snippet_ate`.

    Example:
        >>> poses = np.tile(np.eye(4), (6, 1, 1))
        >>> poses[:, 2, 3] = np.arange(6)
        >>> snippet_rpe(0.1 * poses + 0.9 * np.eye(4), poses).translation_mean < 1e-9
        True

    Reference:
        Sturm et al., IROS 2012, equations 1 and 2, on the snippets and with the scale of Zhou et al., CVPR 2017.
    """
    _check_poses(pred, target, at_least=length)
    errors = []
    for start in range(len(pred) - length + 1):
        local_pred, local_target = (_local(poses[start : start + length]) for poses in (pred, target))
        local_pred[:, :3, 3] *= trajectory_scale(local_pred[:, :3, 3], local_target[:, :3, 3])
        errors.append(relative_pose_error(local_pred, local_target))
    translation, rotation = np.array(errors).T
    return SnippetRelativeError(
        float(translation.mean()), float(translation.std()), float(rotation.mean()), float(rotation.std()), len(errors)
    )


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
