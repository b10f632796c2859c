"""Eigen, Puhrsch, Fergus 2014: a coarse global network with fully connected layers, and a fine local one behind it.

Paper: "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NIPS 2014, arXiv 1406.2283. Written
from the paper and from published facts about the release; the release itself is GPLv3 and nothing of it is used here.

Shapes (H x W) for an image of 228x304:

| coarse      | conv1   | pool1  | pool2  | pool5  | flat   | full1 | full2         |
|-------------|---------|--------|--------|--------|--------|-------|---------------|
|             | 56x75   | 27x37  | 13x18  | 6x8    | 12,288 | 4096  | 4070 = 55x74  |
| **fine**    | conv1   | pool1, 63 + 1 maps | conv2  | conv3 = log depth   |       |               |
|             | 111x149 | 55x74  |        | 55x74  | 55x74  |       |               |

The input law is the fine network's, (x - 109.31410628) / 76.18328376 on 0 to 255; the coarse network wants x - 128,
which `forward` restores. Both networks work in log depth divided by 0.45723134 (its spread over the training set).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ShapeError
from fathom.models.base import check_image, freeze, relative_rate_groups
from fathom.models.layers import OldDropout

INPUT_MEAN = 109.31410628
INPUT_STD = 76.18328376
LOG_DEPTH_STD = 0.45723134
"""One unit of the network's output, in log metres."""

_COARSE_MEAN = 128.0
_FEATURE_SCALE = 0.01
_RATES = {
    "coarse.trunk": 0.001,
    "coarse.full1": 0.1,
    "coarse.full2": 0.1,
    "fine.conv1": 0.001,
    "fine.conv2": 0.01,
    "fine.conv3": 0.001,
}


def cuda_convnet_padding(size: int, kernel: int, stride: int) -> int:
    """Tell how many pixels the old convolution code padded at each end of a strided "valid" convolution.

    The output is rounded up where a plain "valid" convolution rounds down, and the missing pixels are shared by both
    ends: with ``old = ceil((size - kernel) / stride) * stride + kernel``, the padding is ``ceil((old - size) / 2)``.

    Args:
        size: Height or width [px].
        kernel: Side of the kernel [px].
        stride: Stride [px].

    Returns:
        Padding [px].

    Example:
        >>> cuda_convnet_padding(228, 11, 4), cuda_convnet_padding(304, 9, 2)
        (2, 1)
    """
    wanted = math.ceil((size - kernel) / stride) * stride + kernel
    return math.ceil((wanted - size) / 2)


def conv_size(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    """Tell the output size of a convolution or a pool that rounds down.

    Args:
        size: Height or width [px].
        kernel: Side of the kernel [px].
        stride: Stride [px].
        padding: Padding at each end [px].

    Returns:
        Output height or width [px].

    Example:
        >>> conv_size(228, 11, 4, 2)
        56
    """
    return (size + 2 * padding - kernel) // stride + 1


def fine_size(size: int) -> int:
    """Tell the output height or width of the fine network, 9x9 stride 2 and 3x3 pool stride 2.

    Args:
        size: Height or width of the image [px].

    Returns:
        Output height or width [px].

    Example:
        >>> fine_size(228), fine_size(304)
        (55, 74)
    """
    return conv_size(conv_size(size, 9, 2, cuda_convnet_padding(size, 9, 2)), 3, 2)


def sample_target(depth: Tensor, size: tuple[int, int] = (55, 74), *, stride: int = 4) -> Tensor:
    """Pick the target pixels that lie at the centres of the network's output pixels.

    Output pixel i of the 2014 network sees the image around ``5 + 4 i``; of scale 3 of the 2015 network around
    ``5 + 2 i``. Plain indexing: depth values are not averaged, and missing ones stay missing.

    Args:
        depth: Target of the image's height and width, shape (..., H, W); or a mask.
        size: Height and width of the network's output.
        stride: Distance of output pixels in the image [px]: 4, or 2 for scale 3 of 2015.

    Returns:
        Target, shape (..., size[0], size[1]).

    Raises:
        ShapeError: If the target is too small.

    Example:
        >>> rows = torch.arange(228.0).view(228, 1).expand(228, 304)
        >>> sample_target(rows)[:3, 0].tolist(), sample_target(rows)[-1, 0].item()
        ([5.0, 9.0, 13.0], 221.0)
    """
    rows, columns = (5 + stride * (side - 1) + 1 for side in size)
    if depth.shape[-2] < rows or depth.shape[-1] < columns:
        raise ShapeError(
            f"An output of {size} at stride {stride} needs a target of at least ({rows}, {columns}); got "
            f"{tuple(depth.shape[-2:])}. Give the target at the size of the image."
        )
    return depth[..., 5:rows:stride, 5:columns:stride]


class AlexTrunk(nn.Module):
    """Five convolutions after Krizhevsky et al. 2012, in the order pool, rectifier, normalisation.

    Args:
        input_size: Height and width of the image; it sets the padding of the first layer.
        width: Multiplies every channel count.

    Attributes:
        channels: Channels of the output.
        output_size: Height and width of the output.

    Shape:
        (B, 3, 228, 304) -> (B, 256, 6, 8).

    Example:
        >>> AlexTrunk((228, 304), 0.125).output_size
        (6, 8)

    Reference:
        Eigen et al., NIPS 2014, arXiv 1406.2283, figure 1.
    """

    def __init__(self, input_size: tuple[int, int], width: float = 1.0) -> None:
        super().__init__()
        first, second, third, fourth, fifth = (max(1, round(full * width)) for full in (96, 256, 384, 384, 256))
        padding = tuple(cuda_convnet_padding(side, 11, 4) for side in input_size)
        self.conv1 = nn.Conv2d(3, first, 11, stride=4, padding=padding)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1)
        self.conv5 = nn.Conv2d(fourth, fifth, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2)
        # The original is x * (2 + 1e-4 * sum of 5 squares) ** -0.75; torch divides alpha by the window's size.
        self.normalise = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.channels = fifth
        sides = [conv_size(side, 11, 4, pad) for side, pad in zip(input_size, padding, strict=True)]
        for _ in range(3):
            sides = [conv_size(side, 3, 2) for side in sides]
        self.output_size = (sides[0], sides[1])

    def forward(self, image: Tensor) -> Tensor:
        """Return the pooled maps of the fifth convolution."""
        maps = self.normalise(functional.relu(self.pool(self.conv1(image))))
        maps = self.normalise(functional.relu(self.pool(self.conv2(maps))))
        maps = functional.relu(self.conv3(maps))
        maps = functional.relu(self.conv4(maps))
        return functional.relu(self.pool(self.conv5(maps)))


class CoarseNetwork(nn.Module):
    """Global network: trunk, one hidden layer, one value per output pixel.

    Args:
        input_size: Height and width of the image.
        width: Multiplies the trunk's channels.
        hidden: Units of the hidden layer.

    Shape:
        (B, 3, H, W) in 0..255 minus 128 -> (B, 1, 55, 74) for 228x304, in log metres / 0.45723134.
    """

    def __init__(self, input_size: tuple[int, int], width: float, hidden: int) -> None:
        super().__init__()
        self.trunk = AlexTrunk(input_size, width)
        self.output_size = tuple(fine_size(side) for side in input_size)
        self.full1 = nn.Linear(self.trunk.channels * math.prod(self.trunk.output_size), hidden)
        self.dropout = OldDropout(0.5)
        self.full2 = nn.Linear(hidden, math.prod(self.output_size))

    def forward(self, image: Tensor) -> Tensor:
        """Return the coarse log depth."""
        features = (self.trunk(image) * _FEATURE_SCALE).flatten(1)
        hidden = self.dropout(functional.relu(self.full1(features)))
        coarse: Tensor = self.full2(hidden)
        return coarse.unflatten(1, (1, *self.output_size))


class FineNetwork(nn.Module):
    """Local network: three convolutions; the coarse prediction joins after the first.

    The release computes 64 first maps and overwrites one by the coarse prediction; here the lost one is not computed.

    Args:
        input_size: Height and width of the image; it sets the padding of the first layer.
        width: Multiplies the channels.
    """

    def __init__(self, input_size: tuple[int, int], width: float) -> None:
        super().__init__()
        channels = max(2, round(64 * width))
        padding = tuple(cuda_convnet_padding(side, 9, 2) for side in input_size)
        self.conv1 = nn.Conv2d(3, channels - 1, 9, stride=2, padding=padding)
        self.pool = nn.MaxPool2d(3, 2)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv3 = nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        """Return the refined log depth, the shape of `coarse`."""
        maps = self.pool(functional.relu(self.conv1(image)))
        refined: Tensor = self.conv3(functional.relu(self.conv2(torch.cat((coarse, maps), dim=1))))
        return refined


class Eigen2014(nn.Module):
    """Coarse and fine network together.

    Train in two phases: first `coarse_depth` alone, then `forward` after ``freeze_coarse()``.

    Args:
        input_size: Height and width of the image: (228, 304) for NYU, (172, 576) for KITTI.
        width: Multiplies the channels of all convolutions.
        hidden: Units of the hidden layer.

    Shape:
        (B, 3, 228, 304) -> depth [m], (B, 1, 55, 74).

    Raises:
        ShapeError: If the image has another height or width.

    Example:
        >>> network = Eigen2014(width=0.125, hidden=16)
        >>> network(torch.zeros(2, 3, 228, 304)).shape
        torch.Size([2, 1, 55, 74])

    Reference:
        Eigen, Puhrsch, Fergus, NIPS 2014, arXiv 1406.2283, section 3.
    """

    def __init__(self, input_size: tuple[int, int] = (228, 304), *, width: float = 1.0, hidden: int = 4096) -> None:
        super().__init__()
        self.input_size = input_size
        self.coarse = CoarseNetwork(input_size, width, hidden)
        self.fine = FineNetwork(input_size, width)

    def _coarse(self, image: Tensor) -> Tensor:
        check_image(image, size=self.input_size)
        coarse: Tensor = self.coarse(image * INPUT_STD + (INPUT_MEAN - _COARSE_MEAN))
        return coarse

    def coarse_depth(self, image: Tensor) -> Tensor:
        """Predict with the global network alone: (B, 3, h, w) -> depth [m], (B, 1, h', w')."""
        return torch.exp(self._coarse(image) * LOG_DEPTH_STD)

    def forward(self, image: Tensor) -> Tensor:
        """Predict depth [m]: (B, 3, 228, 304) -> (B, 1, 55, 74)."""
        return torch.exp(self.fine(image, self._coarse(image)) * LOG_DEPTH_STD)

    def freeze_coarse(self) -> None:
        """Begin the second phase: the coarse network stops learning. Call again after ``train()``."""
        freeze(self.coarse)

    def parameter_groups(self, base_rate: float) -> list[dict[str, object]]:
        """Give the optimiser the release's relative learning rates.

        Args:
            base_rate: What a relative rate of 1 stands for.

        Returns:
            Groups with name, parameters and rate; frozen parts are left out.
        """
        return relative_rate_groups(_RATES, self, base_rate)


def build_eigen2014(*, input_size: tuple[int, int] = (228, 304), width: float = 1.0, hidden: int = 4096) -> Eigen2014:
    """Build the network; see `Eigen2014`.

    Args:
        input_size: Height and width of the image.
        width: Multiplies the channels of all convolutions.
        hidden: Units of the hidden layer.

    Returns:
        The network.

    Example:
        >>> with torch.device("meta"):
        ...     sum(parameter.numel() for parameter in build_eigen2014().parameters())
        70877171
    """
    return Eigen2014((input_size[0], input_size[1]), width=width, hidden=hidden)
