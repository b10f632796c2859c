"""Your own folder of pictures with depth maps or labels, as its YAML describes it."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.config import nearest_name
from fathom.data.base import DepthDataset, camera_from_calibration, make_sample, read_list
from fathom.data.config import SCENE, STEM, DatasetConfig, load_dataset_config
from fathom.data.stored import read_stored
from fathom.errors import ConfigError, InputError
from fathom.io import FathomWarning, read_image
from fathom.types import Camera, DepthKind, Sample


def match_files(root: Path, pattern: str) -> dict[str, Path]:
    """Find the files of a pattern, by stem.

    Args:
        root: Folder to search.
        pattern: Path below `root` with ``{stem}`` once and ``{scene}`` at most once; ``*`` stands for any part of one
            file or folder name.

    Returns:
        Paths by stem, or by ``scene/stem`` where the pattern has a scene; sorted.

    Raises:
        InputError: If two files share a stem.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a").mkdir(), Path(folder, "a", "7_rgb.png").touch()
        ...     list(match_files(Path(folder), "{stem}_rgb.*")), list(match_files(Path(folder), "{scene}/{stem}_rgb.*"))
        (['a/7'], ['a/7'])
    """
    text = re.escape(pattern).replace(r"\*", "[^/]*")
    for placeholder in (STEM, SCENE):
        text = text.replace(re.escape(placeholder), f"(?P<{placeholder[1:-1]}>.+?)")
    expression = re.compile(f"{text}$")
    fixed = re.split(r"[{*]", pattern)[0].rpartition("/")[0]
    found: dict[str, Path] = {}
    for path in _files_below(root / fixed):
        match = expression.match(path.relative_to(root).as_posix())
        if match is None:
            continue
        stem = "/".join(part for part in (match.groupdict().get("scene"), match["stem"]) if part is not None)
        other = found.setdefault(stem, path)
        if other != path:
            raise InputError(f"'{other}' and '{path}' both have the stem {stem}. Make the pattern narrower.")
    return dict(sorted(found.items()))


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in files)


def decode(stored: npt.NDArray[Any], config: DatasetConfig) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Turn stored numbers into the unit of the configured kind.

    Args:
        stored: Numbers of the file, shape (H, W).
        config: What they mean.

    Returns:
        values: Float32, shape (H, W).
        valid_mask: True where a value may be used, shape (H, W).
    """
    valid = np.isfinite(stored)
    for number in config.invalid:
        valid &= stored != number
    with np.errstate(over="ignore", invalid="ignore"):
        values = ((stored.astype(np.float64) * config.scale + config.offset) * config.to_metres).astype(np.float32)
        if config.along == "ray":
            values = values * _axis_share(config, values.shape)
    if config.min_depth is not None:
        valid &= values >= config.min_depth
    if config.max_depth is not None:
        valid &= values <= config.max_depth
    return values, valid


def _axis_share(config: DatasetConfig, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the cosine between each pixel's ray and the optical axis."""
    camera = camera_of(config)
    assert camera is not None  # the configuration asks for intrinsics
    k = camera.intrinsics
    x = (np.arange(shape[1]) + 0.5 - k[0, 2]) / k[0, 0]
    y = (np.arange(shape[0]) + 0.5 - k[1, 2]) / k[1, 1]
    return np.asarray(1.0 / np.sqrt(1.0 + x[None] ** 2 + y[:, None] ** 2), np.float32)


def camera_of(config: DatasetConfig) -> Camera | None:
    """Return the configured camera, in Fathom's pixel convention."""
    if config.intrinsics is None:
        return None
    fx, fy, cx, cy = config.intrinsics
    return camera_from_calibration(
        fx, fy, cx, cy, baseline_m=config.baseline_m, first_pixel_centre=config.first_pixel_centre
    )


class FolderDataset(DepthDataset):
    """Pictures and maps paired by stem.

    Args:
        root: The dataset YAML, or its configuration.
        split: A name in `splits` of the configuration, or ``"all"``.

    Attributes:
        images_without_map: Stems of pictures that have no map; they are left out, with a warning.
        maps_without_image: Stems of maps that have no picture.

    Raises:
        ConfigError: If the configuration is wrong or has no such split.
        InputError: If no picture has a map, or the split names one that is not there.
    """

    def __init__(self, root: str | Path | DatasetConfig, split: str = "all") -> None:
        self.config = root if isinstance(root, DatasetConfig) else load_dataset_config(root)
        config = self.config
        self.name, self.split, self.ignore_label = config.name, split, config.ignore_label
        self.kind = config.kind if config.depth is not None else None
        images = match_files(config.root, config.images)
        depths = match_files(config.root, config.depth) if config.depth is not None else {}
        labels = match_files(config.root, config.labels) if config.labels is not None else {}
        needed = [found for pattern, found in ((config.depth, depths), (config.labels, labels)) if pattern is not None]
        complete = set(images).intersection(*needed)
        self.images_without_map = [stem for stem in images if stem not in complete]
        self.maps_without_image = sorted(set().union(*needed) - images.keys())
        if not complete:
            raise InputError(
                f"No picture '{config.images}' in '{config.root}' has a map '{config.depth or config.labels}' "
                f"of the same stem: {len(images)} pictures, {' and '.join(str(len(found)) for found in needed)} maps. "
                "Correct the patterns, or let `fathom data doctor` find them."
            )
        if split == "all":
            self.stems = [stem for stem in images if stem in complete]
            if self.images_without_map:
                warnings.warn(
                    f"{config.name}: {len(self.images_without_map)} of {len(images)} pictures have no map and are left "
                    f"out, first {self.images_without_map[0]}.",
                    FathomWarning,
                    stacklevel=2,
                )
        else:
            if split not in config.splits:
                known = nearest_name(split, ["all", *config.splits])
                raise ConfigError(f"The dataset {config.name} has no split '{split}'. {known}")
            self.stems = read_list(config.root / config.splits[split])
            absent = [stem for stem in self.stems if stem not in complete]
            if absent:
                raise InputError(
                    f"{config.splits[split]} names {len(absent)} samples without picture or map, first {absent[0]}."
                )
        self._images, self._depths, self._labels = images, depths, labels
        self._camera = camera_of(config)

    def __len__(self) -> int:
        return len(self.stems)

    def scene(self, index: int) -> str:
        """Return the folder part of the stem."""
        return self.stems[index].rpartition("/")[0]

    def class_names(self) -> tuple[str, ...]:
        """Return the configured names of the classes."""
        return self.config.class_names

    def read(self, index: int) -> Sample:
        """Read one sample."""
        stem = self.stems[index]
        meta: dict[str, Any] = {"id": stem, "scene": self.scene(index), "image_path": str(self._images[stem])}
        if stem in self._labels:
            meta["labels"] = read_stored(self._labels[stem])
        values = mask = None
        if stem in self._depths:
            meta["depth_path"] = str(self._depths[stem])
            values, mask = decode(read_stored(self._depths[stem], self.config.npz_key), self.config)
        kind = self.kind or DepthKind.METRIC_DEPTH
        image = read_image(self._images[stem]).rgb
        return make_sample(image, values, mask, kind=kind, camera=self._camera, meta=meta)
