"""Rounding that makes up for its errors: against the nearest codes, and where the answer is known."""

import pytest

torch = pytest.importorskip("torch")

import copy  # noqa: E402

from fathom.models.embedded import EmbeddedNet  # noqa: E402
from fathom.models.four_bits import find_grid, snap  # noqa: E402


@pytest.fixture(scope="module")
def rounding(load_stage):
    return load_stage("rounding")


@pytest.fixture
def inputs():
    """Inputs that go together, as those of a layer do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(400, 5, generator=generator) @ torch.randn(5, 64, generator=generator)


@pytest.fixture
def weight():
    return torch.randn(12, 64, generator=torch.Generator().manual_seed(1))


def test_inputs_that_have_nothing_in_common_get_the_nearest_codes(rounding, weight):
    grid = find_grid(weight)
    rounded = rounding.make_up(weight, grid, torch.eye(64) * 8)
    torch.testing.assert_close(rounded, snap(weight, grid))


def test_columns_make_up_for_each_other(rounding, inputs, weight):
    grid = find_grid(weight)
    rounded = rounding.make_up(weight, grid, inputs)
    torch.testing.assert_close(snap(rounded, grid), rounded)
    nearest = (inputs @ (snap(weight, grid) - weight).T).square().mean()
    assert (inputs @ (rounded - weight).T).square().mean() < 0.3 * nearest


def test_a_network_keeps_more_of_its_tokens_than_with_the_nearest_codes(rounding):
    torch.manual_seed(0)
    exact = EmbeddedNet("inverse", taps=(1, 2, 3, 4), hidden=64, grid=(4, 5)).eval()
    pictures = [torch.rand(150, 3, 56, 70), torch.rand(50, 3, 70, 56)]
    network, nearest = copy.deepcopy(exact), copy.deepcopy(exact)
    grids = rounding.round_network(network, pictures)
    for name, value in nearest.named_parameters():
        if name in grids:
            value.data = snap(value.data, find_grid(value.data))
            rounded = network.get_parameter(name).detach()
            torch.testing.assert_close(snap(rounded, grids[name]), rounded)
    assert len(grids) == 16
    seen = torch.rand(4, 3, 56, 70, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        last = exact.taps_of(seen)[-1]
        apart = [(net.taps_of(seen)[-1] - last).square().mean() for net in (network, nearest)]
    assert apart[0] < 0.8 * apart[1]
