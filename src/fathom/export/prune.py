"""Structured pruning: whole channels leave a network, and everything that is tied to them with them.

torch-pruning follows the channels through residual sums and concatenations, and this module through pixel shuffles, so
that what is left is a smaller ordinary network of the same form. A pruned network has lost accuracy: train it on with
`fathom train`.

References: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710 (magnitude of a filter);
Fang et al., "DepGraph", CVPR 2023, arXiv 2301.12900 (groups of tied channels).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        network: Maps (B, 3, h, w) to a depth map; changed in place. Its layers of one output channel are never touched.
        example: An input, shape (1, 3, h, w).
        share: Share of the channels of each group to remove, in (0, 1).
        criterion: ``"l1"`` (magnitude of the filters) or ``"bn"`` (scale of the batch norms behind them).
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
    if criterion not in ("l1", "bn"):
        raise ModelError(f"The criterion is l1 or bn; got '{criterion}'.")
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
    layers = {name: part for name, part in network.named_modules() if isinstance(part, kinds)}
    unknown = [name for name in keep if name not in layers]
    if unknown:
        raise ModelError(f"No layer is called '{unknown[0]}'. The network has: {', '.join(layers)}.")
    before = {name: _width(layer) for name, layer in layers.items()}
    network.requires_grad_(True).eval()  # the ties are found through the graph of the gradients
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the library's own code
        counts = pruning.utils.count_ops_and_params(network, example)
        graph, shuffles = _tied_channels(pruning, network, example)
        ignored = [layer for name, layer in layers.items() if name in keep or before[name] == 1]
        for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=kinds):
            _prune_group(graph, group, shuffles, share, criterion, round_to)
        after_counts = pruning.utils.count_ops_and_params(network, example)
    try:
        with torch.inference_mode():
            network(example)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The pruned network does not run: {reason} Name the layers in `keep`.") from error
    widths = {name: (before[name], _width(layer)) for name, layer in layers.items() if _width(layer) != before[name]}
    return Pruned(network, int(counts[1]), int(after_counts[1]), int(counts[0]), int(after_counts[0]), widths)


def _width(layer: "nn.Module") -> int:
    """Return the number of output channels as the layer states it."""
    width: int = layer.out_features if hasattr(layer, "out_features") else layer.out_channels  # type: ignore[assignment]
    return width


class _Gather:
    """Channels before a pixel shuffle to channels behind it: ``unit`` neighbours become one."""

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def __call__(self, indices: Sequence[Any]) -> list[Any]:
        first: dict[int, Any] = {}
        for item in indices:
            first.setdefault(item.idx // self.unit, item)
        return [type(item)(idx=index, root_idx=item.root_idx) for index, item in first.items()]


class _Spread:
    """Channels behind a pixel shuffle to channels before it."""

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def __call__(self, indices: Sequence[Any]) -> list[Any]:
        return [
            type(item)(idx=item.idx * self.unit + step, root_idx=item.root_idx)
            for item in indices
            for step in range(self.unit)
        ]


def _tied_channels(pruning: Any, network: "nn.Module", example: "Tensor") -> tuple[Any, dict[Any, int]]:
    """Build the graph of tied channels, with pixel shuffles, which torch-pruning takes for element-wise.

    Returns:
        The graph, and the unit of each shuffle's node.
    """
    import torch
    from torch.nn import functional

    seen: dict[Any, tuple[int, int]] = {}
    shuffle = functional.pixel_shuffle

    def watched(maps: "Tensor", factor: int) -> "Tensor":
        out = shuffle(maps, factor)
        seen[out.grad_fn] = (maps.shape[1], factor**2)
        return out

    functional.pixel_shuffle = torch.pixel_shuffle = watched
    try:
        graph = pruning.DependencyGraph().build_dependency(network, example)
    finally:
        functional.pixel_shuffle = torch.pixel_shuffle = shuffle
    shuffles = {}
    for node in graph.module2node.values():
        if node.grad_fn not in seen:
            continue
        channels, unit = seen[node.grad_fn]
        producer = node.inputs[0]
        while graph.get_out_channels(producer) is None and producer.inputs:
            producer = producer.inputs[0]
        # Four branches of C channels, stacked and shuffled, keep channel c at c; a layer of 4 C channels does not.
        if graph.get_out_channels(producer) == channels:
            shuffles[node] = unit
    _map_shuffles(shuffles)
    return graph, shuffles


def _map_shuffles(shuffles: dict[Any, int]) -> None:
    """Tell the graph how the channels before and behind each shuffle belong together."""
    for node, unit in shuffles.items():
        for source in node.inputs:
            for tie in node.dependencies:
                if tie.target is source:
                    tie.index_mapping[0] = _Spread(unit)
            for tie in source.dependencies:
                if tie.target is node:
                    tie.index_mapping[0] = _Gather(unit)


def _prune_group(graph: Any, group: Any, shuffles: dict[Any, int], share: float, criterion: str, round_to: int) -> None:
    """Remove the weakest channels of one group of tied layers."""
    root, handler = group[0].dep.target.module, group[0].dep.handler
    width = _width(root)
    # Where the root feeds a shuffle, its channels go in whole units.
    unit = max((shuffles[tie.target] for tie, _ in group if tie.target in shuffles and _gathers(tie)), default=1)
    scores = _scores(graph, group, width, criterion).reshape(-1, unit).sum(1)
    step = max(1, round_to // unit)
    count = len(scores) - max(step, round(len(scores) * (1 - share) / step) * step)
    if count <= 0:
        return
    weakest = scores.argsort()[:count].tolist()
    chosen = sorted(index * unit + offset for index in weakest for offset in range(unit))
    smaller = graph.get_pruning_group(root, handler, chosen)
    if graph.check_pruning_group(smaller):
        smaller.prune()


def _gathers(tie: Any) -> bool:
    return any(isinstance(mapping, _Gather) for mapping in tie.index_mapping)


def _scores(graph: Any, group: Any, width: int, criterion: str) -> "Tensor":
    """Add up, for each channel of the root, what its group gives out: filters, or scales of batch norms."""
    import torch

    scores = torch.zeros(width)
    for item in group:
        tie, module = item.dep, item.dep.target.module
        is_norm = isinstance(module, torch.nn.BatchNorm2d)
        if not graph.is_out_channel_pruning_fn(tie.handler) or getattr(module, "weight", None) is None:
            continue
        if is_norm != (criterion == "bn"):
            continue
        weight = module.weight.detach().abs()
        if isinstance(module, torch.nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        per_channel = weight.flatten(1).sum(1) if weight.ndim > 1 else weight
        scores.index_add_(0, torch.tensor(item.root_idxs), per_channel[item.idxs])
    return scores
