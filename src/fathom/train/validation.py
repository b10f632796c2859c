"""Validation after a step: score, paint, keep the best weights, lower the rate, stop early."""

import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fathom.train.callbacks import BEST, LAST, Ema, Keeper, Say, best_of, step_ended
from fathom.train.config import is_lower_better, monitored_score, validation_interval
from fathom.train.export import write_model
from fathom.train.loggers import VAL_FILE, CsvTable, log_picture
from fathom.train.module import TrainingModule
from fathom.train.objective import named_outputs, output_for, target_of
from fathom.train.scoring import Scorer, Tally, gather
from fathom.types import Depth
from fathom.viz import colorize


class Validation(pl.Callback):
    """Scores the network every so many steps and after the last one.

    Args:
        folder: Folder of the run.
        loader: Batches to score.
        scorer: Scores them.
        keeper: Saves what this asks for.
        ema: The average to score instead of the weights.
        say: Prints a line.

    Attributes:
        best: Best monitored score so far; None before the first.
        scores: Scores of the latest validation.
    """

    def __init__(
        self,
        folder: Path,
        loader: DataLoader[dict[str, Any]],
        scorer: Scorer,
        keeper: Keeper,
        ema: Ema | None,
        say: Say,
    ) -> None:
        self.folder, self.loader, self.scorer, self.keeper, self.ema, self.say = (
            folder,
            loader,
            scorer,
            keeper,
            ema,
            say,
        )
        self.table = CsvTable(folder / VAL_FILE)
        self.best: float | None = None
        self.best_step = 0
        self.scores: dict[str, float] = {}
        self._stale = 0
        self._stale_rate = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the next validations depend on."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "scores": self.scores,
            "stale": self._stale,
            "stale_rate": self._stale_rate,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.scores = dict(state_dict["scores"])
        self._stale, self._stale_rate = state_dict["stale"], state_dict["stale_rate"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate where it is due."""
        assert isinstance(pl_module, TrainingModule)
        step = trainer.global_step
        due = step % validation_interval(pl_module.recipe, pl_module.steps) == 0 or step == pl_module.steps
        if step_ended(trainer, batch_idx) and due:
            self.validate(trainer, pl_module, step)

    def validate(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Score, write, and draw the conclusions."""
        started = time.perf_counter()
        if self.ema is not None:
            self.ema.swap_in()
        try:
            tally, first = self._score(trainer, module)
            everything = gather(tally)
            self.scores = everything.scores(self.scorer.protocol)
            if everything.skipped:
                self.say(f"{everything.skipped} pictures have no pixel to score, and were left out.")
            is_best = self._judge(module, step)
            if trainer.is_global_zero:
                self._write(trainer, module, step, time.perf_counter() - started, is_best)
                self._paint(trainer, module, first, step)
                if is_best:
                    write_model(self.folder, module, self.scores, step)
        finally:
            if self.ema is not None:
                self.ema.swap_out()
        self.keeper.wanted |= {LAST, BEST} if is_best else {LAST}
        self._conclude(trainer, module)

    def _score(self, trainer: pl.Trainer, module: TrainingModule) -> tuple[Tally, dict[str, Any] | None]:
        tally, first = Tally(), None
        module.network.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for batch in self.loader:
                device = module.device
                on_device = {key: v.to(device) if isinstance(v, Tensor) else v for key, v in batch.items()}
                output = module(on_device["image"])
                self.scorer.add(tally, output, on_device)
                if first is None:
                    first = {"batch": batch, "outputs": {k: v.cpu() for k, v in named_outputs(output).items()}}
        return tally, first

    def _judge(self, module: TrainingModule, step: int) -> bool:
        """Compare with the best so far."""
        name = monitored_score(module.recipe)
        value = best_of(self.scores, name)
        if math.isnan(value):
            better = False
        elif self.best is None:
            better = True
        else:
            better = value < self.best if is_lower_better(name) else value > self.best
        if better:
            self.best, self.best_step = value, step
            self._stale = self._stale_rate = 0
        else:
            self._stale += 1
            self._stale_rate += 1
        return better

    def _conclude(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        schedule, stop = module.recipe.schedule, module.recipe.early_stop
        if schedule.name == "plateau" and self._stale_rate > schedule.lr_patience:
            module.plateau *= schedule.gamma
            self._stale_rate = 0
        if stop is not None and self._stale >= stop.patience:
            self.say(f"Stopping early: {self._stale} validations without a better {monitored_score(module.recipe)}.")
            trainer.should_stop = True

    def _write(self, trainer: pl.Trainer, module: TrainingModule, step: int, seconds: float, is_best: bool) -> None:
        self.table.append({"step": step, **self.scores, "seconds": seconds})
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in self.scores.items()}, step)
        name = monitored_score(module.recipe)
        shown = {name: self.scores[name], **self.scores}
        text = "  ".join(f"{key} {value:.4f}" for key, value in list(shown.items())[:5])
        self.say(f"step {step}/{module.steps}  validation: {text}{'  (best so far)' if is_best else ''}")

    def _paint(self, trainer: pl.Trainer, module: TrainingModule, first: dict[str, Any] | None, step: int) -> None:
        count = module.recipe.validation.pictures
        if first is None or not count:
            return
        batch, outputs = first["batch"], first["outputs"]
        for task in module.recipe.tasks:
            pred = output_for(outputs, task, None, len(module.recipe.tasks))
            for index in range(min(count, len(pred))):
                rgb = (batch["image"][index, :3].movedim(0, -1).numpy() * 255).round().astype(np.uint8)
                tiles = [rgb, *self._tiles(task, module, pred[index], batch, index)]
                height = max(tile.shape[0] for tile in tiles)
                padded = [np.pad(tile, ((0, height - tile.shape[0]), (0, 4), (0, 0))) for tile in tiles]
                log_picture(trainer.loggers, self.folder, f"{task}_{index}", np.concatenate(padded, axis=1), step)

    def _tiles(
        self, task: Any, module: TrainingModule, pred: Tensor, batch: dict[str, Any], index: int
    ) -> list[npt.NDArray[np.uint8]]:
        """Paint truth and prediction of one picture."""
        if task == "depth":
            objective = module.objective
            tiles = []
            if objective.truth_kind is not None:
                target, mask = batch["target"][index].numpy(), batch["valid_mask"][index].numpy()
                tiles.append(colorize(Depth(np.where(mask, target, np.nan), objective.truth_kind)).rgb)
            values = pred[0].numpy()
            if objective.kind.value != "affine_invariant_inverse_depth":
                values = np.where(values > 0, values, np.nan)
            return [*tiles, colorize(Depth(values, objective.kind)).rgb]
        target, mask = (maps[index] for maps in target_of(task, batch))
        if task == "normals":
            both = [torch.where(mask, target, 0.0), torch.nn.functional.normalize(pred, dim=0)]
            return [((maps.movedim(0, -1).numpy() + 1) * 127.5).round().astype(np.uint8) for maps in both]
        chosen = (pred[0] > 0).long() if task == "segmentation" else pred.argmax(dim=0)
        return [_class_colours(torch.where(mask[0], target[0], -1)), _class_colours(chosen)]


def _class_colours(classes: Tensor) -> npt.NDArray[np.uint8]:
    """Paint classes, each with a colour of its own; -1 is black."""
    table = np.random.default_rng(0).integers(64, 256, (1024, 3), np.uint8)
    table[0] = (0, 0, 0)
    painted: npt.NDArray[np.uint8] = table[(classes.numpy() + 1) % len(table)]
    return painted
