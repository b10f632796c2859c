import numpy as np
import pytest

from fathom.data.rotation import match_rotation

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 240, 320
MATRIX = np.array([[260.0, 0, WIDTH / 2], [0, 260.0, HEIGHT / 2], [0, 0, 1]])


def picture(seed=0):
    """Blobs of many sizes, as a room has them."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.integers(0, 256, (HEIGHT // cell, WIDTH // cell, 3), np.uint8), (2 * WIDTH, 2 * HEIGHT))
        for cell in (4, 10, 30)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


def turned(image, axis_angle):
    """Return what a camera sees before and after it turned."""
    rotation = cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0]
    big = np.array([[260.0, 0, WIDTH], [0, 260.0, HEIGHT], [0, 0, 1]])
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    views = [
        cv2.warpPerspective(image, (MATRIX - half) @ r @ np.linalg.inv(big - half), (WIDTH, HEIGHT))
        for r in (np.eye(3), rotation)
    ]
    return *views, rotation


@pytest.mark.parametrize("axis_angle", [(0.0, 0.08, 0.0), (0.05, -0.03, 0.02), (0.0, 0.0, 0.15)])
def test_the_rotation_is_found(axis_angle):
    image, other, truth = turned(picture(), axis_angle)
    motion = match_rotation(image, other, MATRIX)
    error = np.linalg.norm(cv2.Rodrigues(motion[:3, :3] @ truth.T)[0])
    assert error < 0.05 * np.linalg.norm(axis_angle)
    np.testing.assert_array_equal(motion[:3, 3], 0)
    # A larger picture of the same view tells the same.
    large = [cv2.resize(view, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for view in (image, other)]
    scaled = match_rotation(*large, np.diag([4.0, 4.0, 1.0]) @ MATRIX)
    assert np.linalg.norm(cv2.Rodrigues(scaled[:3, :3] @ truth.T)[0]) < 0.1 * np.linalg.norm(axis_angle)


def test_pictures_without_common_features_say_nothing():
    first, second = (picture(seed)[:HEIGHT, :WIDTH] for seed in (1, 2))
    np.testing.assert_array_equal(match_rotation(first, second, MATRIX), np.eye(4))
