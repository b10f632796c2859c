"""The YAML of your own folder: where pictures and maps lie, and what the stored numbers mean."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fathom.config import StrictConfig, load_config
from fathom.types import DepthKind

STEM = "{stem}"
"""Placeholder in a file pattern for the part that picture and map share."""
SCENE = "{scene}"
"""Placeholder for folders above that part, which they share too."""

UNIT_IN_METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}


class DatasetConfig(StrictConfig):
    """A folder of pictures with depth maps or labels, described.

    A stored number becomes ``scale * stored + offset`` in `unit` (for inverse depth: in 1 / `unit`).

    Example:
        >>> config = DatasetConfig(name="room", images="rgb/{stem}.*", depth="depth/{stem}.png", unit="mm")
        >>> config.to_metres
        0.001
    """

    name: str
    """Name of the dataset."""
    root: Path = Field(Path("."), validate_default=False)  # strict JSON takes no Path object, not even as a default
    """Folder of the files; relative to the YAML file."""
    images: str
    """Pattern of the pictures below `root`, as in '{scene}/rgb/{stem}.jpg'. {stem} is the part they share with their
    maps; {scene}, where given, are folders they share; both may hold slashes. * is any part of one file name."""
    depth: str | None = None
    """Pattern of the depth maps (png, tiff, npy, npz, exr, pfm); absent for a set with labels only."""
    labels: str | None = None
    """Pattern of the label maps."""
    kind: DepthKind = DepthKind.METRIC_DEPTH
    """What the scaled numbers are."""
    scale: float = Field(1.0, gt=0)
    """What a stored number is multiplied by: 0.00390625 (1/256) for KITTI, 0.0002 (1/5000) for TUM."""
    offset: float = 0.0
    """Added after scaling, in `unit`."""
    unit: Literal["m", "cm", "mm"] = "m"
    """Unit of depth after scaling; of one over inverse depth."""
    along: Literal["axis", "ray"] = "axis"
    """Whether depth is measured along the optical axis, or along the ray to each point (many simulators)."""
    invalid: tuple[float, ...] = (0.0,)
    """Stored numbers that mean "no depth"; NaN and infinity always do."""
    min_depth: float | None = Field(None, gt=0)
    """Smallest value that counts as valid, after scaling, in the unit of `kind`."""
    max_depth: float | None = Field(None, gt=0)
    """Largest value that counts as valid, after scaling, in the unit of `kind`."""
    npz_key: str | None = None
    """Name of the array inside an npz that holds several."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy of the pictures [px]."""
    first_pixel_centre: float = 0.5
    """Coordinate that the intrinsics give to the centre of the first pixel: 0.5, or 0 (OpenCV), or 1 (MATLAB)."""
    baseline_m: float | None = Field(None, gt=0)
    """Distance to the second camera [m], where the maps are disparities."""
    ignore_label: int | None = None
    """Label that means "not labelled"."""
    class_names: tuple[str, ...] = ()
    """Names of the label classes, in the order of their numbers."""
    splits: dict[str, Path] = Field(default_factory=dict)
    """Text files with one stem in each line ({scene}/{stem} where there are scenes), by the name of the split; relative
    to `root`."""
    licence: str = ""
    """Terms of the data; goes into the card of every model trained on it."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.depth is None and self.labels is None:
            raise ValueError("Set `depth` or `labels`: a dataset needs one of them.")
        for pattern in (self.images, self.depth, self.labels):
            if pattern is not None and pattern.count(STEM) != 1:
                raise ValueError(f"A file pattern holds {STEM} once, as in 'rgb/{STEM}.jpg'; got '{pattern}'.")
        if len({pattern.count(SCENE) for pattern in (self.images, self.depth, self.labels) if pattern is not None}) > 1:
            raise ValueError(f"Either every pattern holds {SCENE} or none does.")
        if self.along == "ray" and self.intrinsics is None:
            raise ValueError("Depth along rays needs `intrinsics`, to turn it into depth along the axis. Set them.")
        if self.along == "ray" and self.kind is not DepthKind.METRIC_DEPTH:
            raise ValueError(f"`along: ray` is for metric depth; `kind` is {self.kind}. Remove one.")
        if self.unit != "m" and self.kind not in (DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH):
            raise ValueError(f"`unit` is for metric and inverse depth; {self.kind} has none. Remove it.")
        if self.min_depth is not None and self.max_depth is not None and self.min_depth >= self.max_depth:
            raise ValueError(f"`min_depth` must be below `max_depth`; got {self.min_depth} and {self.max_depth}.")
        return self

    @property
    def to_metres(self) -> float:
        """What a scaled number is multiplied by to be in metres (or 1/m)."""
        metres = UNIT_IN_METRES[self.unit]
        return 1.0 / metres if self.kind is DepthKind.INVERSE_DEPTH else metres


def load_dataset_config(path: str | Path) -> DatasetConfig:
    """Read the YAML of a dataset; its `root` becomes absolute.

    Raises:
        ConfigError: If the file cannot be read or a value is wrong.
    """
    config = load_config(path, DatasetConfig)
    return config.model_copy(update={"root": (Path(path).resolve().parent / config.root).resolve()})
