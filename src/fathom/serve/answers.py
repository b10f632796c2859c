"""A depth map as the bytes of an answer: which format is wanted, the body, and the headers that say what it is."""

import base64
import tempfile
from pathlib import Path

import numpy as np

from fathom.errors import ConfigError, EmptyMaskError, KindError
from fathom.io import Picture
from fathom.io.sidecar import mark_invalid
from fathom.outputs import OutputOptions, output_paths, write_outputs
from fathom.serve.problems import ProblemError
from fathom.serve.schema import ACCEPTED_TYPES, MEDIA_TYPES, AnswerFormat, DepthAnswer, Percentiles
from fathom.types import Depth


def choose_format(wanted: AnswerFormat | None, accept: str) -> AnswerFormat:
    """Return the format of the answer: the one named in the address, else the best one of the Accept header.

    Args:
        wanted: What `?format=` says.
        accept: The Accept header; empty means anything.

    Raises:
        ProblemError: If the header accepts none of the formats.

    Example:
        >>> choose_format(None, "model/gltf-binary;q=0.5, image/png").value
        'color'
        >>> choose_format(None, "*/*").value
        'json'
    """
    if wanted is not None:
        return wanted
    best: tuple[float, AnswerFormat] | None = None
    for item in accept.split(",") if accept.strip() else ["*/*"]:
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((_quality(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        chosen = _format_for(name)
        if chosen is not None and quality > 0 and (best is None or quality > best[0]):
            best = quality, chosen
    if best is None:
        raise ProblemError(
            "not-acceptable",
            f"Expected an Accept header with one of {', '.join(ACCEPTED_TYPES)} or */*; got '{accept[:80]}'. "
            f"Or name a format in the address: ?format={'|'.join(AnswerFormat)}.",
        )
    return best[1]


def _format_for(media_type: str) -> AnswerFormat | None:
    if media_type in ("*/*", "application/*"):
        return AnswerFormat.JSON
    if media_type == "image/*":
        return AnswerFormat.COLOR
    return ACCEPTED_TYPES.get(media_type)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def encode(depth: Depth, picture: Picture, form: AnswerFormat, options: OutputOptions) -> bytes:
    """Return the depth map in one format.

    Args:
        depth: The map.
        picture: The picture it was made from; colours the points.
        form: The format.
        options: How it is written.

    Raises:
        ProblemError: If the kind of depth does not allow it, or an option is wrong.
    """
    if form is AnswerFormat.JSON:
        return _json(depth)
    try:
        # The writers are the ones that files are written with, so an answer and a file never differ.
        with tempfile.TemporaryDirectory(prefix="fathom-") as folder:
            write_outputs(depth, picture, Path(folder, "depth"), [form.value], options)
            return output_paths(Path(folder, "depth"), [form.value])[0].read_bytes()
    except (KindError, EmptyMaskError) as error:
        raise ProblemError("not-possible", str(error)) from None
    except ConfigError as error:
        raise ProblemError("bad-option", str(error)) from None


def _json(depth: Depth) -> bytes:
    span = depth.value_range
    valid = depth.values[depth.valid_mask]
    spread = [float(value) for value in np.percentile(valid, [1, 50, 99])] if valid.size else None
    metadata = depth.metadata()
    answer = DepthAnswer(
        kind=depth.kind,
        unit=depth.unit,
        larger_is_nearer=depth.larger_is_nearer,
        height=depth.height,
        width=depth.width,
        model=depth.provenance.model,
        valid_fraction=float(depth.valid_mask.mean()),
        smallest=span[0] if span else None,
        largest=span[1] if span else None,
        percentiles=Percentiles(p1=spread[0], p50=spread[1], p99=spread[2]) if spread else None,
        metadata={key: metadata[key] for key in ("camera", "provenance", "confidence_meaning")},
        values=base64.b64encode(mark_invalid(depth).astype("<f4", copy=False).tobytes()).decode(),
    )
    return answer.model_dump_json().encode()


def describe_headers(depth: Depth, form: AnswerFormat) -> dict[str, str]:
    """Return the headers that say what the answer is."""
    headers = {
        "Content-Type": MEDIA_TYPES[form],
        "Content-Disposition": f'inline; filename="{_file_name(form)}"',
        "Cache-Control": "no-store",
        "Fathom-Format": form.value,
        "Fathom-Kind": depth.kind.value,
        "Fathom-Unit": depth.unit,
        "Fathom-Larger-Is-Nearer": str(depth.larger_is_nearer).lower(),
        "Fathom-Model": _ascii(depth.provenance.model),
        "Fathom-Weights-Sha256": depth.provenance.weights_sha256,
        "Fathom-Licence": _ascii(depth.provenance.licence),
    }
    if depth.camera is not None:
        k = depth.camera.intrinsics
        headers["Fathom-Intrinsics"] = ", ".join(f"{value:.3f}" for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
        headers["Fathom-Focal-Source"] = depth.camera.focal_source.value
    return headers


def _file_name(form: AnswerFormat) -> str:
    return "depth.json" if form is AnswerFormat.JSON else output_paths("depth", [form.value])[0].name


def _ascii(text: str) -> str:
    """Return text that fits into a header: a model's name or licence may hold anything."""
    return "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in text)[:200]
