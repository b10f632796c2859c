"""VGG-16 as a depth regressor: its fully connected layers turned into convolutions, one depth per pixel.

Papers: Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556 (trunk, layers fc6 and fc7); Long, Shelhamer, Darrell, "Fully
Convolutional Networks", CVPR 2015, arXiv 1411.4038 (the conversion). Written from the papers. Original VGG-16 weights:
CC BY 4.0.

Shapes for an image of h x w, padded to multiples of 32: trunk 512 maps at stride 32; fc6 (7x7, padding 3) 4096; fc7
(1x1) 4096; score (1x1) 1; bilinear x32; cropped to h x w.

What popular sketches of "a VGG for depth" get wrong and this does not: the first stage has 64 filters; there are five
pools, one per stage; fc6 is 7x7, not 3x3; convolutions never follow a flattening; the last layer has no rectifier.
"""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError, ShapeError
from fathom.models.base import check_image, crop_like, initialise, pad_to_multiple
from fathom.models.vgg import VGG16Features
from fathom.models.weights import load_trunk

Head = Literal["dense", "global"]
_STRIDE = 32


class VGG16Regressor(nn.Module):
    """VGG-16 with its classifier as convolutions.

    Args:
        head: ``"dense"``: a depth map. ``"global"``: a toy, one number per image as some texts propose; that is no
            depth map and cannot be trained like one.
        outputs: Values per position: 1 for depth; 1000 with ``head="global"`` gives the original classifier.
        width: Multiplies the trunk's channels.
        hidden: Channels of fc6 and fc7.
        dropout: Probability of dropping a value after fc6 and fc7.

    Shape:
        (B, 3, h, w) -> depth [m], (B, outputs, h, w) with the dense head; (B, outputs) with the global one, which needs
        h and w of at least 224 and averages over positions.

    Raises:
        ModelError: If the head is unknown.

    Example:
        >>> import torch
        >>> VGG16Regressor(width=0.0625, hidden=8)(torch.zeros(1, 3, 37, 53)).shape
        torch.Size([1, 1, 37, 53])

    Reference:
        Long et al., CVPR 2015, arXiv 1411.4038, section 3.
    """

    def __init__(
        self,
        *,
        head: Head = "dense",
        outputs: int = 1,
        width: float = 1.0,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if head not in ("dense", "global"):
            raise ModelError(f"`head` must be 'dense' or 'global'; got '{head}'.")
        self.is_dense = head == "dense"
        self.trunk = VGG16Features(width)
        self.fc6 = nn.Conv2d(self.trunk.channels[-1], hidden, 7, padding=3 if self.is_dense else 0)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, outputs, 1)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.fc6, self.fc7, self.score):
            initialise(layer)

    def forward(self, image: Tensor) -> Tensor:
        """Predict depth [m]: (B, 3, h, w) -> (B, 1, h, w), or (B, 1) with the global head."""
        check_image(image)
        if not self.is_dense and min(image.shape[2:]) < 7 * _STRIDE:
            raise ShapeError(f"The global head needs height and width of at least 224; got {tuple(image.shape[2:])}.")
        maps = self.trunk(pad_to_multiple(image, _STRIDE))[-1]
        maps = self.dropout(functional.relu(self.fc6(maps)))
        score: Tensor = self.score(self.dropout(functional.relu(self.fc7(maps))))
        if not self.is_dense:
            return score.mean(dim=(2, 3))
        size = (score.shape[2] * _STRIDE, score.shape[3] * _STRIDE)
        return crop_like(functional.interpolate(score, size=size, mode="bilinear", align_corners=False), image)


def build_vgg16_regressor(
    *,
    head: Head = "dense",
    outputs: int = 1,
    trunk_weights: str | Path | None = None,
    width: float = 1.0,
    hidden: int = 4096,
    dropout: float = 0.5,
) -> VGG16Regressor:
    """Build the regressor; see `VGG16Regressor`.

    Args:
        head: ``"dense"`` or ``"global"``.
        outputs: Values per position.
        trunk_weights: File with VGG-16 convolutions (torchvision names), or ``"imagenet"``.
        width: Multiplies the trunk's channels.
        hidden: Channels of fc6 and fc7.
        dropout: Probability of dropping a value after fc6 and fc7.

    Returns:
        The network.

    Raises:
        ModelError: If the head is unknown.
        WeightsError: If the trunk's weights do not fit.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(parameter.numel() for parameter in build_vgg16_regressor().parameters())
        134264641
    """
    network = VGG16Regressor(head=head, outputs=outputs, width=width, hidden=hidden, dropout=dropout)
    if trunk_weights is not None:
        load_trunk(network.trunk, trunk_weights, torchvision_name="vgg16")
    return network
