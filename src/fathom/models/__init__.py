"""The list of networks: what each is, what it wants, what it gives, and how to build it. Imports without torch.

Every network has one ``forward``: an image batch (B, 3, h, w), normalised by the entry's input law, in; a depth tensor
(B, 1, h', w') of the entry's kind out, or, for networks with several outputs, one named structure with stable keys.

Example:
    >>> import fathom.models as models
    >>> models.MODELS["fcrn-upproj"].parameters
    63563008
    >>> models.entry("smp:Unet:resnet18").kind
    'metric_depth'
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fathom.errors import ModelError, require

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GRID_PREFIX = "smp:"


@dataclass(frozen=True)
class InputLaw:
    """How an RGB picture becomes the numbers a network was made for: ``(pixel - mean) / std``.

    Attributes:
        mean: Mean per RGB channel, in units of `value_range`.
        std: Standard deviation per RGB channel, in units of `value_range`.
        value_range: RGB values that black and white have before mean and std: (0, 1) or (0, 255).
        height: Default training height [px].
        width: Default training width [px].
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    value_range: tuple[float, float] = (0.0, 1.0)
    height: int = 228
    width: int = 304


@dataclass(frozen=True)
class ModelEntry:
    """One row of the list.

    Attributes:
        name: Name used by `build`, recipes and the command line.
        build: Builder; options by keyword; imports torch when called.
        kind: What the depth output is: the value of a `DepthKind`.
        tasks: What the network predicts: depth, normals, labels, segmentation, pose.
        input_multiple: Heights and widths that need no padding are multiples of this [px]; an exported file takes these
            only, the network itself any size.
        input_law: Normalisation and default size of the input.
        default_loss: Name of a loss in `fathom.losses.LOSSES`.
        paper: Source with year and venue.
        licence: Terms that the original authors put on their code and weights; this code is written anew.
        recipe: File name of the training recipe in ``configs/``, if one is shipped.
        parameters: Number of trainable parameters with default options, where a published or derived count exists.
        fixed_size: Whether fully connected layers tie it to the height and width of `input_law`; else any size will do.
        imagenet: Options of the builder that fetch a published ImageNet trunk; None where nobody publishes one.
    """

    name: str
    build: Callable[..., "nn.Module"]
    kind: str
    tasks: tuple[str, ...]
    input_multiple: int
    input_law: InputLaw
    default_loss: str
    paper: str
    licence: str
    recipe: str | None = None
    parameters: int | None = None
    fixed_size: bool = False
    imagenet: Mapping[str, Any] | None = None


def _lazy(module: str, function: str, **fixed: Any) -> Callable[..., "nn.Module"]:
    """Make a builder that imports its module only when it is called, and refuses options that it does not know."""

    def build_network(**options: Any) -> "nn.Module":
        require("torch", "train", "Building a network")
        builder = getattr(import_module(f"fathom.models.{module}"), function)
        try:
            network: nn.Module = builder(**fixed, **options)
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown is None or unknown[1] not in options:
                raise
            hint = "See the docstring of its builder."
            known = [option for option in inspect.signature(builder).parameters if option not in (*fixed, "options")]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            if known:
                guess = f"Did you mean '{near[0]}'? " if near else ""
                hint = f"{guess}Known: {', '.join(known)}."
            raise ModelError(f"Unknown option '{unknown[1]}' of {function}. {hint}") from error
        return network

    return build_network


_RESNET_V1_LAW = InputLaw(mean=(0.48502, 0.45796, 0.40760), std=(1.0, 1.0, 1.0))
_EIGEN_2014_LAW = InputLaw(mean=(109.31410628,) * 3, std=(76.18328376,) * 3, value_range=(0.0, 255.0))
_FREE = "written from the paper; no terms on the method"
_FCRN = "Laina et al., Deeper Depth Prediction with Fully Convolutional Residual Networks, 3DV 2016, arXiv 1606.00373"
_FCRN_LICENCE = "original code and weights: Simplified BSD"
_EIGEN_2015 = (
    "Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale "
    "Convolutional Architecture, ICCV 2015, arXiv 1411.4734"
)
_DISPNET = "Mayer et al., A Large Dataset to Train Convolutional Networks for Disparity, CVPR 2016, arXiv 1512.02134"
_MONODEPTH = "Godard et al., Unsupervised Monocular Depth Estimation with Left-Right Consistency, CVPR 2017, 1609.03677"
_SFM = "Zhou et al., Unsupervised Learning of Depth and Ego-Motion from Video, CVPR 2017, arXiv 1704.07813"

_ENTRIES = (
    ModelEntry(
        name="vgg16-regressor",
        build=_lazy("vgg_regressor", "build_vgg16_regressor"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=32,
        input_law=InputLaw(height=224, width=224),
        default_loss="mse",
        recipe="vgg16-regressor.yaml",
        paper="Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556; FCN: 1411.4038",
        licence="original VGG-16 weights: CC BY 4.0",
        parameters=134_264_641,
        imagenet={"trunk_weights": "imagenet"},
    ),
    ModelEntry(
        name="multiscale-conv",
        build=_lazy("multiscale", "build_multiscale_conv"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=32,
        input_law=InputLaw(height=224, width=224),
        default_loss="mse",
        recipe="multiscale-conv.yaml",
        paper="multi-scale convolution block on a VGG-16 trunk (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556)",
        licence=_FREE,
        imagenet={"trunk_weights": "imagenet"},
    ),
    ModelEntry(
        name="unet",
        build=_lazy("unet", "build_unet"),
        kind="metric_depth",
        tasks=("depth", "segmentation"),
        input_multiple=16,
        input_law=InputLaw(height=240, width=320),
        default_loss="berhu",
        recipe="unet-depth.yaml",
        paper="Ronneberger et al., U-Net, MICCAI 2015, arXiv 1505.04597",
        licence=_FREE,
        parameters=31_037_633,
    ),
    ModelEntry(
        name="unet-paper",
        build=_lazy("unet", "build_unet_paper"),
        kind="metric_depth",
        tasks=("depth", "segmentation"),
        input_multiple=16,
        input_law=InputLaw(height=572, width=572),
        default_loss="berhu",
        paper="Ronneberger et al., U-Net, MICCAI 2015, arXiv 1505.04597",
        licence=_FREE,
        parameters=31_031_745,
    ),
    ModelEntry(
        name="eigen2014",
        build=_lazy("eigen2014", "build_eigen2014"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=1,
        input_law=_EIGEN_2014_LAW,
        default_loss="silog_eigen2014",
        recipe="eigen2014.yaml",
        paper="Eigen et al., Depth Map Prediction from a Single Image, NIPS 2014, arXiv 1406.2283",
        licence="original release: GPLv3 (not used; written from the published facts)",
        parameters=70_877_171,
        fixed_size=True,
    ),
    ModelEntry(
        name="eigen2015-alexnet",
        build=_lazy("eigen2015", "build_eigen2015", trunk="alexnet"),
        kind="metric_depth",
        tasks=("depth", "normals", "labels"),
        input_multiple=1,
        input_law=InputLaw(),
        default_loss="eigen2015",
        recipe="eigen2015-alexnet.yaml",
        paper=_EIGEN_2015,
        licence=_FREE,
        parameters=124_599_042,
        fixed_size=True,
    ),
    ModelEntry(
        name="eigen2015-vgg",
        build=_lazy("eigen2015", "build_eigen2015", trunk="vgg"),
        kind="metric_depth",
        tasks=("depth", "normals", "labels"),
        input_multiple=1,
        input_law=InputLaw(),
        default_loss="eigen2015",
        recipe="eigen2015-vgg.yaml",
        paper=_EIGEN_2015,
        licence=_FREE,
        parameters=217_355_458,
        fixed_size=True,
        imagenet={"trunk_weights": "imagenet"},
    ),
    ModelEntry(
        name="eigen2015-net12",
        build=_lazy("eigen2015", "build_net12"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=1,
        input_law=InputLaw(),
        default_loss="eigen2015",
        recipe="eigen2015-net12.yaml",
        paper=f"two-stage variant of: {_EIGEN_2015}",
        licence=_FREE,
        parameters=217_355_458,
        fixed_size=True,
        imagenet={"trunk_weights": "imagenet"},
    ),
    *(
        ModelEntry(
            name=f"fcrn-{decoder}",
            build=_lazy("fcrn", "build_fcrn", decoder=decoder),
            kind="metric_depth",
            tasks=("depth",),
            input_multiple=1,
            input_law=_RESNET_V1_LAW,
            default_loss="berhu",
            recipe=f"fcrn-{decoder}.yaml",
            paper=_FCRN,
            licence=_FCRN_LICENCE,
            imagenet={"trunk_weights": "imagenet"},
            parameters=parameters,
        )
        for decoder, parameters in (
            ("upproj", 63_563_008),
            ("upconv", 43_017_728),
            ("deconv2", 28_395_008),
            ("deconv3", 31_876_608),
        )
    ),
    ModelEntry(
        name="fcrn-compact",
        build=_lazy("fcrn", "build_fcrn_compact"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=8,
        input_law=InputLaw(),
        default_loss="berhu",
        recipe="fcrn-compact.yaml",
        paper=f"small plain-convolution variant after: {_FCRN}",
        licence=_FREE,
    ),
    ModelEntry(
        name="dispnet",
        build=_lazy("dispnet", "build_dispnet"),
        kind="disparity",
        tasks=("depth",),
        input_multiple=64,
        input_law=InputLaw(height=384, width=768),
        default_loss="l1",
        paper=_DISPNET,
        licence=_FREE,
        parameters=42_312_966,
    ),
    ModelEntry(
        name="dispnet-s",
        build=_lazy("dispnet", "build_dispnet_s"),
        kind="affine_invariant_inverse_depth",  # Trained from video its scale is unknown, so 1/m would be a claim.
        tasks=("depth",),
        input_multiple=128,
        input_law=InputLaw(mean=(0.5,) * 3, std=(0.5,) * 3, height=128, width=416),
        default_loss="l1",
        recipe="dispnet-s.yaml",
        paper=_SFM,
        licence="original code: MIT",
        parameters=31_596_900,
    ),
    ModelEntry(
        name="garg2016",
        build=_lazy("garg", "build_garg2016"),
        kind="disparity",
        tasks=("depth",),
        input_multiple=32,
        input_law=InputLaw(height=188, width=620),
        default_loss="garg_reconstruction",
        recipe="garg.yaml",
        paper="Garg et al., Unsupervised CNN for Single View Depth Estimation, ECCV 2016, arXiv 1603.04992",
        licence=_FREE,
    ),
    ModelEntry(
        name="monodepth-vgg",
        build=_lazy("monodepth", "build_monodepth_vgg"),
        kind="affine_invariant_inverse_depth",  # A fraction of the width, not pixels.
        tasks=("depth",),
        input_multiple=128,
        input_law=InputLaw(mean=(0.0,) * 3, std=(1.0,) * 3, height=256, width=512),
        default_loss="monodepth_photometric",
        recipe="monodepth-vgg.yaml",
        paper=_MONODEPTH,
        licence="original code: UCLB, non-commercial (not used; written from the paper and published facts)",
        parameters=31_600_072,
    ),
    ModelEntry(
        name="monodepth-resnet50",
        build=_lazy("monodepth", "build_monodepth_resnet50"),
        kind="affine_invariant_inverse_depth",  # As monodepth-vgg.
        tasks=("depth",),
        input_multiple=64,
        input_law=InputLaw(mean=(0.0,) * 3, std=(1.0,) * 3, height=256, width=512),
        default_loss="monodepth_photometric",
        recipe="monodepth-resnet50.yaml",
        paper=_MONODEPTH,
        licence="original code: UCLB, non-commercial (not used; written from the paper and published facts)",
        parameters=49_466_152,
    ),
    ModelEntry(
        name="sfmlearner",
        build=_lazy("sfmlearner", "build_sfmlearner"),
        kind="scale_invariant_depth",
        tasks=("depth", "pose"),
        input_multiple=128,
        input_law=InputLaw(mean=(0.5,) * 3, std=(0.5,) * 3, height=128, width=416),
        default_loss="sfmlearner_photometric",
        recipe="sfmlearner.yaml",
        paper=_SFM,
        licence="original code: MIT",
        parameters=31_596_900,
    ),
    ModelEntry(
        name="monodepth2-resnet18",
        build=_lazy("monodepth2", "build_monodepth2_resnet18"),
        kind="scale_invariant_depth",
        tasks=("depth", "pose"),
        input_multiple=32,
        input_law=InputLaw(mean=(0.45,) * 3, std=(0.225,) * 3, height=192, width=640),
        default_loss="min_reprojection",
        recipe="monodepth2-mono.yaml",
        paper="Godard et al., Digging into Self-Supervised Monocular Depth Estimation, ICCV 2019, arXiv 1806.01260",
        licence="original code and weights: Niantic, non-commercial (not used; written from the paper)",
        parameters=14_329_236,
    ),
    ModelEntry(
        name="deeplabv3plus",
        build=_lazy("smp_grid", "build_deeplabv3plus"),
        kind="metric_depth",
        tasks=("depth", "segmentation"),
        input_multiple=16,
        input_law=InputLaw(height=240, width=320),
        default_loss="berhu",
        recipe="deeplabv3plus.yaml",
        paper="Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, arXiv 1802.02611",
        licence="segmentation-models-pytorch: MIT",
        imagenet={"encoder_weights": "imagenet"},
    ),
    ModelEntry(
        name="fathom-general",
        build=_lazy("embedded", "build_embedded", head="inverse"),
        kind="affine_invariant_inverse_depth",
        tasks=("depth",),
        input_multiple=14,
        input_law=InputLaw(mean=(0.0,) * 3, std=(1.0,) * 3, height=224, width=294),
        default_loss="trimmed_scale_shift_invariant",
        paper="Fathom, the packaged model for any picture",
        licence="Apache-2.0",
    ),
    ModelEntry(
        name="fathom-indoor",
        build=_lazy("embedded", "build_embedded", head="log_depth"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=14,
        input_law=InputLaw(mean=(0.0,) * 3, std=(1.0,) * 3, height=224, width=294),
        default_loss="silog_bts",
        paper="Fathom, the packaged model for rooms",
        licence="Apache-2.0",
    ),
    ModelEntry(
        name="depth-anything",
        build=_lazy("depth_anything", "build_depth_anything"),
        kind="metric_depth",
        tasks=("depth",),
        input_multiple=14,
        input_law=InputLaw(height=392, width=518),
        default_loss="silog_bts",
        paper="Yang et al., Depth Anything V2, NeurIPS 2024, arXiv 2406.09414",
        licence="Apache-2.0 (Small); CC-BY-NC-4.0 (Base and Large)",
        recipe="fathom-indoor-large.yaml",
    ),
)

MODELS: dict[str, ModelEntry] = {row.name: row for row in _ENTRIES}
"""Every named network. The grid of decoders and encoders, ``smp:DECODER:ENCODER``, is reached through `entry`."""

_GRID_ENTRY = replace(
    MODELS["deeplabv3plus"],
    name=GRID_PREFIX,
    build=_lazy("smp_grid", "build_grid"),
    input_multiple=32,
    paper="Iakubovskii, Segmentation Models PyTorch, 2019, with an encoder of timm",
)


def entry(name: str) -> ModelEntry:
    """Find the row of a network.

    Args:
        name: A key of `MODELS`, or ``smp:DECODER:ENCODER``, for instance ``smp:Unet:resnet18``.

    Returns:
        The row; for a grid name, one made for it.

    Raises:
        ModelError: If there is no such network; the nearest names are told.

    Example:
        >>> entry("fcrn-upproj").default_loss
        'berhu'
    """
    if name in MODELS:
        return MODELS[name]
    if name.startswith(GRID_PREFIX):
        parts = name.split(":")
        if len(parts) == 3 and all(parts):
            return replace(_GRID_ENTRY, name=name, build=partial(_GRID_ENTRY.build, decoder=parts[1], encoder=parts[2]))
        raise ModelError(f"A grid name is smp:DECODER:ENCODER; got '{name}'. Write for instance smp:Unet:resnet18.")
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(word) for word in near)}?" if near else "List them: fathom models."
    raise ModelError(f"Expected the name of a network or smp:DECODER:ENCODER; got '{name}'. {hint}")


def list_models(task: str | None = None) -> list[ModelEntry]:
    """List the named networks in a fixed order.

    Args:
        task: Keep only networks with this task: depth, normals, labels, segmentation or pose.

    Returns:
        Rows of `MODELS`.

    Raises:
        ModelError: If no network has this task.

    Example:
        >>> [row.name for row in list_models("normals")]
        ['eigen2015-alexnet', 'eigen2015-vgg']
    """
    rows = [row for row in MODELS.values() if task is None or task in row.tasks]
    if not rows:
        known = sorted({known for row in MODELS.values() for known in row.tasks})
        raise ModelError(f"Expected one of the tasks {', '.join(known)}; got '{task}'.")
    return rows


def build(name: str, *, pretrained: str | None = None, **options: Any) -> "nn.Module":
    """Build a network, with random weights or with given ones.

    Args:
        name: A key of `MODELS`, or ``smp:DECODER:ENCODER``.
        pretrained: None for random weights; ``"imagenet"`` for a trunk whose weights timm or torchvision publish; or
            the path of a checkpoint of the whole network (``.safetensors``, ``.pth``), loaded strictly.
        **options: Passed to the builder. ``trunk_weights=`` (a path) loads the trunk alone, where there is one.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        ModelError: If the name or an option is unknown.
        WeightsError: If the checkpoint does not fit the network.

    Example:
        >>> network = build("fcrn-compact")
    """
    row = entry(name)
    if pretrained == "imagenet":
        if row.imagenet is None:
            raise ModelError(f"No package publishes an ImageNet trunk for '{name}'. Give a path, or leave it random.")
        return row.build(**{**row.imagenet, **options})
    network = row.build(**options)
    if pretrained is not None:
        import_module("fathom.models.weights").load_weights(network, pretrained)
    return network
