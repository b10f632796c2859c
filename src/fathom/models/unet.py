"""U-Net: an encoder-decoder whose skips leave every level before its pooling.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv 1505.04597. Written from the paper; there are no weights.

Two forms:

* `UNet`: padded 3x3 convolutions with batch normalisation; any height and width, output as large as the input.
* `UNetPaper`: the paper's own layout, unpadded convolutions without normalisation; the output is smaller.

Channels and sizes of `UNetPaper` at the paper's 572 x 572 (a level is conv-conv):

======  ========  ================  ================
level   channels  down              up
======  ========  ================  ================
1       64        572, 570, 568     392, 390, 388
2       128       284, 282, 280     200, 198, 196
3       256       140, 138, 136     104, 102, 100
4       512       68, 66, 64        56, 54, 52
5       1024      32, 30, 28
======  ========  ================  ================

`UNet` has the same channels; its sizes are h, h/2, h/4, h/8, h/16 after padding to a multiple of 16 inside `forward`.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError, ShapeError
from fathom.models.base import crop_like, pad_to_multiple
from fathom.models.heads import build_head

LEVELS = 5


def _initialise(network: nn.Module) -> None:
    """Draw weights from N(0, 2 / fan-in), the paper's section 3."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class _DoubleConv(nn.Sequential):
    """3x3 convolution, norm, ReLU, twice; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, middle: int | None = None) -> None:
        middle = middle or out_channels
        super().__init__(
            nn.Conv2d(in_channels, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class UNetTrunk(nn.Module):
    """The padded U-Net without its output layer.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first level; each deeper level has twice as many.
        skip: ``"concat"`` (the paper) joins channels; ``"add"`` sums, which needs a narrower decoder.
        up: ``"transposed"`` (2x2, halves the channels) or ``"bilinear"`` (the decoder's convolutions halve them).

    Example:
        >>> UNetTrunk(3, base_channels=4)(torch.zeros(1, 3, 17, 30)).shape
        torch.Size([1, 4, 17, 30])
    """

    def __init__(
        self, in_channels: int = 3, base_channels: int = 64, skip: str = "concat", up: str = "transposed"
    ) -> None:
        super().__init__()
        if skip not in ("concat", "add"):
            raise ConfigError(f"`skip` must be 'concat' or 'add'; got '{skip}'.")
        if up not in ("transposed", "bilinear"):
            raise ConfigError(f"`up` must be 'transposed' or 'bilinear'; got '{up}'.")
        self.skip, self.up = skip, up
        self.out_channels = base_channels
        widths = [base_channels * 2**level for level in range(LEVELS)]
        # Bilinear upsampling cannot change the number of channels: the level below already ends as narrow as the skip.
        ends = [*widths[:-1], widths[-1] // 2] if up == "bilinear" else widths
        self.down = nn.ModuleList(
            _DoubleConv(before, after) for before, after in zip([in_channels, *widths[:-1]], ends, strict=True)
        )
        self.enlarge = nn.ModuleList()
        self.fuse = nn.ModuleList()
        for level in reversed(range(LEVELS - 1)):
            width = widths[level]
            joined = 2 * width if skip == "concat" else width
            if up == "bilinear":
                out = width // 2 if level else width
                self.enlarge.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True))
                self.fuse.append(_DoubleConv(joined, out, middle=width))
            else:
                self.enlarge.append(nn.ConvTranspose2d(2 * width, width, 2, stride=2))
                self.fuse.append(_DoubleConv(joined, width))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to features (B, base_channels, h, w)."""
        maps = pad_to_multiple(image, 2 ** (LEVELS - 1))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            maps = block(F.max_pool2d(maps, 2) if level else maps)
            skips.append(maps)
        skips.pop()
        for enlarge, fuse in zip(self.enlarge, self.fuse, strict=True):
            skip, maps = skips.pop(), enlarge(maps)
            maps = fuse(torch.cat([skip, maps], dim=1) if self.skip == "concat" else skip + maps)
        return crop_like(maps, image)


class UNet(nn.Module):
    """U-Net with padded convolutions and batch normalisation, for depth or segmentation.

    The output is what the head returns: a tensor (B, 1, h, w), or a dictionary for ``ordinal`` and ``bins``.
    Batch normalisation cannot train on a single value per channel: pictures of at most 16 x 16 need a batch above 1.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first level.
        skip: ``"concat"`` or ``"add"``.
        up: ``"transposed"`` or ``"bilinear"``.
        head: A key of `fathom.models.heads.HEADS`; ``"classes"`` for segmentation.
        head_options: Keyword arguments of the head, for instance ``{"num_classes": 40}``.

    Example:
        >>> UNet(base_channels=4)(torch.rand(2, 3, 37, 53)).shape
        torch.Size([2, 1, 37, 53])

    Reference:
        Ronneberger et al., MICCAI 2015; batch normalisation: Ioffe and Szegedy, ICML 2015.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        skip: str = "concat",
        up: str = "transposed",
        head: str = "softplus",
        head_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = UNetTrunk(in_channels, base_channels, skip, up)
        _initialise(self.trunk)
        self.head = build_head(head, base_channels, **(head_options or {}))

    def decode(self, features: Tensor, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map the trunk's features to the head's output; `image` only tells the size."""
        return cast(Tensor | dict[str, Tensor], self.head(features))

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map (B, in_channels, h, w) to the head's output at (h, w)."""
        return self.decode(self.trunk(image), image)


class _ValidDoubleConv(nn.Sequential):
    """Unpadded 3x3 convolution and ReLU, twice; each side loses 4."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3),
            nn.ReLU(inplace=True),
        )


def _centre_crop(maps: Tensor, reference: Tensor) -> Tensor:
    top = (maps.shape[-2] - reference.shape[-2]) // 2
    left = (maps.shape[-1] - reference.shape[-1]) // 2
    return maps[..., top : top + reference.shape[-2], left : left + reference.shape[-1]]


class UNetPaper(nn.Module):
    """U-Net exactly as the paper draws it: unpadded, 23 convolutions, no normalisation, dropout at the bottom.

    A side of n pixels gives ``16 * m - 60``, with m the side after the bottom convolutions; 572 gives 388. The output
    belongs to the centre of the input. The paper's own network has ``in_channels=1`` and the head ``"classes"`` with
    two of them.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first level.
        dropout: Probability at the end of the contracting path.
        head: A key of `fathom.models.heads.HEADS`.
        head_options: Keyword arguments of the head.

    Example:
        >>> UNetPaper(base_channels=2)(torch.rand(1, 3, 188, 204)).shape
        torch.Size([1, 1, 4, 20])

    Reference:
        Ronneberger et al., MICCAI 2015, figure 1.
    """

    MIN_SIDE = 188
    """Smallest side that leaves an output [px]."""

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        dropout: float = 0.5,
        head: str = "softplus",
        head_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(
            _ValidDoubleConv(before, after) for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.fuse = nn.ModuleList(_ValidDoubleConv(2 * width, width) for width in reversed(widths[:-1]))
        _initialise(self)
        self.head = build_head(head, base_channels, **(head_options or {}))

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map (B, in_channels, h, w), sides of at least 188, to the head's output for the centre of the picture."""
        if image.shape[-2] < self.MIN_SIDE or image.shape[-1] < self.MIN_SIDE:
            raise ShapeError(
                f"`image` height and width must be at least {self.MIN_SIDE} for unpadded convolutions; got "
                f"{tuple(image.shape[-2:])}. Mirror its border outwards, enlarge it, or use the model 'unet'."
            )
        maps = image
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            maps = block(F.max_pool2d(maps, 2) if level else maps)
            skips.append(maps)
        skips.pop()
        maps = self.dropout(maps)
        for enlarge, fuse in zip(self.enlarge, self.fuse, strict=True):
            maps = enlarge(maps)
            maps = fuse(torch.cat([_centre_crop(skips.pop(), maps), maps], dim=1))
        return cast(Tensor | dict[str, Tensor], self.head(maps))


def build_unet(**options: Any) -> UNet:
    """Build the padded U-Net; options are those of `UNet`."""
    return UNet(**options)


def build_unet_paper(**options: Any) -> UNetPaper:
    """Build the paper's unpadded U-Net; options are those of `UNetPaper`."""
    return UNetPaper(**options)
