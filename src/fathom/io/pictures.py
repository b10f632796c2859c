"""Pictures out: RGB as PNG or JPEG, with the metadata of the depth map they show."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.errors import ConfigError
from fathom.io.atomic import write_atomic
from fathom.io.png import png_chunks
from fathom.io.sidecar import METADATA_KEY

JPEG_QUALITY = 92


def write_picture(
    rgb: npt.NDArray[np.uint8], path: str | Path, metadata: str = "", *, quality: int = JPEG_QUALITY
) -> Path:
    """Write an RGB picture as PNG or JPEG, by the suffix of the path.

    Args:
        rgb: The picture, uint8, shape (H, W, 3).
        path: File to write, ``.png``, ``.jpg`` or ``.jpeg``.
        metadata: ASCII text kept in a PNG text chunk or a JPEG comment; empty for none.
        quality: JPEG quality, 1 to 95.

    Returns:
        The path as `Path`.

    Raises:
        ConfigError: If the suffix is another one.
        OutputError: If the file cannot be written.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".png":
            return write_atomic(path, png_chunks(rgb, {METADATA_KEY: metadata} if metadata else {}))
        case ".jpg" | ".jpeg":
            buffer = io.BytesIO()
            # 4:4:4, because halved colour resolution smears the edges of a colour map.
            Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0, comment=metadata.encode("ascii"))
            return write_atomic(path, [buffer.getvalue()])
    raise ConfigError(f"Expected a picture named .png, .jpg or .jpeg; got '{path}'. Rename it.")
