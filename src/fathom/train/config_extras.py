"""The sections of a recipe that most recipes leave out."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fathom.config import StrictConfig


class EmaConfig(StrictConfig):
    """A running average of the weights."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """What is kept of the average at each step; early on less: (1 + step) / (10 + step)."""


class AdversarialConfig(StrictConfig):
    """Training on attacked pictures (Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018).

    The loss is (1 - weight) times that of the clean batch plus weight times that of the attacked one. The attack acts
    on pixels, before normalisation.
    """

    method: Literal["fgsm", "pgd"] = "fgsm"
    """One step of the gradient's sign, or several with a random start."""
    epsilon: float = Field(default=4 / 255, gt=0, le=1)
    """Largest change of a pixel, on the scale 0 to 1."""
    num_steps: int = Field(default=3, gt=0)
    """Steps of pgd."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the attacked loss."""


class ReadoutConfig(StrictConfig):
    """The readout of depth-anything, solved by least squares before the first step."""

    passes: float = Field(default=1.0, gt=0)
    """Passes over the training pictures, changed as `augment` says."""
    ridge: float = Field(default=1.0, gt=0)
    """What large weights cost."""


class DistillationConfig(StrictConfig):
    """Another model whose predictions serve as targets; they are made once and kept.

    Losses with `target: teacher` compare with it.
    """

    teacher: str
    """A model as `fathom predict --model` takes it: an embedded name, a folder, hf:OWNER/NAME."""
    cache: Path
    """Folder of the predictions; they are found again by teacher, dataset and picture."""


class CheckpointConfig(StrictConfig):
    """When the state of the run is saved to last.ckpt."""

    every_steps: int | None = Field(default=None, gt=0)
    """Steps between saves, beside one after every validation and one at the end; null: only those."""


class EarlyStopConfig(StrictConfig):
    """Stopping before the end."""

    patience: int = Field(default=5, gt=0)
    """Validations without a better score that are waited for."""


class LoggerConfig(StrictConfig):
    """A further place for curves and pictures; its package must be installed."""

    name: Literal["tensorboard", "mlflow", "wandb", "neptune"]
    """Which one."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of Lightning's logger of that name, for instance project."""


class LintConfig(StrictConfig):
    """Checks before the first step; what they find is printed and saved to lint.json."""

    enabled: bool = True
    """Whether to check."""
    overfit_steps: int = Field(default=10, ge=0)
    """Steps on one small batch, after which its loss must have fallen; 0: left out."""
    strict: bool = False
    """Stop at a warning."""


TrainPrecision = Literal["fp32", "bf16"]


class HardwareConfig(StrictConfig):
    """Where and how the run is computed."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device."""
    devices: int = Field(default=1, gt=0)
    """Devices, or processes on the CPU; more than one train by DistributedDataParallel."""
    num_nodes: int = Field(default=1, gt=0)
    """Machines."""
    precision: TrainPrecision = "fp32"
    """Arithmetic of the network; losses, weights and optimiser stay in fp32, and all on a CPU without fast bf16."""
    channels_last: bool = False
    """Keep maps with their channels innermost, which is faster for convolutions on most hardware."""
    compile: bool = False
    """Compile the network with torch.compile."""
    sync_batchnorm: bool = False
    """Share batch statistics between GPUs."""
    deterministic: bool = False
    """Refuse operations of a GPU that may give other bits when repeated."""

    @model_validator(mode="after")
    def _fits_the_device(self) -> Self:
        if self.sync_batchnorm and self.accelerator == "cpu":
            raise ValueError("`sync_batchnorm` exists on GPUs only. Set it to false.")
        return self
