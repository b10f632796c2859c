"""Reports as pictures and as one HTML page: plots, and a sheet of the worst images."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fathom.errors import require
from fathom.evaluate.loop import Predict, predict_for, put_back, sample_name
from fathom.evaluate.records import ImageRecord, Report
from fathom.evaluate.sources import SavedPredictions
from fathom.evaluate.tables import report_markdown
from fathom.io.atomic import write_atomic
from fathom.metrics.scoring import Fit, fitted_maps
from fathom.types import Depth, DepthKind, Sample
from fathom.viz import colorize, error_map

TILE_WIDTH = 256
"""Width of one picture of the sheet [px]."""


def contact_sheet(
    report: Report,
    predict: Predict | SavedPredictions,
    samples: Iterable[Sample],
    *,
    num: int = 8,
    metric: str = "abs_rel",
) -> Image.Image:
    """Show the worst images: picture, target, fitted prediction in the same colours, and the error where it counts.

    Args:
        report: The report.
        predict: The predictions that were scored.
        samples: The samples that were scored.
        num: How many images.
        metric: What "worst" means.

    Returns:
        One row for each image, the worst first.
    """
    worst = {record.name: (place, record) for place, record in enumerate(report.worst(num, metric))}
    rows: dict[int, Image.Image] = {}
    for index, sample in enumerate(samples):
        name = sample_name(sample, index)
        if name not in worst:
            continue
        place, record = worst[name]
        if isinstance(predict, SavedPredictions):
            depth = predict.read(name)
        else:
            depth = predict_for(predict, sample, report.protocol)
        if report.protocol.image_crop == "kb_crop":
            depth = put_back(depth, sample)
        text = f"{name}   {metric} {record.scores[metric]:.4f}   delta1 {record.scores['delta1']:.4f}"
        rows[place] = _row(report, depth, sample, record, text)
        if len(rows) == len(worst):
            break
    ordered = [rows[place] for place in sorted(rows)]
    sheet = Image.new("RGB", (max(row.width for row in ordered), sum(row.height for row in ordered)), "white")
    top = 0
    for row in ordered:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(report: Report, depth: Depth, sample: Sample, record: ImageRecord, text: str) -> Image.Image:
    fit = Fit(record.scale, record.shift, record.far_limit)
    pred, target, mask = fitted_maps(depth, sample, report.protocol, fit)
    low, high = np.percentile(target[mask], (1, 99))
    span = (float(low), float(high) if high > low else float(low) + 1e-3)
    pictures = [
        sample.image,
        colorize(_metres(target, mask), value_range=span).rgb,
        colorize(_metres(pred, np.isfinite(pred)), value_range=span).rgb,
        error_map(np.where(mask, pred, 0.0), np.where(mask, target, 0.0), mask).rgb,
    ]
    height, width = target.shape
    tile = (TILE_WIDTH, max(1, round(TILE_WIDTH * height / width)))
    font = ImageFont.load_default(size=14)
    row = Image.new("RGB", (4 * TILE_WIDTH, tile[1] + 22), "white")
    ImageDraw.Draw(row).text((4, 3), f"{text}   colours {span[0]:.2f} to {span[1]:.2f} m", "black", font)
    for column, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture).resize(tile), (column * TILE_WIDTH, 22))
    return row


def _metres(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> Depth:
    return Depth(np.where(mask, values, np.nan).astype(np.float32), DepthKind.METRIC_DEPTH, mask)


def plot_report(report: Report) -> dict[str, bytes]:
    """Draw the plots of a report as PNG.

    Args:
        report: The report.

    Returns:
        PNG bytes by title: how AbsRel spreads over the images, AbsRel by distance, and near edges and elsewhere.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "train", "Plots of a report")
    values = np.array([record.scores["abs_rel"] for record in report.records])
    plots = {}
    figure, axes = _figure(figures)
    axes.hist(values, bins=min(40, max(5, len(values) // 5)), color="#4477aa")
    axes.axvline(report.per_image()["abs_rel"], color="black", linewidth=1)
    axes.set_xlabel("AbsRel of an image (line: mean)")
    axes.set_ylabel("images")
    plots["AbsRel over the images"] = _png(figure)
    for title, parts in (
        ("AbsRel by distance", {f"{a:g}-{b:g} m": scores for (a, b), scores in report.by_range().items()}),
        ("AbsRel near depth edges and elsewhere", report.by_edge()),
    ):
        if parts:
            figure, axes = _figure(figures)
            axes.bar(list(parts), [scores["abs_rel"] for scores in parts.values()], color="#4477aa")
            axes.set_ylabel("AbsRel (pooled)")
            plots[title] = _png(figure)
    return plots


def _figure(figures: Any) -> tuple[Any, Any]:
    # A figure of its own, without pyplot: no global state, no window.
    figure = figures.Figure(figsize=(6, 3), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def report_html(report: Report, *, sheet: Image.Image | None = None) -> str:
    """Write a report as one HTML page with its plots inside; it loads nothing from elsewhere.

    Args:
        report: The report.
        sheet: The sheet of the worst images.

    Returns:
        HTML.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    pictures = [(title, data, "png") for title, data in plot_report(report).items()]
    if sheet is not None:
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=88)
        pictures.append(("Worst images: picture, target, prediction, error", buffer.getvalue(), "jpeg"))
    body = _html_from_markdown(report_markdown(report))
    for title, data, kind in pictures:
        text = base64.b64encode(data).decode()
        body += (
            f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" src="data:image/{kind};base64,{text}">\n'
        )
    title = html.escape(f"{report.model} under {report.protocol.label}")
    style = (
        "body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left}img{max-width:100%}"
        "pre{background:#f4f4f4;padding:1em}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head>\n<body>\n{body}</body></html>\n"
    )


def _html_from_markdown(text: str) -> str:
    """Turn the Markdown that `tables` writes (headings, tables, lists, one code block) into HTML."""
    lines = text.splitlines()
    out: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        if line.startswith("```"):
            end = next(i for i in range(index + 1, len(lines)) if lines[i].startswith("```"))
            out.append("<pre>" + html.escape("\n".join(lines[index + 1 : end])) + "</pre>")
            index = end
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            out.append(f"<h{level}>{html.escape(line.lstrip('# '))}</h{level}>")
        elif line.startswith(("|", "- ")):
            block = [line]
            while index + 1 < len(lines) and lines[index + 1].startswith(line[0]):
                index += 1
                block.append(lines[index])
            out.append(_table(block) if line[0] == "|" else _list(block))
        elif line:
            out.append(f"<p>{html.escape(line)}</p>")
        index += 1
    return "\n".join(out) + "\n"


def _table(lines: Sequence[str]) -> str:
    rows = [[html.escape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[2:])
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>"


def write_report(
    report: Report, folder: str | Path, *, formats: Sequence[str] = ("md", "json"), sheet: Image.Image | None = None
) -> list[Path]:
    """Write a report into a folder, as ``report.md``, ``report.json``, ``report.html`` and ``worst.jpg``.

    Args:
        report: The report.
        folder: Folder; made where it is missing.
        formats: Any of md, json and html.
        sheet: The sheet of the worst images.

    Returns:
        The files.

    Raises:
        MissingExtraError: If html is wanted and matplotlib is not installed.
        OutputError: If a file cannot be written.
    """
    folder = Path(folder)
    makers = {
        "md": lambda: report_markdown(report).encode(),
        "html": lambda: report_html(report, sheet=sheet).encode(),
    }
    written = []
    for name in formats:
        path = folder / f"report.{name}"
        written.append(report.save(path) if name == "json" else write_atomic(path, [makers[name]()]))
    if sheet is not None:
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=90)
        written.append(write_atomic(folder / "worst.jpg", [buffer.getvalue()]))
    return written
