"""TUM RGB-D: Kinect sequences with motion-captured poses.

Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012. CC BY 4.0.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset, camera_from_calibration, existing_folder, make_sample, read_list
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import DepthKind, Sample

COUNTS_PER_METRE = 5000.0
"""Depth is uint16 = metres * 5000; 0 = nothing."""
MAX_TIME_DIFFERENCE_S = 0.02
DEFAULT_CALIBRATION = (525.0, 525.0, 319.5, 239.5)
FREIBURG1_CALIBRATION = (517.3, 516.5, 318.6, 255.3)


def associate(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], max_difference: float = MAX_TIME_DIFFERENCE_S
) -> list[tuple[int, int]]:
    """Pair two lists of times, the closest first, each entry used once.

    Args:
        first: Times [s], shape (N,).
        second: Times [s], shape (M,).
        max_difference: Pairs further apart [s] are left out; the limit itself counts.

    Returns:
        Pairs of indices, sorted by `first`.

    Example:
        >>> associate(np.array([0.0, 1.0]), np.array([0.01, 0.5]))
        [(0, 0)]
    """
    order = np.argsort(second, kind="stable")
    ordered = second[order]
    candidates = []
    for i, time in enumerate(first):
        low = int(np.searchsorted(ordered, time - max_difference - 1e-9))
        high = int(np.searchsorted(ordered, time + max_difference + 1e-9))
        candidates += [(abs(ordered[k] - time), i, int(order[k])) for k in range(low, high)]
    taken_first: set[int] = set()
    pairs: dict[int, int] = {}
    for _, i, j in sorted(candidates):
        if i not in pairs and j not in taken_first:
            pairs[i] = j
            taken_first.add(j)
    return sorted(pairs.items())


def pose_matrix(translation: npt.ArrayLike, quaternion: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the (4, 4) pose of a translation [m] and a quaternion x, y, z, w.

    Example:
        >>> pose_matrix([1, 2, 3], [0, 0, 1, 0])[:2].tolist()
        [[-1.0, 0.0, 0.0, 1.0], [0.0, -1.0, 0.0, 2.0]]
    """
    x, y, z, w = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return pose


class TumRgbd(DepthDataset):
    """One sequence: ``rgb.txt``, ``depth.txt`` and, where there is one, ``groundtruth.txt`` (t tx ty tz qx qy qz qw).

    Args:
        root: Folder of the sequence.
        split: Name of this part.
        calibration: fx, fy, cx, cy with the first pixel at (0, 0); default: that of freiburg1 where the folder's name
            says so, else the default of the benchmark.

    Raises:
        InputError: If a list is missing or no picture has a depth map within 0.02 s.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self, root: str | Path, split: str = "all", *, calibration: tuple[float, float, float, float] | None = None
    ) -> None:
        self.name, self.split = "tum-rgbd", split
        self.root = existing_folder(root, "a TUM RGB-D sequence")
        if calibration is None:
            calibration = FREIBURG1_CALIBRATION if "freiburg1" in self.root.resolve().name else DEFAULT_CALIBRATION
        self._camera = camera_from_calibration(*calibration)
        rgb_times, rgb = _read_times(self.root / "rgb.txt")
        depth_times, depth = _read_times(self.root / "depth.txt")
        self.pairs = [(rgb_times[i], rgb[i], depth[j]) for i, j in associate(rgb_times, depth_times)]
        if not self.pairs:
            raise InputError(f"No picture of '{root}' has a depth map within {MAX_TIME_DIFFERENCE_S} s of it.")
        self._poses: dict[int, npt.NDArray[np.float64]] = {}
        if (self.root / "groundtruth.txt").is_file():
            track = np.array([line.split() for line in read_list(self.root / "groundtruth.txt")], np.float64)
            times = np.array([time for time, _, _ in self.pairs])
            self._poses = {i: pose_matrix(track[j, 1:4], track[j, 4:8]) for i, j in associate(times, track[:, 0])}

    def __len__(self) -> int:
        return len(self.pairs)

    def scene(self, index: int) -> str:
        """Return the sequence."""
        return self.root.name

    def read(self, index: int) -> Sample:
        """Read one sample."""
        time, image, depth = self.pairs[index]
        meta: dict[str, Any] = {"id": f"{self.root.name}/{Path(image).stem}", "scene": self.root.name, "time_s": time}
        meta |= {"image_path": str(self.root / image), "ground_truth": "raw"}
        if index in self._poses:
            meta["pose"] = self._poses[index]
        metres = read_stored(self.root / depth).astype(np.float32) / np.float32(COUNTS_PER_METRE)
        return make_sample(read_image(self.root / image).rgb, metres, camera=self._camera, meta=meta)


def _read_times(path: Path) -> tuple[npt.NDArray[np.float64], list[str]]:
    rows = [line.split(maxsplit=1) for line in read_list(path)]
    try:
        return np.array([float(row[0]) for row in rows]), [row[1] for row in rows]
    except (ValueError, IndexError):
        raise InputError(f"Expected lines 'time file' in '{path}'.") from None
