"""Export a model: write it, compare it with its source on real pictures, and keep it only where they agree."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from fathom.config import nearest_name
from fathom.errors import ExportError, ModelError, OutputError
from fathom.export.formats import FORMATS, Format
from fathom.export.job import Job, StoredPrecision
from fathom.export.parity import (
    TOLERANCES,
    ParityReport,
    Tolerance,
    check_parity,
    find_pictures,
    load_pictures,
)
from fathom.export.source import FreeSizeError, Source, load_source, static_spec
from fathom.io import read_image
from fathom.models.cards import CARD_FILE, ExportRecord, FileRole, InputSpec, ModelCard, describe_file, write_card
from fathom.runtime.artefacts import RUNTIME_OF, open_artefact
from fathom.runtime.base import Precision, Runtime
from fathom.runtime.steps import preprocess

NUM_CALIBRATION = 64
"""Pictures for calibration, spread over the folder; more changes the ranges little and takes long."""


@dataclass(frozen=True)
class Export:
    """What `export_model` wrote.

    Args:
        path: The artefact: a file, or a folder for formats that are one.
        card: Its card, which `fathom.load_model` reads.
        card_path: Where the card lies.
        report: Parity with the source; None for a format that does not run here.
        files: Everything written.
    """

    path: Path
    card: ModelCard
    card_path: Path
    report: ParityReport | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Place:
    """Where an export goes.

    Args:
        folder: Folder of all its files.
        stem: Name of the artefact without suffix.
        card: Name of the card.
    """

    folder: Path
    stem: str
    card: str

    @property
    def report(self) -> Path:
        """Start of the report's names."""
        return self.folder / ("parity" if self.card == CARD_FILE else f"{self.stem}.parity")


def place_of(out: str | Path, form: Format) -> Place:
    """Read where to write: DIR gives DIR/model.SUFFIX and DIR/card.json; DIR/NAME.SUFFIX that file and NAME.json.

    Raises:
        ModelError: If the suffix belongs to another format.

    Example:
        >>> place_of("out/room.onnx", FORMATS["onnx"]).card
        'room.json'
    """
    path = Path(out)
    if path.suffix == form.suffix:
        return Place(path.parent, path.stem, f"{path.stem}.json")
    other = next((row.name for row in FORMATS.values() if row.suffix == path.suffix), None)
    if other is not None:
        raise ModelError(f"{path.name} is the name of a file in {other}; {form.name} needs {form.suffix}, or a folder.")
    return Place(path, "model", CARD_FILE)


def find_format(name: str) -> Format:
    """Find a format by its name.

    Raises:
        ModelError: If there is none.
    """
    if name not in FORMATS:
        raise ModelError(f"No format is called '{name}'. {nearest_name(name, FORMATS)}")
    return FORMATS[name]


def export_model(
    model: str | Path | Source,
    to: str,
    out: str | Path,
    *,
    dynamic: bool | None = None,
    in_graph: bool | None = None,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    weights: Path | None = None,
    calibrate: Path | None = None,
    pictures: Path | None = None,
    tolerance: Tolerance | None = None,
    max_delta1_loss: float | None = None,
) -> Export:
    """Export a model, and keep the file only if it repeats the model on real pictures.

    Args:
        model: Whatever `fathom.load_model` takes, a network of `fathom.models.MODELS`, or a `Source` of your own.
        to: Name of a format; see `fathom.export.formats.FORMATS`.
        out: Folder, or file with the format's suffix.
        dynamic: Leave batch, height and width of the network's input free; default: what the format does best, and one
            size where the law has one and the network cannot leave it.
        in_graph: Put the steps before and after the network into the file; default: for onnx.
        precision: fp32, fp16, bf16, int8 (static), int8-weights or int8-dynamic.
        size: Height and width of a fixed input [px].
        weights: Checkpoint for a network of `MODELS`.
        calibrate: Folder of pictures for static quantisation; default: the package's photographs.
        pictures: Folder of pictures for parity; default: the package's photographs.
        tolerance: What parity allows; default: by the precision.
        max_delta1_loss: For int8: leave sensitive layers in float32 until the loss in delta1 is under this.

    Returns:
        Paths, card and report.

    Raises:
        ModelError: If the model, the format or the combination does not exist, or the converter fails.
        ExportError: If the export differs by more than the tolerance; nothing is left behind.
        MissingExtraError: If the converter is not installed.
        OutputError: If the files cannot be written.
    """
    form = find_format(to)
    place = place_of(out, form)
    stored, is_dynamic, holds_steps = _checked(form, dynamic, in_graph, precision, size)
    seen = load_pictures(find_pictures(pictures, limit=8))
    source = model if isinstance(model, Source) else load_source(model, weights=weights)
    spec = source.card.input if is_dynamic else static_spec(source.card.input, size)
    is_static_int8 = stored == "int8"
    calibration = calibration_inputs(spec, find_pictures(calibrate, limit=NUM_CALIBRATION)) if is_static_int8 else []
    writer = import_module(f"fathom.export.{form.module}")
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.folder, prefix=".fathom-"))
    except OSError as error:
        raise OutputError(f"Cannot write in {place.folder}: {error.strerror}. Choose another folder.") from None
    try:
        job = Job(source, spec, scratch, place.stem, is_dynamic, holds_steps, stored, calibration, max_delta1_loss)
        written: dict[FileRole, Path] = writer.write(job)
        tools = _versions(form)
        report = None
        if form.role in RUNTIME_OF:
            runtime = open_written(form.role, written, stored)
            report = _parity(source, spec, runtime, seen, job, written[form.role].name, tolerance, tools)
            report.save(place.report)
            if report.failures:
                raise ExportError(
                    f"The export differs from {source.card.name} by more than is allowed, and was removed: "
                    f"{' '.join(report.failures[:4])} See {place.report.with_name(place.report.name + '.md')}."
                )
        else:
            writer.check(job, written[form.role])
        card = _card(job, form, written, tools, report)
        return _move(place, written, card, report)
    except FreeSizeError:
        if dynamic or spec.law != "fixed":
            raise
        # Nobody asked for a free size, and the law gives one size for every picture.
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return export_model(
        source,
        to,
        out,
        dynamic=False,
        in_graph=in_graph,
        precision=precision,
        calibrate=calibrate,
        pictures=pictures,
        tolerance=tolerance,
        max_delta1_loss=max_delta1_loss,
    )


def _checked(
    form: Format, dynamic: bool | None, in_graph: bool | None, precision: str, size: tuple[int, int] | None
) -> tuple[StoredPrecision, bool, bool]:
    """Refuse what a format cannot do, before anything is loaded."""
    if precision not in form.precisions:
        raise ModelError(f"{form.name} cannot store '{precision}' here; it can: {', '.join(form.precisions)}.")
    if dynamic is not None and dynamic != form.is_dynamic and not form.can_choose:
        kind = "free" if form.is_dynamic else "fixed"
        raise ModelError(f"The input size of {form.name} is {kind} here. Leave the option out.")
    is_dynamic = form.is_dynamic if dynamic is None else dynamic
    if size is not None and is_dynamic:
        if dynamic:
            raise ModelError("Set either a free size (--dynamic) or one size (--size), not both.")
        is_dynamic = False
    if in_graph and not form.can_hold_steps:
        raise ModelError(f"{form.name} holds the network alone here; the card says what to do around it.")
    return cast(StoredPrecision, precision), is_dynamic, form.holds_steps if in_graph is None else in_graph


def calibration_inputs(spec: InputSpec, paths: Sequence[Path]) -> list[npt.NDArray[np.float32]]:
    """Prepare pictures as network inputs (1, 3, h, w)."""
    return [preprocess(read_image(path).rgb, spec).array for path in paths]


def open_written(role: FileRole, written: dict[FileRole, Path], stored: str) -> Runtime:
    """Open what a writer wrote, as `fathom predict` would."""
    precision: Precision = "int8" if stored == "int8" else "fp32"
    return open_artefact(role, written[role], weights=written.get(cast(FileRole, f"{role}_bin")), precision=precision)


def _parity(
    source: Source,
    spec: InputSpec,
    runtime: Runtime,
    pictures: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    job: Job,
    artefact: str,
    tolerance: Tolerance | None,
    tools: dict[str, str],
) -> ParityReport:
    judged = spec
    if job.dynamic and spec.law == "fixed" and not job.in_graph:
        # The law gives one shape for every picture, which would leave the free axes untested.
        judged = spec.model_copy(update={"law": "keep_aspect"})
    return check_parity(
        source.runtime(),
        runtime,
        pictures,
        source_spec=judged,
        export_spec=judged.model_copy(update={"in_graph": job.in_graph}),
        kind=source.card.kind,
        tolerance=tolerance or TOLERANCES[job.precision],
        source_name=source.card.name,
        artefact=artefact,
        tools=tools,
    )


def _card(
    job: Job, form: Format, written: dict[FileRole, Path], tools: dict[str, str], report: ParityReport | None
) -> ModelCard:
    record = ExportRecord(
        format=form.name,
        precision=job.precision,
        dynamic=job.dynamic,
        source=job.source.card.name,
        source_sha256=job.source.sha256,
        tools=tools,
        parity=report.worst if report is not None else {},
    )
    changes = {
        "input": job.spec.model_copy(update={"in_graph": job.in_graph}),
        "architecture": None,
        "files": {role: describe_file(path) for role, path in written.items()},
        "export": record,
    }
    return job.source.card.model_copy(update=changes)


def _move(place: Place, written: dict[FileRole, Path], card: ModelCard, report: ParityReport | None) -> Export:
    """Put the files in their place; the card last, because it vouches for them."""
    moved = []
    for path in written.values():
        target = place.folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        moved.append(path.replace(target))
        if target.is_file():
            target.chmod(0o644)
    card_path = place.folder / place.card
    write_card(card, card_path)
    reports = [place.report.with_name(place.report.name + suffix) for suffix in (".json", ".md")] if report else []
    return Export(moved[0], card, card_path, report, (*moved, card_path, *reports))


def _versions(form: Format) -> dict[str, str]:
    found = {}
    for package in form.packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # it runs in an environment of its own, or this precision does not need it
    return found
