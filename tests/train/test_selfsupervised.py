"""Training from other views: what fits together, batches, whole runs, and what a run leaves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from view_helpers import make_video, texture

torch = pytest.importorskip("torch")
pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

from fathom import models  # noqa: E402
from fathom.config import parse_config  # noqa: E402
from fathom.data import DepthDataset, open_dataset  # noqa: E402
from fathom.data.batch_transforms import AugmentConfig  # noqa: E402
from fathom.errors import ConfigError, InputError, KindError, ModelError, ShapeError  # noqa: E402
from fathom.export.source import load_source  # noqa: E402
from fathom.geometry.pose import invert_pose, pose_from_axis_angle  # noqa: E402
from fathom.geometry.warp import warp_by_depth  # noqa: E402
from fathom.predict import Predictor  # noqa: E402
from fathom.protocol import load_protocol  # noqa: E402
from fathom.train.config import Recipe, SourceConfig, monitored_score  # noqa: E402
from fathom.train.config_views import SelfSupervisedConfig  # noqa: E402
from fathom.train.fit import fit  # noqa: E402
from fathom.train.loader import Pick, Prepare  # noqa: E402
from fathom.train.scoring import ViewScorer  # noqa: E402
from fathom.train.selfsupervised import (  # noqa: E402
    ViewObjective,
    find_motions,
    load_partner,
    pyramid_of,
    stereo_motion,
)
from fathom.train.views import ViewTrainSamples, ViewValSamples, WithRotations, with_views  # noqa: E402
from fathom.types import DepthKind  # noqa: E402

STEREO = {"warp": "disparity", "stereo": True}
VIDEO = {
    "warp": "depth",
    "neighbours": [-1, 1],
    "pose": "monodepth2",
    "pose_options": {"base_channels": 2, "decoder_channels": 8},
}
MONODEPTH = {"name": "monodepth-vgg", "kind": "disparity", "options": {"base_channels": 2, "unit": "px"}}
MONODEPTH2 = {
    "name": "monodepth2-resnet18",
    "options": {"base_channels": 2, "decoder_channels": [2, 2, 2, 2, 2]},
}


def make_recipe(root, model, section, **changes):
    source = {"dataset": "kitti-odometry", "root": str(root), "split": "all"}
    values = {
        "name": "tiny",
        "model": model,
        "data": {"train": source, "val": source, "batch_size": 2, "resize": [64, 128]},
        "selfsupervised": section,
        "optimiser": {"name": "adam", "lr": 1e-3},
        "steps": 2,
        "log_every": 1,
        "validation": {"every_steps": 2, "pictures": 1, "max_samples": 2},
        "lint": {"overfit_steps": 0},
        "hardware": {"accelerator": "cpu"},
    }
    return parse_config({**values, **changes}, Recipe)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"warp": "depth"}, "no other view"),
        ({**VIDEO, "neighbours": [0, 1]}, "0 is the picture itself"),
        ({**VIDEO, "neighbours": [1, 1]}, "twice"),
        ({**STEREO, "neighbours": [1], "pose": "sfmlearner"}, "shifts along rows"),
        ({"warp": "depth", "neighbours": [1]}, "Set `pose`"),
        ({"warp": "depth", "stereo": True, "pose": "sfmlearner"}, "there are none"),
        ({**VIDEO, "left_right_weight": 1.0}, "warp: disparity"),
        ({**VIDEO, "explainability_weight": 0.2}, "pose: sfmlearner"),
        ({**STEREO, "auto_mask": True}, "choose: minimum"),
        ({**STEREO, "warp": "linearised"}, "photometric: squared"),
        ({**STEREO, "nominal_baseline": 0.1}, "warp: depth"),
        ({**STEREO, "full_resolution": True}, "warp: depth"),
        ({**VIDEO, "pose": "given"}, "`pose: given` has none"),
        ({**STEREO, "rotation": "matched"}, "network for the motion"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(video, section, words):
    with pytest.raises(ConfigError, match=words):
        make_recipe(video, MONODEPTH, section)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"losses": [{"name": "l1"}]}, "`losses` has no effect"),
        ({"tasks": ["depth", "normals"]}, "depth alone"),
        ({"adversarial": {"weight": 0.5}}, "`adversarial` has no effect"),
        ({"augment": {"rotate_deg": 5.0}}, "cannot be rolled"),
    ],
)
def test_other_sections_must_fit(video, changes, words):
    with pytest.raises(ConfigError, match=words):
        make_recipe(video, MONODEPTH, STEREO, **changes)


@pytest.mark.parametrize(
    ("name", "options", "kind", "section", "words"),
    [
        ("monodepth-vgg", {"base_channels": 2}, DepthKind.DISPARITY, STEREO, "unit: px"),
        ("garg2016", {"base_channels": 3, "fc_channels": 2}, DepthKind.METRIC_DEPTH, STEREO, "model.kind: disparity"),
        ("monodepth-vgg", {"base_channels": 2}, DepthKind.DISPARITY, VIDEO, "warp: disparity"),
        ("monodepth2-resnet18", MONODEPTH2["options"], DepthKind.METRIC_DEPTH, VIDEO, "how long a metre is"),
        ("unet", {"base_channels": 2}, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, VIDEO, "log_depth"),
        ("unet", {"base_channels": 2}, DepthKind.INVERSE_DEPTH, VIDEO, "gives depth"),
    ],
)
def test_network_kind_and_section_must_fit(name, options, kind, section, words):
    network = models.build(name, **options)
    config = parse_config(section, SelfSupervisedConfig)
    with pytest.raises(ConfigError, match=words):
        pyramid_of(network, kind, config)


def test_disparities_come_as_shares_of_the_width_whatever_the_unit():
    image = torch.rand(1, 3, 32, 64)
    config = parse_config(STEREO, SelfSupervisedConfig)
    found = []
    for unit, kind in (("px", DepthKind.DISPARITY), ("share", DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)):
        torch.manual_seed(0)
        network = models.build("monodepth-vgg", base_channels=2, unit=unit)
        found.append(pyramid_of(network, kind, config).disparities(network(image), 64))
    assert len(found[0]) == 4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0][0].max() <= 0.3


def test_readers_are_asked_for_the_views():
    source = SourceConfig(dataset="kitti-odometry", root=Path("data"))
    config = parse_config({**VIDEO, "stereo": True}, SelfSupervisedConfig)
    assert with_views(source, config).options == {"stereo": True, "neighbours": (-1, 1)}
    with pytest.raises(ConfigError, match="gives single pictures"):
        with_views(SourceConfig(dataset="make3d", root=Path("data")), config)
    otherwise = source.model_copy(update={"options": {"neighbours": [-2, 2]}})
    with pytest.raises(ConfigError, match="Remove it from the reader's options"):
        with_views(otherwise, config)


def batch_of(video, section, augment, place=1, seed=0):
    recipe = make_recipe(video, MONODEPTH2, section)
    source = with_views(recipe.data.train, recipe.selfsupervised)
    dataset = open_dataset(source.dataset, source.root, source.split, **source.options)
    samples = ViewTrainSamples(dataset, Prepare(recipe.data, None), augment, seed)
    return samples[Pick(0, place)], ViewValSamples(dataset, Prepare(recipe.data, None), None, False)[place]


def test_the_network_sees_changed_colours_and_the_loss_true_ones(video):
    both = {**VIDEO, "stereo": True}
    batch, plain = batch_of(video, both, AugmentConfig(brightness=0.5))
    for key in ("view", "neighbour_views", "image_right"):
        torch.testing.assert_close(batch[key], plain[key])
    assert not torch.allclose(batch["image"], batch["view"])
    assert not torch.allclose(batch["neighbours"], batch["neighbour_views"])
    torch.testing.assert_close(plain["image"], plain["view"])
    assert batch["neighbours"].shape == (1, 2, 3, 64, 128)


def test_a_network_of_pairs_sees_both_views(video, tmp_path):
    model = {"name": "dispnet", "options": {"in_channels": 6, "base_channels": 2, "max_shift": 2}}
    recipe = make_recipe(video, model, STEREO, augment={"slide": [0.0, 4.0], "brightness": 0.2})
    assert fit(recipe, tmp_path / "run", say=lambda line: None).step == 2
    left, right = (np.random.default_rng(seed).integers(0, 256, (80, 150, 3), np.uint8) for seed in (0, 1))
    predictor = Predictor(tmp_path / "run", runtime="torch")
    assert predictor.card.input.views == 2
    depth = predictor.predict(left, right=right)
    assert depth.kind is DepthKind.DISPARITY and depth.values.shape == (80, 150)
    assert not np.array_equal(depth.values, predictor.predict(left, right=left).values)
    with pytest.raises(InputError, match="both pictures"):
        predictor.predict(left)
    with pytest.raises(ShapeError, match="share one size"):
        predictor.predict(left, right=right[:70])
    with pytest.raises(ModelError, match="exports see one"):
        load_source(tmp_path / "run")
    with pytest.raises(InputError, match="sees one picture"):
        Predictor("fathom-general").predict(left, right=right)


@pytest.mark.parametrize(
    ("options", "section", "augment", "words"),
    [
        ({"in_channels": 6}, VIDEO, {}, "learns from stereo alone"),
        ({"in_channels": 6}, None, {}, "learns from stereo alone"),
        ({}, {"warp": "depth", "stereo": True}, {"slide": [0.0, 4.0]}, "changes disparity"),
    ],
)
def test_pairs_need_stereo_and_slides_need_disparity(video, options, section, augment, words):
    with pytest.raises(ConfigError, match=words):
        make_recipe(video, {"name": "dispnet", "options": options}, section, augment=augment)


def test_a_mirrored_pair_is_a_pair_again(video):
    batch, plain = batch_of(video, {"warp": "depth", "stereo": True}, AugmentConfig(flip=1.0))
    torch.testing.assert_close(batch["view"], plain["image_right"].flip(-1))
    torch.testing.assert_close(batch["image_right"], plain["view"].flip(-1))
    assert batch["baseline_sign"].tolist() == [1.0]


def test_a_mirrored_pair_with_neighbours_has_its_second_view_on_the_other_side(video):
    batch, plain = batch_of(video, {**VIDEO, "stereo": True}, AugmentConfig(flip=1.0))
    torch.testing.assert_close(batch["view"], plain["view"].flip(-1))
    torch.testing.assert_close(batch["neighbour_views"], plain["neighbour_views"].flip(-1))
    assert batch["baseline_sign"].tolist() == [-1.0]
    assert stereo_motion(batch, None)[0, 0, 3].item() == pytest.approx(0.5)
    assert stereo_motion(plain, 0.1)[0, 0, 3].item() == pytest.approx(-0.1)


def test_the_true_disparity_costs_least_in_every_warp(video):
    batch, _ = batch_of(video, {"warp": "depth", "stereo": True}, AugmentConfig())
    for section in (STEREO, {**STEREO, "warp": "linearised", "photometric": "squared"}):
        recipe = make_recipe(video, MONODEPTH, {**section, "smoothness_weight": 0.0})
        objective = ViewObjective(recipe, models.build("monodepth-vgg", **MONODEPTH["options"]), None)
        costs = [
            float(objective({"disparity_0": torch.full((1, 1, 64, 128), d)}, batch).total) for d in (4.0, 6.0, 8.0)
        ]
        assert costs[1] < 0.2 * min(costs[0], costs[2])
    recipe = make_recipe(
        video,
        {"name": "unet", "options": {"base_channels": 2}},
        {"warp": "depth", "stereo": True, "smoothness_weight": 0.0},
    )
    objective = ViewObjective(recipe, models.build("unet", base_channels=2), None)
    focal = float(batch["intrinsics"][0, 0, 0])
    costs = [float(objective(torch.full((1, 1, 64, 128), focal * 0.5 / d), batch).total) for d in (4.0, 6.0, 8.0)]
    assert costs[1] < 0.2 * min(costs[0], costs[2])


def test_given_motion_makes_depth_metric(video, tmp_path):
    root = tmp_path / "video"
    shutil.copytree(video, root)
    (root / "poses").mkdir()
    # Two pixels a frame and six from left to right: the camera moves a third of the baseline to the right.
    rows = [f"1 0 0 {frame * 0.5 / 3} 0 1 0 0 0 0 1 0" for frame in range(5)]
    (root / "poses" / "00.txt").write_text("\n".join(rows))
    section = {"warp": "depth", "neighbours": [-1, 1], "pose": "given", "smoothness_weight": 0.0}
    for flip in (0.0, 1.0):
        batch, _ = batch_of(root, section, AugmentConfig(flip=flip))
        model = {"name": "unet", "kind": "metric_depth", "options": {"base_channels": 2}}
        recipe = make_recipe(root, model, section)
        objective = ViewObjective(recipe, models.build("unet", base_channels=2), None)
        assert objective.partner is None
        focal = float(batch["intrinsics"][0, 0, 0])
        costs = [float(objective(torch.full((1, 1, 64, 128), focal * 0.5 / d), batch).total) for d in (3.0, 6.0, 9.0)]
        assert costs[1] < 0.3 * min(costs[0], costs[2])
    with pytest.raises(ConfigError, match="frames all have poses"):
        objective(torch.ones(1, 1, 64, 128), {k: v for k, v in batch.items() if k != "neighbour_poses"})
    with pytest.raises(ConfigError, match="no network for motion"):
        load_partner(tmp_path, recipe.selfsupervised)


class Fixed(torch.nn.Module):
    """A pose network that sees only which picture is the brighter one."""

    def forward(self, first, second):
        step = (second.mean(dim=(1, 2, 3)) - first.mean(dim=(1, 2, 3)))[:, None, None]
        return torch.cat([0.1 * step.expand(-1, 1, 3), step.expand(-1, 1, 3)], dim=2)


def test_the_motion_to_an_earlier_frame_is_that_from_it_turned_round():
    config = parse_config(VIDEO, SelfSupervisedConfig)
    image = torch.full((2, 3, 4, 4), 0.5)
    sources = torch.stack([torch.full((2, 3, 4, 4), 0.4), torch.full((2, 3, 4, 4), 0.6)], dim=1)
    motions, masks = find_motions(Fixed(), image, sources, config)
    assert not masks
    # Equal steps of brightness: the motion from the earlier frame equals that to the later one.
    torch.testing.assert_close(invert_pose(motions[:, 0]), motions[:, 1])
    with pytest.raises(ConfigError, match="names 2"):
        find_motions(Fixed(), image, sources[:, :1], config)


class Still(torch.nn.Module):
    """A pose network that sees no motion, and remembers what it saw."""

    def forward(self, first, second):
        self.seen = first, second
        return torch.zeros(len(first), 1, 6)


def test_neighbours_are_turned_back_before_the_pose_network_sees_them():
    config = parse_config({**VIDEO, "rotation": "matched"}, SelfSupervisedConfig)
    intrinsics = torch.tensor([[[60.0, 0, 40], [0, 60, 32], [0, 0, 1]]])
    angle = torch.tensor([[[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]]])
    rotations = pose_from_axis_angle(angle.flatten(0, 1), torch.zeros(2, 3)).unflatten(0, (1, 2))
    image = torch.from_numpy(texture(64, 80))[None, None].expand(1, 3, -1, -1) / 255
    ones = torch.ones(1, 1, 64, 80)
    # What a turned camera sees is the picture read at the opposite rotation.
    back = invert_pose(rotations[0])
    sources = torch.stack([warp_by_depth(image, ones, one[None], intrinsics)[0] for one in back], dim=1)
    partner = Still()
    motions, _ = find_motions(partner, image, sources, config, rotations=rotations, intrinsics=intrinsics)
    torch.testing.assert_close(motions, rotations)
    (earlier, now), (_, later) = zip(*partner.seen, strict=True)  # in the order of time
    middle = (..., slice(4, -4), slice(10, -10))
    for seen in (earlier, later):
        assert (seen - now)[middle].abs().mean() < 0.05 * now.std()
    find_motions(partner, image, sources, config)
    assert (partner.seen[0][0] - now)[middle].abs().mean() > 0.5 * now.std()


def test_a_set_with_rotations_is_the_set_otherwise(video, monkeypatch):
    calls = []
    turn = pose_from_axis_angle(torch.tensor([[0.0, 0.1, 0.0]]), torch.zeros(1, 3))[0].double().numpy()
    monkeypatch.setattr("fathom.train.views.match_rotation", lambda *given: calls.append(given) or turn)
    plain = open_dataset("kitti-odometry", video, neighbours=(-1, 1))
    turned = WithRotations(plain)
    assert len(turned) == len(plain) and turned.scene(1) == plain.scene(1) and turned.kind is plain.kind
    for _ in range(2):
        sample = turned[1]
        np.testing.assert_array_equal(sample.meta["neighbour_poses"], [turn, turn])
        np.testing.assert_array_equal(sample.image, plain[1].image)
    assert len(calls) == 2  # one for each neighbour, and once only
    np.testing.assert_array_equal(calls[0][2], plain[1].camera.intrinsics)


def test_a_video_run_matches_features_first(video, tmp_path):
    pytest.importorskip("cv2")
    fit(make_recipe(video, MONODEPTH2, {**VIDEO, "rotation": "matched"}), tmp_path / "run", say=lambda line: None)
    assert (tmp_path / "run" / "pose.safetensors").exists()


def test_a_stereo_run_gives_a_model_that_predicts_disparity(video, tmp_path):
    recipe = make_recipe(video, MONODEPTH, {**STEREO, "left_right_weight": 1.0}, augment={"flip": 0.5})
    result = fit(recipe, tmp_path / "run", say=lambda line: None)
    assert monitored_score(recipe) == "loss"
    assert {"loss", "loss_photometric", "loss_smoothness", "loss_left_right"} <= set(result.scores)
    assert not (tmp_path / "run" / "pose.safetensors").exists()
    depth = Predictor(tmp_path / "run", runtime="torch").predict(np.zeros((96, 256, 3), np.uint8))
    assert depth.kind is DepthKind.DISPARITY
    assert 0 < depth.values.max() <= 0.3 * 256 + 1e-3
    assert depth.provenance.preprocessing["height"] == 64  # of training, though the paper's sides are multiples of 128
    checks = {f["check"]: f["level"] for f in json.loads((tmp_path / "run" / "lint.json").read_text())}
    assert {"static frames", "stereo order", "disparity saturation"} <= set(checks)
    assert set(checks.values()) == {"ok"}


def test_a_video_run_gives_depth_up_to_scale_and_a_pose_network(video, tmp_path):
    section = {**VIDEO, "pose": "sfmlearner", "photometric": "l1", "explainability_weight": 0.2}
    section["pose_options"] = {"base_channels": 2}
    model = {"name": "sfmlearner", "options": {"base_channels": 2}}
    recipe = make_recipe(video, model, section, clip_norm=1.0)
    result = fit(recipe, tmp_path / "run", say=lambda line: None)
    assert "loss_explainability" in result.scores
    depth = Predictor(tmp_path / "run", runtime="torch").predict(np.zeros((64, 128, 3), np.uint8))
    assert depth.kind is DepthKind.SCALE_INVARIANT_DEPTH
    partner = load_partner(tmp_path / "run", recipe.selfsupervised)
    motions, masks = find_motions(
        partner, torch.rand(1, 3, 64, 128), torch.rand(1, 2, 3, 64, 128), recipe.selfsupervised
    )
    assert motions.shape == (1, 2, 4, 4)
    assert tuple(masks[0].shape[1:]) == (4, 64, 128)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)
    saved = {k.removeprefix("objective.partner."): v for k, v in checkpoint["state_dict"].items() if "partner" in k}
    torch.testing.assert_close(saved, dict(partner.state_dict()))


def test_the_pose_network_learns(video, tmp_path):
    whole = make_recipe(video, MONODEPTH2, VIDEO)
    fit(whole, tmp_path / "whole", say=lambda line: None)
    started = load_partner_of_seed(whole)
    ended = load_partner(tmp_path / "whole", whole.selfsupervised)
    moved = [not torch.equal(a, b) for a, b in zip(started.parameters(), ended.parameters(), strict=True)]
    assert sum(moved) > len(moved) // 2


def load_partner_of_seed(recipe):
    from fathom.train.fit import _WEIGHTS
    from fathom.train.loader import mix_seed
    from fathom.train.network import build_network

    torch.manual_seed(mix_seed(recipe.seed, _WEIGHTS))
    return ViewObjective(recipe, build_network(recipe), None).partner


def test_no_views_no_run(video, tmp_path):
    recipe = make_recipe(video, MONODEPTH, STEREO)
    plain = open_dataset("kitti-odometry", video)
    with pytest.raises(ConfigError, match="no `image_right`"):
        fit(recipe, tmp_path / "run", train_set=plain, val_set=plain, say=lambda line: None)


class Wall(DepthDataset):
    """The textured plane of `make_video` with its true depth: disparity 6 px at full size."""

    name, split, kind = "wall", "all", DepthKind.METRIC_DEPTH

    def __init__(self, root):
        self.inner = open_dataset("kitti-odometry", root, stereo=True)

    def __len__(self):
        return 2

    def read(self, index):
        sample = self.inner[index]
        depth = sample.camera.focal_px * sample.camera.baseline_m / 6.0
        target = np.full(sample.image.shape[:2], depth, np.float32)
        return replace(sample, target=target, valid_mask=target > 0)


class Constant(torch.nn.Module):
    """A network whose disparity is one number, in pixels of its input."""

    def __init__(self, disparity):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(disparity))

    def forward(self, image):
        return self.value * torch.ones_like(image[:, :1])


@pytest.mark.parametrize("protocol", [None, "monodepth"])
def test_disparity_is_scored_in_metres_at_any_input_size(video, tmp_path, protocol):
    changes = {"every_steps": 1, "pictures": 0, "protocol": protocol}
    recipe = make_recipe(video, {"name": "garg2016"}, {**STEREO, "smoothness_weight": 0.0}, steps=1, validation=changes)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"resize": (32, 64)})})
    recipe = recipe.model_copy(update={"optimiser": recipe.optimiser.model_copy(update={"lr": 1e-9})})
    found = fit(
        recipe,
        tmp_path / "run",
        network=Constant(3.0),  # half of 6, because the input is half as wide
        train_set=Wall(video),
        val_set=Wall(video),
        say=lambda line: None,
    )
    assert found.scores["abs_rel"] < 1e-5
    assert found.scores["loss"] < 0.05


def test_depth_without_a_scale_is_scored_only_by_a_protocol(video, tmp_path):
    validation = {"every_steps": 1, "pictures": 0}
    recipe = make_recipe(video, MONODEPTH2, VIDEO, steps=1, validation=validation)
    objective = ViewObjective(recipe, models.build(**{"name": MONODEPTH2["name"]}, **MONODEPTH2["options"]), None)
    assert not ViewScorer(recipe, objective, None).has_truth
    with pytest.raises(ConfigError, match="validation set has none"):
        ViewScorer(recipe, objective, load_protocol("sfmlearner"))
    objective.truth_kind = DepthKind.METRIC_DEPTH
    assert not ViewScorer(recipe, objective, None).has_truth
    assert ViewScorer(recipe, objective, load_protocol("sfmlearner")).has_truth
    with pytest.raises(KindError):
        ViewScorer(recipe, objective, load_protocol("kitti-eigen-garg"))
