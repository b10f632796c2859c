"""Random augmentation of a batch, on whatever device it lies; geometry as in `fathom.data.transforms`.

Rotation, zoom, flip and crop are one affine map for each sample, so the picture is resampled once: bilinearly, while
depth, masks, labels and normals take the nearest pixel. Blur and hue come from torchvision; brightness, contrast and
saturation are written out because torchvision applies one factor to a whole batch, and here each sample has its own.
"""

import math
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from fathom.config import StrictConfig
from fathom.data.transforms import depth_factor
from fathom.errors import KindError, ShapeError, require

_NEAREST = ("labels", "instances", "normals")
_PICTURES = ("image", "image_right", "neighbours")
_LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G, B in grey, ITU-R BT.601, as torchvision has them."""

Strength = Annotated[float, Field(ge=0, lt=1)]


class AugmentConfig(StrictConfig):
    """What to draw at random for each sample; the defaults change nothing.

    Example:
        >>> AugmentConfig(zoom=(1.0, 1.5), flip=0.5, crop=(228, 304)).crop
        (228, 304)
    """

    crop: tuple[int, int] | None = None
    """Rows and columns to cut out."""
    random_crop: bool = True
    """Whether the cut lies anywhere; false: in the middle."""
    rotate_deg: float = Field(0.0, ge=0, le=45)
    """Largest roll to either side [degrees]."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest zoom, drawn uniformly; depth is divided by it."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of mirroring left to right."""
    brightness: Strength = 0.0
    """Brightness is multiplied by 1 - b to 1 + b."""
    contrast: Strength = 0.0
    """Contrast is multiplied by 1 - c to 1 + c."""
    saturation: Strength = 0.0
    """Saturation is multiplied by 1 - s to 1 + s."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Hue is turned by up to this share of the circle to either side."""
    noise: float = Field(0.0, ge=0, le=0.5)
    """Largest standard deviation of Gaussian noise, as a share of full brightness."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    """Smallest and largest standard deviation of the blur [px]."""
    slide: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest way that the second view of a pair is moved to the left [px]; disparity grows by it. A
    network that sees both views must then compare them: what a picture shows no longer tells its disparity."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        if self.slide[0] > self.slide[1]:
            raise ValueError(f"`slide` must be two numbers, the smaller first; got {self.slide}.")
        for name, (low, high) in {"zoom": self.zoom, "blur_sigma": self.blur_sigma}.items():
            if not 0 < low <= high:
                raise ValueError(f"`{name}` must be two positive numbers, the smaller first; got {low} and {high}.")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"`crop` must be positive rows and columns; got {self.crop}.")
        return self


def augment_batch(batch: dict[str, Any], config: AugmentConfig, generator: Any = None) -> dict[str, Any]:
    """Return a batch with its own random change for each sample.

    Args:
        batch: What `fathom.data.torch_adapter.collate` makes; it is not changed.
        config: What to draw.
        generator: `torch.Generator` on the CPU that all numbers are drawn from; default: torch's own.

    Returns:
        A batch with the same entries; `image` is float32 in 0..1.

    Raises:
        ShapeError: If the crop is larger than the picture.
        KindError: If a stereo pair is to be rolled, or mirrored with ground truth for one view only; or if a view is to
            slide where the ground truth is no disparity.
    """
    return augment_colour(augment_geometry(batch, config, generator), config, generator)


def _draw(torch: Any, count: int, low: float, high: float, generator: Any) -> Any:
    return torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low


def augment_geometry(batch: dict[str, Any], config: AugmentConfig, generator: Any = None) -> dict[str, Any]:
    """Roll, zoom, mirror and crop a batch; see `augment_batch`."""
    torch = require("torch", "train", "Augmentation")
    count, _, rows, columns = batch["image"].shape
    height, width = config.crop or (rows, columns)
    if height > rows or width > columns:
        raise ShapeError(f"The crop {height} x {width} must fit into the picture, {rows} x {columns}.")
    stereo = "image_right" in batch
    if stereo and config.rotate_deg:
        raise KindError("A stereo pair cannot be rolled: its rows would no longer match. Set rotate_deg to 0.")
    swaps = stereo and "neighbours" not in batch
    one_truth = swaps and bool(batch["valid_mask"].any()) and "target_right" not in batch
    slides = stereo and config.slide != (0.0, 0.0)
    if slides and batch["kind"] != "disparity" and bool(batch["valid_mask"].any()):
        raise KindError(f"No {batch['kind']} belongs to a pair whose second view was moved. Set slide to [0, 0].")
    if one_truth and config.flip:
        raise KindError(
            "Mirroring swaps the views of a stereo pair, and this set has ground truth for one. Set flip to 0."
        )

    angle = torch.deg2rad(_draw(torch, count, -config.rotate_deg, config.rotate_deg, generator))
    zoom = _draw(torch, count, *config.zoom, generator)
    mirrored = _draw(torch, count, 0.0, 1.0, generator) < config.flip
    place = torch.stack([_draw(torch, count, 0.0, 1.0, generator) for _ in range(2)])
    if not config.random_crop:
        place = torch.full_like(place, 0.5)
    # Where the zoomed picture is smaller than the crop it stays in the middle, with empty pixels around it.
    room_x, room_y = zoom * columns - width, zoom * rows - height
    left = torch.where(room_x > 0, place[0] * room_x, room_x / 2)
    top = torch.where(room_y > 0, place[1] * room_y, room_y / 2)
    roll = _matrices(
        torch, count, {(0, 0): angle.cos(), (0, 1): angle.sin(), (1, 0): -angle.sin(), (1, 1): angle.cos()}
    )
    middle = _matrices(torch, count, {(0, 2): torch.tensor(columns / 2), (1, 2): torch.tensor(rows / 2)})
    enlarge = _matrices(torch, count, {(0, 0): zoom, (1, 1): zoom})
    cut = _matrices(torch, count, {(0, 2): -left, (1, 2): -top})
    sign = torch.where(mirrored, -1.0, 1.0).double()
    mirror_picture = _matrices(torch, count, {(0, 0): sign, (0, 2): torch.where(mirrored, float(width), 0.0).double()})
    mirror_world = _matrices(torch, count, {(0, 0): sign})
    to_middle = _matrices(torch, count, {(0, 2): torch.tensor(-columns / 2), (1, 2): torch.tensor(-rows / 2)})
    turn = middle @ roll @ to_middle
    forward = mirror_picture @ cut @ enlarge @ turn
    unchanged = (height, width) == (rows, columns) and bool((forward == torch.eye(3, dtype=torch.float64)).all())

    out = dict(batch)
    for key in _PICTURES:
        if key in batch:
            out[key] = _as_float(batch[key])
    slide = torch.zeros(count, dtype=torch.float64)
    if slides:
        slide = _draw(torch, count, *config.slide, generator)
        away = _matrices(torch, count, {(0, 2): -slide})
        second = {key.removesuffix("_right"): out.pop(key) for key in tuple(out) if key.endswith("_right")}
        _resample(torch, second, mirror_picture @ away @ cut @ enlarge @ turn, (height, width))
        _resample(torch, out, forward, (height, width))
        out |= {f"{key}_right": values for key, values in second.items()}
    elif not unchanged:
        _resample(torch, out, forward, (height, width))
    factor = torch.tensor([depth_factor(batch["kind"], float(s)) for s in zoom])
    if batch["kind"] == "disparity":
        factor = zoom  # the picture has been resized, and disparity with it
    for key in ("target", "target_right"):
        if key in out:
            out[key] = out[key] * factor.to(out[key])[:, None, None] + slide.to(out[key])[:, None, None]
    world = mirror_world @ roll
    if "normals" in out:
        out["normals"] = torch.einsum("bij,bjhw->bihw", world.to(out["normals"]), out["normals"])
    if "neighbour_poses" in batch:
        out["neighbour_poses"] = _moved_poses(torch, batch["neighbour_poses"], world, zoom)
    if "intrinsics" in batch:
        k = forward @ batch["intrinsics"].double().cpu() @ world.mT  # of a rotation or mirror the inverse
        # Square pixels leave nothing here; others would leave a shear that a pinhole matrix cannot hold.
        k[:, 0, 1] = 0
        k[:, 1, 0] = 0
        out["intrinsics"] = k.to(batch["intrinsics"])
    if "baseline_m" in batch:
        out["baseline_m"] = batch["baseline_m"] / zoom.to(batch["baseline_m"])
    if swaps:
        _swap_views(torch, out, mirrored)
    elif stereo:
        # Neighbours are frames of the first camera, so that one stays the first; the other now lies on its other side.
        out["baseline_sign"] = batch["baseline_sign"] * sign.to(batch["baseline_sign"])
    return out


def _moved_poses(torch: Any, poses: Any, world: Any, zoom: Any) -> Any:
    """Return motions between cameras that have been rolled or mirrored alike, in a scene that is nearer by `zoom`."""
    around = torch.eye(4, dtype=torch.float64).repeat(len(world), 1, 1)
    around[:, :3, :3] = world
    moved = around[:, None] @ poses.double().cpu() @ torch.linalg.inv(around)[:, None]
    moved[:, :, :3, 3] /= zoom[:, None, None]
    return moved.to(poses)


def _as_float(image: Any) -> Any:
    return image.float() / 255.0 if not image.is_floating_point() else image


def _matrices(torch: Any, count: int, entries: dict[tuple[int, int], Any]) -> Any:
    matrices = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    return matrices


def _resample(torch: Any, out: dict[str, Any], forward: Any, size: tuple[int, int]) -> None:
    """Move every per-pixel entry by `forward`, old pixels to new, in place of the entries."""
    rows, columns = out["image"].shape[-2:]
    height, width = size
    device = out["image"].device
    # affine_grid wants new to old, in coordinates from -1 to 1 across the outer edges of the pixels.
    to_unit = torch.tensor([[2 / columns, 0, -1], [0, 2 / rows, -1], [0, 0, 1]], dtype=torch.float64)
    from_unit = torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]], dtype=torch.float64)
    back = to_unit @ torch.linalg.inv(forward) @ from_unit
    functional = torch.nn.functional
    grid = _grid(torch, back, height, width, device)
    inside = ((grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1))[:, None]
    for key in _PICTURES:
        if key in out:
            # Border values, then black outside: blending with black would darken the last picture row.
            planes = out[key].flatten(1, -3)  # the neighbours of a picture are moved as it is
            seen = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
            out[key] = (seen * inside).unflatten(1, out[key].shape[1:-2])
    keys = [key for key in ("target", "valid_mask", "target_right", "valid_mask_right", *_NEAREST) if key in out]
    # All maps in one pass; float32 holds every label and instance number up to 2 ** 24.
    if not keys:
        return
    maps = [(out[key] if out[key].ndim == 4 else out[key][:, None]).float() for key in keys]
    moved = functional.grid_sample(
        torch.cat(maps, 1), grid, mode="nearest", padding_mode="zeros", align_corners=False
    ).split([planes.shape[1] for planes in maps], dim=1)
    for key, planes in zip(keys, moved, strict=True):
        planes = planes if out[key].ndim == 4 else planes[:, 0]
        out[key] = planes > 0.5 if out[key].dtype == torch.bool else planes.to(out[key].dtype)


def _grid(torch: Any, back: Any, height: int, width: int, device: Any) -> Any:
    """Return where each new pixel comes from, (B, height, width, 2), as `affine_grid` does with a matrix product."""
    x, y = ((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1 for size in (width, height))
    across = back[:, None, None, :2, 0] * x[:, None]
    down = back[:, None, None, :2, 1] * y[:, None, None] + back[:, None, None, :2, 2]
    return across.to(device, torch.float32) + down.to(device, torch.float32)


def _swap_views(torch: Any, out: dict[str, Any], mirrored: Any) -> None:
    """Let the two views of mirrored pairs change places."""
    for key in ("image", "target", "valid_mask"):
        other = f"{key}_right"
        if other in out:
            swap = mirrored.to(out[key].device).view(-1, *[1] * (out[key].ndim - 1))
            out[key], out[other] = torch.where(swap, out[other], out[key]), torch.where(swap, out[key], out[other])
    if bool(mirrored.any()):
        for key in _NEAREST:  # those of the view that is now the other one
            out.pop(key, None)


def augment_colour(batch: dict[str, Any], config: AugmentConfig, generator: Any = None) -> dict[str, Any]:
    """Change colour, noise and blur of a batch; all views of a sample alike, except for noise.

    Args:
        batch: A batch; it is not changed.
        config: What to draw.
        generator: See `augment_batch`.

    Returns:
        A batch whose `image` is float32 in 0..1.
    """
    torch = require("torch", "train", "Augmentation")
    count = batch["image"].shape[0]
    out = dict(batch)
    factors = {
        name: _draw(torch, count, 1 - strength, 1 + strength, generator)
        for name, strength in {
            "brightness": config.brightness,
            "contrast": config.contrast,
            "saturation": config.saturation,
        }.items()
    }
    hue = _draw(torch, count, -config.hue, config.hue, generator)
    sigma = _draw(torch, count, *config.blur_sigma, generator)
    blurred = _draw(torch, count, 0.0, 1.0, generator) < config.blur
    noise = _draw(torch, count, 0.0, config.noise, generator)
    for key in _PICTURES:
        if key not in batch:
            continue
        # Neighbours are so many pictures more, with the factors of their sample.
        image = _as_float(batch[key]).flatten(0, -4)
        each = len(image) // count
        b, c, s = (factors[name].repeat_interleave(each).to(image)[:, None, None, None] for name in factors)
        image = (image * b).clamp(0, 1)
        if config.contrast:
            image = (c * image + (1 - c) * _grey(torch, image).mean((2, 3), keepdim=True)).clamp(0, 1)
        if config.saturation:
            image = (s * image + (1 - s) * _grey(torch, image)).clamp(0, 1)
        if config.hue or config.blur:
            turn, width, some = (drawn.repeat_interleave(each) for drawn in (hue, sigma, blurred))
            image = _hue_and_blur(torch, image, turn, width, some, config)
        if config.noise:
            drawn = torch.randn(image.shape, generator=generator).to(image)
            image = (image + drawn * noise.repeat_interleave(each).to(image)[:, None, None, None]).clamp(0, 1)
        out[key] = image.unflatten(0, batch[key].shape[:-3])
    return out


def _grey(torch: Any, image: Any) -> Any:
    return (image * torch.tensor(_LUMA).to(image)[:, None, None]).sum(1, keepdim=True)


def _hue_and_blur(torch: Any, image: Any, hue: Any, sigma: Any, blurred: Any, config: AugmentConfig) -> Any:
    functional = require("torchvision.transforms.v2.functional", "train", "Hue and blur")
    changed = []
    for i, picture in enumerate(image):
        if config.hue:
            picture = functional.adjust_hue(picture, float(hue[i]))
        if blurred[i]:
            size = 2 * math.ceil(3 * float(sigma[i])) + 1
            picture = functional.gaussian_blur(picture, [size, size], [float(sigma[i])] * 2)
        changed.append(picture)
    return torch.stack(changed)
