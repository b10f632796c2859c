"""Stage 1: label pictures with Depth Anything V2 Small, once, and cache the result.

    python training/embedded/label.py --teacher DIR --out CACHE SOURCE=DIR [SOURCE=DIR ...]

Each picture is stretched to the nearest of a few aspect ratios (so that OpenVINO compiles five graphs, not
hundreds), run through the teacher with a short side of ``--side``, and stored in CACHE/SOURCE/STEM.npz as
``image`` (uint8, short side 320) and ``inverse_depth`` (float16, same size, affine-invariant, larger = nearer).
Pictures already in the cache are skipped, so a stopped run continues where it was.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

PATCH, STORE_SIDE = 14, 320
ASPECTS = (1.0, 4 / 3, 3 / 2, 3 / 4, 2 / 3, 16 / 5)  # width / height
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def bucket(height: int, width: int) -> float:
    """Return the aspect ratio of `ASPECTS` nearest in log scale."""
    return min(ASPECTS, key=lambda a: abs(np.log(a * height / width)))


def sides(aspect: float, short: int, multiple: int) -> tuple[int, int]:
    """Return (height, width) for a short side, both multiples of `multiple`."""
    if aspect > 2:  # a wide road picture: the long side would be very expensive
        short = short * 3 // 4
    long = short * max(aspect, 1 / aspect)
    low, high = (max(multiple, round(s / multiple) * multiple) for s in (short, long))
    return (low, high) if aspect >= 1 else (high, low)


def compile_teacher(folder: Path, height: int, width: int):
    """Trace the teacher at one size and compile it with OpenVINO (bf16 where the CPU has it)."""
    import openvino as ov
    import torch
    from transformers import DepthAnythingForDepthEstimation

    model = DepthAnythingForDepthEstimation.from_pretrained(folder, dtype=torch.float32).eval()

    class Raw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixels).predicted_depth

    graph = ov.convert_model(
        Raw().eval().requires_grad_(False), example_input=torch.zeros(1, 3, height, width), input=[1, 3, height, width]
    )
    return ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"})


def main() -> None:
    """Label every picture of every source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=392, help="short side of what the teacher sees [px]")
    parser.add_argument("sources", nargs="+")
    args = parser.parse_args()
    todo: dict[float, list[tuple[Path, Path]]] = {}
    for source in args.sources:
        name, folder = source.split("=", 1)
        (args.out / name).mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"}):
            target = args.out / name / (path.relative_to(folder).with_suffix("").as_posix().replace("/", "_") + ".npz")
            if not target.exists():
                small = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_8)
                if small is None:
                    print(f"{path}: not a picture that OpenCV reads; left out", flush=True)
                    continue
                todo.setdefault(bucket(*small.shape[:2]), []).append((path, target))
    count, start = 0, time.time()
    for aspect, pairs in todo.items():
        height, width = sides(aspect, args.side, PATCH)
        out_height, out_width = sides(aspect, STORE_SIDE, 32)
        teacher = compile_teacher(args.teacher, height, width)
        for path, target in pairs:
            image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
            raw = teacher(((pixels - MEAN) / STD).transpose(2, 0, 1)[None])[0][0]
            temporary = target.with_suffix(".tmp.npz")
            np.savez(
                temporary,
                image=cv2.resize(image, (out_width, out_height), interpolation=cv2.INTER_AREA),
                inverse_depth=cv2.resize(raw, (out_width, out_height), interpolation=cv2.INTER_AREA).astype(np.float16),
            )
            temporary.rename(target)
            count += 1
            if count % 50 == 0:
                print(
                    f"{count} labelled, {count / (time.time() - start):.2f} pictures/s, {target.parent.name}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
