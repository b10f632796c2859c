"""Depth from other views as one loss: Garg, monodepth, SfMLearner and monodepth2 are choices of its options.

`ViewLoss` rebuilds the picture from the other views at each scale of a disparity pyramid, compares, and adds smoothness
and whatever else the options ask for. The parts themselves are in `fathom.losses.selfsupervised` and
`fathom.losses.gradient`, the warps in `fathom.geometry.warp`.

What does not depend on the scale is computed once: the pyramid of pictures, the local moments of the target that SSIM
needs, and the errors of unmoved neighbours. The other views of a step are warped and compared in one call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ConfigError, ShapeError
from fathom.geometry.camera import scale_intrinsics
from fathom.geometry.warp import warp_by_depth, warp_by_disparity
from fathom.losses._masking import masked_mean
from fathom.losses.gradient import (
    edge_aware_smoothness_loss,
    normalize_disparity,
    sfmlearner_smoothness_loss,
    squared_gradient_loss,
)
from fathom.losses.selfsupervised import (
    SsimMoments,
    explainability_loss,
    explainability_weights,
    garg_reconstruction_loss,
    left_right_consistency_loss,
    min_reprojection_loss,
    monodepth_photometric_loss,
    ssim_error_map,
    ssim_moments,
)

Size = tuple[int, int]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Views:
    """What one step has to compare.

    Args:
        target: The picture whose depth is learned, colours in [0, 1], shape (B, C, H, W).
        disparities: Predictions for it at several scales, finest first, each (B, 1, h, w). For the warps along rows
            they are shares of the width; for the warp by depth anything that `to_depth` turns into depth.
        right: The other view of a stereo pair, for the warps along rows, shape (B, C, H, W).
        right_disparities: Predictions for `right` made from the target, like `disparities`; may be empty.
        to_depth: Turns a disparity map into depth.
        sources: Other views for the warp by depth, shape (B, S, C, H, W).
        motions: Target camera to each source camera, in the unit of depth, shape (B, S, 4, 4).
        intrinsics: Of all views [px], first pixel centre at (0.5, 0.5), shape (B, 3, 3).
        explainability: Logits of the masks at each scale, (B, 2 S, h, w) as in `explainability_loss`; may be empty.
    """

    target: Tensor
    disparities: Sequence[Tensor]
    right: Tensor | None = None
    right_disparities: Sequence[Tensor] = ()
    to_depth: Callable[[Tensor], Tensor] | None = None
    sources: Tensor | None = None
    motions: Tensor | None = None
    intrinsics: Tensor | None = None
    explainability: Sequence[Tensor] = ()


class ViewLoss(nn.Module):
    """The loss; every option is explained in `fathom.train.config_views.SelfSupervisedConfig`.

    Args:
        warp: ``"linearised"``, ``"disparity"`` or ``"depth"``.
        photometric: ``"squared"``, ``"l1"`` or ``"ssim"``.
        ssim_weight: Share of SSIM.
        intensity_span: Difference of white and black for ``squared`` and ``l1``.
        choose: ``"mean"`` or ``"minimum"`` over the other views.
        auto_mask: Leave out what an unmoved view fits better.
        mask_outside: Leave out what the other view does not show.
        full_resolution: Warp every scale at the size of the target.
        average_scales: Divide by the number of scales.
        smoothness: ``"squared"``, ``"edge_aware"`` or ``"second_order"``.
        smoothness_weight: Its weight at the finest scale.
        smoothness_halves: Halve the weight from scale to scale.
        smoothness_normalised: Divide disparity by its mean first.
        left_right_weight: Weight of left-right consistency.
        explainability_weight: Weight of the masks' regulariser.

    Example:
        >>> picture = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
        >>> flat = torch.zeros(1, 1, 8, 16)
        >>> total, parts = ViewLoss("disparity")(Views(picture, [flat], right=picture))
        >>> total.item() < 1e-6, list(parts)
        (True, ['photometric', 'smoothness'])

    Reference:
        Garg et al., ECCV 2016; Godard et al., CVPR 2017; Zhou et al., CVPR 2017; Godard et al., ICCV 2019.
    """

    def __init__(
        self,
        warp: Literal["linearised", "disparity", "depth"],
        *,
        photometric: Literal["squared", "l1", "ssim"] = "ssim",
        ssim_weight: float = 0.85,
        intensity_span: float = 1.0,
        choose: Literal["mean", "minimum"] = "mean",
        auto_mask: bool = False,
        mask_outside: bool = False,
        full_resolution: bool = False,
        average_scales: bool = False,
        smoothness: Literal["squared", "edge_aware", "second_order"] = "edge_aware",
        smoothness_weight: float = 0.1,
        smoothness_halves: bool = True,
        smoothness_normalised: bool = False,
        left_right_weight: float = 0.0,
        explainability_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.warp, self.photometric, self.choose = warp, photometric, choose
        self.ssim_weight, self.intensity_span = ssim_weight, intensity_span
        self.auto_mask, self.mask_outside = auto_mask, mask_outside
        self.full_resolution, self.average_scales = full_resolution, average_scales
        self.smoothness, self.smoothness_weight = smoothness, smoothness_weight
        self.smoothness_halves, self.smoothness_normalised = smoothness_halves, smoothness_normalised
        self.left_right_weight, self.explainability_weight = left_right_weight, explainability_weight

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss.

        Args:
            views: Pictures, predictions and cameras.

        Returns:
            total: Scalar, what is minimised.
            parts: Each summand before its weight, summed (or averaged) over the scales.

        Raises:
            ShapeError: If the shapes do not fit.
            ConfigError: If something is missing that the options need.
        """
        parts: dict[str, Tensor] = {}

        def add(name: str, value: Tensor) -> None:
            parts[name] = parts[name] + value if name in parts else value

        if self.warp == "depth":
            self._by_depth(views, add)
        elif self.warp == "linearised":
            self._linearised(views, add)
        else:
            self._by_disparity(views, add)
        count = len(views.disparities) if self.average_scales else 1
        parts = {name: value / count for name, value in parts.items()}
        weights = {
            "smoothness": self.smoothness_weight,
            "left_right": self.left_right_weight,
            "explainability": self.explainability_weight,
        }
        total = torch.stack([weights.get(name, 1.0) * value for name, value in parts.items()]).sum()
        return total, parts

    def _linearised(self, views: Views, add: Callable[[str, Tensor], None]) -> None:
        """From coarse to fine, each stage around the enlarged disparity of the one before."""
        right = _needed(views.right, "a right view")
        coarser: Tensor | None = None
        for scale in reversed(range(len(views.disparities))):
            shares = views.disparities[scale]
            size = _size(shares)
            left_s, right_s = shrink(views.target, size), shrink(right, size)
            # The coarsest stage has none before it: it is taken around itself, so that its gradient is I_h as well.
            around = shares if coarser is None else enlarge(coarser, size)
            span, width = self.intensity_span, size[1]
            add(
                "photometric",
                garg_reconstruction_loss(span * left_s, span * right_s, width * shares, width * around.detach()),
            )
            self._smooth(add, scale, shares, left_s, views.target.shape[-1])
            coarser = shares

    def _by_disparity(self, views: Views, add: Callable[[str, Tensor], None]) -> None:
        right = _needed(views.right, "a right view")
        both = bool(views.right_disparities)
        if self.left_right_weight and not both:
            raise ConfigError("Left-right consistency needs a network that predicts the disparity of both views.")
        for scale, shares in enumerate(views.disparities):
            size = _size(shares)
            pair = shrink(views.target, size), shrink(right, size)
            sides = [(pair[0], pair[1], shares, -1)]
            if both:
                sides.append((pair[1], pair[0], views.right_disparities[scale], 1))
            for own, other, disparity, direction in sides:
                warped, in_view = warp_by_disparity(other, size[1] * disparity, direction=direction)
                add("photometric", self._compare(warped, own, in_view if self.mask_outside else None))
                self._smooth(add, scale, disparity, own, views.target.shape[-1])
            if self.left_right_weight:
                width = size[1]
                add("left_right", left_right_consistency_loss(width * shares, width * sides[1][2]))

    def _by_depth(self, views: Views, add: Callable[[str, Tensor], None]) -> None:
        to_depth = _needed(views.to_depth, "a network that gives depth")
        sources, motions = _needed(views.sources, "other views"), _needed(views.motions, "their motions")
        intrinsics = _needed(views.intrinsics, "a camera")
        if sources.shape[:2] != motions.shape[:2] or sources.shape[-2:] != views.target.shape[-2:]:
            raise ShapeError(
                f"`sources` must be (B, S, C, H, W) and `motions` (B, S, 4, 4); got {tuple(sources.shape)} and "
                f"{tuple(motions.shape)} for a target {tuple(views.target.shape)}."
            )
        full = _size(views.target)
        count = sources.shape[1]
        stages: dict[Size, _Stage] = {}
        for scale, disparity in enumerate(views.disparities):
            size = full if self.full_resolution else _size(disparity)
            if size not in stages:
                camera = scale_intrinsics(intrinsics, full, size)
                stages[size] = self._stage(shrink(views.target, size), shrink(sources.flatten(0, 1), size), camera)
            stage = stages[size]
            depth = _repeat(to_depth(enlarge(disparity, size)), count)
            warped, in_view = warp_by_depth(
                stage.sources, depth, motions.flatten(0, 1), _repeat(stage.intrinsics, count)
            )
            errors = self._errors(warped, stage).unflatten(0, (-1, count))[:, :, 0]
            mask = in_view.unflatten(0, (-1, count))[:, :, 0] if self.mask_outside else None
            if self.choose == "minimum":
                add("photometric", min_reprojection_loss(errors, stage.unmoved, mask))
            else:
                self._explained(add, errors, mask, views.explainability[scale] if views.explainability else None)
            at_scale = stage.target if size == _size(disparity) else shrink(views.target, _size(disparity))
            self._smooth(add, scale, disparity, at_scale, full[1])

    def _explained(
        self, add: Callable[[str, Tensor], None], errors: Tensor, mask: Tensor | None, logits: Tensor | None
    ) -> None:
        """Add the mean error of each source, weighed by how far its pixels can be explained."""
        if logits is not None:
            if self.explainability_weight:
                # A sum over the sources, as the error is.
                add("explainability", errors.shape[1] * explainability_loss(logits))
            errors = errors * enlarge(explainability_weights(logits), (errors.shape[-2], errors.shape[-1]))
        usable = torch.ones_like(errors, dtype=torch.bool) if mask is None else mask
        total = sum(masked_mean(errors[:, i], usable[:, i]) for i in range(errors.shape[1]))
        add("photometric", cast(Tensor, total))

    def _stage(self, target: Tensor, sources: Tensor, intrinsics: Tensor) -> "_Stage":
        moments = ssim_moments(target, padding="reflect") if self.photometric == "ssim" else None
        count = len(sources) // len(target)
        stage = _Stage(target, sources, intrinsics, moments, _repeat(target, count), None)
        if not self.auto_mask:
            return stage
        with torch.no_grad():
            unmoved = self._errors(sources, stage).unflatten(0, (-1, count))[:, :, 0]
        return _Stage(target, sources, intrinsics, moments, stage.repeated, unmoved)

    def _errors(self, pred: Tensor, stage: "_Stage") -> Tensor:
        """Compare pictures (B S, C, H, W) with the targets of a stage; shape (B S, 1, H, W)."""
        difference = pred - stage.repeated
        if self.photometric == "squared":
            return self.intensity_span**2 * difference.square().mean(dim=1, keepdim=True)
        l1 = difference.abs().mean(dim=1, keepdim=True)
        if self.photometric == "l1":
            return self.intensity_span * l1
        assert stage.moments is not None, "made for this comparison"
        moments = SsimMoments(*(_repeat(part, len(pred) // len(stage.target)) for part in stage.moments))
        ssim = ssim_error_map(pred, stage.repeated, padding="reflect", moments=moments).mean(dim=1, keepdim=True)
        return self.ssim_weight * ssim + (1 - self.ssim_weight) * l1

    def _compare(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Compare a rebuilt view with the real one; scalar."""
        if self.photometric == "ssim":
            return monodepth_photometric_loss(pred, target, mask, ssim_weight=self.ssim_weight)
        difference = pred - target
        span = self.intensity_span
        errors = span**2 * difference.square() if self.photometric == "squared" else span * difference.abs()
        errors = errors.mean(dim=1, keepdim=True)
        return masked_mean(errors, torch.ones_like(errors, dtype=torch.bool) if mask is None else mask)

    def _smooth(
        self, add: Callable[[str, Tensor], None], scale: int, disparity: Tensor, image: Tensor, width: int
    ) -> None:
        if self.smoothness_normalised:
            disparity = normalize_disparity(disparity)
        if self.smoothness == "squared":
            loss = squared_gradient_loss(disparity if self.smoothness_normalised else width * disparity)
        elif self.smoothness == "second_order":
            loss = sfmlearner_smoothness_loss(disparity)
        else:
            loss = edge_aware_smoothness_loss(disparity, image)
        add("smoothness", loss / 2**scale if self.smoothness_halves else loss)


@dataclass(frozen=True)
class _Stage:
    """What all scales of one size share."""

    target: Tensor
    sources: Tensor
    intrinsics: Tensor
    moments: SsimMoments | None
    repeated: Tensor
    unmoved: Tensor | None


def shrink(images: Tensor, size: Size) -> Tensor:
    """Resize pictures to a scale of a pyramid, by area.

    Example:
        >>> shrink(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), (1, 1)).item()
        1.5
    """
    return images if _size(images) == size else functional.interpolate(images, size=size, mode="area")


def enlarge(maps: Tensor, size: Size) -> Tensor:
    """Resize predictions bilinearly, pixel areas aligned.

    Example:
        >>> enlarge(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if _size(maps) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _size(maps: Tensor) -> Size:
    return maps.shape[-2], maps.shape[-1]


def _repeat(values: Tensor, count: int) -> Tensor:
    """Repeat each picture of a batch for each of its other views."""
    return values.repeat_interleave(count, dim=0) if count > 1 else values


def _needed(value: Value | None, what: str) -> Value:
    if value is None:
        raise ConfigError(f"This loss needs {what}, which the batch or the network does not give.")
    return value
