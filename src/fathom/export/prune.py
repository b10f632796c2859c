"""Structured pruning: whole channels leave a network, and everything that is tied to them with them.

torch-pruning follows the channels through residual sums, concatenations and pixel shuffles, so that what is left is a
smaller ordinary network of the same form. A pruned network has lost accuracy: train it on with `fathom train`.

References: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710 (magnitude of a filter);
Fang et al., "DepGraph", CVPR 2023, arXiv 2301.12900 (groups of tied channels).
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fathom.errors import ModelError, require

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    Args:
        network: The smaller network; the one that was given, changed in place.
        parameters_before: Number of parameters.
        parameters_after: Number of parameters.
        multiplications_before: Multiply-accumulates of one forward pass of the example.
        multiplications_after: The same, after pruning.
        widths: Output channels of every convolution and linear layer that changed: before and after.
    """

    network: "nn.Module"
    parameters_before: int
    parameters_after: int
    multiplications_before: int
    multiplications_after: int
    widths: dict[str, tuple[int, int]]

    def markdown(self) -> str:
        """Return a table for people."""
        rows = [
            "| | before | after |",
            "|---|---|---|",
            f"| parameters | {self.parameters_before} | {self.parameters_after} |",
            f"| multiply-accumulates | {self.multiplications_before} | {self.multiplications_after} |",
            *(f"| {name} | {before} | {after} |" for name, (before, after) in self.widths.items()),
        ]
        return "\n".join(rows) + "\n"


def prune_channels(
    network: "nn.Module",
    example: "Tensor",
    *,
    share: float,
    criterion: str = "l1",
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Pruned:
    """Remove the weakest channels of every layer, and what is tied to them.

    Args:
        network: Maps (B, 3, h, w) to a depth map; changed in place. Its last layers of one channel are never touched.
        example: An input, shape (1, 3, h, w).
        share: Share of the channels of each group to remove, in (0, 1).
        criterion: ``"l1"`` (magnitude of the filter) or ``"bn"`` (scale of the batch norm behind it).
        keep: Names of layers whose output channels stay.
        round_to: Widths stay multiples of this; 8 suits most hardware.

    Returns:
        The smaller network and what changed.

    Raises:
        ModelError: If the share, the criterion or a name is wrong, or the result does not run.
        MissingExtraError: If torch-pruning is not installed.
    """
    torch = require("torch", "prune", "Pruning")
    pruning = require("torch_pruning", "prune", "Pruning")
    if not 0 < share < 1:
        raise ModelError(f"The share of channels to remove lies between 0 and 1; got {share:g}.")
    criteria = {"l1": pruning.importance.MagnitudeImportance(p=1), "bn": pruning.importance.BNScaleImportance()}
    if criterion not in criteria:
        raise ModelError(f"The criterion is l1 or bn; got '{criterion}'.")
    layers = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear)
    }
    unknown = [name for name in keep if name not in layers]
    if unknown:
        raise ModelError(f"No layer is called '{unknown[0]}'. The network has: {', '.join(layers)}.")
    before = {name: _width(layer) for name, layer in layers.items()}
    network.requires_grad_(True)  # torch-pruning finds the ties through the graph of the gradients
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the library's own code
        counts = pruning.utils.count_ops_and_params(network, example)
        pruner = pruning.pruner.BasePruner(
            network,
            example,
            importance=criteria[criterion],
            pruning_ratio=share,
            ignored_layers=[layer for name, layer in layers.items() if name in keep or before[name] == 1],
            round_to=round_to,
        )
        pruner.step()
        after_counts = pruning.utils.count_ops_and_params(network, example)
    try:
        with torch.inference_mode():
            network(example)
    except RuntimeError as error:
        raise ModelError(
            f"The pruned network does not run: {str(error).splitlines()[0]} Name its layers in `keep`."
        ) from error
    widths = {name: (before[name], _width(layer)) for name, layer in layers.items() if _width(layer) != before[name]}
    return Pruned(network, int(counts[1]), int(after_counts[1]), int(counts[0]), int(after_counts[0]), widths)


def _width(layer: "nn.Module") -> int:
    """Return the number of output channels as the weights have it."""
    width: int = layer.out_features if hasattr(layer, "out_features") else layer.out_channels  # type: ignore[assignment]
    return width
