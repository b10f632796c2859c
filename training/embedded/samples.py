"""What the embedded models learn from: pictures with labels in memory, and batches of random crops of them."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import torch

from fathom.models.embedded import PATCH

MIXES = {
    "all": {
        "nyu": 0.28,
        "rgbd": 0.12,
        "rooms": 0.23,
        "houses": 0.02,
        "photos": 0.12,
        "objects": 0.09,
        "imagenet": 0.06,
        "bsds": 0.02,
        "roads": 0.05,
        "camvid": 0.02,
        "udacity": 0.005,
        "aims": 0.005,
    },
    "rooms": {"nyu": 0.25, "rgbd": 0.13, "rooms": 0.50, "objects": 0.05},
}
"""How often each source is drawn, about, for both models or for `fathom-indoor` alone."""
cv2.setNumThreads(1)  # the loader is one thread beside the arithmetic
SIZE = (224, 294)
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


def load_label(path: Path) -> Item:
    """Load a picture with its label, and with the metres that the large model sees in it, if label.py stored them."""
    data = np.load(path)
    label = data["inverse_depth"]
    mask = np.ones(label.shape, bool)
    if "line" not in data:
        return Item(data["image"], label, mask)
    scale, shift = (float(value) for value in data["line"])
    log_depth = -np.log(np.clip(scale * label.astype(np.float32) + shift, 1 / 12, 10))
    return Item(data["image"], label, mask, log_depth, scale, shift)


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
            item = load_label(path)
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


def shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of the pictures of every aspect, with about as many patches as `size`."""
    area = size[0] * size[1]
    return [(PATCH * round((area * a) ** 0.5 / PATCH), PATCH * round((area / a) ** 0.5 / PATCH)) for a in ASPECTS]


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


def batches(args: argparse.Namespace, sets: dict[str, list[Item]], start: int, queue: Queue) -> None:
    """Fill the queue with batches; step `i` depends on the seed and `i` alone, so a resumed run sees the same data."""
    mix = MIXES[args.mix]
    names = [n for n in mix if n in sets]
    share = np.array([mix[n] for n in names])
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
            if mask.mean() < 0.25:  # a hole in the ground truth
                continue
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


def example_inputs(cache: Path, size: tuple[int, int], count: int = 32) -> list[np.ndarray]:
    """Return pictures of every source, as the network sees them, that show how large activations are."""
    files = [sorted(folder.glob("*.npz")) for folder in sorted(cache.iterdir()) if folder.is_dir()]
    chosen = [path for source in files for path in source[:: max(1, len(source) * len(files) // count)]]
    images = [cv2.resize(np.load(path)["image"], size[::-1], interpolation=cv2.INTER_AREA) for path in chosen]
    return [image.transpose(2, 0, 1)[None].astype(np.float32) / 255 for image in images]
