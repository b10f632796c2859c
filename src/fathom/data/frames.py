"""Any video for self-supervised training: a folder of frames, or a video file. No ground truth.

What the camera is like comes, in this order, from the option `intrinsics`, from a file ``intrinsics.txt`` beside the
frames, or from the EXIF tags of the first frame. Where nothing tells, a field of view is assumed
(`fathom.types.ASSUMED_FOV_X_DEG`), with a warning; ``meta["focal_source"]`` of every sample says which it was.
"""

import os
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

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
from fathom.data.sequence import Frame, FrameRange, find_neighbours, frames_in
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
_Place = TypeVar("_Place")
"""Where a frame lies: its file, or its time stamp in a file."""


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


class Clip(NamedTuple, Generic[_Place]):
    """Frames of one camera, in the order of time."""

    name: str
    what: str
    """What messages call the frames."""
    places: list[_Place]
    thumbnails: Iterable[npt.NDArray[np.uint8]]
    """A small grey picture of each frame, made when it is asked for."""
    first: Picture
    folders: tuple[Path, ...] = ()
    """Where a file `INTRINSICS_FILE` may lie; the first one counts."""


class VideoDataset(DepthDataset, Generic[_Place]):
    """What the readers of video share: clips of one camera each, and the frames around each frame.

    ``meta`` holds `scene` (the clip), `index` (the place among the frames kept), `focal_source` and, with `neighbours`,
    the frames around each.

    Args:
        root: The folder or file.
        split: Which part.
        intrinsics: fx, fy, cx, cy [px] of all frames; default: see the head of this file.
        first_pixel_centre: Coordinate that the intrinsics give to the centre of the first pixel: 0.5, or 0 (OpenCV).
        frames: Which part of each clip is read, in frames kept, see `fathom.data.sequence.frames_in`.
        neighbours: Offsets of further frames, for instance (-1, 1), in frames kept; frames that lack one are left out.
        min_change: Leave out static frames, see `moving_frames`; 0 keeps every frame. Default: `default_min_change`.

    Attributes:
        num_static: Frames that were left out as static.

    Warns:
        FathomWarning: If the focal length is assumed.

    Raises:
        InputError: If there is no frame that can be read.
        ConfigError: If no frame is left.
    """

    kind = None
    default_min_change = 0.0

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        intrinsics: Intrinsics | None = None,
        first_pixel_centre: float = 0.5,
        frames: FrameRange | None = None,
        neighbours: tuple[int, ...] = (),
        min_change: float | None = None,
    ) -> None:
        self.root, self.split, self.num_static = Path(root), split, 0
        min_change = self.default_min_change if min_change is None else min_change
        self._cameras: dict[str, Camera] = {}
        places: dict[Frame, _Place] = {}
        for clip in self.clips():
            kept = clip.places
            if min_change > 0:
                kept = [kept[position] for position in moving_frames(clip.thumbnails, min_change)]
            self.num_static += len(clip.places) - len(kept)
            places |= {(clip.name, number): kept[number] for number in frames_in(len(kept), frames)}
            self._cameras[clip.name] = self._camera_of(clip, intrinsics, first_pixel_centre)
        if not places:
            raise InputError(f"Expected pictures in '{root}' or its sub-folders; found none.")
        listed = list(places.items())
        found = find_neighbours(list(places), neighbours, places)
        self.frames = [(*listed[position], others) for position, others in found]

    def _camera_of(self, clip: Clip[_Place], intrinsics: Intrinsics | None, first_pixel_centre: float) -> Camera:
        for folder in clip.folders:
            if intrinsics is None and (folder / INTRINSICS_FILE).is_file():
                intrinsics = read_intrinsics(folder / INTRINSICS_FILE)
        if intrinsics is not None:
            return given_camera(intrinsics, first_pixel_centre)
        if clip.first.camera is not None:
            return clip.first.camera
        warnings.warn(
            f"Nothing tells the focal length of {clip.what}; a field of view of {ASSUMED_FOV_X_DEG:g} degrees over the "
            "longer side is assumed, and depth can only be as right as that. Give `intrinsics`: fx, fy, cx, cy [px].",
            FathomWarning,
            stacklevel=3,
        )
        return Camera.assumed(height=clip.first.height, width=clip.first.width)

    @abstractmethod
    def clips(self) -> Iterator[Clip[_Place]]:
        """Yield the clips of the split."""

    @abstractmethod
    def pictures(self, places: list[_Place]) -> list[npt.NDArray[np.uint8]]:
        """Read frames."""

    @abstractmethod
    def facts(self, frame: Frame, place: _Place) -> dict[str, Any]:
        """Return `id` and whatever else this reader knows of a frame."""

    def __len__(self) -> int:
        return len(self.frames)

    def scene(self, index: int) -> str:
        """Return the clip."""
        return self.frames[index][0][0]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        (clip, number), place, others = self.frames[index]
        camera = self._cameras[clip]
        image, *neighbours = self.pictures([place, *others])
        meta = {"scene": clip, "index": number, "focal_source": str(camera.focal_source)}
        meta |= self.facts((clip, number), place)
        if neighbours:
            meta["neighbours"] = neighbours
        return make_sample(image, None, camera=camera, meta=meta)


class FrameFolder(VideoDataset[Path]):
    """Pictures of one video in a folder, or of several in sub-folders, in the order of the numbers in their names.

    Each sub-folder is a clip of its own. The split is ``"all"``, or the name of a list ``<split>.txt`` of sub-folders.
    Static frames are left out only when `min_change` is given; every picture is read for it once.
    """

    name = "frames"

    def clips(self) -> Iterator[Clip[Path]]:
        """Yield the folders that hold pictures."""
        root = existing_folder(self.root, "the frames of a video")
        listed = None if self.split == "all" else [root / name for name in read_list(root / f"{self.split}.txt")]
        for folder in _folders_below(root) if listed is None else listed:
            pictures = sorted(_pictures_in(folder), key=_by_number)
            if pictures:
                yield Clip(
                    folder.relative_to(root).as_posix(),
                    f"the frames in '{folder}'",
                    pictures,
                    map(_thumbnail, pictures),
                    read_image(pictures[0]),
                    (folder, root),
                )
            elif listed is not None:
                raise InputError(f"'{self.split}.txt' names the folder '{folder}', which holds no picture. Correct it.")

    def pictures(self, places: list[Path]) -> list[npt.NDArray[np.uint8]]:
        """Read frames."""
        return [read_image(path).rgb for path in places]

    def facts(self, frame: Frame, place: Path) -> dict[str, Any]:
        """Return the file of a frame."""
        return {"id": place.relative_to(self.root).as_posix(), "image_path": str(place)}


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return what sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _folders_below(root: Path) -> list[Path]:
    return sorted([root, *(Path(parent, name) for parent, names, _ in os.walk(root) for name in names)])


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in existing_folder(folder, "frames").iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]


def _thumbnail(path: Path) -> npt.NDArray[np.uint8]:
    rows, columns = THUMBNAIL_SIZE
    grey = Image.fromarray(read_image(path).rgb).convert("L")
    return np.asarray(grey.resize((columns, rows), Image.Resampling.BOX))


class VideoFrames(VideoDataset[tuple[int, float]]):
    """The frames of one video file, without those where nothing moves. Its split is ``"all"``.

    The file is gone through once when it is opened. Single frames are then found by seeking, which decodes from the
    last key frame: fast in order, slow at random. For training write the frames out first, with ``fathom data prepare
    video FILE --size ROWS COLUMNS``, and read them with ``prepared`` and its option `neighbours`.

    Video files do not tell their camera: without `intrinsics` the field of view is assumed. ``meta`` also holds
    `time_s`. It takes PyAV.
    """

    name = "video"
    default_min_change = MIN_CHANGE
    _open: tuple[int, VideoFile] | None = None

    def clips(self) -> Iterator[Clip[tuple[int, float]]]:
        """Yield the file, as one clip of time stamps and times [s]."""
        check_choice("split", self.split, ("all",))
        with VideoFile(self.root) as video:
            frames = list(video.scan())
            if not frames:
                raise InputError(f"'{self.root}' holds no frame that can be decoded. Make it anew.")
            first = Picture(video.read(frames[0].stamp))
        places = [(frame.stamp, frame.time_s) for frame in frames]
        yield Clip(self.root.stem, f"'{self.root}'", places, [frame.thumbnail for frame in frames], first)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def _video(self) -> VideoFile:
        """Return this process's own open file: processes that were forked would move one place in it for all."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), VideoFile(self.root))
        return self._open[1]

    def pictures(self, places: list[tuple[int, float]]) -> list[npt.NDArray[np.uint8]]:
        """Read frames in the order of time, so that a frame and its neighbours are decoded in one go."""
        video = self._video()
        decoded = {stamp: video.read(stamp) for stamp in sorted({stamp for stamp, _ in places})}
        return [decoded[stamp] for stamp, _ in places]

    def facts(self, frame: Frame, place: tuple[int, float]) -> dict[str, Any]:
        """Return the time of a frame."""
        return {"id": f"{frame[0]}/{frame[1]:06d}", "time_s": place[1]}
