"""Reports as text: Markdown tables, with metric rows and rows fitted to the ground truth never in one table."""

from collections.abc import Mapping, Sequence

from fathom.errors import ConfigError, FathomError
from fathom.evaluate.records import METRIC_ORDER, Report
from fathom.evaluate.statistics import PairedDifference, bootstrap_intervals

SHORT_METRICS = ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3")
"""Metrics of tables with several rows."""

METRIC_TABLE = "Metric predictions, as they are"
FITTED_TABLE = "Fitted to the test ground truth (not comparable with the rows above)"


def report_markdown(report: Report, *, num_worst: int = 5) -> str:
    """Write one report.

    Args:
        report: The report.
        num_worst: How many of the worst images are listed.

    Returns:
        Markdown.
    """
    protocol = report.protocol
    intervals = bootstrap_intervals(report)
    per_image, pooled = report.per_image(), report.pooled()
    lines = [
        f"# {report.model} under {protocol.label}",
        "",
        f"{report.num_images} images, {report.num_pixels} pixels, {report.kind.value}, average {protocol.average}.",
        *(f"- {note}" for note in report.notes()),
        "",
        f"| metric ({protocol.label}) | score | 95 % interval | per image | pooled |",
        "|---|---|---|---|---|",
    ]
    for name in METRIC_ORDER:
        if name in intervals:
            found = intervals[name]
            pooled_text = f"{pooled[name]:.4f}" if name in pooled else ""
            lines.append(
                f"| {name} | {found.value:.4f} | {found.low:.4f} to {found.high:.4f} | {per_image[name]:.4f} | "
                f"{pooled_text} |"
            )
    lines += [
        "",
        "## By distance (pooled)",
        "",
        *_parts({f"{a:g} to {b:g} m": v for (a, b), v in report.by_range().items()}),
    ]
    lines += ["", "## Near depth edges and elsewhere (pooled)", "", *_parts(report.by_edge())]
    lines += ["", "## Worst images", "", "| image | abs_rel | rmse | delta1 | pixels |", "|---|---|---|---|---|"]
    lines += [
        f"| {record.name} | {record.scores['abs_rel']:.4f} | {record.scores['rmse']:.4f} | "
        f"{record.scores['delta1']:.4f} | {record.sums.num_pixels} |"
        for record in report.worst(num_worst)
    ]
    if report.skipped:
        lines += ["", "## Skipped images", "", *(f"- {item.name}: {item.reason}" for item in report.skipped)]
    lines += ["", "## Protocol", "", f"{protocol.source}", "", "```yaml", *_protocol_lines(report), "```"]
    if report.weights_sha256:
        lines += ["", f"Weights: sha256 {report.weights_sha256}."]
    return "\n".join(lines) + "\n"


def models_markdown(reports: Sequence[Report], differences: Mapping[str, Sequence[PairedDifference]]) -> str:
    """Write several models under one protocol beside each other, with paired differences to the first.

    Args:
        reports: Reports of one protocol.
        differences: Paired differences to the first, by the name of the other model.

    Returns:
        Markdown.

    Raises:
        ConfigError: If the protocols differ.
    """
    hashes = sorted({report.protocol.label for report in reports})
    if len({report.protocol.hash for report in reports}) != 1:
        raise ConfigError(f"One table holds one protocol; got {', '.join(hashes)}. Score all models under one.")
    lines = [f"# {len(reports)} models under {reports[0].protocol.label}", ""]
    if reports[0].protocol.uses_ground_truth:
        lines += ["Every row is fitted to the test ground truth.", ""]
    lines += _score_table([(report.model, report) for report in reports], "model")
    for name, rows in differences.items():
        lines += [
            "",
            f"## {name} minus {reports[0].model} ({rows[0].num_images} shared images)",
            "",
            "| metric | difference | 95 % interval | p | better |",
            "|---|---|---|---|---|",
        ]
        words = {"first": reports[0].model, "second": name, "undecided": "undecided"}
        lines += [
            f"| {row.metric} | {row.difference:+.4f} | {row.low:+.4f} to {row.high:+.4f} | {row.p_value:.4f} | "
            f"{words[row.better]} |"
            for row in rows
            if row.metric in SHORT_METRICS
        ]
    return "\n".join(lines) + "\n"


def protocols_markdown(model: str, results: Mapping[str, Report | FathomError]) -> str:
    """Write how the same predictions move from protocol to protocol.

    Args:
        model: Name of the model.
        results: Report, or why there is none, by the name of the protocol.

    Returns:
        Markdown: one table of metric rows, another of rows fitted to the ground truth, then what was refused.
    """
    lines = [f"# {model} under {len(results)} protocols", ""]
    done = [(name, report) for name, report in results.items() if isinstance(report, Report)]
    for title, fitted in ((METRIC_TABLE, False), (FITTED_TABLE, True)):
        rows = [(r.protocol.label, r) for _, r in done if r.protocol.uses_ground_truth is fitted]
        if rows:
            lines += [f"## {title}", "", *_score_table(rows, "protocol"), ""]
    refused: dict[str, list[str]] = {}
    for name, error in results.items():
        if not isinstance(error, Report):
            refused.setdefault(str(error), []).append(name)
    if refused:
        lines += ["## Protocols that cannot score these predictions", ""]
        lines += [f"- {', '.join(names)}: {reason}" for reason, names in refused.items()]
    return "\n".join(lines).rstrip() + "\n"


def _score_table(rows: Sequence[tuple[str, Report]], first: str) -> list[str]:
    lines = [f"| {first} | images | {' | '.join(SHORT_METRICS)} |", f"|---|---|{'---|' * len(SHORT_METRICS)}"]
    for name, report in rows:
        scores = report.scores
        images = f"{report.num_images}" + (" (partial)" if report.is_partial else "")
        images += f", {len(report.skipped)} skipped" if report.skipped else ""
        lines.append(f"| {name} | {images} | {' | '.join(f'{scores[m]:.4f}' for m in SHORT_METRICS)} |")
    return lines


def _parts(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    shown = ("abs_rel", "rmse", "mae", "delta1")
    lines = [f"| part | share of pixels | {' | '.join(shown)} |", f"|---|---|{'---|' * len(shown)}"]
    for name, scores in parts.items():
        lines.append(f"| {name} | {scores['share']:.1%} | {' | '.join(f'{scores[m]:.4f}' for m in shown)} |")
    return lines


def _protocol_lines(report: Report) -> list[str]:
    import yaml

    return yaml.safe_dump(
        report.protocol.model_dump(mode="json"), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    ).splitlines()
