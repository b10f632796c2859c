"""Does an export give the same depth as its source? Both predict real pictures of several sizes, and are compared.

Two maps of one picture from one model need no alignment: they must agree as they are, whatever their kind. So the
metrics of depth are taken on the raw values, with the source as the target.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import InputError
from fathom.io import read_image, write_atomic
from fathom.metrics.depth import abs_rel, delta
from fathom.models.cards import InputSpec
from fathom.runtime.base import Runtime
from fathom.runtime.steps import postprocess, preprocess
from fathom.types import DepthKind, Provenance

FloatMap = npt.NDArray[np.float32]

PHOTO_FOLDER = Path(__file__).resolve().parents[1] / "demo"
"""The package's own photographs: four sizes and shapes."""
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
NUM_SIZES = 3
FLOOR = 0.01
"""Values below this share of the 95th percentile count as so large in a relative difference: an inverse depth is zero
at the horizon, and a ratio to zero says nothing."""
REACH = 10.0
"""How much farther the farthest hundredth is taken to be than the nearest, where a map leaves its zero open."""
FLAT = 1e-3
"""An output whose spread is less than this share of the source's is constant: the network is not running."""


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from its source; the worst picture counts.

    Args:
        max_relative: Largest relative difference of any pixel.
        mean_relative: Largest mean relative difference.
        min_delta1: Smallest share of pixels within a factor of 1.25.
    """

    max_relative: float
    mean_relative: float
    min_delta1: float


TOLERANCES = {
    "fp32": Tolerance(0.05, 1e-3, 0.9999),
    "fp16": Tolerance(0.25, 1e-2, 0.999),
    "bf16": Tolerance(1.0, 3e-2, 0.99),
    "int8": Tolerance(float("inf"), 0.1, 0.97),
    "int8-weights": Tolerance(float("inf"), 0.05, 0.98),
    "int8-dynamic": Tolerance(float("inf"), 0.1, 0.97),
}
"""By the precision that is stored. float32 differs by the order of its sums and by a grey level in a resize."""


@dataclass(frozen=True)
class PictureParity:
    """The comparison on one picture.

    Args:
        picture: Its name.
        height: Rows [px].
        width: Columns [px].
        input_height: Rows of the network's input [px].
        input_width: Columns of the network's input [px].
        max_relative: Largest relative difference.
        mean_relative: Mean relative difference.
        abs_rel: Mean of |export - source| / source, over pixels above the floor.
        delta1: Share of those pixels within a factor of 1.25. All these of affine-invariant maps after `choose_zero`.
        num_not_finite: Pixels that are NaN or infinite in the export and not in the source.
        spread: Standard deviation of the export over that of the source.
    """

    picture: str
    height: int
    width: int
    input_height: int
    input_width: int
    max_relative: float
    mean_relative: float
    abs_rel: float
    delta1: float
    num_not_finite: int
    spread: float


@dataclass(frozen=True)
class ParityReport:
    """The comparison on all pictures.

    Args:
        source: Name of the model.
        artefact: Name of the file.
        runtime: What ran it.
        rows: One for each picture.
        tolerance: What was allowed.
        tools: Versions of the packages involved.
        failures: What was wrong, one sentence each; empty for a good export.
    """

    source: str
    artefact: str
    runtime: str
    rows: tuple[PictureParity, ...]
    tolerance: Tolerance
    tools: dict[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def worst(self) -> dict[str, float]:
        """The worst of each measure over the pictures."""
        return {
            "max_relative": max(row.max_relative for row in self.rows),
            "mean_relative": max(row.mean_relative for row in self.rows),
            "abs_rel": max(row.abs_rel for row in self.rows),
            "delta1": min(row.delta1 for row in self.rows),
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinite limits become null."""
        values = asdict(self)
        values["worst"] = self.worst
        return _finite(values)  # type: ignore[no-any-return]

    def markdown(self) -> str:
        """Return a table for people."""
        lines = [
            f"# Parity of {self.artefact} ({self.runtime}) with {self.source}",
            "",
            "| picture | size | input | max rel. | mean rel. | AbsRel | delta1 | not finite |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            lines.append(
                f"| {row.picture} | {row.height}x{row.width} | {row.input_height}x{row.input_width} "
                f"| {row.max_relative:.2e} | {row.mean_relative:.2e} | {row.abs_rel:.2e} | {row.delta1:.5f} "
                f"| {row.num_not_finite} |"
            )
        limits = self.tolerance
        lines += [
            "",
            f"Allowed: max {limits.max_relative:g}, mean {limits.mean_relative:g}, delta1 at least "
            f"{limits.min_delta1:g}. {'Failed: ' + ' '.join(self.failures) if self.failures else 'Passed.'}",
            "Tools: " + ", ".join(f"{name} {version}" for name, version in self.tools.items()),
            "",
        ]
        return "\n".join(lines)

    def save(self, stem: Path) -> list[Path]:
        """Write ``STEM.json`` and ``STEM.md``."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        return [
            write_atomic(stem.with_name(stem.name + ".json"), [text.encode()]),
            write_atomic(stem.with_name(stem.name + ".md"), [self.markdown().encode()]),
        ]


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values


def find_pictures(folder: str | Path | None = None, *, limit: int | None = None) -> list[Path]:
    """List the pictures of a folder and of its sub-folders; by default the package's own photographs.

    Args:
        folder: Folder of pictures.
        limit: Take so many, spread evenly over the sorted names.

    Raises:
        InputError: If there are none.
    """
    root = Path(folder) if folder is not None else PHOTO_FOLDER
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"Expected pictures in the folder {root}; found none ({', '.join(PICTURE_SUFFIXES)}).")
    if limit is not None and len(found) > limit:
        found = [found[index * len(found) // limit] for index in range(limit)]
    return found


def load_pictures(paths: Sequence[Path]) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Read pictures so that at least three sizes are among them; where the files have fewer, some are cut smaller."""
    pictures = [(path.stem, read_image(path).rgb) for path in paths]
    shares = iter(((0.75, 1.0), (1.0, 0.6), (0.5, 0.7), (0.9, 0.55)))
    index = 0
    while len({rgb.shape for _, rgb in pictures}) < NUM_SIZES:
        name, rgb = pictures[index]
        down, across = next(shares)
        cut = np.ascontiguousarray(rgb[: max(1, int(rgb.shape[0] * down)), : max(1, int(rgb.shape[1] * across))])
        pictures.append((f"{name} (cut)", cut))
        index += 1
    return pictures


def run_picture(runtime: Runtime, spec: InputSpec, rgb: npt.NDArray[np.uint8], kind: DepthKind) -> FloatMap:
    """Predict one picture with the shared steps; returns the values (H, W), whatever they are."""
    prepared = preprocess(rgb, spec)
    raw = runtime.run(prepared.array)[0]
    return np.asarray(postprocess(raw, prepared, kind=kind, camera=None, provenance=Provenance("parity")).values)


def compare(got: FloatMap, expected: FloatMap) -> dict[str, Any]:
    """Compare two maps of one picture.

    Args:
        got: The export's, shape (H, W).
        expected: The source's, in the same unit.

    Returns:
        The measures of `PictureParity` by name.

    Example:
        >>> expected = np.array([[1.0, 2.0, 4.0]], np.float32)
        >>> row = compare(expected * 1.5, expected)
        >>> round(row["mean_relative"], 6), row["delta1"], row["num_not_finite"]
        (0.5, 0.0, 0)
    """
    known = np.isfinite(expected)
    broken = known & ~np.isfinite(got)
    use = known & ~broken
    if not use.any():
        worst = {"max_relative": np.inf, "mean_relative": np.inf, "abs_rel": np.inf, "delta1": 0.0, "spread": 0.0}
        return {**worst, "num_not_finite": int(broken.sum())}
    target, pred = expected[use].astype(np.float64), got[use].astype(np.float64)
    floor: float = max(FLOOR * float(np.percentile(np.abs(target), 95)), float(np.finfo(np.float32).tiny))
    relative = np.abs(pred - target) / np.maximum(np.abs(target), floor)
    above = target > floor
    positive = np.maximum(pred, floor * 1e-3)
    spread = float(target.std())
    return {
        "max_relative": float(relative.max()),
        "mean_relative": float(relative.mean()),
        "abs_rel": abs_rel(positive, target, above) if above.any() else 0.0,
        "delta1": delta(positive, target, above) if above.any() else 1.0,
        "num_not_finite": int(broken.sum()),
        "spread": float(pred.std()) / spread if spread > 0 else 1.0,
    }


def choose_zero(got: FloatMap, expected: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Move two affine-invariant maps by one number, so that ratios mean something.

    The zero of such a map is arbitrary, and near it a ratio says nothing: what the map leaves open decides it. Here the
    source's nearest hundredth becomes `REACH` times its farthest.

    Args:
        got: The export's, shape (H, W).
        expected: The source's.

    Example:
        >>> expected = np.linspace(-3.0, 5.0, 1001, dtype=np.float32)[None]
        >>> moved = choose_zero(expected, expected)[1]
        >>> near, far = np.percentile(moved, [99, 1])
        >>> round(float(near / far), 3)
        10.0
    """
    known = expected[np.isfinite(expected)]
    if not known.size:
        return got, expected
    far, near = (float(value) for value in np.percentile(known, [1, 99]))
    offset = np.float32((near - far) / (REACH - 1) - far) if near > far else np.float32(0)
    return got + offset, expected + offset


def check_parity(
    source: Runtime,
    export: Runtime,
    pictures: Iterable[tuple[str, npt.NDArray[np.uint8]]],
    *,
    source_spec: InputSpec,
    export_spec: InputSpec,
    kind: DepthKind,
    tolerance: Tolerance,
    source_name: str,
    artefact: str,
    tools: dict[str, str],
) -> ParityReport:
    """Predict every picture with both, and compare.

    Args:
        source: The source's runtime.
        export: The export's runtime.
        pictures: Names and RGB pictures, uint8 (H, W, 3).
        source_spec: Input law for the source; that of the export, so that only the export is judged.
        export_spec: Input law of the export.
        kind: What the values are.
        tolerance: What is allowed.
        source_name: For the report.
        artefact: For the report.
        tools: For the report.

    Returns:
        The report; its `failures` say what is beyond the tolerance.
    """
    rows = []
    for name, rgb in pictures:
        expected = run_picture(source, source_spec, rgb, kind)
        got = run_picture(export, export_spec, rgb, kind)
        if kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
            got, expected = choose_zero(got, expected)
        grid = preprocess(rgb, source_spec).array.shape
        height, width = rgb.shape[:2]
        rows.append(PictureParity(name, height, width, grid[2], grid[3], **compare(got, expected)))
    return ParityReport(
        source_name, artefact, export.name, tuple(rows), tolerance, tools, tuple(_failures(rows, tolerance))
    )


def _failures(rows: Sequence[PictureParity], tolerance: Tolerance) -> list[str]:
    found = []
    for row in rows:
        if row.num_not_finite:
            found.append(f"{row.picture}: {row.num_not_finite} values are NaN or infinite.")
        if row.spread < FLAT:
            found.append(f"{row.picture}: the output is constant.")
        for name, value, limit, bad in (
            (
                "largest relative difference",
                row.max_relative,
                tolerance.max_relative,
                row.max_relative > tolerance.max_relative,
            ),
            (
                "mean relative difference",
                row.mean_relative,
                tolerance.mean_relative,
                row.mean_relative > tolerance.mean_relative,
            ),
            ("delta1", row.delta1, tolerance.min_delta1, row.delta1 < tolerance.min_delta1),
        ):
            if bad:
                found.append(f"{row.picture}: {name} {value:.3g}, allowed {limit:g}.")
    return found
