"""Measure the ways to keep training data: source files, WebDataset shards, LMDB, and plain arrays.

Every format holds the same frames (rgb, depth) and gives back the same arrays; each is read in random order (WebDataset
in its own, sequential order, with a shuffle buffer) by one process with warm page cache. CPU seconds are reported
beside wall seconds, because they do not depend on what else the machine does.

    python benchmarks/data_formats.py --nyu FOLDER [--frames 200] [--json FILE]

needs: pip install webdataset lmdb
"""

import argparse
import io
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fathom.data import Subset, open_dataset
from fathom.data.prepare import PreparedDataset, prepare
from fathom.types import Sample


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def encoded(image: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format)
    return buffer.getvalue()


def write_tar(path: Path, samples: list[Sample], *, compressed: bool) -> None:
    with tarfile.open(path, "w") as tar:
        for i, sample in enumerate(samples):
            millimetres = np.round(sample.target * 1000).astype(np.uint16)
            if compressed:
                parts = {"jpg": encoded(sample.image, "JPEG"), "png": encoded(millimetres, "PNG")}
            else:
                parts = {"image.npy": npy(sample.image), "depth.npy": npy(sample.target)}
            for suffix, content in parts.items():
                entry = tarfile.TarInfo(f"{i:06d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def read_webdataset(path: Path, *, compressed: bool) -> Iterator[int]:
    import webdataset

    stream = webdataset.WebDataset(str(path), shardshuffle=False).shuffle(50)
    if compressed:
        for image, depth in stream.to_tuple("jpg", "png"):
            rgb = np.asarray(Image.open(io.BytesIO(image)))
            metres = np.asarray(Image.open(io.BytesIO(depth))).astype(np.float32) * np.float32(0.001)
            yield touch(rgb, metres)
    else:
        for image, depth in stream.to_tuple("image.npy", "depth.npy"):
            yield touch(np.load(io.BytesIO(image)), np.load(io.BytesIO(depth)))


def write_lmdb(path: Path, samples: list[Sample]) -> None:
    import lmdb

    with lmdb.open(str(path), map_size=2**36) as store, store.begin(write=True) as transaction:
        for i, sample in enumerate(samples):
            transaction.put(f"{i}i".encode(), sample.image.tobytes())
            transaction.put(f"{i}d".encode(), sample.target.tobytes())


def read_lmdb(path: Path, order: np.ndarray, shape: tuple[int, int]) -> Iterator[int]:
    import lmdb

    with (
        lmdb.open(str(path), readonly=True, lock=False) as store,
        store.begin(buffers=True) as transaction,
    ):
        for i in order:
            image = np.frombuffer(transaction.get(f"{i}i".encode()), np.uint8).reshape(*shape, 3)
            depth = np.frombuffer(transaction.get(f"{i}d".encode()), np.float32).reshape(shape)
            yield touch(image, depth)


def touch(image: np.ndarray, depth: np.ndarray) -> int:
    """Copy both arrays, as a collate function does, so that every byte is really read."""
    return int(image.copy()[0, 0, 0]) + int(depth.copy()[0, 0])


def measure(read: Callable[[], Iterator[int]], count: int) -> dict[str, float]:
    """Return pictures per second, the best of three after one warming run."""
    best = {"wall": 0.0, "cpu": 0.0}
    for _ in range(4):
        wall, cpu = time.perf_counter(), time.process_time()
        assert sum(1 for _ in read()) == count
        best["wall"] = max(best["wall"], count / (time.perf_counter() - wall))
        best["cpu"] = max(best["cpu"], count / (time.process_time() - cpu))
    return {f"pictures_per_{clock}_second": round(rate, 1) for clock, rate in best.items()}


def size_of(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nyu", type=Path, required=True, help="folder with rgb/ and depth/ of NYU frames")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = open_dataset("nyu-folder", arguments.nyu, "all")
    subset = Subset(source, range(min(arguments.frames, len(source))), "train")
    count = len(subset)
    order = np.random.default_rng(0).permutation(count)
    folder = Path(tempfile.mkdtemp(prefix="fathom-formats-"))
    rows: dict[str, dict[str, float]] = {}

    def add(name: str, path: Path | None, read: Callable[[], Iterator[int]]) -> None:
        rows[name] = measure(read, count)
        if path is not None:
            rows[name]["megabytes_per_picture"] = round(size_of(path) / count / 1e6, 3)
        print(f"{name:<36} {rows[name]}", flush=True)

    try:
        samples = [subset[i] for i in range(count)]
        shape = samples[0].target.shape
        write_tar(folder / "jpg.tar", samples, compressed=True)
        write_tar(folder / "npy.tar", samples, compressed=False)
        write_lmdb(folder / "lmdb", samples)
        del samples
        prepare(subset, folder / "arrays")
        prepared = PreparedDataset(folder / "arrays", "train")

        def by_index(dataset: object) -> Iterator[int]:
            return (touch(s.image, s.target) for s in (dataset[int(i)] for i in order))  # type: ignore[index]

        add("source files (jpg + png)", None, lambda: by_index(subset))
        add("WebDataset, jpg + png", folder / "jpg.tar", lambda: read_webdataset(folder / "jpg.tar", compressed=True))
        add("WebDataset, npy", folder / "npy.tar", lambda: read_webdataset(folder / "npy.tar", compressed=False))
        add("LMDB, raw arrays", folder / "lmdb" / "data.mdb", lambda: read_lmdb(folder / "lmdb", order, shape))
        add("plain arrays (fathom data prepare)", folder / "arrays", lambda: by_index(prepared))
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
