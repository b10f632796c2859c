"""Middlebury stereo: 2003 to 2006 pictures with integer disparity maps, 2014 and later with PFM and calibration.

Scharstein & Szeliski, CVPR 2003; Scharstein & Pal, CVPR 2007; Scharstein et al., GCPR 2014. Free to use with citation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, camera_from_calibration, check_choice, existing_folder, make_sample
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import DepthKind, Sample

_LAYOUTS = {"view1.png": ("view5.png", "disp1.png", "disp5.png"), "im2.png": ("im6.png", "disp2.png", "disp6.png")}


def read_calibration(path: str | Path) -> dict[str, Any]:
    """Read a ``calib.txt`` of 2014 or later.

    Returns:
        ``cam0`` and ``cam1`` as (3, 3) arrays, ``doffs`` [px], ``baseline`` [mm], ``ndisp`` and the rest as floats.

    Raises:
        InputError: If a line has no value, or cam0, doffs or baseline is missing.
    """
    values: dict[str, Any] = {}
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            key, _, text = line.partition("=")
            if not line.strip():
                continue
            if text.strip().startswith("["):
                rows = text.strip(" []\n").split(";")
                values[key.strip()] = np.array([row.split() for row in rows], np.float64)
            else:
                values[key.strip()] = float(text)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected a Middlebury calib.txt; cannot read '{path}': {error}.") from None
    missing = {"cam0", "doffs", "baseline"} - values.keys()
    if missing:
        raise InputError(f"Expected cam0, doffs and baseline in '{path}'; {', '.join(sorted(missing))} missing.")
    return values


def disparity_to_depth(
    disparity: npt.NDArray[Any], *, focal_px: float, baseline_mm: float, doffs_px: float
) -> npt.NDArray[np.float32]:
    """Return metres: ``baseline * focal / (disparity + doffs)``; infinite (unknown) disparity gives 0.

    Example:
        >>> disparity_to_depth(np.array([90.0, np.inf]), focal_px=1000.0, baseline_mm=200.0, doffs_px=10.0).tolist()
        [2.0, 0.0]
    """
    shifted = np.asarray(disparity, np.float64) + doffs_px
    with np.errstate(divide="ignore"):
        depth = np.where(shifted > 0, baseline_mm * focal_px / shifted / 1000.0, 0.0)
    return depth.astype(np.float32)


class Middlebury(DepthDataset):
    """Scenes in one folder each.

    * ``im0.png im1.png disp0.pfm|disp0GT.pfm calib.txt`` (2014 and later): depth [m] with its camera.
    * ``view1.png view5.png disp1.png disp5.png`` (2005, 2006) and ``im2.png im6.png disp2.png disp6.png`` (2003):
      disparity [px], of which the files hold `factor` times, 0 = unknown. Its camera is not published with it.

    Args:
        root: Folder of the scene folders.
        split: ``"all"``.
        factor: What the stored 8-bit numbers are divided by: 3 for third-size, 2 for half-size, 1 for full-size
            pictures of 2005 and 2006, 4 for those of 2003; default: 3 or 4 by the layout.
        scenes: Folders to read, in this order; default: all.

    Raises:
        InputError: If no scene is found, or scenes of both kinds are mixed.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        factor: float | None = None,
        scenes: tuple[str, ...] | None = None,
    ) -> None:
        self.name, self.split = "middlebury", check_choice("split", split, ("all",))
        self.root = existing_folder(root, "Middlebury scenes")
        folders = sorted(path for path in self.root.iterdir() if path.is_dir())
        if scenes is not None:
            folders = [existing_folder(self.root / scene, "a scene of Middlebury") for scene in scenes]
        calibrated = [folder for folder in folders if (folder / "calib.txt").is_file()]
        plain = [(folder, left) for folder in folders for left in _LAYOUTS if (folder / left).is_file()]
        if not calibrated and not plain:
            raise InputError(f"Expected scenes with calib.txt, view1.png or im2.png in '{root}'; found none.")
        if calibrated and plain:
            raise InputError(f"'{root}' mixes scenes with depth and with disparity only. Put them into two folders.")
        self.factor = factor
        self.kind = DepthKind.METRIC_DEPTH if calibrated else DepthKind.DISPARITY
        self.scenes: list[tuple[Path, str]] = [(folder, "im0.png") for folder in calibrated] or plain

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> str:
        """Return the scene."""
        return self.scenes[index][0].name

    def read(self, index: int) -> Sample:
        """Read one sample."""
        folder, left = self.scenes[index]
        meta: dict[str, Any] = {
            "id": folder.name,
            "scene": folder.name,
            "image_path": str(folder / left),
            "ground_truth": "structured_light",
        }
        image = read_image(folder / left).rgb
        if left == "im0.png":
            return self._with_depth(folder, image, meta)
        right, near, far = _LAYOUTS[left]
        factor = self.factor or (3.0 if left == "view1.png" else 4.0)
        if (folder / right).is_file():
            meta["image_right"] = read_image(folder / right).rgb
        if (folder / far).is_file():
            meta["target_right"] = read_stored(folder / far).astype(np.float32) / np.float32(factor)
            meta["valid_mask_right"] = meta["target_right"] > 0
        disparity = read_stored(folder / near).astype(np.float32) / np.float32(factor)
        return make_sample(image, disparity, kind=DepthKind.DISPARITY, meta=meta)

    def _with_depth(self, folder: Path, image: npt.NDArray[np.uint8], meta: dict[str, Any]) -> Sample:
        calibration = read_calibration(folder / "calib.txt")
        maps = [folder / name for name in ("disp0.pfm", "disp0GT.pfm") if (folder / name).is_file()]
        if not maps:
            raise InputError(f"Expected disp0.pfm or disp0GT.pfm in '{folder}'; found neither.")
        k, baseline = calibration["cam0"], calibration["baseline"]
        depth = disparity_to_depth(
            read_stored(maps[0]), focal_px=k[0, 0], baseline_mm=baseline, doffs_px=calibration["doffs"]
        )
        camera = camera_from_calibration(k[0, 0], k[1, 1], k[0, 2], k[1, 2], baseline_m=baseline / 1000)
        if (folder / "im1.png").is_file():
            meta["image_right"] = read_image(folder / "im1.png").rgb
        meta["doffs_px"] = calibration["doffs"]
        return make_sample(image, depth, camera=camera, meta=meta)
