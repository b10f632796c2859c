"""7-Scenes: Kinect video of seven rooms with camera poses.

Shotton et al., "Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images", CVPR 2013. Microsoft,
non-commercial research.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, camera_from_calibration, existing_folder, make_sample, read_list
from fathom.data.sequence import FrameRange, find_neighbours, frames_in, relative_poses
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import DepthKind, Sample

NO_DEPTH = 65535
DEPTH_FOCAL_PX, COLOUR_FOCAL_PX, CENTRE_PX = 585.0, 525.0, (320.0, 240.0)
DEPTH_TO_COLOUR_X_M = -0.025
"""The colour camera sits beside the depth camera; points move by this along x."""


def register_depth(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Move a depth map from the depth camera of the Kinect to its colour camera; the nearest surface stays.

    Args:
        depth: Metres, 0 where unknown, shape (H, W).

    Returns:
        Metres seen from the colour camera, 0 where unknown, shape (H, W).
    """
    height, width = depth.shape
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns].astype(np.float64)
    x = (columns - CENTRE_PX[0]) / DEPTH_FOCAL_PX * z + DEPTH_TO_COLOUR_X_M
    y = (rows - CENTRE_PX[1]) / DEPTH_FOCAL_PX * z
    to_columns = np.round(COLOUR_FOCAL_PX * x / z + CENTRE_PX[0]).astype(np.int64)
    to_rows = np.round(COLOUR_FOCAL_PX * y / z + CENTRE_PX[1]).astype(np.int64)
    inside = (to_columns >= 0) & (to_rows >= 0) & (to_columns < width) & (to_rows < height)
    farthest_first = np.argsort(-z[inside], kind="stable")
    registered = np.zeros_like(depth)
    registered[to_rows[inside][farthest_first], to_columns[inside][farthest_first]] = z[inside][farthest_first]
    return registered


class SevenScenes(DepthDataset):
    """One room: ``seq-NN/frame-NNNNNN.{color,depth}.png`` with ``.pose.txt``, or ``rgb/ depth/ poses/``.

    Args:
        root: Folder of the room.
        split: ``"train"`` or ``"test"`` by ``TrainSplit.txt`` and ``TestSplit.txt`` (original layout), or ``"all"``.
        registered: Whether the depth files are registered to the colour camera already. The original ones are not, and
            are moved there; default: what the layout says.
        frames: Which part of each sequence is read, see `fathom.data.sequence.frames_in`.
        neighbours: Offsets of further frames of that part, for instance (-1, 1), counted in frames that are there;
            frames that lack one are left out.

    Raises:
        InputError: If no frame is found.
        ConfigError: If no frame is left.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        registered: bool | None = None,
        frames: FrameRange | None = None,
        neighbours: tuple[int, ...] = (),
    ) -> None:
        self.name, self.split = "7-scenes", split
        self.root = existing_folder(root, "one room of 7-Scenes")
        original = any(self.root.glob("seq-*"))
        self.registered = not original if registered is None else registered
        self.frames: list[tuple[Path, Path, Path]] = []
        if original:
            folders = sorted(self.root.glob("seq-*"))
            if split != "all":
                listed = read_list(self.root / f"{split.capitalize()}Split.txt")
                numbers = {int(number) for line in listed for number in re.findall(r"\d+", line)}
                folders = [folder for folder in folders if int(folder.name[4:]) in numbers]
            for folder in folders:
                for colour in sorted(folder.glob("frame-*.color.png")):
                    stem = colour.name[: -len(".color.png")]
                    self.frames.append((colour, folder / f"{stem}.depth.png", folder / f"{stem}.pose.txt"))
        else:
            wanted = None if split == "all" else set(read_list(self.root / f"{split}.txt"))
            for colour in sorted((self.root / "rgb").glob("*")):
                if wanted is None or colour.stem in wanted:
                    self.frames.append(
                        (colour, self.root / "depth" / f"{colour.stem}.png", self.root / "poses" / f"{colour.stem}.txt")
                    )
        if not self.frames:
            raise InputError(f"Expected seq-*/frame-*.color.png, or rgb/ and depth/, in '{root}'; found no frame.")
        clips: dict[Path, list[tuple[Path, Path, Path]]] = {}
        for frame in self.frames:
            clips.setdefault(frame[0].parent, []).append(frame)
        places = {
            (folder.name, number): clip[number]
            for folder, clip in clips.items()
            for number in frames_in(len(clip), frames)
        }
        found = find_neighbours(list(places), neighbours, places)
        in_order = list(places.items())
        self.frames = [in_order[position][1] for position, _ in found]
        self._numbers = [in_order[position][0][1] for position, _ in found]
        self._neighbours = [others for _, others in found]

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the room and its sequence."""
        folder = self.frames[index][0].parent
        return f"{self.root.name}/{folder.name}" if folder.name.startswith("seq-") else self.root.name

    def read(self, index: int) -> Sample:
        """Read one sample."""
        colour, depth_path, pose = self.frames[index]
        stored = read_stored(depth_path)
        depth = np.where(stored == NO_DEPTH, 0, stored).astype(np.float32) * np.float32(0.001)
        if not self.registered:
            depth = register_depth(depth)
        meta: dict[str, Any] = {
            "id": colour.relative_to(self.root).as_posix(),
            "scene": self.scene(index),
            "index": self._numbers[index],
            "image_path": str(colour),
            "ground_truth": "raw",
        }
        if pose.is_file():
            meta["pose"] = _read_pose(pose)
        others = self._neighbours[index]
        if others:
            meta["neighbours"] = [read_image(other).rgb for other, _, _ in others]
            if all(path.is_file() for path in (pose, *(path for _, _, path in others))):
                meta["neighbour_poses"] = relative_poses(meta["pose"], [_read_pose(path) for _, _, path in others])
        camera = camera_from_calibration(COLOUR_FOCAL_PX, COLOUR_FOCAL_PX, *CENTRE_PX)
        return make_sample(read_image(colour).rgb, depth, camera=camera, meta=meta)


def _read_pose(path: Path) -> npt.NDArray[np.float64]:
    try:
        return np.loadtxt(path, np.float64).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected 4 x 4 numbers, camera to world, in '{path}': {error}.") from None
