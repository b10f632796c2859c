"""Measure models on every development set, and print one table of metric and one of fitted predictions.

    python benchmarks/embedded.py --data DATA [--model M ...] [--sets nyu kitti360 7scenes middlebury] [--every N]
        [--teacher MODEL_OR_JSON] [--out FILE.json]

DATA holds nyuv2/, kitti360-mono/, 7scenes-redkitchen/ and middlebury/. A model is what `fathom predict --model` takes;
the classical baselines `mean-depth` and `mean-map`, made from train.txt, are measured on NYU alone. A metric model is
scored as it is where a set has a protocol for that, and after a fit of scale and shift like the relative ones; the
network runs once for both. All scores are those of `fathom evaluate` (its --protocol takes the files in
benchmarks/protocols/, too), with 95 % bootstrap intervals over images. `--teacher` adds the paired difference of delta1
to a model that is run as well, or to the one in a JSON that --out wrote before. Middlebury has no unit, so no RMSE.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.data import open_dataset
from fathom.data.base import DepthDataset, Subset
from fathom.errors import FathomError
from fathom.evaluate import Predict, Report, bootstrap_intervals, compare_reports, evaluate_protocols
from fathom.io.atomic import write_atomic
from fathom.predict import Predictor
from fathom.protocol import Protocol, load_protocol, score_mask
from fathom.types import Camera, Depth, DepthKind, FocalSource, Sample

PROTOCOLS = Path(__file__).resolve().parent / "protocols"
BASELINES = ("mean-depth", "mean-map")
SHOWN = {"abs_rel": "AbsRel", "rmse": "RMSE [m]", "log10": "log10", "delta1": "delta1", "boundary_f1": "boundary F1"}


@dataclass(frozen=True)
class DevelopmentSet:
    """Where a set lies below DATA, how it is read, and how it is scored."""

    folder: str
    reader: str
    split: str
    fitted: str
    metric: str | None = None
    is_dense: bool = False
    has_unit: bool = True

    def protocols(self, kind: DepthKind) -> list[Protocol]:
        """Return the protocols that can score a kind of prediction."""
        names = [self.metric, self.fitted] if self.metric and kind is DepthKind.METRIC_DEPTH else [self.fitted]
        files = {path.stem: path for path in PROTOCOLS.glob("*.yaml")}
        return [load_protocol(files.get(name, name)) for name in names]


SETS = {
    "nyu": DevelopmentSet("nyuv2", "nyu-folder", "val", "zero-shot-midas", "nyu-eigen", is_dense=True),
    "kitti360": DevelopmentSet("kitti360-mono", "kitti-360", "all", "zero-shot-kitti360"),
    "7scenes": DevelopmentSet("7scenes-redkitchen", "7-scenes", "all", "zero-shot-7scenes", "metric-7scenes"),
    "middlebury": DevelopmentSet("middlebury", "middlebury", "all", "zero-shot-middlebury", has_unit=False),
}


class WithoutUnit(DepthDataset):
    """Disparity as depth without a unit, 100 px over disparity, for a set whose camera is not published.

    Where the disparity was shifted when the pictures were cut, its reciprocal is not proportional to the depth, and the
    ratios that are scored are those of the shifted one.
    """

    def __init__(self, dataset: DepthDataset) -> None:
        self.dataset, self.name, self.split, self.kind = dataset, dataset.name, dataset.split, dataset.kind

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        sample = self.dataset.read(index)
        height, width = sample.target.shape
        camera = Camera.from_focal(100.0, height=height, width=width, source=FocalSource.ASSUMED)
        return replace(sample, camera=replace(camera, baseline_m=1.0))


@dataclass(frozen=True)
class Candidate:
    """A model, or a baseline that looks at no picture."""

    name: str
    kind: DepthKind
    predict: Predict
    how: str
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    set_name: str
    report: Report
    seconds: float
    how: str

    def to_json(self) -> dict[str, Any]:
        intervals = {name: [i.value, i.low, i.high] for name, i in bootstrap_intervals(self.report).items()}
        return {
            "set": self.set_name,
            "model": self.report.model,
            "protocol": self.report.protocol.label,
            "how": self.how,
            "seconds": round(self.seconds, 1),
            "intervals": intervals,
            "report": self.report.to_json(),
        }


def open_set(data: Path, name: str, every: int) -> DepthDataset:
    """Open every n-th sample of a set."""
    chosen = SETS[name]
    dataset = open_dataset(chosen.reader, data / chosen.folder, chosen.split)
    if not chosen.has_unit:
        dataset = WithoutUnit(dataset)
    return Subset(dataset, range(0, len(dataset), every), dataset.split) if every > 1 else dataset


def mean_maps(data: Path) -> tuple[float, NDArray[np.float32]]:
    """Return the mean depth of all scored pixels of NYU's train.txt, and the mean of each pixel [m]."""
    protocol = load_protocol("nyu-eigen")
    train = open_dataset("nyu-folder", data / SETS["nyu"].folder, "train")
    total, count = np.zeros((480, 640)), np.zeros((480, 640), np.int64)
    inside_total, inside_count = 0.0, 0
    for sample in train:
        usable = sample.valid_mask & (sample.target < protocol.range.max_depth)
        total += np.where(usable, sample.target, 0)
        count += usable
        scored = score_mask(protocol, sample.target, sample.valid_mask)
        inside_total += float(sample.target[scored].sum(dtype=np.float64))
        inside_count += int(np.count_nonzero(scored))
    mean = inside_total / inside_count
    return mean, np.where(count > 0, total / np.maximum(count, 1), mean).astype(np.float32)


def candidates(models: Sequence[str], sets: Sequence[str], data: Path) -> list[Candidate]:
    """Load models and make baselines, in the order they are named."""
    mean, mean_map = mean_maps(data) if "nyu" in sets and set(models) & set(BASELINES) else (1.0, np.ones((1, 1)))
    baselines = {"mean-depth": np.full(mean_map.shape, mean, np.float32), "mean-map": mean_map}
    found = []
    for name in models:
        if name in BASELINES:
            depth = Depth(baselines[name], DepthKind.METRIC_DEPTH)
            where = tuple(item for item in sets if item == "nyu")
            found.append(Candidate(name, depth.kind, constant(depth), "mean of train.txt", where))
        else:
            loaded = Predictor(name)
            how = f"{loaded.runtime} {loaded.precision}"
            found.append(Candidate(loaded.card.name, loaded.kind, loaded.predict, how, tuple(sets)))
    return found


def constant(depth: Depth) -> Callable[[Any], Depth]:
    return lambda image: depth


def measure(candidate: Candidate, set_name: str, data: Path, every: int) -> list[Row]:
    """Score one model on one set, under each protocol that can score it."""
    chosen = SETS[set_name]
    start = time.perf_counter()
    results = evaluate_protocols(
        candidate.predict,
        open_set(data, set_name, every),
        chosen.protocols(candidate.kind),
        model=candidate.name,
        is_partial=True,
        boundary=chosen.is_dense,
    )
    seconds = time.perf_counter() - start
    rows = []
    for result in results:
        if isinstance(result, FathomError):
            raise result
        rows.append(Row(set_name, result, seconds, candidate.how))
    return rows


def load_rows(path: Path) -> list[Row]:
    """Read what --out wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return [
        Row(item["set"], Report.from_json(item["report"], str(path)), item["seconds"], item["how"])
        for item in values["rows"]
    ]


def markdown(rows: Sequence[Row], teacher: Sequence[Row]) -> str:
    """Write one table of predictions as they are, and one of those fitted to the ground truth."""
    lines: list[str] = []
    for title, fitted in (("As they are", False), ("After a fit of scale and shift to the ground truth", True)):
        shown = [row for row in rows if row.report.protocol.uses_ground_truth is fitted]
        if not shown:
            continue
        against = {row.report.protocol.hash: row.report for row in teacher}
        differs = any(row.report.protocol.hash in against for row in shown)
        head = ["set", "model", "images", *SHOWN.values()]
        head += [f"delta1 minus {teacher[0].report.model}"] if differs else []
        head += ["seconds"]
        lines += [f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for row in sorted(shown, key=lambda row: list(SETS).index(row.set_name)):
            cells = [row.set_name, row.report.model, str(row.report.num_images), *score_cells(row)]
            if differs:
                cells.append(difference(against.get(row.report.protocol.hash), row.report))
            lines.append(f"| {' | '.join([*cells, f'{row.seconds:.0f}'])} |")
        labels = dict.fromkeys(f"{row.set_name} `{row.report.protocol.label}`" for row in shown)
        skipped = sum(len(row.report.skipped) for row in shown)
        lines += ["", f"Protocols: {', '.join(labels)}." + (f" {skipped} images were skipped." if skipped else ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def score_cells(row: Row) -> list[str]:
    """Write the scores of a row with their intervals."""
    found = bootstrap_intervals(row.report)
    cells = []
    for name in SHOWN:
        absent = name not in found or (name == "rmse" and not SETS[row.set_name].has_unit)
        cells.append("" if absent else f"{found[name].value:.3f} ({found[name].low:.3f}-{found[name].high:.3f})")
    return cells


def difference(teacher: Report | None, report: Report) -> str:
    """Write the paired difference of delta1, over the images that both were scored on."""
    if teacher is None or teacher.model == report.model:
        return ""
    [found] = [item for item in compare_reports(teacher, report) if item.metric == "delta1"]
    return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["fathom-general", "fathom-indoor", *BASELINES])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--every", type=int, default=1, help="Score only every n-th image of each set.")
    parser.add_argument("--teacher", help="Model, or JSON of an earlier run with one model, to compare delta1 with.")
    parser.add_argument("--out", type=Path, help="Also write every report, with its scores for each image, as JSON.")
    options = parser.parse_args()
    earlier: list[Row] = []
    models = list(options.model)
    if options.teacher and options.teacher.endswith(".json"):
        earlier = [row for row in load_rows(Path(options.teacher)) if row.set_name in options.sets]
        if len({row.report.model for row in earlier}) != 1:
            parser.error(f"Expected one model with results on {options.sets} in '{options.teacher}'. Run it alone.")
    elif options.teacher and options.teacher not in models:
        models.append(options.teacher)
    rows: list[Row] = []
    for candidate in candidates(models, options.sets, options.data):
        for set_name in candidate.sets:
            rows += measure(candidate, set_name, options.data, options.every)
            print(f"{candidate.name} on {set_name}: {rows[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            if options.out:  # after each, because a large model takes hours on a busy machine
                values = {"every": options.every, "rows": [row.to_json() for row in rows]}
                write_atomic(options.out, [json.dumps(values).encode()])
    name = Path(options.teacher).name if options.teacher else ""
    teacher = earlier or [row for row in rows if name and row.report.model in (options.teacher, name)]
    print(markdown([*rows, *earlier], teacher), end="")


if __name__ == "__main__":
    main()
