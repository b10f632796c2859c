"""``fathom export`` and ``fathom benchmark``: words in, files out, exit codes."""

import json

import pytest

pytest.importorskip("onnx", reason="export needs onnx (pip install 'fathom-depth[export]')")


def test_export_writes_file_card_and_report(command, metric_model, tmp_path):
    code, out, _ = command("export", "-m", metric_model, "--to", "onnx", "-o", tmp_path / "room.onnx")
    assert code == 0
    names = {"room.onnx", "room.json", "room.parity.json", "room.parity.md"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(f"Wrote {tmp_path / name}" in out for name in names)
    assert "fathom predict" in out


def test_json_holds_the_report(command, metric_model, tmp_path):
    code, out, _ = command("export", "-m", metric_model, "--to", "onnx", "-o", tmp_path, "--graph", "network", "--json")
    values = json.loads(out)
    assert code == 0 and values["parity"]["worst"]["delta1"] == 1.0
    assert str(tmp_path / "model.onnx") in values["files"]


def test_export_beyond_the_tolerance_is_exit_code_1(command, metric_model, tmp_path):
    words = ("-m", metric_model, "--to", "onnx", "-o", tmp_path, "--precision", "bf16", "--tolerance", "1e-9")
    code, _, err = command("export", *words)
    assert code == 1 and "was removed" in err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "onxx"), "Did you mean 'onnx'"),
        (("--to", "onnx", "--graph", "whole"), "picture or network"),
        (("--to", "onnx", "--tolerance", "0"), "must be positive"),
        (("--to", "onnx", "--size", "big"), "HEIGHTxWIDTH"),
        (("--to", "ncnn", "--precision", "int8"), "it can: fp32, fp16"),
    ],
)
def test_wrong_words_are_exit_code_2(command, metric_model, tmp_path, words, said):
    code, _, err = command("export", "-m", metric_model, "-o", tmp_path / "out", *words)
    assert code == 2 and said in err


def test_predict_runs_an_export(command, metric_model, tmp_path):
    from tiny_models import make_photo

    command("export", "-m", metric_model, "--to", "onnx", "-o", tmp_path / "model")
    photo = make_photo(tmp_path / "photo.png")
    code, out, _ = command("predict", photo, "-m", tmp_path / "model", "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["unit"] == "m"


@pytest.mark.slow
def test_benchmark_compares_models_and_runtimes(command, metric_model, tmp_path):
    from tiny_models import make_photo

    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    for index in range(2):
        make_photo(tmp_path / "in" / f"{index}.png", 40 + index, 60, seed=index)
    command("export", "-m", metric_model, "--to", "onnx", "-o", tmp_path / "int8", "--precision", "int8-weights")
    words = ("-m", metric_model, "-m", tmp_path / "int8", "-r", "onnxruntime", "-r", "openvino", "--repeats", "2")
    code, out, _ = command("benchmark", *words, "--pictures", tmp_path / "in", "-o", tmp_path / "out", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and len(rows) == 4
    assert [row["runtime"] for row in rows] == ["onnxruntime", "openvino"] * 2
    assert rows[0]["delta1"] == 1.0 and rows[0]["abs_rel"] == 0.0
    assert all(row["delta1"] > 0.99 and row["latency_ms"] > 0 and row["throughput"] > 0 for row in rows)
    assert all(row["memory_mb"] > 20 and row["latency_low_ms"] <= row["latency_high_ms"] for row in rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "benchmark.json",
        "benchmark.md",
        "benchmark.png",
    ]


def test_benchmark_refuses_what_is_not_there(command, metric_model):
    code, _, err = command("benchmark", "-m", metric_model, "-r", "onnxrun")
    assert code == 2 and "Did you mean 'onnxruntime'" in err
    code, _, err = command("benchmark", "-m", "nothing-here")
    assert code == 2 and "No model is called" in err
