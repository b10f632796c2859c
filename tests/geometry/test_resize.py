import numpy as np
import pytest

from fathom.geometry import resize_image, resize_map


def area_by_definition(image, height, width):
    """Repeat every pixel so often that both grids divide it, then average blocks."""
    rows, columns = image.shape[:2]
    fine = np.repeat(np.repeat(image.astype(np.float64), height, 0), width, 1)
    return fine.reshape(height, rows, width, columns, 3).mean((1, 3))


@pytest.mark.parametrize("size", [(3, 4), (5, 9), (1, 1), (4, 5), (2, 10), (7, 2), (8, 10)])
def test_area_is_the_mean_under_the_footprint(size):
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    np.testing.assert_allclose(resize_image(image, *size), area_by_definition(image, *size), atol=1e-3)


def test_area_keeps_the_mean_and_a_flat_picture_flat():
    image = np.full((37, 53, 3), 91, np.uint8)
    np.testing.assert_allclose(resize_image(image, 11, 17), 91, atol=1e-4)
    np.testing.assert_allclose(resize_image(image, 64, 17), 91, atol=1e-4)
    # Blocks whose sum needs 16, and more than 16 bits.
    white = np.full((257, 4, 3), 255, np.uint8)
    for size in ((1, 4), (1, 2), (1, 1)):
        np.testing.assert_array_equal(resize_image(white, *size), 255)


def test_area_on_a_mixed_change_shrinks_one_axis_and_grows_the_other():
    image = np.zeros((2, 8, 3), np.uint8)
    image[:, 4:] = 200
    out = resize_image(image, 6, 2)
    np.testing.assert_allclose(out[:, 0], 0, atol=1)
    np.testing.assert_allclose(out[:, 1], 200, atol=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_other_kernels_are_those_of_pillow(interpolation):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    kernel = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(image).resize((5, 4), kernel), np.float32)
    np.testing.assert_array_equal(resize_image(image, 4, 5, interpolation), expected)


def test_map_upsampling_is_half_pixel_bilinear():
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    out = resize_map(values, 9, 13)
    y = np.clip((np.arange(9) + 0.5) * 4 / 9 - 0.5, 0, 3)
    x = np.clip((np.arange(13) + 0.5) * 5 / 13 - 0.5, 0, 4)
    rows = np.stack([np.interp(y, np.arange(4), values[:, column]) for column in range(5)], 1)
    expected = np.stack([np.interp(x, np.arange(5), row) for row in rows])
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_equal_size_is_left_alone():
    values = np.ones((3, 4), np.float32)
    assert resize_map(values, 3, 4) is values
