"""What the user sees while files are predicted: results on standard output, progress and errors on standard error."""

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import typer

from fathom.batch import Outcome
from fathom.cli.main import INTERRUPTED
from fathom.io import FathomWarning

SECONDS_BETWEEN_LINES = 2.0


class _Progress(Protocol):
    def advance(self) -> None: ...

    def say(self, line: str) -> None: ...


def report(outcomes: Iterator[Outcome], *, total: int, as_json: bool) -> int:
    """Print outcomes as they come, and a last line.

    Args:
        outcomes: What `predict_files` yields.
        total: How many there will be.
        as_json: Print one JSON line for each instead of a line for people.

    Returns:
        The exit code: 0 all done, 1 some failed, 130 interrupted.
    """
    start = time.perf_counter()
    done = failed = skipped = 0
    with _progress(total) as progress, _warnings_to(progress):
        try:
            for outcome in outcomes:
                done += outcome.error is None and not outcome.skipped
                skipped += outcome.skipped
                failed += outcome.error is not None
                _print_outcome(outcome, as_json, progress)
                progress.advance()
        except KeyboardInterrupt:
            outcomes.close()  # type: ignore[attr-defined]  # a generator: finishes what is being written
            progress.say(
                f"Interrupted: {done + skipped} of {total} done, every file whole. "
                "Continue with the same command and --skip-existing."
            )
            return INTERRUPTED
    seconds = time.perf_counter() - start
    parts = [f"{done} done"] + [f"{n} {word}" for n, word in ((skipped, "skipped"), (failed, "failed")) if n]
    rate = f" ({done / seconds:.1f} pictures/s)" if done > 1 else ""
    typer.echo(f"{', '.join(parts)} in {seconds:.1f} s{rate}", err=True)
    return 1 if failed else 0


def _print_outcome(outcome: Outcome, as_json: bool, progress: _Progress) -> None:
    if outcome.error is not None:
        progress.say(f"Failed: {_shown(outcome.source)}: {outcome.error}")
    if as_json:
        sys.stdout.write(json.dumps(outcome.to_dict()) + "\n")
        sys.stdout.flush()
    elif outcome.error is None:
        what = "there already" if outcome.skipped else f"{outcome.kind}, {outcome.height} x {outcome.width}"
        files = ", ".join(_shown(path) for path in outcome.outputs)
        typer.echo(f"{_shown(outcome.source)} -> {files} ({what})")


def _shown(path: str) -> str:
    """Return a path as printable text, whatever bytes it holds."""
    return os.fsencode(path).decode("utf-8", "replace")


@contextmanager
def _warnings_to(progress: _Progress) -> Iterator[None]:
    """Show warnings as one line each, ours every time, and not where in the code they arose."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        progress.say(f"Warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", FathomWarning)
        warnings.showwarning = show
        yield


class _Lines:
    """Plain lines on standard error, a few seconds apart."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.start = total, 0, time.perf_counter()
        self.last = self.start

    def advance(self) -> None:
        self.count += 1
        now = time.perf_counter()
        if now - self.last >= SECONDS_BETWEEN_LINES and self.count < self.total:
            self.last = now
            rate = self.count / (now - self.start)
            self.say(f"{self.count}/{self.total}, {rate:.1f} pictures/s, {(self.total - self.count) / rate:.0f} s left")

    def say(self, line: str) -> None:
        typer.echo(line, err=True)


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    """Give a bar on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty() or total < 2:
        with nullcontext():
            yield _Lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=True) as bar:
        task = bar.add_task("", total=total, rate="")

        class _Bar:
            def advance(self) -> None:
                bar.advance(task)
                speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
                bar.update(task, rate=f"{speed:.1f} pictures/s" if speed else "")

            def say(self, line: str) -> None:
                console.print(Text(line))

        yield _Bar()
