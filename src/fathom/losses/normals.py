"""Losses on surface normals: direct, and virtual normals of far-apart points."""

import torch
from torch import Tensor

from fathom.errors import ShapeError
from fathom.losses._masking import masked_pair

_MIN_LENGTH = 1e-6


def normals_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute ``-(1/n) sum N . N*`` of the normalised vectors: -1 at best, 1 at worst.

    The gradient flows through the normalisation. Pixels whose true normal has length 0 are never used.

    Args:
        pred: Normals of any length, shape (B, 3, H, W).
        target: True normals, same shape.
        valid_mask: True where the pixel counts, shape (B, 1, H, W), bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> up = torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1)
        >>> normals_loss(5.0 * up, up).item()
        -1.0

    Reference:
        Eigen and Fergus, ICCV 2015, equation 2.
    """
    if pred.shape != target.shape or pred.ndim != 4 or pred.shape[1] != 3:
        raise ShapeError(
            f"`pred` and `target` must both be (B, 3, H, W); got {tuple(pred.shape)} and {tuple(target.shape)}."
        )
    truth_length = torch.linalg.vector_norm(target, dim=1, keepdim=True)
    _, _, usable = masked_pair(truth_length, truth_length, valid_mask, positive_target=True)
    # (1, 1, 1) stands in for unused vectors: a length of 0 would make the gradient of the norm undefined.
    p, g = torch.where(usable, pred, 1.0), torch.where(usable, target, 1.0)
    unit_p = torch.nn.functional.normalize(p, dim=1, eps=_MIN_LENGTH)
    unit_g = torch.nn.functional.normalize(g, dim=1, eps=_MIN_LENGTH)
    cosine = (unit_p * unit_g).sum(dim=1, keepdim=True)
    return -torch.where(usable, cosine, 0.0).sum() / usable.sum().clamp(min=1)


def virtual_normal_loss(
    pred: Tensor,
    target: Tensor,
    valid_mask: Tensor | None = None,
    *,
    intrinsics: Tensor,
    num_groups: int = 10000,
    min_distance: float = 0.6,
    max_cosine: float = 0.867,
    keep: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compare the normals of triangles spanned by three far-apart random points: ``mean |n_p - n_g|_1``.

    Triangles are drawn from the valid pixels of each image, and kept where the *true* one is large (all edges longer
    than `min_distance`) and not thin (no angle whose cosine exceeds `max_cosine`). Of the kept ones, the share `keep`
    with the largest loss counts. Images without a triangle are left out.

    Args:
        pred: Depth [m], shape (B, 1, H, W).
        target: Depth [m], same shape; what is not finite and above 0 is never used.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.
        intrinsics: Camera matrices [px], shape (B, 3, 3).
        num_groups: Triangles drawn for each image.
        min_distance: Shortest edge of a true triangle [m].
        max_cosine: Largest absolute cosine between two edges of a true triangle.
        keep: Share of hardest triangles, in (0, 1].
        generator: Source of the random draw, on the CPU; None means torch's global one.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> depth = torch.full((1, 1, 8, 8), 2.0)
        >>> camera = torch.tensor([[[4.0, 0, 4], [0, 4.0, 4], [0, 0, 1]]])
        >>> virtual_normal_loss(depth, depth, intrinsics=camera, num_groups=50).item()
        0.0

    Reference:
        Yin et al., "Enforcing Geometric Constraints of Virtual Normal for Depth Prediction", ICCV 2019, section 3.
    """
    if pred.ndim != 4 or pred.shape[1] != 1 or intrinsics.shape != (pred.shape[0], 3, 3):
        raise ShapeError(
            f"`pred` must be (B, 1, H, W) and `intrinsics` (B, 3, 3); got {tuple(pred.shape)} and "
            f"{tuple(intrinsics.shape)}."
        )
    p, g, usable = masked_pair(pred, target, valid_mask, positive_target=True, fill=1.0)
    total, num_images = (0.0 * p).sum(), 0
    for depth_p, depth_g, mask, camera in zip(p[:, 0], g[:, 0], usable[:, 0], intrinsics, strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        if rows.numel() < 3:
            continue
        picks = torch.randint(rows.numel(), (num_groups, 3), generator=generator).to(rows.device)
        v, u = rows[picks], columns[picks]
        true_edges = _edges(depth_g[v, u], u, v, camera)
        lengths = torch.linalg.vector_norm(true_edges, dim=-1)
        unit = true_edges / lengths.clamp(min=_MIN_LENGTH)[..., None]
        cosines = (unit * unit.roll(1, dims=1)).sum(dim=-1).abs()
        good = (lengths > min_distance).all(dim=1) & (cosines < max_cosine).all(dim=1)
        if not good.any():
            continue
        pred_normals = _triangle_normals(_edges(depth_p[v[good], u[good]], u[good], v[good], camera))
        errors = (pred_normals - _triangle_normals(true_edges[good])).abs().sum(dim=-1)
        num_kept = max(int(keep * errors.numel()), 1)
        total = total + errors.topk(num_kept, sorted=False).values.mean()
        num_images += 1
    return total / max(num_images, 1)


def _edges(depth: Tensor, u: Tensor, v: Tensor, camera: Tensor) -> Tensor:
    """Edges AB, BC, CA of unprojected triangles, shape (N, 3 edges, 3 axes)."""
    x = (u - camera[0, 2]) * depth / camera[0, 0]
    y = (v - camera[1, 2]) * depth / camera[1, 1]
    points = torch.stack((x, y, depth), dim=-1)
    return points.roll(-1, dims=1) - points


def _triangle_normals(edges: Tensor) -> Tensor:
    normals = torch.linalg.cross(edges[:, 0], edges[:, 1])
    # A predicted triangle can collapse to a line; the floor keeps its gradient finite.
    return normals / torch.linalg.vector_norm(normals, dim=-1, keepdim=True).clamp(min=_MIN_LENGTH)
