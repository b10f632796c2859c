"""A memory for video: a convolutional gated recurrent unit between the features and the head of a network.

Paper: Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video Representations", ICLR 2016,
arXiv 1511.06432, section 3, which puts the unit of Cho et al. (EMNLP 2014) on maps. Written from the formulas.

===========  =====================================================  ====================
stage        made of                                                shape
===========  =====================================================  ====================
trunk        any encoder-decoder                                    x: (B, C, h', w')
gates        z, r = sigmoid(conv3x3([x, s]))                        (B, C, h', w') each
candidate    n = tanh(conv3x3([x, r s]))                            (B, C, h', w')
memory       s' = (1 - z) s + z n                                   (B, C, h', w')
decode       the network's own head, on s'                          (B, 1, h, w)
===========  =====================================================  ====================

The memory is one map whose size does not depend on how many pictures have passed.
"""

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from fathom.errors import ShapeError


class FeatureNetwork(Protocol):
    """What a network must offer to get a memory; `UNet` and `GridNet` do.

    Attributes:
        trunk: Maps a picture (B, 3, h, w) to features (B, C, h', w'); its ``out_channels`` is C.
    """

    trunk: nn.Module

    def decode(self, features: Tensor, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map features to the output at the size of `image`."""
        ...


class RecurrentStep(NamedTuple):
    """What one picture gives.

    Attributes:
        output: What the network returns for this picture: (B, 1, h, w), or a dictionary with depth first.
        state: The memory to hand to the next picture, (B, C, h', w').
    """

    output: Tensor | dict[str, Tensor]
    state: Tensor


class ConvGRU(nn.Module):
    """The gated recurrent unit on maps.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the memory.
        kernel_size: Side of the convolutions, odd.

    Example:
        >>> unit = ConvGRU(4, 8)
        >>> unit(torch.zeros(2, 4, 3, 5), torch.zeros(2, 8, 3, 5)).shape
        torch.Size([2, 8, 3, 5])

    Reference:
        Ballas et al., ICLR 2016, equations 9 to 12.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(in_channels + channels, 2 * channels, kernel_size, padding=kernel_size // 2)
        self.candidate = nn.Conv2d(in_channels + channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        """Map features (B, in_channels, h, w) and the memory (B, channels, h, w) to the new memory."""
        update, forget = torch.sigmoid(self.gates(torch.cat([features, state], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([features, forget * state], dim=1)))
        return (1.0 - update) * state + update * candidate


class RecurrentDepth(nn.Module):
    """A network with a memory between its trunk and its head.

    Args:
        network: The network; its parts become parts of this one.
        kernel_size: Side of the unit's convolutions, odd.

    Example:
        >>> from fathom.models.unet import UNet
        >>> net = RecurrentDepth(UNet(base_channels=2)).eval()
        >>> first = net(torch.zeros(1, 3, 20, 30))
        >>> second = net(torch.zeros(1, 3, 20, 30), first.state)
        >>> tuple(second.output.shape), tuple(second.state.shape)
        ((1, 1, 20, 30), (1, 2, 20, 30))

    Reference:
        Ballas et al., ICLR 2016.
    """

    def __init__(self, network: FeatureNetwork, kernel_size: int = 3) -> None:
        super().__init__()
        self.network = cast(nn.Module, network)
        channels = cast(int, network.trunk.out_channels)
        self.unit = ConvGRU(channels, channels, kernel_size)

    def forward(self, image: Tensor, state: Tensor | None = None) -> RecurrentStep:
        """Take the next picture.

        Args:
            image: Shape (B, 3, h, w).
            state: The memory after the picture before; None for the first one, or to forget.

        Returns:
            Output and new memory.

        Raises:
            ShapeError: If the memory belongs to pictures of another size or number.
        """
        network = cast(FeatureNetwork, self.network)
        features = network.trunk(image)
        if state is None:
            state = torch.zeros_like(features)
        elif not torch.compiler.is_compiling() and state.shape != features.shape:
            raise ShapeError(
                f"The memory must have the shape {tuple(features.shape)} for these pictures; got {tuple(state.shape)}. "
                "Reset it when the size or the number of videos changes."
            )
        state = self.unit(features, state)
        return RecurrentStep(network.decode(state, image), state)

    def unroll(self, clip: Tensor, state: Tensor | None = None) -> RecurrentStep:
        """Take several pictures in a row, for training.

        Args:
            clip: Shape (B, T, 3, h, w), T >= 1.
            state: The memory before the clip; ``state.detach()`` of the clip before limits how far gradients go back.

        Returns:
            Outputs stacked along axis 1, (B, T, 1, h, w) (each value of a dictionary likewise), and the last memory.
        """
        outputs: list[Tensor | dict[str, Tensor]] = []
        for image in clip.unbind(1):
            output, state = self(image, state)
            outputs.append(output)
        assert state is not None
        first = outputs[0]
        if isinstance(first, Tensor):
            return RecurrentStep(torch.stack(cast(list[Tensor], outputs), dim=1), state)
        tables = cast(list[dict[str, Tensor]], outputs)
        return RecurrentStep({key: torch.stack([table[key] for table in tables], dim=1) for key in first}, state)


class VideoStream:
    """Feed a video picture by picture; holds the memory, and nothing that grows.

    Args:
        network: A network with a memory; its mode (train or eval) is left as it is.

    Example:
        >>> from fathom.models.unet import UNet
        >>> stream = VideoStream(RecurrentDepth(UNet(base_channels=2)).eval())
        >>> image = torch.rand(1, 3, 16, 16)
        >>> once = stream(image)
        >>> again = stream(image)
        >>> stream.reset()
        >>> bool(torch.equal(stream(image), once)), bool(torch.equal(again, once))
        (True, False)
    """

    def __init__(self, network: RecurrentDepth) -> None:
        self.network = network
        self.state: Tensor | None = None

    def reset(self) -> None:
        """Forget everything, as at a cut or at a change of size."""
        self.state = None

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Map the next picture (B, 3, h, w) to the network's output."""
        output, self.state = self.network(image, self.state)
        return output
