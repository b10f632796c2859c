"""iBims-1: 100 indoor pictures with laser depth, edges and planar regions, for evaluation only.

Koch et al., "Evaluation of CNN-based Single-Image Depth Estimation Methods", ECCV Workshops 2018. Research use.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fathom.data.base import DepthDataset, camera_from_calibration, existing_folder, make_sample, read_list
from fathom.data.stored import read_stored
from fathom.errors import InputError, require
from fathom.io import read_image
from fathom.types import DepthKind, Sample

METRES_PER_COUNT = 50.0 / 65535.0
"""The PNG files spread 0..50 m over 16 bits."""
PLANES = ("mask_floor", "mask_table", "mask_wall")


class Ibims1(DepthDataset):
    """``ibims1_core_raw`` (``rgb/ depth/ calib/ mask_invalid/ mask_transp/ edges/``), or ``ibims1_core_mat``.

    ``meta`` holds `edges` (uint8) and the planar regions `mask_floor`, `mask_table`, `mask_wall` where present; the
    .mat files add their plane parameters `mask_*_paras`. A pixel is valid where both masks say so.

    Args:
        root: Folder of either layout.
        split: ``"test"``.

    Raises:
        InputError: If no picture is found.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(self, root: str | Path, split: str = "test") -> None:
        self.name, self.split = "ibims1", split
        self.root = existing_folder(root, "ibims1_core_raw or ibims1_core_mat")
        self.names = sorted(path.stem for path in (self.root / "rgb").glob("*.png"))
        self._matlab = not self.names
        if self._matlab:
            self.names = sorted(path.stem for path in self.root.glob("*.mat"))
        if (self.root / "imagelist.txt").is_file():
            listed = set(read_list(self.root / "imagelist.txt"))
            self.names = [name for name in self.names if name in listed]
        if not self.names:
            raise InputError(f"Expected rgb/*.png or *.mat of iBims-1 in '{root}'; found none.")

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> str:
        """Return the scene: each picture has its own."""
        return self.names[index]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return self._read_matlab(name) if self._matlab else self._read_raw(name)

    def _read_raw(self, name: str) -> Sample:
        maps: dict[str, Any] = {}
        for folder in ("mask_invalid", "mask_transp", "edges", *PLANES):
            path = self.root / folder / f"{name}.png"
            if path.is_file():
                maps[folder] = np.asarray(read_stored(path), np.uint8)
        text = (self.root / "calib" / f"{name}.txt").read_text(encoding="utf-8")
        try:
            fx, fy, cx, cy = (float(word) for word in text.replace(",", " ").split()[:4])
        except ValueError:
            raise InputError(f"Expected fx, fy, cx, cy in '{self.root}/calib/{name}.txt'; got {text[:60]!r}.") from None
        depth = read_stored(self.root / "depth" / f"{name}.png").astype(np.float32) * np.float32(METRES_PER_COUNT)
        return self._sample(name, read_image(self.root / "rgb" / f"{name}.png").rgb, depth, (fx, fy, cx, cy), maps)

    def _read_matlab(self, name: str) -> Sample:
        loadmat = require("scipy.io", "train", "Reading iBims-1 .mat files").loadmat
        try:
            struct = loadmat(self.root / f"{name}.mat")["data"]
            record = {field: struct[field].item() for field in struct.dtype.names}
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"Expected a struct 'data' in '{self.root}/{name}.mat': {error}.") from None
        k = np.asarray(record["calib"], np.float64)
        # MATLAB keeps the matrix transposed.
        cx, cy = (k[2, 0], k[2, 1]) if k[2, 0] else (k[0, 2], k[1, 2])
        maps = {key: record[key] for key in record if key == "edges" or key.startswith("mask_")}
        return self._sample(name, record["rgb"], record["depth"], (k[0, 0], k[1, 1], cx, cy), maps)

    def _sample(
        self, name: str, image: Any, depth: Any, calibration: tuple[float, float, float, float], maps: dict[str, Any]
    ) -> Sample:
        # The file names say "invalid" and "transparent"; the masks are 1 where a pixel is neither.
        usable = np.ones(depth.shape, np.bool_)
        for mask in ("mask_invalid", "mask_transp"):
            if mask in maps:
                usable &= maps.pop(mask) > 0
        camera = camera_from_calibration(*calibration)
        meta = {"id": name, "scene": name, "ground_truth": "laser"} | maps
        return make_sample(np.asarray(image, np.uint8), depth, usable, camera=camera, meta=meta)
