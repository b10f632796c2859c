"""Stage 3: train both embedded models.

    python training/embedded/train.py DATA --start START.pt --out FIRST --decoder-only --steps 300 --lr 1e-3
    python training/embedded/train.py DATA --start FIRST/last.pt --out FINAL --four-bits --steps 7000
    python training/embedded/train.py DATA --start fathom-general.safetensors --out MORE --four-bits --frozen 3

DATA is ``--cache CACHE --nyu NYU --rgbd RGBD``; CACHE is what `label.py` made.
NYU is a folder with ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm], ``train.txt`` and ``val.txt``; frames of ``val.txt`` are
never trained on. RGBD holds ground truth of other cameras, NAME/depth_mm/NUMBER.png [mm, 0 = none] and NAME/focal.txt
(focal length over the picture's height); their pictures, all in one folder as NAME-NUMBER.png, are labelled as the
source rgbd. A stopped run continues from OUT/last.pt with the same command. Every 200 steps the averaged weights are
scored on ``val.txt`` (on all of it every 1000, else on a third) and a line is added to OUT/log.csv. OUT/general.pt and
OUT/indoor.pt hold the averaged weights of the two models, OUT/NAME_1000.pt and so on the same at these steps, and
OUT/NAME_start.pt what they began with, levelled: the mean of some is packaged. The arithmetic is bfloat16 where
autocast allows it and the CPU has it.

START.pt is what `prune.py` made of Depth Anything V2 Small. The first run gets the decoder used to its tokens. With
``--four-bits`` the channels of the start are levelled first (`equalise.py`), and from then on every picture is seen
through matrices in 4 bits. A packaged model goes on from its own 4 bits, and its checkpoints hold the grids that
`package.py` keeps. The source scenes is what `render.py` made; on flat places of the other pictures posters are hung.

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
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from equalise import equalise
from safetensors.torch import load_file
from torch import nn

from fathom.models.embedded import PATCH, EmbeddedNet
from fathom.models.four_bits import GROUP, HIGHEST, LOWEST, Grid, codes_of, find_grid, snap, stored_grids
from fathom.models.weights import read_state_dict
from fathom.runtime.torch import cpu_has_bf16

MIX = {
    "nyu": 0.22,
    "rgbd": 0.03,
    "rooms": 0.13,
    "houses": 0.03,
    "photos": 0.06,
    "objects": 0.17,
    "scenes": 0.18,
    "imagenet": 0.09,
    "bsds": 0.05,
    "roads": 0.05,
    "camvid": 0.05,
    "udacity": 0.01,
}
POSTERS = 0.4
"""Share of the pictures in which a poster is hung if there is a place for it."""
cv2.setNumThreads(1)  # the loader is one thread beside the arithmetic
EIGEN_CROP = (slice(45, 471), slice(41, 601))
SIZE = (210, 280)
"""Height and width [px] at which the models see pictures of NYU's shape."""
ASPECTS = {0.76: 0.72, 1.32: 0.08, 1.0: 0.10, 0.286: 0.10}
"""Height over width of the pictures of a batch, about, and how often; the first is that of NYU."""
FRAME = 8
"""Rows and columns [px of the cache] of the white frame of NYU; mostly cut off, so that it is not learned."""


@dataclass(frozen=True)
class Item:
    """One training picture with its label and mask (H, W).

    Where metres are known, `log_depth` [ln m] holds them and ``scale * inverse_depth + shift`` is the label in 1/m.
    """

    image: np.ndarray
    inverse_depth: np.ndarray
    mask: np.ndarray
    log_depth: np.ndarray | None = None
    scale: float = 0.0
    shift: float = 0.0


NYU_FOCAL = 519.47 / 480
"""Focal length of NYU's camera over the height of its pictures."""


def load_truth(path: Path, depth_file: Path, focal: float = NYU_FOCAL, border: int = 0) -> Item:
    """Load a picture with label and ground truth, the latter as if NYU's camera had seen it.

    Args:
        path: What label.py wrote.
        depth_file: Depth [mm], 16 bits, 0 = none.
        focal: Focal length over the picture's height; a longer one shows everything larger, as if it were nearer.
        border: Rows and columns to leave out [px of the cache].
    """
    data = np.load(path)
    height, width = data["inverse_depth"].shape
    depth = cv2.imread(str(depth_file), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
    depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST) * (NYU_FOCAL / focal)
    mask = depth > 0.1
    if border:
        mask[:border], mask[-border:], mask[:, :border], mask[:, -border:] = False, False, False, False
    scale, shift = np.polyfit(data["inverse_depth"][mask].astype(np.float64), 1 / depth[mask].astype(np.float64), 1)
    log_depth = np.log(np.maximum(depth, 0.1))
    return Item(data["image"], data["inverse_depth"], mask, log_depth, scale, shift)


def load(cache: Path, nyu: Path, rgbd: Path | None) -> dict[str, list[Item]]:
    """Load every source into memory; NYU without its validation frames."""
    train = set((nyu / "train.txt").read_text().split())
    sets: dict[str, list[Item]] = {}
    for path in sorted(cache.glob("*/*.npz")):
        source = path.parent.name
        if source == "nyu":
            if path.stem in train:
                item = load_truth(path, nyu / "depth" / f"{path.stem}.png", border=FRAME)
            else:
                continue
        elif source == "rgbd" and rgbd and (rgbd / path.stem.split("-")[0] / "focal.txt").exists():
            name, number = path.stem.split("-")
            focal = float((rgbd / name / "focal.txt").read_text())
            item = load_truth(path, rgbd / name / "depth_mm" / f"{number}.png", focal)
        else:
            data = np.load(path)
            item = Item(data["image"], data["inverse_depth"], np.ones(data["inverse_depth"].shape, bool))
        sets.setdefault(source, []).append(item)
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


def hang(image: np.ndarray, label: np.ndarray, poster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hang a poster where the label is a plane, and return the picture; what is painted there has no depth of its own.

    Where no plane is found the picture comes back as it was. The sky is none, though its label is level. The poster
    takes the light of what it hides.

    Args:
        image: Shape (H, W, 3), 8 bits.
        label: Inverse depth (H, W): that of a plane is a linear function of row and column.
        poster: Any picture, 8 bits.
        rng: Where it hangs.
    """
    spread, far = float(np.abs(label - np.median(label)).mean()), 0.1 * float(label.max())
    for most in np.linspace(0.9, 0.2, 12):
        rows, columns = (int(side * rng.uniform(0.15, most)) for side in label.shape)
        top, left = (rng.integers(side - part) for side, part in zip(label.shape, (rows, columns), strict=True))
        box = (slice(top, top + rows), slice(left, left + columns))
        part = label[box][::4, ::4]
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        table = np.stack([x.ravel(), y.ravel(), np.ones(part.size)], 1)
        plane = table @ np.linalg.lstsq(table, part.ravel(), rcond=None)[0]
        if part.min() < far or np.abs(plane - part.ravel()).max() > 0.1 * spread:
            continue
        light = cv2.blur(image[box].mean(-1).astype(np.float32), (31, 31)) + 4
        painted = cv2.resize(poster, (columns, rows), interpolation=cv2.INTER_AREA)
        out = image.copy()
        out[box] = np.clip(painted * (light / light.mean())[..., None] * rng.uniform(0.6, 1.1), 0, 255)
        return out
    return image


def shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of the pictures of every aspect, with about as many patches as `size`."""
    area = size[0] * size[1]
    return [(PATCH * round((area * a) ** 0.5 / PATCH), PATCH * round((area / a) ** 0.5 / PATCH)) for a in ASPECTS]


def window(
    height: int, width: int, shape: tuple[int, int], zoom: float, squeeze: float, rng
) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a random crop with about the aspect of `shape`."""
    aspect = shape[1] / shape[0] * squeeze
    if abs(np.log(aspect * height / width)) < 0.03:  # the cache has sides of its own: a whole picture stays whole
        aspect = width / height
    crop_height = min(height, width / aspect) / zoom
    rows, columns = round(crop_height), min(width, round(crop_height * aspect))
    return int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1)), rows, columns


def cut(array: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int], mode: int, flip: bool) -> np.ndarray:
    """Crop, resize and maybe mirror."""
    top, left, rows, columns = box
    out = cv2.resize(array[top : top + rows, left : left + columns], shape[::-1], interpolation=mode)
    return out[:, ::-1] if flip else out


def batches(args: argparse.Namespace, sets: dict[str, list[Item]], start: int, queue: Queue) -> None:
    """Fill the queue with batches; step `i` depends on the seed and `i` alone, so a resumed run sees the same data."""
    names = [n for n in MIX if n in sets]
    share = np.array([MIX[n] for n in names])
    print({n: (len(sets[n]), sum(i.log_depth is not None for i in sets[n])) for n in names}, flush=True)
    choices = shapes(args.size)
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])
        shape = choices[rng.choice(len(choices), p=list(ASPECTS.values()))]
        rows: list[tuple[np.ndarray, ...]] = []
        while len(rows) < args.batch:
            name = names[rng.choice(len(names), p=share / share.sum())]
            pool = sets[name]
            item = pool[rng.integers(len(pool))]
            flip = rng.random() < 0.5
            metric = item.log_depth is not None
            zoom = 1.0 if rng.random() < 0.4 else rng.uniform(1.0, 1.45 if metric else 1.7)
            squeeze = 1.0 if metric else np.exp(rng.uniform(-0.15, 0.15))
            frame = FRAME if name == "nyu" and rng.random() < 0.7 else 0
            height, width = (side - 2 * frame for side in item.mask.shape)
            top, left, *sides = window(height, width, shape, zoom, squeeze, rng)
            box = (top + frame, left + frame, sides[0], sides[1])
            image = cut(item.image, box, shape, cv2.INTER_AREA if zoom < 1.3 else cv2.INTER_LINEAR, flip)
            label = cut(item.inverse_depth.astype(np.float32), box, shape, cv2.INTER_LINEAR, flip)
            mask = cut(item.mask.astype(np.uint8), box, shape, cv2.INTER_NEAREST, flip) > 0
            if mask.mean() < 0.3:  # a hole in the ground truth
                continue
            if name != "scenes" and rng.random() < POSTERS:
                others = sets[names[rng.integers(len(names))]]
                image = hang(image, label, others[rng.integers(len(others))].image, rng)
            truth = fitted = np.full(shape, np.nan, np.float32)
            if item.log_depth is not None:
                # A picture enlarged by s shows everything s times nearer; a whole one fills the rows of `size`.
                nearer = np.float32(np.log((shape[0] / box[2]) / (args.size[0] / item.mask.shape[0])))
                truth = cut(item.log_depth, box, shape, cv2.INTER_NEAREST, flip) - nearer
                fitted = -np.log(np.maximum(item.scale * label + item.shift, 1 / 12)).astype(np.float32) - nearer
            rows.append((colour(image, rng), label, truth, fitted, mask))
        stack = [torch.from_numpy(np.ascontiguousarray(np.stack(a))) for a in zip(*rows, strict=True)]
        queue.put((step, stack[0].permute(0, 3, 1, 2), *(a[:, None] for a in stack[1:])))
    queue.put(None)


def feed(args: argparse.Namespace, sets: dict[str, list[Item]], start: int, queue: Queue) -> None:
    """Run `batches`; an error goes into the queue, for who waits there would wait for ever."""
    try:
        batches(args, sets, start, queue)
    except Exception as error:
        queue.put(error)


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
        self.exact: list[torch.Tensor] = []
        self.stays = bool(stored)
        self.grids = [stored[name] for name in names] if stored else []
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
            places = 0.98 * (torch.rand_like(weight) - 0.5) * grid.steps.repeat_interleave(GROUP, 1)
            weight.add_(places * ((codes > LOWEST) & (codes < HIGHEST)))

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


def example_inputs(cache: Path, size: tuple[int, int], count: int = 32) -> list[np.ndarray]:
    """Return pictures of every source, as the network sees them, that show how large activations are."""
    files = [sorted(folder.glob("*.npz")) for folder in sorted(cache.iterdir()) if folder.is_dir()]
    chosen = [path for source in files for path in source[:: max(1, len(source) * len(files) // count)]]
    images = [cv2.resize(np.load(path)["image"], size[::-1], interpolation=cv2.INTER_AREA) for path in chosen]
    return [image.transpose(2, 0, 1)[None].astype(np.float32) / 255 for image in images]


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
    parser.add_argument("--start", type=Path, required=True, help="of prune.py, last.pt, or fathom-general.safetensors")
    parser.add_argument("--rgbd", type=Path, help="NAME/{rgb,depth_mm}/NUMBER.png and NAME/focal.txt of other cameras")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4, help="of the decoder")
    parser.add_argument("--relative-lr", type=float, default=3e-4, help="of the transformer, as a share of each matrix")
    parser.add_argument("--decoder-only", action="store_true", help="the first stage: the transformer stays as it is")
    parser.add_argument("--frozen", type=int, default=0, help="first blocks that stay as they are, with all before")
    parser.add_argument("--four-bits", action="store_true", help="the last stage: its matrices have 4 bits")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width of pictures of NYU's shape")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    joint = Joint()
    stored: dict[str, Grid] = {}
    if args.start.suffix == ".safetensors":
        state = {f"net.{name}": value for name, value in read_state_dict(args.start).items()}
        stored = stored_grids(load_file(args.start))
    else:
        started = torch.load(args.start, map_location="cpu")
        state = started.get("average", started)
    positions = state["net.positions"].float()  # a start of another size stores another grid
    state["net.positions"] = F.interpolate(positions, joint.net.positions.shape[-2:], mode="bicubic")
    joint.load_state_dict(state)
    if args.four_bits and not stored:
        equalise(joint.net, example_inputs(args.cache, args.size))
    grids = FourBits(joint, stored) if args.four_bits else None
    fixed = {"grids": {name: tuple(grid) for name, grid in stored.items()}} if stored and grids else {}
    joint = joint.to(memory_format=torch.channels_last)
    average = copy.deepcopy(joint)
    # What came from the large model moves by a share of its own size: its matrices differ 30-fold in size, and at one
    # common rate the small ones are destroyed within a hundred steps.
    groups: list[dict[str, object]] = []
    fresh: list[nn.Parameter] = []
    frozen = tuple(f"net.{part}" for part in ("patches", "class_token", "positions")) if args.frozen else ()
    frozen += tuple(f"net.blocks.{index}." for index in range(args.frozen))
    for name, parameter in joint.named_parameters():
        if name.split(".")[1] not in ENCODER:
            fresh.append(parameter)
        elif args.decoder_only or name.startswith(frozen):
            parameter.requires_grad_(False)
        else:
            size = parameter.detach().square().mean().sqrt().item()
            groups.append({"params": [parameter], "lr": args.relative_lr * size})
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
            save(args.out / f"{name}_start.pt", {"average": model} | fixed)
    queue: Queue = Queue(8)
    sets = load(args.cache, args.nyu, args.rgbd)
    threading.Thread(target=feed, args=(args, sets, step, queue), daemon=True).start()
    has_bf16 = cpu_has_bf16()
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
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16):
            raw, log_depth = joint(image.to(memory_format=torch.channels_last))
        loss = general_loss(raw, label, mask)
        metric = truth[:, 0, 0, 0].isfinite()
        if metric.any():
            share = metric.float().mean()
            loss = loss + 2 * share * indoor_loss(log_depth[metric], truth[metric], fitted[metric], mask[metric])
            loss = loss + 6 * share * fitted_loss(raw[metric], truth[metric], mask[metric])
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
            judged = grids.rounded(average) if grids else average
            every = 1 if step % 1000 == 0 or step == args.steps else 3
            scores = {k: round(v, 4) for k, v in evaluate(judged, args.nyu, args.size, every=every).items()}
            print(step, scores, flush=True)
            with (args.out / "log.csv").open("a", newline="") as file:
                csv.writer(file).writerow([step, round(float(np.mean(recent[-200:])), 4), *scores.values()])
            parts = {"joint": joint, "average": average, "optimiser": optimiser}
            save(args.out / "last.pt", {name: part.state_dict() for name, part in parts.items()} | {"step": step})
            for name, model in average.split().items():
                save(args.out / f"{name}.pt", {"average": model} | fixed)
                if step % 1000 == 0:
                    save(args.out / f"{name}_{step}.pt", {"average": model} | fixed)


if __name__ == "__main__":
    main()
