"""Parity in depth metrics: by hand, and every way an export can be broken."""

import json

import numpy as np
import pytest

from fathom.errors import InputError
from fathom.export.parity import TOLERANCES, Tolerance, check_parity, choose_zero, compare, find_pictures, load_pictures
from fathom.models.cards import InputSpec
from fathom.types import DepthKind
from tiny_models import make_photo

SPEC = InputSpec(law="area", area=(32, 32), multiple=8)


class Fake:
    """A runtime whose output is the picture's brightness, changed."""

    name = "fake"

    def __init__(self, change=lambda values: values):
        self.change = change

    def run(self, batch):
        return self.change(1.0 + batch.mean(1))


def report_of(change, tolerance=TOLERANCES["fp32"]):
    return check_parity(
        Fake(),
        Fake(change),
        load_pictures(find_pictures()),
        source_spec=SPEC,
        export_spec=SPEC,
        kind=DepthKind.METRIC_DEPTH,
        tolerance=tolerance,
        source_name="source",
        artefact="export.bin",
        tools={"numpy": "2"},
    )


def test_measures_by_hand():
    expected = np.array([[1.0, 2.0, 4.0, 8.0]])
    row = compare(np.array([[1.1, 1.8, 5.0, 8.0]]), expected)
    assert row["abs_rel"] == pytest.approx((0.1 + 0.1 + 0.25 + 0) / 4)
    assert row["max_relative"] == pytest.approx(0.25)
    assert row["delta1"] == 0.75  # 5 / 4 is not below 1.25
    assert row["num_not_finite"] == 0


def test_zero_at_the_horizon_is_measured_against_the_floor():
    expected = np.array([[0.0, 10.0, 10.0, 10.0] * 10])
    row = compare(expected + 0.01, expected)
    assert row["max_relative"] == pytest.approx(0.01 / 0.1)  # one hundredth of the 95th percentile
    assert row["delta1"] == 1.0


def test_pixels_that_the_source_leaves_open_do_not_count():
    row = compare(np.array([[5.0, 2.0]]), np.array([[np.nan, 2.0]]))
    assert row["max_relative"] == 0.0 and row["num_not_finite"] == 0


def test_what_an_affine_invariant_map_leaves_open_does_not_count():
    ramp = np.linspace(0.0, 9.0, 1000)[None]
    wrong = ramp + 0.1  # more than a quarter of every value below 0.4
    assert compare(wrong, ramp)["delta1"] < 0.98
    for zero in (-20.0, 0.0, 300.0):
        row = compare(*choose_zero(wrong + zero, ramp + zero))
        assert row["delta1"] == 1.0 and row["max_relative"] == pytest.approx(0.1, rel=0.15)
    assert compare(*choose_zero(ramp + 0.5, ramp))["delta1"] < 0.95
    same = np.full((1, 4), 2.0)
    assert compare(*choose_zero(same, same))["max_relative"] == 0.0


def test_same_numbers_pass():
    report = report_of(lambda values: values)
    assert report.failures == ()
    assert report.worst == {"max_relative": 0.0, "mean_relative": 0.0, "abs_rel": 0.0, "delta1": 1.0}
    assert len({(row.height, row.width) for row in report.rows}) >= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values * 1.01, "mean relative difference"),
        (lambda values: values * 1.4, "delta1"),
        (lambda values: np.full_like(values, 1.5), "constant"),
        (lambda values: np.where(np.arange(values.shape[-1]) == 3, np.nan, values), "NaN"),
        (lambda values: np.where(np.arange(values.size).reshape(values.shape) == 9, 9.0, values), "largest relative"),
        (lambda values: values[:, :, ::-1], "mean relative difference"),
    ],
    ids=["scaled", "far off", "constant", "nan", "one wrong pixel", "mirrored"],
)
def test_broken_exports_fail(change, words):
    assert any(words in failure for failure in report_of(change).failures)


def test_report_is_json_and_a_table(tmp_path):
    report = report_of(lambda values: values, Tolerance(float("inf"), 1.0, 0.5))
    paths = report.save(tmp_path / "parity")
    assert [path.name for path in paths] == ["parity.json", "parity.md"]
    values = json.loads(paths[0].read_text())
    assert values["tolerance"]["max_relative"] is None
    assert values["worst"]["delta1"] == 1.0
    assert "| coffee | 400x600 |" in paths[1].read_text()


def test_equal_sizes_are_cut_to_three(tmp_path):
    for index in range(2):
        make_photo(tmp_path / f"{index}.png", 40, 60, seed=index)
    pictures = load_pictures(find_pictures(tmp_path))
    assert len({rgb.shape for _, rgb in pictures}) >= 3


def test_folder_without_pictures(tmp_path):
    with pytest.raises(InputError, match="found none"):
        find_pictures(tmp_path)
