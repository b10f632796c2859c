"""Score crops by name, as slices and masks; the numbers stand in `fathom.protocol.NAMED_CROPS`."""

import numpy as np

from fathom.alignment import BoolArray
from fathom.protocol import NAMED_CROPS, crop_box, kb_box, named_crop

CROPS: tuple[str, ...] = (*NAMED_CROPS, "kb_crop")


def crop_slices(name: str, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a named crop; fractions are truncated to whole pixels, as the benchmarks do.

    Args:
        name: A name in `fathom.protocol.NAMED_CROPS`, or ``kb_crop`` (bottom 352 rows, central 1216 columns:
            preprocessing on KITTI, and a score frame only where a protocol says so).
        height: Rows of the full target.
        width: Columns of the full target.

    Returns:
        Slices of rows and columns.

    Raises:
        ConfigError: If the name is not known, or the target has not the size that the crop is made for.

    Example:
        >>> crop_slices("garg", 375, 1242)
        (slice(153, 371, None), slice(44, 1197, None))
    """
    box = kb_box(height, width) if name == "kb_crop" else crop_box(named_crop(name), height, width)
    return slice(*box[:2]), slice(*box[2:])


def crop_mask(name: str, height: int, width: int) -> BoolArray:
    """Return a named crop as a mask on the full frame, shape (H, W); arguments and errors as in `crop_slices`.

    Example:
        >>> int(crop_mask("nyu_eigen", 480, 640).sum()) == 426 * 560
        True
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[crop_slices(name, height, width)] = True
    return mask
