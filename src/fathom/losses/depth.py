"""Losses on depth: plain, reversed Huber, and scale-invariant log.

Notation: ``p`` prediction, ``g`` target, ``e = p - g``, ``d = ln p - ln g``; n is the number of valid pixels. A loss
over "the batch" pools the valid pixels of all images, so that an image with few of them weighs little. Where nothing
is valid, every loss is 0 with a zero gradient.
"""

from typing import Literal

import torch
from torch import Tensor

from fathom.errors import ConfigError
from fathom.losses._masking import image_means, masked_mean, masked_pair, per_image, safe_log, safe_sqrt

SilogName = Literal["eigen2014", "eigen2014_code", "bts", "adabins", "depth_anything"]


def mse_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the mean squared error over the batch, ``(1/n) sum e^2``.

    Args:
        pred: Prediction, any shape, any unit.
        target: Target, same shape and unit; what is not finite is never used.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> mse_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item()
        2.0
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    return masked_mean((p - g).square(), usable)


def l1_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the mean absolute error over the batch, ``(1/n) sum |e|``. Arguments and errors as in `mse_loss`.

    Example:
        >>> l1_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item()
        1.0
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    return masked_mean((p - g).abs(), usable)


def huber_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, threshold: float = 1.0) -> Tensor:
    """Compute the Huber loss over the batch: ``e^2 / 2`` up to the threshold t, then ``t (|e| - t/2)``.

    Quadratic near 0 and linear far away, the opposite of `berhu_loss`. Arguments and errors as in `mse_loss`;
    `threshold` has the unit of the maps.

    Example:
        >>> huber_loss(torch.tensor([0.5, 2.0]), torch.zeros(2)).item()
        0.8125
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    error = (p - g).abs()
    values = torch.where(error <= threshold, 0.5 * error.square(), threshold * (error - 0.5 * threshold))
    return masked_mean(values, usable)


def berhu_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, threshold_fraction: float = 0.2
) -> Tensor:
    """Compute the reversed Huber loss over the batch: ``|e|`` up to c, then ``(e^2 + c^2) / (2c)``.

    c is `threshold_fraction` of the largest ``|e|`` over all valid pixels of the batch. It is a constant of the batch:
    no gradient flows through it. Where the largest error is 0 the loss is 0.

    Args:
        pred: Prediction, any shape, any unit.
        target: Target, same shape and unit.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.
        threshold_fraction: c over the largest error, above 0.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> round(berhu_loss(torch.tensor([0.1, -0.2, 1.0]), torch.zeros(3)).item(), 6)
        0.966667

    Reference:
        Laina et al., "Deeper Depth Prediction with Fully Convolutional Residual Networks", 3DV 2016, section 3.2.
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    error = (p - g).abs()
    largest = error.detach().max() if error.numel() else error.new_zeros(())
    c = (threshold_fraction * largest).clamp(min=torch.finfo(error.dtype).tiny)
    # The square is computed on what exceeds c only: e^2 / c would overflow for c near 0.
    far = error > c
    excess = torch.where(far, error, c)
    return masked_mean(torch.where(far, (excess * (excess / c) + c) / 2, error), usable)


def silog_eigen2014_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, mean_weight: float = 0.5
) -> Tensor:
    """Compute the scale-invariant log loss, ``mean(d^2) - w mean(d)^2`` for each image, averaged over the images.

    With w = 1 a prediction times any constant has the same loss; the paper trains with w = 1/2. Images without a valid
    pixel are left out of the average.

    Args:
        pred: Depth, shape (B, ...), any unit; a value of 0 or below is pushed up (see `safe_log`).
        target: Depth, same shape; what is not finite and above 0 is never used.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.
        mean_weight: w, lambda in the paper.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> pred, target = torch.tensor([[1.1, 1.8, 5.0, 8.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> round(silog_eigen2014_loss(pred, target).item(), 6)
        0.016075

    Reference:
        Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NeurIPS
        2014, section 3.2.
    """
    d, usable = log_difference(pred, target, valid_mask)
    mean, counts = image_means(d, usable)
    mean_square, _ = image_means(d.square(), usable)
    return (mean_square - mean_weight * mean.square()).sum() / (counts > 0).sum().clamp(min=1)


def silog_eigen2014_code_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the released code's form of the loss, which weighs images by their number of valid pixels.

    ``[sum_i n_i sum d^2 - (1/2) sum_i (sum d)^2] / sum_i n_i^2`` over the images i. Equal to `silog_eigen2014_loss`
    when all n_i are. The release divides the log depth by its standard deviation (0.457 on NYU) before this; multiply
    its values by 0.457^2 to compare. Arguments and errors as in `silog_eigen2014_loss`.

    Example:
        >>> pred, target = torch.tensor([[1.1, 1.8, 5.0, 8.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> round(silog_eigen2014_code_loss(pred, target).item(), 6)
        0.016075

    Reference:
        Eigen et al., NeurIPS 2014, the released Theano code.
    """
    d, usable = log_difference(pred, target, valid_mask)
    mean, counts = image_means(d, usable)
    mean_square, _ = image_means(d.square(), usable)
    counts_square = counts.to(d.dtype).square()
    total = (counts_square * (mean_square - 0.5 * mean.square())).sum()
    return total / counts_square.sum().clamp(min=1)


def silog_bts_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, mean_weight: float = 0.85
) -> Tensor:
    """Compute ``10 sqrt(mean(d^2) - 0.85 mean(d)^2)`` over the batch. Arguments and errors as in the first silog loss.

    The gradient of the root is 0 at a perfect prediction, where it would be NaN.

    Example:
        >>> pred, target = torch.tensor([[1.1, 1.8, 5.0, 8.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> round(silog_bts_loss(pred, target).item(), 5)
        1.22809

    Reference:
        Lee et al., "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation", 2019.
    """
    variance, mean, _ = _pooled_moments(pred, target, valid_mask)
    return 10.0 * safe_sqrt(variance + (1.0 - mean_weight) * mean.square())


def silog_adabins_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute ``10 sqrt(var(d) + 0.15 mean(d)^2)`` over the batch, with the *unbiased* variance (n - 1).

    It differs from `silog_bts_loss` for small n. A single valid pixel has no such variance; its variance counts as 0.
    Arguments and errors as in `silog_eigen2014_loss`.

    Example:
        >>> pred, target = torch.tensor([[1.1, 1.8, 5.0, 8.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> round(silog_adabins_loss(pred, target).item(), 5)
        1.41307

    Reference:
        Bhat et al., "AdaBins: Depth Estimation Using Adaptive Bins", CVPR 2021.
    """
    variance, mean, count = _pooled_moments(pred, target, valid_mask)
    unbiased = variance * count / (count - 1).clamp(min=1)
    return 10.0 * safe_sqrt(unbiased + 0.15 * mean.square())


def silog_depth_anything_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute ``sqrt(mean(d^2) - 0.5 mean(d)^2)`` over the batch. Arguments and errors as in `silog_eigen2014_loss`.

    Example:
        >>> pred, target = torch.tensor([[1.1, 1.8, 5.0, 8.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> round(silog_depth_anything_loss(pred, target).item(), 6)
        0.126789

    Reference:
        Yang et al., "Depth Anything V2", NeurIPS 2024 (metric fine-tuning).
    """
    variance, mean, _ = _pooled_moments(pred, target, valid_mask)
    return safe_sqrt(variance + 0.5 * mean.square())


def silog_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, variant: SilogName = "eigen2014"
) -> Tensor:
    """Compute a scale-invariant log loss by name. Arguments and errors as in `silog_eigen2014_loss`.

    Raises:
        ConfigError: If the variant is not known.

    Example:
        >>> silog_loss(torch.ones(1, 4), torch.ones(1, 4), variant="bts").item()
        0.0
    """
    variants = {
        "eigen2014": silog_eigen2014_loss,
        "eigen2014_code": silog_eigen2014_code_loss,
        "bts": silog_bts_loss,
        "adabins": silog_adabins_loss,
        "depth_anything": silog_depth_anything_loss,
    }
    if variant not in variants:
        raise ConfigError(f"Unknown silog variant '{variant}'. Known: {', '.join(variants)}.")
    return variants[variant](pred, target, valid_mask)


def log_difference(pred: Tensor, target: Tensor, valid_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute ``d = ln p - ln g`` (0 where unused) and the mask of what is used: valid, target finite and above 0."""
    p, g, usable = masked_pair(pred, target, valid_mask, positive_target=True, fill=1.0)
    return safe_log(p) - torch.log(g), usable


def _pooled_moments(pred: Tensor, target: Tensor, valid_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Variance (divided by n) and mean of d over the batch, and n; the centred form keeps digits in float32."""
    d, usable = log_difference(pred, target, valid_mask)
    mean = masked_mean(d, usable)
    return masked_mean((d - mean).square(), usable), mean, per_image(usable).sum()
