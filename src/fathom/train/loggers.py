"""Where curves and pictures go: CSV files always, and other tools by name."""

import csv
import importlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch import loggers as pl_loggers
from PIL import Image

from fathom.errors import MissingExtraError, OutputError
from fathom.io.atomic import write_atomic
from fathom.train.config import Recipe
from fathom.train.config_extras import LoggerConfig

TRAIN_FILE, VAL_FILE = "train.csv", "val.csv"
PICTURE_FOLDER = "pictures"

_PACKAGES = {
    "tensorboard": ("tensorboard", "TensorBoardLogger", "save_dir"),
    "mlflow": ("mlflow", "MLFlowLogger", "save_dir"),
    "wandb": ("wandb", "WandbLogger", "save_dir"),
    "neptune": ("neptune", "NeptuneLogger", None),
}
"""Package, class of Lightning, and the name of its option for a folder."""


class CsvTable:
    """A CSV file that grows by a row at a time; numbers are written so that reading gives the same bits.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; the first one sets the columns.

        Raises:
            OutputError: If a later row has other columns.
        """
        new = not self.path.is_file()
        names = list(row) if new else self._names()
        if set(names) != set(row):
            raise OutputError(f"A row of '{self.path}' must have the columns {', '.join(names)}; got {', '.join(row)}.")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(names)
            writer.writerow([repr(row[name]) for name in names])

    def cut_after(self, step: int) -> None:
        """Drop the rows after a step, and a last row that was not written whole."""
        if not self.path.is_file():
            return
        names = self._names()
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(names)][1:]
        place = names.index("step")
        kept = [row for row in rows if row[place].isdigit() and int(row[place]) <= step]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([names, *kept])
        write_atomic(self.path, [buffer.getvalue().encode()])

    def _names(self) -> list[str]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])


def check_loggers(recipe: Recipe) -> None:
    """Check that the packages of the loggers are installed.

    Raises:
        MissingExtraError: If one is not.
    """
    for config in recipe.loggers:
        package = _PACKAGES[config.name][0]
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"The logger '{config.name}' needs {package}, which is not installed. Run: pip install {package}, or "
                "remove it from `loggers` (the CSV files are written anyway)."
            )


def build_loggers(recipe: Recipe, folder: Path) -> list[Any]:
    """Build Lightning's loggers of a recipe. Raises as `check_loggers`."""
    check_loggers(recipe)
    return [_build(config, recipe.name, folder) for config in recipe.loggers]


def _build(config: LoggerConfig, name: str, folder: Path) -> Any:
    _, class_name, folder_option = _PACKAGES[config.name]
    options = dict(config.options)
    if folder_option is not None:
        options.setdefault(folder_option, str(folder / config.name))
    if config.name == "wandb":
        options.setdefault("name", name)
        Path(options["save_dir"]).mkdir(parents=True, exist_ok=True)
    if config.name == "mlflow":
        options.setdefault("experiment_name", name)
        if "tracking_uri" not in options:
            options.setdefault("tracking_uri", f"sqlite:///{folder / 'mlflow.db'}")
    return getattr(pl_loggers, class_name)(**options)


def log_picture(loggers: list[Any], folder: Path, name: str, rgb: npt.NDArray[np.uint8], step: int) -> None:
    """Save a picture below the run, and hand it to every logger that takes pictures.

    Args:
        loggers: Lightning's loggers.
        folder: Folder of the run.
        name: Of the picture, for instance ``"val_0"``.
        rgb: uint8, shape (H, W, 3).
        step: Steps done.
    """
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    path = write_atomic(folder / PICTURE_FOLDER / f"{name}_{step:07d}.png", [buffer.getvalue()])
    for logger in loggers:
        match type(logger).__name__:
            case "TensorBoardLogger":
                logger.experiment.add_image(name, rgb, step, dataformats="HWC")
            case "WandbLogger":
                logger.log_image(key=name, images=[Image.fromarray(rgb)], step=step)
            case "MLFlowLogger":
                logger.experiment.log_artifact(logger.run_id, str(path), PICTURE_FOLDER)
            case "NeptuneLogger":
                logger.experiment[f"{PICTURE_FOLDER}/{name}"].append(_neptune_file(path))


def _neptune_file(path: Path) -> Any:
    return importlib.import_module("neptune.types").File(str(path))
