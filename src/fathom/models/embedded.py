"""The small networks inside the package: `fathom-general` and `fathom-indoor`.

An EfficientNet-Lite encoder (Tan & Le, ICML 2019; the Lite variant drops squeeze-and-excite and uses ReLU6, which
quantises well) under a thin U-Net decoder of plain 3x3 convolutions. A pooled context vector is added at 1/32, because
the scale of a scene is a property of the whole picture.

Shapes for an input (B, 3, h, w), h and w multiples of 32:

========  ==========================  ===============
stage     made of                     shape
========  ==========================  ===============
encoder   five stages                 1/2 ... 1/32
context   320 -> 160, plus pooled     (B, 160, h/32, w/32)
fuse 4    up, concat 112, 2 x 3x3     (B, 112, h/16, w/16)
fuse 3    up, concat 40, 2 x 3x3      (B, 72, h/8, w/8)
fuse 2    up, concat 24, 2 x 3x3      (B, 48, h/4, w/4)
fuse 1    up, concat 16, 3x3          (B, 24, h/2, w/2)
head      3x3, up                     (B, 1, h, w)
========  ==========================  ===============
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class _EvenSameConv(nn.Conv2d):
    """A stride-2 convolution with TensorFlow's SAME padding for even sizes, written as constants.

    The encoder's weights were trained with that padding, which is one pixel longer at the end. timm computes it from
    the size of the picture; with sides that are multiples of 32 it is always the same, and exports without shape
    arithmetic.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, h, w), h and w even, to (B, D, h/2, w/2)."""
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        return self._conv_forward(F.pad(input, (before, after, before, after)), self.weight, self.bias)


def _replace_same_convs(module: nn.Module) -> None:
    """Replace timm's size-dependent stride-2 convolutions in place; the keys of the state dict stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and type(child).__name__ == "Conv2dSame":
            fixed = _EvenSameConv(
                child.in_channels, child.out_channels, child.kernel_size[0], 2, groups=child.groups, bias=False
            )
            fixed.weight = child.weight
            setattr(module, name, fixed)
        else:
            _replace_same_convs(child)


class Fuse(nn.Module):
    """Double the size of the deep map, join the skip, and convolve."""

    def __init__(self, deep: int, skip: int, out: int, num_convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv(deep + skip, out), *(_conv(out, out) for _ in range(num_convs - 1)))

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Map (B, deep, h, w) and (B, skip, 2h, 2w) to (B, out, 2h, 2w)."""
        return cast(Tensor, self.convs(torch.cat([F.interpolate(deep, scale_factor=2.0, mode="nearest"), skip], 1)))


class EmbeddedNet(nn.Module):
    """Encoder, context, four fusions, head.

    Args:
        head: ``"inverse"`` gives affine-invariant inverse depth (linear output); ``"log_depth"`` gives metres (exp).
        encoder: A timm encoder with five stages.
        encoder_weights: Load the encoder's ImageNet weights from timm's hub.
        widths: Channels of the decoder from 1/32 to 1/2.

    Example:
        >>> net = EmbeddedNet("log_depth").eval()
        >>> net(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 1, 64, 96])
    """

    def __init__(
        self,
        head: Literal["inverse", "log_depth"] = "inverse",
        encoder: str = "tf_efficientnet_lite0",
        encoder_weights: bool = False,
        widths: tuple[int, int, int, int, int] = (160, 112, 72, 48, 24),
    ) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(encoder, features_only=True, pretrained=encoder_weights)
        _replace_same_convs(self.encoder)
        channels = self.encoder.feature_info.channels()
        self.lateral = _conv(channels[4], widths[0], 1)
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[4], widths[0], 1))
        self.fuse4 = Fuse(widths[0], channels[3], widths[1], 2)
        self.fuse3 = Fuse(widths[1], channels[2], widths[2], 2)
        self.fuse2 = Fuse(widths[2], channels[1], widths[3], 2)
        self.fuse1 = Fuse(widths[3], channels[0], widths[4], 1)
        self.head = nn.Conv2d(widths[4], 1, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        # A room is about 2.7 m deep in the geometric mean; a picture's inverse depth lies around 0.4 of its range.
        nn.init.constant_(cast(Tensor, self.head.bias), 1.0 if head == "log_depth" else 0.4)
        self.log_depth = head == "log_depth"

    def decode(self, image: Tensor) -> Tensor:
        """Map a picture (B, 3, h, w) in [0, 1] to the features under the head, (B, widths[4], h/2, w/2)."""
        stages = self.encoder((image - 0.5) * 2.0)
        deep = self.lateral(stages[4]) + self.context(stages[4])
        deep = self.fuse4(deep, stages[3])
        deep = self.fuse3(deep, stages[2])
        deep = self.fuse2(deep, stages[1])
        return cast(Tensor, self.fuse1(deep, stages[0]))

    def forward(self, image: Tensor) -> Tensor:
        """Map a picture (B, 3, h, w), RGB in [0, 1], h and w multiples of 32, to (B, 1, h, w).

        Returns:
            Affine-invariant inverse depth, or depth [m], as the head was chosen.
        """
        raw = F.interpolate(
            self.head(self.decode(image)).float(), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return raw.exp() if self.log_depth else raw


def build_embedded(**options: object) -> EmbeddedNet:
    """Build the network; options are those of `EmbeddedNet`."""
    return EmbeddedNet(**options)  # type: ignore[arg-type]
