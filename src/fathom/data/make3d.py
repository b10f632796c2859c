"""Make3D: outdoor pictures with a coarse laser grid.

Saxena et al., "Make3D: Learning 3D Scene Structure from a Single Still Image", TPAMI 2009. Research use.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.data.base import DepthDataset, check_choice, existing_folder, make_sample
from fathom.errors import InputError, require
from fathom.geometry import resize_image
from fathom.io import read_image
from fathom.types import DepthKind, Sample

FCRN_SIZE = (460, 345)
"""Rows and columns to which Laina et al. (3DV 2016) bring pictures and, by nearest neighbour, depth."""
C1_MAX_DEPTH_M = 70.0
"""The C1 score counts ground truth below this; C2 counts all of it (up to 80 m)."""


class Make3D(DepthDataset):
    """``Test134/img-*.jpg`` (2272 x 1704 rows x columns) with ``Gridlaserdata/depth_sph_corr-*.mat`` (55 x 305 grid).

    Args:
        root: Folder of the pictures and the grids, in the subfolders of the original archives.
        split: ``"test"`` (134) or ``"train"`` (400).
        size: Rows and columns that picture (area) and grid (nearest) are brought to.
        skip: Numbers, counted from 0 in sorted order, to leave out; some mirrors have a damaged picture at 61.

    Raises:
        InputError: If there are no pictures, or one lacks its grid.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self, root: str | Path, split: str = "test", *, size: tuple[int, int] = FCRN_SIZE, skip: tuple[int, ...] = ()
    ) -> None:
        self.name, self.split, self.size = "make3d", check_choice("split", split, ("train", "test")), size
        self.root = existing_folder(root, "Make3D pictures and laser grids")
        pictures = "Test134" if split == "test" else "Train400Img"
        grids = ("Gridlaserdata", "Test134Depth/Gridlaserdata", "Train400Depth")
        images = sorted((self.root / pictures).glob("img-*.jpg"))
        by_number = {_key(path): path for folder in grids for path in (self.root / folder).glob("depth_sph_corr-*.mat")}
        self.pairs = [
            (image, by_number.get(_key(image))) for number, image in enumerate(images) if number not in set(skip)
        ]
        absent = [image.name for image, grid in self.pairs if grid is None]
        if absent or not self.pairs:
            raise InputError(
                f"Expected {pictures}/img-*.jpg with grids in '{root}'; missing {absent[:3] or 'pictures'}."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def grid(self, index: int) -> npt.NDArray[np.float32]:
        """Return the laser grid [m] as stored, shape (55, 305)."""
        path = self.pairs[index][1]
        assert path is not None  # checked when opened
        loadmat = require("scipy.io", "train", "Reading Make3D grids").loadmat
        try:
            stored = loadmat(path)["Position3DGrid"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"Expected Position3DGrid in '{path}': {error}.") from None
        return np.asarray(stored[:, :, 3], np.float32)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        height, width = self.size
        path = self.pairs[index][0]
        image = np.rint(resize_image(read_image(path).rgb, height, width)).astype(np.uint8)
        depth = np.asarray(Image.fromarray(self.grid(index)).resize((width, height), Image.Resampling.NEAREST))
        meta = {"id": _key(path), "image_path": str(path), "ground_truth": "laser"}
        return make_sample(image, depth, meta=meta)


def _key(path: Path) -> str:
    return re.sub(r"^(img|depth_sph_corr)-", "", path.stem)
