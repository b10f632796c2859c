"""Frames in the order of time: which part of a clip is read, and which other frames belong to each.

Self-supervised training rebuilds a frame from its neighbours. A reader of video has the option `neighbours`, offsets in
frames such as (-1, 1), and puts the pictures into ``meta["neighbours"]``, and their motion, where it knows poses, into
``meta["neighbour_poses"]``; see `fathom.data.base`.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError

Frame = tuple[str, int]
"""Clip and number of a frame in it."""
FrameRange = tuple[int | None, int | None]
"""First frame and the one after the last, as in a slice: (0, 40), (-10, None)."""
_Place = TypeVar("_Place")


def frames_in(count: int, frames: FrameRange | None) -> range:
    """Return the positions of a part of a clip.

    Args:
        count: Frames of the clip.
        frames: First position and the one after the last; negative ones count from the end, None is the end itself.

    Raises:
        ConfigError: If no frame is in that part.

    Example:
        >>> frames_in(50, (-10, None)), frames_in(50, None)
        (range(40, 50), range(0, 50))
    """
    chosen = range(count) if frames is None else range(count)[slice(*frames)]
    if len(chosen) == 0:
        raise ConfigError(
            f"`frames` {frames} holds none of the {count} frames. Give the first and the one past the last."
        )
    return chosen


def find_neighbours(
    frames: Sequence[Frame], offsets: Sequence[int], places: Mapping[Frame, _Place]
) -> list[tuple[int, tuple[_Place, ...]]]:
    """Find the frames that have a neighbour at every offset.

    Args:
        frames: Clip and number of each sample.
        offsets: In frames, for instance (-1, 1); empty: every frame is kept.
        places: Where each picture lies that may be a neighbour, by its clip and number.

    Returns:
        For each frame that has them all: its position in `frames`, and the places of its neighbours in order.

    Raises:
        ConfigError: If an offset is 0, or no frame has all neighbours.

    Example:
        >>> frames = [("a", 1), ("a", 2), ("a", 3), ("b", 4)]
        >>> find_neighbours(frames, (-1, 1), {frame: frame[1] for frame in frames})
        [(1, (1, 3))]
    """
    if 0 in offsets:
        raise ConfigError(f"`neighbours` are offsets to other frames, and 0 is the frame itself; got {list(offsets)}.")
    found = []
    for position, (clip, number) in enumerate(frames):
        wanted = [(clip, number + offset) for offset in offsets]
        if all(frame in places for frame in wanted):
            found.append((position, tuple(places[frame] for frame in wanted)))
    if not found:
        raise ConfigError(
            f"None of the {len(frames)} frames has neighbours at {list(offsets)}. Read a longer part of the video, or "
            "choose smaller offsets."
        )
    return found


def relative_poses(pose: npt.NDArray[np.float64], others: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the motions from one camera to others: ``inverse(other) pose``.

    Args:
        pose: Camera to world, shape (4, 4).
        others: Camera to world, each (4, 4).

    Returns:
        Shape (S, 4, 4); a motion takes points of the first camera to the other.

    Example:
        >>> ahead = np.eye(4)
        >>> ahead[2, 3] = 2.0
        >>> relative_poses(np.eye(4), [ahead])[0, 2].tolist()  # what was at 10 m is at 8 m
        [0.0, 0.0, 1.0, -2.0]
    """
    return np.asarray(np.linalg.inv(np.stack(others)) @ pose, np.float64)
