"""DispNet and DispNetS: strided encoder, up-convolution decoder, a disparity prediction at every scale.

`DispNet`. Paper: Mayer et al., "A Large Dataset to Train Convolutional Networks for Disparity, Optical Flow, and Scene
Flow Estimation", CVPR 2016, arXiv 1512.02134, table 1. `DispNetS`. Paper: Zhou et al., "Unsupervised Learning of Depth
and Ego-Motion from Video", CVPR 2017, arXiv 1704.07813, section 3.5; its layout as in the authors' MIT-licensed code.
Both are written anew; there are no weights.

Shapes of `DispNet` for (B, C, h, w); every stride-2 layer maps n to ceil(n / 2):

==========  ==============  ========  ======    ===========  ============================  ========  ======
encoder     kernel, stride  channels  size      decoder      reads                         channels  size
==========  ==============  ========  ======    ===========  ============================  ========  ======
conv1       7, 2            64        h/2       predict6     conv6b                        1         h/64
conv2       5, 2            128       h/4       level 5      up 512 + conv5b 512 + 1       512       h/32
conv3a, b   5, 2; 3, 1      256       h/8       level 4      up 256 + conv4b 512 + 1       256       h/16
conv4a, b   3, 2; 3, 1      512       h/16      level 3      up 128 + conv3b 256 + 1       128       h/8
conv5a, b   3, 2; 3, 1      512       h/32      level 2      up 64 + conv2 128 + 1         64        h/4
conv6a, b   3, 2; 3, 1      1024      h/64      level 1      up 32 + conv1 64 + 1          32        h/2
==========  ==============  ========  ======    ===========  ============================  ========  ======

A level is: up-convolution 4x4 stride 2, join, 3x3 convolution (iconv), 3x3 to one channel (predict). For sides that are
no multiple of 64 the up-convolution's surplus row or column is cropped to the skip.

With `max_shift` the network is DispNetCorr1D of the same paper (section 5): both views of a pair pass through conv1 and
conv2 on their own, and conv3a reads how well each cell of the left view matches the cells of the right view on its row,
beside a 1x1 convolution of the left view's conv2.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError
from fathom.models.base import crop_like


def _leaky_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2), nn.LeakyReLU(0.1, inplace=True)
    )


def correlate_rows(left: Tensor, right: Tensor, max_shift: int) -> Tensor:
    """Compare each cell of the left view with cells of the right view on its row.

    Args:
        left: Features of the left view, shape (B, C, h, w).
        right: Features of the right view, same shape.
        max_shift: Largest shift [cells].

    Returns:
        Shape (B, 1 + max_shift, h, w): map d holds the cosine of ``left[x]`` and ``right[x - d]``, and 0 where x - d
        lies outside.

    Example:
        >>> left = torch.tensor([0.0, 0.0, 2.0]).view(1, 1, 1, 3)
        >>> right = torch.tensor([0.0, -3.0, 0.0]).view(1, 1, 1, 3)
        >>> correlate_rows(left, right, 1)[0, :, 0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]

    Reference:
        Dosovitskiy et al., "FlowNet", ICCV 2015, equation 1, with patches of one cell, along rows, and of features of
        length 1: their plain products do not learn from a few dozen pairs (``docs/results.md``).
    """
    left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    padded = F.pad(right, (max_shift, 0))
    width = left.shape[-1]
    shifted = (padded[..., max_shift - shift : max_shift - shift + width] for shift in range(max_shift + 1))
    return torch.stack([(left * view).sum(dim=1) for view in shifted], dim=1)


class DispNet(nn.Module):
    """Disparity of a stereo pair (6 channels, left then right) or of one picture (3 channels), at six scales.

    Args:
        in_channels: 3 for one picture, 6 for a pair.
        base_channels: Channels of conv1; all others keep the paper's ratios to it.
        max_shift: For a pair: how far the two views' features are compared along rows [cells of h/4]; the paper's
            DispNetCorr1D has 40. 0: the views are joined at the start, and nothing is compared.
        initial_disparity: None: each level predicts disparity anew, as in the paper. A number: the coarsest starts
            there [px], and each finer level corrects what the one below found, which a few thousand steps can learn.

    Raises:
        ConfigError: If `max_shift` is given for one picture.

    Example:
        >>> outputs = DispNet(base_channels=4)(torch.zeros(1, 3, 64, 128))
        >>> list(outputs), tuple(outputs["disparity_1"].shape)
        (['disparity_1', 'disparity_2', 'disparity_3', 'disparity_4', 'disparity_5', 'disparity_6'], (1, 1, 32, 64))

    Reference:
        Mayer et al., CVPR 2016, table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        max_shift: int = 0,
        initial_disparity: float | None = None,
    ) -> None:
        super().__init__()
        if max_shift and in_channels != 6:
            raise ConfigError(f"`max_shift` compares the views of a pair: it needs in_channels=6; got {in_channels}.")
        self.max_shift, self.corrects = max_shift, initial_disparity is not None
        width = base_channels
        compared = width + max_shift + 1 if max_shift else 2 * width
        half = max(width // 2, 1)
        self.encoder = nn.ModuleList(
            [
                _leaky_conv(3 if max_shift else in_channels, width, 7, 2),
                _leaky_conv(width, 2 * width, 5, 2),
                nn.Sequential(_leaky_conv(compared, 4 * width, 5, 2), _leaky_conv(4 * width, 4 * width, 3)),
                nn.Sequential(_leaky_conv(4 * width, 8 * width, 3, 2), _leaky_conv(8 * width, 8 * width, 3)),
                nn.Sequential(_leaky_conv(8 * width, 8 * width, 3, 2), _leaky_conv(8 * width, 8 * width, 3)),
                nn.Sequential(_leaky_conv(8 * width, 16 * width, 3, 2), _leaky_conv(16 * width, 16 * width, 3)),
            ]
        )
        self.redirect = _leaky_conv(2 * width, width, 1) if max_shift else None
        skips = (8 * width, 8 * width, 4 * width, 2 * width, width)
        outs = (8 * width, 4 * width, 2 * width, width, half)
        ins = (16 * width, *outs[:-1])
        self.upconv = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(before, after, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True))
            for before, after in zip(ins, outs, strict=True)
        )
        # The paper's iconv layers have no activation: predictions read them directly.
        self.iconv = nn.ModuleList(
            nn.Conv2d(out + skip + 1, out, 3, padding=1) for out, skip in zip(outs, skips, strict=True)
        )
        self.predict = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for channels in (16 * width, *outs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(cast(Tensor, module.bias))
        if initial_disparity is not None:
            for module in self.predict:
                nn.init.normal_(cast(Tensor, module.weight), std=1e-3)
            nn.init.constant_(cast(Tensor, self.predict[0].bias), initial_disparity)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, h, w) to six disparity maps, finest first.

        Returns:
            ``disparity_1`` ... ``disparity_6``, each (B, 1, ceil(h / 2^i), ceil(w / 2^i)), in pixels of the *input*
            picture, unbounded.
        """
        maps, skips = self._compare(image) if self.max_shift else (image, [])
        for block in self.encoder[len(skips) :]:
            maps = block(maps)
            skips.append(maps)
        disparity = self.predict[0](skips.pop())
        outputs = {"disparity_6": disparity}
        for step, (upconv, iconv, predict) in enumerate(zip(self.upconv, self.iconv, self.predict[1:], strict=True)):
            skip = skips.pop()
            coarse = F.interpolate(disparity, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            maps = iconv(torch.cat([crop_like(upconv(maps), skip), skip, coarse], dim=1))
            disparity = predict(maps) + coarse if self.corrects else predict(maps)
            outputs[f"disparity_{5 - step}"] = disparity
        return {f"disparity_{scale}": outputs[f"disparity_{scale}"] for scale in range(1, 7)}

    def _compare(self, pair: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what conv3a reads, and conv1 and conv2 of the left view."""
        assert self.redirect is not None, "built with max_shift"
        first = self.encoder[0](torch.cat(pair.chunk(2, dim=1)))
        second = self.encoder[1](first)
        left, right = second.chunk(2)
        maps = torch.cat([self.redirect(left), correlate_rows(left, right, self.max_shift)], dim=1)
        return maps, [first.chunk(2)[0], left]


def _pair(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, 2, kernel // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, kernel, 1, kernel // 2),
        nn.ReLU(inplace=True),
    )


class DispNetS(nn.Module):
    """The single-picture disparity network of SfMLearner: ``10 * sigmoid + 0.01`` at four scales.

    Encoder: seven pairs of convolutions, stride 2 then 1, channels 32, 64, 128, 256, 512, 512, 512; kernels 7, 5, then
    3. Decoder: seven times a transposed 3x3 stride 2 (channels 512, 512, 256, 128, 64, 32, 16), joined with the
    encoder's map of that size and, from the third last on, with the coarser disparity, then a 3x3 convolution.

    The output is inverse depth up to one unknown scale; its range 0.01 to 10.01 makes depth 0.0999 to 100.

    Args:
        in_channels: Channels of the picture.
        base_channels: Channels of the first pair; all others keep the paper's ratios to it.
        gain: Factor of the sigmoid.
        offset: Added after it, so that depth stays finite.

    Example:
        >>> outputs = DispNetS(base_channels=4)(torch.zeros(1, 3, 128, 416))
        >>> [tuple(disparity.shape[-2:]) for disparity in outputs.values()]
        [(128, 416), (64, 208), (32, 104), (16, 52)]

    Reference:
        Zhou et al., CVPR 2017, section 3.5 and figure 4.
    """

    NUM_SCALES = 4

    def __init__(self, in_channels: int = 3, base_channels: int = 32, gain: float = 10.0, offset: float = 0.01) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset
        width = base_channels
        encoder = (width, 2 * width, 4 * width, 8 * width, 16 * width, 16 * width, 16 * width)
        kernels = (7, 5, 3, 3, 3, 3, 3)
        self.encoder = nn.ModuleList(
            _pair(before, after, kernel)
            for before, after, kernel in zip((in_channels, *encoder[:-1]), encoder, kernels, strict=True)
        )
        outs = (16 * width, 16 * width, 8 * width, 4 * width, 2 * width, width, max(width // 2, 1))
        skips = (*encoder[-2::-1], 0)
        # The three finest levels also read the disparity of the level below.
        extra = (0, 0, 0, 0, 1, 1, 1)
        self.upconv = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(before, after, 3, 2, 1, 1), nn.ReLU(inplace=True))
            for before, after in zip((encoder[-1], *outs[:-1]), outs, strict=True)
        )
        self.iconv = nn.ModuleList(
            nn.Sequential(nn.Conv2d(out + skip + one, out, 3, padding=1), nn.ReLU(inplace=True))
            for out, skip, one in zip(outs, skips, extra, strict=True)
        )
        self.predict = nn.ModuleList(nn.Conv2d(out, 1, 3, padding=1) for out in outs[-self.NUM_SCALES :])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, h, w) to four maps of inverse depth up to scale, finest first.

        Returns:
            ``disparity_0`` ... ``disparity_3``, each (B, 1, ceil(h / 2^i), ceil(w / 2^i)), in
            (offset, gain + offset).
        """
        maps, skips = image, [image]
        for block in self.encoder:
            maps = block(maps)
            skips.append(maps)
        skips.pop()
        outputs: list[Tensor] = []
        for level, (upconv, iconv) in enumerate(zip(self.upconv, self.iconv, strict=True)):
            reference = skips.pop()
            parts = [crop_like(upconv(maps), reference)]
            if level < 6:
                parts.append(reference)
            if outputs:
                size = reference.shape[-2:]
                parts.append(F.interpolate(outputs[-1], size=size, mode="bilinear", align_corners=False))
            maps = iconv(torch.cat(parts, dim=1))
            if level >= 3:
                outputs.append(self.gain * torch.sigmoid(self.predict[level - 3](maps)) + self.offset)
        return {f"disparity_{scale}": disparity for scale, disparity in enumerate(reversed(outputs))}


def build_dispnet(**options: Any) -> DispNet:
    """Build DispNet; options are those of `DispNet`."""
    return DispNet(**options)


def build_dispnet_s(**options: Any) -> DispNetS:
    """Build DispNetS; options are those of `DispNetS`."""
    return DispNetS(**options)
