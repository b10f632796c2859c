import numpy as np
import pytest

from fathom.alignment import METHODS, SPACES
from fathom.errors import ConfigError, EmptyMaskError, InputError, KindError
from fathom.metrics.resample import nearest_index, resample
from fathom.metrics.scoring import edge_pixels, score_image
from fathom.protocol import (
    NAMED_CROPS,
    Protocol,
    crop_box,
    kb_box,
    list_protocols,
    load_protocol,
    named_crop,
    score_mask,
)
from fathom.types import Camera, Depth, DepthKind, FocalSource, Sample

TINY = [
    "image_crop=none",
    "target_size=null",
    "score_crop={name: none, unit: fraction, rows: [0.0, 1.0], columns: [0.0, 1.0], frame: full, frame_size: null}",
]
AFFINE = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH


def tiny(name="nyu-eigen", *changes):
    """A named protocol for targets of any size."""
    return load_protocol(name, [*TINY, *changes])


def sample(target, valid=None, **more):
    target = np.asarray(target, np.float32)
    mask = np.isfinite(target) & (target > 0) if valid is None else valid
    return Sample(np.zeros((*target.shape, 3), np.uint8), target, mask, **more)


def metric(values):
    return Depth(np.asarray(values, np.float32), DepthKind.METRIC_DEPTH)


def scene(shape=(40, 60), seed=0):
    rng = np.random.default_rng(seed)
    rows = np.linspace(9.0, 1.0, shape[0])[:, None] * np.ones(shape[1])
    return (rows + rng.uniform(0, 0.5, shape)).astype(np.float32)


def test_fact_1a_garg_crop_truncates():
    garg = load_protocol("kitti-eigen-garg").score_crop
    assert crop_box(garg, 375, 1242) == (153, 371, 44, 1197)
    assert crop_box(garg, 370, 1224) == (151, 366, 43, 1180)
    assert crop_box(garg, 374, 1238) == (152, 370, 44, 1193)
    assert crop_box(garg, 376, 1241) == (153, 372, 44, 1196)
    assert crop_box(garg, 370, 1226) == (151, 366, 44, 1181)


def test_fact_1b_eigen_crop_truncates():
    assert crop_box(load_protocol("kitti-eigen-crop").score_crop, 375, 1242) == (124, 342, 44, 1197)


def test_fact_1c_two_crops_are_an_error():
    with pytest.raises(ConfigError, match="'score_crop' must be a section"):
        load_protocol("kitti-eigen-garg", ["score_crop=[garg, eigen_kitti]"])


def test_fact_1d_a_known_name_with_other_numbers_is_refused_and_labels_are_not_hashed():
    with pytest.raises(ConfigError, match="The crop 'garg' is rows"):
        load_protocol("kitti-eigen-crop", ["score_crop.name=garg"])
    plain = load_protocol("kitti-eigen-crop")
    renamed = load_protocol("kitti-eigen-crop", ["score_crop.name=mine", "name=mine", "source=me"])
    assert renamed.hash == plain.hash
    assert load_protocol("kitti-eigen-crop", ["score_crop.name=mine", "score_crop.rows=[0.3, 0.9]"]).hash != plain.hash


def test_protocols_that_name_a_known_crop_mean_its_size_too():
    crops = [load_protocol(name).score_crop for name in list_protocols()]
    assert {crop.name for crop in crops} <= set(NAMED_CROPS)
    for crop in crops:
        assert crop == named_crop(crop.name)


def test_fact_1e_the_two_kitti_crops_give_different_scores():
    target = scene((375, 1242))
    pred = metric(target * np.linspace(0.8, 1.3, 375)[:, None])
    scores = [
        score_image(pred, sample(target), load_protocol(n)).scores for n in ("kitti-eigen-garg", "kitti-eigen-crop")
    ]
    assert abs(scores[0]["abs_rel"] - scores[1]["abs_rel"]) > 1e-3


def test_fact_2a_kb_crop_is_the_bottom_and_the_centre():
    assert kb_box(375, 1242) == (23, 375, 13, 1229)
    with pytest.raises(ConfigError, match="at least 352 x 1216"):
        kb_box(200, 1242)


def test_fact_2b_the_score_crop_refers_to_the_full_frame_unless_it_says_otherwise():
    bts = load_protocol("kitti-bts")
    assert bts.image_crop == "kb_crop"
    assert crop_box(bts.score_crop, 375, 1242) == (153, 371, 44, 1197)
    inside = load_protocol("kitti-bts", ["score_crop.frame=kb_crop", "score_crop.name=garg"])
    assert crop_box(inside.score_crop, 375, 1242) == (23 + 143, 23 + 349, 13 + 43, 13 + 1172)
    assert inside.hash != bts.hash


def test_fact_3a_3b_the_ground_truth_decides_the_number_of_images():
    assert load_protocol("kitti-eigen-garg").split.model_dump() == {
        "name": "eigen",
        "images": 697,
        "ground_truth": "velodyne",
    }
    assert load_protocol("kitti-eigen-benchmark").split.images == 652
    assert load_protocol("kitti-eigen-benchmark").split.ground_truth == "annotated"


def test_fact_3e_no_garg_crop_on_the_improved_ground_truth():
    assert load_protocol("kitti-eigen-benchmark").score_crop.name == "none"
    assert crop_box(load_protocol("kitti-eigen-benchmark").score_crop, 375, 1242) == (0, 375, 0, 1242)


def test_fact_4a_4b_4c_three_nyu_crops_are_three_protocols():
    names = ("nyu-eigen", "nyu-monodepth2", "nyu-sparse-to-dense")
    crops = [load_protocol(name).score_crop for name in names]
    assert crop_box(crops[0], 480, 640) == (45, 471, 41, 601)
    assert crop_box(crops[1], 480, 640) == (20, 459, 24, 615)
    assert crop_box(crops[2], 240, 320) == (6, 234, 8, 312)
    assert len({load_protocol(name).hash for name in names}) == 3
    with pytest.raises(ConfigError, match="480 x 640"):
        crop_box(crops[0], 375, 1242)


def test_fact_4c_sparse_to_dense_scores_228_by_304_pixels_of_the_halved_target():
    target = np.full((480, 640), 2.0, np.float32)
    score = score_image(metric(target * 1.1), sample(target), load_protocol("nyu-sparse-to-dense"))
    assert score.sums.num_pixels == 228 * 304


def test_fact_4d_no_scored_pixel_lies_in_the_white_border():
    mask = score_mask(load_protocol("nyu-eigen"), np.full((480, 640), 2.0), np.ones((480, 640), bool))
    assert not mask[:8].any() and not mask[-8:].any() and not mask[:, :8].any() and not mask[:, -8:].any()
    assert mask.sum() == 426 * 560


def test_fact_4e_nyu_has_654_test_images():
    assert {load_protocol(n).split.images for n in list_protocols() if n.startswith("nyu")} == {654}


def test_fact_4f_filled_and_raw_depth_are_two_protocols():
    assert load_protocol("nyu-eigen", ["split.ground_truth=filled"]).hash != load_protocol("nyu-eigen").hash
    assert load_protocol("nyu-fcrn").split.ground_truth == "filled"


def test_fact_5a_the_prediction_is_resized_to_the_target():
    target = scene((40, 60))
    score = score_image(metric(resample(target, 20, 30, mode="bilinear", align_corners=False)), sample(target), tiny())
    assert score.sums.num_pixels == 40 * 60


def test_fact_5b_a_sparse_target_is_shrunk_by_nearest_pixel_only():
    target = np.zeros((480, 640), np.float32)
    target[241, 321] = 3.0
    score = score_image(metric(np.full((480, 640), 3.0)), sample(target), load_protocol("nyu-sparse-to-dense"))
    assert score.sums.num_pixels == 1
    assert score.scores["abs_rel"] == 0.0


def test_fact_5c_the_quantity_that_is_resized_moves_the_score():
    target = np.array([[1.0, 1.5, 2.5, 3.0]])
    pred = metric([[1.0, 3.0]])
    depth = score_image(pred, sample(target), tiny("nyu-eigen", "resize.quantity=depth")).scores["abs_rel"]
    inverse = score_image(pred, sample(target), tiny("nyu-eigen", "resize.quantity=inverse_depth")).scores["abs_rel"]
    assert depth == pytest.approx(0.0, abs=1e-7)
    assert inverse == pytest.approx(
        (abs(1 / (0.75 + 0.25 / 3) - 1.5) / 1.5 + abs(1 / (0.25 + 0.75 / 3) - 2.5) / 2.5) / 4
    )


def test_fact_5d_align_corners_and_mode_move_the_score():
    target, pred = scene((40, 60)), metric(scene((21, 31), seed=1))
    values = {
        score_image(
            pred, sample(target), tiny("nyu-eigen", f"resize.mode={mode}", f"resize.align_corners={corners}")
        ).scores["abs_rel"]
        for mode in ("nearest", "bilinear", "bicubic")
        for corners in ("true", "false")
    }
    assert len(values) == 6


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(7, 9), (12, 40), (30, 17)])
def test_resample_is_that_of_pytorch(mode, align_corners, size):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).uniform(1, 5, (13, 21))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode=mode, align_corners=align_corners
    )[0, 0].numpy()
    assert resample(values, *size, mode=mode, align_corners=align_corners) == pytest.approx(wanted, abs=1e-9)


def test_resample_never_mixes_a_hole_into_a_value():
    values = np.array([[1.0, np.nan, 3.0, 3.0]])
    out = resample(values, 1, 8, mode="bilinear", align_corners=False)[0]
    assert np.isnan(out[1:5]).all()
    assert out[[0, 5, 6, 7]].tolist() == [1.0, 3.0, 3.0, 3.0] or np.isnan(out[5])
    assert np.isfinite(out[6:]).all()


def test_nearest_takes_the_pixel_under_the_centre():
    assert nearest_index(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert nearest_index(2, 4).tolist() == [0, 0, 1, 1]


def test_fact_6a_the_caps():
    caps = {n: load_protocol(n).range.max_depth for n in ("nyu-eigen", "kitti-eigen-garg", "kitti-eigen-garg-50m")}
    assert caps == {"nyu-eigen": 10.0, "kitti-eigen-garg": 80.0, "kitti-eigen-garg-50m": 50.0}


def test_fact_6b_clamping_before_and_after_the_fit_differ():
    target = np.array([[2.0, 4.0, 8.0, 9.0]])
    pred = Depth(np.array([[4.0, 8.0, 16.0, 30.0]]), DepthKind.METRIC_DEPTH)
    limits = ("clamp.min_depth=0.001", "clamp.max_depth=10.0", "alignment.method=median")
    after = score_image(pred, sample(target), tiny("nyu-eigen", "clamp.when=after_alignment", *limits)).scores
    before = score_image(pred, sample(target), tiny("nyu-eigen", "clamp.when=before_alignment", *limits)).scores
    assert after["abs_rel"] == pytest.approx((10 - 9) / 9 / 4)
    assert before["abs_rel"] > after["abs_rel"] + 0.05


def test_fact_6c_a_target_exactly_at_the_cap_follows_the_field():
    target = np.array([[5.0, 10.0]])
    strict = score_image(metric(target), sample(target), tiny("nyu-eigen", "range.max_strict=true"))
    loose = score_image(metric(target), sample(target), tiny("nyu-eigen", "range.max_strict=false"))
    assert (strict.sums.num_pixels, loose.sums.num_pixels) == (1, 2)
    low = tiny("nyu-eigen", "range.min_depth=5.0", "range.min_strict=false", "range.max_strict=false")
    assert score_image(metric(target), sample(target), low).sums.num_pixels == 2


def test_fact_6d_without_a_clamp_predictions_beyond_the_cap_count_as_they_are():
    target = np.array([[5.0, 9.0]])
    free = ("clamp.when=none", "clamp.min_depth=null", "clamp.max_depth=null", "alignment.far_limit=target")
    scores = score_image(metric([[5.0, 90.0]]), sample(target), tiny("nyu-eigen", *free)).scores
    assert scores["abs_rel"] == pytest.approx(9.0 / 2)


def test_fact_7a_the_protocol_knows_every_fit_and_space():
    fields = Protocol.model_fields["alignment"].annotation.model_fields
    assert fields["method"].annotation.__args__ == METHODS
    assert fields["space"].annotation.__args__ == SPACES


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SPACES)
def test_every_fit_undoes_what_it_can_undo(method, space):
    target = scene()
    pred = target if method == "none" else 0.3 * target
    score = score_image(
        metric(pred), sample(target), tiny("nyu-eigen", f"alignment.method={method}", f"alignment.space={space}")
    )
    assert score.scores["abs_rel"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["zero-shot-marigold", "nyu-eigen", "monodepth2-mono", "kitti-eigen-garg"])
def test_fact_7c_affine_invariant_inverse_depth_is_refused_where_it_would_be_fitted_to_depth(name):
    target = scene()
    pred = Depth(1 / target, AFFINE)
    with pytest.raises(KindError, match="zero-shot-midas"):
        score_image(pred, sample(target), tiny(name))
    assert score_image(pred, sample(target), tiny("zero-shot-midas")).scores["abs_rel"] < 1e-5


def test_unknown_scale_without_a_fit_is_refused():
    target = scene()
    with pytest.raises(KindError, match="monodepth2-mono"):
        score_image(Depth(target, DepthKind.SCALE_INVARIANT_DEPTH), sample(target), tiny("nyu-eigen"))


def test_fact_7e_ratio_of_medians_and_median_of_ratios_differ():
    target, pred = np.array([[3.0, 8.0, 8.0]]), metric([[1.0, 2.0, 8.0]])
    fits = [
        score_image(pred, sample(target), tiny("nyu-eigen", f"alignment.method={m}")).fit.scale
        for m in ("median", "median_of_ratios")
    ]
    assert fits == [4.0, 3.0]


@pytest.mark.parametrize("far", ["clamp", "target"])
def test_fact_8a_a_fitted_disparity_of_0_or_below_stays_finite(far):
    target = np.array([[1.0, 1.1, 1.2, 9.0, 9.0]])
    pred = Depth(np.array([[1.0, 0.9, 0.8, -0.5, -3.0]]), AFFINE)
    score = score_image(pred, sample(target), tiny("zero-shot-midas", f"alignment.far_limit={far}"))
    assert np.isfinite(list(score.scores.values())).all()
    assert score.fit.far_limit == (10.0 if far == "clamp" else 9.0)
    assert score.fit.scale * -3.0 + score.fit.shift < 0
    assert score.max_pred == score.fit.far_limit


def test_fact_8b_the_far_limit_is_part_of_the_hash():
    assert (
        load_protocol("zero-shot-midas", ["alignment.far_limit=target"]).hash != load_protocol("zero-shot-midas").hash
    )


def test_fact_9d_an_empty_mask_raises_so_that_the_evaluator_can_count_it():
    with pytest.raises(EmptyMaskError, match="No pixel of the target"):
        score_image(metric(np.ones((4, 4))), sample(np.zeros((4, 4))), tiny())


def test_fact_11a_11b_metric_definitions_are_fields():
    target, pred = np.array([[1.0, 2.0, 4.0, 8.0]]), metric([[1.1, 1.8, 5.0, 8.0]])
    ln = score_image(pred, sample(target), tiny()).scores
    assert ln["rmse_log"] == pytest.approx(0.1322667, abs=1e-6)
    assert ln["silog"] == pytest.approx(12.10638, abs=1e-4)
    ten = score_image(pred, sample(target), tiny("nyu-eigen", "metrics.rmse_log_base='10'")).scores
    assert ten["rmse_log"] == pytest.approx(0.1322667 / np.log(10), abs=1e-6)
    for changes, value in (
        (("metrics.silog_scale=10.0", "metrics.silog_lambda=0.85"), 1.228094),
        (("metrics.silog_scale=10.0", "metrics.silog_lambda=0.85", "metrics.silog_unbiased=true"), 1.413068),
        (("metrics.silog_scale=1.0", "metrics.silog_lambda=0.5", "metrics.silog_sqrt=false"), 0.0160755),
        (("metrics.silog_scale=1.0", "metrics.silog_lambda=0.5"), 0.1267890),
    ):
        assert score_image(pred, sample(target), tiny("nyu-eigen", *changes)).scores["silog"] == pytest.approx(
            value, abs=2e-6
        )


def test_fact_12a_test_time_names():
    assert load_protocol("monodepth-pp").test_time.flip == "border_blend"
    assert load_protocol("monodepth-pp").hash != load_protocol("monodepth").hash
    with pytest.raises(ConfigError, match=r"'test_time.flip' must be 'none', 'average' or 'border_blend'"):
        load_protocol("monodepth", ["test_time.flip=both"])


def test_fact_13a_fixed_factor_and_median_scaling_together_are_an_error():
    stereo = load_protocol("monodepth2-stereo")
    assert stereo.alignment.fixed_scale == 5.4 and not stereo.uses_ground_truth
    with pytest.raises(ConfigError, match="two answers to one question"):
        load_protocol("monodepth2-stereo", ["alignment.method=median"])
    target = scene()
    score = score_image(Depth(target / 5.4, DepthKind.SCALE_INVARIANT_DEPTH), sample(target), tiny("monodepth2-stereo"))
    assert score.scores["abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_fact_14a_a_fit_marks_the_protocol():
    assert load_protocol("monodepth2-mono").uses_ground_truth
    assert not load_protocol("kitti-eigen-garg").uses_ground_truth


def test_fact_14b_given_intrinsics_are_a_field():
    assert load_protocol("nyu-eigen", ["intrinsics=given"]).hash != load_protocol("nyu-eigen").hash


def test_fact_16c_17a_zero_infinite_and_nan_targets_are_never_scored():
    target = np.array([[2.0, 0.0, np.inf, np.nan, -1.0]], np.float32)
    everything = np.ones(target.shape, bool)
    mask = score_mask(tiny("nyu-fcrn"), target, everything)
    assert mask.tolist() == [[True, False, False, False, False]]
    score = score_image(metric([[2.0] * 5]), sample(target, valid=everything), tiny("nyu-fcrn"))
    assert score.sums.num_pixels == 1 and score.scores["abs_rel"] == 0.0


def test_missing_predictions_follow_the_protocol():
    target = np.array([[2.0, 4.0, 5.0]])
    pred = metric([[2.0, np.nan, 5.0]])
    with pytest.raises(InputError, match="1 of 3 scored pixels have no prediction"):
        score_image(pred, sample(target), tiny("nyu-eigen", "missing_prediction=refuse"))
    left_out = score_image(pred, sample(target), tiny("nyu-eigen", "missing_prediction=exclude"))
    assert (left_out.sums.num_pixels, left_out.num_missing, left_out.scores["abs_rel"]) == (2, 1, 0.0)
    far = score_image(pred, sample(target), tiny("nyu-eigen", "missing_prediction=far_limit"))
    assert (far.sums.num_pixels, far.num_missing) == (3, 1)
    assert far.scores["abs_rel"] == pytest.approx(6 / 4 / 3)


def test_a_fit_below_zero_without_a_clamp_is_told():
    free = ("clamp.when=none", "clamp.min_depth=null", "clamp.max_depth=null", "alignment.far_limit=target")
    protocol = tiny("zero-shot-marigold", *free, "range.max_depth=null")
    with pytest.raises(InputError, match="has no clamp"):
        score_image(metric([[1.0, 100.0, 101.0, 102.0]]), sample([[0.01, 5.0, 6.0, 40.0]]), protocol)


def test_a_disparity_with_a_camera_is_scored_in_metres():
    target = scene()
    camera = Camera(np.array([[500.0, 0, 30], [0, 500.0, 20], [0, 0, 1]]), FocalSource.USER, baseline_m=0.1)
    pred = Depth(50.0 / target, DepthKind.DISPARITY, camera=camera)
    assert score_image(pred, sample(target), tiny("nyu-eigen")).scores["abs_rel"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(KindError):
        score_image(Depth(50.0 / target, DepthKind.DISPARITY), sample(target), tiny("nyu-eigen"))


def test_a_disparity_target_is_scored_in_metres():
    depth = scene()
    camera = Camera(np.array([[500.0, 0, 30], [0, 500.0, 20], [0, 0, 1]]), FocalSource.USER, baseline_m=0.1)
    truth = sample(50.0 / depth, camera=camera, kind=DepthKind.DISPARITY)
    assert score_image(metric(depth), truth, tiny()).scores["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_breakdowns_add_up_to_the_whole():
    target, rng = scene(), np.random.default_rng(3)
    pred = metric(target * rng.uniform(0.7, 1.4, target.shape))
    score = score_image(pred, sample(target), tiny(), range_edges=(0.0, 2.0, 5.0, 20.0), boundary=True)
    plain = score_image(pred, sample(target), tiny())
    assert score.scores["abs_rel"] == pytest.approx(plain.scores["abs_rel"], rel=1e-12)
    assert 0 <= score.scores["boundary_f1"] <= 1
    assert sum(part.num_pixels for part in score.by_range.values()) == score.sums.num_pixels
    assert sum(part.sq_error for part in score.by_edge.values()) == pytest.approx(score.sums.sq_error)
    near = (target < 2.0) & (target < 10)
    assert score.by_range[0.0, 2.0].num_pixels == near.sum()
    assert score.by_range[0.0, 2.0].abs_rel == pytest.approx(
        (np.abs(pred.values - target) / target)[near].sum(), rel=1e-5
    )


def test_masked_pixels_never_matter_even_when_nan():
    target = scene()
    pred = target * 1.2
    broken = pred.copy()
    broken[:5], mask = np.nan, np.ones(target.shape, bool)
    mask[:5] = False
    for name, kind, values in (("nyu-eigen", DepthKind.METRIC_DEPTH, broken), ("zero-shot-midas", AFFINE, 1 / broken)):
        clean = sample(target, valid=mask)
        dirty = sample(np.where(mask, target, np.nan), valid=mask)
        scores = [score_image(Depth(values, kind), truth, tiny(name)).scores for truth in (clean, dirty)]
        assert scores[0] == scores[1]


def test_edges_lie_beside_jumps_only():
    depth = np.full((20, 20), 2.0)
    depth[:, 10:] = 4.0
    edges = edge_pixels(depth, depth > 0)
    assert edges[:, 7:13].all() and not edges[:, :7].any() and not edges[:, 13:].any()
    hole = np.ones(depth.shape, bool)
    hole[:, 9:11] = False
    assert not edge_pixels(depth, hole).any()


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'nyu-eigen'"):
        load_protocol("nyu-eigne")


def test_impossible_protocols_are_refused():
    for change, words in (
        ("range.max_depth=0.0001", "max_depth"),
        ("clamp.when=none", "both limits must be null"),
        ("clamp.max_depth=null", "A clamp needs"),
        ("score_crop.frame_size=null", "frame_size"),
        (
            "score_crop={name: x, unit: fraction, rows: [0.9, 0.1], columns: [0, 1], frame: full, frame_size: null}",
            "rows",
        ),
        ("target_size={height: 10, width: 10}", "must equal 'target_size'"),
        ("average=mean", "per_image"),
        ("test_time.scales=[]", "scales"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_protocol("nyu-eigen", [change])


def test_one_image_cannot_be_scored_with_a_clip_fit():
    with pytest.raises(ConfigError, match=r"fathom\.evaluate"):
        score_image(metric(np.ones((4, 4))), sample(np.ones((4, 4))), tiny("zero-shot-midas", "alignment.unit=clip"))
