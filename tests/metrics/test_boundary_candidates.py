"""Boundary F1 leaves pairs out that are no edge anywhere; the result must be that of looking at all of them."""

import numpy as np
import pytest

from fathom.metrics import boundary_f1


def plainly(pred, target, mask):
    """The definition, pair by pair."""
    thresholds = np.linspace(1.05, 1.25, 10)
    weights = thresholds / thresholds.sum()
    near = [1.0 / np.maximum(np.where(mask, depth, 1.0).astype(np.float64), 1e-6) for depth in (pred, target)]
    result = np.zeros(3)
    for threshold, weight in zip(thresholds, weights, strict=True):
        precision = recall = 0.0
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            one, two = (slice(1, None), slice(None, -1))[::step]
            index_one, index_two = ((one, slice(None)), (two, slice(None))) if axis == 0 else ((..., one), (..., two))
            both = mask[index_one] & mask[index_two]
            edges = [both & (depth[index_one] / depth[index_two] > threshold) for depth in near]
            matches = (edges[0] & edges[1]).sum()
            precision += matches / max(edges[0].sum(), 1) / 4
            recall += matches / max(edges[1].sum(), 1) / 4
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        result += weight * np.array([precision, recall, f1])
    return result


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leaving_pairs_out_changes_nothing(seed, dtype):
    rng = np.random.default_rng(seed)
    target = rng.uniform(1.0, 1.4, (14, 17)).astype(dtype)
    pred = (target * rng.uniform(0.9, 1.1, target.shape)).astype(dtype)
    mask = rng.random(target.shape) < 0.9
    pred[~mask] = np.nan
    target.flat[0], pred.flat[0], mask.flat[0] = 1e-9, 1e-9, True
    assert tuple(boundary_f1(pred, target, mask)) == pytest.approx(plainly(pred, target, mask), rel=1e-12)


@pytest.mark.parametrize("ratio", np.linspace(1.05, 1.25, 10))
def test_a_ratio_near_a_threshold_follows_the_definition(ratio):
    for factor in (1 - 1e-7, 1.0, 1 + 1e-7):
        depth = np.full((6, 6), 2.0)
        depth[2:4, 2:4] *= ratio * factor
        mask = depth > 0
        assert tuple(boundary_f1(depth, depth, mask)) == pytest.approx(plainly(depth, depth, mask), rel=1e-12)
