"""What is saved beside the checkpoints: the resolved recipe, the machine, the versions, the commit."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from fathom.errors import ConfigError
from fathom.io.atomic import write_atomic
from fathom.train.config import Recipe
from fathom.train.config_extras import TrainPrecision
from fathom.version import __version__

RECIPE_FILE = "recipe.yaml"
ENVIRONMENT_FILE = "environment.json"

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "segmentation-models-pytorch", "numpy", "pydantic")
_MAY_CHANGE = ("loggers", "hardware", "log_every", "name")
"""Sections that a continued run may have otherwise; `data.workers` and folders, too."""


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit of the repository that a folder lies in, and whether files differ from it.

    Returns:
        ``commit`` (None outside a repository) and ``changed``.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "changed": bool(status)}


def environment(precision: TrainPrecision) -> dict[str, Any]:
    """Return versions, machine, arithmetic and commits, for the record."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "fathom": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "precision": precision,
        "versions": versions,
        "command": sys.argv,
        "git": git_state(Path.cwd()),
        "git_fathom": git_state(Path(__file__).parent),
    }


def write_record(folder: Path, recipe: Recipe, precision: TrainPrecision) -> None:
    """Save the recipe and the environment of this start, which says in what it computes; earlier starts stay."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(folder / RECIPE_FILE, [text.encode()])
    path = folder / ENVIRONMENT_FILE
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    write_atomic(path, [json.dumps([*starts, environment(precision)], indent=2).encode()])


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse to continue a run with a recipe that would give another loss curve.

    Raises:
        ConfigError: If an option differs that matters; each is named.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    different = [
        f"{key} ({old} in the run, {new} now)"
        for key, old, new in _differences(saved, recipe.model_dump(mode="json"))
        if key.split(".")[0] not in _MAY_CHANGE and key not in ("data.workers", "data.train.root", "data.val.root")
    ]
    if different:
        raise ConfigError(
            f"The run in '{folder}' was started with another recipe: {'; '.join(different)}. Continue it with its own "
            f"recipe ({path}), or start a new run in another folder."
        )


def _differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            row
            for key in keys
            for row in _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
        ]
    return [] if old == new else [(place, old, new)]
