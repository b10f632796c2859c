"""monodepth: left and right disparity of one picture, learned from stereo pairs by left-right consistency.

Paper: Godard, Mac Aodha, Brostow, "Unsupervised Monocular Depth Estimation with Left-Right Consistency", CVPR 2017,
arXiv 1609.03677, section 3.1 and its table of layers. The authors' code is for non-commercial use: nothing of it is
used; this file is written from the paper and from published facts about layers and counts. There are no weights.

Both encoders meet one decoder: nearest enlargement, 3x3 convolution (upconv), join with the encoder's map and, from the
fourth level on, with the enlarged coarser disparity, 3x3 convolution (iconv). ELU everywhere but at the disparity.

VGG encoder, a stage is two convolutions of which the *second* has stride 2:

======  ======  ========  =======
stage   kernel  channels  size
======  ======  ========  =======
1       7       32        h/2
2       5       64        h/4
3       3       128       h/8
4       3       256       h/16
5       3       512       h/32
6       3       512       h/64
7       3       512       h/128
======  ======  ========  =======

ResNet-50 encoder: 7x7 stride 2 to 64 (h/2), max pool 3x3 (h/4), stages of 3, 4, 6, 3 bottlenecks ending at h/8, h/16,
h/32, h/64 with 256, 512, 1024, 2048 channels; stride 2 is in the *last* block of each stage; no normalisation.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError
from fathom.models.base import crop_like

NUM_SCALES = 4

Unit = Literal["share", "px"]
"""Disparity as a fraction of the picture's width, or in pixels of the input."""


def double_like(maps: Tensor, reference: Tensor) -> Tensor:
    """Repeat every pixel 2 x 2 and crop to the size of a reference.

    Args:
        maps: Shape (B, C, ceil(h / 2), ceil(w / 2)).
        reference: A tensor of shape (..., h, w).

    Returns:
        Shape (B, C, h, w).

    Example:
        >>> double_like(torch.tensor([[[[1.0, 2.0]]]]), torch.zeros(2, 3)).tolist()
        [[[[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]]]
    """
    return crop_like(F.interpolate(maps, scale_factor=2.0, mode="nearest"), reference)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2), nn.ELU(inplace=True))


class _VggEncoder(nn.Module):
    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width, 16 * width, 16 * width, 16 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(before, after, kernel), _conv(after, after, kernel, 2))
            for before, after, kernel in zip(
                (in_channels, *self.channels[:-1]), self.channels, (7, 5, 3, 3, 3, 3, 3), strict=True
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the sum goes through ELU."""

    def __init__(self, in_channels: int, width: int, stride: int, always_project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(in_channels, width, 1), _conv(width, width, 3, stride), nn.Conv2d(width, 4 * width, 1)
        )
        project = always_project or stride != 1 or in_channels != 4 * width
        self.shortcut = nn.Conv2d(in_channels, 4 * width, 1, stride) if project else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return F.elu(self.body(maps) + self.shortcut(maps))


class _ResNetEncoder(nn.Module):
    def __init__(self, in_channels: int, width: int, always_project: bool) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 7, 2)
        self.stages = nn.ModuleList()
        channels = width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            middle = width * 2**stage
            layers = []
            for block in range(blocks):
                layers.append(_Bottleneck(channels, middle, 2 if block == blocks - 1 else 1, always_project))
                channels = 4 * middle
            self.stages.append(nn.Sequential(*layers))
        self.channels = (width, width, 4 * width, 8 * width, 16 * width, 32 * width)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.conv1(image)]
        maps.append(F.max_pool2d(maps[0], 3, stride=2, padding=1))
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class Monodepth(nn.Module):
    """An encoder and the disparity decoder.

    Args:
        encoder: Module that maps a picture to maps of halving size, with ``channels`` in that order.
        decoder_channels: Channels of the decoder from the coarsest level to the full size, one per encoder map.
        max_disparity: Largest disparity as a fraction of the picture's width.
        unit: ``"share"`` gives disparity as a fraction of the picture's width; ``"px"`` in pixels of the input.

    Reference:
        Godard et al., CVPR 2017, section 3.1.
    """

    def __init__(
        self,
        encoder: _VggEncoder | _ResNetEncoder,
        decoder_channels: tuple[int, ...],
        max_disparity: float = 0.3,
        unit: Unit = "share",
    ) -> None:
        super().__init__()
        if unit not in ("share", "px"):
            raise ConfigError(f"`unit` must be share (of the width) or px; got '{unit}'.")
        self.encoder = encoder
        self.max_disparity, self.unit = max_disparity, unit
        levels = len(decoder_channels)
        skips = (*encoder.channels[-2::-1], 0)
        self.upconv = nn.ModuleList(
            _conv(before, after, 3)
            for before, after in zip((encoder.channels[-1], *decoder_channels[:-1]), decoder_channels, strict=True)
        )
        self.iconv = nn.ModuleList(
            _conv(out + skip + (2 if level > levels - NUM_SCALES else 0), out, 3)
            for level, (out, skip) in enumerate(zip(decoder_channels, skips, strict=True))
        )
        self.predict = nn.ModuleList(nn.Conv2d(out, 2, 3, padding=1) for out in decoder_channels[-NUM_SCALES:])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, h, w) to four pairs of disparity maps, finest first.

        Returns:
            ``disparity_0`` ... ``disparity_3`` of the left picture, which is the input, and ``disparity_right_0`` ...
            ``disparity_right_3`` of the right one, each (B, 1, ceil(h / 2^i), ceil(w / 2^i)), as a fraction of the
            picture's width, in (0, max_disparity). Times the width in pixels it is a disparity [px], which is what the
            unit ``"px"`` gives, at every scale in pixels of the input.
        """
        skips = [image, *self.encoder(image)]
        maps = skips.pop()
        outputs: list[Tensor] = []
        first_scale = len(self.upconv) - NUM_SCALES
        for level, (upconv, iconv) in enumerate(zip(self.upconv, self.iconv, strict=True)):
            skip = skips.pop()
            parts = [upconv(double_like(maps, skip))]
            if skips:
                parts.append(skip)
            if outputs:
                parts.append(double_like(outputs[-1], skip))
            maps = iconv(torch.cat(parts, dim=1))
            if level >= first_scale:
                outputs.append(self.max_disparity * torch.sigmoid(self.predict[level - first_scale](maps)))
        outputs.reverse()
        if self.unit == "px":
            outputs = [image.shape[-1] * pair for pair in outputs]
        left = {f"disparity_{scale}": pair[:, :1] for scale, pair in enumerate(outputs)}
        return left | {f"disparity_right_{scale}": pair[:, 1:] for scale, pair in enumerate(outputs)}


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(cast(Tensor, module.bias))


def build_monodepth_vgg(
    *, in_channels: int = 3, base_channels: int = 32, max_disparity: float = 0.3, unit: Unit = "share"
) -> Monodepth:
    """Build monodepth with the VGG-like encoder: 31,600,072 parameters by default.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first stage; all others keep the paper's ratios to it (even).
        max_disparity: Largest disparity as a fraction of the picture's width.
        unit: ``"share"`` or ``"px"``; see `Monodepth`.

    Returns:
        The network; sides that are multiples of 128 meet the paper's sizes, any other side works.

    Example:
        >>> outputs = build_monodepth_vgg(base_channels=4)(torch.zeros(1, 3, 256, 512))
        >>> [tuple(outputs[f"disparity_{scale}"].shape) for scale in range(4)]
        [(1, 1, 256, 512), (1, 1, 128, 256), (1, 1, 64, 128), (1, 1, 32, 64)]
    """
    width = base_channels
    decoder = (16 * width, 16 * width, 8 * width, 4 * width, 2 * width, width, width // 2)
    network = Monodepth(_VggEncoder(in_channels, width), decoder, max_disparity, unit)
    _initialise(network)
    return network


def build_monodepth_resnet50(
    *,
    in_channels: int = 3,
    base_channels: int = 64,
    max_disparity: float = 0.3,
    always_project: bool = False,
    unit: Unit = "share",
) -> Monodepth:
    """Build monodepth with the ResNet-50 encoder: 49,466,152 parameters by default.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first convolution; all others keep the paper's ratios to it (a multiple of 4).
        max_disparity: Largest disparity as a fraction of the picture's width.
        always_project: Give every bottleneck a projection in its shortcut (58,452,008 parameters). The published
            TensorFlow graph is so, because its test "do the channels differ?" is always true.
        unit: ``"share"`` or ``"px"``; see `Monodepth`.

    Returns:
        The network; sides that are multiples of 64 meet the paper's sizes, any other side works.

    Example:
        >>> outputs = build_monodepth_resnet50(base_channels=4)(torch.zeros(1, 3, 64, 128))
        >>> tuple(outputs["disparity_right_3"].shape)
        (1, 1, 8, 16)
    """
    width = base_channels
    decoder = (8 * width, 4 * width, 2 * width, width, width // 2, width // 4)
    network = Monodepth(_ResNetEncoder(in_channels, width, always_project), decoder, max_disparity, unit)
    _initialise(network)
    return network
