import numpy as np
import pytest

from fathom.errors import ConfigError, ShapeError
from fathom.postprocess import (
    blend_borders,
    fill_holes,
    predict_at_scales,
    predict_flipped,
    smooth_bilateral,
    smooth_guided,
    smooth_joint_bilateral,
    smooth_median,
    upsample_guided,
)
from fathom.types import Camera, Depth, DepthKind, FocalSource, InvalidReason

AFFINE = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH


def metric(values, **more):
    return Depth(np.asarray(values, np.float32), DepthKind.METRIC_DEPTH, **more)


def step_scene(shape=(24, 32), noise=0.0):
    """A picture and a depth that share one vertical edge."""
    rng = np.random.default_rng(0)
    depth = np.where(np.arange(shape[1]) < shape[1] // 2, 2.0, 4.0) * np.ones((shape[0], 1))
    image = np.repeat(np.where(depth < 3, 60, 200)[..., None], 3, axis=2).astype(np.uint8)
    return image, depth + noise * rng.normal(size=shape), depth


def by_brightness(image):
    return metric(1.0 + image[..., 0] / 50.0)


SMOOTHERS = {
    "median": lambda depth, image: smooth_median(depth, radius=1),
    "bilateral": lambda depth, image: smooth_bilateral(depth, sigma_value=0.2),
    "joint": smooth_joint_bilateral,
    "guided": lambda depth, image: smooth_guided(depth, image, radius=3),
}


def test_an_equivariant_model_is_unchanged_by_flipping():
    image = np.random.default_rng(0).integers(0, 255, (6, 40, 3), dtype=np.uint8)
    for blend in (False, True):
        flipped = predict_flipped(by_brightness, image, border_blend=blend)
        assert flipped.values == pytest.approx(by_brightness(image).values, rel=1e-6)
        assert flipped.kind is DepthKind.METRIC_DEPTH


def test_fact_12a_monodepth_blend_takes_the_map_that_sees_the_border():
    plain, other = np.full((2, 101), 1.0), np.full((2, 101), 3.0)
    out = blend_borders(plain, other)
    # Left: 1 up to 5 %, falling to the mean at 10 %; the right side mirrors it.
    assert out[0, :6] == pytest.approx([3.0] * 6) and out[0, 10:91] == pytest.approx([2.0] * 81)
    assert out[0, 95:] == pytest.approx([1.0] * 6)
    assert out[0, 7] == pytest.approx(0.6 * 3.0 + 0.4 * 2.0)
    assert blend_borders(plain, plain) == pytest.approx(plain)
    with pytest.raises(ShapeError):
        blend_borders(plain, other[:, :4])


def test_the_blend_happens_in_inverse_depth():
    def predict(image):
        return metric(np.full((1, 101), 1.0 if image[0, 0, 0] == 0 else 2.0))

    image = np.zeros((1, 101, 3), np.uint8)
    image[0, -1] = 1
    blended = predict_flipped(predict, image, border_blend=True)
    assert blended.values[0, 50] == pytest.approx(1 / 0.75) and blended.values[0, 0] == pytest.approx(2.0)
    assert predict_flipped(predict, image).values[0, 50] == pytest.approx(1.5)


def test_flipping_uses_what_either_pass_has():
    def predict(image):
        values = np.full(image.shape[:2], 2.0)
        values[:, 0] = np.nan
        return metric(values)

    out = predict_flipped(predict, np.zeros((3, 8, 3), np.uint8))
    assert out.valid_mask.all() and (out.values == 2.0).all()


def test_a_model_that_changes_the_size_is_told():
    sizes = iter([(2, 2), (3, 3)])
    with pytest.raises(ShapeError, match="one size"):
        predict_flipped(lambda image: metric(np.ones(next(sizes))), np.zeros((2, 2, 3), np.uint8))


def test_scales_see_resized_pictures_and_average():
    seen = []

    def predict(image):
        seen.append(image.shape[:2])
        return metric(np.full(image.shape[:2], float(image.shape[0])))

    out = predict_at_scales(predict, np.zeros((8, 12, 3), np.uint8), (1.0, 0.5, 1.5))
    assert seen == [(8, 12), (4, 6), (12, 18)]
    assert out.values.shape == (8, 12) and out.values == pytest.approx(8.0)
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="positive"):
            predict_at_scales(predict, np.zeros((8, 12, 3), np.uint8), scales)


@pytest.mark.parametrize("kind", [AFFINE, DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.DISPARITY])
def test_relative_maps_are_fitted_to_the_first_scale(kind):
    factors = iter([(1.0, 0.0), (3.0, 0.5 if kind is AFFINE else 0.0)])

    def predict(image):
        factor, shift = next(factors)
        ramp = np.linspace(1.0, 2.0, image.shape[1])
        return Depth(factor * ramp * np.ones((image.shape[0], 1)) + shift, kind)

    out = predict_at_scales(predict, np.zeros((4, 40, 3), np.uint8), (1.0, 2.0))
    assert out.values[0, 2:-2] == pytest.approx(np.linspace(1.0, 2.0, 40)[2:-2], abs=0.02)


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoothing_removes_noise_and_keeps_the_edge(name):
    image, noisy, clean = step_scene(noise=0.1)
    out = SMOOTHERS[name](metric(noisy), image)
    assert np.abs(out.values - clean).mean() < 0.75 * np.abs(noisy - clean).mean()
    assert np.abs(out.values[:, 14] - 2.0).mean() < 0.15 and np.abs(out.values[:, 17] - 4.0).mean() < 0.15


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoothing_a_constant_changes_nothing_and_holes_stay_holes(name):
    image, _, _ = step_scene()
    values = np.full((24, 32), 3.0)
    values[4:9, 5:9] = np.nan
    depth = metric(values)
    out = SMOOTHERS[name](depth, image)
    assert np.array_equal(out.valid_mask, depth.valid_mask)
    assert out.values[out.valid_mask] == pytest.approx(3.0, rel=1e-5)
    assert out.kind is depth.kind


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoothing_stays_within_the_range_and_never_sees_a_hole(name):
    image, noisy, _ = step_scene(noise=0.3)
    noisy[3:6, 3:6] = np.nan
    out = SMOOTHERS[name](metric(noisy), image)
    low, high = np.nanmin(noisy), np.nanmax(noisy)
    assert out.values[out.valid_mask].min() >= low - 1e-5 and out.values[out.valid_mask].max() <= high + 1e-5


def test_the_median_is_that_of_scipy_away_from_the_border():
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(0).uniform(1, 5, (15, 17)).astype(np.float32)
    out = smooth_median(metric(values), radius=2).values
    assert out[2:-2, 2:-2] == pytest.approx(ndimage.median_filter(values, size=5)[2:-2, 2:-2])


def test_the_bilateral_filter_is_that_of_opencv_away_from_the_border():
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).uniform(1, 5, (19, 21)).astype(np.float32)
    low, high = np.percentile(values, (5, 95))
    # OpenCV takes the pixels of a disc, ours those of the square: a narrow falloff makes the corners vanish.
    wanted = cv2.bilateralFilter(values, 2 * 5 + 1, sigmaColor=0.3 * (high - low), sigmaSpace=0.9)
    out = smooth_bilateral(metric(values), radius=5, sigma_space=0.9, sigma_value=0.3).values
    assert out[5:-5, 5:-5] == pytest.approx(wanted[5:-5, 5:-5], abs=2e-3)


def test_the_guided_filter_is_linear_in_the_picture():
    image = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    brightness = image @ np.array([0.299, 0.587, 0.114]) / 255
    out = smooth_guided(metric(2.0 + 3.0 * brightness), image, radius=4, epsilon=1e-9)
    assert out.values == pytest.approx(2.0 + 3.0 * brightness, abs=1e-3)


def test_up_sampling_follows_the_picture():
    image, _, clean = step_scene((48, 64))
    small = metric(clean[::8, ::8])
    camera = Camera.from_focal(10.0, height=6, width=8, source=FocalSource.USER)
    out = upsample_guided(small.with_camera(camera), image, radius=2)
    plain = np.asarray(small.values).repeat(8, 0).repeat(8, 1)
    assert out.values.shape == (48, 64) and out.valid_mask.all()
    assert np.abs(out.values[:, 26:38] - clean[:, 26:38]).mean() < 0.25
    assert np.abs(out.values - clean).mean() < 0.2 and plain.shape == clean.shape
    assert out.camera is not None and out.camera.focal_px == pytest.approx(80.0)
    assert 2.0 <= out.values.min() and out.values.max() <= 4.0


def test_holes_are_filled_from_around_and_nothing_else_changes():
    ramp = np.linspace(1.0, 3.0, 33) * np.ones((20, 1))
    holed = ramp.copy()
    holed[5:12, 10:22] = np.nan
    holed[0, 0] = np.nan
    out = fill_holes(metric(holed))
    assert out.valid_mask.all()
    known = np.isfinite(holed)
    assert out.values[known] == pytest.approx(ramp[known], rel=1e-6)
    assert np.abs(out.values - ramp).max() < 0.45 and 1.0 <= out.values.min() and out.values.max() <= 3.0


def test_sky_is_no_hole():
    values = np.ones((4, 4))
    reason = np.zeros((4, 4), np.uint8)
    reason[0], reason[2, 2] = InvalidReason.SKY, InvalidReason.UNKNOWN
    out = fill_holes(metric(values, valid_mask=reason == 0, invalid_reason=reason))
    assert not out.valid_mask[0].any() and out.valid_mask[1:].all()
    assert (out.invalid_reason[0] == InvalidReason.SKY).all()


def test_filling_a_map_without_values_leaves_it():
    empty = metric(np.full((3, 3), np.nan))
    assert fill_holes(empty) is empty


def test_affine_maps_may_be_negative():
    image, _, _ = step_scene()
    values = np.where(np.arange(32) < 16, -1.0, 1.0) * np.ones((24, 1))
    for smooth in SMOOTHERS.values():
        assert smooth(Depth(values, AFFINE), image).values.min() == pytest.approx(-1.0, abs=0.1)


def test_wrong_arguments_are_told():
    depth, image = metric(np.ones((4, 4))), np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ConfigError, match="radius"):
        smooth_median(depth, radius=0)
    with pytest.raises(ConfigError, match="sigmas"):
        smooth_bilateral(depth, sigma_value=0.0)
    with pytest.raises(ConfigError, match="epsilon"):
        smooth_guided(depth, image, epsilon=0.0)
    with pytest.raises(ShapeError, match="upsample_guided"):
        smooth_joint_bilateral(depth, np.zeros((5, 4, 3), np.uint8))
