import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError, EmptyMaskError, ShapeError

torch = pytest.importorskip("torch")
from torch.autograd import gradcheck  # noqa: E402

from fathom import losses  # noqa: E402


def _rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = _rand(2, 1, 6, 7, seed=9) > 0.3
IMAGE, OTHER = _rand(2, 3, 6, 7, seed=1), _rand(2, 3, 6, 7, seed=2)
MAP, SECOND = 1 + _rand(2, 1, 6, 7, seed=3), 1 + 4 * _rand(2, 1, 6, 7, seed=4)
CAMERA = torch.tensor([[5.0, 0, 3], [0, 5.0, 3], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3)
EDGES = losses.sid_thresholds(0.5, 8.0, 6)
LABELS = (5 * _rand(2, 6, 7, seed=5)).long()
BINARY = (SECOND > 3).double()

# Each loss as a function of one float64 tensor and a mask; everything else held fixed.
CASES = {
    "laplace_nll": (MAP, lambda x, m: losses.laplace_nll_loss(x, SECOND, m, log_scale=0.3 * x)),
    "gaussian_nll": (MAP, lambda x, m: losses.gaussian_nll_loss(x, SECOND, m, log_variance=0.3 * x)),
    "normals": (IMAGE - 0.5, lambda x, m: losses.normals_loss(x, OTHER - 0.4, m)),
    "virtual_normal": (
        MAP,
        lambda x, m: losses.virtual_normal_loss(
            x, SECOND, m, intrinsics=CAMERA, num_groups=30, generator=torch.Generator().manual_seed(0)
        ),
    ),
    "ordinal_regression": (
        _rand(2, 5, 6, 7) - 0.5,
        lambda x, m: losses.ordinal_regression_loss(x, SECOND, m, thresholds=EDGES),
    ),
    "cross_entropy": (
        _rand(2, 5, 6, 7),
        lambda x, m: losses.cross_entropy_loss(x, LABELS, m[:, 0], class_weights=torch.arange(1.0, 6.0)),
    ),
    "bce": (MAP - 1.5, lambda x, m: losses.bce_loss(x, BINARY, m)),
    "dice": (MAP - 1, lambda x, m: losses.dice_loss(x, BINARY, m)),
    "bce_dice": (MAP - 1.5, lambda x, m: losses.bce_dice_loss(x, BINARY, m)),
    "edge_aware_smoothness": (MAP, lambda x, m: losses.edge_aware_smoothness_loss(x, IMAGE, m)),
    "edge_aware_second_order": (MAP, lambda x, m: losses.edge_aware_second_order_smoothness_loss(x, IMAGE, m)),
    "monodepth2_smoothness": (
        MAP,
        lambda x, m: losses.edge_aware_smoothness_loss(losses.normalize_disparity(x, m), IMAGE, m),
    ),
    "sfmlearner_smoothness": (MAP, lambda x, m: losses.sfmlearner_smoothness_loss(x, m)),
    "squared_gradient": (MAP, lambda x, m: losses.squared_gradient_loss(x, m)),
    "monodepth_photometric": (IMAGE, lambda x, m: losses.monodepth_photometric_loss(x, OTHER, m)),
    "photometric_map": (
        IMAGE,
        lambda x, m: losses.min_reprojection_loss(losses.photometric_error_map(x, OTHER, m), None, m),
    ),
    "sfmlearner_photometric": (
        IMAGE,
        lambda x, m: losses.sfmlearner_photometric_loss(x, OTHER, m, explainability=SECOND / 5),
    ),
    "left_right": (MAP, lambda x, m: losses.left_right_consistency_loss(x, SECOND, m, m)),
    "garg": (MAP, lambda x, m: losses.garg_reconstruction_loss(IMAGE, OTHER, x, MAP + 0.3, m)),
    "min_reprojection": (
        _rand(2, 2, 6, 7),
        lambda x, m: losses.min_reprojection_loss(
            x, _rand(2, 2, 6, 7, seed=8), m.expand(2, 2, 6, 7), generator=torch.Generator().manual_seed(0)
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    start, loss = CASES[name]
    assert gradcheck(lambda x: loss(x, MASK), (start.clone().requires_grad_(),))


@pytest.mark.parametrize("name", CASES)
def test_masked_nan_reaches_neither_value_nor_gradient(name):
    start, loss = CASES[name]
    clean = start.clone().requires_grad_()
    value = loss(clean, MASK)
    value.backward()
    spoilt = torch.where(MASK, start, math.nan).requires_grad_()
    spoilt_value = loss(spoilt, MASK)
    spoilt_value.backward()
    assert torch.equal(spoilt_value, value) and value.isfinite()
    assert torch.equal(spoilt.grad, clean.grad)


@pytest.mark.parametrize("name", CASES)
def test_nothing_valid_is_zero_with_a_zero_gradient(name):
    start, loss = CASES[name]
    x = torch.full_like(start, math.nan, requires_grad=True)
    value = loss(x, torch.zeros_like(MASK))
    value.backward()
    assert value.item() == 0.0
    assert x.grad is not None and (x.grad == 0).all()


def test_every_listed_loss_is_tested():
    # A loss that joins the list must join the tables of properties, here or with the depth losses.
    covered = {"explainability", "bins_chamfer"}  # no mask of their own kind: below
    covered |= set(losses.DEPTH_LOSSES) | set(CASES)
    renamed = {
        "edge_aware_second_order_smoothness": "edge_aware_second_order",
        "left_right_consistency": "left_right",
        "garg_reconstruction": "garg",
    }
    assert {renamed.get(name, name) for name in losses.LOSSES} <= covered


# Bins


def test_ordinal_labels_decode_to_their_bin():
    depth = torch.tensor([0.1, 0.6, 1.1, 7.9, 20.0]).reshape(1, 1, 1, 5)
    inner = EDGES[1:-1][None, :, None, None]
    logits = torch.where(depth >= inner, 9.0, -9.0)
    decoded = losses.ordinal_to_depth(logits, thresholds=EDGES).flatten()
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    assert decoded.tolist() == pytest.approx(middles[[0, 0, 1, 5, 5]].tolist())
    assert losses.ordinal_regression_loss(logits, depth, thresholds=EDGES) < 1e-3
    assert losses.ordinal_regression_loss(-logits, depth, thresholds=EDGES) > 10
    with pytest.raises(ShapeError):
        losses.ordinal_regression_loss(logits[:, 1:], depth, thresholds=EDGES)
    with pytest.raises(ConfigError):
        losses.sid_thresholds(0.0, 8.0, 6)


def test_bins_chamfer_equals_brute_force_and_passes_gradcheck():
    centers, target = 1 + 4 * _rand(2, 5, seed=6), SECOND
    expected = 0.0
    for c, g, m in zip(centers, target, MASK, strict=True):
        distances = (c[:, None] - g[m][None]).square()
        expected += (distances.amin(dim=0).mean() + distances.amin(dim=1).mean()).item() / 2
    assert losses.bins_chamfer_loss(centers, target, MASK).item() == pytest.approx(expected)
    assert gradcheck(lambda c: losses.bins_chamfer_loss(c, target, MASK), (centers.requires_grad_(),))
    spoilt = torch.where(MASK, target, math.nan)
    assert losses.bins_chamfer_loss(centers, spoilt, MASK).item() == pytest.approx(expected)


def test_bins_chamfer_of_nothing_is_zero_with_a_zero_gradient():
    centers = _rand(2, 5).requires_grad_()
    value = losses.bins_chamfer_loss(centers, SECOND, torch.zeros_like(MASK))
    value.backward()
    assert value.item() == 0.0 and (centers.grad == 0).all()
    with pytest.raises(ShapeError):
        losses.bins_chamfer_loss(centers[:1], SECOND)


# Labels


def test_cross_entropy_equals_torch_unweighted_and_divides_by_pixels_weighted():
    logits = _rand(2, 5, 6, 7)
    functional = torch.nn.functional.cross_entropy
    assert torch.allclose(losses.cross_entropy_loss(logits, LABELS), functional(logits, LABELS))
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    expected = functional(logits, LABELS, weight=weights, reduction="sum") / LABELS.numel()
    assert torch.allclose(losses.cross_entropy_loss(logits, LABELS, class_weights=weights), expected)
    ignored = torch.where(MASK[:, 0], LABELS, 255)
    assert torch.allclose(
        losses.cross_entropy_loss(logits, ignored, MASK[:, 0]), functional(logits, ignored, ignore_index=255)
    )
    with pytest.raises(ShapeError):
        losses.cross_entropy_loss(logits, LABELS[:, None])


def test_bce_equals_torch_and_dice_equals_kornia():
    kornia_losses = pytest.importorskip("kornia.losses")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(MAP[MASK], BINARY[MASK])
    assert torch.allclose(losses.bce_loss(MAP, BINARY, MASK), expected)
    logits = _rand(2, 2, 6, 7)
    probabilities = logits.softmax(dim=1)
    one_hot = torch.cat((1 - BINARY, BINARY), dim=1)
    expected = kornia_losses.dice_loss(logits, BINARY[:, 0].long(), average="micro", eps=1e-6)
    assert torch.allclose(losses.dice_loss(probabilities, one_hot), expected, atol=1e-6)


def test_median_frequency_weights_need_labels():
    with pytest.raises(EmptyMaskError):
        losses.median_frequency_weights([torch.full((2, 2), 255)], num_classes=3)
    absent = losses.median_frequency_weights([torch.tensor([[0, 2, 255]])], num_classes=3)
    assert absent.tolist() == [1.0, 0.0, 1.0]


# Normals


def test_normals_loss_ignores_length_and_missing_normals():
    target = OTHER - 0.4
    target[:, :, 0] = 0.0
    assert losses.normals_loss(3 * target + 0 * IMAGE, target, None).item() == pytest.approx(-1.0)
    assert losses.normals_loss(-target, target).item() == pytest.approx(1.0)
    assert torch.allclose(losses.normals_loss(2 * IMAGE, target), losses.normals_loss(IMAGE, target))


def test_virtual_normals_ignore_scale_but_not_a_bend():
    depth = 3.0 + torch.arange(16.0, dtype=torch.float64).expand(1, 1, 16, 16) / 4
    camera = torch.tensor([[[8.0, 0, 8], [0, 8.0, 8], [0, 0, 1]]], dtype=torch.float64)

    def loss(pred):
        generator = torch.Generator().manual_seed(0)
        return losses.virtual_normal_loss(pred, depth, intrinsics=camera, num_groups=200, generator=generator).item()

    assert loss(2.5 * depth) == pytest.approx(0.0, abs=1e-9)
    assert loss(depth + torch.sin(depth)) > 0.1
    with pytest.raises(ShapeError):
        losses.virtual_normal_loss(depth, depth, intrinsics=camera[0])


# Self-supervision


def test_ssim_map_equals_its_formula_and_kornia():
    kornia_metrics = pytest.importorskip("kornia.metrics")
    ours = 1 - 2 * losses.ssim_error_map(IMAGE, OTHER, padding="valid")
    window = torch.nn.functional.avg_pool2d
    mean_p, mean_g = window(IMAGE, 3, 1), window(OTHER, 3, 1)
    covariance = window(IMAGE * OTHER, 3, 1) - mean_p * mean_g
    variances = window(IMAGE**2, 3, 1) - mean_p**2 + window(OTHER**2, 3, 1) - mean_g**2
    formula = (2 * mean_p * mean_g + 1e-4) * (2 * covariance + 9e-4)
    formula /= (mean_p**2 + mean_g**2 + 1e-4) * (variances + 9e-4)
    assert torch.allclose(ours, formula.clamp(-1, 1))
    # kornia weighs its window by a Gauss, so the two agree exactly on constants only.
    constant = torch.full_like(IMAGE, 0.2), torch.full_like(IMAGE, 0.6)
    expected = kornia_metrics.ssim(*constant, window_size=3)
    reflect = 1 - 2 * losses.ssim_error_map(*constant, padding="reflect")
    assert torch.allclose(reflect[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_edge_aware_smoothness_equals_kornia():
    kornia_losses = pytest.importorskip("kornia.losses")
    expected = kornia_losses.inverse_depth_smoothness_loss(MAP, IMAGE)
    assert torch.allclose(losses.edge_aware_smoothness_loss(MAP, IMAGE), expected)


def test_photometric_losses_of_equal_images_are_zero():
    assert losses.monodepth_photometric_loss(IMAGE, IMAGE).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.photometric_error_map(IMAGE, IMAGE).abs().max().item() < 1e-12
    with pytest.raises(ShapeError):
        losses.monodepth_photometric_loss(IMAGE, OTHER[..., 1:])


def test_normalised_smoothness_does_not_reward_shrinking():
    def loss(d):
        return losses.edge_aware_smoothness_loss(losses.normalize_disparity(d), IMAGE)

    assert torch.allclose(loss(0.01 * MAP), loss(MAP), rtol=1e-4)
    assert losses.edge_aware_smoothness_loss(0.01 * MAP, IMAGE) < losses.edge_aware_smoothness_loss(MAP, IMAGE)


def test_second_order_smoothness_lets_planes_pass():
    plane = (torch.arange(7.0) + 2 * torch.arange(6.0)[:, None]).expand(2, 1, 6, 7).double()
    assert losses.edge_aware_second_order_smoothness_loss(plane, IMAGE).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.sfmlearner_smoothness_loss(plane).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.edge_aware_smoothness_loss(plane, IMAGE) > 0.5
    with pytest.raises(ShapeError):
        losses.edge_aware_smoothness_loss(MAP[:, 0], IMAGE)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-3.0, 3.0))
def test_warping_a_ramp_adds_the_shift(shift):
    ramp = torch.arange(12.0, dtype=torch.float64).expand(1, 1, 2, 12)
    warped = losses.sample_horizontal(ramp, torch.full_like(ramp, shift))
    assert torch.allclose(warped[..., 3:-3], (ramp + shift)[..., 3:-3])
    assert torch.allclose(warped, (ramp + shift).clamp(0, 11))


def test_warping_equals_grid_sample():
    shift = 6 * _rand(2, 1, 6, 7) - 3
    x = (torch.arange(7.0, dtype=torch.float64) + shift[:, 0]) / 6 * 2 - 1
    y = (torch.arange(6.0, dtype=torch.float64) / 5 * 2 - 1)[:, None].expand(2, 6, 7)
    for padding in ("border", "zeros"):
        expected = torch.nn.functional.grid_sample(
            IMAGE, torch.stack((x, y), dim=-1), padding_mode=padding, align_corners=True
        )
        assert torch.allclose(losses.sample_horizontal(IMAGE, shift, padding=padding), expected)
    assert gradcheck(losses.sample_horizontal, (IMAGE.clone().requires_grad_(), shift.requires_grad_()))
    with pytest.raises(ShapeError):
        losses.sample_horizontal(IMAGE, shift[:, 0])


def test_left_right_consistency_of_a_consistent_pair_and_its_units():
    # A step: the right view has the disparity of the left one, moved by itself; left 4 and 5 are hidden in the right.
    left = torch.full((1, 1, 1, 12), 1.0)
    left[..., 6:] = 3.0
    right = torch.full((1, 1, 1, 12), 1.0)
    right[..., 3:] = 3.0
    inside = torch.zeros(1, 1, 1, 12, dtype=torch.bool)
    inside[..., [1, 2, 6, 7, 8]] = True
    assert losses.left_right_consistency_loss(left, right, inside, torch.ones_like(inside)).item() == 0.0
    flat = torch.full((1, 1, 2, 8), 2.0)
    assert losses.left_right_consistency_loss(flat, flat + 1).item() == pytest.approx(2 / 8)


def test_a_pixel_that_reads_an_invalid_one_does_not_count():
    left = torch.full((1, 1, 1, 8), 2.0)
    right = left.clone()
    right[..., 3] = 50.0
    valid = torch.ones(1, 1, 1, 8, dtype=torch.bool)
    valid[..., 3] = False
    assert losses.left_right_consistency_loss(left, right, None, valid).item() == 0.0
    assert losses.left_right_consistency_loss(left, right).item() > 1.0


def test_garg_gradient_is_the_slope_and_never_reaches_the_coarse_stage():
    right = 2.0 * torch.arange(9.0, dtype=torch.float64).reshape(1, 1, 1, 9)
    fine = torch.full((1, 1, 1, 9), 1.5, dtype=torch.float64, requires_grad=True)
    coarse = torch.full((1, 1, 1, 9), 1.0, dtype=torch.float64, requires_grad=True)
    inside = torch.arange(9).reshape(1, 1, 1, 9) == 4
    loss = losses.garg_reconstruction_loss(right - 2 * 1.0, right, fine, coarse, inside)
    loss.backward()
    # Rebuilt 2 (x - 1.5) against the truth 2 (x - 1): error -1, gradient 2 * (-1) * (-2).
    assert loss.item() == pytest.approx(1.0)
    assert fine.grad[..., 4].item() == pytest.approx(4.0)
    assert coarse.grad is None


def test_min_reprojection_prefers_valid_sources_and_auto_masks_static_pixels():
    errors = torch.tensor([[[[0.1, 0.9]], [[0.4, 0.2]]]], requires_grad=True)
    valid = torch.tensor([[[[False, True]], [[True, True]]]])
    loss = losses.min_reprojection_loss(errors, None, valid)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert errors.grad.flatten().tolist() == pytest.approx([0.0, 0.0, 0.5, 0.5])
    identity = torch.tensor([[[[0.0, 0.5]], [[0.9, 0.9]]]])
    errors.grad = None
    masked = losses.min_reprojection_loss(errors, identity)
    masked.backward()
    assert masked.item() == pytest.approx(0.1, abs=1e-4)
    assert errors.grad.flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5])
    assert losses.auto_mask(errors, identity).flatten().tolist() == [False, True]
    with pytest.raises(ShapeError):
        losses.min_reprojection_loss(errors, identity[:, :1])


def test_explainability_is_a_cross_entropy_with_the_second_channel():
    logits = _rand(2, 4, 3, 3).requires_grad_()
    pairs = logits.reshape(2, 2, 2, 3, 3).transpose(1, 2)
    expected = torch.nn.functional.cross_entropy(pairs, torch.ones(2, 2, 3, 3, dtype=torch.int64))
    assert torch.allclose(losses.explainability_loss(logits), expected)
    assert torch.allclose(losses.explainability_weights(logits), pairs.softmax(dim=1)[:, 1])
    assert gradcheck(losses.explainability_loss, (logits,))
    with pytest.raises(ShapeError):
        losses.explainability_loss(logits[:, :3])


# Uncertainty and multi-task


@settings(max_examples=20, deadline=None)
@given(error=st.floats(0.01, 100.0), offset=st.floats(-2.0, 2.0))
def test_log_scales_have_their_minimum_where_claimed(error, offset):
    one, zero = torch.full((1,), error, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for loss, name, best in (
        (losses.laplace_nll_loss, "log_scale", math.log(error)),
        (losses.gaussian_nll_loss, "log_variance", math.log(error**2)),
    ):
        at_best = loss(one, zero, **{name: zero + best})
        assert at_best <= loss(one, zero, **{name: zero + best + offset}) + 1e-12


def test_multi_task_sums():
    parts = {"depth": torch.tensor(2.0), "labels": torch.tensor(8.0)}
    assert losses.weighted_sum(parts, {"depth": 1.0, "labels": 0.25}).item() == 4.0
    with pytest.raises(ConfigError, match="one loss and one weight"):
        losses.weighted_sum(parts, {"depth": 1.0})
    total = losses.UncertaintyWeightedSum(parts)
    for _ in range(300):
        total.zero_grad()
        total(parts).backward()
        with torch.no_grad():
            for value in total.parameters():
                value -= 0.5 * value.grad
    learned = {name: value.item() for name, value in total.log_variances.items()}
    assert learned == pytest.approx({"depth": math.log(2), "labels": math.log(8)}, abs=1e-3)
    assert len(list(total.parameters())) == 2
