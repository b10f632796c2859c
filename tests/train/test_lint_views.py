"""Each check for collapse speaks on data that is broken on purpose, and is silent on good data."""

import json

import pytest
from test_selfsupervised import MONODEPTH, STEREO, VIDEO, make_recipe
from view_helpers import make_video

torch = pytest.importorskip("torch")
pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

from torch import nn  # noqa: E402

from fathom.config import parse_config  # noqa: E402
from fathom.data import open_dataset  # noqa: E402
from fathom.data.batch_transforms import AugmentConfig  # noqa: E402
from fathom.errors import ConfigError  # noqa: E402
from fathom.train.config_views import SelfSupervisedConfig  # noqa: E402
from fathom.train.fit import fit  # noqa: E402
from fathom.train.lint_views import (  # noqa: E402
    check_constant,
    check_intrinsics,
    check_motion,
    check_order,
    check_saturation,
    check_scale_drift,
    check_views,
)
from fathom.train.loader import Pick, Prepare, join_batches  # noqa: E402
from fathom.train.views import ViewTrainSamples  # noqa: E402

BOTH = {**VIDEO, "stereo": True}


def views_of(root, augment=None):
    dataset = open_dataset("kitti-odometry", root, stereo=True, neighbours=(-1, 1))
    recipe = make_recipe(root, MONODEPTH, STEREO)
    samples = ViewTrainSamples(dataset, Prepare(recipe.data, None), augment or AugmentConfig(), 0)
    return join_batches([samples[Pick(i, i)] for i in range(len(dataset))])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return views_of(make_video(tmp_path_factory.mktemp("good")))


def levels(batch):
    config = parse_config(BOTH, SelfSupervisedConfig)
    return {finding.check: finding.level for finding in check_views(batch, config)}


def test_good_data_raises_no_warning(good):
    assert levels(good) == {"static frames": "ok", "stereo order": "ok", "intrinsics": "ok"}


def test_mirrored_good_data_raises_no_warning(tmp_path):
    batch = views_of(make_video(tmp_path), AugmentConfig(flip=1.0))
    assert set(levels(batch).values()) == {"ok"}


def test_frames_that_stand_still(tmp_path):
    batch = views_of(make_video(tmp_path, step_px=0))
    finding = check_motion(batch)
    assert finding.level == "warning"
    assert "Drop standing frames" in finding.text
    noisy = {**batch, "neighbour_views": batch["neighbour_views"] + 0.004 * torch.randn(batch["neighbour_views"].shape)}
    assert check_motion(noisy).level == "warning"


def test_a_pair_of_one_picture(good):
    finding = check_motion({"view": good["view"], "image_right": good["view"]})
    assert finding.level == "warning"
    assert "100%" in finding.text


def test_swapped_views(good):
    finding = check_order(good["image_right"], good["view"], good["baseline_sign"])
    assert (finding.check, finding.level) == ("swapped views", "warning")
    assert "Exchange the two folders" in finding.text


def test_a_wrong_baseline_sign(good):
    finding = check_order(good["view"], good["image_right"], -good["baseline_sign"])
    assert (finding.check, finding.level) == ("baseline sign", "warning")
    assert "baseline_sign" in finding.text


def test_plain_walls_say_nothing_about_the_order():
    grey = torch.full((1, 3, 32, 64), 0.5)
    assert check_order(grey, grey, torch.ones(1)).level == "ok"


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[0.58, 0, 0.5], [0, 1.92, 0.5], [0, 0, 1]], "shares of the size"),
        ([[707.0, 0, 602.0], [0, 707.0, 183.0], [0, 0, 1]], "another size"),  # of 1226 x 370, at 320 x 96
        ([[5000.0, 0, 160.0], [0, 5000.0, 48.0], [0, 0, 1]], "another size"),
    ],
)
def test_a_camera_of_another_size(matrix, words):
    finding = check_intrinsics(torch.tensor([matrix]), 96, 320)
    assert finding.level == "warning"
    assert words in finding.text


@pytest.mark.parametrize(("fx", "fy"), [(185.0, 183.0), (1000.0, 1000.0), (100.0, 100.0)])
def test_cameras_that_exist(fx, fy):
    assert check_intrinsics(torch.tensor([[[fx, 0, 157.0], [0, fy, 47.5], [0, 0, 1]]]), 96, 320).level == "ok"


def test_saturated_disparity():
    limits = (0.0, 0.3)
    near = check_saturation(torch.full((2, 1, 4, 4), 0.2995), limits)
    far = check_saturation(torch.full((2, 1, 4, 4), 1e-6), limits)
    assert (near.level, far.level) == ("warning", "warning")
    assert "max_disparity" in near.text
    assert "infinitely far" in far.text
    assert check_saturation(0.3 * torch.rand(2, 1, 4, 4), limits).level == "ok"
    negative = check_saturation(-torch.rand(2, 1, 4, 4), None)
    assert negative.level == "warning"
    assert "below 0" in negative.text
    assert check_saturation(torch.rand(2, 1, 4, 4), None).level == "ok"


def test_constant_depth():
    finding = check_constant(0.1 + 1e-5 * torch.rand(2, 1, 8, 8))
    assert finding.level == "warning"
    assert "smoothness_weight" in finding.text
    one_of_two = torch.cat([torch.full((1, 1, 8, 8), 0.1), torch.rand(1, 1, 8, 8)])
    assert check_constant(one_of_two).level == "ok"


def test_pose_scale_drift():
    growing = check_scale_drift([0.1, 0.2, 0.5], [1.0, 2.0, 5.0])
    shrinking = check_scale_drift([0.5, 0.1], [5.0, 1.0])
    assert (growing.level, shrinking.level) == ("warning", "warning")
    assert "smoothness_normalised: true" in growing.text
    for translations, depths in (([0.1, 0.5], [1.0, 1.2]), ([0.1, 0.1], [1.0, 9.0]), ([0.1], [1.0])):
        assert check_scale_drift(translations, depths).level == "ok"


def swap_cameras(root):
    folder = root / "sequences" / "00"
    (folder / "image_0").rename(folder / "kept")
    (folder / "image_1").rename(folder / "image_0")
    (folder / "kept").rename(folder / "image_1")
    return root


def test_a_run_on_swapped_views_says_so_before_the_first_step(tmp_path):
    root = swap_cameras(make_video(tmp_path / "data"))
    lines = []
    fit(make_recipe(root, MONODEPTH, STEREO, steps=1), tmp_path / "run", say=lines.append)
    assert any("Exchange the two folders" in line for line in lines)
    strict = make_recipe(root, MONODEPTH, STEREO, steps=1, lint={"overfit_steps": 0, "strict": True})
    with pytest.raises(ConfigError, match="Exchange the two folders"):
        fit(strict, tmp_path / "refused", say=lines.append)


class Flat(nn.Module):
    """A depth network that has collapsed to one constant at the far end of its range."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(1e3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.value * torch.ones(len(image), 1, *image.shape[-2:])


def test_a_collapse_is_told_while_training(tmp_path, monkeypatch):
    monkeypatch.setattr("fathom.train.view_watch.SETTLED", 2)
    root = make_video(tmp_path / "data")
    model = {"name": "unet", "options": {"base_channels": 2}, "kind": "scale_invariant_depth"}
    recipe = make_recipe(root, model, {**VIDEO, "smoothness_weight": 0.0}, steps=3)
    lines = []
    fit(recipe, tmp_path / "run", network=Flat(), say=lines.append)
    told = [line for line in lines if "constant depth" in line]
    assert len(told) == 1
    assert told[0].startswith("Warning at step 2")
    found = json.loads((tmp_path / "run" / "lint.json").read_text())
    assert [f["check"] for f in found if f["level"] == "warning"].count("constant depth") == 1
