"""A run that was cut off goes on as if nothing had happened: the same loss curve to the last bit, on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_helpers import csv_columns, make_folder, make_recipe, write_recipe

from fathom.errors import ConfigError
from fathom.train.fit import fit

pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

STEPS = 40
# Batch moments, dropout, momentum, a running average, a schedule with a memory, and augmentation: all that has state.
CHANGES = {
    "model": {"name": "fcrn-upproj", "options": {"width": 4, "blocks": [1, 1, 1, 1]}},
    "augment": {"flip": 0.5, "zoom": [1.0, 1.2], "brightness": 0.2, "noise": 0.02, "crop": [32, 40]},
    "optimiser": {"name": "sgd", "lr": 0.003},
    "schedule": {"name": "plateau", "lr_patience": 0, "warmup_steps": 3},
    "ema": {"decay": 0.9},
    "accumulate": 2,
    "clip_norm": 5.0,
    "steps": STEPS,
    "validation": {"every_steps": 6},
    "checkpoint": {"every_steps": 5},
}


def quiet(_: str) -> None:
    """Print nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Return the folder of the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fit(make_recipe(data, **CHANGES), folder, say=quiet).step == STEPS
    return folder


def curves(folder: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return (
        csv_columns(folder / "train.csv", "step", "loss", "lr"),
        csv_columns(folder / "val.csv", "step", "abs_rel", "rmse", "silog"),
    )


def start(recipe: Path, folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fathom", "train", str(recipe), "--out", str(folder), *words],
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(process: "subprocess.Popen[str]", table: Path, rows: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if table.is_file() and len(table.read_text().splitlines()) > rows:
            return
        if process.poll() is not None:
            pytest.fail(f"The run ended too early: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.002)
    pytest.fail("The run never got so far.")


@pytest.mark.slow
def test_resume_after_kill_gives_the_same_curve(tmp_path, data, whole):
    folder = tmp_path / "run"
    process = start(write_recipe(tmp_path / "recipe.yaml", data, **CHANGES), folder)
    wait_for_rows(process, folder / "train.csv", 13)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(csv_columns(folder / "train.csv", "step")) < STEPS
    result = fit(make_recipe(data, **CHANGES), folder, resume=True, say=quiet)
    assert (result.step, result.signal) == (STEPS, None)
    assert curves(folder) == curves(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_saves_the_step_it_is_at(tmp_path, data, whole, number):
    folder = tmp_path / "run"
    process = start(write_recipe(tmp_path / "recipe.yaml", data, **CHANGES), folder, "--set", "data.workers=1")
    wait_for_rows(process, folder / "train.csv", 7)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number, errors
    assert "--resume" in errors
    done = len(csv_columns(folder / "train.csv", "step"))
    assert done < STEPS
    lines: list[str] = []
    fit(make_recipe(data, **CHANGES), folder, resume=True, say=lines.append)
    assert lines[0] == f"Continuing after step {done} of {STEPS}."
    assert curves(folder) == curves(whole)


def test_a_finished_run_stays_as_it_is(data, whole):
    before = (whole / "train.csv").read_bytes()
    assert fit(make_recipe(data, **CHANGES), whole, resume=True, say=quiet).step == STEPS
    assert (whole / "train.csv").read_bytes() == before


def test_another_recipe_is_refused(data, whole):
    recipe = make_recipe(data, **{**CHANGES, "seed": 1})
    with pytest.raises(ConfigError, match=r"seed \(0 in the run, 1 now\)"):
        fit(recipe, whole, resume=True, say=quiet)


def test_a_folder_with_a_run_is_refused(data, whole):
    with pytest.raises(ConfigError, match="--resume"):
        fit(make_recipe(data, **CHANGES), whole, say=quiet)
