"""Multi-scale convolution: kernels of several sizes side by side, on feature maps of several scales.

The block is a definition of this toolkit, made from the idea of parallel kernels (Szegedy et al., "Going Deeper with
Convolutions", CVPR 2015, arXiv 1409.4842) and of structural re-parameterisation (Ding et al., RepVGG, CVPR 2021, arXiv
2101.03697: linear branches that are summed are one convolution). The network puts it on a VGG-16 trunk.

Shapes for an image of h x w, padded to multiples of 32; c = 256 by default:

| level              | 1/32      | 1/16            | 1/8             | 1/4              | 1/2             | output  |
|--------------------|-----------|-----------------|-----------------|------------------|-----------------|---------|
| trunk maps         | 512       | 512             | 512             | 256              | 128             |         |
| block input        | 512       | c + 512         | c + 512         | c/2 + 256        | c/4 + 128       |         |
| block output       | c         | c               | c/2             | c/4              | c/8             | 1, x2   |
"""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError
from fathom.models.base import check_image, crop_like, initialise, pad_to_multiple, resize_like
from fathom.models.vgg import VGG16Features
from fathom.models.weights import load_trunk

Fuse = Literal["concat", "sum"]


class MultiScaleConv(nn.Module):
    """Convolutions with several kernel sizes in parallel, each on several scales of the input; linear.

    Every branch pools its input by its scale, convolves with "same" padding, and goes back to the input's size.
    Branches are joined by concatenation and a 1x1 convolution, or by their sum.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernels: Odd sides of the kernels [px].
        scales: Pooling factors; 1 is the input itself.
        fuse: ``"concat"`` or ``"sum"``.
        branch_channels: Channels of a branch before the 1x1 convolution; a quarter of the output's where None. With
            ``"sum"`` branches have the output's channels.

    Shape:
        (B, in_channels, h, w) -> (B, out_channels, h, w), any h and w.

    Raises:
        ModelError: If a kernel is even, or the kind of fusion is unknown.

    Example:
        >>> block = MultiScaleConv(3, 8, fuse="concat", branch_channels=2)
        >>> sum(parameter.numel() for parameter in block.parameters())  # 3*2*84 + 4*2 + 8*8 + 8
        584
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernels: Sequence[int] = (1, 3, 5, 7),
        scales: Sequence[int] = (1,),
        fuse: Fuse = "concat",
        branch_channels: int | None = None,
    ) -> None:
        super().__init__()
        if fuse not in ("concat", "sum"):
            raise ModelError(f"`fuse` must be 'concat' or 'sum'; got '{fuse}'.")
        if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ModelError(f"`kernels` must be odd sides; got {tuple(kernels)}.")
        if not scales or any(scale < 1 for scale in scales):
            raise ModelError(f"`scales` must be pooling factors of 1 or more; got {tuple(scales)}.")
        if fuse == "sum" and branch_channels not in (None, out_channels):
            raise ModelError(
                f"With fuse='sum' a branch has {out_channels} channels; got {branch_channels}. Leave it out."
            )
        width = out_channels if fuse == "sum" else branch_channels or max(1, out_channels // 4)
        self.scales = tuple(scales)
        self.branches = nn.ModuleDict(
            {
                f"scale{scale}_kernel{kernel}": nn.Conv2d(in_channels, width, kernel, padding=kernel // 2)
                for scale in scales
                for kernel in kernels
            }
        )
        self.kernels = tuple(kernels)
        self.mix = nn.Conv2d(width * len(self.branches), out_channels, 1) if fuse == "concat" else None

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve at all scales; height and width stay."""
        outputs = []
        for scale in self.scales:
            source = maps if scale == 1 else functional.avg_pool2d(pad_to_multiple(maps, scale), scale)
            for kernel in self.kernels:
                branch: Tensor = self.branches[f"scale{scale}_kernel{kernel}"](source)
                if scale > 1:
                    size = (branch.shape[2] * scale, branch.shape[3] * scale)
                    up = functional.interpolate(branch, size=size, mode="bilinear", align_corners=False)
                    branch = crop_like(up, maps)
                outputs.append(branch)
        if self.mix is None:
            return torch.stack(outputs).sum(dim=0)
        mixed: Tensor = self.mix(torch.cat(outputs, dim=1))
        return mixed

    @torch.no_grad()
    def reparameterised(self) -> nn.Conv2d:
        """Fold all branches (and the 1x1 convolution) into one convolution with the largest kernel; exact.

        Returns:
            The convolution, with the same number type and place.

        Raises:
            ModelError: If a branch works on a pooled scale, which no single convolution equals.
        """
        if self.scales != (1,):
            raise ModelError(f"Only a block with scales=(1,) is one convolution; this one has {self.scales}.")
        largest = max(self.kernels)
        weights, biases = [], []
        for kernel in self.kernels:
            branch = self.branches[f"scale1_kernel{kernel}"]
            assert isinstance(branch, nn.Conv2d) and branch.bias is not None
            weights.append(functional.pad(branch.weight, [(largest - kernel) // 2] * 4))
            biases.append(branch.bias)
        if self.mix is None:
            weight, bias = torch.stack(weights).sum(dim=0), torch.stack(biases).sum(dim=0)
        else:
            assert self.mix.bias is not None
            matrix = self.mix.weight.flatten(1)
            weight = torch.einsum("om,mikl->oikl", matrix, torch.cat(weights))
            bias = matrix @ torch.cat(biases) + self.mix.bias
        single = nn.Conv2d(weight.shape[1], weight.shape[0], largest, padding=largest // 2).to(weight)
        single.weight.copy_(weight)
        assert single.bias is not None
        single.bias.copy_(bias)
        return single


def reparameterise(network: nn.Module) -> nn.Module:
    """Make a copy of a network in which every foldable multi-scale block is a single convolution, for inference.

    Args:
        network: The network; it is not changed. Blocks on pooled scales stay as they are.

    Returns:
        The copy; it computes the same up to rounding.

    Example:
        >>> folded = reparameterise(nn.Sequential(MultiScaleConv(3, 4)))
        >>> type(folded[0]).__name__
        'Conv2d'
    """
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MultiScaleConv) and child.scales == (1,):
                setattr(parent, name, child.reparameterised())
    return folded


class MultiScaleNetwork(nn.Module):
    """VGG-16 trunk and a decoder of multi-scale blocks that climbs from 1/32 to 1/2, joined by the trunk's maps.

    Args:
        width: Multiplies the trunk's channels.
        channels: Channels of the coarsest block (c), a multiple of 8.
        kernels: Kernel sides of the blocks [px].
        scales: Pooling factors of the blocks.
        fuse: Kind of fusion in the blocks.

    Shape:
        (B, 3, h, w) -> depth [m], (B, 1, h, w). Sides are padded to multiples of 32 inside.

    Example:
        >>> MultiScaleNetwork(width=0.0625, channels=8)(torch.zeros(1, 3, 37, 53)).shape
        torch.Size([1, 1, 37, 53])
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        channels: int = 256,
        kernels: Sequence[int] = (1, 3, 5, 7),
        scales: Sequence[int] = (1,),
        fuse: Fuse = "concat",
    ) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            raise ModelError(f"`channels` must be a multiple of 8; got {channels}. Take {max(8, channels // 8 * 8)}.")
        self.trunk = VGG16Features(width)
        sizes = [channels, channels, channels // 2, channels // 4, channels // 8]
        lateral = list(reversed(self.trunk.channels[1:]))
        inputs = [lateral[0], *(before + side for before, side in zip(sizes[:-1], lateral[1:], strict=True))]
        blocks = []
        for before, after in zip(inputs, sizes, strict=True):
            block = MultiScaleConv(before, after, kernels=kernels, scales=scales, fuse=fuse)
            blocks.append(nn.Sequential(block, nn.ReLU()))
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(sizes[-1], 1, 3, padding=1)
        initialise(self.decoder)

    def forward(self, image: Tensor) -> Tensor:
        """Predict depth [m]: (B, 3, h, w) -> (B, 1, h, w)."""
        check_image(image)
        padded = pad_to_multiple(image, 32)
        features = self.trunk(padded)[:0:-1]
        maps = self.decoder[0](features[0])
        for block, lateral in zip(itertools.islice(self.decoder, 1, None), features[1:], strict=True):
            maps = block(torch.cat((resize_like(maps, lateral), lateral), dim=1))
        return crop_like(resize_like(self.head(maps), padded), image)


def build_multiscale_conv(
    *,
    trunk_weights: str | Path | None = None,
    width: float = 1.0,
    channels: int = 256,
    kernels: Sequence[int] = (1, 3, 5, 7),
    scales: Sequence[int] = (1,),
    fuse: Fuse = "concat",
) -> MultiScaleNetwork:
    """Build the network; see `MultiScaleNetwork`.

    Args:
        trunk_weights: File with VGG-16 convolutions (torchvision names), or ``"imagenet"``.
        width: Multiplies the trunk's channels.
        channels: Channels of the coarsest block.
        kernels: Kernel sides of the blocks [px].
        scales: Pooling factors of the blocks.
        fuse: ``"concat"`` or ``"sum"``.

    Returns:
        The network.

    Raises:
        ModelError: If an option is wrong.
        WeightsError: If the trunk's weights do not fit.

    Example:
        >>> build_multiscale_conv(width=0.0625, channels=8, fuse="sum").head.in_channels
        1
    """
    network = MultiScaleNetwork(width=width, channels=channels, kernels=kernels, scales=scales, fuse=fuse)
    if trunk_weights is not None:
        load_trunk(network.trunk, trunk_weights, torchvision_name="vgg16")
    return network
