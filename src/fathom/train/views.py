"""Batches with other views of the scene, for self-supervised recipes.

Beside what every batch holds (`fathom.data.torch_adapter`), with pictures as float32 in 0 to 1:

    ====================  ====================================================================
    ``image``             what the network sees: moved and with changed colours; both views for a network of pairs
    ``neighbours``        what the pose network sees beside it: changed alike
    ``view``              the picture that is rebuilt: moved, its colours as they were
    ``neighbour_views``   the pictures it is rebuilt from, likewise; so is ``image_right``
    ====================  ====================================================================
"""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fathom.data import DATASETS
from fathom.data.base import DepthDataset
from fathom.data.batch_transforms import augment_colour, augment_geometry
from fathom.data.rotation import match_rotation
from fathom.data.torch_adapter import collate
from fathom.errors import ConfigError
from fathom.train.config import SourceConfig
from fathom.train.config_views import SelfSupervisedConfig
from fathom.train.loader import Pick, TrainSamples, ValSamples, finish_batch
from fathom.types import Sample

_PICTURES = ("image", "image_right", "neighbours")


def with_views(source: SourceConfig, config: SelfSupervisedConfig) -> SourceConfig:
    """Ask a reader for the views that a section needs, by its options `stereo` and `neighbours`.

    Args:
        source: The dataset of a recipe.
        config: The section `selfsupervised`.

    Raises:
        ConfigError: If the reader cannot give them, or is told otherwise in the recipe.

    Example:
        >>> from pathlib import Path
        >>> source = SourceConfig(dataset="kitti-odometry", root=Path("data"))
        >>> with_views(source, SelfSupervisedConfig(warp="disparity", stereo=True)).options
        {'stereo': True}
    """
    known = inspect.signature(DATASETS[source.dataset].builder).parameters
    wanted: dict[str, Any] = {}
    if config.stereo and "stereo" in known:
        wanted["stereo"] = True
    if config.neighbours:
        if "neighbours" not in known:
            able = [name for name, row in DATASETS.items() if "neighbours" in inspect.signature(row.builder).parameters]
            raise ConfigError(
                f"The dataset {source.dataset} gives single pictures, and `selfsupervised.neighbours` needs video. "
                f"Use one of {', '.join(able)}."
            )
        wanted["neighbours"] = config.neighbours
    for name, value in wanted.items():
        given = source.options.get(name, value)
        if (tuple(given) if isinstance(given, list) else given) != value:
            raise ConfigError(
                f"The reader's option `{name}` is {given}, and the section `selfsupervised` needs {value}. Remove it "
                "from the reader's options: it follows from that section."
            )
    return source.model_copy(update={"options": {**source.options, **wanted}})


class WithRotations(DepthDataset):
    """A dataset of video whose ``meta["neighbour_poses"]`` say how the camera turned, found by matching features.

    Args:
        dataset: With neighbours and a camera; poses that it knows are not used.

    Raises:
        ConfigError: If a sample has no camera.
    """

    def __init__(self, dataset: DepthDataset) -> None:
        self.dataset, self.name, self.split, self.kind = dataset, dataset.name, dataset.split, dataset.kind
        self.ignore_label = dataset.ignore_label
        self._found: dict[int, npt.NDArray[np.float64]] = {}

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """Read one sample; matching takes a tenth of a second, so it is done once for each."""
        sample = self.dataset.read(index)
        if index not in self._found:
            if sample.camera is None:
                raise ConfigError("`rotation: matched` needs a camera. Give the reader its intrinsics.")
            matrix = sample.camera.intrinsics
            turns = [match_rotation(sample.image, other, matrix) for other in sample.meta["neighbours"]]
            self._found[index] = np.stack(turns)
        return replace(sample, meta={**sample.meta, "neighbour_poses": self._found[index]})

    def scene(self, index: int) -> str:
        """Return the scene the other dataset gives it."""
        return self.dataset.scene(index)


class ViewTrainSamples(TrainSamples):
    """Augmented batches of one picture with its other views, by `Pick`.

    Args:
        *args: Those of `TrainSamples`.
        pairs: Whether the network sees both views of a pair.
    """

    def __init__(self, *args: Any, pairs: bool = False) -> None:
        super().__init__(*args)
        self.pairs = pairs

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        prepared = collate([self.prepare(self.dataset[pick.index])])
        generator = self._generator(pick)
        moved = augment_geometry(prepared, self.augment, generator)
        changed = augment_colour(moved, self.augment, generator)
        return finish_batch(add_views(changed, moved, pairs=self.pairs))


class ViewValSamples(ValSamples):
    """Batches of one unchanged picture with its other views, by index.

    Args:
        *args: Those of `ValSamples`.
        pairs: Whether the network sees both views of a pair.
    """

    def __init__(self, *args: Any, pairs: bool = False) -> None:
        super().__init__(*args)
        self.pairs = pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = super().__getitem__(index)
        for key in _PICTURES:
            if key in batch:
                batch[key] = as_float(batch[key])
        return add_views(batch, batch, pairs=self.pairs)


def add_views(changed: dict[str, Any], plain: dict[str, Any], *, pairs: bool = False) -> dict[str, Any]:
    """Add the pictures that are compared to the batch that the networks see.

    Args:
        changed: Batch whose colours may have been changed.
        plain: The same batch with its own colours.
        pairs: Whether the network sees both views of a pair.

    Raises:
        ConfigError: If it does, and there is one view.
    """
    views = {"view": plain["image"]}
    if pairs:
        if "image_right" not in changed:
            raise ConfigError(
                "The network sees pairs, and the dataset gives single pictures. Use a set of stereo pairs."
            )
        views["image"] = torch.cat([changed["image"], changed["image_right"]], dim=1)
    if "image_right" in plain:
        views["image_right"] = plain["image_right"]
    if "neighbours" in plain:
        views["neighbour_views"] = plain["neighbours"]
    return {**changed, **views}


def as_float(image: Tensor) -> Tensor:
    """Return pictures in 0 to 1.

    Example:
        >>> import torch
        >>> as_float(torch.tensor([255], dtype=torch.uint8)).item()
        1.0
    """
    return image if image.is_floating_point() else image.float() / 255.0
