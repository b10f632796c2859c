"""The recipe: one YAML file that says everything about a training run. Imports without torch.

Types and combinations are checked when it is read; names of networks, datasets and protocols by `check_names`; names
of losses and options of builders when the run is built. All of it happens before any picture is read.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fathom import models
from fathom.config import StrictConfig, load_config, nearest_name
from fathom.data import DATASETS
from fathom.data.batch_transforms import AugmentConfig
from fathom.errors import ConfigError
from fathom.protocol import load_protocol
from fathom.train.config_extras import (
    AdversarialConfig,
    CheckpointConfig,
    DistillationConfig,
    EarlyStopConfig,
    EmaConfig,
    HardwareConfig,
    LintConfig,
    LoggerConfig,
    ReadoutConfig,
)
from fathom.train.config_views import SelfSupervisedConfig
from fathom.types import DepthKind

Task = Literal["depth", "normals", "labels", "segmentation"]
"""What is learned: depth; unit normals; one class for each pixel; or one yes or no for each pixel."""

LOWER_IS_BETTER = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "mae", "mse", "mean_deg", "median_deg")
DEFAULT_MONITOR: dict[str, str] = {
    "depth": "abs_rel",
    "normals": "mean_deg",
    "labels": "miou",
    "segmentation": "dice",
}
"""Score that decides which weights are the best, by the first task."""


class ModelConfig(StrictConfig):
    """Which network, and how it is built."""

    name: str
    """A name that `fathom models` lists, or smp:DECODER:ENCODER."""
    pretrained: str | None = None
    """null: random weights; imagenet: a published trunk; or the path of a checkpoint of the whole network."""
    kind: DepthKind | None = None
    """What the depth output shall be; null: what `fathom models show` says of the network. A network whose usual
    training leaves the scale open (DispNetS) learns inverse_depth under supervision."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the network's builder; trunk_weights takes the path of pretrained trunk weights."""
    task_options: dict[Task, dict[str, Any]] = Field(default_factory=dict)
    """With several tasks: further options for the head of each; the trunk is shared."""
    freeze: tuple[str, ...] = ()
    """Parts that never learn, by dotted name; their batch statistics and dropout stand still, too."""


class SourceConfig(StrictConfig):
    """A dataset and which part of it."""

    dataset: str
    """Name of a reader, as `fathom data` lists them; `folder` for your own."""
    root: Path
    """Folder of the files; for `folder` its YAML file."""
    split: str | None = None
    """Part of the dataset; null: the reader's own default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reader."""


class DataConfig(StrictConfig):
    """What is read, and in which size it reaches the network."""

    train: SourceConfig
    """What is learned from."""
    val: SourceConfig | None = None
    """What is scored during training; null: nothing."""
    resize: tuple[int, int] | None = None
    """Rows and columns of the whole picture before augmentation; null: as read."""
    batch_size: int = Field(default=8, gt=0)
    """Pictures for one step on one device, before `accumulate`."""
    workers: int = Field(default=0, ge=0)
    """Processes that read and augment; 0: the training process itself. Results do not depend on it."""
    min_depth: float | None = Field(default=None, ge=0)
    """Smallest target that is learned from, in the unit of the dataset (m for depth)."""
    max_depth: float | None = Field(default=None, gt=0)
    """Largest target that is learned from, in the unit of the dataset (m for depth)."""
    label_offset: int = 0
    """Stored label that becomes class 0: 1 for NYU's labels40, whose 0 means unlabelled."""
    normals_from_depth: bool = False
    """Make true normals from the depth map and the camera, for sets without normals."""
    normals_sigma: float = Field(default=0.0, ge=0)
    """Gaussian smoothing of the depth map before normals are made from it [px of the original]."""
    supervise: Literal["nearest", "upsample", "eigen", "centre"] = "nearest"
    """How an output that is smaller than the input meets its target. nearest: the target's pixel under each output
    pixel. upsample: the output is enlarged bilinearly. eigen: the target at the centres 5 + 4 i or 5 + 2 i that Eigen's
    networks see. centre: the middle of the target (unpadded convolutions)."""

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.min_depth is not None and self.max_depth is not None and self.min_depth >= self.max_depth:
            raise ValueError(f"`min_depth` must be below `max_depth`; got {self.min_depth} and {self.max_depth}.")
        if self.normals_sigma and not self.normals_from_depth:
            raise ValueError(
                "`normals_sigma` smooths the depth for `normals_from_depth`, which is off. Set it to true."
            )
        return self


class LossTerm(StrictConfig):
    """One summand of the loss."""

    name: str
    """A key of `fathom.losses.LOSSES`."""
    weight: float = Field(default=1.0, gt=0)
    """What it is multiplied by."""
    task: Task | None = None
    """Whose target it compares with; null: the only task that this loss is made for."""
    output: str | None = None
    """Which of the network's outputs; null: the main one (with several tasks: the task's)."""
    target: Literal["truth", "teacher"] = "truth"
    """What it compares with: ground truth, or the teacher of `distillation`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the loss."""


class OptimiserConfig(StrictConfig):
    """What moves the weights."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """Kind of optimiser."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate at the height of the schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: added to the gradient by sgd and adam, decoupled in adamw."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two averages of adam and adamw."""
    rates: dict[str, float] = Field(default_factory=dict)
    """Relative learning rate of parts, by dotted name; the longest name that fits wins, everything else has 1."""
    paper_rates: bool = False
    """Use the relative rates that the network states from its paper (Eigen's)."""

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if self.paper_rates and self.rates:
            raise ValueError("Set either `rates` or `paper_rates`, not both. Remove one.")
        wrong = [name for name, rate in self.rates.items() if rate <= 0]
        if wrong:
            raise ValueError(
                f"A relative rate must be positive; {wrong[0]} has {self.rates[wrong[0]]}. Freeze it instead."
            )
        return self


class ScheduleConfig(StrictConfig):
    """How the learning rate changes over the steps."""

    name: Literal["constant", "step", "plateau", "one_cycle", "polynomial"] = "constant"
    """constant; step: times `gamma` at each of `milestones`; plateau: times `gamma` after `lr_patience` validations
    without a better score; one_cycle: up to the rate during `rise`, then down to nearly 0; polynomial: down to 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear rise from 0 at the start."""
    milestones: tuple[int, ...] = ()
    """Steps at which `step` lowers the rate."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """Factor of `step` and `plateau`."""
    lr_patience: int = Field(default=3, ge=0)
    """Validations without improvement that `plateau` waits for."""
    power: float = Field(default=0.9, gt=0)
    """Exponent of `polynomial`: (1 - step / steps) ^ power."""
    rise: float = Field(default=0.3, gt=0, lt=1)
    """Share of the steps in which `one_cycle` rises."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.name == "step") != bool(self.milestones):
            raise ValueError(
                f"`milestones` belong to the schedule 'step'; got {list(self.milestones)} for '{self.name}'."
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` must rise; got {list(self.milestones)}.")
        if self.name == "one_cycle" and self.warmup_steps:
            raise ValueError("one_cycle rises by itself; set `warmup_steps` to 0 and use `rise`.")
        return self


class PhaseConfig(StrictConfig):
    """A stretch of the run with its own frozen parts, losses and way of running the network."""

    steps: int = Field(gt=0)
    """Its length."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn meanwhile, by dotted name."""
    run: Literal["whole", "coarse", "window"] = "whole"
    """whole: the network's forward. coarse: `coarse_depth` of Eigen 2014. window: a random window of scale 3 of Eigen
    and Fergus 2015."""
    losses: tuple[LossTerm, ...] = ()
    """Losses of this phase; empty: those of the recipe."""


class ValidationConfig(StrictConfig):
    """When and how the network is scored during training."""

    every_steps: int | None = Field(default=None, gt=0)
    """Steps between validations; null: a tenth of the run. The last step is always followed by one."""
    protocol: str | None = None
    """Protocol that scores depth at full size, as `fathom evaluate` does; null: all valid pixels at input size."""
    monitor: str | None = None
    """Score that decides which weights are the best; null: by task."""
    whole_frame: bool = True
    """Run on the whole resized picture; false: on the middle, cut as in `augment.crop`."""
    max_samples: int | None = Field(default=None, gt=0)
    """Score only the first so many; null: all."""
    pictures: int = Field(default=4, ge=0)
    """Predictions that are painted at each validation."""


class Recipe(StrictConfig):
    """One training run."""

    name: str
    """Name of the run, for folders and tables."""
    tasks: tuple[Task, ...] = ("depth",)
    """What is learned; with more than one the network gets one head for each on a shared trunk."""
    model: ModelConfig
    """The network."""
    data: DataConfig
    """The pictures."""
    augment: AugmentConfig = Field(default_factory=lambda: AugmentConfig.model_validate({}))
    """Random changes of the training pictures; `crop` cuts the middle in validation."""
    losses: tuple[LossTerm, ...] = ()
    """Summands of the loss; empty: the network's own."""
    selfsupervised: SelfSupervisedConfig | None = None
    """Learn from other views of the scene instead of from depth."""
    uncertainty_weighting: bool = False
    """Learn the weights of the summands (Kendall et al., CVPR 2018); `weight` then multiplies inside."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the rate changes."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; give this or `epochs`, or let `phases` add up."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training pictures."""
    accumulate: int = Field(default=1, gt=0)
    """Batches whose gradients are averaged for one step."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of all weights together; null: no limit."""
    ema: EmaConfig | None = None
    """Score and keep a running average of the weights."""
    phases: tuple[PhaseConfig, ...] = ()
    """Stretches of the run, in order; empty: one."""
    adversarial: AdversarialConfig | None = None
    """Learn from attacked pictures, too."""
    distillation: DistillationConfig | None = None
    """Learn from another model, too."""
    readout: ReadoutConfig | None = None
    """Solve the readout of depth-anything before the first step; null: it learns like the rest."""
    validation: ValidationConfig = ValidationConfig()
    """Scores during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""
    early_stop: EarlyStopConfig | None = None
    """Stop when the score no longer improves."""
    loggers: tuple[LoggerConfig, ...] = ()
    """Where curves go beside the CSV files."""
    lint: LintConfig = LintConfig()
    """Checks before the first step."""
    hardware: HardwareConfig = HardwareConfig()
    """Where and how it is computed."""
    seed: int = Field(default=0, ge=0)
    """Of weights, order, augmentation and dropout."""
    log_every: int = Field(default=10, gt=0)
    """Steps between rows of train.csv."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"`tasks` must name each task once, at least one; got {list(self.tasks)}.")
        _check_length(self)
        _check_validation(self)
        _check_terms(self)
        _check_views(self)
        if self.model.task_options and len(self.tasks) == 1:
            raise ValueError("`model.task_options` are for several tasks; put them into `model.options`.")
        return self


def _check_length(recipe: Recipe) -> None:
    given = [name for name, value in (("steps", recipe.steps), ("epochs", recipe.epochs)) if value is not None]
    if recipe.phases:
        if given:
            raise ValueError(f"The phases say how long the run is; remove `{given[0]}`.")
    elif len(given) != 1:
        raise ValueError(f"Set either `steps` or `epochs`; got {' and '.join(given) or 'neither'}.")


def _check_validation(recipe: Recipe) -> None:
    needs = [
        name
        for name, on in (("early_stop", recipe.early_stop), ("schedule: plateau", recipe.schedule.name == "plateau"))
        if on
    ]
    if needs and recipe.data.val is None:
        raise ValueError(f"`{needs[0]}` needs scores: set `data.val`.")
    if recipe.validation.protocol is not None:
        if "depth" not in recipe.tasks:
            raise ValueError("`validation.protocol` scores depth, which is not among `tasks`. Remove it.")
        if recipe.augment.crop is not None and not recipe.validation.whole_frame:
            raise ValueError("A protocol scores whole pictures; set `validation.whole_frame` to true, or remove it.")


def _check_terms(recipe: Recipe) -> None:
    terms = [*recipe.losses, *(term for phase in recipe.phases for term in phase.losses)]
    wants_teacher = any(term.target == "teacher" for term in terms)
    if wants_teacher and recipe.distillation is None:
        raise ValueError("A loss with `target: teacher` needs the section `distillation`, which names the teacher.")
    if recipe.distillation is not None and not wants_teacher:
        raise ValueError("`distillation` has no effect: give at least one loss `target: teacher`.")
    if recipe.uncertainty_weighting and (len(recipe.losses) < 2 or recipe.phases):
        raise ValueError("`uncertainty_weighting` weighs two or more `losses`, and has no phases.")
    if recipe.uncertainty_weighting and any(term.name == "normals" for term in recipe.losses):
        raise ValueError(
            "`uncertainty_weighting` needs losses of 0 or more; 'normals' starts at -1. Set fixed weights."
        )
    strange = [term.task for term in terms if term.task is not None and term.task not in recipe.tasks]
    if strange:
        raise ValueError(f"A loss is for the task '{strange[0]}', which is not among `tasks` {list(recipe.tasks)}.")


def _check_views(recipe: Recipe) -> None:
    views = recipe.selfsupervised
    if sees_pairs(recipe) and (views is None or not views.stereo or views.neighbours):
        raise ValueError(
            "A network of pairs (in_channels 6) learns from stereo alone. Set `selfsupervised.stereo: true` without "
            "neighbours, or `in_channels` to 3."
        )
    if recipe.augment.slide != (0.0, 0.0) and (views is None or views.warp == "depth"):
        raise ValueError("`augment.slide` changes disparity. Set `selfsupervised.warp: disparity`, or remove it.")
    if views is None:
        return
    if recipe.tasks != ("depth",):
        raise ValueError(f"`selfsupervised` learns depth alone; `tasks` has {list(recipe.tasks)}. Remove the others.")
    given = [
        name
        for name, on in (
            ("losses", recipe.losses),
            ("phases", recipe.phases),
            ("adversarial", recipe.adversarial),
            ("distillation", recipe.distillation),
            ("uncertainty_weighting", recipe.uncertainty_weighting),
        )
        if on
    ]
    if given:
        raise ValueError(f"`selfsupervised` makes the loss, so `{given[0]}` has no effect. Remove one of the two.")
    if views.stereo and recipe.augment.rotate_deg:
        raise ValueError(
            "A stereo pair cannot be rolled: its rows would no longer match. Set `augment.rotate_deg` to 0."
        )


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and check every name in it that can be checked without torch.

    Args:
        path: YAML file.
        overrides: Changes of the form ``section.key=value``.

    Returns:
        The recipe.

    Raises:
        ConfigError: If a value is wrong, or a dataset or protocol is unknown.
        ModelError: If the network is unknown.
    """
    recipe = load_config(path, Recipe, overrides)
    check_names(recipe)
    return recipe


def check_names(recipe: Recipe) -> None:
    """Check the names of the network, the datasets and the protocol. Errors as in `load_recipe`."""
    row = models.entry(recipe.model.name)
    grid = recipe.model.name.startswith(models.GRID_PREFIX)
    strange = [task for task in recipe.tasks if task not in row.tasks and not _has_heads(row.name)]
    if strange and not grid:
        raise ConfigError(f"The network {row.name} does not learn '{strange[0]}'; it learns {', '.join(row.tasks)}.")
    for source in (recipe.data.train, recipe.data.val):
        if source is not None and source.dataset not in DATASETS:
            raise ConfigError(f"Unknown dataset '{source.dataset}'. {nearest_name(source.dataset, DATASETS)}")
    if recipe.validation.protocol is not None:
        load_protocol(recipe.validation.protocol)
    if row.fixed_size and recipe.augment.crop is None and recipe.data.resize is None:
        raise ConfigError(
            f"The network {row.name} takes one input size only. Set `data.resize` or `augment.crop` to it."
        )


def _has_heads(name: str) -> bool:
    """Tell whether a network's head can be exchanged, so that it learns anything."""
    return name in ("unet", "unet-paper", "deeplabv3plus") or name.startswith(models.GRID_PREFIX)


def kind_of(recipe: Recipe) -> DepthKind:
    """Return what the depth output of a recipe's network is."""
    return recipe.model.kind or DepthKind(models.entry(recipe.model.name).kind)


def sees_pairs(recipe: Recipe) -> bool:
    """Tell whether the network of a recipe sees both views of a stereo pair, as six channels."""
    return recipe.model.options.get("in_channels") == 6


def is_lower_better(score: str) -> bool:
    """Tell which way a score points.

    Example:
        >>> is_lower_better("abs_rel"), is_lower_better("delta1")
        (True, False)
    """
    return score in LOWER_IS_BETTER or score.startswith("loss")


def monitored_score(recipe: Recipe) -> str:
    """Return the name of the score that decides which weights are the best."""
    return recipe.validation.monitor or ("loss" if recipe.selfsupervised else DEFAULT_MONITOR[recipe.tasks[0]])


Positive = Annotated[int, Field(gt=0)]


def total_steps(recipe: Recipe, num_samples: Positive, num_processes: Positive = 1) -> int:
    """Return the number of optimiser steps of a run.

    Args:
        recipe: The recipe.
        num_samples: Pictures of the training set.
        num_processes: Devices that share the work.
    """
    if recipe.phases:
        return sum(phase.steps for phase in recipe.phases)
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None, "the validator asks for one of the two"
    pictures_per_step = recipe.data.batch_size * recipe.accumulate * num_processes
    return max(1, round(recipe.epochs * num_samples / pictures_per_step))


def validation_interval(recipe: Recipe, steps: int) -> int:
    """Return the steps between validations."""
    return recipe.validation.every_steps or max(1, steps // 10)
