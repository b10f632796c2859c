"""Pictures in: every common format becomes RGB uint8, turned upright, with the camera that its EXIF describes.

Decoders are chosen by the first bytes of a file, never by its name, and called directly: no other decoder of Pillow can
be reached, its process-wide limits stay as they are, and any number of threads may read at once.

What becomes of odd pixels: transparency is laid over white; 16-bit grey is scaled by 1/257; the first frame of an
animation is taken; CMYK, YCbCr and Lab are converted without colour profiles; floats must lie in 0..1 or 0..255.
"""

import importlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.errors import InputError, require
from fathom.io.exif import camera_from_exif, orientation_from_exif
from fathom.types import Camera

RgbImage = npt.NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

MAX_PIXELS = 200_000_000
"""Largest picture read unless told otherwise; 600 MB of RGB."""
PICTURE_FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "PPM", "HEIC")
"""Formats that `read_image` knows; HEIC needs an extra."""
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"}
    | {".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif"}
)
"""Suffixes, in lower case, that a folder is searched for."""

_RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"})
_WHITE = (255, 255, 255, 255)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_NUM_SNIFFED = 64

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a stored picture upright, for each EXIF orientation (CIPA DC-008, tag 0x0112)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as every model takes it.

    Args:
        rgb: Upright RGB, read-only uint8, shape (H, W, 3).
        camera: Camera in pixels of this picture, where its EXIF tells the focal length.
        name: File name, or what the source is called in messages.
        mode: Pillow's name of the stored pixels, for instance ``"RGB"``, ``"CMYK"`` or ``"I;16"``.
    """

    rgb: RgbImage
    camera: Camera | None = None
    name: str = "picture"
    mode: str = "RGB"

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.rgb.shape[1])


def read_image(source: Source, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Picture:
    """Read a picture.

    Args:
        source: Path, encoded bytes, or an object with ``read()`` that gives encoded bytes.
        max_pixels: Larger pictures are refused before they are decoded.
        name: What to call the source in messages; default: its file name.

    Returns:
        The picture, upright, with its camera where EXIF tells one.

    Raises:
        InputError: If there is no picture, it is damaged, too large, or of a kind that cannot be read.
        MissingExtraError: If it is HEIC and the extra is not installed.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (4, 3), 200).save(buffer, "PNG")
        >>> picture = read_image(buffer.getvalue())
        >>> picture.rgb.shape, picture.rgb[0, 0].tolist(), picture.mode
        ((3, 4, 3), [200, 200, 200], 'L')
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_stream(io.BytesIO(source), "the given data", name or "picture", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with _open_path(path) as file:
            return _read_stream(file, f"'{path}'", name or path.name, max_pixels)
    if not hasattr(source, "read"):
        raise InputError(
            f"Expected a path, bytes or an open binary file; got {type(source).__name__}. "
            "For arrays and Pillow images call fathom.predict directly."
        )
    try:
        content = source.read()
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the open file that was given: {error}.") from error
    if not isinstance(content, bytes):
        raise InputError(f"Expected a file opened in binary mode; it gave {type(content).__name__}. Open it with 'rb'.")
    called = name or _stream_name(source)
    return _read_stream(io.BytesIO(content), f"'{called}'", called, max_pixels)


def _stream_name(source: IO[bytes]) -> str:
    stated = getattr(source, "name", None)
    return Path(stated).name if isinstance(stated, str) and stated else "picture"


def _open_path(path: Path) -> IO[bytes]:
    """Open a file, or say why it cannot be a picture."""
    if path.suffix.lower() in _RAW_SUFFIXES:
        # Most raw files are TIFF inside, and would give their small preview without a word.
        raise InputError(
            f"'{path}' is a camera raw file, which Fathom does not develop. "
            "Convert it to JPEG or TIFF first, for instance with darktable-cli."
        )
    try:
        if path.is_dir():
            raise InputError(f"Expected a picture; '{path}' is a folder. Name a file, or use fathom predict on it.")
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'. Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot open '{path}': {reason}. Check that it may be read.") from error


def _read_stream(file: IO[bytes], label: str, name: str, max_pixels: int) -> Picture:
    try:
        head = file.read(_NUM_SNIFFED)
        file.seek(0)
    except OSError as error:
        raise InputError(f"Cannot read {label}: {error.strerror or error}.") from error
    if not head:
        raise InputError(f"Expected a picture; {label} is empty (0 bytes). Fetch or copy it again.")
    opener = _find_decoder(head)
    if opener is None:
        raise InputError(
            f"Expected a picture ({', '.join(PICTURE_FORMATS)}); {label} is {_guess(head)}. Convert it to one of these."
        )
    format_name, module, decoder = opener
    if format_name == "HEIC":
        require("pillow_heif", "heic", f"Reading {label} (HEIC)")
    decode = getattr(importlib.import_module(module), decoder)
    try:
        with decode(file, "") as image:
            _check_size(image.size, label, max_pixels)
            image.load()
            return _finish(image, label, name)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders fed with damaged or hostile bytes raise nearly anything
        raise InputError(
            f"Expected a whole {format_name} picture; {label} is damaged, cut short or of a kind that cannot be read "
            f"({error or type(error).__name__}). Fetch it again, or save it anew as PNG or JPEG."
        ) from error


def _check_size(size: tuple[int, int], label: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"Expected a picture with pixels; {label} is {width} x {height}. Save it anew.")
    if width * height > max_pixels:
        raise InputError(
            f"Expected at most {max_pixels / 1e6:g} megapixels; {label} is {width} x {height} = "
            f"{width * height / 1e6:.1f} megapixels. Shrink it, or raise max_pixels if you trust it."
        )


def _finish(image: Image.Image, label: str, name: str) -> Picture:
    """Turn a decoded image into a `Picture`."""
    mode = image.mode
    stored_width, stored_height = image.size
    # After load(): Pillow turns TIFF upright itself and then drops the tag.
    exif = _exif_of(image)
    turn = _TURNS.get(orientation_from_exif(exif)) if exif else None
    rgb = _to_rgb(image, label)
    if turn is not None:
        rgb = np.ascontiguousarray(_turned(rgb, turn))
    rgb.setflags(write=False)
    height, width = rgb.shape[:2]
    camera = camera_from_exif(exif, stored_width, stored_height, height=height, width=width) if exif else None
    return Picture(rgb, camera, name, mode)


def _exif_of(image: Image.Image) -> Image.Exif | None:
    """Return the EXIF tags; None where there are none or they are damaged, which leaves a picture a picture."""
    try:
        return image.getexif() or None
    except Exception:  # damaged tags raise nearly anything
        return None


def _turned(rgb: RgbImage, turn: Image.Transpose) -> RgbImage:
    match turn:
        case Image.Transpose.FLIP_LEFT_RIGHT:
            return rgb[:, ::-1]
        case Image.Transpose.ROTATE_180:
            return rgb[::-1, ::-1]
        case Image.Transpose.FLIP_TOP_BOTTOM:
            return rgb[::-1]
        case Image.Transpose.TRANSPOSE:
            return rgb.swapaxes(0, 1)
        case Image.Transpose.ROTATE_270:
            return np.rot90(rgb, -1)
        case Image.Transpose.TRANSVERSE:
            return rgb[::-1, ::-1].swapaxes(0, 1)
    return np.rot90(rgb)


def _to_rgb(image: Image.Image, label: str) -> RgbImage:
    """Return the pixels as RGB uint8, shape (H, W, 3), by the rules in the head of this module."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(_round_16(np.asarray(image).astype(np.uint32)))
    if image.mode == "I":
        whole = np.asarray(image)
        if whole.min() < 0 or whole.max() > 65535:
            raise InputError(
                f"Expected whole numbers in 0..65535 in the grey picture {label}; got {whole.min()}..{whole.max()}. "
                "Scale it to 8 or 16 bits first."
            )
        return _grey_to_rgb(_round_16(whole.astype(np.uint32)))
    if image.mode == "F":
        return _grey_to_rgb(_float_to_8bit(np.asarray(image), label))
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        upper = image.convert("RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), upper).convert("RGB"))
    if image.mode == "L":
        return _grey_to_rgb(np.asarray(image))
    return np.array(image.convert("RGB"))


def _grey_to_rgb(grey: npt.NDArray[np.uint8]) -> RgbImage:
    return np.repeat(grey[..., None], 3, axis=2)


def _round_16(grey: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    return ((grey + 128) // 257).astype(np.uint8)


def _float_to_8bit(grey: npt.NDArray[np.float32], label: str) -> npt.NDArray[np.uint8]:
    """Return 0..1 or 0..255 as 0..255; refuse anything else, because guessing a range would change the picture."""
    finite = grey[np.isfinite(grey)]
    if finite.size == 0:
        raise InputError(
            f"Expected a float picture within 0..1 or 0..255; no pixel of {label} is a finite number. "
            "Fetch or write it again."
        )
    if finite.size < grey.size or finite.min() < 0 or finite.max() > 255:
        raise InputError(
            f"Expected a float picture within 0..1 or 0..255; {label} has {finite.min():.4g}..{finite.max():.4g}"
            f"{'' if finite.size == grey.size else ' and values that are not finite'}. Scale it first."
        )
    scaled: npt.NDArray[np.float32] = np.rint(grey * np.float32(255.0 if grey.max() <= 1 else 1.0))
    return scaled.astype(np.uint8)


def _find_decoder(head: bytes) -> tuple[str, str, str] | None:
    """Return format, module and name of the decoder whose signature a file starts with."""
    for signature, format_name, module, decoder in (
        (b"\xff\xd8\xff", "JPEG", "PIL.JpegImagePlugin", "jpeg_factory"),
        (b"\x89PNG\r\n\x1a\n", "PNG", "PIL.PngImagePlugin", "PngImageFile"),
        (b"GIF8", "GIF", "PIL.GifImagePlugin", "GifImageFile"),
        (b"BM", "BMP", "PIL.BmpImagePlugin", "BmpImageFile"),
        (b"II*\0", "TIFF", "PIL.TiffImagePlugin", "TiffImageFile"),
        (b"MM\0*", "TIFF", "PIL.TiffImagePlugin", "TiffImageFile"),
        (b"II+\0", "TIFF", "PIL.TiffImagePlugin", "TiffImageFile"),
        (b"MM\0+", "TIFF", "PIL.TiffImagePlugin", "TiffImageFile"),
    ):
        if head.startswith(signature):
            return format_name, module, decoder
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP", "PIL.WebPImagePlugin", "WebPImageFile"
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3] in b" \t\r\n":
        return "PPM", "PIL.PpmImagePlugin", "PpmImageFile"
    if head[4:8] == b"ftyp":
        # The major brand decides; a generic one (mif1) is told apart by the compatible brands after it.
        if any(brand in head[8:] for brand in _AVIF_BRANDS):
            return "AVIF", "PIL.AvifImagePlugin", "AvifImageFile"
        if head[8:12] in _HEIC_BRANDS:
            return "HEIC", "pillow_heif.as_plugin", "HeifImageFile"
    return None


def _guess(head: bytes) -> str:
    """Say what a file that is no picture looks like."""
    for signature, what in (
        (b"%PDF", "a PDF document"),
        (b"PK\x03\x04", "a zip archive or office document"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x76\x2f\x31\x01", "an OpenEXR file"),
        (b"8BPS", "a Photoshop document"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    ):
        if head.startswith(signature):
            return what
    if head[4:8] == b"ftyp":
        return "a video or another ISO media file"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith((b"<svg", b"<?xml")):
        return "SVG or XML text"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "text"
    return f"none of them (it starts with {head[:8].hex(' ')})"
