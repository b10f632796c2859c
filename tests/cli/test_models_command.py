import json

import pytest
import yaml

from fathom.models import MODELS
from tiny_models import make_model


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """One tiny model in the place of the packaged ones."""
    monkeypatch.setattr("fathom.models.cards.WEIGHTS_FOLDER", tmp_path)
    (make_model(tmp_path, name="fathom-tiny") / "card.json").rename(tmp_path / "fathom-tiny.json")


def test_list(command, embedded):
    code, out, _ = command("models")
    assert code == 0
    assert "fathom-tiny        metric_depth" in out
    for name, row in MODELS.items():
        assert name in out
        assert row.paper in out
    assert "63.6 M" in out


def test_list_as_json(command, embedded):
    code, out, _ = command("models", "--json")
    assert code == 0
    document = json.loads(out)
    assert [card["name"] for card in document["models"]] == ["fathom-tiny"]
    assert {row["name"] for row in document["networks"]} == set(MODELS)


def test_show_an_embedded_model(command, embedded):
    code, out, _ = command("models", "show", "fathom-tiny")
    assert code == 0
    card = yaml.safe_load(out)
    assert (card["kind"], card["input"]["law"]) == ("metric_depth", "area")


def test_show_a_folder_and_a_network(command, metric_model):
    assert yaml.safe_load(command("models", "show", metric_model)[1])["name"] == "tiny"
    network = yaml.safe_load(command("models", "show", "fcrn-upproj")[1])
    assert network["parameters"] == 63_563_008
    assert "2016" in network["paper"]


def test_show_what_does_not_exist(command, embedded):
    code, _, err = command("models", "show", "fathom-tyni")
    assert code == 2
    assert "Did you mean 'fathom-tiny'" in err
