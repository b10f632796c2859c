"""Stage 2: drop half of the hidden units of Depth Anything V2 Small's transformer, without training.

    python training/embedded/prune.py --cache CACHE --nyu NYU --teacher TEACHER --out START.pt
        [--decoder src/fathom/weights/fathom-general.safetensors]

All blocks and heads stay. In every block the 768 of 1536 hidden units stay whose outputs are largest on a few hundred
pictures, and their output matrix is refitted by least squares: from the narrow network's own activations it gives what
brings its stream of tokens back to the large network's (the layer-wise reconstruction of He et al., ICCV 2017, on a
transformer). So each block also repairs what the ones before it lost. The positions are resampled to few patches.

--decoder begins with the decoder and heads of an earlier version. Behind that of version 4, and before any training,
half of the units give delta1 0.862 on every third frame of val.txt, and all of them 0.863.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.models.embedded import HEAD_WIDTH, MEAN, PATCH, STD, EmbeddedNet
from fathom.models.weights import read_state_dict

SIZE = (224, 294)
SHARES = {"nyu": 0.4, "rooms": 0.3, "imagenet": 0.15, "photos": 0.1, "camvid": 0.05}
ENCODER = ("patches", "class_token", "positions", "blocks", "norm")
"""What comes from the large model."""
RIDGE = 3e-5
"""Added to the diagonal of the normal equations, as a share of its mean."""


def load_pictures(cache: Path, nyu: Path, count: int) -> Tensor:
    """Load pictures of several sources, without NYU's validation frames, normalised, (N, 3, h, w)."""
    held_out = set((nyu / "val.txt").read_text().split())
    rng = np.random.default_rng(0)
    pictures = []
    for source, share in SHARES.items():
        files = [f for f in sorted((cache / source).glob("*.npz")) if source != "nyu" or f.stem not in held_out]
        for index in rng.choice(len(files), min(len(files), round(share * count)), replace=False):
            image = np.load(files[index])["image"]
            image = image[: round(image.shape[1] * SIZE[0] / SIZE[1])]  # the upper part of an upright picture
            pictures.append(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA))
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return (stack - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def in_parts(function: Callable[[Tensor], Tensor], tokens: Tensor, size: int = 8) -> Tensor:
    """Apply a function to a few pictures at a time."""
    return torch.cat([function(part) for part in tokens.split(size)])


def regress(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, inputs) and bias of the least-squares map between two tables of rows."""
    table = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    gram = (table.T @ table).double()
    gram += torch.eye(len(gram)) * gram.diag().mean() * RIDGE
    solution = torch.linalg.solve(gram, (table.T @ targets).double()).float()
    return solution[:-1].T.contiguous(), solution[-1]


def attended(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Return what the heads of a large block give, side by side, before their output matrix."""
    attention, normed = layer.attention, layer.norm1(tokens)
    query, key, value = (
        part(normed).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def hidden(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Return the hidden activations of a large block."""
    return F.gelu(layer.mlp.fc1(layer.norm2(tokens)))


def narrow_block(layer: nn.Module, own: Tensor, large: Tensor, units: int) -> tuple[dict, Tensor, Tensor]:
    """Choose hidden units, refit, and return the block's weights and both streams behind it.

    Args:
        layer: Block of the large network.
        own: Narrow network's tokens before the block.
        large: Large network's tokens before it.
        units: Hidden units to keep.
    """
    attention, mlp = layer.attention, layer.mlp
    scale1, scale2 = layer.layer_scale1.lambda1, layer.layer_scale2.lambda1
    middle = large + in_parts(lambda t: scale1 * attention.o_proj(attended(layer, t)), large)
    after = middle + in_parts(lambda t: scale2 * mlp.fc2(hidden(layer, t)), middle)
    own = own + in_parts(lambda t: scale1 * attention.o_proj(attended(layer, t)), own)

    table = in_parts(lambda t: hidden(layer, t), own).flatten(0, 1)
    sizes = table.square().mean(0).sqrt() * (mlp.fc2.weight * scale2[:, None]).norm(dim=0)
    rows = sizes.topk(units).indices.sort().values
    fc2_weight, fc2_bias = regress(table[:, rows], (after - own).flatten(0, 1))
    own = own + F.linear(table[:, rows], fc2_weight, fc2_bias).view_as(own)

    joined = (attention.q_proj, attention.k_proj, attention.v_proj)
    weights = {
        "norm1.weight": layer.norm1.weight,
        "norm1.bias": layer.norm1.bias,
        "qkv.weight": torch.cat([part.weight for part in joined]),
        "qkv.bias": torch.cat([part.bias for part in joined]),
        "out.weight": attention.o_proj.weight * scale1[:, None],
        "out.bias": attention.o_proj.bias * scale1,
        "norm2.weight": layer.norm2.weight,
        "norm2.bias": layer.norm2.bias,
        "fc1.weight": mlp.fc1.weight[rows],
        "fc1.bias": mlp.fc1.bias[rows],
        "fc2.weight": fc2_weight,
        "fc2.bias": fc2_bias,
    }
    return weights, own, after


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
        block = net.blocks[index]
        weights, own, large = narrow_block(layer, own, large, block.fc1.out_features)
        state.update({f"blocks.{index}.{name}": value for name, value in weights.items()})
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
