"""Run a recipe, from top to bottom: config, data, module, trainer, fit."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import nn
from torch.utils.data import DataLoader

from fathom import models
from fathom.data import DepthDataset, open_dataset
from fathom.data.base import Subset
from fathom.errors import ConfigError
from fathom.io.atomic import write_atomic
from fathom.protocol import load_protocol
from fathom.runtime.torch import cpu_has_bf16
from fathom.train.callbacks import LAST, Curves, Ema, Interrupted, Keeper, Say, save_atomic
from fathom.train.config import Recipe, SourceConfig, check_names, sees_pairs, total_steps
from fathom.train.config_extras import HardwareConfig, ReadoutConfig, TrainPrecision
from fathom.train.findings import write_findings
from fathom.train.lint import lint
from fathom.train.loader import (
    Pick,
    Prepare,
    RankSampler,
    StepSampler,
    TrainSamples,
    ValSamples,
    join_batches,
    mix_seed,
    train_loader,
    val_loader,
)
from fathom.train.loggers import TRAIN_FILE, VAL_FILE, CsvTable, build_loggers, check_loggers
from fathom.train.module import TrainingModule
from fathom.train.network import build_network
from fathom.train.objective import AnyObjective, Objective, resolve_terms
from fathom.train.readout import readout_of, solve_readout
from fathom.train.record import check_same_recipe, write_record
from fathom.train.scoring import Scorer, ViewScorer
from fathom.train.selfsupervised import ViewObjective
from fathom.train.teacher import LoadTeacher, make_labels
from fathom.train.validation import Validation
from fathom.train.view_watch import ViewWatch
from fathom.train.views import ViewTrainSamples, ViewValSamples, WithRotations, with_views
from fathom.types import DepthKind

SUMMARY_FILE = "summary.json"

_LOOKED_AT = 8
"""Pictures, spread over the training set, whose other views are checked before the first step."""
_WEIGHTS = 4
"""Keeps the first weights apart from the other uses of the seed."""


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Args:
        folder: Its folder.
        step: Steps done.
        steps: Steps of the whole run.
        scores: Scores of the last validation.
        best: Best monitored score, if one was taken.
        signal: Number of the signal that stopped it, if one did; continue it with ``resume``.
    """

    folder: Path
    step: int
    steps: int
    scores: dict[str, float]
    best: float | None
    signal: int | None


def fit(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    network: nn.Module | None = None,
    train_set: DepthDataset | None = None,
    val_set: DepthDataset | None = None,
    load_teacher: LoadTeacher | None = None,
    say: Say = lambda line: print(line, file=sys.stderr),
) -> FitResult:
    """Train a network as a recipe says.

    Args:
        recipe: The recipe.
        folder: Folder of the run: checkpoints, curves, pictures, the best model.
        resume: Continue from the folder's last checkpoint, where there is one.
        network: Your own network instead of the recipe's; it must keep the contract of the named one.
        train_set: Your own dataset instead of the recipe's.
        val_set: Your own dataset to score.
        load_teacher: Loads the teacher of `distillation`, for instance ``lambda name: load_model(name).predict``.
        say: Prints a line of progress.

    Returns:
        How it ended.

    Raises:
        FathomError: If the recipe cannot be run; everything that can be is checked before a picture is read.
    """
    folder = Path(folder)
    is_first = rank_of_process() == 0
    say = say if is_first else _say_nothing

    # What can be checked without data
    check_names(recipe)
    check_loggers(recipe)
    if recipe.selfsupervised is None:
        resolve_terms(recipe)
    protocol = load_protocol(recipe.validation.protocol) if recipe.validation.protocol is not None else None
    checkpoint = _find_checkpoint(folder, recipe, resume, is_first)
    precision = _usable_precision(recipe.hardware, say)

    # Network: seeded, so that every process starts from the same weights
    torch.manual_seed(mix_seed(recipe.seed, _WEIGHTS))
    network = network if network is not None else build_network(recipe)
    row = models.entry(recipe.model.name)
    if recipe.readout is not None:
        readout_of(network)

    # Data
    train_set = train_set if train_set is not None else _open(recipe.data.train, recipe)
    if val_set is None and recipe.data.val is not None:
        val_set = _open(recipe.data.val, recipe)
    if recipe.selfsupervised is not None and recipe.selfsupervised.rotation == "matched":
        train_set, val_set = WithRotations(train_set), WithRotations(val_set) if val_set is not None else None
    teacher = None
    if recipe.distillation is not None:
        teacher = make_labels(recipe.distillation, recipe.data.train, train_set, load_teacher)
    if recipe.readout is not None and train_set.kind is not DepthKind.METRIC_DEPTH:
        kind = train_set.kind.value if train_set.kind is not None else "no depth"
        raise ConfigError(f"`readout` needs depth in metres; the training pictures have {kind}. Remove it.")
    num_processes = recipe.hardware.devices * recipe.hardware.num_nodes
    steps = total_steps(recipe, len(train_set), num_processes)
    make_samples = (
        TrainSamples if recipe.selfsupervised is None else partial(ViewTrainSamples, pairs=sees_pairs(recipe))
    )
    samples = make_samples(
        train_set, Prepare(recipe.data, train_set.ignore_label), recipe.augment, recipe.seed, teacher
    )

    # Module
    objective: AnyObjective
    make_scorer = Scorer
    if recipe.selfsupervised is None:
        objective = Objective(recipe, network, train_set.kind, teacher.kind if teacher is not None else None)
    else:
        objective = ViewObjective(recipe, network, val_set.kind if val_set is not None else None)
        make_scorer = ViewScorer
    scorer = make_scorer(recipe, objective, protocol) if val_set is not None else None
    if is_first and checkpoint is None:
        folder.mkdir(parents=True, exist_ok=True)
        if recipe.readout is not None:
            _solve_readout(network, recipe.readout, recipe, samples, say)
        _check_before_start(network, objective, recipe, samples, folder, say)
    module = TrainingModule(network, objective, recipe, row.input_law, steps)
    if is_first:
        write_record(folder, recipe, precision)

    # Trainer
    keeper = Keeper(folder, recipe.checkpoint.every_steps)
    ema = Ema(recipe.ema, network) if recipe.ema is not None else None
    curves = Curves(folder, recipe.log_every, say)
    validation = None
    if val_set is not None and scorer is not None:
        loader = _val_loader(recipe, val_set)
        if is_first and checkpoint is None:
            _try_validation(module, loader)
        validation = Validation(folder, loader, scorer, keeper, ema, say)
    watch = ViewWatch(folder, recipe.log_every, say) if recipe.selfsupervised is not None else None
    callbacks = [callback for callback in (ema, curves, watch, validation, keeper) if callback is not None]
    with _quiet():
        trainer = _trainer(recipe, folder, steps, precision, callbacks)
    loaders = _StepLoaders(recipe, samples, steps)
    module.train_dataloader = lambda: loaders.from_step(trainer.global_step, trainer.global_rank)  # type: ignore[method-assign]

    # Fit
    if checkpoint is not None and is_first:
        step = _step_of(checkpoint)
        for name in (TRAIN_FILE, VAL_FILE):
            CsvTable(folder / name).cut_after(step)
        say(f"Continuing after step {step} of {steps}.")
    stopped_by: int | None = None
    with _quiet():
        if checkpoint is None or _step_of(checkpoint) < steps:
            try:
                trainer.fit(module, ckpt_path=checkpoint)
            except Interrupted as stop:
                stopped_by = stop.number
                say(f"{stop} Continue with the same command and --resume.")
            else:
                if trainer.global_step < steps:
                    save_atomic(trainer, folder / LAST)
    step = trainer.global_step if trainer.global_step or checkpoint is None else _step_of(checkpoint)
    result = FitResult(
        folder,
        step,
        steps,
        validation.scores if validation is not None else {},
        validation.best if validation is not None else None,
        stopped_by,
    )
    if is_first:
        _write_summary(result, recipe, validation)
    return result


def _say_nothing(_: str) -> None:
    """Keep the other processes of a run silent."""


def rank_of_process() -> int:
    """Return this process's number in a run of several, before torch.distributed knows it."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _find_checkpoint(folder: Path, recipe: Recipe, resume: bool, is_first: bool) -> Path | None:
    """Return the checkpoint to go on from, and refuse to write over another run."""
    path = folder / LAST
    if resume:
        check_same_recipe(folder, recipe)
        return path if path.is_file() else None
    if is_first and (path.is_file() or (folder / TRAIN_FILE).is_file()):
        raise ConfigError(f"'{folder}' holds a run. Continue it with --resume, or name another folder with --out.")
    return None


def _open(source: SourceConfig, recipe: Recipe) -> DepthDataset:
    if recipe.selfsupervised is not None:
        source = with_views(source, recipe.selfsupervised)
    dataset = open_dataset(source.dataset, source.root, source.split, **source.options)
    if not len(dataset):
        raise ConfigError(f"The dataset {source.dataset} in '{source.root}' ({source.split}) is empty.")
    return dataset


def _val_loader(recipe: Recipe, val_set: DepthDataset) -> DataLoader[dict[str, Any]]:
    wanted = recipe.validation.max_samples
    if wanted is not None and wanted < len(val_set):
        val_set = Subset(val_set, range(wanted), val_set.split)
    crop = None if recipe.validation.whole_frame else recipe.augment.crop
    make_samples = ValSamples if recipe.selfsupervised is None else partial(ViewValSamples, pairs=sees_pairs(recipe))
    samples = make_samples(
        val_set, Prepare(recipe.data, val_set.ignore_label), crop, recipe.validation.protocol is not None
    )
    num_processes = recipe.hardware.devices * recipe.hardware.num_nodes
    sampler = RankSampler(len(val_set), rank_of_process(), num_processes)
    return val_loader(samples, sampler, recipe.data.batch_size, recipe.data.workers)


class _StepLoaders:
    """Gives Lightning the batches from the step it stands at."""

    def __init__(self, recipe: Recipe, samples: TrainSamples, steps: int) -> None:
        self.recipe, self.samples, self.steps = recipe, samples, steps

    def from_step(self, step: int, rank: int) -> DataLoader[dict[str, Any]]:
        recipe = self.recipe
        sampler = StepSampler(
            len(self.samples),
            recipe.data.batch_size,
            self.steps * recipe.accumulate,
            seed=recipe.seed,
            start=step * recipe.accumulate,
            rank=rank,
            num_processes=recipe.hardware.devices * recipe.hardware.num_nodes,
        )
        return train_loader(self.samples, sampler, recipe.data.workers)


def _usable_precision(hardware: HardwareConfig, say: Say) -> TrainPrecision:
    """Return the wanted arithmetic, but not bf16 on a CPU without it, where torch takes up to 20 times as long."""
    on_cpu = hardware.accelerator == "cpu" or (hardware.accelerator == "auto" and not torch.accelerator.is_available())
    if hardware.precision == "bf16" and on_cpu and not cpu_has_bf16():
        say("This CPU has no fast bf16; the run computes in fp32.")
        return "fp32"
    return hardware.precision


def _solve_readout(network: nn.Module, config: ReadoutConfig, recipe: Recipe, samples: TrainSamples, say: Say) -> None:
    """Give the readout its first weights, on the CPU; other processes get them from this one."""
    steps = max(1, round(config.passes * len(samples) / recipe.data.batch_size))
    batches = _StepLoaders(recipe, samples, steps).from_step(0, 0)
    law = models.entry(recipe.model.name).input_law
    bf16 = recipe.hardware.precision == "bf16" and cpu_has_bf16()
    count = solve_readout(network, batches, law, config, bf16=bf16)
    say(f"Solved the readout from {count} pictures.")


def _check_before_start(
    network: nn.Module, objective: AnyObjective, recipe: Recipe, samples: TrainSamples, folder: Path, say: Say
) -> None:
    if not recipe.lint.enabled:
        return
    loader = _StepLoaders(recipe, samples, 1).from_step(0, 0)
    batch = next(iter(loader))
    views = None
    if recipe.selfsupervised is not None:
        count = min(len(samples), _LOOKED_AT)
        picks = [Pick(place, place * len(samples) // count) for place in range(count)]
        views = join_batches([samples[pick] for pick in picks])
    findings = lint(network, objective, recipe, models.entry(recipe.model.name).input_law, batch, views)
    write_findings(folder, findings)
    for finding in findings:
        if finding.level == "warning":
            say(f"Warning ({finding.check}): {finding.text}")


def _try_validation(module: TrainingModule, loader: DataLoader[dict[str, Any]]) -> None:
    """Send one validation picture through, so that a size the network refuses is told before the first step."""
    module.network.eval()
    with torch.no_grad():
        module(loader.dataset[0]["image"])
    module.network.train()


def _trainer(
    recipe: Recipe, folder: Path, steps: int, precision: TrainPrecision, callbacks: list[pl.Callback]
) -> pl.Trainer:
    hardware = recipe.hardware
    many = hardware.devices * hardware.num_nodes > 1
    strategy = "auto"
    if many:
        # Frozen parts give no gradient, and DistributedDataParallel must not wait for one.
        strategy = "ddp_find_unused_parameters_true" if recipe.phases else "ddp"
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip_norm,
        sync_batchnorm=hardware.sync_batchnorm,
        deterministic=hardware.deterministic or None,
        logger=build_loggers(recipe, folder),
        callbacks=callbacks,
        default_root_dir=folder,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's hints about what is done on purpose here, and its advertisements."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric", "pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Few workers; a loader that Lightning does not know to be resumable; frozen parts in evaluation mode.
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            # Lightning 2.6 calls torch's pytree in a form that torch 2.15 is about to drop.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _step_of(checkpoint: Path) -> int:
    """Return the steps done when a checkpoint was saved."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
    return int(content["fathom"]["step"])


def _write_summary(result: FitResult, recipe: Recipe, validation: Validation | None) -> None:
    summary = {
        "name": recipe.name,
        "model": recipe.model.name,
        "step": result.step,
        "steps": result.steps,
        "interrupted": result.signal is not None,
        "scores": result.scores,
        "best": result.best,
        "best_step": validation.best_step if validation is not None else None,
    }
    write_atomic(result.folder / SUMMARY_FILE, [json.dumps(summary, indent=2).encode()])
