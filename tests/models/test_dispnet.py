import pytest
import torch
from checks_b import (
    EXPORT_WARNINGS,
    ceil_sizes,
    check_evaluation,
    check_export,
    check_gradients,
    check_oracles,
    sizes_of,
)

from fathom.errors import ConfigError
from fathom.models.dispnet import DispNet, DispNetS, correlate_rows


def test_oracles_of_the_specification():
    check_oracles(("7.",))


@pytest.mark.parametrize("size", [(64, 128), (37, 53), (65, 1), (1, 1)])
def test_dispnet_gives_six_scales_at_any_size(size):
    outputs = DispNet(base_channels=2)(torch.rand(2, 3, *size))
    assert list(outputs) == [f"disparity_{scale}" for scale in range(1, 7)]
    assert sizes_of(outputs, "disparity", range(1, 7)) == ceil_sizes(*size, range(1, 7))


@pytest.mark.parametrize("channels", [3, 6])
def test_dispnet_learns_and_is_steady(channels):
    network = DispNet(in_channels=channels, base_channels=2)
    pictures = torch.rand(3, channels, 70, 90)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


@pytest.mark.parametrize("size", [(64, 128), (37, 53), (65, 1)])
def test_a_pair_is_compared_at_any_size(size):
    network = DispNet(in_channels=6, base_channels=2, max_shift=3)
    outputs = network(torch.rand(2, 6, *size))
    assert sizes_of(outputs, "disparity", range(1, 7)) == ceil_sizes(*size, range(1, 7))
    check_gradients(network, torch.rand(3, 6, 70, 90))
    check_evaluation(network, torch.rand(3, 6, 70, 90))
    with pytest.raises(ConfigError, match="in_channels=6; got 3"):
        DispNet(max_shift=3)


def test_rows_match_best_at_their_shift():
    features = torch.randn(2, 16, 5, 20, generator=torch.Generator().manual_seed(0))
    left = torch.nn.functional.pad(features, (4, 0))[..., :20]  # left[x] shows what right[x - 4] shows
    found = correlate_rows(left, features, 7)
    assert found.shape == (2, 8, 5, 20)
    assert (found[..., 4:].argmax(dim=1) == 4).float().mean() > 0.9
    torch.testing.assert_close(found[:, 4, :, 4:], torch.ones(2, 5, 16))
    assert all((found[:, shift, :, :shift] == 0).all() for shift in range(1, 8))


def test_levels_correct_one_another_from_the_given_start():
    outputs = DispNet(base_channels=2, initial_disparity=5.0)(torch.rand(1, 3, 64, 64))
    assert all((maps - 5.0).abs().max() < 0.5 for maps in outputs.values())
    network = DispNet(base_channels=2, initial_disparity=5.0)
    torch.nn.init.constant_(network.predict[0].bias, 9.0)
    assert (network(torch.rand(1, 3, 64, 64))["disparity_1"] - 9.0).abs().max() < 0.5


def test_dispnet_hands_the_coarse_disparity_down():
    network = DispNet(base_channels=2)
    network(torch.rand(1, 3, 64, 64))["disparity_1"].sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in network.predict)


@pytest.mark.parametrize("size", [(128, 416), (37, 53), (130, 1), (1, 1)])
def test_dispnet_s_gives_four_scales_at_any_size(size):
    outputs = DispNetS(base_channels=2)(torch.rand(2, 3, *size))
    assert list(outputs) == [f"disparity_{scale}" for scale in range(4)]
    assert sizes_of(outputs, "disparity", range(4)) == ceil_sizes(*size, range(4))
    assert all(((0.01 < disparity) & (disparity < 10.01)).all() for disparity in outputs.values())


def test_dispnet_s_learns_and_is_steady():
    network = DispNetS(base_channels=4)
    pictures = torch.rand(3, 3, 37, 53)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_dispnet_s(self):
        check_export(DispNetS(base_channels=2), (torch.rand(2, 3, 70, 97),), [(torch.rand(1, 3, 128, 65),)])
