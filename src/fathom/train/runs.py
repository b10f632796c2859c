"""Set trainings side by side, finished or not: a table and curves, from the files that each leaves. No torch."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fathom.config import parse_config
from fathom.errors import ConfigError, InputError, require
from fathom.train.config import Recipe, is_lower_better, monitored_score

Rows = list[dict[str, float]]

_SHOWN = ("abs_rel", "rmse", "silog", "delta1", "mean_deg", "miou", "pixel_accuracy", "dice")
"""Scores that the table shows beside the monitored one, where runs have them."""


@dataclass(frozen=True)
class Run:
    """What one folder holds.

    Args:
        folder: The folder.
        recipe: Its recipe.
        train: Rows of train.csv.
        val: Rows of val.csv; empty without validation.
    """

    folder: Path
    recipe: Recipe
    train: Rows
    val: Rows

    @property
    def monitor(self) -> str:
        """Name of the score that decides."""
        return monitored_score(self.recipe)

    def best(self) -> dict[str, float]:
        """Return the row of the best validation; empty where there is none."""
        rows = [row for row in self.val if not math.isnan(row.get(self.monitor, math.nan))]
        if not rows:
            return {}
        choose = min if is_lower_better(self.monitor) else max
        return choose(rows, key=lambda row: row[self.monitor])


def read_run(folder: str | Path) -> Run:
    """Read the files of a run, finished or not.

    Raises:
        InputError: If the folder holds no run.
        ConfigError: If its recipe is of another version of Fathom.
    """
    folder = Path(folder)
    recipe = folder / "recipe.yaml"
    if not recipe.is_file() or not (folder / "train.csv").is_file():
        raise InputError(f"Expected a run with recipe.yaml and train.csv; '{folder}' holds none. See fathom train.")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    return Run(
        folder,
        parse_config(values, Recipe, source=str(recipe)),
        _rows(folder / "train.csv"),
        _rows(folder / "val.csv") if (folder / "val.csv").is_file() else [],
    )


def _rows(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    names = lines[0] if lines else []
    # A run that is being written to may end in half a row.
    return [{name: float(x) for name, x in zip(names, row, strict=True)} for row in lines[1:] if len(row) == len(names)]


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the rows of a comparison: one row for each run, best scores of each.

    Args:
        runs: At least one.
    """
    names = list(dict.fromkeys([run.monitor for run in runs]))
    present = {name for run in runs for row in run.val for name in row}
    names += [name for name in _SHOWN if name in present and name not in names]
    heading = ["run", "model", "steps", "loss", "pictures/s", *names, "at step"]
    rows = []
    for run in runs:
        last, best = run.train[-1] if run.train else {}, run.best()
        seconds = last.get("data_seconds", 0.0) + last.get("compute_seconds", 0.0)
        pictures = last.get("step", 0) * run.recipe.data.batch_size * run.recipe.accumulate
        rate = pictures * run.recipe.hardware.devices / seconds if seconds else math.nan
        rows.append(
            [
                run.folder.name,
                run.recipe.model.name,
                f"{last.get('step', 0):.0f}",
                _number(last.get("loss")),
                _number(rate),
                *(_number(best.get(name)) for name in names),
                f"{best['step']:.0f}" if best else "-",
            ]
        )
    return heading, rows


def differing_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the options of the recipes that are not alike, by dotted name; one value for each run."""
    flat = [_flat(run.recipe.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = {key: [values.get(key) for values in flat] for key in keys}
    return {
        key: values for key, values in rows.items() if any(value != values[0] for value in values) and key != "name"
    }


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, dict) and value:
            out |= _flat(value, name)
        else:
            out[name] = value
    return out


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def as_text(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as lines of text.

    Example:
        >>> print(as_text(["run", "loss"], [["a", "1.5"]]))
        run  loss
        a    1.5
    """
    widths = [max(len(row[place]) for row in [heading, *rows]) for place in range(len(heading))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heading, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def plot_runs(runs: Sequence[Run], path: str | Path) -> Path:
    """Draw the losses and the monitored scores of runs over the steps.

    Args:
        runs: At least one.
        path: Picture to write (png, pdf, svg).

    Returns:
        The path.

    Raises:
        ConfigError: If the ending is not known.
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "train", "Plotting")
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"A plot is written as .png, .pdf or .svg; got '{path}'.")
    monitors = list(dict.fromkeys(run.monitor for run in runs if run.val))
    figure = figures.Figure(figsize=(6.0 * (1 + len(monitors)), 4.0), layout="constrained")
    axes = figure.subplots(1, 1 + len(monitors), squeeze=False)[0]
    for run in runs:
        axes[0].plot(
            *_smoothed([row["step"] for row in run.train], [row["loss"] for row in run.train]), label=run.folder.name
        )
        for axis, name in zip(axes[1:], monitors, strict=True):
            points = [(row["step"], row[name]) for row in run.val if name in row]
            axis.plot([x for x, _ in points], [y for _, y in points], marker=".", label=run.folder.name)
    for axis, name in zip(axes, ["loss", *monitors], strict=True):
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _smoothed(steps: list[float], values: list[float], span: int = 200) -> tuple[list[float], list[float]]:
    """Average neighbours so that at most `span` points are drawn."""
    size = max(1, math.ceil(len(steps) / span))
    places = range(0, len(steps), size)
    chunks = [values[place : place + size] for place in places]
    return [steps[min(place + size, len(steps)) - 1] for place in places], [sum(chunk) / len(chunk) for chunk in chunks]
