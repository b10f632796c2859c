"""The network of a recipe: built, given one head for each task, and with its frozen parts."""

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from fathom import models
from fathom.errors import ConfigError, ModelError
from fathom.models.base import main_output
from fathom.train.config import Recipe
from fathom.train.optim import check_part


class SharedTrunk(nn.Module):
    """One trunk and a head for each task.

    Args:
        networks: Networks of one family by task; the trunk of the first is kept and given to all.

    Raises:
        ModelError: If a network has no trunk that can be shared.

    Example:
        >>> import torch
        >>> heads = {"depth": models.build("unet", base_channels=4)}
        >>> heads["labels"] = models.build("unet", base_channels=4, head="classes", head_options={"num_classes": 5})
        >>> {key: tuple(maps.shape) for key, maps in SharedTrunk(heads)(torch.rand(2, 3, 32, 32)).items()}
        {'depth': (2, 1, 32, 32), 'labels': (2, 5, 32, 32)}
    """

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        first = next(iter(networks.values()))
        if not hasattr(first, "trunk") or not hasattr(first, "decode"):
            raise ModelError("This network cannot share its trunk between tasks. Use unet, deeplabv3plus or the grid.")
        for network in networks.values():
            network.trunk = first.trunk
        self.heads = nn.ModuleDict(networks)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, h, w) to the main output of each task."""
        first = cast(Any, next(iter(self.heads.values())))
        features = first.trunk(image)
        return {task: main_output(cast(Any, head).decode(features, image)) for task, head in self.heads.items()}


def build_network(recipe: Recipe) -> nn.Module:
    """Build the network of a recipe and freeze the parts that never learn.

    Raises:
        ModelError: If an option is unknown, or the trunk cannot be shared.
        WeightsError: If weights do not fit.
        ConfigError: If a frozen part does not exist.
    """
    config = recipe.model
    if len(recipe.tasks) == 1:
        network = models.build(config.name, pretrained=config.pretrained, **config.options)
    else:
        network = SharedTrunk(
            {
                task: models.build(
                    config.name, pretrained=config.pretrained, **config.options, **config.task_options.get(task, {})
                )
                for task in recipe.tasks
            }
        )
    for name in (*config.freeze, *(name for phase in recipe.phases for name in phase.freeze)):
        check_part(network, name)
    for parameter in parameters_of(network, config.freeze):
        parameter.requires_grad_(False)
    for index, phase in enumerate(recipe.phases):
        method = {"coarse": "coarse_depth", "window": "predict_window"}.get(phase.run)
        if method is not None and not hasattr(network, method):
            raise ConfigError(f"`phases.{index}.run: {phase.run}` needs a network of Eigen; {config.name} is none.")
    return network


def parameters_of(network: nn.Module, parts: Iterable[str]) -> list[nn.Parameter]:
    """Return the parameters that lie in any of the named parts."""
    names = tuple(parts)
    return [
        parameter
        for name, parameter in network.named_parameters()
        if any(name == part or name.startswith(f"{part}.") for part in names)
    ]


def set_modes(network: nn.Module, parts: Iterable[str]) -> None:
    """Put the network into training mode, but frozen parts into evaluation mode: no dropout, no new batch moments."""
    network.train()
    names = tuple(parts)
    for name, module in network.named_modules():
        if name in names:
            module.eval()
