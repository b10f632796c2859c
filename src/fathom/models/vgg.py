"""The thirteen convolutions of VGG-16, with torchvision's key names.

Paper: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv
1409.1556, configuration D. Written from the paper's table 1. Original weights: CC BY 4.0; torchvision's: BSD-3-Clause.

Shapes at 224x224: 224x224x64, 112x112x128, 56x56x256, 28x28x512, 14x14x512, after the last pool 7x7x512.
"""

from torch import Tensor, nn

from fathom.models.base import initialise

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16Features(nn.Module):
    """VGG-16 without classifier.

    Args:
        width: Multiplies every channel count (small networks for tests and edge devices).
        unpadded: How many of the first convolutions go without padding. Eigen and Fergus 2015 leave two unpadded.

    Attributes:
        channels: Channels of the six maps that `forward` returns.

    Shape:
        (B, 3, h, w) -> the map before each of the five pools (strides 1, 2, 4, 8, 16), and the last pooled one (32);
        pools round down.

    Example:
        >>> import torch
        >>> [tuple(maps.shape[1:]) for maps in VGG16Features(0.0625)(torch.zeros(1, 3, 64, 96))][-1]
        (32, 2, 3)

    Reference:
        Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, table 1, column D.
    """

    def __init__(self, width: float = 1.0, *, unpadded: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        channels, convolutions = 3, 0
        for stage in VGG16_STAGES:
            for full in stage:
                out = max(1, round(full * width))
                layers += [nn.Conv2d(channels, out, 3, padding=0 if convolutions < unpadded else 1), nn.ReLU()]
                channels, convolutions = out, convolutions + 1
            self.taps.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.channels = (*(max(1, round(stage[-1] * width)) for stage in VGG16_STAGES), channels)
        initialise(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of strides 1, 2, 4, 8, 16 and 32."""
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            if index in self.taps:
                maps.append(image)
            image = layer(image)
        return [*maps, image]
