"""Losses on labels: cross-entropy, binary cross-entropy, Dice."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fathom.errors import EmptyMaskError, ShapeError
from fathom.losses._masking import masked_mean, masked_pair, per_image


def median_frequency_weights(labels: Iterable[Tensor], *, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Compute class weights that lift rare classes, ``w_c = median(freq) / freq(c)``.

    ``freq(c)`` is the number of pixels of class c over the number of labelled pixels of the images that contain c. The
    median runs over the classes that occur; a class that never does gets the weight 0.

    Args:
        labels: Label maps of the training set, each integer of shape (H, W).
        num_classes: C.
        ignore_index: Label that is no class.

    Returns:
        Weights, shape (C,), float64.

    Raises:
        EmptyMaskError: If no pixel is labelled.

    Example:
        >>> maps = [torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 2, 2]])]
        >>> median_frequency_weights(maps, num_classes=3).tolist()
        [0.8, 2.0, 1.0]

    Reference:
        Eigen and Fergus, ICCV 2015, section 4.3.
    """
    pixels = torch.zeros(num_classes, dtype=torch.float64)
    available = torch.zeros(num_classes, dtype=torch.float64)
    for image in labels:
        counts = torch.bincount(image[image != ignore_index].reshape(-1), minlength=num_classes).cpu()
        pixels += counts
        available += torch.where(counts > 0, counts.sum(), 0)
    present = pixels > 0
    if not present.any():
        raise EmptyMaskError("No pixel of the label maps is labelled. Check the labels and `ignore_index`.")
    frequency = pixels[present] / available[present]
    weights = torch.zeros(num_classes, dtype=torch.float64)
    weights[present] = torch.quantile(frequency, 0.5) / frequency
    return weights


def cross_entropy_loss(
    logits: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, class_weights: Tensor | None = None
) -> Tensor:
    """Compute the pixelwise softmax cross-entropy, ``-(1/n) sum w_y ln softmax(logits)_y``.

    n counts the valid pixels of the batch, also with weights (PyTorch would divide by the sum of the weights).

    Args:
        logits: Scores, shape (B, C, H, W).
        target: True class, int64, shape (B, H, W); any value where not valid.
        valid_mask: True where the pixel counts, shape (B, H, W), bool; None means everywhere.
        class_weights: Weights, shape (C,), for instance from `median_frequency_weights`; None means 1.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> round(cross_entropy_loss(torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)).item(), 6)
        1.386294
    """
    if logits.ndim != 4 or logits[:, 0].shape != target.shape:
        raise ShapeError(
            f"`logits` must be (B, C, H, W) and `target` (B, H, W); got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}."
        )
    _, labels, usable = masked_pair(target, target, valid_mask)
    values = torch.where(usable[:, None], logits, 0.0)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    weight = None if class_weights is None else class_weights.to(values)
    terms = torch.nn.functional.cross_entropy(values, labels.long(), weight=weight, reduction="none")
    return masked_mean(terms, usable)


def bce_loss(logits: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute the binary cross-entropy of logits x, ``(1/n) sum [max(x, 0) - x y + ln(1 + e^{-|x|})]``.

    Args:
        logits: Any shape.
        target: 0 or 1 (or a share between), same shape.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> round(bce_loss(torch.zeros(3), torch.tensor([0.0, 1.0, 1.0])).item(), 6)
        0.693147
    """
    x, y, usable = masked_pair(logits, target, valid_mask)
    return masked_mean(torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none"), usable)


def dice_loss(
    probabilities: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, epsilon: float = 1e-6
) -> Tensor:
    """Compute one minus the Dice overlap, ``1 - (2 sum p g + eps) / (sum p + sum g + eps)``, averaged over the images.

    The sums run over all pixels of an image. Where both are empty the overlap is 1, by epsilon.

    Args:
        probabilities: In [0, 1] (after the sigmoid or softmax), shape (B, ...).
        target: 0 or 1, same shape.
        valid_mask: True where the pixel counts, same shape, bool; None means everywhere.
        epsilon: Keeps the ratio defined.

    Returns:
        Scalar.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> round(dice_loss(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])).item(), 5)
        0.5

    Reference:
        Milletari et al., "V-Net", 3DV 2016 (there with squares in the denominator).
    """
    p, g, _ = masked_pair(probabilities, target, valid_mask)
    p, g = per_image(p), per_image(g)
    overlap = (2 * (p * g).sum(dim=1) + epsilon) / (p.sum(dim=1) + g.sum(dim=1) + epsilon)
    return (1 - overlap).mean()


def bce_dice_loss(logits: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Compute `bce_loss` plus `dice_loss` of the sigmoid. Arguments and errors as in `bce_loss`.

    Example:
        >>> bce_dice_loss(torch.tensor([[50.0, -50.0]]), torch.tensor([[1.0, 0.0]])).item() < 1e-6
        True
    """
    # Masked before the sigmoid, whose gradient would carry a masked NaN.
    x, y, usable = masked_pair(logits, target, valid_mask)
    return bce_loss(x, y, usable) + dice_loss(torch.sigmoid(x), y, usable)
