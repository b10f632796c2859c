"""Agreement between maps, and tables of a benchmark; the measuring itself is tested with the command."""

import json

import numpy as np
import pytest

from fathom.benchmark import Benchmark, Candidate, Measurement, _agreement, benchmark
from fathom.errors import ModelError

RNG = np.random.default_rng(0)
MAPS = [RNG.uniform(1, 5, (20, 30)).astype(np.float32) for _ in range(3)]


def test_agreement_uses_the_fit_that_the_kind_leaves_open():
    scaled = [3 * values for values in MAPS]
    moved = [2 * values + 1 for values in MAPS]
    assert _agreement(moved, MAPS, "affine_invariant_inverse_depth", "affine_invariant_inverse_depth")[1] == 1.0
    assert _agreement(scaled, MAPS, "scale_invariant_depth", "scale_invariant_depth")[0] == pytest.approx(0, abs=1e-5)
    assert _agreement(scaled, MAPS, "metric_depth", "metric_depth") == (pytest.approx(2.0), 0.0)


def test_different_kinds_are_not_compared():
    relative, share = _agreement(MAPS, MAPS, "metric_depth", "affine_invariant_inverse_depth")
    assert np.isnan(relative) and np.isnan(share)


def test_table_says_where_nothing_is_known():
    row = Measurement("a", "torch", "fp32", "metric_depth", 1.0, 10.0, 9.0, 12.0, 20.0, 99.0, 300.0, float("nan"))
    table = Benchmark((row,), 4, 5, "2 cores")
    assert "| a | torch | fp32 | 10.0 (9.0 to 12.0) | 20.0 | 99.00 | 1.0 | 300 | - | - | - |" in table.markdown()
    assert json.loads(json.dumps(table.to_json()))["rows"][0]["size_mb"] is None


def test_nothing_to_measure():
    with pytest.raises(ModelError, match="at least one repeat"):
        benchmark([])


def test_names_in_tables(tmp_path):
    (tmp_path / "room").mkdir()
    assert Candidate(str(tmp_path / "room")).label == "room"
    assert Candidate(str(tmp_path / "room" / "card.json")).label == "room"
    assert Candidate("fathom-general").label == "fathom-general"
