"""Scoring models that see both views of a stereo pair."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate_helpers import frames, tiny

from fathom.errors import ConfigError, InputError
from fathom.evaluate import FromPair, evaluate
from fathom.types import Camera, Depth, DepthKind, FocalSource


def pairs(count=2, shape=(24, 32)):
    focal = 20.0 * shape[1] / 32
    camera = Camera.from_focal(focal, height=shape[0], width=shape[1], source=FocalSource.USER)
    camera = replace(camera, baseline_m=0.5)
    samples = [replace(sample, camera=camera) for sample in frames(count, shape=shape)]
    return [replace(s, meta={**s.meta, "image_right": 255 - s.image}) for s in samples]


def test_the_second_view_is_given():
    samples = pairs()
    truth = {sample.image.tobytes(): sample.target for sample in samples}

    def predict(image, *, right):
        np.testing.assert_array_equal(right, 255 - image)
        return Depth(10.0 / truth[image.tobytes()], DepthKind.DISPARITY)

    report = evaluate(FromPair(predict), samples, tiny("monodepth"))
    assert report.scores["abs_rel"] < 1e-6
    assert report.scores["d1"] == 0


def test_both_views_are_cropped():
    def predict(image, *, right):
        assert image.shape == right.shape == (352, 1216, 3)
        np.testing.assert_array_equal(right, 255 - image)
        return Depth(np.full((352, 1216), 5.0), DepthKind.METRIC_DEPTH)

    evaluate(
        FromPair(predict), pairs(1, (375, 1242)), tiny("monodepth", "image_crop=kb_crop", "missing_prediction=exclude")
    )


def test_what_a_pair_cannot_do_is_told():
    def predict(image, *, right):
        raise AssertionError("not called")

    with pytest.raises(InputError, match="stereo=true"):
        evaluate(FromPair(predict), frames(2), tiny("monodepth"))
    turned = [replace(s, meta={**s.meta, "baseline_sign": -1}) for s in pairs()]
    with pytest.raises(InputError, match="no right one"):
        evaluate(FromPair(predict), turned, tiny("monodepth"))
    with pytest.raises(ConfigError, match=r"flip=none"):
        evaluate(FromPair(predict), pairs(), tiny("monodepth-pp"))
