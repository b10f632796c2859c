"""FCRN: a ResNet-50 trunk, four up-sampling blocks and one convolution; one image in, depth in metres out.

Paper: Laina, Rupprecht, Belagiannis, Tombari, Navab, "Deeper Depth Prediction with Fully Convolutional Residual
Networks", 3DV 2016, arXiv 1606.00373. Written from the paper and from facts about the release; the original code and
weights are under the Simplified BSD licence. There are no skip connections.

Shapes (H x W) of `FCRN` on ResNet-50 v1; sides are rounded up, so the output is 16 ceil(H / 32) x 16 ceil(W / 32):

| input   | conv1   | pool, stage 1 | stage 2 | stage 3 | stage 4 | blocks                   | output  |
|---------|---------|---------------|---------|---------|---------|--------------------------|---------|
| 228x304 | 114x152 | 57x76         | 29x38   | 15x19   | 8x10    | 16x20, 32x40, 64x80, ... | 128x160 |
| 480x640 | 240x320 | 120x160       | 60x80   | 30x40   | 15x20   | 30x40, ...               | 240x320 |
| 230x173 | 115x87  | 58x44         | 29x22   | 15x11   | 8x6     | 16x12, ...               | 128x96  |

The output is not half the input: resize the target to 128x160 for training, and the prediction to the image afterwards.
Channels: 3, 64, 256, 512, 1024, 2048, then 1024, 512, 256, 128, 64, 1.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError
from fathom.models.base import check_image, crop_like, initialise, pad_to_multiple
from fathom.models.encoders import TimmEncoder
from fathom.models.layers import PadMode, UpBias, UpConvolution, UpForm, UpProjection, conv_bn_relu
from fathom.models.resnet_v1 import ResNetV1
from fathom.models.weights import load_trunk

Decoder = Literal["upproj", "upconv", "deconv2", "deconv3"]
Bias = Literal["none", "decoder", "matconvnet", "tensorflow"]

RELEASE_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "bias": "tensorflow",
        "pad_mode": "official",
        "bn_eps": 1e-4,
        "trunk_bn_eps": 1e-4,
        "bn_momentum": 0.001,
        "dropout": 0.0,
        "final_relu": True,
    }
)
"""Options of `build_fcrn` under which the released TensorFlow weights give what they gave there. Their input is RGB in
0 to 255 with nothing subtracted."""

_UP_BIAS: dict[str, UpBias] = {"none": "none", "decoder": "shared", "matconvnet": "shared", "tensorflow": "per_phase"}
_BLOCKS = 4


def _up_block(
    decoder: str, in_channels: int, out_channels: int, *, bias: str, bn: Mapping[str, float], up: Mapping[str, Any]
) -> nn.Module:
    """Make one block that doubles height and width."""
    conv_bias = bias != "none"
    if decoder == "upproj":
        return UpProjection(
            in_channels,
            out_channels,
            up_bias=_UP_BIAS[bias],
            conv_bias=conv_bias,
            bn_eps=bn["eps"],
            bn_momentum=bn["momentum"],
            **up,
        )
    first: nn.Module
    if decoder == "upconv":
        first = UpConvolution(in_channels, out_channels, bias=_UP_BIAS[bias], **up)
    elif decoder == "deconv2":
        first = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=conv_bias)
    elif decoder == "deconv3":
        first = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=conv_bias)
    else:
        raise ModelError(f"`decoder` must be 'upproj', 'upconv', 'deconv2' or 'deconv3'; got '{decoder}'.")
    return nn.Sequential(first, nn.BatchNorm2d(out_channels, **bn), nn.ReLU())


class FCRN(nn.Module):
    """A trunk, a 1x1 convolution that halves the channels, four doubling blocks, and a 3x3 convolution to depth.

    Args:
        trunk: Returns a list of maps; the last, coarsest one is used.
        trunk_channels: Channels of that map.
        decoder: Kind of the four blocks.
        bias: Which convolutions before batch normalisation have biases: none; those of the decoder; these and the
            trunk's first (MatConvNet release); the same with four per up-convolution (TensorFlow release).
        pad_mode: ``"exact"``, or ``"official"`` for released weights; see `UpConvolution`.
        form: How up-convolutions are computed; see `UpConvolution`.
        bn_eps: Epsilon of batch normalisation in the decoder.
        bn_momentum: Momentum of batch normalisation in the decoder, in torch's sense.
        dropout: Probability of dropping a value before the last convolution.
        final_relu: Whether negative depths are cut to zero, as in the release. It stops gradients there.

    Shape:
        (B, 3, h, w) -> depth [m], (B, 1, 16 * ceil(h / 32), 16 * ceil(w / 32)) on a trunk of stride 32.

    Example:
        >>> import torch
        >>> network = FCRN(ResNetV1((1, 1, 1, 1), width=4), 128)
        >>> network(torch.zeros(2, 3, 37, 53)).shape
        torch.Size([2, 1, 32, 32])

    Reference:
        Laina et al., 3DV 2016, arXiv 1606.00373, section 3 and table 1.
    """

    def __init__(
        self,
        trunk: nn.Module,
        trunk_channels: int,
        *,
        decoder: Decoder = "upproj",
        bias: Bias = "none",
        pad_mode: PadMode = "exact",
        form: UpForm = "branches",
        bn_eps: float = 1e-4,
        bn_momentum: float = 0.1,
        dropout: float = 0.5,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        if bias not in _UP_BIAS:
            raise ModelError(f"`bias` must be one of {', '.join(_UP_BIAS)}; got '{bias}'.")
        bn = {"eps": bn_eps, "momentum": bn_momentum}
        # Half the trunk's channels, rounded up so that they can be halved four times more.
        channels = 2**_BLOCKS * -(-trunk_channels // 2 ** (_BLOCKS + 1))
        self.trunk = trunk
        self.layer1 = nn.Conv2d(trunk_channels, channels, 1, bias=bias != "none")
        self.layer1_bn = nn.BatchNorm2d(channels, **bn)
        self.decoder = nn.Sequential(
            *(
                _up_block(
                    decoder,
                    channels // 2**index,
                    channels // 2 ** (index + 1),
                    bias=bias,
                    bn=bn,
                    up={"pad_mode": pad_mode, "form": form},
                )
                for index in range(_BLOCKS)
            )
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels // 2**_BLOCKS, 1, 3, padding=1, bias=bias != "none")
        self.final_relu = final_relu

    def forward(self, image: Tensor) -> Tensor:
        """Predict depth [m]: (B, 3, h, w) -> (B, 1, 16 * ceil(h / 32), 16 * ceil(w / 32))."""
        check_image(image)
        maps = self.layer1_bn(self.layer1(self.trunk(image)[-1]))
        depth: Tensor = self.head(self.dropout(self.decoder(maps)))
        return functional.relu(depth) if self.final_relu else depth


def build_fcrn(
    *,
    decoder: Decoder = "upproj",
    trunk: str = "resnet50-v1",
    trunk_weights: str | Path | None = None,
    bias: Bias = "none",
    pad_mode: PadMode = "exact",
    form: UpForm = "branches",
    bn_eps: float = 1e-4,
    trunk_bn_eps: float = 1e-3,
    bn_momentum: float = 0.1,
    dropout: float = 0.5,
    final_relu: bool = False,
    width: int = 64,
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
) -> FCRN:
    """Build FCRN on ResNet-50 v1 or on any encoder of timm.

    Args:
        decoder: ``"upproj"``, ``"upconv"``, ``"deconv2"`` or ``"deconv3"``.
        trunk: ``"resnet50-v1"``, or the name of an encoder in timm; that one's input law is told by
            `fathom.models.encoders.input_law_of`.
        trunk_weights: File with weights of the trunk (torchvision names); ``"imagenet"`` for timm's own; None for none.
        bias: See `FCRN`.
        pad_mode: See `FCRN`. ``"official"`` also pads the trunk's max pool at the end only.
        form: See `FCRN`.
        bn_eps: Epsilon of batch normalisation in the decoder.
        trunk_bn_eps: The same in ResNet-50 v1: 1e-3 for the Keras weights, 1e-4 for the released FCRN.
        bn_momentum: Momentum of batch normalisation, in torch's sense.
        dropout: Probability of dropping a value before the last convolution.
        final_relu: Whether negative depths are cut to zero.
        width: Channels after the first convolution of ResNet-50 v1; all others follow.
        blocks: Blocks per stage of ResNet-50 v1.

    Returns:
        The network.

    Raises:
        ModelError: If an option is unknown.
        WeightsError: If the trunk's weights do not fit.

    Example:
        >>> build_fcrn(decoder="deconv2", width=4, blocks=(1, 1, 1, 1)).head.in_channels
        4

    Reference:
        Laina et al., 3DV 2016, arXiv 1606.00373.
    """
    body: ResNetV1 | TimmEncoder
    if trunk == "resnet50-v1":
        body = ResNetV1(
            blocks,
            width=width,
            conv1_bias=bias in ("matconvnet", "tensorflow"),
            bn_eps=trunk_bn_eps,
            bn_momentum=bn_momentum,
            pool_padding="same" if pad_mode == "official" else "symmetric",
        )
        if trunk_weights is not None:
            load_trunk(body, trunk_weights)
    else:
        body = TimmEncoder(trunk, pretrained=str(trunk_weights) == "imagenet")
        if trunk_weights is not None and str(trunk_weights) != "imagenet":
            load_trunk(body.body, trunk_weights)
    return FCRN(
        body,
        body.channels[-1],
        decoder=decoder,
        bias=bias,
        pad_mode=pad_mode,
        form=form,
        bn_eps=bn_eps,
        bn_momentum=bn_momentum,
        dropout=dropout,
        final_relu=final_relu,
    )


class FCRNCompact(nn.Module):
    """A small plain network with FCRN's decoder blocks: three convolutions with pools, three doubling blocks, one head.

    A popular article sketches such a network with three pools but three 16-fold and three 2-fold upsamplings, whose
    channel counts do not meet. Here what is pooled is upsampled again, and the output has the size of the image.

    | part    | convolution 1 | 2        | 3        | block 1  | block 2  | block 3 | head |
    |---------|---------------|----------|----------|----------|----------|---------|------|
    | channels| c             | 2c       | 4c       | 2c       | c        | c/2     | 1    |
    | size    | pooled 1/2    | 1/4      | 1/8      | 1/4      | 1/2      | 1       | 1    |

    Args:
        decoder: Kind of the three blocks.
        base_channels: Channels after the first convolution (c), even.

    Shape:
        (B, 3, h, w) -> depth [m], (B, 1, h, w). Sides are padded to multiples of 8 inside.

    Example:
        >>> import torch
        >>> FCRNCompact("upproj", 8)(torch.zeros(1, 3, 37, 53)).shape
        torch.Size([1, 1, 37, 53])

    Reference:
        Blocks: Laina et al., 3DV 2016, arXiv 1606.00373, section 3.
    """

    def __init__(self, decoder: Decoder = "deconv2", base_channels: int = 32) -> None:
        super().__init__()
        if base_channels < 2 or base_channels % 2:
            raise ModelError(
                f"`base_channels` must be even and positive; got {base_channels}. Take {base_channels + 1}."
            )
        widths = (base_channels, 2 * base_channels, 4 * base_channels)
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(conv_bn_relu(before, after), nn.MaxPool2d(2))
                for before, after in zip((3, *widths[:-1]), widths, strict=True)
            )
        )
        sizes = (*reversed(widths), base_channels // 2)
        bn = {"eps": 1e-5, "momentum": 0.1}
        self.decoder = nn.Sequential(
            *(
                _up_block(decoder, before, after, bias="none", bn=bn, up={})
                for before, after in itertools.pairwise(sizes)
            )
        )
        self.head = nn.Conv2d(sizes[-1], 1, 3, padding=1)
        initialise(self.encoder)

    def forward(self, image: Tensor) -> Tensor:
        """Predict depth [m]: (B, 3, h, w) -> (B, 1, h, w)."""
        check_image(image)
        depth: Tensor = self.head(self.decoder(self.encoder(pad_to_multiple(image, 8))))
        return crop_like(depth, image)


def build_fcrn_compact(*, decoder: Decoder = "deconv2", base_channels: int = 32) -> FCRNCompact:
    """Build the compact variant; see `FCRNCompact`.

    Args:
        decoder: Kind of the three up-sampling blocks.
        base_channels: Channels after the first convolution, even.

    Returns:
        The network.

    Raises:
        ModelError: If an option is unknown.

    Example:
        >>> build_fcrn_compact(base_channels=8).head.in_channels
        4
    """
    return FCRNCompact(decoder, base_channels)
