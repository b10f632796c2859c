"""Matrices in 4 bits: entries on their grid, bytes, and the way back."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fathom.models.four_bits import GROUP, Grid, codes_of, find_grid, pack_grid, snap, unpack_grid  # noqa: E402
from fathom.models.weights import pack_rows, read_state_dict, unpack_rows  # noqa: E402


def matrix(seed, rows=6, groups=4, spread=2.0):
    """Rows and groups of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (torch.randn(rows, groups, 1, generator=generator) * spread).exp()
    return (torch.randn(rows, groups, GROUP, generator=generator) * sizes).flatten(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 12]), st.floats(0, 3))
def test_an_entry_is_a_whole_number_of_at_most_120_times_its_rows_scale(seed, groups, spread):
    weight = matrix(seed, groups=groups, spread=spread)
    grid = find_grid(weight)
    whole = codes_of(weight, grid) * grid.sizes.repeat_interleave(GROUP, 1)
    assert torch.equal(whole, whole.round())
    assert float(whole.abs().max()) <= 120
    torch.testing.assert_close(whole * grid.scale, snap(weight, grid))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_other_size_leaves_a_smaller_error(seed):
    weight = matrix(seed, rows=2, groups=2)
    grid = find_grid(weight)

    def error(sizes):
        return (snap(weight, grid._replace(sizes=sizes)) - weight).square().unflatten(1, (-1, GROUP)).sum(-1)

    least = error(grid.sizes)
    for size in range(1, 16):
        assert bool((least <= error(torch.full_like(grid.sizes, float(size))) * (1 + 1e-5)).all())


def test_a_group_of_one_size_loses_at_most_half_a_step():
    weight = torch.linspace(-1, 1, 64)[None]
    grid = find_grid(weight)
    # The largest step that the smallest error may choose covers the whole group.
    assert float((snap(weight, grid) - weight).abs().max()) <= float(grid.steps.max()) * 0.5 + 1e-6


def test_zeros_stay_zeros():
    assert not snap(torch.zeros(2, 64), find_grid(torch.zeros(2, 64))).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 6]))
def test_bytes_give_back_every_bit(seed, groups):
    weight = matrix(seed, groups=groups)
    grid = find_grid(weight)
    stored = pack_grid(weight, grid, "w")
    assert stored["w"].dtype is torch.uint8
    assert stored["w"].shape == (6, groups * GROUP // 2)
    back = unpack_grid(stored["w"], stored["w.group_sizes"], stored["w.row_scale"])
    assert torch.equal(back, snap(weight, grid))


def test_files_whose_groups_are_larger_are_read():
    weight = torch.randn(6, 128)
    few = find_grid(weight)
    grid = Grid(few.sizes.unflatten(1, (-1, 4)).amax(-1), few.scale)  # as up to version 9: 32 share a size
    stored = pack_grid(weight, grid, "w")
    assert stored["w.group_sizes"].shape == (6, 2)
    back = unpack_grid(stored["w"], stored["w.group_sizes"], stored["w.row_scale"])
    assert torch.equal(back, snap(weight, grid))
    steps = grid.steps.repeat_interleave(32, 1)
    assert bool(((back - weight).abs() <= steps * 0.501).all())


def test_a_checkpoint_holds_4_bits_and_8_bits_and_vectors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = {"four.weight": matrix(1), "eight.weight": torch.randn(3, 5), "bias": torch.randn(7)}
    grids = {"four.weight": find_grid(state["four.weight"])}
    save_file(pack_rows(state, grids), tmp_path / "file.safetensors")
    back = read_state_dict(tmp_path / "file.safetensors")
    assert sorted(back) == sorted(state)
    assert torch.equal(back["four.weight"], snap(state["four.weight"], grids["four.weight"]))
    largest = state["eight.weight"].abs().amax(1, keepdim=True)
    assert bool(((back["eight.weight"] - state["eight.weight"]).abs() <= largest / 253).all())
    assert torch.equal(back["bias"], state["bias"])
    assert unpack_rows(state).keys() == state.keys()
