"""VGG-16, the regressor on it, and multi-scale convolution."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from fathom.errors import ModelError, ShapeError
from fathom.models import build
from fathom.models.base import count_parameters
from fathom.models.multiscale import MultiScaleConv, reparameterise
from fathom.models.vgg import VGG16Features
from fathom.models.vgg_regressor import VGG16Regressor


def test_counts() -> None:
    with torch.device("meta"):
        assert count_parameters(VGG16Features()) == 14_714_688
        assert count_parameters(VGG16Regressor(head="global", outputs=1000)) == 138_357_544
        assert count_parameters(VGG16Regressor()) == 134_264_641


def test_counts_of_the_articles_own_listing() -> None:
    """Its 3x3 layers 11 and 12 and its sum are reproduced from their shapes, to show that they are not VGG-16."""
    assert (512 * 9 + 0) * 4096 + 4096 == 18_878_464
    assert 4096 * 9 * 4096 + 4096 == 150_999_040
    with torch.device("meta"):
        assert count_parameters(VGG16Regressor().fc6) == 102_764_544  # 7x7


def test_layer_names_and_function_are_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.vgg16().features.eval()
    ours = VGG16Features().eval()
    theirs.load_state_dict(ours.features.state_dict(), assign=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[-1], theirs(image), rtol=1e-4, atol=1e-5)


def test_stages_and_the_one_pool_per_stage() -> None:
    with torch.device("meta"):
        maps = VGG16Features()(torch.empty(1, 3, 224, 224))
        shapes = [tuple(stage.shape[1:]) for stage in maps]
    expected = [(64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28), (512, 14, 14), (512, 7, 7)]
    assert shapes == expected
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in VGG16Features(0.0625).modules()) == 5


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (228, 304), (64, 32)])
def test_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    for name, options in (
        ("vgg16-regressor", {"width": 0.0625, "hidden": 4}),
        ("multiscale-conv", {"width": 0.0625, "channels": 8}),
    ):
        network = build(name, **options).eval()
        with torch.no_grad():
            assert tuple(network(torch.randn(2, 3, *size)).shape) == (2, 1, *size)


def test_regressor_can_predict_below_zero() -> None:
    """No rectifier at the end: gradients live wherever the prediction is."""
    network = VGG16Regressor(width=0.0625, hidden=4).eval()
    with torch.no_grad():
        network.score.bias.fill_(-7.0)
        network.score.weight.zero_()
        assert torch.equal(network(torch.zeros(1, 3, 32, 32)), torch.full((1, 1, 32, 32), -7.0))


def test_global_head_is_one_number_per_image() -> None:
    network = VGG16Regressor(head="global", width=0.0625, hidden=4).eval()
    assert tuple(network(torch.zeros(2, 3, 224, 224)).shape) == (2, 1)
    with pytest.raises(ShapeError, match="at least 224"):
        network(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ModelError, match="`head` must be"):
        build("vgg16-regressor", head="scalar")


@pytest.mark.slow
def test_pretrained_trunk_loads(pretrained_folder: Path) -> None:
    path = pretrained_folder / "vgg16_features_imagenet_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    network = build("multiscale-conv", trunk_weights=str(path)).eval()
    with torch.no_grad():
        maps = network.trunk(torch.randn(1, 3, 64, 64))[-1]
    assert torch.isfinite(maps).all() and 0.0 < float(maps.mean()) < 50.0
    eigen = build("eigen2015-vgg", trunk_weights=str(path), hidden=8)
    assert torch.equal(eigen.scale1.trunk.vgg.features[0].weight, network.trunk.features[0].weight)


@pytest.mark.parametrize("fuse", ["sum", "concat"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 8)])
def test_parallel_kernels_are_one_7x7_convolution(fuse: str, size: tuple[int, int]) -> None:
    block = MultiScaleConv(3, 5, fuse=fuse).double()
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    single = block.reparameterised()
    assert single.kernel_size == (7, 7)
    torch.testing.assert_close(single(maps), block(maps), rtol=0, atol=1e-12)


def test_sum_kernel_is_the_sum_of_centred_kernels() -> None:
    block = MultiScaleConv(2, 3, fuse="sum").double()
    expected = sum(
        functional.pad(block.branches[f"scale1_kernel{kernel}"].weight, [(7 - kernel) // 2] * 4)
        for kernel in (1, 3, 5, 7)
    )
    torch.testing.assert_close(block.reparameterised().weight, expected, rtol=0, atol=0)


def test_zeroing_all_branches_but_one_leaves_a_plain_convolution() -> None:
    block = MultiScaleConv(3, 5, fuse="sum").double()
    with torch.no_grad():
        for kernel in (1, 5, 7):
            for weight in block.branches[f"scale1_kernel{kernel}"].parameters():
                weight.zero_()
    maps = torch.randn(1, 3, 7, 9, dtype=torch.float64)
    plain = block.branches["scale1_kernel3"]
    expected = functional.conv2d(maps, plain.weight, plain.bias, padding=1)
    torch.testing.assert_close(block(maps), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scales", [(1,), (1, 2, 4)])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (37, 53)])
def test_block_keeps_odd_sizes(scales: tuple[int, ...], size: tuple[int, int]) -> None:
    assert tuple(MultiScaleConv(3, 8, scales=scales)(torch.randn(1, 3, *size)).shape) == (1, 8, *size)


@pytest.mark.parametrize(("channels", "branch", "out"), [(3, 2, 8), (16, 4, 16), (7, 5, 11)])
def test_block_count(channels: int, branch: int, out: int) -> None:
    block = MultiScaleConv(channels, out, branch_channels=branch)
    expected = channels * branch * (1 + 9 + 25 + 49) + 4 * branch + 4 * branch * out + out
    assert count_parameters(block) == expected


@pytest.mark.parametrize("fuse", ["sum", "concat"])
def test_whole_network_folds(fuse: str) -> None:
    network = build("multiscale-conv", width=0.0625, channels=8, fuse=fuse).eval()
    folded = reparameterise(network)
    assert not any(isinstance(part, MultiScaleConv) for part in folded.modules())
    assert any(isinstance(part, MultiScaleConv) for part in network.modules())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-4, atol=1e-4)


def test_pooled_scales_do_not_fold() -> None:
    network = build("multiscale-conv", width=0.0625, channels=8, scales=(1, 2))
    assert any(isinstance(part, MultiScaleConv) for part in reparameterise(network).modules())
    with pytest.raises(ModelError, match=r"Only a block with scales=\(1,\)"):
        MultiScaleConv(3, 4, scales=(1, 2)).reparameterised()


def test_wrong_options_are_told() -> None:
    for options, words in (
        ({"fuse": "max"}, "`fuse` must be"),
        ({"kernels": (2, 3)}, "odd sides"),
        ({"scales": ()}, "pooling factors"),
        ({"fuse": "sum", "branch_channels": 3}, "a branch has 8 channels"),
    ):
        with pytest.raises(ModelError, match=words):
            MultiScaleConv(3, 8, **options)
    with pytest.raises(ModelError, match="multiple of 8"):
        build("multiscale-conv", channels=12)
