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
from torch import nn

from fathom.errors import ConfigError
from fathom.models.monodepth2 import (
    Monodepth2,
    Monodepth2Pose,
    ResNet18Encoder,
    build_monodepth2_resnet18,
    disp_to_depth,
)


def small() -> Monodepth2:
    return build_monodepth2_resnet18(base_channels=2, decoder_channels=(2, 2, 4, 4, 4))


def test_oracles_of_the_specification():
    check_oracles(("12.",))


@pytest.mark.parametrize("size", [(192, 640), (37, 53), (70, 20), (20, 70), (1, 1)])
def test_depth_and_four_scales_at_any_size(size):
    outputs = small().eval()(torch.rand(1, 3, *size))
    assert list(outputs) == ["depth", *(f"disparity_{scale}" for scale in range(4))]
    assert sizes_of(outputs, "disparity", range(4)) == ceil_sizes(*size, range(4))
    torch.testing.assert_close(outputs["depth"], disp_to_depth(outputs["disparity_0"]))
    assert ((outputs["depth"] >= 0.1) & (outputs["depth"] <= 100.0)).all()


def test_depth_learns_and_is_steady():
    network = small()
    pictures = torch.rand(3, 3, 64, 70)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


def test_encoder_is_torchvisions_resnet18():
    torchvision = pytest.importorskip("torchvision")
    reference = torchvision.models.resnet18().eval()
    encoder = ResNet18Encoder().eval()
    weights = {key: value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    encoder.load_state_dict(weights, strict=True)
    picture = torch.rand(1, 3, 64, 96)
    maps = reference.maxpool(reference.relu(reference.bn1(reference.conv1(picture))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        maps = layer(maps)
    with torch.no_grad():
        torch.testing.assert_close(encoder(picture)[-1], maps)


def test_borders_are_mirrored():
    network = small()
    layer = network.decoder.predict[0]
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.zero_()
        layer.conv.weight[0, 0, 1, 0] = 1.0
        ramp = torch.arange(5.0).expand(1, 2, 4, 5)
        # The left neighbour of column 0 is column 1.
        assert layer(ramp)[0, 0, 0].tolist() == [1.0, 0.0, 1.0, 2.0, 3.0]
        # A single column mirrors into itself.
        assert layer(torch.full((1, 2, 4, 1), 7.0)).flatten().tolist() == [7.0] * 4


def test_the_range_of_depth_can_be_chosen():
    network = build_monodepth2_resnet18(
        base_channels=2, decoder_channels=(2, 2, 4, 4, 4), min_depth=1.0, max_depth=20.0
    ).eval()
    depth = network(torch.randn(1, 3, 64, 64))["depth"]
    assert depth.min() >= 1.0 and depth.max() <= 20.0


@pytest.mark.parametrize("limits", [(0.0, 10.0), (5.0, 5.0), (-1.0, 2.0)])
def test_a_wrong_range_is_told(limits):
    with pytest.raises(ConfigError, match="0 < min_depth < max_depth"):
        disp_to_depth(torch.tensor(0.5), *limits)


@pytest.mark.parametrize("num_motions", [1, 2])
def test_pose_learns_and_is_steady(num_motions):
    network = Monodepth2Pose(base_channels=2, decoder_channels=4, num_motions=num_motions)
    pair = torch.rand(3, 3, 64, 70), torch.rand(3, 3, 64, 70)
    check_gradients(network, *pair)
    check_evaluation(network, *pair)
    assert network(*pair).shape == (3, num_motions, 6)


def test_pose_is_a_hundredth_of_the_mean():
    network = Monodepth2Pose(base_channels=2, decoder_channels=4).eval()
    nn.init.zeros_(network.decoder[-1].weight)
    with torch.no_grad():
        network.decoder[-1].bias.copy_(torch.arange(6.0))
        pose = network(torch.rand(1, 3, 33, 64), torch.rand(1, 3, 33, 64))
    torch.testing.assert_close(pose, 0.01 * torch.arange(6.0).reshape(1, 1, 6))


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_depth(self):
        check_export(small(), (torch.rand(2, 3, 70, 97),), [(torch.rand(1, 3, 128, 65),)])

    def test_pose(self):
        inputs, other = ([torch.rand(2, 3, 70, 97)] * 2, [torch.rand(1, 3, 128, 65)] * 2)
        network = Monodepth2Pose(base_channels=2, decoder_channels=4)
        check_export(network, tuple(inputs), [tuple(other)])
