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

from fathom.models.monodepth import build_monodepth_resnet50, build_monodepth_vgg

SMALL = {"vgg": (build_monodepth_vgg, 2), "resnet50": (build_monodepth_resnet50, 4)}


@pytest.fixture(params=list(SMALL))
def network(request):
    build, width = SMALL[request.param]
    return build(base_channels=width)


def test_oracles_of_the_specification():
    check_oracles(("10.",))


@pytest.mark.parametrize("size", [(128, 256), (37, 53), (1, 130)])
def test_two_pyramids_at_any_size(network, size):
    outputs = network(torch.rand(2, 3, *size))
    assert list(outputs) == [f"{name}_{scale}" for name in ("disparity", "disparity_right") for scale in range(4)]
    for name in ("disparity", "disparity_right"):
        assert sizes_of(outputs, name, range(4)) == ceil_sizes(*size, range(4))
    assert all(map.shape[1] == 1 and ((map > 0) & (map < 0.3)).all() for map in outputs.values())


def test_learns_and_is_steady(network):
    pictures = torch.rand(3, 3, 64, 70)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


def test_the_first_channel_is_the_left_picture():
    network = build_monodepth_vgg(base_channels=2).eval()
    with torch.no_grad():
        for layer in network.predict:
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([-50.0, 50.0]))
        outputs = network(torch.rand(1, 3, 128, 128))
    assert outputs["disparity_0"].max() < 1e-6 and outputs["disparity_right_0"].min() > 0.299


def test_nothing_is_normalised(network):
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_vgg_strides_on_the_second_convolution():
    stages = build_monodepth_vgg(base_channels=2).encoder.stages
    assert [[block[0].stride[0] for block in stage] for stage in stages] == [[1, 2]] * 7
    assert [stage[0][0].kernel_size[0] for stage in stages] == [7, 5, 3, 3, 3, 3, 3]


def test_resnet_strides_in_the_last_block_of_each_stage():
    stages = build_monodepth_resnet50(base_channels=4).encoder.stages
    assert [[block.body[1][0].stride[0] for block in stage] for stage in stages] == [
        [1, 1, 2],
        [1, 1, 1, 2],
        [1, 1, 1, 1, 1, 2],
        [1, 1, 2],
    ]


def test_resnet_projects_only_where_shape_changes_unless_told():
    for always, kinds in ((False, [nn.Conv2d, nn.Identity, nn.Conv2d]), (True, [nn.Conv2d] * 3)):
        stage = build_monodepth_resnet50(base_channels=4, always_project=always).encoder.stages[0]
        assert [type(block.shortcut) for block in stage] == kinds


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_vgg(self):
        check_export(build_monodepth_vgg(base_channels=2), (torch.rand(2, 3, 70, 97),), [(torch.rand(1, 3, 128, 65),)])
