"""DIODE: indoor and outdoor pictures with laser depth and normals.

Vasiljevic et al., "DIODE: A Dense Indoor and Outdoor DEpth Dataset", arXiv 1908.00463. MIT.
"""

from pathlib import Path

import numpy as np

from fathom.data.base import DepthDataset, check_choice, existing_folder, make_sample
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import Camera, DepthKind, FocalSource, Sample

INTRINSICS = ((886.81, 0.0, 512.0), (0.0, 927.06, 384.0), (0.0, 0.0, 1.0))
"""Camera matrix of the development kit, for 1024 x 768; its centre is the middle of the picture."""
SCENE_TYPES = ("indoors", "outdoor")


class Diode(DepthDataset):
    """``<split>/<indoors|outdoor>/scene_*/scan_*/NAME.png`` with ``_depth.npy``, ``_depth_mask.npy``, ``_normal.npy``.

    Normals are given as stored, in the axes of DIODE; (0, 0, 0) means unknown.

    Args:
        root: Folder that holds ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
        scene_type: ``"indoors"``, ``"outdoor"`` or ``"all"``.

    Raises:
        InputError: If there are no pictures.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(self, root: str | Path, split: str = "val", *, scene_type: str = "all") -> None:
        self.name, self.split = "diode", check_choice("split", split, ("train", "val"))
        self.root = existing_folder(root, "train/ and val/ of DIODE")
        check_choice("scene_type", scene_type, (*SCENE_TYPES, "all"))
        types = SCENE_TYPES if scene_type == "all" else (scene_type,)
        self.images = [
            path for kind in types for path in sorted((self.root / split / kind).glob("scene_*/scan_*/*.png"))
        ]
        if not self.images:
            raise InputError(f"Expected {split}/{'|'.join(types)}/scene_*/scan_*/*.png in '{root}'; found none.")

    def __len__(self) -> int:
        return len(self.images)

    def scene(self, index: int) -> str:
        """Return the scene."""
        return self.images[index].parents[1].name

    def read(self, index: int) -> Sample:
        """Read one sample."""
        path = self.images[index]
        stem = str(path.with_suffix(""))
        try:
            depth = np.load(f"{stem}_depth.npy").squeeze()
            mask = np.load(f"{stem}_depth_mask.npy").squeeze() > 0
            normals = np.load(f"{stem}_normal.npy") if Path(f"{stem}_normal.npy").is_file() else None
        except (OSError, ValueError) as error:
            raise InputError(f"Expected depth and mask beside '{path}': {error}.") from None
        meta = {
            "id": path.relative_to(self.root).with_suffix("").as_posix(),
            "scene": self.scene(index),
            "scene_type": path.parents[2].name,
            "image_path": str(path),
            "ground_truth": "laser",
        }
        if normals is not None:
            meta["normals"] = normals.astype(np.float32)
        camera = Camera(np.array(INTRINSICS), FocalSource.USER)
        return make_sample(read_image(path).rgb, depth, mask, camera=camera, meta=meta)
