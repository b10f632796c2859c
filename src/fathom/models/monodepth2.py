"""monodepth2: depth and motion from monocular video or stereo, on a ResNet-18.

Paper: Godard, Mac Aodha, Firman, Brostow, "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019,
arXiv 1806.01260, section 3.4 and the appendix's table of layers. The authors' code and weights are for non-commercial
use: nothing of them is used; this file is written from the paper. The encoder is the ResNet-18 of He et al., CVPR 2016,
with the public names of its layers, so that any ImageNet weights of that layout load.

Shapes for (B, 3, h, w); every stride-2 layer maps n to ceil(n / 2):

==========  ========  ======    ==========================  ========  ======
encoder     channels  size      decoder level               channels  size
==========  ========  ======    ==========================  ========  ======
conv1       64        h/2       4: up, join layer3 (256)    256       h/16
layer1      64        h/4       3: up, join layer2 (128)    128       h/8
layer2      128       h/8       2: up, join layer1 (64)     64        h/4
layer3      256       h/16      1: up, join conv1 (64)      32        h/2
layer4      512       h/32      0: up                       16        h
==========  ========  ======    ==========================  ========  ======

A level is: 3x3 convolution, nearest enlargement, join, 3x3 convolution; both with mirrored borders and ELU. The four
finest levels also predict: mirrored 3x3 convolution and sigmoid.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError
from fathom.models.monodepth import double_like

POSE_SCALE = 0.01
"""Factor on the pose, so that training starts near no motion."""


def disp_to_depth(sigmoid: Tensor, min_depth: float = 0.1, max_depth: float = 100.0) -> Tensor:
    """Convert the network's sigmoid to depth: ``1 / (1 / max + (1 / min - 1 / max) * sigmoid)``.

    Args:
        sigmoid: Any shape, in [0, 1].
        min_depth: Depth for 1.
        max_depth: Depth for 0.

    Returns:
        Depth, same shape, in the (unknown) unit of the two limits.

    Raises:
        ConfigError: If the limits are not 0 < min_depth < max_depth.

    Example:
        >>> [round(float(depth), 4) for depth in disp_to_depth(torch.tensor([0.0, 0.5, 1.0]))]
        [100.0, 0.1998, 0.1]

    Reference:
        Godard et al., ICCV 2019, section 3.4.
    """
    if not 0.0 < min_depth < max_depth:
        raise ConfigError(f"Expected 0 < min_depth < max_depth; got {min_depth} and {max_depth}. Swap or correct them.")
    return (1.0 / max_depth + (1.0 / min_depth - 1.0 / max_depth) * sigmoid).reciprocal()


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(maps))


class ResNet18Encoder(nn.Module):
    """ResNet-18 without pooling and classifier: 11,176,512 parameters for one picture.

    Args:
        num_images: Pictures stacked along the channels: 1 for depth, 2 for motion.
        base_channels: Channels of conv1 and layer1.

    Example:
        >>> [tuple(maps.shape[1:]) for maps in ResNet18Encoder(base_channels=8)(torch.zeros(1, 3, 64, 96))]
        [(8, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, num_images: int = 1, base_channels: int = 64) -> None:
        super().__init__()
        width = base_channels
        self.channels = (width, width, 2 * width, 4 * width, 8 * width)
        self.conv1 = nn.Conv2d(3 * num_images, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_BasicBlock(width, width, 1), _BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(_BasicBlock(width, 2 * width, 2), _BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(_BasicBlock(2 * width, 4 * width, 2), _BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(_BasicBlock(4 * width, 8 * width, 2), _BasicBlock(8 * width, 8 * width, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3 * num_images, h, w) to five maps from h/2 to h/32."""
        maps = [F.relu(self.bn1(self.conv1(image)))]
        maps.append(self.layer1(F.max_pool2d(maps[0], 3, stride=2, padding=1)))
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


class _MirrorConv(nn.Module):
    """3x3 convolution whose border is the mirrored picture; a side of one pixel mirrors into itself."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, maps: Tensor) -> Tensor:
        # Inside an export the sides are symbols: the mirror is then assumed possible, which holds for sides above 32.
        if torch.compiler.is_compiling() or (maps.shape[-2] > 1 and maps.shape[-1] > 1):
            padded = F.pad(maps, (1, 1, 1, 1), mode="reflect")
        else:
            padded = F.pad(maps, (1, 1, 0, 0), mode="reflect" if maps.shape[-1] > 1 else "replicate")
            padded = F.pad(padded, (0, 0, 1, 1), mode="reflect" if maps.shape[-2] > 1 else "replicate")
        return cast(Tensor, self.conv(padded))


class DepthDecoder(nn.Module):
    """The U-Net-like decoder: 3,152,724 parameters behind ResNet-18.

    Args:
        encoder_channels: Channels of the five encoder maps, finest first.
        channels: Channels of the five levels, finest first.

    Reference:
        Godard et al., ICCV 2019, appendix, table of layers.
    """

    NUM_SCALES = 4

    def __init__(self, encoder_channels: tuple[int, ...], channels: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        befores = (*channels[1:], encoder_channels[-1])
        skips = (0, *encoder_channels[:-1])
        # Index is the level: 0 works at full size.
        self.before = nn.ModuleList(_MirrorConv(before, out) for before, out in zip(befores, channels, strict=True))
        self.after = nn.ModuleList(_MirrorConv(out + skip, out) for out, skip in zip(channels, skips, strict=True))
        self.predict = nn.ModuleList(_MirrorConv(out, 1) for out in channels[: self.NUM_SCALES])

    def forward(self, encoded: list[Tensor], image: Tensor) -> list[Tensor]:
        """Map the five encoder maps, and the picture for its size, to four sigmoid maps, finest first."""
        maps = encoded[-1]
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.before))):
            skip = encoded[level - 1] if level else image
            maps = double_like(F.elu(self.before[level](maps)), skip)
            maps = F.elu(self.after[level](torch.cat([maps, skip], dim=1) if level else maps))
            if level < self.NUM_SCALES:
                outputs.append(torch.sigmoid(self.predict[level](maps)))
        return outputs[::-1]


class Monodepth2(nn.Module):
    """The depth network: ResNet-18 and `DepthDecoder`, 14,329,236 parameters.

    Args:
        base_channels: Channels of the encoder's first layer; 64 in the paper.
        decoder_channels: Channels of the five decoder levels, finest first.
        min_depth: Depth where the sigmoid is 1.
        max_depth: Depth where the sigmoid is 0.

    Example:
        >>> outputs = Monodepth2(base_channels=4, decoder_channels=(2, 2, 4, 4, 8)).eval()(torch.zeros(1, 3, 96, 64))
        >>> {key: tuple(maps.shape[-2:]) for key, maps in outputs.items() if key != "disparity_3"}
        {'depth': (96, 64), 'disparity_0': (96, 64), 'disparity_1': (48, 32), 'disparity_2': (24, 16)}

    Reference:
        Godard et al., ICCV 2019, section 3.4.
    """

    def __init__(
        self,
        base_channels: int = 64,
        decoder_channels: tuple[int, ...] = (16, 32, 64, 128, 256),
        min_depth: float = 0.1,
        max_depth: float = 100.0,
    ) -> None:
        super().__init__()
        self.min_depth, self.max_depth = min_depth, max_depth
        self.encoder = ResNet18Encoder(1, base_channels)
        self.decoder = DepthDecoder(self.encoder.channels, decoder_channels)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map a picture (B, 3, h, w), ``(rgb - 0.45) / 0.225``, to depth up to scale and the sigmoid pyramid.

        Returns:
            ``depth`` (B, 1, h, w), `disp_to_depth` of the finest map, and ``disparity_0`` ... ``disparity_3``
            (B, 1, ceil(h / 2^i), ceil(w / 2^i)), the sigmoid in (0, 1).
        """
        sigmoids = self.decoder(self.encoder(image), image)
        depth = disp_to_depth(sigmoids[0], self.min_depth, self.max_depth)
        return {"depth": depth, **{f"disparity_{scale}": sigmoid for scale, sigmoid in enumerate(sigmoids)}}


class Monodepth2Pose(nn.Module):
    """Motion between two pictures: ResNet-18 on both at once, and four convolutions.

    Args:
        base_channels: Channels of the encoder's first layer; 64 in the paper.
        decoder_channels: Channels of the decoder; 256 in the paper.
        num_motions: Motions predicted for a pair. The published decoder predicts two and uses the first.

    Example:
        >>> net = Monodepth2Pose(base_channels=4, decoder_channels=8).eval()
        >>> net(torch.zeros(3, 3, 64, 96), torch.zeros(3, 3, 64, 96)).shape
        torch.Size([3, 1, 6])

    Reference:
        Godard et al., ICCV 2019, section 3.4 and appendix.
    """

    def __init__(self, base_channels: int = 64, decoder_channels: int = 256, num_motions: int = 1) -> None:
        super().__init__()
        self.num_motions = num_motions
        self.encoder = ResNet18Encoder(2, base_channels)
        self.decoder = nn.Sequential(
            nn.Conv2d(self.encoder.channels[-1], decoder_channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(decoder_channels, decoder_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(decoder_channels, decoder_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(decoder_channels, 6 * num_motions, 1),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map two pictures (B, 3, h, w) in temporal order to the motion between them.

        Returns:
            Shape (B, num_motions, 6): axis-angle rx, ry, rz [rad], *then* translation tx, ty, tz; it takes points of
            the first camera to the second. For a neighbour earlier than the target, feed (neighbour, target) and
            invert the motion.
        """
        features = self.encoder(torch.cat([first, second], dim=1))[-1]
        return POSE_SCALE * self.decoder(features).mean(dim=(2, 3)).unflatten(1, (self.num_motions, 6))


def build_monodepth2_resnet18(**options: Any) -> Monodepth2:
    """Build the depth network; options are those of `Monodepth2`. Its partner is `build_monodepth2_pose`."""
    return Monodepth2(**options)


def build_monodepth2_pose(**options: Any) -> Monodepth2Pose:
    """Build the pose network; options are those of `Monodepth2Pose`."""
    return Monodepth2Pose(**options)
