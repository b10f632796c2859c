"""Rigid motions as (B, 4, 4) matrices: from axis-angle, from SfMLearner's Euler angles, and inverted.

A motion named ``a_to_b`` takes points of camera a to camera b: ``p_b = R p_a + t``. None of the functions is rounded by
autocast.
"""

import torch
from torch import Tensor

from fathom.errors import ShapeError
from fathom.geometry.camera import check_maps, check_matrices

_SMALL_SQUARE = 1e-4
"""Squared angle [rad^2] below which series replace quotients; their next term is under 1e-15 there."""


def pose_from_axis_angle(rotation: Tensor, translation: Tensor) -> Tensor:
    """Build motions from rotation vectors: ``R = I + sin(a)/a [r]x + (1 - cos(a))/a^2 [r]x^2`` with ``a = |r|``.

    Exact and differentiable at zero rotation.

    Args:
        rotation: Axis times angle [rad], shape (B, 3).
        translation: Shape (B, 3), any unit.

    Returns:
        Shape (B, 4, 4).

    Raises:
        ShapeError: If the shapes are not (B, 3).

    Example:
        >>> quarter = torch.tensor([[0.0, 0.0, torch.pi / 2]])
        >>> pose_from_axis_angle(quarter, torch.tensor([[1.0, 2, 3]]))[0].round().int().tolist()
        [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]

    Reference:
        Rodrigues' formula; Hartley and Zisserman, 2nd edition, appendix 4.3.2. Used by Godard et al., ICCV 2019.
    """
    _check(rotation, translation)
    square = rotation.square().sum(dim=1, keepdim=True)
    small = square < _SMALL_SQUARE
    # The square root is taken of 1 where the series is used: its own gradient at 0 would be infinite.
    angle = torch.where(small, 1.0, square).sqrt()
    sine = torch.where(small, 1 - square / 6 + square.square() / 120, angle.sin() / angle)
    # Half angles: 1 - cos would lose half of its digits for the small angles between video frames.
    cosine = torch.where(
        small, 0.5 - square / 24 + square.square() / 720, 0.5 * ((angle / 2).sin() / (angle / 2)).square()
    )
    x, y, z = (sine * rotation).unbind(dim=1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).unflatten(1, (3, 3))
    outer = rotation[:, :, None] * rotation[:, None, :]
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return _matrix(identity + skew + cosine[:, :, None] * (outer - square[:, :, None] * identity), translation)


def pose_from_euler(rotation: Tensor, translation: Tensor) -> Tensor:
    """Build motions from Euler angles in SfMLearner's order, ``R = Rx Ry Rz``: a point turns about z first.

    Args:
        rotation: Angles about x, y and z [rad], shape (B, 3).
        translation: Shape (B, 3), any unit.

    Returns:
        Shape (B, 4, 4).

    Raises:
        ShapeError: If the shapes are not (B, 3).

    Example:
        >>> quarter = torch.pi / 2
        >>> turn = pose_from_euler(torch.tensor([[quarter, 0, quarter]]), torch.zeros(1, 3))
        >>> (turn[0, :3, :3] @ torch.tensor([1.0, 0, 0])).round().int().tolist()  # x to y by z, then y to z by x
        [0, 0, 1]

    Reference:
        Zhou et al., CVPR 2017, and its published code (``xmat @ ymat @ zmat``).
    """
    _check(rotation, translation)
    (cx, cy, cz), (sx, sy, sz) = rotation.cos().unbind(dim=1), rotation.sin().unbind(dim=1)
    elements = [
        cy * cz,
        -cy * sz,
        sy,
        cx * sz + sx * sy * cz,
        cx * cz - sx * sy * sz,
        -sx * cy,
        sx * sz - cx * sy * cz,
        sx * cz + cx * sy * sz,
        cx * cy,
    ]
    return _matrix(torch.stack(elements, dim=1).unflatten(1, (3, 3)), translation)


def invert_pose(pose: Tensor) -> Tensor:
    """Return the motions back: ``R^T`` and ``-R^T t``.

    Args:
        pose: Rigid motions, shape (B, 4, 4).

    Returns:
        Shape (B, 4, 4).

    Raises:
        ShapeError: If the shape is not (B, 4, 4).

    Example:
        >>> pose = pose_from_axis_angle(torch.tensor([[0.1, -0.2, 0.3]]), torch.tensor([[1.0, 2, 3]]))
        >>> (invert_pose(pose) @ pose)[0].round(decimals=5).abs().tolist() == torch.eye(4).tolist()
        True
    """
    check_matrices(pose, "pose", 4)
    back = pose[:, :3, :3].transpose(1, 2)
    return _matrix(back, -(back * pose[:, None, :3, 3]).sum(dim=2))


def transform_points(points: Tensor, pose: Tensor) -> Tensor:
    """Move points by rigid motions: ``R p + t``.

    Args:
        points: Shape (B, 3, H, W).
        pose: Shape (B, 4, 4).

    Returns:
        Shape (B, 3, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> up = pose_from_axis_angle(torch.zeros(1, 3), torch.tensor([[0.0, -2, 0]]))
        >>> transform_points(torch.ones(1, 3, 1, 1), up).flatten().tolist()
        [1.0, -1.0, 1.0]
    """
    check_maps(points, "points", 3)
    check_matrices(pose, "pose", 4, points)
    with torch.autocast(points.device.type, enabled=False):
        moved = torch.baddbmm(pose[:, :3, 3:], pose[:, :3, :3], points.flatten(2))
    return moved.unflatten(2, points.shape[2:])


def _check(rotation: Tensor, translation: Tensor) -> None:
    if rotation.ndim != 2 or rotation.shape[1] != 3 or translation.shape != rotation.shape:
        raise ShapeError(
            f"`rotation` and `translation` must both be (B, 3); got {tuple(rotation.shape)} and "
            f"{tuple(translation.shape)}."
        )


def _matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """Put rotations (B, 3, 3) and translations (B, 3) into matrices."""
    last = rotation.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, translation[:, :, None]], dim=2), last], dim=1)
