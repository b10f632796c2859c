"""Small datasets and recipes for the tests of training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fathom.config import parse_config
from fathom.train.config import Recipe

SIZE = (32, 48)


def make_folder(root: Path, count: int = 6, size: tuple[int, int] = SIZE, *, holes: bool = True) -> Path:
    """Write pictures with depth maps [mm] and labels; depth follows brightness, so that it can be learned.

    Returns:
        The YAML of the dataset.
    """
    rng = np.random.default_rng(5)
    for name in ("rgb", "depth", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        grey = rng.integers(40, 216, (3, 4)).astype(np.uint8)
        grey = np.asarray(Image.fromarray(grey).resize(size[::-1], Image.Resampling.BICUBIC))
        Image.fromarray(np.stack([grey, 255 - grey, grey], -1)).save(root / "rgb" / f"{index:02d}.png")
        depth = (1000 + 12 * grey.astype(np.int64)).astype(np.uint16)
        if holes:
            depth[:3, :5] = 0
        Image.fromarray(depth).save(root / "depth" / f"{index:02d}.png")
        Image.fromarray((grey > 128).astype(np.uint8)).save(root / "labels" / f"{index:02d}.png")
    (root / "train.txt").write_text("\n".join(f"{index:02d}" for index in range(count)))
    (root / "val.txt").write_text("\n".join(f"{index:02d}" for index in range(min(3, count))))
    config = {
        "name": "tiny",
        "images": "rgb/{stem}.png",
        "depth": "depth/{stem}.png",
        "labels": "labels/{stem}.png",
        "unit": "mm",
        "intrinsics": [40.0, 40.0, 24.0, 16.0],
        "splits": {"train": "train.txt", "val": "val.txt"},
    }
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested values with some of them changed."""
    out = dict(base)
    for key, value in changes.items():
        both = key != "options" and isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def recipe_values(data: Path, /, **changes: Any) -> dict[str, Any]:
    """Return the values of a small recipe; `changes` replace sections key by key."""
    source = {"dataset": "folder", "root": str(data)}
    base = {
        "name": "tiny",
        "model": {"name": "unet", "options": {"base_channels": 2}},
        "data": {
            "train": {**source, "split": "train"},
            "val": {**source, "split": "val"},
            "batch_size": 2,
        },
        "losses": [{"name": "l1"}],
        "optimiser": {"name": "adam", "lr": 0.01},
        "steps": 6,
        "log_every": 1,
        "validation": {"every_steps": 3, "pictures": 0},
        "lint": {"enabled": False},
        "hardware": {"accelerator": "cpu"},
    }
    return merged(base, changes)


def make_recipe(data: Path, /, **changes: Any) -> Recipe:
    """Return a small recipe."""
    return parse_config(recipe_values(data, **changes), Recipe)


def write_recipe(path: Path, data: Path, /, **changes: Any) -> Path:
    """Write a small recipe as YAML."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe_values(data, **changes)))))
    return path


def csv_columns(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Return columns of a CSV file as the texts they are stored as, so that equality means the same bits."""
    lines = path.read_text().splitlines()
    header = lines[0].split(",")
    places = [header.index(name) for name in names]
    return [tuple(line.split(",")[place] for place in places) for line in lines[1:]]
