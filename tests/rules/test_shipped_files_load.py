"""Every card and protocol file in the package, and every file in `configs/`, loads."""

from pathlib import Path

import pytest
import yaml

import fathom
from fathom.models.cards import ModelCard, find_model, list_cards
from fathom.protocol import list_protocols, load_protocol

PACKAGE = Path(fathom.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[2]
CARDS = sorted((PACKAGE / "weights").glob("*.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_embedded_cards_load_and_their_files_are_whole(path):
    files = find_model(path.stem)
    assert isinstance(files.card, ModelCard)
    assert files.card.name == path.stem
    for role in files.card.files:
        assert files.path(role).stat().st_size <= 10_000_000


def test_embedded_cards_are_listed():
    assert [card.name for card in list_cards()] == [path.stem for path in CARDS]


def test_every_protocol_file_loads():
    names = sorted(path.stem for path in (PACKAGE / "protocols").glob("*.yaml"))
    assert names
    assert sorted(list_protocols()) == names
    for name in names:
        assert load_protocol(name).name == name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(path):
    recipes = pytest.importorskip("fathom.train.config", reason="the recipes' schema is in fathom.train")
    assert yaml.safe_load(path.read_text())
    assert recipes.load_recipe(path)
