"""The thin LightningModule: normalise, run the network, call the objective."""

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from fathom.attacks import fgsm, pgd
from fathom.models import InputLaw
from fathom.train.config import Recipe
from fathom.train.loader import mix_seed
from fathom.train.network import parameters_of, set_modes
from fathom.train.objective import AnyObjective, LossValue, Output, Window, named_outputs
from fathom.train.optim import build_optimiser, lr_factor

_CHANCE = 3
"""Keeps dropout and attacks apart from the other uses of the seed."""


def normalise(image: Tensor, law: InputLaw) -> Tensor:
    """Return pictures as a network wants them.

    Args:
        image: Pictures in 0 to 1, shape (B, 3, H, W), or (B, 6, H, W) for pairs.
        law: Its mean, standard deviation and range.

    Example:
        >>> normalise(torch.ones(1, 3, 1, 1), InputLaw(mean=(0.5,) * 3, std=(0.25,) * 3)).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    low, high = law.value_range
    times = image.shape[-3] // 3
    mean, std = (image.new_tensor(values).repeat(times)[:, None, None] for values in (law.mean, law.std))
    return (image * (high - low) + low - mean) / std


class TrainingModule(pl.LightningModule):
    """What Lightning trains.

    Args:
        network: The network.
        objective: Its losses.
        recipe: The recipe.
        law: Input law of the network.
        steps: Optimiser steps of the run.

    Attributes:
        plateau: What the plateau schedule has taken off the learning rate, as a factor.
        last_loss: Value of the latest step.
        last_pred: Main output of the latest step, detached.
        lr: Learning rate of the latest step; parts with a relative rate have their share of it.
        ready_at: When the latest step was over, validation and saving included [s].
    """

    def __init__(self, network: nn.Module, objective: AnyObjective, recipe: Recipe, law: InputLaw, steps: int) -> None:
        super().__init__()
        self.network, self.objective, self.recipe, self.law, self.steps = network, objective, recipe, law, steps
        self.plateau = 1.0
        self.last_loss: LossValue | None = None
        self.last_pred: Tensor | None = None
        self.ready_at = 0.0
        self.lr = 0.0
        self._base_rates: list[float] = []
        if recipe.hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if recipe.hardware.compile:
            self.network.compile()

    def forward(self, image: Tensor) -> Output:
        """Map pictures (B, 3, H, W) in 0 to 1 to the network's output."""
        if self.recipe.hardware.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        output: Output = self.network(normalise(image, self.law))
        return output

    def phase_at(self, step: int) -> int | None:
        """Return the number of the phase that a step lies in; None without phases."""
        end = 0
        for index, phase in enumerate(self.recipe.phases):
            end += phase.steps
            if step < end:
                return index
        return len(self.recipe.phases) - 1 if self.recipe.phases else None

    def frozen_parts(self, step: int) -> tuple[str, ...]:
        """Return the parts that do not learn at a step."""
        phase = self.phase_at(step)
        return (*self.recipe.model.freeze, *(self.recipe.phases[phase].freeze if phase is not None else ()))

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set everything that depends on the step: chance, frozen parts, learning rate."""
        step = self.trainer.global_step
        # Dropout and attacks draw from torch's own generator; seeding it here means that nothing has to be replayed.
        torch.manual_seed(mix_seed(self.recipe.seed, _CHANCE, batch_idx, self.global_rank))
        frozen = self.frozen_parts(step)
        if self.recipe.phases:
            # By identity: comparing tensors would compare their values.
            still = {id(parameter) for parameter in parameters_of(self.network, frozen)}
            for parameter in self.network.parameters():
                parameter.requires_grad_(id(parameter) not in still)
        set_modes(self.network, frozen)
        factor = lr_factor(self.recipe.schedule, step, self.steps) * self.plateau
        self.lr = factor * self.recipe.optimiser.lr
        for group, base in zip(self.trainer.optimizers[0].param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        phase = self.phase_at(self.trainer.global_step)
        run, window = self.way(phase)
        attack = self.recipe.adversarial
        total = torch.zeros((), device=self.device)
        if attack is None or attack.weight < 1:
            output = run(batch["image"])
            value = self.objective(output, batch, phase=phase, window=window)
            total = value.total if attack is None else (1 - attack.weight) * value.total
        if attack is not None:
            output = run(self._attacked(batch, phase, run, window))
            value = self.objective(output, batch, phase=phase, window=window)
            total = total + attack.weight * value.total
        self.last_loss = LossValue(total.detach(), {name: part.detach() for name, part in value.parts.items()})
        self.last_pred = next(iter(named_outputs(output).values())).detach()
        return total

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Note the time; this hook runs after those of all callbacks."""
        self.ready_at = time.perf_counter()

    def way(self, phase: int | None) -> tuple[Callable[[Tensor], Output], Window | None]:
        """Return how the network runs in a phase, and the window it sees."""
        way = "whole" if phase is None else self.recipe.phases[phase].run
        network: Any = self.network
        if way == "coarse":
            return lambda image: network.coarse_depth(normalise(image, self.law)), None
        if way == "window":
            window = network.random_window()
            return lambda image: network.predict_window(normalise(image, self.law), window), window
        return self.forward, None

    def _attacked(
        self,
        batch: dict[str, Any],
        phase: int | None,
        run: Callable[[Tensor], Output],
        window: Window | None,
    ) -> Tensor:
        attack = self.recipe.adversarial
        assert attack is not None, "called only where the recipe attacks"

        def loss(output: Any, _: Tensor, __: Tensor) -> Tensor:
            return self.objective(output, batch, phase=phase, window=window).total

        # A module, so that the attack can freeze the network and its batch moments meanwhile.
        model: Any = _Runner(self.network, run)
        image, target, mask = batch["image"], batch["target"], batch["valid_mask"]
        if attack.method == "fgsm":
            return fgsm(model, image, target, mask, epsilon=attack.epsilon, loss=loss)
        return pgd(model, image, target, mask, epsilon=attack.epsilon, num_steps=attack.num_steps, loss=loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser; rates of groups are remembered, because the schedule multiplies them."""
        optimiser = build_optimiser(self.network, self.objective.weigh, self.recipe.optimiser, self.objective.partner)
        self._base_rates = [float(group["lr"]) for group in optimiser.param_groups]
        return optimiser

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the schedule has learned."""
        checkpoint["fathom"] = {"plateau": self.plateau, "step": self.trainer.global_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.plateau = float(checkpoint["fathom"]["plateau"])


class _Runner(nn.Module):
    def __init__(self, network: nn.Module, run: Callable[[Tensor], Output]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, image: Tensor) -> Output:
        return self.run(image)
