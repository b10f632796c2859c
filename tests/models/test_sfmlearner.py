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

from fathom.models.sfmlearner import (
    PoseExplainabilityNet,
    PoseNet,
    SfMLearner,
    build_sfmlearner_pose,
    explainable,
)


def test_oracles_of_the_specification():
    check_oracles(("11.",))


def test_depth_is_the_reciprocal_of_the_finest_disparity():
    network = SfMLearner(base_channels=2).eval()
    outputs = network(torch.rand(2, 3, 37, 53))
    assert next(iter(outputs)) == "depth"
    torch.testing.assert_close(outputs["depth"] * outputs["disparity_0"], torch.ones(2, 1, 37, 53))
    assert ((outputs["depth"] > 0.0999) & (outputs["depth"] < 100.0)).all()


def test_depth_learns_and_is_steady():
    network = SfMLearner(base_channels=4)
    pictures = torch.rand(3, 3, 37, 53)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)


@pytest.mark.parametrize("explainability", [False, True])
@pytest.mark.parametrize("num_sources", [2, 4])
def test_pose_learns_and_is_steady(explainability, num_sources):
    network = build_sfmlearner_pose(explainability=explainability, num_sources=num_sources, base_channels=4)
    clip = torch.rand(3, 3, 65, 70), torch.rand(3, num_sources, 3, 65, 70)
    check_gradients(network, *clip)
    check_evaluation(network, *clip)


def test_pose_is_a_hundredth_of_the_mean_in_order_of_neighbours():
    network = PoseNet(num_sources=2, base_channels=2).eval()
    nn.init.zeros_(network.pose[2].weight)
    with torch.no_grad():
        network.pose[2].bias.copy_(torch.arange(12.0))
        pose = network(torch.rand(1, 3, 128, 160), torch.rand(1, 2, 3, 128, 160))
    torch.testing.assert_close(pose, 0.01 * torch.arange(12.0).reshape(1, 2, 6))


def test_an_untrained_pose_is_near_no_motion():
    pose = PoseNet(num_sources=2)(torch.rand(2, 3, 64, 64), torch.rand(2, 2, 3, 64, 64))
    assert pose.abs().max() < 0.05


@pytest.mark.parametrize("size", [(128, 416), (37, 53), (1, 1)])
def test_masks_at_four_scales(size):
    network = PoseExplainabilityNet(num_sources=2, base_channels=2)
    outputs = network(torch.rand(2, 3, *size), torch.rand(2, 2, 3, *size))
    assert list(outputs) == ["pose", *(f"explainability_{scale}" for scale in range(4))]
    assert sizes_of(outputs, "explainability", range(4)) == ceil_sizes(*size, range(4))
    assert outputs["explainability_0"].shape[:3] == (2, 2, 2)


def test_channel_one_means_explainable():
    logits = torch.zeros(1, 3, 2, 1, 1)
    logits[:, 1, 1] = 9.0
    logits[:, 2, 0] = 9.0
    assert [round(value, 3) for value in explainable(logits).flatten().tolist()] == [0.5, 1.0, 0.0]


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_pose(self):
        inputs = torch.rand(2, 3, 70, 97), torch.rand(2, 2, 3, 70, 97)
        other = torch.rand(1, 3, 128, 65), torch.rand(1, 2, 3, 128, 65)
        check_export(PoseNet(base_channels=2), inputs, [other])
