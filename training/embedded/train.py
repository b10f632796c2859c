"""Stage 2: train both embedded models from the cache that `label.py` made.

    python training/embedded/train.py --cache CACHE --nyu NYU --teacher TEACHER --start START.pt --out RUN
    python training/embedded/train.py --cache CACHE --nyu NYU --teacher TEACHER --again RUN/last.pt --metric METRIC
        --out NEXT

NYU is a folder with ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm], ``train.txt`` and ``val.txt``; frames of ``val.txt`` are
never trained on. A stopped run continues from RUN/last.pt with the same command. Every 400 steps the averaged weights
are scored on ``val.txt`` and a line is added to RUN/log.csv. At the end RUN/general.pt and RUN/indoor.pt hold the
averaged weights of the two models.

The models share everything but the last convolution, so that every picture serves both:

general: affine-invariant inverse depth, on the cached labels of every picture. The label is centred by its median and
divided by its mean absolute deviation, and regressed directly: L1, L1 after a least-squares fit (which asks for the
shape alone), and a gradient loss at four scales (Ranftl et al., TPAMI 2022).
indoor: metric depth [m] as log depth, on the NYU ground truth and on what `metric.py` wrote for other pictures
(scale-invariant log loss of BTS plus L1), with the gradients of the teacher's map after it was fitted to those metres
(the ground truth itself is quantised and in-painted, and has no sharp edges).

START.pt is what `prune.py` made of Depth Anything V2 Small; ``--again`` begins a further round with the averaged
weights of an earlier one. The arithmetic is bfloat16 where autocast allows it.
"""

import argparse
import copy
import csv
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fathom.models.embedded import MEAN, STD, EmbeddedNet

MIX = {
    "nyu": 0.42,
    "rooms": 0.26,
    "imagenet": 0.15,
    "bsds": 0.06,
    "coco": 0.03,
    "camvid": 0.03,
    "aims": 0.02,
    "udacity": 0.01,
    "kstereo": 0.02,
}
cv2.setNumThreads(1)  # the loader is one thread beside the arithmetic
EIGEN_CROP = (slice(45, 471), slice(41, 601))
# The picture grows while the run goes on: (share of the steps, landscape, portrait, square)
STAGES = (
    (0.70, (182, 238), (238, 182), (210, 210)),
    (1.00, (224, 294), (294, 224), (252, 252)),
)

IMITATE = 0.85
"""Share of the steps on which the large network's tokens are imitated; without it a step takes half the time."""
FRAME = 9
"""Rows and columns [px of the cache] of the white frame of NYU; mostly cut off, so that it is not learned."""


@dataclass(frozen=True)
class Item:
    """One training picture with its label and mask (H, W).

    Where metres are known, `log_depth` [ln m] holds them, at any size, and ``scale * inverse_depth + shift`` is the
    label in 1/m.
    """

    image: np.ndarray
    inverse_depth: np.ndarray
    mask: np.ndarray
    log_depth: np.ndarray | None = None
    scale: float = 0.0
    shift: float = 0.0
    truth: bool = False


def load_nyu(path: Path, nyu: Path) -> Item:
    """Load an NYU frame: label and ground truth."""
    data = np.load(path)
    height, width = data["inverse_depth"].shape
    depth = cv2.imread(str(nyu / "depth" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
    depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
    mask = depth > 0.1
    mask[:8], mask[-8:], mask[:, :8], mask[:, -8:] = False, False, False, False  # the white frame around the picture
    scale, shift = np.polyfit(data["inverse_depth"][mask].astype(np.float64), 1 / depth[mask].astype(np.float64), 1)
    log_depth = np.log(np.maximum(depth, 0.1))
    return Item(data["image"], data["inverse_depth"], mask, log_depth, scale, shift, truth=True)


def load_other(path: Path, metric: Path) -> Item:
    """Load any other picture, with the metres that `metric.py` wrote where it did."""
    data = np.load(path)
    label = data["inverse_depth"]
    mask = np.ones(label.shape, bool)
    if not metric.exists():
        return Item(data["image"], label, mask)
    log_depth = np.load(metric)
    small = cv2.resize(label.astype(np.float32), log_depth.shape[::-1], interpolation=cv2.INTER_AREA)
    scale, shift = np.polyfit(small.ravel().astype(np.float64), np.exp(-log_depth.ravel().astype(np.float64)), 1)
    return Item(data["image"], label, mask, log_depth, scale, shift)


def load(cache: Path, nyu: Path, metric: Path | None) -> dict[str, list[Item]]:
    """Load every source into memory; NYU without its validation frames."""
    train = set((nyu / "train.txt").read_text().split())
    sets: dict[str, list[Item]] = {}
    for folder in sorted(p for p in cache.iterdir() if p.is_dir()):
        for path in sorted(folder.glob("*.npz")):
            if folder.name != "nyu":
                metres = (metric or cache) / folder.name / f"{path.stem}.npy"
                sets.setdefault(folder.name, []).append(load_other(path, metres))
            elif path.stem in train:
                sets.setdefault("nyu", []).append(load_nyu(path, nyu))
    return sets


def colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change colours, blur and noise, but nothing that moves a pixel."""
    out = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        out = out ** rng.uniform(0.75, 1.3) * rng.uniform(0.75, 1.25)
        mean = out.mean()
        out = (out - mean) * rng.uniform(0.75, 1.25) + mean
        out *= rng.uniform(0.88, 1.12, 3).astype(np.float32)
        grey = out.mean(-1, keepdims=True)
        out = grey + (out - grey) * rng.uniform(0.5, 1.4)
    if rng.random() < 0.07:
        out = np.repeat(out.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.15:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.2:
        out = out + rng.normal(0, rng.uniform(0.005, 0.03), out.shape).astype(np.float32)
    return np.clip(out, 0, 1).astype(np.float32)


def window(
    height: int, width: int, shape: tuple[int, int], zoom: float, squeeze: float, rng
) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a random crop with about the aspect of `shape`."""
    aspect = shape[1] / shape[0] * squeeze
    crop_height = min(height, width / aspect) / zoom
    rows, columns = round(crop_height), min(width, round(crop_height * aspect))
    return int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1)), rows, columns


def cut(array: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int], mode: int, flip: bool) -> np.ndarray:
    """Crop, resize and maybe mirror."""
    top, left, rows, columns = box
    out = cv2.resize(array[top : top + rows, left : left + columns], shape[::-1], interpolation=mode)
    return out[:, ::-1] if flip else out


def batches(args: argparse.Namespace, start: int, queue: Queue) -> None:
    """Fill the queue with batches; step `i` depends on the seed and `i` alone, so a resumed run sees the same data."""
    sets = load(args.cache, args.nyu, args.metric)
    names = [n for n in MIX if n in sets]
    share = np.array([MIX[n] for n in names])
    print({n: (len(sets[n]), sum(i.log_depth is not None for i in sets[n])) for n in names}, flush=True)
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])
        stage = STAGES[-1] if args.large else next(s for s in STAGES if step < s[0] * args.steps)
        shape = stage[1:][rng.choice(3, p=[0.8, 0.08, 0.12])]
        rows: list[tuple[np.ndarray, ...]] = []
        for _ in range(args.batch):
            pool = sets[names[rng.choice(len(names), p=share / share.sum())]]
            item = pool[rng.integers(len(pool))]
            flip = rng.random() < 0.5
            metric = item.log_depth is not None
            zoom = 1.0 if rng.random() < 0.4 else rng.uniform(1.0, 1.45 if metric else 1.7)
            squeeze = 1.0 if metric else np.exp(rng.uniform(-0.15, 0.15))
            frame = FRAME if item.truth and rng.random() < 0.7 else 0
            height, width = (side - 2 * frame for side in item.mask.shape)
            top, left, *sides = window(height, width, shape, zoom, squeeze, rng)
            box = (top + frame, left + frame, sides[0], sides[1])
            image = cut(item.image, box, shape, cv2.INTER_AREA if zoom < 1.3 else cv2.INTER_LINEAR, flip)
            label = cut(item.inverse_depth.astype(np.float32), box, shape, cv2.INTER_LINEAR, flip)
            mask = cut(item.mask.astype(np.uint8), box, shape, cv2.INTER_NEAREST, flip) > 0
            truth = fitted = np.full(shape, np.nan, np.float32)
            if item.log_depth is not None:
                # A picture enlarged by s shows everything s times nearer.
                nearer = np.float32(np.log(item.mask.shape[0] / box[2]))
                metres = item.log_depth
                if not item.truth:
                    metres = cv2.resize(metres.astype(np.float32), item.mask.shape[::-1])
                truth = cut(metres, box, shape, cv2.INTER_NEAREST, flip) - nearer
                fitted = -np.log(np.maximum(item.scale * label + item.shift, 1 / 12)).astype(np.float32) - nearer
                if not item.truth:  # two estimates are better than either: delta1 0.879 on val.txt, not 0.866 and 0.878
                    truth = (truth + fitted) / 2
            rows.append((colour(image, rng), label, truth, fitted, mask))
        stack = [torch.from_numpy(np.ascontiguousarray(np.stack(a))) for a in zip(*rows, strict=True)]
        queue.put((step, stack[0].permute(0, 3, 1, 2), *(a[:, None] for a in stack[1:])))
    queue.put(None)


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


def fit(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the prediction after a least-squares scale and shift for each image; no gradient through the fit."""
    with torch.no_grad():
        weight = mask.float()
        count = weight.sum((1, 2, 3), keepdim=True)
        mean_p = (pred * weight).sum((1, 2, 3), keepdim=True) / count
        mean_t = (target * weight).sum((1, 2, 3), keepdim=True) / count
        covariance = ((pred - mean_p) * (target - mean_t) * weight).sum((1, 2, 3), keepdim=True)
        variance = ((pred - mean_p).square() * weight).sum((1, 2, 3), keepdim=True)
        scale = (covariance / variance.clamp_min(1e-6)).clamp(0.2, 5.0)
    return scale * (pred - mean_p) + mean_t


def general_loss(raw: torch.Tensor, label: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Value, shape and edges of the normalised label."""
    target = normalise(label, mask)
    error = raw - target
    shape = ((fit(raw, target, mask) - target).abs() * mask).sum() / mask.sum()
    return (error.abs() * mask).sum() / mask.sum() + shape + gradient_loss(error, mask)


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


def feature_loss(taps: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
    """Mean share of the teacher's variance that the student's tokens leave unexplained, over the taps."""
    return torch.stack(
        [(own.float() - theirs).square().mean() / theirs.var() for own, theirs in zip(taps, wanted, strict=True)]
    ).mean()


class Teacher(nn.Module):
    """The large model's transformer, whose tokens after the 3rd, 6th, 9th and 12th block the student imitates."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import DepthAnythingForDepthEstimation

        whole = DepthAnythingForDepthEstimation.from_pretrained(folder).float().eval().requires_grad_(False)
        self.backbone = whole.backbone
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Map (B, 3, h, w) in [0, 1] to the tokens at the four taps."""
        tokens = self.backbone.embeddings((image - self.mean) / self.std)
        taps = []
        for index, layer in enumerate(self.backbone.encoder.layer):
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
            if index % 3 == 2:
                taps.append(self.backbone.layernorm(tokens).float())
        return taps


class Joint(nn.Module):
    """The network with both heads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EmbeddedNet("inverse")
        self.indoor_head = EmbeddedNet("log_depth").head

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Map (B, 3, h, w) to inverse depth and log depth, (B, 1, h, w) each, and the tokens at the taps."""
        taps = self.net.taps_of(image)
        features = self.net.decode(image, taps)
        raws = (head(features).float() for head in (self.net.head, self.indoor_head))
        first, second = (F.interpolate(r, scale_factor=2.0, mode="bilinear", align_corners=False) for r in raws)
        return first, second, taps

    def split(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the state dicts of the two models."""
        general = self.net.state_dict()
        return {"general": general, "indoor": general | self.indoor_head.state_dict(prefix="head.")}


@torch.no_grad()
def evaluate(joint: Joint, nyu: Path, size: tuple[int, int] = (224, 294)) -> dict[str, float]:
    """Score on ``val.txt``: Eigen crop, cap 10 m; general after a scale-and-shift fit in inverse depth."""
    joint.eval()
    scores = []
    for name in (nyu / "val.txt").read_text().split():
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
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--start", type=Path, help="what prune.py wrote")
    start.add_argument("--again", type=Path, help="last.pt of an earlier run: begin with its averaged weights")
    parser.add_argument("--metric", type=Path, help="what metric.py wrote")
    parser.add_argument("--large", action="store_true", help="the last stage alone, for a short round at a low rate")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of Depth Anything V2 Small (transformers)")
    parser.add_argument("--feature-weight", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the decoder")
    parser.add_argument("--relative-lr", type=float, default=5e-4, help="of the transformer, as a share of each matrix")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    joint = Joint()
    teacher = Teacher(args.teacher)
    if args.again:
        joint.load_state_dict(torch.load(args.again, map_location="cpu")["average"])
    else:
        joint.net.load_state_dict(torch.load(args.start, map_location="cpu"))
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
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [g["lr"] for g in groups], args.steps, pct_start=0.06)
    step = 0
    if (args.out / "last.pt").exists():
        state = torch.load(args.out / "last.pt", map_location="cpu")
        joint.load_state_dict(state["joint"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        for _ in range(step):  # the rate depends on the step alone, so a resumed run may be given other --steps
            schedule.step()
    queue: Queue = Queue(4)
    threading.Thread(target=batches, args=(args, step, queue), daemon=True).start()
    begin, first, recent = time.time(), step, []
    while (batch := queue.get()) is not None:
        step, image, label, truth, fitted, mask = batch
        joint.train()
        with torch.autocast("cpu", torch.bfloat16):
            raw, log_depth, taps = joint(image.to(memory_format=torch.channels_last))
            imitate = not args.large and step < IMITATE * args.steps
            wanted = teacher(image) if imitate else None
        loss = general_loss(raw, label, mask)
        if wanted:
            loss = loss + args.feature_weight * feature_loss(taps, wanted)
        metric = truth[:, 0, 0, 0].isfinite()
        if metric.any():
            loss = loss + metric.float().mean() * 2 * indoor_loss(
                log_depth[metric], truth[metric], fitted[metric], mask[metric]
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
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
        if step % 400 == 0 or step == args.steps:
            scores = {k: round(v, 4) for k, v in evaluate(average, args.nyu).items()}
            print(step, scores, flush=True)
            with (args.out / "log.csv").open("a", newline="") as file:
                csv.writer(file).writerow([step, round(float(np.mean(recent[-400:])), 4), *scores.values()])
            weights = {
                "joint": joint.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            save(args.out / "last.pt", weights | {"step": step})
            for name, model in average.split().items():
                save(args.out / f"{name}.pt", {"average": model})


if __name__ == "__main__":
    main()
