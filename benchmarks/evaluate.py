"""Time the scoring of 654 frames of 640 x 480, beyond inference.

Run: python benchmarks/evaluate.py [--frames N] [--data DIR]

Predictions and targets lie in memory, so that only scoring is timed; with --data also reading them as files.
The aim is 15 s on two cores with every metric.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from fathom.evaluate import SavedPredictions, describe_data, evaluate, evaluate_protocols, open_source
from fathom.io import write_depth
from fathom.protocol import load_protocol
from fathom.types import Depth, DepthKind, Sample


def scene(index: int) -> np.ndarray:
    """A room: a sloping floor, walls and some boxes."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[0:480, 0:640]
    depth = 2.0 + 4.0 * (480 - rows) / 480 + 0.5 * np.sin(columns / 90)
    for _ in range(12):
        top, left = rng.integers(0, 400), rng.integers(0, 560)
        height, width = rng.integers(40, 200, 2)
        depth[top : top + height, left : left + width] = rng.uniform(1.0, 5.0)
    return depth.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=654)
    parser.add_argument("--data", help="Also read frames from this folder (rgb/, depth/), with saved predictions.")
    arguments = parser.parse_args()
    distinct = []
    for index in range(8):
        target = scene(index)
        error = np.exp(np.random.default_rng(index).normal(0, 0.05, (30, 40)))
        pred = target * np.kron(error, np.ones((16, 16)))
        image = np.full((480, 640, 3), index, np.uint8)
        distinct.append((Sample(image, target, target > 0), pred.astype(np.float32)))
    maps = [Depth(pred, DepthKind.METRIC_DEPTH) for _, pred in distinct]
    relative = [Depth(1 / pred, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH) for _, pred in distinct]
    samples = [distinct[index % 8][0] for index in range(arguments.frames)]
    cases = (
        ("nyu-eigen", maps, False),
        ("nyu-eigen", maps, True),
        ("nyu-fcrn", maps, True),
        ("zero-shot-midas", relative, False),
        ("zero-shot-midas", relative, True),
    )
    print("| protocol | boundary F1 | frames | seconds | CPU seconds | frames/s |\n|---|---|---|---|---|---|")
    for name, depths, boundary in cases:
        start, cpu = time.perf_counter(), time.process_time()
        report = evaluate(
            lambda image, depths=depths: depths[int(image[0, 0, 0])],
            samples,
            load_protocol(name),
            is_partial=True,
            boundary=boundary,
        )
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        row = (name, "yes" if boundary else "no", report.num_images, f"{seconds:.1f}", f"{used:.1f}")
        print("|", " | ".join(map(str, row)), f"| {report.num_images / seconds:.0f} |", flush=True)
    if arguments.data:
        from_files(arguments.data)


def from_files(data: str) -> None:
    """Time reading pictures, targets and saved maps as well."""
    samples = open_source(describe_data(data))
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(samples)):
            sample = samples[index]
            depth = Depth(sample.target * np.float32(1.05), DepthKind.METRIC_DEPTH, sample.valid_mask)
            write_depth(depth, Path(folder) / f"{sample.meta['id']}.npy")
        start, cpu = time.perf_counter(), time.process_time()
        evaluate_protocols(SavedPredictions(Path(folder)), samples, [load_protocol("nyu-eigen")], is_partial=True)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        row = ("nyu-eigen, from files", "no", len(samples), f"{seconds:.1f}", f"{used:.1f}")
        print("|", " | ".join(map(str, row)), f"| {len(samples) / seconds:.0f} |")


if __name__ == "__main__":
    main()
