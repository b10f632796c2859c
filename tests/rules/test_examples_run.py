"""Every example runs as it stands; where the packaged weights are not built yet, tiny models stand in for them."""

import runpy
import sys
from pathlib import Path

import pytest

from fathom.models.cards import embedded_names
from tiny_models import make_model

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_ELSEWHERE = {"client": "tests/serve/test_client_example.py"}
"""Examples that need something running, and the test that runs them."""
EXAMPLES = sorted(path for path in (REPOSITORY / "examples").glob("*.py") if path.stem not in RUN_ELSEWHERE)
KINDS = {"fathom-general": "affine_invariant_inverse_depth", "fathom-indoor": "metric_depth"}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    if set(KINDS) <= set(embedded_names()):
        return
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, kind in KINDS.items():
        made = make_model(tmp_path / name, name=name, kind=kind)
        (made / "model.onnx").rename(folder / f"{name}.onnx")
        (folder / f"{name}.json").write_text((made / "card.json").read_text().replace("model.onnx", f"{name}.onnx"))
    monkeypatch.setattr("fathom.models.cards.WEIGHTS_FOLDER", folder)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("name", RUN_ELSEWHERE)
def test_what_runs_elsewhere_does(name):
    assert f"{name}.py" in (REPOSITORY / RUN_ELSEWHERE[name]).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example shows something"
