"""Measure the main job: start-up, one cold photo, a folder, the network alone, and a model of transformers.

    python benchmarks/predict.py [start cold folder network] [--model fathom-general]
    python benchmarks/predict.py hub --hub FOLDER_OF_DEPTH_ANYTHING_V2_SMALL
    python benchmarks/predict.py size

Figures that make a ratio are measured turn by turn in one run. The machine should be idle: on a shared one only the
ratios and the CPU seconds mean something. ``network`` needs OpenVINO, too; ``size`` installs Fathom into a fresh
virtual environment and weighs it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fathom.demo import PHOTOS, photo_path
from fathom.io import read_image
from fathom.models.cards import find_model
from fathom.outputs import write_outputs
from fathom.predict import Predictor, as_picture
from fathom.runtime.onnx import OnnxRuntime
from fathom.runtime.openvino import OpenVinoRuntime

REPOSITORY = Path(__file__).resolve().parents[1]
SECTIONS = ("start", "cold", "folder", "network", "hub", "size")
NUM_PICTURES = 200


def show(what: str, value: str, target: str = "") -> None:
    print(f"{what:<58} {value:>16}  {target}", flush=True)


def make_photos(folder: Path, count: int) -> list[Path]:
    """Write 640x480 JPEGs cut from the photographs of the demo, all different."""
    rng = np.random.default_rng(0)
    photos = [Image.open(photo_path(name)).convert("RGB").resize((900, 675)) for name in PHOTOS]
    paths = []
    for index in range(count):
        left, top = int(rng.integers(0, 260)), int(rng.integers(0, 195))
        path = folder / f"{index:04}.jpg"
        photos[index % len(photos)].crop((left, top, left + 640, top + 480)).save(path, quality=92)
        paths.append(path)
    return paths


def best(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def median_ms(runtime: OnnxRuntime | OpenVinoRuntime, image: np.ndarray) -> float:
    """Return the median milliseconds of 60 runs, after ten that are not counted."""
    return statistics.median([best(lambda: runtime.run(image), 1) for _ in range(70)][10:]) * 1e3


def python(code: str) -> float:
    """Return the seconds that an interpreter measured and printed."""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def measure_start() -> None:
    timed = "import time, numpy; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    for module, target in (("fathom", "< 100 ms"), ("fathom.predict", "")):
        seconds = min(python(timed.format(module)) for _ in range(7))
        show(f"import {module}, beyond numpy", f"{seconds * 1e3:.0f} ms", target)
    command = [sys.executable, "-m", "fathom", "--help"]
    show(
        "fathom --help", f"{best(lambda: subprocess.run(command, check=True, capture_output=True), 7):.2f} s", "< 0.4 s"
    )


def measure_cold(model: str, folder: Path) -> None:
    photo = make_photos(folder, 1)[0]
    command = [sys.executable, "-m", "fathom", "predict", str(photo), "-o", str(folder / "cold"), "--model", model]
    walls, cpus, peaks = [], [], []
    for _ in range(7):
        start, before = time.perf_counter(), os.times()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        after = os.times()
        if status:
            raise SystemExit(f"fathom predict failed with status {status}")
        walls.append(time.perf_counter() - start)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
        peaks.append(usage.ru_maxrss * 1024 / 1e6)
    show("cold fathom predict photo.jpg, wall", f"{min(walls):.2f} s", "< 1.0 s")
    show("cold fathom predict photo.jpg, CPU", f"{statistics.median(cpus):.2f} s")
    show("cold fathom predict photo.jpg, peak memory", f"{max(peaks):.0f} MB", "< 400 MB")


def measure_folder(model: str, folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    paths = make_photos(pictures, NUM_PICTURES)
    command = [sys.executable, "-m", "fathom", "predict", str(pictures), "-o", str(folder / "out"), "--model", model]

    def whole_command() -> None:
        subprocess.run(command, check=True, capture_output=True)

    predictor = Predictor(model)

    def one_after_another() -> None:
        for path in paths:
            picture = read_image(path)
            write_outputs(predictor.predict(picture), picture, folder / "naive" / path.stem, ("png16",))

    one_after_another()
    overlapped, naive = [], []
    for _ in range(3):
        overlapped.append(NUM_PICTURES / best(whole_command, 1))
        naive.append(NUM_PICTURES / best(one_after_another, 1))
    show(f"folder of {NUM_PICTURES} 640x480 JPEGs to png16, cold command", f"{max(overlapped):.1f} /s", ">= 25 /s")
    show("the same, loaded model, one after another", f"{max(naive):.1f} /s")
    show("ratio", f"{max(overlapped) / max(naive):.2f}")


def measure_network(model: str) -> None:
    picture = as_picture(Image.open(photo_path("coffee")).convert("RGB").resize((640, 480)))
    for threads in (1, None):
        predictor = Predictor(model, num_threads=threads)
        ready = predictor.prepare(picture)
        shape = "x".join(str(side) for side in ready.prepared.array.shape[2:])
        predictor.infer([ready])
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(60):
            predictor.infer([ready])
        cpu = (time.process_time() - cpu) / 60
        rate = 60 / (time.perf_counter() - start)
        name = "1 thread" if threads else "all cores"
        show(f"network alone, {shape}, {name}", f"{rate:.0f} /s", ">= 60 /s" if threads is None else "")
        show(f"network alone, {shape}, {name}, CPU each", f"{cpu * 1e3:.1f} ms")
    # `fathom predict` lets waiting threads sleep, because decoding and encoding want the cores; here nothing else does.
    # One runtime after the other: in one process, two take each other's cores.
    files, image = find_model(model), ready.prepared.array
    path = files.path(files.card.graph_role)
    spinning = median_ms(OnnxRuntime(path, spin=True), image)
    show("network alone, ONNX Runtime, spinning, median", f"{spinning:.1f} ms", "<= 12 ms")
    openvino = median_ms(OpenVinoRuntime(path, precision="int8"), image)
    show("network alone, OpenVINO, bf16 where the CPU has it, median", f"{openvino:.1f} ms", "<= 12 ms")


def measure_hub(folder: str, rounds: int) -> None:
    import torch
    from transformers import pipeline

    # The night sky behind the rocket has inverse depth 0, where a ratio of two predictions says nothing.
    names = [name for name in PHOTOS if name != "rocket"]
    pictures = [Image.open(photo_path(name)).convert("RGB").resize((640, 480)) for name in names]
    reference = pipeline("depth-estimation", model=folder, dtype=torch.float32, device="cpu")
    predictor = Predictor(folder)
    theirs, ours, their_cpu, our_cpu, agreement = [], [], [], [], []
    predictor.predict(pictures[0]), reference(pictures[0])
    for index in range(rounds):
        picture = pictures[index % len(pictures)]
        start, cpu = time.perf_counter(), time.process_time()
        expected = reference(picture)["predicted_depth"].numpy()
        theirs.append(time.perf_counter() - start)
        their_cpu.append(time.process_time() - cpu)
        start, cpu = time.perf_counter(), time.process_time()
        depth = predictor.predict(picture)
        ours.append(time.perf_counter() - start)
        our_cpu.append(time.process_time() - cpu)
        agreement.append(delta1(depth.values, expected))
    size = predictor.prepare(as_picture(pictures[0])).prepared.array.shape[2:]
    show(f"transformers pipeline, fp32, {size[0]}x{size[1]}", f"{1 / statistics.median(theirs):.2f} /s")
    show(f"fathom, {predictor.runtime} {predictor.precision}, same size", f"{1 / statistics.median(ours):.2f} /s")
    show("ratio of wall time", f"{statistics.median(theirs) / statistics.median(ours):.2f}", ">= 4")
    show("ratio of CPU time", f"{statistics.median(their_cpu) / statistics.median(our_cpu):.2f}")
    show("delta1 agreement after scale and shift, lowest picture", f"{min(agreement):.4f}", ">= 0.99")


def delta1(inverse_depth: np.ndarray, expected: np.ndarray) -> float:
    """Fit scale and shift in inverse depth; return the share of pixels within a factor of 1.25."""
    scale, shift = np.polyfit(inverse_depth.ravel().astype(np.float64), expected.ravel().astype(np.float64), 1)
    fitted = scale * inverse_depth + shift
    known = expected > 0
    ratio = fitted[known] / expected[known]
    return float(((ratio < 1.25) & (ratio > 1 / 1.25)).mean())


def measure_size(folder: Path) -> None:
    venv.create(folder / "venv", with_pip=True)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip"]
    listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True, text=True).stdout
    bare = sum(file.stat().st_size for file in (folder / "venv").rglob("*") if file.is_file())
    subprocess.run([*pip, "install", "-q", str(REPOSITORY)], check=True)
    full = sum(file.stat().st_size for file in (folder / "venv").rglob("*") if file.is_file() and not file.is_symlink())
    added = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True, text=True).stdout
    names = {row["name"] for row in json.loads(added)} - {row["name"] for row in json.loads(listed)}
    show(f"core install: {len(names)} packages", f"{(full - bare) / 1e6:.0f} MB", "<= 300 MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: start cold folder network")
    parser.add_argument("--model", default="fathom-general")
    parser.add_argument("--hub", help="folder of a transformers model")
    parser.add_argument("--rounds", type=int, default=12, help="pictures of the section hub")
    args = parser.parse_args()
    sections = args.sections or ["start", "cold", "folder", "network"]
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} before the start", flush=True)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if "start" in sections:
            measure_start()
        if "cold" in sections:
            measure_cold(args.model, folder)
        if "folder" in sections:
            measure_folder(args.model, folder)
        if "network" in sections:
            measure_network(args.model)
        if "hub" in sections:
            if not args.hub:
                raise SystemExit("Give --hub FOLDER, a depth model as transformers saves it.")
            measure_hub(args.hub, args.rounds)
        if "size" in sections:
            measure_size(folder)
    show("peak memory of this process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
