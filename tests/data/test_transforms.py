"""Geometry stays true: after any change, depth, camera and normals still describe the same (or the shrunk) plane."""

from dataclasses import replace

import numpy as np
import pytest
from planes import FOCAL, NORMAL, OFFSET, check_plane, plane_sample

from fathom.data.transforms import (
    crop_sample,
    depth_factor,
    flip_sample,
    resize_depth,
    resize_sample,
    rotate_sample,
    zoom_sample,
)
from fathom.errors import KindError, ShapeError
from fathom.types import DepthKind, Sample


@pytest.mark.parametrize("kind", [DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY])
# Ratios at which a new centre never falls on the edge between two old pixels, where nearest must prefer a side.
@pytest.mark.parametrize("size", [(40, 32), (240, 320), (80, 224)])
def test_resize_keeps_the_plane(kind: DepthKind, size: tuple[int, int]) -> None:
    resized = resize_sample(plane_sample(kind), *size)
    assert resized.image.shape == (*size, 3) and resized.meta["labels"].shape == size
    check_plane(resized, NORMAL, OFFSET)


@pytest.mark.parametrize("kind", [DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY])
@pytest.mark.parametrize("scale", [0.35, 1.4, 2.0])
def test_zoom_shrinks_the_scene_and_keeps_its_shape(kind: DepthKind, scale: float) -> None:
    zoomed = zoom_sample(plane_sample(kind), scale)
    check_plane(zoomed, NORMAL, OFFSET / scale)
    assert zoomed.camera is not None
    assert zoomed.camera.focal_px == pytest.approx(FOCAL * scale) and zoomed.camera.baseline_m == 0.2 / scale
    if kind is DepthKind.METRIC_DEPTH:  # depth is divided by the scale
        assert zoomed.target.max() == pytest.approx(plane_sample().target.max() / scale, rel=2e-3)


def test_crop_moves_the_principal_point() -> None:
    cropped = crop_sample(plane_sample(), 10, 20, 50, 60)
    check_plane(cropped, NORMAL, OFFSET)
    np.testing.assert_array_equal(cropped.image, plane_sample().image[10:60, 20:80])
    np.testing.assert_array_equal(cropped.target, plane_sample().target[10:60, 20:80])  # the same cut for both
    with pytest.raises(ShapeError, match="inside 120 x 160"):
        crop_sample(plane_sample(), 100, 0, 50, 60)


def test_nyu_cropped_frame_camera() -> None:
    cropped = crop_sample(plane_sample(), 44, 40, 20, 20)
    assert cropped.camera is not None
    np.testing.assert_allclose(cropped.camera.intrinsics[:2, 2], [77.0 - 40, 63.0 - 44])


def test_flip_mirrors_plane_and_normals() -> None:
    flipped = flip_sample(plane_sample())
    check_plane(flipped, NORMAL * [-1, 1, 1], OFFSET)
    twice = flip_sample(flipped)
    np.testing.assert_array_equal(twice.target, plane_sample().target)
    assert twice.camera == plane_sample().camera


def test_flip_swaps_the_views_of_a_pair() -> None:
    sample = plane_sample()
    right = sample.image + 7
    pair = replace(
        sample, meta={"image_right": right, "target_right": sample.target * 2, "labels": sample.meta["labels"]}
    )
    pair.meta["valid_mask_right"] = sample.valid_mask.copy()  # type: ignore[index]
    flipped = flip_sample(pair)
    np.testing.assert_array_equal(flipped.image, right[:, ::-1])
    np.testing.assert_array_equal(flipped.meta["image_right"], sample.image[:, ::-1])
    np.testing.assert_array_equal(flipped.target, sample.target[:, ::-1] * 2)
    assert "labels" not in flipped.meta  # they belong to the view that is now the second
    with pytest.raises(KindError, match="one view only"):
        flip_sample(replace(sample, meta={"image_right": right}))


@pytest.mark.parametrize("degrees", [-30.0, 2.5, 90.0])
def test_rotation_is_a_roll_of_the_camera(degrees: float) -> None:
    turned = rotate_sample(plane_sample(), degrees)
    angle = np.radians(degrees)
    roll = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    check_plane(turned, roll @ NORMAL, OFFSET)
    # A camera that rolls sees the same world: its pose turns the other way.
    np.testing.assert_allclose(turned.meta["pose"][:3, :3] @ roll, np.eye(3), atol=1e-12)
    # Picture and depth moved alike: the picture paints its old column, which the labels count in tens.
    rows, columns = np.nonzero(turned.valid_mask[2:-2, 2:-2])
    painted = turned.image[2:-2, 2:-2, 0][rows, columns].astype(int) // 10
    agree = painted == turned.meta["labels"][2:-2, 2:-2][rows, columns]
    assert agree.mean() > 0.9
    with pytest.raises(KindError, match="rows would no longer match"):
        rotate_sample(replace(plane_sample(), meta={"image_right": plane_sample().image}), 1.0)


def test_rotation_is_counter_clockwise() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 18] = 255  # right of the middle
    sample = Sample(image, np.ones((21, 21), np.float32), np.ones((21, 21), np.bool_))
    turned = rotate_sample(sample, 90.0)
    assert np.argwhere(turned.image[..., 0] > 200).tolist() == [[2, 10]]  # above it


@pytest.mark.parametrize(("height", "width"), [(30, 40), (15, 20), (240, 320), (77, 31)])
def test_5b_resizing_invents_no_depth(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 80, (60, 80)).astype(np.float32)
    mask = rng.random(depth.shape) < 0.05
    out, valid = resize_depth(np.where(mask, depth, 0), mask, height, width)
    assert set(out[valid].tolist()) <= set(depth[mask].tolist()) and not out[~valid].any()


def test_5b_one_valid_pixel_stays_one() -> None:
    for row, column in ((0, 0), (37, 51), (119, 159)):
        depth = np.zeros((120, 160), np.float32)
        depth[row, column] = 5.0
        out, valid = resize_depth(depth, depth > 0, 30, 40)
        assert valid.sum() == 1 and out[row // 4, column // 4] == 5.0


def test_shrinking_a_lidar_map_keeps_its_returns() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((128, 416)) < 0.05
    _, valid = resize_depth(mask.astype(np.float32), mask, 64, 208)
    # Of four pixels each empty with 0.95, at least one holds a return with 0.185; plain nearest would keep 0.05.
    assert valid.mean() == pytest.approx(1 - 0.95**4, abs=0.01)


def test_nearest_never_crosses_a_hole() -> None:
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, 20:] = 9.0
    mask = np.ones(depth.shape, np.bool_)
    mask[10:20] = False
    sample = Sample(np.zeros((40, 40, 3), np.uint8), depth * mask, mask)
    for changed in (zoom_sample(sample, 1.3), rotate_sample(sample, 10.0), resize_sample(sample, 33, 27)):
        factor = 1.3 if changed.image.shape[0] == 52 else 1.0
        assert set(np.round(changed.target[changed.valid_mask] * factor, 4).tolist()) == {2.0, 9.0}
        assert not changed.target[~changed.valid_mask].any()


def test_factor_for_every_kind() -> None:
    expected = {"metric_depth": 0.5, "scale_invariant_depth": 0.5, "inverse_depth": 2.0, "disparity": 1.0}
    expected["affine_invariant_inverse_depth"] = 2.0
    assert {kind.value: depth_factor(kind, 2.0) for kind in DepthKind} == expected
    with pytest.raises(ShapeError, match="positive"):
        zoom_sample(plane_sample(), 0.0)
