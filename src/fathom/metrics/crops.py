"""Named score crops: which rectangle of the target a benchmark scores.

Names lie in the literature, so each crop here states its fractions or its pixels; compare protocols by those.
"""

import numpy as np

from fathom.alignment import BoolArray
from fathom.errors import ConfigError, ShapeError

# Fractions of height and width: (first row, end row, first column, end column).
FRACTION_CROPS: dict[str, tuple[float, float, float, float]] = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen_kitti": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}

# Pixels of a 480 x 640 target, in the same order.
NYU_CROPS: dict[str, tuple[int, int, int, int]] = {
    "nyu_eigen": (45, 471, 41, 601),
    "nyu_eigen_region": (20, 460, 24, 616),
    "nyu_eigen_region_short": (20, 459, 24, 615),
}

CROPS: tuple[str, ...] = ("none", *FRACTION_CROPS, "kb_crop", *NYU_CROPS)


def crop_slices(name: str, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a named crop; fractions are truncated to whole pixels, as the benchmarks do.

    Args:
        name: ``none``; ``garg`` and ``eigen_kitti`` (fractions); ``kb_crop`` (bottom 352 rows, central 1216 columns:
            preprocessing on KITTI, and a score frame only where a protocol says so); ``nyu_eigen`` (426 x 560);
            ``nyu_eigen_region`` (what Eigen 2014 predicts) and ``nyu_eigen_region_short`` (its off-by-one copy).
        height: Rows of the full target.
        width: Columns of the full target.

    Returns:
        Slices of rows and columns.

    Raises:
        ConfigError: If the name is not known.
        ShapeError: If the target is too small for the crop, or not 480 x 640 for one of NYU.

    Example:
        >>> crop_slices("garg", 375, 1242)
        (slice(153, 371, None), slice(44, 1197, None))

    Reference:
        Garg et al., ECCV 2016, and Godard et al., CVPR 2017 (KITTI fractions); Eigen et al., NeurIPS 2014; Lee et
        al. (BTS), 2019, for the KITTI benchmark crop and the NYU rectangle.
    """
    if name == "none":
        return slice(0, height), slice(0, width)
    if name in FRACTION_CROPS:
        top, bottom, left, right = FRACTION_CROPS[name]
        return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
    if name == "kb_crop":
        if height < 352 or width < 1216:
            raise ShapeError(f"kb_crop needs at least 352 x 1216 pixels; got {height} x {width}.")
        top_row, left_column = height - 352, int((width - 1216) / 2)
        return slice(top_row, height), slice(left_column, left_column + 1216)
    if name in NYU_CROPS:
        if (height, width) != (480, 640):
            raise ShapeError(f"The crop {name} is defined on 480 x 640; got {height} x {width}. Score at full size.")
        first_row, end_row, first_column, end_column = NYU_CROPS[name]
        return slice(first_row, end_row), slice(first_column, end_column)
    raise ConfigError(f"Unknown crop '{name}'. Known: {', '.join(CROPS)}.")


def crop_mask(name: str, height: int, width: int) -> BoolArray:
    """Return a named crop as a mask on the full frame, shape (H, W); arguments and errors as in `crop_slices`.

    Example:
        >>> int(crop_mask("nyu_eigen", 480, 640).sum()) == 426 * 560
        True
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[crop_slices(name, height, width)] = True
    return mask
