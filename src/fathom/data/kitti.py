"""KITTI: raw drives with lidar or accumulated ground truth, and the stereo 2015 benchmark.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013; Uhrig et al., "Sparsity Invariant CNNs", 3DV 2017
(``depth_annotated``); Menze & Geiger, "Object Scene Flow for Autonomous Vehicles", CVPR 2015. CC BY-NC-SA 3.0.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, check_choice, existing_folder, make_sample
from fathom.data.kitti_calibration import (
    Matrix,
    baseline_between,
    camera_from_projection,
    matrix_of,
    project_points,
    read_calibration,
    read_velodyne,
    velodyne_to_image,
)
from fathom.data.kitti_splits import SPLIT_COUNTS, KittiFrame, read_split
from fathom.data.sequence import find_neighbours
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import Camera, DepthKind, Sample

ANNOTATED_COUNTS_PER_METRE = 256.0
"""``depth_annotated`` stores uint16 = metres * 256; 0 = nothing."""

GROUND_TRUTHS = ("annotated", "velodyne", "velodyne-monodepth", "none")


def read_annotated(path: str | Path) -> npt.NDArray[np.float32]:
    """Return the metres of a ``depth_annotated`` PNG, 0 where nothing was measured.

    Raises:
        InputError: If it is not a 16-bit PNG.
    """
    stored = read_stored(path)
    if stored.dtype.itemsize < 2:
        raise InputError(
            f"Expected a 16-bit PNG with metres * 256; '{path}' has 8 bits: it is a picture of a depth map."
        )
    return stored.astype(np.float32) / np.float32(ANNOTATED_COUNTS_PER_METRE)


def picture_at(stem: Path) -> Path:
    """Return the picture with this stem, ``.png`` or ``.jpg``.

    Raises:
        InputError: If there is none.
    """
    for suffix in (".png", ".jpg"):
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    raise InputError(f"Expected the picture '{stem}.png' or '.jpg'; there is neither. Was this drive downloaded?")


class KittiRaw(DepthDataset):
    """Frames of the raw drives that a split file names.

    ``meta`` holds `scene` (the drive), `index`, `side`, and with `stereo` the other view as `image_right`; seen from a
    right camera the other view lies to the left, and ``baseline_sign`` is -1. The drives' poses (OXTS) are not read.

    Args:
        root: Folder with ``2011_09_26/2011_09_26_drive_0001_sync/image_02/data/%010d.png`` and the calibration files.
        split: Name of this part. A name in `SPLIT_COUNTS` is checked against its number of lines.
        split_file: List in the form of monodepth, monodepth2, SfMLearner or BTS.
        ground_truth: ``"annotated"``: accumulated over frames (uint16 / 256). ``"velodyne"``: one scan, depth along the
            optical axis. ``"velodyne-monodepth"``: the scan as the monodepth evaluation makes it, with the lidar's
            forward axis in place of depth and its index that merges pixels. ``"none"``: pictures only.
        annotated_root: Folder with ``<drive>/proj_depth/groundtruth`` (with or without ``train/`` and ``val/`` around
            it); default: `root`.
        stereo: Read the other view too.
        neighbours: Offsets of further frames of the same camera, for instance (-1, 1); frames that lack one are left
            out.

    Attributes:
        missing: Names of frames of the split that have no accumulated ground truth; they are left out.

    Raises:
        InputError: If a folder is missing or the split file has the wrong number of lines.
        ConfigError: If no frame has all `neighbours`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        split_file: str | Path,
        ground_truth: str = "annotated",
        annotated_root: str | Path | None = None,
        stereo: bool = False,
        neighbours: tuple[int, ...] = (),
    ) -> None:
        self.name, self.split, self.stereo = "kitti-raw", split, stereo
        self.root = existing_folder(root, "the raw drives of KITTI")
        self.ground_truth = check_choice("ground_truth", ground_truth, GROUND_TRUTHS)
        self.kind = None if ground_truth == "none" else DepthKind.METRIC_DEPTH
        self.annotated_root = existing_folder(annotated_root or root, "depth_annotated of KITTI")
        frames = read_split(split_file, split)
        self.frames: list[KittiFrame] = frames
        self.missing: list[str] = []
        if ground_truth == "annotated":
            found = [frame.has_ground_truth and self._annotated_path(frame) is not None for frame in frames]
            self.frames = [frame for frame, there in zip(frames, found, strict=True) if there]
            self.missing = [_frame_id(frame) for frame, there in zip(frames, found, strict=True) if not there]
            if not self.frames:
                raise InputError(
                    f"Expected <drive>/proj_depth/groundtruth in '{self.annotated_root}'; no frame of {split} has any."
                )
        self._neighbours: list[tuple[Path, ...]] = [()] * len(self.frames)
        if neighbours:
            self._find_neighbours(tuple(neighbours))
        self._calibrations: dict[tuple[str, int], tuple[Matrix, Camera]] = {}

    def _find_neighbours(self, offsets: tuple[int, ...]) -> None:
        """Keep the frames whose neighbours are on disk."""
        folders = {self._folder(frame, frame.camera) for frame in self.frames}
        there = {
            (folder.as_posix(), int(path.stem)): path
            for folder in folders
            for path in existing_folder(folder, "the frames of a drive").iterdir()
        }
        named = [(self._folder(frame, frame.camera).as_posix(), frame.index) for frame in self.frames]
        found = find_neighbours(named, offsets, there)
        self.frames = [self.frames[position] for position, _ in found]
        self._neighbours = [paths for _, paths in found]

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the drive."""
        return Path(self.frames[index].folder).name

    def _annotated_path(self, frame: KittiFrame) -> Path | None:
        drive = Path(frame.folder).name
        named = f"{drive}/proj_depth/groundtruth/image_{frame.camera:02d}/{frame.index:010d}.png"
        for candidate in (frame.ground_truth, named):
            for part in ("", "train", "val"):
                if candidate is not None and (path := self.annotated_root / part / candidate).is_file():
                    return path
        return None

    def _calibration(self, frame: KittiFrame) -> tuple[Matrix, Camera]:
        """Return lidar to pixels, and the camera with its baseline; read once for each date."""
        date = frame.folder.split("/")[0]
        key = (date, frame.camera)
        if key not in self._calibrations:
            folder = self.root / date
            calibration = read_calibration(folder / "calib_cam_to_cam.txt")
            left, right = (matrix_of(calibration, f"P_rect_{camera:02d}", 3, 4) for camera in (2, 3))
            own = left if frame.camera == 2 else right
            camera = camera_from_projection(own, baseline_between(left, right))
            lidar = velodyne_to_image(folder, frame.camera) if self.ground_truth.startswith("velodyne") else np.empty(0)
            self._calibrations[key] = (lidar, camera)
        return self._calibrations[key]

    def _folder(self, frame: KittiFrame, camera: int) -> Path:
        return self.root / frame.folder / f"image_{camera:02d}" / "data"

    def _picture(self, frame: KittiFrame, camera: int) -> Path:
        return picture_at(self._folder(frame, camera) / f"{frame.index:010d}")

    def read(self, index: int) -> Sample:
        """Read one sample."""
        frame = self.frames[index]
        to_image, camera = self._calibration(frame)
        path = self._picture(frame, frame.camera)
        image = read_image(path).rgb
        meta: dict[str, Any] = {
            "id": _frame_id(frame),
            "scene": self.scene(index),
            "index": frame.index,
            "side": "l" if frame.camera == 2 else "r",
            "image_path": str(path),
        }
        if self.ground_truth != "none":
            meta["ground_truth"] = self.ground_truth.removesuffix("-monodepth")
        if self.stereo:
            meta["image_right"] = read_image(self._picture(frame, 5 - frame.camera)).rgb
            meta["baseline_sign"] = 1 if frame.camera == 2 else -1
        if self._neighbours[index]:
            meta["neighbours"] = [read_image(other).rgb for other in self._neighbours[index]]
        target = self._target(frame, to_image, image.shape[0], image.shape[1])
        return make_sample(image, target, camera=camera, meta=meta)

    def _target(self, frame: KittiFrame, to_image: Matrix, height: int, width: int) -> npt.NDArray[np.float32] | None:
        if self.ground_truth == "none":
            return None
        if self.ground_truth == "annotated":
            path = self._annotated_path(frame)
            if path is None:
                raise InputError(f"The ground truth of {_frame_id(frame)} has gone since the dataset was opened.")
            return read_annotated(path)
        scan = read_velodyne(self.root / frame.folder / "velodyne_points" / "data" / f"{frame.index:010d}.bin")
        monodepth = self.ground_truth == "velodyne-monodepth"
        return project_points(
            scan,
            to_image,
            height,
            width,
            value="velodyne_x" if monodepth else "camera_z",
            collisions="monodepth" if monodepth else "pixel",
        )


def _frame_id(frame: KittiFrame) -> str:
    return f"{Path(frame.folder).name}/image_{frame.camera:02d}/{frame.index:010d}"


class KittiStereo2015(DepthDataset):
    """The 200 training pairs of the stereo 2015 benchmark, with dense disparity (uint16 / 256, 0 = unknown).

    The disparity comes from lidar scans of several frames, and from models of cars fitted to them.

    Args:
        root: Folder with ``training/image_2``, ``image_3``, ``disp_occ_0`` or ``disp_noc_0`` and ``calib_cam_to_cam``.
        split: ``"train"``; the test part has no ground truth.
        occluded: Count pixels seen by one camera only (``disp_occ_0``) as ground truth too.
    """

    kind = DepthKind.DISPARITY

    def __init__(self, root: str | Path, split: str = "train", *, occluded: bool = True) -> None:
        self.name, self.split = "kitti-stereo-2015", check_choice("split", split, ("train",))
        self.root = existing_folder(root, "the KITTI stereo 2015 benchmark") / "training"
        self._maps = self.root / ("disp_occ_0" if occluded else "disp_noc_0")
        self.stems = sorted(path.stem for path in self._maps.glob("*_10.png"))
        if not self.stems:
            raise InputError(f"Expected disparity maps *_10.png in '{self._maps}'; found none.")

    def __len__(self) -> int:
        return len(self.stems)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        stem = self.stems[index]
        calibration = read_calibration(self.root / "calib_cam_to_cam" / f"{stem[:-3]}.txt")
        left, right = (matrix_of(calibration, f"P_rect_{camera:02d}", 3, 4) for camera in (2, 3))
        path = picture_at(self.root / "image_2" / stem)
        return make_sample(
            read_image(path).rgb,
            read_annotated(self._maps / f"{stem}.png"),
            kind=DepthKind.DISPARITY,
            camera=camera_from_projection(left, baseline_between(left, right)),
            meta={
                "id": stem,
                "image_path": str(path),
                "ground_truth": "annotated",
                "image_right": read_image(picture_at(self.root / "image_3" / stem)).rgb,
            },
        )


__all__ = ["SPLIT_COUNTS", "KittiRaw", "KittiStereo2015", "read_annotated"]
