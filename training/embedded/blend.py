"""Between stages 3 and 4, if wanted: blend the networks of two runs of stage 3.

    python training/embedded/blend.py --into OUT/general_6400.pt --earlier EARLIER/fathom-general.safetensors
        --late 0.3 --decoder 0.15 --out BLEND.pt

BLEND.pt is for `rounding.py`, or the start of another run of `train.py`.

Networks that were trained apart from one pretrained network often lie in one valley, and the mean of their weights can
be better than each (Wortsman et al., "Model soups", ICML 2022). Here they are not written alike: `prune.py` may have
kept hidden units in another order, and some others; the channels of queries and keys are turned within each head; and
`equalise.py` gave every channel another size. None of that changes what a network computes, so it is undone first:

- What a norm multiplies and adds moves into the layers behind it.
- Queries and keys of a head are turned together to lie nearest to those of the other (orthogonal Procrustes problem).
- Every channel of the values gets the size that it has in the other network; the matrix behind undoes it.
- Hidden units are paired so that their weights are most alike (assignment problem; as Ainsworth et al., "Git Re-Basin",
  ICLR 2023, do for networks that have nothing in common).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from package import mean_weights
from prune import ENCODER
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fathom.models.embedded import HEAD_WIDTH, KEY_WIDTH
from fathom.models.weights import read_state_dict

State = dict[str, Tensor]
BEHIND_LAST_NORM = ("project.0", "project.1", "project.2", "project.3", "context")


def number_of_blocks(state: Mapping[str, Tensor]) -> int:
    """Return how many blocks a network has."""
    return sum(name.startswith("blocks.") and name.endswith(".qkv.weight") for name in state)


def norms(state: Mapping[str, Tensor]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name of every norm, and those of the layers behind it."""
    inside = [
        (f"blocks.{index}.{norm}", (f"blocks.{index}.{layer}",))
        for index in range(number_of_blocks(state))
        for norm, layer in (("norm1", "qkv"), ("norm2", "fc1"))
    ]
    return [*inside, ("norm", BEHIND_LAST_NORM)]


def with_norms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | None = None) -> State:
    """Write the same function with other norms: by default with those that neither multiply nor add.

    Args:
        state: Of an `EmbeddedNet`.
        wanted: A state whose norms the result is to have.
    """
    out = dict(state)
    for norm, layers in norms(state):
        gain, offset = state[f"{norm}.weight"], state[f"{norm}.bias"]
        new_gain, new_offset = torch.ones_like(gain), torch.zeros_like(offset)
        if wanted is not None:
            new_gain, new_offset = wanted[f"{norm}.weight"], wanted[f"{norm}.bias"]
        for layer in layers:
            weight = state[f"{layer}.weight"]
            flat = weight.flatten(1)
            scaled = flat * (gain / new_gain)
            out[f"{layer}.weight"] = scaled.view_as(weight)
            out[f"{layer}.bias"] = state[f"{layer}.bias"] + flat @ offset - scaled @ new_offset
        out[f"{norm}.weight"], out[f"{norm}.bias"] = new_gain, new_offset
    return out


def rows(state: Mapping[str, Tensor], layer: str) -> Tensor:
    """Return the weights of a layer, the bias as the last column."""
    return torch.cat([state[f"{layer}.weight"], state[f"{layer}.bias"][:, None]], 1)


def set_rows(state: State, layer: str, table: Tensor) -> None:
    """Undo `rows`."""
    state[f"{layer}.weight"], state[f"{layer}.bias"] = table[:, :-1], table[:, -1]


def match(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> State:
    """Write the same function in the order, the turns and the sizes of another network; both as of `with_norms`."""
    out = dict(state)
    for index in range(number_of_blocks(state)):
        qkv, after, fc1, fc2 = (f"blocks.{index}.{layer}" for layer in ("qkv", "out", "fc1", "fc2"))
        own, wanted = rows(state, qkv), rows(other, qkv)
        width = state[f"{after}.weight"].shape[1]
        heads = width // HEAD_WIDTH
        for head in range(heads):
            start = head * KEY_WIDTH
            query, key = (slice(s, s + KEY_WIDTH) for s in (start, heads * KEY_WIDTH + start))
            # What the keys' biases add is the same for every key, and no softmax sees it.
            pairs = wanted[query] @ own[query].T + wanted[key, :-1] @ own[key, :-1].T
            left, _, right = torch.linalg.svd(pairs)
            own[query], own[key] = left @ right @ own[query], left @ right @ own[key]
        sizes = (own[-width:] * wanted[-width:]).sum(1) / own[-width:].square().sum(1)
        own[-width:] *= sizes[:, None]
        set_rows(out, qkv, own)
        out[f"{after}.weight"] = state[f"{after}.weight"] / sizes

        own, wanted = rows(state, fc1), rows(other, fc1)
        likeness = torch.nn.functional.normalize(wanted) @ torch.nn.functional.normalize(own).T
        order = torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
        set_rows(out, fc1, own[order])
        out[f"{fc2}.weight"] = state[f"{fc2}.weight"][:, order]
    return out


def share_of(name: str, late: float, decoder: float, blocks: int) -> float:
    """Return the earlier network's share of a tensor: none in the first half of the blocks and before them."""
    part, _, rest = name.partition(".")
    if part == "blocks":
        return late if int(rest.partition(".")[0]) >= blocks // 2 else 0.0
    return 0.0 if part in ENCODER else decoder


def blend(into: Mapping[str, Tensor], earlier: Mapping[str, Tensor], late: float, decoder: float) -> State:
    """Return the mean of two networks, with the norms of the first."""
    first, second = with_norms(into), with_norms(earlier)
    second = match(second, first)
    blocks = number_of_blocks(into)
    mean = {name: value.lerp(second[name], share_of(name, late, decoder, blocks)) for name, value in first.items()}
    return with_norms(mean, into)


def load(path: Path) -> State:
    """Load a checkpoint of train.py or a packaged model, in double precision."""
    state = read_state_dict(path) if path.suffix == ".safetensors" else mean_weights([path])
    return {name.removeprefix("net."): value.double() for name, value in state.items()}


@torch.no_grad()
def main() -> None:
    """Blend and write the start of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="general_STEP.pt or fathom-general.safetensors")
    parser.add_argument("--earlier", type=Path, required=True, help="the same of another run")
    parser.add_argument("--late", type=float, default=0.3, help="its share of the second half of the blocks")
    parser.add_argument("--decoder", type=float, default=0.15, help="its share of the decoder and the heads")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state = blend(load(args.into), load(args.earlier), args.late, args.decoder)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"average": {f"net.{name}": value.float() for name, value in state.items()}}, args.out)


if __name__ == "__main__":
    main()
