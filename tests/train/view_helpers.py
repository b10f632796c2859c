"""Small stereo video for the tests of self-supervision: a textured plane seen by a camera that moves sideways."""

from pathlib import Path

import numpy as np
from PIL import Image

FOCAL, BASELINE = 40.0, 0.5


def texture(height: int, width: int, seed: int = 3) -> np.ndarray:
    """Return a smooth random picture, float, (height, width)."""
    coarse = np.random.default_rng(seed).integers(20, 236, (height // 6 + 2, width // 6 + 2)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def make_video(
    root: Path, *, count: int = 5, size: tuple[int, int] = (64, 128), step_px: int = 2, disparity_px: int = 6
) -> Path:
    """Write a sequence ``00`` in the layout of KITTI odometry.

    Each frame and each right view is the same wall, cut out further to the right.

    Returns:
        The root.
    """
    height, width = size
    wall = texture(height, width + count * step_px + disparity_px + 2)
    for side, shift in ((0, 0), (1, disparity_px)):
        folder = root / "sequences" / "00" / f"image_{side}"
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(count):
            left = frame * step_px + shift
            Image.fromarray(wall[:, left : left + width].astype(np.uint8)).save(folder / f"{frame:06d}.png")
    focal = FOCAL * width / 64
    rows = [[focal, 0, width / 2, 0, 0, focal, height / 2, 0, 0, 0, 1, 0]]
    rows.append([*rows[0][:3], -focal * BASELINE, *rows[0][4:]])
    text = "\n".join(f"P{n}: {' '.join(map(str, row))}" for n, row in enumerate(rows))
    (root / "sequences" / "00" / "calib.txt").write_text(text)
    return root
