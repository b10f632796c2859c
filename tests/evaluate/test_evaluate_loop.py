import math
from dataclasses import replace

import numpy as np
import pytest
from evaluate_helpers import AFFINE, frame, frames, noisy, tiny

from fathom.errors import ConfigError, EmptyMaskError, InputError, KindError
from fathom.evaluate import (
    Report,
    SavedPredictions,
    bootstrap_intervals,
    compare_reports,
    describe_data,
    evaluate,
    evaluate_protocols,
    models_markdown,
    parse_options,
    predict_for,
    protocols_markdown,
    report_markdown,
)
from fathom.evaluate.statistics import sign_flip_p_value
from fathom.io import write_depth
from fathom.metrics.scoring import score_image
from fathom.types import Camera, Depth, DepthKind, FocalSource, InvalidReason, Provenance, Sample


def test_every_image_is_scored_as_on_its_own_and_in_order():
    samples = frames(7)
    predict = noisy(samples)
    report = evaluate(predict, samples, tiny(), num_workers=3)
    assert [record.name for record in report.records] == [sample.meta["id"] for sample in samples]
    for record, sample in zip(report.records, samples, strict=True):
        assert record.scores == pytest.approx(score_image(predict(sample.image), sample, tiny()).scores, rel=1e-12)
    assert report.scores["abs_rel"] == pytest.approx(np.mean([r.scores["abs_rel"] for r in report.records]))


def test_a_generator_and_a_list_give_the_same():
    samples = frames(5)
    assert evaluate(noisy(samples), iter(samples), tiny()).scores == evaluate(noisy(samples), samples, tiny()).scores


def test_fact_3b_4e_another_number_of_images_is_an_error_unless_allowed_and_said():
    samples = frames(5)
    protocol = tiny("nyu-eigen", "split.images=6")
    with pytest.raises(ConfigError, match="scores 6 images; these are 5"):
        evaluate(noisy(samples), samples, protocol)
    with pytest.raises(ConfigError, match="scores 6 images; these are 5"):
        evaluate(noisy(samples), iter(samples), protocol)
    report = evaluate(noisy(samples), samples, protocol, is_partial=True)
    assert report.is_partial and "Partial: 5 images were scored, nyu-eigen states 6" in report.notes()[0]
    assert not evaluate(noisy(samples), samples, tiny("nyu-eigen", "split.images=5"), is_partial=True).is_partial


def test_fact_3b_a_skipped_image_breaks_the_count():
    samples = [*frames(3), frame(3, holes=24 * 32)]
    with pytest.raises(ConfigError, match=r"these are 3 \(1 skipped: 0003\)"):
        evaluate(noisy(samples), samples, tiny("nyu-eigen", "split.images=4"))


def test_fact_3c_4f_a_declared_ground_truth_of_another_source_is_refused():
    samples = frames(2, ground_truth="filled")
    with pytest.raises(ConfigError, match="raw ground truth; this data declares filled"):
        evaluate(noisy(samples), samples, tiny())
    assert evaluate(noisy(samples), samples, tiny("nyu-eigen", "split.ground_truth=filled")).num_images == 2


def test_fact_6e_a_model_that_cannot_reach_the_cap_is_noted():
    samples = frames(2)

    def short_sighted(image):
        return Depth(np.full(image.shape[:2], 3.0), DepthKind.METRIC_DEPTH)

    assert any("No prediction exceeds 3 m" in note for note in evaluate(short_sighted, samples, tiny()).notes())


def test_fact_7c_refused_with_the_cure():
    samples = frames(2)
    with pytest.raises(KindError, match="Use a protocol that fits scale and shift in inverse depth"):
        evaluate(noisy(samples, kind=AFFINE), samples, tiny())
    with pytest.raises(KindError, match="linear in inverse depth only"):
        evaluate(noisy(samples, kind=AFFINE), samples, tiny("zero-shot-marigold"))
    assert evaluate(noisy(samples, 0.0, kind=AFFINE), samples, tiny("zero-shot-midas")).scores["abs_rel"] < 1e-5


def test_fact_7d_a_comparison_refuses_mixed_hashes():
    samples = frames(3)
    one = evaluate(noisy(samples), samples, tiny())
    two = evaluate(noisy(samples), samples, tiny("nyu-eigen", "range.max_depth=8.0"))
    with pytest.raises(ConfigError, match="Only scores of one protocol"):
        compare_reports(one, two)
    with pytest.raises(ConfigError, match="One table holds one protocol"):
        models_markdown([one, two], {})


def test_fact_9a_9b_per_image_and_pooled_differ_with_different_masks():
    samples = [frame(0), frame(1, holes=700)]
    predict = noisy(samples, 0.2)
    report = evaluate(predict, samples, tiny())
    pooled = evaluate(predict, samples, tiny("nyu-eigen", "average=pooled"))
    assert report.scores["rmse"] != pooled.scores["rmse"]
    assert pooled.scores["rmse"] == pytest.approx(
        math.sqrt(sum(r.sums.sq_error for r in report.records) / report.num_pixels)
    )
    assert report.pooled() == pooled.scores and pooled.per_image() == report.scores


def test_fact_9d_empty_masks_are_skipped_counted_and_named():
    samples = [frame(0), frame(1, holes=24 * 32), frame(2)]
    report = evaluate(noisy(samples), samples, tiny())
    assert [skipped.name for skipped in report.skipped] == ["0001"]
    assert "1 images were skipped: 0001." in report.notes()
    assert "0001: No pixel of the target" in report_markdown(report)
    with pytest.raises(EmptyMaskError, match="No image was scored; 1 were skipped"):
        evaluate(noisy(samples), samples[1:2], tiny())


def test_fact_10a_the_callable_gets_the_picture_untouched():
    samples, seen = frames(3), []

    def predict(image):
        seen.append(image)
        return Depth(np.full(image.shape[:2], 2.0), DepthKind.METRIC_DEPTH)

    evaluate(predict, samples, tiny())
    assert all(one is sample.image for one, sample in zip(seen, samples, strict=True))


def test_fact_12a_12b_test_time_treatment_is_the_protocols():
    samples = frames(2)
    calls = []

    def predict(image):
        calls.append(image.shape)
        return Depth(1.0 + image[..., 0].astype(np.float32), DepthKind.METRIC_DEPTH)

    evaluate(predict, samples, tiny("nyu-eigen", "test_time.flip=average", "test_time.scales=[1.0, 0.5]"))
    assert calls == [(24, 32, 3), (12, 16, 3)] * 4
    calls.clear()
    evaluate_protocols(predict, samples, [tiny(), tiny("nyu-fcrn"), tiny("monodepth-pp")])
    assert len(calls) == 2 * (1 + 2)


def test_fact_13b_the_spread_of_fitted_scales_is_reported():
    samples = frames(4)
    report = evaluate(noisy(samples), samples, tiny("monodepth2-mono"))
    assert any("relative spread" in note and "fitted to the test ground truth" in note for note in report.notes())


def test_fact_14a_metric_and_fitted_rows_stand_in_separate_tables():
    samples = frames(3)
    protocols = [tiny("nyu-eigen"), tiny("zero-shot-midas"), tiny("nyu-fcrn"), tiny("monodepth2-mono")]
    results = evaluate_protocols(noisy(samples), samples, protocols)
    text = protocols_markdown("m", {p.name: r for p, r in zip(protocols, results, strict=True)})
    metric, fitted = text.split("## Fitted to the test ground truth")
    assert "nyu-eigen#" in metric and "nyu-fcrn#" in metric and "zero-shot-midas" not in metric
    assert "zero-shot-midas#" in fitted and "monodepth2-mono#" in fitted and "nyu-" not in fitted


def test_fact_14b_given_intrinsics_are_passed_and_said():
    samples = frames(2)
    protocol = tiny("nyu-eigen", "intrinsics=given")
    with pytest.raises(InputError, match="this data has none"):
        evaluate(noisy(samples), samples, protocol)
    camera = Camera.from_focal(30.0, height=24, width=32, source=FocalSource.USER)
    seen = []

    def predict(image, camera=None):
        seen.append(camera)
        return Depth(np.full(image.shape[:2], 2.0), DepthKind.METRIC_DEPTH)

    from dataclasses import replace

    report = evaluate(predict, [replace(s, camera=camera) for s in samples], protocol)
    assert seen == [camera, camera]
    assert "The model was given the true camera." in report.notes()


def test_fact_15b_results_carry_the_hash_of_the_weights():
    samples = frames(1)

    def predict(image):
        return Depth(np.ones(image.shape[:2]), DepthKind.METRIC_DEPTH, provenance=Provenance(weights_sha256="ab" * 32))

    assert "ab" * 32 in report_markdown(evaluate(predict, samples, tiny()))


def test_fact_19a_a_wobbling_clip_scores_worse_with_one_fit_for_the_clip():
    samples = [frame(index, scene="a" if index < 3 else "b") for index in range(6)]
    truth = {int(sample.image[0, 0, 0]): sample.target for sample in samples}

    def wobbles(image):
        index = int(image[0, 0, 0])
        return Depth(truth[index] * (1.0 + 0.2 * (-1) ** index), DepthKind.SCALE_INVARIANT_DEPTH)

    scores = {
        unit: evaluate(wobbles, samples, tiny("monodepth2-mono", f"alignment.unit={unit}", "range.max_depth=80.0"))
        for unit in ("image", "clip", "dataset")
    }
    assert scores["image"].scores["abs_rel"] < 1e-6
    assert scores["clip"].scores["abs_rel"] > 0.05 and scores["dataset"].scores["abs_rel"] > 0.05
    scales = [record.scale for record in scores["clip"].records]
    assert len(set(scales)) == 2 and scales[0] == scales[2] and scales[3] == scales[5]
    assert len({record.scale for record in scores["dataset"].records}) == 1


def test_fact_20a_intervals_and_paired_tests():
    samples = frames(30)
    good, bad = (evaluate(noisy(samples, s), samples, tiny(), model=f"s{s}") for s in (0.1, 0.2))
    same = evaluate(noisy(samples, 0.1, seed=9), samples, tiny(), model="same")
    for name, interval in bootstrap_intervals(good).items():
        assert interval.low <= interval.value <= interval.high, name
    worse = {row.metric: row for row in compare_reports(good, bad)}
    assert worse["abs_rel"].better == "first" and worse["delta1"].better == "first"
    assert worse["abs_rel"].p_value < 0.01 and worse["abs_rel"].num_images == 30
    equal = {row.metric: row for row in compare_reports(good, same)}
    assert equal["abs_rel"].better == "undecided" or equal["abs_rel"].p_value > 0.01
    text = models_markdown([good, bad], {"s0.2": list(worse.values())})
    assert "s0.2 minus s0.1 (30 shared images)" in text and "| s0.1 |" in text


def test_the_interval_of_a_mean_is_that_of_theory():
    """Provenance: standard error of a mean, s / sqrt(n); 1.96 of them to each side."""
    samples = frames(60, shape=(4, 5))
    report = evaluate(noisy(samples, 0.2), samples, tiny())
    values = np.array([record.scores["abs_rel"] for record in report.records])
    error = values.std() / math.sqrt(len(values))
    interval = bootstrap_intervals(report)["abs_rel"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_pooled_intervals_pool_again():
    samples = [frame(index, holes=100 * index) for index in range(6)]
    report = evaluate(noisy(samples, 0.2), samples, tiny("nyu-eigen", "average=pooled"))
    interval = bootstrap_intervals(report)["rmse"]
    assert interval.low < interval.value < interval.high and interval.value == report.pooled()["rmse"]


def test_comparison_uses_shared_images_only():
    samples = frames(6)
    one = evaluate(noisy(samples), samples[:4], tiny())
    two = evaluate(noisy(samples, seed=1), samples[2:], tiny())
    assert compare_reports(one, two)[0].num_images == 2
    with pytest.raises(EmptyMaskError, match="share no scored image"):
        compare_reports(evaluate(noisy(samples), samples[:2], tiny()), two)


def test_sign_flips_see_a_steady_difference_and_no_other():
    rng = np.random.default_rng(0)
    assert sign_flip_p_value(rng.normal(1.0, 0.1, 50)) < 0.001
    assert sign_flip_p_value(rng.normal(0.0, 1.0, 50)) > 0.05


def test_a_report_survives_json(tmp_path):
    samples = [*frames(4), frame(4, holes=24 * 32)]
    report = evaluate(noisy(samples), samples, tiny(), model="m", source={"data": {"a": 1}}, boundary=True)
    back = Report.load(report.save(tmp_path / "deep" / "r.json"))
    assert back == report
    assert back.scores == report.scores and back.by_range() == report.by_range() and back.by_edge() == report.by_edge()


def test_a_file_that_is_no_report_is_told(tmp_path):
    for text in ("{}", "[1]", "no json", '{"format": "fathom-report-1", "model": "m"}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(InputError, match="report"):
            Report.load(tmp_path / "r.json")


def test_breakdowns_cover_every_pixel_once():
    samples = frames(3)
    report = evaluate(noisy(samples), samples, tiny(), range_edges=(0.0, 3.0, 6.0, 100.0))
    assert sum(scores["share"] for scores in report.by_range().values()) == pytest.approx(1.0)
    assert sum(scores["share"] for scores in report.by_edge().values()) == pytest.approx(1.0)
    assert list(report.by_range()) == [(0.0, 3.0), (3.0, 6.0), (6.0, 100.0)]


def test_mixed_kinds_and_unusable_predictions_name_the_image():
    samples = frames(3)

    def sparse(image):
        values = np.ones(image.shape[:2])
        if image[0, 0, 0] == 1:
            values[3, 3] = np.nan
        return Depth(values, DepthKind.METRIC_DEPTH)

    with pytest.raises(InputError, match=r"0001: 1 of \d+ scored pixels have no prediction"):
        evaluate(sparse, samples, tiny("nyu-eigen", "missing_prediction=refuse"))

    def mixed(image):
        kind = DepthKind.METRIC_DEPTH if image[0, 0, 0] < 2 else DepthKind.INVERSE_DEPTH
        return Depth(np.ones(image.shape[:2]), kind)

    with pytest.raises(InputError, match="All predictions must be of one kind"):
        evaluate(mixed, samples, tiny(), num_workers=1)


def test_disparity_is_scored_in_metres_with_the_baseline_of_the_data():
    camera = Camera(np.array([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]), FocalSource.USER, 0.5)
    samples = [replace(sample, camera=camera) for sample in frames(2)]
    truth = {int(sample.image[0, 0, 0]): sample.target for sample in samples}

    def predict(image):
        assumed = Camera.assumed(height=24, width=32)
        return Depth(10.0 / truth[int(image[0, 0, 0])], DepthKind.DISPARITY, camera=assumed)

    report = evaluate(predict, samples, tiny("monodepth"))
    assert report.scores["abs_rel"] < 1e-6
    # Without a baseline the scale is unknown, and only a fit can score it.
    with pytest.raises(KindError, match="no known scale"):
        evaluate(predict, frames(2), tiny("monodepth"))
    assert evaluate(predict, frames(2), tiny("monodepth2-mono")).scores["abs_rel"] < 1e-6


STEREO = Camera(np.array([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]), FocalSource.USER, baseline_m=10.0)
"""200 px m: the 1 to 9 m of the frames are 22 to 200 px of disparity."""


def with_camera(samples, camera=STEREO):
    return [replace(sample, camera=camera) for sample in samples]


def test_a_disparity_map_smaller_than_the_picture_counts_its_own_pixels():
    samples = [replace(sample, target=np.full((24, 32), 4.0, np.float32)) for sample in with_camera(frames(1))]
    report = evaluate(lambda image: Depth(np.full((12, 16), 25.0), DepthKind.DISPARITY), samples, tiny("monodepth"))
    assert report.scores["abs_rel"] < 1e-6 and report.scores["d1"] == 0


def test_a_disparity_of_the_benchmark_crop_counts_the_pixels_of_the_full_frame():
    target = np.full((375, 1242), 10.0, np.float32)
    sample = Sample(np.zeros((375, 1242, 3), np.uint8), target, target > 0, STEREO)
    protocol = tiny("monodepth", "image_crop=kb_crop", "missing_prediction=exclude")
    report = evaluate(lambda image: Depth(np.full(image.shape[:2], 20.0), DepthKind.DISPARITY), [sample], protocol)
    assert report.scores["abs_rel"] < 1e-6 and report.num_pixels == 352 * 1216


@pytest.mark.parametrize("kind", [DepthKind.DISPARITY, DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH])
@pytest.mark.parametrize("truth", [DepthKind.DISPARITY, DepthKind.METRIC_DEPTH])
def test_d1_is_reported_for_every_kind_that_is_a_disparity_with_the_camera(kind, truth):
    """By hand: of 200 px, 12 px are 6 % and count; of 200 px, 8 px are 4 % and do not; of 20 px, 2 px do not."""
    disparity = np.array([[200.0, 200.0, 20.0, 50.0]])
    pred = np.array([[212.0, 192.0, 22.0, 45.0]])
    target = disparity if truth is DepthKind.DISPARITY else 200.0 / disparity
    sample = Sample(np.zeros((1, 4, 3), np.uint8), np.float32(target), target > 0, STEREO, {}, truth)
    values = {"disparity": pred, "metric_depth": 200.0 / pred, "inverse_depth": pred / 200.0}[kind.value]
    report = evaluate(lambda _: Depth(values, kind), [sample], tiny("monodepth"))
    assert report.scores["d1"] == 0.5
    assert "| d1 | 0.5000 |" in report_markdown(report)


def test_d1_is_reported_nowhere_else():
    samples = with_camera(frames(2))
    # Not without a baseline, not where the prediction is fitted to the target.
    mono = replace(STEREO, baseline_m=None)
    assert "d1" in evaluate(noisy(samples), samples, tiny("nyu-eigen")).scores
    assert "d1" not in evaluate(noisy(samples), frames(2), tiny("nyu-eigen")).scores
    assert "d1" not in evaluate(noisy(samples), with_camera(samples, mono), tiny("nyu-eigen")).scores
    assert "d1" not in evaluate(noisy(samples), samples, tiny("monodepth2-mono")).scores
    assert "d1" not in evaluate(noisy(samples, kind=AFFINE), samples, tiny("zero-shot-midas")).scores
    # Nor from a part of the images only.
    mixed = evaluate(noisy(samples), [samples[0], frames(2)[1]], tiny("nyu-eigen"))
    assert "d1" not in mixed.scores and all("d1" not in record.scores for record in mixed.records)
    assert bootstrap_intervals(mixed).keys() == mixed.scores.keys()


def test_the_clamp_in_metres_does_not_move_d1():
    """A target at 2 px and a prediction of 2 px lie at 100 m; the clamp of 20 m would make the prediction 10 px."""
    target = np.full((2, 2), 100.0, np.float32)
    sample = Sample(np.zeros((2, 2, 3), np.uint8), target, target > 0, STEREO)
    limits = ("range.max_depth=null", "clamp.max_depth=20.0")
    report = evaluate(lambda _: Depth(target, DepthKind.METRIC_DEPTH), [sample], tiny("monodepth", *limits))
    assert report.scores["d1"] == 0 and report.scores["abs_rel"] == pytest.approx(0.8)
    # Infinitely far is a prediction too: 2 px from the truth are no outlier, 10 px are.
    far = Depth(np.zeros((2, 2)), DepthKind.DISPARITY)
    assert evaluate(lambda _: far, [sample], tiny("monodepth", *limits)).scores["d1"] == 0
    near = replace(sample, target=np.full((2, 2), 20.0, np.float32))
    assert evaluate(lambda _: far, [near], tiny("monodepth", *limits)).scores["d1"] == 1


def test_d1_knows_the_fixed_scale_and_missing_pixels():
    samples = with_camera(frames(2))
    tenth = tiny("monodepth2-stereo", "alignment.fixed_scale=10.0")
    truth = {int(sample.image[0, 0, 0]): sample.target for sample in samples}

    def predict(image):
        return Depth(truth[int(image[0, 0, 0])] / 10.0, DepthKind.SCALE_INVARIANT_DEPTH)

    assert evaluate(predict, samples, tenth).scores["d1"] == 0

    def with_hole(image):
        values = truth[int(image[0, 0, 0])].copy()
        values[:12] = np.nan
        return Depth(values, DepthKind.METRIC_DEPTH)

    report = evaluate(with_hole, samples, tiny("monodepth", "missing_prediction=far_limit"))
    assert report.scores["d1"] == 0.5


def test_an_error_of_the_model_is_not_swallowed():
    def broken(image):
        raise InputError("the model cannot do this")

    with pytest.raises(InputError, match="the model cannot do this"):
        evaluate_protocols(broken, frames(2), [tiny(), tiny("nyu-fcrn")])


def test_fact_2a_a_prediction_of_the_benchmark_crop_is_put_back():
    target = np.full((375, 1242), 10.0, np.float32)
    sample = Sample(np.zeros((375, 1242, 3), np.uint8), target, target > 0, meta={"id": "a"})
    seen = []

    def predict(image):
        seen.append(image.shape)
        return Depth(np.full(image.shape[:2], 11.0), DepthKind.METRIC_DEPTH)

    protocol = tiny("kitti-bts", "image_crop=kb_crop", "missing_prediction=exclude")
    report = evaluate(predict, [sample], protocol)
    assert seen == [(352, 1216, 3)] and predict_for(predict, sample, protocol).width == 1216
    assert report.records[0].sums.num_pixels == 352 * 1216
    assert report.records[0].num_missing == 375 * 1242 - 352 * 1216
    assert InvalidReason.BORDER  # the frame around it says why it has no value
    assert "were left out" in " ".join(report.notes())


@pytest.mark.parametrize("format", ["npy", "npz", "png16", "tiff", "pfm", "exr"])
def test_saved_predictions_score_as_the_model_that_made_them(tmp_path, format):
    samples = frames(3)
    predict = noisy(samples)
    suffix = {"png16": "png"}.get(format, format)
    for sample in samples:
        write_depth(predict(sample.image), tmp_path / f"{sample.meta['id']}.{suffix}", format)
    saved = SavedPredictions(tmp_path)
    assert saved.format == format
    found = evaluate(saved, samples, tiny()).scores
    assert found["abs_rel"] == pytest.approx(evaluate(predict, samples, tiny()).scores["abs_rel"], abs=1e-3)
    again = SavedPredictions.from_json(saved.to_json())
    assert evaluate(again, samples, tiny()).scores == found


def test_foreign_predictions_need_a_kind(tmp_path):
    samples = frames(2)
    for sample in samples:
        np.save(tmp_path / f"{sample.meta['id']}.npy", 1.0 / sample.target)
    with pytest.raises(InputError):
        evaluate(SavedPredictions(tmp_path), samples, tiny("zero-shot-midas"))
    saved = SavedPredictions(tmp_path, kind=AFFINE)
    assert evaluate(saved, samples, tiny("zero-shot-midas")).scores["abs_rel"] < 1e-5


def test_saved_predictions_are_found_by_name(tmp_path):
    depth = Depth(np.ones((2, 2)), DepthKind.METRIC_DEPTH)
    for name in ("drive_a/0001.npz", "drive_b/0001.npz", "drive_c_0007.npz", "drive_d/9.npz"):
        write_depth(depth, tmp_path / name)
    saved = SavedPredictions(tmp_path)
    found = {name: saved.path_of(name) for name in ("drive_b/0001", "drive_c/0007", "x/y/9", "0001", "drive_e/0001")}
    assert found["drive_b/0001"] == tmp_path / "drive_b/0001.npz"
    assert found["drive_c/0007"] == tmp_path / "drive_c_0007.npz"
    assert found["x/y/9"] == tmp_path / "drive_d/9.npz"
    assert found["0001"] is None and found["drive_e/0001"] is None
    with pytest.raises(InputError, match="No prediction for 'drive_e/0001'"):
        saved.read("drive_e/0001")


def test_a_missing_saved_prediction_is_an_error_or_counted(tmp_path):
    samples = frames(3)
    for sample in samples[:2]:
        write_depth(noisy(samples)(sample.image), tmp_path / f"{sample.meta['id']}.npz")
    saved = SavedPredictions(tmp_path)
    with pytest.raises(InputError, match="No prediction for '0002'"):
        evaluate(saved, samples, tiny())
    report = evaluate(saved, samples, tiny(), is_partial=True)
    assert report.num_images == 2 and report.skipped[0].name == "0002"


def test_folders_without_maps_or_with_two_formats_are_told(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        SavedPredictions(tmp_path / "none")
    with pytest.raises(InputError, match="found none"):
        SavedPredictions(tmp_path)
    depth = Depth(np.ones((2, 2)), DepthKind.METRIC_DEPTH)
    write_depth(depth, tmp_path / "a.npz")
    write_depth(depth, tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"several formats \(npy, npz\)"):
        SavedPredictions(tmp_path)
    assert SavedPredictions(tmp_path, format="npz").path_of("a") == tmp_path / "a.npz"
    with pytest.raises(ConfigError, match="Unknown format"):
        SavedPredictions(tmp_path, format="nzp")


def test_data_is_described_by_one_short_text(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    assert describe_data(str(tmp_path)) == {
        "reader": "nyu-folder",
        "path": str(tmp_path),
        "split": "all",
        "options": {},
    }
    assert describe_data("kitti-raw:/data", "eigen", {"a": 1})["path"] == "/data"
    assert describe_data("mine.yaml")["reader"] == "folder"
    with pytest.raises(ConfigError, match="Did you mean 'nyu-folder'"):
        describe_data("nyu-foldr:/data")
    with pytest.raises(InputError, match="fathom data doctor"):
        describe_data(str(tmp_path / "rgb"))
    with pytest.raises(ConfigError, match="key=value"):
        parse_options(["a"])


@pytest.mark.shared_data
def test_fact_4a_real_nyu_frames_are_read_and_scored(shared_data):
    from fathom.evaluate import open_source
    from fathom.protocol import load_protocol

    samples = open_source(describe_data(str(shared_data / "nyuv2"), "val"))

    def constant(image):
        return Depth(np.full(image.shape[:2], 2.7), DepthKind.METRIC_DEPTH)

    report = evaluate(constant, [samples[0], samples[1]], load_protocol("nyu-eigen"), is_partial=True)
    assert [record.sums.num_pixels for record in report.records] == [426 * 560] * 2
    assert 0.1 < report.scores["abs_rel"] < 1.0
