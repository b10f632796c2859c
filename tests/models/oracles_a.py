"""Published and derived numbers that the first half of the zoo must meet: rows of (name, expected, how to compute it).

``python benchmarks/oracle_table_models.py`` prints them with the second half. Counts and shapes are computed on the
meta device: no memory is used.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.models.base import count_parameters
from fathom.models.eigen2014 import Eigen2014, build_eigen2014, sample_target
from fathom.models.eigen2015 import build_eigen2015, build_net12
from fathom.models.fcrn import build_fcrn
from fathom.models.layers import UpConvolution, UpProjection, unpool
from fathom.models.multiscale import MultiScaleConv
from fathom.models.resnet_v1 import ResNetV1
from fathom.models.vgg import VGG16Features
from fathom.models.vgg_regressor import VGG16Regressor

Oracle = tuple[str, Any, Callable[[], Any]]


def _count(build: Callable[..., nn.Module], *parts: str, moments: bool = False, **options: Any) -> Callable[[], int]:
    def count() -> int:
        with torch.device("meta"):
            network = build(**options)
        return sum(count_parameters(network.get_submodule(part), moments=moments) for part in parts or ("",))

    return count


def _sizes(build: Callable[..., nn.Module], size: tuple[int, int], parts: list[str], **options: Any) -> Any:
    """Record the output sizes of sub-modules, each at its first call."""

    def record() -> list[tuple[int, int]]:
        with torch.device("meta"):
            network = build(**options).eval()
            image = torch.empty(1, 3, *size)
        sizes: dict[str, tuple[int, int]] = {}
        for part in parts:

            def keep(module: nn.Module, inputs: Any, output: Any, part: str = part) -> None:
                maps = output[-1] if isinstance(output, list) else output
                sizes.setdefault(part, (maps.shape[-2], maps.shape[-1]))

            if part:
                network.get_submodule(part).register_forward_hook(keep)
        result = network(image)
        last = next(iter(result.values())) if isinstance(result, dict) else result
        sizes[""] = (last.shape[-2], last.shape[-1])
        return [sizes[part] for part in parts]

    return record


def _pool_sizes(size: tuple[int, int]) -> Callable[[], list[tuple[int, int]]]:
    """Sizes after each of the three pools of the 2014 coarse network."""

    def record() -> list[tuple[int, int]]:
        with torch.device("meta"):
            network = Eigen2014(size).eval()
            sizes: list[tuple[int, int]] = []
            network.coarse.trunk.pool.register_forward_hook(lambda _, __, maps: sizes.append(tuple(maps.shape[-2:])))
            network(torch.empty(1, 3, *size))
        return sizes

    return record


_MAPS = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _up(pad_mode: str = "exact") -> UpConvolution:
    torch.manual_seed(0)
    return UpConvolution(3, 4, pad_mode=pad_mode).double()


def _largest(left: Tensor, right: Tensor) -> float:
    """Largest difference, rounded to 12 digits: zero means equal up to rounding in float64."""
    return round(float((left - right).detach().abs().max()), 12)


def _against_unpool(pad_mode: str) -> float:
    layer = _up(pad_mode)
    kernel = layer.kernel()
    return _largest(layer(_MAPS), functional.conv2d(unpool(_MAPS), kernel, padding=kernel.shape[-1] // 2))


def _against_transpose() -> float:
    layer = _up()
    flipped = layer.kernel().flip(2, 3).transpose(0, 1)
    return _largest(layer(_MAPS), functional.conv_transpose2d(_MAPS, flipped, stride=2, padding=2, output_padding=1))


def _against_shuffle() -> float:
    layer, other = _up(), UpConvolution(3, 4, form="shuffle").double()
    other.load_state_dict(layer.state_dict())
    return _largest(layer(_MAPS), other(_MAPS))


def _worked_example() -> list[float]:
    layer = UpConvolution(1, 1)
    layer.load_kernel(torch.arange(25.0).view(1, 1, 5, 5))
    values: list[float] = layer(torch.ones(1, 1, 1, 1)).flatten().tolist()
    return values


def _block_sum() -> int:
    total = 0
    for channels in (1024, 512, 256, 128):
        with torch.device("meta"):
            block = UpProjection(channels, channels // 2)
        total += sum(weight.numel() for weight in block.parameters() if weight.ndim == 4)
    return total


def _positions() -> list[float]:
    sampled = sample_target(torch.arange(304.0).expand(228, 304))
    return [sampled[0, 0].item(), sampled[0, 1].item(), sampled[0, -1].item()]


def _flat(size: tuple[int, int]) -> Callable[[], int]:
    def flat() -> int:
        with torch.device("meta"):
            return Eigen2014(size).coarse.full1.in_features

    return flat


def _local_response() -> float:
    maps = torch.full((1, 5, 1, 1), 100.0, dtype=torch.float64)
    with torch.device("meta"):
        trunk = Eigen2014().coarse.trunk
    return round(float(trunk.normalise(maps)[0, 2, 0, 0]), 9)


def _fold(fuse: str) -> Callable[[], float]:
    def difference() -> float:
        torch.manual_seed(0)
        block = MultiScaleConv(3, 5, fuse=fuse).double()
        return _largest(block(_MAPS), block.reparameterised()(_MAPS))

    return difference


def _seed_shape() -> tuple[int, ...]:
    with torch.device("meta"):
        network = build_eigen2015()
        return tuple(network.scale1.seed_maps(torch.empty(2, 3, 228, 304)).shape)


_DECODERS = {
    "upproj": (63_563_008, 63_566_913, 63_627_905),
    "upconv": (43_017_728, 43_019_713, 43_076_865),
    "deconv2": (28_395_008, 28_396_993, 28_454_145),
    "deconv3": (31_876_608, 31_878_593, 31_935_745),
}
_FCRN_PARTS = ["trunk.conv1", "trunk.layer1", "trunk.layer2", "trunk.layer3", "trunk.layer4", ""]
_VGG_PARTS = [f"scale1.trunk.vgg.features.{index}" for index in (4, 9, 16, 23, 30)]

ORACLES: list[Oracle] = [
    *(
        row
        for name, (none, biased, moments) in _DECODERS.items()
        for row in (
            (f"1.4 FCRN {name}, no biases", none, _count(build_fcrn, decoder=name)),
            (f"1.4 FCRN {name}, decoder biases", biased, _count(build_fcrn, decoder=name, bias="decoder")),
            (
                f"1.4 FCRN {name}, MatConvNet with moments",
                moments,
                _count(build_fcrn, decoder=name, bias="matconvnet", moments=True),
            ),
        )
    ),
    ("1.4 FCRN upproj, TensorFlow trainable", 63_572_737, _count(build_fcrn, bias="tensorflow")),
    (
        "1.4 FCRN upproj, TensorFlow with moments",
        63_633_665,
        _count(build_fcrn, bias="tensorflow", moments=True),
    ),
    ("1.4 ResNet-50 v1 trunk", 23_508_032, _count(ResNetV1)),
    ("1.4 convolution weights of the four up-projections", 37_949_440, _block_sum),
    *(
        (f"1.3 FCRN sizes at {size[0]} x {size[1]}", sizes, _sizes(build_fcrn, size, _FCRN_PARTS, width=4))
        for size, sizes in (
            ((228, 304), [(114, 152), (57, 76), (29, 38), (15, 19), (8, 10), (128, 160)]),
            ((480, 640), [(240, 320), (120, 160), (60, 80), (30, 40), (15, 20), (240, 320)]),
            ((230, 173), [(115, 87), (58, 44), (29, 22), (15, 11), (8, 6), (128, 96)]),
            ((224, 224), [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7), (112, 112)]),
        )
    ),
    ("1.5 fast up-convolution minus unpool + 5x5", 0.0, lambda: _against_unpool("exact")),
    ("1.5 fast up-convolution minus transposed, flipped kernel", 0.0, _against_transpose),
    ("1.5 fast up-convolution minus 3x3 + pixel shuffle", 0.0, _against_shuffle),
    ("1.9 X = [[1]], K = 0..24", [12.0, 11.0, 7.0, 6.0], _worked_example),
    ("1.10 official padding minus unpool + 7x7 with holes", 0.0, lambda: _against_unpool("official")),
    ("1.10 official padding equals exact", False, lambda: torch.allclose(_up()(_MAPS), _up("official")(_MAPS))),
    ("2.3 Eigen 2014 conv1 at 228 x 304", [(56, 75)], _sizes(build_eigen2014, (228, 304), ["coarse.trunk.conv1"])),
    ("2.3 pools 1, 2, 5", [(27, 37), (13, 18), (6, 8)], _pool_sizes((228, 304))),
    (
        "2.3 fine",
        [(111, 149), (55, 74), (55, 74)],
        _sizes(build_eigen2014, (228, 304), ["fine.conv1", "fine.pool", ""]),
    ),
    ("2.3 flat", 12_288, _flat((228, 304))),
    (
        "2.3 KITTI 172 x 576: conv1, fine conv1, output",
        [(42, 143), (83, 285), (41, 142)],
        _sizes(build_eigen2014, (172, 576), ["coarse.trunk.conv1", "fine.conv1", ""], input_size=(172, 576)),
    ),
    ("2.3 KITTI pools", [(20, 71), (9, 35), (4, 17)], _pool_sizes((172, 576))),
    ("2.3 KITTI flat", 17_408, _flat((172, 576))),
    ("2.7 Eigen 2014 convolutions", 3_747_200, _count(build_eigen2014, "coarse.trunk")),
    ("2.7 fully connected", 67_010_534, _count(build_eigen2014, "coarse.full1", "coarse.full2")),
    ("2.7 fine", 119_437, _count(build_eigen2014, "fine")),
    ("2.7 total", 70_877_171, _count(build_eigen2014)),
    ("2.7 sample positions, first two and last column", [5.0, 9.0, 297.0], _positions),
    (
        "2.2 normalisation of five hundreds: x (2 + 1e-4 sum) ** -0.75",
        round(100.0 * (2 + 1e-4 * 5 * 100.0**2) ** -0.75, 9),
        _local_response,
    ),
    ("3.6 Eigen and Fergus, VGG: scale 1", 216_586_688, _count(build_eigen2015, "scale1")),
    ("3.6 its convolutions", 14_714_688, _count(build_eigen2015, "scale1.trunk")),
    ("3.6 its layer 1.6", 132_124_672, _count(build_eigen2015, "scale1.full")),
    ("3.6 its layer 1.7", 69_747_328, _count(build_eigen2015, "scale1.seed")),
    ("3.6 scale 2", 486_017, _count(build_eigen2015, "scale2")),
    ("3.6 scale 3", 282_753, _count(build_eigen2015, "scale3")),
    ("3.6 total, VGG, C = 1", 217_355_458, _count(build_eigen2015)),
    ("3.6 total, VGG, C = 3", 217_365_062, _count(build_eigen2015, task="normals")),
    ("3.6 total, AlexNet", 124_599_042, _count(build_eigen2015, trunk="alexnet")),
    ("3.6 shape of scale 1", (2, 64, 14, 19), _seed_shape),
    (
        "3.2 VGG stages, first two convolutions unpadded",
        [(112, 150), (56, 75), (28, 37), (14, 18), (7, 9)],
        _sizes(build_eigen2015, (228, 304), _VGG_PARTS),
    ),
    (
        "3.6 outputs of scales 2 and 3",
        [(55, 74), (109, 147), (109, 147)],
        _sizes(build_eigen2015, (228, 304), ["scale2", "scale3", ""]),
    ),
    ("4.3 Net12 as in the appendix", 216_970_241, _count(build_net12, "scale1", "scale2", scale2_hidden=2)),
    ("4.3 Net12 as in the repository", 217_072_705, _count(build_net12, "scale1", "scale2")),
    ("4.3 Net3", 282_753, _count(build_net12, "scale3")),
    (
        "4.2 Net12 and Net3: first layers of scales 2 and 3",
        [(55, 74), (109, 147)],
        _sizes(build_net12, (228, 304), ["scale2.local", "scale3.local"]),
    ),
    ("4.5 z = f b / d at f = 721.5377, b = 0.54, d = 10 [m]", 38.963, lambda: round(721.5377 * 0.54 / 10, 3)),
    ("5.2 VGG-16 convolutions", 14_714_688, _count(VGG16Features)),
    ("5.2 full VGG-16", 138_357_544, _count(VGG16Regressor, head="global", outputs=1000)),
    ("5.2 VGG-16 regressor", 134_264_641, _count(VGG16Regressor)),
    ("5.2 output of the regressor at 37 x 53", [(37, 53)], _sizes(VGG16Regressor, (37, 53), [""], width=0.0625)),
    ("5.4 sum of branches minus one 7x7", 0.0, _fold("sum")),
    ("5.4 concatenated branches and 1x1 minus one 7x7", 0.0, _fold("concat")),
    (
        "5.4 parameters at Cin = 16, c_b = 4, Cout = 16",
        16 * 4 * 84 + 4 * 4 + 16 * 16 + 16,
        _count(MultiScaleConv, in_channels=16, out_channels=16, branch_channels=4),
    ),
]


def matches(expected: Any, got: Any) -> bool:
    """Compare counts and sizes exactly, real numbers to 1e-6 of their value."""
    if isinstance(expected, float):
        return math.isclose(expected, got, rel_tol=1e-6, abs_tol=1e-12)
    return bool(expected == got)
