"""A network small enough to export in a second, with the parts that break exports: a skip, a shuffle, an odd resize."""

import torch
from torch import Tensor, nn

from fathom.export.source import Source
from fathom.models.cards import InputSpec, ModelCard
from fathom.models.embedded import EmbeddedNet
from fathom.types import DepthKind

SPEC = InputSpec(law="area", area=(64, 80), multiple=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class TinyDepth(nn.Module):
    """Stride, residual add, concatenation, pixel shuffle; depth in 1 to 9 m that follows the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.join = nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to (B, 1, h, w)."""
        down = self.down(image)
        deep = torch.relu(down + self.deep(down))
        joined = torch.relu(self.join(torch.cat([deep, down], 1)))
        return 5.0 + 4.0 * torch.tanh(self.head(nn.functional.pixel_shuffle(joined, 2)))


def tiny_source(spec: InputSpec = SPEC, *, seed: int = 3) -> Source:
    """Return a source with fixed random weights."""
    torch.manual_seed(seed)
    network = TinyDepth().eval().requires_grad_(False)
    card = ModelCard(name="tiny-depth", kind=DepthKind.METRIC_DEPTH, input=spec)
    return Source(card, network, None, "")


def embedded_source() -> Source:
    """Return a source with the architecture of `fathom-general`, whose operations `fathom-indoor` has, too; narrow."""
    torch.manual_seed(5)
    network = EmbeddedNet("inverse", taps=(1, 2, 3, 4), hidden=32).eval().requires_grad_(False)
    spec = InputSpec(law="area", area=(70, 84), multiple=14, interpolation="area")
    card = ModelCard(name="tiny-embedded", kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, input=spec)
    return Source(card, network, None, "")


class SizedDepth(TinyDepth):
    """Its code asks for the size, as networks do that crop coarse maps."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to (B, 1, h, w)."""
        return super().forward(image) + int(image.shape[-1]) / 1e4


def sized_source() -> Source:
    """Return a source whose input size cannot be left free, with the one size 70 x 90."""
    torch.manual_seed(3)
    spec = InputSpec(law="fixed", height=70, width=90, multiple=2)
    card = ModelCard(name="sized-depth", kind=DepthKind.METRIC_DEPTH, input=spec)
    return Source(card, SizedDepth().eval().requires_grad_(False), None, "")
