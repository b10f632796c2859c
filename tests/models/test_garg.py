import pytest
import torch
import torch.nn.functional as F
from checks_b import EXPORT_WARNINGS, ceil_sizes, check_evaluation, check_export, check_gradients, sizes_of

from fathom.models.garg import Garg2016, build_garg2016


@pytest.mark.parametrize("size", [(188, 620), (37, 53), (33, 1), (1, 1)])
def test_six_scales_at_any_size(size):
    outputs = Garg2016(base_channels=3, fc_channels=4)(torch.rand(1, 3, *size))
    assert list(outputs) == [f"disparity_{scale}" for scale in range(6)]
    assert sizes_of(outputs, "disparity", range(6)) == ceil_sizes(*size, range(6))


def test_learns_and_is_steady():
    network = Garg2016(base_channels=6, fc_channels=8)
    pictures = torch.rand(3, 3, 64, 97)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


def test_the_layer_in_the_place_of_fc_is_convolutional_with_2048_filters_of_5_x_5():
    with torch.device("meta"):
        network = build_garg2016()
    assert network.conv6.weight.shape == (2048, 256, 5, 5)
    assert not any(isinstance(module, torch.nn.Linear) for module in network.modules())


def test_enlarging_starts_as_bilinear_interpolation_without_a_change_of_scale():
    network = Garg2016(base_channels=3, fc_channels=4)
    coarse = torch.rand(1, 1, 6, 8)
    bilinear = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    with torch.no_grad():
        enlarged = network.enlarge[0](coarse)
    torch.testing.assert_close(enlarged[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def test_skips_add_to_the_enlarged_disparity():
    network = Garg2016(base_channels=3, fc_channels=4).eval()
    for skip in (network.skip5, network.skip2, network.skip1):
        torch.nn.init.zeros_(skip.weight)
        torch.nn.init.zeros_(skip.bias)
    with torch.no_grad():
        outputs = network(torch.rand(1, 3, 64, 64))
        chain = outputs["disparity_5"]
        for enlarge in network.enlarge:
            chain = enlarge(chain)
        torch.testing.assert_close(outputs["disparity_0"], chain)
        torch.nn.init.constant_(network.skip1.bias, 3.0)
        raised = network(torch.rand(1, 3, 64, 64))
    assert raised["disparity_2"].mean() > outputs["disparity_2"].mean() + 1.0


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_garg(self):
        network = Garg2016(base_channels=3, fc_channels=4)
        check_export(network, (torch.rand(2, 3, 70, 97),), [(torch.rand(1, 3, 128, 65),)])
