"""Depth Anything V2 as a network for metres: the large recipe beside the embedded models.

Paper: Yang et al., "Depth Anything V2", NeurIPS 2024, arXiv 2406.09414. The network itself is that of transformers.

Its map is inverse depth up to a scale and a shift. These two numbers are what metres lack, so they are all that is
learned first: one linear layer reads off the transformer how far the near and the far parts of the picture are. It is
small enough to be solved by least squares (`fathom.train.readout`). To replace the last layer and tune the network as a
whole on the same few hundred pictures learns them by heart; docs/results.md compares both.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError, WeightsError, require
from fathom.models.base import crop_like, pad_to_multiple

PATCH = 14
CELLS = (12, 16)
"""Rows and columns to which the map is averaged before its quantiles are taken."""
REGIONS = (3, 4)
"""Rows and columns of the picture whose mean tokens are read one by one."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the map; the depth at the first (far) and at the last (near) of them is what the readout gives."""


def _bins(length: int, count: int, like: Tensor) -> Tensor:
    """Return weights (count, length) of means in overlapping bins; a pooling would tie an export to its size."""
    places = (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) * (count / length)
    centres = torch.arange(count, device=like.device, dtype=like.dtype) + 0.5
    weights = (1 - (places[None] - centres[:, None]).abs()).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def _means(maps: Tensor, cells: tuple[int, int]) -> Tensor:
    """Average maps (B, C, h, w) to (B, C, *cells)."""
    rows, columns = (_bins(length, count, maps) for length, count in zip(maps.shape[-2:], cells, strict=True))
    return rows @ maps @ columns.T


def _exactly(like: Tensor) -> AbstractContextManager[object]:
    """Compute in float32 inside autocast, too: half precision has three digits, few for a sum of thousands."""
    kind = like.device.type
    inside = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # the meta device has none
    return torch.autocast(kind, enabled=False) if inside else nullcontext()


class DepthAnything(nn.Module):
    """Depth Anything V2 with metric depth, any height and width.

    Args:
        max_depth: Largest depth [m].
        hidden_size: Width of the transformer; 384 is Small, 768 Base, 1024 Large.
        heads: Attention heads.
        layers: Blocks of the transformer; features leave after each quarter of them.
        neck: Channels of the four feature maps that the decoder takes.
        fusion: Channels of the decoder.
        trunk_weights: Folder of the relative model in the layout of transformers, or its name on the hub.

    Attributes:
        readout: Reads the logarithms of the depth of the far and of the near parts [ln m]; at first 4 m and 2 m.
        readout_blocks: How many numbers of each sort it reads.

    Raises:
        ConfigError: If the depths or the number of layers cannot be.
        WeightsError: If the weights do not fit.

    Example:
        >>> small = DepthAnything(hidden_size=24, heads=2, layers=4, neck=(4, 4, 8, 8), fusion=8)
        >>> small(torch.rand(1, 3, 45, 60)).shape
        torch.Size([1, 1, 45, 60])
    """

    def __init__(
        self,
        *,
        max_depth: float = 10.0,
        hidden_size: int = 384,
        heads: int = 6,
        layers: int = 12,
        neck: tuple[int, ...] = (48, 96, 192, 384),
        fusion: int = 64,
        trunk_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not max_depth > 0:
            raise ConfigError(f"`max_depth` must be positive [m]; got {max_depth}.")
        if layers < 4 or layers % 4:
            raise ConfigError(f"`layers` must be a multiple of 4, one feature map for each quarter; got {layers}.")
        transformers = require("transformers", "hub", "Depth Anything")
        backbone = transformers.Dinov2Config(
            hidden_size=hidden_size,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            image_size=518,
            patch_size=PATCH,
            out_indices=[layers // 4 * quarter for quarter in (1, 2, 3, 4)],
            reshape_hidden_states=False,
            use_mask_token=False,
        )
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=hidden_size,
            neck_hidden_sizes=list(neck),
            fusion_hidden_size=fusion,
        )
        self.max_depth = max_depth
        self.network = transformers.DepthAnythingForDepthEstimation(config)
        self.network.neck.fusion_stage.layers[0].residual_layer1 = nn.Identity()  # there is nothing yet to add here
        if trunk_weights is not None:
            self._load(str(trunk_weights).removeprefix("hf:"))
        self.readout_blocks = (3 * hidden_size, REGIONS[0] * REGIONS[1] * hidden_size, len(QUANTILES))
        self.readout = nn.Linear(sum(self.readout_blocks), 2)
        nn.init.zeros_(self.readout.weight)
        with torch.no_grad():
            self.readout.bias.copy_(torch.tensor([4.0, 2.0]).log())

    def _load(self, source: str) -> None:
        try:
            given = type(self.network).from_pretrained(source, dtype=torch.float32).state_dict()
            self.network.load_state_dict({key: given[key] for key in self.network.state_dict() if key in given})
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"Expected weights of Depth Anything V2 with these options; got '{source}': {str(error)[:300]}. "
                "Give a folder with config.json and model.safetensors, or depth-anything/Depth-Anything-V2-Small-hf."
            ) from error

    def look(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the metres are made of.

        Args:
            image: Shape (B, 3, h, w), h and w multiples of 14.

        Returns:
            The map of the relative model (B, 1, h, w), 0 or more, larger = nearer; its quantiles (B, 5); and what the
            readout reads (B, F): the class token, mean and deviation of the other tokens, their means in 12 regions,
            and the logarithms of the quantiles.
        """
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        taps = self.network.backbone(image).feature_maps
        features = self.network.neck(taps, rows, columns)[-1]
        # The head of transformers turns the size into plain numbers, which would tie an export to it, too.
        head = self.network.head
        features = F.interpolate(head.conv1(features), image.shape[-2:], mode="bilinear", align_corners=True)
        relative = F.relu(head.conv3(head.activation1(head.conv2(features))).float())
        tokens = taps[-1].float()
        patches = tokens[:, 1:]
        with _exactly(image):
            sorted_cells = _means(relative, CELLS).flatten(1).sort(1).values
            regions = _means(patches.transpose(1, 2).unflatten(2, (rows, columns)), REGIONS)
        last = CELLS[0] * CELLS[1] - 1
        quantiles = sorted_cells[:, [round(share * last) for share in QUANTILES]]
        logs = quantiles.clamp_min(0.02).log()
        read = torch.cat([tokens[:, 0], patches.mean(1), patches.std(1), regions.flatten(1), logs], 1)
        return relative, quantiles, read

    def line(self, quantiles: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return what makes inverse depth [1/m] of the relative map, given what `look` returned.

        Returns:
            Scale (B, 1, 1, 1) and shift (B, 1, 1, 1): ``1 / depth = scale * relative + shift``.
        """
        with _exactly(read):
            far, near = self.readout(read).neg().exp().split(1, 1)
        low, high = quantiles[:, :1], quantiles[:, -1:]
        scale = (torch.maximum(near, 1.02 * far) - far) / (high - low).clamp_min(1e-3)
        return scale[..., None, None], (far - scale * low)[..., None, None]

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to depth (B, 1, h, w) in (0, max_depth] [m]."""
        # Only where it must be: a crop that cuts nothing would tie an export to its size.
        if image.shape[-2] % PATCH or image.shape[-1] % PATCH:
            return crop_like(self.forward(pad_to_multiple(image, PATCH)), image)
        relative, quantiles, read = self.look(image)
        scale, shift = self.line(quantiles, read)
        return 1 / (scale * relative + shift).clamp_min(1 / self.max_depth)


def build_depth_anything(**options: object) -> DepthAnything:
    """Build the network; the options are those of `DepthAnything`."""
    return DepthAnything(**options)  # type: ignore[arg-type]
