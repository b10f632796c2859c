"""FCRN: counts, shapes, the fast up-convolution against its definition, released padding, trunk."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError, ShapeError, WeightsError
from fathom.models import build
from fathom.models.base import count_parameters
from fathom.models.fcrn import FCRN, RELEASE_OPTIONS, build_fcrn
from fathom.models.layers import UpConvolution, UpProjection, unpool
from fathom.models.resnet_v1 import ResNetV1

# decoder: (no biases, layer1 and decoder biases, these and conv1's bias and the moments of batch normalisation)
COUNTS = {
    "upproj": (63_563_008, 63_566_913, 63_627_905),
    "upconv": (43_017_728, 43_019_713, 43_076_865),
    "deconv2": (28_395_008, 28_396_993, 28_454_145),
    "deconv3": (31_876_608, 31_878_593, 31_935_745),
}
PUBLISHED_MILLIONS = {"upproj": 63.6, "upconv": 43.1, "deconv2": 28.5}
SIZES = [(1, 1), (2, 2), (5, 7)]


def meta(**options: object) -> nn.Module:
    with torch.device("meta"):
        return build_fcrn(**options)


@pytest.mark.parametrize("decoder", COUNTS)
def test_parameter_counts(decoder: str) -> None:
    none, biased, with_moments = COUNTS[decoder]
    assert count_parameters(meta(decoder=decoder)) == none
    assert count_parameters(meta(decoder=decoder, bias="decoder")) == biased
    assert count_parameters(meta(decoder=decoder, bias="matconvnet"), moments=True) == with_moments


@pytest.mark.parametrize("decoder", PUBLISHED_MILLIONS)
def test_published_millions_count_the_moments(decoder: str) -> None:
    count = count_parameters(meta(decoder=decoder, bias="matconvnet"), moments=True)
    assert abs(count / 1e6 - PUBLISHED_MILLIONS[decoder]) < 0.05


def test_tensorflow_graph_has_a_bias_per_interleaved_convolution() -> None:
    network = meta(bias="tensorflow")
    assert count_parameters(network) == 63_572_737
    assert count_parameters(network, moments=True) == 63_633_665


def test_trunk_counts() -> None:
    with torch.device("meta"):
        trunk = ResNetV1()
    assert count_parameters(trunk) == 23_508_032
    assert sum(layer.num_features for layer in trunk.modules() if isinstance(layer, nn.BatchNorm2d)) == 26_560


def test_up_projection_convolution_weights() -> None:
    sums = []
    for channels in (1024, 512, 256, 128):
        with torch.device("meta"):
            block = UpProjection(channels, channels // 2)
        sums.append(sum(weight.numel() for weight in block.parameters() if weight.ndim == 4))
    assert sums[0] == 28_573_696
    assert sum(sums) == 37_949_440
    assert sum(sums) / sums[0] == 1.328125


def test_coreml_file_sizes() -> None:
    assert round(63_627_905 * 4 / 1e6, 1) == 254.5
    assert round(63_627_905 * 2 / 1e6, 1) == 127.3


@pytest.mark.parametrize(
    ("size", "stages", "output"),
    [
        ((228, 304), [(114, 152), (57, 76), (29, 38), (15, 19), (8, 10)], (128, 160)),
        ((480, 640), [(240, 320), (120, 160), (60, 80), (30, 40), (15, 20)], (240, 320)),
        ((230, 173), [(115, 87), (58, 44), (29, 22), (15, 11), (8, 6)], (128, 96)),
        ((224, 224), [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)], (112, 112)),
    ],
)
@pytest.mark.parametrize("pad_mode", ["exact", "official"])
def test_stage_shapes(
    size: tuple[int, int], stages: list[tuple[int, int]], output: tuple[int, int], pad_mode: str
) -> None:
    with torch.device("meta"):
        network = build_fcrn(width=4, blocks=(1, 1, 1, 1), pad_mode=pad_mode).eval()
        image = torch.empty(1, 3, *size)
    assert [tuple(maps.shape[2:]) for maps in network.trunk(image)] == stages
    maps = network.trunk(image)[-1]
    maps = network.layer1(maps)
    for step in (1, 2, 3):
        maps = network.decoder[step - 1](maps)
        assert tuple(maps.shape[2:]) == (stages[-1][0] * 2**step, stages[-1][1] * 2**step)
    assert tuple(network(image).shape) == (1, 1, *output)


@pytest.mark.parametrize("decoder", COUNTS)
def test_shape_law(decoder: str) -> None:
    with torch.device("meta"):
        network = build_fcrn(width=4, blocks=(1, 1, 1, 1), decoder=decoder).eval()
        for height, width in [(1, 1), (31, 33), (32, 64), (65, 250), (227, 305)]:
            expected = (16 * -(-height // 32), 16 * -(-width // 32))
            assert tuple(network(torch.empty(1, 3, height, width)).shape[2:]) == expected


def test_channel_chain() -> None:
    network = meta()
    assert network.trunk.channels == (64, 256, 512, 1024, 2048)
    assert network.layer1.out_channels == 1024
    assert [block.bn.num_features for block in network.decoder] == [512, 256, 128, 64]
    assert network.head.in_channels == 64


def layer_of(form: str, pad_mode: str = "exact", bias: str = "none") -> UpConvolution:
    torch.manual_seed(1)
    layer = UpConvolution(3, 4, form=form, pad_mode=pad_mode, bias=bias).double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("size", SIZES)
def test_exact_mode_is_unpool_and_5x5(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    layer = layer_of("branches")
    kernel = layer.kernel()
    spread = torch.zeros(2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    spread[:, :, ::2, ::2] = maps
    assert torch.equal(unpool(maps), spread)
    expected = functional.conv2d(spread, kernel, padding=2)
    torch.testing.assert_close(layer(maps), expected, rtol=0, atol=1e-12)
    transposed = functional.conv_transpose2d(
        maps, kernel.flip(2, 3).transpose(0, 1), stride=2, padding=2, output_padding=1
    )
    torch.testing.assert_close(layer(maps), transposed, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(maps), pixel_shuffle_form(maps, kernel), rtol=0, atol=1e-12)


def pixel_shuffle_form(maps: Tensor, kernel: Tensor) -> Tensor:
    """One 3x3 convolution, channel c * 4 + 2 * row phase + column phase; two-tap kernels occupy taps 1 and 2."""
    big = torch.zeros(kernel.shape[0], 4, kernel.shape[1], 3, 3, dtype=kernel.dtype)
    for row in (0, 1):
        for column in (0, 1):
            big[:, 2 * row + column, :, row:, column:] = kernel[:, :, row::2, column::2]
    return functional.pixel_shuffle(functional.conv2d(maps, big.flatten(0, 1), padding=1), 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", ["none", "shared", "per_phase"])
@pytest.mark.parametrize("pad_mode", ["exact", "official"])
def test_all_forms_agree(size: tuple[int, int], bias: str, pad_mode: str) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    reference = layer_of("branches", pad_mode, bias)
    for form in ("shuffle", "unpool"):
        torch.testing.assert_close(layer_of(form, pad_mode, bias)(maps), reference(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pad_mode", ["exact", "official"])
def test_channels_last_stays_and_gives_the_same(pad_mode: str) -> None:
    """Where a block changes the layout of memory, everything behind it runs in the wrong one or is copied."""
    torch.manual_seed(0)
    block = UpProjection(4, 2, pad_mode=pad_mode).double()
    maps = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((block(maps) ** 2).sum(), maps)
    block.to(memory_format=torch.channels_last)
    last = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for layer in (block.up1, block.up2, block):
        out = layer(last)
        assert out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
        torch.testing.assert_close(out, layer(maps), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((block(last) ** 2).sum(), last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_worked_example() -> None:
    layer = UpConvolution(1, 1)
    layer.load_kernel(torch.arange(25.0).view(1, 1, 5, 5))
    assert layer(torch.ones(1, 1, 1, 1)).flatten(2).tolist() == [[[12.0, 11.0, 7.0, 6.0]]]
    assert torch.equal(layer.kernel().flatten(), torch.arange(25.0))


@pytest.mark.parametrize("size", SIZES)
def test_official_mode_is_unpool_and_7x7_with_holes(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    layer = layer_of("branches", "official")
    kernel = torch.zeros(4, 3, 7, 7, dtype=torch.float64)
    kernel[:, :, 1::2, 1::2] = layer.weight_a
    kernel[:, :, 0:3:2, 1::2] = layer.weight_b
    kernel[:, :, 1::2, 0:3:2] = layer.weight_c
    kernel[:, :, 0:3:2, 0:3:2] = layer.weight_d
    expected = functional.conv2d(unpool(maps), kernel, padding=3)
    torch.testing.assert_close(layer(maps), expected, rtol=0, atol=1e-12)
    assert torch.equal(layer.kernel(), kernel)


def test_official_mode_is_another_function() -> None:
    maps = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    exact, official = layer_of("branches")(maps), layer_of("branches", "official")(maps)
    assert torch.equal(exact[:, :, ::2, ::2], official[:, :, ::2, ::2])
    for rows, columns in ((1, 0), (0, 1), (1, 1)):
        assert not torch.allclose(exact[:, :, rows::2, columns::2], official[:, :, rows::2, columns::2])
    # Odd rows look one input row earlier: the inside is shifted by two output rows.
    torch.testing.assert_close(exact[:, :, 1:-2:2, ::2], official[:, :, 3::2, ::2], rtol=0, atol=1e-12)


def test_official_mode_as_padded_convolutions() -> None:
    """The ports' pads, (left, right, top, bottom): B (1,1,1,0), C (1,0,1,1), D (1,0,1,0)."""
    maps = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    layer = layer_of("branches", "official")
    out = layer(maps)
    for phase, pad, place in (
        ("a", (1, 1, 1, 1), (0, 0)),
        ("b", (1, 1, 1, 0), (1, 0)),
        ("c", (1, 0, 1, 1), (0, 1)),
        ("d", (1, 0, 1, 0), (1, 1)),
    ):
        branch = functional.conv2d(functional.pad(maps, pad), layer.get_parameter(f"weight_{phase}"))
        torch.testing.assert_close(out[:, :, place[0] :: 2, place[1] :: 2], branch, rtol=0, atol=1e-12)


def test_a_quarter_of_the_multiplications() -> None:
    taps = sum(layer_of("branches").get_parameter(f"weight_{phase}")[0, 0].numel() for phase in "abcd")
    assert taps == 25  # per four outputs; the naive form needs 4 * 25


@pytest.mark.parametrize("form", ["shuffle", "unpool"])
def test_whole_decoder_fast_equals_naive(form: str) -> None:
    fast = build_fcrn(width=8, blocks=(1, 1, 1, 1)).eval()
    other = build_fcrn(width=8, blocks=(1, 1, 1, 1), form=form).eval()
    other.load_state_dict(fast.state_dict())
    image = torch.randn(2, 3, 76, 101)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), other(image), rtol=0, atol=1e-5)


def test_gradients_of_fast_and_naive_agree() -> None:
    maps = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    gradients = []
    for form in ("branches", "shuffle", "unpool"):
        layer = layer_of(form, bias="per_phase")
        (layer(maps) ** 2).sum().backward()
        gradients.append([maps.grad.clone(), *(weight.grad for weight in layer.parameters())])
        maps.grad = None
    for other in gradients[1:]:
        for left, right in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-10)


def test_stride_sits_in_the_first_convolution() -> None:
    trunk = ResNetV1(width=4)
    for stage, stride in zip(range(1, 5), (1, 2, 2, 2), strict=True):
        block = trunk.get_submodule(f"layer{stage}")[0]
        assert block.conv1.stride == (stride, stride) == block.downsample[0].stride
        assert block.conv2.stride == (1, 1) == block.conv3.stride


def test_trunk_is_another_function_than_torchvision_with_the_same_names() -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.resnet50().eval()
    ours = ResNetV1(bn_eps=1e-5).eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(weights)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        shared = torch.nn.Sequential(theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool, theirs.layer1)
        torch.testing.assert_close(ours(image)[1], shared(image), rtol=0, atol=1e-4)
        assert not torch.allclose(ours(image)[2], theirs.layer2(shared(image)), atol=1e-3)


@pytest.mark.parametrize(("size", "before"), [((114, 152), 0), ((115, 87), 1), ((5, 6), None)])
def test_same_padding_of_the_pool(size: tuple[int, int], before: int | None) -> None:
    """TensorFlow pads (0, 1) at even sides and (1, 1) at odd ones."""
    maps = torch.randn(1, 2, *size).relu()
    trunk = ResNetV1((1, 1, 1, 1), width=2, pool_padding="same")
    pooled = trunk._pool(maps)
    for axis, side in enumerate(size):
        start = 0 if side % 2 == 0 else -1
        if before is not None:
            assert start == -before
        assert pooled.shape[2 + axis] == -(-side // 2)
    expected = torch.zeros_like(pooled)
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            top, left = 2 * row - size[0] % 2, 2 * column - size[1] % 2
            window = maps[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
            expected[:, :, row, column] = window.amax(dim=(2, 3))
    assert torch.equal(pooled, expected)
    if size == (114, 152):
        shifted = functional.max_pool2d(maps, 3, stride=2, padding=1)
        assert shifted.shape == pooled.shape and not torch.equal(shifted, pooled)


def test_release_options() -> None:
    network = build_fcrn(width=4, blocks=(1, 1, 1, 1), **RELEASE_OPTIONS).eval()
    assert {layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-4}
    assert {layer.momentum for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.001}
    assert network.trunk.conv1.bias is not None and network.trunk.pool_padding == "same"
    with torch.no_grad():
        network.head.bias.fill_(-100.0)
        assert network(torch.zeros(1, 3, 32, 32)).max() == 0.0


def test_no_skip_connections() -> None:
    """Only the coarsest map reaches the decoder."""
    network = build_fcrn(width=4, blocks=(1, 1, 1, 1)).eval()
    image = torch.randn(1, 3, 64, 64)
    coarsest = network.trunk(image)[-1]

    class Last(nn.Module):
        def forward(self, maps: Tensor) -> list[Tensor]:
            return [maps]

    expected = network(image)
    network.trunk = Last()
    assert isinstance(network, FCRN)
    maps = network.layer1_bn(network.layer1(coarsest))
    assert torch.equal(network.head(network.decoder(maps)), expected)


def test_any_encoder_of_timm_is_a_trunk() -> None:
    network = build("fcrn-upproj", trunk="test_resnet").eval()
    channels = network.trunk.channels[-1]
    assert network.layer1.in_channels == channels and network.layer1.out_channels % 16 == 0
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 32, 48)
    with pytest.raises(ModelError, match=r"Expected the name of an encoder of timm; got 'resnet5o'"):
        build("fcrn-upproj", trunk="resnet5o")


def test_wrong_options_are_told() -> None:
    with pytest.raises(ModelError, match=r"`decoder` must be"):
        build_fcrn(decoder="upsample", width=4, blocks=(1, 1, 1, 1))
    with pytest.raises(ModelError, match=r"`bias` must be"):
        build_fcrn(bias="all", width=4, blocks=(1, 1, 1, 1))
    with pytest.raises(ModelError, match=r"`pad_mode` must be"):
        UpConvolution(1, 1, pad_mode="same")
    with pytest.raises(ModelError, match=r"`form` must be"):
        UpConvolution(1, 1, form="fast")
    with pytest.raises(ModelError, match=r"`pool_padding` must be"):
        ResNetV1((1, 1, 1, 1), width=2, pool_padding="valid")
    with pytest.raises(ModelError, match=r"must be even"):
        build("fcrn-compact", base_channels=7)
    with pytest.raises(ShapeError, match=r"must have the shape \(B, 3, h, w\)"):
        build("fcrn-compact")(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("decoder", COUNTS)
def test_compact_variant_returns_the_size_of_the_image(decoder: str) -> None:
    network = build("fcrn-compact", decoder=decoder, base_channels=4).eval()
    for size in ((37, 53), (1, 9), (64, 64)):
        assert tuple(network(torch.zeros(1, 3, *size)).shape) == (1, 1, *size)


@pytest.mark.slow
def test_pretrained_trunk_loads_and_sees(pretrained_folder: Path) -> None:
    path = pretrained_folder / "resnet50_v1_imagenet_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    network = build("fcrn-deconv2", trunk_weights=str(path)).eval()
    with torch.no_grad():
        features = network.trunk(torch.randn(1, 3, 96, 96) * 0.2)
    for maps in features:
        assert torch.isfinite(maps).all()
        # Trained batch statistics keep rectified maps in range; a wrong layout explodes or dies within 50 layers.
        assert 0.01 < float(maps.mean()) < 10.0
    with pytest.raises(WeightsError, match=r"looks like a checkpoint of: ResNet-50"):
        build("vgg16-regressor", width=0.0625, hidden=4, trunk_weights=str(path))
