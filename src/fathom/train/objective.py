"""From a recipe's loss terms, a network's outputs and a batch to one number; the losses themselves are in `losses`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fathom import losses, models
from fathom.config import nearest_name
from fathom.errors import ConfigError, KindError, ShapeError
from fathom.models.eigen2014 import sample_target
from fathom.train.config import LossTerm, Recipe, Task, kind_of
from fathom.types import DepthKind

Output = Any
"""What a network returns: a tensor, a dictionary or a (named) tuple of tensors."""
Window = tuple[slice, slice]
Bound = tuple[LossTerm, losses.FunctionLoss]
"""A term and its function with the options bound."""

MAIN = "main"
"""Key of the output of a network that returns a single tensor."""

LOSS_TASKS: dict[str, tuple[Task, ...]] = {
    **dict.fromkeys(losses.DEPTH_LOSSES, ("depth",)),
    "virtual_normal": ("depth",),
    "ordinal_regression": ("depth",),
    "bins_chamfer": ("depth",),
    "normals": ("normals",),
    "cross_entropy": ("labels",),
    "bce": ("segmentation",),
    "dice": ("segmentation",),
    "bce_dice": ("segmentation",),
}
"""The losses that a supervised recipe can use, and the tasks they are made for."""

SCALE_FREE = ("scale_shift_invariant", "trimmed_scale_shift_invariant")
"""Losses that do not change with the scale and shift of the prediction."""

_NEAREST_INVERSE = 1e-3
"""Smallest depth that is inverted [m]; a prediction below it has no meaningful reciprocal."""


def named_outputs(output: Output) -> dict[str, Tensor]:
    """Name what a network returned; the first entry is the main one. Half precision becomes float32.

    Example:
        >>> list(named_outputs(torch.zeros(1)))
        ['main']
    """
    if isinstance(output, Tensor):
        named: Mapping[str, Tensor] = {MAIN: output}
    elif isinstance(output, Mapping):
        named = output
    else:
        fields = getattr(output, "_fields", [str(index) for index in range(len(output))])
        named = dict(zip(fields, output, strict=True))
    return {name: value.float() if isinstance(value, Tensor) else value for name, value in named.items()}


def output_for(outputs: Mapping[str, Tensor], task: Task, output: str | None, num_tasks: int) -> Tensor:
    """Pick the output that a term or a score looks at.

    Raises:
        ConfigError: If the network gives no output of that name.
    """
    if output is None and num_tasks == 1:
        return next(iter(outputs.values()))
    name = output or task
    if name not in outputs:
        raise ConfigError(f"The network gives no output '{name}'. {nearest_name(name, outputs)}")
    return outputs[name]


def convert_depth(
    values: Tensor, valid_mask: Tensor, source: DepthKind, wanted: DepthKind, batch: Mapping[str, Any]
) -> Tensor:
    """Turn targets of one kind into another; masked values come out as 0 or whatever they were.

    Args:
        values: Shape (B, H, W).
        valid_mask: Same shape.
        source: What they are.
        wanted: What is wanted.
        batch: Holds ``intrinsics`` and ``baseline_m`` where disparity is involved.

    Raises:
        KindError: If there is no legal way.

    Example:
        >>> ones = torch.full((1, 1, 1), 4.0)
        >>> convert_depth(ones, ones > 0, DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH, {}).item()
        0.25
    """
    depth, inverse = DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH
    free, affine = DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    disparity = DepthKind.DISPARITY
    if source is wanted or (source, wanted) in ((depth, free), (inverse, affine), (disparity, affine)):
        return values
    if (source, wanted) in ((depth, inverse), (inverse, depth), (depth, affine), (inverse, free), (free, affine)):
        return torch.where(valid_mask, 1.0 / torch.where(valid_mask, values, 1.0), 0.0)
    if {source, wanted} in ({depth, disparity}, {inverse, disparity}) and {"intrinsics", "baseline_m"} <= batch.keys():
        product = (batch["intrinsics"][:, 0, 0] * batch["baseline_m"])[:, None, None]
        if inverse in (source, wanted):
            return values * product if wanted is disparity else values / product
        return torch.where(valid_mask, product / torch.where(valid_mask, values, 1.0), 0.0)
    hint = " Depth and disparity need the camera and its baseline." if disparity in (source, wanted) else ""
    raise KindError(
        f"Targets are {source.value}, and the network gives {wanted.value}; one cannot be made from the other.{hint} "
        "Choose another dataset or network."
    )


@dataclass
class LossValue:
    """One evaluation of the objective.

    Args:
        total: What is minimised.
        parts: Each term before its weight, by label.
    """

    total: Tensor
    parts: dict[str, Tensor]


class AnyObjective(nn.Module):
    """What the rest of training asks of an objective.

    Attributes:
        kind: What the depth output of the network is.
        truth_kind: What the targets of the dataset are; None without depth.
        supervise: How an output that is smaller than its target meets it.
        weigh: Learned weights of the terms, if there are any.
        partner: A further network that is trained with the first, if there is one.
    """

    kind: DepthKind
    truth_kind: DepthKind | None
    supervise: str
    weigh: nn.Module | None
    partner: nn.Module | None

    def forward(
        self, output: Output, batch: Mapping[str, Any], *, phase: int | None = None, window: Window | None = None
    ) -> LossValue:
        """Compute the loss of what the network returned for a batch."""
        raise NotImplementedError


class Objective(AnyObjective):
    """The weighted losses of a recipe.

    Args:
        recipe: The recipe.
        network: Read for the borders of an ordinal head, and the grid of Eigen and Fergus' windows.
        truth_kind: What the targets of the dataset are; None without depth.
        teacher_kind: What the teacher's predictions are.

    Raises:
        ConfigError: If a loss or an option is unknown, or a term fits no task.
        KindError: If targets cannot be turned into what the network gives.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        truth_kind: DepthKind | None,
        teacher_kind: DepthKind | None = None,
    ) -> None:
        super().__init__()
        self.partner = None
        self.kind = kind_of(recipe)
        self.truth_kind, self.teacher_kind = truth_kind, teacher_kind
        self.num_tasks = len(recipe.tasks)
        self.supervise = recipe.data.supervise
        self.terms = self._bound(resolve_terms(recipe), network)
        self.phase_terms = [
            self._bound([resolve_term(term, recipe) for term in phase.losses], network) for phase in recipe.phases
        ]
        self.weigh = losses.UncertaintyWeightedSum(self.terms) if recipe.uncertainty_weighting else None
        self._grid: tuple[int, int] | None = getattr(network, "size3", None)

    def _bound(self, terms: Sequence[LossTerm], network: nn.Module) -> dict[str, Bound]:
        """Label each term, and build its function."""
        for term in terms:
            self._check_target(term)
        functions = [losses.build_loss(term.name, **_options(term, network)) for term in terms]
        return dict(zip(_labels(terms), zip(terms, functions, strict=True), strict=True))

    def _check_target(self, term: LossTerm) -> None:
        if term.target == "teacher" and self.teacher_kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
            if term.name not in SCALE_FREE:
                raise ConfigError(
                    f"The teacher's scale and shift are unknown, and the loss '{term.name}' needs them. "
                    f"Use {' or '.join(SCALE_FREE)}."
                )
        elif term.target == "truth" and _task(term) == "depth":
            if self.truth_kind is None:
                raise ConfigError("The loss compares depth, and the training set has none. Choose another dataset.")
            if self.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH and term.name not in SCALE_FREE:
                raise ConfigError(
                    f"The network gives {self.kind.value}, and the loss '{term.name}' is not free of scale and shift. "
                    f"Use {' or '.join(SCALE_FREE)}."
                )

    def forward(
        self, output: Output, batch: Mapping[str, Any], *, phase: int | None = None, window: Window | None = None
    ) -> LossValue:
        """Compute the loss of what the network returned for a batch.

        Args:
            output: Of the network.
            batch: See `fathom.data.torch_adapter`.
            phase: Number of the phase, whose own terms are used where it has some.
            window: Rows and columns of the grid of scale 3 that `output` covers.

        Raises:
            ShapeError: If outputs and targets do not fit.
        """
        outputs = named_outputs(output)
        terms = self.terms if phase is None else self.phase_terms[phase] or self.terms
        parts = {label: self._term(term, outputs, batch, window) for label, term in terms.items()}
        weights = {label: term.weight for label, (term, _) in terms.items()}
        if self.weigh is not None:
            return LossValue(self.weigh({label: weights[label] * part for label, part in parts.items()}), parts)
        return LossValue(losses.weighted_sum(parts, weights), parts)

    def _term(
        self, bound: Bound, outputs: Mapping[str, Tensor], batch: Mapping[str, Any], window: Window | None
    ) -> Tensor:
        term, function = bound
        task = _task(term)
        pred = output_for(outputs, task, term.output, self.num_tasks)
        for name, option in function.options.items():
            if isinstance(option, Tensor):
                function.options[name] = option.to(pred.device)
        if task == "depth":
            return self._depth_term(bound, pred, batch, window)
        target, mask = target_of(task, batch)
        pred, target, mask = self.meet(pred, target, mask, window)
        if task == "labels":
            return function(pred, target[:, 0].long().clamp(min=0), mask[:, 0])
        if task == "normals":
            return function(pred, target, mask)
        if term.name == "dice":
            pred = torch.sigmoid(pred)
        return function(pred, (target == 1).float(), mask)

    def _depth_term(self, bound: Bound, pred: Tensor, batch: Mapping[str, Any], window: Window | None) -> Tensor:
        term, function = bound
        if term.target == "teacher":
            target, mask, kind = batch["teacher"], batch["teacher_mask"], self.teacher_kind
        else:
            target, mask, kind = batch["target"], batch["valid_mask"], self.truth_kind
        assert kind is not None, "checked when the objective was built"
        affine = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        if kind is affine and self.kind in (DepthKind.METRIC_DEPTH, DepthKind.SCALE_INVARIANT_DEPTH):
            pred = 1.0 / pred.clamp(min=_NEAREST_INVERSE)
        elif not (kind is affine and self.kind in (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY)):
            target = convert_depth(target, mask, kind, self.kind, batch)
        if term.name == "bins_chamfer":
            return function(pred, target[:, None], mask[:, None])
        before = target.shape[-2:]
        pred, target, mask = self.meet(pred, target[:, None], mask[:, None], window)
        if term.name == "virtual_normal":
            return function(pred, target, mask, intrinsics=_scaled(batch["intrinsics"], before, pred.shape[-2:]))
        return function(pred, target, mask)

    def meet(
        self, pred: Tensor, target: Tensor, mask: Tensor, window: Window | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring prediction and target to one height and width, as `data.supervise` says.

        Args:
            pred: Shape (B, C, h, w).
            target: Shape (B, C', H, W).
            mask: Shape (B, 1, H, W).
            window: See `forward`.

        Returns:
            pred: Shape (B, C, h', w').
            target: Shape (B, C', h', w').
            mask: Shape (B, 1, h', w').
        """
        if window is not None:
            assert self._grid is not None, "only a network with windows runs in windows"
            target, mask = (sample_target(maps, self._grid, stride=2) for maps in (target, mask))
            return pred, target[..., window[0], window[1]], mask[..., window[0], window[1]]
        small, large = tuple(pred.shape[-2:]), tuple(target.shape[-2:])
        if small == large:
            return pred, target, mask
        if self.supervise == "upsample":
            return functional.interpolate(pred, size=large, mode="bilinear", align_corners=False), target, mask
        if self.supervise == "eigen":
            # Stride 4 in Eigen 2014 and scale 2; stride 2 in scale 3, whose grid would not fit with 4.
            stride = 4 if 5 + 4 * (small[0] - 1) < large[0] else 2
            size = (small[0], small[1])
            return pred, sample_target(target, size, stride=stride), sample_target(mask, size, stride=stride)
        if self.supervise == "centre":
            top, left = (large[0] - small[0]) // 2, (large[1] - small[1]) // 2
            if min(top, left) < 0:
                raise ShapeError(f"The output {small} does not fit into the target {large}. Set `data.supervise`.")
            cut = (..., slice(top, top + small[0]), slice(left, left + small[1]))
            return pred, target[cut], mask[cut]
        rows, columns = (
            ((torch.arange(n, device=target.device) + 0.5) * (size / n)).long()
            for n, size in zip(small, large, strict=True)
        )
        return pred, target[..., rows[:, None], columns], mask[..., rows[:, None], columns]


def target_of(task: Task, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the target and mask of a task other than depth, each (B, C, H, W).

    Raises:
        ConfigError: If the batch has none.
    """
    key = "normals" if task == "normals" else "labels"
    if key not in batch:
        cure = " Set `data.normals_from_depth`." if task == "normals" else ""
        raise ConfigError(f"The task '{task}' needs {key}, which the dataset does not have.{cure}")
    maps: Tensor = batch[key]
    if task == "normals":
        return maps, (maps != 0).any(dim=1, keepdim=True)
    return maps[:, None], maps[:, None] >= 0


def resolve_terms(recipe: Recipe) -> tuple[LossTerm, ...]:
    """Return the losses of a recipe with their tasks; where it names none, the network's own.

    Raises:
        ConfigError: If a loss is unknown, or its task is not clear.
    """
    terms = recipe.losses
    all_phases_have_some = bool(recipe.phases) and all(phase.losses for phase in recipe.phases)
    if not terms and not all_phases_have_some:
        terms = (LossTerm(name=models.entry(recipe.model.name).default_loss),)
    return tuple(resolve_term(term, recipe) for term in terms)


def resolve_term(term: LossTerm, recipe: Recipe) -> LossTerm:
    """Check one loss and fill in its task. Errors as in `resolve_terms`."""
    if term.name not in LOSS_TASKS:
        if term.name in losses.LOSSES:
            raise ConfigError(
                f"The loss '{term.name}' needs more than a picture and its target. Known here: {_known()}."
            )
        raise ConfigError(f"Unknown loss '{term.name}'. {nearest_name(term.name, LOSS_TASKS)}")
    fitting = [task for task in LOSS_TASKS[term.name] if task in recipe.tasks and term.task in (None, task)]
    if not fitting:
        raise ConfigError(
            f"The loss '{term.name}' is for the task {' or '.join(LOSS_TASKS[term.name])}; the recipe learns "
            f"{', '.join(recipe.tasks)}. Choose another loss."
        )
    return term.model_copy(update={"task": fitting[0]})


def _known() -> str:
    return ", ".join(LOSS_TASKS)


def _task(term: LossTerm) -> Task:
    assert term.task is not None, "resolve_term fills it in"
    return term.task


def _labels(terms: Sequence[LossTerm]) -> list[str]:
    """Name each term by its loss, and by what else tells it from the others; no dots, for parameter names."""
    names: list[str] = []
    for term in terms:
        parts = [term.name, *([term.output] if term.output else []), *(["teacher"] if term.target == "teacher" else [])]
        name = "_".join(parts)
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def _options(term: LossTerm, network: nn.Module) -> dict[str, Any]:
    """Return the options of a loss, with the borders that only the network knows."""
    options: dict[str, Any] = dict(term.options)
    if term.name == "ordinal_regression" and "thresholds" not in options:
        borders = [module.borders for module in network.modules() if hasattr(module, "borders")]
        if not borders:
            raise ConfigError("The loss 'ordinal_regression' needs the head 'ordinal'. Set `model.options.head`.")
        options["thresholds"] = borders[0]
    if isinstance(options.get("class_weights"), list):
        options["class_weights"] = torch.tensor(options["class_weights"], dtype=torch.float32)
    return options


def _scaled(intrinsics: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Return camera matrices of the resized picture, with pixel centres at whole numbers, as the loss counts them."""
    scaled = intrinsics.clone()
    scaled[:, 0] *= after[1] / before[1]
    scaled[:, 1] *= after[0] / before[0]
    scaled[:, :2, 2] -= 0.5
    return scaled
