import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom import metrics
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError


def _pair(seed=0, shape=(24, 32), noise=0.3):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.5, 9.0, shape)
    pred = target * np.exp(noise * rng.standard_normal(shape))
    return pred, target, rng.random(shape) > 0.2


POINTWISE = [name for name in metrics.METRICS if name not in ("delta", "ssim", "d1")]


@pytest.mark.parametrize("name", POINTWISE)
def test_one_pass_equals_each_function(name):
    for seed, shape in ((0, (24, 32)), (1, (150, 200)), (2, (1, 2))):
        pred, target, mask = _pair(seed, shape)
        mask[0, :] = True
        assert metrics.score_depth(pred, target, mask)[name] == pytest.approx(
            metrics.METRICS[name](pred, target, mask), rel=1e-12
        )


def test_one_pass_deltas_equal_the_function():
    pred, target, mask = _pair()
    scores = metrics.score_depth(pred, target, mask)
    for power in (1, 2, 3):
        assert scores[f"delta{power}"] == metrics.delta(pred, target, mask, power=power)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_masked_pixels_never_matter_even_nan(name):
    pred, target, mask = _pair()
    options = {"ssim": {"data_range": 10.0}}.get(name, {})
    if name == "ssim":
        mask = np.ones_like(mask)
        mask[:3] = False
    metric = metrics.METRICS[name]
    clean = metric(pred, target, mask, **options)
    pred[~mask], target[~mask] = np.nan, np.inf
    assert metric(pred, target, mask, **options) == clean


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_perfect_prediction_is_perfect(name):
    _, target, mask = _pair()
    options = {"ssim": {"data_range": 10.0}}.get(name, {})
    if name == "ssim":
        mask = np.ones_like(mask)
    expected = 1.0 if name in ("delta", "ssim") else 0.0
    assert metrics.METRICS[name](target, target, mask, **options) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_an_empty_mask_raises(name):
    pred, target, mask = _pair()
    options = {"ssim": {"data_range": 10.0}}.get(name, {})
    with pytest.raises(EmptyMaskError):
        metrics.METRICS[name](pred, target, np.zeros_like(mask), **options)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_targets_are_never_scored_and_bad_predictions_raise(bad):
    pred, target, mask = _pair()
    mask[:] = True
    expected = mask.copy()
    expected[5, 5] = False
    spoilt = target.copy()
    spoilt[5, 5] = bad
    assert metrics.score_depth(pred, spoilt, mask) == metrics.score_depth(pred, target, expected)
    pred[5, 5] = bad
    with pytest.raises(InputError, match="1 of 768"):
        metrics.score_depth(pred, target, mask)


def test_shapes_and_mask_type_are_checked():
    pred, target, mask = _pair()
    with pytest.raises(ShapeError):
        metrics.score_depth(pred[:-1], target, mask)
    with pytest.raises(ShapeError):
        metrics.score_depth(pred, target, mask.astype(float))


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 10.0), seed=st.integers(0, 99))
def test_silog_ignores_scale_and_deltas_are_symmetric(scale, seed):
    pred, target, mask = _pair(seed)
    assert metrics.silog(scale * pred, target, mask) == pytest.approx(metrics.silog(pred, target, mask), rel=1e-6)
    assert metrics.delta(pred, target, mask) == metrics.delta(target, pred, mask)


def test_fact_9a_per_image_and_pooled_averages_differ():
    images = [_pair(seed, shape) for seed, shape in ((0, (8, 8)), (1, (20, 30)))]
    images[0] = (images[0][0] * 3, images[0][1], images[0][2])
    sums = [metrics.depth_sums(*image) for image in images]
    pooled = metrics.average_pooled(sums)
    per_image = metrics.average_per_image([metrics.score_depth(*image) for image in images])
    whole = [np.concatenate([image[part][image[2]] for image in images]) for part in (0, 1)]
    assert pooled["rmse"] == pytest.approx(metrics.rmse(*whole, np.ones(whole[0].shape, bool)))
    assert pooled["silog"] == pytest.approx(metrics.silog(*whole, np.ones(whole[0].shape, bool)))
    assert abs(pooled["rmse"] - per_image["rmse"]) > 0.1
    assert per_image["rmse"] == pytest.approx(np.mean([metrics.rmse(*image) for image in images]))


def test_fact_11a_rmse_log_is_natural_unless_asked():
    pred, target = np.array([np.e, 1.0]), np.array([1.0, 1.0])
    mask = np.ones(2, bool)
    assert metrics.rmse_log(pred, target, mask) == pytest.approx(math.sqrt(0.5))
    assert metrics.rmse_log(pred, target, mask, base="10") == pytest.approx(math.sqrt(0.5) / math.log(10))
    assert metrics.score_depth(pred, target, mask, rmse_log_base="10")["rmse_log"] == pytest.approx(
        math.sqrt(0.5) / math.log(10)
    )
    with pytest.raises(ConfigError):
        metrics.rmse_log(pred, target, mask, base="2")


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # d = (0, 2): mean 1, mean square 2, variance 1 (biased) and 2 (unbiased).
        ("kitti", 100.0),
        ("eigen2014", 1.5),
        ("bts", 10 * math.sqrt(1.15)),
        ("adabins", 10 * math.sqrt(2.15)),
        ("depth_anything", math.sqrt(1.5)),
    ],
)
def test_fact_11b_silog_variants_by_hand(variant, expected):
    pred, target = np.array([1.0, math.exp(2.0)]), np.ones(2)
    got = metrics.silog(pred, target, np.ones(2, bool), variant=metrics.SILOG_VARIANTS[variant])
    assert got == pytest.approx(expected)


def test_adabins_variant_needs_two_pixels():
    with pytest.raises(EmptyMaskError):
        metrics.silog(np.ones(1), np.ones(1), np.ones(1, bool), variant=metrics.SILOG_VARIANTS["adabins"])


def test_fact_11c_sq_rel_divides_by_depth_once():
    assert metrics.sq_rel(np.array([6.0]), np.array([4.0]), np.ones(1, bool)) == 1.0


@pytest.mark.parametrize("pred", [5.0, 3.2])
def test_fact_11d_a_ratio_of_exactly_1_25_does_not_count(pred):
    assert metrics.delta(np.array([pred]), np.array([4.0]), np.ones(1, bool)) == 0.0
    assert metrics.score_depth(np.array([pred]), np.array([4.0]), np.ones(1, bool))["delta1"] == 0.0


def test_ranges_split_the_pixels():
    pred, target, mask = _pair()
    parts = metrics.by_range(metrics.depth_sums, pred, target, mask, edges=(0.0, 2.0, 5.0, 10.0, 50.0))
    assert list(parts) == [(0.0, 2.0), (2.0, 5.0), (5.0, 10.0)]
    total = sum(list(parts.values())[1:], start=next(iter(parts.values())))
    assert total.num_pixels == mask.sum()
    assert total.scores()["abs_rel"] == pytest.approx(metrics.abs_rel(pred, target, mask))
    with pytest.raises(ConfigError):
        metrics.by_range(metrics.mae, pred, target, mask, edges=(2.0, 1.0))


def test_averages_of_nothing_raise():
    with pytest.raises(EmptyMaskError):
        metrics.average_per_image([])
    with pytest.raises(EmptyMaskError):
        metrics.average_pooled([])


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_cross_check_with_torchmetrics():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional")
    pred, target, _ = _pair()
    everywhere = np.ones(pred.shape, bool)
    p, g = torch.from_numpy(pred), torch.from_numpy(target)
    scores = metrics.score_depth(pred, target, everywhere)
    assert scores["mse"] == pytest.approx(functional.mean_squared_error(p, g).item())
    assert scores["mae"] == pytest.approx(functional.mean_absolute_error(p, g).item())
    assert scores["abs_rel"] == pytest.approx(functional.mean_absolute_percentage_error(p, g).item())
    log_error = functional.mean_squared_error(p.log(), g.log()).sqrt().item()
    assert scores["rmse_log"] == pytest.approx(log_error)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_cross_check_with_scikit_image(window):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    pred, target, _ = _pair(noise=0.1)
    options = (
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        if window == "gaussian"
        else {"win_size": 7, "use_sample_covariance": False}
    )
    expected = skimage_metrics.structural_similarity(pred, target, data_range=10.0, **options)
    got = metrics.ssim(pred, target, target > 0, data_range=10.0, window=window)
    assert got == pytest.approx(expected, abs=1e-9)


def test_ssim_depends_on_the_data_range_and_needs_a_whole_window():
    pred, target, _ = _pair(noise=0.1)
    everywhere = target > 0
    narrow, wide = (metrics.ssim(pred, target, everywhere, data_range=r) for r in (1.0, 80.0))
    assert narrow < wide
    holes = everywhere.copy()
    holes[::5, ::5] = False
    with pytest.raises(EmptyMaskError, match="window"):
        metrics.ssim(pred, target, holes, data_range=10.0)
    with pytest.raises(EmptyMaskError, match="at least"):
        metrics.ssim(pred[:5], target[:5], everywhere[:5], data_range=10.0)
    with pytest.raises(ConfigError):
        metrics.ssim(pred, target, everywhere, data_range=10.0, window="box")


def test_importing_metrics_and_alignment_leaves_torch_out():
    code = "import sys, fathom.metrics, fathom.alignment; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_crops_refuse_what_they_do_not_fit():
    with pytest.raises(ConfigError, match="Unknown crop"):
        metrics.crop_slices("eigen", 375, 1242)
    with pytest.raises(ConfigError, match="480 x 640"):
        metrics.crop_slices("nyu_eigen", 240, 320)
    with pytest.raises(ConfigError, match="352 x 1216"):
        metrics.crop_slices("kb_crop", 350, 1242)
    assert metrics.crop_slices("nyu_eigen_region", 480, 640) == (slice(20, 460), slice(24, 616))
    assert metrics.crop_mask("none", 3, 4).all()
