"""The torch batches against the NumPy reference."""

import numpy as np
import pytest

from fathom import metrics
from fathom.errors import ConfigError, ShapeError

torch = pytest.importorskip("torch")
from fathom.metrics import batched  # noqa: E402

TOLERANCE = {"rel": 1e-6, "abs": 1e-9}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def batch(request):
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 9.0, (3, 20, 28))
    pred = target * np.exp(0.25 * rng.standard_normal(target.shape))
    mask = rng.random(target.shape) > 0.2
    mask[2, 0, 0] = not mask[2, 0, 0]  # both an odd and an even number of pixels
    target[0, 3, 3], pred[~mask] = np.nan, np.nan
    p, g = (torch.from_numpy(x).to(request.param) for x in (pred, target))
    return p, g, torch.from_numpy(mask)


def _numpy(batch):
    return [tuple(x[i].numpy() for x in batch) for i in range(len(batch[0]))]


@pytest.mark.parametrize("variant", metrics.SILOG_VARIANTS.values(), ids=metrics.SILOG_VARIANTS.keys())
def test_depth_scores(batch, variant):
    scores = batched.score_depth(*batch, silog_variant=variant)
    for i, image in enumerate(_numpy(batch)):
        expected = metrics.score_depth(*image, silog_variant=variant)
        assert {name: value[i].item() for name, value in scores.items()} == pytest.approx(expected, **TOLERANCE)


def test_disparity_outliers_and_boundaries(batch):
    p, g, mask = batch
    outliers = batched.d1(10 * p, 10 * g, mask)
    boundaries = batched.boundary_f1(p, g, mask)
    for i, (pred, target, valid) in enumerate(_numpy(batch)):
        assert outliers[i].item() == pytest.approx(metrics.d1(10 * pred, 10 * target, valid), **TOLERANCE)
        expected = metrics.boundary_f1(pred, target, valid)._asdict()
        assert {n: v[i].item() for n, v in boundaries.items()} == pytest.approx(expected, **TOLERANCE)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim(batch, window):
    p, g, mask = batch
    mask = torch.ones_like(mask)
    mask[:, :4, :4] = False
    p = torch.nan_to_num(p, nan=2.0)
    scores = batched.ssim(p, g, mask, data_range=10.0, window=window)
    for i, image in enumerate(_numpy((p, g, mask))):
        expected = metrics.ssim(*image, data_range=10.0, window=window)
        assert scores[i].item() == pytest.approx(expected, **TOLERANCE)


def test_normals(batch):
    rng = np.random.default_rng(1)
    pred, target = (torch.from_numpy(rng.normal(size=(3, 20, 28, 3))) for _ in range(2))
    mask = batch[2]
    pred[~mask] = torch.nan
    scores = batched.score_normals(pred, target, mask)
    for i, image in enumerate(_numpy((pred, target, mask))):
        expected = metrics.score_normals(*image)
        assert {n: v[i].item() for n, v in scores.items()} == pytest.approx(expected, **TOLERANCE)


def test_confusion(batch):
    rng = np.random.default_rng(1)
    pred, target = (torch.from_numpy(rng.integers(0, 5, (3, 20, 28))) for _ in range(2))
    target[:, :2] = 255
    counts = batched.confusion_matrix(pred, target, batch[2], num_classes=5)
    for i, image in enumerate(_numpy((pred, target, batch[2]))):
        np.testing.assert_array_equal(counts[i].numpy(), metrics.confusion_matrix(*image, num_classes=5))


def test_whdr(batch):
    g = torch.nan_to_num(batch[1], nan=1.0)
    p = torch.where(batch[2], batch[0], 1.0)
    mask = torch.ones_like(batch[2])
    pairs = [
        metrics.sample_pairs(x.numpy(), m.numpy(), num_pairs=40, ratio_threshold=1.05, seed=3)
        for x, m in zip(g, mask, strict=True)
    ]
    stacked = [torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True)]
    scores = batched.whdr(p, *stacked, ratio_threshold=1.05)
    for i, pair in enumerate(pairs):
        expected = metrics.whdr(p[i].numpy().astype(np.float64), pair, ratio_threshold=1.05)
        assert scores[i].item() == pytest.approx(expected, **TOLERANCE)


def test_points_and_trajectories():
    pytest.importorskip("scipy")
    rng = np.random.default_rng(1)
    pred, target = rng.normal(size=(2, 3, 30, 3))
    scores = batched.score_points(torch.from_numpy(pred), torch.from_numpy(target), threshold=0.5)
    errors = batched.trajectory_ate(torch.from_numpy(pred), torch.from_numpy(target))
    for i in range(3):
        expected = metrics.score_points(pred[i], target[i], threshold=0.5)._asdict()
        assert {n: v[i].item() for n, v in scores.items()} == pytest.approx(expected, **TOLERANCE)
        assert errors[i].item() == pytest.approx(metrics.trajectory_ate(pred[i], target[i]), **TOLERANCE)


@pytest.mark.parametrize("error", ["abs_rel", "rmse", "delta1"])
def test_sparsification(batch, error):
    uncertainty = torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(0))
    scores = batched.sparsification(*batch, uncertainty=uncertainty, error=error)
    for i, image in enumerate(_numpy(batch)):
        expected = metrics.sparsification(*image, uncertainty=uncertainty[i].numpy(), error=error)._asdict()
        assert {n: v[i].item() for n, v in scores.items()} == pytest.approx(expected, **TOLERANCE)
    with pytest.raises(ConfigError):
        batched.sparsification(*batch, uncertainty=uncertainty, error="mse")


def test_clip(batch):
    expected = metrics.temporal_change_error(_numpy(batch))
    assert batched.temporal_change_error(*batch).item() == pytest.approx(expected, **TOLERANCE)


def test_an_empty_image_is_nan_and_leaves_the_others_alone(batch):
    p, g, mask = batch
    full = batched.score_depth(p, g, mask)
    mask = mask.clone()
    mask[1] = False
    for scores in (batched.score_depth(p, g, mask), batched.boundary_f1(p, g, mask)):
        for value in scores.values():
            assert value.isnan().tolist() == [False, True, False]
    assert batched.score_depth(p, g, mask)["rmse"][2] == full["rmse"][2]


def test_shapes_are_checked(batch):
    p, g, mask = batch
    with pytest.raises(ShapeError, match="channel"):
        batched.score_depth(p[:, None], g[:, None], mask[:, None])
    with pytest.raises(ShapeError, match="bool"):
        batched.d1(p, g, mask.float())
