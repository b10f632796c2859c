"""Sums of the losses of several tasks, with fixed or learned weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fathom.errors import ConfigError


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Compute ``sum_i w_i L_i`` with fixed weights.

    Args:
        losses: Scalars by task.
        weights: One weight for each task, no more and no fewer.

    Returns:
        Scalar.

    Raises:
        ConfigError: If the names differ or there is none.

    Example:
        >>> losses = {"depth": torch.tensor(2.0), "labels": torch.tensor(3.0)}
        >>> weighted_sum(losses, {"depth": 1.0, "labels": 0.5}).item()
        3.5
    """
    _check_names(losses, weights)
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def uncertainty_weighted_sum(losses: Mapping[str, Tensor], log_variances: Mapping[str, Tensor]) -> Tensor:
    """Compute ``sum_i [e^{-s_i} L_i / 2 + s_i / 2]`` with learned ``s_i = ln sigma_i^2``.

    For a constant loss the best s_i is ``ln L_i``, so large losses are weighed down; s / 2 keeps the weights from
    running to 0. The losses must not be negative.

    Args:
        losses: Scalars by task.
        log_variances: One learned scalar for each task.

    Returns:
        Scalar.

    Raises:
        ConfigError: If the names differ or there is none.

    Example:
        >>> uncertainty_weighted_sum({"depth": torch.tensor(2.0)}, {"depth": torch.tensor(0.0)}).item()
        1.0

    Reference:
        Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", CVPR
        2018, equation 7.
    """
    _check_names(losses, log_variances)
    terms = [0.5 * torch.exp(-log_variances[name]) * loss + 0.5 * log_variances[name] for name, loss in losses.items()]
    return torch.stack(terms).sum()


def _check_names(losses: Mapping[str, Tensor], weights: Mapping[str, object]) -> None:
    if not losses or set(losses) != set(weights):
        raise ConfigError(
            f"Every task needs one loss and one weight; got losses {sorted(losses)} and weights {sorted(weights)}. "
            "Give both the same names."
        )
