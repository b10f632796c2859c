"""Depth as colours: direction, range, holes, legend, panel, error map."""

import numpy as np
import pytest
from hypothesis import given, settings

from depth_strategies import depths
from fathom.errors import ConfigError, EmptyMaskError, ShapeError
from fathom.types import Depth, DepthKind
from fathom.viz import COLORMAPS, colorize, colormap_table, display_range, error_map, side_by_side, with_legend

RAMP = np.linspace(1.0, 9.0, 64, dtype=np.float32).reshape(8, 8)


def warmth(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0].astype(int) - rgb[..., 2]


class TestTables:
    @pytest.mark.parametrize("name", COLORMAPS)
    def test_shape_and_no_change_possible(self, name: str) -> None:
        table = colormap_table(name)
        assert table.shape == (256, 3) and table.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1

    @pytest.mark.parametrize(("name", "theirs"), [("turbo", "turbo"), ("magma", "magma"), ("spectral", "Spectral_r")])
    def test_against_matplotlib(self, name: str, theirs: str) -> None:
        matplotlib = pytest.importorskip("matplotlib")
        expected = np.rint(matplotlib.colormaps[theirs](np.arange(256))[:, :3] * 255).astype(int)
        assert np.abs(colormap_table(name).astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("name", COLORMAPS)
    def test_holes_have_a_colour_that_the_map_lacks(self, name: str) -> None:
        hole = colorize(Depth(np.array([[np.nan, 1.0]]), DepthKind.METRIC_DEPTH), colormap=name).rgb[0, 0]
        assert np.abs(colormap_table(name).astype(int) - hole).max(axis=1).min() > 15

    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match="Expected one of the colour maps turbo, magma"):
            colormap_table("jet")


class TestDirection:
    @pytest.mark.parametrize("kind", list(DepthKind))
    @pytest.mark.parametrize("name", COLORMAPS)
    def test_near_is_warm_or_bright_for_every_kind(self, name: str, kind: DepthKind) -> None:
        rgb = colorize(Depth(np.array([[1.0, 5.0, 9.0]]), kind), colormap=name, value_range=(1.0, 9.0)).rgb
        near, far = (rgb[0, 2], rgb[0, 0]) if kind.larger_is_nearer else (rgb[0, 0], rgb[0, 2])
        assert near.tolist() == colormap_table(name)[255].tolist() and far.tolist() == colormap_table(name)[0].tolist()
        if name in ("turbo", "spectral"):
            assert warmth(near) > 50 and warmth(far) < 0
        else:
            assert near.astype(int).sum() > far.astype(int).sum() + 500

    def test_values_beyond_the_range_take_its_ends(self) -> None:
        depth = Depth(np.array([[0.1, 2.0, 3.0, 90.0]]), DepthKind.METRIC_DEPTH)
        rgb = colorize(depth, colormap="gray", value_range=(2.0, 3.0)).rgb
        assert rgb[0, :, 0].tolist() == [255, 255, 0, 0]

    @settings(max_examples=60, deadline=None, database=None)
    @given(depth=depths())
    def test_any_map(self, depth: Depth) -> None:
        picture = colorize(depth)
        assert picture.rgb.shape == (depth.height, depth.width, 3)
        assert (picture.rgb[~depth.valid_mask] == 128).all()
        assert picture.value_range[0] <= picture.value_range[1]


class TestRange:
    def test_percentiles_leave_outliers_out(self) -> None:
        values = RAMP.repeat(20, axis=0).copy()
        values[0, 0] = 1e6
        low, high = display_range(Depth(values, DepthKind.METRIC_DEPTH))
        assert low == pytest.approx(1.0, abs=0.2) and high == pytest.approx(9.0, abs=0.2)

    def test_large_maps_are_sampled(self) -> None:
        values = np.linspace(1, 2, 1_000_000).reshape(1000, 1000)
        low, high = display_range(Depth(values, DepthKind.METRIC_DEPTH))
        assert low == pytest.approx(1.01, abs=0.003) and high == pytest.approx(1.99, abs=0.003)

    def test_a_lone_valid_pixel_off_the_grid(self) -> None:
        values = np.full((1000, 1000), np.nan)
        values[1, 1] = 3.0
        assert display_range(Depth(values, DepthKind.METRIC_DEPTH)) == (3.0, 3.0)

    def test_no_valid_pixel_and_flat(self) -> None:
        assert display_range(Depth(np.array([[np.nan]]), DepthKind.METRIC_DEPTH)) == (0.0, 1.0)
        flat = colorize(Depth(np.full((2, 2), 3.0), DepthKind.METRIC_DEPTH))
        assert flat.value_range == (3.0, 3.0)
        assert flat.rgb[0, 0].tolist() == colormap_table("turbo")[128].tolist()

    def test_range_is_returned(self) -> None:
        depth = Depth(RAMP, DepthKind.METRIC_DEPTH)
        assert colorize(depth, value_range=(0, 20)).value_range == (0.0, 20.0)
        assert colorize(depth).value_range == display_range(depth)

    @pytest.mark.parametrize("value_range", [(2.0, 1.0), (1.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
    def test_senseless(self, value_range: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match="the smaller first"):
            colorize(Depth(RAMP, DepthKind.METRIC_DEPTH), value_range=value_range)


class TestLegendAndPanel:
    @pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (300, 400)])
    @pytest.mark.parametrize("kind", list(DepthKind))
    def test_the_picture_stays_and_the_legend_is_beside_it(self, kind: DepthKind, shape: tuple[int, int]) -> None:
        picture = colorize(Depth(np.ones(shape), kind), value_range=(0.5, 2.0))
        shown = with_legend(picture)
        assert np.array_equal(shown[: shape[0], : shape[1]], picture.rgb)
        assert shown.shape[0] == max(shape[0], 120) and shown.shape[1] > shape[1] + 40
        legend = shown[:, shape[1] :]
        assert (legend < 128).all(axis=2).any(), "text is black"

    @pytest.mark.parametrize("kind", [DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH])
    def test_warm_end_is_at_the_top(self, kind: DepthKind) -> None:
        legend = with_legend(colorize(Depth(np.ones((200, 1)), kind), value_range=(0.5, 2.0)))[:, 1:]
        colored = warmth(legend) * (np.ptp(legend.astype(int), axis=2) > 60)
        rows = np.flatnonzero(colored.any(axis=1))
        assert colored[rows[:5]].max() > 50 and colored[rows[-5:]].min() < 0

    def test_legend_is_the_same_every_time(self) -> None:
        picture = colorize(Depth(RAMP, DepthKind.METRIC_DEPTH))
        assert np.array_equal(with_legend(picture), with_legend(picture))

    def test_panel(self) -> None:
        photo = np.random.default_rng(0).integers(0, 256, (150, 160, 3)).astype(np.uint8)
        picture = colorize(Depth(np.ones((150, 160)), DepthKind.METRIC_DEPTH), value_range=(0.5, 2.0))
        panel = side_by_side(photo, picture)
        assert np.array_equal(panel[:, :160], photo)
        assert (panel[:, 160:168] == 255).all()
        assert np.array_equal(panel[:, 168:], with_legend(picture))
        with pytest.raises(ShapeError, match="same size"):
            side_by_side(photo[1:], picture)


class TestErrorMap:
    def test_bright_where_wrong_and_grey_where_unknown(self) -> None:
        pred, target = np.array([[1.0, 2.0, 9.0]]), np.array([[1.0, 1.0, np.nan]])
        picture = error_map(pred, target, np.isfinite(target), max_error=1.0)
        table = colormap_table("magma")
        assert picture.rgb[0].tolist() == [table[0].tolist(), table[255].tolist(), [128] * 3]
        assert picture.value_range == (0.0, 1.0) and picture.label == "error [m]"

    def test_default_range(self) -> None:
        error = np.linspace(0, 1, 101)[None]
        assert error_map(error, np.zeros((1, 101)), np.ones((1, 101), bool)).value_range == (0.0, pytest.approx(0.99))
        zero = np.zeros((2, 2))
        assert error_map(zero, zero, np.ones((2, 2), bool), unit="").label == "error"

    def test_refusals(self) -> None:
        ones, mask = np.ones((2, 2)), np.ones((2, 2), bool)
        with pytest.raises(ShapeError, match="share one shape"):
            error_map(ones, np.ones((2, 3)), mask)
        with pytest.raises(EmptyMaskError):
            error_map(ones, ones, ~mask)
        with pytest.raises(ConfigError):
            error_map(ones, ones, mask, max_error=0.0)
        assert (error_map(ones, ones, ~mask, max_error=1.0).rgb == 128).all()
