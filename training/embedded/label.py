"""Stage 1: label pictures with Depth Anything V2 Small, once, and cache the result.

    python training/embedded/label.py --teacher DIR --out CACHE SOURCE=DIR [SOURCE=DIR ...]

Each picture is stretched to the nearest of a few aspect ratios (so that few graphs are compiled, and pictures fit into
batches), run through the teacher with a short side of ``--side``, and stored in CACHE/SOURCE/NAME.npz, where NAME is
its path below DIR, as `cache.py` says. Pictures already in the cache are skipped, so a stopped run
continues where it was. The teacher runs in half precision on a GPU if there is one, else in OpenVINO on the CPU.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from cache import write

from fathom.export.parity import find_pictures
from fathom.models.embedded import MEAN, PATCH, STD

ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16, 16 / 5)  # width / height
BATCH = 16
Teacher = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Picture:
    """One picture to label: where it is, what it becomes, and its aspect ratio of `ASPECTS`."""

    path: Path
    target: Path
    bucket: float


def bucket(height: int, width: int) -> float:
    """Return the aspect ratio of `ASPECTS` nearest in log scale."""
    return min(ASPECTS, key=lambda a: abs(np.log(a * height / width)))


def sides(aspect: float, short: int) -> tuple[int, int]:
    """Return the height and width [px] that the teacher sees for a short side, multiples of a patch."""
    if aspect > 2:  # a wide road picture: the long side would be very expensive
        short = short * 3 // 4
    long = short * max(aspect, 1 / aspect)
    low, high = (max(PATCH, round(s / PATCH) * PATCH) for s in (short, long))
    return (low, high) if aspect >= 1 else (high, low)


def load_model(folder: Path) -> torch.nn.Module:
    """Load the teacher, onto a GPU if there is one."""
    from transformers import DepthAnythingForDepthEstimation

    model = DepthAnythingForDepthEstimation.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    return model.cuda() if torch.cuda.is_available() else model


def compile_teacher(model: torch.nn.Module, height: int, width: int) -> Teacher:
    """Return a function from pixels (B, 3, h, w), normalised, to inverse depth (B, h, w)."""
    if torch.cuda.is_available():

        def on_gpu(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                return model(torch.from_numpy(pixels).cuda()).predicted_depth.float().cpu().numpy()

        return on_gpu

    import openvino as ov

    class Raw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixels).predicted_depth

    graph = ov.convert_model(Raw(), example_input=torch.zeros(1, 3, height, width), input=[1, 3, height, width])
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"})
    return lambda pixels: np.concatenate([compiled(one[None])[0] for one in pixels])


def find(sources: list[str], out: Path) -> list[Picture]:
    """List what is not in the cache yet."""
    found = []
    for source in sources:
        name, folder = source.split("=", 1)
        for path in find_pictures(Path(folder)):
            stem = path.relative_to(folder).with_suffix("").as_posix().replace("/", "_")
            target = out / name / f"{stem}.npz"
            if not target.exists():
                small = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_8)
                if small is None:
                    print(f"{path}: not a picture that OpenCV reads; left out", flush=True)
                    continue
                found.append(Picture(path, target, bucket(*small.shape[:2])))
    return found


def read(picture: Picture, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the teacher sees (3, h, w), and the picture (H, W, 3)."""
    image = cv2.cvtColor(cv2.imread(str(picture.path)), cv2.COLOR_BGR2RGB)
    pixels = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1), image


def read_ahead(
    pictures: list[Picture], size: tuple[int, int], threads: ThreadPoolExecutor
) -> Iterator[tuple[list[Picture], list[Future]]]:
    """Give batches of pictures and what `read` returns of each; the next two are read meanwhile."""
    waiting: deque[tuple[list[Picture], list[Future]]] = deque()
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        waiting.append((batch, [threads.submit(read, picture, size) for picture in batch]))
        if len(waiting) > 2:
            yield waiting.popleft()
    yield from waiting


def label(pictures: list[Picture], teacher: Teacher, size: tuple[int, int]) -> Iterator[int]:
    """Label pictures of one aspect ratio, and give the size of each batch; reading and writing go on meanwhile."""
    with ThreadPoolExecutor() as threads:
        writing: list[Future] = []
        for batch, jobs in read_ahead(pictures, size, threads):
            items = [job.result() for job in jobs]
            maps = teacher(np.stack([pixels for pixels, _ in items]))
            for job in writing:
                job.result()
            writing = [
                threads.submit(write, picture.target, image, inverse)
                for picture, inverse, (_, image) in zip(batch, maps, items, strict=True)
            ]
            yield len(batch)
        for job in writing:
            job.result()


def main() -> None:
    """Label every picture of every source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=392, help="short side of what the teacher sees [px]")
    parser.add_argument("sources", nargs="+")
    args = parser.parse_args()
    todo = find(args.sources, args.out)
    model = load_model(args.teacher)
    count, start = 0, time.time()
    for aspect in ASPECTS:
        pictures = [picture for picture in todo if picture.bucket == aspect]
        if not pictures:
            continue
        size = sides(aspect, args.side)
        for done in label(pictures, compile_teacher(model, *size), size):
            count += done
            if count // 50 > (count - done) // 50:
                print(f"{count} of {len(todo)}, {count / (time.time() - start):.2f} pictures/s", flush=True)


if __name__ == "__main__":
    main()
