"""What all losses share: shape checks, and masks that let no NaN reach a value or a gradient.

The rule is to replace unused values *before* any arithmetic. Multiplying by a mask afterwards is not enough: the
gradient of NaN times zero is NaN.
"""

import torch
from torch import Tensor

from fathom.errors import ShapeError

LOG_FLOOR = 1e-4


def masked_pair(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None, *, positive_target: bool = False, fill: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace what is not used by `fill` in both maps.

    Args:
        pred: Prediction, any shape.
        target: Target, same shape.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.
        positive_target: Whether targets of 0 and below are unused too, as for depth.
        fill: Value put where nothing is used.

    Returns:
        Prediction, target and the mask of what is used: valid, with a finite target.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.
    """
    usable = usable_mask(pred, target, valid_mask) & torch.isfinite(target)
    if positive_target:
        usable = usable & (target > 0)
    # Half precision would lose the sums; the loss is computed in float32 at least.
    dtype = torch.promote_types(pred.dtype, torch.float32)
    return torch.where(usable, pred, fill).to(dtype), torch.where(usable, target, fill).to(dtype), usable


def masked(values: Tensor, valid_mask: Tensor | None, *, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Replace what is not valid by `fill` in one map; return it, in float32 at least, and the mask."""
    usable = usable_mask(values, values, valid_mask)
    return torch.where(usable, values, fill).to(torch.promote_types(values.dtype, torch.float32)), usable


def usable_mask(pred: Tensor, target: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Check that the shapes agree; return the mask, or all True for None."""
    if pred.shape != target.shape:
        raise ShapeError(
            f"`pred` and `target` must have one shape; got {tuple(pred.shape)} and {tuple(target.shape)}. "
            "Resize one of them, or add the channel axis."
        )
    if valid_mask is None:
        return torch.ones_like(pred, dtype=torch.bool)
    if valid_mask.shape != pred.shape or valid_mask.dtype != torch.bool:
        raise ShapeError(
            f"`valid_mask` must be bool of shape {tuple(pred.shape)}; got {valid_mask.dtype} "
            f"{tuple(valid_mask.shape)}. Use for instance `target > 0`."
        )
    return valid_mask


def masked_mean(values: Tensor, usable: Tensor) -> Tensor:
    """Mean of `values` where `usable`, over everything; 0 with a zero gradient where nothing is."""
    return torch.where(usable, values, 0.0).sum() / usable.sum().clamp(min=1)


def per_image(values: Tensor) -> Tensor:
    """Flatten (B, ...) to (B, N)."""
    return values.reshape(values.shape[0], -1)


def image_means(values: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each image where `usable`, and how many values that is, both (B,); 0 for an empty image."""
    counts = per_image(usable).sum(dim=1)
    return per_image(torch.where(usable, values, 0.0)).sum(dim=1) / counts.clamp(min=1), counts


def safe_log(values: Tensor) -> Tensor:
    """Natural log, continued below `LOG_FLOOR` by its tangent.

    A prediction of 0 or below then still has a finite loss and a gradient that pushes it up, where a clamp would leave
    it without one.
    """
    above = values.clamp(min=LOG_FLOOR)
    return torch.log(above) + (values - above) / LOG_FLOOR


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root with a zero gradient at 0 and below, where the true one is infinite; rounding can go below 0.

    NaN stays NaN.
    """
    vanishes = values <= torch.finfo(values.dtype).tiny
    return torch.where(vanishes, 0.0, torch.sqrt(torch.where(vanishes, 1.0, values)))
