"""Stage 3: train both embedded models.

    python training/embedded/train.py DATA --start START.pt --out FIRST --steps 400 --size 182 238
    python training/embedded/train.py DATA --start FIRST/last.pt --out SMALL --four-bits --size 182 238
    python training/embedded/train.py DATA --start SMALL/last.pt --out FINAL --four-bits --steps 3400
    python training/embedded/train.py DATA --start FINAL/last.pt --out MORE --four-bits --steps 2700 --seed 8
        --lr 3.5e-4 --relative-lr 2.5e-4

DATA is ``--cache CACHE --nyu NYU --rgbd RGBD``; CACHE is what `label.py` made.
NYU is a folder with ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm], ``train.txt`` and ``val.txt``; frames of ``val.txt`` are
never trained on. RGBD holds ground truth of other cameras, NAME/depth_mm/NUMBER.png [mm, 0 = none] and NAME/focal.txt
(focal length over the picture's height); their pictures, all in one folder as NAME-NUMBER.png, are labelled as the
source rgbd. A stopped run continues from OUT/last.pt with the same command. Every 200 steps the averaged weights are
scored on ``val.txt`` (on all of it every 1000, else on a third) and a line is added to OUT/log.csv. OUT/general.pt and
OUT/indoor.pt hold the averaged weights of the two models, OUT/NAME_start.pt what they began with, levelled: a short run
that goes on from a version can be packaged as the mean of both. The arithmetic is bfloat16 where autocast allows it.

START.pt is what `prune.py` made of Depth Anything V2 Small. The first runs see small pictures, which are cheap. With
``--four-bits`` the channels of the start are levelled first (`equalise.py`), and from then on every picture is seen
through matrices in 4 bits.

Both models are one network: `fathom-general` is the mean of its two heads, `fathom-indoor` the second. Every picture
serves both:

inverse: affine-invariant inverse depth, on the cached labels of every picture. The label is centred by its median and
divided by its mean absolute deviation, and regressed directly: L1, L1 after a least-squares fit (which asks for the
shape alone), and a gradient loss at four scales (Ranftl et al., TPAMI 2022). Where there is ground truth, the relative
error after the fit to it counts, too.
log depth: on ground truth [m] (scale-invariant log loss of BTS plus L1), with the gradients of the teacher's map after
it was fitted to those metres (the ground truth itself is quantised and in-painted, and has no sharp edges).
"""

import argparse
import copy
import csv
import threading
import time
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from equalise import equalise
from samples import MIXES, SIZE, example_inputs, feed, load
from torch import nn

from fathom.models.embedded import EmbeddedNet
from fathom.models.four_bits import find_grid, snap

EIGEN_CROP = (slice(45, 471), slice(41, 601))


def normalise(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Centre by the median and divide by the mean absolute deviation, for each image."""
    with torch.no_grad():
        median = values.flatten(1).masked_fill(~mask.flatten(1), float("nan")).nanmedian(1).values
    centred = (values - median[:, None, None, None]) * mask
    spread = centred.abs().flatten(1).sum(1) / mask.flatten(1).sum(1)
    return centred / spread.clamp_min(1e-4)[:, None, None, None]


def gradient_loss(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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


def fit(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, limits: tuple[float, float] = (0.2, 5.0)
) -> torch.Tensor:
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


def general_loss(raw: torch.Tensor, label: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Value, shape and edges of the normalised label."""
    target = normalise(label, mask)
    error = raw - target
    # Measures of depth ask for relative errors, which count most where the inverse depth is small; the label's zero
    # lies, on NYU, about a median (quartiles 0.8 and 1.6) above the true one, and outdoors near it.
    with torch.no_grad():
        median = label.flatten(1).median(1).values[:, None, None, None].clamp_min(1e-3)
        weight = mask * (1.5 * median / (label.clamp_min(0) + 0.5 * median)).clamp(0.4, 3.0)
    shape = ((fit(raw, target, mask) - target).abs() * weight).sum() / mask.sum()
    return (error.abs() * mask).sum() / mask.sum() + shape + gradient_loss(error, mask)


def fitted_loss(raw: torch.Tensor, log_depth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Relative error in inverse depth of the affine-invariant map after its fit to the ground truth."""
    inverse = (-log_depth).exp()
    relative = (fit(raw, inverse, mask, (0.01, 1.0)) - inverse).abs() / inverse
    return (relative.clamp_max(1) * mask).sum() / mask.sum()


def indoor_loss(log_depth: torch.Tensor, target: torch.Tensor, guide: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, 3, h, w) to inverse depth and log depth, (B, 1, h, w) each."""
        features = self.net.decode(image, self.net.taps_of(image))
        raws = (head(features).float() for head in (self.net.inverse_head, self.net.depth_head))
        first, second = (F.interpolate(r, scale_factor=2.0, mode="bilinear", align_corners=False) for r in raws)
        return first, second

    def split(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the state dicts of the two models."""
        general = self.net.state_dict()
        return {"general": general, "indoor": {k: v for k, v in general.items() if not k.startswith("inverse_head")}}


@torch.no_grad()
def evaluate(joint: Joint, nyu: Path, size: tuple[int, int], every: int = 1) -> dict[str, float]:
    """Score on ``val.txt``: Eigen crop, cap 10 m; general is the inverse head alone, after a fit in inverse depth."""
    joint.eval()
    scores = []
    for name in (nyu / "val.txt").read_text().split()[::every]:
        image = cv2.cvtColor(cv2.imread(str(nyu / "rgb" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        outputs = [o[0, 0].numpy() for o in joint(torch.from_numpy(small).permute(2, 0, 1)[None])[:2]]
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


ENCODER = ("patches", "class_token", "positions", "blocks", "norm")
"""What came from the large model, and learns more slowly."""
REFRESH = 100
"""Steps after which the grids are chosen anew."""


class FourBits:
    """Puts the matrices of the blocks on their grids while gradients are computed; the optimiser moves exact values.

    The gradient passes the rounding as if it were not there (Bengio et al., arXiv 1308.3432).
    """

    def __init__(self, joint: Joint) -> None:
        self.weights = [m.weight for b in joint.net.blocks for m in (b.qkv, b.out, b.fc1, b.fc2)]
        self.exact: list[torch.Tensor] = []
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Choose the grids for the values of now."""
        self.grids = [find_grid(weight) for weight in self.weights]

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
    parser.add_argument("--start", type=Path, required=True, help="what prune.py wrote, or last.pt of the stage before")
    parser.add_argument("--rgbd", type=Path, help="NAME/{rgb,depth_mm}/NUMBER.png and NAME/focal.txt of other cameras")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4, help="of the decoder")
    parser.add_argument("--relative-lr", type=float, default=4e-4, help="of the transformer, as a share of each matrix")
    parser.add_argument("--four-bits", action="store_true", help="the last stage: its matrices have 4 bits")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width of pictures of NYU's shape")
    parser.add_argument("--mix", choices=list(MIXES), default="all", help="rooms: for the metres of fathom-indoor")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    joint = Joint()
    started = torch.load(args.start, map_location="cpu")
    state = started.get("average", started)
    positions = state["net.positions"].float()  # a start of another size stores another grid
    state["net.positions"] = F.interpolate(positions, joint.net.positions.shape[-2:], mode="bicubic")
    joint.load_state_dict(state)
    if args.four_bits:
        equalise(joint.net, example_inputs(args.cache, args.size))
    joint = joint.to(memory_format=torch.channels_last)
    average = copy.deepcopy(joint)
    # What came from the large model moves by a share of its own size: its matrices differ 30-fold in size, and at one
    # common rate the small ones are destroyed within a hundred steps.
    groups: list[dict[str, object]] = []
    fresh: list[nn.Parameter] = []
    for name, parameter in joint.named_parameters():
        if name.split(".")[1] in ENCODER:
            size = parameter.detach().square().mean().sqrt().item()
            groups.append({"params": [parameter], "lr": args.relative_lr * size})
        else:
            fresh.append(parameter)
    groups.append({"params": fresh, "lr": args.lr})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [g["lr"] for g in groups], args.steps, pct_start=0.06)
    rates = [{name: group[name] for name in ("initial_lr", "max_lr", "min_lr")} for group in optimiser.param_groups]
    step = 0
    if (args.out / "last.pt").exists():
        state = torch.load(args.out / "last.pt", map_location="cpu")
        joint.load_state_dict(state["joint"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group.update(rate)
        step = state["step"]
        for _ in range(step):  # the rate depends on the step alone, so a resumed run may be given other --steps
            schedule.step()
    else:
        for name, model in joint.split().items():
            save(args.out / f"{name}_start.pt", {"average": model})
    queue: Queue = Queue(8)
    sets = load(args.cache, args.nyu, args.rgbd)
    threading.Thread(target=feed, args=(args, sets, step, queue), daemon=True).start()
    grids = FourBits(joint) if args.four_bits else None
    relative = 1.0 if args.mix == "all" else 0.5
    begin, first, recent = time.time(), step, []
    while (batch := queue.get()) is not None:
        if isinstance(batch, Exception):
            raise batch
        step, image, label, truth, fitted, mask = batch
        joint.train()
        if grids:
            if step % REFRESH == 0:
                grids.refresh()
            grids.snap()
        with torch.autocast("cpu", torch.bfloat16):
            raw, log_depth = joint(image.to(memory_format=torch.channels_last))
        loss = relative * general_loss(raw, label, mask)
        metric = truth[:, 0, 0, 0].isfinite()
        if metric.any():
            share = metric.float().mean()
            loss = loss + 2 * share * indoor_loss(log_depth[metric], truth[metric], fitted[metric], mask[metric])
            loss = loss + relative * 6 * share * fitted_loss(raw[metric], truth[metric], mask[metric])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if grids:
            grids.restore()
        torch.nn.utils.clip_grad_norm_(joint.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), joint.state_dict().values(), strict=True):
                mean.lerp_(value, 1 - decay)
        recent.append(loss.item())
        if step % 50 == 0:
            rate = (step - first) * args.batch / (time.time() - begin)
            print(f"{step}/{args.steps} loss {np.mean(recent[-50:]):.4f} {rate:.1f} pictures/s", flush=True)
        if step % 200 == 0 or step == args.steps:
            judged = copy.deepcopy(average)
            if args.four_bits:
                FourBits(judged).snap()
            every = 1 if step % 1000 == 0 or step == args.steps else 3
            scores = {k: round(v, 4) for k, v in evaluate(judged, args.nyu, args.size, every=every).items()}
            print(step, scores, flush=True)
            with (args.out / "log.csv").open("a", newline="") as file:
                csv.writer(file).writerow([step, round(float(np.mean(recent[-200:])), 4), *scores.values()])
            parts = {"joint": joint, "average": average, "optimiser": optimiser}
            save(args.out / "last.pt", {name: part.state_dict() for name, part in parts.items()} | {"step": step})
            for name, model in average.split().items():
                save(args.out / f"{name}.pt", {"average": model})


if __name__ == "__main__":
    main()
