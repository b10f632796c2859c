"""Stage 2: make Depth Anything V2 Small's transformer narrow, without training.

    python training/embedded/prune.py --cache CACHE --nyu NYU --teacher TEACHER --out START.pt
        [--decoder src/fathom/weights/fathom-general.safetensors]

All blocks and heads stay. On a few hundred pictures, in every block:

- The queries and keys of each head keep 32 of their 64 channels, those in which their products are largest: with Q and
  K the tables of both, whitened, the singular vectors of their product (what softmax does not see, the mean of the
  keys, is left out).
- 960 of 1536 hidden units stay. They are dropped a few at a time, always those whose loss the others can make good best
  (the structured form of Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992).
- The matrices behind both are refitted by least squares: from the narrow network's own activations they give what
  brings its stream of tokens back to the large network's (the layer-wise reconstruction of He et al., ICCV 2017, on a
  transformer). So each block also repairs what the ones before it lost.

The positions are resampled to few patches. --decoder begins with the decoder and heads of an earlier version.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.models.embedded import HEAD_WIDTH, KEY_WIDTH, MEAN, PATCH, STD, Block, EmbeddedNet
from fathom.models.weights import read_state_dict

SIZE = (210, 280)
SHARES = {"nyu": 0.3, "rooms": 0.15, "objects": 0.25, "photos": 0.2, "roads": 0.1}
ENCODER = ("patches", "class_token", "positions", "blocks", "norm")
"""What comes from the large model."""
RIDGE = 3e-5
"""Added to the diagonal of the normal equations, as a share of its mean."""
AT_ONCE = 8
"""Hidden units dropped together."""


def load_pictures(cache: Path, nyu: Path, count: int) -> Tensor:
    """Load pictures of several sources, without NYU's validation frames, normalised, (N, 3, h, w)."""
    held_out = set((nyu / "val.txt").read_text().split())
    rng = np.random.default_rng(0)
    pictures = []
    for source, share in SHARES.items():
        files = [f for f in sorted((cache / source).glob("*.npz")) if source != "nyu" or f.stem not in held_out]
        for index in rng.choice(len(files), min(len(files), round(share * count)), replace=False):
            with np.load(files[index]) as data:
                image = data["image"]
                # The cache stretched it; of an upright picture the upper part is taken.
                rows = min(1.0, float(data["aspect"]) * SIZE[0] / SIZE[1])
            image = image[: round(rows * len(image))]
            pictures.append(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA))
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return (stack - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def in_parts(function: Callable[[Tensor], Tensor], tokens: Tensor, size: int = 8) -> Tensor:
    """Apply a function to a few pictures at a time."""
    return torch.cat([function(part) for part in tokens.split(size)])


def normal_equations(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides of the least-squares problem between two tables of rows; the last input is constant."""
    table = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    gram = (table.T @ table).double()
    gram += torch.eye(len(gram)) * gram.diag().mean() * RIDGE
    return gram, (table.T @ targets).double()


def solve(gram: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, inputs) and bias of the least-squares map."""
    solution = torch.linalg.solve(gram, moments).float()
    return solution[:-1].T.contiguous(), solution[-1]


def choose(gram: Tensor, moments: Tensor, count: int) -> Tensor:
    """Return which inputs to keep, in order; the constant one stays and is not counted.

    Dropping input j costs ``|w_j|^2 / (G^-1)_jj`` where the others are fitted anew; both are updated after every drop.
    """
    inverse = torch.linalg.inv(gram)
    weight = inverse @ moments
    left = torch.ones(len(gram) - 1, dtype=torch.bool)
    while (surplus := int(left.sum()) - count) > 0:
        cost = weight[:-1].square().sum(1) / inverse.diagonal()[:-1]
        drop = cost.masked_fill(~left, float("inf")).topk(min(AT_ONCE, surplus), largest=False).indices
        columns = inverse[:, drop] @ torch.linalg.inv(inverse[drop][:, drop])
        weight = weight - columns @ weight[drop]
        inverse = inverse - columns @ inverse[drop]
        inverse[drop, :], inverse[:, drop], inverse[drop, drop] = 0.0, 0.0, 1.0
        left[drop] = False
    return left.nonzero()[:, 0]


def split_heads(tokens: Tensor) -> Tensor:
    """Map (B, N, heads * width) to (B, heads, N, width)."""
    return tokens.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)


def roots(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of the second moments of the rows, and its inverse."""
    values, vectors = torch.linalg.eigh(table.T @ table / len(table))
    values = values.clamp_min(1e-6 * values[-1]).sqrt()
    return vectors * values @ vectors.T, vectors / values @ vectors.T


def narrow_keys(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps (heads, 64, 32) of queries and keys that keep their products best.

    Args:
        query: Shape (B, heads, N, 64).
        key: Shape (B, heads, N, 64).
    """
    key = key - key.mean(2, keepdim=True)
    pairs = []
    tables = (part.transpose(0, 1).flatten(1, 2).double() for part in (query, key))
    for q, k in zip(*tables, strict=True):
        (root_q, inverse_q), (root_k, inverse_k) = roots(q), roots(k)
        left, sizes, right = torch.linalg.svd(root_q @ root_k)
        sizes = sizes[:KEY_WIDTH].sqrt()
        pairs.append((inverse_q @ left[:, :KEY_WIDTH] * sizes, inverse_k @ right.T[:, :KEY_WIDTH] * sizes))
    first, second = (torch.stack(maps).float() for maps in zip(*pairs, strict=True))
    return first, second


def through(maps: Tensor, layer: nn.Linear, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer of queries or keys behind which each head passes its map."""
    weight = torch.einsum("hab,hac->hbc", maps, layer.weight.unflatten(0, (-1, HEAD_WIDTH)))
    bias = torch.einsum("hab,ha->hb", maps, layer.bias.unflatten(0, (-1, HEAD_WIDTH)))
    return weight.flatten(0, 1) * factor, bias.flatten() * factor


def attended(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Return what the heads of a large block give, side by side, before their output matrix."""
    attention, normed = layer.attention, layer.norm1(tokens)
    query, key, value = (split_heads(part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def hidden(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Return the hidden activations of a large block."""
    return F.gelu(layer.mlp.fc1(layer.norm2(tokens)))


def fill(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Put weight and bias into a layer."""
    layer.load_state_dict({"weight": weight, "bias": bias})


def narrow_block(layer: nn.Module, block: Block, own: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """Fill a narrow block from a large one, and return both streams behind it.

    Args:
        layer: Block of the large network.
        block: Block of the narrow one, changed in place.
        own: Narrow network's tokens before the block.
        large: Large network's tokens before it.
    """
    attention, mlp = layer.attention, layer.mlp
    scale1, scale2 = layer.layer_scale1.lambda1, layer.layer_scale2.lambda1
    middle = large + in_parts(lambda t: scale1 * attention.o_proj(attended(layer, t)), large)
    after = middle + in_parts(lambda t: scale2 * mlp.fc2(hidden(layer, t)), middle)

    normed = layer.norm1(own[::3])
    maps = narrow_keys(split_heads(attention.q_proj(normed)), split_heads(attention.k_proj(normed)))
    query = through(maps[0], attention.q_proj, HEAD_WIDTH**-0.5)
    parts = (query, through(maps[1], attention.k_proj), (attention.v_proj.weight, attention.v_proj.bias))
    block.norm1.load_state_dict(layer.norm1.state_dict())
    block.norm2.load_state_dict(layer.norm2.state_dict())
    fill(block.qkv, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    table = in_parts(block.attend, own)
    fill(block.out, *solve(*normal_equations(table.flatten(0, 1), (middle - own).flatten(0, 1))))
    own = own + block.out(table)

    table = in_parts(lambda t: hidden(layer, t), own).flatten(0, 1)
    gram, moments = normal_equations(table, (after - own).flatten(0, 1))
    rows = choose(gram, moments, block.fc1.out_features)
    kept = torch.cat([rows, torch.tensor([len(gram) - 1])])
    fill(block.fc1, mlp.fc1.weight[rows], mlp.fc1.bias[rows])
    fill(block.fc2, *solve(gram[kept][:, kept], moments[kept]))
    return own + block.fc2(table[:, rows]).view_as(own), after


def prune(teacher: nn.Module, pictures: Tensor, net: EmbeddedNet) -> None:
    """Fill the transformer of `net`, and what fits of its decoder, from the large network."""
    state = net.state_dict()
    backbone = teacher.backbone
    embeddings, neck = backbone.embeddings, teacher.neck
    side = round((embeddings.position_embeddings.shape[1] - 1) ** 0.5)
    grid = embeddings.position_embeddings[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    cells = (SIZE[0] // PATCH, SIZE[1] // PATCH)
    state["positions"] = F.interpolate(grid, cells, mode="bicubic", align_corners=False, antialias=True)
    state["class_token"] = embeddings.cls_token + embeddings.position_embeddings[:, :1]
    sources = {
        "patches": embeddings.patch_embeddings.projection,
        "norm": backbone.layernorm,
        "project.0": neck.reassemble_stage.layers[0].projection,
        "project.1": neck.reassemble_stage.layers[1].projection,
        "grow1": neck.reassemble_stage.layers[0].resize,
        "grow2": neck.reassemble_stage.layers[1].resize,
    }
    for name, source in sources.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = source.weight, source.bias
    state["lateral.0.weight"] = neck.convs[0].weight[:32]
    state["lateral.1.weight"] = neck.convs[1].weight

    maps = in_parts(embeddings.patch_embeddings.projection, pictures) + state["positions"]
    patches = maps.flatten(2).transpose(1, 2)
    own = large = torch.cat([state["class_token"].expand(len(patches), -1, -1), patches], 1)
    for index, layer in enumerate(backbone.encoder.layer):
        own, large = narrow_block(layer, net.blocks[index], own, large)
        lost = (large - own).square().mean() / large.var()
        print(f"block {index}: {lost:.4f} of the stream's variance lost", flush=True)
    net.load_state_dict(state)


def join(net: EmbeddedNet, earlier: Path | None) -> dict[str, Tensor]:
    """Return the state of `train.Joint`: the network, with an earlier version's decoder and heads if given."""
    state = net.state_dict()
    if earlier:
        state |= {n: value for n, value in read_state_dict(earlier).items() if n.split(".")[0] not in ENCODER}
    return {f"net.{name}": value for name, value in state.items()}


@torch.inference_mode()
def main() -> None:
    """Prune and write the start of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="what label.py wrote")
    parser.add_argument("--nyu", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of Depth Anything V2 Small (transformers)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, help="fathom-general.safetensors to begin with")
    parser.add_argument("--pictures", type=int, default=320, help="more take more memory: 320 need about 4 GB")
    args = parser.parse_args()
    from transformers import DepthAnythingForDepthEstimation

    torch.manual_seed(0)
    teacher = DepthAnythingForDepthEstimation.from_pretrained(args.teacher).float().eval()
    net = EmbeddedNet("inverse")
    prune(teacher, load_pictures(args.cache, args.nyu, args.pictures), net)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(join(net, args.decoder), args.out)


if __name__ == "__main__":
    main()
