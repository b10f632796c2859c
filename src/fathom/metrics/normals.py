"""Surface normals: from a depth map, and their angular error."""

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray, FloatArray
from fathom.errors import EmptyMaskError, InputError, ShapeError

ANGLES_DEG = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}


def normals_from_depth(
    depth: FloatArray, valid_mask: BoolArray, *, intrinsics: FloatArray
) -> tuple[NDArray[np.float64], BoolArray]:
    """Compute unit normals that face the camera, from central differences of the unprojected points.

    Axes: x right, y down, z forward, so a fronto-parallel plane has the normal (0, 0, -1).

    Args:
        depth: Depth [m], shape (H, W).
        valid_mask: Usable pixels, shape (H, W).
        intrinsics: Camera matrix [px], shape (3, 3), pixel centres at whole numbers from 0.

    Returns:
        normals: Unit normals, shape (H, W, 3); 0 where there is none.
        valid_mask: Where the pixel and its four neighbours are valid, shape (H, W); never at the border.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> depth = np.full((3, 3), 2.0)
        >>> camera = np.array([[50.0, 0, 1], [0, 50, 1], [0, 0, 1]])
        >>> normals, has_normal = normals_from_depth(depth, depth > 0, intrinsics=camera)
        >>> (normals[1, 1] + 0.0).tolist(), int(has_normal.sum())
        ([0.0, 0.0, -1.0], 1)
    """
    if depth.ndim != 2 or depth.shape != valid_mask.shape or intrinsics.shape != (3, 3):
        raise ShapeError(
            "`depth` and `valid_mask` must be (H, W) and `intrinsics` (3, 3); got "
            f"{depth.shape}, {valid_mask.shape} and {intrinsics.shape}."
        )
    usable = valid_mask & np.isfinite(depth) & (depth > 0)
    z = np.where(usable, depth, 1.0).astype(np.float64)
    rows, columns = np.indices(depth.shape)
    x = (columns - intrinsics[0, 2]) * z / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) * z / intrinsics[1, 1]
    points = np.stack((x, y, z), axis=-1)
    normals = np.zeros((*depth.shape, 3))
    has_normal = np.zeros(depth.shape, dtype=np.bool_)
    along_x = points[1:-1, 2:] - points[1:-1, :-2]
    along_y = points[2:, 1:-1] - points[:-2, 1:-1]
    inner = np.cross(along_y, along_x)
    length = np.linalg.norm(inner, axis=-1)
    has_normal[1:-1, 1:-1] = (
        usable[1:-1, 1:-1] & usable[1:-1, 2:] & usable[1:-1, :-2] & usable[2:, 1:-1] & usable[:-2, 1:-1] & (length > 0)
    )
    inner /= np.where(length > 0, length, 1.0)[..., None]
    # A surface seen edge-on can turn away under finite differences; what is visible faces the camera.
    away = np.sum(inner * points[1:-1, 1:-1], axis=-1) > 0
    inner[away] *= -1
    normals[1:-1, 1:-1] = inner
    normals[~has_normal] = 0.0
    return normals, has_normal


def normal_angles(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> NDArray[np.float64]:
    """Compute the angle between two normal maps, ``acos(clip(n_p . n_t, -1, 1))``, at each valid pixel.

    Args:
        pred: Normals, shape (H, W, 3), any length above 0.
        target: Normals, shape (H, W, 3); a zero vector marks "no normal".
        valid_mask: Pixels to score, shape (H, W).

    Returns:
        Angles [degrees], shape (N,), in row order.

    Raises:
        ShapeError: If the shapes do not fit.
        EmptyMaskError: If no pixel is valid.
        InputError: If a prediction that counts is not finite or has length 0.

    Example:
        >>> pred, target = np.array([[[0, 0, -1.0]]]), np.array([[[0, -1.0, 0]]])
        >>> normal_angles(pred, target, np.array([[True]])).tolist()
        [90.0]
    """
    if pred.shape != target.shape or pred.shape != (*valid_mask.shape, 3):
        raise ShapeError(
            "`pred` and `target` must be (H, W, 3) and `valid_mask` (H, W); got "
            f"{pred.shape}, {target.shape} and {valid_mask.shape}."
        )
    truth_length = np.linalg.norm(target, axis=-1)
    usable = valid_mask & np.isfinite(truth_length) & (truth_length > 0)
    if not usable.any():
        raise EmptyMaskError("At least one pixel with a true normal is needed; there is none. Skip and count it.")
    normals = pred[usable].astype(np.float64)
    truth = target[usable].astype(np.float64)
    lengths = np.linalg.norm(normals, axis=-1)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InputError("`pred` must hold finite vectors longer than 0 wherever `valid_mask` is True. Normalise it.")
    cosine = np.sum(normals * truth, axis=-1) / (lengths * np.linalg.norm(truth, axis=-1))
    angles: NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    return angles


def score_normals(pred: FloatArray, target: FloatArray, valid_mask: BoolArray) -> dict[str, float]:
    """Compute the usual scores of a normal map. Arguments and errors as in `normal_angles`.

    Returns:
        ``mean_deg``, ``median_deg``, and the shares strictly below 11.25, 22.5 and 30 degrees as ``within_11_25``,
        ``within_22_5`` and ``within_30``.

    Example:
        >>> target = np.array([[[0, 0, -1.0]]])
        >>> score_normals(target, target, np.array([[True]]))["within_11_25"]
        1.0

    Reference:
        Fouhey et al., "Data-Driven 3D Primitives for Single Image Understanding", ICCV 2013.
    """
    return score_angles(normal_angles(pred, target, valid_mask))


def score_angles(angles_deg: NDArray[np.float64]) -> dict[str, float]:
    """Compute the scores of `score_normals` from angles [degrees], shape (N,).

    Example:
        >>> score_angles(np.array([0.0, 10.0, 20.0, 40.0]))
        {'mean_deg': 17.5, 'median_deg': 15.0, 'within_11_25': 0.5, 'within_22_5': 0.75, 'within_30': 0.75}
    """
    scores = {"mean_deg": float(angles_deg.mean()), "median_deg": float(np.median(angles_deg))}
    return scores | {name: float(np.mean(angles_deg < limit)) for name, limit in ANGLES_DEG.items()}
