"""Checks before the first step: cheap looks at what goes wrong most often, on a copy of the network."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import ConfigError, FathomError
from fathom.models import InputLaw
from fathom.models.dispnet import DispNetS
from fathom.models.heads import AdaptiveBinsHead, OrdinalHead, SigmoidHead
from fathom.train.config import Recipe
from fathom.train.findings import Finding
from fathom.train.lint_views import check_saturation, check_views
from fathom.train.module import TrainingModule
from fathom.train.network import parameters_of, set_modes
from fathom.train.objective import AnyObjective, convert_depth, named_outputs
from fathom.train.optim import build_optimiser
from fathom.train.selfsupervised import ViewObjective, range_of
from fathom.types import DepthKind

NUM_PICTURES = 2
"""Pictures of the small batch that is overfitted."""

_DEAD = 0.99
"""Share of zeros above which a rectifier's output counts as dead."""
_OUTSIDE = 0.01
"""Share of targets outside the range of the network that is worth a warning."""
_SATURATED = 0.5
"""Share of outputs at the ends of their range that is worth a warning."""
_LEARNED = 0.98
"""What is left of the loss after overfitting must be below this share."""


def lint(
    network: nn.Module,
    objective: AnyObjective,
    recipe: Recipe,
    law: InputLaw,
    batch: dict[str, Any],
    views: dict[str, Any] | None = None,
) -> list[Finding]:
    """Look for mistakes before the first step; the network is not changed.

    Args:
        network: As it would be trained, on the CPU.
        objective: Its losses.
        recipe: The recipe.
        law: Input law of the network.
        batch: A training batch.
        views: A larger batch for the checks of self-supervision that look at pictures alone; default: `batch`.

    Returns:
        One finding for each check.

    Raises:
        FathomError: If the loss is no number.
        ConfigError: If there is a warning and the recipe says `lint.strict`.
    """
    module = TrainingModule(copy.deepcopy(network), copy.deepcopy(objective), recipe, law, 1)
    batch = _first(batch, NUM_PICTURES)
    phase = module.phase_at(0)
    set_modes(module.network, module.frozen_parts(0))
    for parameter in parameters_of(module.network, module.frozen_parts(0)):
        parameter.requires_grad_(False)
    run, window = module.way(phase)
    with _rectifiers(module.network) as dead:
        output = run(batch["image"])
    value = module.objective(output, batch, phase=phase, window=window)
    loss = float(value.total.detach())
    if not math.isfinite(loss):
        raise FathomError(f"The loss is {loss} before the first step. Look at the data with `fathom data doctor`.")
    pred = next(iter(named_outputs(output).values())).detach()
    findings = [_loss_at_start(value.parts, batch, recipe, objective), _dead(dead, pred)]
    if isinstance(module.objective, ViewObjective):
        disparity = module.objective.disparity
        assert disparity is not None, "the objective has run"
        limits = range_of(network, module.objective.pyramid, disparity.shape[-1])
        if limits is not None:  # without limits the sign of an untrained output means nothing yet
            findings.append(check_saturation(disparity, limits))
        findings += check_views(batch if views is None else views, module.objective.config)
    elif "depth" in recipe.tasks and len(recipe.tasks) == 1:
        limits = depth_limits(network)
        findings += [_range(batch, objective, limits), _saturation(pred, limits), _scale(pred, batch, objective)]
    findings.append(_frozen(module, value.total))
    if recipe.lint.overfit_steps:
        findings.append(_overfit(module, batch, recipe.lint.overfit_steps))
    warnings = [finding for finding in findings if finding.level == "warning"]
    if warnings and recipe.lint.strict:
        raise ConfigError("Checks before training failed: " + " ".join(finding.text for finding in warnings))
    return findings


def depth_limits(network: nn.Module) -> tuple[float, float] | None:
    """Return the smallest and largest value that a network can give, in its own unit; None where there is no limit.

    Example:
        >>> from fathom import models
        >>> depth_limits(models.build("dispnet-s", base_channels=4))
        (0.01, 10.01)
    """
    for part in network.modules():
        match part:
            case DispNetS():
                return part.offset, part.gain + part.offset
            case SigmoidHead():
                return 0.0, part.max_depth
            case AdaptiveBinsHead():
                return part.min_depth, part.max_depth
            case OrdinalHead():
                borders = part.get_buffer("borders")
                return float(borders[0]), float(borders[-1])
    return None


def _first(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {key: value[:count] if isinstance(value, Tensor | list) else value for key, value in batch.items()}


def _loss_at_start(
    parts: Mapping[str, Tensor], batch: Mapping[str, Any], recipe: Recipe, objective: AnyObjective
) -> Finding:
    text = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in parts.items())
    supervised = recipe.selfsupervised is None and objective.truth_kind is not None and "depth" in recipe.tasks
    counts = int(batch["valid_mask"].sum()) if supervised else None
    if counts == 0:
        return Finding(
            "loss at start", "warning", "No pixel of the first batch has a target. Check the dataset's scale."
        )
    return Finding("loss at start", "ok", f"Before the first step: {text}.")


@contextmanager
def _rectifiers(network: nn.Module) -> Iterator[dict[str, float]]:
    """Collect the share of zeros behind every rectifier while the network runs."""
    zeros: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            zeros[name] = float((output == 0).float().mean())

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        yield zeros
    finally:
        for handle in handles:
            handle.remove()


def _dead(zeros: Mapping[str, float], pred: Tensor) -> Finding:
    share = float((pred == 0).float().mean())
    if share > _SATURATED:
        return Finding(
            "dead outputs",
            "warning",
            f"{share:.0%} of the network's outputs are exactly 0, where a rectifier has no gradient. Remove the last "
            "rectifier, or use a head such as softplus or log_depth.",
        )
    dead = [name for name, part in zeros.items() if part > _DEAD]
    if dead:
        return Finding("dead outputs", "warning", f"Behind these rectifiers nearly all is 0: {', '.join(dead[:5])}.")
    return Finding("dead outputs", "ok", "No rectifier is dead.")


def _targets(batch: Mapping[str, Any], objective: AnyObjective) -> Tensor:
    """Return the valid targets in the unit of the network."""
    if objective.truth_kind is None or objective.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
        return torch.empty(0)
    mask = batch["valid_mask"]
    return convert_depth(batch["target"], mask, objective.truth_kind, objective.kind, batch)[mask]


def _range(batch: Mapping[str, Any], objective: AnyObjective, limits: tuple[float, float] | None) -> Finding:
    targets = _targets(batch, objective)
    if limits is None or not len(targets):
        return Finding("depth range", "ok", "The network's output has no limits.")
    outside = float(((targets < limits[0]) | (targets > limits[1])).float().mean())
    spans = (
        f"The network gives {limits[0]:g} to {limits[1]:g}, the targets are {targets.min():.3g} to {targets.max():.3g}"
    )
    if outside > _OUTSIDE:
        cure = "Set `data.min_depth` and `data.max_depth`, or the limits of the head."
        return Finding("depth range", "warning", f"{spans}: {outside:.0%} of them lie outside. {cure}")
    return Finding("depth range", "ok", f"{spans}.")


def _saturation(pred: Tensor, limits: tuple[float, float] | None) -> Finding:
    if limits is None:
        return Finding("saturation", "ok", "The network's output has no limits.")
    margin = 0.01 * (limits[1] - limits[0])
    low = float((pred < limits[0] + 0.01 * margin).float().mean())
    high = float((pred > limits[1] - margin).float().mean())
    if max(low, high) > _SATURATED:
        end = "lower" if low > high else "upper"
        return Finding(
            "saturation",
            "warning",
            f"{max(low, high):.0%} of the outputs lie at the {end} end of their range, where the gradient vanishes. "
            "Lower the learning rate, or start from other weights.",
        )
    return Finding("saturation", "ok", "The outputs lie inside their range.")


def _scale(pred: Tensor, batch: Mapping[str, Any], objective: AnyObjective) -> Finding:
    targets = _targets(batch, objective)
    if not len(targets) or objective.kind is DepthKind.SCALE_INVARIANT_DEPTH:
        return Finding("scale", "ok", "Nothing to compare.")
    middle, wanted = float(pred.abs().median()), float(targets.median())
    text = f"The outputs start around {middle:.3g}, the targets lie around {wanted:.3g}."
    if wanted > 100 * max(middle, 0.1) or middle > 100 * wanted:
        cure = "Check the unit of the targets (mm for m?) and the head."
        return Finding("scale", "warning", f"{text} {cure}")
    return Finding("scale", "ok", text)


def _frozen(module: TrainingModule, total: Tensor) -> Finding:
    total.backward()
    parameters = dict(module.network.named_parameters())
    still = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    unreached = [name for name, p in parameters.items() if p.requires_grad and p.grad is None]
    module.network.zero_grad(set_to_none=True)
    text = f"{len(parameters) - len(still)} of {len(parameters)} tensors learn."
    if still:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in still))
        text += f" Frozen by the recipe: parts of {parts}."
    if unreached:
        return Finding(
            "frozen parts",
            "warning",
            f"{text} {len(unreached)} are reached by no loss, among them {', '.join(unreached[:3])}. Add a loss on the "
            "output they lead to, or freeze them.",
        )
    return Finding("frozen parts", "ok", text)


def _overfit(module: TrainingModule, batch: dict[str, Any], steps: int) -> Finding:
    """Take steps on one batch with the recipe's own optimiser, without its schedule."""
    phase = module.phase_at(0)
    run, window = module.way(phase)
    objective = module.objective
    optimiser = build_optimiser(module.network, objective.weigh, module.recipe.optimiser, objective.partner)
    generator_state = torch.get_rng_state()
    values = []
    for _ in range(steps + 1):
        # The same dropout each time, so that the loss falls by learning and not by luck.
        torch.set_rng_state(generator_state)
        loss = module.objective(run(batch["image"]), batch, phase=phase, window=window).total
        values.append(float(loss.detach()))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if module.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.network.parameters(), module.recipe.clip_norm)
        optimiser.step()
    text = f"On one small batch the loss goes from {values[0]:.4g} to {values[-1]:.4g} in {steps} steps"
    fell = values[0] - values[-1] > (1 - _LEARNED) * abs(values[0])
    if not math.isfinite(values[-1]) or not fell:
        return Finding(
            "overfit one batch",
            "warning",
            f"{text}: it hardly learns. Try another `optimiser.lr` (now {module.recipe.optimiser.lr:g}), and check "
            "that pictures and targets belong together.",
        )
    return Finding("overfit one batch", "ok", f"{text}.")
