"""Evaluate several models under one or more protocols, and write everything that came out."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.evaluate.loop import Predict, evaluate_protocols
from fathom.evaluate.pictures import contact_sheet, write_report
from fathom.evaluate.records import Report
from fathom.evaluate.sources import SavedPredictions
from fathom.evaluate.statistics import compare_reports
from fathom.evaluate.tables import models_markdown, protocols_markdown, report_markdown
from fathom.io.atomic import write_atomic
from fathom.protocol import Protocol
from fathom.types import Sample

Candidates = Mapping[str, Predict | SavedPredictions]


@dataclass(frozen=True)
class Run:
    """What `evaluate_all` found.

    Attributes:
        results: Report, or why there is none, by model and protocol name.
        text: All tables, as Markdown.
        files: What was written.
    """

    results: Mapping[str, Mapping[str, Report | FathomError]]
    text: str
    files: tuple[Path, ...]

    @property
    def reports(self) -> list[Report]:
        """Every report."""
        return [report for row in self.results.values() for report in row.values() if isinstance(report, Report)]


def evaluate_all(
    candidates: Candidates,
    samples: Iterable[Sample],
    protocols: Sequence[Protocol],
    *,
    is_partial: bool = False,
    boundary: bool = False,
    limit: int | None = None,
    out: str | Path | None = None,
    formats: Sequence[str] = ("md", "json"),
    num_worst: int = 0,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    on_image: Callable[[str], None] | None = None,
) -> Run:
    """Score models and saved predictions, and write tables and reports.

    Args:
        candidates: Callables from an image to a `Depth`, or saved predictions, by the name for the tables.
        samples: Pictures with ground truth; read once for each candidate.
        protocols: How to score.
        is_partial: As in `fathom.evaluate.evaluate`.
        boundary: As in `fathom.evaluate.evaluate`.
        limit: Score only the first images; needs `is_partial`.
        out: Folder for ``<model>/<protocol>/report.*`` and ``summary.md``; default: nothing is written.
        formats: Any of md, json and html.
        num_worst: How many of the worst images the sheet shows; 0 makes none.
        sources: What each report records about where it came from, by candidate.
        on_image: As in `fathom.evaluate.evaluate`.

    Returns:
        Reports, tables and files.

    Raises:
        FathomError: Where nothing at all could be scored, the first reason.
    """
    results: dict[str, dict[str, Report | FathomError]] = {}
    files: list[Path] = []
    for name, predict in candidates.items():
        chosen = samples if limit is None else list(islice(iter(samples), limit))
        found = evaluate_protocols(
            predict,
            chosen,
            protocols,
            model=name,
            is_partial=is_partial,
            boundary=boundary,
            on_image=on_image,
            source=(sources or {}).get(name, {}),
        )
        results[name] = {protocol.name: result for protocol, result in zip(protocols, found, strict=True)}
        for protocol, result in zip(protocols, found, strict=True):
            if out is not None and isinstance(result, Report):
                folder = Path(out) / _safe(name) / _safe(protocol.name)
                sheet = contact_sheet(result, predict, chosen, num=num_worst) if num_worst else None
                files += write_report(result, folder, formats=formats, sheet=sheet)
    everything = [result for row in results.values() for result in row.values()]
    if not any(isinstance(result, Report) for result in everything):
        raise next(result for result in everything if isinstance(result, FathomError))
    text = _tables(results, protocols)
    if out is not None:
        files.append(write_atomic(Path(out) / "summary.md", [text.encode()]))
    return Run(results, text, tuple(files))


def _tables(results: Mapping[str, Mapping[str, Report | FathomError]], protocols: Sequence[Protocol]) -> str:
    parts: list[str] = []
    if len(results) > 1:
        for protocol in protocols:
            rows = [row[protocol.name] for row in results.values()]
            reports = [row for row in rows if isinstance(row, Report)]
            if reports:
                differences = {other.model: compare_reports(reports[0], other) for other in reports[1:]}
                parts.append(models_markdown(reports, differences))
            for name, row in results.items():
                refused = row[protocol.name]
                if not isinstance(refused, Report):
                    parts.append(f"- {name} cannot be scored under {protocol.name}: {refused}\n")
    elif len(protocols) == 1:
        parts += [
            report_markdown(result) for row in results.values() for result in row.values() if isinstance(result, Report)
        ]
    else:
        parts += [protocols_markdown(name, row) for name, row in results.items()]
    return "\n".join(parts)


def _safe(name: str) -> str:
    """Make a folder name of any name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "model"
