"""Stage 3: train both embedded models.

    python training/embedded/train.py DATA --start START.pt --out OUT --four-bits --decoder-first 400 --eight-bits 0.7
    python training/embedded/train.py DATA --start OUT/general_STEP.pt --out MORE --four-bits --frozen 3 --mix nyu=0.3
    python training/embedded/train.py DATA --start ROUNDED.pt --out TUNED --keep-codes --frozen 4 --eight-bits 0

DATA is ``--cache CACHE --nyu NYU --rgbd RGBD``; CACHE is what `label.py` and `render.py` made.
NYU is a folder with ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm], ``train.txt`` and ``val.txt``; frames of ``val.txt`` are
never trained on. RGBD holds ground truth of other cameras, NAME/depth_mm/NUMBER.png [mm, 0 = none] and NAME/focal.txt
(focal length over the picture's height); their pictures, all in one folder as NAME-NUMBER.png, are labelled as the
source rgbd. `views.py` cuts, pastes and colours what is shown.

It runs on a GPU if there is one; the arithmetic is bfloat16 there, and on CPUs that have it. A stopped run continues
from OUT/last.pt with the same command. Every ``--every`` steps the averaged weights are scored on ``val.txt``, a line
is added to OUT/log.csv, and OUT/general_STEP.pt and OUT/indoor_STEP.pt hold these weights of the two models.
OUT/NAME_start.pt is what they began with, levelled. One of them, or the mean of some, is packaged.

START.pt is what `prune.py` made of Depth Anything V2 Small. The decoder gets used to its tokens in the first steps,
``--decoder-first``. With ``--four-bits`` the channels of the start are levelled (`equalise.py`), and every picture is
seen through matrices in 4 bits; with ``--eight-bits SHARE`` what comes into the layers has 8 bits after that share of
the steps, as in the packaged files. A packaged model (``--start fathom-general.safetensors``) goes on from its own 4
bits, and its checkpoints hold the grids that `package.py` keeps. With ``--keep-codes`` the codes of ROUNDED.pt
(`rounding.py`) or of a packaged model stay, too: only a factor of each row is learned, biases, norms and the decoder.

Both models are one network: `fathom-general` is the mean of its two heads, `fathom-indoor` the second. Every picture
serves both:

inverse: affine-invariant inverse depth, on the cached labels of every picture. The label is centred by its median and
divided by its mean absolute deviation, and regressed directly: L1, L1 after a least-squares fit (which asks for the
shape alone), and a gradient loss at four scales (Ranftl et al., TPAMI 2022). Where there is ground truth, the relative
error after the fit to it counts, too. Shape and gradients of the mean of both heads, which `fathom-general` gives, are
asked for once more.
log depth: on ground truth [m] (scale-invariant log loss of BTS plus L1), with the gradients of the teacher's map after
it was fitted to those metres (the ground truth itself is quantised and in-painted, and has no sharp edges).
"""

import argparse
import copy
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from equalise import equalise
from prune import ENCODER
from safetensors.torch import load_file
from torch import Tensor, nn
from views import MIX, Batch, Pool, batch_of, load

from fathom.models.embedded import EmbeddedNet, centre
from fathom.models.four_bits import HIGHEST, LOWEST, Grid, codes_of, find_grid, snap, stored_grids
from fathom.models.weights import read_state_dict
from fathom.runtime.torch import cpu_has_bf16

EIGEN_CROP = (slice(45, 471), slice(41, 601))
SIZE = (210, 280)
"""Height and width [px] at which the models see pictures of NYU's shape."""


def normalise(values: Tensor, mask: Tensor) -> Tensor:
    """Centre by the median and divide by the mean absolute deviation, for each image."""
    with torch.no_grad():
        few = (slice(None), slice(None), slice(None, None, 3), slice(None, None, 3))  # enough for a median
        median = values[few].flatten(1).masked_fill(~mask[few].flatten(1), float("nan")).nanmedian(1).values
    centred = (values - median[:, None, None, None]) * mask
    spread = centred.abs().flatten(1).sum(1) / mask.flatten(1).sum(1)
    return centred / spread.clamp_min(1e-4)[:, None, None, None]


def gradient_loss(error: Tensor, mask: Tensor) -> Tensor:
    """L1 of the differences of the error between neighbours, at four scales."""
    total = error.new_zeros(())
    for scale in (1, 2, 4, 8):
        e, m = error[..., ::scale, ::scale], mask[..., ::scale, ::scale]
        for a, b, pair in (
            (e[..., 1:, :], e[..., :-1, :], m[..., 1:, :] & m[..., :-1, :]),
            (e[..., 1:], e[..., :-1], m[..., 1:] & m[..., :-1]),
        ):
            total = total + ((a - b).abs() * pair).sum() / pair.sum().clamp_min(1)
    return total / 4


def fit(pred: Tensor, target: Tensor, mask: Tensor, limits: tuple[float, float] = (0.2, 5.0)) -> Tensor:
    """Return the prediction after a least-squares scale and shift for each image; no gradient through the fit."""
    with torch.no_grad():
        weight = mask.float()
        count = weight.sum((1, 2, 3), keepdim=True)
        mean_p = (pred * weight).sum((1, 2, 3), keepdim=True) / count
        mean_t = (target * weight).sum((1, 2, 3), keepdim=True) / count
        covariance = ((pred - mean_p) * (target - mean_t) * weight).sum((1, 2, 3), keepdim=True)
        variance = ((pred - mean_p).square() * weight).sum((1, 2, 3), keepdim=True)
        scale = (covariance / variance.clamp_min(1e-6)).clamp(*limits)
    return scale * (pred - mean_p) + mean_t


def shape_loss(pred: Tensor, target: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """L1 after a least-squares fit: the shape alone."""
    return ((fit(pred, target, mask) - target).abs() * weight).sum() / mask.sum()


def joined(raw: Tensor, log_depth: Tensor) -> Tensor:
    """Return the mean of both heads, which `fathom-general` gives."""
    return (centre(raw) + centre((-log_depth.clamp(-4, 6)).exp())) / 2


def general_loss(raw: Tensor, both: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Value, shape and edges of the normalised label; shape and edges once more of the mean of both heads.

    Where there is no ground truth that mean is all that the second head learns from.
    """
    target = normalise(label, mask)
    error = raw - target
    # Measures of depth ask for relative errors, which count most where the inverse depth is small; the label's zero
    # lies, on NYU, about a median (quartiles 0.8 and 1.6) above the true one, and outdoors near it.
    with torch.no_grad():
        median = label[..., ::3, ::3].flatten(1).median(1).values[:, None, None, None].clamp_min(1e-3)
        weight = mask * (1.5 * median / (label.clamp_min(0) + 0.5 * median)).clamp(0.4, 3.0)
    first = (error.abs() * mask).sum() / mask.sum() + shape_loss(raw, target, weight, mask) + gradient_loss(error, mask)
    second = shape_loss(both, target, weight, mask) + gradient_loss(fit(both, target, mask) - target, mask)
    return first + second


def fitted_loss(pred: Tensor, log_depth: Tensor, mask: Tensor) -> Tensor:
    """Relative error in inverse depth of an affine-invariant map after its fit to the ground truth."""
    inverse = (-log_depth).exp()
    relative = (fit(pred, inverse, mask, (0.01, 1.0)) - inverse).abs() / inverse
    return (relative.clamp_max(1) * mask).sum() / mask.sum()


def indoor_loss(log_depth: Tensor, target: Tensor, guide: Tensor, mask: Tensor) -> Tensor:
    """Scale-invariant log loss and L1 on the ground truth; gradients from the fitted teacher."""
    error = (log_depth - target) * mask
    count = mask.flatten(1).sum(1).clamp_min(1)
    mean = error.flatten(1).sum(1) / count
    variance = error.flatten(1).square().sum(1) / count - mean**2
    silog = (variance + 0.15 * mean**2 + 1e-6).sqrt().mean()
    l1 = error.abs().sum() / mask.sum()
    soft = ((log_depth - guide).abs() * mask).sum() / mask.sum()
    return 2 * silog + l1 + 0.5 * soft + 1.0 * gradient_loss(log_depth - guide, mask)


class Joint(nn.Module):
    """The network, giving what both heads give, before they are joined and sharpened."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EmbeddedNet("inverse")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, h, w) to inverse depth and log depth, (B, 1, h, w) each."""
        features = self.net.decode(image, self.net.taps_of(image))
        raws = (head(features).float() for head in (self.net.inverse_head, self.net.depth_head))
        first, second = (F.interpolate(r, scale_factor=2.0, mode="bilinear", align_corners=False) for r in raws)
        return first, second

    def split(self, grids: Mapping[str, Grid]) -> dict[str, dict[str, Any]]:
        """Return what is stored of the two models: their weights, and the grids that these are to keep, if any."""
        general, kept = dict(self.net.state_dict()), dict(grids)
        for name in [name for name in general if name.endswith(FACTOR)]:
            factor, matrix = general.pop(name)[:, None], name.replace(FACTOR, ".weight")
            general[matrix] = general[matrix] * factor
            kept[matrix] = kept[matrix]._replace(scale=kept[matrix].scale.to(factor) * factor)
        indoor = {name: value for name, value in general.items() if not name.startswith("inverse_head")}
        stored = {"grids": {name: tuple(grid) for name, grid in kept.items()}} if kept else {}
        return {"general": {"average": general} | stored, "indoor": {"average": indoor} | stored}


def loss_of(raw: Tensor, log_depth: Tensor, batch: Batch) -> Tensor:
    """Return the loss of a batch; ground truth counts by the share of the pictures that have it."""
    both = joined(raw, log_depth)
    loss = general_loss(raw, both, batch.label, batch.mask)
    metric = batch.metric
    if len(metric):
        share = len(metric) / len(raw)
        mask = batch.mask[metric]
        loss = loss + 2 * share * indoor_loss(log_depth[metric], batch.truth, batch.fitted, mask)
        for one in (raw, both):
            loss = loss + 3 * share * fitted_loss(one[metric], batch.truth, mask)
    return loss


@torch.no_grad()
def evaluate(joint: Joint, nyu: Path, size: tuple[int, int], every: int = 1) -> dict[str, float]:
    """Score on ``val.txt``: Eigen crop, cap 10 m; general is the inverse head alone, after a fit in inverse depth."""
    joint.eval()
    device = next(joint.parameters()).device
    scores = []
    for name in (nyu / "val.txt").read_text().split()[::every]:
        image = cv2.cvtColor(cv2.imread(str(nyu / "rgb" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        outputs = [o[0, 0].cpu().numpy() for o in joint(torch.from_numpy(small).permute(2, 0, 1)[None].to(device))]
        inverse, log_depth = (cv2.resize(o, (640, 480))[EIGEN_CROP].astype(np.float64) for o in outputs)
        target = cv2.imread(str(nyu / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED)[EIGEN_CROP] / 1000.0
        mask = (target > 1e-3) & (target < 10)
        target = target[mask]
        scale, shift = np.polyfit(inverse[mask], 1 / target, 1)
        row = []
        for pred in (1 / np.maximum(scale * inverse[mask] + shift, 1 / 10), np.exp(log_depth[mask])):
            pred = np.clip(pred, 1e-3, 10)
            ratio = np.maximum(pred / target, target / pred)
            row += [(np.abs(pred - target) / target).mean(), (ratio < 1.25).mean()]
        scores.append(row)
    names = ("general_abs_rel", "general_delta1", "indoor_abs_rel", "indoor_delta1")
    return dict(zip(names, np.mean(scores, 0).tolist(), strict=True))


REFRESH = 100
"""Steps after which the grids are chosen anew."""


class FourBits:
    """Puts the matrices of the blocks on their grids while gradients are computed; the optimiser moves exact values.

    The gradient passes the rounding as if it were not there (Bengio et al., arXiv 1308.3432).

    A packaged model lies on its grids already, and would hardly learn: each weight stands in the middle of its step and
    has half of it to go before the network sees that it moved, which fewer than 1 in 100 did in 800 steps. So every
    weight gets a random place within its step, and the grids stay: at first the network is the same, and what moves by
    a tenth of a step changes a tenth of the weights.

    Args:
        joint: The network.
        stored: Grids of a packaged model, by the names of the matrices in `EmbeddedNet`.
    """

    def __init__(self, joint: Joint, stored: dict[str, Grid] | None = None) -> None:
        names, self.weights = self.matrices(joint)
        self.exact: list[Tensor] = []
        self.stays = bool(stored)
        device = self.weights[0].device
        self.grids = [Grid(*(part.to(device) for part in stored[name])) for name in names] if stored else []
        if stored:
            self.scatter()
        self.refresh()

    @staticmethod
    def matrices(joint: Joint) -> tuple[list[str], list[nn.Parameter]]:
        """Return names and weights of what has 4 bits."""
        found = {n: p for n, p in joint.net.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
        return list(found), list(found.values())

    @torch.no_grad()
    def refresh(self) -> None:
        """Choose the grids for the values of now, unless they are those of a packaged model."""
        if not self.stays:
            self.grids = [find_grid(weight) for weight in self.weights]

    @torch.no_grad()
    def scatter(self) -> None:
        """Move every weight to a random place within its step; the outermost stay, for beyond them there is no step."""
        for weight, grid in zip(self.weights, self.grids, strict=True):
            codes = codes_of(weight, grid)
            places = 0.98 * (torch.rand_like(weight) - 0.5) * ((codes > LOWEST) & (codes < HIGHEST))
            steps = grid.steps[..., None]
            weight.add_((places.unflatten(1, (steps.shape[1], -1)) * steps).flatten(1))

    @torch.no_grad()
    def snap(self) -> None:
        """Round every matrix, and remember its values."""
        self.exact = [weight.clone() for weight in self.weights]
        for weight, grid in zip(self.weights, self.grids, strict=True):
            weight.copy_(snap(weight, grid))

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values back."""
        for weight, value in zip(self.weights, self.exact, strict=True):
            weight.copy_(value)

    @torch.no_grad()
    def rounded(self, joint: Joint) -> Joint:
        """Return a copy of a network on these grids if they are to stay, else on grids of its own."""
        copied = copy.deepcopy(joint)
        weights = self.matrices(copied)[1]
        grids = self.grids if self.stays else [find_grid(weight) for weight in weights]
        for weight, grid in zip(weights, grids, strict=True):
            weight.copy_(snap(weight, grid))
        return copied


FACTOR = ".factor"
"""Ends the names of the factors of `Coded`."""


class Coded(nn.Module):
    """A linear layer whose codes stay: of its matrix only a factor of each row is learned, and its bias.

    The factor multiplies what the matrix gives, so that no gradient of the matrix is computed (Kim et al., "PEQA",
    NeurIPS 2023).
    """

    def __init__(self, layer: nn.Linear, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("weight", snap(layer.weight.detach(), grid))
        self.bias = layer.bias
        self.factor = nn.Parameter(torch.ones_like(layer.bias))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., K) to (..., N)."""
        return F.linear(inputs, self.get_buffer("weight")) * self.factor + self.bias


def keep_codes(joint: Joint, grids: Mapping[str, Grid]) -> None:
    """Put a `Coded` in the place of every layer that has a grid."""
    for name, grid in grids.items():
        path = name.removesuffix(".weight")
        joint.net.set_submodule(path, Coded(joint.net.get_submodule(path), grid))


class EightBits:
    """Rounds what comes into the layers that `package.py` gives 8 bits, to 255 steps between its extremes in the batch.

    As in `FourBits`, the gradient passes the rounding as if it were not there.
    """

    def __init__(self, joint: Joint) -> None:
        net = joint.net
        kept = {net.patches, net.depth_head, net.inverse_head}
        for layer in net.modules():
            if isinstance(layer, nn.Linear | Coded | nn.Conv2d | nn.ConvTranspose2d) and layer not in kept:
                layer.register_forward_pre_hook(self.rounded)

    @staticmethod
    def rounded(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Return the rounded input of a layer."""
        [values] = inputs
        with torch.no_grad():
            low, high = values.aminmax()
            step = ((high.clamp_min(0) - low.clamp_max(0)) / 255).clamp_min(1e-8)
            moved = (values / step).round_().mul_(step).sub_(values)
        return (values + moved,)


def example_inputs(pool: Pool, size: tuple[int, int], count: int = 32) -> list[np.ndarray]:
    """Return pictures of every source, as the network sees them, that show how large activations are."""
    chosen = [n for s in pool.sources.values() for n in s[:: max(1, len(s) * len(pool.sources) // count)]]
    images = [cv2.resize(pool.images[n].cpu().numpy(), size[::-1], interpolation=cv2.INTER_AREA) for n in chosen]
    return [image.transpose(2, 0, 1)[None].astype(np.float32) / 255 for image in images]


def grids_of(path: Path) -> dict[str, Grid]:
    """Return the grids of a packaged model, or of a checkpoint that has some."""
    if path.suffix == ".safetensors":
        return stored_grids(load_file(path))
    return {name: Grid(*grid) for name, grid in torch.load(path, map_location="cpu").get("grids", {}).items()}


def start_of(path: Path, joint: Joint) -> bool:
    """Load the weights to begin with.

    Args:
        path: Of prune.py, a general_STEP.pt of an earlier run, or a packaged fathom-general.safetensors.
        joint: Gets the weights.

    Returns:
        Whether the channels are levelled already.
    """
    if path.suffix == ".safetensors":
        state, is_levelled = read_state_dict(path), True
    else:
        read = torch.load(path, map_location="cpu")
        state, is_levelled = read.get("average", read), "average" in read
    state = {name.removeprefix("net."): value for name, value in state.items()}
    positions = state["positions"].float()  # a start of another size stores another grid
    state["positions"] = F.interpolate(positions, joint.net.positions.shape[-2:], mode="bicubic")
    joint.net.load_state_dict(state)
    return is_levelled


def parameter_groups(joint: Joint, args: argparse.Namespace) -> list[dict[str, object]]:
    """Return the groups of the optimiser with their rates: the transformer's, one a tensor, then all that is new.

    What came from the large model moves by a share of its own size: its matrices differ 30-fold in size, and at one
    common rate the small ones are destroyed within a hundred steps.
    """
    frozen = tuple(f"net.{part}" for part in ("patches", "class_token", "positions")) if args.frozen else ()
    frozen += tuple(f"net.blocks.{index}." for index in range(args.frozen))
    groups: list[dict[str, object]] = []
    fresh: list[nn.Parameter] = []
    for name, parameter in joint.named_parameters():
        if name.split(".")[1] not in ENCODER:
            fresh.append(parameter)
        elif name.startswith(frozen):
            parameter.requires_grad_(False)
        else:
            size = parameter.detach().square().mean().sqrt().item()
            groups.append({"params": [parameter], "lr": args.relative_lr * size})
    return [*groups, {"params": fresh, "lr": args.lr}]


def share_of_rate(step: int, steps: int, waits: int) -> float:
    """Return the share of the largest rate at a step: it rises over 6 % of the steps, and falls as a cosine to zero.

    Args:
        step: Steps done.
        steps: Steps in all.
        waits: Steps for which a group stays as it is.
    """
    if step < waits:
        return 0.0
    rise = max(1, round(0.06 * (steps - waits)))
    done = step - waits
    if done < rise:
        return (done + 1) / rise
    return 0.5 + 0.5 * float(np.cos(np.pi * (done - rise) / max(1, steps - waits - rise)))


def read_mix(items: list[str]) -> dict[str, float]:
    """Return the share of every source, some of them given as SOURCE=SHARE.

    Raises:
        SystemExit: If there is no such source, or its share is no number from 0 on.
    """
    mix = dict(MIX)
    for item in items:
        name, _, share = item.partition("=")
        try:
            mix[name] = float(share)
        except ValueError:
            mix[name] = -1.0
        if name not in MIX or not mix[name] >= 0:
            raise SystemExit(f"Expected SOURCE=SHARE with one of {', '.join(MIX)}, as nyu=0.3; got '{item}'.")
    return mix


def save(path: Path, state: object) -> None:
    """Write a file whole or not at all."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Train both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--nyu", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, required=True, help="of prune.py, general_STEP.pt, or fathom-general.safetensors"
    )
    parser.add_argument("--rgbd", type=Path, help="NAME/{rgb,depth_mm}/NUMBER.png and NAME/focal.txt of other cameras")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4, help="of the decoder")
    parser.add_argument("--relative-lr", type=float, default=3e-4, help="of the transformer, as a share of each matrix")
    parser.add_argument("--decoder-first", type=int, default=0, help="steps in which the transformer stays as it is")
    parser.add_argument("--frozen", type=int, default=0, help="first blocks that stay as they are, with all before")
    parser.add_argument("--four-bits", action="store_true", help="the transformer's matrices have 4 bits")
    parser.add_argument("--keep-codes", action="store_true", help="the codes of the start's matrices stay")
    parser.add_argument("--eight-bits", type=float, default=1.0, help="share of the steps after which inputs have 8")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width of pictures of NYU's shape")
    parser.add_argument("--mix", nargs="+", default=[], help="SOURCE=SHARE of the pictures, where not as in views.py")
    parser.add_argument("--every", type=int, default=200, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    mix = read_mix(args.mix)
    joint = Joint()
    is_levelled = start_of(args.start, joint)
    stored = grids_of(args.start) if args.keep_codes or args.start.suffix == ".safetensors" else {}
    if args.keep_codes and (args.four_bits or not stored):
        raise SystemExit("--keep-codes needs a start with codes, of rounding.py or packaged, and not --four-bits.")
    pool = load(args.cache, args.nyu, args.rgbd, device)
    print({name: len(numbers) for name, numbers in pool.sources.items()}, len(pool.truths), "with depth", flush=True)
    if args.four_bits and not is_levelled:
        equalise(joint.net, example_inputs(pool, args.size))
    if args.keep_codes:
        keep_codes(joint, stored)
    joint = joint.to(device, memory_format=torch.channels_last)
    grids = FourBits(joint, stored) if args.four_bits else None
    fixed = stored if args.four_bits or args.keep_codes else {}
    average = copy.deepcopy(joint)
    groups = parameter_groups(joint, args)
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02, fused=True)
    waits = [args.decoder_first] * (len(groups) - 1) + [0]
    rates = [group["lr"] for group in optimiser.param_groups]
    step = 0
    if (args.out / "last.pt").exists():
        state = torch.load(args.out / "last.pt", map_location="cpu")
        joint.load_state_dict(state["joint"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    else:
        for name, model in joint.split(fixed).items():
            save(args.out / f"{name}_start.pt", model)
    half = device.type == "cuda" or cpu_has_bf16()
    means, values = list(average.parameters()), list(joint.parameters())
    rounds: EightBits | None = None
    begin, first, recent = time.time(), step, []
    while step < args.steps:
        batch = batch_of(pool, step, seed=args.seed, count=args.batch, size=args.size, mix=mix)
        joint.train()
        if rounds is None and step >= args.eight_bits * args.steps:
            rounds = EightBits(joint)
        if grids:
            if step % REFRESH == 0 or step == first:
                grids.refresh()
            grids.snap()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            raw, log_depth = joint(batch.image.contiguous(memory_format=torch.channels_last))
        loss = loss_of(raw, log_depth, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if grids:
            grids.restore()
        nn.utils.clip_grad_norm_(joint.parameters(), 2.0)
        for group, rate, wait in zip(optimiser.param_groups, rates, waits, strict=True):
            group["lr"] = rate * share_of_rate(step, args.steps, wait)
        optimiser.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - min(0.998, (1 + step) / (10 + step)))
        recent.append(loss.detach())
        if step % 50 == 0:
            rate = (step - first) * args.batch / (time.time() - begin)
            print(f"{step}/{args.steps} loss {torch.stack(recent[-50:]).mean():.4f} {rate:.1f} pictures/s", flush=True)
        if step % args.every == 0 or step == args.steps:
            judged = grids.rounded(average) if grids else average
            scores = {k: round(v, 4) for k, v in evaluate(judged, args.nyu, args.size).items()}
            print(step, scores, flush=True)
            with (args.out / "log.csv").open("a", newline="") as file:
                mean = torch.stack(recent[-args.every :]).mean().item()
                csv.writer(file).writerow([step, round(mean, 4), *scores.values()])
            parts = {"joint": joint, "average": average, "optimiser": optimiser}
            save(args.out / "last.pt", {name: part.state_dict() for name, part in parts.items()} | {"step": step})
            for name, model in average.split(fixed).items():
                save(args.out / f"{name}_{step}.pt", model)


if __name__ == "__main__":
    main()
