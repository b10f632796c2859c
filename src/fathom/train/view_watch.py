"""Watches a self-supervised run for collapse while it trains."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from fathom.train.callbacks import Say, step_ended
from fathom.train.findings import Finding, add_finding
from fathom.train.lint_views import check_constant, check_saturation, check_scale_drift
from fathom.train.module import TrainingModule
from fathom.train.selfsupervised import ViewObjective, range_of

SETTLED = 100
"""Steps before which an output may still be anything."""


class ViewWatch(pl.Callback):
    """Warns, once for each kind of collapse, and adds the warning to lint.json.

    Args:
        folder: Folder of the run.
        every: Steps between looks.
        say: Prints a line.
    """

    def __init__(self, folder: Path, every: int, say: Say) -> None:
        self.folder, self.every, self.say = folder, every, say
        self.translations: list[float] = []
        self.depths: list[float] = []
        self.warned: set[str] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look where it is due."""
        step = trainer.global_step
        if not step_ended(trainer, batch_idx) or step < SETTLED or step % self.every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TrainingModule) and isinstance(pl_module.objective, ViewObjective)
        for finding in self.look(pl_module, pl_module.objective):
            if finding.level == "warning" and finding.check not in self.warned:
                self.warned.add(finding.check)
                self.say(f"Warning at step {step} ({finding.check}): {finding.text}")
                add_finding(self.folder, finding)

    def look(self, module: TrainingModule, objective: ViewObjective) -> list[Finding]:
        """Check the outputs of the latest step."""
        disparity = objective.disparity
        assert disparity is not None, "the objective has run"
        pyramid = objective.pyramid
        findings = [
            check_constant(disparity),
            check_saturation(disparity, range_of(module.network, pyramid, disparity.shape[-1])),
        ]
        if objective.translations is not None and pyramid.to_depth is not None and not objective.config.stereo:
            self.translations.append(float(objective.translations.median()))
            self.depths.append(float(pyramid.to_depth(disparity).median()))
            findings.append(check_scale_drift(self.translations, self.depths))
        return findings

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen."""
        return {"translations": self.translations, "depths": self.depths, "warned": sorted(self.warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.translations, self.depths = list(state_dict["translations"]), list(state_dict["depths"])
        self.warned = set(state_dict["warned"])
