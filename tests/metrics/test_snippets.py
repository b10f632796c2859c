"""Trajectory errors over snippets: hand-computed values, and what the two papers' definitions differ in."""

import itertools
import math

import numpy as np
import pytest

from fathom import metrics
from fathom.errors import ConfigError, EmptyMaskError, InputError, ShapeError


def turned(angle: float, x: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Return a motion in the plane of the road: a turn about the vertical axis [rad] and a shift [m]."""
    pose = np.eye(4)
    pose[[0, 0, 2, 2], [0, 2, 0, 2]] = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    pose[[0, 2], 3] = x, z
    return pose


def drive(num_frames: int = 9, seed: int = 0, turn: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(num_frames - 1):
        poses.append(poses[-1] @ turned(turn * rng.normal(), 0.1 * rng.normal(), 1.0))
    return np.stack(poses)


def test_motions_chain_to_the_drive_they_came_from():
    poses = drive()
    motions = np.linalg.inv(poses[1:]) @ poses[:-1]  # points of camera i, seen from camera i + 1
    np.testing.assert_allclose(metrics.chain_motions(motions), poses, atol=1e-12)
    with pytest.raises(ShapeError, match=r"\(N, 4, 4\)"):
        metrics.chain_motions(poses[:, :3])


def test_ate_by_hand():
    """Five frames ahead; the last prediction is off by e sideways: s = 30 / (30 + e^2), and N outside the root."""
    target = np.tile(np.eye(4), (5, 1, 1))
    target[:, 2, 3] = np.arange(5)
    pred = target.copy()
    pred[4, 0, 3] = 0.5
    scale = 30 / 30.25
    squares = (1 - scale) ** 2 * 30 + (0.5 * scale) ** 2
    assert metrics.snippet_ate(pred, target) == pytest.approx((math.sqrt(squares) / 5, 0, 1))


def test_both_definitions_agree_on_a_straight_road_but_for_the_cut_off_snippets():
    target = np.tile(np.eye(4), (6, 1, 1))
    target[:, 2, 3] = np.arange(6)
    pred = target.copy()
    pred[:, 0, 3] = [0, 0.1, -0.1, 0.2, 0, 0.1]
    whole = metrics.snippet_ate(pred, target)
    published = metrics.snippet_ate(pred, target, definition="monodepth2")
    tracks = [(start, min(start + 5, 6)) for start in range(5)]
    expected = [metrics.trajectory_ate(pred[a:b, :3, 3], target[a:b, :3, 3]) for a, b in tracks]
    assert published == pytest.approx((np.mean(expected), np.std(expected), 5))
    assert whole == pytest.approx((np.mean(expected[:2]), np.std(expected[:2]), 2))


def test_monodepth2_plays_the_film_backwards():
    """Its track multiplies M_0 M_1 ..., M_i from camera i to i + 1: written out here as a loop over motions."""
    target, pred = drive(turn=0.3), drive(seed=1, turn=0.3)

    def track(poses: np.ndarray) -> np.ndarray:
        place, places = np.eye(4), [np.zeros(3)]
        for before, after in itertools.pairwise(poses):
            place = place @ np.linalg.inv(np.linalg.inv(before) @ after)
            places.append(place[:3, 3])
        return np.array(places)

    expected = [
        metrics.trajectory_ate(track(pred[start : start + 5]), track(target[start : start + 5])) for start in range(8)
    ]
    published = metrics.snippet_ate(pred, target, definition="monodepth2")
    assert published == pytest.approx((np.mean(expected), np.std(expected), 8))
    assert published.ate_mean != pytest.approx(metrics.snippet_ate(pred, target).ate_mean, rel=1e-3)


@pytest.mark.parametrize("definition", ["sfmlearner", "monodepth2"])
def test_snippet_errors_ignore_scale_and_where_the_world_begins(definition):
    target = drive()
    pred = turned(1.0, 5.0, -3.0) @ target
    pred[:, :3, 3] *= 0.03
    assert metrics.snippet_ate(pred, target, definition=definition).ate_mean == pytest.approx(0, abs=1e-12)
    assert metrics.snippet_rpe(pred, target)[:4] == pytest.approx((0, 0, 0, 0), abs=1e-6)


def test_rpe_of_a_constant_drift():
    """Each predicted step turns by 0.01 rad too much, and is half as long as it should be: the scale is made good."""
    target = np.stack([turned(0, 0, float(i)) for i in range(7)])
    pred = [np.eye(4)]
    for _ in range(6):
        pred.append(pred[-1] @ turned(0, 0, 0.5) @ turned(0.01))
    error = metrics.snippet_rpe(np.stack(pred), target)
    assert error.num_snippets == 3
    assert error.rotation_deg_mean == pytest.approx(math.degrees(0.01)) and error.rotation_deg_std < 1e-9
    assert error.translation_mean < 1e-3 and error.translation_std < 1e-9


def test_what_cannot_be_scored():
    poses = drive()
    with pytest.raises(EmptyMaskError, match="At least 5 frames"):
        metrics.snippet_rpe(poses[:4], poses[:4])
    with pytest.raises(InputError, match="does not move"):
        metrics.snippet_rpe(np.tile(np.eye(4), (9, 1, 1)), poses)
    with pytest.raises(ShapeError):
        metrics.snippet_rpe(poses, poses[1:])
    with pytest.raises(ConfigError, match="sfmlearner, monodepth2; got 'kitti'"):
        metrics.snippet_ate(poses, poses, definition="kitti")
