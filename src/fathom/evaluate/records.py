"""What an evaluation leaves behind: a record for each image, and the report that averages them."""

import functools
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from fathom.config import parse_config
from fathom.errors import InputError
from fathom.io.atomic import write_atomic
from fathom.metrics.depth import DepthSums, average_per_image
from fathom.metrics.scoring import ImageScore, scores_from_sums
from fathom.protocol import Protocol
from fathom.types import DepthKind
from fathom.version import __version__

FORMAT = "fathom-report-1"

METRIC_ORDER = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
    "mae",
    "mse",
    "irmse",
    "imae",
    "median_ae",
    "d1",
    "boundary_f1",
    "boundary_precision",
    "boundary_recall",
)
"""The order in which tables show the scores that are there."""

HIGHER_IS_BETTER = ("delta1", "delta2", "delta3", "boundary_f1", "boundary_precision", "boundary_recall")


@dataclass(frozen=True)
class ImageRecord:
    """One scored image.

    Attributes:
        name: Name of the sample.
        scores: Metric values by name.
        sums: Sums over its scored pixels.
        by_range: Sums for each distance range, by (from, to) [m].
        by_edge: Sums near depth edges (``"edge"``) and elsewhere (``"flat"``).
        scale: Factor of the fit; 1 without one.
        shift: Shift of the fit; 0 without one.
        far_limit: Depth that a fitted inverse depth of 0 or below became [m].
        num_missing: Scored pixels without a prediction.
        max_pred: Largest depth that was scored [m].
    """

    name: str
    scores: Mapping[str, float]
    sums: DepthSums
    by_range: Mapping[tuple[float, float], DepthSums]
    by_edge: Mapping[str, DepthSums]
    scale: float
    shift: float
    far_limit: float
    num_missing: int
    max_pred: float

    @classmethod
    def from_score(cls, name: str, score: ImageScore) -> Self:
        """Name a score."""
        return cls(
            name,
            score.scores,
            score.sums,
            score.by_range,
            score.by_edge,
            score.fit.scale,
            score.fit.shift,
            score.fit.far_limit,
            score.num_missing,
            score.max_pred,
        )


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be scored, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """All scores of one model under one protocol.

    Attributes:
        model: Name of the model or of the folder of predictions.
        protocol: How it was scored.
        kind: What the predictions are.
        records: One for each scored image, in the order of the data.
        skipped: Images that could not be scored.
        is_partial: Whether another number of images was allowed than the protocol states.
        weights_sha256: Hash of the weights, where known.
        source: Where data and predictions lie, so that `explain` can score them again.
        version: Version of Fathom.
    """

    model: str
    protocol: Protocol
    kind: DepthKind
    records: tuple[ImageRecord, ...]
    skipped: tuple[SkippedImage, ...] = ()
    is_partial: bool = False
    weights_sha256: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    @property
    def num_images(self) -> int:
        """Number of scored images."""
        return len(self.records)

    @property
    def scores(self) -> dict[str, float]:
        """Scores in the protocol's averaging."""
        return self.pooled() if self.protocol.average == "pooled" else self.per_image()

    def per_image(self) -> dict[str, float]:
        """Average over images of each image's score."""
        return average_per_image([dict(record.scores) for record in self.records])

    def pooled(self) -> dict[str, float]:
        """Score all pixels at once; scores that are no sums (median_ae, d1, boundary) are left out."""
        return scores_from_sums(add_up(record.sums for record in self.records), self.protocol)

    def by_range(self) -> dict[tuple[float, float], dict[str, float]]:
        """Pooled scores for each distance range of the target, by (from, to) [m]."""
        return self._parts("by_range")

    def by_edge(self) -> dict[str, dict[str, float]]:
        """Pooled scores near depth edges and elsewhere."""
        return self._parts("by_edge")

    def _parts(self, name: str) -> dict[Any, dict[str, float]]:
        parts: dict[Any, list[DepthSums]] = {}
        for record in self.records:
            for key, sums in getattr(record, name).items():
                parts.setdefault(key, []).append(sums)
        return {
            key: scores_from_sums(total, self.protocol) | {"share": total.num_pixels / self.num_pixels}
            for key, total in sorted((key, add_up(sums)) for key, sums in parts.items())
        }

    @property
    def num_pixels(self) -> int:
        """Number of scored pixels of all images."""
        return sum(record.sums.num_pixels for record in self.records)

    def worst(self, num: int, metric: str = "abs_rel") -> list[ImageRecord]:
        """Return the images with the worst score, the worst first."""
        sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
        return sorted(self.records, key=lambda record: sign * record.scores[metric])[:num]

    def notes(self) -> list[str]:
        """Say in sentences what a reader of the numbers must know."""
        protocol = self.protocol
        found: list[str] = []
        if self.is_partial:
            wanted = protocol.split.images
            found.append(
                f"Partial: {self.num_images} images were scored"
                + (f", {protocol.name} states {wanted}" if wanted else "")
                + ". Do not set these numbers beside published ones."
            )
        if self.skipped:
            found.append(f"{len(self.skipped)} images were skipped: {', '.join(s.name for s in self.skipped)}.")
        num_missing = sum(record.num_missing for record in self.records)
        if num_missing:
            outcome = "left out" if protocol.missing_prediction == "exclude" else "set to the far limit"
            found.append(f"{num_missing} scored pixels had no prediction and were {outcome}.")
        if protocol.uses_ground_truth:
            scales = np.array([record.scale for record in self.records])
            median = float(np.median(scales))
            spread = float(np.std(scales / median)) if median else float("nan")
            found.append(
                f"The predictions were fitted to the test ground truth ({protocol.alignment.method} in "
                f"{protocol.alignment.space}, one fit for each {protocol.alignment.unit}); fitted scales have median "
                f"{median:.4g} and relative spread {spread:.3f}."
            )
        elif protocol.clamp.max_depth is not None:
            reach, cap = max(record.max_pred for record in self.records), protocol.clamp.max_depth
            if reach < 0.95 * cap:
                found.append(f"No prediction exceeds {reach:.3g} m, while targets up to {cap:g} m are scored.")
        if protocol.intrinsics == "given":
            found.append("The model was given the true camera.")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "format": FORMAT,
            "model": self.model,
            "protocol_hash": self.protocol.hash,
            "protocol": self.protocol.model_dump(mode="json"),
            "kind": self.kind.value,
            "weights_sha256": self.weights_sha256,
            "fathom_version": self.version,
            "source": dict(self.source),
            "is_partial": self.is_partial,
            "num_images": self.num_images,
            "scores": self.scores,
            "scores_per_image": self.per_image(),
            "scores_pooled": self.pooled(),
            "by_range": [{"from": low, "to": high} | scores for (low, high), scores in self.by_range().items()],
            "by_edge": self.by_edge(),
            "notes": self.notes(),
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "images": [_record_to_json(record) for record in self.records],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], name: str = "report") -> Self:
        """Rebuild a report from `to_json`.

        Raises:
            InputError: If the values are no report.
        """
        if values.get("format") != FORMAT:
            raise InputError(
                f"{name} is not a report of fathom evaluate (its 'format' is {values.get('format')!r}, expected "
                f"'{FORMAT}'). Write one with fathom evaluate --out."
            )
        try:
            return cls(
                model=values["model"],
                protocol=parse_config(values["protocol"], Protocol, source=name),
                kind=DepthKind(values["kind"]),
                records=tuple(_record_from_json(item) for item in values["images"]),
                skipped=tuple(SkippedImage(**item) for item in values["skipped"]),
                is_partial=values["is_partial"],
                weights_sha256=values["weights_sha256"],
                source=values["source"],
                version=values["fathom_version"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{name} is a damaged report: {error}. Write it again with fathom evaluate.") from None

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON."""
        return write_atomic(path, [json.dumps(self.to_json(), indent=1).encode()])

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a report.

        Raises:
            InputError: If the file cannot be read or is no report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Expected a JSON report of fathom evaluate; cannot read '{path}': {error}.") from None
        if not isinstance(values, dict):
            raise InputError(f"Expected a JSON report of fathom evaluate; '{path}' holds no mapping.")
        return cls.from_json(values, str(path))


def add_up(sums: Iterable[DepthSums]) -> DepthSums:
    """Add the sums of several images; there must be at least one."""
    return functools.reduce(operator.add, sums)


def _sums_to_json(sums: DepthSums) -> list[float]:
    return [getattr(sums, f.name) for f in fields(sums)]


def _record_to_json(record: ImageRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "scores": dict(record.scores),
        "scale": record.scale,
        "shift": record.shift,
        "far_limit": record.far_limit,
        "num_missing": record.num_missing,
        "max_pred": record.max_pred,
        "sums": _sums_to_json(record.sums),
        "by_range": [[low, high, _sums_to_json(sums)] for (low, high), sums in record.by_range.items()],
        "by_edge": {key: _sums_to_json(sums) for key, sums in record.by_edge.items()},
    }


def _record_from_json(item: Mapping[str, Any]) -> ImageRecord:
    return ImageRecord(
        name=item["name"],
        scores=item["scores"],
        sums=DepthSums(*item["sums"]),
        by_range={(low, high): DepthSums(*sums) for low, high, sums in item["by_range"]},
        by_edge={key: DepthSums(*sums) for key, sums in item["by_edge"].items()},
        scale=item["scale"],
        shift=item["shift"],
        far_limit=item["far_limit"],
        num_missing=item["num_missing"],
        max_pred=item["max_pred"],
    )
