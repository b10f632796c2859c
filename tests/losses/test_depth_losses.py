"""Losses of the form ``pred, target, valid_mask``: properties that all share, and what each claims."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom import metrics
from fathom.errors import ConfigError, ShapeError

torch = pytest.importorskip("torch")
from torch.autograd import gradcheck  # noqa: E402

from fathom import losses  # noqa: E402

NAMES = list(losses.DEPTH_LOSSES)
RELATIVE = ("scale_shift_invariant", "trimmed_scale_shift_invariant")


def _batch(seed=0, shape=(2, 1, 6, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    target = 0.5 + 8 * torch.rand(shape, generator=generator, dtype=dtype)
    pred = target * torch.exp(0.3 * torch.randn(shape, generator=generator, dtype=dtype))
    mask = torch.rand(shape, generator=generator) > 0.25
    return pred, target, mask


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    pred, target, mask = _batch()
    loss = losses.DEPTH_LOSSES[name]
    if name == "berhu":
        # c is a constant of the batch by definition, so the numerical check must hold it still: through a pixel whose
        # error is largest and whose gradient is not asked for.
        largest = torch.tensor([20.0], dtype=torch.float64)

        def function(p):
            return loss(torch.cat((p.flatten(), largest)), torch.cat((target.flatten(), 0 * largest)))

        assert gradcheck(function, (pred.requires_grad_(),))
    else:
        assert gradcheck(lambda p: loss(p, target, mask), (pred.requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
def test_masked_nan_reaches_neither_value_nor_gradient(name):
    pred, target, mask = _batch()
    loss = losses.DEPTH_LOSSES[name]
    clean = pred.clone().requires_grad_()
    value = loss(clean, target, mask)
    value.backward()
    for bad in (math.nan, math.inf, -1.0):
        spoilt = torch.where(mask, pred, bad).requires_grad_()
        spoilt_value = loss(spoilt, torch.where(mask, target, bad), mask)
        spoilt_value.backward()
        assert torch.equal(spoilt_value, value)
        assert torch.equal(spoilt.grad, clean.grad)
        assert (spoilt.grad[~mask] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_target_that_is_not_finite_is_masked_by_itself(name):
    pred, target, mask = _batch()
    value = losses.DEPTH_LOSSES[name](pred, target, mask)
    assert torch.equal(losses.DEPTH_LOSSES[name](pred, torch.where(mask, target, math.nan)), value)


@pytest.mark.parametrize("name", NAMES)
def test_one_empty_image_leaves_a_finite_gradient(name):
    pred, target, mask = _batch()
    mask[0] = False
    pred = torch.where(mask, pred, math.nan).requires_grad_()
    losses.DEPTH_LOSSES[name](pred, target, mask).backward()
    assert pred.grad.isfinite().all() and (pred.grad[0] == 0).all() and pred.grad[1].abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_in_a_prediction_that_counts_stays_visible(name):
    pred, target, mask = _batch()
    mask[:] = True
    pred[0, 0, 2, 2] = math.nan
    assert not losses.DEPTH_LOSSES[name](pred, target, mask).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_the_optimum_is_zero_with_a_finite_gradient(name):
    _, target, mask = _batch()
    pred = target.clone().requires_grad_()
    value = losses.DEPTH_LOSSES[name](pred, target, mask)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert pred.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_lowers_the_loss(name):
    pred, target, mask = _batch(3)
    pred.requires_grad_()
    loss = losses.DEPTH_LOSSES[name]
    value = loss(pred, target, mask)
    (gradient,) = torch.autograd.grad(value, pred)
    assert loss(pred - 1e-5 * gradient / gradient.norm(), target, mask) < value


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_summed_in_float32(name):
    pred, target, mask = _batch(dtype=torch.float32)
    value = losses.DEPTH_LOSSES[name](pred.bfloat16(), target, mask)
    assert value.dtype == torch.float32
    assert torch.allclose(value, losses.DEPTH_LOSSES[name](pred.bfloat16().float(), target, mask), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_checked(name):
    pred, target, mask = _batch()
    with pytest.raises(ShapeError):
        losses.DEPTH_LOSSES[name](pred[:, 0], target, mask)
    with pytest.raises(ShapeError):
        losses.DEPTH_LOSSES[name](pred, target, mask.float())


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10.0), shift=st.floats(-3.0, 3.0), seed=st.integers(0, 99))
def test_claimed_invariances(scale, shift, seed):
    pred, target, mask = _batch(seed)
    silog = losses.silog_eigen2014_loss
    assert torch.allclose(
        silog(scale * pred, target, mask, mean_weight=1.0), silog(pred, target, mask, mean_weight=1.0), atol=1e-9
    )
    for name in RELATIVE:
        loss = losses.LOSSES[name]
        assert torch.allclose(loss(scale * pred + shift, target, mask), loss(pred, target, mask), rtol=1e-6)
    assert torch.allclose(
        losses.squared_log_gradient_loss(scale * pred, target, mask),
        losses.squared_log_gradient_loss(pred, target, mask),
    )


def test_silog_half_weight_is_not_scale_invariant():
    pred, target, mask = _batch()
    assert (
        abs(losses.silog_eigen2014_loss(3 * pred, target, mask) - losses.silog_eigen2014_loss(pred, target, mask))
        > 1e-2
    )


@pytest.mark.parametrize(
    ("name", "variant"),
    [("silog_bts", "bts"), ("silog_adabins", "adabins"), ("silog_depth_anything", "depth_anything")],
)
def test_pooled_silog_losses_equal_their_metrics(name, variant):
    pred, target, mask = _batch()
    expected = metrics.silog(pred.numpy(), target.numpy(), mask.numpy(), variant=metrics.SILOG_VARIANTS[variant])
    assert losses.LOSSES[name](pred, target, mask).item() == pytest.approx(expected)
    assert losses.silog_loss(pred, target, mask, variant=variant).item() == pytest.approx(expected)


def test_silog_code_form_weighs_images_by_their_pixels():
    pred, target, mask = _batch()
    mask[0, :, :, 2:] = False
    d = [np.log(p[m] / g[m]) for p, g, m in zip(pred.numpy(), target.numpy(), mask.numpy(), strict=True)]
    n = np.array([x.size for x in d])
    expected = sum(k * (x**2).sum() - 0.5 * x.sum() ** 2 for k, x in zip(n, d, strict=True)) / (n**2).sum()
    assert losses.silog_eigen2014_code_loss(pred, target, mask).item() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="Unknown silog"):
        losses.silog_loss(pred, target, mask, variant="kitti")


@pytest.mark.parametrize("name", [n for n in NAMES if "silog" in n or n == "eigen2015"])
def test_negative_predictions_are_pushed_up(name):
    target = torch.full((1, 1, 2, 2), 2.0)
    pred = torch.tensor([[[[-0.5, 2.0], [3.0, 2.5]]]], requires_grad=True)
    value = losses.DEPTH_LOSSES[name](pred, target)
    value.backward()
    assert value.isfinite() and pred.grad[0, 0, 0, 0] < 0


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_huber_equals_torch(threshold):
    pred, target, _ = _batch()
    expected = torch.nn.functional.huber_loss(pred, target, delta=threshold)
    assert torch.allclose(losses.huber_loss(pred, target, threshold=threshold), expected)


def test_l1_and_mse_equal_torch_over_the_mask():
    pred, target, mask = _batch()
    assert torch.allclose(losses.l1_loss(pred, target, mask), torch.nn.functional.l1_loss(pred[mask], target[mask]))
    assert torch.allclose(losses.mse_loss(pred, target, mask), torch.nn.functional.mse_loss(pred[mask], target[mask]))


def test_berhu_is_continuous_and_smooth_at_its_threshold():
    # The first pixel fixes c = 0.2 * 5 = 1; the second is moved across it.
    def at(x):
        pred = torch.tensor([5.0, x], dtype=torch.float64, requires_grad=True)
        value = 2 * losses.berhu_loss(pred, torch.zeros_like(pred)) - 13.0
        value.backward()
        return value.item(), pred.grad[1].item()

    (below, slope_below), (above, slope_above) = at(1 - 1e-7), at(1 + 1e-7)
    assert below == pytest.approx(1.0, abs=1e-6) == above
    assert slope_below == pytest.approx(1.0, abs=1e-6) == slope_above


def test_berhu_takes_its_threshold_from_the_absolute_error_of_the_whole_batch():
    # The largest signed error is 0.1, the largest absolute one 2: c = 0.4, from the other image.
    errors = torch.tensor([[0.1, 0.3], [-2.0, 0.0]], dtype=torch.float64)
    expected = (0.1 + 0.3 + (4 + 0.16) / 0.8 + 0.0) / 4
    assert losses.berhu_loss(errors, torch.zeros_like(errors)).item() == pytest.approx(expected)
    # Errors of masked pixels do not set c, which is now 0.06.
    mask = torch.tensor([[True, True], [False, True]])
    expected = ((0.01 + 0.0036) / 0.12 + (0.09 + 0.0036) / 0.12 + 0.0) / 3
    assert losses.berhu_loss(errors, torch.zeros_like(errors), mask).item() == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(error=st.floats(1e-6, 1e6))
def test_berhu_of_equal_errors_is_2_6_times_the_error(error):
    pred = torch.full((3,), error, dtype=torch.float64)
    assert losses.berhu_loss(pred, torch.zeros_like(pred)).item() == pytest.approx(2.6 * error)


def test_a_finite_difference_needs_both_pixels():
    pred = torch.exp(torch.tensor([[[[0.0, 5.0, 1.0, 2.0]]]], dtype=torch.float64))
    target = torch.ones_like(pred)
    mask = torch.tensor([[[[True, False, True, True]]]])
    assert losses.squared_log_gradient_loss(pred, target, mask).item() == pytest.approx(1 / 3)
    gradient = losses.multiscale_gradient_loss(pred, target, mask, num_scales=1).item()
    assert gradient == pytest.approx((math.exp(2) - math.exp(1)) / 3)


def test_multiscale_gradient_by_hand():
    # A ramp of slope 1 on 8 x 8: at stride s the residual steps by s, over (n - 1) n pairs of n n pixels.
    ramp = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)
    expected = sum(s * (8 // s - 1) / (8 // s) for s in (1, 2, 4, 8))
    assert losses.multiscale_gradient_loss(ramp, torch.zeros_like(ramp)).item() == pytest.approx(expected)


def test_trimming_removes_the_outliers_gradient():
    pred, target, _ = _batch(5, (1, 1, 4, 5))
    target = target.clone()
    target[0, 0, 0, 0] += 1e4
    pred.requires_grad_()
    options = {"gradient_weight": 0.0}
    trimmed = losses.trimmed_scale_shift_invariant_loss(pred, target, trim=0.2, **options)
    full = losses.trimmed_scale_shift_invariant_loss(pred, target, trim=0.0, **options)
    assert trimmed < 0.6 * full
    with pytest.raises(ConfigError):
        losses.trimmed_scale_shift_invariant_loss(pred, target, trim=1.0)


def test_robust_normalisation_never_sees_invalid_zeros():
    values = torch.tensor([[5.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0]])
    mask = values > 0
    normalised = losses.robust_normalize(values, mask)
    assert normalised[mask].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert (normalised[~mask] == 0).all()


def test_a_constant_prediction_scores_the_spread_of_the_target():
    target = torch.tensor([[[[1.0, 3.0]]]])
    pred = torch.full_like(target, 0.3, requires_grad=True)
    loss = losses.scale_shift_invariant_loss(pred, target, gradient_weight=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5) and pred.grad.isfinite().all()


def test_modules_bind_options_and_name_unknown_ones():
    pred, target, mask = _batch()
    module = losses.build_loss("berhu", threshold_fraction=0.5)
    assert torch.equal(module(pred, target, mask), losses.berhu_loss(pred, target, mask, threshold_fraction=0.5))
    assert list(module.parameters()) == []
    with pytest.raises(ConfigError, match="Known: threshold_fraction"):
        losses.build_loss("berhu", delta=0.5)
    with pytest.raises(ConfigError, match="Known: none"):
        losses.build_loss("l1", delta=0.5)
    with pytest.raises(ConfigError, match="Unknown loss"):
        losses.build_loss("ssi")
