"""Stage 2: train an embedded model from the cache that `label.py` made.

    python training/embedded/train.py general --cache CACHE --nyu NYU --encoder EFFICIENTNET_LITE0.pth --out RUN
    python training/embedded/train.py indoor --cache CACHE --nyu NYU --start RUN/last.pt --out RUN2

NYU is a folder with ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm], ``train.txt`` and ``val.txt``; frames of ``val.txt`` are
never trained on. A stopped run continues from RUN/last.pt with the same command. Every 250 steps the averaged weights
are scored on ``val.txt`` and a line is added to RUN/log.csv.

general: affine-invariant inverse depth, distilled from the cached labels. Both maps are centred by their median and
divided by their mean absolute deviation before an L1 and a multi-scale gradient loss (Ranftl et al., TPAMI 2022), so
that only the shape matters; a light L1 to the label stretched to [0, 1] keeps the numbers in a known range.
indoor: metric depth [m] as log depth, on the NYU ground truth (scale-invariant log loss of BTS plus L1), with the
gradients of the teacher's map after it was fitted to the ground truth (the ground truth itself is quantised and
in-painted, and has no sharp edges).
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

from fathom.models.embedded import EmbeddedNet

MIX = {
    "nyu": 0.34,
    "imagenet": 0.28,
    "bsds": 0.13,
    "coco": 0.07,
    "camvid": 0.06,
    "aims": 0.04,
    "udacity": 0.04,
    "kstereo": 0.04,
}
EIGEN_CROP = (slice(45, 471), slice(41, 601))
# The picture grows while the run goes on: (share of the steps, landscape, portrait, square)
STAGES = (
    (0.45, (192, 256), (256, 192), (224, 224)),
    (0.80, (224, 288), (288, 224), (256, 256)),
    (1.00, (256, 352), (320, 256), (288, 288)),
)


def load_labelled(cache: Path, nyu: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Load (image, inverse depth, valid mask) of every source into memory; NYU without its validation frames."""
    train = set((nyu / "train.txt").read_text().split())
    sets: dict[str, list] = {}
    for folder in sorted(p for p in cache.iterdir() if p.is_dir()):
        for path in sorted(folder.glob("*.npz")):
            if folder.name == "nyu" and path.stem not in train:
                continue
            data = np.load(path)
            mask = np.ones(data["inverse_depth"].shape, bool)
            if folder.name == "nyu":  # the white frame around the picture
                mask[:] = False
                mask[8:-8, 8:-8] = True
            sets.setdefault(folder.name, []).append((data["image"], data["inverse_depth"], mask))
    return sets


def load_metric(
    cache: Path, nyu: Path, names: list[str]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Load (image, log depth, teacher's log depth fitted to it, valid mask) of NYU frames."""
    items = []
    for name in names:
        data = np.load(cache / "nyu" / f"{name}.npz")
        height, width = data["inverse_depth"].shape
        depth = cv2.imread(str(nyu / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        mask = depth > 0.1
        mask[:8], mask[-8:], mask[:, :8], mask[:, -8:] = False, False, False, False
        teacher = data["inverse_depth"].astype(np.float32)
        scale, shift = np.polyfit(teacher[mask].astype(np.float64), 1 / depth[mask].astype(np.float64), 1)
        fitted = np.maximum(scale * teacher + shift, 1 / 12)
        items.append((data["image"], np.log(np.maximum(depth, 0.1)), -np.log(fitted).astype(np.float32), mask))
    return items


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


def batches(args, start: int, queue: Queue) -> None:
    """Fill the queue with batches; step `i` depends on the seed and `i` alone, so a resumed run sees the same data."""
    general = args.task == "general"
    if general:
        sets = load_labelled(args.cache, args.nyu)
        names = [n for n in MIX if n in sets]
        weights = np.array([MIX[n] for n in names])
        print({n: len(sets[n]) for n in names}, flush=True)
    else:
        items = load_metric(args.cache, args.nyu, (args.nyu / "train.txt").read_text().split())
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])
        stage = next(s for s in STAGES if step < s[0] * args.steps)
        shape = stage[1:][rng.choice(3, p=[0.75, 0.1, 0.15] if general else [1.0, 0.0, 0.0])]
        images, targets, guides, masks = [], [], [], []
        for _ in range(args.batch):
            flip = rng.random() < 0.5
            if general:
                pool = sets[names[rng.choice(len(names), p=weights / weights.sum())]]
                image, label, mask = pool[rng.integers(len(pool))]
                zoom = 1.0 if rng.random() < 0.3 else rng.uniform(1.0, 1.7)
                box = window(*mask.shape, shape, zoom, np.exp(rng.uniform(-0.15, 0.15)), rng)
                target = cut(label.astype(np.float32), box, shape, cv2.INTER_LINEAR, flip)
                guide = target
            else:
                image, label, teacher, mask = items[rng.integers(len(items))]
                zoom = 1.0 if rng.random() < 0.4 else rng.uniform(1.0, 1.4)
                box = window(*mask.shape, shape, zoom, 1.0, rng)
                zoom = mask.shape[0] / box[2]  # a picture enlarged by s shows everything s times nearer
                target = cut(label, box, shape, cv2.INTER_NEAREST, flip) - np.log(zoom)
                guide = cut(teacher, box, shape, cv2.INTER_LINEAR, flip) - np.log(zoom)
            images.append(colour(cut(image, box, shape, cv2.INTER_AREA if zoom < 1.3 else cv2.INTER_LINEAR, flip), rng))
            targets.append(target)
            guides.append(guide)
            masks.append(cut(mask.astype(np.uint8), box, shape, cv2.INTER_NEAREST, flip) > 0)
        stack = [torch.from_numpy(np.ascontiguousarray(np.stack(a))) for a in (images, targets, guides, masks)]
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


def general_loss(raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Shape of the label, its edges, and a light hold on the numeric range."""
    error = normalise(raw, mask) - normalise(target, mask)
    flat = target.flatten(1).masked_fill(~mask.flatten(1), float("nan"))
    low, high = (flat.nanquantile(q, 1, keepdim=True)[..., None, None] for q in (0.02, 0.98))
    stretched = (target - low) / (high - low).clamp_min(1e-4)
    hold = ((raw - stretched).abs() * mask).sum() / mask.sum()
    return (error.abs() * mask).sum() / mask.sum() + 0.5 * gradient_loss(error, mask) + 0.1 * hold


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


@torch.no_grad()
def evaluate(net: EmbeddedNet, nyu: Path, task: str, size: tuple[int, int] = (256, 352)) -> dict[str, float]:
    """Score on ``val.txt``: Eigen crop, cap 10 m; general after a scale-and-shift fit in inverse depth."""
    net.eval()
    scores = []
    for name in (nyu / "val.txt").read_text().split():
        image = cv2.cvtColor(cv2.imread(str(nyu / "rgb" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        raw = net(torch.from_numpy(small).permute(2, 0, 1)[None])[0, 0].numpy()
        raw = cv2.resize(raw, (640, 480), interpolation=cv2.INTER_LINEAR)[EIGEN_CROP].astype(np.float64)
        target = cv2.imread(str(nyu / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED)[EIGEN_CROP] / 1000.0
        mask = (target > 1e-3) & (target < 10)
        pred, target = raw[mask], target[mask]
        if task == "general":
            scale, shift = np.polyfit(pred, 1 / target, 1)
            pred = 1 / np.maximum(scale * pred + shift, 1 / 10)
        pred = np.clip(pred, 1e-3, 10)
        ratio = np.maximum(pred / target, target / pred)
        rmse = np.sqrt(((pred - target) ** 2).mean())
        scores.append(((np.abs(pred - target) / target).mean(), rmse, (ratio < 1.25).mean()))
    return dict(zip(("abs_rel", "rmse", "delta1"), np.mean(scores, 0).tolist(), strict=True))


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("general", "indoor"))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--nyu", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--encoder", type=Path, help="ImageNet weights of EfficientNet-Lite0 (.pth), in timm's tensor order"
    )
    parser.add_argument("--start", type=Path, help="last.pt of another run to start from")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    net = EmbeddedNet("inverse" if args.task == "general" else "log_depth")
    if args.encoder:  # the same tensors in the same order, under other names
        theirs = [
            v
            for k, v in torch.load(args.encoder, map_location="cpu").items()
            if not k.startswith(("classifier", "fc", "_fc"))
        ]
        own = net.encoder.state_dict()
        assert len(theirs) >= len(own), (len(theirs), len(own))
        for (name, tensor), value in zip(own.items(), theirs, strict=False):
            assert tensor.shape == value.shape, (name, tensor.shape, value.shape)
            tensor.copy_(value)
    if args.start:
        state = torch.load(args.start, map_location="cpu")["average"]
        if args.task == "indoor":  # another quantity: a fresh head
            state = {k: v for k, v in state.items() if not k.startswith("head.")} | net.head.state_dict(prefix="head.")
        net.load_state_dict(state)
    net = net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    groups = [
        {"params": net.encoder.parameters(), "lr": args.lr / 3},
        {"params": [p for n, p in net.named_parameters() if not n.startswith("encoder.")], "lr": args.lr},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [g["lr"] for g in groups], args.steps, pct_start=0.08)
    step = 0
    if (args.out / "last.pt").exists():
        state = torch.load(args.out / "last.pt", map_location="cpu")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        for _ in range(step):  # the rate depends on the step alone, so a resumed run may be given other --steps
            schedule.step()
    queue: Queue = Queue(4)
    threading.Thread(target=batches, args=(args, step, queue), daemon=True).start()
    begin, recent = time.time(), []
    while (batch := queue.get()) is not None:
        step, image, target, guide, mask = batch
        net.train()
        with torch.autocast("cpu", torch.bfloat16):
            raw = net.features(image.to(memory_format=torch.channels_last))
        raw = F.interpolate(raw.float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        loss = general_loss(raw, target, mask) if args.task == "general" else indoor_loss(raw, target, guide, mask)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                slow.lerp_(fast, 1 - decay) if slow.is_floating_point() else slow.copy_(fast)
        recent.append(loss.item())
        if step % 50 == 0:
            rate = len(recent) * args.batch / (time.time() - begin)
            print(f"{step}/{args.steps} loss {np.mean(recent[-50:]):.4f} {rate:.1f} pictures/s", flush=True)
        if step % 250 == 0 or step == args.steps:
            scores = evaluate(average, args.nyu, args.task)
            print(step, {k: round(v, 4) for k, v in scores.items()}, flush=True)
            with (args.out / "log.csv").open("a", newline="") as file:
                csv.writer(file).writerow(
                    [step, round(float(np.mean(recent[-250:])), 5), *(round(v, 5) for v in scores.values())]
                )
            state = {
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "args": {k: str(v) for k, v in vars(args).items()},
                "scores": scores,
            }
            torch.save(state, args.out / "last.tmp")
            (args.out / "last.tmp").replace(args.out / "last.pt")


if __name__ == "__main__":
    main()
