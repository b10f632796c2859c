"""Targets made by another model: predicted once for each training picture, and kept in a folder."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fathom.data.base import DepthDataset
from fathom.errors import ConfigError, InputError
from fathom.io.atomic import write_atomic
from fathom.train.config import SourceConfig
from fathom.train.config_extras import DistillationConfig
from fathom.types import Depth, DepthKind

Predict = Callable[[npt.NDArray[np.uint8]], Depth]
"""A teacher: RGB picture (H, W, 3) to depth of the same size, for instance ``Predictor.predict``."""
LoadTeacher = Callable[[str], Predict]
"""Loads a teacher by name; called only where predictions are missing."""

_INFO = "teacher.json"


class TeacherLabels:
    """The predictions of a teacher in a folder, one file for each picture.

    Args:
        folder: Folder of one teacher on one dataset.
        kind: What the predictions are.
    """

    def __init__(self, folder: Path, kind: DepthKind) -> None:
        self.folder, self.kind = folder, kind

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Return the prediction for a picture, shape (H, W), NaN where there is none.

        Raises:
            InputError: If it is missing or damaged.
        """
        path = self.folder / f"{index:07d}.npy"
        try:
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        except (OSError, ValueError) as error:
            raise InputError(f"The teacher's prediction '{path}' cannot be read: {error}. Delete its folder.") from None


def make_labels(
    config: DistillationConfig, source: SourceConfig, dataset: DepthDataset, load_teacher: LoadTeacher | None
) -> TeacherLabels:
    """Predict what is missing in the cache and return the predictions.

    They are stored as float16 where that holds the range, else float32; an interrupted run goes on where it was.

    Args:
        config: The section `distillation`.
        source: The training set, whose name, folder, split and options name the cache.
        dataset: The training set itself.
        load_teacher: Loads the teacher.

    Raises:
        ConfigError: If predictions are missing and there is nothing to make them with.
    """
    described = f"{config.teacher} {source.model_dump_json()} {len(dataset)}"
    folder = config.cache / hashlib.sha256(described.encode()).hexdigest()[:16]
    missing = [index for index in range(len(dataset)) if not (folder / f"{index:07d}.npy").is_file()]
    if missing or not (folder / _INFO).is_file():
        if load_teacher is None:
            raise ConfigError(
                f"{len(missing)} predictions of the teacher {config.teacher} are missing in '{folder}', and nothing "
                "was given to make them. Use `fathom train`, or give `load_teacher` to fit."
            )
        predict = load_teacher(config.teacher)
        kind: DepthKind | None = None
        for index in missing or [0]:
            depth = predict(dataset[index].image)
            kind = depth.kind
            _write(folder / f"{index:07d}.npy", np.where(depth.valid_mask, depth.values, np.nan))
        assert kind is not None, "at least one picture was predicted"
        info = {"teacher": config.teacher, "kind": kind.value, "pictures": len(dataset)}
        write_atomic(folder / _INFO, [json.dumps(info, indent=2).encode()])
    kind = DepthKind(json.loads((folder / _INFO).read_text(encoding="utf-8"))["kind"])
    return TeacherLabels(folder, kind)


def _write(path: Path, values: npt.NDArray[np.floating]) -> None:
    small = values.astype(np.float16) if np.nanmax(np.abs(values), initial=0) < 1000 else values.astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, small)
    write_atomic(path, [buffer.getvalue()])
