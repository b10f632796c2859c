"""Depth maps in and out of files, by format."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import ConfigError, InputError
from fathom.io.exr import read_exr, write_exr
from fathom.io.npy import read_npy, read_npz, write_npy, write_npz
from fathom.io.pfm import read_pfm, write_pfm
from fathom.io.png16 import read_png16, write_png16
from fathom.io.tiff import read_tiff, write_tiff
from fathom.types import Depth, DepthKind


@dataclass(frozen=True)
class DepthFormat:
    """A file format that holds a depth map and gives it back.

    Args:
        suffixes: File name endings, in lower case; the first is the one written.
        write: Writes a map: ``write(depth, path, **options) -> paths``.
        read: Reads a map: ``read(path, kind=..., scale=...) -> Depth``.
        options: Names of the options that `write` takes.
        description: One line for a list of formats.
    """

    suffixes: tuple[str, ...]
    write: Callable[..., list[Path]]
    read: Callable[..., Depth]
    description: str
    options: frozenset[str] = frozenset()


DEPTH_FORMATS: dict[str, DepthFormat] = {
    "png16": DepthFormat(
        (".png",),
        write_png16,
        read_png16,
        "16-bit PNG: millimetres for metric depth, else a stated scale and offset; 0 = no depth",
        frozenset({"scale", "offset"}),
    ),
    "npy": DepthFormat((".npy",), write_npy, read_npy, "raw float32 map, with a JSON file beside it"),
    "npz": DepthFormat((".npz",), write_npz, read_npz, "every array and the metadata"),
    "tiff": DepthFormat((".tiff", ".tif"), write_tiff, read_tiff, "32-bit float TIFF"),
    "exr": DepthFormat((".exr",), write_exr, read_exr, "OpenEXR, float32, channel Z (Y for inverse depth)"),
    "pfm": DepthFormat(
        (".pfm",), write_pfm, read_pfm, "Portable Float Map, with a JSON file beside it", frozenset({"byte_order"})
    ),
}
"""Formats that `write_depth` writes and `read_depth` reads."""


def write_depth(depth: Depth, path: str | os.PathLike[str], format: str | None = None, **options: Any) -> list[Path]:
    """Write a depth map to a file, whole or not at all.

    Args:
        depth: The map.
        path: File to write; its folder is made where it is missing.
        format: A name in `DEPTH_FORMATS`; default: by the suffix of `path`.
        options: Options of the writer: `scale` and `offset` for png16, `byte_order` for pfm.

    Returns:
        Every file written, the map first, then its sidecar where the format needs one.

    Raises:
        ConfigError: If the format or an option is unknown.
        OutputError: If the file cannot be written.

    Example:
        >>> import numpy as np, tempfile
        >>> depth = Depth(np.array([[1.5, 2.0]]), DepthKind.METRIC_DEPTH)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path] = write_depth(depth, f"{folder}/room.npz")
        ...     read_depth(path) == depth
        True
    """
    path = Path(path)
    entry = DEPTH_FORMATS.get(format if format is not None else _format_of(path) or "")
    if entry is None:
        what = f"format {format!r}" if format is not None else f"suffix '{path.suffix}'"
        raise ConfigError(f"Expected one of the formats {', '.join(DEPTH_FORMATS)}; got the {what}. Name a format.")
    if unknown := options.keys() - entry.options:
        known = ", ".join(sorted(entry.options)) or "none"
        raise ConfigError(f"Unknown option {', '.join(map(repr, sorted(unknown)))} for '{path}'. Known: {known}.")
    return entry.write(depth, path, **options)


def read_depth(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    kind: DepthKind | str | None = None,
    scale: float | None = None,
) -> Depth:
    """Read a depth map from a file that Fathom or another program wrote.

    Args:
        path: The file.
        format: A name in `DEPTH_FORMATS`; default: by the suffix of `path`.
        kind: What a file without Fathom's metadata holds.
        scale: Unit of the map for each stored count of such a file, for instance 0.001 for millimetres, 1/256 for
            KITTI. Alone it means metric depth.

    Returns:
        The map; equal to the one written, to the stated quantum for png16.

    Raises:
        ConfigError: If the format is unknown.
        InputError: If the file cannot be read, or does not say what it holds and nobody else does.
    """
    path = Path(path)
    entry = DEPTH_FORMATS.get(format if format is not None else _format_of(path) or "")
    if entry is None:
        if format is not None:
            raise ConfigError(f"Expected one of the formats {', '.join(DEPTH_FORMATS)}; got {format!r}.")
        suffixes = ", ".join(suffix for known in DEPTH_FORMATS.values() for suffix in known.suffixes)
        raise InputError(f"Expected a depth map ({suffixes}); got '{path}'. Name its format if the suffix is unusual.")
    if path.is_dir():
        raise InputError(f"Expected a depth map; '{path}' is a folder. Name a file.")
    return entry.read(path, kind=kind, scale=scale)


def _format_of(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return next((name for name, entry in DEPTH_FORMATS.items() if suffix in entry.suffixes), None)
