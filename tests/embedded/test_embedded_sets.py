"""The benchmark over the development sets, on made-up data and a tiny model."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.protocol import PROTOCOL_FOLDER, load_protocol
from fathom.types import DepthKind
from tiny_models import make_model

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "embedded.py"
PROTOCOLS = sorted((BENCHMARK.parent / "protocols").glob("*.yaml"))


@pytest.fixture
def data(tmp_path):
    """Four frames of NYU and two scenes of Middlebury; the second half of each depth map is nearer."""
    rng = np.random.default_rng(0)
    nyu = tmp_path / "data" / "nyuv2"
    for name in ("rgb", "depth"):
        (nyu / name).mkdir(parents=True)
    for number in range(1, 5):
        Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(nyu / "rgb" / f"{number:04d}.jpg")
        millimetres = np.full((480, 640), 1000 * number, np.uint16)
        millimetres[:, 320:] -= 500
        Image.fromarray(millimetres).save(nyu / "depth" / f"{number:04d}.png")
    (nyu / "train.txt").write_text("0001\n0002\n")
    (nyu / "val.txt").write_text("0003\n0004\n")
    for scene in ("Art", "Cones"):
        folder = tmp_path / "data" / "middlebury" / scene
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / "view1.png")
        Image.fromarray(rng.integers(0, 200, (48, 64), np.uint8)).save(folder / "disp1.png")
    return tmp_path / "data"


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["embedded.py", *map(str, arguments)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_tables_keep_metric_and_fitted_apart_and_baselines_are_the_means_of_train(data, tmp_path, monkeypatch, capsys):
    model = make_model(tmp_path / "tiny", name="tiny")
    arguments = ("--data", data, "--sets", "nyu", "middlebury", "--model", model, "mean-depth", "mean-map")
    rows = run(monkeypatch, capsys, *arguments, "--teacher", model, "--out", tmp_path / "all.json")
    metric, fitted = rows[1:4], rows[5:]
    assert [row[:3] for row in metric] == [["nyu", name, "2"] for name in ("tiny", "mean-depth", "mean-map")]
    assert [row[:2] for row in fitted] == [
        *(["nyu", name] for name in ("tiny", "mean-depth", "mean-map")),
        ["middlebury", "tiny"],
    ]
    # train: 1.0 and 0.5 m, 2.0 and 1.5 m. val: 3.0 and 2.5 m, 4.0 and 3.5 m. The crop has 279 and 281 columns.
    left, right = 279 / 560, 281 / 560
    mean = left * 1.5 + right * 1.0
    errors = [left * (d - mean) / d + right * (d - 0.5 - mean) / (d - 0.5) for d in (3.0, 4.0)]
    assert metric[1][3].startswith(f"{np.mean(errors):.3f}")
    errors = [left * (d - 1.5) / d + right * (d - 0.5 - 1.0) / (d - 0.5) for d in (3.0, 4.0)]
    assert metric[2][3].startswith(f"{np.mean(errors):.3f}")
    # The mean map has the shape of the truth, so the fit makes it perfect; Middlebury has no metres.
    assert fitted[2][3].startswith("0.000") and fitted[2][6].startswith("1.000")
    assert fitted[3][4] == "" and fitted[3][2] == "2"
    assert [row[8] == "" for row in fitted] == [True, False, False, True], "the teacher is not compared with itself"


def test_an_earlier_run_is_compared_with_on_the_images_that_both_have(data, tmp_path, monkeypatch, capsys):
    first = make_model(tmp_path / "first", name="first", kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
    second = make_model(tmp_path / "second", name="second", bias=3.0)
    common = ("--data", data, "--sets", "nyu", "--model")
    run(monkeypatch, capsys, *common, first, "--out", tmp_path / "first.json")
    stored = json.loads((tmp_path / "first.json").read_text())["rows"]
    assert [row["protocol"].split("#")[0] for row in stored] == ["zero-shot-midas"], "it is not metric"
    rows = run(monkeypatch, capsys, *common, second, "--every", 2, "--teacher", tmp_path / "first.json")
    assert [row[1:3] for row in rows if row[0] == "nyu"] == [["second", "1"], ["second", "1"], ["first", "2"]]
    difference = next(row[8] for row in rows if row[1] == "second" and len(row) == 10)
    assert difference[0] in "+-" and " to " in difference
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--data", data, "--sets", "middlebury", "--teacher", tmp_path / "first.json")


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_its_protocols_are_named_after_their_files_and_are_no_copies(path):
    shipped = [load_protocol(other) for other in sorted(PROTOCOL_FOLDER.glob("*.yaml"))]
    others = [load_protocol(other) for other in PROTOCOLS if other != path]
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    assert protocol.hash not in {other.hash for other in (*shipped, *others)}
