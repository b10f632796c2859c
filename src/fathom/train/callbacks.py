"""What happens around a step: averages, curves, validation, checkpoints, signals.

The hooks run at the end of each optimiser step in the order of `fathom.train.fit`: average the weights, write the
curves, validate, save. A checkpoint therefore always holds a finished step with everything that followed from it.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.train.config_extras import EmaConfig
from fathom.train.loggers import TRAIN_FILE, CsvTable
from fathom.train.module import TrainingModule

Say = Callable[[str], None]

LAST, BEST = "last.ckpt", "best.ckpt"

_FLAT = 0.01
"""A prediction whose spread is below this share of its mean has collapsed to a constant."""
_SECONDS_BETWEEN_LINES = 5.0


class Interrupted(Exception):
    """The run was asked to stop and has saved its state.

    Args:
        step: Steps done.
        number: Number of the signal.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"Asked to stop; the state of step {step} is saved.")
        self.number = number


def step_ended(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Tell whether the batch that just ended was the last one of an optimiser step."""
    return (batch_idx + 1) % int(trainer.accumulate_grad_batches) == 0


class Ema(pl.Callback):
    """A running average of the weights: ``average = d * average + (1 - d) * weights`` after each step.

    d is the configured decay, and less in the first steps: ``min(decay, (1 + step) / (10 + step))``. Batch moments and
    other buffers are copied.

    Args:
        config: The section `ema`.
        network: What is averaged.

    Attributes:
        average: Averaged tensors by name.

    Reference:
        Polyak and Juditsky, 1992; the ramp is TensorFlow's.
    """

    def __init__(self, config: EmaConfig, network: nn.Module) -> None:
        self.decay, self.network = config.decay, network
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self._kept: dict[str, Tensor] | None = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the new weights into the average."""
        if not step_ended(trainer, batch_idx):
            return
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = dict(self.network.named_parameters())
        for name, value in self.network.state_dict().items():
            average = self.average[name] = self.average[name].to(value.device)
            if name in weights:
                average.lerp_(value.detach(), 1 - decay)
            else:
                average.copy_(value)

    def swap_in(self) -> None:
        """Put the average into the network, for scoring."""
        self._kept = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)

    def swap_out(self) -> None:
        """Put the weights back."""
        assert self._kept is not None, "swap_in comes first"
        self.network.load_state_dict(self._kept)
        self._kept = None

    def state_dict(self) -> dict[str, Any]:
        """Return the average."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take an average back."""
        self.average = dict(state_dict["average"])


class Curves(pl.Callback):
    """Rows of train.csv and the loggers, lines on the terminal, and warnings about what goes wrong.

    Args:
        folder: Folder of the run.
        every: Steps between rows.
        say: Prints a line.
    """

    def __init__(self, folder: Path, every: int, say: Say) -> None:
        self.table = CsvTable(folder / TRAIN_FILE)
        self.every, self.say = every, say
        self._started = self._shown = time.perf_counter()
        self._data_seconds = self._compute_seconds = 0.0
        self._first_step = 0
        self._has_collapsed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.ready_at = self._shown = time.perf_counter()
        self._first_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how long the batch was waited for."""
        assert isinstance(pl_module, TrainingModule)
        now = time.perf_counter()
        self._data_seconds += now - pl_module.ready_at
        self._started = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a row where one is due; stop where the loss is no number."""
        assert isinstance(pl_module, TrainingModule) and pl_module.last_loss is not None
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._compute_seconds += time.perf_counter() - self._started
        step = trainer.global_step
        if not step_ended(trainer, batch_idx) or (step % self.every and step != pl_module.steps and step != 1):
            return
        # The mean over the processes is the loss of the whole batch, where each has as many valid pixels.
        loss = _mean(trainer, pl_module.last_loss.total)
        parts = {name: _mean(trainer, value) for name, value in pl_module.last_loss.parts.items()}
        if not math.isfinite(loss):
            raise FathomError(
                f"The loss is {loss} at step {step}. Lower `optimiser.lr`, set `clip_norm`, or look at the data with "
                "`fathom data doctor`; last.ckpt holds the last good state."
            )
        if trainer.is_global_zero:
            self._write(trainer, pl_module, loss, parts, step)
            self._watch(pl_module, step)

    def _write(
        self, trainer: pl.Trainer, module: TrainingModule, loss: float, parts: dict[str, float], step: int
    ) -> None:
        row: dict[str, float] = {"step": step, "loss": loss}
        if not module.recipe.phases and len(parts) > 1:  # phases may have other terms, and a table has one header
            row |= {f"loss_{name}": value for name, value in parts.items()}
        row["lr"] = module.lr
        row["data_seconds"], row["compute_seconds"] = self._data_seconds, self._compute_seconds
        self.table.append(row)
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in row.items() if name != "step"}, step)
        now = time.perf_counter()
        if now - self._shown >= _SECONDS_BETWEEN_LINES or step == module.steps:
            self._shown = now
            seconds = self._data_seconds + self._compute_seconds
            rate = (step - self._first_step) / max(seconds, 1e-9)
            wait = 100 * self._data_seconds / max(seconds, 1e-9)
            left = (module.steps - step) / max(rate, 1e-9)
            self.say(
                f"step {step}/{module.steps}  loss {loss:.4g}  lr {row['lr']:.3g}  {rate:.2f} steps/s  "
                f"waiting for data {wait:.0f} %  {left:.0f} s left"
            )

    def _watch(self, module: TrainingModule, step: int) -> None:
        pred = module.last_pred
        if pred is None or "depth" not in module.recipe.tasks or self._has_collapsed or step < 20:
            return
        if module.recipe.selfsupervised is not None:
            return  # see `fathom.train.view_watch`
        if is_collapsed(pred):
            self._has_collapsed = True
            self.say(
                f"Warning: at step {step} the network predicts nearly one constant, {float(pred.mean()):.3g}. It has "
                "collapsed: check for dead outputs (lint.json), lower `optimiser.lr`, or change the head."
            )


def _mean(trainer: pl.Trainer, value: Tensor) -> float:
    return float(trainer.strategy.reduce(value.clone(), reduce_op="mean"))


def is_collapsed(pred: Tensor) -> bool:
    """Tell whether every map of a batch is nearly one constant.

    Example:
        >>> is_collapsed(torch.full((1, 1, 4, 4), 2.0)), is_collapsed(torch.rand(1, 1, 4, 4))
        (True, False)
    """
    maps = pred.float().flatten(1)
    return bool((maps.std(dim=1) <= _FLAT * maps.mean(dim=1).abs()).all())


class Keeper(pl.Callback):
    """Saves the state: after every validation, every so many steps, at the end, and when the run is asked to stop.

    A file is written under another name and then renamed, so a checkpoint is whole or not there. SIGTERM or Ctrl-C let
    the step finish, save, and end the run with `Interrupted`; a second Ctrl-C ends it at once.

    Args:
        folder: Folder of the run.
        every: Steps between saves; None: only where something else asks for one.
    """

    def __init__(self, folder: Path, every: int | None) -> None:
        self.folder, self.every = folder, every
        self.wanted: set[str] = set()
        self._signal = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen for signals; Lightning puts all handlers back at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save what is due."""
        if not step_ended(trainer, batch_idx):
            return
        assert isinstance(pl_module, TrainingModule)
        step = trainer.global_step
        # The processes of one run must agree to stop, or the others would wait for ever.
        stop = bool(trainer.strategy.reduce_boolean_decision(self._signal > 0, all=False))
        if stop or step == pl_module.steps or (self.every is not None and step % self.every == 0):
            self.wanted.add(LAST)
        for name in sorted(self.wanted):
            save_atomic(trainer, self.folder / name)
        self.wanted.clear()
        if stop:
            raise Interrupted(step, self._signal or signal.SIGTERM)


def save_atomic(trainer: pl.Trainer, path: Path) -> None:
    """Save a checkpoint so that the file is whole or not there, even if the machine stops.

    Args:
        trainer: Whose state is saved; every process must call this.
        path: The file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    trainer.strategy.barrier("checkpoint")


def best_of(scores: Mapping[str, float], name: str) -> float:
    """Return the monitored score.

    Raises:
        FathomError: If there is no score of that name.
    """
    if name not in scores:
        raise FathomError(f"`validation.monitor` names '{name}', which is not scored. Scored: {', '.join(scores)}.")
    return scores[name]
