"""Thin modules around the functions, for code that wants `nn.Module` objects."""

import inspect
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from fathom.errors import ConfigError
from fathom.losses.multitask import uncertainty_weighted_sum


class FunctionLoss(nn.Module):
    """A loss function with its options bound, as a module without parameters.

    Args:
        function: A loss of this package, or your own.
        options: Keyword options bound to it.

    Raises:
        ConfigError: If the function has no such option.

    Example:
        >>> from fathom.losses.depth import huber_loss
        >>> FunctionLoss(huber_loss, threshold=0.5)(torch.tensor([0.5]), torch.zeros(1)).item()
        0.125
    """

    def __init__(self, function: Callable[..., Tensor], **options: object) -> None:
        super().__init__()
        parameters = inspect.signature(function).parameters
        known = [name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(
                f"Unknown option '{unknown[0]}' of {function.__name__}. Known: {', '.join(known) or 'none'}."
            )
        self.function = function
        self.options = options

    def forward(self, *args: Tensor | None, **kwargs: Tensor) -> Tensor:
        """Call the function with its bound options."""
        return self.function(*args, **kwargs, **self.options)

    def extra_repr(self) -> str:
        """Name the function and its options."""
        return ", ".join([self.function.__name__, *(f"{name}={value}" for name, value in self.options.items())])


class UncertaintyWeightedSum(nn.Module):
    """Sum of task losses with learned weights; see `uncertainty_weighted_sum`.

    Its parameters must be given to the optimiser, without weight decay.

    Args:
        tasks: Names of the tasks.

    Example:
        >>> total = UncertaintyWeightedSum(["depth", "normals"])
        >>> total({"depth": torch.tensor(2.0), "normals": torch.tensor(4.0)}).item()
        3.0
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Weigh and sum one loss for each task."""
        return uncertainty_weighted_sum(losses, dict(self.log_variances.items()))
