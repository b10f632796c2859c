"""The typed values that cross between stages: `Depth`, `DepthKind`, `Camera`, `Provenance`, `Sample`.

Shape letters used everywhere in Fathom: B batch, C channels, H W picture, h w network grid, N points.
"""

import enum
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError, KindError, ShapeError
from fathom.version import __version__

FloatMap = npt.NDArray[np.float32]
BoolMap = npt.NDArray[np.bool_]

ASSUMED_FOV_X_DEG = 55.0
"""Horizontal field of view assumed when nothing is known: between a phone's main camera and a webcam."""


class DepthKind(enum.StrEnum):
    """What the numbers of a depth map are, and what about them is still unknown."""

    METRIC_DEPTH = "metric_depth"
    """Depth along the optical axis [m]."""
    INVERSE_DEPTH = "inverse_depth"
    """One over depth [1/m]."""
    SCALE_INVARIANT_DEPTH = "scale_invariant_depth"
    """Depth times an unknown positive scale."""
    AFFINE_INVARIANT_INVERSE_DEPTH = "affine_invariant_inverse_depth"
    """Inverse depth times an unknown positive scale plus an unknown shift."""
    DISPARITY = "disparity"
    """Stereo shift [px]: focal length [px] times baseline [m] over depth [m]."""

    @property
    def unit(self) -> str:
        """Unit of the values; empty where the scale is unknown."""
        return {"metric_depth": "m", "inverse_depth": "1/m", "disparity": "px"}.get(self.value, "")

    @property
    def larger_is_nearer(self) -> bool:
        """Whether a larger value means a nearer surface."""
        return self not in (DepthKind.METRIC_DEPTH, DepthKind.SCALE_INVARIANT_DEPTH)

    @property
    def is_metric(self) -> bool:
        """Whether the values carry a true unit."""
        return bool(self.unit)


class FocalSource(enum.StrEnum):
    """Where the focal length of a camera came from."""

    USER = "user"
    EXIF = "exif"
    MODEL = "model"
    ASSUMED = "assumed"


class ConfidenceMeaning(enum.StrEnum):
    """Which way a confidence map points."""

    LARGER_IS_SURER = "larger_is_surer"
    LARGER_IS_LESS_SURE = "larger_is_less_sure"


class InvalidReason(enum.IntEnum):
    """Why a pixel has no valid depth."""

    NONE = 0
    UNKNOWN = 1
    SKY = 2
    BORDER = 3


_Member = TypeVar("_Member", bound=enum.Enum)


def _member(kind: type[_Member], value: Any) -> _Member:
    """Return the member of an enumeration, or say which there are."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise KindError(f"There is no {kind.__name__} called {value!r}; there are {known}.") from None


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera for one picture.

    Args:
        intrinsics: Matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the picture, shape (3, 3).
        focal_source: Where the focal length came from.
        baseline_m: Distance to the second camera of a stereo pair [m], where there is one.

    Raises:
        ShapeError: If the matrix is not (3, 3), not finite, or has a focal length that is not positive.

    Example:
        >>> camera = Camera.from_focal(500.0, height=480, width=640, source=FocalSource.USER)
        >>> camera.intrinsics[0].tolist()
        [500.0, 0.0, 320.0]
        >>> round(camera.fov_x_deg(640), 2)
        65.24
    """

    intrinsics: npt.NDArray[np.float64]
    focal_source: FocalSource
    baseline_m: float | None = None

    def __post_init__(self) -> None:
        matrix = np.array(self.intrinsics, np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ShapeError(f"Intrinsics must be a finite (3, 3) matrix in pixels; got shape {matrix.shape}.")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise ShapeError(f"Focal lengths must be positive pixels; got fx={matrix[0, 0]}, fy={matrix[1, 1]}.")
        if matrix[0, 1] or matrix[1, 0] or matrix[2].tolist() != [0, 0, 1]:
            raise ShapeError(
                "Intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]: no skew, last row 0 0 1; got "
                f"{matrix.tolist()}. Rectify the picture, or drop the skew."
            )
        if self.baseline_m is not None and not (np.isfinite(self.baseline_m) and self.baseline_m > 0):
            raise ShapeError(f"The baseline must be positive metres; got {self.baseline_m}.")
        matrix.setflags(write=False)
        object.__setattr__(self, "intrinsics", matrix)
        object.__setattr__(self, "focal_source", _member(FocalSource, self.focal_source))

    def __reduce__(self) -> tuple[Any, ...]:
        return Camera, tuple(getattr(self, f.name) for f in fields(self))

    @classmethod
    def from_focal(cls, focal_px: float, *, height: int, width: int, source: FocalSource) -> Self:
        """Build a camera with square pixels and the principal point in the middle of the picture."""
        return cls(np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]]), source)

    @classmethod
    def assumed(cls, *, height: int, width: int) -> Self:
        """Build a camera with the field of view that is assumed when nothing is known (`ASSUMED_FOV_X_DEG`)."""
        longest = max(height, width)
        focal_px = longest / 2 / np.tan(np.radians(ASSUMED_FOV_X_DEG / 2))
        return cls.from_focal(focal_px, height=height, width=width, source=FocalSource.ASSUMED)

    @property
    def focal_px(self) -> float:
        """Horizontal focal length [px]."""
        return float(self.intrinsics[0, 0])

    def fov_x_deg(self, width: int) -> float:
        """Return the horizontal field of view [degrees] for a picture `width` pixels wide."""
        return float(np.degrees(2 * np.arctan(width / 2 / self.focal_px)))

    def scaled(self, scale_x: float, scale_y: float) -> "Camera":
        """Return the camera of the picture resized by these factors."""
        return replace(self, intrinsics=np.diag([scale_x, scale_y, 1.0]) @ self.intrinsics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "intrinsics": self.intrinsics.tolist(),
            "focal_source": self.focal_source.value,
            "baseline_m": self.baseline_m,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(np.array(values["intrinsics"]), FocalSource(values["focal_source"]), values.get("baseline_m"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Camera) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.intrinsics.tobytes(), self.focal_source, self.baseline_m))


@dataclass(frozen=True)
class Provenance:
    """Where a depth map came from.

    Args:
        model: Name of the model, or of the file or sensor.
        weights_sha256: Hash of the weights file; empty where there is none.
        preprocessing: What was done to the picture (plain JSON values).
        licence: Terms of the weights.
        fathom_version: Version of Fathom that made the result.

    Raises:
        ConfigError: If `preprocessing` holds what JSON cannot.
    """

    model: str = ""
    weights_sha256: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    fathom_version: str = __version__

    def __post_init__(self) -> None:
        # What a file can hold is what comes back: tuples become lists now, and nothing is shared with the caller.
        try:
            plain = json.loads(json.dumps(dict(self.preprocessing), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"`preprocessing` must hold plain JSON values, so that files can carry it: {error}."
            ) from None
        object.__setattr__(self, "preprocessing", plain)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"preprocessing": dict(self.preprocessing)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def __hash__(self) -> int:
        return hash((self.model, self.weights_sha256, self.licence, self.fathom_version))


def _frozen_map(array: Any, dtype: Any, name: str, shape: tuple[int, ...] | None = None) -> Any:
    """Return a read-only array of the type and shape, sharing memory where that is safe.

    An array that owns its memory and is read-only is shared; anything else is copied, so that the caller cannot change
    a result that others hold, not even through the array that a view looks into.
    """
    array = np.asarray(array)
    if array.ndim != 2 or (shape is not None and array.shape != shape):
        expected = "(H, W)" if shape is None else str(shape)
        raise ShapeError(f"`{name}` must have shape {expected}; got {array.shape}.")
    settled = array.flags.owndata and not array.flags.writeable and array.flags.c_contiguous
    if not (settled and array.dtype == dtype):
        array = np.array(array, dtype=dtype, order="C")
        array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, repr=False)
class Depth:
    """A depth map that says what it is.

    Args:
        values: The map, float32, shape (H, W), in the unit of `kind`. Pixels that are not valid may hold anything.
        kind: What the values are.
        valid_mask: True where the value may be used, bool, shape (H, W). Default: where the value is finite, and
            positive for the kinds that have a true unit or an unknown scale.
        invalid_reason: Why a pixel is not valid, uint8 of `InvalidReason`, shape (H, W). Default: UNKNOWN.
        confidence: Optional map, float32, shape (H, W).
        confidence_meaning: Which way `confidence` points; needed with it.
        camera: The camera in pixels of this map, where one is known or assumed.
        provenance: Model, weights, preprocessing, licence.

    Raises:
        ShapeError: If shapes differ, the map is empty, or a valid pixel is not finite.
        KindError: If a valid pixel of a kind that must be positive is not.

    Example:
        >>> depth = Depth(np.array([[2.0, 4.0]]), DepthKind.METRIC_DEPTH)
        >>> depth.to_inverse_depth().values.tolist()
        [[0.5, 0.25]]
        >>> relative = Depth(np.array([[0.1, -0.3]]), DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
        >>> relative.to_metric_depth()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fathom.errors.KindError: Metric depth cannot be had from affine_invariant_inverse_depth: ...
    """

    values: FloatMap
    kind: DepthKind
    valid_mask: BoolMap = None  # type: ignore[assignment]  # filled below, never None afterwards
    invalid_reason: npt.NDArray[np.uint8] = None  # type: ignore[assignment]
    confidence: FloatMap | None = None
    confidence_meaning: ConfidenceMeaning | None = None
    camera: Camera | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        kind = _member(DepthKind, self.kind)
        object.__setattr__(self, "kind", kind)
        values = _frozen_map(self.values, np.float32, "values")
        if values.size == 0:
            raise ShapeError(f"A depth map must hold at least one pixel; got shape {values.shape}.")
        signed = kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        lowest_ok = 0.0 if kind in (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY) else np.finfo(np.float32).tiny
        usable = np.isfinite(values) if signed else np.isfinite(values) & (values >= lowest_ok)
        if self.valid_mask is None:
            mask = usable
        else:
            mask = np.asarray(self.valid_mask)
            if mask.dtype != np.bool_:
                raise ShapeError(f"`valid_mask` must be bool, True = use this pixel; got {mask.dtype}.")
            if mask.shape == values.shape and not usable[mask].all():
                must = "finite" if signed else "finite and positive"
                raise KindError(
                    f"The valid pixels of {kind} must be {must}; {int((mask & ~usable).sum())} are not. "
                    "Leave them out of `valid_mask`."
                )
        mask = _frozen_map(mask, np.bool_, "valid_mask", values.shape)
        if self.invalid_reason is None:
            reason = np.where(mask, InvalidReason.NONE, InvalidReason.UNKNOWN).astype(np.uint8)
        else:
            reason = np.asarray(self.invalid_reason)
        reason = _frozen_map(reason, np.uint8, "invalid_reason", values.shape)
        if ((reason == InvalidReason.NONE) != mask).any():
            raise ShapeError("`invalid_reason` must be 0 exactly where `valid_mask` is True.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "valid_mask", mask)
        object.__setattr__(self, "invalid_reason", reason)
        if (self.confidence is None) != (self.confidence_meaning is None):
            raise ShapeError("`confidence` and `confidence_meaning` go together: give both, or neither.")
        if self.confidence is not None:
            object.__setattr__(self, "confidence", _frozen_map(self.confidence, np.float32, "confidence", values.shape))
            object.__setattr__(self, "confidence_meaning", _member(ConfidenceMeaning, self.confidence_meaning))

    def __reduce__(self) -> tuple[Any, ...]:
        return Depth, tuple(getattr(self, f.name) for f in fields(self))

    # What it is

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    @property
    def unit(self) -> str:
        """Unit of the values; empty where the scale is unknown."""
        return self.kind.unit

    @property
    def larger_is_nearer(self) -> bool:
        """Whether a larger value means a nearer surface."""
        return self.kind.larger_is_nearer

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest valid value, or None where no pixel is valid."""
        if not self.valid_mask.any():
            return None
        if self.valid_mask.all():
            return float(self.values.min()), float(self.values.max())
        valid = self.values[self.valid_mask]
        return float(valid.min()), float(valid.max())

    def metadata(self) -> dict[str, Any]:
        """Return everything but the arrays as plain JSON values; written into every file."""
        return {
            "kind": self.kind.value,
            "unit": self.unit,
            "larger_is_nearer": self.larger_is_nearer,
            "height": self.height,
            "width": self.width,
            "confidence_meaning": self.confidence_meaning.value if self.confidence_meaning else None,
            "camera": self.camera.to_dict() if self.camera else None,
            "provenance": self.provenance.to_dict(),
        }

    # Conversions

    def _refuse(self, wanted: str, cure: str) -> KindError:
        return KindError(f"{wanted} cannot be had from {self.kind}: {cure}")

    def _converted(self, kind: DepthKind, values: npt.NDArray[Any]) -> "Depth":
        """Return a map of another kind; valid pixels whose new value is not usable become invalid."""
        with np.errstate(over="ignore"):
            values = np.asarray(values, np.float32)
        floor = 0.0 if kind in (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY) else np.finfo(np.float32).tiny
        signed = kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        mask = self.valid_mask & np.isfinite(values) & (signed | (values >= floor))
        reason = np.where(self.valid_mask & ~mask, np.uint8(InvalidReason.UNKNOWN), self.invalid_reason)
        # A confidence is about the values of one kind; after a conversion nothing is known about it.
        return Depth(values, kind, mask, reason, camera=self.camera, provenance=self.provenance)

    def _reciprocal(self, numerator: float = 1.0) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(self.valid_mask, numerator / self.values.astype(np.float64), np.nan)

    def _stereo_constant(self, wanted: str) -> float:
        if self.camera is None or self.camera.baseline_m is None:
            raise self._refuse(
                wanted, "it takes a focal length and a baseline. Set camera=Camera(..., baseline_m=...)."
            )
        return self.camera.focal_px * self.camera.baseline_m

    def to_metric_depth(self) -> "Depth":
        """Return depth in metres.

        Raises:
            KindError: If the scale is unknown, or a disparity has no focal length and baseline.
        """
        match self.kind:
            case DepthKind.METRIC_DEPTH:
                return self
            case DepthKind.INVERSE_DEPTH:
                return self._converted(DepthKind.METRIC_DEPTH, self._reciprocal())
            case DepthKind.DISPARITY:
                constant = self._stereo_constant("Metric depth")
                return self._converted(DepthKind.METRIC_DEPTH, self._reciprocal(constant))
            case DepthKind.SCALE_INVARIANT_DEPTH:
                raise self._refuse("Metric depth", "its scale is unknown. Give it one: depth.calibrated(scale=...).")
        raise self._refuse(
            "Metric depth",
            "its scale and shift are unknown. Fit them to known depths: depth.calibrated(scale=..., shift=...), "
            "or use a metric model such as fathom-indoor.",
        )

    def to_inverse_depth(self) -> "Depth":
        """Return inverse depth [1/m].

        Raises:
            KindError: If the scale is unknown, or a disparity has no focal length and baseline.
        """
        match self.kind:
            case DepthKind.INVERSE_DEPTH:
                return self
            case DepthKind.METRIC_DEPTH:
                return self._converted(DepthKind.INVERSE_DEPTH, self._reciprocal())
            case DepthKind.DISPARITY:
                constant = self._stereo_constant("Inverse depth")
                return self._converted(DepthKind.INVERSE_DEPTH, self.values.astype(np.float64) / constant)
            case DepthKind.SCALE_INVARIANT_DEPTH:
                raise self._refuse("Inverse depth", "its scale is unknown. Give it one: depth.calibrated(scale=...).")
        raise self._refuse(
            "Inverse depth",
            "its scale and shift are unknown. Fit them to known depths: depth.calibrated(scale=..., shift=...).",
        )

    def to_disparity(self, baseline_m: float | None = None) -> "Depth":
        """Return the disparity [px] of a stereo pair with this camera.

        Args:
            baseline_m: Distance between the two cameras [m]; default: that of `camera`.

        Raises:
            KindError: If the scale, the focal length or the baseline is unknown.
        """
        if self.kind is DepthKind.DISPARITY and baseline_m is None:
            return self
        inverse = self.to_inverse_depth()
        if baseline_m is not None and self.camera is not None:
            inverse = inverse.with_camera(replace(self.camera, baseline_m=baseline_m))
        constant = inverse._stereo_constant("Disparity")
        return inverse._converted(DepthKind.DISPARITY, inverse.values.astype(np.float64) * constant)

    def calibrated(self, *, scale: float, shift: float = 0.0) -> "Depth":
        """Return the map with its true unit, from a scale (and a shift where the kind has one).

        ``scale * values + shift`` is depth [m] for a scale-invariant depth, and inverse depth [1/m] for an
        affine-invariant inverse depth. Pixels that this makes zero or negative become invalid.

        Args:
            scale: Multiplies the values; must be positive.
            shift: Added after scaling; only for affine-invariant inverse depth.

        Raises:
            KindError: If the map already has a unit, the scale is not positive, or a shift makes no sense.
        """
        if self.kind.is_metric:
            raise KindError(f"This {self.kind} already has a unit ({self.unit}); there is nothing to calibrate.")
        if not (np.isfinite(scale) and scale > 0 and np.isfinite(shift)):
            raise KindError(f"A calibration needs a positive scale and a finite shift; got {scale} and {shift}.")
        if self.kind is DepthKind.SCALE_INVARIANT_DEPTH:
            if shift:
                raise KindError(f"scale_invariant_depth has no unknown shift; got shift={shift}. Give a scale only.")
            return self._converted(DepthKind.METRIC_DEPTH, self.values.astype(np.float64) * scale)
        fitted = self.values.astype(np.float64) * scale + shift
        return self._converted(DepthKind.INVERSE_DEPTH, np.where(fitted > 0, fitted, np.nan))

    def points(self) -> npt.NDArray[np.float32]:
        """Return one 3-D point for each pixel in metres, shape (H, W, 3); x right, y down, z forward.

        Pixels that are not valid hold NaN. The centre of pixel (row, column) is at (column + 0.5, row + 0.5).

        Raises:
            KindError: If the map is relative, or has no camera.
        """
        if not self.kind.is_metric:
            raise self._refuse(
                "A point cloud in metres",
                "calibrate it first (depth.calibrated), or use a metric model such as fathom-indoor.",
            )
        if self.camera is None:
            raise self._refuse(
                "A point cloud", "no camera is set. Give one: depth.with_camera(Camera.from_focal(...))."
            )
        metric = self.to_metric_depth()
        z = np.where(metric.valid_mask, metric.values, np.float32(np.nan))
        k = self.camera.intrinsics
        x = (np.arange(self.width) + 0.5 - k[0, 2]) / k[0, 0]
        y = (np.arange(self.height) + 0.5 - k[1, 2]) / k[1, 1]
        points = np.empty((*z.shape, 3), np.float32)
        points[..., 0], points[..., 1], points[..., 2] = (
            z * x[None].astype(np.float32),
            z * y[:, None].astype(np.float32),
            z,
        )
        return points

    def with_camera(self, camera: Camera) -> "Depth":
        """Return the same map with this camera."""
        return replace(self, camera=camera)

    # Comparison and display

    def __eq__(self, other: object) -> bool:
        """Compare what both are and their valid pixels; what an invalid pixel holds does not matter."""
        if not isinstance(other, Depth):
            return NotImplemented
        return (
            self.metadata() == other.metadata()
            and np.array_equal(self.invalid_reason, other.invalid_reason)
            and np.array_equal(self.values[self.valid_mask], other.values[other.valid_mask])
            and (
                self.confidence is other.confidence
                or (
                    self.confidence is not None
                    and other.confidence is not None
                    and np.array_equal(self.confidence, other.confidence, equal_nan=True)
                )
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = self.value_range
        span = (
            "no valid pixel" if values is None else f"{values[0]:.4g} to {values[1]:.4g}{self.unit and ' ' + self.unit}"
        )
        nearer = "larger" if self.larger_is_nearer else "smaller"
        valid = self.valid_mask.mean()
        return (
            f"Depth({self.kind}, {self.height} x {self.width}, {span}, {nearer} is nearer, {valid:.1%} valid"
            + (f", model {self.provenance.model}" if self.provenance.model else "")
            + (f", focal {self.camera.focal_px:.0f} px ({self.camera.focal_source})" if self.camera else "")
            + ")"
        )

    def _repr_png_(self) -> bytes:
        """Return a picture for notebooks: grey, near is bright, invalid is black."""
        from PIL import Image

        near = self.values if self.larger_is_nearer else -self.values
        grey = np.zeros(self.values.shape, np.uint8)
        if self.valid_mask.any():
            low, high = np.percentile(near[self.valid_mask], [1, 99])
            span = max(float(high - low), 1e-12)
            grey = np.where(self.valid_mask, np.clip((near - low) / span, 0, 1) * 235 + 20, 0).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Sample:
    """One picture with its ground truth, as every dataset gives it.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        target: Ground truth in the unit of `kind`, float32, shape (H, W).
        valid_mask: True where `target` may be used, bool, shape (H, W).
        camera: The camera, where the dataset has one.
        meta: Whatever names the sample: file names, scene, index.
        kind: What `target` is.
    """

    image: npt.NDArray[np.uint8]
    target: FloatMap
    valid_mask: BoolMap
    camera: Camera | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    kind: DepthKind = DepthKind.METRIC_DEPTH
