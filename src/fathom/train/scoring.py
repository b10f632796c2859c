"""Scores of a validation: per picture, gathered from all processes, averaged in the order of the dataset."""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fathom.errors import ConfigError, EmptyMaskError, KindError
from fathom.metrics import score_confusion
from fathom.metrics.batched import confusion_matrix, score_depth, score_normals
from fathom.metrics.depth import DepthSums
from fathom.metrics.scoring import check_kind, score_image, scores_from_sums
from fathom.protocol import Protocol
from fathom.train.config import Recipe, Task
from fathom.train.objective import AnyObjective, Output, convert_depth, named_outputs, output_for, target_of
from fathom.types import Depth, DepthKind

_SMALLEST = 1e-3
"""Predictions of depth are scored as at least this [m]; relative errors and logarithms need a positive number."""


@dataclass
class Tally:
    """Scores so far.

    Args:
        rows: Scores of each picture by name.
        confusion: Counts by true and predicted class, for each task with classes.
        sums: Sums over all pixels, for a protocol that pools them.
        skipped: Pictures without a pixel to score.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    confusion: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    sums: DepthSums | None = None
    skipped: int = 0

    def merge(self, others: Sequence["Tally"]) -> "Tally":
        """Return this tally joined with those of other processes, in the order of the pictures."""
        everyone = [self, *others]
        # Processes took every n-th picture, so taking turns restores the order, and with it the rounding of the mean.
        rows = [
            tally.rows[turn]
            for turn in range(max((len(tally.rows) for tally in everyone), default=0))
            for tally in everyone
            if turn < len(tally.rows)
        ]
        confusion: dict[str, npt.NDArray[np.int64]] = {}
        for tally in everyone:
            for name, counts in tally.confusion.items():
                confusion[name] = confusion.get(name, np.zeros_like(counts)) + counts
        sums = [tally.sums for tally in everyone if tally.sums is not None]
        pooled = functools.reduce(operator.add, sums) if sums else None
        return Tally(rows, confusion, pooled, sum(tally.skipped for tally in everyone))

    def scores(self, protocol: Protocol | None = None) -> dict[str, float]:
        """Return means over the pictures or pixels, and the scores of the counts; empty where nothing was scored.

        Args:
            protocol: Says whether depth is averaged over pictures or over all pixels.
        """
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for row in self.rows for name in row):
            values = [row[name] for row in self.rows if name in row]
            found[name] = float(np.mean(values))
        if protocol is not None and protocol.average == "pooled" and self.sums is not None:
            found |= scores_from_sums(self.sums, protocol)
        for counts in self.confusion.values():
            try:
                found |= score_confusion(counts)
            except EmptyMaskError:
                self.skipped += 1
        return found


class Scorer:
    """Scores batches of a validation.

    Args:
        recipe: The recipe.
        objective: Brings outputs and targets together.
        protocol: Scores depth at full size; None: all valid pixels at network input size.

    Raises:
        KindError: If depth without a known scale is to be scored without a protocol that fits one.
    """

    def __init__(self, recipe: Recipe, objective: AnyObjective, protocol: Protocol | None) -> None:
        self.recipe, self.objective, self.protocol = recipe, objective, protocol
        if "depth" in recipe.tasks:
            if protocol is not None:
                check_kind(objective.kind, protocol)
            elif objective.kind in (DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH):
                raise KindError(
                    f"The network gives {objective.kind.value}, which has no known scale. Name a protocol that fits "
                    "one as `validation.protocol`, for instance zero-shot-midas."
                )

    def add(self, tally: Tally, output: Output, batch: Mapping[str, Any]) -> None:
        """Score one batch into a tally."""
        outputs = named_outputs(output)
        num_tasks = len(self.recipe.tasks)
        rows: list[dict[str, float]] = [{} for _ in batch["id"]]
        for task in self.recipe.tasks:
            pred = output_for(outputs, task, None, num_tasks)
            if task == "depth":
                self._depth(tally, pred, batch, rows)
            elif task == "normals":
                self._normals(pred, batch, rows)
            else:
                counts = self._classes(task, pred, batch)
                tally.confusion[task] = tally.confusion.get(task, np.zeros_like(counts)) + counts
        tally.rows += [row for row in rows if row]

    def _depth(self, tally: Tally, pred: Tensor, batch: Mapping[str, Any], rows: list[dict[str, float]]) -> None:
        if self.protocol is not None:
            self._by_protocol(tally, pred, batch, rows)
            return
        target, mask = batch["target"], batch["valid_mask"]
        source = self.objective.truth_kind
        assert source is not None, "checked when the objective was built"
        kind = self.objective.kind
        pred = _enlarged(pred, self.objective, target)
        if kind is DepthKind.INVERSE_DEPTH and source is DepthKind.METRIC_DEPTH:
            values = 1.0 / pred.clamp(min=1 / 1e4)
        else:
            target = convert_depth(target, mask, source, kind, batch)
            values = pred
        scores = score_depth(values[:, 0].clamp(min=_SMALLEST), target, mask)
        for index, row in enumerate(rows):
            if bool(mask[index].any()):
                row |= {name: float(value[index]) for name, value in scores.items()}
            else:
                tally.skipped += 1

    def _by_protocol(self, tally: Tally, pred: Tensor, batch: Mapping[str, Any], rows: list[dict[str, float]]) -> None:
        assert self.protocol is not None, "called only with one"
        for values, sample, row in zip(pred[:, 0].cpu().numpy(), batch["samples"], rows, strict=True):
            kind, camera = self.objective.kind, None
            positive = kind is not DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
            if kind is DepthKind.DISPARITY and sample.camera is not None:
                # It counts pixels of the network's input, and so must the focal length that turns it into depth.
                rows, columns = sample.image.shape[:2]
                camera = sample.camera.scaled(batch["image"].shape[-1] / columns, batch["image"].shape[-2] / rows)
            depth = Depth(np.maximum(values, _SMALLEST) if positive else values, kind, camera=camera)
            try:
                score = score_image(depth, sample, self.protocol)
            except EmptyMaskError:
                tally.skipped += 1
                continue
            row |= score.scores
            tally.sums = score.sums if tally.sums is None else tally.sums + score.sums

    def _normals(self, pred: Tensor, batch: Mapping[str, Any], rows: list[dict[str, float]]) -> None:
        target, mask = target_of("normals", batch)
        pred = _enlarged(pred, self.objective, target)
        scores = score_normals(pred.movedim(1, -1), target.movedim(1, -1), mask[:, 0])
        for index, row in enumerate(rows):
            if bool(mask[index].any()):
                row |= {name: float(value[index]) for name, value in scores.items()}

    def _classes(self, task: Task, pred: Tensor, batch: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        target, mask = target_of(task, batch)
        pred = _enlarged(pred, self.objective, target)
        if task == "segmentation":
            chosen, truth, num_classes = (pred[:, 0] > 0).long(), (target[:, 0] == 1).long(), 2
        else:
            chosen, truth, num_classes = pred.argmax(dim=1), target[:, 0], pred.shape[1]
            if int(truth.max()) >= num_classes:
                raise ConfigError(
                    f"The data has class {int(truth.max())}, and the network only {num_classes} classes, counted from "
                    "0. Set `num_classes` of the head, or `data.label_offset`."
                )
        counts = confusion_matrix(chosen, truth.clamp(min=0), mask[:, 0], num_classes=num_classes)
        summed: npt.NDArray[np.int64] = counts.sum(dim=0).cpu().numpy().astype(np.int64)
        return summed


class ViewScorer(Scorer):
    """Scores self-supervised batches: by their own loss always, and as depth where there is truth that fits.

    Args:
        recipe: The recipe.
        objective: The loss.
        protocol: Scores depth at full size; None: only what needs no scale to be fitted is scored as depth.
    """

    def __init__(self, recipe: Recipe, objective: AnyObjective, protocol: Protocol | None) -> None:
        self.recipe, self.objective, self.protocol = recipe, objective, protocol
        truth, kind = objective.truth_kind, objective.kind
        metric = (DepthKind.METRIC_DEPTH, DepthKind.DISPARITY)
        self.has_truth = truth is not None and (protocol is not None or (truth in metric and kind in metric))
        if protocol is not None:
            if truth is None:
                raise ConfigError(
                    f"`validation.protocol: {protocol.name}` scores depth, and the validation set has none."
                )
            # A disparity is scored with the camera and baseline of each sample, so its scale is known.
            check_kind(DepthKind.INVERSE_DEPTH if kind is DepthKind.DISPARITY else kind, protocol)

    def add(self, tally: Tally, output: Output, batch: Mapping[str, Any]) -> None:
        """Score one batch into a tally; its loss counts for each of its pictures."""
        rows: list[dict[str, float]] = [{} for _ in batch["id"]]
        # The partner must not take batch moments from pictures that are kept out.
        self.objective.eval()
        value = self.objective(output, batch)
        self.objective.train()
        losses = {"loss": value.total, **{f"loss_{name}": part for name, part in value.parts.items()}}
        for row in rows:
            row |= {name: float(part) for name, part in losses.items()}
        if self.has_truth:
            self._depth(tally, output_for(named_outputs(output), "depth", None, 1), batch, rows)
        tally.rows += rows


def _enlarged(pred: Tensor, objective: AnyObjective, target: Tensor) -> Tensor:
    """Bring a prediction to the size of its target; for unpadded networks its middle stays where it is."""
    size = target.shape[-2:]
    if pred.shape[-2:] == size:
        return pred
    if objective.supervise == "centre":
        rows, columns = size[0] - pred.shape[-2], size[1] - pred.shape[-1]
        top, left = rows // 2, columns // 2
        return functional.pad(pred, (left, columns - left, top, rows - top), mode="replicate")
    return functional.interpolate(pred, size=size, mode="bilinear", align_corners=False)


def gather(tally: Tally) -> Tally:
    """Return the tally of all processes, the same on each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tally
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, tally)
    first: Tally = everyone[0]
    return first.merge(everyone[1:])
