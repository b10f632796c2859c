"""The optimiser, its groups, and a learning rate that is a pure function of the step."""

import math
from typing import Any

import torch
from torch import nn

from fathom.config import nearest_name
from fathom.errors import ConfigError
from fathom.models.base import relative_rate_groups
from fathom.train.config import OptimiserConfig, ScheduleConfig

_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 1e4
"""Rate at the start and end of one_cycle, as shares of its peak; those of Smith and Topin's fastai successors."""


def build_optimiser(
    network: nn.Module, loss_weights: nn.Module | None, config: OptimiserConfig, partner: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser over everything that may learn.

    Parts that are frozen for a phase only must be in it already: without a gradient they are passed over.

    Args:
        network: The network.
        loss_weights: Learned weights of the loss terms, which get no weight decay.
        config: The section `optimiser`.
        partner: A further network that learns at the full rate.

    Returns:
        The optimiser; each group has a name.

    Raises:
        ConfigError: If a part with its own rate does not exist, or the network states no rates.
    """
    groups = _groups(network, config)
    if loss_weights is not None:
        learned = list(loss_weights.parameters())
        groups.append({"name": "loss weights", "params": learned, "lr": config.lr, "weight_decay": 0.0})
    if partner is not None:
        groups.append({"name": "partner", "params": list(partner.parameters()), "lr": config.lr})
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, **common)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, betas=config.betas, **common)


def _groups(network: nn.Module, config: OptimiserConfig) -> list[dict[str, Any]]:
    if config.paper_rates:
        if not hasattr(network, "parameter_groups"):
            raise ConfigError("This network states no relative rates of its own. Remove `optimiser.paper_rates`.")
        groups: list[dict[str, Any]] = network.parameter_groups(config.lr)
        return groups
    for name in config.rates:
        check_part(network, name)
    rest = [name for name, _ in network.named_parameters() if not any(_inside(name, part) for part in config.rates)]
    # The longest name wins, so the rate of a whole first-level part does not hide that of a part inside it.
    full = {**config.rates, **dict.fromkeys((name.split(".")[0] for name in rest), 1.0)}
    found = relative_rate_groups(full, network, config.lr)
    if not found:
        raise ConfigError("Every part of the network is frozen, so nothing can learn. Shorten `model.freeze`.")
    return found


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def check_part(network: nn.Module, name: str) -> None:
    """Refuse the name of a part that the network does not have.

    Raises:
        ConfigError: If there is no such module or parameter.
    """
    known = [part for part, _ in network.named_modules() if part] + [part for part, _ in network.named_parameters()]
    if name not in known:
        raise ConfigError(f"The network has no part '{name}'. {nearest_name(name, [k for k in known if '.' not in k])}")


def lr_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return what the learning rate is multiplied by at a step, without what `plateau` has taken off.

    Args:
        config: The section `schedule`.
        step: Steps done so far.
        steps: Steps of the whole run.

    Returns:
        Factor from 0 to 1.

    Example:
        >>> [lr_factor(ScheduleConfig(name="polynomial", power=1.0), step, 4) for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]

    Reference:
        one_cycle: Smith and Topin, "Super-Convergence", 2018, with cosine flanks; polynomial: Liu et al., "ParseNet",
        2015.
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    match config.name:
        case "step":
            return warm * float(config.gamma ** sum(step >= milestone for milestone in config.milestones))
        case "polynomial":
            return warm * float((1.0 - min(step, steps) / steps) ** config.power)
        case "one_cycle":
            top = max(1.0, config.rise * steps)
            if step < top:
                return _cosine(_ONE_CYCLE_START, 1.0, step / top)
            return _cosine(1.0, _ONE_CYCLE_END, min(1.0, (step - top) / max(1.0, steps - top)))
    return warm


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
