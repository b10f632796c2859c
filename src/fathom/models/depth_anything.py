"""Depth Anything V2 as a network for metres that `fathom train` tunes: the large recipe beside the embedded models.

Paper: Yang et al., "Depth Anything V2", NeurIPS 2024, arXiv 2406.09414; its metric models (section 7.3) are the same
network with a sigmoid times the largest depth as its last step. The network itself is that of transformers.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ConfigError, WeightsError, require
from fathom.models.base import crop_like, pad_to_multiple

PATCH = 14


class DepthAnything(nn.Module):
    """Depth Anything V2 with metric depth, any height and width.

    Args:
        max_depth: Largest depth [m].
        initial_depth: Depth of the network before it is trained [m].
        hidden_size: Width of the transformer; 384 is Small, 768 Base, 1024 Large.
        heads: Attention heads.
        layers: Blocks of the transformer; features leave after each quarter of them.
        neck: Channels of the four feature maps that the decoder takes.
        fusion: Channels of the decoder.
        trunk_weights: Folder of the relative model in the layout of transformers, or its name on the hub. All weights
            are taken but those of the last convolution, whose unit was no metre.

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
        initial_depth: float = 2.5,
        hidden_size: int = 384,
        heads: int = 6,
        layers: int = 12,
        neck: tuple[int, ...] = (48, 96, 192, 384),
        fusion: int = 64,
        trunk_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < initial_depth < max_depth:
            raise ConfigError(f"Expected 0 < initial_depth < max_depth [m]; got {initial_depth} and {max_depth}.")
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
        last = self.network.head.conv3
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.constant_(last.bias, math.log(initial_depth / (max_depth - initial_depth)))

    def _load(self, source: str) -> None:
        try:
            given = type(self.network).from_pretrained(source, dtype=torch.float32).state_dict()
            self.network.load_state_dict({key: given[key] for key in self.network.state_dict() if key in given})
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"Expected weights of Depth Anything V2 with these options; got '{source}': {str(error)[:300]}. "
                "Give a folder with config.json and model.safetensors, or depth-anything/Depth-Anything-V2-Small-hf."
            ) from error

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to depth (B, 1, h, w) in (0, max_depth) [m]."""
        # Only where it must be: a crop that cuts nothing would tie an export to its size.
        if image.shape[-2] % PATCH or image.shape[-1] % PATCH:
            return crop_like(self.forward(pad_to_multiple(image, PATCH)), image)
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        maps = self.network.neck(self.network.backbone(image).feature_maps, rows, columns)
        # The head of transformers turns the size into plain numbers, which would tie an export to it, too.
        head = self.network.head
        features = F.interpolate(head.conv1(maps[-1]), image.shape[-2:], mode="bilinear", align_corners=True)
        logits: Tensor = head.conv3(head.activation1(head.conv2(features)))
        return self.max_depth * torch.sigmoid(logits)


def build_depth_anything(**options: object) -> DepthAnything:
    """Build the network; the options are those of `DepthAnything`."""
    return DepthAnything(**options)  # type: ignore[arg-type]
