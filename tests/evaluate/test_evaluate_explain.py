import numpy as np
import pytest
from evaluate_helpers import AFFINE, frames, noisy, tiny

from fathom.errors import InputError
from fathom.evaluate import SavedPredictions, evaluate, explain
from fathom.io import write_depth
from fathom.types import DepthKind

SAMPLES = frames(4)


def open_data(described):
    return SAMPLES[: described["count"]]


def made(folder, name, sigma, kind=DepthKind.METRIC_DEPTH, seed=0):
    for sample in SAMPLES:
        write_depth(
            noisy(SAMPLES, sigma, seed=seed, kind=kind)(sample.image), folder / name / f"{sample.meta['id']}.npz"
        )
    return SavedPredictions(folder / name)


def report(saved, protocol, count=4, model="m"):
    source = {"data": {"count": count}, "predictions": saved.to_json()}
    return evaluate(saved, open_data({"count": count}), protocol, model=model, source=source)


def total(found, metric="abs_rel"):
    return sum(share.shares[metric] for share in found.shares)


def test_the_shares_add_up_and_name_every_switch(tmp_path):
    saved = made(tmp_path, "a", 0.3)
    one = report(saved, tiny("nyu-eigen"))
    two = report(saved, tiny("nyu-eigen", "range.max_depth=5.0", "alignment.method=median", "average=pooled"))
    found = explain(one, two, open_data=open_data)
    assert {share.switch for share in found.shares} == {"range", "alignment", "average"}
    for metric in ("abs_rel", "rmse", "delta1"):
        gap = two.scores[metric] - one.scores[metric]
        assert total(found, metric) == pytest.approx(gap, abs=1e-12)
        assert found.first[metric] == one.scores[metric] and found.second[metric] == two.scores[metric]
    assert "max_depth 5.0" in found.markdown() and found.to_json()["shares"][0]["switch"]


def test_a_single_switch_takes_the_whole_gap(tmp_path):
    saved = made(tmp_path, "a", 0.2)
    found = explain(
        report(saved, tiny("nyu-eigen")), report(saved, tiny("nyu-eigen", "average=pooled")), open_data=open_data
    )
    assert [share.switch for share in found.shares] == ["average"]
    assert (found.shares[0].first, found.shares[0].second) == ("per_image", "pooled")


def test_other_predictions_and_images_are_switches_too(tmp_path):
    good, bad = made(tmp_path, "good", 0.05), made(tmp_path, "bad", 0.4, seed=1)
    one, two = report(good, tiny(), model="good"), report(bad, tiny(), count=3, model="bad")
    found = explain(one, two, open_data=open_data)
    shares = {share.switch: share for share in found.shares}
    assert set(shares) == {"data", "images", "predictions"} or set(shares) == {"images", "predictions", "data + images"}
    assert shares["predictions"].shares["abs_rel"] > 0.1
    assert total(found) == pytest.approx(two.scores["abs_rel"] - one.scores["abs_rel"], abs=1e-12)


def test_switches_that_only_make_sense_together_are_joined(tmp_path):
    metric, affine = made(tmp_path, "metric", 0.1), made(tmp_path, "affine", 0.1, kind=AFFINE)
    one, two = report(metric, tiny("nyu-eigen")), report(affine, tiny("zero-shot-midas"))
    found = explain(one, two, open_data=open_data)
    joined = [share.switch for share in found.shares if "predictions" in share.switch]
    assert len(joined) == 1 and "alignment" in joined[0]
    assert total(found) == pytest.approx(two.scores["abs_rel"] - one.scores["abs_rel"], abs=1e-12)


def test_nothing_differs(tmp_path):
    saved = made(tmp_path, "a", 0.1)
    one = report(saved, tiny())
    found = explain(one, one, open_data=open_data)
    assert not found.shares and "Nothing differs" in found.markdown()


def test_a_label_is_no_difference(tmp_path):
    saved = made(tmp_path, "a", 0.1)
    one = report(saved, tiny())
    two = report(saved, tiny("nyu-eigen", "score_crop.name=whole", "name=other"))
    assert not explain(one, two, open_data=open_data).shares


def test_a_report_without_a_source_cannot_be_explained():
    one = evaluate(noisy(SAMPLES), SAMPLES, tiny())
    two = evaluate(noisy(SAMPLES), SAMPLES, tiny("nyu-eigen", "average=pooled"))
    with pytest.raises(InputError, match="does not say where its"):
        explain(one, two)


def test_a_model_behind_a_report_needs_an_opener():
    source = {"data": {"count": 4}, "predictions": {"model": "mine"}}
    one = evaluate(noisy(SAMPLES), SAMPLES, tiny(), source=source)
    two = evaluate(noisy(SAMPLES), SAMPLES, tiny("nyu-eigen", "average=pooled"), source=source)
    with pytest.raises(InputError, match="fathom evaluate explain"):
        explain(one, two, open_data=open_data)
    found = explain(one, two, open_data=open_data, open_predictions=lambda described: noisy(SAMPLES))
    assert np.isfinite(found.shares[0].shares["abs_rel"])
