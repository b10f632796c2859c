"""The grid: any decoder of segmentation-models-pytorch on any encoder of timm, with a depth head; and DeepLabV3+.

Decoders: Iakubovskii, "Segmentation Models PyTorch", 2019 (MIT licence). DeepLabV3+: Chen et al., "Encoder-Decoder with
Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018, arXiv 1802.02611. The licence of pretrained
encoder weights is that of their publisher; none are loaded unless asked for.

Shapes for (B, 3, h, w); s is the stride of the decoder's features:

=======  =============================================  =========================
stage    made of                                        shape
=======  =============================================  =========================
pad      last row and column repeated                   (B, 3, H, W)
trunk    encoder and decoder of the library             (B, C, H / s, W / s)
head     3x3 convolution and what the head does         (B, 1, H / s, W / s)
resize   bilinear, then crop                            (B, 1, h, w)
=======  =============================================  =========================

H and W are multiples of the encoder's deepest stride, 32 for most and 16 for DeepLabV3+; of twice the patch size for
DPT, whose coarsest map halves the patches; and of 128 for PAN, which pools the map at 1/16 three times more. FPN
normalises groups of the deepest map and refuses a single picture of at most 32 x 32, where that map is one pixel.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import ModelError, require
from fathom.models.base import crop_like, pad_to_multiple
from fathom.models.heads import build_head


class GridTrunk(nn.Module):
    """Encoder and decoder of a library model, with padding and without its output layer.

    Args:
        model: A model of segmentation-models-pytorch.
        architecture: Its name in the library.
    """

    def __init__(self, model: nn.Module, architecture: str) -> None:
        super().__init__()
        self.encoder, self.decoder = cast(nn.Module, model.encoder), cast(nn.Module, model.decoder)
        stride = int(cast(int, self.encoder.output_stride))
        self.multiple = {"pan": 128, "dpt": 2 * stride}.get(architecture, stride)
        self.has_tokens = architecture == "dpt"
        old_head = cast(nn.Module, model.segmentation_head)
        self.out_channels = next(layer.in_channels for layer in old_head.modules() if isinstance(layer, nn.Conv2d))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, h, w) to features of the padded picture, at the decoder's stride."""
        encoded = self.encoder(pad_to_multiple(image, self.multiple))
        # A vision transformer gives maps and, beside them, the tokens that belong to no place.
        return cast(Tensor, self.decoder(*encoded) if self.has_tokens else self.decoder(encoded))


class GridNet(nn.Module):
    """A trunk of the grid and a depth head; output at the size of the picture.

    Args:
        trunk: Encoder and decoder.
        head: Module that maps features to depth, or to a dictionary of maps and vectors.

    Example:
        >>> import torch
        >>> net = build_grid("Unet", "test_resnet.r160_in1k").eval()
        >>> net(torch.zeros(1, 3, 37, 53)).shape
        torch.Size([1, 1, 37, 53])
    """

    def __init__(self, trunk: GridTrunk, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def decode(self, features: Tensor, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map the trunk's features to the head's output at the size of `image`."""
        output = self.head(features)
        if isinstance(output, Tensor):
            return self._to_size(output, image)
        return {key: self._to_size(value, image) if value.ndim == 4 else value for key, value in output.items()}

    def _to_size(self, maps: Tensor, image: Tensor) -> Tensor:
        multiple = self.trunk.multiple
        size = [multiple * ((side + multiple - 1) // multiple) for side in image.shape[-2:]]
        return crop_like(F.interpolate(maps, size=size, mode="bilinear", align_corners=False), image)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map (B, C, h, w) to the head's output at (h, w)."""
        return self.decode(self.trunk(image), image)


def _find_decoder(smp: Any, decoder: str) -> str:
    known = list(smp.MODEL_ARCHITECTURES_MAPPING)
    name = decoder.lower().replace("+", "plus").replace("-", "").replace("_", "")
    if name not in known:
        raise ModelError(f"Expected a decoder out of {', '.join(known)}; got '{decoder}'.")
    return name


def _find_encoder(smp: Any, decoder: str, encoder: str) -> str:
    """Return the library's name of an encoder: its own list first, then timm's with the prefix ``tu-``.

    DPT takes only timm's. PSPNet stops early in the encoder; timm's then leave out the stages that nothing reads.
    """
    timm = require("timm", "train", "The grid of encoders and decoders")
    name = encoder.removeprefix("tu-")
    own = name == encoder and name in smp.encoders.encoders and decoder != "dpt"
    if timm.is_model(name) and not (own and decoder != "pspnet"):
        return f"tu-{name}"
    if own:
        return name
    known = [*smp.encoders.encoders, *timm.list_models()]
    near = difflib.get_close_matches(name, known, n=3)
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else "List them: python -c 'import timm; print(timm.list_models())'."
    )
    raise ModelError(f"Expected an encoder of timm or segmentation-models-pytorch; got '{encoder}'. {hint}")


def build_grid(
    decoder: str,
    encoder: str,
    *,
    in_channels: int = 3,
    encoder_weights: str | None = None,
    head: str = "softplus",
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> GridNet:
    """Build one cell of the grid.

    Args:
        decoder: Unet, UnetPlusPlus, MAnet, Linknet, FPN, PSPNet, DeepLabV3, DeepLabV3Plus, PAN, UPerNet, Segformer or
            DPT, in any case; ``+`` may stand for "Plus".
        encoder: Name in segmentation-models-pytorch or in timm; DPT needs a plain vision transformer. Windowed
            transformers of timm need ``strict_img_size=False``.
        in_channels: Channels of the picture.
        encoder_weights: None for random weights; ``"imagenet"`` (or what the library lists for this encoder) downloads
            the publisher's weights.
        head: A key of `fathom.models.heads.HEADS`.
        head_options: Keyword arguments of the head; ``kernel_size`` is 3 unless given.
        **options: Further options of the library's model, for instance ``decoder_channels``.

    Returns:
        The network.

    Raises:
        ModelError: If there is no such decoder or encoder, or the two do not fit.

    Example:
        >>> import torch
        >>> net = build_grid("FPN", "test_resnet.r160_in1k", head="sigmoid", head_options={"max_depth": 80.0}).eval()
        >>> bool((net(torch.zeros(1, 3, 64, 64)) < 80.0).all())
        True
    """
    smp = require("segmentation_models_pytorch", "train", "The grid of encoders and decoders")
    architecture = _find_decoder(smp, decoder)
    encoder_name = _find_encoder(smp, architecture, encoder)
    weights: str | bool | None = encoder_weights
    if encoder_name.startswith("tu-"):
        weights = True if encoder_weights is not None else None
    else:
        _check_options(smp.MODEL_ARCHITECTURES_MAPPING[architecture], decoder, options)
    if architecture == "dpt":
        # Position codes are resized to the picture, so that any size works.
        options = {"dynamic_img_size": True, **options}
    try:
        model = smp.create_model(
            architecture, encoder_name=encoder_name, encoder_weights=weights, in_channels=in_channels, **options
        )
    except (ValueError, KeyError, NotImplementedError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"The decoder '{decoder}' cannot be built on the encoder '{encoder}' with options {options}: {error}"
        ) from error
    trunk = GridTrunk(model, architecture)
    if architecture == "dpt":
        _drop_unused(trunk)
    return GridNet(trunk, build_head(head, trunk.out_channels, **{"kernel_size": 3, **(head_options or {})}))


def _check_options(model: type, decoder: str, options: Mapping[str, Any]) -> None:
    """Refuse what the library would swallow: beside its own encoders it ignores options it does not know."""
    known = [name for name in inspect.signature(model).parameters if name not in ("kwargs", "args")]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
            raise ModelError(f"The decoder '{decoder}' has no option '{name}'. {hint}")


def _drop_unused(trunk: GridTrunk) -> None:
    """Remove the transformer's classifier and final norm, which a dense decoder never reads."""
    cast(Any, trunk.encoder).model.prune_intermediate_layers(
        cast(Any, trunk.encoder)._output_indices, prune_norm=True, prune_head=True
    )


def build_deeplabv3plus(*, encoder: str = "resnet50", output_stride: int = 16, **options: Any) -> GridNet:
    """Build DeepLabV3+ with a depth head.

    Five parallel views of the deepest map (1x1, three atrous 3x3, the mean over the picture), joined and refined with
    the map at 1/4. The rates are the paper's: 6, 12, 18 at stride 16 and twice that at stride 8. The mean over the
    picture is one value per channel, so that batch normalisation cannot train on a batch of one picture.

    Args:
        encoder: As in `build_grid`; it must be able to dilate.
        output_stride: Deepest stride of the encoder: 16 or 8.
        **options: Further options of `build_grid`.

    Returns:
        The network.

    Raises:
        ModelError: If the stride is neither 8 nor 16, or the encoder does not fit.

    Example:
        >>> import torch
        >>> net = build_deeplabv3plus(encoder="resnet18", decoder_channels=16).eval()
        >>> net(torch.zeros(1, 3, 33, 47)).shape
        torch.Size([1, 1, 33, 47])

    Reference:
        Chen et al., ECCV 2018, arXiv 1802.02611, section 3.1.
    """
    if output_stride not in (8, 16):
        raise ModelError(f"`output_stride` must be 8 or 16; got {output_stride}.")
    rates = tuple(rate * 16 // output_stride for rate in (6, 12, 18))
    options = {"decoder_atrous_rates": rates, "encoder_output_stride": output_stride, **options}
    return build_grid("DeepLabV3Plus", encoder, **options)
