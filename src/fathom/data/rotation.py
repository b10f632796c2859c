"""How far a camera turned between two pictures, from matched features: classical geometry that needs no training."""

import numpy as np
import numpy.typing as npt

from fathom.errors import require

_LONGEST = 960
"""Longer sides are shrunk first [px]: more features take time and do not make the rotation better."""
_FEWEST = 20
"""With fewer matches than this nothing is said about the rotation."""


def match_rotation(
    image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], intrinsics: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Find the rotation from one picture's camera to another's.

    SIFT features, matched by the ratio test, give the essential matrix, and that the rotation, which is taken to be
    less than a quarter turn. Its translation is left out: for small steps it is far less certain.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        other: Likewise, of the same camera.
        intrinsics: Of both [px], first pixel centre at (0.5, 0.5), shape (3, 3).

    Returns:
        Motion without translation, shape (4, 4): turns points of the first camera into the axes of the other. The
        identity where the pictures have too little in common.

    Raises:
        MissingExtraError: If OpenCV is not installed.

    Example:
        >>> flat = np.zeros((48, 64, 3), np.uint8)  # no features
        >>> match_rotation(flat, flat, np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])).tolist() == np.eye(4).tolist()
        True

    Reference:
        Nister, "An efficient solution to the five-point relative pose problem", TPAMI 2004. Pictures are turned back
        before a network looks for the motion in Bian et al., "Auto-rectify network for unsupervised indoor depth
        estimation", TPAMI 2022.
    """
    cv2 = require("cv2", "train", "Matching features")
    factor = min(1.0, _LONGEST / max(image.shape[:2]))
    features = cv2.SIFT_create(1500)
    places, descriptions = [], []
    for picture in (image, other):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if factor < 1.0:
            grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        found, described = features.detectAndCompute(grey, None)
        # OpenCV counts the first pixel centre as 0.
        places.append((np.array([point.pt for point in found]).reshape(-1, 2) + 0.5) / factor - 0.5)
        descriptions.append(described)
    motion = np.eye(4)
    if any(described is None or len(described) < _FEWEST for described in descriptions):
        return motion
    pairs = cv2.BFMatcher().knnMatch(*descriptions, k=2)
    good = [first for first, second in pairs if first.distance < 0.75 * second.distance]
    if len(good) < _FEWEST:
        return motion
    here = places[0][[match.queryIdx for match in good]]
    there = places[1][[match.trainIdx for match in good]]
    matrix = intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    cv2.setRNGSeed(0)
    essential, fits = cv2.findEssentialMat(here, there, matrix, cv2.USAC_MAGSAC, 0.999, 1.0 / factor)
    if essential is None or essential.shape != (3, 3) or np.count_nonzero(fits) < _FEWEST:
        return motion
    # Two rotations fit, half a turn about the translation apart. Which one leaves the points in front of both cameras
    # cannot be told where a camera only turned; in a video it is the small one.
    first, second, _ = cv2.decomposeEssentialMat(essential)
    motion[:3, :3] = first if np.trace(first) > np.trace(second) else second
    return motion
