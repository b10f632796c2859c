"""The metrics on torch batches: one value for each image, equal to the NumPy reference to 1e-6.

All sums run in float64. An image without a valid pixel cannot raise inside a batch: its scores are NaN, for the caller
to leave out and count. Edge detection (iBims-1) exists in NumPy only.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fathom.errors import ConfigError, ShapeError
from fathom.metrics.depth import DELTA_BASE, LN_10, SILOG_VARIANTS, SilogVariant
from fathom.metrics.normals import ANGLES_DEG
from fathom.metrics.similarity import ssim_taps
from fathom.metrics.uncertainty import NUM_INTERVALS


def score_depth(
    pred: Tensor, target: Tensor, valid_mask: Tensor, *, silog_variant: SilogVariant = SILOG_VARIANTS["kitti"]
) -> dict[str, Tensor]:
    """Compute all usual depth metrics of each image; names and formulas as in `fathom.metrics.score_depth`.

    Args:
        pred: Depth [m], shape (B, H, W), above 0 wherever it counts (else the scores of that image are not finite).
        target: Depth [m], shape (B, H, W); not finite or not above 0 is never scored.
        valid_mask: Pixels to score, shape (B, H, W), bool.
        silog_variant: Which scale-invariant log error ``silog`` is.

    Returns:
        Scores by name, each float64 of shape (B,).

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> pred = torch.tensor([[[1.1, 1.8, 5.0, 8.0]]])
        >>> score_depth(pred, target, target > 0)["delta1"].tolist()
        [0.75]
    """
    usable = _usable(pred, target, valid_mask)
    p, g, n = _safe(pred, usable), _safe(target, usable), usable.sum(dim=(-2, -1))

    def mean(values: Tensor) -> Tensor:
        return torch.where(usable, values, 0.0).sum(dim=(-2, -1)) / n

    error, d, inverse_error = (p - g).abs(), torch.log(p / g), 1 / p - 1 / g
    worst = torch.maximum(p / g, g / p)
    mean_square_error, mean_square_log, mean_log = mean(error**2), mean(d**2), mean(d)
    spread = (mean_square_log - mean_log**2).clamp(min=0)
    if silog_variant.unbiased:
        spread = spread * n / (n - 1)
    inside = spread + (1 - silog_variant.mean_weight) * mean_log**2
    return {
        "abs_rel": mean(error / g),
        "sq_rel": mean(error**2 / g),
        "rmse": mean_square_error.sqrt(),
        "rmse_log": mean_square_log.sqrt(),
        "log10": mean(d.abs()) / LN_10,
        "silog": silog_variant.scale * (inside.sqrt() if silog_variant.root else inside),
        "delta1": mean((worst < DELTA_BASE).double()),
        "delta2": mean((worst < DELTA_BASE**2).double()),
        "delta3": mean((worst < DELTA_BASE**3).double()),
        "mae": mean(error),
        "mse": mean_square_error,
        "irmse": mean(inverse_error**2).sqrt(),
        "imae": mean(inverse_error.abs()),
        "median_ae": _masked_median(error, usable),
    }


def d1(pred: Tensor, target: Tensor, valid_mask: Tensor) -> Tensor:
    """Compute the share of disparity outliers of each image, shape (B,); as `fathom.metrics.d1`."""
    usable = _usable(pred, target, valid_mask)
    p, g = _safe(pred, usable), _safe(target, usable)
    error = (p - g).abs()
    wrong = usable & (error >= 3.0) & (error >= 0.05 * g)
    return wrong.sum(dim=(-2, -1)).double() / usable.sum(dim=(-2, -1))


def ssim(pred: Tensor, target: Tensor, valid_mask: Tensor, *, data_range: float, window: str = "gaussian") -> Tensor:
    """Compute the structural similarity of each image, shape (B,); as `fathom.metrics.ssim`.

    Example:
        >>> depth = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
        >>> torch.allclose(ssim(depth, depth, depth > 0, data_range=2.0), torch.ones(2, dtype=torch.float64))
        True
    """
    _check(pred, target, valid_mask)
    usable = valid_mask & torch.isfinite(target)
    taps = torch.from_numpy(ssim_taps(window)).to(pred.device)
    p = torch.where(usable, pred, 0.0).double()
    g = torch.where(usable, target, 0.0).double()
    mean_p, mean_g = _filter(p, taps), _filter(g, taps)
    var_p, var_g = _filter(p * p, taps) - mean_p**2, _filter(g * g, taps) - mean_g**2
    covariance = _filter(p * g, taps) - mean_p * mean_g
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_p * mean_g + c1) * (2 * covariance + c2)) / (
        (mean_p**2 + mean_g**2 + c1) * (var_p + var_g + c2)
    )
    whole = _filter((~usable).double(), torch.ones_like(taps)) < 0.5
    return torch.where(whole, similarity, 0.0).sum(dim=(-2, -1)) / whole.sum(dim=(-2, -1))


def boundary_f1(pred: Tensor, target: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
    """Compute boundary ``precision``, ``recall`` and ``f1`` of each image, each (B,); as `fathom.metrics.boundary_f1`.

    Example:
        >>> depth = torch.full((1, 4, 4), 2.0)
        >>> depth[:, :, 2:] = 4.0
        >>> round(boundary_f1(depth, depth, depth > 0)["f1"].item(), 6)
        0.25
    """
    usable = _usable(pred, target, valid_mask)
    inverse_p, inverse_g = (1 / _safe(x, usable).clamp(min=1e-6) for x in (pred, target))
    thresholds = torch.linspace(1.05, 1.25, 10, dtype=torch.float64, device=pred.device)
    weights = thresholds / thresholds.sum()
    precisions, recalls = torch.zeros(2, 10, len(pred), dtype=torch.float64, device=pred.device)
    for axis in (-1, -2):
        size = pred.shape[axis]
        pair = usable.narrow(axis, 0, size - 1) & usable.narrow(axis, 1, size - 1)
        ratio_p = inverse_p.narrow(axis, 0, size - 1) / inverse_p.narrow(axis, 1, size - 1)
        ratio_g = inverse_g.narrow(axis, 0, size - 1) / inverse_g.narrow(axis, 1, size - 1)
        # The other direction divides anew: 1/ratio could round to the other side of a threshold.
        back_p = inverse_p.narrow(axis, 1, size - 1) / inverse_p.narrow(axis, 0, size - 1)
        back_g = inverse_g.narrow(axis, 1, size - 1) / inverse_g.narrow(axis, 0, size - 1)
        for edge_p, edge_g in ((ratio_p, ratio_g), (back_p, back_g)):
            for index, threshold in enumerate(thresholds):
                found, true = pair & (edge_p > threshold), pair & (edge_g > threshold)
                matches = (found & true).sum(dim=(-2, -1)).double()
                precisions[index] += matches / found.sum(dim=(-2, -1)).clamp(min=1) / 4
                recalls[index] += matches / true.sum(dim=(-2, -1)).clamp(min=1) / 4
    total = precisions + recalls
    f1 = torch.where(total > 0, 2 * precisions * recalls / total.clamp(min=1e-12), 0.0)
    empty = usable.sum(dim=(-2, -1)) == 0
    scores = {"precision": weights @ precisions, "recall": weights @ recalls, "f1": weights @ f1}
    return {name: torch.where(empty, math.nan, value) for name, value in scores.items()}


def score_normals(pred: Tensor, target: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
    """Compute the scores of normal maps (B, H, W, 3), each (B,); as `fathom.metrics.score_normals`."""
    length = target.norm(dim=-1)
    usable = valid_mask & torch.isfinite(length) & (length > 0)
    up = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64, device=pred.device)
    p = torch.where(usable[..., None], pred.double(), up)
    g = torch.where(usable[..., None], target.double(), up)
    cosine = (p * g).sum(dim=-1) / (p.norm(dim=-1) * g.norm(dim=-1))
    angles = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    n = usable.sum(dim=(-2, -1))
    scores = {
        "mean_deg": torch.where(usable, angles, 0.0).sum(dim=(-2, -1)) / n,
        "median_deg": _masked_median(angles, usable),
    }
    return scores | {
        name: (usable & (angles < limit)).sum(dim=(-2, -1)).double() / n for name, limit in ANGLES_DEG.items()
    }


def confusion_matrix(
    pred: Tensor, target: Tensor, valid_mask: Tensor, *, num_classes: int, ignore: tuple[int, ...] = (255,)
) -> Tensor:
    """Count pixels by true and predicted class of each image, shape (B, C, C); as `fathom.metrics.confusion_matrix`."""
    _check(pred, target, valid_mask)
    usable = valid_mask & ~torch.isin(target, torch.tensor(ignore, device=target.device, dtype=target.dtype))
    images = torch.arange(len(pred), device=pred.device)[:, None, None].expand_as(pred)
    cells = (images * num_classes + target.long()) * num_classes + pred.long()
    counts = torch.bincount(cells[usable], minlength=len(pred) * num_classes**2)
    return counts.reshape(len(pred), num_classes, num_classes)


def whdr(
    pred: Tensor, first: Tensor, second: Tensor, relation: Tensor, weight: Tensor, *, ratio_threshold: float
) -> Tensor:
    """Compute the weighted human disagreement rate of each image, shape (B,); as `fathom.metrics.whdr`.

    Args:
        pred: Depth, shape (B, H, W).
        first: Rows and columns, shape (B, N, 2), int64.
        second: Rows and columns, shape (B, N, 2), int64.
        relation: 1, -1 or 0, shape (B, N).
        weight: Weights, shape (B, N); 0 pads images with fewer pairs.
        ratio_threshold: At least 1.
    """
    image = torch.arange(len(pred), device=pred.device)[:, None]
    ratio = pred[image, first[..., 0], first[..., 1]].double() / pred[image, second[..., 0], second[..., 1]].double()
    found = (ratio > ratio_threshold).long() - (ratio < 1 / ratio_threshold).long()
    weight = weight.double()
    return (weight * (found != relation)).sum(dim=-1) / weight.sum(dim=-1)


def score_points(pred: Tensor, target: Tensor, *, threshold: float) -> dict[str, Tensor]:
    """Compute Chamfer distance and F-score of point clouds (B, N, 3) and (B, M, 3), each (B,).

    Names as in `fathom.metrics.PointCloudScore`. It builds the (B, N, M) distances, so thin large clouds first.
    """
    # The matrix-product shortcut of cdist loses digits for points that coincide.
    distances = torch.cdist(pred.double(), target.double(), compute_mode="donot_use_mm_for_euclid_dist")
    to_target, to_pred = distances.amin(dim=-1), distances.amin(dim=-2)
    accuracy, completeness = to_target.mean(dim=-1), to_pred.mean(dim=-1)
    precision = (to_target < threshold).double().mean(dim=-1)
    recall = (to_pred < threshold).double().mean(dim=-1)
    total = precision + recall
    return {
        "accuracy": accuracy,
        "completeness": completeness,
        "chamfer": accuracy + completeness,
        "precision": precision,
        "recall": recall,
        "f_score": torch.where(total > 0, 2 * precision * recall / total.clamp(min=1e-12), 0.0),
    }


def trajectory_ate(pred: Tensor, target: Tensor) -> Tensor:
    """Compute the trajectory error of each snippet (B, N, 3), shape (B,); as `fathom.metrics.trajectory_ate`."""
    p, g = (x.double() - x[:, :1].double() for x in (pred, target))
    scale = (g * p).sum(dim=(-2, -1), keepdim=True) / (p * p).sum(dim=(-2, -1), keepdim=True)
    return (scale * p - g).square().sum(dim=(-2, -1)).sqrt() / pred.shape[1]


def sparsification(
    pred: Tensor, target: Tensor, valid_mask: Tensor, *, uncertainty: Tensor, error: str = "abs_rel"
) -> dict[str, Tensor]:
    """Compute ``ause`` and ``aurg`` of each image, each (B,); as `fathom.metrics.sparsification`.

    Args:
        pred: Depth [m], shape (B, H, W).
        target: Depth [m], same shape.
        valid_mask: Pixels to score, same shape, bool.
        uncertainty: Larger means less sure, same shape.
        error: ``abs_rel``, ``rmse`` or ``delta1``.
    """
    usable = _usable(pred, target, valid_mask)
    p, g, doubt = (_safe(x, usable) for x in (pred, target, uncertainty))
    if error == "abs_rel":
        errors = (p - g).abs() / g
    elif error == "rmse":
        errors = (p - g).square()
    elif error == "delta1":
        errors = (torch.maximum(p / g, g / p) >= DELTA_BASE).double()
    else:
        raise ConfigError(f"Unknown error '{error}' for sparsification. Known: abs_rel, rmse, delta1.")
    n = usable.flatten(1).sum(dim=1)
    steps = torch.arange(NUM_INTERVALS, 0, -1, device=pred.device)
    kept = -(-n[:, None] * steps // NUM_INTERVALS)
    curves = []
    for order in (doubt, errors):
        # Unused pixels sort last and are never kept.
        index = torch.where(usable, order, math.inf).flatten(1).argsort(dim=1, stable=True)
        sums = errors.flatten(1).gather(1, index).cumsum(dim=1)
        means = sums.gather(1, kept.clamp(min=1) - 1) / kept
        curve = means.sqrt() if error == "rmse" else means
        curves.append(torch.cat((curve, torch.zeros_like(curve[:, :1])), dim=1))
    area, oracle_area = (((c[:, 1:] + c[:, :-1]) / 2).mean(dim=1) for c in curves)
    return {"ause": area - oracle_area, "aurg": curves[0][:, 0] - area}


def temporal_change_error(pred: Tensor, target: Tensor, valid_mask: Tensor) -> Tensor:
    """Compute the temporal error of one clip (T, H, W), a scalar; as `fathom.metrics.temporal_change_error`."""
    usable = _usable(pred, target, valid_mask)
    errors = torch.log(_safe(pred, usable) / _safe(target, usable))
    both = usable[1:] & usable[:-1]
    return torch.where(both, (errors[1:] - errors[:-1]).abs(), 0.0).sum() / both.sum()


def _check(pred: Tensor, target: Tensor, valid_mask: Tensor) -> None:
    if not pred.shape == target.shape == valid_mask.shape or pred.ndim != 3:
        raise ShapeError(
            "`pred`, `target` and `valid_mask` must have one shape (B, H, W); got "
            f"{tuple(pred.shape)}, {tuple(target.shape)} and {tuple(valid_mask.shape)}. Drop the channel axis."
        )
    if valid_mask.dtype != torch.bool:
        raise ShapeError(f"`valid_mask` must be bool; got {valid_mask.dtype}. Use for instance `target > 0`.")


def _usable(pred: Tensor, target: Tensor, valid_mask: Tensor) -> Tensor:
    _check(pred, target, valid_mask)
    return valid_mask & torch.isfinite(target) & (target > 0)


def _safe(values: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, values, 1.0).double()


def _masked_median(values: Tensor, usable: Tensor) -> Tensor:
    """Median of each image with the middle of the two for an even count; NaN for an empty image."""
    ordered = torch.where(usable, values, math.inf).flatten(1).sort(dim=1).values
    n = usable.flatten(1).sum(dim=1)
    lower = ordered.gather(1, ((n - 1).clamp(min=0) // 2)[:, None])
    upper = ordered.gather(1, (n // 2).clamp(max=ordered.shape[1] - 1)[:, None])
    return torch.where(n > 0, ((lower + upper) / 2).squeeze(1), math.nan)


def _filter(values: Tensor, taps: Tensor) -> Tensor:
    """Filter rows and columns with `taps`, keeping only windows that lie inside; (B, H, W) to (B, H - n + 1, ...)."""
    conv: Any = torch.nn.functional.conv2d
    result: Tensor = conv(conv(values[:, None], taps[None, None, :, None]), taps[None, None, None, :])
    return result[:, 0]
