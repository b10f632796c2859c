"""How sure a score is: bootstrap intervals over images, and paired tests between two models.

Published differences are often below one per cent, and a test set of some hundred images moves scores by as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from fathom.errors import ConfigError, EmptyMaskError
from fathom.evaluate.records import HIGHER_IS_BETTER, ImageRecord, Report
from fathom.metrics.depth import DepthSums
from fathom.metrics.scoring import scores_from_sums

NUM_RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The difference of one score between two models on the same images.

    Attributes:
        metric: Name of the score.
        first: Score of the first model.
        second: Score of the second model.
        difference: Second minus first.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end.
        p_value: Chance of a difference at least this large if the two were exchangeable in every image (sign flips of
            the per-image differences).
        num_images: Number of shared images.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    num_images: int

    @property
    def better(self) -> str:
        """Which model is better, ``"first"``, ``"second"``, or ``"undecided"`` where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "undecided"
        return "second" if (self.difference > 0) == (self.metric in HIGHER_IS_BETTER) else "first"


def bootstrap_intervals(report: Report) -> dict[str, Interval]:
    """Compute a 95 % percentile interval for each score, by drawing images with replacement.

    Images are drawn whole, because the pixels of one image are not independent; a pooled average is pooled again in
    each draw.

    Args:
        report: A report.

    Returns:
        Intervals by metric, for the averaging of the protocol.

    Raises:
        EmptyMaskError: If no image was scored.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = report.scores
    draws = _resampled(report, _weights(report.num_images))
    result = {}
    for metric, value in values.items():
        low, high = _percentiles(draws[metric])
        result[metric] = Interval(value, low, high)
    return result


def compare_reports(first: Report, second: Report) -> list[PairedDifference]:
    """Compare two models on the images that both were scored on.

    Args:
        first: One report.
        second: Another, under the same protocol.

    Returns:
        One difference for each score.

    Raises:
        ConfigError: If the protocols differ: their numbers cannot be compared.
        EmptyMaskError: If no image is in both.
    """
    if first.protocol.hash != second.protocol.hash:
        raise ConfigError(
            f"Only scores of one protocol can be compared; got {first.protocol.label} ({first.model}) and "
            f"{second.protocol.label} ({second.model}). Score both under one, or see what the difference does: "
            "fathom evaluate explain."
        )
    one, two = shared_images(first, second)
    weights = _weights(one.num_images)
    draws_one, draws_two = _resampled(one, weights), _resampled(two, weights)
    scores_one, scores_two = one.scores, two.scores
    result = []
    for metric in scores_one:
        if metric not in scores_two:
            continue
        low, high = _percentiles(draws_two[metric] - draws_one[metric])
        differences = np.array(
            [b.scores[metric] - a.scores[metric] for a, b in zip(one.records, two.records, strict=True)]
        )
        result.append(
            PairedDifference(
                metric,
                scores_one[metric],
                scores_two[metric],
                scores_two[metric] - scores_one[metric],
                low,
                high,
                sign_flip_p_value(differences),
                one.num_images,
            )
        )
    return result


def sign_flip_p_value(differences: NDArray[np.float64]) -> float:
    """Test whether paired differences have mean 0, by flipping their signs at random (two-sided).

    Args:
        differences: One difference for each image, shape (N,).

    Returns:
        The p-value, never below ``1 / (NUM_RESAMPLES + 1)``.

    Example:
        >>> sign_flip_p_value(np.zeros(10))
        1.0
        >>> sign_flip_p_value(np.full(20, 0.3)) < 0.001
        True
    """
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), size=(NUM_RESAMPLES, differences.size))
    observed = abs(float(differences.mean()))
    # The margin keeps equal means equal, whatever the order of the sum.
    as_large = np.abs(signs @ differences / differences.size) >= observed * (1 - 1e-12)
    return float((1 + np.count_nonzero(as_large)) / (1 + NUM_RESAMPLES))


def shared_images(first: Report, second: Report) -> tuple[Report, Report]:
    """Keep the images that both reports scored, in the order of the first.

    Raises:
        EmptyMaskError: If there is none.
    """
    of_second = {record.name: record for record in second.records}
    shared = [record for record in first.records if record.name in of_second]
    if not shared:
        raise EmptyMaskError(
            f"{first.model} and {second.model} share no scored image. Score both on the same data; images are matched "
            "by name."
        )
    return _with_records(first, shared), _with_records(second, [of_second[record.name] for record in shared])


def _with_records(report: Report, records: list[ImageRecord]) -> Report:
    return replace(report, records=tuple(records))


def _weights(num_images: int) -> NDArray[np.float64]:
    """How often each image is drawn, shape (NUM_RESAMPLES, num_images)."""
    if num_images == 0:
        raise EmptyMaskError("At least one scored image is needed; got none. Check the masks and the crop.")
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_RESAMPLES)
    return np.asarray(draws, np.float64)


def _resampled(report: Report, weights: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
    """Return each score for each draw of images."""
    if report.protocol.average == "per_image":
        names = list(report.records[0].scores)
        table = np.array([[record.scores[name] for name in names] for record in report.records])
        means = weights @ table / report.num_images
        return {name: means[:, column] for column, name in enumerate(names)}
    rows = np.array([[getattr(record.sums, f.name) for f in fields(DepthSums)] for record in report.records])
    draws = [scores_from_sums(DepthSums(*row), report.protocol) for row in (weights @ rows).tolist()]
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50.0 * (1 - CONFIDENCE)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
