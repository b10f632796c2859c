"""Losses that learn depth from other views: photometric error, left-right consistency, minimum reprojection.

Images are (B, C, H, W) with colours in [0, 1]. Masks are (B, 1, H, W), for instance "inside the other view".
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fathom.errors import ShapeError
from fathom.geometry.warp import sample_horizontal
from fathom.losses._masking import masked, masked_mean

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
# Offsets that break ties between a warped and an unwarped view that match equally well.
AUTO_MASK_NOISE = 1e-5


class SsimMoments(NamedTuple):
    """Mean and variance over 3 x 3 windows, from `ssim_moments`."""

    mean: Tensor
    variance: Tensor


def ssim_moments(image: Tensor, *, padding: Literal["valid", "reflect"]) -> SsimMoments:
    """Compute what `ssim_error_map` needs of one picture, so that many can be compared with it.

    Args:
        image: Shape (B, C, H, W).
        padding: As in `ssim_error_map`.

    Example:
        >>> moments = ssim_moments(torch.full((1, 1, 3, 3), 0.5), padding="valid")
        >>> moments.mean.item(), moments.variance.item()
        (0.5, 0.0)
    """
    image = _padded(image, padding)
    mean = _window_mean(image)
    return SsimMoments(mean, _window_mean(image * image) - mean.square())


def ssim_error_map(
    pred: Tensor, target: Tensor, *, padding: Literal["valid", "reflect"], moments: SsimMoments | None = None
) -> Tensor:
    """Compute ``clip((1 - S) / 2, 0, 1)`` from the similarity S over 3 x 3 means, at each pixel and channel.

    ``S = (2 m_p m_g + C1)(2 s_pg + C2) / ((m_p^2 + m_g^2 + C1)(s_p^2 + s_g^2 + C2))`` with C1 = 1e-4, C2 = 9e-4.

    Args:
        pred: Image, shape (B, C, H, W).
        target: Image, same shape.
        padding: ``valid`` keeps whole windows (monodepth; the map shrinks by 2), ``reflect`` mirrors the border
            (monodepth2; same size).
        moments: `ssim_moments` of the target, where they are known already.

    Returns:
        Error in [0, 1], shape (B, C, H - 2, W - 2) or (B, C, H, W).

    Raises:
        ShapeError: If the shapes differ or are not (B, C, H, W).

    Example:
        >>> a, b = torch.full((1, 1, 3, 3), 0.2), torch.full((1, 1, 3, 3), 0.6)
        >>> round(ssim_error_map(a, b, padding="valid").item(), 4)
        0.2

    Reference:
        Godard et al., CVPR 2017, equation 2; ICCV 2019, section 3.1.
    """
    _check_images(pred, target)
    mean_g, var_g = moments or ssim_moments(target, padding=padding)
    mean_p, var_p = ssim_moments(pred, padding=padding)
    covariance = _window_mean(_padded(pred * target, padding)) - mean_p * mean_g
    similarity = ((2 * mean_p * mean_g + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (mean_p.square() + mean_g.square() + SSIM_C1) * (var_p + var_g + SSIM_C2)
    )
    return ((1 - similarity) / 2).clamp(0, 1)


def _padded(image: Tensor, padding: str) -> Tensor:
    return torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect") if padding == "reflect" else image


def _window_mean(values: Tensor) -> Tensor:
    """Average 3 x 3 windows: rows first, then columns. On the CPU this is ten times as fast as avg_pool2d."""
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9.0


def monodepth_photometric_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, ssim_weight: float = 0.85
) -> Tensor:
    """Compare a reconstructed view with the real one: ``a mean(SSIM error) + (1 - a) mean |e|``.

    SSIM uses whole 3 x 3 windows, and counts only windows without an invalid pixel.

    Args:
        pred: Reconstructed image, shape (B, C, H, W).
        target: Real image, same shape.
        valid_mask: True where the pixel counts, shape (B, 1, H, W), bool; None means everywhere.
        ssim_weight: a.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> image = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> monodepth_photometric_loss(image, image).item() < 1e-6
        True

    Reference:
        Godard et al., "Unsupervised Monocular Depth Estimation with Left-Right Consistency", CVPR 2017, equation 2.
    """
    p, g, usable = _masked_images(pred, target, valid_mask)
    # A window is whole when no invalid pixel is in it: a maximum over "invalid".
    whole = torch.nn.functional.max_pool2d((~usable).to(p.dtype), 3, stride=1) == 0
    ssim = masked_mean(ssim_error_map(p, g, padding="valid").mean(dim=1, keepdim=True), whole)
    l1 = masked_mean((p - g).abs().mean(dim=1, keepdim=True), usable)
    return ssim_weight * ssim + (1 - ssim_weight) * l1


def photometric_error_map(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, ssim_weight: float = 0.85
) -> Tensor:
    """Compute monodepth2's photometric error at each pixel: ``0.85 mean_c(SSIM error) + 0.15 mean_c |e|``.

    Args:
        pred: Warped source image, shape (B, C, H, W).
        target: Target image, same shape.
        valid_mask: True where the pixel can be compared, shape (B, 1, H, W), bool; None means everywhere. Invalid
            pixels are taken as equal in both; leave them out of the loss with the same mask.
        ssim_weight: Weight of SSIM.

    Returns:
        Error, shape (B, 1, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> photometric_error_map(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)).shape
        torch.Size([1, 1, 4, 5])

    Reference:
        Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019, equation 2.
    """
    p, g, _ = _masked_images(pred, target, valid_mask)
    ssim = ssim_error_map(p, g, padding="reflect").mean(dim=1, keepdim=True)
    return ssim_weight * ssim + (1 - ssim_weight) * (p - g).abs().mean(dim=1, keepdim=True)


def sfmlearner_photometric_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, explainability: Tensor
) -> Tensor:
    """Compute ``mean(E |e|)``, the L1 error weighed by how far each pixel can be explained.

    Args:
        pred: Warped source image, shape (B, C, H, W).
        target: Target image, same shape.
        valid_mask: True where the pixel counts, shape (B, 1, H, W), bool; None means everywhere.
        explainability: E in [0, 1], shape (B, 1, H, W), from `explainability_weights`; ones for none.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> image = torch.ones(1, 3, 2, 2)
        >>> sfmlearner_photometric_loss(image, 0 * image, explainability=torch.full((1, 1, 2, 2), 0.5)).item()
        0.5

    Reference:
        Zhou et al., CVPR 2017, equation 3.
    """
    p, g, usable = _masked_images(pred, target, valid_mask)
    weight = torch.where(usable, explainability, 0.0)
    return masked_mean(weight * (p - g).abs().mean(dim=1, keepdim=True), usable)


def explainability_weights(logits: Tensor) -> Tensor:
    """Turn logits into the probability of "explainable" for each source.

    Args:
        logits: Pairs (not explainable, explainable) of channels, shape (B, 2S, H, W).

    Returns:
        Probabilities, shape (B, S, H, W).

    Raises:
        ShapeError: If the number of channels is odd.

    Example:
        >>> explainability_weights(torch.zeros(1, 4, 1, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    return torch.sigmoid(_pair_difference(logits))


def explainability_loss(logits: Tensor) -> Tensor:
    """Ask for explainable pixels, lest the network explain none: the mean cross-entropy with "explainable".

    ``-mean ln softmax(pair)_1`` over pixels and sources; SfMLearner sums over sources, so multiply by S to compare.

    Args:
        logits: Pairs (not explainable, explainable) of channels, shape (B, 2S, H, W).

    Returns:
        Scalar.

    Raises:
        ShapeError: If the number of channels is odd.

    Example:
        >>> round(explainability_loss(torch.zeros(1, 4, 2, 2)).item(), 6)
        0.693147

    Reference:
        Zhou et al., CVPR 2017, section 3.3.
    """
    result: Tensor = torch.nn.functional.softplus(-_pair_difference(logits)).mean()
    return result


def left_right_consistency_loss(
    disparity_left: Tensor,
    disparity_right: Tensor,
    valid_left: Tensor | None = None,
    valid_right: Tensor | None = None,
) -> Tensor:
    """Ask both disparity maps to agree: ``mean |d_R(x - d_L) - d_L| + mean |d_L(x + d_R) - d_R|``, over the width.

    The sum is divided by the width, since the paper's disparities, and its weight of 1, are fractions of the width.
    A pixel counts where it is valid and all it reads in the other view is.

    Args:
        disparity_left: Disparity of the left view [px], shape (B, 1, H, W), at least 0.
        disparity_right: Disparity of the right view [px], same shape.
        valid_left: True where the left pixel counts, same shape, bool; None means everywhere.
        valid_right: The same for the right view.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> left, right = torch.full((1, 1, 2, 8), 2.0), torch.full((1, 1, 2, 8), 1.0)
        >>> left_right_consistency_loss(left, left).item(), left_right_consistency_loss(left, right).item()
        (0.0, 0.25)

    Reference:
        Godard et al., CVPR 2017, equation 4.
    """
    left, usable_left = masked(disparity_left, valid_left)
    right, usable_right = masked(disparity_right, valid_right)
    total = left.new_zeros(())
    for own, other, own_usable, other_usable, sign in (
        (left, right, usable_left, usable_right, -1.0),
        (right, left, usable_right, usable_left, 1.0),
    ):
        seen = sample_horizontal(other, sign * own)
        # Below 1 as soon as one of the two pixels read is not valid.
        readable = sample_horizontal(other_usable.to(own.dtype), sign * own.detach()) > 1 - 1e-6
        total = total + masked_mean((seen - own).abs(), own_usable & readable)
    return total / left.shape[-1]


def linearized_sample(image: Tensor, shift_px: Tensor, previous_shift_px: Tensor) -> Tensor:
    """Read an image near a known shift to first order: ``I(x + s0) + (s - s0) I_h(x + s0)``.

    I_h is the horizontal central difference (one-sided at the border). The gradient reaches `shift_px` alone and is
    I_h, so it does not depend on the interpolation. Exact for an image that is a ramp.

    Args:
        image: Shape (B, C, H, W).
        shift_px: s [px], shape (B, 1, H, W).
        previous_shift_px: s0 [px], same shape, from the coarser stage.

    Returns:
        Shape (B, C, H, W).

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> ramp = 3.0 * torch.arange(6.0).reshape(1, 1, 1, 6)
        >>> shift = torch.full((1, 1, 1, 6), 0.5)
        >>> linearized_sample(ramp, shift, 0 * shift)[..., :5].tolist()
        [[[[1.5, 4.5, 7.5, 10.5, 13.5]]]]

    Reference:
        Garg et al., "Unsupervised CNN for Single View Depth Estimation: Geometry to the Rescue", ECCV 2016, equation 4.
    """
    slope = torch.empty_like(image)
    slope[..., 1:-1] = (image[..., 2:] - image[..., :-2]) / 2
    slope[..., 0] = image[..., 1] - image[..., 0]
    slope[..., -1] = image[..., -1] - image[..., -2]
    base = previous_shift_px.detach()
    return sample_horizontal(image, base) + (shift_px - base) * sample_horizontal(slope, base)


def garg_reconstruction_loss(
    left: Tensor,
    right: Tensor,
    disparity: Tensor,
    previous_disparity: Tensor,
    valid_mask: Tensor | None = None,
) -> Tensor:
    """Rebuild the left view by the linearised right one, and compute the mean squared error.

    ``mean (I_R(x - D0) - (D - D0) I_h(x - D0) - I_L(x))^2`` over pixels and channels; the paper sums. Coarse to fine:
    D0 is the upsampled (and rescaled) disparity of the coarser stage. Its smoothness is `squared_gradient_loss`.

    Args:
        left: Left image, shape (B, C, H, W).
        right: Right image, same shape.
        disparity: D of the left view [px], shape (B, 1, H, W).
        previous_disparity: D0 [px], same shape; no gradient reaches it.
        valid_mask: True where the left pixel counts, shape (B, 1, H, W), bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> right = torch.arange(8.0).reshape(1, 1, 1, 8)
        >>> two = torch.full((1, 1, 1, 8), 2.0)
        >>> inside = torch.arange(8).reshape(1, 1, 1, 8) >= 2
        >>> garg_reconstruction_loss(right - 2.0, right, two, 0 * two, inside).item()
        0.0

    Reference:
        Garg et al., ECCV 2016, section 2.
    """
    d, usable = masked(disparity, valid_mask)
    base = torch.where(usable, previous_disparity, 0.0)
    rebuilt = linearized_sample(right, -d, -base)
    truth = torch.where(usable, left, 0.0)
    _check_images(rebuilt, truth)
    return masked_mean((rebuilt - truth).square().mean(dim=1, keepdim=True), usable)


def min_reprojection_loss(
    reprojection_errors: Tensor,
    identity_errors: Tensor | None = None,
    valid_mask: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take at each pixel the source that matches best, and average: ``mean min_s pe_s``.

    With `identity_errors` (the error of the unwarped sources) each pixel takes the minimum over both. Where an unwarped
    source wins (a static scene, or an object that moves with the camera), its error still enters the mean but carries
    no gradient: the auto-mask. Noise of 1e-5 breaks ties.

    Args:
        reprojection_errors: Photometric error of each warped source, shape (B, S, H, W).
        identity_errors: Photometric error of each unwarped source, shape (B, S, H, W); None turns auto-masking off.
        valid_mask: True where the warped source lies inside its image, shape (B, S, H, W), bool; None means everywhere.
            A pixel without a valid source is left out.
        generator: Source of the noise, on the device of the errors; None means torch's global one.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ.

    Example:
        >>> errors = torch.tensor([[[[0.1, 0.5]], [[0.3, 0.2]]]])
        >>> round(min_reprojection_loss(errors).item(), 6)
        0.15

    Reference:
        Godard et al., ICCV 2019, equations 4 and 5.
    """
    errors, usable = _stacked_errors(reprojection_errors, identity_errors, valid_mask, generator)
    return masked_mean(errors.amin(dim=1), usable)


def auto_mask(
    reprojection_errors: Tensor,
    identity_errors: Tensor,
    valid_mask: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tell where a warped source wins over all unwarped ones. Arguments and errors as in `min_reprojection_loss`.

    Returns:
        True where the pixel trains the network, shape (B, 1, H, W).

    Example:
        >>> auto_mask(torch.tensor([[[[0.1, 0.5]]]]), torch.tensor([[[[0.3, 0.2]]]])).tolist()
        [[[[True, False]]]]
    """
    errors, usable = _stacked_errors(reprojection_errors, identity_errors, valid_mask, generator)
    winner = errors.argmin(dim=1, keepdim=True)
    return (winner >= identity_errors.shape[1]) & usable[:, None]


def _stacked_errors(
    reprojection: Tensor, identity: Tensor | None, valid_mask: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Errors of all candidates (identity first) with infinity where not valid, and where any candidate is left."""
    warped, usable = masked(reprojection, valid_mask)
    some = usable.any(dim=1)
    # Pixels without any source get 0, so that the minimum stays finite; they are masked out of the mean.
    warped = torch.where(usable, warped, torch.where(some, torch.inf, 0.0)[:, None])
    if identity is None:
        return warped, some
    if identity.shape != reprojection.shape:
        raise ShapeError(
            f"`identity_errors` must have the shape of `reprojection_errors`; got {tuple(identity.shape)} and "
            f"{tuple(reprojection.shape)}."
        )
    noise = torch.randn(identity.shape, generator=generator, device=identity.device, dtype=warped.dtype)
    unwarped = torch.where(some[:, None], identity.detach() + AUTO_MASK_NOISE * noise, 0.0)
    return torch.cat((unwarped, warped), dim=1), some


def _check_images(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape or pred.ndim != 4:
        raise ShapeError(
            f"Both images must be (B, C, H, W) of one shape; got {tuple(pred.shape)} and {tuple(target.shape)}."
        )


def _masked_images(pred: Tensor, target: Tensor, valid_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Set invalid pixels to 0 in both images; return them and the mask, shape (B, 1, H, W)."""
    _check_images(pred, target)
    first, usable = masked(pred[:, :1], valid_mask)
    return (
        torch.where(usable, pred, 0.0).to(first.dtype),
        torch.where(usable, target, 0.0).to(first.dtype),
        usable,
    )


def _pair_difference(logits: Tensor) -> Tensor:
    if logits.ndim != 4 or logits.shape[1] % 2:
        raise ShapeError(f"`logits` must be (B, 2 * sources, H, W); got {tuple(logits.shape)}.")
    return logits[:, 1::2] - logits[:, 0::2]
