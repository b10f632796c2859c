"""Calibration files of KITTI, and lidar points as depth maps.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013. The projection follows section 3.3 there; the two
habits of the monodepth evaluation that differ from it are options, because published numbers depend on them.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fathom.data.base import camera_from_calibration, check_choice
from fathom.errors import InputError, ShapeError
from fathom.types import Camera

Matrix = npt.NDArray[np.float64]

FOCAL_PX_BY_WIDTH = {1242: 721.5377, 1241: 718.856, 1224: 707.0493, 1238: 718.3351}
"""Focal length of the rectified colour cameras by picture width, as the monodepth evaluation tabulates it."""


def read_calibration(path: str | Path) -> dict[str, Matrix | str]:
    """Read a KITTI calibration file: lines of ``key: value ...``, or in KITTI-360 bare numbers.

    A value becomes an array when every word of it is a number. Testing the characters alone would not do: a date such
    as ``09-Jan-2012 13:57:47`` consists largely of digits, signs and colons.

    Args:
        path: ``calib_cam_to_cam.txt``, ``calib_velo_to_cam.txt``, ``calib.txt``, ``perspective.txt`` ...

    Returns:
        One array (or text) for each key; a file without keys has the single key ``""``.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a KITTI calibration file; cannot read '{path}': {error}.") from None
    values: dict[str, Matrix | str] = {}
    for line in lines:
        if not line.strip():
            continue
        key, colon, text = line.partition(":")
        if not colon:
            key, text = "", line
        try:
            values[key.strip()] = np.array([float(word) for word in text.split()])
        except ValueError:
            values[key.strip()] = text.strip()
    return values


def matrix_of(calibration: dict[str, Matrix | str], key: str, rows: int, columns: int) -> Matrix:
    """Return one entry of a calibration as a matrix.

    Raises:
        InputError: If it is absent or has another number of values.
    """
    values = calibration.get(key)
    if not isinstance(values, np.ndarray) or values.size != rows * columns:
        known = ", ".join(calibration) or "nothing"
        raise InputError(f"Expected {rows * columns} numbers '{key}' in the calibration; it has {known}.")
    return values.reshape(rows, columns)


def homogeneous(matrix: npt.ArrayLike) -> Matrix:
    """Return a (3, 3), (3, 4) or (4, 4) matrix as (4, 4)."""
    given = np.asarray(matrix, np.float64)
    full = np.eye(4)
    full[: given.shape[0], : given.shape[1]] = given
    return full


def velodyne_to_image(calibration_folder: str | Path, camera: int = 2) -> Matrix:
    """Return the (3, 4) matrix from lidar points [m] to rectified pixels: ``P_rect R_rect_00 [R T]``.

    Args:
        calibration_folder: Folder of one date, with ``calib_cam_to_cam.txt`` and ``calib_velo_to_cam.txt``.
        camera: 2 (left colour) or 3 (right colour).
    """
    folder = Path(calibration_folder)
    cameras = read_calibration(folder / "calib_cam_to_cam.txt")
    lidar = read_calibration(folder / "calib_velo_to_cam.txt")
    to_camera = homogeneous(np.hstack([matrix_of(lidar, "R", 3, 3), matrix_of(lidar, "T", 3, 1)]))
    rectify = homogeneous(matrix_of(cameras, "R_rect_00", 3, 3))
    return matrix_of(cameras, f"P_rect_{camera:02d}", 3, 4) @ rectify @ to_camera


def camera_from_projection(projection: Matrix, baseline_m: float | None = None) -> Camera:
    """Return the camera of a rectified projection matrix (3, 4)."""
    p = projection
    return camera_from_calibration(p[0, 0], p[1, 1], p[0, 2], p[1, 2], baseline_m=baseline_m)


def baseline_between(left: Matrix, right: Matrix) -> float:
    """Return the distance [m] between two rectified cameras: the difference of ``-P[0, 3] / P[0, 0]``.

    Example:
        >>> left = np.array([[700.0, 0, 600, 42.0], [0, 700, 180, 0], [0, 0, 1, 0]])
        >>> right = np.array([[700.0, 0, 600, -336.0], [0, 700, 180, 0], [0, 0, 1, 0]])
        >>> round(baseline_between(left, right), 6)
        0.54
    """
    return float(-right[0, 3] / right[0, 0] + left[0, 3] / left[0, 0])


def read_velodyne(path: str | Path) -> npt.NDArray[np.float32]:
    """Return lidar points (N, 4): x forward, y left, z up [m], reflectance.

    Raises:
        InputError: If the file is not a whole number of points.
    """
    try:
        numbers = np.fromfile(path, np.dtype("<f4"))
    except OSError as error:
        raise InputError(f"Expected lidar points (float32 x 4); cannot read '{path}': {error}.") from None
    if numbers.size % 4:
        raise InputError(f"Expected whole points of 4 float32 in '{path}'; got {numbers.size} numbers. Is it cut off?")
    return numbers.reshape(-1, 4)


def project_points(
    points: npt.NDArray[np.float32],
    to_image: Matrix,
    height: int,
    width: int,
    *,
    value: str = "camera_z",
    collisions: str = "pixel",
    first_pixel: int = 1,
) -> npt.NDArray[np.float32]:
    """Project lidar points into a sparse depth map.

    Points behind the sensor (x < 0) are dropped, then those outside the picture; where several meet, the nearest
    stays.

    Args:
        points: x forward, y left, z up [m] in the first three columns, shape (N, 3 or more).
        to_image: Lidar to pixels, shape (3, 4).
        height: Rows of the picture.
        width: Columns of the picture.
        value: ``"camera_z"`` stores depth along the optical axis. ``"velodyne_x"`` stores the lidar's forward axis, as
            the evaluation code of monodepth, SfMLearner and monodepth2 does.
        collisions: ``"pixel"`` compares the points of one pixel. ``"monodepth"`` groups them by
            ``row * (width - 1) + column``, as that code does: the last pixel of a row and the first of the next are
            then taken for one.
        first_pixel: Number the calibration gives to the first pixel: 1 as in the development kit (pixel =
            round(u) - 1), 0 where pixels are counted from 0.

    Returns:
        Depth [m], 0 where no point falls, shape (height, width).

    Example:
        >>> straight = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])  # x forward to z, pixels from (0, 0)
        >>> project_points(np.array([[4.0, 0, 0], [2.0, 0, 0]]), straight, 1, 2, first_pixel=0).tolist()
        [[2.0, 0.0]]
    """
    check_choice("value", value, ("camera_z", "velodyne_x"))
    check_choice("collisions", collisions, ("pixel", "monodepth"))
    if points.ndim != 2 or points.shape[1] < 3:
        raise ShapeError(f"Points must have shape (N, 3 or more); got {points.shape}.")
    points = points[points[:, 0] >= 0]
    projected = points[:, :3].astype(np.float64) @ to_image[:, :3].T + to_image[:, 3]
    z = projected[:, 2]
    front = z > 0
    points, projected, z = points[front], projected[front], z[front]
    columns = np.round(projected[:, 0] / z).astype(np.int64) - first_pixel
    rows = np.round(projected[:, 1] / z).astype(np.int64) - first_pixel
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    rows, columns = rows[inside], columns[inside]
    values = (z if value == "camera_z" else points[:, 0])[inside].astype(np.float32)
    depth = np.zeros((height, width), np.float32)
    if collisions == "pixel":
        farthest_first = np.argsort(-values, kind="stable")
        depth[rows[farthest_first], columns[farthest_first]] = values[farthest_first]
        return depth
    depth[rows, columns] = values
    groups, first, member, count = np.unique(
        rows * (width - 1) + columns, return_index=True, return_inverse=True, return_counts=True
    )
    nearest = np.full(len(groups), np.inf, np.float32)
    np.minimum.at(nearest, member, values)
    shared = count > 1
    depth[rows[first[shared]], columns[first[shared]]] = nearest[shared]
    return depth


def read_poses(path: str | Path) -> Matrix:
    """Return the poses of a KITTI odometry file: 12 numbers a line, camera to world, row by row.

    Returns:
        Shape (N, 4, 4), metres.

    Raises:
        InputError: If a line does not hold 12 numbers.
    """
    try:
        rows = np.loadtxt(path, np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected 12 numbers in each line of '{path}': {error}.") from None
    if rows.shape[1] != 12:
        raise InputError(f"Expected 12 numbers in each line of '{path}'; got {rows.shape[1]}.")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    return poses
