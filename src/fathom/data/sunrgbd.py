"""SUN RGB-D: indoor frames of four depth cameras.

Song et al., "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015. Research use.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, camera_from_calibration, existing_folder, make_sample, read_list
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import DepthKind, Sample

MAX_DEPTH_M = 8.0
"""The toolbox limits depth to this."""


def rotate_bits(stored: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return the millimetres behind the stored numbers: their 16 bits turned right by 3.

    Must be done in 16 bits: in a wider type the bits that leave on the right never come back on the left.

    Raises:
        InputError: If the numbers are not 16-bit.

    Example:
        >>> rotate_bits(np.array([8, 16000, 1], np.uint16)).tolist()
        [1, 2000, 8192]
    """
    if stored.dtype != np.uint16:
        raise InputError(f"SUN RGB-D depth must be a 16-bit PNG; got {stored.dtype}.")
    return (stored >> np.uint16(3)) | (stored << np.uint16(13))


def decode_depth(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the metres of a stored depth map, limited to 8; 0 where nothing was measured.

    Example:
        >>> decode_depth(np.array([8, 16000, 1], np.uint16)).tolist()
        [0.0010000000474974513, 2.0, 8.0]
    """
    metres = rotate_bits(stored).astype(np.float32) / np.float32(1000)
    return np.asarray(np.minimum(metres, MAX_DEPTH_M), np.float32)


class SunRgbd(DepthDataset):
    """Frames in folders that each hold ``image/``, ``depth/``, ``depth_bfx/`` and ``intrinsics.txt``.

    Args:
        root: Folder that holds ``kv1``, ``kv2``, ``realsense``, ``xtion`` (or any folder above frames).
        split: Name of this part.
        list_file: Folders of the frames relative to `root`, one in each line; default: every frame below `root`.
        refined: Read ``depth_bfx`` (holes filled) in place of the raw ``depth``.

    Raises:
        InputError: If no frame is found.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self, root: str | Path, split: str = "all", *, list_file: str | Path | None = None, refined: bool = True
    ) -> None:
        self.name, self.split = "sun-rgbd", split
        self.root = existing_folder(root, "SUN RGB-D")
        self._depth = "depth_bfx" if refined else "depth"
        if list_file is None:
            self.frames = sorted(path.parent for path in self.root.rglob("intrinsics.txt"))
        else:
            self.frames = [self.root / line for line in read_list(list_file)]
        if not self.frames:
            raise InputError(f"Expected frame folders with intrinsics.txt below '{root}'; found none.")

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the room type."""
        path = self.frames[index] / "scene.txt"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    def read(self, index: int) -> Sample:
        """Read one sample."""
        folder = self.frames[index]
        image, depth = _only_file(folder / "image"), _only_file(folder / self._depth)
        numbers = (folder / "intrinsics.txt").read_text(encoding="utf-8").split()
        try:
            k = np.array(numbers[:9], np.float64).reshape(3, 3)
        except ValueError:
            raise InputError(f"Expected 9 numbers in '{folder / 'intrinsics.txt'}'; got {numbers[:9]}.") from None
        # The toolbox unprojects with MATLAB's pixel numbers, which start at 1.
        camera = camera_from_calibration(k[0, 0], k[1, 1], k[0, 2], k[1, 2], first_pixel_centre=1.0)
        meta = {
            "id": folder.relative_to(self.root).as_posix(),
            "scene": self.scene(index),
            "image_path": str(image),
            "ground_truth": "filled" if self._depth == "depth_bfx" else "raw",
        }
        return make_sample(read_image(image).rgb, decode_depth(read_stored(depth)), camera=camera, meta=meta)


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if len(files) != 1:
        raise InputError(f"Expected one picture in '{folder}'; found {len(files)}.")
    return files[0]
