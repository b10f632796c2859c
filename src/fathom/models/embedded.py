"""The small networks inside the package: `fathom-general` and `fathom-indoor`.

A vision transformer of patch 14 under a light decoder. The transformer is the one of Depth Anything V2 Small (Yang et
al., NeurIPS 2024): its 12 blocks and all their heads, with 960 of 1536 hidden units and half as wide queries and keys,
where what stays was refitted by least squares to give what the whole gave (`training/embedded/prune.py`). It sees few
patches, 15 rows of 20, and its matrices have 4 bits (`four_bits.py`): both cost far less than blocks, heads or channels
would; `docs/results.md` has the figures.

`fathom-indoor` ends in a layer that gives the logarithm of depth. `fathom-general` has that layer, too, beside one that
was trained on its teacher's inverse depth, and gives the mean of both, each centred and scaled: the first is right more
often in rooms, the second elsewhere.

Shapes for an input (B, 3, h, w), h and w multiples of 14, r = h/14, c = w/14:

========  ======================================  ==================
stage     made of                                 shape
========  ======================================  ==================
tokens    14x14 patches, class token, position    (B, 1 + r*c, 384)
blocks    12, tapped after the 3rd, 6th, 9th, 12th  4 x (B, 384, r, c)
fuse      taps 4 and 3, 3x3 units                 (B, 64, r, c)
fuse 2    up, plus tap 2                          (B, 64, 2r, 2c)
fuse 1    up, plus tap 1                          (B, 32, 4r, 4c)
detail    up, concat a 3x3 stem of the picture    (B, 24, h/2, w/2)
head      3x3, one or two; up and sharpen         (B, 1, h, w)
========  ======================================  ==================
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14
KEY_WIDTH, HEAD_WIDTH = 32, 64
"""Channels of the queries and keys of a head, and of its values."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al., ICLR 2021) whose queries and keys are narrower than its values.

    What the products of queries and keys are divided by is part of their matrices.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.widths = (heads * KEY_WIDTH, heads * KEY_WIDTH, heads * HEAD_WIDTH)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, sum(self.widths))
        self.out = nn.Linear(heads * HEAD_WIDTH, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def attend(self, tokens: Tensor) -> Tensor:
        """Map (B, N, width) to what the heads give, side by side, (B, N, heads * 64)."""
        joined = self.qkv(self.norm1(tokens)).split(self.widths, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in joined)
        if self.training and query.is_cuda:  # torch's own takes less memory and time there
            attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        else:  # written out, because this translates to fewer operations
            attended = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return attended.transpose(1, 2).flatten(2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, width) to the same shape."""
        tokens = tokens + self.out(self.attend(tokens))
        return cast(Tensor, tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens)))))


class Unit(nn.Module):
    """A pre-activation residual unit of two 3x3 convolutions, as in the decoder of DPT (Ranftl et al., ICCV 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return cast(Tensor, features + self.conv2(F.relu(self.conv1(F.relu(features)))))


def _up(features: Tensor, factor: float) -> Tensor:
    return F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)


_HALVES = ((0.25, 0.75, 0.0), (0.0, 0.75, 0.25))
PHASES = [[[[a * b for b in row] for a in column]] for column in _HALVES for row in _HALVES]
"""Kernels (4, 1, 3, 3) that give the four pixels into which bilinear enlargement turns one."""


def sharpen(values: Tensor, edge: float) -> Tensor:
    """Double the size of a map, turn its soft edges into steps, and leave surfaces as they are.

    Between the smallest and the largest value around it, a value at the share s moves to ``s^8 / (s^8 + (1 - s)^8)``:
    one in the middle, as on every slope, stays, and one near an end goes to that end. Where the two are less than half
    of `edge` apart nothing moves, from one and a half times it on everything.

    Args:
        values: Shape (B, 1, h, w).
        edge: Difference of values that makes an edge.

    Returns:
        Shape (B, 1, 2h, 2w).

    Example:
        >>> soft = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]).expand(1, 1, 5, 5)
        >>> [round(value, 2) for value in sharpen(soft, 0.5)[0, 0, 5].tolist()]
        [0.0, 0.0, 0.0, 0.03, 0.08, 0.92, 0.97, 1.0, 1.0, 1.0]
        >>> torch.allclose(sharpen(soft, 3.0), _up(soft, 2.0))
        True

    Reference:
        A soft form of the toggle mapping of Kramer and Bruckner, "Iterations of a non-linear transformation for
        enhancement of digital images", Pattern Recognition 7, 1975.
    """
    # Neighbourhoods of the small map serve the large one, and a convolution enlarges: OpenVINO takes three times as
    # long where it interpolates a map of one channel. It takes four times as long for all that follows where that one
    # channel stays a dimension. (Flat maps of four channels before the shuffle would be a little faster still, but
    # onnx2tf cannot convert them.)
    kernels = torch.tensor(PHASES, dtype=values.dtype, device=values.device)
    large, largest, smallest = (
        F.pixel_shuffle(F.conv2d(F.pad(part, (1, 1, 1, 1), mode="replicate"), kernels), 2).squeeze(1)
        for part in (values, F.max_pool2d(values, 3, 1, 1), -F.max_pool2d(-values, 3, 1, 1))
    )
    span = largest - smallest
    share = (large - smallest) / span.clamp(1e-6, 1e6)  # pnnx, on the way to ncnn, needs both limits
    near_large, near_small = _eighth_power(share), _eighth_power(1 - share)
    sharp = smallest + span * near_large / (near_large + near_small)
    moved = large + (span / edge - 0.5).clamp(0, 1) * (sharp - large)
    return moved.unsqueeze(1)


def _eighth_power(values: Tensor) -> Tensor:
    for _ in range(3):
        values = values * values  # a product is fused with its neighbours, a power is not
    return values


def centre(values: Tensor) -> Tensor:
    """Subtract from each map (B, 1, h, w) its mean, and divide it by its mean deviation."""
    centred = values - values.mean((2, 3), keepdim=True)
    # As in `sharpen`, pnnx needs both limits.
    return centred / centred.abs().mean((2, 3), keepdim=True).clamp(1e-6, 1e6)


EDGES = {"inverse": 0.4, "log_depth": 0.1}
"""What `sharpen` takes for an edge: 0.4 mean deviations of a picture's inverse depth, and a tenth of the depth."""


def _head(value: float) -> nn.Conv2d:
    """Build the last layer; at first it gives values around `value`."""
    layer = nn.Conv2d(24, 1, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.1)  # maps that hardly vary would be all rounding once `centre` scales them
    nn.init.constant_(cast(Tensor, layer.bias), value)
    return layer


class EmbeddedNet(nn.Module):
    """Transformer with narrow hidden layers and keys, light decoder, one head or two.

    Args:
        head: ``"inverse"`` gives affine-invariant inverse depth, the mean of two heads; ``"log_depth"`` gives metres.
        taps: After how many blocks the four taps lie; the last is the number of blocks.
        width: Width of the tokens.
        heads: Attention heads of each block, each 64 wide.
        hidden: Hidden units of each block.
        grid: Rows and columns of the stored position embedding; other grids are interpolated from it.

    Example:
        >>> net = EmbeddedNet("log_depth", taps=(1, 2, 3, 4), hidden=32).eval()
        >>> net(torch.zeros(1, 3, 56, 84)).shape
        torch.Size([1, 1, 56, 84])
    """

    def __init__(
        self,
        head: Literal["inverse", "log_depth"] = "inverse",
        taps: tuple[int, int, int, int] = (3, 6, 9, 12),
        width: int = 384,
        heads: int = 6,
        hidden: int = 960,
        grid: tuple[int, int] = (15, 20),
    ) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, width, *grid) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(self.taps[-1]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.ModuleList(nn.Conv2d(width, out, 1) for out in (48, 96, 128, 128))
        self.grow1 = nn.ConvTranspose2d(48, 48, 4, 4)
        self.grow2 = nn.ConvTranspose2d(96, 96, 2, 2)
        self.lateral = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in ((48, 32), (96, 64), (128, 64), (128, 64))
        )
        self.context = nn.Linear(width, 64)
        self.unit4, self.unit3, self.unit2, self.unit1 = Unit(64), Unit(64), Unit(64), Unit(32)
        self.narrow = nn.Conv2d(64, 32, 1)
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.detail = nn.Conv2d(32 + 12, 24, 3, padding=1)
        # A room is about 2.7 m deep in the geometric mean; a normalised inverse depth lies around 0.4.
        self.depth_head = _head(1.0)
        self.inverse_head = _head(0.4) if head == "inverse" else None
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """Map a picture (B, 3, h, w) in [0, 1] to the tokens that come into the first block, (B, 1 + r*c, width)."""
        patches = self.patches((image - self.get_buffer("mean")) / self.get_buffer("std"))
        positions = F.interpolate(self.positions, patches.shape[-2:], mode="bilinear", align_corners=False)
        patches = (patches + positions).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], 1)

    def taps_of(self, image: Tensor) -> list[Tensor]:
        """Map a picture (B, 3, h, w) in [0, 1] to the tokens at the four taps, each (B, 1 + r*c, width)."""
        tokens = self.embed(image)
        maps = []
        for count, block in enumerate(self.blocks, 1):
            tokens = block(tokens)
            if count in self.taps:
                maps.append(self.norm(tokens))
        return maps

    def decode(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Map a picture and its `taps_of` to the features under the head, (B, 24, h/2, w/2)."""
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        flat = [m[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for m in maps]
        one, two, three, four = (project(m) for project, m in zip(self.project, flat, strict=True))
        one, two = self.grow1(one), self.grow2(two)
        one, two, three, four = (side(m) for side, m in zip(self.lateral, (one, two, three, four), strict=True))
        deep = self.unit4(four + self.context(maps[3][:, 0])[..., None, None])
        deep = self.unit3(deep + three)
        deep = self.unit2(_up(deep, 2.0) + two)
        deep = self.unit1(self.narrow(_up(deep, 2.0)) + one)
        # 4 cells a patch become 7: half the picture's size.
        fine = F.interpolate(deep, (rows * 7, columns * 7), mode="bilinear", align_corners=False)
        return F.relu(self.detail(torch.cat([F.relu(fine), F.relu(self.stem(image - 0.5))], 1)))

    def forward(self, image: Tensor) -> Tensor:
        """Map a picture (B, 3, h, w), RGB in [0, 1], h and w multiples of 14, to (B, 1, h, w).

        Returns:
            Affine-invariant inverse depth, or depth [m], as the head was chosen.
        """
        features = self.decode(image, self.taps_of(image))
        log_depth = self.depth_head(features).float()
        if self.inverse_head is None:
            return sharpen(log_depth, EDGES["log_depth"]).exp()
        inverse = (centre(self.inverse_head(features).float()) + centre((-log_depth).exp())) / 2
        return sharpen(inverse, EDGES["inverse"])


def build_embedded(**options: object) -> EmbeddedNet:
    """Build the network; options are those of `EmbeddedNet`."""
    return EmbeddedNet(**options)  # type: ignore[arg-type]
