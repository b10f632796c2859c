import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError, EmptyMaskError, KindError, ShapeError
from fathom.fusion import (
    FUSIONS,
    ensemble_variance,
    fit_weights,
    fuse,
    fuse_geometric,
    fuse_harmonic,
    fuse_inverse_variance,
    fuse_mean,
    fuse_median,
    fuse_trimmed,
    fuse_weighted,
    softmax_weights,
)
from fathom.types import Camera, Depth, DepthKind, FocalSource, Provenance

AFFINE = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
UNWEIGHTED = [name for name in FUSIONS if name != "weighted"]


def scene(seed=0, shape=(6, 8)):
    return np.random.default_rng(seed).uniform(1.0, 9.0, shape)


def metric(values, **more):
    return Depth(np.asarray(values, np.float32), DepthKind.METRIC_DEPTH, **more)


def stack_of(count=4, seed=0):
    return np.stack([scene(seed + i) for i in range(count)])


@pytest.mark.parametrize("name", UNWEIGHTED)
@given(count=st.integers(1, 5), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_every_combination_lies_between_its_members(name, count, seed):
    stack = stack_of(count, seed)
    out = FUSIONS[name](stack)
    assert (out >= stack.min(axis=0) - 1e-9).all() and (out <= stack.max(axis=0) + 1e-9).all()


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_equal_members_stay(name):
    stack = np.stack([scene()] * 3)
    assert FUSIONS[name](stack) == pytest.approx(scene())


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_only_valid_pixels_are_fused_and_none_gives_nan(name):
    stack = np.array([[[2.0, np.nan, np.nan]], [[2.0, 5.0, np.nan]], [[2.0, np.nan, np.nan]]])
    assert FUSIONS[name](stack)[0, :2].tolist() == pytest.approx([2.0, 5.0])
    assert np.isnan(FUSIONS[name](stack)[0, 2])


def test_the_median_is_that_of_numpy():
    for count in (1, 2, 3, 4, 5):
        stack = stack_of(count)
        assert fuse_median(stack) == pytest.approx(np.median(stack, axis=0))
    stack = stack_of(5)
    stack[np.random.default_rng(1).random(stack.shape) < 0.3] = np.nan
    stack[0] = 3.0
    assert fuse_median(stack) == pytest.approx(np.nanmedian(stack, axis=0))


def test_trimming_by_hand():
    stack = np.array([1.0, 2.0, 3.0, 4.0, 100.0]).reshape(5, 1, 1)
    assert fuse_trimmed(stack, trim=0.2)[0, 0] == 3.0
    assert fuse_trimmed(stack, trim=0.0)[0, 0] == 22.0
    with pytest.raises(ConfigError, match=r"0 to 0\.5"):
        fuse_trimmed(stack, trim=0.6)


def test_geometric_is_the_mean_of_logs_and_harmonic_that_of_inverses():
    stack = stack_of(3)
    assert fuse_geometric(stack) == pytest.approx(np.exp(np.log(stack).mean(axis=0)))
    assert fuse_harmonic(stack) == pytest.approx(1 / (1 / stack).mean(axis=0))
    assert fuse_geometric(2.0 * stack) == pytest.approx(2.0 * fuse_geometric(stack))
    for name in (fuse_geometric, fuse_harmonic):
        with pytest.raises(KindError, match="above 0"):
            name(stack - 20.0)


def test_inverse_variance_oracle():
    value, sigma = fuse_inverse_variance(np.array([[[2.0]], [[3.0]]]), np.array([[[0.1]], [[0.2]]]))
    assert value[0, 0] == pytest.approx(2.2) and sigma[0, 0] == pytest.approx(0.0894427, abs=1e-7)
    value, sigma = fuse_inverse_variance(np.array([[[2.0]], [[np.nan]]]), np.array([[[0.1]], [[0.2]]]))
    assert (value[0, 0], sigma[0, 0]) == pytest.approx((2.0, 0.1))
    with pytest.raises(ConfigError):
        fuse_inverse_variance(np.ones((1, 1, 1)), np.zeros((1, 1, 1)))
    with pytest.raises(ShapeError):
        fuse_inverse_variance(np.ones((2, 1, 1)), np.ones((1, 1, 1)))


def test_one_hot_weights_give_that_model_and_convex_ones_stay_inside():
    stack = stack_of(3)
    assert fuse_weighted(stack, np.array([0.0, 1.0, 0.0])) == pytest.approx(stack[1])
    out = fuse_weighted(stack, softmax_weights(np.array([0.3, -1.0, 2.0])))
    assert (out >= stack.min(axis=0)).all() and (out <= stack.max(axis=0)).all()
    per_pixel = softmax_weights(np.random.default_rng(0).normal(size=stack.shape))
    assert fuse_weighted(stack, per_pixel) == pytest.approx((per_pixel * stack).sum(axis=0))
    stack[1] = np.nan
    assert np.isnan(fuse_weighted(stack, np.array([0.0, 1.0, 0.0]))).all()
    with pytest.raises(ShapeError):
        fuse_weighted(stack, np.ones(2))
    with pytest.raises(ConfigError, match="softmax_weights"):
        fuse_weighted(stack, np.array([-1.0, 1.0, 1.0]))


def test_ridge_recovers_an_exact_mixture():
    one, two, three = (scene(i) for i in range(3))
    target = 0.2 * one + 0.5 * two + 0.3 * three
    mask = np.ones(target.shape, bool)
    assert fit_weights([one, two, three], target, valid_mask=mask) == pytest.approx([0.2, 0.5, 0.3])
    matrix = np.stack([m.ravel() for m in (one, two, three)], axis=1)
    closed = np.linalg.inv(matrix.T @ matrix + 3.0 * np.eye(3)) @ matrix.T @ target.ravel()
    assert fit_weights([one, two, three], target, valid_mask=mask, ridge=3.0) == pytest.approx(closed)
    broken = target.copy()
    broken[0], mask[0] = 99.0, False
    assert fit_weights([one, two, three], broken, valid_mask=mask) == pytest.approx([0.2, 0.5, 0.3])


def test_ridge_refuses_what_has_no_answer():
    one = scene()
    mask = np.ones(one.shape, bool)
    with pytest.raises(ConfigError, match="Set ridge > 0"):
        fit_weights([one, 2 * one], one, valid_mask=mask)
    assert np.isfinite(fit_weights([one, 2 * one], one, valid_mask=mask, ridge=1.0)).all()
    with pytest.raises(EmptyMaskError):
        fit_weights([one, scene(1)], one, valid_mask=~mask)
    with pytest.raises(ConfigError):
        fit_weights([one], one, valid_mask=mask, ridge=-1.0)
    with pytest.raises(ShapeError):
        fit_weights([one], one[:2], valid_mask=mask)


def test_ambiguity_decomposition():
    """MSE of the mean = mean MSE of the members - mean variance between them, exactly."""
    stack, target = stack_of(5), scene(77)
    of_mean = np.mean((fuse_mean(stack) - target) ** 2)
    assert of_mean == pytest.approx(np.mean((stack - target) ** 2) - np.mean(ensemble_variance(stack)), rel=1e-12)


def test_ensemble_variance_is_both_parts():
    stack, sigma = stack_of(3), stack_of(3, seed=9)
    assert ensemble_variance(stack, sigma) == pytest.approx((sigma**2).mean(axis=0) + stack.var(axis=0))


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_models_of_every_kind_are_brought_to_the_metric_one(name):
    truth = scene()
    models = [
        Depth(3.0 / truth - 0.4, AFFINE, provenance=Provenance(model="affine", licence="B")),
        Depth(0.1 * truth, DepthKind.SCALE_INVARIANT_DEPTH, provenance=Provenance(model="scale", licence="A")),
        metric(truth, provenance=Provenance(model="metric", licence="A")),
        Depth(1.0 / truth, DepthKind.INVERSE_DEPTH, provenance=Provenance(model="inverse")),
        Depth(40.0 / truth, DepthKind.DISPARITY, provenance=Provenance(model="stereo")),
    ]
    fused = fuse(models, name)
    assert fused.depth.kind is DepthKind.METRIC_DEPTH
    assert fused.depth.values == pytest.approx(truth, rel=1e-5)
    assert fused.spread.max() < 1e-4
    assert fused.fits[0] == pytest.approx((1 / 3, 0.4 / 3), rel=1e-4)
    assert fused.fits[1] == pytest.approx((10.0, 0.0), rel=1e-5) and fused.fits[2] == (1.0, 0.0)
    assert fused.depth.provenance.licence == "A and B"
    assert "affine" in fused.depth.provenance.model and name in fused.depth.provenance.model


def test_a_disparity_whose_camera_is_known_is_metric():
    truth = scene()
    camera = Camera(np.array([[100.0, 0, 4], [0, 100.0, 3], [0, 0, 1]]), FocalSource.USER, baseline_m=0.5)
    fused = fuse(
        [Depth(50.0 / truth, DepthKind.DISPARITY, camera=camera), Depth(truth / 7, DepthKind.SCALE_INVARIANT_DEPTH)]
    )
    assert fused.depth.kind is DepthKind.METRIC_DEPTH
    assert fused.depth.values == pytest.approx(truth, rel=1e-5)


def test_a_disparity_without_camera_sets_no_metres():
    truth = scene()
    fused = fuse([Depth(50.0 / truth, DepthKind.DISPARITY), Depth(3 / truth + 1, AFFINE)], "mean")
    assert fused.depth.kind is DepthKind.SCALE_INVARIANT_DEPTH
    assert fused.depth.values == pytest.approx(truth / 50.0, rel=1e-4)


def test_affine_models_alone_stay_affine():
    truth = scene()
    fused = fuse([Depth(1 / truth, AFFINE), Depth(5 / truth - 2, AFFINE)], "mean")
    assert fused.depth.kind is AFFINE
    assert fused.depth.values == pytest.approx(1 / truth, rel=1e-4)
    with pytest.raises(KindError, match="use median"):
        fuse([Depth(1 / truth, AFFINE), Depth(5 / truth - 2, AFFINE)], "harmonic")


def test_metric_models_keep_their_own_scale():
    fused = fuse([metric([[2.0]]), metric([[4.0]])], "mean")
    assert fused.depth.values.tolist() == [[3.0]] and fused.fits == ((1.0, 0.0), (1.0, 0.0))
    assert fused.spread.tolist() == [[1.0]]


def test_holes_are_filled_by_the_others():
    fused = fuse([metric([[2.0, np.nan, np.nan]]), metric([[4.0, 5.0, np.nan]])], "median")
    assert fused.depth.values[0, :2].tolist() == [3.0, 5.0]
    assert fused.depth.valid_mask.tolist() == [[True, True, False]]


def test_wrong_calls_are_told():
    one = metric([[2.0, 3.0]])
    with pytest.raises(ConfigError, match="Did you mean 'median'"):
        fuse([one, one], "medain")
    with pytest.raises(ConfigError, match="go with the method"):
        fuse([one, one], "weighted")
    with pytest.raises(ConfigError, match="go with the method"):
        fuse([one, one], "mean", weights=np.ones(2))
    with pytest.raises(ShapeError, match="at least two maps"):
        fuse([one])
    with pytest.raises(ShapeError, match="Resize them"):
        fuse([one, metric([[2.0]])])
    with pytest.raises(ConfigError, match="index from 0 to 1"):
        fuse([one, one], reference=2)
    with pytest.raises(KindError, match="Set reference=0"):
        fuse([one, Depth(np.ones((1, 2)), AFFINE)], reference=1)
    with pytest.raises(EmptyMaskError, match="fewer than two valid pixels"):
        fuse([metric([[2.0, np.nan]]), Depth(np.array([[np.nan, 1.0]]), AFFINE)])
    assert fuse([one, metric([[4.0, 5.0]])], "weighted", weights=np.array([1.0, 3.0])).depth.values.tolist() == [
        [3.5, 4.5]
    ]
