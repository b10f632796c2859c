"""The gallery: its page, its pictures and their terms belong together, and its panoramas are cut correctly."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.config import load_config
from fathom.errors import InputError
from fathom.types import Depth, DepthKind

REPOSITORY = Path(__file__).resolve().parents[2]
GALLERY = REPOSITORY / "docs" / "gallery"
SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "gallery.py"))
SOURCES = load_config(GALLERY / "sources.yaml", SCRIPT["Sources"])


def test_every_row_is_on_the_page_with_its_pictures_and_terms():
    page = (REPOSITORY / "docs" / "gallery.md").read_text()
    wanted = {"sources.yaml"}
    for photo in SOURCES.photos:
        names = [f"{photo.name}{label}.jpg" for label in ("", *(f"-{label}" for label in SCRIPT["MODELS"]))]
        assert all(f"](gallery/{name})" in page for name in names)
        assert f"{photo.source}; {SCRIPT['TERMS'][photo.licence]}." in page
        wanted |= set(names)
    assert {path.name for path in GALLERY.iterdir()} == wanted
    assert len(SOURCES.photos) >= 12


def test_the_pictures_are_small():
    panels = list(GALLERY.glob("*.jpg"))
    assert all(path.stat().st_size <= 25_000 for path in panels)
    assert sum(path.stat().st_size for path in panels) < 1_500_000
    for path in panels:
        with Image.open(path) as image:
            assert image.width == 320


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (90.0, 0.0), (-170.0, 0.0), (30.0, 20.0)])
def test_a_view_looks_where_it_is_told(yaw, pitch):
    # A lamp of one direction in a dim sphere is seen in the middle of the view.
    longitude = (np.arange(360) + 0.5) - 180
    latitude = 90 - (np.arange(180) + 0.5)
    away = np.hypot((longitude[None] - yaw + 180) % 360 - 180, latitude[:, None] - pitch)
    panorama = np.repeat(np.where(away < 4, 50.0, 0.1)[..., None], 3, axis=2)
    view = SCRIPT["View"](yaw_deg=yaw, pitch_deg=pitch, fov_x_deg=60.0)
    seen = SCRIPT["cut_view"](panorama, view, 60, 80)
    rows, columns = np.nonzero(seen[..., 0] > 200)
    assert rows.size > 10
    assert abs(rows.mean() - 29.5) < 1 and abs(columns.mean() - 39.5) < 1


def test_a_view_has_its_field_of_view():
    # Dark and bright stripes, each 10 degrees wide; their borders lie at tangents of 10, 20, 30 and 40 degrees.
    stripes = np.arange(3600) // 100 % 2 + 0.1
    panorama = np.broadcast_to(stripes[None, :, None], (20, 3600, 3))
    view = SCRIPT["View"](yaw_deg=0.0, pitch_deg=0.0, fov_x_deg=90.0)
    seen = SCRIPT["cut_view"](np.ascontiguousarray(panorama), view, 3, 400)[1, :, 0]
    changes = np.flatnonzero(np.diff(seen > seen.mean()))
    tangents = 200 * (1 + np.tan(np.radians(np.arange(-40, 50, 10))))
    np.testing.assert_allclose(changes + 1, tangents, atol=1.5)


def test_metric_maps_are_painted_by_their_inverse():
    metres = np.linspace(1, 9, 64, dtype=np.float32).reshape(8, 8)
    metric = SCRIPT["paint"](Depth(metres, DepthKind.METRIC_DEPTH))
    relative = SCRIPT["paint"](Depth(1 / metres, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH))
    np.testing.assert_allclose(metric.astype(int), relative.astype(int), atol=3)


def test_a_missing_photo_is_named(tmp_path):
    assert SCRIPT["find_file"]("fathom/demo/coffee.jpg", tmp_path).is_file()
    with pytest.raises(InputError, match=r"Expected 'some-package/a\.jpg'"):
        SCRIPT["find_file"]("some-package/a.jpg", tmp_path)
