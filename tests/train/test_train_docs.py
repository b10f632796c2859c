"""The guide names options that exist, and its recipe can be read."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fathom.cli.main import app
from fathom.config import parse_config
from fathom.train.config import Recipe
from fathom.train.config_views import SelfSupervisedConfig
from fathom.train.reference import describe_options

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "train.md"


def test_the_recipe_of_the_guide_can_be_read():
    text, views = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert parse_config(yaml.safe_load(views)["selfsupervised"], SelfSupervisedConfig).num_views == 3
    recipe = parse_config(yaml.safe_load(text), Recipe)
    losses = pytest.importorskip("fathom.train.objective")
    assert [term.task for term in losses.resolve_terms(recipe)] == ["depth", "depth"]


def test_dotted_options_in_the_guide_exist():
    known = {re.split(r" [(=]", line)[0].replace("[]", "") for line in describe_options().splitlines()}
    named = set(
        re.findall(
            r"`((?:data|model|validation|checkpoint|hardware|lint|optimiser|phases|selfsupervised|augment)\.[a-z_.]+)",
            GUIDE.read_text(),
        )
    )
    assert len(named) > 8
    files_and_builders = {"lint.json", "model.safetensors", "model.options.trunk_weights"}
    assert not named - known - files_and_builders


def test_every_option_is_explained():
    assert not [line for line in describe_options().splitlines() if line.endswith(": ")]


def test_the_command_explains_checks_and_refuses(tmp_path):
    run = CliRunner().invoke
    assert "optimiser.lr = 0.0001" in run(app, ["train", "--options"]).output
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: {name: unet}\ndata: {train: {dataset: folder, root: d.yaml}}\nsteps: 5\n")
    assert "can be read" in run(app, ["train", str(path), "--check"]).output
    refused = run(app, ["train", str(path), "--check", "--set", "optimizer.lr=0.1"])
    assert "Did you mean 'optimiser'" in str(refused.exception)
