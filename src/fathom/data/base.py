"""The contract of every dataset: a length, and a `Sample` for each index; no torch.

What a sample carries beside depth lies in ``Sample.meta`` under the names below. The per-pixel companions move with the
picture in every transform (`fathom.data.transforms`):

    ===================  =============================================================================
    ``id``               unique name of the sample in its dataset, for reports
    ``scene``            place, drive or sequence it was taken in, for splits that do not leak
    ``ground_truth``     where the target comes from, one of `fathom.protocol.GroundTruth`; absent where nobody knows
    ``labels``           integer classes, shape (H, W)
    ``instances``        integer instance numbers, shape (H, W)
    ``normals``          unit normals in camera axes (x right, y down, z forward), 0 where unknown, (H, W, 3)
    ``image_right``      second picture of a rectified stereo pair, uint8, shape (H, W, 3)
    ``target_right``     ground truth of the second picture, shape (H, W), with ``valid_mask_right``
    ``baseline_sign``    1 where the second view lies to the right of `image`, -1 where it lies to the left
    ``pose``             camera to world, metres, shape (4, 4)
    ``neighbours``       other frames of the same camera, a list of uint8 (H, W, 3)
    ``neighbour_poses``  from this camera to that of each neighbour, metres, shape (S, 4, 4)
    ===================  =============================================================================

Cameras follow the convention of `Camera`: the centre of the first pixel is at (0.5, 0.5). Most published calibrations
count it as (0, 0); readers pass those through `camera_from_calibration`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError, InputError, ShapeError
from fathom.types import Camera, DepthKind, FocalSource, Sample

PIXEL_COMPANIONS = ("labels", "instances", "normals", "image_right", "target_right", "valid_mask_right")
"""Keys of ``Sample.meta`` that hold one value for each pixel."""


class DepthDataset(ABC):
    """Pictures with ground truth, by index.

    Subclasses set the attributes and implement `__len__`, `read` and, where the layout knows it, `scene`. A dataset
    holds paths, not open files, so that it can be pickled and forked freely.
    """

    name: str
    """Name in `fathom.data.DATASETS`."""
    split: str
    """Which part, for instance ``"train"``."""
    kind: DepthKind | None
    """What `Sample.target` holds; None for a set without ground-truth depth, whose `valid_mask` is False throughout."""
    ignore_label: int | None = None
    """Label that means "not labelled", where the set has labels and such a value."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many samples there are."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Read one sample; `index` lies in ``range(len(self))``."""

    def __getitem__(self, index: int) -> Sample:
        """Return one sample; a negative index counts from the end.

        Raises:
            IndexError: If there is no such sample.
            InputError: If one of its files cannot be read.
        """
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"{self.name} ({self.split}) has {length} samples; got index {index}.")
        return self.read(index % length)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            yield self.read(index)

    def scene(self, index: int) -> str:
        """Return the place a sample was taken in, without reading it; empty where the layout does not say."""
        return ""

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the label classes, in the order of their numbers; empty without labels."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, split={self.split!r}, {len(self)} samples, kind={self.kind})"


class Subset(DepthDataset):
    """Some samples of another dataset, in the order given.

    Args:
        dataset: Where they come from.
        indices: Which samples.
        split: Name of this part.
    """

    def __init__(self, dataset: DepthDataset, indices: Sequence[int], split: str) -> None:
        self.dataset, self.indices = dataset, tuple(int(i) for i in indices)
        self.name, self.split, self.kind, self.ignore_label = dataset.name, split, dataset.kind, dataset.ignore_label
        wrong = [i for i in self.indices if not 0 <= i < len(dataset)]
        if wrong:
            raise ConfigError(f"Indices must lie in 0..{len(dataset) - 1}; got {wrong[:5]}.")

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Sample:
        """Read one sample of the part."""
        return self.dataset.read(self.indices[index])

    def scene(self, index: int) -> str:
        """Return the scene the other dataset gives it."""
        return self.dataset.scene(self.indices[index])

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the other dataset."""
        return self.dataset.class_names()


def make_sample(
    image: npt.NDArray[np.uint8],
    target: npt.NDArray[Any] | None,
    valid_mask: npt.NDArray[np.bool_] | None = None,
    *,
    kind: DepthKind = DepthKind.METRIC_DEPTH,
    camera: Camera | None = None,
    meta: Mapping[str, Any],
) -> Sample:
    """Build a sample whose invalid pixels are 0 in the target, so that no NaN can reach a loss.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        target: Ground truth in the unit of `kind`, shape (H, W); None where the dataset has none.
        valid_mask: Pixels to use beside being finite and positive, shape (H, W).
        kind: What the target is.
        camera: The camera, where known.
        meta: Names and companions; see the legend of this module.

    Raises:
        ShapeError: If picture, target and companions do not share one height and width.

    Example:
        >>> sample = make_sample(np.zeros((1, 2, 3), np.uint8), np.array([[np.inf, 2.0]]), meta={"id": "a"})
        >>> sample.target.tolist(), sample.valid_mask.tolist()
        ([[0.0, 2.0]], [[False, True]])
    """
    shape = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"`image` must be RGB uint8 (H, W, 3); got {image.dtype} {image.shape} for {meta.get('id')}.")
    if target is None:
        values, usable = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    else:
        values = np.asarray(target, np.float32)
        signed = kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        usable = np.isfinite(values) if signed else np.isfinite(values) & (values > 0)
        if valid_mask is not None:
            usable &= valid_mask
        values = np.where(usable, values, np.float32(0))
    named = {key: meta[key].shape[:2] for key in PIXEL_COMPANIONS if meta.get(key) is not None}
    for key, found in {"target": values.shape, **named}.items():
        if found != shape:
            raise ShapeError(
                f"The picture of {meta.get('id')} is {shape[1]} x {shape[0]} but its {key} is "
                f"{found[1] if len(found) > 1 else '?'} x {found[0]}. Resize or register them first."
            )
    return Sample(image, values, usable, camera, meta, kind)


def camera_from_calibration(
    fx: float, fy: float, cx: float, cy: float, *, baseline_m: float | None = None, first_pixel_centre: float = 0.0
) -> Camera:
    """Build a camera from a published calibration.

    Args:
        fx: Horizontal focal length [px].
        fy: Vertical focal length [px].
        cx: Column of the principal point [px].
        cy: Row of the principal point [px].
        baseline_m: Distance to the second camera [m].
        first_pixel_centre: Coordinate that the calibration gives to the centre of the first pixel: 0 (OpenCV, Bouguet's
            toolbox, KITTI), 0.5, or 1 (MATLAB). Fathom's own is 0.5.

    Example:
        >>> camera_from_calibration(525.0, 525.0, 319.5, 239.5).intrinsics[:2, 2].tolist()
        [320.0, 240.0]
    """
    move = 0.5 - first_pixel_centre
    matrix = np.array([[fx, 0, cx + move], [0, fy, cy + move], [0, 0, 1.0]])
    return Camera(matrix, FocalSource.USER, baseline_m)


def existing_folder(root: str | Path, what: str) -> Path:
    """Return the folder, or say what it should hold.

    Raises:
        InputError: If there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"Expected a folder with {what}; '{root}' is not a folder.")
    return folder


def check_choice(name: str, value: str, known: Sequence[str]) -> str:
    """Return the value if it is one of the known names.

    Raises:
        ConfigError: If it is not.
    """
    if value not in known:
        raise ConfigError(f"`{name}` must be one of {', '.join(known)}; got '{value}'.")
    return value


def read_list(path: str | Path) -> list[str]:
    """Return the lines of a split file, without blank lines and comments.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a text file with one sample in each line; cannot read '{path}': {error}.") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
