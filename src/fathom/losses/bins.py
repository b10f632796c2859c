"""Losses for networks that cut the depth range into bins: ordinal regression, and the bin-centre chamfer."""

import math

import torch
from torch import Tensor

from fathom.errors import ConfigError, ShapeError
from fathom.losses._masking import masked_mean, masked_pair


def sid_thresholds(min_depth: float, max_depth: float, num_bins: int) -> Tensor:
    """Return the edges of spacing-increasing bins, ``t_i = exp(ln a + i ln(b / a) / K)`` for i = 0 to K.

    Args:
        min_depth: a [m], above 0.
        max_depth: b [m].
        num_bins: K.

    Returns:
        Edges [m], shape (K + 1,), float64.

    Raises:
        ConfigError: If the range is not 0 < a < b or K is below 1.

    Example:
        >>> sid_thresholds(1.0, 8.0, 3).round(decimals=6).tolist()
        [1.0, 2.0, 4.0, 8.0]

    Reference:
        Fu et al., "Deep Ordinal Regression Network for Monocular Depth Estimation", CVPR 2018, equation 1.
    """
    if not 0 < min_depth < max_depth or num_bins < 1:
        raise ConfigError(
            f"Bins need 0 < min_depth < max_depth and at least one bin; got {min_depth}, {max_depth}, {num_bins}."
        )
    steps = torch.linspace(0.0, 1.0, num_bins + 1, dtype=torch.float64)
    return torch.exp(math.log(min_depth) + steps * math.log(max_depth / min_depth))


def ordinal_regression_loss(
    logits: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, thresholds: Tensor
) -> Tensor:
    """Ask of each threshold whether the depth is beyond it: ``-(1/n) sum [sum_{k<l} ln P_k + sum_{k>=l} ln(1 - P_k)]``.

    ``P_k = sigmoid(logit_k)`` is the probability that the label is above k; the label l is the number of inner
    thresholds ``t_1 ... t_{K-1}`` at or below the depth, 0 to K - 1, so that depths outside the range fall into the
    outermost bins. A softmax pair of logits is the same with their difference.

    Args:
        logits: One for each inner threshold, shape (B, K - 1, H, W).
        target: Depth [m], shape (B, 1, H, W); what is not finite and above 0 is never used.
        valid_mask: True where the pixel counts, shape (B, 1, H, W), bool; None means everywhere.
        thresholds: Edges of the bins, increasing, shape (K + 1,), for instance from `sid_thresholds`.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> edges = sid_thresholds(1.0, 8.0, 3)
        >>> loss = ordinal_regression_loss(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1, 1), 3.0), thresholds=edges)
        >>> round(loss.item(), 6)
        1.386294

    Reference:
        Fu et al., CVPR 2018, equation 3.
    """
    num_inner = thresholds.numel() - 2
    if logits.ndim != 4 or logits.shape[1] != num_inner or logits[:, :1].shape != target.shape:
        raise ShapeError(
            f"`logits` must be (B, {num_inner}, H, W) for {thresholds.numel()} edges and `target` (B, 1, H, W); got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}."
        )
    _, g, usable = masked_pair(target, target, valid_mask, positive_target=True, fill=1.0)
    inner = thresholds[1:-1].to(g)[None, :, None, None]
    beyond = g >= inner
    values = torch.where(usable, logits, 0.0)
    terms = torch.nn.functional.softplus(torch.where(beyond, -values, values))
    return masked_mean(terms.sum(dim=1, keepdim=True), usable)


def ordinal_to_depth(logits: Tensor, *, thresholds: Tensor) -> Tensor:
    """Decode ordinal logits: the label counts the probabilities of at least 1/2, its depth is the middle of its bin.

    Args:
        logits: Shape (B, K - 1, H, W).
        thresholds: Edges of the bins, shape (K + 1,).

    Returns:
        Depth [m], shape (B, 1, H, W).

    Example:
        >>> logits = torch.tensor([5.0, -5.0]).reshape(1, 2, 1, 1)
        >>> ordinal_to_depth(logits, thresholds=sid_thresholds(1.0, 8.0, 3)).item()
        3.0

    Reference:
        Fu et al., CVPR 2018, equation 5.
    """
    labels = (logits >= 0).sum(dim=1, keepdim=True)
    middles = ((thresholds[1:] + thresholds[:-1]) / 2).to(logits)
    return middles[labels]


def bins_chamfer_loss(bin_centers: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Pull the bin centres of each image towards the depths it holds, and the other way round.

    ``mean_c min_x (x - c)^2 + mean_x min_c (x - c)^2`` over the centres c and the valid depths x of an image, averaged
    over the images with a valid pixel. AdaBins weighs it by 0.1.

    Args:
        bin_centers: Centres [m], shape (B, K).
        target: Depth [m], shape (B, ...); what is not finite and above 0 is never used.
        valid_mask: True where the pixel counts, same shape as `target`, bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> bins_chamfer_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0, 2.0]])).item()
        0.8333333730697632

    Reference:
        Bhat et al., "AdaBins: Depth Estimation Using Adaptive Bins", CVPR 2021, equation 5.
    """
    if bin_centers.ndim != 2 or len(bin_centers) != len(target):
        raise ShapeError(
            f"`bin_centers` must be (B, K) with the B of `target`; got {tuple(bin_centers.shape)} and "
            f"{tuple(target.shape)}."
        )
    _, g, usable = masked_pair(target, target, valid_mask, positive_target=True, fill=1.0)
    total, num_images = bin_centers.new_zeros(()), 0
    for centers, depths, mask in zip(bin_centers, g, usable, strict=True):
        x = depths[mask].to(centers.dtype).sort().values
        if x.numel() == 0:
            # Keeps a zero gradient, rather than none, for this image's centres.
            total = total + 0.0 * torch.nan_to_num(centers).sum()
            continue
        ordered = centers.sort().values
        to_depth = ordered - _nearest(x, ordered)
        to_center = x - _nearest(ordered, x)
        total = total + to_depth.square().mean() + to_center.square().mean()
        num_images += 1
    return total / max(num_images, 1)


def _nearest(candidates: Tensor, queries: Tensor) -> Tensor:
    """Nearest of sorted `candidates` to each query; a search in the sorted list, not a table of all distances."""
    with torch.no_grad():
        above = torch.searchsorted(candidates.detach(), queries.detach()).clamp(max=candidates.numel() - 1)
        below = (above - 1).clamp(min=0)
        index = torch.where((queries - candidates[below]).abs() <= (candidates[above] - queries).abs(), below, above)
    return candidates[index]
