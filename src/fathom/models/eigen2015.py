"""Eigen and Fergus 2015: three scales in one network, one architecture for depth, surface normals and labels.

Paper: "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture",
ICCV 2015, arXiv 1411.4734. Written from the paper; no code of others is used. No batch normalisation anywhere.

Shapes (H x W) for an image of 228x304:

| scale 1, AlexNet | 56x75, pooled 27x37 | 13x18 | 13x18 | 13x18 | 6x8 | 4096 | 64 x 14x19 | up to 55x74 |
| scale 1, VGG     | 112x150, 56x75, 28x37, 14x18, 7x9             ||||| 4096 | 64 x 14x19 | up to 55x74 |
| scale 2          | 9x9 stride 2, pool: 96 + 64 maps, then 5x5: 64, 64, 64, C                      | 55x74   |
| scale 3          | 9x9 stride 2, pool 3x3 stride 1: 96 + C maps, then 5x5: 64, 64, C              | 109x147 |

The first two convolutions of the VGG trunk go without padding; with padding everywhere the fully connected layer still
fits (7x9 either way), so a wrong trunk is silent there.

Alignment: output pixel i of scale 2 sees the image around 5 + 4 i, output pixel j of scale 3 around 5 + 2 j. Doubling
55x74 to 109x147 with corners aligned puts i on j = 2 i exactly. The step from 14x19 to 55x74 follows a fully connected
layer, which learns its own alignment; it is interpolated with pixel areas aligned.

Not stated by the paper, chosen here: AlexNet's order and normalisation as in `fathom.models.eigen2014`; layer 1.7 is
linear; the second pool of scale 3 is 3x3 with stride 1.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError, ShapeError
from fathom.models.base import check_image, freeze, initialise, relative_rate_groups
from fathom.models.eigen2014 import AlexTrunk, conv_size, cuda_convnet_padding, fine_size
from fathom.models.vgg import VGG16Features
from fathom.models.weights import load_trunk

Task = Literal["depth", "normals", "labels"]
Trunk = Literal["alexnet", "vgg"]
Scale3 = Literal["paper", "net3"]

_INPUT_CHANNELS = {"rgb": 3, "depth": 1, "normals": 3}
_LOCAL_FILTERS = 96
_HIDDEN_FILTERS = 64
CROP_SIZE = (55, 74)
"""Height and width of the windows of scale 3 on which the second phase trains, at full size."""


def _rates(task: Task, scale2: Sequence[str], scale3: Sequence[str]) -> dict[str, float]:
    """Table of relative learning rates (paper, section 5)."""
    full = {"scale1.full": 0.1, "scale1.seed": 0.1} if task != "labels" else {"scale1.full": 1.0, "scale1.seed": 0.01}
    rates = {"scale1.trunk": 0.001, **full}
    for scale, names in (("scale2", scale2), ("scale3", scale3)):
        rates[f"{scale}.local"] = 0.001
        rates |= {f"{scale}.{name}": 0.01 for name in names[:-1]}
        rates[f"{scale}.{names[-1]}"] = 0.001
    return {name: rate * (10.0 if task == "normals" else 1.0) for name, rate in rates.items()}


class VGGTrunk(nn.Module):
    """VGG-16 with its first two convolutions unpadded, last pooled map only.

    Args:
        input_size: Height and width of the image.
        width: Multiplies every channel count.

    Attributes:
        channels: Channels of the output.
        output_size: Height and width of the output.

    Example:
        >>> VGGTrunk((228, 304), 0.0625).output_size
        (7, 9)
    """

    def __init__(self, input_size: tuple[int, int], width: float = 1.0) -> None:
        super().__init__()
        self.vgg = VGG16Features(width, unpadded=2)
        self.channels = self.vgg.channels[-1]
        self.output_size = ((input_size[0] - 4) // 32, (input_size[1] - 4) // 32)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map of stride 32."""
        maps: Tensor = self.vgg(image)[-1]
        return maps


class Scale1(nn.Module):
    """Global view: trunk, one hidden layer, a coarse grid of feature maps (not predictions), upsampled to scale 2.

    Args:
        trunk: The convolutions.
        output_size: Height and width of scale 2.
        maps: Number of feature maps.
        hidden: Units of the hidden layer.
        dropout: Probability of dropping a hidden unit: 0.5 for depth and normals, 0.8 for labels.

    Shape:
        (B, 3, 228, 304) -> (B, 64, 55, 74).
    """

    def __init__(
        self, trunk: AlexTrunk | VGGTrunk, output_size: tuple[int, int], maps: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.output_size = output_size
        self.seed_size = (maps, *(math.ceil(side / 4) for side in output_size))
        self.full = nn.Linear(trunk.channels * math.prod(trunk.output_size), hidden)
        self.dropout = nn.Dropout(dropout)
        self.seed = nn.Linear(hidden, math.prod(self.seed_size))

    def seed_maps(self, image: Tensor) -> Tensor:
        """Return the feature maps before upsampling, (B, 64, 14, 19)."""
        hidden = self.dropout(functional.relu(self.full(self.trunk(image).flatten(1))))
        maps: Tensor = self.seed(hidden)
        return maps.unflatten(1, self.seed_size)

    def forward(self, image: Tensor) -> Tensor:
        """Return the feature maps at the size of scale 2."""
        return functional.interpolate(self.seed_maps(image), self.output_size, mode="bilinear", align_corners=False)


class LocalFilters(nn.Module):
    """First layer of scales 2 and 3: 9x9 filters with stride 2 on each input, rectifier, pool.

    Args:
        inputs: Which of rgb, depth and normals come in; they share the filters equally.
        filters: Filters altogether.
        padding: Rows and columns of padding.
        pool: Side and stride of the pool.
    """

    def __init__(self, inputs: Sequence[str], filters: int, padding: tuple[int, int], pool: tuple[int, int]) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        share = filters // len(inputs)
        self.convolutions = nn.ModuleDict(
            {name: nn.Conv2d(_INPUT_CHANNELS[name], share, 9, stride=2, padding=padding) for name in inputs}
        )
        self.filters = share * len(inputs)
        self.pool = nn.MaxPool2d(*pool)

    def forward(self, sources: Mapping[str, Tensor]) -> Tensor:
        """Return the pooled maps of all inputs, one after another."""
        maps = [functional.relu(self.convolutions[name](sources[name])) for name in self.inputs]
        pooled: Tensor = self.pool(torch.cat(maps, dim=1))
        return pooled


class Refine(nn.Module):
    """Scale 2 or 3: local filters, concatenation with what came before, 5x5 convolutions, a linear one at the end.

    Args:
        local: The first layer.
        context_channels: Channels that join it.
        hidden: Channels of the 5x5 convolutions.
        depth: How many 5x5 convolutions come before the last.
        out_channels: Channels of the prediction.
    """

    def __init__(self, local: LocalFilters, context_channels: int, hidden: int, depth: int, out_channels: int) -> None:
        super().__init__()
        self.local = local
        channels = [local.filters + context_channels, *[hidden] * depth]
        self.names = [f"conv{index}" for index in range(2, depth + 3)]
        for name, before, after in zip(self.names, channels, [*channels[1:], out_channels], strict=True):
            self.add_module(name, nn.Conv2d(before, after, 5, padding=2))

    def forward(
        self, sources: Mapping[str, Tensor], context: Tensor, window: tuple[slice, slice] | None = None
    ) -> Tensor:
        """Predict; with `window` (rows, columns of the output grid) the 5x5 convolutions see that part only."""
        maps = torch.cat((self.local(sources), context), dim=1)
        if window is not None:
            maps = maps[..., window[0], window[1]]
        for name in self.names[:-1]:
            maps = functional.relu(self.get_submodule(name)(maps))
        prediction: Tensor = self.get_submodule(self.names[-1])(maps)
        return prediction


class EigenFergus2015(nn.Module):
    """The three scales for one task.

    Phase 1 trains scales 1 and 2 (key ``"<task>_scale2"``); phase 2, after ``freeze_coarse()``, trains scale 3, on
    random windows: `random_window` and `predict_window`.

    Args:
        trunk: ``"alexnet"`` or ``"vgg"``.
        task: ``"depth"``, ``"normals"`` or ``"labels"``.
        num_classes: Classes of the labels; not used by other tasks.
        inputs: What scales 2 and 3 see; scale 1 sees RGB alone. The paper's label network: rgb, depth, normals.
        input_size: Height and width of the image.
        width: Multiplies all channel counts.
        hidden: Units of the fully connected layer.
        scale2_hidden: 5x5 convolutions of scale 2 before its last: three in the paper.
        scale3_form: ``"paper"``: 9x9 with padding 1 and 3x3 pool; ``"net3"``: no padding and 2x2 pool. Both have stride
            1 in the pool, the same size, and the same centres.

    Shape:
        (B, 3, 228, 304) -> dictionary with two keys:

        * task ``depth``: ``"depth"`` (B, 1, 109, 147) and ``"depth_scale2"`` (B, 1, 55, 74), metres;
        * task ``normals``: ``"normals"`` (B, 3, 109, 147) and ``"normals_scale2"``, unit vectors;
        * task ``labels``: ``"labels"`` (B, num_classes, 109, 147) and ``"labels_scale2"``, logits.

    Raises:
        ModelError: If an option is unknown.
        ShapeError: If the image has another size, or a declared input is not given.

    Example:
        >>> network = EigenFergus2015("alexnet", width=0.125, hidden=16)
        >>> {key: tuple(maps.shape) for key, maps in network(torch.zeros(1, 3, 228, 304)).items()}
        {'depth': (1, 1, 109, 147), 'depth_scale2': (1, 1, 55, 74)}

    Reference:
        Eigen and Fergus, ICCV 2015, arXiv 1411.4734, figure 1 and sections 3 to 5.
    """

    def __init__(
        self,
        trunk: Trunk = "vgg",
        *,
        task: Task = "depth",
        num_classes: int = 40,
        inputs: Sequence[str] = ("rgb",),
        input_size: tuple[int, int] = (228, 304),
        width: float = 1.0,
        hidden: int = 4096,
        scale2_hidden: int = 3,
        scale3_form: Scale3 = "paper",
    ) -> None:
        super().__init__()
        if task not in ("depth", "normals", "labels"):
            raise ModelError(f"`task` must be 'depth', 'normals' or 'labels'; got '{task}'.")
        if trunk not in ("alexnet", "vgg"):
            raise ModelError(f"`trunk` must be 'alexnet' or 'vgg'; got '{trunk}'.")
        unknown = [name for name in inputs if name not in _INPUT_CHANNELS]
        if unknown or "rgb" not in inputs or len(set(inputs)) != len(inputs):
            raise ModelError(
                f"`inputs` must be 'rgb' and any of 'depth' and 'normals', each once; got {tuple(inputs)}."
            )
        self.task, self.inputs, self.input_size = task, tuple(inputs), input_size
        channels = {"depth": 1, "normals": 3, "labels": num_classes}[task]
        hidden_filters = max(1, round(_HIDDEN_FILTERS * width))
        local_filters = max(len(inputs), round(_LOCAL_FILTERS * width))
        padding = (cuda_convnet_padding(input_size[0], 9, 2), cuda_convnet_padding(input_size[1], 9, 2))
        size2 = (fine_size(input_size[0]), fine_size(input_size[1]))
        padding3, pool3 = (padding, 3) if scale3_form == "paper" else ((0, 0), 2)
        self.size3 = tuple(
            conv_size(conv_size(side, 9, 2, pad), pool3, 1) for side, pad in zip(input_size, padding3, strict=True)
        )
        body = AlexTrunk(input_size, width) if trunk == "alexnet" else VGGTrunk(input_size, width)
        dropout = 0.8 if task == "labels" else 0.5
        self.scale1 = Scale1(body, size2, hidden_filters, hidden, dropout)
        local2 = LocalFilters(inputs, local_filters, padding, (3, 2))
        self.scale2 = Refine(local2, hidden_filters, hidden_filters, scale2_hidden, channels)
        local3 = LocalFilters(inputs, local_filters, padding3, (pool3, 1))
        self.scale3 = Refine(local3, channels, hidden_filters, 2, channels)
        for part in (self.scale1.full, self.scale1.seed, self.scale2, self.scale3):
            initialise(part)
        # Five layers of He's rule after a trained trunk give logarithms of ten and more: the first steps would not
        # come back from there. The paper does not tell how it starts.
        for refine in (self.scale2, self.scale3):
            last = refine.get_submodule(refine.names[-1])
            with torch.no_grad():
                cast(Tensor, last.weight).mul_(0.03)

    def _sources(self, image: Tensor, depth: Tensor | None, normals: Tensor | None) -> dict[str, Tensor]:
        check_image(image, size=self.input_size)
        given = {"rgb": image, "depth": depth, "normals": normals}
        sources: dict[str, Tensor] = {}
        for name, maps in given.items():
            if (maps is not None) != (name in self.inputs):
                raise ShapeError(
                    f"This network was built for the inputs {', '.join(self.inputs)}; '{name}' was "
                    f"{'given too' if maps is not None else 'not given'}. Give exactly these."
                )
            if maps is not None:
                check_image(maps, channels=_INPUT_CHANNELS[name], size=self.input_size)
                sources[name] = maps
        return sources

    def _finish(self, raw: Tensor) -> Tensor:
        """Turn what a last convolution gives into the task's quantity."""
        if self.task == "depth":
            return torch.exp(raw)
        return functional.normalize(raw, dim=1) if self.task == "normals" else raw

    def _upsampled(self, raw: Tensor) -> Tensor:
        return functional.interpolate(raw, self.size3, mode="bilinear", align_corners=True)

    def forward(self, image: Tensor, depth: Tensor | None = None, normals: Tensor | None = None) -> dict[str, Tensor]:
        """Predict at scales 3 and 2.

        Args:
            image: Shape (B, 3, h, w), normalised.
            depth: Depth [m] to look at, shape (B, 1, h, w); only where `inputs` names it.
            normals: Unit normals to look at, shape (B, 3, h, w); only where `inputs` names them.

        Returns:
            The dictionary told above.
        """
        sources = self._sources(image, depth, normals)
        raw2 = self.scale2(sources, self.scale1(image))
        raw3 = self.scale3(sources, self._upsampled(raw2))
        return {self.task: self._finish(raw3), f"{self.task}_scale2": self._finish(raw2)}

    def predict_window(
        self,
        image: Tensor,
        window: tuple[slice, slice],
        depth: Tensor | None = None,
        normals: Tensor | None = None,
    ) -> Tensor:
        """Predict a window of scale 3, for the second phase.

        Args:
            image: Shape (B, 3, h, w), normalised.
            window: Rows and columns of the output grid, from `random_window`; cut the target with the same.
            depth: See `forward`.
            normals: See `forward`.

        Returns:
            The task's quantity, shape (B, C, rows, columns).
        """
        sources = self._sources(image, depth, normals)
        with torch.no_grad():
            raw2 = self.scale2(sources, self.scale1(image))
        return self._finish(self.scale3(sources, self._upsampled(raw2), window))

    def random_window(self, generator: Generator | None = None) -> tuple[slice, slice]:
        """Draw a window of 55x74 (less, where the network is smaller) on the grid of scale 3.

        Args:
            generator: Source of chance; torch's own where None.

        Returns:
            Rows and columns.
        """
        window = []
        for side, wanted in zip(self.size3, CROP_SIZE, strict=True):
            length = min(side, wanted)
            start = int(torch.randint(side - length + 1, (), generator=generator))
            window.append(slice(start, start + length))
        return window[0], window[1]

    def freeze_coarse(self) -> None:
        """Begin the second phase: scales 1 and 2 stop learning. Call again after ``train()``."""
        freeze(self.scale1)
        freeze(self.scale2)

    def parameter_groups(self, base_rate: float) -> list[dict[str, object]]:
        """Give the optimiser the paper's relative learning rates for this task.

        Args:
            base_rate: What a relative rate of 1 stands for.

        Returns:
            Groups with name, parameters and rate; frozen parts are left out.
        """
        return relative_rate_groups(_rates(self.task, self.scale2.names, self.scale3.names), self, base_rate)


def build_eigen2015(
    *,
    trunk: Trunk = "vgg",
    trunk_weights: str | Path | None = None,
    task: Task = "depth",
    num_classes: int = 40,
    inputs: Sequence[str] = ("rgb",),
    input_size: tuple[int, int] = (228, 304),
    width: float = 1.0,
    hidden: int = 4096,
    scale2_hidden: int = 3,
) -> EigenFergus2015:
    """Build the network for one task; see `EigenFergus2015`.

    Args:
        trunk: ``"alexnet"`` or ``"vgg"``.
        trunk_weights: File with VGG-16 convolutions (torchvision names), or ``"imagenet"``; VGG only.
        task: ``"depth"``, ``"normals"`` or ``"labels"``.
        num_classes: Classes of the labels.
        inputs: What scales 2 and 3 see.
        input_size: Height and width of the image.
        width: Multiplies all channel counts.
        hidden: Units of the fully connected layer.
        scale2_hidden: 5x5 convolutions of scale 2 before its last.

    Returns:
        The network.

    Raises:
        ModelError: If an option is unknown.
        WeightsError: If the trunk's weights do not fit.

    Example:
        >>> with torch.device("meta"):
        ...     sum(parameter.numel() for parameter in build_eigen2015(trunk="alexnet").parameters())
        124599042
    """
    network = EigenFergus2015(
        trunk,
        task=task,
        num_classes=num_classes,
        inputs=inputs,
        input_size=(input_size[0], input_size[1]),
        width=width,
        hidden=hidden,
        scale2_hidden=scale2_hidden,
    )
    if trunk_weights is not None:
        _load_vgg(network, trunk_weights)
    return network


def build_net12(
    *,
    trunk_weights: str | Path | None = None,
    input_size: tuple[int, int] = (228, 304),
    width: float = 1.0,
    hidden: int = 4096,
    scale2_hidden: int = 3,
) -> EigenFergus2015:
    """Build the two-stage variant: "Net12" is scales 1 and 2 on VGG, "Net3" is scale 3 without padding.

    The variant circulates as student code with an article. What was mended here:

    * the tensors lie height first; the listing fits only transposed images of 304x228, silently;
    * the pretrained trunk is really loaded; in the listing the initialiser never runs;
    * the last layers are linear and predict log depth; a rectifier there gives dead outputs and a logarithm of zero;
    * layer 1.7 is linear and only layer 1.6 has dropout;
    * scale 2 has all of its three 64-channel convolutions, where the article's appendix forgets one
      (``scale2_hidden=2`` gives that count);
    * upsampled maps are interpolated to their size; cutting rows at one side only shifts them by a pixel;
    * the batch size is taken from the tensor, not from a constant;
    * the input follows the list's law; the listing puts 0 to 255 through a mean and spread made for 0 to 1;
    * targets are taken at 5 + 4 i and 5 + 2 j (`fathom.models.eigen2014.sample_target`), not from a crop of the depth
      alone at a random place;
    * depth that is missing is masked, and the loss is the paper's (per image, squared gradients of the log difference).

    Args:
        trunk_weights: File with VGG-16 convolutions (torchvision names), or ``"imagenet"``.
        input_size: Height and width of the image.
        width: Multiplies all channel counts.
        hidden: Units of the fully connected layer.
        scale2_hidden: 5x5 convolutions of scale 2 before its last.

    Returns:
        The network, with the same dictionary of outputs as `EigenFergus2015`.

    Raises:
        WeightsError: If the trunk's weights do not fit.

    Example:
        >>> build_net12(width=0.0625, hidden=8).size3
        (109, 147)
    """
    network = EigenFergus2015(
        "vgg",
        input_size=(input_size[0], input_size[1]),
        width=width,
        hidden=hidden,
        scale2_hidden=scale2_hidden,
        scale3_form="net3",
    )
    if trunk_weights is not None:
        _load_vgg(network, trunk_weights)
    return network


def _load_vgg(network: EigenFergus2015, source: str | Path) -> None:
    trunk = network.scale1.trunk
    if not isinstance(trunk, VGGTrunk):
        raise ModelError("There are no published weights for this AlexNet trunk. Leave out trunk_weights, or use VGG.")
    load_trunk(trunk.vgg, source, torchvision_name="vgg16")
