"""Attack a depth network with small changes of the picture: FGSM and PGD, in pixel space before normalisation.

A model here is any callable from a picture tensor in [0, 1], shape (B, 3, H, W), to a depth tensor, so that `epsilon`
means grey levels (8/255 is eight of them). Put the normalisation inside with `PixelModel`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fathom.errors import ConfigError, ShapeError

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of prediction, reference and valid mask that gives one number to be raised."""


class PixelModel(nn.Module):
    """A network that takes pictures in [0, 1], with its normalisation inside.

    Args:
        network: Takes normalised pictures, shape (B, 3, H, W).
        mean: Mean of each channel, on the scale 0 to 1.
        std: Standard deviation of each channel.

    Example:
        >>> model = PixelModel(nn.Identity(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> model(torch.ones(1, 3, 1, 1)).flatten().tolist()
        [2.0, 2.0, 2.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalise and run the network."""
        out: Tensor = self.network((image - self.mean) / self.std)
        return out


def masked_l1(pred: Tensor, reference: Tensor, valid_mask: Tensor) -> Tensor:
    """Compute the mean absolute difference over the valid pixels; 0, with a zero gradient, where there is none.

    Args:
        pred: Any shape.
        reference: Same shape.
        valid_mask: True where the pixel counts, same shape.

    Returns:
        One number.
    """
    difference = torch.where(valid_mask, pred - torch.where(valid_mask, reference, 0.0), 0.0).abs()
    return difference.sum() / valid_mask.sum().clamp(min=1)


def fgsm(
    model: Model,
    image: Tensor,
    reference: Tensor,
    valid_mask: Tensor,
    *,
    epsilon: float,
    loss: Loss = masked_l1,
) -> Tensor:
    """Move each pixel by `epsilon` in the direction that raises the loss: ``clip(x + epsilon sign(grad L), 0, 1)``.

    With the clean prediction itself as `reference` most losses have gradient zero there; give ground truth, or use
    `pgd`, which starts at a random point.

    Args:
        model: See the module.
        image: In [0, 1], shape (B, 3, H, W).
        reference: What the prediction is compared with, in the shape that `model` gives.
        valid_mask: Pixels that count, same shape.
        epsilon: Largest change of a pixel, on the scale 0 to 1.
        loss: What is raised.

    Returns:
        The attacked picture, in [0, 1] and within `epsilon` of `image`.

    Raises:
        ConfigError: If `epsilon` is not in [0, 1].
        ShapeError: If the picture is not in [0, 1].

    Example:
        >>> image = torch.full((1, 3, 2, 2), 0.5)
        >>> target = torch.zeros(1, 3, 2, 2)
        >>> attacked = fgsm(lambda x: x, image, target, target == 0, epsilon=0.1)
        >>> round(float(attacked.max()), 4)
        0.6

    Reference:
        Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """
    return pgd(
        model,
        image,
        reference,
        valid_mask,
        epsilon=epsilon,
        num_steps=1,
        step_size=epsilon,
        random_start=False,
        loss=loss,
    )


def pgd(
    model: Model,
    image: Tensor,
    reference: Tensor,
    valid_mask: Tensor,
    *,
    epsilon: float,
    num_steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    loss: Loss = masked_l1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take several gradient-sign steps, each projected back into the ball of size `epsilon` and into [0, 1].

    The network runs in evaluation mode and its parameters get no gradient. Without a valid pixel, and without a random
    start, the picture comes back as it was.

    Args:
        model: See the module.
        image: In [0, 1], shape (B, 3, H, W).
        reference: What the prediction is compared with: ground truth, or the clean prediction.
        valid_mask: Pixels that count, same shape.
        epsilon: Largest change of a pixel (L-infinity), on the scale 0 to 1.
        num_steps: Number of steps.
        step_size: Length of a step; default: ``2.5 * epsilon / num_steps``.
        random_start: Whether it starts at a random point of the ball.
        loss: What is raised.
        generator: Source of the random start.

    Returns:
        The attacked picture, in [0, 1] and within `epsilon` of `image`.

    Raises:
        ConfigError: If `epsilon` is not in [0, 1], or a step makes no sense.
        ShapeError: If the picture is not in [0, 1].

    Reference:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; for depth, Hu and
        Okatani, "Analysis of Deep Networks for Monocular Depth Estimation Through Adversarial Attacks", 2019.
    """
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"`epsilon` is on the scale 0 to 1 of the pixels; got {epsilon}. Use for instance 4 / 255.")
    if num_steps < 1 or (step_size is not None and step_size < 0):
        raise ConfigError(f"An attack takes at least one step forwards; got {num_steps} steps of {step_size}.")
    if image.ndim != 4 or image.min() < 0 or image.max() > 1:
        raise ShapeError(
            f"`image` must be (B, C, H, W) in [0, 1]; got {tuple(image.shape)} from {image.min():.3g} to "
            f"{image.max():.3g}. Divide uint8 by 255, and put the normalisation into the model (PixelModel)."
        )
    step = 2.5 * epsilon / num_steps if step_size is None else step_size
    clean = image.detach()
    attacked = clean
    if random_start:
        noise = torch.rand(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        attacked = (clean + epsilon * (2 * noise - 1)).clamp(0, 1)
    with _frozen(model):
        for _ in range(num_steps):
            point = attacked.clone().requires_grad_(True)
            with torch.enable_grad():
                value = loss(model(point), reference, valid_mask)
            (gradient,) = torch.autograd.grad(value, point)
            moved = attacked + step * gradient.sign()
            attacked = torch.minimum(torch.maximum(moved, clean - epsilon), clean + epsilon).clamp(0, 1)
    return attacked.detach()


def uniform_noise(image: Tensor, *, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
    """Change each pixel by a random amount of up to `epsilon`: the control that an attack must beat.

    Args:
        image: In [0, 1], any shape.
        epsilon: Largest change, on the scale 0 to 1.
        generator: Source of the noise.

    Returns:
        The noisy picture, in [0, 1].
    """
    noise = torch.rand(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return (image + epsilon * (2 * noise - 1)).clamp(0, 1)


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """Put a module into evaluation mode with parameters that need no gradient, and back afterwards."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needed:
            parameter.requires_grad_(need)
