"""The text that says what a depth map is, and how invalid pixels travel inside float files.

Every file carries one JSON object: the metadata of `Depth`, the number of this layout, and how the values are encoded.
It sits in a PNG text chunk, an npz entry, a TIFF or EXR header field, or a JSON file beside the map.

In float files (npy, TIFF, PFM) a pixel that is not valid is a quiet NaN, so that no other program takes it for a depth.
IEEE 754 leaves the low bits of a NaN free; ours hold the `InvalidReason`, which makes the round trip exact.
"""

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import FathomError, InputError, OutputError
from fathom.io.atomic import Chunk, write_atomic
from fathom.types import Camera, ConfidenceMeaning, Depth, DepthKind, InvalidReason, Provenance

METADATA_KEY = "fathom"
"""Name of the text chunk, header field or array that holds the metadata."""
METADATA_VERSION = 1
"""Layout of the metadata; a reader refuses a number it does not know."""

_QUIET_NAN = np.uint32(0x7FC00000)
_REASON_BITS = np.uint32(0xFF)


class FathomWarning(UserWarning):
    """Something was left out of a file, or could not be used; the result is still right."""


def metadata_text(depth: Depth, encoding: Mapping[str, Any] | None = None) -> str:
    """Return the metadata of a depth map as ASCII JSON with sorted keys.

    Args:
        depth: The map to describe.
        encoding: How the file holds the values, where that is not "as they are".

    Raises:
        OutputError: If the provenance holds something that JSON cannot say.
    """
    document = {"fathom_metadata": METADATA_VERSION, **depth.metadata(), "encoding": dict(encoding or {})}
    try:
        return json.dumps(document, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"The metadata of a depth map must be plain JSON values; got one that is not ({error}). "
            "Look at provenance.preprocessing and the camera."
        ) from error


def parse_metadata(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the metadata written by `metadata_text`.

    Args:
        text: The JSON text.
        name: File to name in an error.

    Raises:
        InputError: If the text is damaged or of a layout that this version does not know.
    """
    try:
        document = json.loads(text)
        version = document["fathom_metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Expected Fathom's metadata in '{name}'; the text there is damaged ({error!r}). Write the file again."
        ) from error
    if version != METADATA_VERSION:
        raise InputError(
            f"'{name}' has metadata of layout {version!r}; this Fathom reads layout {METADATA_VERSION}. Update Fathom."
        )
    return dict(document)


def depth_from_metadata(
    values: npt.NDArray[np.float32],
    invalid_reason: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.float32] | None,
    metadata: Mapping[str, Any],
    name: str,
) -> Depth:
    """Rebuild a depth map from its arrays and its metadata.

    Args:
        values: Map in the unit of its kind, float32, shape (H, W).
        invalid_reason: `InvalidReason` of each pixel, uint8, shape (H, W); 0 = valid.
        confidence: Confidence map, float32, shape (H, W), where the file holds one.
        metadata: What `parse_metadata` returned.
        name: File to name in an error.

    Raises:
        InputError: If arrays and metadata do not fit together.
    """
    try:
        expected = (metadata["height"], metadata["width"])
        if values.shape != expected:
            raise InputError(
                f"The metadata of '{name}' says {expected} pixels; the map has {values.shape}. Write the file again."
            )
        camera = metadata["camera"]
        meaning = metadata["confidence_meaning"] if confidence is not None else None
        return Depth(
            values,
            DepthKind(metadata["kind"]),
            invalid_reason == InvalidReason.NONE,
            invalid_reason,
            confidence,
            ConfidenceMeaning(meaning) if meaning is not None else None,
            Camera.from_dict(camera) if camera is not None else None,
            Provenance.from_dict(metadata["provenance"]),
        )
    except InputError:
        raise
    except (FathomError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"The map and the metadata of '{name}' do not make a depth map ({error}). Write the file again."
        ) from error


def foreign_depth(
    counts: npt.NDArray[Any],
    *,
    kind: DepthKind | str | None,
    scale: float | None,
    name: str,
) -> Depth:
    """Build a depth map from a file that does not say what it holds.

    Args:
        counts: The stored numbers, shape (H, W). In whole numbers 0 means "no depth"; in floats, anything not finite.
        kind: What the values are; may be left out with `scale`, which then means metres of depth.
        scale: Unit of `kind` for each stored count, for instance 0.001 for millimetres. Needed for whole numbers.
        name: File to name in an error.

    Raises:
        InputError: If neither says what the numbers are, or they do not make a map of that kind.
    """
    whole = counts.dtype.kind in "ui"
    if kind is None and scale is None:
        raise InputError(
            f"'{name}' does not say what its numbers are (no Fathom metadata). "
            "Say it when reading: kind='metric_depth', or scale=0.001 for metres stored as millimetres."
        )
    if whole and scale is None:
        raise InputError(
            f"'{name}' holds whole numbers without Fathom metadata, so their scale is unknown. "
            "Give it: scale=0.001 for millimetres, scale=1/256 for KITTI."
        )
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InputError(f"`scale` must be a positive number, the unit for each stored count; got {scale}.")
    try:
        known = DepthKind(kind) if kind is not None else DepthKind.METRIC_DEPTH
    except ValueError:
        raise InputError(f"`kind` must be one of {', '.join(DepthKind)}; got {kind!r}.") from None
    values = counts.astype(np.float64) * (scale or 1.0)
    if whole:
        values[counts == 0] = np.nan
    with np.errstate(over="ignore"):
        return Depth(values.astype(np.float32), known, provenance=Provenance(model=f"file {Path(name).name}"))


def refuse_foreign_options(name: str, kind: DepthKind | str | None, scale: float | None, stated: Any) -> None:
    """Refuse `kind` and `scale` that contradict a file which says itself what it holds.

    Raises:
        InputError: If `scale` is given, or `kind` is another one than the file states.
    """
    if scale is not None:
        raise InputError(f"'{name}' states its own scale in its metadata; got scale={scale}. Leave `scale` out.")
    if kind is not None and str(kind) != stated:
        raise InputError(f"'{name}' says it holds {stated}; got kind='{kind}'. Leave `kind` out, or convert the map.")


def mark_invalid(depth: Depth) -> npt.NDArray[np.float32]:
    """Return the values with every pixel that is not valid a NaN that holds its reason; shares memory where all are."""
    if depth.valid_mask.all():
        return depth.values
    bits = depth.values.view(np.uint32)
    return np.where(depth.valid_mask, bits, _QUIET_NAN | depth.invalid_reason).view(np.float32)


def read_invalid(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the `InvalidReason` of each pixel from the NaNs that `mark_invalid` made."""
    reasons = (values.view(np.uint32) & _REASON_BITS).astype(np.uint8)
    known = np.isin(reasons, [int(r) for r in InvalidReason if r is not InvalidReason.NONE])
    reasons[~known] = InvalidReason.UNKNOWN
    reasons[~np.isnan(values)] = InvalidReason.NONE
    return reasons


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """Return the JSON file beside a map: its full name and ``.json``, so that room.npy and room.pfm keep their own."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def write_with_sidecar(depth: Depth, path: str | os.PathLike[str], chunks: Iterable[Chunk]) -> list[Path]:
    """Write a map that cannot hold its own metadata, and the JSON file that says what it is.

    The sidecar comes first: whoever finds the map finds what it is.

    Returns:
        The map and its sidecar.

    Warns:
        FathomWarning: If a confidence map is left out.
    """
    if depth.confidence is not None:
        warn_confidence_left_out(path)
    beside = write_atomic(sidecar_path(path), [metadata_text(depth, {"invalid": "NaN"}).encode("ascii"), b"\n"])
    return [write_atomic(path, chunks), beside]


def warn_confidence_left_out(path: str | os.PathLike[str]) -> None:
    """Warn that a format has no room for the confidence map."""
    warnings.warn(
        f"'{path}' cannot hold the confidence map; it was left out. Use npz, tiff or exr to keep it.",
        FathomWarning,
        stacklevel=3,
    )


def read_float_map(
    path: str | os.PathLike[str],
    array: npt.NDArray[Any],
    *,
    kind: DepthKind | str | None,
    scale: float | None,
) -> Depth:
    """Build a depth map from a file of plain numbers and the JSON file beside it, where there is one.

    Args:
        path: The file of numbers.
        array: Its numbers, shape (H, W).
        kind: What a foreign file holds.
        scale: Unit for each stored count of a foreign file.

    Raises:
        InputError: If the sidecar is damaged or contradicts the arguments, or there is none and nobody says what it is.
    """
    name, beside = os.fspath(path), sidecar_path(path)
    if not beside.exists():
        return foreign_depth(array, kind=kind, scale=scale, name=name)
    try:
        text = beside.read_bytes()
    except OSError as error:
        raise InputError(
            f"Cannot read '{beside}', which says what '{name}' holds: {error.strerror or error}."
        ) from error
    metadata = parse_metadata(text, str(beside))
    refuse_foreign_options(name, kind, scale, metadata.get("kind"))
    values = np.ascontiguousarray(array, np.float32)
    return depth_from_metadata(values, read_invalid(values), None, metadata, name)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a depth file.

    Raises:
        InputError: If it is missing, empty or may not be read.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Expected a depth map; cannot read '{path}': {reason}. Check the path.") from error
    if not content:
        raise InputError(f"Expected a depth map; '{path}' is empty (0 bytes). Fetch or write it again.")
    return content
