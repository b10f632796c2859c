"""Evaluation protocols: every switch that moves a score, written out in a small named file.

A protocol file states all of its fields; a field left out is an error, so that no default hides in code. The hash of
the resolved file is printed beside each number. It covers every field that can change a score and leaves out the labels
(`name`, `source` and the name of the crop), because two files with the same numbers are the same protocol.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fathom.config import StrictConfig, load_config, nearest_name
from fathom.errors import ConfigError

Span = tuple[float, float]
Box = tuple[int, int, int, int]
"""Rows and columns of a rectangle: top, bottom, left, right; bottom and right are the first ones outside."""

PROTOCOL_FOLDER = Path(__file__).parent / "protocols"

KB_HEIGHT, KB_WIDTH = 352, 1216
"""Size of the KITTI benchmark crop: the bottom rows and the central columns."""

GroundTruth = Literal["raw", "filled", "velodyne", "annotated", "laser", "stereo", "structured_light", "rendered"]
"""Where depth comes from: a raw sensor, one in-painted, one lidar scan, accumulated lidar, a laser scanner on a tripod,
matched views, matched views under projected patterns, a renderer. Readers say it as ``meta["ground_truth"]``."""

NAMED_CROPS: dict[str, tuple[Literal["fraction", "pixel"], Span, Span, tuple[int, int] | None]] = {
    "none": ("fraction", (0.0, 1.0), (0.0, 1.0), None),
    "garg": ("fraction", (0.40810811, 0.99189189), (0.03594771, 0.96405229), None),
    "eigen_kitti": ("fraction", (0.3324324, 0.91351351), (0.0359477, 0.96405229), None),
    "nyu_eigen": ("pixel", (45.0, 471.0), (41.0, 601.0), (480, 640)),
    "nyu_eigen_region": ("pixel", (20.0, 460.0), (24.0, 616.0), (480, 640)),
    "nyu_eigen_region_short": ("pixel", (20.0, 459.0), (24.0, 615.0), (480, 640)),
    "nyu_centre": ("pixel", (6.0, 234.0), (8.0, 312.0), (240, 320)),
}
"""Unit, rows, columns and size of the target that a crop of this name must have: names lie, numbers do not.

Garg et al., ECCV 2016, and Godard et al., CVPR 2017 (fractions of KITTI frames); Eigen et al., NeurIPS 2014: the scored
rectangle, and the region that their network predicts, with its off-by-one copy; Ma and Karaman, ICRA 2018 (centre).
"""


class Split(StrictConfig):
    """Which images, and which ground truth."""

    name: str
    """Name of the list of images."""
    images: Annotated[int, Field(gt=0)] | None
    """How many images are scored; another count is an error. Null where the protocol does not fix it."""
    ground_truth: GroundTruth
    """Where the depth comes from; data that declares another source is refused."""


class Size(StrictConfig):
    """Height and width."""

    height: int = Field(gt=0)
    """Rows [px]."""
    width: int = Field(gt=0)
    """Columns [px]."""


class Crop(StrictConfig):
    """The rectangle of the target that is scored: a mask, never a preprocessing step."""

    name: str
    """Label; a known one must have its known numbers."""
    unit: Literal["fraction", "pixel"]
    """What `rows` and `columns` count; fractions are multiplied by the size and cut to whole pixels."""
    rows: Span
    """First row, and first row after the crop."""
    columns: Span
    """First column, and first column after the crop."""
    frame: Literal["full", "kb_crop"]
    """The frame that the numbers refer to: the whole target, or its KITTI benchmark crop."""
    frame_size: Size | None
    """The size that pixel numbers are meant for; null for fractions."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = NAMED_CROPS.get(self.name)
        if known is not None and (self.unit, self.rows, self.columns) != known[:3]:
            unit, rows, columns, _ = known
            raise ValueError(
                f"The crop '{self.name}' is rows {list(rows)} and columns {list(columns)} ({unit}); "
                f"got {list(self.rows)} and {list(self.columns)} ({self.unit}). Give other numbers another name."
            )
        if (self.unit == "pixel") != (self.frame_size is not None):
            raise ValueError(
                "A crop in pixels needs 'frame_size', the size it is meant for; one in fractions has null."
            )
        height = self.frame_size.height if self.frame_size else 1.0
        width = self.frame_size.width if self.frame_size else 1.0
        for name, (low, high), limit in (("rows", self.rows, height), ("columns", self.columns, width)):
            if not 0 <= low < high <= limit:
                raise ValueError(
                    f"'{name}' must be two increasing numbers from 0 to {limit:g}; got {low:g} and {high:g}."
                )
        return self


def named_crop(name: str) -> Crop:
    """Return a crop of `NAMED_CROPS`, in the full frame.

    Args:
        name: Its name.

    Raises:
        ConfigError: If the name is not known.

    Example:
        >>> crop_box(named_crop("nyu_eigen"), 480, 640)
        (45, 471, 41, 601)
    """
    if name not in NAMED_CROPS:
        raise ConfigError(f"Unknown crop '{name}'. {nearest_name(name, NAMED_CROPS)}")
    unit, rows, columns, size = NAMED_CROPS[name]
    frame_size = Size(height=size[0], width=size[1]) if size is not None else None
    return Crop(name=name, unit=unit, rows=rows, columns=columns, frame="full", frame_size=frame_size)


class Resize(StrictConfig):
    """How a prediction is brought to the size of the target."""

    quantity: Literal["prediction", "depth", "inverse_depth"]
    """What is interpolated: the prediction as it is, its depth, or its inverse depth."""
    mode: Literal["nearest", "bilinear", "bicubic"]
    """Interpolation, without smoothing when it shrinks."""
    align_corners: bool
    """Whether the centres of the corner pixels, instead of the outer corners, are laid upon each other."""


class Range(StrictConfig):
    """Which target depths are scored."""

    min_depth: float = Field(ge=0)
    """Smallest target depth [m]."""
    max_depth: Annotated[float, Field(gt=0)] | None
    """Largest target depth [m]; null for no limit."""
    min_strict: bool
    """Whether a target exactly at `min_depth` is left out."""
    max_strict: bool
    """Whether a target exactly at `max_depth` is left out."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_depth is not None and self.max_depth <= self.min_depth:
            raise ValueError(f"'max_depth' must exceed 'min_depth'; got {self.max_depth:g} and {self.min_depth:g} m.")
        return self


class Clamp(StrictConfig):
    """Limits that predictions are moved to."""

    when: Literal["none", "before_alignment", "after_alignment"]
    """Before or after the fit, or not at all."""
    min_depth: Annotated[float, Field(gt=0)] | None
    """Lower limit [m]; null without a clamp."""
    max_depth: Annotated[float, Field(gt=0)] | None
    """Upper limit [m]; null without a clamp."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        limits = (self.min_depth, self.max_depth)
        if self.when == "none":
            if limits != (None, None):
                raise ValueError("Without a clamp ('when: none') both limits must be null.")
        elif self.min_depth is None or self.max_depth is None or self.min_depth >= self.max_depth:
            raise ValueError(f"A clamp needs min_depth < max_depth; got {self.min_depth} and {self.max_depth}.")
        return self


class Alignment(StrictConfig):
    """How a prediction is fitted to its target before it is scored."""

    method: Literal["none", "median", "median_of_ratios", "least_squares_scale", "least_squares", "trimmed", "l1"]
    """The fit: nothing, a scale (median: ratio of medians), or scale and shift (the last three)."""
    space: Literal["depth", "inverse_depth", "log"]
    """The quantity that is fitted."""
    weights: Literal["uniform"]
    """How pixels count in the fit."""
    unit: Literal["image", "clip", "dataset"]
    """What shares one fit: an image, a clip (`meta["clip"]`), or everything."""
    fixed_scale: Annotated[float, Field(gt=0)] | None
    """Known factor of the predicted depth, for instance 5.4 for stereo-trained KITTI models; null for none."""
    far_limit: Literal["clamp", "target"]
    """Depth that a fitted inverse depth of 0 or below becomes: the clamp's largest, or the largest scored target."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.fixed_scale is not None and self.method != "none":
            raise ValueError(
                f"A fixed scale ({self.fixed_scale:g}) and the fit '{self.method}' are two answers to one question, "
                "and the fit looks at the ground truth. Keep one: method none, or fixed_scale null."
            )
        return self


class MetricDefinitions(StrictConfig):
    """Which of the published definitions a metric name stands for."""

    rmse_log_base: Literal["e", "10"]
    """Base of the logarithm in rmse_log."""
    silog_scale: float = Field(gt=0)
    """Factor of silog."""
    silog_lambda: float = Field(ge=0, le=1)
    """Weight of the squared mean in silog."""
    silog_sqrt: bool
    """Whether silog takes the root."""
    silog_unbiased: bool
    """Whether the variance in silog divides by n - 1."""


class Augmentation(StrictConfig):
    """What is done to the picture at test time; saved predictions are taken to have it already."""

    flip: Literal["none", "average", "border_blend"]
    """Mirrored second pass: plain average, or monodepth's average with border ramps."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Factors of the picture size whose predictions are averaged."""


class Protocol(StrictConfig):
    """How predictions are turned into scores, every switch stated.

    Example:
        >>> protocol = load_protocol("nyu-eigen")
        >>> protocol.range.max_depth, protocol.average, len(protocol.hash)
        (10.0, 'per_image', 12)
        >>> crop_box(protocol.score_crop, 480, 640)
        (45, 471, 41, 601)
    """

    name: str
    """Name of the protocol."""
    source: str
    """The paper or code that it follows."""
    dataset: str
    """Dataset that it is meant for."""
    split: Split
    """Images and ground truth."""
    image_crop: Literal["none", "kb_crop"]
    """Crop of the picture before prediction; the prediction is put back into the full frame."""
    target_size: Size | None
    """Size to which the target is brought, by nearest pixel, before scoring; null for its own."""
    score_crop: Crop
    """Rectangle that is scored."""
    resize: Resize
    """How predictions come to the size of the target."""
    range: Range
    """Target depths that are scored."""
    clamp: Clamp
    """Limits of the predictions."""
    missing_prediction: Literal["refuse", "exclude", "far_limit"]
    """What happens to scored pixels without a prediction: an error, left out and counted, or set to the far limit."""
    alignment: Alignment
    """Fit of the prediction to the target."""
    average: Literal["per_image", "pooled"]
    """Mean over images of each image's score, or one score over all pixels."""
    metrics: MetricDefinitions
    """Definitions of the metrics."""
    test_time: Augmentation
    """Test-time augmentation."""
    intrinsics: Literal["not_given", "given"]
    """Whether the model is given the true camera."""

    @model_validator(mode="after")
    def _has_far_limit(self) -> Self:
        if self.clamp.when == "none" and self.alignment.far_limit == "clamp":
            raise ValueError("'alignment.far_limit: clamp' needs a clamp; without one, set it to target.")
        if self.score_crop.frame_size and self.target_size and self.score_crop.frame_size != self.target_size:
            raise ValueError("'score_crop.frame_size' must equal 'target_size', because the crop is cut from it.")
        return self

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all fields but the labels."""
        values = self.model_dump(mode="json", exclude={"name": True, "source": True, "score_crop": {"name"}})
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def uses_ground_truth(self) -> bool:
        """Whether the score used the test ground truth to fit the prediction; never compare such rows with others."""
        return self.alignment.method != "none"

    @property
    def label(self) -> str:
        """Name and hash, as printed beside a number."""
        return f"{self.name}#{self.hash}"


def list_protocols() -> tuple[str, ...]:
    """List the names of the protocols that come with Fathom.

    Example:
        >>> "nyu-eigen" in list_protocols()
        True
    """
    return tuple(sorted(path.stem for path in PROTOCOL_FOLDER.glob("*.yaml")))


def load_protocol(name: str | Path, overrides: Iterable[str] = ()) -> Protocol:
    """Load a protocol by name, or from a file.

    Args:
        name: A name from `list_protocols`, or the path of a YAML or JSON file.
        overrides: Changes of the form ``range.max_depth=50``; the hash follows them.

    Returns:
        The protocol.

    Raises:
        ConfigError: If there is no such protocol, or the file leaves a field out or has a wrong one.

    Example:
        >>> load_protocol("nyu-eigen").hash == load_protocol("nyu-eigen", ["range.max_depth=8.0"]).hash
        False
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return load_config(path, Protocol, overrides)
    if str(name) not in list_protocols():
        raise ConfigError(
            f"Unknown protocol '{name}'. {nearest_name(str(name), list_protocols())} Or give a .yaml file."
        )
    return load_config(PROTOCOL_FOLDER / f"{name}.yaml", Protocol, overrides)


def kb_box(height: int, width: int) -> Box:
    """Return the KITTI benchmark crop of a frame: the bottom 352 rows and the central 1216 columns.

    Args:
        height: Rows of the frame.
        width: Columns of the frame.

    Returns:
        Top, bottom, left, right.

    Raises:
        ConfigError: If the frame is smaller than the crop.

    Example:
        >>> kb_box(375, 1242)
        (23, 375, 13, 1229)

    Reference:
        Lee et al., "From Big to Small" (BTS), 2019, evaluation code.
    """
    if height < KB_HEIGHT or width < KB_WIDTH:
        raise ConfigError(
            f"kb_crop needs at least {KB_HEIGHT} x {KB_WIDTH} pixels; got {height} x {width}. "
            "Use a protocol with image_crop: none."
        )
    top, left = height - KB_HEIGHT, int((width - KB_WIDTH) / 2)
    return top, top + KB_HEIGHT, left, left + KB_WIDTH


def crop_box(crop: Crop, height: int, width: int) -> Box:
    """Return the rectangle that a crop leaves of a frame.

    Args:
        crop: The crop.
        height: Rows of the full target.
        width: Columns of the full target.

    Returns:
        Top, bottom, left, right in pixels of the full target.

    Raises:
        ConfigError: If a crop in pixels is meant for another size.

    Example:
        >>> garg = load_protocol("kitti-eigen-garg").score_crop
        >>> crop_box(garg, 375, 1242)
        (153, 371, 44, 1197)
    """
    top = left = 0
    if crop.frame == "kb_crop":
        top, bottom, left, right = kb_box(height, width)
        height, width = bottom - top, right - left
    if crop.frame_size is not None:
        if (height, width) != (crop.frame_size.height, crop.frame_size.width):
            raise ConfigError(
                f"The crop '{crop.name}' is made for targets of {crop.frame_size.height} x {crop.frame_size.width} "
                f"pixels; this one is {height} x {width}. Use a protocol for this dataset, or set target_size."
            )
        row_0, row_1, column_0, column_1 = (int(value) for value in (*crop.rows, *crop.columns))
    else:
        # Cut to whole pixels, as the published code does; not rounded.
        row_0, row_1 = (int(value * height) for value in crop.rows)
        column_0, column_1 = (int(value * width) for value in crop.columns)
    return top + row_0, top + row_1, left + column_0, left + column_1


def score_mask(protocol: Protocol, target: NDArray[np.floating], valid_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels of a target that a protocol scores.

    Args:
        protocol: The protocol.
        target: Depth [m], shape (H, W), at the size that is scored.
        valid_mask: Pixels with ground truth, shape (H, W).

    Returns:
        True where valid, finite, positive, inside the crop and inside the range; shape (H, W).

    Raises:
        ConfigError: If the crop does not fit the size.

    Example:
        >>> protocol = load_protocol("kitti-eigen-garg")
        >>> target = np.full((375, 1242), 80.0)
        >>> bool(score_mask(protocol, target, target > 0).any())  # the cap is strict
        False
    """
    top, bottom, left, right = crop_box(protocol.score_crop, *target.shape)
    mask = np.zeros(target.shape, np.bool_)
    inside = target[top:bottom, left:right]
    limits = protocol.range
    # A comparison with NaN is False; only an infinite target needs its own test.
    scored = valid_mask[top:bottom, left:right] & (inside > 0) & np.isfinite(inside)
    scored &= inside > limits.min_depth if limits.min_strict else inside >= limits.min_depth
    if limits.max_depth is not None:
        scored &= inside < limits.max_depth if limits.max_strict else inside <= limits.max_depth
    mask[top:bottom, left:right] = scored
    return mask
