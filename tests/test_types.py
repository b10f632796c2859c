"""The depth map that says what it is: what it accepts, what it refuses, and every conversion between kinds."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depth_strategies import cameras, depths, provenances
from fathom.errors import ConfigError, FathomError, KindError, ShapeError
from fathom.types import (
    ASSUMED_FOV_X_DEG,
    Camera,
    ConfidenceMeaning,
    Depth,
    DepthKind,
    FocalSource,
    InvalidReason,
    Provenance,
)

METRIC, INVERSE = DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH
SCALE, AFFINE = DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
DISPARITY = DepthKind.DISPARITY
STEREO = Camera(np.diag([500.0, 500.0, 1.0]), FocalSource.USER, baseline_m=0.1)
quick = settings(max_examples=40, deadline=None, database=None)
metres = st.floats(2**-10, 2**10, width=32)


def maps(kind: DepthKind, **fields: object) -> Depth:
    return Depth(np.array([[2.0, 4.0], [8.0, np.nan]]), kind, **fields)


class TestKinds:
    def test_units_and_direction(self) -> None:
        assert {kind: (kind.unit, kind.larger_is_nearer, kind.is_metric) for kind in DepthKind} == {
            METRIC: ("m", False, True),
            INVERSE: ("1/m", True, True),
            SCALE: ("", False, False),
            AFFINE: ("", True, False),
            DISPARITY: ("px", True, True),
        }

    def test_kind_from_text(self) -> None:
        assert Depth(np.ones((1, 1)), "disparity").kind is DISPARITY  # type: ignore[arg-type]
        with pytest.raises(KindError, match="no DepthKind called 'depth'; there are metric_depth"):
            Depth(np.ones((1, 1)), "depth")  # type: ignore[arg-type]


class TestConstruction:
    @quick
    @given(depth=depths())
    def test_types_and_shapes(self, depth: Depth) -> None:
        assert depth.values.dtype == np.float32 and depth.valid_mask.dtype == np.bool_
        assert depth.values.shape == depth.valid_mask.shape == depth.invalid_reason.shape == (depth.height, depth.width)
        assert np.array_equal(depth.invalid_reason == InvalidReason.NONE, depth.valid_mask)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (METRIC, [True, False, False, False, False]),
            (SCALE, [True, False, False, False, False]),
            (INVERSE, [True, True, False, False, False]),
            (DISPARITY, [True, True, False, False, False]),
            (AFFINE, [True, True, True, False, False]),
        ],
    )
    def test_default_mask(self, kind: DepthKind, expected: list[bool]) -> None:
        depth = Depth(np.array([[1.0, 0.0, -1.0, np.nan, np.inf]]), kind)
        assert depth.valid_mask.tolist() == [expected]
        assert set(depth.invalid_reason[~depth.valid_mask].tolist()) <= {InvalidReason.UNKNOWN}

    @pytest.mark.parametrize("kind", [k for k in DepthKind if k is not AFFINE])
    def test_a_valid_pixel_must_make_sense(self, kind: DepthKind) -> None:
        for value in (-1.0, np.nan, np.inf):
            with pytest.raises(KindError, match="must be finite and positive; 1 are not"):
                Depth(np.array([[1.0, value]]), kind, np.array([[True, True]]))

    def test_a_view_is_not_shared(self) -> None:
        base = np.ones((2, 3), np.float32)
        view = base[:]
        view.setflags(write=False)
        depth = Depth(view, METRIC)
        base[:] = 5
        assert depth.values.max() == 1

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
    def test_clones_are_frozen_too(self, clone: Callable[[Depth], Depth]) -> None:
        depth = clone(Depth(np.ones((2, 3)), METRIC, camera=STEREO))
        assert depth == Depth(np.ones((2, 3)), METRIC, camera=STEREO)
        assert not depth.values.flags.writeable
        assert depth.camera is not None and not depth.camera.intrinsics.flags.writeable

    def test_provenance_is_what_a_file_can_hold(self) -> None:
        options = {"size": (2, 3)}
        provenance = Provenance(preprocessing=options)
        options["size"] = (9, 9)
        assert provenance == Provenance.from_dict(provenance.to_dict())
        assert provenance.preprocessing == {"size": [2, 3]}

    @pytest.mark.parametrize("value", [float("nan"), {1, 2}])
    def test_provenance_refuses_what_no_file_can_hold(self, value: object) -> None:
        with pytest.raises(ConfigError, match="plain JSON values"):
            Provenance(preprocessing={"a": value})

    def test_a_camera_without_skew(self) -> None:
        with pytest.raises(ShapeError, match="no skew"):
            Camera(np.array([[500.0, 1.0, 0], [0, 500, 0], [0, 0, 1]]), FocalSource.USER)

    def test_another_baseline(self) -> None:
        near = Depth(np.full((1, 1), 50.0), DISPARITY, camera=STEREO)
        assert near.to_disparity(0.2).values.item() == pytest.approx(100.0)

    def test_wrong_shapes(self) -> None:
        ones = np.ones((2, 3))
        for values in (np.ones(3), np.ones((1, 2, 3)), np.float32(1.0)):
            with pytest.raises(ShapeError, match=r"must have shape \(H, W\)"):
                Depth(values, METRIC)  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match="at least one pixel"):
            Depth(np.ones((0, 3)), METRIC)
        with pytest.raises(ShapeError, match=r"`valid_mask` must have shape \(2, 3\); got \(3, 2\)"):
            Depth(ones, METRIC, np.ones((3, 2), bool))
        with pytest.raises(ShapeError, match="must be bool"):
            Depth(ones, METRIC, np.ones((2, 3), np.uint8))  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match="`invalid_reason` must have shape"):
            Depth(ones, METRIC, invalid_reason=np.zeros((3, 2), np.uint8))
        with pytest.raises(ShapeError, match="exactly where"):
            Depth(ones, METRIC, invalid_reason=np.full((2, 3), InvalidReason.SKY, np.uint8))
        with pytest.raises(ShapeError, match="go together"):
            Depth(ones, METRIC, confidence=ones)
        with pytest.raises(ShapeError, match="go together"):
            Depth(ones, METRIC, confidence_meaning=ConfidenceMeaning.LARGER_IS_SURER)
        with pytest.raises(ShapeError, match="`confidence` must have shape"):
            Depth(ones, METRIC, confidence=np.ones((3, 2)), confidence_meaning=ConfidenceMeaning.LARGER_IS_SURER)

    def test_values_of_other_types_and_layouts(self) -> None:
        expected = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
        for values in (expected.astype(">f8"), np.asfortranarray(expected), expected.astype(np.uint16), expected[::1]):
            assert np.array_equal(Depth(values, METRIC).values, expected)


class TestImmutability:
    @quick
    @given(depth=depths())
    def test_nothing_can_be_changed(self, depth: Depth) -> None:
        with pytest.raises(FrozenInstanceError):
            depth.kind = METRIC  # type: ignore[misc]
        for array in (depth.values, depth.valid_mask, depth.invalid_reason, depth.confidence):
            if array is not None:
                with pytest.raises(ValueError, match="read-only"):
                    array[0, 0] = 1
        if depth.camera is not None:
            with pytest.raises(ValueError, match="read-only"):
                depth.camera.intrinsics[0, 0] = 1

    def test_the_callers_arrays_stay_theirs(self) -> None:
        values, mask = np.ones((2, 2), np.float32), np.ones((2, 2), bool)
        depth = Depth(values, METRIC, mask)
        values[0, 0], mask[0, 1] = 7, False
        assert depth.values[0, 0] == 1 and depth.valid_mask.all()

    def test_not_hashable(self) -> None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(maps(METRIC))


class TestConversions:
    @quick
    @given(values=st.lists(metres, min_size=1, max_size=8))
    def test_metric_inverse_and_back(self, values: list[float]) -> None:
        depth = Depth(np.array([values]), METRIC, camera=STEREO)
        inverse = depth.to_inverse_depth()
        assert inverse.kind is INVERSE and inverse.unit == "1/m"
        assert np.allclose(inverse.values, 1 / np.array([values]), rtol=1e-6)
        assert np.allclose(inverse.to_metric_depth().values, depth.values, rtol=1e-6)

    @quick
    @given(values=st.lists(metres, min_size=1, max_size=8))
    def test_disparity_both_ways(self, values: list[float]) -> None:
        """Disparity is focal length times baseline over depth: 500 px times 0.1 m."""
        for kind in (METRIC, INVERSE):
            depth = Depth(np.array([values]), kind, camera=STEREO)
            disparity = depth.to_disparity()
            metric = np.array([values]) if kind is METRIC else 1 / np.array([values])
            assert disparity.kind is DISPARITY
            assert np.allclose(disparity.values, 50 / metric, rtol=1e-6)
            assert np.allclose(disparity.to_metric_depth().values, metric, rtol=1e-6)
            assert np.allclose(disparity.to_inverse_depth().values, 1 / metric, rtol=1e-6)

    def test_baseline_given_with_the_call(self) -> None:
        mono = maps(METRIC, camera=replace(STEREO, baseline_m=None))
        disparity = mono.to_disparity(baseline_m=0.2)
        assert disparity.values[0].tolist() == [50.0, 25.0]
        assert disparity.camera.baseline_m == 0.2

    @quick
    @given(depth=depths())
    def test_same_kind_is_the_same_map(self, depth: Depth) -> None:
        same = {METRIC: depth.to_metric_depth, INVERSE: depth.to_inverse_depth, DISPARITY: depth.to_disparity}
        if depth.kind in same:
            assert same[depth.kind]() is depth

    @pytest.mark.parametrize("method", ["to_metric_depth", "to_inverse_depth", "to_disparity", "points"])
    @pytest.mark.parametrize("kind", [SCALE, AFFINE])
    def test_relative_maps_refuse_and_name_the_cure(self, kind: DepthKind, method: str) -> None:
        with pytest.raises(KindError, match=rf"cannot be had from {kind}: .*calibrate"):
            getattr(maps(kind, camera=STEREO), method)()

    @pytest.mark.parametrize(
        ("kind", "method"),
        [
            (DISPARITY, "to_metric_depth"),
            (DISPARITY, "to_inverse_depth"),
            (METRIC, "to_disparity"),
            (INVERSE, "to_disparity"),
        ],
    )
    def test_disparity_needs_focal_length_and_baseline(self, kind: DepthKind, method: str) -> None:
        for camera in (None, replace(STEREO, baseline_m=None)):
            with pytest.raises(KindError, match="baseline"):
                getattr(maps(kind, camera=camera), method)()

    def test_infinitely_far_becomes_invalid(self) -> None:
        metric = Depth(np.array([[0.0, 0.5]]), INVERSE).to_metric_depth()
        assert metric.valid_mask.tolist() == [[False, True]]
        assert metric.invalid_reason.tolist() == [[InvalidReason.UNKNOWN, InvalidReason.NONE]]

    @quick
    @given(depth=depths(kinds=(METRIC, INVERSE)))
    def test_reasons_camera_and_provenance_stay(self, depth: Depth) -> None:
        other = depth.to_inverse_depth() if depth.kind is METRIC else depth.to_metric_depth()
        assert other.camera == depth.camera and other.provenance == depth.provenance
        holes = ~depth.valid_mask
        assert np.array_equal(other.invalid_reason[holes], depth.invalid_reason[holes])
        assert other.confidence is None

    def test_calibrated_scale_invariant(self) -> None:
        metric = maps(SCALE).calibrated(scale=0.5)
        assert metric.kind is METRIC and metric.values[0].tolist() == [1.0, 2.0]
        with pytest.raises(KindError, match="no unknown shift"):
            maps(SCALE).calibrated(scale=1.0, shift=0.1)

    def test_calibrated_affine_invariant(self) -> None:
        relative = Depth(np.array([[-1.0, 0.0, 1.0]]), AFFINE)
        inverse = relative.calibrated(scale=0.5, shift=0.5)
        assert inverse.kind is INVERSE
        assert inverse.valid_mask.tolist() == [[False, True, True]]
        assert inverse.to_metric_depth().values[0, 1:].tolist() == [2.0, 1.0]

    @pytest.mark.parametrize("kind", [METRIC, INVERSE, DISPARITY])
    def test_nothing_to_calibrate(self, kind: DepthKind) -> None:
        with pytest.raises(KindError, match="already has a unit"):
            maps(kind).calibrated(scale=2.0)

    @pytest.mark.parametrize(("scale", "shift"), [(0, 0), (-1, 0), (np.nan, 0), (np.inf, 0), (1, np.nan)])
    def test_senseless_calibration(self, scale: float, shift: float) -> None:
        for kind in (SCALE, AFFINE):
            with pytest.raises(KindError, match="positive scale and a finite shift"):
                maps(kind).calibrated(scale=scale, shift=shift)


class TestPoints:
    def test_pixel_centres_and_axes(self) -> None:
        camera = Camera(np.array([[10.0, 0, 1.0], [0, 20.0, 0.5], [0, 0, 1]]), FocalSource.USER)
        points = Depth(np.array([[2.0, 4.0], [np.nan, 8.0]]), METRIC, camera=camera).points()
        assert points.dtype == np.float32 and points.shape == (2, 2, 3)
        assert points[0, 0] == pytest.approx([2 * (0.5 - 1) / 10, 0, 2])
        assert points[1, 1] == pytest.approx([8 * 0.5 / 10, 8 * 1 / 20, 8])
        assert np.isnan(points[1, 0]).all()

    def test_inverse_depth_and_disparity_give_the_same_points(self) -> None:
        metric = maps(METRIC, camera=STEREO)
        for other in (metric.to_inverse_depth(), metric.to_disparity()):
            assert np.allclose(other.points(), metric.points(), equal_nan=True, rtol=1e-6)

    def test_without_a_camera(self) -> None:
        with pytest.raises(KindError, match="no camera is set"):
            maps(METRIC).points()
        assert maps(METRIC).with_camera(STEREO).points().shape == (2, 2, 3)


class TestEquality:
    @quick
    @given(depth=depths())
    def test_a_copy_is_equal_and_garbage_under_holes_does_not_matter(self, depth: Depth) -> None:
        assert replace(depth) == depth
        assert replace(depth, values=np.where(depth.valid_mask, depth.values, np.float32(42))) == depth
        assert pickle.loads(pickle.dumps(depth)) == depth

    def test_everything_else_matters(self) -> None:
        one = Depth(
            np.array([[1.0, 2.0]]),
            METRIC,
            confidence=np.ones((1, 2)),
            confidence_meaning=ConfidenceMeaning.LARGER_IS_SURER,
            camera=STEREO,
        )
        others = [
            replace(one, values=np.array([[1.0, 2.5]])),
            replace(one, kind=SCALE),
            replace(one, valid_mask=np.array([[True, False]]), invalid_reason=np.array([[0, 1]], np.uint8)),
            replace(one, confidence=np.zeros((1, 2))),
            replace(one, confidence=None, confidence_meaning=None),
            replace(one, confidence_meaning=ConfidenceMeaning.LARGER_IS_LESS_SURE),
            replace(one, camera=None),
            replace(one, camera=replace(STEREO, focal_source=FocalSource.EXIF)),
            replace(one, provenance=Provenance("other")),
            Depth(np.array([[1.0], [2.0]]), METRIC),
        ]
        assert [other == one for other in others] == [False] * len(others)
        assert one != "depth"

    def test_the_reason_of_a_hole_matters(self) -> None:
        sky = Depth(np.array([[np.nan]]), METRIC, invalid_reason=np.array([[InvalidReason.SKY]], np.uint8))
        assert sky != Depth(np.array([[np.nan]]), METRIC)


class TestDisplay:
    def test_repr_says_what_it_is(self) -> None:
        depth = maps(METRIC, camera=STEREO, provenance=Provenance("fathom-indoor"))
        assert repr(depth) == (
            "Depth(metric_depth, 2 x 2, 2 to 8 m, smaller is nearer, 75.0% valid, model fathom-indoor, "
            "focal 500 px (user))"
        )
        assert "larger is nearer" in repr(maps(AFFINE)) and " m," not in repr(maps(AFFINE))
        assert "no valid pixel" in repr(Depth(np.array([[np.nan]]), METRIC))

    @quick
    @given(depth=depths())
    def test_notebook_picture(self, depth: Depth) -> None:
        image = Image.open(io.BytesIO(depth._repr_png_()))
        assert image.format == "PNG" and image.size == (depth.width, depth.height)
        grey = np.asarray(image)
        assert (grey[~depth.valid_mask] == 0).all()

    @pytest.mark.parametrize("kind", list(DepthKind))
    def test_near_is_bright_in_the_notebook(self, kind: DepthKind) -> None:
        grey = np.asarray(Image.open(io.BytesIO(Depth(np.array([[1.0, 9.0]]), kind)._repr_png_())))
        assert (grey[0, 1] > grey[0, 0]) == kind.larger_is_nearer

    def test_value_range(self) -> None:
        assert maps(METRIC).value_range == (2.0, 8.0)
        assert Depth(np.array([[np.nan]]), METRIC).value_range is None


class TestCamera:
    @quick
    @given(camera=cameras())
    def test_plain_values_and_back(self, camera: Camera) -> None:
        again = Camera.from_dict(camera.to_dict())
        assert again == camera and hash(again) == hash(camera)

    @quick
    @given(provenance=provenances)
    def test_provenance_and_back(self, provenance: Provenance) -> None:
        again = Provenance.from_dict(provenance.to_dict())
        assert again == provenance and hash(again) == hash(provenance)

    @pytest.mark.parametrize("size", [(480, 640), (640, 480)])
    def test_assumed_field_of_view_is_along_the_longer_side(self, size: tuple[int, int]) -> None:
        camera = Camera.assumed(height=size[0], width=size[1])
        assert camera.focal_source is FocalSource.ASSUMED
        assert camera.fov_x_deg(640) == pytest.approx(ASSUMED_FOV_X_DEG)

    def test_scaled(self) -> None:
        camera = Camera.from_focal(500, height=480, width=640, source=FocalSource.USER).scaled(0.5, 0.25)
        assert camera.intrinsics.tolist() == [[250, 0, 160], [0, 125, 60], [0, 0, 1]]

    @pytest.mark.parametrize(
        "matrix", [np.eye(2), np.full((3, 3), np.nan), np.diag([0.0, 1, 1]), np.diag([1.0, -1, 1]), np.ones(9)]
    )
    def test_senseless_intrinsics(self, matrix: np.ndarray) -> None:
        with pytest.raises(ShapeError):
            Camera(matrix, FocalSource.USER)

    @pytest.mark.parametrize("baseline", [0.0, -0.1, np.nan, np.inf])
    def test_senseless_baseline(self, baseline: float) -> None:
        with pytest.raises(ShapeError, match="baseline"):
            Camera(np.eye(3), FocalSource.USER, baseline)


def test_every_refusal_is_a_fathom_error() -> None:
    assert issubclass(KindError, FathomError) and issubclass(ShapeError, FathomError)
