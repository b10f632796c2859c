"""Moving pictures between views: inverse warping by depth and pose or by disparity, forward warping, occlusion.

*Inverse* warping asks, for each pixel of the target, where it lies in the source, and reads there: no holes,
differentiable, but a hidden surface shows its occluder twice. *Forward* warping (`splat`) sends each source pixel to
where it lands: nothing twice, but holes where nothing lands, and collisions that the nearer surface wins.

Intrinsics and pixel positions are counted as in `fathom.geometry.camera`. Pictures are read bilinearly between pixel
centres: `grid_sample` with ``align_corners=False``, for which -1 and 1 are the outer edges of the picture. This reads
the same values as positions divided by W - 1 with ``align_corners=True``, the way older code wrote it.

Padding, for what is read outside: ``border`` repeats the outermost pixels; ``zeros`` blends into 0 over one pixel.
"""

import functools
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import ConfigError, ShapeError
from fathom.geometry.camera import NEAREST_Z, check_maps, check_matrices, pixel_grid, project, unproject
from fathom.geometry.pose import transform_points

Padding = Literal["border", "zeros"]


def sample_horizontal(image: Tensor, shift_px: Tensor, *, padding: Padding = "border") -> Tensor:
    """Read an image at ``x + shift`` on each row, linearly between pixels: ``out(x, y) = image(x + shift(x, y), y)``.

    For a rectified pair, ``left(x) = right(x - d)`` and ``right(x) = left(x + d)``. Differentiable in both arguments.

    Args:
        image: Shape (B, C, H, W).
        shift_px: Shift [px] of this resolution, shape (B, 1, H, W), finite.
        padding: Beyond the image, ``border`` repeats its outermost column, ``zeros`` reads 0.

    Returns:
        Shape (B, C, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> ramp = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> sample_horizontal(ramp, torch.full((1, 1, 1, 4), -0.5)).tolist()
        [[[[0.0, 0.5, 1.5, 2.5]]]]
    """
    if image.ndim != 4 or shift_px.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ShapeError(
            f"`image` must be (B, C, H, W) and `shift_px` (B, 1, H, W); got {tuple(image.shape)} and "
            f"{tuple(shift_px.shape)}."
        )
    width = image.shape[-1]
    # Half precision could not tell neighbouring positions of a wide picture apart.
    x = torch.arange(width, device=image.device, dtype=torch.promote_types(shift_px.dtype, torch.float32)) + shift_px
    if padding == "border":
        x = x.clamp(0, width - 1)
    floor = x.detach().floor()
    fraction = (x - floor).to(torch.promote_types(image.dtype, shift_px.dtype))
    return _column(image, floor, padding) * (1 - fraction) + _column(image, floor + 1, padding) * fraction


def _column(image: Tensor, x: Tensor, padding: str) -> Tensor:
    """Read whole columns x, shape (B, 1, H, W)."""
    width = image.shape[-1]
    index = x.clamp(0, width - 1).long().expand_as(image)
    values = image.gather(-1, index)
    return values if padding == "border" else torch.where((x >= 0) & (x <= width - 1), values, 0.0)


def warp_by_disparity(
    source: Tensor, disparity: Tensor, *, direction: int = -1, padding: Padding = "border"
) -> tuple[Tensor, Tensor]:
    """Rebuild one view of a rectified pair from the other: ``out(x, y) = source(x + direction d(x, y), y)``.

    Args:
        source: The other view, shape (B, C, H, W).
        disparity: Of the view that is rebuilt [px of this resolution], at least 0, shape (B, 1, H, W).
        direction: -1 rebuilds the left view from the right one, 1 the right view from the left one.
        padding: What is read outside; see the head of this file.

    Returns:
        warped: Shape (B, C, H, W).
        in_view: True where the position lies in the source picture, shape (B, 1, H, W), bool.

    Raises:
        ShapeError: If the shapes do not fit.
        ConfigError: If `direction` is neither -1 nor 1.

    Example:
        >>> right = torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
        >>> left, in_view = warp_by_disparity(right, torch.full((1, 1, 1, 4), 2.0))
        >>> left.flatten().tolist(), in_view.flatten().tolist()
        ([1.0, 1.0, 1.0, 2.0], [False, False, True, True])

    Reference:
        Godard et al., CVPR 2017, section 3.3.
    """
    if direction not in (-1, 1):
        raise ConfigError(f"`direction` must be -1 (left from right) or 1 (right from left); got {direction}.")
    warped = sample_horizontal(source, direction * disparity, padding=padding)
    width = source.shape[-1]
    x = torch.arange(width, device=source.device) + direction * disparity.detach().float()
    return warped, (x >= -0.5) & (x <= width - 0.5)


def warp_by_depth(
    source: Tensor,
    depth_of_target: Tensor,
    target_to_source: Tensor,
    intrinsics: Tensor,
    source_intrinsics: Tensor | None = None,
    *,
    padding: Padding = "border",
) -> tuple[Tensor, Tensor]:
    """Rebuild the target view from a source picture, the target's depth and the motion between the cameras.

    Each target pixel u is read at ``project(R unproject(u, depth) + t)`` in the source. Differentiable in the source,
    the depth, the motion and both intrinsics. Under autocast the positions are computed in full precision.

    Args:
        source: Source picture, shape (B, C, h, w); its size may differ from that of the target.
        depth_of_target: Along the optical axis of the target, shape (B, 1, H, W), positive and finite.
        target_to_source: Takes points of the target camera to the source camera, translation in the unit of the depth,
            shape (B, 4, 4).
        intrinsics: Of the target at (H, W) [px], first pixel centre at (0.5, 0.5), shape (B, 3, 3).
        source_intrinsics: Of the source at (h, w), likewise; default: those of the target, for pictures of one size.
        padding: What is read outside; see the head of this file.

    Returns:
        warped: The target view, shape (B, C, H, W).
        in_view: True where the point lies in front of the source camera and in its picture, shape (B, 1, H, W), bool.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> source = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> camera = torch.tensor([[[4.0, 0, 2], [0, 4, 1.5], [0, 0, 1]]])
        >>> motion = torch.eye(4)[None].clone()
        >>> motion[:, 0, 3] = -0.5  # the source camera is half a metre to the right: d = 4 * 0.5 / 2 = 1 px
        >>> warped, in_view = warp_by_depth(source, torch.full((1, 1, 3, 4), 2.0), motion, camera)
        >>> warped[0, 0, 0].round(decimals=5).tolist(), in_view[0, 0, 0].tolist()
        ([0.0, 0.0, 1.0, 2.0], [False, True, True, True])

    Reference:
        Zhou et al., CVPR 2017, equation 2; Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015.
    """
    check_maps(source, "source")
    check_maps(depth_of_target, "depth_of_target", 1)
    check_matrices(target_to_source, "target_to_source", 4, depth_of_target)
    check_matrices(intrinsics, "intrinsics", 3, depth_of_target)
    if len(source) != len(depth_of_target):
        raise ShapeError(f"`source` must hold {len(depth_of_target)} pictures, as the depth does; got {len(source)}.")
    if source_intrinsics is None:
        source_intrinsics = intrinsics
        if source.shape[2:] != depth_of_target.shape[2:]:
            raise ShapeError(
                f"The source is {tuple(source.shape[2:])} and the depth {tuple(depth_of_target.shape[2:])}. Give "
                "`source_intrinsics`, or resize one of them."
            )
    check_matrices(source_intrinsics, "source_intrinsics", 3, depth_of_target)
    # Half precision could not tell neighbouring positions of a wide picture apart.
    exact = functools.reduce(
        torch.promote_types, (t.dtype for t in (source, depth_of_target, target_to_source)), torch.float32
    )
    grid, z = _positions(
        depth_of_target.to(exact),
        target_to_source.to(exact),
        intrinsics.to(exact),
        source_intrinsics.to(exact),
        source.shape[2:],
    )
    in_view = (z > NEAREST_Z)[:, None] & (grid.detach().abs() <= 1).all(dim=-1)[:, None]
    warped = torch.nn.functional.grid_sample(
        source.to(exact), grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return warped.to(source.dtype), in_view


def _positions(
    depth: Tensor, motion: Tensor, intrinsics: Tensor, source_intrinsics: Tensor, source_size: torch.Size
) -> tuple[Tensor, Tensor]:
    """Return where each target pixel lies in the source, (B, H, W, 2) from -1 to 1, and its depth there (B, H, W).

    ``z_s (x_s, y_s, 1) = z K_s R K^-1 (x, y, 1) + K_s t``: the 3 x 3 product is taken once, so that only a product and
    a sum are left for each pixel.
    """
    height, width = depth.shape[2:]
    with torch.autocast(depth.device.type, enabled=False):
        # From places in the source to -1 ... 1 across its outer edges.
        rows, columns = source_size
        to_unit = depth.new_tensor([[2 / columns, 0, -1], [0, 2 / rows, -1], [0, 0, 1]])
        to_source = to_unit @ source_intrinsics
        back = torch.linalg.inv_ex(intrinsics).inverse  # unlike inv, it does not wait for a GPU to check the result
        places = torch.cat([pixel_grid(height, width, depth) + 0.5, depth.new_ones(1, height, width)]).flatten(1)
        rays = (to_source @ motion[:, :3, :3] @ back) @ places
        moved = rays * depth.flatten(2) + to_source @ motion[:, :3, 3:]
    z = moved[:, 2:]
    # Far outside, float32 cannot hold positions; what lies beyond 2 reads the same as 2.
    grid = (moved[:, :2] / z.clamp(min=NEAREST_Z)).clamp(-2, 2)
    return grid.transpose(1, 2).unflatten(1, (height, width)), z.detach()[:, 0].unflatten(1, (height, width))


def splat(values: Tensor, pixels: Tensor, z: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Send each pixel to where it lands (forward warping), rounded to the nearest pixel; the nearest surface wins.

    Deterministic on every device: among equal depths the first pixel in reading order wins. The gradient reaches the
    values, not the positions.

    Args:
        values: What is sent, shape (B, C, H, W).
        pixels: Where it lands, x and y [px], centre of pixel i at i, shape (B, 2, H, W).
        z: Depth there, shape (B, 1, H, W); what is not finite and positive is not sent.
        size: Rows and columns of the result.

    Returns:
        splatted: Shape (B, C, *size), 0 where nothing lands.
        hit: True where something lands, shape (B, 1, *size), bool.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> values = torch.tensor([5.0, 6, 7]).reshape(1, 1, 1, 3)
        >>> pixels = torch.tensor([[0.2, 2.0, 2.4], [0, 0, 0]]).reshape(1, 2, 1, 3)
        >>> z = torch.tensor([1.0, 3, 2]).reshape(1, 1, 1, 3)
        >>> splatted, hit = splat(values, pixels, z, (1, 3))
        >>> splatted.flatten().tolist(), hit.flatten().tolist()
        ([5.0, 0.0, 7.0], [True, False, True])

    Reference:
        Catmull, "A Subdivision Algorithm for Computer Display of Curved Surfaces", 1974 (the z-buffer).
    """
    check_maps(values, "values")
    batch, channels, rows, columns = values.shape
    if pixels.shape != (batch, 2, rows, columns) or z.shape != (batch, 1, rows, columns) or min(size) < 1:
        raise ShapeError(
            f"`pixels` must be {(batch, 2, rows, columns)} and `z` {(batch, 1, rows, columns)}, and `size` positive; "
            f"got {tuple(pixels.shape)}, {tuple(z.shape)} and {tuple(size)}."
        )
    place, sent = _landing(pixels.detach(), z.detach(), size)
    depth = torch.where(sent, z.detach().flatten(1), torch.inf)
    cells = size[0] * size[1]
    nearest = depth.new_full((batch, cells), torch.inf).scatter_reduce(1, place, depth, "amin")
    wins = sent & (depth == nearest.gather(1, place))
    # A second pass makes the winner among equals unique, whatever order a device works in.
    none = rows * columns
    order = torch.arange(none, device=values.device).expand(batch, none)
    winner = torch.full_like(place[:, :1].expand(batch, cells), none).scatter_reduce(
        1, place, torch.where(wins, order, none), "amin"
    )
    hit = winner < none
    taken = values.flatten(2).gather(2, winner.clamp(max=none - 1)[:, None].expand(batch, channels, cells))
    return (
        torch.where(hit[:, None], taken, taken.new_zeros(())).unflatten(2, size),
        hit[:, None].unflatten(2, size),
    )


def _landing(pixels: Tensor, z: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the cell each pixel lands in, (B, N) int64, and whether it lands in the picture at all."""
    # Halves go up, everywhere alike; `round` would send 0.5 and 1.5 apart by two pixels.
    x, y = (pixels + 0.5).floor().flatten(2).unbind(dim=1)
    depth = z.flatten(1)
    sent = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0]) & (depth > 0) & depth.isfinite()
    return (torch.where(sent, y, 0.0).long() * size[1] + torch.where(sent, x, 0.0).long()), sent


def visible_by_depth(
    depth_of_target: Tensor,
    target_to_source: Tensor,
    intrinsics: Tensor,
    source_intrinsics: Tensor | None = None,
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = 0.05,
) -> Tensor:
    """Tell which target pixels the source sees: those that no nearer surface hides when all are splatted there.

    Args:
        depth_of_target: Shape (B, 1, H, W).
        target_to_source: Takes points of the target camera to the source camera, shape (B, 4, 4).
        intrinsics: Of the target, as in `warp_by_depth`, shape (B, 3, 3).
        source_intrinsics: Of the source; default: those of the target.
        size: Rows and columns of the source; default: those of the target.
        tolerance: How much farther than the nearest surface of its source pixel a point may lie and still count as
            seen, relative; slanted surfaces need some.

    Returns:
        True where the source sees the pixel, False where it is hidden or out of view, shape (B, 1, H, W), bool.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> depth = torch.tensor([4.0, 4, 2, 4]).reshape(1, 1, 1, 4)
        >>> camera = torch.tensor([[[4.0, 0, 2], [0, 4, 0.5], [0, 0, 1]]])
        >>> motion = torch.eye(4)[None].clone()
        >>> motion[:, 0, 3] = -1.0  # a shift of 1 px at 4 m, of 2 px at 2 m: the third pixel lands before the second
        >>> visible_by_depth(depth, motion, camera).flatten().tolist()
        [False, False, True, True]
    """
    size = size or (depth_of_target.shape[2], depth_of_target.shape[3])
    with torch.no_grad():
        moved = transform_points(unproject(depth_of_target, intrinsics), target_to_source)
        pixels, z = project(moved, intrinsics if source_intrinsics is None else source_intrinsics)
        nearest, _ = splat(z, pixels, z, size)
        place, sent = _landing(pixels, z, size)
        seen = sent & (z.flatten(1) <= (1 + tolerance) * nearest.flatten(1).gather(1, place))
    return seen[:, None].unflatten(2, depth_of_target.shape[2:])


def visible_by_disparity(disparity: Tensor, other: Tensor, *, direction: int = -1, tolerance_px: float = 1.0) -> Tensor:
    """Tell which pixels both views of a rectified pair see: those whose disparities agree, ``|d_R(x - d_L) - d_L|``.

    Args:
        disparity: Of this view [px], shape (B, 1, H, W).
        other: Of the other view [px], same shape.
        direction: -1 if this view is the left one, 1 if it is the right one.
        tolerance_px: Largest difference [px].

    Returns:
        True where both agree, shape (B, 1, H, W), bool; False where hidden or out of view.

    Raises:
        ShapeError: If the shapes do not fit.
        ConfigError: If `direction` is neither -1 nor 1.

    Example:
        >>> left = torch.tensor([0.0, 0, 2, 0]).reshape(1, 1, 1, 4)
        >>> right = torch.tensor([2.0, 0, 0, 0]).reshape(1, 1, 1, 4)
        >>> visible_by_disparity(left, right).flatten().tolist()  # the first pixel is hidden behind the third
        [False, True, True, True]

    Reference:
        Egnal and Wildes, "Detecting Binocular Half-Occlusions", TPAMI 2002 (the left-right check).
    """
    seen, in_view = warp_by_disparity(other, disparity, direction=direction)
    return in_view & ((seen - disparity).abs() <= tolerance_px)
