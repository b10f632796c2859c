"""Losses that ignore an unknown scale and shift of each image, for relative (inverse) depth."""

import torch
from torch import Tensor

from fathom.errors import ConfigError
from fathom.losses._masking import image_means, masked, masked_pair, per_image
from fathom.losses.gradient import multiscale_gradient_loss


def fit_scale_shift(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit each image's scale and shift, ``argmin sum (scale * p + shift - g)^2``; gradients flow through the fit.

    Args:
        pred: Prediction, shape (B, ...), any unit.
        target: Target, same shape and quantity.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.

    Returns:
        scale: Shape (B,); 0 for a constant prediction, whose scale is not defined.
        shift: Shape (B,); then the mean of the target.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> pred, target = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[3.0, 5.0, 7.0, 10.0]])
        >>> scale, shift = fit_scale_shift(pred, target)
        >>> round(scale.item(), 5), round(shift.item(), 5)
        (2.3, 0.5)

    Reference:
        Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, equation 4.
    """
    p, g, usable = (per_image(x) for x in masked_pair(pred, target, valid_mask))
    mean_p, counts = image_means(p, usable)
    mean_g, _ = image_means(g, usable)
    centred_p = torch.where(usable, p - mean_p[:, None], 0.0)
    centred_g = torch.where(usable, g - mean_g[:, None], 0.0)
    power = centred_p.square().sum(dim=1)
    # A spread at the level of rounding is a constant prediction.
    noise = torch.finfo(p.dtype).eps * mean_p.detach().abs()
    varies = power > counts * noise.square() + torch.finfo(p.dtype).tiny
    scale = torch.where(varies, (centred_p * centred_g).sum(dim=1) / torch.where(varies, power, 1.0), 0.0)
    return scale, mean_g - scale * mean_p


def scale_shift_invariant_loss(
    pred: Tensor,
    target: Tensor,
    valid_mask: Tensor | None = None,
    *,
    gradient_weight: float = 0.5,
    num_scales: int = 4,
) -> Tensor:
    """Align each image in least squares, then compute ``1/(2M) sum (s p + t - g)^2`` plus gradient matching.

    M counts the valid pixels of the batch. The second term is `gradient_weight` times `multiscale_gradient_loss` of the
    aligned prediction.

    Args:
        pred: Prediction, shape (B, ..., H, W), usually inverse depth.
        target: Target of the same quantity, same shape.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.
        gradient_weight: Weight of gradient matching; 0 leaves it out.
        num_scales: Scales of gradient matching.

    Returns:
        Scalar; 0 for any target ``a p + b``.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> pred, target = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[[3.0, 5.0, 7.0, 10.0]]])
        >>> round(scale_shift_invariant_loss(pred, target, gradient_weight=0.0).item(), 5)
        0.0375

    Reference:
        Ranftl et al., TPAMI 2022, section 5.
    """
    p, g, usable = masked_pair(pred, target, valid_mask)
    scale, shift = fit_scale_shift(p, g, usable)
    aligned = torch.where(usable, _expand(scale, p) * p + _expand(shift, p), 0.0)
    loss = (aligned - g).square().sum() / (2 * usable.sum()).clamp(min=1)
    if gradient_weight > 0:
        loss = loss + gradient_weight * multiscale_gradient_loss(aligned, g, usable, num_scales=num_scales)
    return loss


def robust_normalize(values: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Subtract each image's median and divide by its mean absolute deviation, over the valid pixels alone.

    The median of an even count is the middle of the two (not the lower one), and invalid pixels never enter it.

    Args:
        values: Values, shape (B, ...).
        valid_mask: True where the value counts, same shape, bool; None means everywhere.

    Returns:
        ``(x - median) / max(mean |x - median|, 1e-6)``, same shape; 0 where not valid.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> robust_normalize(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
        [[-1.5, -0.5, 0.5, 1.5]]

    Reference:
        Ranftl et al., TPAMI 2022, equation 5.
    """
    x, usable = masked(values, valid_mask)
    medians = torch.stack([_median(image[mask]) for image, mask in zip(x, usable, strict=True)])
    centred = torch.where(usable, x - _expand(medians, x), 0.0)
    deviation, _ = image_means(centred.abs(), usable)
    return centred / _expand(deviation.clamp(min=1e-6), x)


def trimmed_scale_shift_invariant_loss(
    pred: Tensor,
    target: Tensor,
    valid_mask: Tensor | None = None,
    *,
    trim: float = 0.2,
    gradient_weight: float = 0.5,
    num_scales: int = 4,
) -> Tensor:
    """Normalise both maps robustly, and compute ``1/(2M) sum |p' - g'|`` without each image's largest residuals.

    Both maps pass `robust_normalize`. Of the M_i valid pixels of an image, the ``int((1 - trim) M_i)`` smallest
    residuals are summed; M counts all valid pixels of the batch, trimmed ones too. Gradient matching, on all pixels,
    is added as in `scale_shift_invariant_loss`.

    Args:
        pred: Prediction, shape (B, ..., H, W), usually inverse depth.
        target: Target of the same quantity, same shape.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.
        trim: Share left out, 0 <= trim < 1.
        gradient_weight: Weight of gradient matching; 0 leaves it out.
        num_scales: Scales of gradient matching.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.
        ConfigError: If `trim` is not in [0, 1).

    Example:
        >>> pred = torch.arange(10.0).reshape(1, 1, 10)
        >>> trimmed_scale_shift_invariant_loss(pred, 3.0 * pred + 1.0, gradient_weight=0.0).item() < 1e-6
        True

    Reference:
        Ranftl et al., TPAMI 2022, equation 7.
    """
    if not 0 <= trim < 1:
        raise ConfigError(f"`trim` must lie in [0, 1); got {trim}. Use for instance 0.2.")
    p, g, usable = masked_pair(pred, target, valid_mask)
    p, g = robust_normalize(p, usable), robust_normalize(g, usable)
    total = p.new_zeros(())
    for image_p, image_g, mask in zip(p, g, usable, strict=True):
        residuals = (image_p - image_g)[mask].abs()
        num_kept = int((1 - trim) * residuals.numel())
        total = total + residuals.topk(num_kept, largest=False, sorted=False).values.sum()
    loss = total / (2 * usable.sum()).clamp(min=1)
    if gradient_weight > 0:
        loss = loss + gradient_weight * multiscale_gradient_loss(p, g, usable, num_scales=num_scales)
    return loss


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts against (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _median(values: Tensor) -> Tensor:
    """Median of a vector, the middle of the two for an even count; 0 for none."""
    if values.numel() == 0:
        return values.new_zeros(())
    ordered = values.sort().values
    return (ordered[(values.numel() - 1) // 2] + ordered[values.numel() // 2]) / 2
