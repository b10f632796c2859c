"""Runs side by side, from the files they leave."""

import csv
import json

import pytest
import yaml
from train_helpers import make_recipe
from typer.testing import CliRunner

from fathom.cli.main import app
from fathom.errors import ConfigError, InputError
from fathom.train.runs import differing_options, plot_runs, read_run, table


def make_run(folder, *, lr=0.01, scores=(0.5, 0.3, 0.4)):
    folder.mkdir()
    recipe = make_recipe("a.yaml", optimiser={"lr": lr})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "lr", "data_seconds", "compute_seconds"])
        writer.writerows([[step, 1 / step, lr, 0.1 * step, 0.4 * step] for step in range(1, 7)])
    with (folder / "val.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "abs_rel", "delta1", "seconds"])
        writer.writerows([[2 * (i + 1), score, 1 - score, 0.1] for i, score in enumerate(scores)])
    return folder


def test_the_best_validation_counts(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    assert run.best() == {"step": 4.0, "abs_rel": 0.3, "delta1": 0.7, "seconds": 0.1}
    heading, (row,) = table([run])
    cells = dict(zip(heading, row, strict=True))
    assert cells == {
        "run": "a",
        "model": "unet",
        "steps": "6",
        "loss": "0.1667",
        "pictures/s": "4",
        "abs_rel": "0.3",
        "delta1": "0.7",
        "at step": "4",
    }


def test_a_run_that_is_still_written_can_be_read(tmp_path):
    folder = make_run(tmp_path / "a")
    with (folder / "train.csv").open("a") as file:
        file.write("7,0.1")
    (folder / "val.csv").unlink()
    run = read_run(folder)
    assert (len(run.train), run.best()) == (6, {})
    assert table([run])[1][0][-1] == "-"


def test_compare_prints_scores_and_differences(tmp_path):
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", lr=0.1, scores=(0.9, 0.8, 0.7))]
    done = CliRunner().invoke(app, ["runs", "compare", *map(str, folders)])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["run", "a", "b"]
    assert any(line.split() == ["optimiser.lr", "0.01", "0.1"] for line in lines)
    done = CliRunner().invoke(app, ["runs", "compare", *map(str, folders), "--json"])
    values = json.loads(done.output)
    assert [run["best"]["abs_rel"] for run in values["runs"]] == [0.3, 0.7]
    assert values["different_options"] == {"optimiser.lr": [0.01, 0.1]}
    assert differing_options([read_run(folders[0])] * 2) == {}


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [read_run(make_run(tmp_path / name)) for name in ("a", "b")]
    path = plot_runs(runs, tmp_path / "deep" / "curves.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match=r"\.png, \.pdf or \.svg"):
        plot_runs(runs, tmp_path / "curves.gif")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match="holds none"):
        read_run(tmp_path)
