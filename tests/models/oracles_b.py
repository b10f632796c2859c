"""Published and derived numbers that the second half of the zoo must meet: rows of (name, expected, how to compute it).

Run ``python tests/models/oracles_b.py`` for the table. Parameters are counted on the meta device: no memory is used.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fathom.models.base import count_parameters
from fathom.models.dispnet import DispNetS, build_dispnet, build_dispnet_s
from fathom.models.monodepth import build_monodepth_resnet50, build_monodepth_vgg
from fathom.models.monodepth2 import Monodepth2Pose, build_monodepth2_resnet18, disp_to_depth
from fathom.models.sfmlearner import build_sfmlearner, build_sfmlearner_pose
from fathom.models.smp_grid import build_deeplabv3plus, build_grid
from fathom.models.unet import UNet, UNetPaper, build_unet, build_unet_paper

Oracle = tuple[str, Any, Callable[[], Any]]
TWO_CLASSES = {"head": "classes", "head_options": {"num_classes": 2}}


def _count(build: Callable[..., nn.Module], part: str = "", **options: Any) -> Callable[[], int]:
    def count() -> int:
        with torch.device("meta"):
            network = build(**options)
        return count_parameters(network.get_submodule(part))

    return count


def _sizes(build: Callable[..., nn.Module], size: tuple[int, int], parts: list[str], **options: Any) -> Any:
    """Record the output sizes of sub-modules; on the meta device only shapes are computed."""

    def record() -> list[tuple[int, int]]:
        with torch.device("meta"):
            network = build(**options).eval()
            image = torch.empty(1, options.get("in_channels", 3), *size)
        sizes: dict[str, tuple[int, int]] = {}
        for part in parts:

            def keep(module: nn.Module, inputs: Any, output: torch.Tensor, part: str = part) -> None:
                sizes[part] = tuple(output.shape[-2:])

            network.get_submodule(part).register_forward_hook(keep)
        network(image)
        return [sizes[part] for part in parts]

    return record


def _saturated(build: Callable[[], nn.Module], key: str, bias: float, predict: str) -> Callable[[], float]:
    """Push the layers that feed the sigmoid to one end and read the output."""

    def reach() -> float:
        network = build().eval()
        for layer in network.get_submodule(predict).modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
                nn.init.constant_(layer.bias, bias)
        with torch.no_grad():
            return float(network(torch.zeros(1, 3, 64, 64))[key].mean(dtype=torch.float64))

    return reach


def _small_sfm() -> nn.Module:
    return build_sfmlearner(base_channels=2)


def _small_vgg() -> nn.Module:
    return build_monodepth_vgg(base_channels=2)


def _widest_pixels() -> float:
    return _saturated(_small_vgg, "disparity_0", 200.0, "predict")() * 1242


def _aspp(rate: int = 6) -> nn.ModuleList:
    """Return the five parallel branches of a small DeepLabV3 (plain atrous convolutions) in evaluation mode."""
    network = build_grid(
        "DeepLabV3", "resnet18", decoder_channels=4, decoder_atrous_rates=(rate, 2 * rate, 3 * rate)
    ).eval()
    branches = network.get_submodule("trunk.decoder.aspp.convs")
    assert isinstance(branches, nn.ModuleList)
    return branches


def _aspp_sizes() -> list[tuple[int, int]]:
    return [tuple(branch(torch.zeros(1, 512, 13, 19)).shape[-2:]) for branch in _aspp()]


def _aspp_span(rate: int) -> int:
    """Count the rows between the first and the last that one pixel reaches."""
    convolution = _aspp(rate)[1][0]
    nn.init.ones_(convolution.weight)
    pixel = torch.zeros(1, 512, 41, 41)
    pixel[..., 20, 20] = 1.0
    rows = convolution(pixel)[0, 0].amax(dim=1).nonzero().flatten()
    return int(rows[-1] - rows[0]) + 1


def _aspp_beyond_map() -> float:
    """Compare an atrous branch whose rate is at least the map's side with its centre tap alone."""
    convolution, maps = _aspp(9)[1][0], torch.randn(1, 512, 9, 9)
    centre = nn.functional.conv2d(maps, convolution.weight[:, :, 1:2, 1:2])
    return float((convolution(maps) - centre).abs().max().round(decimals=4).detach())


def _aspp_mean_is_flat() -> float:
    maps = _aspp()[4](torch.randn(2, 512, 7, 9))
    return float((maps.amax((2, 3)) - maps.amin((2, 3))).max().round(decimals=5).detach())


def _aspp_one_picture() -> str:
    try:
        build_deeplabv3plus(encoder="resnet18", decoder_channels=4).train()(torch.zeros(1, 3, 64, 64))
    except ValueError as error:
        return str(error).split("channel")[0] + "channel"
    return "trains"


def _unet_one_value() -> str:
    try:
        UNet(base_channels=2).train()(torch.zeros(1, 3, 16, 16))
    except ValueError as error:
        return str(error).split("channel")[0] + "channel"
    return "trains"


ONE_VALUE = "Expected more than 1 value per channel"


def _square(*sides: int) -> list[tuple[int, int]]:
    return [(side, side) for side in sides]


_PAPER_PARTS = [
    *(f"down.{level}.{layer}" for level in range(5) for layer in (0, 2)),
    *(f"{part}" for level in range(4) for part in (f"enlarge.{level}", f"fuse.{level}.0", f"fuse.{level}.2")),
    "head",
]

ORACLES: list[Oracle] = [
    ("5.5 padding = rate keeps the size of all five branches", [(13, 19)] * 5, _aspp_sizes),
    ("5.5 a 3x3 of rate 6 spans 2 * 6 + 1 pixels", 13, lambda: _aspp_span(6)),
    ("5.5 a 3x3 of rate 12 spans 2 * 12 + 1 pixels", 25, lambda: _aspp_span(12)),
    ("5.5 rate >= side of the map: distance to the 1x1 of the centre tap", 0.0, _aspp_beyond_map),
    ("5.5 the branch of the mean is constant over the map: its range", 0.0, _aspp_mean_is_flat),
    ("5.5 normalising one value: DeepLabV3+ trained on one picture", ONE_VALUE, _aspp_one_picture),
    ("6.4 normalising one value: U-Net trained on one 16 x 16 picture", ONE_VALUE, _unet_one_value),
    ("6.4 U-Net paper 1 -> 2", 31_030_658, _count(build_unet_paper, in_channels=1, **TWO_CLASSES)),
    ("6.4 U-Net paper 1 -> 1", 31_030_593, _count(build_unet_paper, in_channels=1)),
    ("6.4 U-Net paper 3 -> 1", 31_031_745, _count(build_unet_paper)),
    ("6.4 U-Net BN 3 -> 1", 31_037_633, _count(build_unet)),
    ("6.4 U-Net BN 3 -> 2", 31_037_698, _count(build_unet, **TWO_CLASSES)),
    ("6.4 U-Net bilinear 3 -> 1", 17_262_977, _count(build_unet, up="bilinear")),
    ("6.4 U-Net bilinear 3 -> 2", 17_263_042, _count(build_unet, up="bilinear", **TWO_CLASSES)),
    ("6.4 U-Net add skips 3 -> 1", 27_904_193, _count(build_unet, skip="add")),
    (
        "6.2 U-Net paper sizes at 572",
        _square(*(570, 568, 282, 280, 138, 136, 66, 64, 30, 28))
        + _square(*(56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388))
        + [(388, 388)],
        _sizes(UNetPaper, (572, 572), _PAPER_PARTS, base_channels=2),
    ),
    *(
        (
            f"6.4 U-Net output at {height} x {width}",
            (height, width),
            lambda height=height, width=width: tuple(
                UNet(base_channels=2).eval()(torch.zeros(1, 3, height, width)).shape[-2:]
            ),
        )
        for height, width in ((1, 1), (15, 15), (16, 16), (17, 17), (37, 53))
    ),
    ("7.1 DispNet, stereo pair", 42_322_374, _count(build_dispnet, in_channels=6)),
    ("7.1 DispNet, one picture", 42_312_966, _count(build_dispnet)),
    (
        "7.1 DispNet sizes at 384 x 768",
        [(192, 384), (96, 192), (48, 96), (24, 48), (12, 24), (6, 12), (6, 12), (192, 384)],
        _sizes(
            build_dispnet,
            (384, 768),
            [*(f"encoder.{level}" for level in range(6)), "predict.0", "predict.5"],
            base_channels=2,
        ),
    ),
    ("7.2 DispNetS", 31_596_900, _count(build_dispnet_s)),
    (
        "7.2 DispNetS sizes at 128 x 416, and 1 x 4 -> 2 x 8 against the skip 2 x 7",
        [(64, 208), (32, 104), (16, 52), (8, 26), (4, 13), (2, 7), (1, 4), (2, 8), (2, 7)],
        _sizes(
            DispNetS,
            (128, 416),
            [*(f"encoder.{level}" for level in range(7)), "upconv.0", "iconv.0"],
            base_channels=2,
        ),
    ),
    ("7.2 smallest disparity", 0.01, _saturated(lambda: DispNetS(base_channels=2), "disparity_0", -200.0, "predict")),
    ("7.2 largest disparity", 10.01, _saturated(lambda: DispNetS(base_channels=2), "disparity_0", 200.0, "predict")),
    ("7.2 nearest depth", 1 / 10.01, _saturated(_small_sfm, "depth", 200.0, "disparity.predict")),
    ("7.2 farthest depth", 100.0, _saturated(_small_sfm, "depth", -200.0, "disparity.predict")),
    ("10.5 monodepth VGG", 31_600_072, _count(build_monodepth_vgg)),
    ("10.5 monodepth ResNet-50, intended", 49_466_152, _count(build_monodepth_resnet50)),
    ("10.5 monodepth ResNet-50, TensorFlow code", 58_452_008, _count(build_monodepth_resnet50, always_project=True)),
    ("10.5 largest disparity at width 1242 [px]", 372.6, _widest_pixels),
    ("10.5 its depth at f = 721.5377, B = 0.54 [m]", 1.0457, lambda: round(721.5377 * 0.54 / _widest_pixels(), 4)),
    ("11.5 pose, 2 neighbours", 1_590_668, _count(build_sfmlearner_pose, explainability=False)),
    ("11.5 pose and masks, 2 neighbours", 2_639_180, _count(build_sfmlearner_pose)),
    ("11.5 pose, 4 neighbours", 1_598_456, _count(build_sfmlearner_pose, num_sources=4, explainability=False)),
    ("11.5 pose and masks, 4 neighbours", 2_660_232, _count(build_sfmlearner_pose, num_sources=4)),
    ("12.5 depth for sigmoid 0", 100.0, lambda: round(disp_to_depth(torch.tensor(0.0)).item(), 4)),
    ("12.5 depth for sigmoid 0.5", 0.1998, lambda: round(disp_to_depth(torch.tensor(0.5)).item(), 4)),
    ("12.5 depth for sigmoid 1", 0.1, lambda: round(disp_to_depth(torch.tensor(1.0)).item(), 4)),
    ("12.5 monodepth2 ResNet-18", 14_329_236, _count(build_monodepth2_resnet18)),
    ("12.5 monodepth2 encoder", 11_176_512, _count(build_monodepth2_resnet18, "encoder")),
    ("12.5 monodepth2 decoder", 3_152_724, _count(build_monodepth2_resnet18, "decoder")),
    (
        "12.1 monodepth2 pose encoder = depth encoder + one more picture's 7 x 7 kernels",
        11_176_512 + 3 * 64 * 49,
        _count(Monodepth2Pose, "encoder"),
    ),
]


def matches(expected: Any, got: Any) -> bool:
    """Compare counts and sizes exactly, real numbers to 1e-6 of their value."""
    if isinstance(expected, float):
        return math.isclose(expected, got, rel_tol=1e-6, abs_tol=1e-12)
    return bool(expected == got)


if __name__ == "__main__":
    for name, expected, compute in ORACLES:
        got = compute()
        print(f"{name} | {expected} | {got} | {'ok' if matches(expected, got) else 'WRONG'}")
