"""``fathom data`` on the command line."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from fathom.cli.main import app
from fathom.data import DATASETS, PreparedDataset

runner = CliRunner()


def write(root: Path, count: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        for name, array in (
            ("rgb", rng.integers(0, 255, (24, 32, 3), np.uint8)),
            ("depth", rng.integers(1000, 5000, (24, 32)).astype(np.uint16)),
        ):
            path = root / name / f"scene{i % 3}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return root


def test_list() -> None:
    result = runner.invoke(app, ["data"])
    assert result.exit_code == 0 and all(name in result.stdout for name in DATASETS)
    rows = json.loads(runner.invoke(app, ["data", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(DATASETS)


def test_doctor_then_prepare(tmp_path: Path) -> None:
    write(tmp_path / "d")
    result = runner.invoke(app, ["data", "doctor", str(tmp_path / "d"), "--out", str(tmp_path / "out"), "--json"])
    report = json.loads(result.stdout)
    assert report["pairs"] == 4 and result.exit_code == (0 if report["ok"] else 1)
    yaml_file = tmp_path / "out" / "dataset.yaml"
    arguments = ["data", "prepare", "folder", str(yaml_file), "--out", str(tmp_path / "fast"), "--size", "12", "16"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    prepared = PreparedDataset(tmp_path / "fast", "all")
    assert len(prepared) == 4 and prepared[0].image.shape == (12, 16, 3)


def test_frame_wise_division_warns(tmp_path: Path) -> None:
    root = write(tmp_path / "d", 20)
    arguments = ["data", "prepare", "7-scenes", str(root), "--out", str(tmp_path / "fast"), "--shares", "80/10/10"]
    refused = runner.invoke(app, arguments)
    assert refused.exit_code != 0 and "too few to divide by scene" in str(refused.exception)
    result = runner.invoke(app, [*arguments, "--split-by", "frame"])
    assert result.exit_code == 0 and "measures memory" in result.stderr
    assert [len(PreparedDataset(tmp_path / "fast", part)) for part in ("train", "val", "test")] == [16, 2, 2]
