"""The numbers of a file as they are stored, before any unit is given to them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fathom.errors import InputError
from fathom.io import read_depth
from fathom.types import DepthKind

STORED_SUFFIXES = (".png", ".pgm", ".tif", ".tiff", ".npy", ".npz", ".pfm", ".exr")
"""Files that `read_stored` opens."""


def read_stored(path: str | Path, key: str | None = None) -> npt.NDArray[Any]:
    """Return the stored numbers of a depth, disparity or label map.

    Args:
        path: PNG, PGM or TIFF (whole numbers or floats), npy, npz, PFM or EXR.
        key: Name of the array inside an npz that holds more than one.

    Returns:
        Array of the stored type, shape (H, W), top row first; a one-channel axis is dropped. A palette PNG gives its
        indices.

    Raises:
        InputError: If the file cannot be read, or holds anything but one map of numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.array([[0, 2560]], np.uint16)).save(f"{folder}/a.png")
        ...     read_stored(f"{folder}/a.png")
        array([[   0, 2560]], dtype=uint16)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in STORED_SUFFIXES:
        raise InputError(f"Expected a map ({', '.join(STORED_SUFFIXES)}); got '{path}'. Convert it to one of these.")
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif suffix == ".npz":
            array = _from_archive(path, key)
        elif suffix in (".pfm", ".exr"):
            array = _from_float_file(path)
        else:
            array = _from_picture(path)
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'. Check the path.") from None
    except (OSError, ValueError, UnidentifiedImageError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Cannot read a map from '{path}': {error}.") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "uifb":
        raise InputError(
            f"Expected one map of numbers (H, W) in '{path}'; got {array.dtype} {array.shape}. "
            "A colour picture of a depth map holds no depth: look for the original file."
        )
    return np.asarray(array)


def _from_picture(path: Path) -> npt.NDArray[Any]:
    with Image.open(path) as image:
        array = np.asarray(image)
    # Pillow gives grey PNGs of 16 bits as big or native endian, and 1-bit masks as bool.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_archive(path: Path, key: str | None) -> npt.NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        chosen = key if key is not None else next((n for n in ("depth", "values") if n in names), None)
        if chosen is None and len(names) == 1:
            chosen = names[0]
        if chosen not in names:
            wanted = f"an array '{key}'" if key else "one array, or one named depth"
            raise InputError(f"Expected {wanted} in '{path}'; it holds {', '.join(names)}. Name one with `npz_key`.")
        return np.asarray(archive[chosen])


def _from_float_file(path: Path) -> npt.NDArray[Any]:
    try:
        # The one kind that takes any sign: nothing is masked but NaN and infinity.
        return read_depth(path, kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH).values
    except InputError:
        return read_depth(path).values  # a file of our own says what it is, and refuses to be told
