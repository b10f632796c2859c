"""Fast training files: samples as plain arrays one after another, read through the page cache without decoding.

Chosen by measurement over WebDataset shards and LMDB (``benchmarks/data_formats.py``, figures in
``docs/add_a_dataset.md``): arrays that need no decoding are read an order of magnitude faster than JPEG and PNG files,
in any order, and a memory map needs no library and no transaction. The price is disk: 2.1 MB for a 640 x 480 frame with
depth; prepare at the size the network sees where that is too much.

A prepared split is a folder: ``dataset.json`` (written last, so an unfinished folder is recognised), ``index.jsonl``
(one line for each sample) and ``shard-NNNNN.bin``.
"""

import json
import mmap
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, Subset, check_choice, existing_folder
from fathom.data.sequence import Frame, find_neighbours, relative_poses
from fathom.data.transforms import resize_sample
from fathom.errors import ConfigError, InputError, OutputError
from fathom.io import FathomWarning, write_atomic
from fathom.types import Camera, DepthKind, Sample
from fathom.version import __version__

FORMAT = "fathom-arrays-1"
MAX_SHARD_BYTES = 2**30
"""A shard is closed once it has reached this size."""
ARTICLE_SPLITS = {"80/10/10": (0.8, 0.1, 0.1), "6:2:2": (0.6, 0.2, 0.2)}
"""Shares of train, val and test that articles name."""
_ALIGNMENT = 64
_PARTS = ("train", "val", "test")


def article_shares(name: str) -> tuple[float, float, float]:
    """Return the shares of a name in `ARTICLE_SPLITS`.

    Raises:
        ConfigError: If there is no such name.

    Example:
        >>> article_shares("6:2:2")
        (0.6, 0.2, 0.2)
    """
    return ARTICLE_SPLITS[check_choice("shares", name, tuple(ARTICLE_SPLITS))]


def split_indices(
    dataset: DepthDataset, fractions: Sequence[float], *, by: str = "scene", seed: int = 0
) -> dict[str, list[int]]:
    """Divide a dataset at random into train, val and test.

    Args:
        dataset: What to divide.
        fractions: Shares of train, val and test, for instance ``ARTICLE_SPLITS["80/10/10"]``; must sum to 1.
        by: ``"scene"`` keeps every scene in one part. ``"frame"`` draws single frames: neighbouring frames of a video
            then lie in different parts, and the score of val and test is flattering.
        seed: Of the shuffle.

    Returns:
        Sorted indices by part; every sample is in exactly one.

    Warns:
        FathomWarning: With ``by="frame"``.

    Raises:
        ConfigError: If the shares do not sum to 1, or there are fewer scenes than parts.
    """
    check_choice("by", by, ("scene", "frame"))
    if len(fractions) != len(_PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"The shares of train, val and test must be 3 numbers that sum to 1; got {tuple(fractions)}.")
    count, rng = len(dataset), np.random.default_rng(seed)
    if by == "frame":
        warnings.warn(
            f"Dividing {dataset.name} by single frames: frames of one scene land in train and in test, so the score "
            "measures memory, not generalisation. Use by='scene' for numbers that mean something.",
            FathomWarning,
            stacklevel=2,
        )
        groups = {str(i): [i] for i in range(count)}
    else:
        groups = {}
        for i in range(count):
            groups.setdefault(dataset.scene(i), []).append(i)
        if len(groups) < sum(share > 0 for share in fractions):
            raise ConfigError(
                f"{dataset.name} ({dataset.split}) names {len(groups)} scene(s), too few to divide by scene. "
                "Use the published split, or by='frame' knowing that it leaks."
            )
    parts: dict[str, list[int]] = {part: [] for part in _PARTS}
    wanted = {part: share * count for part, share in zip(_PARTS, fractions, strict=True)}
    # Large scenes first, each to the part that lacks most: the shares come out as close as whole scenes allow.
    order = rng.permutation(len(groups))
    names = sorted((list(groups)[k] for k in order), key=lambda name: -len(groups[name]))
    for name in names:
        part = max(_PARTS, key=lambda p: wanted[p] - len(parts[p]))
        parts[part] += groups[name]
    return {part: sorted(indices) for part, indices in parts.items()}


def prepare(
    dataset: DepthDataset,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    licence: str = "",
    on_sample: Callable[[int], None] | None = None,
) -> Path:
    """Write a dataset as fast training files.

    Args:
        dataset: What to convert.
        out: Folder to make; the split becomes a folder in it.
        size: Rows and columns to bring every sample to, intrinsics included; default: as they are.
        licence: Terms of the data, kept with the files.
        on_sample: Called with the number of samples written so far.

    Returns:
        The folder of the split.

    Raises:
        OutputError: If the folder holds a finished split already, or cannot be written.
    """
    folder = Path(out) / dataset.split
    if (folder / "dataset.json").exists():
        raise OutputError(f"'{folder}' holds a prepared split already. Choose another folder, or remove it first.")
    lines: list[str] = []
    shards: list[str] = []
    while len(lines) < len(dataset):
        name = f"shard-{len(shards):05d}.bin"
        write_atomic(folder / name, _shard(dataset, lines, len(shards), size, on_sample))
        shards.append(name)
    write_atomic(folder / "index.jsonl", ["".join(lines).encode()])
    head = {
        "format": FORMAT,
        "name": dataset.name,
        "split": dataset.split,
        "kind": dataset.kind,
        "ignore_label": dataset.ignore_label,
        "class_names": list(dataset.class_names()),
        "licence": licence,
        "size": size,
        "count": len(lines),
        "shards": shards,
        "fathom_version": __version__,
    }
    write_atomic(folder / "dataset.json", [json.dumps(head, indent=1).encode()])
    return folder


def prepare_parts(
    dataset: DepthDataset,
    out: str | Path,
    parts: dict[str, list[int]],
    *,
    size: tuple[int, int] | None = None,
    licence: str = "",
    on_sample: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write parts of a dataset, as `split_indices` gives them; empty parts are left out."""
    subsets = [Subset(dataset, indices, part) for part, indices in parts.items() if indices]
    return [prepare(subset, out, size=size, licence=licence, on_sample=on_sample) for subset in subsets]


def _shard(
    dataset: DepthDataset,
    lines: list[str],
    shard: int,
    size: tuple[int, int] | None,
    on_sample: Callable[[int], None] | None,
) -> Iterator[bytes | memoryview]:
    """Yield the arrays of one shard, and add a line to the index for each sample."""
    offset = 0
    while len(lines) < len(dataset) and offset < MAX_SHARD_BYTES:
        sample = dataset[len(lines)]
        if size is not None:
            sample = resize_sample(sample, *size)
        arrays, plain = _fields(sample)
        record: dict[str, Any] = {"shard": shard, "kind": sample.kind, "meta": plain, "arrays": {}}
        record["camera"] = sample.camera.to_dict() if sample.camera is not None else None
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            record["arrays"][name] = (offset, array.dtype.str, array.shape)
            padding = -array.nbytes % _ALIGNMENT
            yield array.reshape(-1).view(np.uint8).data
            yield bytes(padding)
            offset += array.nbytes + padding
        lines.append(json.dumps(record) + "\n")
        if on_sample is not None:
            on_sample(len(lines))


def _fields(sample: Sample) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Divide a sample into arrays and plain values."""
    arrays: dict[str, npt.NDArray[Any]] = {"image": sample.image}
    if sample.valid_mask.any() or sample.kind is not DepthKind.METRIC_DEPTH:
        # The mask need not be stored: invalid pixels are 0 where every valid one is positive, NaN where it may be 0.
        hole = np.nan if sample.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH else 0.0
        arrays["target"] = np.where(sample.valid_mask, sample.target, np.float32(hole))
    plain: dict[str, Any] = {}
    for key, value in sample.meta.items():
        if isinstance(value, np.ndarray):
            arrays[f"meta.{key}"] = value
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], np.ndarray):
            arrays[f"meta.{key}"] = np.stack(value)
        else:
            plain[key] = value
    return arrays, plain


class PreparedDataset(DepthDataset):
    """What `prepare` wrote; arrays of a sample are read-only views of the file, nothing is copied or decoded.

    Args:
        root: Folder that holds the splits.
        split: Name of the split.
        neighbours: Offsets of further frames of the same scene and side by their ``meta["index"]``, for instance
            (-1, 1); frames that lack one are left out. For a set that was prepared without neighbours, which saves
            their copies.

    Raises:
        InputError: If there is no such split, or preparing it was not finished.
        ConfigError: If no frame has all `neighbours`.
    """

    def __init__(self, root: str | Path, split: str = "train", *, neighbours: tuple[int, ...] = ()) -> None:
        self.folder = existing_folder(Path(root) / split, "a split written by `fathom data prepare`")
        try:
            head = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
            lines = (self.folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise InputError(f"'{self.folder}' was not prepared to the end: {error.filename} is missing.") from None
        if head.get("format") != FORMAT:
            raise InputError(
                f"Expected the format {FORMAT} in '{self.folder}'; got {head.get('format')}. Prepare anew."
            )
        self.name, self.split, self.licence = head["name"], split, head["licence"]
        self.kind = DepthKind(head["kind"]) if head["kind"] is not None else None
        self.ignore_label, self._classes = head["ignore_label"], tuple(head["class_names"])
        self._shards: list[str] = head["shards"]
        self._lines, self._all_lines = lines, lines
        self._neighbours: list[tuple[int, ...]] = [()] * len(lines)
        if neighbours:
            numbered = [self._number(json.loads(line)["meta"]) for line in lines]
            twice = len(numbered) - len(set(numbered))
            if twice:
                raise InputError(
                    f"{twice} samples in '{self.folder}' share scene and frame number with another one, so nobody can "
                    "tell which are neighbours. Prepare the cameras apart, or with their neighbours."
                )
            found = find_neighbours(numbered, neighbours, {frame: i for i, frame in enumerate(numbered)})
            self._lines = [lines[position] for position, _ in found]
            self._neighbours = [others for _, others in found]
        self._maps: dict[int, mmap.mmap] = {}

    def _number(self, meta: dict[str, Any]) -> Frame:
        if "index" not in meta:
            raise InputError(f"The samples in '{self.folder}' have no frame numbers, so no neighbours. Read a video.")
        return f"{meta.get('scene', '')}/{meta.get('side', '')}", int(meta["index"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __len__(self) -> int:
        return len(self._lines)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their numbers."""
        return self._classes

    def scene(self, index: int) -> str:
        """Return the scene of the source."""
        return str(json.loads(self._lines[index])["meta"].get("scene", ""))

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            path = self.folder / self._shards[shard]
            try:
                with path.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise InputError(f"Cannot read '{path}': {error}. Prepare the dataset anew.") from None
        return self._maps[shard]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        sample = self._read(self._lines[index])
        others = [self._read(self._all_lines[position]) for position in self._neighbours[index]]
        if not others:
            return sample
        meta = dict(sample.meta) | {"neighbours": [other.image for other in others]}
        if all("pose" in each.meta for each in (sample, *others)):
            meta["neighbour_poses"] = relative_poses(meta["pose"], [other.meta["pose"] for other in others])
        return replace(sample, meta=meta)

    def _read(self, line: str) -> Sample:
        record = json.loads(line)
        buffer = self._map(record["shard"])
        arrays = {
            name: np.frombuffer(buffer, np.dtype(dtype), int(np.prod(shape)), offset).reshape(shape)
            for name, (offset, dtype, shape) in record["arrays"].items()
        }
        image = arrays.pop("image")
        meta = record["meta"] | {name.removeprefix("meta."): a for name, a in arrays.items() if name != "target"}
        camera = Camera.from_dict(record["camera"]) if record["camera"] is not None else None
        if "target" in arrays and record["kind"] == DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
            mask = np.isfinite(arrays["target"])
            target = np.where(mask, arrays["target"], np.float32(0))
        elif "target" in arrays:
            target, mask = arrays["target"], arrays["target"] > 0
        else:
            mask, target = np.zeros(image.shape[:2], np.bool_), np.zeros(image.shape[:2], np.float32)
        return Sample(image, target, mask, camera, meta, DepthKind(record["kind"]))

    def nbytes(self) -> int:
        """Return the size of all shards on disk."""
        return sum(os.path.getsize(self.folder / name) for name in self._shards)
