"""Depth as NumPy files: ``.npy`` (the raw map, JSON beside it) and ``.npz`` (every array and the metadata)."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import InputError
from fathom.io.atomic import write_atomic
from fathom.io.sidecar import (
    METADATA_KEY,
    depth_from_metadata,
    foreign_depth,
    mark_invalid,
    metadata_text,
    parse_metadata,
    read_bytes,
    read_float_map,
    refuse_foreign_options,
    write_with_sidecar,
)
from fathom.types import Depth, DepthKind

_NO_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date a zip archive knows, so that the same map gives the same bytes on every day."""


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_npy(depth: Depth, path: str | Path) -> list[Path]:
    """Write the raw float32 map in its own unit, NaN where it is not valid, and a JSON sidecar.

    Returns:
        The map and its sidecar.

    Warns:
        FathomWarning: If a confidence map is left out.

    Raises:
        OutputError: If a file cannot be written.
    """
    return write_with_sidecar(depth, path, [_npy_bytes(mark_invalid(depth))])


def read_npy(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read an ``.npy`` map, with its sidecar where there is one.

    Args:
        path: The file.
        kind: What a foreign file holds.
        scale: Unit for each stored count of a foreign file.

    Raises:
        InputError: If the file is damaged, is not a map of numbers, or does not say what it holds and nobody else does.
    """
    name = str(path)
    array = _load(path, name)
    if not isinstance(array, np.ndarray):
        raise InputError(f"Expected one array in '{name}'; it is an archive of several. Name it .npz.")
    return read_float_map(path, _as_map(array, name), kind=kind, scale=scale)


def write_npz(depth: Depth, path: str | Path) -> list[Path]:
    """Write every array and the metadata into one ``.npz``.

    Entries: `values` (float32, as they are, invalid pixels too), `valid_mask`, `invalid_reason`, `confidence` and
    `intrinsics` where there are any, and `fathom`, the metadata as JSON text.

    Returns:
        The file written.

    Raises:
        OutputError: If the file cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        METADATA_KEY: np.array(metadata_text(depth)),
        "values": depth.values,
        "valid_mask": depth.valid_mask,
        "invalid_reason": depth.invalid_reason,
    }
    if depth.confidence is not None:
        arrays["confidence"] = depth.confidence
    if depth.camera is not None:
        arrays["intrinsics"] = depth.camera.intrinsics
    return [write_atomic(path, _archive(arrays))]


def _archive(arrays: dict[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
            # Deflate takes a third off a float map and twenty times as long; masks shrink to nothing.
            entry.compress_type = zipfile.ZIP_STORED if array.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            archive.writestr(entry, _npy_bytes(array))
    yield buffer.getvalue()


def read_npz(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read an ``.npz`` archive.

    A foreign archive must hold an array named `values` or `depth`, or one array only.

    Args:
        path: The file.
        kind: What a foreign file holds.
        scale: Unit for each stored count of a foreign file.

    Raises:
        InputError: If the file is damaged, has no map, or does not say what it holds and nobody else does.
    """
    name = str(path)
    archive = _load(path, name)
    if isinstance(archive, np.ndarray):
        raise InputError(f"Expected an archive of arrays in '{name}'; it holds a single one. Name it .npy.")
    if METADATA_KEY not in archive:
        named = [key for key in archive if key in ("values", "depth")] or list(archive)
        if len(named) != 1:
            raise InputError(
                f"Expected one array named 'values' or 'depth' in '{name}'; it holds {', '.join(archive) or 'none'}."
            )
        return foreign_depth(_as_map(archive[named[0]], name), kind=kind, scale=scale, name=name)
    metadata = parse_metadata(str(archive[METADATA_KEY]), name)
    refuse_foreign_options(name, kind, scale, metadata.get("kind"))
    try:
        values, reasons = archive["values"], archive["invalid_reason"]
    except KeyError as error:
        raise InputError(f"'{name}' lacks the array {error}; it is damaged. Write it again.") from error
    return depth_from_metadata(values, reasons, archive.get("confidence"), metadata, name)


def _load(path: str | Path, name: str) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Return the array of an npy, or the arrays of an npz; never runs pickled code."""
    content = read_bytes(path)
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except Exception as error:  # damaged headers and archives raise nearly anything
        raise InputError(
            f"Expected a NumPy file of numbers; '{name}' is damaged or something else ({error}). Write it again."
        ) from error


def _as_map(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the array without axes of length 1 in front or at the end, if it then is a map of numbers."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fui":
        raise InputError(
            f"Expected a map of numbers with shape (H, W) in '{name}'; got {array.dtype} {array.shape}. Pick one map."
        )
    return array
