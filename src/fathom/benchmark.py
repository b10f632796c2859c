"""Measure models and runtimes side by side: latency, throughput, memory, size, and how far they agree.

Every candidate lives in a process of its own, so that its memory is its own and runtimes that cannot share a process
can be compared. The parent asks them in turn, one picture each, so that whatever else the machine does hits all alike.
"""

import io
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.alignment import fit_scale_median, fit_scale_shift
from fathom.errors import FathomError, ModelError, require
from fathom.io import read_image, write_atomic
from fathom.metrics.depth import abs_rel, delta
from fathom.models.cards import find_model
from fathom.models.hub import is_hub
from fathom.predict import Predictor
from fathom.runtime.base import available_cores
from fathom.types import DepthKind

PHOTO_FOLDER = Path(__file__).resolve().parent / "demo"
WARM_UP = 2
START_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Args:
        model: Whatever `fathom.load_model` takes.
        runtime: Name of a runtime, or ``"auto"``.
        precision: Name of a precision, or ``"auto"``.
    """

    model: str
    runtime: str = "auto"
    precision: str = "auto"

    @property
    def label(self) -> str:
        """Short name in tables."""
        path = Path(self.model)
        return path.parent.name if path.name == "card.json" else path.name if path.exists() else self.model


@dataclass(frozen=True)
class Measurement:
    """What was measured for one candidate.

    Args:
        label: Name of the model.
        runtime: The runtime that ran.
        precision: The arithmetic that ran.
        kind: What the model gives.
        load_seconds: From nothing to the first result.
        latency_ms: Median time of one picture, from pixels to the map at its size.
        latency_low_ms: A tenth of the pictures were faster.
        latency_high_ms: A tenth of the pictures were slower.
        cpu_ms: Median CPU time of one picture, which a busy machine disturbs little.
        throughput: Pictures per second, with as many at once as there are cores.
        memory_mb: Largest resident memory of the process.
        size_mb: Size of the model's files; NaN for a model of transformers.
        abs_rel: Mean relative difference to the first candidate, after the fit that the kind allows; NaN where two
            kinds cannot be compared.
        delta1: Share of pixels within a factor of 1.25 of the first candidate.
    """

    label: str
    runtime: str
    precision: str
    kind: str
    load_seconds: float
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    cpu_ms: float
    throughput: float
    memory_mb: float
    size_mb: float
    abs_rel: float = float("nan")
    delta1: float = float("nan")


@dataclass(frozen=True)
class Benchmark:
    """All measurements of one run.

    Args:
        rows: One for each candidate.
        num_pictures: Different pictures.
        repeats: Rounds over all pictures.
        machine: Cores and load, which decide what the times mean.
    """

    rows: tuple[Measurement, ...]
    num_pictures: int
    repeats: int
    machine: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes null."""
        rows = [
            {key: None if isinstance(value, float) and value != value else value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        return {"machine": self.machine, "num_pictures": self.num_pictures, "repeats": self.repeats, "rows": rows}

    def markdown(self) -> str:
        """Return a table for people."""
        lines = [
            "| model | runtime | precision | ms (10 % to 90 %) | CPU ms | pictures/s | load s | memory MB | size MB "
            "| AbsRel | delta1 |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            lines.append(
                f"| {row.label} | {row.runtime} | {row.precision} | {row.latency_ms:.1f} ({row.latency_low_ms:.1f} to "
                f"{row.latency_high_ms:.1f}) | {row.cpu_ms:.1f} | {row.throughput:.2f} | {row.load_seconds:.1f} | "
                f"{row.memory_mb:.0f} | {_number(row.size_mb, '.1f')} | {_number(row.abs_rel, '.4f')} | "
                f"{_number(row.delta1, '.4f')} |"
            )
        lines += [
            "",
            f"Medians over {self.num_pictures} pictures, {self.repeats} times each, in turns; {self.machine}. AbsRel "
            "and delta1 are agreement with the first row, not accuracy.",
            "",
        ]
        return "\n".join(lines)

    def plot(self) -> bytes:
        """Draw latency, memory and size as a PNG.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        figures = require("matplotlib.figure", "train", "The plot of a benchmark")
        # A figure of its own, without pyplot: no global state, no window.
        figure = figures.Figure(figsize=(10, 1.2 + 0.45 * len(self.rows)), dpi=100, layout="constrained")
        names = [f"{row.label}, {row.runtime} {row.precision}" for row in self.rows]
        panels = figure.subplots(1, 3, sharey=True)
        for axes, title, values in (
            (panels[0], "one picture [ms], median", [row.latency_ms for row in self.rows]),
            (panels[1], "largest memory [MB]", [row.memory_mb for row in self.rows]),
            (panels[2], "files [MB]", [row.size_mb if row.size_mb == row.size_mb else 0.0 for row in self.rows]),
        ):
            axes.barh(range(len(names)), values, color="#4477aa")
            axes.set_title(title, fontsize=10)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write benchmark.json, benchmark.md and benchmark.png."""
        return [
            write_atomic(folder / "benchmark.json", [(json.dumps(self.to_json(), indent=2) + "\n").encode()]),
            write_atomic(folder / "benchmark.md", [self.markdown().encode()]),
            write_atomic(folder / "benchmark.png", [self.plot()]),
        ]


def _number(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)


def benchmark(
    candidates: Sequence[Candidate],
    *,
    pictures: Sequence[Path] = (),
    repeats: int = 5,
    num_threads: int | None = None,
) -> Benchmark:
    """Measure candidates side by side.

    Args:
        candidates: What to measure; agreement is with the first.
        pictures: Files; default: the package's photographs.
        repeats: Rounds over all pictures.
        num_threads: CPU threads of one network run; default: every core.

    Raises:
        ModelError: If there is nothing to measure, or a candidate cannot be loaded.
        InputError: If a picture cannot be read.
    """
    if not candidates or repeats < 1:
        raise ModelError(f"A benchmark needs models and at least one repeat; got {len(candidates)} and {repeats}.")
    paths = list(pictures) or sorted(PHOTO_FOLDER.glob("*.jpg"))
    images = [read_image(path).rgb for path in paths]
    machine = (
        f"{available_cores()} cores, load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    )
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for candidate in candidates:  # one after the other: loading at once would hide what loading costs
            workers.append(_Worker(context, candidate, images, num_threads))
        times: list[list[tuple[float, float]]] = [[] for _ in workers]
        for _ in range(repeats):
            for index in range(len(images)):
                for worker, mine in zip(workers, times, strict=True):
                    mine.append(worker.ask(("time", index)))
        throughputs = [worker.ask(("throughput", max(len(images), available_cores() * 2))) for worker in workers]
        maps = [[worker.ask(("map", index)) for index in range(len(images))] for worker in workers]
        rows = []
        for worker, mine, throughput, own in zip(workers, times, throughputs, maps, strict=True):
            seconds = sorted(wall for wall, _ in mine)
            row = Measurement(
                **worker.facts,
                latency_ms=statistics.median(seconds) * 1e3,
                latency_low_ms=seconds[len(seconds) // 10] * 1e3,
                latency_high_ms=seconds[-1 - len(seconds) // 10] * 1e3,
                cpu_ms=statistics.median(cpu for _, cpu in mine) * 1e3,
                throughput=throughput,
                memory_mb=worker.ask(("memory", 0)),
            )
            relative, share = _agreement(own, maps[0], row.kind, workers[0].facts["kind"])
            rows.append(replace(row, abs_rel=relative, delta1=share))
    finally:
        for worker in workers:
            worker.stop()
    return Benchmark(tuple(rows), len(images), repeats, machine)


def _agreement(
    maps: Sequence[npt.NDArray[np.float32]], reference: Sequence[npt.NDArray[np.float32]], kind: str, other: str
) -> tuple[float, float]:
    """Compare the maps of two candidates after the fit that their kind leaves open."""
    if kind != other:
        return float("nan"), float("nan")
    scores = []
    for got, expected in zip(maps, reference, strict=True):
        known = np.isfinite(got) & np.isfinite(expected) & (expected > 0.01 * np.nanpercentile(expected, 95))
        scale, shift = 1.0, 0.0
        if kind == DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
            scale, shift = fit_scale_shift(got, expected, valid_mask=known)
        elif kind == DepthKind.SCALE_INVARIANT_DEPTH:
            scale = fit_scale_median(got, expected, valid_mask=known)
        fitted = np.maximum(scale * got + shift, 1e-6)
        scores.append((abs_rel(fitted, expected, known), delta(fitted, expected, known)))
    return statistics.fmean(a for a, _ in scores), statistics.fmean(d for _, d in scores)


class _Worker:
    """One candidate in a process of its own."""

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        candidate: Candidate,
        images: Sequence[npt.NDArray[np.uint8]],
        num_threads: int | None,
    ) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, candidate, images, num_threads), daemon=True)
        self._process.start()
        theirs.close()
        self._label = candidate.label
        self.facts: dict[str, Any] = self._receive()

    def ask(self, question: tuple[str, int]) -> Any:
        """Send a question and wait for its answer."""
        self._pipe.send(question)
        return self._receive()

    def _receive(self) -> Any:
        if not self._pipe.poll(START_TIMEOUT_SECONDS):
            raise ModelError(f"{self._label} gave no answer within {START_TIMEOUT_SECONDS} s.")
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise ModelError(f"{self._label}: its process ended with code {self._process.exitcode}.") from None
        if isinstance(answer, FathomError):
            raise answer
        return answer

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


def _serve(
    pipe: Connection, candidate: Candidate, images: Sequence[npt.NDArray[np.uint8]], num_threads: int | None
) -> None:
    """Answer questions until the parent closes the pipe; runs in the child."""
    try:
        start = time.perf_counter()
        predictor = Predictor(
            candidate.model, runtime=candidate.runtime, precision=candidate.precision, num_threads=num_threads
        )
        predictor.predict(images[0])
        seconds = time.perf_counter() - start
        for index in range(WARM_UP * len(images)):
            predictor.predict(images[index % len(images)])
        pipe.send(
            {
                "label": candidate.label,
                "runtime": predictor.runtime,
                "precision": predictor.precision,
                "kind": predictor.kind.value,
                "load_seconds": seconds,
                "size_mb": _size_mb(candidate.model, predictor.precision),
            }
        )
        while True:
            question, number = pipe.recv()
            pipe.send(_answer(predictor, images, question, number))
    except EOFError:
        return
    except FathomError as error:
        pipe.send(type(error)(str(error)))


def _answer(predictor: Predictor, images: Sequence[npt.NDArray[np.uint8]], question: str, number: int) -> Any:
    if question == "map":
        return np.asarray(predictor.predict(images[number]).values)
    if question == "memory":
        return _peak_memory_mb()
    if question == "throughput":
        start = time.perf_counter()
        with ThreadPoolExecutor(available_cores()) as pool:
            for _ in pool.map(predictor.predict, [images[index % len(images)] for index in range(number)]):
                pass
        return number / (time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    predictor.predict(images[number])
    return time.perf_counter() - start, time.process_time() - cpu


def _peak_memory_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _size_mb(model: str, precision: str) -> float:
    """Return the size of the files that a model was loaded from."""
    if is_hub(model):
        files = list(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
        return sum(path.stat().st_size for path in files) / 1e6 if files else float("nan")
    card = find_model(model).card
    if card.export is not None:
        return sum(entry.bytes for entry in card.files.values()) / 1e6
    role = "onnx_int8" if precision == "int8" else card.graph_role if card.graph_role in card.files else "safetensors"
    return card.files[role].bytes / 1e6  # type: ignore[index]
