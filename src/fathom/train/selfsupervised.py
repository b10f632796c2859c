"""From a network's outputs and a batch with other views to one number; the loss itself is `fathom.losses.ViewLoss`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fathom import models
from fathom.errors import ConfigError
from fathom.geometry.pose import invert_pose, pose_from_axis_angle, pose_from_euler
from fathom.geometry.warp import warp_by_depth
from fathom.losses import ViewLoss, Views
from fathom.losses.views import enlarge
from fathom.models import InputLaw
from fathom.models.dispnet import DispNetS
from fathom.models.garg import Garg2016
from fathom.models.heads import SigmoidHead
from fathom.models.monodepth import Monodepth
from fathom.models.monodepth2 import Monodepth2, build_monodepth2_pose, disp_to_depth
from fathom.models.sfmlearner import build_sfmlearner_pose
from fathom.models.weights import load_weights
from fathom.train.config import Recipe, kind_of
from fathom.train.config_views import SelfSupervisedConfig
from fathom.train.export import POSE_FILE
from fathom.train.module import normalise
from fathom.train.objective import AnyObjective, LossValue, Output, Window, named_outputs
from fathom.types import DepthKind

_POSE_LAW_OF = {"sfmlearner": "sfmlearner", "monodepth2": "monodepth2-resnet18"}
_SCALES = 4
"""At most so many scales are compared, as in all the papers; the two coarsest of DispNet show a few pixels only."""
_SMALLEST_DEPTH = 1e-3
"""Predictions of networks without limits of their own are taken as at least this depth."""


def reciprocal(values: Tensor) -> Tensor:
    """Turn inverse depth into depth, and back.

    Example:
        >>> reciprocal(torch.tensor([4.0])).item()
        0.25
    """
    return values.reciprocal()


@dataclass(frozen=True)
class Pyramid:
    """How the outputs of one kind of network are read.

    Args:
        shares: Whether `disparities` are shares of the width; else they are what `to_depth` takes.
        to_depth: Turns a disparity map into depth; None for shares.
        limits: Smallest and largest disparity; None without limits.
        in_px: Whether the network counts pixels of its input.
        reads_depth: Whether the main output is depth, of which the reciprocal is taken.
        has_right: Whether the network predicts the right view, too.
    """

    shares: bool
    to_depth: Callable[[Tensor], Tensor] | None
    limits: tuple[float, float] | None
    in_px: bool = False
    reads_depth: bool = False
    has_right: bool = False

    def disparities(self, outputs: Mapping[str, Tensor], width: int, prefix: str = "disparity_") -> list[Tensor]:
        """Return the disparity maps, finest first.

        Args:
            outputs: Named outputs of the network.
            width: Of the picture [px].
            prefix: What the names start with; a number follows.
        """
        if self.reads_depth:
            return [next(iter(outputs.values())).clamp(min=_SMALLEST_DEPTH).reciprocal()]
        names = sorted(name for name in outputs if name.startswith(prefix) and name[len(prefix) :].isdigit())[:_SCALES]
        maps = [outputs[name] for name in names] or [next(iter(outputs.values()))]
        return [values / width for values in maps] if self.in_px else maps


def pyramid_of(network: nn.Module, kind: DepthKind, config: SelfSupervisedConfig) -> Pyramid:
    """Find out how the outputs of a network are read.

    Args:
        network: The depth network.
        kind: What its depth output is to be, as the recipe says.
        config: The section `selfsupervised`.

    Raises:
        ConfigError: If network, kind and section do not fit together.

    Example:
        >>> config = SelfSupervisedConfig(warp="disparity", stereo=True)
        >>> network = models.build("monodepth-vgg", base_channels=2, unit="px")
        >>> pyramid_of(network, DepthKind.DISPARITY, config).limits
        (0.0, 0.3)
    """
    for part in network.modules():
        if config.warp == "depth":
            if isinstance(part, Monodepth2):
                to_depth = partial(disp_to_depth, min_depth=part.min_depth, max_depth=part.max_depth)
                return _checked(Pyramid(False, to_depth, (0.0, 1.0)), kind, config)
            if isinstance(part, DispNetS):
                limits = (part.offset, part.gain + part.offset)
                return _checked(Pyramid(False, reciprocal, limits), kind, config)
        if isinstance(part, Monodepth):
            in_px = part.unit == "px"
            limits = (0.0, part.max_disparity)
            return _checked(Pyramid(True, None, limits, in_px, has_right=True), kind, config)
        if isinstance(part, Garg2016):
            return _checked(Pyramid(True, None, None, in_px=True), kind, config)
    if config.warp == "depth":
        return _checked(Pyramid(False, reciprocal, None, reads_depth=True), kind, config)
    return _checked(Pyramid(True, None, None, in_px=True), kind, config)


def _checked(pyramid: Pyramid, kind: DepthKind, config: SelfSupervisedConfig) -> Pyramid:
    if pyramid.shares:
        if config.warp == "depth":
            raise ConfigError("The network gives disparity. Set `selfsupervised.warp: disparity`, or another network.")
        wanted = DepthKind.DISPARITY if pyramid.in_px else DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        if kind is not wanted:
            hint = "Set `model.options.unit: px` for pixels." if pyramid.has_right and not pyramid.in_px else ""
            raise ConfigError(
                f"The network gives disparity {'[px]' if pyramid.in_px else 'as a share of the width'}, which is "
                f"{wanted}; the recipe says {kind}. Set `model.kind: {wanted}`. {hint}".strip()
            )
    elif kind not in (
        DepthKind.METRIC_DEPTH,
        DepthKind.SCALE_INVARIANT_DEPTH,
        DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH,
    ):
        raise ConfigError(f"`warp: depth` needs a network that gives depth; this one gives {kind}. Choose another.")
    elif kind is DepthKind.METRIC_DEPTH and not _knows_metres(config):
        raise ConfigError(
            "Without given motion or the true baseline of a stereo pair nothing says how long a metre is. Set "
            "`model.kind: scale_invariant_depth`, `pose: given`, or `stereo: true` without `nominal_baseline`."
        )
    elif pyramid.reads_depth and kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
        raise ConfigError(
            "Warping needs depth up to scale, and this network leaves a shift open. Choose a head such as log_depth."
        )
    return pyramid


def _knows_metres(config: SelfSupervisedConfig) -> bool:
    return config.pose == "given" or (config.stereo and config.nominal_baseline is None)


def build_partner(config: SelfSupervisedConfig) -> nn.Module | None:
    """Build the network for the motion to the neighbours; None where none is needed.

    Raises:
        ModelError: If an option is unknown.
    """
    if config.pose in (None, "given"):
        return None
    options = dict(config.pose_options)
    try:
        if config.pose == "monodepth2":
            return build_monodepth2_pose(**options)
        masks = config.explainability_weight > 0
        return build_sfmlearner_pose(explainability=masks, num_sources=len(config.neighbours), **options)
    except TypeError as error:
        raise ConfigError(
            f"`selfsupervised.pose_options` do not fit the pose network {config.pose}: {error}."
        ) from None


class ViewObjective(AnyObjective):
    """The loss of a self-supervised recipe, with the network for the motion as its partner.

    Args:
        recipe: With the section `selfsupervised`.
        network: The depth network; read for how its outputs are meant.
        truth_kind: What the targets of the validation set are; None without.

    Attributes:
        pyramid: How the outputs are read.
        translations: Length of the motion to each neighbour in the latest step, detached; None where none is predicted.
        disparity: Finest disparity of the latest step, detached.

    Raises:
        ConfigError: If network and section do not fit together.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, truth_kind: DepthKind | None) -> None:
        super().__init__()
        assert recipe.selfsupervised is not None, "only for recipes with that section"
        self.config = recipe.selfsupervised
        self.kind, self.truth_kind, self.supervise = kind_of(recipe), truth_kind, recipe.data.supervise
        self.weigh = None
        self.pyramid = pyramid_of(network, self.kind, self.config)
        options = self.config.model_dump(
            exclude={"stereo", "neighbours", "pose", "pose_options", "rotation", "nominal_baseline", "warp"}
        )
        self.loss = ViewLoss(self.config.warp, **options)
        self.partner = build_partner(self.config)
        self.translations: Tensor | None = None
        self.disparity: Tensor | None = None

    def forward(
        self, output: Output, batch: Mapping[str, Any], *, phase: int | None = None, window: Window | None = None
    ) -> LossValue:
        """Compute the loss of what the depth network returned for ``batch["image"]``.

        Args:
            output: Of the network.
            batch: See `fathom.train.views`.
            phase: Not used; self-supervised recipes have no phases.
            window: Not used.

        Raises:
            ConfigError: If the batch lacks a view or the camera.
        """
        outputs = named_outputs(output)
        target = _of(batch, "view")
        width = target.shape[-1]
        disparities = self.pyramid.disparities(outputs, width)
        if self.config.warp == "disparity" and disparities[0].shape[-2:] != target.shape[-2:]:
            # DispNet ends at half the picture's size, where half the detail of the pictures is lost.
            disparities = [enlarge(disparities[0], (target.shape[-2], width)), *disparities]
        self.disparity = disparities[0].detach()
        if self.pyramid.shares:
            right = self.pyramid.disparities(outputs, width, "disparity_right_") if self.pyramid.has_right else []
            views = Views(target, disparities, right=_of(batch, "image_right"), right_disparities=right)
        else:
            sources, motions, masks = self._others(batch)
            views = Views(
                target,
                disparities,
                to_depth=self.pyramid.to_depth,
                sources=sources,
                motions=motions,
                intrinsics=_of(batch, "intrinsics"),
                explainability=masks,
            )
        total, parts = self.loss(views)
        return LossValue(total, parts)

    def _others(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return pictures, motions and masks of all other views: the neighbours, then the second view of a pair."""
        pictures: list[Tensor] = []
        motions: list[Tensor] = []
        masks: list[Tensor] = []
        if self.config.neighbours:
            if self.partner is None:
                found = _of(batch, "neighbour_poses")
            else:
                found, masks = find_motions(
                    self.partner,
                    batch["image"],
                    _of(batch, "neighbours"),
                    self.config,
                    rotations=_of(batch, "neighbour_poses") if self.config.rotation == "matched" else None,
                    intrinsics=_of(batch, "intrinsics"),
                )
                self.translations = found[:, :, :3, 3].detach().norm(dim=-1)
            pictures.append(_of(batch, "neighbour_views"))
            motions.append(found)
        if self.config.stereo:
            right = _of(batch, "image_right")
            pictures.append(right[:, None])
            motions.append(stereo_motion(batch, self.config.nominal_baseline)[:, None])
        return torch.cat(pictures, dim=1), torch.cat(motions, dim=1), masks


def stereo_motion(batch: Mapping[str, Any], nominal_baseline: float | None) -> Tensor:
    """Return the motion from each picture to the second view of its pair, shape (B, 4, 4).

    Args:
        batch: With ``baseline_sign`` (1: the second view lies to the right), and ``baseline_m`` unless a nominal
            baseline is given.
        nominal_baseline: Taken instead of the camera's own.

    Example:
        >>> batch = {"baseline_sign": torch.tensor([1.0]), "baseline_m": torch.tensor([0.5])}
        >>> stereo_motion(batch, None)[0, 0].tolist()
        [1.0, 0.0, 0.0, -0.5]
    """
    sign = _of(batch, "baseline_sign")
    length = torch.full_like(sign, nominal_baseline) if nominal_baseline is not None else _of(batch, "baseline_m")
    motion = torch.eye(4, device=sign.device).repeat(len(sign), 1, 1)
    motion[:, 0, 3] = -sign * length
    return motion


def find_motions(
    partner: nn.Module,
    image: Tensor,
    sources: Tensor,
    config: SelfSupervisedConfig,
    *,
    rotations: Tensor | None = None,
    intrinsics: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Ask the partner for the motion from the picture to each neighbour.

    Args:
        partner: Of `build_partner`.
        image: The picture, colours in [0, 1], shape (B, 3, H, W).
        sources: Its neighbours in the order of `config.neighbours`, shape (B, S, 3, H, W).
        config: The section `selfsupervised`.
        rotations: Known part of the motions, without translation, shape (B, S, 4, 4): the neighbours are turned back
            by it before the partner sees them. Needs `intrinsics`.
        intrinsics: Of all the pictures, shape (B, 3, 3).

    Returns:
        motions: Picture to neighbour, in the unit of the predicted depth, shape (B, S, 4, 4).
        masks: Logits of the explainability masks, finest first, each (B, 2 S, h, w); empty without masks.

    Raises:
        ConfigError: If there are not as many neighbours as the section names.
    """
    batch_size, count = sources.shape[:2]
    if count != len(config.neighbours):
        raise ConfigError(
            f"The batch has {count} neighbours, and `selfsupervised.neighbours` names {len(config.neighbours)}. Make "
            "the two agree."
        )
    if rotations is not None:
        assert intrinsics is not None, "turning a picture back needs its camera"
        # Without translation every depth gives the same picture.
        turned, _ = warp_by_depth(
            sources.flatten(0, 1),
            sources.new_ones(batch_size * count, 1, *sources.shape[-2:]),
            rotations.flatten(0, 1),
            intrinsics.repeat_interleave(count, dim=0),
        )
        sources = turned.unflatten(0, (batch_size, count))
    law = _pose_law(config)
    image, sources = normalise(image, law), normalise(sources, law)
    masks: list[Tensor] = []
    if config.pose == "sfmlearner":
        found = partner(image, sources)
        if isinstance(found, Mapping):
            names = [f"explainability_{scale}" for scale in range(len(found) - 1)]
            masks = [found[name].float().flatten(1, 2) for name in names]
            found = found["pose"]
        six = found.float().flatten(0, 1)
        motions = pose_from_euler(six[:, 3:], six[:, :3])
    else:
        # Always in the order of time; the motion of an earlier neighbour is then turned round.
        earlier = torch.tensor([offset < 0 for offset in config.neighbours], device=image.device).repeat(batch_size)
        pictures, neighbours = image.repeat_interleave(count, dim=0), sources.flatten(0, 1)
        swap = earlier[:, None, None, None]
        six = partner(torch.where(swap, neighbours, pictures), torch.where(swap, pictures, neighbours)).float()[:, 0]
        forward = pose_from_axis_angle(six[:, :3], six[:, 3:])
        motions = torch.where(earlier[:, None, None], invert_pose(forward), forward)
    motions = motions.unflatten(0, (batch_size, count))
    return motions if rotations is None else rotations @ motions, masks


def _pose_law(config: SelfSupervisedConfig) -> InputLaw:
    assert config.pose in _POSE_LAW_OF, "asked for only with a pose network"
    return models.entry(_POSE_LAW_OF[config.pose]).input_law


def load_partner(folder: str | Path, config: SelfSupervisedConfig) -> nn.Module:
    """Load the motion network of a finished run, in evaluation mode.

    Args:
        folder: Folder of the run.
        config: The section `selfsupervised` of its recipe.

    Raises:
        ConfigError: If the recipe has no such network.
        WeightsError: If the file is missing or does not fit.
    """
    partner = build_partner(config)
    if partner is None:
        raise ConfigError(f"The run in '{folder}' learned from stereo or given motion and has no network for motion.")
    load_weights(partner, Path(folder) / POSE_FILE)
    return partner.eval()


def range_of(network: nn.Module, pyramid: Pyramid, width: int) -> tuple[float, float] | None:
    """Return the limits of the disparities that a pyramid gives; those of a sigmoid head count, too."""
    if pyramid.limits is not None:
        return pyramid.limits
    for part in network.modules():
        if isinstance(part, SigmoidHead) and pyramid.shares:
            return 0.0, part.max_depth / width
    return None


def _of(batch: Mapping[str, Any], key: str) -> Tensor:
    if key not in batch:
        cures = {
            "image_right": "Use a set with stereo pairs, with `stereo: true` where its reader has that option.",
            "neighbours": "Set the reader's `neighbours`, and use a set with video.",
            "neighbour_poses": "Use a set whose frames all have poses, or a network for `selfsupervised.pose`.",
            "intrinsics": "Use a set with a camera, or give the reader its intrinsics.",
            "baseline_m": "Use a set with a baseline, or set `selfsupervised.nominal_baseline`.",
        }
        raise ConfigError(f"The batch has no `{key}`. {cures.get(key, '')}".strip())
    return cast(Tensor, batch[key])
