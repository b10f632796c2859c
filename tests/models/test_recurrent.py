import weakref

import pytest
import torch
from checks_b import EXPORT_WARNINGS, check_export, check_gradients
from torch import nn

from fathom.errors import ShapeError
from fathom.models.recurrent import ConvGRU, RecurrentDepth, VideoStream
from fathom.models.smp_grid import build_grid
from fathom.models.unet import UNet


@pytest.fixture
def network():
    return RecurrentDepth(UNet(base_channels=2)).eval()


def test_unit_follows_the_formula():
    unit = ConvGRU(1, 1, kernel_size=1)
    with torch.no_grad():
        unit.gates.weight.copy_(torch.tensor([[0.5, -1.0], [2.0, 0.25]])[..., None, None])
        unit.gates.bias.copy_(torch.tensor([0.1, -0.2]))
        unit.candidate.weight.copy_(torch.tensor([[1.5, -0.5]])[..., None, None])
        unit.candidate.bias.fill_(0.3)
        x, s = torch.tensor(0.7), torch.tensor(-0.4)
        got = unit(x.reshape(1, 1, 1, 1), s.reshape(1, 1, 1, 1))
    update = torch.sigmoid(0.5 * x - 1.0 * s + 0.1)
    forget = torch.sigmoid(2.0 * x + 0.25 * s - 0.2)
    candidate = torch.tanh(1.5 * x - 0.5 * forget * s + 0.3)
    torch.testing.assert_close(got.flatten(), ((1 - update) * s + update * candidate).reshape(1))


def test_a_closed_gate_keeps_the_memory_and_an_open_one_forgets_it():
    unit = ConvGRU(2, 2)
    memory = torch.rand(1, 2, 4, 4)
    nn.init.zeros_(unit.gates.weight)
    nn.init.constant_(unit.gates.bias, -100.0)
    torch.testing.assert_close(unit(torch.rand(1, 2, 4, 4), memory), memory)
    nn.init.constant_(unit.gates.bias[:2], 100.0)
    features = torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(unit(features, memory), unit(features, torch.zeros_like(memory)))


def test_unrolling_equals_going_picture_by_picture(network):
    clip = torch.rand(2, 4, 3, 20, 30)
    with torch.no_grad():
        outputs, last = network.unroll(clip)
        state = None
        for index in range(4):
            output, state = network(clip[:, index], state)
            torch.testing.assert_close(outputs[:, index], output)
    torch.testing.assert_close(last, state)
    assert outputs.shape == (2, 4, 1, 20, 30)


def test_unrolling_stacks_dictionaries():
    network = RecurrentDepth(UNet(base_channels=2, head="bins", head_options={"num_bins": 4}))
    outputs = network.unroll(torch.rand(2, 3, 3, 16, 32)).output
    assert {key: value.shape for key, value in outputs.items()} == {
        "depth": (2, 3, 1, 16, 32),
        "bin_centers": (2, 3, 4),
    }


def test_gradients_go_back_through_time():
    network = RecurrentDepth(UNet(base_channels=2))
    clip = torch.rand(2, 3, 3, 16, 32, requires_grad=True)
    network.unroll(clip).output[:, -1].sum().backward()
    assert all(clip.grad[:, index].abs().sum() > 0 for index in range(3))
    check_gradients(RecurrentDepth(UNet(base_channels=2)), torch.rand(2, 3, 16, 32))


def test_the_past_matters_until_it_is_reset(network):
    stream, picture = VideoStream(network), torch.rand(1, 3, 20, 30)
    first = stream(picture)
    stream(torch.rand(1, 3, 20, 30))
    assert not torch.equal(stream(picture), first)
    stream.reset()
    assert torch.equal(stream(picture), first)


def test_memory_does_not_grow(network):
    stream = VideoStream(network)
    past = []
    for _ in range(12):
        stream(torch.rand(1, 3, 16, 16))
        assert stream.state is not None and stream.state.shape == (1, 2, 16, 16) and stream.state.grad_fn is None
        past.append(weakref.ref(stream.state))
    # Only the last memory is alive: nothing holds on to those before it.
    assert [memory() is not None for memory in past] == [False] * 11 + [True]


def test_another_size_asks_for_a_reset(network):
    stream = VideoStream(network)
    stream(torch.rand(1, 3, 16, 16))
    with pytest.raises(ShapeError, match=r"\(1, 2, 32, 16\) .* got \(1, 2, 16, 16\)\. Reset it"):
        stream(torch.rand(1, 3, 32, 16))
    stream.reset()
    assert stream(torch.rand(1, 3, 32, 16)).shape == (1, 1, 32, 16)


def test_it_stands_behind_a_cell_of_the_grid():
    network = RecurrentDepth(build_grid("FPN", "test_resnet", decoder_segmentation_channels=32)).eval()
    first = network(torch.rand(1, 3, 37, 53))
    second = network(torch.rand(1, 3, 37, 53), first.state)
    assert second.output.shape == (1, 1, 37, 53) and second.state.shape == (1, 32, 16, 16)


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_one_step_with_its_memory(self, network):
        inputs = torch.rand(2, 3, 48, 64), torch.rand(2, 2, 48, 64)
        other = torch.rand(1, 3, 37, 50), torch.rand(1, 2, 37, 50)
        check_export(network, inputs, [other])
