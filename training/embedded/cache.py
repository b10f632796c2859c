"""What is stored of every picture that is trained on: by `label.py` and `render.py`, for `views.py`."""

import io
from pathlib import Path

import cv2
import numpy as np

from fathom.io.atomic import write_atomic

CANVAS = (336, 448)
"""Height and width [px] to which pictures and labels are stretched."""


def write(target: Path, image: np.ndarray, inverse_depth: np.ndarray) -> None:
    """Store a picture with its label, whole or not at all.

    Args:
        target: NAME.npz; gets ``image``, ``inverse_depth`` (float16) and ``aspect``, width over height as it was.
        image: Shape (H, W, 3), 8 bits.
        inverse_depth: Shape (h, w), larger = nearer.
    """
    stretched, label = (cv2.resize(part, CANVAS[::-1], interpolation=cv2.INTER_AREA) for part in (image, inverse_depth))
    content = io.BytesIO()
    aspect = image.shape[1] / image.shape[0]
    np.savez(content, image=stretched, inverse_depth=label.astype(np.float16), aspect=aspect)
    write_atomic(target, [content.getbuffer()])
