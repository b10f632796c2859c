"""Say which switch accounts for how much of the gap between two reports.

Both are scored again while the switches are moved from the first report to the second, one after the other. What a
switch does depends on those already moved, so it is done twice, forwards and backwards, and the mean of the two is its
share. The shares add up to the gap exactly. (With two switches this is the Shapley value.)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fathom.config import parse_config
from fathom.errors import ConfigError, InputError, KindError
from fathom.evaluate.loop import Predict, evaluate
from fathom.evaluate.records import Report
from fathom.evaluate.sources import SavedPredictions, open_source
from fathom.protocol import Protocol
from fathom.types import Sample

SECTIONS = (
    "image_crop",
    "test_time",
    "intrinsics",
    "target_size",
    "score_crop",
    "resize",
    "range",
    "clamp",
    "missing_prediction",
    "alignment",
    "average",
    "metrics",
)
"""Sections of a protocol, each moved as one, in the order in which they act."""

OpenData = Callable[[Mapping[str, Any]], Iterable[Sample]]
OpenPredictions = Callable[[Mapping[str, Any]], Predict | SavedPredictions]


@dataclass(frozen=True)
class Share:
    """What one switch does.

    Attributes:
        switch: Its name; joined switches have a plus between them.
        first: Its value in the first report.
        second: Its value in the second.
        shares: Its part of the gap, by metric; they add up to the gap over all switches.
    """

    switch: str
    first: str
    second: str
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Explanation:
    """The gap between two reports, switch by switch.

    Attributes:
        first: Scores of the first report, scored again.
        second: Scores of the second.
        labels: Model and protocol of each.
        shares: One for each switch that differs, the largest share of AbsRel first.
    """

    first: Mapping[str, float]
    second: Mapping[str, float]
    labels: tuple[str, str]
    shares: tuple[Share, ...]

    def markdown(self, metrics: Sequence[str] = ("abs_rel", "rmse", "delta1")) -> str:
        """Write the table."""
        shown = [name for name in metrics if name in self.first and name in self.second]
        lines = [
            f"Gap from **{self.labels[0]}** to **{self.labels[1]}**",
            "",
            f"| switch | from | to | {' | '.join(shown)} |",
            f"|---|---|---|{'---|' * len(shown)}",
            f"| {self.labels[0]} | | | {' | '.join(f'{self.first[name]:.4f}' for name in shown)} |",
        ]
        for share in self.shares:
            cells = " | ".join(f"{share.shares[name]:+.4f}" for name in shown)
            lines.append(f"| {share.switch} | {share.first} | {share.second} | {cells} |")
        lines.append(f"| {self.labels[1]} | | | {' | '.join(f'{self.second[name]:.4f}' for name in shown)} |")
        if not self.shares:
            lines += ["", "Nothing differs: the same protocol, images and predictions."]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "first": {"label": self.labels[0], "scores": dict(self.first)},
            "second": {"label": self.labels[1], "scores": dict(self.second)},
            "shares": [
                {"switch": s.switch, "from": s.first, "to": s.second, "shares": dict(s.shares)} for s in self.shares
            ],
        }


def explain(
    first: Report,
    second: Report,
    *,
    open_predictions: OpenPredictions | None = None,
    open_data: OpenData | None = None,
) -> Explanation:
    """Split the gap between two reports into the parts that each differing switch accounts for.

    Beside the sections of the protocols, the data (another ground truth or another reader), the set of images, and the
    predictions count as one switch each. Switches that only make sense together, because no protocol with just one of
    them moved can score the predictions, are joined.

    Args:
        first: One report.
        second: Another one.
        open_predictions: Gives the predictions that ``report.source["predictions"]`` describes; default: saved
            predictions in a folder.
        open_data: Gives the samples that ``report.source["data"]`` describes; default: `open_source`.

    Returns:
        The explanation.

    Raises:
        InputError: If a report does not say where its data or predictions lie, or they share no image.
        FathomError: As `fathom.evaluate.evaluate`.
    """
    make_predictions, make_data = open_predictions or _open_saved, open_data or open_source
    sides = (_Side(first, make_predictions, make_data), _Side(second, make_predictions, make_data))
    switches = _differing(first, second)
    cache: dict[frozenset[str], dict[str, float]] = {}

    def score(moved: frozenset[str]) -> dict[str, float]:
        if moved not in cache:
            cache[moved] = _score_state(sides, moved)
        return cache[moved]

    everything = frozenset(switches)
    ends = score(frozenset()), score(everything)
    metrics = [name for name in ends[0] if name in ends[1]]
    groups = [[name] for name in switches]
    shares = _shares(groups, score, metrics)
    rows = [
        Share(
            " + ".join(group),
            "; ".join(switches[name][0] for name in group),
            "; ".join(switches[name][1] for name in group),
            part,
        )
        for group, part in zip(groups, shares, strict=True)
    ]
    rows.sort(key=lambda row: -abs(row.shares["abs_rel"]))
    return Explanation(ends[0], ends[1], (_label(first), _label(second)), tuple(rows))


class _Side:
    """What one report was made from; opened when it is first needed."""

    def __init__(self, report: Report, open_predictions: OpenPredictions, open_data: OpenData) -> None:
        self.report = report
        self.names = frozenset(record.name for record in report.records)
        self._open_predictions, self._open_data = open_predictions, open_data

    @cached_property
    def samples(self) -> Any:
        """The samples."""
        return self._open_data(_described(self.report, "data"))

    @cached_property
    def predict(self) -> Predict | SavedPredictions:
        """The predictions."""
        return self._open_predictions(_described(self.report, "predictions"))


def _described(report: Report, what: str) -> Mapping[str, Any]:
    described = report.source.get(what)
    if not described:
        raise InputError(
            f"The report of {report.model} does not say where its {what} lie, so it cannot be scored again. Make it "
            "with fathom evaluate --predictions DIR --data D, or pass `source` to fathom.evaluate.evaluate."
        )
    found: Mapping[str, Any] = described
    return found


def _open_saved(described: Mapping[str, Any]) -> SavedPredictions:
    if "folder" not in described:
        raise InputError("This report was made by running a model. Explain it with fathom evaluate explain.")
    return SavedPredictions.from_json(described)


def _differing(first: Report, second: Report) -> dict[str, tuple[str, str]]:
    """List the switches that differ, with what they are in each report."""
    found: dict[str, tuple[str, str]] = {}
    data = tuple(report.source.get("data") for report in (first, second))
    truth = tuple(report.protocol.split.ground_truth for report in (first, second))
    if data[0] != data[1] or truth[0] != truth[1]:
        found["data"] = (_words(data[0], data[1], truth[0]), _words(data[1], data[0], truth[1]))
    names = [{record.name for record in report.records} for report in (first, second)]
    if names[0] != names[1]:
        found["images"] = (f"{len(names[0])} images", f"{len(names[1])} images")
    made = tuple(report.source.get("predictions") for report in (first, second))
    if made[0] != made[1]:
        found["predictions"] = (first.model, second.model)
    values = [report.protocol.model_dump(mode="json") for report in (first, second)]
    for section in SECTIONS:
        one, two = values[0][section], values[1][section]
        if isinstance(one, dict) and isinstance(two, dict) and section == "score_crop":
            # Only the numbers count; a label alone is no difference.
            if {**one, "name": ""} == {**two, "name": ""}:
                continue
        if one != two:
            found[section] = (_words(one, two), _words(two, one))
    return found


def _words(value: Any, other: Any, extra: str = "") -> str:
    """Write a section short: only the fields that differ from the other report."""
    if isinstance(value, dict):
        against = other if isinstance(other, dict) else {}
        parts = [f"{key} {item}" for key, item in value.items() if item != against.get(key)]
        text = str(value["name"]) if "name" in value and "rows" in value else ", ".join(parts)
    else:
        text = "none" if value is None else str(value)
    return ", ".join(part for part in (text, extra) if part)


def _score_state(sides: tuple[_Side, _Side], moved: frozenset[str]) -> dict[str, float]:
    """Score with the moved switches as in the second report, and the others as in the first."""

    def side(switch: str) -> _Side:
        return sides[switch in moved]

    base = sides[0].report.protocol
    changes = {name: getattr(side(name).report.protocol, name) for name in SECTIONS}
    split = side("data").report.protocol.split.model_copy(update={"images": None})
    values = base.model_copy(update={**changes, "split": split}).model_dump(mode="json")
    report = evaluate(
        side("predictions").predict,
        side("data").samples,
        # Validated anew: not every mixture of two protocols is one.
        parse_config(values, Protocol, source="mixed protocol"),
        is_partial=True,
        boundary=all("boundary_f1" in one.report.records[0].scores for one in sides),
    )
    wanted = side("images").names
    kept = tuple(record for record in report.records if record.name in wanted)
    if not kept:
        raise InputError("The two reports share no image under one of their data sets; nothing can be compared.")
    return replace(report, records=kept).scores


def _shares(
    groups: list[list[str]], score: Callable[[frozenset[str]], dict[str, float]], metrics: Sequence[str]
) -> list[dict[str, float]]:
    """Move the groups one after the other, forwards and backwards; join those that cannot be moved alone."""
    while True:
        totals = [dict.fromkeys(metrics, 0.0) for _ in groups]
        failed: tuple[int, int] | None = None
        for order in (range(len(groups)), range(len(groups) - 1, -1, -1)):
            moved: frozenset[str] = frozenset()
            positions = list(order)
            for step, position in enumerate(positions):
                before, moved = moved, moved | frozenset(groups[position])
                try:
                    after, earlier = score(moved), score(before)
                except (ConfigError, KindError, InputError):
                    # No protocol with just this one moved can score these predictions.
                    failed = (position, positions[step + 1])
                    break
                for name in metrics:
                    totals[position][name] += 0.5 * (after[name] - earlier[name])
            if failed is not None:
                break
        if failed is None:
            return totals
        low, high = sorted(failed)
        groups[low : high + 1] = [groups[low] + groups[high]]


def _label(report: Report) -> str:
    return f"{report.model} under {report.protocol.label}"
