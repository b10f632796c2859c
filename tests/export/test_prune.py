"""Structured pruning: what carries nothing can go without a trace, and everything tied to it goes along."""

import pytest

pytest.importorskip("torch", reason="networks need torch")
pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning (pip install 'fathom-depth[prune]')")

import torch
from export_helpers import TinyDepth

from fathom.errors import ModelError
from fathom.export.prune import prune_channels


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_channels_of_zeros_leave_the_output_as_it_is():
    torch.manual_seed(0)
    network = TinyDepth().eval()
    image = torch.rand(1, 3, 32, 48)
    dead = [0, 3, 5, 6]
    with torch.no_grad():
        # `down` and `deep` are tied by the residual sum: a channel is dead where both give zero.
        for layer in (network.down[0], network.deep[2]):
            layer.weight[dead] = 0
            layer.bias[dead] = 0
        norm = network.down[1]
        norm.weight[dead], norm.bias[dead] = 0, 0
        norm.running_mean.zero_()
        network.deep[0].weight[:4], network.deep[0].bias[:4] = 0, 0
        # The pixel shuffle ties groups of four channels.
        network.join.weight[4:12], network.join.bias[4:12] = 0, 0
        before = network(image)
    result = prune_channels(network, image, share=0.5)
    with torch.no_grad():
        torch.testing.assert_close(result.network(image), before, rtol=0, atol=1e-6)
    assert result.widths["down.0"] == (8, 4)
    assert result.widths["join"] == (16, 8)


def test_parameters_follow_the_formula():
    network = TinyDepth()
    result = prune_channels(network, torch.rand(1, 3, 32, 48), share=0.5)
    # down 3->4 and its norm, deep 4->4 twice, join 8->8, head 2->1; kernels of 9 and biases.
    expected = (3 * 4 * 9 + 4) + 2 * 4 + 2 * (4 * 4 * 9 + 4) + (8 * 8 * 9 + 8) + (2 * 1 * 9 + 1)
    assert result.parameters_after == count(network) == expected
    assert result.multiplications_after < result.multiplications_before
    assert "| join | 16 | 8 |" in result.markdown()


def test_named_layers_keep_their_channels():
    network = TinyDepth()
    result = prune_channels(network, torch.rand(1, 3, 32, 48), share=0.5, keep=("join",))
    assert "join" not in result.widths and "down.0" in result.widths


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 1.5}, "between 0 and 1"),
        ({"share": 0.5, "criterion": "l3"}, "l1 or bn"),
        ({"share": 0.5, "keep": ("x",)}, "No layer"),
    ],
)
def test_wrong_choices(options, words):
    with pytest.raises(ModelError, match=words):
        prune_channels(TinyDepth(), torch.rand(1, 3, 32, 48), **options)
