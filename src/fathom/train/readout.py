"""The readout of a network that knows depth up to scale and shift: two numbers a picture, solved by least squares.

What is solved is a ridge regression from what the network reads off a picture to the logarithms of two depths: those at
the far and at the near quantile of its map, once the map is fitted to the ground truth. A few hundred pictures suffice,
and it takes one pass through the network for each.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import ConfigError, InputError
from fathom.models import InputLaw
from fathom.models.depth_anything import PATCH, DepthAnything
from fathom.train.config_extras import ReadoutConfig
from fathom.train.module import normalise

_STRIDE = 7
"""Every seventh pixel in each direction serves the fit of a map to its ground truth."""
_FEWEST = 100
"""Pixels of ground truth that a picture must have there."""
_ROUNDS = 10
_SMALLEST = 0.02
"""Relative errors below this all weigh the same, so that no pixel decides alone."""


def fit_relative(relative: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a map to metres, ``1 / depth = scale * relative + shift``, so that the logarithm of depth is off by little.

    Least squares whose weights turn the squares into absolute values (Holland and Welsch, Communications in Statistics
    6, 1977), so that a few wrong pixels do not matter. `alignment.fit_scale_shift_l1` takes absolute errors of inverse
    depth, which far parts hardly enter; the readout came out worse with it.

    Args:
        relative: Shape (N,).
        depth: Shape (N,) [m].

    Returns:
        Scale, 0 or more, and shift [1/m], float64.

    Example:
        >>> relative = torch.linspace(0, 4, 50)
        >>> scale, shift = fit_relative(relative, 1 / (0.25 * relative + 0.1))
        >>> round(scale.item(), 4), round(shift.item(), 4)
        (0.25, 0.1)
    """
    relative, depth = relative.double(), depth.double()
    columns = torch.stack([relative, torch.ones_like(relative)], 1)
    weights = torch.ones_like(depth)
    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(_ROUNDS):
        line = torch.linalg.lstsq(columns * weights[:, None], weights / depth, driver="gelsd").solution
        inverse = (columns @ line).clamp_min(1e-3)
        # Of the true and the fitted depth the smaller one: a wrong pixel far away would outweigh all others.
        weights = torch.minimum(depth, 1 / inverse) / (inverse * depth).log().abs().clamp_min(_SMALLEST).sqrt()
    return line[0].clamp_min(0), line[1]


def ridge(features: Tensor, targets: Tensor, blocks: tuple[int, ...], strength: float) -> tuple[Tensor, Tensor]:
    """Solve a linear layer by ridge regression.

    Each feature is standardised, and each block of features counts the same, however many it has.

    Args:
        features: Shape (N, F).
        targets: Shape (N, T).
        blocks: How many features each block has; they add up to F.
        strength: What large weights cost.

    Returns:
        Weight (T, F) and bias (T,) of the layer.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> weight, bias = ridge(x, x[:, :1] - 2 * x[:, 2:] + 5, (1, 2), 1e-6)
        >>> [round(value, 2) + 0.0 for value in (*weight[0].tolist(), *bias.tolist())]
        [1.0, 0.0, -2.0, 5.0]
    """
    features, targets = features.double(), targets.double()
    share = torch.cat([torch.full((size,), size**-0.5, dtype=torch.float64) for size in blocks])
    mean, factor = features.mean(0), share / features.std(0).clamp_min(1e-6)
    known, middle = (features - mean) * factor, targets.mean(0)
    # There are more features than pictures: the small system is that of the pictures.
    gram = known @ known.T + strength * torch.eye(len(known), dtype=torch.float64)
    weight = (known.T @ torch.linalg.solve(gram, targets - middle)).T * factor
    return weight.float(), (middle - weight @ mean).float()


@torch.no_grad()
def solve_readout(
    network: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    law: InputLaw,
    config: ReadoutConfig,
    *,
    bf16: bool = False,
) -> int:
    """Set the readout of a network.

    Args:
        network: Changed in place.
        batches: With ``image`` (B, 3, H, W) in 0 to 1, H and W multiples of 14, ``target`` [m] and ``valid_mask``
            (B, 1, H, W).
        law: Input law of the network.
        config: The section `readout`.
        bf16: Whether the network computes in half precision, on the CPU.

    Returns:
        How many pictures had enough ground truth.

    Raises:
        ConfigError: If the network has no readout, or the pictures are no multiple of 14.
        InputError: If no two pictures have enough ground truth.
    """
    model = readout_of(network)
    mode, seen, wanted = model.training, [], []
    model.eval()
    for batch in batches:
        if any(side % PATCH for side in batch["image"].shape[-2:]):
            size = " x ".join(str(side) for side in batch["image"].shape[-2:])
            raise ConfigError(f"The readout needs pictures of a multiple of {PATCH} px; got {size}. Set `data.resize`.")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            relative, quantiles, read = model.look(normalise(batch["image"], law))
        for index, mask in enumerate(batch["valid_mask"]):
            used = mask.reshape(relative.shape[-2:])[::_STRIDE, ::_STRIDE]
            depth = batch["target"][index].reshape(relative.shape[-2:])[::_STRIDE, ::_STRIDE][used]
            if len(depth) < _FEWEST:
                continue
            scale, shift = fit_relative(relative[index, 0, ::_STRIDE, ::_STRIDE][used], depth)
            ends = scale * quantiles[index, [0, -1]].double() + shift
            seen.append(read[index])
            wanted.append(-ends.clamp_min(1 / model.max_depth).log())
    if len(seen) < 2:
        raise InputError(
            f"The readout needs pictures with depth at {_FEWEST} of the pixels that are looked at (one in "
            f"{_STRIDE**2}), two at least; found {len(seen)}."
        )
    weight, bias = ridge(torch.stack(seen), torch.stack(wanted), model.readout_blocks, config.ridge)
    model.readout.weight.copy_(weight)
    model.readout.bias.copy_(bias)
    model.train(mode)
    return len(seen)


def readout_of(network: nn.Module) -> DepthAnything:
    """Return the network as one that has a readout.

    Raises:
        ConfigError: If it has none.
    """
    if not isinstance(network, DepthAnything):
        raise ConfigError("`readout` is for networks with a relative map and a readout: depth-anything. Remove it.")
    return network
