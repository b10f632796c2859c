"""Garg 2016: an AlexNet-like encoder with a fully convolutional "fc" layer, and a coarse-to-fine chain of skip sums.

Paper: Garg et al., "Unsupervised CNN for Single View Depth Estimation: Geometry to the Rescue", ECCV 2016,
arXiv 1603.04992, section 3: five AlexNet convolutions, a convolutional layer 6 in the place of the fully connected
ones, and layers 7 to 12 that enlarge the disparity and add skips. Where that leaves widths, paddings or the choice of
skips open, this file takes AlexNet's and pads so that every stride maps n to ceil(n / s): a reading of the text, not a
copy of a release (the published code is a later ResNet variant). There are no weights.

======  =============================================  ========  ======
layer   made of                                        channels  size
======  =============================================  ========  ======
L1      11x11 stride 4, ReLU (then pool 3x3 stride 2)  96        h/4
L2      5x5, ReLU (then pool)                          256       h/8
L3, L4  3x3, ReLU                                      384       h/16
L5      3x3, ReLU (then pool)                          256       h/16
L6      5x5, ReLU: the fully connected layer           2048      h/32
L7      1x1: coarsest disparity                        1         h/32
L8      enlarge + 3x3 of L5                            1         h/16
L9      enlarge + 3x3 of L2                            1         h/8
L10     enlarge + 3x3 of L1                            1         h/4
L11     enlarge                                        1         h/2
L12     enlarge                                        1         h
======  =============================================  ========  ======

"Enlarge" is a learned 4x4 transposed convolution of stride 2 that starts as bilinear interpolation (Long et al., CVPR
2015). The disparity is in pixels of the *input* picture at every size, so that no factor enters between scales.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.models.base import crop_like


def _bilinear_enlarger() -> nn.ConvTranspose2d:
    """Make a stride-2 transposed convolution that interpolates bilinearly before it is trained."""
    layer = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.copy_(torch.outer(tent, tent)[None, None])
    return layer


class Garg2016(nn.Module):
    """Disparity of one picture at six scales, each the enlarged coarser one plus what a skip adds.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of L1; all others keep AlexNet's ratios to it (a multiple of 3).
        fc_channels: Channels of L6.

    Example:
        >>> outputs = Garg2016(base_channels=6, fc_channels=8)(torch.zeros(1, 3, 188, 620))
        >>> [tuple(disparity.shape[-2:]) for disparity in outputs.values()]
        [(188, 620), (94, 310), (47, 155), (24, 78), (12, 39), (6, 20)]

    Reference:
        Garg et al., ECCV 2016, section 3; skips: Long et al., "Fully Convolutional Networks", CVPR 2015.
    """

    def __init__(self, in_channels: int = 3, base_channels: int = 96, fc_channels: int = 2048) -> None:
        super().__init__()
        first, second, third = base_channels, base_channels * 8 // 3, base_channels * 4
        self.conv1 = nn.Conv2d(in_channels, first, 11, stride=4, padding=5)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, third, 3, padding=1)
        self.conv5 = nn.Conv2d(third, second, 3, padding=1)
        self.conv6 = nn.Conv2d(second, fc_channels, 5, padding=2)
        self.coarsest = nn.Conv2d(fc_channels, 1, 1)
        self.skip5 = nn.Conv2d(second, 1, 3, padding=1)
        self.skip2 = nn.Conv2d(second, 1, 3, padding=1)
        self.skip1 = nn.Conv2d(first, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))
        self.enlarge = nn.ModuleList(_bilinear_enlarger() for _ in range(5))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, h, w) to six disparity maps, finest first.

        Returns:
            ``disparity_0`` ... ``disparity_5``, each (B, 1, ceil(h / 2^i), ceil(w / 2^i)), in pixels of the input
            picture, unbounded.
        """
        level1 = F.relu(self.conv1(image))
        level2 = F.relu(self.conv2(F.max_pool2d(level1, 3, stride=2, padding=1)))
        level5 = F.relu(self.conv3(F.max_pool2d(level2, 3, stride=2, padding=1)))
        level5 = F.relu(self.conv5(F.relu(self.conv4(level5))))
        level6 = F.relu(self.conv6(F.max_pool2d(level5, 3, stride=2, padding=1)))
        # A quarter is ceil(ceil(n / 2) / 2), so a stride-2 view of the picture tells the size of the map at h/2.
        references = (level5, level2, level1, image[..., ::2, ::2], image)
        skips = (self.skip5(level5), self.skip2(level2), self.skip1(level1), None, None)
        disparities = [self.coarsest(level6)]
        for enlarge, reference, skip in zip(self.enlarge, references, skips, strict=True):
            disparity = crop_like(enlarge(disparities[-1]), reference)
            disparities.append(disparity if skip is None else disparity + skip)
        return {f"disparity_{scale}": disparity for scale, disparity in enumerate(reversed(disparities))}


def build_garg2016(**options: Any) -> Garg2016:
    """Build the network; options are those of `Garg2016`."""
    return Garg2016(**options)
