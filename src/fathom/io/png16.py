"""Depth as 16-bit grey PNG: ``value = offset + scale * count``, and 0 means no depth."""

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError, InputError
from fathom.io.atomic import write_atomic
from fathom.io.png import DEFLATE_LEVEL, SIGNATURE, png_chunks
from fathom.io.sidecar import (
    METADATA_KEY,
    FathomWarning,
    depth_from_metadata,
    foreign_depth,
    metadata_text,
    parse_metadata,
    read_bytes,
    refuse_foreign_options,
    warn_confidence_left_out,
)
from fathom.types import Depth, DepthKind, InvalidReason

MILLIMETRE = 0.001
"""Metres for each count of a metric depth, unless another scale is asked for; reaches 65.535 m."""
LARGEST_COUNT = 65535

# Ancillary, private, not safe to copy once the picture is edited (PNG section 5.4).
_REASON_CHUNK = b"fmRN"


def png16_law(depth: Depth, scale: float | None = None, offset: float | None = None) -> tuple[float, float]:
    """Return the scale and offset with which a map is stored.

    Metric depth takes millimetres. Scale-invariant depth takes the whole range up to its largest value, without an
    offset, so that ratios of counts stay ratios of depth. The others take the whole range between their smallest and
    largest valid value.

    Args:
        depth: The map to store.
        scale: Unit of the map for each count; overrides the default.
        offset: Value of the count 0 (which itself means "no depth"); overrides the default, only with `scale`.

    Returns:
        scale: Multiplies the count.
        offset: Added after scaling.

    Raises:
        ConfigError: If the scale is not positive, or an offset comes without a scale.

    Example:
        >>> png16_law(Depth(np.array([[1.0, 3.0]]), DepthKind.METRIC_DEPTH))
        (0.001, 0.0)
    """
    if scale is not None:
        offset = 0.0 if offset is None else float(offset)
        if not (np.isfinite(scale) and scale > 0 and np.isfinite(offset)):
            raise ConfigError(f"A 16-bit PNG needs a positive scale and a finite offset; got {scale} and {offset}.")
        return float(scale), offset
    if offset is not None:
        raise ConfigError(f"An offset for a 16-bit PNG needs a scale too; got offset={offset} alone. Give both.")
    span = depth.value_range
    if depth.kind is DepthKind.METRIC_DEPTH or span is None:
        return MILLIMETRE, 0.0
    low, high = span
    if depth.kind is DepthKind.SCALE_INVARIANT_DEPTH:
        return high / LARGEST_COUNT, 0.0
    if high > low:
        scale = (high - low) / (LARGEST_COUNT - 1)
        return scale, low - scale
    # One value everywhere is the count 1, chosen so that offset + scale gives it back without rounding.
    scale = abs(low) or 1.0
    return scale, low - scale


def encode_counts(depth: Depth, scale: float, offset: float) -> tuple[npt.NDArray[np.uint16], int]:
    """Return the counts of a map, and how many valid pixels lie outside the range and became invalid.

    Args:
        depth: The map.
        scale: Unit of the map for each count.
        offset: Value of the count 0.

    Returns:
        counts: Nearest count, 0 where there is no depth, uint16, shape (H, W).
        num_outside: Valid pixels whose nearest count is not in 1..65535.
    """
    exact = np.subtract(depth.values, offset, dtype=np.float64)
    exact /= scale
    np.rint(exact, out=exact)
    held = (exact >= 1) & (exact <= LARGEST_COUNT)
    held &= depth.valid_mask
    exact[~held] = 0
    return exact.astype(np.uint16), int(depth.valid_mask.sum()) - int(held.sum())


def write_png16(
    depth: Depth, path: str | Path, *, scale: float | None = None, offset: float | None = None
) -> list[Path]:
    """Write a 16-bit grey PNG whose text chunk says kind, unit, scale, offset, camera and provenance.

    Args:
        depth: The map.
        path: File to write.
        scale: Unit of the map for each count; default: see `png16_law`.
        offset: Value of the count 0; only with `scale`.

    Returns:
        The file written.

    Warns:
        FathomWarning: If valid pixels lie outside the range (they become invalid, and are counted), or a confidence map
            is left out.

    Raises:
        OutputError: If the file cannot be written.
        ConfigError: If scale or offset make no sense.
    """
    scale, offset = png16_law(depth, scale, offset)
    counts, num_outside = encode_counts(depth, scale, offset)
    if num_outside:
        low, high = offset + scale, offset + scale * LARGEST_COUNT
        warnings.warn(
            f"{num_outside} of {counts.size} pixels lie outside {low:.6g}..{high:.6g} {depth.unit}".rstrip()
            + f", the range of '{path}', and were stored as invalid. Choose another scale, or a float format.",
            FathomWarning,
            stacklevel=2,
        )
    if depth.confidence is not None:
        warn_confidence_left_out(path)
    encoding = {"law": "value = offset + scale * count", "scale": scale, "offset": offset, "invalid_count": 0}
    extra = {}
    if (depth.invalid_reason > InvalidReason.UNKNOWN).any():  # else the count 0 says all there is to say
        extra[_REASON_CHUNK] = zlib.compress(depth.invalid_reason.data, DEFLATE_LEVEL)
    return [write_atomic(path, png_chunks(counts, {METADATA_KEY: metadata_text(depth, encoding)}, extra))]


def read_png16(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read a grey PNG (8 or 16 bits) as a depth map.

    Args:
        path: The file.
        kind: What a foreign file holds; default with `scale`: metric depth.
        scale: Unit for each count of a foreign file, for instance 0.001 (millimetres) or 1/256 (KITTI).

    Raises:
        InputError: If the file is not a grey PNG, is damaged, or does not say what it holds and nobody else does.
    """
    name = str(path)
    counts, text, packed_reasons = _read_counts(path, name)
    if text is None:
        return foreign_depth(counts, kind=kind, scale=scale, name=name)
    metadata = parse_metadata(text, name)
    refuse_foreign_options(name, kind, scale, metadata.get("kind"))
    try:
        law = metadata["encoding"]
        law_scale, law_offset = float(law["scale"]), float(law["offset"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{name}' carries Fathom's metadata but no scale and offset: it is a colour picture or damaged, "
            "not a 16-bit depth map. Read the .png, .npy or .npz written beside it."
        ) from error
    values = counts * law_scale
    values += law_offset
    values[counts == 0] = np.nan
    if metadata.get("kind") in (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY):
        np.maximum(values, 0.0, out=values)  # an exact zero may come back as -1e-12 from scale and offset
    reasons = np.where(counts > 0, np.uint8(InvalidReason.NONE), np.uint8(InvalidReason.UNKNOWN))
    if packed_reasons is not None:
        reasons = _unpack_reasons(packed_reasons, reasons, name)
    return depth_from_metadata(values.astype(np.float32), reasons, None, metadata, name)


def _unpack_reasons(packed: bytes, reasons: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """Return the stored reasons where the count says "no depth"; a pixel out of range has none and stays UNKNOWN."""
    try:
        # The length is bounded so that a small chunk cannot unpack to gigabytes.
        stored = np.frombuffer(zlib.decompressobj().decompress(packed, reasons.size + 1), np.uint8)
    except zlib.error as error:
        raise InputError(f"The reasons of invalid pixels in '{name}' are damaged ({error}). Write it again.") from error
    if stored.size != reasons.size or stored.max() > max(InvalidReason):
        raise InputError(f"The reasons of invalid pixels in '{name}' do not fit its size. Write it again.")
    stored = stored.reshape(reasons.shape)
    return np.where(reasons == InvalidReason.NONE, reasons, np.maximum(stored, InvalidReason.UNKNOWN))


def _read_counts(path: str | Path, name: str) -> tuple[npt.NDArray[Any], str | None, bytes | None]:
    """Return the counts, the metadata text and the packed reasons of a PNG."""
    from PIL.PngImagePlugin import PngImageFile

    content = read_bytes(path)
    if not content.startswith(SIGNATURE):
        raise InputError(f"Expected a PNG; '{name}' does not start like one. Check what the file is.")
    try:
        # The plugin itself and not Image.open, whose limit on pixels is one for the whole process.
        with PngImageFile(io.BytesIO(content)) as image:
            image.load()
            mode, counts = image.mode, np.asarray(image)
            text = image.text.get(METADATA_KEY)
            reasons = next((chunk[1] for chunk in image.private_chunks if chunk[0] == _REASON_CHUNK), None)
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise InputError(f"Expected a whole PNG; '{name}' is damaged ({error}). Fetch or write it again.") from error
    if text is None and mode not in ("L", "I;16", "I;16B", "I"):
        raise InputError(
            f"Expected a grey PNG of depth counts; '{name}' has colours (mode {mode}). "
            "A colour picture of depth cannot be turned back into depth."
        )
    return counts, text, reasons
