"""Rendered scenes for training: exact depth, whatever is painted on the bodies."""

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("embreex", reason="embreex finds what a ray meets first")
creation = pytest.importorskip("trimesh").creation

SIZE = (48, 64)


@pytest.fixture(scope="module")
def render(load_stage):
    return load_stage("render")


@pytest.fixture
def photographs(tmp_path):
    """Return two lists of one photograph each, of one size."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "bright.png", tmp_path / "dark.png"]
    for file, (low, high) in zip(files, ((120, 255), (0, 100)), strict=True):
        cv2.imwrite(str(file), rng.integers(low, high, (40, 50, 3), np.uint8))
    return [[file] for file in files]


def test_rays_are_one_long_along_the_optical_axis(render):
    for seed in range(5):
        _, rays = render.look(*SIZE, np.random.default_rng(seed))
        np.testing.assert_allclose(rays @ rays.mean(0), 1.0, rtol=1e-9)  # rays lie evenly around the axis


def test_a_wall_and_a_ball_are_as_far_as_they_were_put(render, photographs, monkeypatch):
    def scene(files, rng):
        paint = np.full((256, 256, 3), 0.5, np.float32)
        parts = [creation.box((40, 0.02, 40)).apply_translation((0, 4.01, 0)), creation.icosphere(4, 0.5)]
        parts[1].apply_translation((0, 2.5, 0))
        return [render.Body(part, np.eye(4), paint, 1.0, True) for part in parts]

    def look(height, width, rng):
        rows, columns = np.mgrid[:height, :width] + 0.5
        x, z = columns / width - 0.5, 0.5 - rows / height
        return np.zeros(3), np.stack([x, np.ones_like(x), z], -1).reshape(-1, 3)

    monkeypatch.setattr(render, "scene", scene)
    monkeypatch.setattr(render, "look", look)
    image, inverse = render.render(photographs[0], SIZE, np.random.default_rng(0))
    assert image.shape == (*SIZE, 3) and inverse.shape == SIZE
    np.testing.assert_allclose(1 / inverse[:8], 4.0, rtol=1e-4)
    assert 1 / inverse.max() == pytest.approx(2.0, rel=2e-3)
    shown = (inverse > 0.3).mean()  # a ball seen from 2.5 m, 0.5 m large, as a disc on the plane at 1 m
    assert shown == pytest.approx(np.pi * 0.5**2 / (2.5**2 - 0.5**2), rel=0.05)


def test_what_is_painted_does_not_change_depth(render, photographs):
    first, second = (render.render(files, SIZE, np.random.default_rng(3)) for files in photographs)
    again = render.render(photographs[0], SIZE, np.random.default_rng(3))
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != second[0]).any()
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scenes_are_full_and_finite(render, photographs):
    for seed in range(4):
        _, inverse = render.render(photographs[0], SIZE, np.random.default_rng(seed))
        assert np.isfinite(inverse).all() and inverse.min() > 0
        assert inverse.max() > 2 * inverse.min()
