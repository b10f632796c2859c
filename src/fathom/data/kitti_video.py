"""KITTI odometry (stereo sequences with poses) and KITTI-360 (one camera with lidar depth).

Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012; Liao et al., "KITTI-360", TPAMI 2023.
CC BY-NC-SA 3.0.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fathom.data.base import DepthDataset, existing_folder, make_sample, read_list
from fathom.data.kitti import picture_at, read_annotated
from fathom.data.kitti_calibration import (
    Matrix,
    baseline_between,
    camera_from_projection,
    homogeneous,
    matrix_of,
    project_points,
    read_calibration,
    read_poses,
    read_velodyne,
)
from fathom.data.kitti_splits import read_split
from fathom.data.sequence import FrameRange, find_neighbours, frames_in, relative_poses
from fathom.errors import ConfigError, InputError
from fathom.io import read_image
from fathom.types import DepthKind, Sample


class KittiOdometry(DepthDataset):
    """Frames of the odometry sequences: ``sequences/NN/image_2/%06d.png`` with ``calib.txt`` and ``poses/NN.txt``.

    A sequence with lidar scans (``velodyne/%06d.bin``) gives depth; without, `kind` is None. The grey pair (0, 1) is
    used where there is no colour pair (2, 3). ``meta`` holds `scene`, `index`, `pose` (where known), and with `stereo`
    the right view `image_right`; with `neighbours` the pictures of the frames at these offsets as `neighbours`, and
    their motion as `neighbour_poses`: from this camera to theirs, (4, 4).

    Args:
        root: Folder with ``sequences`` and ``poses``.
        split: Name of this part; a name in `SPLIT_COUNTS` is checked.
        sequences: Folders in ``sequences`` to read in full; default: all.
        split_file: List of ``sequence index l|r`` to read instead.
        stereo: Read the other view too.
        neighbours: Offsets of further frames, for instance (-1, 1); frames that lack one are left out.

    Raises:
        InputError: If a file is missing.
        ConfigError: If both `sequences` and `split_file` are given, or no frame has all `neighbours`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        sequences: tuple[str, ...] | None = None,
        split_file: str | Path | None = None,
        stereo: bool = False,
        neighbours: tuple[int, ...] = (),
    ) -> None:
        if sequences is not None and split_file is not None:
            raise ConfigError("Set either `sequences` or `split_file`, not both. Remove one.")
        self.name, self.split, self.stereo, self.neighbours = "kitti-odometry", split, stereo, tuple(neighbours)
        self.root = existing_folder(root, "sequences/ and poses/ of KITTI odometry")
        lengths: dict[str, int] = {}
        folders: dict[str, Path] = {}
        listed: list[tuple[str, int, int]] = []
        if split_file is not None:
            for frame in read_split(split_file, split):
                name = f"{int(frame.folder):02d}" if frame.folder.isdigit() else frame.folder
                listed.append((name, frame.index, frame.camera - 2))
        names = sequences or tuple(dict.fromkeys(name for name, _, _ in listed)) or _subfolders(self.root / "sequences")
        for name in names:
            folder = existing_folder(self.root / "sequences" / name, "a sequence of KITTI odometry")
            pictures = [folder / f"image_{camera}" for camera in (2, 0) if (folder / f"image_{camera}").is_dir()]
            if not pictures:
                raise InputError(f"Expected image_2 or image_0 in '{folder}'; found neither.")
            folders[name], lengths[name] = pictures[0], sum(1 for _ in pictures[0].iterdir())
        if split_file is None:
            listed = [(name, index, 0) for name in names for index in range(lengths[name])]
        self._left = folders
        there = {(name, index): index for name in names for index in range(lengths[name])}
        found = find_neighbours([(name, index) for name, index, _ in listed], self.neighbours, there)
        self.frames = [listed[position] for position, _ in found]
        self._calibration = {name: read_calibration(self.root / "sequences" / name / "calib.txt") for name in names}
        self._poses: dict[str, Matrix | None] = {}
        for name in names:
            path = self.root / "poses" / f"{name}.txt"
            self._poses[name] = read_poses(path) if path.is_file() else None
        self._lidar = {name: (self.root / "sequences" / name / "velodyne").is_dir() for name in names}
        self.kind = DepthKind.METRIC_DEPTH if all(self._lidar.values()) else None

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the sequence."""
        return self.frames[index][0]

    def _camera_number(self, name: str, side: int) -> int:
        return int(self._left[name].name[-1]) + side

    def _picture(self, name: str, index: int, side: int) -> Path:
        return picture_at(self._left[name].with_name(f"image_{self._camera_number(name, side)}") / f"{index:06d}")

    def read(self, index: int) -> Sample:
        """Read one sample."""
        name, frame, side = self.frames[index]
        calibration = self._calibration[name]
        own, other = (
            matrix_of(calibration, f"P{self._camera_number(name, which)}", 3, 4) for which in (side, 1 - side)
        )
        camera = camera_from_projection(own, abs(baseline_between(own, other)))
        path = self._picture(name, frame, side)
        image = read_image(path).rgb
        meta: dict[str, Any] = {
            "id": f"{name}/{path.parent.name}/{frame:06d}",
            "scene": name,
            "index": frame,
            "side": "l" if side == 0 else "r",
            "image_path": str(path),
        }
        poses = self._poses[name]
        if poses is not None:
            meta["pose"] = poses[frame] @ np.linalg.inv(_from_first_camera(own))
        if self.stereo:
            meta["image_right"] = read_image(self._picture(name, frame, 1 - side)).rgb
            meta["baseline_sign"] = 1 if side == 0 else -1
        if self.neighbours:
            meta["neighbours"] = [read_image(self._picture(name, frame + step, side)).rgb for step in self.neighbours]
            if poses is not None:
                others = poses[frame + np.array(self.neighbours)] @ np.linalg.inv(_from_first_camera(own))
                meta["neighbour_poses"] = relative_poses(meta["pose"], list(others))
        target = None
        if self._lidar[name]:
            scan = read_velodyne(self.root / "sequences" / name / "velodyne" / f"{frame:06d}.bin")
            to_image = own @ homogeneous(matrix_of(calibration, "Tr", 3, 4))
            target = project_points(scan, to_image, image.shape[0], image.shape[1])
            meta["ground_truth"] = "velodyne"
        return make_sample(image, target, camera=camera, meta=meta)


def _from_first_camera(projection: Matrix) -> Matrix:
    """Return camera 0 to this rectified camera, (4, 4): they differ by a shift along x alone."""
    shift = np.eye(4)
    shift[0, 3] = projection[0, 3] / projection[0, 0]
    return shift


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in existing_folder(folder, "sequences").iterdir() if path.is_dir()))


def _numbered_poses(path: Path) -> dict[int, Matrix]:
    try:
        rows = np.loadtxt(path, np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected a frame number and 16 numbers in each line of '{path}': {error}.") from None
    if rows.shape[1] != 17:
        raise InputError(f"Expected a frame number and 16 numbers in each line of '{path}'; got {rows.shape[1]}.")
    return {int(row[0]): row[1:].reshape(4, 4) for row in rows}


class Kitti360(DepthDataset):
    """Frames of one KITTI-360 camera: ``image_00/*.jpg``, ``depth/*.png`` (uint16 / 256), ``calibration/``.

    With the file ``cam0_to_world.txt`` of the set's poses beside them (frame number and 4 x 4 numbers in each line),
    ``meta`` holds `pose` and, where all are known, `neighbour_poses`.

    Args:
        root: The folder.
        split: ``"all"``, or the name of a list ``<split>.txt`` of frame numbers in `root`.
        camera: Number of the perspective camera, 0 or 1.
        frames: Which part of the split is read, see `fathom.data.sequence.frames_in`.
        neighbours: Offsets of further frames, for instance (-1, 1). They may lack depth, but lie between the first and
            the last frame of this part, so that nothing held out is seen.

    Raises:
        InputError: If a file is missing.
        ConfigError: If no frame is left.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        camera: int = 0,
        frames: FrameRange | None = None,
        neighbours: tuple[int, ...] = (),
    ) -> None:
        self.name, self.split, self._number = "kitti-360", split, camera
        self.root = existing_folder(root, "image_00/, depth/ and calibration/ of KITTI-360")
        depths = {path.stem for path in (self.root / "depth").glob("*.png")}
        if split == "all":
            self.stems = sorted(depths)
        else:
            self.stems = read_list(self.root / f"{split}.txt")
        absent = sorted(set(self.stems) - depths)
        if absent or not self.stems:
            raise InputError(f"Expected depth/<frame>.png in '{root}' for {split}; {absent[:3] or 'all'} missing.")
        self.stems = [self.stems[position] for position in frames_in(len(self.stems), frames)]
        numbers = [int(stem) for stem in self.stems]
        pictures = {
            ("", int(path.stem)): path
            for path in (self.root / f"image_{camera:02d}").iterdir()
            if min(numbers) <= int(path.stem) <= max(numbers)
        }
        found = find_neighbours([("", number) for number in numbers], neighbours, pictures)
        self.stems = [self.stems[position] for position, _ in found]
        self._neighbours = [paths for _, paths in found]
        calibration = read_calibration(self.root / "calibration" / "perspective.txt")
        own = matrix_of(calibration, f"P_rect_{camera:02d}", 3, 4)
        self._camera = camera_from_projection(
            own, baseline_between(*(matrix_of(calibration, f"P_rect_{n:02d}", 3, 4) for n in (0, 1)))
        )
        poses = self.root / "cam0_to_world.txt"
        back = np.linalg.inv(_from_first_camera(own))
        self._poses = (
            {number: pose @ back for number, pose in _numbered_poses(poses).items()} if poses.is_file() else {}
        )

    def __len__(self) -> int:
        return len(self.stems)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        stem = self.stems[index]
        path = picture_at(self.root / f"image_{self._number:02d}" / stem)
        meta: dict[str, Any] = {
            "id": stem,
            "index": int(stem),
            "image_path": str(path),
            "ground_truth": "velodyne",
        }
        if self._neighbours[index]:
            meta["neighbours"] = [read_image(other).rgb for other in self._neighbours[index]]
        if int(stem) in self._poses:
            meta["pose"] = self._poses[int(stem)]
            others = [self._poses.get(int(other.stem)) for other in self._neighbours[index]]
            known = [other for other in others if other is not None]
            if known and len(known) == len(others):
                meta["neighbour_poses"] = relative_poses(meta["pose"], known)
        depth = read_annotated(self.root / "depth" / f"{stem}.png")
        return make_sample(read_image(path).rgb, depth, camera=self._camera, meta=meta)

    def velodyne_to_image(self) -> Matrix:
        """Return lidar points to pixels, (3, 4): ``P_rect R_rect inverse(cam_to_velo)`` of camera 0."""
        folder = self.root / "calibration"
        cameras = read_calibration(folder / "perspective.txt")
        to_velodyne = homogeneous(matrix_of(read_calibration(folder / "calib_cam_to_velo.txt"), "", 3, 4))
        rectify = homogeneous(matrix_of(cameras, "R_rect_00", 3, 3))
        return matrix_of(cameras, "P_rect_00", 3, 4) @ rectify @ np.linalg.inv(to_velodyne)
