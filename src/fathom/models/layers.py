"""Building blocks that several networks share: fast up-convolution and up-projection, dropout of the old kind.

Written from the published formulas; nothing here is copied from a release.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError

PadMode = Literal["exact", "official"]
UpForm = Literal["branches", "shuffle", "unpool"]
UpBias = Literal["none", "shared", "per_phase"]

PHASES = ("a", "b", "c", "d")
"""Output phases in the order of the paper: (even row, even column), (odd, even), (even, odd), (odd, odd)."""

_KERNELS = {"a": (3, 3), "b": (2, 3), "c": (3, 2), "d": (2, 2)}
_ROW_PHASE = {"a": 0, "b": 1, "c": 0, "d": 1}
_COLUMN_PHASE = {"a": 0, "b": 0, "c": 1, "d": 1}
_SHUFFLE_ORDER = ("a", "c", "b", "d")


def unpool(maps: Tensor) -> Tensor:
    """Double height and width: each value goes to the top left of a 2x2 cell, zeros elsewhere.

    Args:
        maps: Maps, shape (B, C, h, w).

    Returns:
        Maps, shape (B, C, 2h, 2w).

    Example:
        >>> unpool(torch.tensor([[[[7.0]]]])).flatten().tolist()
        [7.0, 0.0, 0.0, 0.0]
    """
    zeros = torch.zeros_like(maps)
    return functional.pixel_shuffle(torch.stack((maps, zeros, zeros, zeros), dim=2).flatten(1, 2), 2)


def interleave(maps: Sequence[Tensor]) -> Tensor:
    """Put four maps together, each of which gives one pixel of every 2x2 cell; memory keeps its layout.

    Args:
        maps: For the top left, top right, bottom left and bottom right pixel, each (B, C, h, w).

    Returns:
        Maps, shape (B, C, 2h, 2w).

    Example:
        >>> interleave([torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 3.0, 4.0)]).flatten(1).tolist()
        [[1.0, 2.0, 3.0, 4.0]]
    """
    if maps[0].is_contiguous():
        return functional.pixel_shuffle(torch.stack(tuple(maps), dim=2).flatten(1, 2), 2)
    # A stack along the channels would leave channels last behind, and all that follows would have to change it back.
    first, second, third, fourth = (each.permute(0, 2, 3, 1) for each in maps)
    rows = torch.stack((torch.stack((first, second), dim=3), torch.stack((third, fourth), dim=3)), dim=2)
    return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class UpConvolution(nn.Module):
    """Unpooling and 5x5 convolution in one, without multiplying by the zeros.

    Of the 25 taps of the 5x5 kernel each output phase sees its own subset: a 3x3, 2x3, 3x2 and 2x2 kernel. These four
    are the parameters. In ``pad_mode="exact"`` the result equals `unpool` followed by a 5x5 convolution with zero
    padding 2. In ``"official"`` the two-tap kernels look one input pixel up or left instead, as the released FCRN
    weights want; that equals `unpool` followed by a 7x7 kernel with holes, and no 5x5 kernel at all.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: ``"none"``, ``"shared"`` (one per output channel), or ``"per_phase"`` (four per channel: the released
            TensorFlow graph).
        pad_mode: ``"exact"`` for training, ``"official"`` for released FCRN weights.
        form: How it is computed; the numbers are the same. ``"branches"``: four small convolutions (fastest on a CPU);
            ``"shuffle"``: one 3x3 convolution and a pixel shuffle; ``"unpool"``: literally, for comparison.

    Shape:
        (B, in_channels, h, w) -> (B, out_channels, 2h, 2w).

    Example:
        >>> layer = UpConvolution(1, 1)
        >>> layer.load_kernel(torch.arange(25.0).view(1, 1, 5, 5))
        >>> layer(torch.ones(1, 1, 1, 1)).flatten().tolist()
        [12.0, 11.0, 7.0, 6.0]

    Reference:
        Laina et al., 3DV 2016, arXiv 1606.00373, section 3.3 (fast up-convolutions).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: UpBias = "none",
        pad_mode: PadMode = "exact",
        form: UpForm = "branches",
    ) -> None:
        super().__init__()
        if pad_mode not in ("exact", "official"):
            raise ModelError(f"`pad_mode` must be 'exact' or 'official'; got '{pad_mode}'.")
        if form not in ("branches", "shuffle", "unpool"):
            raise ModelError(f"`form` must be 'branches', 'shuffle' or 'unpool'; got '{form}'.")
        self.pad_mode, self.form = pad_mode, form
        for phase, (rows, columns) in _KERNELS.items():
            weight = torch.empty(out_channels, in_channels, rows, columns)
            # The mean number of taps that an output sees is 25 / 4: keeps the variance of He's rule.
            nn.init.normal_(weight, std=(2.0 / (in_channels * 6.25)) ** 0.5)
            self.register_parameter(f"weight_{phase}", nn.Parameter(weight))
        count = {"none": 0, "shared": 1, "per_phase": 4}[bias]
        self.bias = nn.Parameter(torch.zeros(out_channels, count)) if count else None

    def _weight(self, phase: str) -> Tensor:
        return self.get_parameter(f"weight_{phase}")

    def kernel(self) -> Tensor:
        """Gather the four kernels into the one that acts on the unpooled map.

        Returns:
            Shape (out, in, 5, 5) in exact mode, (out, in, 7, 7) with holes in official mode.
        """
        first = self.weight_a
        assert isinstance(first, Tensor)
        side = 5 if self.pad_mode == "exact" else 7
        # Official mode, centre 3: rows 1, 3, 5 reach the even phase, rows 0, 2 the odd one.
        start = (0, 1) if self.pad_mode == "exact" else (1, 0)
        kernel = first.new_zeros(*first.shape[:2], side, side)
        for phase in PHASES:
            rows, columns = _KERNELS[phase]
            top, left = start[_ROW_PHASE[phase]], start[_COLUMN_PHASE[phase]]
            kernel[:, :, top : top + 2 * rows : 2, left : left + 2 * columns : 2] = self._weight(phase)
        return kernel

    @torch.no_grad()
    def load_kernel(self, kernel: Tensor) -> None:
        """Take over a 5x5 kernel that acts on the unpooled map.

        Args:
            kernel: Shape (out, in, 5, 5).
        """
        for phase in PHASES:
            self._weight(phase).copy_(kernel[:, :, _ROW_PHASE[phase] :: 2, _COLUMN_PHASE[phase] :: 2])

    def forward(self, maps: Tensor) -> Tensor:
        """Up-convolve: (B, in, h, w) -> (B, out, 2h, 2w)."""
        if self.form == "branches":
            out = self._by_branches(maps)
        elif self.form == "shuffle":
            out = self._by_shuffle(maps)
        else:
            kernel = self.kernel()
            out = functional.conv2d(unpool(maps), kernel, padding=kernel.shape[-1] // 2)
            if self.bias is not None:
                size = (1, self.bias.shape[0], 1, 1)
                out = out + (self.bias.view(size) if self.bias.shape[1] == 1 else self._phase_bias(maps))
        return out

    def _bias(self, phase: str) -> Tensor | None:
        if self.bias is None:
            return None
        return self.bias[:, 0 if self.bias.shape[1] == 1 else PHASES.index(phase)]

    def _phase_bias(self, maps: Tensor) -> Tensor:
        """Spread four biases per channel over the output grid, shape (1, out, 2h, 2w)."""
        assert self.bias is not None
        order = [PHASES.index(phase) for phase in _SHUFFLE_ORDER]
        cell = self.bias[:, order].reshape(1, -1, 1, 1)
        return functional.pixel_shuffle(cell.expand(-1, -1, maps.shape[2], maps.shape[3]), 2)

    def _by_branches(self, maps: Tensor) -> Tensor:
        after = self.pad_mode == "exact"
        outputs = []
        for phase in _SHUFFLE_ORDER:
            two_rows, two_columns = _ROW_PHASE[phase], _COLUMN_PHASE[phase]
            # A two-tap kernel looks at (i, i + 1) in exact mode and at (i - 1, i) in official mode.
            left, right = (int(not (two_columns and after)), int(not (two_columns and not after)))
            top, bottom = (int(not (two_rows and after)), int(not (two_rows and not after)))
            padded = functional.pad(maps, (left, right, top, bottom))
            outputs.append(functional.conv2d(padded, self._weight(phase), self._bias(phase)))
        return interleave(outputs)

    def _by_shuffle(self, maps: Tensor) -> Tensor:
        after = self.pad_mode == "exact"
        kernels, biases = [], []
        for phase in _SHUFFLE_ORDER:
            rows, columns = _ROW_PHASE[phase], _COLUMN_PHASE[phase]
            pad = (columns, 0, rows, 0) if after else (0, columns, 0, rows)
            kernels.append(functional.pad(self._weight(phase), pad))
            biases.append(self._bias(phase))
        bias = None if biases[0] is None else torch.stack([item for item in biases if item is not None], 1).flatten()
        return functional.pixel_shuffle(
            functional.conv2d(maps, torch.stack(kernels, 1).flatten(0, 1), bias, padding=1), 2
        )


class UpProjection(nn.Module):
    """The up-projection block: an up-convolution with a projected up-convolution beside it.

    ``ReLU(BN(conv3x3(ReLU(BN(up(x))))) + BN(up'(x)))``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        up_bias: Biases of the two up-convolutions.
        conv_bias: Whether the 3x3 convolution has a bias.
        pad_mode: See `UpConvolution`.
        form: See `UpConvolution`.
        bn_eps: Epsilon of batch normalisation.
        bn_momentum: Momentum of batch normalisation, in torch's sense.

    Shape:
        (B, in_channels, h, w) -> (B, out_channels, 2h, 2w).

    Example:
        >>> UpProjection(8, 4)(torch.zeros(2, 8, 3, 5)).shape
        torch.Size([2, 4, 6, 10])

    Reference:
        Laina et al., 3DV 2016, arXiv 1606.00373, section 3.2 and figure 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        up_bias: UpBias = "none",
        conv_bias: bool = False,
        pad_mode: PadMode = "exact",
        form: UpForm = "branches",
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.up1 = UpConvolution(in_channels, out_channels, bias=up_bias, pad_mode=pad_mode, form=form)
        self.bn1 = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=conv_bias)
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.up2 = UpConvolution(in_channels, out_channels, bias=up_bias, pad_mode=pad_mode, form=form)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)

    def forward(self, maps: Tensor) -> Tensor:
        """Up-project: (B, in, h, w) -> (B, out, 2h, 2w)."""
        main = functional.relu(self.bn1(self.up1(maps)))
        return functional.relu(self.bn(self.conv(main)) + self.bn2(self.up2(maps)))


class OldDropout(nn.Module):
    """Dropout as before 2015: no rescaling while training, values times the keep probability afterwards.

    Args:
        drop: Probability that a value is set to zero while training.

    Example:
        >>> OldDropout(0.5).eval()(torch.ones(2)).tolist()
        [0.5, 0.5]

    Reference:
        Hinton et al., arXiv 1207.0580; used by Eigen et al., NIPS 2014.
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, values: Tensor) -> Tensor:
        """Drop values while training, scale them otherwise; the shape stays."""
        return functional.dropout(values, self.drop, self.training) * (1.0 - self.drop)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Make a convolution with batch normalisation and rectifier; "same" padding at stride 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd [px].
        stride: Stride [px].

    Returns:
        The three layers.

    Example:
        >>> conv_bn_relu(3, 8)(torch.zeros(2, 3, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
