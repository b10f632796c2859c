import json

import pytest

from fathom.errors import ConfigError, ModelError
from fathom.models.cards import InputSpec, ModelCard, find_model, list_cards, write_card
from fathom.types import DepthKind
from tiny_models import make_model


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "tiny")


def test_a_card_survives_writing_and_reading(folder, tmp_path):
    card = find_model(folder).card
    write_card(card, tmp_path / "copy.json")
    assert find_model(tmp_path / "copy.json").card == card


@pytest.mark.parametrize("name", ["", "card.json", "model.onnx"])
def test_folder_card_and_file_all_name_the_model(folder, name):
    files = find_model(folder / name if name else folder)
    assert files.card.name == "tiny"
    assert files.path("onnx") == folder / "model.onnx"


def test_a_card_of_the_files_own_name_is_found(folder):
    (folder / "card.json").rename(folder / "model.json")
    assert find_model(str(folder / "model.onnx")).card.name == "tiny"


def test_a_changed_file_is_refused(folder):
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not the file its card describes"):
        find_model(folder).path("onnx")
    path.write_bytes(content[:-1])
    with pytest.raises(ModelError, match="not the file its card describes"):
        find_model(folder).path("onnx")
    path.unlink()
    with pytest.raises(ModelError, match="missing"):
        find_model(folder).path("onnx")


def test_an_unnamed_file_is_not_run_under_another_files_card(folder):
    (folder / "other.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"does not name other\.onnx"):
        find_model(folder / "other.onnx")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("fathom-generall", "No model is called 'fathom-generall'"),
        ("no/such/folder", "No model at no/such/folder"),
        ("missing.onnx", r"No model at missing\.onnx"),
    ],
)
def test_what_does_not_exist_is_told(model, sentence):
    with pytest.raises(ModelError, match=sentence):
        find_model(model)


def test_a_folder_or_file_without_card_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"has no card\.json"):
        find_model(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="nothing says what its numbers are"):
        find_model(tmp_path / "a.onnx")


def change_card(folder, **changes):
    values = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "metres"}, "'kind' must be"),
        ({"input": {"law": "area"}}, r"'area' needs area"),
        ({"input": {"law": "fixed", "height": 3}}, "needs both height and width"),
        ({"input": {"law": "native", "std": [1.0, 0.0, 1.0]}}, "std must be positive"),
        ({"nam": "x"}, "Did you mean 'name'"),
        ({"output": {"min_depth": 5.0, "max_depth": 1.0}}, "min_depth must be below max_depth"),
        ({"kind": "inverse_depth", "output": {"max_depth": 1.0}}, "are for metric_depth"),
        ({"files": {"onnx": {"name": "../x", "sha256": "0" * 64, "bytes": 1}}}, "has no folder"),
        ({"files": {"onnx": {"name": "x", "sha256": "zz", "bytes": 1}}}, "sha256"),
        ({"files": {"safetensors": {"name": "x", "sha256": "0" * 64, "bytes": 1}}}, "needs `architecture`"),
    ],
)
def test_wrong_cards_are_told(folder, changes, sentence):
    change_card(folder, **changes)
    with pytest.raises(ConfigError, match=sentence):
        find_model(folder)


def test_size_changes_keep_the_law():
    area = InputSpec(law="area", area=(256, 320))
    assert area.resized(128, 160).area == (128, 160)
    fixed = InputSpec(law="keep_aspect", height=518, width=518, multiple=14)
    assert (fixed.resized(252, 252).height, fixed.resized(252, 252).law) == (252, "keep_aspect")
    native = InputSpec(law="native").resized(64, 96)
    assert (native.law, native.height, native.width) == ("keep_aspect", 64, 96)


def test_list_cards_finds_what_lies_in_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("fathom.models.cards.WEIGHTS_FOLDER", tmp_path)
    assert list_cards() == []
    folder = make_model(tmp_path, name="zz-tiny", kind=DepthKind.INVERSE_DEPTH)
    (folder / "card.json").rename(folder / "zz-tiny.json")
    assert [(card.name, card.kind) for card in list_cards()] == [("zz-tiny", "inverse_depth")]
    assert isinstance(find_model("zz-tiny").card, ModelCard)
