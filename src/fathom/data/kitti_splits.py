"""Split files of KITTI as three projects write them, and how many samples the published ones hold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.data.base import read_list
from fathom.errors import InputError

SPLIT_COUNTS = {
    "eigen-test": 697,
    "eigen-benchmark-test": 652,
    "monodepth-eigen-train": 22600,
    "monodepth-eigen-val": 888,
    "monodepth-kitti-train": 29000,
    "monodepth-kitti-val": 1159,
    "monodepth-kitti-test": 200,
    "eigen-zhou-train": 39810,
    "eigen-zhou-val": 4424,
    "eigen-full-train": 45200,
    "eigen-full-val": 1776,
    "benchmark-train": 72084,
    "odom-train": 36671,
    "odom-val": 4075,
    "odom-test-09": 1590,
    "odom-test-10": 1200,
    "bts-eigen-train": 23158,
}
"""Lines of the published split files; naming one of them makes a reader check its file against the count."""

ODOMETRY_LENGTHS = {0: 4541, 1: 1101, 2: 4661, 3: 801, 4: 271, 5: 2761, 6: 1101, 7: 1101, 8: 4071, 9: 1591, 10: 1201}
"""Frames of the odometry sequences with poses."""

_SIDES = {"l": 2, "r": 3, "2": 2, "3": 3, "02": 2, "03": 3}
_PATH = re.compile(r"(?:.*/)?(\d{4}_\d\d_\d\d)/(\d{4}_\d\d_\d\d_drive_\d{4}_sync)/image_0([0-3])/data/(\d+)\.\w+$")
_ZHOU = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync_0[23]$")


@dataclass(frozen=True)
class KittiFrame:
    """One line of a split file.

    Args:
        folder: ``date/drive`` for raw data, the number of the sequence for odometry.
        index: Number of the frame.
        camera: 2 (left colour) or 3 (right colour).
        ground_truth: Path of the depth map, where the line names one.
        focal_px: Focal length [px], where the line names one.
        has_ground_truth: False where the line says that there is none.
    """

    folder: str
    index: int
    camera: int = 2
    ground_truth: str | None = None
    focal_px: float | None = None
    has_ground_truth: bool = True


def parse_split_line(line: str) -> KittiFrame:
    """Read one line in any of the usual forms.

    =============================  ======================================================================
    monodepth                      ``date/drive/image_02/data/N.jpg date/drive/image_03/data/N.jpg``
    monodepth2                     ``date/drive N l`` (``sequence N l`` for odometry)
    SfMLearner (Zhou)              ``drive_02 N``
    BTS                            ``date/drive/image_02/data/N.png depth.png focal [right ...]``
    =============================  ======================================================================

    Raises:
        InputError: If the line has none of these forms.

    Example:
        >>> parse_split_line("2011_09_26/2011_09_26_drive_0001_sync 473 r")
        KittiFrame(folder='2011_09_26/2011_09_26_drive_0001_sync', index=473, camera=3, ground_truth=None, \
focal_px=None, has_ground_truth=True)
    """
    words = line.split()
    path = _PATH.match(words[0]) if words else None
    if path is not None:
        date, drive, camera, index = path.groups()
        frame = (f"{date}/{drive}", int(index), int(camera))
        if len(words) >= 3 and _is_float(words[2]):  # BTS
            if words[1] == "None":
                return KittiFrame(*frame, None, float(words[2]), has_ground_truth=False)
            return KittiFrame(*frame, words[1], float(words[2]))
        if len(words) <= 2 and (len(words) == 1 or _PATH.match(words[1])):  # one path, or monodepth's left and right
            return KittiFrame(*frame)
    elif len(words) == 3 and words[1].isdigit() and words[2] in _SIDES:
        return KittiFrame(words[0], int(words[1]), _SIDES[words[2]])
    elif len(words) == 2 and words[1].isdigit():
        zhou = _ZHOU.match(words[0])
        if zhou is not None:
            return KittiFrame(f"{zhou[1]}/{words[0][:-3]}", int(words[1]), int(words[0][-1]))
        return KittiFrame(words[0], int(words[1]))
    raise InputError(
        f"Expected a line of a KITTI split ('left right', 'folder index l|r', or 'image depth focal'); got '{line}'."
    )


def _is_float(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_split(path: str | Path, split: str = "") -> list[KittiFrame]:
    """Read a split file.

    Args:
        path: The file.
        split: Name of the split; a name in `SPLIT_COUNTS` is checked against its number of lines.

    Raises:
        InputError: If a line cannot be read, or the number of lines is not that of the published split.
    """
    frames = [parse_split_line(line) for line in read_list(path)]
    expected = SPLIT_COUNTS.get(split)
    if expected is not None and len(frames) != expected:
        raise InputError(
            f"The split {split} has {expected} samples; '{path}' has {len(frames)}. "
            "Use the published file, or give the split a name of your own."
        )
    return frames


def scenes_of(frames: Sequence[KittiFrame]) -> set[str]:
    """Return the drives or sequences that a split draws from."""
    return {frame.folder for frame in frames}
