"""Read a full-size ``nyu_depth_v2_labeled.mat`` and measure peak memory and pictures per second.

The real file may not be redistributed, so a stand-in is made in a temporary folder and removed afterwards: 1449 frames
with every field of the real file, in its axes and types, compressed by gzip to about its 2.8 GB. A child process then
reads it, so that the peak memory is that of reading alone.

    python benchmarks/nyu_mat.py [--frames 1449] [--chunk-frames 1] [--json FILE]

`--chunk-frames` sets how many frames one HDF5 chunk spans: MATLAB chooses that itself, and a reader that ignores it
decompresses each chunk once for every frame in it.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

HEIGHT, WIDTH, NUM_FRAMES = 480, 640, 1449
NUM_SOURCES = 4
"""Different frames, repeated over the file; each chunk is compressed once and stored again and again."""


def frames(seed: int) -> dict[str, np.ndarray]:
    """Return one made-up frame that compresses about as well as a real one."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (12, 16))
    rows, columns = np.linspace(0, 11, HEIGHT), np.linspace(0, 15, WIDTH)
    smooth = np.array([np.interp(columns, np.arange(16), line) for line in coarse])
    smooth = np.array([np.interp(rows, np.arange(12), line) for line in smooth.T]).T
    depth = (0.7 + 9 * smooth).astype(np.float32)
    depth = (np.round(depth * 512) / 512).astype(np.float32)  # the sensor's steps, so that floats compress as real ones
    noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    image = np.clip(smooth[..., None] * [220, 180, 140] + noise, 0, 255).astype(np.uint8)
    labels = (smooth * 40).astype(np.uint16)
    return {
        "images": image.transpose(2, 1, 0),
        "depths": depth.T,
        "rawDepths": np.where(rng.random(depth.shape) < 0.1, 0, depth).astype(np.float32).T,
        "labels": labels.T,
        "instances": (labels % 5).astype(np.uint8).T,
    }


def write(path: Path, count: int, chunk_frames: int) -> None:
    """Write the stand-in, compressed as MATLAB does it (gzip 3)."""
    import h5py
    import scipy.io

    sources = [frames(seed) for seed in range(NUM_SOURCES)]
    with h5py.File(path, "w", userblock_size=512) as file:
        fields = {
            name: file.create_dataset(
                name,
                (count, *array.shape),
                array.dtype,
                chunks=(min(chunk_frames, count), *array.shape[:-2], 64, HEIGHT),  # a chunk past the end is cut by HDF5
                compression="gzip",
                compression_opts=3,
            )
            for name, array in sources[0].items()
        }
        packed: dict[tuple[str, int, int, int], bytes] = {}
        for start in range(0, count, chunk_frames):
            for name, field in fields.items():
                for offset in np.ndindex(*(-(-n // c) for n, c in zip(field.shape[1:], field.chunks[1:], strict=True))):
                    corner = tuple(o * c for o, c in zip(offset, field.chunks[1:], strict=True))
                    key = (name, start % NUM_SOURCES, *corner[-2:])
                    if key not in packed:
                        block = [sources[(start + k) % NUM_SOURCES][name] for k in range(field.chunks[0])]
                        part = tuple(slice(at, at + c) for at, c in zip(corner, field.chunks[1:], strict=True))
                        packed[key] = zlib.compress(np.stack([array[part] for array in block]).tobytes(), 3)
                    field.id.write_direct_chunk((start, *corner), packed[key])
        group = file.create_group("#refs#")
        references = np.empty((1, count), h5py.ref_dtype)
        for i in range(count):
            codes = np.array([[ord(letter)] for letter in f"kitchen_{i // 3:04d}"], np.uint16)
            references[0, i] = group.create_dataset(f"s{i}", data=codes).ref
        file.create_dataset("scenes", data=references, dtype=h5py.ref_dtype)
    indices = np.arange(1, count + 1, dtype=np.uint16)[:, None]
    scipy.io.savemat(path.parent / "splits.mat", {"trainNdxs": indices[::2], "testNdxs": indices[1::2]})


def read(path: Path, order: str, count: int) -> dict[str, float]:
    """Read frames in this process; return the rate and the peak memory."""
    from fathom.data.nyu import NyuLabelled

    dataset = NyuLabelled(path, "all")
    indices = np.arange(len(dataset))
    if order == "random":
        np.random.default_rng(0).shuffle(indices)
    indices = indices[:count]
    wall, cpu = time.perf_counter(), time.process_time()
    total = 0.0
    for index in indices:
        total += float(dataset[int(index)].target[0, 0])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert np.isfinite(total)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "frames": len(indices),
        "pictures_per_wall_second": round(len(indices) / wall, 1),
        "pictures_per_cpu_second": round(len(indices) / cpu, 1),
        "peak_memory_mib": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--chunk-frames", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", nargs=3, metavar=("FILE", "ORDER", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        path, order, count = arguments.read
        print(json.dumps(read(Path(path), order, int(count))))
        return
    folder = Path(tempfile.mkdtemp(prefix="fathom-nyu-"))
    try:
        if shutil.disk_usage(folder).free < 8e9:
            raise SystemExit(f"Needs 8 GB free in {folder}; set TMPDIR to a folder with room.")
        path = folder / "nyu_depth_v2_labeled.mat"
        start = time.perf_counter()
        write(path, arguments.frames, arguments.chunk_frames)
        results: dict[str, object] = {
            "file_gb": round(path.stat().st_size / 1e9, 2),
            "written_in_s": round(time.perf_counter() - start),
        }
        print(results, flush=True)
        for order, count in (("sequential", arguments.frames), ("random", min(300, arguments.frames))):
            command = [sys.executable, __file__, "--read", str(path), order, str(count)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[order] = json.loads(output)
            print(order, results[order], flush=True)
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
