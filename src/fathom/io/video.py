"""Video files: frames in the order of time, and single frames by their time stamp. Decoded by FFmpeg through PyAV."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fathom.errors import InputError, require

THUMBNAIL_SIZE = (48, 64)
"""Rows and columns of the grey thumbnails that frames are compared by."""
_KEPT = 8
"""Decoded frames that are kept, for readers that ask for a frame and its neighbours in any order."""
_AHEAD_S = 2.0
"""A frame at most this far ahead is reached by decoding on; seeking would decode from the last key frame anyway."""


class VideoFrame(NamedTuple):
    """What is known of a frame before its colours are: its time stamp, its time [s], and a grey thumbnail (48, 64)."""

    stamp: int
    time_s: float
    thumbnail: npt.NDArray[np.uint8]


class VideoFile:
    """A video that is open for reading; frames come upright, as RGB.

    Args:
        path: The file, in any format that FFmpeg knows.

    Raises:
        InputError: If it cannot be read or holds no video.
        MissingExtraError: If PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._av = require("av", "video", "Reading video")
        self._container: Any = None
        self._open()
        self._decoding: Iterator[Any] | None = None
        self._last = 0
        self._kept: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        try:
            self._container = self._av.open(str(self.path))
        except (OSError, ValueError) as error:  # FFmpeg's errors derive from these
            raise InputError(f"Expected a video file; cannot read '{self.path}': {error}.") from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"Expected a video file; '{self.path}' holds no moving picture.")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def scan(self) -> Iterator[VideoFrame]:
        """Go through all frames without making pictures of them, which is several times faster.

        Raises:
            InputError: If the file is damaged, or its frames carry no time stamps.
        """
        rows, columns = THUMBNAIL_SIZE
        for frame in self._decode_from(None):
            # The first plane of a video is nearly always its brightness, but "gray" holds for RGB video, too.
            small = frame.reformat(width=columns, height=rows, format="gray", interpolation="AREA")
            yield VideoFrame(frame.pts, float(frame.pts * self._stream.time_base), small.to_ndarray())

    def read(self, stamp: int) -> npt.NDArray[np.uint8]:
        """Return one frame.

        Args:
            stamp: Its time stamp, from `scan`.

        Returns:
            RGB, uint8, shape (H, W, 3).

        Raises:
            InputError: If there is no such frame, or the file is damaged.
        """
        if stamp not in self._kept:
            for frame in self._frames_up_to(stamp):
                self._last = frame.pts
                if frame.pts == stamp:
                    self._keep(stamp, _upright(frame))
                    break
            else:
                raise InputError(f"'{self.path}' has no frame at the time stamp {stamp}. Was the file replaced?")
        return self._kept[stamp]

    def _keep(self, stamp: int, rgb: npt.NDArray[np.uint8]) -> None:
        self._kept[stamp] = rgb
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _frames_up_to(self, stamp: int) -> Iterator[Any]:
        """Yield decoded frames until the one with this time stamp, or until they are past it."""
        ahead = int(_AHEAD_S / self._stream.time_base)
        if self._decoding is None or not self._last < stamp <= self._last + ahead:
            yield from self._seek(stamp, ahead)
        assert self._decoding is not None  # a search leaves one behind
        for frame in self._decoding:
            if frame.pts > stamp:
                self._decoding = None
                return
            yield frame

    def _seek(self, stamp: int, step: int) -> Iterator[Any]:
        """Start decoding at a key frame that is not past the time stamp, and yield that frame."""
        # In some files the index points to a key frame that is shown later: go back further, at last to the start.
        back, start = 0, self._stream.start_time or 0
        while True:
            from_start = stamp - back <= start
            self._decoding = self._decode_from(None if from_start else stamp - back)
            first = next(self._decoding, None)
            if from_start or (first is not None and first.pts <= stamp):
                break
            back = 2 * back + step
        if first is not None:
            yield first

    def _decode_from(self, stamp: int | None) -> Iterator[Any]:
        """Yield decoded frames from a key frame at or before a time stamp, or from the start."""
        try:
            if stamp is None:
                self._open()  # seeking to the start of a transport stream would leave out its first pictures
            else:
                self._container.seek(stamp, stream=self._stream)
            for frame in self._container.decode(self._stream):
                if frame.pts is None:
                    raise InputError(
                        f"The frames of '{self.path}' carry no time stamps. Put it into a container that has them: "
                        "ffmpeg -i FILE -c copy FILE.mp4"
                    )
                yield frame
        except self._av.error.FFmpegError as error:
            raise InputError(f"'{self.path}' is damaged: {error}. Make it anew, or cut it before that place.") from None


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    """Return a frame as RGB, turned as its display matrix says; phones store portrait video lying down."""
    rgb: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))
