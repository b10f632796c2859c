"""Matrices in 4 bits: the grid their entries lie on, and how it is stored.

An entry is ``code * size * scale``: a whole number from -8 to 7, a whole number from 1 to 15 that 8 neighbours in a
row share, and one scale for the row. ``code * size`` is a whole number of at most 120, so arithmetic in 8 bits takes
such a matrix exactly as it is. It needs 4.5 bits an entry and 4 bytes a row. (Up to version 9 of the embedded
models 32 neighbours shared a size; how many they are, the shapes tell.)

Scales of two levels are those of Dettmers et al., "QLoRA", NeurIPS 2023 (double quantisation); whole numbers below, so
that they multiply into 8 bits, are Fathom's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 8
"""Entries of a row for which `find_grid` chooses one size."""
LOWEST, HIGHEST, LARGEST_SIZE = -8, 7, 15
SIZES, ROW_SCALE = ".group_sizes", ".row_scale"
"""End the names of the tensors that belong to a matrix in 4 bits."""


class Grid(NamedTuple):
    """Where the entries of a matrix may lie.

    Args:
        sizes: Shape (N, K / GROUP), whole numbers from 1 to 15.
        scale: Shape (N, 1).
    """

    sizes: Tensor
    scale: Tensor

    @property
    def steps(self) -> Tensor:
        """Distance between neighbours, for each group, (N, K / GROUP)."""
        return self.sizes * self.scale


def find_grid(weight: Tensor) -> Grid:
    """Choose for each group the size that leaves the smallest squared error.

    Args:
        weight: Shape (N, K), K a multiple of 16.

    Example:
        >>> group = torch.tensor([-8.0, -5.0, -3.0, -1.0, 0.0, 2.0, 4.0, 7.0])
        >>> find_grid(torch.cat([group, group / 8])[None]).sizes.tolist()
        [[15.0, 2.0]]
    """
    groups = weight.unflatten(1, (-1, GROUP))
    # The largest group uses the whole range: its largest entry is 7 or -8, whichever its sign asks for.
    largest = torch.maximum(groups.amax(-1) / HIGHEST, groups.amin(-1) / LOWEST)
    scale = largest.amax(1, keepdim=True).clamp_min(1e-12) / LARGEST_SIZE
    best = torch.full_like(largest, float("inf"))
    sizes = torch.ones_like(largest)
    for size in range(1, LARGEST_SIZE + 1):
        snapped = snap(weight, Grid(torch.full_like(largest, size), scale))
        error = (snapped - weight).square().unflatten(1, (-1, GROUP)).sum(-1)
        sizes = torch.where(error < best, float(size), sizes)
        best = torch.minimum(error, best)
    return Grid(sizes, scale)


def codes_of(weight: Tensor, grid: Grid) -> Tensor:
    """Return the nearest codes, (N, K), as float."""
    groups = weight.unflatten(1, (grid.sizes.shape[1], -1)) / grid.steps[..., None]
    return groups.round_().clamp_(LOWEST, HIGHEST).flatten(1)


def snap(weight: Tensor, grid: Grid) -> Tensor:
    """Move every entry to the nearest place of its grid.

    Example:
        >>> weight = torch.randn(4, 64)
        >>> once = snap(weight, find_grid(weight))
        >>> torch.equal(once, snap(once, find_grid(weight)))
        True
    """
    return (codes_of(weight, grid).unflatten(1, (grid.sizes.shape[1], -1)) * grid.steps[..., None]).flatten(1)


def pack_grid(weight: Tensor, grid: Grid, name: str) -> dict[str, Tensor]:
    """Store a matrix: two codes a byte, the first half of the row in the low bits, and its sizes alike.

    Args:
        weight: Shape (N, K).
        grid: Its grid.
        name: Name of the matrix.

    Returns:
        ``name`` (N, K / 2) uint8, sizes (N, K / GROUP / 2) uint8 and scale (N, 1) float32.
    """
    codes = (codes_of(weight, grid) - LOWEST).to(torch.uint8)
    return {
        name: _two_in_one(codes),
        name + SIZES: _two_in_one(grid.sizes.to(torch.uint8)),
        name + ROW_SCALE: grid.scale.contiguous(),
    }


def unpack_grid(packed: Tensor, sizes: Tensor, scale: Tensor) -> Tensor:
    """Undo `pack_grid`; return the matrix (N, K).

    Example:
        >>> weight = torch.randn(4, 64)
        >>> grid = find_grid(weight)
        >>> stored = pack_grid(weight, grid, "w")
        >>> torch.equal(unpack_grid(stored["w"], stored["w.group_sizes"], stored["w.row_scale"]), snap(weight, grid))
        True
    """
    steps = _one_from_two(sizes) * scale
    codes = (_one_from_two(packed) + LOWEST).unflatten(1, (steps.shape[1], -1))
    return (codes * steps[..., None]).flatten(1)


def stored_grids(tensors: Mapping[str, Tensor]) -> dict[str, Grid]:
    """Return the grid of every matrix that `pack_grid` stored among some tensors, by the name of the matrix.

    Example:
        >>> weight = torch.randn(4, 64)
        >>> grid = find_grid(weight)
        >>> torch.equal(stored_grids(pack_grid(weight, grid, "w"))["w"].sizes, grid.sizes)
        True
    """
    names = [name.removesuffix(SIZES) for name in tensors if name.endswith(SIZES)]
    return {name: Grid(_one_from_two(tensors[name + SIZES]).float(), tensors[name + ROW_SCALE]) for name in names}


def _two_in_one(values: Tensor) -> Tensor:
    low, high = values.chunk(2, 1)
    return (low | (high << 4)).contiguous()


def _one_from_two(values: Tensor) -> Tensor:
    return torch.cat([values & 15, values >> 4], 1).float()
