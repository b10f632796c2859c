"""Checks for learning from other views: what lets it collapse without an error, each with its cure.

The loss of a self-supervised run falls even where nothing is learned about depth: views that do not move, views that
are exchanged, or a camera that belongs to another size all have a best answer, and it is a wrong one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fathom.train.config_views import SelfSupervisedConfig
from fathom.train.findings import Finding

_STATIC = 0.008
"""Mean absolute difference of two frames, as a share of white, below which nothing moved: noise and JPEG are less."""
_STATIC_SHARE = 0.1
"""Share of pairs without motion that is worth a warning."""
_FEW_FOCALS, _MANY_FOCALS = 0.2, 10.0
"""A focal length outside these multiples of the width belongs to no camera of this picture."""
_MATCH_WIDTH = 160
"""Views are compared at this width [px]."""
_MATCH_REACH = 0.2
"""Largest shift that is tried, as a share of the width."""
_CLEARLY = 0.7
"""A match in one direction must have less than this share of the error of the best match in the other."""
_TEXTURE = 0.02
"""Mean horizontal difference in a window, as a share of white, that makes its match count."""
_SATURATED = 0.5
"""Share of disparities at one end of their range that is worth a warning."""
_FLAT = 0.01
"""A map whose spread is below this share of its mean is constant."""
_DRIFT = 4.0
"""Factor by which the scale of motion and depth may wander."""


def check_views(batch: Mapping[str, Any], config: SelfSupervisedConfig) -> list[Finding]:
    """Look at the pictures and the camera of a batch.

    Args:
        batch: See `fathom.train.views`.
        config: The section `selfsupervised`.
    """
    findings = [check_motion(batch)]
    if config.stereo and "image_right" in batch:
        findings.append(check_order(batch["view"], batch["image_right"], batch["baseline_sign"]))
    if config.warp == "depth" and "intrinsics" in batch:
        findings.append(check_intrinsics(batch["intrinsics"], batch["view"].shape[-2], batch["view"].shape[-1]))
    return findings


def check_motion(batch: Mapping[str, Any]) -> Finding:
    """Find pairs of views that are the same picture.

    Example:
        >>> still = torch.full((1, 3, 4, 4), 0.5)
        >>> check_motion({"view": still, "neighbour_views": still[:, None]}).level
        'warning'
    """
    view = batch["view"][:, None]
    others = [batch["neighbour_views"]] if "neighbour_views" in batch else []
    if "image_right" in batch:
        others.append(batch["image_right"][:, None])
    moved = torch.cat([(other - view).abs().mean(dim=(2, 3, 4)).flatten() for other in others])
    still = float((moved < _STATIC).float().mean())
    text = (
        f"{still:.0%} of the views looked at do not differ from their picture (median difference {moved.median():.3f})."
    )
    if still > _STATIC_SHARE:
        cure = "Where nothing moves any depth fits. Drop standing frames (the reader's option for static frames), or "
        cure += "take neighbours that are farther away, for instance `selfsupervised.neighbours: [-3, 3]`."
        return Finding("static frames", "warning", f"{text} {cure}")
    return Finding("static frames", "ok", text)


def check_order(left: Tensor, right: Tensor, sign: Tensor) -> Finding:
    """Find stereo pairs whose second view lies on the other side than the batch says.

    At each textured place the best match among shifts to the left is compared with the best one to the right.

    Args:
        left: First view, colours in 0 to 1, shape (B, 3, H, W).
        right: Second view, same shape.
        sign: 1 where the second view is said to lie to the right, -1 to the left, shape (B,).
    """
    nearer, farther = matches(left, right)
    agrees = float(torch.where(sign > 0, nearer, farther).mean())
    contradicts = float(torch.where(sign > 0, farther, nearer).mean())
    text = (
        f"At {agrees:.0%} of the textured places the views match as the baseline's sign says, at {contradicts:.0%} the "
        "other way round."
    )
    if contradicts > 2 * agrees and contradicts > 0.1:
        if bool((sign > 0).all()):
            cure = "The second view seems to be the left one. Exchange the two folders or files of each pair."
            return Finding("swapped views", "warning", f"{text} {cure}")
        cure = "The second view seems to lie to the right. Turn the sign of the baseline (`baseline_sign`) round."
        return Finding("baseline sign", "warning", f"{text} {cure}")
    return Finding("stereo order", "ok", text)


def matches(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of textured places that match clearly with positive, and with negative disparity, each (B,)."""
    height, width = left.shape[-2:]
    size = (max(8, round(height * _MATCH_WIDTH / width)), _MATCH_WIDTH) if width > _MATCH_WIDTH else (height, width)
    first, second = (
        functional.interpolate(view.mean(1, keepdim=True), size=size, mode="area") for view in (left, right)
    )
    columns = size[1]
    reach = max(2, round(_MATCH_REACH * columns))
    best = []
    for direction in (1, -1):
        errors = []
        for shift in range(1, reach + 1):
            # L(x) against R(x - d): a positive disparity looks to the left.
            moved = torch.roll(second, direction * shift, dims=-1)
            error = _window((first - moved).abs())
            outside = slice(0, shift) if direction > 0 else slice(columns - shift, columns)
            error[..., outside] = torch.inf
            errors.append(error)
        best.append(torch.stack(errors).amin(dim=0))
    slope = functional.pad((first[..., 1:] - first[..., :-1]).abs(), (0, 1))
    textured = (_window(slope) > _TEXTURE) & best[0].isfinite() & best[1].isfinite()
    count = textured.flatten(1).sum(1).clamp(min=1)
    positive = textured & (best[0] < _CLEARLY * best[1])
    negative = textured & (best[1] < _CLEARLY * best[0])
    return positive.flatten(1).sum(1) / count, negative.flatten(1).sum(1) / count


def _window(values: Tensor) -> Tensor:
    return functional.avg_pool2d(values, 7, stride=1, padding=3, count_include_pad=False)


def check_intrinsics(intrinsics: Tensor, height: int, width: int) -> Finding:
    """Find cameras that belong to another size of the picture, or are shares of the size.

    Args:
        intrinsics: Shape (B, 3, 3).
        height: Of the picture [px].
        width: Of the picture [px].

    Example:
        >>> normalised = torch.tensor([[[0.58, 0, 0.5], [0, 1.92, 0.5], [0, 0, 1]]])
        >>> check_intrinsics(normalised, 192, 640).level
        'warning'
    """
    fx, fy = intrinsics[:, 0, 0] / width, intrinsics[:, 1, 1] / width
    cx, cy = intrinsics[:, 0, 2] / width, intrinsics[:, 1, 2] / height
    worst = intrinsics[0].tolist()
    text = (
        f"fx {worst[0][0]:.4g}, fy {worst[1][1]:.4g}, cx {worst[0][2]:.4g}, cy {worst[1][2]:.4g} for pictures of "
        f"{width} x {height}."
    )
    if bool((intrinsics[:, 0, 0] < 10).any()):
        cure = (
            "These are shares of the size, not pixels. Multiply the first row by the width, the second by the height."
        )
        return Finding("intrinsics", "warning", f"{text} {cure}")
    strange = ((fx < _FEW_FOCALS) | (fx > _MANY_FOCALS) | (fy < _FEW_FOCALS / 4) | (fy > _MANY_FOCALS)).any()
    outside = ((cx < 0.1) | (cx > 0.9) | (cy < -0.2) | (cy > 1.2)).any()
    if bool(strange) or bool(outside):
        cure = "They belong to another size. Give those of the pictures as they are stored; resizing scales them."
        return Finding("intrinsics", "warning", f"{text} {cure}")
    return Finding("intrinsics", "ok", text)


def check_saturation(disparity: Tensor, limits: tuple[float, float] | None) -> Finding:
    """Find disparities that lie at an end of their range, or below 0.

    Args:
        disparity: Any shape, in the unit of `limits`.
        limits: Smallest and largest value the network can give; None without limits.

    Example:
        >>> check_saturation(torch.full((1, 1, 2, 2), 0.2999), (0.0, 0.3)).level
        'warning'
    """
    if limits is None:
        negative = float((disparity < 0).float().mean())
        if negative > _SATURATED:
            cure = "Exchange the views if they are swapped, or start again with a lower `optimiser.lr`."
            return Finding("disparity saturation", "warning", f"{negative:.0%} of the disparities are below 0. {cure}")
        return Finding("disparity saturation", "ok", f"{negative:.0%} of the disparities are below 0.")
    margin = 0.01 * (limits[1] - limits[0])
    low = float((disparity < limits[0] + 0.01 * margin).float().mean())
    high = float((disparity > limits[1] - margin).float().mean())
    text = (
        f"{max(low, high):.0%} of the disparities lie at the {'lower' if low > high else 'upper'} end of their range."
    )
    if max(low, high) > _SATURATED:
        cure = (
            "Nothing looks that near: lower `optimiser.lr`, check that the views are in order, or raise the limit of "
            "the network (max_disparity, min_depth)."
            if high >= low
            else "Everything looks infinitely far: check that the views differ and the baseline is not too small, or "
            "lower `optimiser.lr`."
        )
        return Finding("disparity saturation", "warning", f"{text} {cure}")
    return Finding("disparity saturation", "ok", text)


def check_constant(disparity: Tensor) -> Finding:
    """Find predictions that are one constant in every picture.

    Args:
        disparity: Shape (B, 1, H, W).

    Example:
        >>> check_constant(torch.full((1, 1, 4, 4), 2.0)).level, check_constant(torch.rand(1, 1, 4, 4)).level
        ('warning', 'ok')
    """
    maps = disparity.float().flatten(1)
    spread = float((maps.std(dim=1) / maps.mean(dim=1).abs().clamp(min=1e-12)).max())
    text = f"Within a picture, disparity varies by {spread:.1%} of its mean."
    if spread <= _FLAT:
        cure = (
            "Depth has become a constant: lower `selfsupervised.smoothness_weight` or `optimiser.lr`, and check that "
            "the camera moves between the views."
        )
        return Finding("constant depth", "warning", f"{text} {cure}")
    return Finding("constant depth", "ok", text)


def check_scale_drift(translations: Sequence[float], depths: Sequence[float]) -> Finding:
    """Find runs whose motion and depth grow or shrink together, which no picture can tell.

    Args:
        translations: Median length of the predicted motions at points of the run, oldest first.
        depths: Median predicted depth at the same points.

    Example:
        >>> check_scale_drift([0.1, 0.3, 0.9], [1.0, 3.0, 9.0]).level
        'warning'
        >>> check_scale_drift([0.1, 0.3, 0.9], [1.0, 1.1, 1.0]).level  # motion that is still being learned
        'ok'
    """
    if len(translations) < 2:
        return Finding("pose scale drift", "ok", "Too early to tell.")
    moved = translations[-1] / max(translations[0], 1e-12)
    deepened = depths[-1] / max(depths[0], 1e-12)
    text = f"Since it settled, motion has changed by a factor of {moved:.2g} and depth by {deepened:.2g}."
    if min(moved, deepened) > _DRIFT or max(moved, deepened) < 1 / _DRIFT:
        cure = (
            "Their common scale drifts, which ends at a limit of the network. Set "
            "`selfsupervised.smoothness_normalised: true`, lower the smoothness, or add `stereo: true`."
        )
        return Finding("pose scale drift", "warning", f"{text} {cure}")
    return Finding("pose scale drift", "ok", text)
