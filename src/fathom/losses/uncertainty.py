"""Losses that let the network predict how unsure it is (heteroscedastic regression)."""

import torch
from torch import Tensor

from fathom.errors import ShapeError
from fathom.losses._masking import masked_mean, masked_pair


def laplace_nll_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, log_scale: Tensor) -> Tensor:
    """Compute ``(1/n) sum [|e| e^{-s} + s]`` with ``s = ln b``: a Laplace likelihood without its constant ln 2.

    For a fixed error the best s is ``ln |e|``.

    Args:
        pred: Prediction, any shape, any unit.
        target: Target, same shape and unit.
        valid_mask: True where the value counts, same shape, bool; None means everywhere.
        log_scale: s, same shape.

    Returns:
        Scalar; may be negative.

    Raises:
        ShapeError: If the shapes differ or the mask is not bool.

    Example:
        >>> one = torch.ones(1)
        >>> laplace_nll_loss(3.0 * one, one, log_scale=torch.zeros(1)).item()
        2.0

    Reference:
        Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?", NeurIPS 2017.
    """
    error, s, usable = _error_and_log(pred, target, valid_mask, log_scale)
    return masked_mean(error.abs() * torch.exp(-s) + s, usable)


def gaussian_nll_loss(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None = None, *, log_variance: Tensor
) -> Tensor:
    """Compute ``(1/n) sum [e^2 e^{-s} / 2 + s / 2]`` with ``s = ln sigma^2``: a Gauss likelihood without its constant.

    For a fixed error the best s is ``ln e^2``. Arguments and errors as in `laplace_nll_loss`.

    Example:
        >>> one = torch.ones(1)
        >>> gaussian_nll_loss(3.0 * one, one, log_variance=torch.zeros(1)).item()
        2.0

    Reference:
        Kendall and Gal, NeurIPS 2017, equation 8.
    """
    error, s, usable = _error_and_log(pred, target, valid_mask, log_variance)
    return masked_mean(0.5 * error.square() * torch.exp(-s) + 0.5 * s, usable)


def _error_and_log(
    pred: Tensor, target: Tensor, valid_mask: Tensor | None, log_spread: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    p, g, usable = masked_pair(pred, target, valid_mask)
    if log_spread.shape != pred.shape:
        raise ShapeError(
            f"The log scale must have the shape of `pred`; got {tuple(log_spread.shape)} and {tuple(pred.shape)}."
        )
    return p - g, torch.where(usable, log_spread, 0.0).to(p.dtype), usable
