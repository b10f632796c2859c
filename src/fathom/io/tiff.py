"""Depth as 32-bit float TIFF: one page of values, a second one for confidence where there is any.

The metadata is the ImageDescription (tag 270); a pixel that is not valid is NaN. Pages are not compressed: every
program reads them.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.errors import InputError
from fathom.io.atomic import write_atomic
from fathom.io.sidecar import (
    depth_from_metadata,
    foreign_depth,
    mark_invalid,
    metadata_text,
    parse_metadata,
    read_bytes,
    read_invalid,
    refuse_foreign_options,
)
from fathom.types import Depth, DepthKind

_IMAGE_DESCRIPTION = 270
_MARK = '"fathom_metadata"'
_GREY_MODES = ("F", "I", "L", "I;16", "I;16B", "I;16L", "I;16N")


def write_tiff(depth: Depth, path: str | Path) -> list[Path]:
    """Write a float32 TIFF in the map's own unit.

    Returns:
        The file written.

    Raises:
        OutputError: If the file cannot be written.
    """
    pages = [Image.fromarray(mark_invalid(depth))]
    if depth.confidence is not None:
        pages.append(Image.fromarray(depth.confidence))
    buffer = io.BytesIO()
    text = metadata_text(depth, {"invalid": "NaN"})
    pages[0].save(
        buffer, "TIFF", save_all=True, append_images=pages[1:], tiffinfo={_IMAGE_DESCRIPTION: text}, compression="raw"
    )
    return [write_atomic(path, [buffer.getvalue()])]


def read_tiff(path: str | Path, *, kind: DepthKind | str | None = None, scale: float | None = None) -> Depth:
    """Read a grey TIFF of floats or whole numbers.

    Args:
        path: The file.
        kind: What a foreign file holds.
        scale: Unit for each stored count of a foreign file; needed for whole numbers.

    Raises:
        InputError: If the file is damaged, has colours, or does not say what it holds and nobody else does.
    """
    name = str(path)
    pages, text = _read_pages(read_bytes(path), name)
    if text is None:
        return foreign_depth(pages[0], kind=kind, scale=scale, name=name)
    metadata = parse_metadata(text, name)
    refuse_foreign_options(name, kind, scale, metadata.get("kind"))
    confidence = pages[1] if len(pages) > 1 else None
    return depth_from_metadata(pages[0], read_invalid(pages[0]), confidence, metadata, name)


def _read_pages(content: bytes, name: str) -> tuple[list[npt.NDArray[Any]], str | None]:
    """Return the first page (both, of a file of ours) and the metadata text of a file of ours."""
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        with TiffImageFile(io.BytesIO(content)) as image:
            text = str(image.tag_v2.get(_IMAGE_DESCRIPTION, ""))
            own = _MARK in text
            pages, modes = [], []
            for page in range(min(image.n_frames, 2) if own else 1):
                image.seek(page)
                modes.append(image.mode)
                pages.append(np.array(image))
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise InputError(f"Expected a whole TIFF; '{name}' is damaged ({error}). Fetch or write it again.") from error
    if modes[0] not in _GREY_MODES or (own and set(modes) != {"F"}):
        raise InputError(f"Expected a grey TIFF of depth; '{name}' has mode {modes[0]}. Keep one channel of numbers.")
    return pages, text if own else None
