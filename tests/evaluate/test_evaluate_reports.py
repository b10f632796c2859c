import json

import numpy as np
import pytest
from evaluate_helpers import AFFINE, frames, noisy, tiny
from PIL import Image
from typer.testing import CliRunner

from fathom.errors import KindError
from fathom.evaluate import contact_sheet, evaluate, evaluate_all, report_html, write_report
from fathom.io import write_depth

SAMPLES = frames(4)


def test_the_sheet_shows_the_worst_first():
    truth = noisy(SAMPLES, 0.0)

    def predict(image):
        depth = truth(image)
        return type(depth)(depth.values * (1.0 + 0.1 * image[0, 0, 0]), depth.kind)

    report = evaluate(predict, SAMPLES, tiny())
    assert [record.name for record in report.worst(2)] == ["0003", "0002"]
    sheet = contact_sheet(report, predict, SAMPLES, num=2)
    assert sheet.size == (4 * 256, 2 * (192 + 22))
    # Left column: the picture of the worst image, enlarged.
    tile = np.asarray(sheet.crop((0, 22, 256, 214)))
    assert np.array_equal(tile, np.asarray(Image.fromarray(SAMPLES[3].image).resize((256, 192))))


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    predict = noisy(SAMPLES, kind=AFFINE)
    report = evaluate(predict, SAMPLES, tiny("zero-shot-midas"), model="<model>")
    sheet = contact_sheet(report, predict, SAMPLES, num=2)
    page = report_html(report, sheet=sheet)
    assert page.count("<img ") == page.count('src="data:image/') == 4
    assert "<link" not in page and "<script" not in page and "<model>" not in page
    assert report.protocol.hash in page and "&lt;model&gt;" in page
    files = write_report(report, tmp_path, formats=("md", "json", "html"), sheet=sheet)
    assert [path.name for path in files] == ["report.md", "report.json", "report.html", "worst.jpg"]
    assert json.loads((tmp_path / "report.json").read_text())["protocol_hash"] == report.protocol.hash


def test_several_models_are_compared_with_the_first(tmp_path):
    candidates = {"a": noisy(SAMPLES, 0.1), "b/c": noisy(SAMPLES, 0.3), "affine": noisy(SAMPLES, kind=AFFINE)}
    run = evaluate_all(candidates, SAMPLES, [tiny()], out=tmp_path, num_worst=1)
    assert "## b/c minus a (4 shared images)" in run.text
    assert "affine cannot be scored under nyu-eigen" in run.text
    assert (tmp_path / "b_c" / "nyu-eigen" / "worst.jpg").is_file() and (tmp_path / "summary.md").is_file()
    assert len(run.reports) == 2
    with pytest.raises(KindError):
        evaluate_all({"affine": candidates["affine"]}, SAMPLES, [tiny()])


@pytest.fixture
def data_and_maps(tmp_path):
    """A folder with rgb/ and depth/, and saved maps in inverse depth from another tool."""
    data, maps = tmp_path / "data", tmp_path / "maps"
    for folder in (data / "rgb", data / "depth", maps):
        folder.mkdir(parents=True)
    for sample in SAMPLES:
        name = sample.meta["id"]
        Image.fromarray(sample.image).save(data / "rgb" / f"{name}.png")
        Image.fromarray(np.rint(sample.target * 1000).astype(np.uint16)).save(data / "depth" / f"{name}.png")
        np.save(maps / f"{name}.npy", 1.0 / sample.target)
    return data, maps


def test_the_command_scores_and_explains(tmp_path, data_and_maps):
    from fathom.cli.evaluate import app
    from fathom.cli.main import app as main

    data, maps = data_and_maps
    runner = CliRunner()
    common = ["-p", str(maps), "-d", str(data), "--kind", "affine_invariant_inverse_depth", "--partial"]
    out = tmp_path / "out"
    done = runner.invoke(
        app, [*common, "-P", "zero-shot-midas-full", "-P", "zero-shot-midas-kitti", "-o", str(out), "--limit", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "zero-shot-midas-full#" in done.stdout and "3 (partial)" in done.stdout
    reports = sorted(str(path) for path in out.rglob("report.json"))
    told = runner.invoke(app, ["explain", *reports])
    assert told.exit_code == 0, told.output
    assert "| score_crop | none | garg |" in told.stdout
    as_json = runner.invoke(main, ["evaluate", *common, "-P", "zero-shot-midas-full", "--json"])
    assert json.loads(as_json.stdout)[0]["num_images"] == 4


def test_the_command_asks_for_what_is_missing():
    from fathom.cli.evaluate import app
    from fathom.errors import ConfigError

    result = CliRunner().invoke(app, ["-d", "x"])
    assert isinstance(result.exception, ConfigError)


def test_depth_files_of_fathom_need_no_kind(tmp_path, data_and_maps):
    from fathom.cli.evaluate import app

    data, _ = data_and_maps
    for sample in SAMPLES:
        write_depth(noisy(SAMPLES)(sample.image), tmp_path / "own" / f"{sample.meta['id']}.png", "png16")
    result = CliRunner().invoke(
        app, ["-p", str(tmp_path / "own"), "-d", str(data), "-P", "ibims1", "--partial", "--all-protocols"]
    )
    assert result.exit_code == 0, result.output
    assert "Metric predictions, as they are" in result.stdout and "Fitted to the test ground truth" in result.stdout
    assert "cannot score these predictions" in result.stdout
