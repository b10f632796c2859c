"""Batches whose content depends on the seed and the step alone.

Sample order and augmentation derive from (seed, position), where the position counts every picture of the run. So a run
that goes on after an interruption needs no saved generator, reading in more worker processes changes nothing, and two
processes of half the batch draw what one process of the whole batch draws.
"""

import itertools
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fathom.data.base import DepthDataset
from fathom.data.batch_transforms import AugmentConfig, augment_batch, augment_geometry
from fathom.data.torch_adapter import collate
from fathom.data.transforms import crop_sample, resize_sample
from fathom.errors import ConfigError, ShapeError, require
from fathom.metrics.normals import normals_from_depth
from fathom.train.config import DataConfig
from fathom.train.teacher import TeacherLabels
from fathom.types import DepthKind, Sample

IGNORE = -1
"""Class of pixels that are not labelled, in batches for training."""

_ORDER, _CHANGE = 1, 2
"""Keep the two uses of the seed apart."""


def mix_seed(*numbers: int) -> int:
    """Mix numbers into one seed, the same on every machine.

    Example:
        >>> mix_seed(0, 1) == mix_seed(0, 1), mix_seed(0, 1) == mix_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Pick:
    """One picture of a batch.

    Args:
        position: Counts the pictures of the whole run.
        index: Place in the dataset.
    """

    position: int
    index: int


class StepSampler(Sampler[list[Pick]]):
    """Picks for each batch, from one step on; every pass over the data has its own order, and no picture is left out.

    Args:
        num_samples: Pictures of the dataset.
        batch_size: Pictures of a batch on one process.
        num_batches: Batches of the whole run.
        seed: Of the order.
        start: First batch that is wanted.
        rank: Which process this is.
        num_processes: How many share the work.

    Example:
        >>> whole = [[pick.index for pick in batch] for batch in StepSampler(5, 2, 4, seed=3)]
        >>> rest = [[pick.index for pick in batch] for batch in StepSampler(5, 2, 4, seed=3, start=2)]
        >>> rest == whole[2:], sorted(sum(whole, [])[:5])
        (True, [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_batches: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.num_samples, self.batch_size, self.num_batches = num_samples, batch_size, num_batches
        self.seed, self.start, self.rank, self.num_processes = seed, start, rank, num_processes

    def __len__(self) -> int:
        """Return the batches of the whole run, whatever the start: Lightning counts from 0 after a restart, too."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[Pick]]:
        known, order = -1, np.empty(0, np.int64)
        for batch in range(self.start, self.num_batches):
            first = (batch * self.num_processes + self.rank) * self.batch_size
            picks = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.num_samples)
                if epoch != known:
                    known = epoch
                    rng = np.random.default_rng(mix_seed(self.seed, _ORDER, epoch))
                    order = rng.permutation(self.num_samples)
                picks.append(Pick(position, int(order[place])))
            yield picks


def add_normals(sample: Sample, sigma: float) -> Sample:
    """Add normals made from the depth map and the camera, at full size.

    Args:
        sample: With metric depth and a camera.
        sigma: Gaussian smoothing of the depth first, over valid pixels only [px].

    Raises:
        ConfigError: If there is no camera or no metric depth.
    """
    if sample.camera is None or sample.kind is not DepthKind.METRIC_DEPTH:
        raise ConfigError(
            "`data.normals_from_depth` needs metric depth and a camera, which this dataset does not have."
        )
    depth = sample.target
    if sigma > 0:
        ndimage = require("scipy.ndimage", "train", "Smoothing depth")
        weight = ndimage.gaussian_filter(sample.valid_mask.astype(np.float32), sigma)
        depth = ndimage.gaussian_filter(np.where(sample.valid_mask, depth, 0), sigma) / np.maximum(weight, 1e-6)
    # The metric counts pixel centres from 0, cameras from 0.5.
    intrinsics = sample.camera.intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    normals, known = normals_from_depth(depth, sample.valid_mask, intrinsics=intrinsics)
    kept = np.where(known[..., None], normals, 0.0).astype(np.float32)
    return replace(sample, meta={**sample.meta, "normals": kept})


def classes_of(labels: npt.NDArray[Any], offset: int, ignore_label: int | None) -> npt.NDArray[np.int64]:
    """Return classes counted from 1, with 0 for pixels that are not labelled; what augmentation adds is 0, too."""
    classes = labels.astype(np.int64) - offset + 1
    unlabelled = classes < 1
    if ignore_label is not None:
        unlabelled |= labels == ignore_label
    return np.where(unlabelled, 0, classes)


class Prepare:
    """The changes that every picture gets, in training and validation alike.

    Args:
        config: The section `data`.
        ignore_label: Label of the dataset that means "not labelled".
    """

    def __init__(self, config: DataConfig, ignore_label: int | None) -> None:
        self.config, self.ignore_label = config, ignore_label

    def __call__(self, sample: Sample) -> Sample:
        """Make normals where asked for, count classes from 1, limit the range, resize."""
        config = self.config
        if config.normals_from_depth:
            sample = add_normals(sample, config.normals_sigma)
        if sample.meta.get("labels") is not None:
            classes = classes_of(np.asarray(sample.meta["labels"]), config.label_offset, self.ignore_label)
            sample = replace(sample, meta={**sample.meta, "labels": classes})
        mask = sample.valid_mask
        if config.min_depth is not None:
            mask = mask & (sample.target >= config.min_depth)
        if config.max_depth is not None:
            mask = mask & (sample.target <= config.max_depth)
        sample = replace(sample, valid_mask=mask)
        return sample if config.resize is None else resize_sample(sample, *config.resize)


class TrainSamples(Dataset[dict[str, Any]]):
    """Augmented batches of one picture each, by `Pick`.

    Args:
        dataset: Where pictures come from.
        prepare: What every picture gets.
        augment: What is drawn at random.
        seed: Of the draws.
        teacher: Cached predictions of another model, which move with the picture.
    """

    def __init__(
        self,
        dataset: DepthDataset,
        prepare: Prepare,
        augment: AugmentConfig,
        seed: int,
        teacher: TeacherLabels | None = None,
    ) -> None:
        self.dataset, self.prepare, self.augment, self.seed, self.teacher = dataset, prepare, augment, seed, teacher

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        sample = self.dataset[pick.index]
        prepared = collate([self.prepare(sample)])
        batch = augment_batch(prepared, self.augment, self._generator(pick))
        if self.teacher is not None:
            values = self.teacher.read(pick.index)
            height, width = prepared["image"].shape[-2:]
            label = resize_sample(
                Sample(sample.image, values, np.isfinite(values), sample.camera, {}, self.teacher.kind), height, width
            )
            # The same generator draws the same geometry for the teacher's map as for the picture.
            moved = augment_geometry(collate([label]), self.augment, self._generator(pick))
            batch |= {"teacher": moved["target"], "teacher_mask": moved["valid_mask"]}
        return finish_batch(batch)

    def _generator(self, pick: Pick) -> torch.Generator:
        return torch.Generator().manual_seed(mix_seed(self.seed, _CHANGE, pick.position))


class ValSamples(Dataset[dict[str, Any]]):
    """Batches of one unchanged picture each, by index.

    Args:
        dataset: Where pictures come from.
        prepare: What every picture gets.
        crop: Rows and columns that are cut out of the middle; None: nothing.
        keep_samples: Put the sample as it was read into the batch, for scoring at full size.
    """

    def __init__(
        self, dataset: DepthDataset, prepare: Prepare, crop: tuple[int, int] | None, keep_samples: bool
    ) -> None:
        self.dataset, self.prepare, self.crop, self.keep_samples = dataset, prepare, crop, keep_samples

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        prepared = self.prepare(sample)
        if self.crop is not None:
            rows, columns = prepared.image.shape[:2]
            height, width = self.crop
            if height > rows or width > columns:
                raise ShapeError(f"The crop {height} x {width} must fit into the picture, {rows} x {columns}.")
            prepared = crop_sample(prepared, (rows - height) // 2, (columns - width) // 2, height, width)
        batch = collate([prepared])
        batch["image"] = batch["image"].float() / 255.0
        if self.keep_samples:
            batch["samples"] = [replace(sample, meta={"id": sample.meta.get("id", str(index))})]
        return finish_batch(batch)


def finish_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Count classes from 0 again, with `IGNORE` for pixels that are not labelled."""
    if "labels" in batch:
        batch["labels"] = batch["labels"] - 1
    return batch


def join_batches(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join batches of one picture.

    Raises:
        ShapeError: If their sizes differ.
    """
    sizes = {tuple(batch["image"].shape[-2:]) for batch in batches}
    if len(sizes) != 1:
        raise ShapeError(f"The pictures of a batch must share one size; got {sorted(sizes)}. Set `data.resize`.")
    keys = [key for key in batches[0] if all(key in batch for batch in batches)]
    joined: dict[str, Any] = {}
    for key in keys:
        values = [batch[key] for batch in batches]
        if isinstance(values[0], torch.Tensor):
            joined[key] = torch.cat(values)
        else:
            joined[key] = list(itertools.chain(*values)) if isinstance(values[0], list) else values[0]
    return joined


class RankSampler(Sampler[int]):
    """Every n-th index, so that each picture is scored by exactly one process.

    Args:
        num_samples: Pictures to score.
        rank: Which process this is.
        num_processes: How many share the work.
    """

    def __init__(self, num_samples: int, rank: int = 0, num_processes: int = 1) -> None:
        self.indices = range(rank, num_samples, num_processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def ignore_signals(_: int) -> None:
    """Let only the training process answer SIGTERM and Ctrl-C, which often go to the whole group of processes.

    It ends the readers itself, and they end when it dies.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def train_loader(samples: TrainSamples, sampler: StepSampler, workers: int) -> DataLoader[dict[str, Any]]:
    """Return the batches of a run from the sampler's start on."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=join_batches,
        worker_init_fn=ignore_signals,
    )


def val_loader(samples: ValSamples, sampler: RankSampler, batch_size: int, workers: int) -> DataLoader[dict[str, Any]]:
    """Return the batches of a validation."""
    return DataLoader(
        samples,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=join_batches,
        worker_init_fn=ignore_signals,
    )
