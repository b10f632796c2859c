"""All files of one picture: names, formats checked beforehand, what each holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.errors import ConfigError, KindError, OutputError, ShapeError
from fathom.io import DEPTH_FORMATS, Picture, read_depth
from fathom.outputs import FORMATS, OutputOptions, check_formats, output_paths, parse_formats, write_outputs
from fathom.types import Camera, Depth, DepthKind, Provenance
from fathom.viz import colorize, display_range, side_by_side, with_legend

PHOTO = Picture(np.random.default_rng(0).integers(0, 256, (130, 140, 3)).astype(np.uint8))
DEPTH = Depth(
    np.tile(np.arange(1000, 1140, dtype=np.float64) * 0.001, (130, 1)),
    DepthKind.METRIC_DEPTH,
    camera=Camera.assumed(height=130, width=140),
    provenance=Provenance("fathom-indoor"),
)
RELATIVE = Depth(DEPTH.values, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)


def test_every_format_at_once(tmp_path: Path) -> None:
    written = write_outputs(DEPTH, PHOTO, tmp_path / "sub" / "room.v2", list(FORMATS))
    assert {path.name for path in written} == {path.name for path in (tmp_path / "sub").iterdir()}
    assert {"room.v2" + entry.suffix for entry in FORMATS.values()} | {"room.v2.npy.json", "room.v2.pfm.json"} == {
        path.name for path in written
    }
    assert set(output_paths(tmp_path / "sub" / "room.v2", list(FORMATS))) <= set(written)
    for name, entry in FORMATS.items():
        if entry.reads:
            assert read_depth(tmp_path / "sub" / f"room.v2{entry.suffix}") == DEPTH, name


def test_no_two_formats_share_a_name() -> None:
    suffixes = [entry.suffix for entry in FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes)
    assert {name for name, entry in FORMATS.items() if entry.reads} == set(DEPTH_FORMATS)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_color_pictures_hold_range_and_metadata(suffix: str, tmp_path: Path) -> None:
    names = ["color", "panel"] if suffix == "png" else ["color_jpg", "panel_jpg"]
    write_outputs(DEPTH, PHOTO, tmp_path / "a", names, OutputOptions(colormap="magma", legend=True))
    painted = colorize(DEPTH, colormap="magma")
    for name, expected in (("color", with_legend(painted)), ("panel", side_by_side(PHOTO.rgb, painted))):
        image = Image.open(tmp_path / f"a_{name}.{suffix}")
        error = np.abs(np.asarray(image).astype(int) - expected).mean()
        assert error == 0 if suffix == "png" else error < 8
        metadata = json.loads(image.text["fathom"] if suffix == "png" else image.info["comment"])
        assert metadata["kind"] == "metric_depth" and metadata["provenance"]["model"] == "fathom-indoor"
        assert metadata["encoding"]["value_range"] == list(display_range(DEPTH))
        assert metadata["encoding"]["colormap"] == "magma"


def test_a_color_picture_is_not_read_as_depth(tmp_path: Path) -> None:
    from fathom.errors import InputError

    [path] = write_outputs(DEPTH, PHOTO, tmp_path / "a", ["color"])
    with pytest.raises(InputError, match="colour picture"):
        read_depth(path)


def test_options_reach_the_writers(tmp_path: Path) -> None:
    options = OutputOptions(png16_scale=0.01, value_range=(0.0, 50.0), mesh=True)
    write_outputs(DEPTH, PHOTO, tmp_path / "a", ["png16", "color", "ply"], options)
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 114
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a_color.png")), colorize(DEPTH, value_range=(0, 50)).rgb)
    assert b"element face 35862" in (tmp_path / "a.ply").read_bytes()[:3000]


def test_names() -> None:
    assert parse_formats(["npy", " png16 ", "npy"]) == ("npy", "png16")
    with pytest.raises(ConfigError, match=r"Unknown format 'colour'. Did you mean 'color'\? Known: png16, npy"):
        parse_formats("png16,colour")
    for nothing in ("", " , ", []):
        with pytest.raises(ConfigError, match="at least one format"):
            parse_formats(nothing)


@pytest.mark.parametrize("name", ["ply", "glb"])
def test_relative_depth_has_no_points_in_metres(name: str, tmp_path: Path) -> None:
    with pytest.raises(KindError, match=f"The format {name} needs metres; this model gives affine_invariant"):
        check_formats(["png16", name], RELATIVE.kind)
    with pytest.raises(KindError, match="needs metres"):
        write_outputs(RELATIVE, PHOTO, tmp_path / "a", ["png16", name])
    assert list(tmp_path.iterdir()) == [], "refused before anything is written"
    check_formats([name], DepthKind.DISPARITY)


def test_relative_depth_in_every_other_format(tmp_path: Path) -> None:
    names = [name for name, entry in FORMATS.items() if RELATIVE.kind in entry.needs]
    write_outputs(RELATIVE, PHOTO, tmp_path / "a", names)
    assert read_depth(tmp_path / "a.npz") == RELATIVE
    assert np.abs(read_depth(tmp_path / "a.png").values - RELATIVE.values).max() < 2e-6


def test_without_a_photo(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="no photo was given"):
        write_outputs(DEPTH, None, tmp_path / "a", ["panel"])
    assert len(write_outputs(DEPTH, None, tmp_path / "a", ["ply", "color"])) == 2


@pytest.mark.parametrize(
    "fields",
    [{"colormap": "jet"}, {"value_range": (2.0, 1.0)}, {"png16_scale": 0.0}, {"max_relative_jump": float("nan")}],
)
def test_senseless_options(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        OutputOptions(**fields)  # type: ignore[arg-type]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in FORMATS:
        with pytest.raises(OutputError, match="Cannot write"):
            write_outputs(DEPTH, PHOTO, tmp_path / "file" / "a", [name])


def test_heavy_libraries_load_only_when_they_are_needed() -> None:
    code = (
        "import sys, fathom.outputs, fathom.io\n"
        "print([m for m in ('OpenEXR', 'trimesh', 'matplotlib', 'cv2', 'torch', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
