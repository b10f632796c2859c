"""Between stages 3 and 4, if wanted: put a checkpoint's matrices into 4 bits so that the tokens stay.

    python training/embedded/rounding.py --checkpoint OUT/general_STEP.pt --cache CACHE --nyu NYU --out ROUNDED.pt

The nearest codes are right for a network that was trained with them (``train.py --four-bits``). One that was not, as a
blend (`blend.py`), keeps more of itself where the error of every column is made up for by the columns that follow. It
takes three minutes on two cores. ROUNDED.pt holds the weights and their grids: for ``train.py --keep-codes``,
which tunes the rest of the network, or for `package.py`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from views import Pool, load, shapes

from fathom.models.embedded import Block, EmbeddedNet
from fathom.models.four_bits import Grid, find_grid, snap
from train import SIZE, Joint, save, start_of

RIDGE = 0.01
"""Share of the mean square of the inputs that is added to each."""
COLUMNS = 96
"""Columns that are rounded before their errors reach the columns after them."""
PER_SOURCE = 24
"""Pictures of every source that are enough."""


def pictures_of(pool: Pool, size: tuple[int, int], per_source: int = PER_SOURCE) -> list[Tensor]:
    """Return pictures of every source, (B, 3, h, w) in [0, 1], one batch for each of the shapes that training has."""
    found: dict[tuple[int, int], list[np.ndarray]] = {shape: [] for shape in shapes(size)}
    for numbers in pool.sources.values():
        for number in numbers[:: max(1, len(numbers) // per_source)][:per_source]:
            shape = min(found, key=lambda s: abs(np.log(s[1] / s[0] / pool.aspects[number])))
            image = cv2.resize(pool.images[number].numpy(), shape[::-1], interpolation=cv2.INTER_AREA)
            found[shape].append(image)
    return [torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).float() / 255 for group in found.values() if group]


def make_up(weight: Tensor, grid: Grid, inputs: Tensor, ridge: float = RIDGE) -> Tensor:
    """Round column by column; what each gets wrong the columns after it make up for, as the inputs allow.

    Args:
        weight: Shape (N, K).
        grid: Its grid.
        inputs: What comes into the layer, (M, K).
        ridge: See `RIDGE`.

    Returns:
        Entries on the grid, (N, K), not always the nearest.

    Reference:
        Frantar et al., "GPTQ", ICLR 2023, algorithm 1.
    """
    moment = inputs.double().T @ inputs.double() / len(inputs)
    moment += ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    shares = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    left, rounded = weight.clone(), torch.empty_like(weight)
    columns = weight.shape[1]
    group = columns // grid.sizes.shape[1]
    for first in range(0, columns, COLUMNS):
        last = min(first + COLUMNS, columns)
        errors = torch.empty(len(weight), last - first)
        for column in range(first, last):
            one = Grid(grid.sizes[:, column // group, None], grid.scale)
            rounded[:, column : column + 1] = snap(left[:, column : column + 1], one)
            error = (left[:, column] - rounded[:, column]) / shares[column, column]
            left[:, column:last] -= error[:, None] * shares[column, column:last]
            errors[:, column - first] = error
        left[:, last:] -= errors @ shares[first:last, last:]
    return rounded


def inputs_of(block: Block, tokens: Tensor, layer: str) -> Tensor:
    """Return what comes into a layer of a block, (B, N, K)."""
    if layer == "qkv":
        return block.norm1(tokens)
    attended = block.attend(tokens)
    if layer == "out":
        return attended
    normed = block.norm2(tokens + block.out(attended))
    return normed if layer == "fc1" else F.gelu(block.fc1(normed))


@torch.no_grad()
def round_network(network: EmbeddedNet, pictures: list[Tensor]) -> dict[str, Grid]:
    """Round the matrices of all blocks in turn, each for what the rounded ones before it give.

    Args:
        network: Gets the rounded matrices, and biases that give the mean outputs of before.
        pictures: Batches (B, 3, h, w) in [0, 1].

    Returns:
        The grids, by the names of the matrices.
    """
    batches = [network.embed(batch) for batch in pictures]
    grids = {}
    for number, block in enumerate(network.blocks):
        for name in ("qkv", "out", "fc1", "fc2"):
            layer: nn.Linear = getattr(block, name)
            inputs = torch.cat([inputs_of(block, tokens, name).flatten(0, 1) for tokens in batches])
            grid = grids[f"blocks.{number}.{name}.weight"] = find_grid(layer.weight)
            rounded = make_up(layer.weight, grid, inputs)
            layer.bias.add_((layer.weight - rounded) @ inputs.mean(0))
            layer.weight.copy_(rounded)
        batches = [block(tokens) for tokens in batches]
    return grids


def main() -> None:
    """Round one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="general_STEP.pt of train.py, or of blend.py")
    parser.add_argument("--cache", type=Path, required=True, help="of label.py; its pictures show what comes in")
    parser.add_argument("--nyu", type=Path, required=True, help="as in train.py; frames of val.txt are left out")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="as in train.py")
    args = parser.parse_args()
    joint = Joint().eval()
    start_of(args.checkpoint, joint)
    grids = round_network(joint.net, pictures_of(load(args.cache, args.nyu, None), tuple(args.size)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(args.out, joint.split(grids)["general"])


if __name__ == "__main__":
    main()
