"""The best weights as a model that `fathom predict` and `fathom.models.build` take."""

import math
from typing import TYPE_CHECKING

import torch

from fathom import models
from fathom.data import DATASETS
from fathom.errors import require
from fathom.io.atomic import write_atomic
from fathom.models.base import count_parameters
from fathom.models.cards import (
    CARD_FILE,
    Architecture,
    FileEntry,
    InputSpec,
    Licence,
    ModelCard,
    OutputSpec,
    Score,
    file_sha256,
    write_card,
)
from fathom.train.config import Recipe, kind_of, sees_pairs
from fathom.types import DepthKind

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from fathom.train.module import TrainingModule

WEIGHTS_FILE = "model.safetensors"
POSE_FILE = "pose.safetensors"
"""Weights of the network for the motion between views, where one was trained."""


def write_model(folder: "Path", module: "TrainingModule", scores: dict[str, float], step: int) -> None:
    """Write the present weights to model.safetensors and, for depth alone, their card; a partner to pose.safetensors.

    Args:
        folder: Folder of the run.
        module: With the weights.
        scores: Of the validation.
        step: Steps done.
    """
    path = _write_weights(folder / WEIGHTS_FILE, module.network)
    if module.objective.partner is not None:
        _write_weights(folder / POSE_FILE, module.objective.partner)
    recipe = module.recipe
    if recipe.tasks != ("depth",):
        return
    row = models.entry(recipe.model.name)
    kind = kind_of(recipe)
    metric = kind is DepthKind.METRIC_DEPTH
    source = recipe.data.val or recipe.data.train
    card = ModelCard(
        name=recipe.name,
        kind=kind,
        description=f"{row.name}, trained with the recipe {recipe.name}, after step {step}",
        parameters=count_parameters(module.network),
        input=input_spec(recipe),
        output=OutputSpec(
            min_depth=recipe.data.min_depth or None if metric else None,
            max_depth=recipe.data.max_depth if metric else None,
        ),
        architecture=Architecture(builder=row.name, options=_without_weights(recipe)),
        files={
            "safetensors": FileEntry(name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size),
        },
        licence=Licence(code=row.licence, data=DATASETS[recipe.data.train.dataset].licence),
        training_data=(f"{recipe.data.train.dataset} {recipe.data.train.split or ''}".strip(),),
        recipe="recipe.yaml",
        scores=(
            Score(
                data=f"{source.dataset} {source.split or ''}".strip(),
                protocol=recipe.validation.protocol or "all valid pixels at network input size, mean of the pictures",
                values=scores,
            ),
        ),
    )
    temporary = folder / f".{CARD_FILE}"
    write_card(card, temporary)
    temporary.replace(folder / CARD_FILE)


def _write_weights(path: "Path", network: "nn.Module") -> "Path":
    safetensors = require("safetensors.torch", "train", "Saving weights")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    # A tensor that two parts share is stored twice; safetensors refuses tensors that share memory.
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return write_atomic(path, [safetensors.save(tensors)])


def _without_weights(recipe: Recipe) -> dict[str, object]:
    """Return the builder's options without those that load weights, which the file replaces."""
    return {k: v for k, v in recipe.model.options.items() if k not in ("trunk_weights", "encoder_weights")}


def input_spec(recipe: Recipe) -> InputSpec:
    """Return how a picture becomes the input of the trained network: as in its validation.

    Example:
        >>> data = {"train": {"dataset": "folder", "root": "a.yaml"}, "resize": [228, 304]}
        >>> from fathom.config import parse_config
        >>> values = {"name": "a", "model": {"name": "fcrn-upproj"}, "data": data, "steps": 1}
        >>> input_spec(parse_config(values, Recipe)).law
        'area'
    """
    row = models.entry(recipe.model.name)
    law = row.input_law
    span = law.value_range[1] - law.value_range[0]
    low = law.value_range[0]
    mean = tuple((value - low) / span for value in law.mean)
    std = tuple(value / span for value in law.std)
    size = recipe.data.resize or recipe.augment.crop
    if row.fixed_size or (size is not None and not recipe.validation.whole_frame):
        size = recipe.augment.crop or recipe.data.resize
    multiple = row.input_multiple
    if recipe.selfsupervised is not None and size is not None:
        # The size it learned at, which need not be a multiple of the paper's: the network itself takes any.
        multiple = math.gcd(multiple, *size)
    views = 2 if sees_pairs(recipe) else 1
    common = {"mean": mean, "std": std, "multiple": multiple, "views": views}
    if size is None:
        return InputSpec(law="native", **common)  # type: ignore[arg-type]  # mean and std have three values
    if row.fixed_size:
        return InputSpec(law="fixed", height=size[0], width=size[1], **common)  # type: ignore[arg-type]
    return InputSpec(law="area", area=size, **common)  # type: ignore[arg-type]
