"""ResNet-50 as first published: the stride of a stage sits in its first 1x1 convolution, not in the 3x3.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. FCRN was published on
this layout; torchvision's ResNet-50 ("v1.5") has the same parameter names and counts but is another function. Key names
here are torchvision's. Written from the paper; public weights of this layout: Keras applications (MIT).

Shapes for an image of 228x304, width 64: conv1 114x152x64, stages 57x76x256, 29x38x512, 15x19x1024, 8x10x2048.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError

PoolPadding = Literal["symmetric", "same"]


class BottleneckV1(nn.Module):
    """Residual block 1x1, 3x3, 1x1 with the stride in the first convolution.

    Args:
        in_channels: Channels of the input.
        width: Channels inside; the output has four times as many.
        stride: Stride of the block [px].
        project: Whether the shortcut is a 1x1 convolution.
        bn_eps: Epsilon of batch normalisation.
        bn_momentum: Momentum of batch normalisation, in torch's sense.
    """

    def __init__(
        self, in_channels: int, width: int, *, stride: int, project: bool, bn_eps: float, bn_momentum: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width, eps=bn_eps, momentum=bn_momentum)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width, eps=bn_eps, momentum=bn_momentum),
            )
            if project
            else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's output, (B, 4 * width, ceil(h / stride), ceil(w / stride))."""
        inner = functional.relu(self.bn1(self.conv1(maps)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))


class ResNetV1(nn.Module):
    """Trunk of ResNet-50 v1 without average pool and classifier.

    Args:
        blocks: Blocks per stage.
        width: Channels after the first convolution; the last stage has 32 times as many.
        conv1_bias: Whether the first convolution has a bias (the released FCRN has one).
        bn_eps: Epsilon of batch normalisation: 1e-3 for the Keras weights, 1e-4 for the released FCRN.
        bn_momentum: Momentum of batch normalisation, in torch's sense.
        pool_padding: ``"symmetric"`` pads one pixel on both sides; ``"same"`` is TensorFlow's rule: at even sizes only
            at the end, so that windows start at the first pixel.

    Shape:
        (B, 3, h, w) -> five maps with strides 2, 4, 8, 16, 32; each side is rounded up.

    Example:
        >>> import torch
        >>> [tuple(maps.shape[1:]) for maps in ResNetV1((1, 1, 1, 1), width=4)(torch.zeros(1, 3, 37, 53))]
        [(4, 19, 27), (16, 10, 14), (32, 5, 7), (64, 3, 4), (128, 2, 2)]

    Reference:
        He et al., CVPR 2016, arXiv 1512.03385, table 1 and section 3.3.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        *,
        width: int = 64,
        conv1_bias: bool = False,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
        pool_padding: PoolPadding = "symmetric",
    ) -> None:
        super().__init__()
        if pool_padding not in ("symmetric", "same"):
            raise ModelError(f"`pool_padding` must be 'symmetric' or 'same'; got '{pool_padding}'.")
        self.pool_padding = pool_padding
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=conv1_bias)
        self.bn1 = nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum)
        self.channels = (width, *(4 * width * 2**stage for stage in range(4)))
        for stage, count in enumerate(blocks):
            layers = [
                BottleneckV1(
                    self.channels[stage] if index == 0 else self.channels[stage + 1],
                    width * 2**stage,
                    stride=2 if index == 0 and stage > 0 else 1,
                    project=index == 0,
                    bn_eps=bn_eps,
                    bn_momentum=bn_momentum,
                )
                for index in range(count)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def _pool(self, maps: Tensor) -> Tensor:
        # Values are rectified, so zeros pad a maximum as minus infinity would.
        if self.pool_padding == "symmetric":
            return functional.max_pool2d(maps, 3, stride=2, padding=1)
        height, width = maps.shape[-2:]
        return functional.max_pool2d(functional.pad(maps, (width % 2, 1, height % 2, 1)), 3, stride=2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of strides 2, 4, 8, 16 and 32."""
        features = [functional.relu(self.bn1(self.conv1(image)))]
        maps = self._pool(features[0])
        for stage in range(4):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
            features.append(maps)
        return features
