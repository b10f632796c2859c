"""SfMLearner: depth and ego-motion learned from monocular video.

Paper: Zhou, Brown, Snavely, Lowe, "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR 2017,
arXiv 1704.07813. The authors' code is under the MIT licence; this file is written anew. There are no weights.

The depth network is `fathom.models.dispnet.DispNetS` plus the conversion to depth. The pose network sees the target
picture and its S neighbours at once:

==================  ==========================================  ===============  =========
part                made of                                     channels         size
==================  ==========================================  ===============  =========
conv1 ... conv5     kernels 7, 5, 3, 3, 3, stride 2, ReLU       16 ... 256       h/2 ... h/32
conv6, conv7        3x3 stride 2, ReLU                          256              h/64, h/128
pose                1x1, mean over the map, times 0.01          6 S              1
up5 ... up1         transposed 3, 3, 3, 5, 7, stride 2, ReLU    256 ... 16       h/16 ... h
mask4 ... mask1     3, 3, 5, 7, reading up4 ... up1             2 S              h/8 ... h
==================  ==========================================  ===============  =========
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from fathom.models.base import crop_like
from fathom.models.dispnet import DispNetS

POSE_SCALE = 0.01
"""Factor on the pose, so that training starts near no motion."""


class SfMLearner(nn.Module):
    """The depth network: DispNetS and its reciprocal.

    Args:
        **options: Those of `DispNetS`.

    Example:
        >>> outputs = SfMLearner(base_channels=2)(torch.zeros(1, 3, 128, 416))
        >>> list(outputs)
        ['depth', 'disparity_0', 'disparity_1', 'disparity_2', 'disparity_3']
        >>> tuple(outputs["depth"].shape)
        (1, 1, 128, 416)

    Reference:
        Zhou et al., CVPR 2017, section 3.5.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.disparity = DispNetS(**options)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map a picture (B, 3, h, w) in [-1, 1] to depth up to scale and the disparity pyramid.

        Returns:
            ``depth`` (B, 1, h, w), 0.0999 to 100 times an unknown scale, and ``disparity_0`` ... ``disparity_3`` of
            `DispNetS`.
        """
        disparities = self.disparity(image)
        return {"depth": disparities["disparity_0"].reciprocal(), **disparities}


def _down(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2), nn.ReLU(inplace=True)
    )


def _up(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2, output_padding=1),
        nn.ReLU(inplace=True),
    )


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(cast(Tensor, module.bias))


class PoseNet(nn.Module):
    """Camera motion from the target picture to each of its neighbours.

    Args:
        num_sources: S, the number of neighbours.
        in_channels: Channels of one picture.
        base_channels: Channels of conv1; all others keep the paper's ratios to it.

    Example:
        >>> net = PoseNet(num_sources=2, base_channels=4)
        >>> net(torch.zeros(3, 3, 128, 416), torch.zeros(3, 2, 3, 128, 416)).shape
        torch.Size([3, 2, 6])

    Reference:
        Zhou et al., CVPR 2017, section 3.5 and figure 4.
    """

    KERNELS = (7, 5, 3, 3, 3)

    def __init__(self, num_sources: int = 2, in_channels: int = 3, base_channels: int = 16) -> None:
        super().__init__()
        self.num_sources = num_sources
        self.widths = tuple(base_channels * 2**level for level in range(5))
        befores = (in_channels * (1 + num_sources), *self.widths[:-1])
        self.trunk = nn.ModuleList(
            _down(before, after, kernel)
            for before, after, kernel in zip(befores, self.widths, self.KERNELS, strict=True)
        )
        deepest = self.widths[-1]
        self.pose = nn.Sequential(
            _down(deepest, deepest, 3), _down(deepest, deepest, 3), nn.Conv2d(deepest, 6 * num_sources, 1)
        )
        _initialise(self)

    def _encode(self, target: Tensor, sources: Tensor) -> list[Tensor]:
        maps = [torch.cat([target, sources.flatten(1, 2)], dim=1)]
        for block in self.trunk:
            maps.append(block(maps[-1]))
        return maps

    def _motion(self, deepest: Tensor) -> Tensor:
        return POSE_SCALE * self.pose(deepest).mean(dim=(2, 3)).unflatten(1, (self.num_sources, 6))

    def forward(self, target: Tensor, sources: Tensor) -> Tensor:
        """Map the target (B, 3, h, w) and its neighbours (B, S, 3, h, w) to poses.

        Returns:
            Shape (B, S, 6): tx, ty, tz, then Euler angles rx, ry, rz [rad] with ``R = Rx Ry Rz``; they take points of
            the target camera to the source camera, at the scale of the depth network.
        """
        return self._motion(self._encode(target, sources)[-1])


class PoseExplainabilityNet(PoseNet):
    """`PoseNet` with a decoder that says which pixels the motion explains.

    Args:
        num_sources: S, the number of neighbours.
        in_channels: Channels of one picture.
        base_channels: Channels of conv1; all others keep the paper's ratios to it.

    Example:
        >>> net = PoseExplainabilityNet(num_sources=2, base_channels=4)
        >>> outputs = net(torch.zeros(1, 3, 128, 416), torch.zeros(1, 2, 3, 128, 416))
        >>> tuple(outputs["pose"].shape), tuple(outputs["explainability_1"].shape)
        ((1, 2, 6), (1, 2, 2, 64, 208))

    Reference:
        Zhou et al., CVPR 2017, section 3.3 and figure 4.
    """

    NUM_SCALES = 4

    def __init__(self, num_sources: int = 2, in_channels: int = 3, base_channels: int = 16) -> None:
        super().__init__(num_sources, in_channels, base_channels)
        outs = self.widths[::-1]
        kernels = (3, 3, 3, 5, 7)
        self.up = nn.ModuleList(
            _up(before, after, kernel)
            for before, after, kernel in zip((outs[0], *outs[:-1]), outs, kernels, strict=True)
        )
        self.mask = nn.ModuleList(
            nn.Conv2d(out, 2 * num_sources, kernel, padding=kernel // 2)
            for out, kernel in zip(outs[1:], kernels[1:], strict=True)
        )
        _initialise(self)

    def forward(self, target: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """Map the target (B, 3, h, w) and its neighbours (B, S, 3, h, w) to poses and masks.

        Returns:
            ``pose`` (B, S, 6) as in `PoseNet`, and ``explainability_0`` ... ``explainability_3``: logits
            (B, S, 2, ceil(h / 2^i), ceil(w / 2^i)), see `explainable`.
        """
        encoded = self._encode(target, sources)
        outputs = {"pose": self._motion(encoded[-1])}
        maps = encoded[-1]
        masks: list[Tensor] = []
        for level, up in enumerate(self.up):
            maps = crop_like(up(maps), encoded[4 - level])
            if level:
                masks.append(self.mask[level - 1](maps).unflatten(1, (self.num_sources, 2)))
        return outputs | {f"explainability_{scale}": mask for scale, mask in enumerate(reversed(masks))}


def explainable(logits: Tensor) -> Tensor:
    """Turn mask logits into the probability that a pixel is explained by the motion.

    Args:
        logits: Shape (B, S, 2, h, w); channel 1 means explainable.

    Returns:
        Shape (B, S, h, w), in (0, 1).

    Example:
        >>> explainable(torch.zeros(1, 2, 2, 1, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    return logits.softmax(dim=2)[:, :, 1]


def build_sfmlearner(**options: Any) -> SfMLearner:
    """Build the depth network; options are those of `DispNetS`. Its partner is `build_sfmlearner_pose`."""
    return SfMLearner(**options)


def build_sfmlearner_pose(*, explainability: bool = True, **options: Any) -> PoseNet:
    """Build the pose network.

    Args:
        explainability: Build `PoseExplainabilityNet`, which also returns masks.
        **options: Options of `PoseNet`.

    Returns:
        The network.

    Example:
        >>> type(build_sfmlearner_pose(explainability=False, base_channels=2)).__name__
        'PoseNet'
    """
    return PoseExplainabilityNet(**options) if explainability else PoseNet(**options)
