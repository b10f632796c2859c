"""Output layers: how the last feature map becomes depth.

Every head is a module that maps features (B, C, h, w) to depth (B, 1, h, w) in metres. Two of them predict a
distribution over depth, and their losses need more than its value: `OrdinalHead` and `AdaptiveBinsHead` return a
dictionary with ``depth`` first. What a head returns never changes after it is built.

============  =======================================================  ==========================
name          depth                                                    range [m]
============  =======================================================  ==========================
linear        x                                                        any; also affine-invariant
softplus      log(1 + exp(x))                                          (0, inf)
log_depth     exp(x)                                                   (0, inf)
sigmoid       max_depth * sigmoid(x)                                   (0, max_depth)
ordinal       centre of the interval counted by K - 1 yes/no answers   [min_depth, max_depth]
bins          sum of p_k c_k, interval borders chosen per picture      [min_depth, max_depth]
classes       (class scores, no depth)                                 logits, (B, classes, h, w)
============  =======================================================  ==========================

References:
    Fu et al., "Deep Ordinal Regression Network for Monocular Depth Estimation", CVPR 2018, sections 3.2 and 3.3.
    Bhat et al., "AdaBins: Depth Estimation Using Adaptive Bins", CVPR 2021, section 3.4.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError


def _check_range(min_depth: float, max_depth: float) -> None:
    if not 0.0 < min_depth < max_depth < math.inf:
        raise ConfigError(
            f"A head needs 0 < min_depth < max_depth [m]; got {min_depth} and {max_depth}. Set both for your data, for "
            "instance 0.1 and 10 for rooms."
        )


def _check_count(name: str, value: int) -> None:
    if value < 2:
        raise ConfigError(f"`{name}` must be at least 2; got {value}. A common choice is 80 to 256.")


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class LinearHead(nn.Module):
    """Predict depth with one convolution and nothing after it.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.

    Example:
        >>> LinearHead(8)(torch.zeros(2, 8, 3, 5)).shape
        torch.Size([2, 1, 3, 5])
    """

    def __init__(self, in_channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv = _conv(in_channels, 1, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, 1, h, w), unbounded."""
        return cast(Tensor, self.conv(features))


class SoftplusHead(LinearHead):
    """Predict a positive depth; nearly linear for depths above one metre.

    Example:
        >>> bool((SoftplusHead(8)(torch.randn(2, 8, 3, 5)) > 0).all())
        True
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to depth (B, 1, h, w) > 0 [m]."""
        return F.softplus(super().forward(features))


class LogDepthHead(LinearHead):
    """Predict log depth and return its exponential, so that errors are relative.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.
        initial_depth: Depth of an untrained network, so that training starts at the scale of the scene [m].

    Example:
        >>> head = LogDepthHead(8, initial_depth=2.5)
        >>> round(head(torch.zeros(1, 8, 1, 1)).item(), 4)
        2.5
    """

    def __init__(self, in_channels: int, kernel_size: int = 1, initial_depth: float = 2.5) -> None:
        super().__init__(in_channels, kernel_size)
        if initial_depth <= 0.0:
            raise ConfigError(
                f"`initial_depth` must be above 0 m; got {initial_depth}. Use the typical depth, say 2.5."
            )
        nn.init.constant_(cast(Tensor, self.conv.bias), math.log(initial_depth))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to depth (B, 1, h, w) > 0 [m]."""
        return super().forward(features).exp()


class SigmoidHead(LinearHead):
    """Predict a fraction of a largest depth.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.
        max_depth: Largest depth [m].

    Example:
        >>> bool((SigmoidHead(4, max_depth=10.0)(1000.0 * torch.randn(1, 4, 9, 9)) <= 10.0).all())
        True
    """

    def __init__(self, in_channels: int, kernel_size: int = 1, max_depth: float = 10.0) -> None:
        super().__init__(in_channels, kernel_size)
        if not 0.0 < max_depth < math.inf:
            raise ConfigError(f"`max_depth` must be above 0 m; got {max_depth}. Use the largest depth of your data.")
        self.max_depth = max_depth

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to depth (B, 1, h, w) in (0, max_depth) [m]."""
        return self.max_depth * torch.sigmoid(super().forward(features))


def spaced_thresholds(num_intervals: int, min_depth: float, max_depth: float, spacing: str = "log") -> Tensor:
    """Cut a depth range into intervals whose size grows with depth.

    Spacing-increasing discretisation: ``t_i = min_depth * (max_depth / min_depth) ** (i / K)``; the uniform kind is
    ``t_i = min_depth + (max_depth - min_depth) * i / K``.

    Args:
        num_intervals: K.
        min_depth: First border [m].
        max_depth: Last border [m].
        spacing: ``"log"`` (SID) or ``"uniform"`` (UD).

    Returns:
        K + 1 borders in float32 [m].

    Raises:
        ConfigError: If the range, the number or the spacing is wrong.

    Example:
        >>> [round(float(border), 4) for border in spaced_thresholds(3, 0.01, 10.0)]
        [0.01, 0.1, 1.0, 10.0]

    Reference:
        Fu et al., CVPR 2018, equation 1.
    """
    _check_range(min_depth, max_depth)
    _check_count("num_intervals", num_intervals)
    steps = torch.linspace(0.0, 1.0, num_intervals + 1, dtype=torch.float64, device="cpu")
    if spacing == "log":
        borders = min_depth * (max_depth / min_depth) ** steps
    elif spacing == "uniform":
        borders = min_depth + (max_depth - min_depth) * steps
    else:
        raise ConfigError(f"`spacing` must be 'log' or 'uniform'; got '{spacing}'.")
    return borders.to(torch.float32)


class OrdinalHead(nn.Module):
    """Ask K - 1 times "is it farther than border k?", count the yes answers, and return that interval's centre.

    The paper uses a pair of channels with softmax per question; one channel with a sigmoid is the same family (the
    difference of the pair), and its first question, farther than `min_depth`, is always yes and is left out here.
    Counting has no gradient: train on ``ordinal_logits``.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.
        num_intervals: K.
        min_depth: First border [m].
        max_depth: Last border [m].
        spacing: ``"log"`` or ``"uniform"``, see `spaced_thresholds`.

    Example:
        >>> head = OrdinalHead(4, num_intervals=10, min_depth=0.5, max_depth=10.0)
        >>> {key: tuple(value.shape) for key, value in head(torch.zeros(1, 4, 2, 2)).items()}
        {'depth': (1, 1, 2, 2), 'ordinal_logits': (1, 9, 2, 2)}

    Reference:
        Fu et al., CVPR 2018, sections 3.2 and 3.3.
    """

    borders: Tensor

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 1,
        num_intervals: int = 80,
        min_depth: float = 0.1,
        max_depth: float = 10.0,
        spacing: str = "log",
    ) -> None:
        super().__init__()
        borders = spaced_thresholds(num_intervals, min_depth, max_depth, spacing)
        self.register_buffer("borders", borders)
        self.conv = _conv(in_channels, num_intervals - 1, kernel_size)

    def decode(self, logits: Tensor) -> Tensor:
        """Count the yes answers (probability at least one half) and look up the centre of that interval.

        Args:
            logits: Shape (B, K - 1, h, w); channel k answers "farther than ``borders[k + 1]``".

        Returns:
            Depth, shape (B, 1, h, w) [m].
        """
        centres = 0.5 * (self.borders[:-1] + self.borders[1:])
        return centres[(logits >= 0.0).sum(dim=1, keepdim=True)]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (B, C, h, w) to ``depth`` (B, 1, h, w) [m] and ``ordinal_logits`` (B, K - 1, h, w)."""
        logits = self.conv(features)
        return {"depth": self.decode(logits), "ordinal_logits": logits}


class AdaptiveBinsHead(nn.Module):
    """Cut the depth range anew for every picture, and blend the interval centres per pixel.

    ``b = (relu(mlp(mean features)) + 0.001)``, normalised to sum 1, are the widths;
    ``c_k = min + (max - min) * (b_1 + ... + b_{k-1} + b_k / 2)`` the centres; depth is ``sum_k softmax(x)_k c_k``.
    AdaBins reads the widths from a small transformer; a mean over the picture and two layers take its place here, so
    that the head fits behind any decoder at any size.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.
        num_bins: Number of intervals.
        min_depth: Nearest border [m].
        max_depth: Farthest border [m].

    Example:
        >>> head = AdaptiveBinsHead(4, num_bins=16)
        >>> {key: tuple(value.shape) for key, value in head(torch.zeros(2, 4, 3, 3)).items()}
        {'depth': (2, 1, 3, 3), 'bin_centers': (2, 16)}

    Reference:
        Bhat et al., CVPR 2021, equations 1 to 3.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 1,
        num_bins: int = 256,
        min_depth: float = 0.001,
        max_depth: float = 10.0,
    ) -> None:
        super().__init__()
        _check_range(min_depth, max_depth)
        _check_count("num_bins", num_bins)
        self.min_depth, self.max_depth = min_depth, max_depth
        self.conv = _conv(in_channels, num_bins, kernel_size)
        self.widths = nn.Sequential(
            nn.Linear(in_channels, num_bins), nn.LeakyReLU(0.01), nn.Linear(num_bins, num_bins), nn.ReLU()
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (B, C, h, w) to ``depth`` (B, 1, h, w) [m] and ``bin_centers`` (B, num_bins) [m], increasing."""
        widths = self.widths(features.mean(dim=(2, 3))) + 1e-3
        widths = widths / widths.sum(dim=1, keepdim=True)
        centers = self.min_depth + (self.max_depth - self.min_depth) * (widths.cumsum(dim=1) - 0.5 * widths)
        weights = self.conv(features).softmax(dim=1)
        depth = (weights * centers[:, :, None, None]).sum(dim=1, keepdim=True)
        return {"depth": depth, "bin_centers": centers}


class ClassHead(nn.Module):
    """Predict class scores per pixel, for segmentation.

    Args:
        in_channels: Channels of the features.
        kernel_size: Side of the convolution, odd.
        num_classes: Channels of the output; 1 for a binary mask.

    Example:
        >>> ClassHead(8, num_classes=40)(torch.zeros(1, 8, 2, 2)).shape
        torch.Size([1, 40, 2, 2])
    """

    def __init__(self, in_channels: int, kernel_size: int = 1, num_classes: int = 1) -> None:
        super().__init__()
        self.conv = _conv(in_channels, num_classes, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to logits (B, num_classes, h, w)."""
        return cast(Tensor, self.conv(features))


HEADS: dict[str, type[nn.Module]] = {
    "linear": LinearHead,
    "softplus": SoftplusHead,
    "log_depth": LogDepthHead,
    "sigmoid": SigmoidHead,
    "ordinal": OrdinalHead,
    "bins": AdaptiveBinsHead,
    "classes": ClassHead,
}
"""Every head by name."""


def build_head(name: str, in_channels: int, **options: Any) -> nn.Module:
    """Build a head by name.

    Args:
        name: A key of `HEADS`.
        in_channels: Channels of the features it reads.
        **options: Keyword arguments of the head's class.

    Returns:
        The head.

    Raises:
        ConfigError: If there is no such head, or it has no such option.

    Example:
        >>> build_head("sigmoid", 16, max_depth=80.0).max_depth
        80.0
    """
    if name not in HEADS:
        raise ConfigError(f"Expected a head out of {', '.join(HEADS)}; got '{name}'.")
    try:
        return HEADS[name](in_channels, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(
            f"The head '{name}' does not know an option: {error}. See the docstring of its class."
        ) from None
