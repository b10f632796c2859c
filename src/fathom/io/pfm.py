"""Depth as Portable Float Map: a text header, then float32 rows from the bottom to the top.

Format: Paul Debevec's PFM, as the Middlebury stereo sets use it. The sign of the third header line is the byte order
(negative: little endian); its size is a display scale, which no depth data set applies, and is ignored. What the map
is lies in a JSON file beside it.
"""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError, InputError
from fathom.io.sidecar import mark_invalid, read_bytes, read_float_map, write_with_sidecar
from fathom.types import Depth, DepthKind

_HEADER = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?\d[-+.\deE]{0,30}|[-+]?\.\d+)\r?\s")


def write_pfm(depth: Depth, path: str | Path, *, byte_order: Literal["little", "big"] = "little") -> list[Path]:
    """Write a grey PFM in the map's own unit, NaN where it is not valid, and a JSON sidecar.

    Args:
        depth: The map.
        path: File to write.
        byte_order: Order of the bytes of each value.

    Returns:
        The map and its sidecar.

    Warns:
        FathomWarning: If a confidence map is left out.

    Raises:
        ConfigError: If the byte order is another word.
        OutputError: If a file cannot be written.
    """
    if byte_order not in ("little", "big"):
        raise ConfigError(f"The byte order of a PFM must be 'little' or 'big'; got {byte_order!r}. Choose one.")
    header = f"Pf\n{depth.width} {depth.height}\n{'-1.0' if byte_order == 'little' else '1.0'}\n"
    # Byte order is changed on the bits: a conversion of float values may alter what a NaN holds.
    bits = mark_invalid(depth).view(np.uint32)[::-1].astype("<u4" if byte_order == "little" else ">u4")
    return write_with_sidecar(depth, path, [header.encode("ascii"), bits.tobytes()])


def read_pfm(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read a grey PFM of either byte order, with its sidecar where there is one.

    Args:
        path: The file.
        kind: What a foreign file holds.
        scale: Unit for each stored value of a foreign file.

    Raises:
        InputError: If the file is damaged, has colours, or does not say what it holds and nobody else does.
    """
    return read_float_map(path, _parse(read_bytes(path), str(path)), kind=kind, scale=scale)


def _parse(content: bytes, name: str) -> npt.NDArray[np.float32]:
    header = _HEADER.match(content)
    if header is None:
        raise InputError(f"Expected a PFM, which starts with 'Pf' and its size; '{name}' does not. Check what it is.")
    magic, width, height, order = header[1], int(header[2]), int(header[3]), float(header[4])
    if magic == b"PF":
        raise InputError(f"Expected a grey PFM (Pf); '{name}' has three colours (PF). Keep one channel.")
    expected = 4 * width * height
    if expected == 0 or order == 0 or len(content) - header.end() != expected:
        raise InputError(
            f"Expected {expected} bytes of values for {width} x {height} pixels in '{name}'; got "
            f"{len(content) - header.end()} and byte order {order:g}. The file is cut short or damaged; fetch it again."
        )
    bits = np.frombuffer(content, "<u4" if order < 0 else ">u4", offset=header.end()).reshape(height, width)
    return bits[::-1].astype(np.uint32).view(np.float32)
