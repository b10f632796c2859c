"""Losses on image gradients: gradient matching and smoothness.

A finite difference counts only where both of its pixels are valid. Gradients are forward differences between
neighbours along x (the last axis) and y (the last but one).
"""

import torch
from torch import Tensor

from fathom.errors import ShapeError
from fathom.losses._masking import image_means, masked, masked_mean, masked_pair
from fathom.losses.depth import log_difference, silog_eigen2014_loss


def difference(values: Tensor, axis: int) -> Tensor:
    """Forward difference along an axis, one shorter."""
    size = values.shape[axis]
    return values.narrow(axis, 1, size - 1) - values.narrow(axis, 0, size - 1)


def pair_mask(usable: Tensor, axis: int) -> Tensor:
    """Where both pixels of a forward difference are usable, one shorter along the axis."""
    size = usable.shape[axis]
    return usable.narrow(axis, 1, size - 1) & usable.narrow(axis, 0, size - 1)


def squared_log_gradient_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compare the gradients of log depth: ``(1/n) sum [(dx d)^2 + (dy d)^2]``, averaged over the images.

    The gradient is that of the log *difference* d, not of the prediction; n counts the valid pixels of the image.

    Args:
        pred: Depth, shape (B, ..., H, W), any unit.
        target: Depth, same shape; what is not finite and above 0 is never used.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> pred = torch.exp(torch.tensor([[[0.0, 1.0, 3.0]]]))
        >>> round(squared_log_gradient_loss(pred, torch.ones(1, 1, 3)).item(), 6)
        1.666667

    Reference:
        Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional
        Architecture", ICCV 2015, section 4.1.
    """
    d, usable = log_difference(pred, target, valid_mask)
    total = d.new_zeros(d.shape[0])
    _, counts = image_means(d, usable)
    for axis in (-1, -2):
        gradient, pairs = difference(d, axis), pair_mask(usable, axis)
        mean, num_pairs = image_means(gradient.square(), pairs)
        total = total + mean * num_pairs
    return (total / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def eigen2015_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the depth loss of Eigen and Fergus 2015: `silog_eigen2014_loss` plus `squared_log_gradient_loss`.

    ``(1/n) sum d^2 - 1/(2 n^2) (sum d)^2 + (1/n) sum [(dx d)^2 + (dy d)^2]`` for each image, averaged over the images.
    Arguments and errors as in `squared_log_gradient_loss`.

    Example:
        >>> eigen2015_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2)).item()
        0.0

    Reference:
        Eigen and Fergus, ICCV 2015, equation 1.
    """
    return silog_eigen2014_loss(pred, target, valid_mask) + squared_log_gradient_loss(pred, target, valid_mask)


def multiscale_gradient_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, num_scales: int = 4
) -> Tensor:
    """Match gradients in L1 at several scales: ``sum_k (1/M_k) sum [|dx R_k| + |dy R_k|]``, with ``R = p - g``.

    Scale k keeps every 2^k-th pixel; M_k counts the valid pixels of the batch at that scale.

    Args:
        pred: Prediction, shape (..., H, W), usually inverse depth, aligned to the target.
        target: Target, same shape and quantity.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.
        num_scales: Number of scales.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 4, 4)
        >>> multiscale_gradient_loss(ramp, torch.zeros(1, 4, 4), num_scales=1).item()
        0.75

    Reference:
        Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, equation 11; Li and Snavely,
        "MegaDepth", CVPR 2018.
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    total = p.new_zeros(())
    for scale in range(num_scales):
        step = 2**scale
        residual, kept = (p - g)[..., ::step, ::step], usable[..., ::step, ::step]
        count = kept.sum().clamp(min=1)
        for axis in (-1, -2):
            gradient = torch.where(pair_mask(kept, axis), difference(residual, axis).abs(), 0.0)
            total = total + gradient.sum() / count
    return total


def edge_aware_smoothness_loss(disparity: Tensor, image: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Ask for a smooth disparity except at image edges: ``mean |dx D| e^{-|dx I|} + mean |dy D| e^{-|dy I|}``.

    ``|dx I|`` is the mean over the channels. monodepth divides the weight by 2^i at its i-th scale; monodepth2 passes
    the disparity through `normalize_disparity` first.

    Args:
        disparity: Disparity or inverse depth, shape (B, 1, H, W).
        image: Colours in [0, 1], shape (B, C, H, W).
        valid_mask: True where the pixel counts, shape (B, 1, H, W), bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> edge_aware_smoothness_loss(ramp, torch.zeros(1, 3, 4, 4)).item()
        1.0

    Reference:
        Godard et al., "Unsupervised Monocular Depth Estimation with Left-Right Consistency", CVPR 2017, equation 3.
    """
    d, colours, usable = _disparity_and_image(disparity, image, valid_mask)
    total = d.new_zeros(())
    for axis in (-1, -2):
        weight = torch.exp(-difference(colours, axis).abs().mean(dim=1, keepdim=True))
        total = total + masked_mean(difference(d, axis).abs() * weight, pair_mask(usable, axis))
    return total


def edge_aware_second_order_smoothness_loss(
    disparity: Tensor, image: Tensor, valid_mask: Tensor | None = None
) -> Tensor:
    """Ask for a piecewise planar disparity: ``mean |dxx D| e^{-|dxx I|} + mean |dyy D| e^{-|dyy I|}``.

    A slanted plane costs nothing. Arguments and errors as in `edge_aware_smoothness_loss`.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> edge_aware_second_order_smoothness_loss(ramp, torch.zeros(1, 3, 4, 4)).item()
        0.0

    Reference:
        Luo et al., "Every Pixel Counts++", TPAMI 2019 (edge-aware second-order smoothness).
    """
    d, colours, usable = _disparity_and_image(disparity, image, valid_mask)
    total = d.new_zeros(())
    for axis in (-1, -2):
        weight = torch.exp(-difference(difference(colours, axis), axis).abs().mean(dim=1, keepdim=True))
        curvature = difference(difference(d, axis), axis).abs()
        total = total + masked_mean(curvature * weight, pair_mask(pair_mask(usable, axis), axis))
    return total


def normalize_disparity(disparity: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Divide each disparity map by its mean plus 1e-7, so that shrinking it does not lower a smoothness loss.

    Args:
        disparity: Disparity, shape (B, 1, H, W).
        valid_mask: Pixels of the mean, same shape, bool; None means all.

    Returns:
        Mean-normalised disparity, same shape.

    Example:
        >>> normalize_disparity(torch.full((1, 1, 2, 2), 4.0)).mean().round(decimals=5).item()
        1.0

    Reference:
        Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019, equation 3.
    """
    d, usable = masked(disparity, valid_mask)
    mean, _ = image_means(d, usable)
    return d / (mean.reshape(-1, *[1] * (d.ndim - 1)) + 1e-7)


def sfmlearner_smoothness_loss(disparity: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Sum the means of the absolute second differences of disparity, ``|dxx| + |dxy| + |dyx| + |dyy|``.

    Args:
        disparity: Disparity, shape (..., H, W).
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.

    Returns:
        Scalar; the paper weighs it by 0.5 / 2^s at scale s.

    Raises:
        ShapeError: If the shapes differ.

    Example:
        >>> column = torch.tensor([0.0, 1.0, 4.0]).expand(1, 1, 3, 3)
        >>> sfmlearner_smoothness_loss(column).item()
        2.0

    Reference:
        Zhou et al., "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR 2017.
    """
    d, usable = masked(disparity, valid_mask)
    total = d.new_zeros(())
    for first in (-1, -2):
        gradient, pairs = difference(d, first), pair_mask(usable, first)
        for second in (-1, -2):
            total = total + masked_mean(difference(gradient, second).abs(), pair_mask(pairs, second))
    return total


def squared_gradient_loss(disparity: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the mean squared gradient of disparity, ``mean (dx D)^2 + mean (dy D)^2``.

    Garg et al. add it with the weight 0.01. Arguments and errors as in `sfmlearner_smoothness_loss`.

    Example:
        >>> squared_gradient_loss(2.0 * torch.arange(4.0).expand(1, 1, 4, 4)).item()
        4.0

    Reference:
        Garg et al., "Unsupervised CNN for Single View Depth Estimation: Geometry to the Rescue", ECCV 2016.
    """
    d, usable = masked(disparity, valid_mask)
    total = d.new_zeros(())
    for axis in (-1, -2):
        total = total + masked_mean(difference(d, axis).square(), pair_mask(usable, axis))
    return total


def _disparity_and_image(disparity: Tensor, image: Tensor, valid_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    fits = disparity.ndim == image.ndim == 4 and disparity.shape[1] == 1
    if not fits or disparity.shape[0] != image.shape[0] or disparity.shape[2:] != image.shape[2:]:
        raise ShapeError(
            f"`disparity` must be (B, 1, H, W) and `image` (B, C, H, W) of the same size; got "
            f"{tuple(disparity.shape)} and {tuple(image.shape)}. Resize the image to the scale of the disparity."
        )
    d, usable = masked(disparity, valid_mask)
    return d, torch.where(usable, image, 0.0), usable
