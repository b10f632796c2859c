"""Depth as OpenEXR: lossless float32, read by every compositing program.

Channels: `Z` for a depth, `Y` for the kinds that are not a depth (a compositor would take any `Z` for one);
`invalid_reason` (whole numbers, 0 = valid); `confidence` where there is any. Pixels that are not valid hold 0, because
compositors spread NaN. The metadata is the header attribute `fathom`.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import InputError, OutputError
from fathom.io.atomic import write_atomic
from fathom.io.sidecar import (
    METADATA_KEY,
    depth_from_metadata,
    foreign_depth,
    metadata_text,
    parse_metadata,
    read_bytes,
    refuse_foreign_options,
)
from fathom.types import Depth, DepthKind

_MAGIC = b"\x76\x2f\x31\x01"
_FOREIGN_CHANNELS = ("Z", "depth", "Depth", "Y", "V", "R")
"""Where others keep a depth map, most telling name first."""


def write_exr(depth: Depth, path: str | Path) -> list[Path]:
    """Write an OpenEXR file (ZIP compression) in the map's own unit.

    Returns:
        The file written.

    Raises:
        OutputError: If the file cannot be written.
    """
    import OpenEXR

    channels: dict[str, npt.NDArray[Any]] = {
        "Y" if depth.larger_is_nearer else "Z": np.where(depth.valid_mask, depth.values, np.float32(0)),
        "invalid_reason": depth.invalid_reason.astype(np.uint32),
    }
    if depth.confidence is not None:
        channels["confidence"] = np.array(depth.confidence)
    header = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        METADATA_KEY: metadata_text(depth, {"invalid": "invalid_reason"}),
    }
    # The library writes only to files, and only to names that are UTF-8: it gets a name of ours.
    try:
        with tempfile.TemporaryDirectory(prefix="fathom-") as folder:
            scratch = Path(folder, "map.exr")
            OpenEXR.File(header, channels).write(str(scratch))
            content = scratch.read_bytes()
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"Cannot make the EXR file for '{path}' in the temporary folder {tempfile.gettempdir()}: {error}. "
            "Make room there, or set TMPDIR."
        ) from error
    return [write_atomic(path, [content])]


def read_exr(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read an OpenEXR file.

    A foreign file must hold its map in a channel named Z, depth, Y, V or R, or in its only channel.

    Args:
        path: The file.
        kind: What a foreign file holds.
        scale: Unit for each stored value of a foreign file.

    Raises:
        InputError: If the file is damaged, has no map, or does not say what it holds and nobody else does.
    """
    name = str(path)
    channels, text = _read_channels(read_bytes(path), name)
    if text is None:
        key = next((key for key in _FOREIGN_CHANNELS if key in channels), None)
        if key is None and len(channels) == 1:
            key = next(iter(channels))
        if key is None:
            raise InputError(
                f"Expected a channel named {', '.join(_FOREIGN_CHANNELS)} in '{name}'; "
                f"it has {', '.join(channels) or 'none'}. Rename the one that holds the map."
            )
        return foreign_depth(channels[key].astype(np.float32), kind=kind, scale=scale, name=name)
    metadata = parse_metadata(text, name)
    refuse_foreign_options(name, kind, scale, metadata.get("kind"))
    try:
        values, reasons = channels["Z" if "Z" in channels else "Y"], channels["invalid_reason"]
    except KeyError as error:
        raise InputError(f"'{name}' lacks the channel {error}; it is damaged. Write it again.") from error
    return depth_from_metadata(values, reasons.astype(np.uint8), channels.get("confidence"), metadata, name)


def _read_channels(content: bytes, name: str) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """Return the channels of the first part by name, and the metadata text of a file of ours."""
    import OpenEXR

    if not content.startswith(_MAGIC):
        raise InputError(f"Expected an OpenEXR file; '{name}' does not start like one. Check what the file is.")
    try:
        with tempfile.TemporaryDirectory(prefix="fathom-") as folder:
            scratch = Path(folder, "map.exr")
            scratch.write_bytes(content)
            file = OpenEXR.File(str(scratch), separate_channels=True)
            text = file.header().get(METADATA_KEY)
            channels = {key: np.array(channel.pixels) for key, channel in file.channels().items()}
    except Exception as error:  # the library raises nearly anything for damaged bytes
        raise InputError(f"Expected a whole EXR; '{name}' is damaged ({error}). Fetch or write it again.") from error
    return channels, text
