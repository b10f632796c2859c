"""What `train.py` shows the network: every picture in memory, cut, pasted over and coloured in batches on any device.

A batch depends on the seed and the step alone, so a resumed run sees the same pictures. A picture takes 0.75 MB.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from cache import CANVAS
from torch import Tensor

from fathom.models.embedded import PATCH

MIX = {
    "nyu": 0.08,
    "rgbd": 0.03,
    "rooms": 0.18,
    "photos": 0.21,
    "objects": 0.17,
    "scenes": 0.20,
    "roads": 0.13,
}
"""Share of the pictures of each source."""
POSTERS = 0.4
"""Share of the pictures in which a poster is hung if there is a place for it."""
ASPECTS = {0.76: 0.72, 1.32: 0.08, 1.0: 0.10, 0.286: 0.10}
"""Height over width of the pictures of a batch, about, and how often; the first is that of NYU."""
FRAME = 8
"""Rows and columns [px of the cache] of the white frame of NYU; mostly cut off, so that it is not learned."""
NYU_FOCAL = 519.47 / 480
"""Focal length of NYU's camera over the height of its pictures."""
FINER = 2
"""Samples a pixel in each direction, of which the mean is taken, as the models take it when they make a photo small."""
TRIES = 12
"""Places that are looked at for a poster."""


def on(device: torch.device, array: np.ndarray) -> Tensor:
    """Copy an array to a device, numbers with a fraction in single precision; the device need not be idle for it."""
    tensor = torch.from_numpy(array)
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device, non_blocking=True)


@dataclass(frozen=True)
class Truth:
    """Ground truth of one picture.

    Args:
        log_depth: Shape (H, W) [ln m], as if NYU's camera had seen it; NaN where there is none.
        scale: ``scale * label + shift`` is the label in 1/m.
        shift: See `scale`.
    """

    log_depth: np.ndarray
    scale: float
    shift: float


def read_truth(label: np.ndarray, depth_file: Path, focal: float = NYU_FOCAL, border: int = 0) -> Truth:
    """Read ground truth, and fit the label to it.

    Args:
        label: Inverse depth (H, W), up to scale and shift.
        depth_file: Depth [mm], 16 bits, 0 = none.
        focal: Focal length over the picture's height; a longer one shows everything larger, as if it were nearer.
        border: Rows and columns to leave out [px of the cache].
    """
    depth = cv2.imread(str(depth_file), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
    depth = cv2.resize(depth, label.shape[::-1], interpolation=cv2.INTER_NEAREST) * (NYU_FOCAL / focal)
    depth[depth <= 0.1] = np.nan
    if border:
        depth[:border], depth[-border:], depth[:, :border], depth[:, -border:] = (np.nan,) * 4
    known = np.isfinite(depth)
    scale, shift = np.polyfit(label[known].astype(np.float64), 1 / depth[known].astype(np.float64), 1)
    return Truth(np.log(depth), float(scale), float(shift))


@dataclass(frozen=True)
class Pool:
    """All pictures, each stretched to `CANVAS`.

    Args:
        sources: Numbers of the pictures of every source.
        images: Shape (N, H, W, 3), 8 bits.
        labels: Shape (N, H, W), half precision.
        aspects: Width over height that they had, (N,).
        truth_of: Which row of `truths` belongs to a picture, -1 = none, (N,).
        truths: Shape (M, H, W), see `Truth`.
        scales: See `Truth`, (M,).
        shifts: See `Truth`, (M,).
    """

    sources: dict[str, np.ndarray]
    images: Tensor
    labels: Tensor
    aspects: np.ndarray
    truth_of: np.ndarray
    truths: Tensor
    scales: Tensor
    shifts: Tensor

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self.images.device


def load(cache: Path, nyu: Path, rgbd: Path | None, device: str | torch.device = "cpu") -> Pool:
    """Load every source of the cache into memory; of NYU only the frames of ``train.txt``.

    Raises:
        SystemExit: If the cache holds no picture of a source in `MIX`.
    """
    train = set((nyu / "train.txt").read_text().split())
    every = [path for name in MIX for path in sorted((cache / name).glob("*.npz"))]
    files = [path for path in every if path.parent.name != "nyu" or path.stem in train]
    if not files:
        raise SystemExit(f"{cache} holds no pictures; label some first (label.py). Sources are {', '.join(MIX)}.")
    images = torch.empty(len(files), *CANVAS, 3, dtype=torch.uint8)
    labels = torch.empty(len(files), *CANVAS, dtype=torch.float16)
    aspects = np.empty(len(files))

    def read(number: int) -> Truth | None:
        path = files[number]
        with np.load(path) as data:
            images[number], labels[number] = torch.from_numpy(data["image"]), torch.from_numpy(data["inverse_depth"])
            aspects[number] = data["aspect"]
        label = labels[number].numpy()
        if path.parent.name == "nyu":
            return read_truth(label, nyu / "depth" / f"{path.stem}.png", border=FRAME)
        name, _, frame = path.stem.partition("-")
        if path.parent.name == "rgbd" and rgbd and (rgbd / name / "focal.txt").exists():
            focal = float((rgbd / name / "focal.txt").read_text())
            return read_truth(label, rgbd / name / "depth_mm" / f"{frame}.png", focal)
        return None

    with ThreadPoolExecutor() as threads:
        found = list(threads.map(read, range(len(files))))
    known = [truth for truth in found if truth]
    truth_of = np.full(len(files), -1)
    truth_of[[truth is not None for truth in found]] = np.arange(len(known))
    owner = np.array([path.parent.name for path in files])
    stack = [torch.from_numpy(t.log_depth) for t in known]
    return Pool(
        sources={name: np.flatnonzero(owner == name) for name in MIX if (owner == name).any()},
        images=images.to(device),
        labels=labels.to(device),
        aspects=aspects,
        truth_of=truth_of,
        truths=(torch.stack(stack) if stack else torch.empty(0, *CANVAS)).to(device),
        scales=torch.tensor([t.scale for t in known], device=device),
        shifts=torch.tensor([t.shift for t in known], device=device),
    )


def shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of the pictures of every aspect, with about as many patches as `size`."""
    area = size[0] * size[1]
    return [(PATCH * round((area * a) ** 0.5 / PATCH), PATCH * round((area / a) ** 0.5 / PATCH)) for a in ASPECTS]


def windows(
    aspects: np.ndarray, framed: np.ndarray, metric: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return a random crop of every picture with about the aspect of `shape`: left, top, width, height, (B, 4).

    Args:
        aspects: Width over height of the pictures, (B,).
        framed: Whether the frame of NYU is to be cut off, (B,).
        metric: Whether there is ground truth, whose shapes are to stay, (B,).
        shape: Height and width [px] that the crop will get.
        rng: Source of the choice.

    Returns:
        Shares of the picture's width and height.
    """
    count = len(aspects)
    zoom = np.where(rng.random(count) < 0.4, 1.0, rng.uniform(1.0, np.where(metric, 1.45, 1.7)))
    squeeze = np.where(metric, 1.0, np.exp(rng.uniform(-0.15, 0.15, count)))
    border_y, border_x = (framed * FRAME / side for side in CANVAS)
    own = aspects * (1 - 2 * border_x) / (1 - 2 * border_y)
    wanted = shape[1] / shape[0] * squeeze
    wanted = np.where(np.abs(np.log(wanted / own)) < 0.03, own, wanted)  # what nearly fits stays whole
    height = (1 - 2 * border_y) * np.minimum(1, own / wanted) / zoom
    width = height * wanted / aspects
    left = border_x + rng.random(count) * (1 - 2 * border_x - width)
    top = border_y + rng.random(count) * (1 - 2 * border_y - height)
    return np.stack([left, top, width, height], 1)


def grid_of(boxes: Tensor, rows: int, columns: int, flips: Tensor | None = None) -> Tensor:
    """Return where the pixels of boxes (B, 4: left, top, width, height) lie, for `sample`: (B, rows, columns, 2)."""
    x = (torch.arange(columns, device=boxes.device) + 0.5).div(columns).expand(len(boxes), -1)
    y = (torch.arange(rows, device=boxes.device) + 0.5).div(rows).expand(len(boxes), -1)
    if flips is not None:
        x = torch.where(flips[:, None], 1 - x, x)
    x, y = boxes[:, :1] + boxes[:, 2:3] * x, boxes[:, 1:2] + boxes[:, 3:] * y
    return 2 * torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1) - 1


def sample(maps: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Look maps (B, C, H, W) up at the places of `grid_of`."""
    return F.grid_sample(maps.float(), grid, mode=mode, padding_mode="border", align_corners=False)


def hang(images: Tensor, labels: Tensor, posters: Tensor, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Hang posters where labels are planes; what is painted there has no depth of its own.

    Where no plane is found the picture stays as it was. The sky is none, though its label is level. A poster takes the
    light of what it hides.

    Args:
        images: Shape (B, 3, H, W) in [0, 1].
        labels: Inverse depth (B, 1, H, W): that of a plane is a linear function of row and column.
        posters: Pictures (B, 3, h, w).
        chosen: Which pictures are to get one, (B,).
        rng: Source of the places.

    Returns:
        Shape (B, 3, H, W).
    """
    count, device = len(images), images.device
    most = np.linspace(0.9, 0.2, TRIES)
    sides = rng.uniform(0.15, np.broadcast_to(most[:, None], (count, TRIES, 2)))
    corners = rng.random((count, TRIES, 2)) * (1 - sides)
    boxes = on(device, np.concatenate([corners, sides], -1))
    axis = torch.linspace(-1, 1, 24, device=device)
    points = sample(labels, grid_of(boxes.flatten(0, 1), 24, 24).reshape(count, TRIES * 24, 24, 2))
    points = points.view(count, TRIES, 24, 24)
    plane = points.mean((2, 3), keepdim=True)
    for slope in (axis, axis[:, None]):
        plane = plane + slope * (points * slope).mean((2, 3), keepdim=True) / axis.square().mean()
    flat = labels.flatten(1)
    spread = (flat - flat.median(1, keepdim=True).values).abs().mean(1, keepdim=True)
    found = (points - plane).abs().amax((2, 3)) < 0.1 * spread
    found &= points.amin((2, 3)) > 0.1 * flat.amax(1, keepdim=True)
    first = found.float().argmax(1)
    box = boxes[torch.arange(count, device=device), first][:, :, None, None]
    wanted = found.any(1) & on(device, chosen)

    rows, columns = images.shape[-2:]
    x = ((torch.arange(columns, device=device) + 0.5) / columns - box[:, 0]) / box[:, 2]
    y = ((torch.arange(rows, device=device)[:, None] + 0.5) / rows - box[:, 1]) / box[:, 3]
    inside = ((x > 0) & (x < 1) & (y > 0) & (y < 1) & wanted[:, None, None])[:, None]
    grid = 2 * torch.stack(torch.broadcast_tensors(x, y), -1) - 1
    coarse = sample(F.avg_pool2d(posters, 2), grid)  # a small poster is a picture made small
    painted = torch.where((box[:, 2:] > 0.5).any(1, keepdim=True), sample(posters, grid), coarse)
    light = images.mean(1, keepdim=True)
    for window, beside in (((1, 31), (0, 15)), ((31, 1), (15, 0))):  # in one pass it would take most of a batch's time
        light = F.avg_pool2d(light, window, 1, beside, count_include_pad=False)
    light = light + 0.016
    mean = (light * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    strength = on(device, rng.uniform(0.6, 1.1, (count, 1, 1, 1)))
    return torch.where(inside, (painted * light / mean.clamp_min(0.016) * strength).clamp(0, 1), images)


def colour(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change colours, blur and noise of pictures (B, 3, H, W) in [0, 1], but nothing that moves a pixel."""
    count, device = len(images), images.device

    def drawn(share: float, low: float, high: float, neutral: float, columns: int = 1) -> Tensor:
        values = np.where(rng.random((count, 1)) < share, rng.uniform(low, high, (count, columns)), neutral)
        return on(device, values)[..., None, None]

    out = images ** drawn(0.8, 0.75, 1.3, 1.0) * drawn(0.8, 0.75, 1.25, 1.0)
    mean = out.mean((1, 2, 3), keepdim=True)
    out = (out - mean) * drawn(0.8, 0.75, 1.25, 1.0) + mean
    out = out * drawn(0.8, 0.88, 1.12, 1.0, 3)
    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * (drawn(0.8, 0.5, 1.4, 1.0) * drawn(0.07, 0.0, 0.0, 1.0))
    blurred = np.flatnonzero(rng.random(count) < 0.15)
    if len(blurred):
        where = on(device, blurred)
        out = out.index_copy(0, where, blur(out[where], rng.uniform(0.4, 1.5, len(blurred))))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(out.shape, device=device, generator=generator)
    return (out + noise * drawn(0.2, 0.005, 0.03, 0.0)).clamp(0, 1)


def blur(images: Tensor, sigmas: np.ndarray) -> Tensor:
    """Blur pictures (B, C, H, W), each by a Gaussian of its own [px]."""
    count, channels = images.shape[:2]
    offsets = np.arange(-4, 5)
    kernels = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernels = on(images.device, kernels / kernels.sum(1, keepdims=True))
    kernels = kernels.repeat_interleave(channels, 0)[:, None]
    flat = F.pad(images.reshape(1, count * channels, *images.shape[2:]), (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernels[:, :, None], groups=count * channels)
    return F.conv2d(flat, kernels[..., None], groups=count * channels).view_as(images)


@dataclass(frozen=True)
class Batch:
    """What the network sees, and what it is to say.

    Args:
        image: Shape (B, 3, h, w) in [0, 1].
        label: Inverse depth up to scale and shift, (B, 1, h, w).
        mask: Where the label counts, (B, 1, h, w).
        metric: Numbers of the pictures with ground truth, (M,).
        truth: Logarithm of their depth [ln m], (M, 1, h, w); anything outside `mask`.
        fitted: The same of their label, (M, 1, h, w).
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    metric: Tensor
    truth: Tensor
    fitted: Tensor


def choose(pool: Pool, count: int, mix: Mapping[str, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures: their numbers (B,), and the names of their sources (B,)."""
    names = list(pool.sources)
    share = np.array([mix[name] for name in names])
    drawn = rng.choice(len(names), count, p=share / share.sum())
    sizes = np.array([len(numbers) for numbers in pool.sources.values()])
    places = (rng.random(count) * sizes[drawn]).astype(int)
    numbers = np.array([pool.sources[names[i]][place] for i, place in zip(drawn, places, strict=True)])
    return numbers, np.array(names)[drawn]


def batch_of(
    pool: Pool, step: int, *, seed: int, count: int, size: tuple[int, int], mix: Mapping[str, float] = MIX
) -> Batch:
    """Make the batch of one step.

    Args:
        pool: All pictures.
        step: Which batch.
        seed: Of the run.
        count: Pictures of a batch.
        size: Height and width [px] at which the models see pictures of NYU's shape.
        mix: Share of the pictures of each source.
    """
    rng = np.random.default_rng([seed, step])
    device = pool.device
    shape = shapes(size)[rng.choice(len(ASPECTS), p=list(ASPECTS.values()))]
    numbers, source = choose(pool, count, mix, rng)
    is_metric = pool.truth_of[numbers] >= 0
    framed = (source == "nyu") & (rng.random(count) < 0.7)
    crops = windows(pool.aspects[numbers], framed, is_metric, shape, rng)
    flips = on(device, rng.random(count) < 0.5)
    boxes, where = on(device, crops), on(device, numbers)
    grid = grid_of(boxes, *shape, flips)
    image = pool.images[where].permute(0, 3, 1, 2)
    image = sample(image, grid_of(boxes, shape[0] * FINER, shape[1] * FINER, flips)) / 255
    image = F.avg_pool2d(image, FINER)
    label = sample(pool.labels[where][:, None], grid)

    # A picture enlarged by s shows everything s times nearer; a whole one fills the rows of `size`.
    metric = on(device, np.flatnonzero(is_metric))
    rows = on(device, pool.truth_of[numbers[is_metric]])
    nearer = (shape[0] / size[0] / boxes[metric, 3]).log()[:, None, None, None]
    truth = sample(pool.truths[rows][:, None], grid[metric], "nearest") - nearer
    scale, shift = (values[rows][:, None, None, None] for values in (pool.scales, pool.shifts))
    fitted = -(scale * label[metric] + shift).clamp_min(1 / 12).log() - nearer
    known = truth.isfinite()
    holed = known.float().mean((1, 2, 3), keepdim=True) < 0.3
    known, truth = known | holed, torch.where(holed, fitted, truth)  # too little to learn from: the label serves
    mask = torch.ones(label.shape, dtype=torch.bool, device=device).index_copy(0, metric, known)

    posters = image[on(device, rng.permutation(count))]
    image = hang(image, label, posters, (source != "scenes") & (rng.random(count) < POSTERS), rng)
    return Batch(colour(image, rng), label, mask, metric, torch.where(known, truth, fitted), fitted)
