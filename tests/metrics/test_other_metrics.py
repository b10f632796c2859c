import math

import numpy as np
import pytest

from fathom import metrics
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError

pytest.importorskip("scipy")
CAMERA = np.array([[300.0, 0, 19.5], [0, 300.0, 14.5], [0, 0, 1]])


def _scene(seed=0, shape=(30, 40)):
    rng = np.random.default_rng(seed)
    target = np.full(shape, 4.0)
    target[8:20, 10:25] = 2.0
    pred = target * rng.uniform(0.95, 1.05, shape)
    return pred, target, np.ones(shape, bool)


# Boundary F1


def test_fact_11g_precision_and_recall_have_their_own_denominators():
    target = np.full((12, 12), 4.0)
    target[3:9, 3:9] = 2.0
    # The prediction finds the left half of the bump's outline and invents nothing.
    pred = np.full((12, 12), 4.0)
    pred[3:9, 3:6] = 2.0
    score = metrics.boundary_f1(pred, target, target > 0)
    # left and right edges: one side matches all, the other none; top and bottom: 3 of 6 true, 3 of 3 predicted.
    assert score.recall == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert score.precision == pytest.approx((1 + 0 + 1 + 1) / 4)
    swapped = metrics.boundary_f1(target, pred, target > 0)
    assert (swapped.precision, swapped.recall) == pytest.approx((score.recall, score.precision))


def test_boundary_f1_ignores_scale_and_masked_pixels():
    pred, target, mask = _scene()
    clean = metrics.boundary_f1(pred, target, mask)
    assert metrics.boundary_f1(7.0 * pred, 0.1 * target, mask) == pytest.approx(clean)
    mask[:5] = False
    clean = metrics.boundary_f1(pred, target, mask)
    pred[:5], target[:5] = np.nan, np.inf
    assert metrics.boundary_f1(pred, target, mask) == clean
    with pytest.raises(EmptyMaskError):
        metrics.boundary_f1(pred, target, np.zeros_like(mask))


# iBims-1


def test_edges_match_scikit_image_and_ignore_scale():
    feature = pytest.importorskip("skimage.feature")
    pred, _, mask = _scene()
    normalised = (pred - pred.min()) / np.ptp(pred)
    expected = feature.canny(normalised, sigma=math.sqrt(2), low_threshold=0.15, high_threshold=0.3)
    np.testing.assert_array_equal(metrics.canny_edges(5 * pred, mask), expected)
    assert expected.any()


def test_boundary_error_without_edges():
    pytest.importorskip("skimage")
    pred, _, mask = _scene()
    none = np.zeros(pred.shape, bool)
    assert all(math.isnan(v) for v in metrics.depth_boundary_error(pred, none, mask))
    edges = none.copy()
    edges[4, 4] = True
    assert metrics.depth_boundary_error(np.ones_like(pred), edges, mask) == (10.0, 10.0)
    with pytest.raises(ShapeError):
        metrics.depth_boundary_error(pred, edges.astype(int), mask)


def test_completeness_is_symmetric_and_truncated():
    pytest.importorskip("skimage")
    depth = (1.0 + np.clip(np.arange(60) - 19, 0, 2)) * np.ones((30, 1))
    mask = depth > 0
    edges = metrics.canny_edges(depth, mask)
    far = edges.copy()
    far[1:-1, 50] = True  # a second true edge that the prediction lacks, 30 px away: counted as 10
    error = metrics.depth_boundary_error(depth, far, mask)
    assert error.accuracy == 0.0
    assert error.completeness == pytest.approx(10 / 3)


def test_directed_depth_error_shares():
    pred, target, mask = _scene()
    score = metrics.directed_depth_error(np.where(pred > 3, 2.9, 3.1), target, mask)
    far = float(np.mean(target > 3))
    assert score == pytest.approx((0.0, 1 - far, far))
    assert metrics.directed_depth_error(target, target, mask).correct == 1.0


def test_planarity_of_a_tilted_and_a_wavy_plane():
    rows, columns = np.indices((30, 40))
    ray = np.stack(((columns - 19.5) / 300, (rows - 14.5) / 300, np.ones((30, 40))), axis=-1)
    normal = np.array([0.3, 0.0, -1.0]) / math.hypot(0.3, 1.0)
    depth = (-2.0) / (ray @ normal)
    mask = np.ones((30, 40), bool)
    exact = metrics.planarity_error(5 * depth, depth, mask, intrinsics=CAMERA, plane_normal=-normal)
    assert exact == pytest.approx((0.0, 0.0), abs=1e-6)
    fronto = metrics.planarity_error(np.full((30, 40), 2.0), depth, mask, intrinsics=CAMERA, plane_normal=normal)
    assert fronto.orientation_deg == pytest.approx(math.degrees(math.atan(0.3)))
    wavy = np.full((30, 40), 2.0) + 0.01 * (-1.0) ** columns
    error = metrics.planarity_error(wavy, wavy, mask, intrinsics=CAMERA, plane_normal=np.array([0, 0, 1.0]))
    assert error.flatness_cm == pytest.approx(1.0, rel=0.02)
    with pytest.raises(EmptyMaskError):
        metrics.planarity_error(depth, depth, np.zeros_like(mask), intrinsics=CAMERA, plane_normal=normal)


# Normals


def test_normals_of_a_tilted_plane():
    rows, columns = np.indices((12, 16))
    ray = np.stack(((columns - 19.5) / 300, (rows - 14.5) / 300, np.ones((12, 16))), axis=-1)
    normal = np.array([0.4, -0.2, -1.0])
    normal /= np.linalg.norm(normal)
    depth = -3.0 / (ray @ normal)
    found, has_normal = metrics.normals_from_depth(depth, depth > 0, intrinsics=CAMERA)
    assert has_normal[1:-1, 1:-1].all() and has_normal.sum() == 10 * 14
    np.testing.assert_allclose(found[has_normal], np.broadcast_to(normal, (140, 3)), atol=1e-9)


def test_a_hole_takes_its_neighbours_normals_too():
    depth = np.full((7, 7), 2.0)
    mask = np.ones((7, 7), bool)
    mask[3, 3] = False
    depth[3, 3] = np.nan
    _, has_normal = metrics.normals_from_depth(depth, mask, intrinsics=CAMERA)
    assert has_normal.sum() == 25 - 5


def test_normal_scores_ignore_length_and_masked_pixels():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, 8, 8, 3))
    mask = np.ones((8, 8), bool)
    mask[0] = False
    clean = metrics.score_normals(pred, target, mask)
    pred[0] = np.nan
    target[0] = 0.0
    assert metrics.score_normals(4 * pred, target, mask) == pytest.approx(clean)
    assert metrics.score_normals(target, target, mask)["mean_deg"] == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(EmptyMaskError):
        metrics.score_normals(pred, target, np.zeros_like(mask))
    with pytest.raises(InputError):
        metrics.score_normals(0 * target, target, mask)
    with pytest.raises(ShapeError):
        metrics.score_normals(pred[..., :2], target[..., :2], mask)


# Segmentation


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_segmentation_cross_check_with_torchmetrics():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 4, (2, 20, 20))
    target[0, :5] = 255
    scores = metrics.score_segmentation(pred, target, target >= 0, num_classes=4)
    p, g = torch.from_numpy(pred), torch.from_numpy(target)
    options = {"num_classes": 4, "ignore_index": 255}
    expected = {
        "pixel_accuracy": functional.multiclass_accuracy(p, g, average="micro", **options),
        "class_accuracy": functional.multiclass_accuracy(p, g, average="macro", **options),
        "miou": functional.multiclass_jaccard_index(p, g, average="macro", **options),
        "fwiou": functional.multiclass_jaccard_index(p, g, average="weighted", **options),
        "dice": functional.multiclass_f1_score(p, g, average="macro", **options),
    }
    assert scores == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)


def test_segmentation_ignores_labels_and_absent_classes():
    pred, target = np.array([1, 1, 2, 0]), np.array([1, 2, 2, 0])
    scores = metrics.score_segmentation(pred, target, np.ones(4, bool), num_classes=5, ignore=(0,))
    assert scores["pixel_accuracy"] == pytest.approx(2 / 3)
    assert scores["miou"] == pytest.approx(0.5)
    for iou, dice in ((0.5, 2 / 3),):
        assert scores["dice"] == pytest.approx(dice) == pytest.approx(2 * iou / (1 + iou))
    with pytest.raises(InputError, match="0 to 1"):
        metrics.score_segmentation(pred, target, np.ones(4, bool), num_classes=2)
    with pytest.raises(EmptyMaskError):
        metrics.score_segmentation(pred, target, np.zeros(4, bool), num_classes=3)
    with pytest.raises(EmptyMaskError):
        metrics.score_confusion(np.zeros((3, 3), int))


# Ordinal


def test_whdr_of_the_truth_its_scale_and_its_inverse():
    _, target, mask = _scene()
    rng = np.random.default_rng(0)
    target = target * rng.uniform(0.5, 2.0, target.shape)
    pairs = metrics.sample_pairs(target, mask, num_pairs=500, ratio_threshold=1.03, seed=1)
    assert metrics.whdr(9 * target, pairs, ratio_threshold=1.03) == 0.0
    unequal = float(np.mean(pairs.relation != 0))
    assert metrics.whdr(1 / target, pairs, ratio_threshold=1.03) == pytest.approx(unequal)
    heavy = pairs._replace(weight=np.where(pairs.relation == 0, 1.0, 0.0))
    assert metrics.whdr(1 / target, heavy, ratio_threshold=1.03) == 0.0
    again = metrics.sample_pairs(target, mask, num_pairs=500, ratio_threshold=1.03, seed=1)
    np.testing.assert_array_equal(pairs.first, again.first)
    assert (np.abs(pairs.first - pairs.second).sum(axis=1) > 0).all()


def test_whdr_errors():
    _, target, mask = _scene()
    pairs = metrics.sample_pairs(target, mask, num_pairs=5, ratio_threshold=1.03, seed=1)
    with pytest.raises(ConfigError):
        metrics.whdr(target, pairs, ratio_threshold=0.02)
    with pytest.raises(InputError, match="outside"):
        metrics.whdr(target[:2, :2], pairs, ratio_threshold=1.03)
    with pytest.raises(InputError, match="finite"):
        metrics.whdr(-target, pairs, ratio_threshold=1.03)
    with pytest.raises(EmptyMaskError):
        metrics.whdr(target, pairs._replace(weight=np.zeros(5)), ratio_threshold=1.03)
    with pytest.raises(ShapeError):
        metrics.whdr(target, pairs._replace(weight=np.ones(4)), ratio_threshold=1.03)
    with pytest.raises(EmptyMaskError):
        metrics.sample_pairs(target, np.zeros_like(mask), num_pairs=5, ratio_threshold=1.03, seed=1)


# Point clouds


def test_point_scores_by_hand_and_by_brute_force():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    distances = np.linalg.norm(pred[:, None] - target[None], axis=-1)
    score = metrics.score_points(pred, target, threshold=0.5)
    assert score.accuracy == pytest.approx(distances.min(axis=1).mean())
    assert score.completeness == pytest.approx(distances.min(axis=0).mean())
    precision, recall = (float(np.mean(distances.min(axis=a) < 0.5)) for a in (1, 0))
    assert score.f_score == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.score_points(pred, pred, threshold=0.1) == (0, 0, 0, 1, 1, 1)
    assert metrics.score_points(pred + 100, pred, threshold=0.1).f_score == 0.0
    with pytest.raises(EmptyMaskError):
        metrics.score_points(pred[:0], target, threshold=0.5)
    with pytest.raises(ShapeError):
        metrics.score_points(pred[:, :2], target, threshold=0.5)
    with pytest.raises(InputError):
        metrics.score_points(pred * np.nan, target, threshold=0.5)


# Poses


def _poses(seed=0, num_frames=9, turn=0.05):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    for i in range(1, num_frames):
        angle = turn * rng.normal()
        motion = np.eye(4)
        motion[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        motion[:3, 3] = [0.1 * rng.normal(), 0.0, 1.0]
        poses[i] = poses[i - 1] @ motion
    return poses


def test_ate_ignores_scale_and_where_the_world_begins():
    target = _poses()
    pred = target.copy()
    pred[:, :3, 3] *= 0.2
    assert metrics.snippet_ate(pred, target).ate_mean == pytest.approx(0.0, abs=1e-12)
    world = _poses(3, 2)[1]
    noisy = target.copy()
    noisy[:, :3, 3] += np.random.default_rng(1).normal(scale=0.05, size=(9, 3))
    moved = metrics.snippet_ate(noisy, world @ target)
    still = metrics.snippet_ate(noisy, target)
    assert moved == pytest.approx(still)
    assert still.num_snippets == 5 and still.ate_mean > 0


def test_relative_pose_error_of_a_known_turn():
    target = _poses()
    angle = 0.01
    turn = np.eye(4)
    turn[:3, :3] = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    pred = target.copy()
    for i in range(1, len(pred)):
        pred[i] = pred[i - 1] @ np.linalg.inv(target[i - 1]) @ target[i] @ turn
    error = metrics.relative_pose_error(pred, target)
    assert error.rotation_deg == pytest.approx(math.degrees(angle))
    assert error.translation == pytest.approx(0.0, abs=1e-9)
    assert metrics.relative_pose_error(target, target, step=3) == pytest.approx((0, 0), abs=1e-6)


def test_pose_errors():
    poses = _poses()
    with pytest.raises(EmptyMaskError):
        metrics.snippet_ate(poses[:4], poses[:4])
    with pytest.raises(InputError, match="does not move"):
        metrics.trajectory_ate(np.zeros((5, 3)), poses[:5, :3, 3])
    with pytest.raises(ShapeError):
        metrics.trajectory_ate(poses[:5, :3, 3], poses[:4, :3, 3])
    with pytest.raises(ShapeError):
        metrics.relative_pose_error(poses[:, :3], poses[:, :3])
    with pytest.raises(InputError):
        metrics.relative_pose_error(poses * np.nan, poses)


# Video


def test_fact_19a_a_wobbling_clip_scores_worse_than_a_steady_one():
    rng = np.random.default_rng(0)
    truths = [rng.uniform(1, 5, (6, 6)) for _ in range(6)]
    mask = np.ones((6, 6), bool)
    steady = [(2.0 * g, g, mask) for g in truths]
    wobbling = [(s * g, g, mask) for s, g in zip((1.0, 1.2, 0.9, 1.1, 1.0, 1.3), truths, strict=True)]
    assert metrics.temporal_change_error(steady) == pytest.approx(0.0, abs=1e-12)
    assert metrics.temporal_change_error(wobbling) > 0.1
    assert metrics.scale_wobble(steady) == pytest.approx(0.0, abs=1e-12)
    assert metrics.scale_wobble(wobbling) > 0.1


def test_video_metrics_need_overlapping_frames_of_one_size():
    one, mask = np.ones((2, 2)), np.ones((2, 2), bool)
    assert metrics.static_flicker(iter([(one, mask), (one * np.e, mask)])) == pytest.approx(1.0)
    with pytest.raises(EmptyMaskError):
        metrics.static_flicker([(one, mask), (one, ~mask)])
    with pytest.raises(EmptyMaskError):
        metrics.scale_wobble([])
    with pytest.raises(ShapeError):
        metrics.static_flicker([(one, mask), (np.ones((3, 3)), np.ones((3, 3), bool))])


# Uncertainty


@pytest.mark.parametrize("error", ["abs_rel", "rmse", "delta1"])
def test_sparsification_of_the_best_the_worst_and_a_random_order(error):
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 5, (40, 40))
    pred = target * rng.uniform(0.6, 1.6, (40, 40))
    mask = np.ones((40, 40), bool)
    true_error = {"abs_rel": abs(pred - target) / target, "rmse": (pred - target) ** 2}.get(
        error, (np.maximum(pred / target, target / pred) >= 1.25).astype(float)
    )
    best, worst, random = (
        metrics.sparsification(pred, target, mask, uncertainty=u, error=error)
        for u in (true_error, -true_error, rng.random((40, 40)))
    )
    assert best.ause == pytest.approx(0.0, abs=1e-12) and best.aurg > 0
    assert worst.aurg < random.aurg < best.aurg
    assert best.ause < random.ause < worst.ause
    # Chance neither gains nor loses, up to the last point of the curve, which is 0 by definition.
    assert abs(random.aurg) < 0.1 * best.aurg + 0.02


def test_sparsification_by_hand():
    target = np.ones((1, 2))
    pred = np.array([[1.0, 3.0]])  # errors 0 and 2
    score = metrics.sparsification(pred, target, target > 0, uncertainty=np.array([[1.0, 0.0]]))
    # Two pixels are kept while k < 25, one (the wrong one, error 2) from 25 to 49; the curve ends at 0.
    curve = np.r_[np.full(25, 1.0), np.full(25, 2.0), 0.0]
    oracle = np.r_[np.full(25, 1.0), np.full(25, 0.0), 0.0]
    area = [float(np.mean((c[1:] + c[:-1]) / 2)) for c in (curve, oracle)]
    assert score == pytest.approx((area[0] - area[1], 1.0 - area[0]))
    with pytest.raises(ConfigError):
        metrics.sparsification(pred, target, target > 0, uncertainty=target, error="mse")


def test_likelihoods_and_calibration_of_a_true_gauss():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    target = np.full((100, 100), 10.0)
    sigma = rng.uniform(0.5, 1.0, target.shape)
    pred = target + sigma * rng.standard_normal(target.shape)
    mask = target > 0
    expected = -stats.norm.logpdf(target, pred, sigma).mean()
    assert metrics.gaussian_nll(pred, target, mask, sigma=sigma) == pytest.approx(expected)
    expected = -stats.laplace.logpdf(target, pred, sigma).mean()
    assert metrics.laplace_nll(pred, target, mask, scale=sigma) == pytest.approx(expected)
    assert metrics.calibration_error(pred, target, mask, sigma=sigma) < 0.02
    assert metrics.calibration_error(pred, target, mask, sigma=sigma / 5) > 0.3
    with pytest.raises(InputError):
        metrics.gaussian_nll(pred, target, mask, sigma=0 * sigma)
