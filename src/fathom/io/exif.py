"""What EXIF says about the camera: which way is up, and the focal length.

Tags are those of CIPA DC-008 (Exif 3.0), section 4.6.
"""

import math
from typing import Any

from PIL import Image

from fathom.types import Camera, FocalSource

_EXIF_IFD = 0x8769
_ORIENTATION = 0x0112
_FOCAL_LENGTH = 0x920A
_PIXEL_X_DIMENSION = 0xA002
_FOCAL_PLANE_X_RESOLUTION = 0xA20E
_FOCAL_PLANE_RESOLUTION_UNIT = 0xA210
_FOCAL_LENGTH_35MM = 0xA405

_DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""Diagonal of the 36 x 24 mm frame [mm]; the 35-mm equivalent keeps the diagonal angle of view (tag 0xA405)."""
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Millimetres in one unit of FocalPlaneResolutionUnit: inch, cm, mm, micrometre."""
_PLAUSIBLE_FOCAL = (0.1, 100.0)
"""Focal lengths believed, as multiples of the longer side: from a 157 degree fisheye to a telescope at 0.6 degrees."""


def orientation_from_exif(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where it is missing or makes no sense."""
    value = _tag(exif, _ORIENTATION)
    return int(value) if value is not None and value in range(1, 9) else 1


def camera_from_exif(
    exif: Image.Exif, stored_width: int, stored_height: int, *, height: int, width: int
) -> Camera | None:
    """Build the camera of a picture from its EXIF focal length.

    The 35-mm equivalent comes first, because it holds for a picture that was shrunk later: ``focal_px = focal_35mm *
    diagonal_px / 43.27 mm``. Without it, ``focal_px = focal_mm * pixels per mm of the focal plane``, corrected by
    ``width / PixelXDimension`` for a picture that was shrunk.

    Args:
        exif: The tags.
        stored_width: Width of the picture as stored, before it is turned upright [px].
        stored_height: Height as stored [px].
        height: Height of the upright picture [px].
        width: Width of the upright picture [px].

    Returns:
        The camera of the upright picture, or None where EXIF does not tell a focal length that can be true.
    """
    try:
        details = exif.get_ifd(_EXIF_IFD)
    except Exception:  # damaged tags raise nearly anything; a picture is still a picture without them
        return None
    focal_px = _focal_px(details, stored_width, stored_height)
    longest = max(stored_width, stored_height)
    if focal_px is None or not _PLAUSIBLE_FOCAL[0] * longest <= focal_px <= _PLAUSIBLE_FOCAL[1] * longest:
        return None
    return Camera.from_focal(focal_px, height=height, width=width, source=FocalSource.EXIF)


def _focal_px(details: Any, stored_width: int, stored_height: int) -> float | None:
    focal_35mm = _tag(details, _FOCAL_LENGTH_35MM)
    if focal_35mm is not None and focal_35mm > 0:
        return focal_35mm * math.hypot(stored_width, stored_height) / _DIAGONAL_35MM
    focal_mm = _tag(details, _FOCAL_LENGTH)
    resolution = _tag(details, _FOCAL_PLANE_X_RESOLUTION)
    unit = _MM_PER_UNIT.get(int(_tag(details, _FOCAL_PLANE_RESOLUTION_UNIT) or 2))
    if not focal_mm or not resolution or unit is None:
        return None
    original_width = _tag(details, _PIXEL_X_DIMENSION) or stored_width
    return focal_mm * resolution / unit * stored_width / original_width


def _tag(tags: Any, number: int) -> float | None:
    """Return a tag as a finite number, or None where it is missing or damaged (0/0, text, several values)."""
    value = tags.get(number)
    try:
        number_value = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number_value if math.isfinite(number_value) else None
