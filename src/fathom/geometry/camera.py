"""Pinhole cameras on batches: pixels to points and back, resized intrinsics, disparity and depth.

Two ways to count pixels meet here, and these functions bridge them:

* Intrinsics are those of `fathom.types.Camera` and of every batch: the centre of the first pixel is at (0.5, 0.5), so
  resizing a picture is a plain multiplication of both rows.
* Pixel positions are places in the array: the centre of pixel i is at i. ``pixels[:, 0]`` is x, the column, and
  ``pixels[:, 1]`` is y, the row.

Everything is differentiable, in the dtype of its tensors, and stays exact under autocast, which would round the
coordinates of a matrix product to 8 bits.
"""

import torch
from torch import Tensor

from fathom.errors import ShapeError

NEAREST_Z = 1e-3
"""Smallest depth that is divided by in a projection; what is nearer, or behind the camera, is in no picture."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the position of every pixel, shape (2, height, width): x, then y, with the centre of pixel i at i.

    Args:
        height: Rows.
        width: Columns.
        like: Gives dtype and device.

    Example:
        >>> pixel_grid(2, 3, torch.zeros(1)).tolist()
        [[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Turn a depth map into one point for each pixel: ``z ((x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, 1)``.

    Args:
        depth: Along the optical axis [m], shape (B, 1, H, W).
        intrinsics: Of this resolution [px], first pixel centre at (0.5, 0.5), shape (B, 3, 3).

    Returns:
        Points [m], x right, y down, z forward, shape (B, 3, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> camera = torch.tensor([[[2.0, 0, 1], [0, 2, 0.5], [0, 0, 1]]])
        >>> unproject(torch.full((1, 1, 1, 2), 4.0), camera)[0, :, 0].T.tolist()
        [[-1.0, 0.0, 4.0], [1.0, 0.0, 4.0]]

    Reference:
        Hartley and Zisserman, "Multiple View Geometry in Computer Vision", 2nd edition, section 6.1.
    """
    check_maps(depth, "depth", 1)
    check_matrices(intrinsics, "intrinsics", 3, depth)
    x, y = pixel_grid(depth.shape[2], depth.shape[3], depth)
    fx, fy, cx, cy = _pinhole(intrinsics)
    return torch.cat([(x + 0.5 - cx) / fx * depth, (y + 0.5 - cy) / fy * depth, depth], dim=1)


def project(points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Turn points into positions in the picture: ``(fx x / z + cx - 0.5, fy y / z + cy - 0.5)``.

    A point with z below `NEAREST_Z` is projected with that depth, which lands far away unless it lies on the axis:
    check the returned z.

    Args:
        points: x right, y down, z forward [m], shape (B, 3, H, W).
        intrinsics: Of the wanted resolution [px], first pixel centre at (0.5, 0.5), shape (B, 3, 3).

    Returns:
        pixels: x and y [px], centre of pixel i at i, shape (B, 2, H, W).
        z: Depth of the points [m], shape (B, 1, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> camera = torch.tensor([[[2.0, 0, 1], [0, 2, 0.5], [0, 0, 1]]])
        >>> pixels, z = project(torch.tensor([1.0, 0.0, 4.0]).reshape(1, 3, 1, 1), camera)
        >>> pixels.flatten().tolist(), z.item()
        ([1.0, 0.0], 4.0)

    Reference:
        Hartley and Zisserman, "Multiple View Geometry in Computer Vision", 2nd edition, section 6.1.
    """
    check_maps(points, "points", 3)
    check_matrices(intrinsics, "intrinsics", 3, points)
    fx, fy, cx, cy = _pinhole(intrinsics)
    x, y, z = points.split(1, dim=1)
    divisor = z.clamp(min=NEAREST_Z)
    return torch.cat([fx * x / divisor + (cx - 0.5), fy * y / divisor + (cy - 0.5)], dim=1), z


def scale_intrinsics(intrinsics: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return the intrinsics of the resized picture: both rows are multiplied.

    Exact because the centre of the first pixel counts as (0.5, 0.5). A principal point that is counted from 0 must not
    be passed through here: it would move by half a pixel times the factor.

    Args:
        intrinsics: [px], first pixel centre at (0.5, 0.5), shape (B, 3, 3).
        before: Rows and columns of the picture they belong to.
        after: Rows and columns of the resized picture.

    Returns:
        Shape (B, 3, 3).

    Raises:
        ShapeError: If the shapes do not fit, or a size is not positive.

    Example:
        >>> camera = torch.tensor([[[500.0, 0, 320], [0, 400, 240], [0, 0, 1]]])
        >>> scale_intrinsics(camera, (480, 640), (240, 160))[0, :2].tolist()
        [[125.0, 0.0, 80.0], [0.0, 200.0, 120.0]]
    """
    check_matrices(intrinsics, "intrinsics", 3)
    if min(*before, *after) < 1:
        raise ShapeError(f"Rows and columns must be positive; got {tuple(before)} and {tuple(after)}.")
    factors = intrinsics.new_tensor([after[1] / before[1], after[0] / before[0], 1.0])
    return intrinsics * factors[:, None]


def disparity_to_depth(disparity: Tensor, focal_px: Tensor | float, baseline_m: Tensor | float) -> Tensor:
    """Compute ``z = f b / d``: the depth of a rectified stereo pair.

    Args:
        disparity: Positive [px] of the resolution of `focal_px`, shape (B, 1, H, W). 0 gives infinity.
        focal_px: Horizontal focal length [px], a number or one for each picture, shape (B,).
        baseline_m: Distance between the cameras [m], likewise.

    Returns:
        Depth [m], shape (B, 1, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> disparity_to_depth(torch.full((1, 1, 1, 1), 10.0), 721.5377, 0.54).item()
        38.96303939819336

    Reference:
        Hartley and Zisserman, 2nd edition, section 11.12. (An often copied note prints the fraction upside down.)
    """
    return _per_picture(focal_px, disparity) * _per_picture(baseline_m, disparity) / disparity


def depth_to_disparity(depth: Tensor, focal_px: Tensor | float, baseline_m: Tensor | float) -> Tensor:
    """Compute ``d = f b / z``, the inverse of `disparity_to_depth` and the same formula: metres in, pixels out.

    Other arguments and errors are those of `disparity_to_depth`.

    Example:
        >>> depth_to_disparity(torch.full((1, 1, 1, 1), 5.4), torch.tensor([700.0]), 0.54).round().item()
        70.0
    """
    return disparity_to_depth(depth, focal_px, baseline_m)


def check_maps(maps: Tensor, name: str, channels: int | None = None) -> None:
    """Refuse what is not a batch of maps with that many channels.

    Raises:
        ShapeError: If it is not.
    """
    if maps.ndim != 4 or channels not in (None, maps.shape[1]):
        wanted = "C" if channels is None else channels
        raise ShapeError(f"`{name}` must be (B, {wanted}, H, W); got {tuple(maps.shape)}.")


def check_matrices(matrices: Tensor, name: str, size: int, maps: Tensor | None = None) -> None:
    """Refuse what is not one square matrix for each of the maps.

    Raises:
        ShapeError: If it is not.
    """
    if matrices.shape[1:] != (size, size) or (maps is not None and len(matrices) != len(maps)):
        count = "B" if maps is None else len(maps)
        raise ShapeError(f"`{name}` must be ({count}, {size}, {size}); got {tuple(matrices.shape)}.")


def _pinhole(intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return fx, fy, cx, cy, each (B, 1, 1, 1)."""
    k = intrinsics[:, :, :, None, None]
    return k[:, 0:1, 0], k[:, 1:2, 1], k[:, 0:1, 2], k[:, 1:2, 2]


def _per_picture(value: Tensor | float, maps: Tensor) -> Tensor | float:
    check_maps(maps, "disparity", 1)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != maps.shape[:1]:
        raise ShapeError(f"Give one number for each of the {len(maps)} pictures; got shape {tuple(value.shape)}.")
    return value.to(maps)[:, None, None, None]
