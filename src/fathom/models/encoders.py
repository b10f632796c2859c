"""The one adapter to timm: any of its encoders as a list of feature maps, from fine to coarse.

timm: Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models, Apache-2.0; the weights of
each encoder carry their own terms.
"""

import difflib
from typing import Any

from torch import Tensor, nn

from fathom.errors import ModelError, require
from fathom.models import InputLaw


def _timm() -> Any:
    return require("timm", "train", "An encoder of timm")


def _checked(name: str) -> str:
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "List them: timm.list_models()."
        raise ModelError(f"Expected the name of an encoder of timm; got '{name}'. {hint}")
    return name


class TimmEncoder(nn.Module):
    """An encoder of timm that returns its feature maps, finest first.

    Args:
        name: Name in timm, for instance ``"resnet18"``.
        pretrained: Whether to load the weights that timm publishes for the name.
        in_channels: Channels of the image.

    Attributes:
        channels: Channels of each feature map.
        strides: Stride of each feature map relative to the image [px].

    Shape:
        (B, in_channels, h, w) -> list of (B, channels[i], ceil(h / strides[i]), ceil(w / strides[i])).

    Raises:
        ModelError: If timm does not know the name, or the encoder cannot return feature maps.

    Example:
        >>> TimmEncoder("resnet18").strides
        (2, 4, 8, 16, 32)
    """

    def __init__(self, name: str, *, pretrained: bool = False, in_channels: int = 3) -> None:
        super().__init__()
        try:
            self.body: nn.Module = _timm().create_model(
                _checked(name), pretrained=pretrained, in_chans=in_channels, features_only=True
            )
        except (RuntimeError, AttributeError) as error:
            raise ModelError(f"'{name}' cannot return feature maps: {error}. Choose another encoder.") from error
        info = self.body.feature_info
        assert not isinstance(info, Tensor | nn.Module)
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.strides: tuple[int, ...] = tuple(info.reduction())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps, finest first."""
        return list(self.body(image))


def input_law_of(name: str, *, height: int = 228, width: int = 304) -> InputLaw:
    """Tell how timm's weights of an encoder want their input.

    Args:
        name: Name in timm.
        height: Default training height of the network that is built on it [px].
        width: Default training width [px].

    Returns:
        The law, on the value range (0, 1).

    Raises:
        ModelError: If timm does not know the name.

    Example:
        >>> input_law_of("resnet18").std
        (0.229, 0.224, 0.225)
    """
    config = _timm().get_pretrained_cfg(_checked(name))
    return InputLaw(mean=tuple(config.mean), std=tuple(config.std), height=height, width=width)
