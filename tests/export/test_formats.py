"""Every format, made and run: each in a process of its own, because some converters cannot share one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="networks need torch")

from fathom.export.environments import ONNX2TF
from fathom.export.formats import FORMATS
from fathom.runtime.artefacts import RUNTIME_OF

CHILD = """
import json, sys
sys.path.insert(0, {here!r})
from export_helpers import {source}
from fathom.errors import MissingExtraError
from fathom.export import export_model
try:
    done = export_model({source}(), {form!r}, {out!r}, **{options!r})
except MissingExtraError as error:
    print("RESULT" + json.dumps({{"missing": str(error)}}))
else:
    from fathom.predict import Predictor
    answer = {{"worst": done.report.worst if done.report else None, "files": sorted(done.card.files)}}
    if done.report:
        import numpy as np
        predictor = Predictor(done.card_path)
        picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
        depth = predictor.predict(picture)
        answer |= {{"runtime": predictor.runtime, "shape": depth.values.shape, "unit": depth.kind.unit}}
    print("RESULT" + json.dumps(answer))
"""


def export(form, out, *, source="tiny_source", **options):
    code = CHILD.format(here=str(Path(__file__).parent), source=source, form=form, out=str(out), options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    answer = json.loads(lines[-1].removeprefix("RESULT"))
    if "missing" in answer:
        pytest.skip(answer["missing"])
    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("onnx", {}),
        ("onnx", {"dynamic": False, "in_graph": False}),
        ("openvino", {"in_graph": True}),
        ("openvino", {"precision": "int8"}),
        ("torch-export", {}),
        ("executorch", {}),
        ("ncnn", {}),
        ("litert", {}),
        ("savedmodel", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_format_runs_and_repeats_its_source(tmp_path, form, options):
    answer = export(form, tmp_path / "out", **options)
    assert answer["worst"]["delta1"] == 1.0
    assert answer["worst"]["max_relative"] < (0.1 if options.get("precision") == "int8" else 1e-4)
    assert answer["runtime"] == RUNTIME_OF[FORMATS[form].role]
    assert answer["shape"] == [70, 90] and answer["unit"] == "m"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "executorch", "ncnn", "litert", "savedmodel"])
def test_every_format_has_the_operations_of_the_embedded_models(tmp_path, form):
    answer = export(form, tmp_path / "out", source="embedded_source")
    assert answer["worst"]["delta1"] == 1.0 and answer["worst"]["max_relative"] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_core_ml_package_has_the_stated_input_and_output(tmp_path, precision):
    answer = export("coreml", tmp_path / "out", precision=precision)
    assert answer["files"] == ["coreml"] and answer["worst"] is None
    assert (tmp_path / "out" / "model.mlpackage" / "Manifest.json").is_file()


def test_missing_environment_prints_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FATHOM_ENVIRONMENTS", str(tmp_path))
    with pytest.raises(ImportError, match=r"-m venv .*onnx2tf.* && .*pip install 'onnx2tf=="):
        ONNX2TF.run(["-m", "onnx2tf"], cwd=tmp_path, purpose="Export to LiteRT")


def test_failing_converter_is_told_with_the_line_that_names_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FATHOM_ENVIRONMENTS", str(tmp_path))
    ONNX2TF.programs.mkdir(parents=True)
    (ONNX2TF.programs / "python").symlink_to(sys.executable)
    with pytest.raises(ValueError, match="onnx2tf failed: boom"):
        ONNX2TF.run(["-c", "import sys; sys.exit('boom')"], cwd=tmp_path, purpose="Export to LiteRT")
    # A message of many lines ends with what says least.
    with pytest.raises(ValueError, match=r"onnx2tf failed: ValueError: wrong axes$"):
        ONNX2TF.run(["-c", "raise ValueError('wrong axes\\n  name=None')"], cwd=tmp_path, purpose="Export to LiteRT")
    assert ONNX2TF.run(["-c", "print(6 * 7)"], cwd=tmp_path, purpose="Export to LiteRT") == "42\n"
