"""Predict many files: reading, the network and writing overlap, in bounded memory, and one bad file stops nothing."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import FathomError, OutputError
from fathom.io import read_image
from fathom.outputs import FORMATS, OutputOptions, check_formats, output_paths, parse_formats, write_outputs
from fathom.predict import Predictor, Ready, check_choices, stated_kind
from fathom.sources import Source, expand_sources, name_outputs, open_source

NUM_READERS = 2
NUM_WRITERS = 2
IN_FLIGHT = 4
"""Pictures that may wait before the network, and results that may wait behind it; this bounds the memory."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        source: What the user named.
        outputs: Files written, or found there already.
        kind: What the values are; None where nothing was predicted.
        unit: Unit of the values; empty for a relative map, None where nothing was predicted.
        height: Rows of the map.
        width: Columns of the map.
        seconds: Time spent reading, predicting and writing this input, without waiting.
        error: Why it failed, or None.
        skipped: Whether its outputs were there already.
    """

    source: str
    outputs: tuple[str, ...] = ()
    kind: str | None = None
    unit: str | None = None
    height: int | None = None
    width: int | None = None
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the values of one JSON line."""
        values = asdict(self)
        del values["skipped"]
        return values


@dataclass(frozen=True)
class Task:
    """One picture to predict, and where its outputs go.

    Args:
        source: The picture.
        stem: Folder and start of the output names.
    """

    source: Source
    stem: Path


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a model is loaded.

    Args:
        tasks: Pictures in order.
        failed: Words of the user that mean no picture.
        formats: Names of formats.
    """

    tasks: tuple[Task, ...]
    failed: tuple[Outcome, ...]
    formats: tuple[str, ...]


def plan_outputs(
    sources: Iterable[str | Path], out: str | Path, formats: str | Sequence[str], *, recursive: bool = False
) -> Plan:
    """List the pictures and name their outputs; makes the output folder, loads no model.

    Args:
        sources: See `fathom.sources.expand_sources`.
        out: Output folder.
        formats: Names of formats, or a comma-separated text.
        recursive: Look into the folders of a folder, too.

    Raises:
        ConfigError: If a format is unknown, or the sources contradict each other or the output folder.
        OutputError: If the output folder cannot be made or written.
    """
    names = parse_formats(formats)
    found, empty = expand_sources(sources, recursive=recursive, leave_out=out)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the output folder {folder}: {error.strerror}. Choose another.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The output folder {folder} may not be written to. Choose another.")
    stems = name_outputs(found, folder, [FORMATS[name].suffix for name in names])
    tasks = tuple(Task(source, stem) for source, stem in zip(found, stems, strict=True))
    return Plan(tasks, tuple(Outcome(word, error=reason) for word, reason in empty), names)


def check_model(model: str | Path, formats: Sequence[str], *, runtime: str = "auto", precision: str = "auto") -> None:
    """Check everything about a model that can be checked without loading it.

    Raises:
        ModelError: If the model, the runtime or the precision does not exist.
        ConfigError: If its card is wrong.
        KindError: If a format cannot be made from what the model gives.
    """
    check_choices(runtime, precision)
    kind = stated_kind(model)
    if kind is not None:
        check_formats(formats, kind)


def is_done(task: Task, formats: Sequence[str]) -> bool:
    """Tell whether every output of a task is there already; outputs only ever appear whole."""
    return all(path.is_file() for path in output_paths(task.stem, formats))


def predict_files(
    plan: Plan,
    load: Callable[[], Predictor],
    *,
    options: OutputOptions | None = None,
    skip_existing: bool = False,
    batch_size: int = 1,
) -> Iterator[Outcome]:
    """Predict the pictures of a plan and write their outputs.

    Args:
        plan: What to do.
        load: Gives the model; called once, and not at all where nothing is left to do.
        options: How to write.
        skip_existing: Leave out pictures whose outputs are all there, whichever model made them.
        batch_size: Pictures of equal input shape to run at once on a GPU.

    Yields:
        One outcome for each input, in order. An input that fails gives an outcome with `error` and stops nothing.

    Raises:
        FathomError: If the model cannot be loaded.
    """
    yield from plan.failed
    with _Pipeline(load, plan.formats, options, skip_existing, batch_size) as pipeline:
        yield from pipeline.run(plan.tasks)


@dataclass
class _Read:
    """A picture that was read, or why not."""

    task: Task
    ready: Ready | None = None
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False


class _Pipeline:
    """Readers, the network in the calling thread, writers; each queue holds `IN_FLIGHT` items at most."""

    def __init__(
        self,
        load: Callable[[], Predictor],
        formats: tuple[str, ...],
        options: OutputOptions | None,
        skip_existing: bool,
        batch_size: int,
    ) -> None:
        self._load, self._formats, self._options = load, formats, options
        self._skip_existing, self._batch_size = skip_existing, batch_size
        self._predictor: Predictor | None = None
        self._readers = ThreadPoolExecutor(NUM_READERS, "fathom-read")
        self._writers = ThreadPoolExecutor(NUM_WRITERS, "fathom-write")

    def __enter__(self) -> "_Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        # On an interrupt, what is being written is finished, and what waits is dropped: whole files only.
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        written: deque[Future[Outcome]] = deque()
        for group in self._groups(self._read_ahead(tasks)):
            for outcome in self._start(group):
                written.append(outcome)
                if len(written) > IN_FLIGHT:
                    yield written.popleft().result()
            while written and written[0].done():
                yield written.popleft().result()
        while written:
            yield written.popleft().result()

    def _read_ahead(self, tasks: Sequence[Task]) -> Iterator[_Read]:
        """Read pictures in order, a few ahead of the network."""
        waiting: deque[Future[_Read]] = deque()
        # Pictures are prepared for one model, so it must be there first; it is not loaded for nothing.
        for task in tasks:
            if self._predictor is None and not (self._skip_existing and is_done(task, self._formats)):
                self._predictor = self._load()
            waiting.append(self._readers.submit(self._read, task, self._predictor))
            if len(waiting) > IN_FLIGHT + self._batch_size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, task: Task, predictor: Predictor | None) -> _Read:
        start = time.perf_counter()
        if self._skip_existing and is_done(task, self._formats):
            return _Read(task, skipped=True)
        assert predictor is not None, "loaded before the first task that is not done"
        try:
            picture = read_image(open_source(task.source), name=os.path.basename(task.source.label))
            ready = predictor.prepare(picture)
        except Exception as error:  # whatever a hostile file does to a decoder, the other files go on
            return _Read(task, seconds=time.perf_counter() - start, error=_reason(error))
        return _Read(task, ready, time.perf_counter() - start)

    def _groups(self, items: Iterator[_Read]) -> Iterator[list[_Read]]:
        """Gather neighbours of equal input shape where running them at once pays."""
        group: list[_Read] = []
        for item in items:
            size = self._batch_size if self._predictor is not None and self._predictor.batches else 1
            alone = item.ready is None or (group and not _same_shape(group[-1], item))
            if group and (alone or len(group) >= size):
                yield group
                group = []
            group.append(item)
        if group:
            yield group

    def _start(self, group: list[_Read]) -> Iterator[Future[Outcome]]:
        """Run the network on a group and hand the results to the writers."""
        ready = [item.ready for item in group if item.ready is not None]
        raws: list[npt.NDArray[np.float32]] = []
        error = None
        start = time.perf_counter()
        if ready:
            assert self._predictor is not None, "a picture was prepared for it"
            try:
                raws = self._predictor.infer(ready)
            except Exception as failure:  # out of memory on one huge picture must not end the others
                error = _reason(failure)
        share = (time.perf_counter() - start) / len(group)
        for index, item in enumerate(group):
            raw = raws[index] if raws else None
            yield self._writers.submit(self._write, item, raw, item.seconds + share, item.error or error)

    def _write(self, item: _Read, raw: npt.NDArray[np.float32] | None, seconds: float, error: str | None) -> Outcome:
        label = item.task.source.label
        if item.skipped:
            paths = tuple(str(path) for path in output_paths(item.task.stem, self._formats))
            return Outcome(label, paths, skipped=True)
        if error is not None or raw is None:
            return Outcome(label, seconds=seconds, error=error)
        assert self._predictor is not None and item.ready is not None, "there is a raw map"
        start = time.perf_counter()
        try:
            depth = self._predictor.finish(raw, item.ready)
            paths = tuple(
                str(path)
                for path in write_outputs(depth, item.ready.picture, item.task.stem, self._formats, self._options)
            )
        except Exception as failure:
            seconds += time.perf_counter() - start
            return Outcome(label, seconds=seconds, error=_reason(failure))
        seconds += time.perf_counter() - start
        return Outcome(label, paths, depth.kind.value, depth.unit, depth.height, depth.width, seconds)


def _same_shape(left: _Read, right: _Read) -> bool:
    if left.ready is None or right.ready is None:
        return False
    return left.ready.prepared.array.shape == right.ready.prepared.array.shape


def _reason(error: BaseException) -> str:
    """Return what an outcome says about an error: our own sentences as they are, others with their type."""
    if isinstance(error, FathomError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this picture. Shrink it first."
    return f"{type(error).__name__}: {error}"
