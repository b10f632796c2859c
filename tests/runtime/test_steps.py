import numpy as np
import pytest

from fathom.errors import ModelError
from fathom.models.cards import InputSpec
from fathom.runtime.steps import Prepared, grid_size, postprocess, preprocess
from fathom.types import DepthKind, InvalidReason, Provenance

AREA = InputSpec(law="area", area=(256, 320), multiple=32)
DPT = InputSpec(law="keep_aspect", height=518, width=518, multiple=14, interpolation="bicubic")


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (256, 320)),
        (640, 480, (320, 256)),
        (100, 100, (288, 288)),
        (1080, 1920, (224, 384)),
        (1, 4000, (96, 800)),
        (4000, 1, (800, 96)),
        (1, 1, (288, 288)),
    ],
)
def test_area_law_keeps_the_number_of_pixels(height, width, expected):
    assert grid_size(AREA, height, width) == expected
    assert 0.75 < np.prod(expected) / (256 * 320) < 1.25


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (518, 686)), (640, 480, (686, 518)), (518, 518, (518, 518)), (1080, 1920, (518, 924))],
)
def test_keep_aspect_law(height, width, expected):
    assert grid_size(DPT, height, width) == expected


def test_keep_aspect_law_does_not_explode_on_a_strip():
    assert grid_size(DPT, 400, 100_000) == (518, 8 * 518)


def test_fixed_and_native_laws():
    assert grid_size(InputSpec(law="fixed", height=384, width=512, multiple=32), 7, 9) == (384, 512)
    assert grid_size(InputSpec(law="native", multiple=32), 100, 70) == (96, 64)
    assert grid_size(InputSpec(law="native", multiple=32), 5, 70) == (32, 64)


def test_a_law_without_its_sizes_is_refused():
    broken = AREA.model_copy(update={"area": None})
    with pytest.raises(ModelError, match="input law"):
        grid_size(broken, 10, 10)


def test_preprocess_normalises_each_channel():
    spec = InputSpec(law="fixed", height=32, width=32, multiple=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    image = np.zeros((10, 12, 3), np.uint8)
    image[...] = (255, 51, 0)
    prepared = preprocess(image, spec)
    assert prepared.array.shape == (1, 3, 32, 32)
    assert prepared.array.dtype == np.float32
    np.testing.assert_allclose(prepared.array[0, :, 5, 5], [(1 - 0.1) / 0.5, 0.0, -0.15], atol=1e-6)
    assert (prepared.height, prepared.width) == (10, 12)
    assert prepared.record["height"] == 32


def test_mirror_border_is_added_and_taken_off_again():
    spec = InputSpec(law="keep_aspect", height=64, width=64, multiple=1, mirror_border=True)
    ramp = np.tile(np.arange(50, dtype=np.uint8)[None, :, None] * 5, (50, 1, 3))
    prepared = preprocess(ramp, spec)
    assert prepared.border == (15, 15)
    assert prepared.array.shape == (1, 3, 64, 64)
    depth = postprocess(
        prepared.array[0, 0],
        prepared,
        kind=DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH,
        camera=None,
        provenance=PROVENANCE,
    )
    inside = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(depth.values[inside], ramp[..., 0][inside] / 255, atol=0.02)


PROVENANCE = Provenance(model="m", weights_sha256="ab", licence="L", preprocessing={"runtime": "r"})


def test_postprocess_marks_what_cannot_be_a_depth():
    raw = np.array([[1.0, 0.0], [-1.0, np.nan]], np.float32)
    prepared = Prepared(np.zeros((1, 3, 2, 2), np.float32), 2, 2, (0, 0), {"law": "fixed"})
    depth = postprocess(raw, prepared, kind=DepthKind.METRIC_DEPTH, camera=None, provenance=PROVENANCE)
    assert depth.valid_mask.tolist() == [[True, False], [False, False]]
    assert depth.invalid_reason[1, 1] == InvalidReason.UNKNOWN
    assert depth.provenance.preprocessing == {"law": "fixed", "runtime": "r"}
    assert (depth.provenance.model, depth.provenance.weights_sha256, depth.provenance.licence) == ("m", "ab", "L")


def test_postprocess_turns_disparity_into_pixels_of_the_picture():
    raw = np.array([[3.0, 5.0]], np.float32)
    prepared = Prepared(np.zeros((1, 3, 4, 8), np.float32), 2, 32, (0, 0), {})
    depth = postprocess(raw, prepared, kind=DepthKind.DISPARITY, camera=None, provenance=PROVENANCE)
    assert depth.values.shape == (2, 32)
    assert (depth.values.min(), depth.values.max()) == (12.0, 20.0)  # 32 / 8 = 4 times
    same = Prepared(np.zeros((1, 3, 4, 2), np.float32), 1, 2, (0, 0), {})
    kept = postprocess(raw, same, kind=DepthKind.DISPARITY, camera=None, provenance=PROVENANCE)
    assert kept.values.tolist() == raw.tolist() == [[3.0, 5.0]]


def test_postprocess_keeps_signs_of_relative_maps():
    raw = np.array([[1.0, -2.0]], np.float32)
    prepared = Prepared(np.zeros((1, 3, 1, 2), np.float32), 1, 4, (0, 0), {})
    kind = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    depth = postprocess(raw, prepared, kind=kind, camera=None, provenance=PROVENANCE)
    np.testing.assert_allclose(depth.values, [[1.0, 0.25, -1.25, -2.0]], atol=1e-6)
    assert depth.valid_mask.all()
