"""What every network shares: the check of its input, the main part of its output, padding to a multiple and back.

A network returns either one tensor (B, C, h', w'), or a dictionary of tensors whose first key is the main output. Which
of the two is fixed per network and told in its docstring; no option and no mode changes it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ShapeError


def check_image(image: Tensor, *, channels: int = 3, size: tuple[int, int] | None = None) -> None:
    """Check that a batch of images has the form a network wants.

    Args:
        image: Batch, shape (B, C, h, w).
        channels: Channels that the network takes.
        size: Height and width, for a network with fully connected layers; None where any size will do.

    Raises:
        ShapeError: If the batch has another form.

    Example:
        >>> import torch
        >>> check_image(torch.zeros(2, 3, 5, 7))
    """
    if image.ndim != 4 or image.shape[1] != channels:
        raise ShapeError(f"`image` must have the shape (B, {channels}, h, w); got {tuple(image.shape)}.")
    if size is not None and tuple(image.shape[2:]) != size:
        raise ShapeError(
            f"This network has fully connected layers and takes only height and width {size}; got "
            f"{tuple(image.shape[2:])}. Resize to {size}, or build it with input_size={tuple(image.shape[2:])}."
        )


def main_output(output: Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Pick the main tensor from what a network returned.

    Args:
        output: One tensor, a dictionary, or a (named) tuple; the first entry is the main one.

    Returns:
        The main tensor, shape (B, C, h', w').

    Example:
        >>> import torch
        >>> main_output({"depth": torch.ones(1), "depth_scale2": torch.zeros(1)}).item()
        1.0
    """
    if isinstance(output, Tensor):
        return output
    return next(iter(output.values() if isinstance(output, Mapping) else output))


class MainOutput(nn.Module):
    """A network reduced to its main output, as prediction wants it.

    Args:
        network: Returns a tensor, a dictionary or a (named) tuple.

    Example:
        >>> import torch
        >>> MainOutput(nn.Identity())(torch.ones(1)).item()
        1.0
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map a picture (B, 3, h, w) to the main output (B, C, h', w')."""
        return main_output(self.network(image))


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples.

    Args:
        image: Batch, shape (B, C, h, w).
        multiple: What both sides shall be multiples of [px].

    Returns:
        Batch, shape (B, C, ceil(h / multiple) * multiple, ceil(w / multiple) * multiple).

    Example:
        >>> import torch
        >>> pad_to_multiple(torch.zeros(1, 1, 5, 8), 4).shape
        torch.Size([1, 1, 8, 8])
    """
    height, width = image.shape[-2:]
    right = (width + multiple - 1) // multiple * multiple - width
    bottom = (height + multiple - 1) // multiple * multiple - height
    return functional.pad(image, (0, right, 0, bottom), mode="replicate")


def crop_like(maps: Tensor, reference: Tensor) -> Tensor:
    """Cut away what `pad_to_multiple` added: keep the top left corner of the reference's size.

    Args:
        maps: Maps, shape (B, C, H, W).
        reference: A tensor of shape (..., h, w) with h <= H and w <= W.

    Returns:
        Maps, shape (B, C, h, w).

    Example:
        >>> import torch
        >>> crop_like(torch.zeros(1, 1, 8, 8), torch.zeros(5, 8)).shape
        torch.Size([1, 1, 5, 8])
    """
    return maps[..., : reference.shape[-2], : reference.shape[-1]]


def resize_like(maps: Tensor, reference: Tensor) -> Tensor:
    """Resize maps bilinearly, pixel areas aligned, to the height and width of a reference.

    Args:
        maps: Maps, shape (B, C, H, W).
        reference: A tensor of shape (..., h, w).

    Returns:
        Maps, shape (B, C, h, w).

    Example:
        >>> import torch
        >>> resize_like(torch.ones(1, 1, 2, 2), torch.zeros(4, 6)).shape
        torch.Size([1, 1, 4, 6])
    """
    return functional.interpolate(maps, size=reference.shape[-2:], mode="bilinear", align_corners=False)


def count_parameters(module: nn.Module, *, moments: bool = False) -> int:
    """Count the trainable parameters of a network.

    Args:
        module: The network.
        moments: Count the running mean and variance of batch normalisation too, as MatConvNet does.

    Returns:
        Number of values.

    Example:
        >>> count_parameters(nn.BatchNorm2d(4)), count_parameters(nn.BatchNorm2d(4), moments=True)
        (8, 16)
    """
    count: int = sum(parameter.numel() for parameter in module.parameters())
    if moments:
        count += sum(buffer.numel() for name, buffer in module.named_buffers() if name.endswith(("_mean", "_var")))
    return count


def freeze(module: nn.Module) -> None:
    """Stop a part of a network from learning, for two-phase training.

    Gradients are switched off, and the part goes to evaluation mode, so that dropout and batch moments stand still.
    Call it again after ``network.train()``, which would wake the part up.

    Args:
        module: The part to freeze, changed in place.

    Example:
        >>> part = nn.Linear(2, 2)
        >>> freeze(part)
        >>> any(parameter.requires_grad for parameter in part.parameters())
        False
    """
    module.eval()
    module.requires_grad_(False)


def relative_rate_groups(rates: Mapping[str, float], network: nn.Module, base_rate: float) -> list[dict[str, Any]]:
    """Make optimiser groups from a table of relative learning rates.

    Args:
        rates: Relative rate per sub-module, by dotted name; the longest matching name wins.
        network: The network whose parameters are grouped.
        base_rate: Learning rate that a relative rate of 1 stands for.

    Returns:
        Groups ``{"name", "params", "lr"}`` in the order of `rates`; frozen parameters are left out.

    Raises:
        ShapeError: If a parameter that learns belongs to no row of the table.

    Example:
        >>> network = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
        >>> [group["lr"] for group in relative_rate_groups({"a": 1.0, "b": 0.1}, network, 0.5)]
        [0.5, 0.05]
    """
    groups: dict[str, list[Tensor]] = {name: [] for name in rates}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        owners = [row for row in rates if name == row or name.startswith(f"{row}.")]
        if not owners:
            raise ShapeError(f"No learning rate is given for '{name}'. The table has: {', '.join(rates)}.")
        groups[max(owners, key=len)].append(parameter)
    return [
        {"name": name, "params": members, "lr": base_rate * rates[name]} for name, members in groups.items() if members
    ]


def he_normal(weight: Tensor) -> Tensor:
    """Fill a weight as He et al. (ICCV 2015, arXiv 1502.01852) propose for rectified units, counting outputs.

    Args:
        weight: Filled in place.

    Returns:
        The weight.

    Example:
        >>> import torch
        >>> he_normal(torch.empty(4, 3, 3, 3)).shape
        torch.Size([4, 3, 3, 3])
    """
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def initialise(module: nn.Module, rule: Callable[[Tensor], Tensor] = he_normal) -> None:
    """Start every convolution and linear layer afresh: weights by a rule, biases at zero.

    Args:
        module: A part of a network, changed in place.
        rule: Fills a weight in place, for instance ``nn.init.xavier_uniform_``.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> initialise(layer, nn.init.ones_)
        >>> layer.weight.sum().item(), layer.bias.sum().item()
        (4.0, 0.0)
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            rule(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
