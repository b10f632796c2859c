import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.alignment import (
    METHODS,
    align,
    fit_scale,
    fit_scale_median,
    fit_scale_median_of_ratios,
    fit_scale_shift,
    fit_scale_shift_l1,
    fit_scale_shift_trimmed,
    select_valid,
)
from fathom.errors import ConfigError, EmptyMaskError, InputError, KindError, ShapeError
from fathom.metrics import score_depth
from fathom.types import DepthKind

FITS = (fit_scale_shift, fit_scale_shift_l1, fit_scale_shift_trimmed)
POSITIVE = st.floats(0.05, 20.0)


def _target(seed=0, shape=(12, 16)):
    return np.random.default_rng(seed).uniform(0.8, 9.0, shape)


@settings(max_examples=25, deadline=None)
@given(scale=POSITIVE, shift=st.floats(-5.0, 5.0), seed=st.integers(0, 99))
@pytest.mark.parametrize("fit", FITS)
def test_every_fit_undoes_any_scale_and_shift(fit, scale, shift, seed):
    target = _target(seed)
    pred = (target - shift) / scale
    found = fit(pred, target, valid_mask=target > 0)
    assert found == pytest.approx((scale, shift), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("fit", [fit_scale_median, fit_scale_median_of_ratios, fit_scale])
def test_scale_fits_undo_any_scale(fit):
    target = _target()
    assert fit(target / 7.0, target, valid_mask=target > 0) == pytest.approx(7.0)


def test_fact_7e_ratio_of_medians_is_not_median_of_ratios():
    pred, target = np.array([1.0, 2.0, 8.0]), np.array([3.0, 8.0, 8.0])
    mask = np.ones(3, bool)
    assert fit_scale_median(pred, target, valid_mask=mask) == 4.0
    assert fit_scale_median_of_ratios(pred, target, valid_mask=mask) == 3.0


@pytest.mark.parametrize("fit", [fit_scale_shift_l1, fit_scale_shift_trimmed])
def test_robust_fits_withstand_outliers_that_least_squares_does_not(fit):
    pred = _target()
    target = 2.0 * pred + 1.0
    target[:2] = 300.0  # one sixth of the pixels
    mask = target > 0
    assert fit(pred, target, valid_mask=mask) == pytest.approx((2.0, 1.0), abs=1e-3)
    assert abs(fit_scale_shift(pred, target, valid_mask=mask)[0] - 2.0) > 0.1


def test_trim_zero_is_least_squares():
    rng = np.random.default_rng(1)
    pred, target = rng.uniform(1, 2, 50), rng.uniform(1, 2, 50)
    mask = np.ones(50, bool)
    assert fit_scale_shift_trimmed(pred, target, valid_mask=mask, trim=0.0) == pytest.approx(
        fit_scale_shift(pred, target, valid_mask=mask)
    )


def test_least_squares_equals_numpy_lstsq():
    rng = np.random.default_rng(2)
    pred, target, mask = rng.normal(size=(9, 9)), rng.normal(size=(9, 9)), rng.random((9, 9)) > 0.3
    design = np.stack((pred[mask], np.ones(mask.sum())), axis=1)
    expected = np.linalg.lstsq(design, target[mask], rcond=None)[0]
    assert fit_scale_shift(pred, target, valid_mask=mask) == pytest.approx(tuple(expected))


def test_a_constant_prediction_is_fitted_by_the_mean():
    target = _target()
    scale, shift = fit_scale_shift(np.full_like(target, 0.1), target, valid_mask=target > 0)
    assert (scale, shift) == (0.0, pytest.approx(target.mean()))


@pytest.mark.parametrize("space", ["depth", "inverse_depth", "log"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
def test_every_method_in_every_space_undoes_a_scale(method, space):
    target = _target()
    result = align(
        3.0 * target,
        target,
        valid_mask=target > 0,
        method=method,
        space=space,
        max_depth=80.0,
        kind=DepthKind.SCALE_INVARIANT_DEPTH,
    )
    np.testing.assert_allclose(result.depth, target, rtol=1e-5)


def test_inverse_kinds_are_converted_where_that_is_legal():
    target = _target()
    for space in ("depth", "inverse_depth", "log"):
        result = align(
            5.0 / target,
            target,
            valid_mask=target > 0,
            method="median",
            space=space,
            max_depth=80.0,
            kind=DepthKind.DISPARITY,
        )
        np.testing.assert_allclose(result.depth, target, rtol=1e-9)


def test_masked_pixels_never_matter_and_nan_stays_nan_outside():
    target = _target()
    mask = np.ones(target.shape, bool)
    mask[0] = False
    pred = 2.0 * target
    spoilt, spoilt_target = pred.copy(), target.copy()
    spoilt[0], spoilt_target[0] = np.nan, np.inf
    options = {"method": "least_squares", "space": "inverse_depth", "max_depth": 80.0}
    clean = align(pred, target, valid_mask=mask, **options)
    dirty = align(spoilt, spoilt_target, valid_mask=mask, **options)
    np.testing.assert_array_equal(clean.depth[mask], dirty.depth[mask])
    assert np.isnan(dirty.depth[0]).all()


def test_the_clamp_comes_after_the_fit_fact_6b():
    target = np.array([[1.0, 2.0, 3.0, 8.0]])
    pred = np.array([[10.0, 20.0, 30.0, 80.0]])
    result = align(pred, target, valid_mask=target > 0, method="median", space="depth", max_depth=5.0)
    np.testing.assert_allclose(result.depth, [[1.0, 2.0, 3.0, 5.0]])
    assert result.scale == pytest.approx(0.1)


@pytest.mark.parametrize("fitted", [0.0, -0.3])
def test_fact_8a_scores_stay_finite_when_the_fitted_inverse_depth_is_0_or_below(fitted):
    target = np.array([[1.0, 2.0, 4.0, 10.0]])
    pred = 1.0 / target
    pred[0, 3] = fitted
    result = align(
        pred,
        target,
        valid_mask=target > 0,
        method="none",
        space="inverse_depth",
        max_depth=80.0,
        kind=DepthKind.INVERSE_DEPTH,
    )
    assert result.depth[0, 3] == 80.0
    assert all(np.isfinite(v) for v in score_depth(result.depth, target, target > 0).values())


@pytest.mark.parametrize("space", ["depth", "log"])
def test_fact_7c_affine_invariant_inverse_depth_is_refused_outside_inverse_depth(space):
    target = _target()
    with pytest.raises(KindError, match="only be fitted in inverse_depth"):
        align(
            1 / target,
            target,
            valid_mask=target > 0,
            method="least_squares",
            space=space,
            max_depth=80.0,
            kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH,
        )


@pytest.mark.parametrize(
    ("kind", "method", "space"),
    [
        (DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, "median", "inverse_depth"),
        (DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, "none", "inverse_depth"),
        (DepthKind.SCALE_INVARIANT_DEPTH, "none", "depth"),
        (DepthKind.DISPARITY, "none", "inverse_depth"),
    ],
)
def test_what_a_kind_leaves_unknown_must_be_fitted(kind, method, space):
    target = _target()
    with pytest.raises(KindError):
        align(target, target, valid_mask=target > 0, method=method, space=space, max_depth=80.0, kind=kind)


def test_errors_say_what_is_wrong():
    target = _target()
    mask = target > 0
    options = {"method": "median", "space": "depth", "max_depth": 80.0}
    with pytest.raises(ShapeError):
        align(target[:2], target, valid_mask=mask, **options)
    with pytest.raises(ShapeError, match="must be bool"):
        select_valid(target, target, mask.astype(int), positive=True)
    with pytest.raises(EmptyMaskError):
        align(target, target, valid_mask=~mask, **options)
    with pytest.raises(EmptyMaskError, match="at least two"):
        one = np.zeros_like(mask)
        one[0, 0] = True
        fit_scale_shift(target, target, valid_mask=one)
    with pytest.raises(InputError, match=r"1 of 192"):
        bad = target.copy()
        bad[3, 3] = np.nan
        align(bad, target, valid_mask=mask, **options)
    with pytest.raises(InputError):
        align(-target, target, valid_mask=mask, method="median", space="log", max_depth=80.0)
    with pytest.raises(InputError, match="is 0"):
        fit_scale(0 * target, target, valid_mask=mask)
    with pytest.raises(ConfigError, match="Unknown alignment method"):
        align(target, target, valid_mask=mask, method="best", space="depth", max_depth=80.0)
    with pytest.raises(ConfigError, match="min_depth < max_depth"):
        align(target, target, valid_mask=mask, method="none", space="depth", max_depth=1e-4)
    with pytest.raises(ConfigError, match="trim"):
        fit_scale_shift_trimmed(target, target, valid_mask=mask, trim=1.0)
