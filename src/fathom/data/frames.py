"""Any video for self-supervised training: a folder of frames, or a video file. No ground truth.

What the camera is like comes, in this order, from the option `intrinsics`, from a file ``intrinsics.txt`` beside the
frames, or from the EXIF tags of the first frame. Where nothing tells, a field of view is assumed
(`fathom.types.ASSUMED_FOV_X_DEG`), with a warning; ``meta["focal_source"]`` of every sample says which it was.
"""

import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.data.base import (
    DepthDataset,
    camera_from_calibration,
    check_choice,
    existing_folder,
    make_sample,
    read_list,
)
from fathom.data.sequence import FrameRange, find_neighbours, frames_in
from fathom.errors import ConfigError, InputError
from fathom.io import PICTURE_SUFFIXES, FathomWarning, Picture, read_image
from fathom.io.video import THUMBNAIL_SIZE, VideoFile
from fathom.types import ASSUMED_FOV_X_DEG, Camera, Sample

INTRINSICS_FILE = "intrinsics.txt"
"""Name of the file with 4 numbers, fx fy cx cy, or the 9 of a matrix [px]."""
MIN_CHANGE = 2.0
"""Mean change of brightness [of 255] below which a frame of a video file counts as static; see `moving_frames`.

Frames of KITTI and KITTI-360 (10 Hz, driving) and 7-Scenes (10 Hz, hand-held) differ by 2 to 27, most by 14 to 18. The
noise of a camera that stands still averages out in the thumbnails, to a few tenths.
"""

Intrinsics = tuple[float, float, float, float]


def moving_frames(thumbnails: Iterable[npt.NDArray[np.uint8]], min_change: float) -> list[int]:
    """Return which frames to keep: the first, and each that differs enough from the last one kept.

    A camera that stands still teaches nothing about depth, and a network that sees much of it learns that depth is
    infinite. Slow motion is thinned out rather than lost, because frames are compared with the last one kept.

    Args:
        thumbnails: Small grey pictures of all frames, one shape.
        min_change: Smallest mean absolute difference, of 255; 0 keeps every frame.

    Example:
        >>> grey = [np.full((2, 2), value, np.uint8) for value in (10, 10, 11, 12, 30)]
        >>> moving_frames(grey, 2.0)
        [0, 3, 4]

    Reference:
        Zhou et al., CVPR 2017, section 4: frames whose mean optical flow is under 1 px are left out; the plain
        difference of brightness stands in for it here.
    """
    kept: list[int] = []
    last: npt.NDArray[np.float32] | None = None
    for position, thumbnail in enumerate(thumbnails):
        grey = thumbnail.astype(np.float32)
        if last is None or float(np.abs(grey - last).mean()) >= min_change:
            kept.append(position)
            last = grey
    return kept


def given_camera(intrinsics: Intrinsics, first_pixel_centre: float) -> Camera:
    """Return the camera of stated numbers.

    Raises:
        ConfigError: If they are fractions of the picture's size rather than pixels.
    """
    fx, fy, cx, cy = intrinsics
    # A focal length of 20 px would be a field of view above 120 degrees in a picture of even 80 pixels.
    if max(abs(value) for value in intrinsics) < 20:
        raise ConfigError(
            f"`intrinsics` must be fx, fy, cx, cy in pixels of the picture; got {list(intrinsics)}, which look like "
            "fractions of its size. Multiply fx and cx by the width, fy and cy by the height."
        )
    return camera_from_calibration(fx, fy, cx, cy, first_pixel_centre=first_pixel_centre)


def read_intrinsics(path: str | Path) -> Intrinsics:
    """Read fx, fy, cx, cy from a text file with these 4 numbers, or with the 9 of a matrix, row by row.

    Raises:
        InputError: If it holds anything else.
    """
    try:
        numbers = [float(word) for word in re.split(r"[\s,;]+", Path(path).read_text(encoding="utf-8").strip())]
    except (OSError, ValueError) as error:
        raise InputError(f"Expected fx fy cx cy, or a 3 x 3 matrix, in '{path}': {error}.") from None
    if len(numbers) == 9 and numbers[1] == numbers[3] == 0 and numbers[6:] == [0, 0, 1]:
        numbers = [numbers[0], numbers[4], numbers[2], numbers[5]]
    if len(numbers) != 4:
        raise InputError(f"Expected 4 numbers, fx fy cx cy, or a 3 x 3 matrix without skew in '{path}'; got {numbers}.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _warn_assumed(what: str) -> None:
    warnings.warn(
        f"Nothing tells the focal length of {what}; a field of view of {ASSUMED_FOV_X_DEG:g} degrees over the longer "
        "side is assumed, and depth can only be as right as that. Give `intrinsics`: fx, fy, cx, cy [px].",
        FathomWarning,
        stacklevel=4,
    )


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return what sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


class FrameFolder(DepthDataset):
    """Pictures of one video in a folder, or of several in sub-folders, in the order of the numbers in their names.

    ``meta`` holds `scene` (the sub-folder), `index` (the place among the frames kept), `focal_source` and, with
    `neighbours`, the frames around each.

    Args:
        root: The folder.
        split: ``"all"``, or the name of a list ``<split>.txt`` of sub-folders in `root`.
        intrinsics: fx, fy, cx, cy [px] of all frames; default: see the head of this file.
        first_pixel_centre: Coordinate that the intrinsics give to the centre of the first pixel: 0.5, or 0 (OpenCV).
        frames: Which part of each sub-folder is read, see `fathom.data.sequence.frames_in`.
        neighbours: Offsets of further frames, for instance (-1, 1); frames that lack one are left out.
        min_change: Leave out static frames, see `moving_frames`; every picture is read for it once. 0: keep all.

    Attributes:
        num_static: Frames that were left out as static.

    Warns:
        FathomWarning: If the focal length is assumed.

    Raises:
        InputError: If there is no picture.
        ConfigError: If no frame is left.
    """

    kind = None

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        intrinsics: Intrinsics | None = None,
        first_pixel_centre: float = 0.5,
        frames: FrameRange | None = None,
        neighbours: tuple[int, ...] = (),
        min_change: float = 0.0,
    ) -> None:
        self.name, self.split = "frames", split
        self.root = existing_folder(root, "the frames of a video")
        wanted = None if split == "all" else [self.root / name for name in read_list(self.root / f"{split}.txt")]
        folders = _folders_below(self.root) if wanted is None else wanted
        places: dict[tuple[str, int], Path] = {}
        self.num_static = 0
        self._cameras: dict[str, Camera] = {}
        for folder in folders:
            pictures = sorted(_pictures_in(folder), key=_by_number)
            if not pictures:
                if wanted is not None:
                    raise InputError(f"'{split}.txt' names the folder '{folder}', which holds no picture. Correct it.")
                continue
            clip = folder.relative_to(self.root).as_posix()
            if min_change > 0:
                kept = moving_frames(map(_thumbnail, pictures), min_change)
                self.num_static += len(pictures) - len(kept)
                pictures = [pictures[position] for position in kept]
            places |= {(clip, number): pictures[number] for number in frames_in(len(pictures), frames)}
            self._cameras[clip] = self._camera_of(folder, read_image(pictures[0]), intrinsics, first_pixel_centre)
        if not places:
            raise InputError(f"Expected pictures in '{root}' or its sub-folders; found none.")
        found = find_neighbours(list(places), neighbours, places)
        listed = list(places)
        self.frames = [(*listed[position], places[listed[position]], others) for position, others in found]

    def _camera_of(self, folder: Path, first: Picture, intrinsics: Intrinsics | None, first_centre: float) -> Camera:
        for place in (folder, self.root):
            if intrinsics is None and (place / INTRINSICS_FILE).is_file():
                intrinsics = read_intrinsics(place / INTRINSICS_FILE)
        if intrinsics is not None:
            return given_camera(intrinsics, first_centre)
        if first.camera is not None:
            return first.camera
        _warn_assumed(f"the frames in '{folder}'")
        return Camera.assumed(height=first.height, width=first.width)

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the sub-folder."""
        return self.frames[index][0]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        clip, number, path, others = self.frames[index]
        camera = self._cameras[clip]
        meta: dict[str, Any] = {
            "id": path.relative_to(self.root).as_posix(),
            "scene": clip,
            "index": number,
            "image_path": str(path),
            "focal_source": str(camera.focal_source),
        }
        if others:
            meta["neighbours"] = [read_image(other).rgb for other in others]
        return make_sample(read_image(path).rgb, None, camera=camera, meta=meta)


def _folders_below(root: Path) -> list[Path]:
    return sorted([root, *(Path(parent, name) for parent, names, _ in os.walk(root) for name in names)])


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in existing_folder(folder, "frames").iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]


def _thumbnail(path: Path) -> npt.NDArray[np.uint8]:
    rows, columns = THUMBNAIL_SIZE
    grey = Image.fromarray(read_image(path).rgb).convert("L")
    return np.asarray(grey.resize((columns, rows), Image.Resampling.BOX))


class VideoFrames(DepthDataset):
    """The frames of one video file, without those where nothing moves.

    The file is gone through once when it is opened. Single frames are then found by seeking, which decodes from the
    last key frame: fast in order, slow at random. For training write the frames out first, with ``fathom data prepare
    video FILE --size ROWS COLUMNS``, and read them with ``prepared`` and its option `neighbours`.

    ``meta`` holds `scene` (the name of the file), `index` (the place among the frames kept), `time_s`, `focal_source`
    and, with `neighbours`, the frames around each.

    Args:
        root: The video file.
        split: ``"all"``.
        intrinsics: fx, fy, cx, cy [px]; default: the field of view is assumed. Video files do not tell.
        first_pixel_centre: Coordinate that the intrinsics give to the centre of the first pixel: 0.5, or 0 (OpenCV).
        frames: Which part of the frames kept is read, see `fathom.data.sequence.frames_in`.
        neighbours: Offsets of further frames, for instance (-1, 1), in frames kept.
        min_change: Static frames are left out, see `moving_frames`; 0 keeps every frame.

    Attributes:
        num_static: Frames that were left out as static.

    Warns:
        FathomWarning: If the focal length is assumed.

    Raises:
        InputError: If the file cannot be read.
        ConfigError: If no frame is left.
        MissingExtraError: If PyAV is not installed.
    """

    kind = None

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        intrinsics: Intrinsics | None = None,
        first_pixel_centre: float = 0.5,
        frames: FrameRange | None = None,
        neighbours: tuple[int, ...] = (),
        min_change: float = MIN_CHANGE,
    ) -> None:
        self.name, self.split = "video", check_choice("split", split, ("all",))
        self.path = Path(root)
        self._open: tuple[int, VideoFile] | None = None
        stamps: list[tuple[int, float]] = []
        thumbnails: list[npt.NDArray[np.uint8]] = []
        with VideoFile(self.path) as video:
            for frame in video.scan():
                stamps.append((frame.stamp, frame.time_s))
                thumbnails.append(frame.thumbnail)
            if not stamps:
                raise InputError(f"'{self.path}' holds no frame that can be decoded. Make it anew.")
            first = video.read(stamps[0][0])
        kept = [stamps[position] for position in moving_frames(thumbnails, min_change)]
        self.num_static = len(stamps) - len(kept)
        if intrinsics is not None:
            self._camera = given_camera(intrinsics, first_pixel_centre)
        else:
            _warn_assumed(f"'{self.path}'")
            self._camera = Camera.assumed(height=first.shape[0], width=first.shape[1])
        places = {(self.path.stem, number): kept[number] for number in frames_in(len(kept), frames)}
        numbers = [number for _, number in places]
        found = find_neighbours(list(places), neighbours, places)
        self.frames = [(numbers[position], kept[numbers[position]], others) for position, others in found]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the name of the file."""
        return self.path.stem

    def _video(self) -> VideoFile:
        """Return this process's own open file: processes that were forked would move one place in it for all."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), VideoFile(self.path))
        return self._open[1]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        number, (stamp, time_s), others = self.frames[index]
        video = self._video()
        # In the order of time, so that a frame and its neighbours are decoded in one go.
        pictures = {wanted: video.read(wanted) for wanted in sorted({stamp, *(other for other, _ in others)})}
        meta: dict[str, Any] = {
            "id": f"{self.path.stem}/{number:06d}",
            "scene": self.path.stem,
            "index": number,
            "time_s": time_s,
            "focal_source": str(self._camera.focal_source),
        }
        if others:
            meta["neighbours"] = [pictures[other] for other, _ in others]
        return make_sample(pictures[stamp], None, camera=self._camera, meta=meta)
