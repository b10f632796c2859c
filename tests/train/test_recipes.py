"""Every shipped recipe loads as it is, and takes a step with small networks and pictures."""

import re
from pathlib import Path

import pytest
import yaml
from train_helpers import make_folder
from view_helpers import make_video

from fathom import models
from fathom.train.config import load_recipe
from fathom.train.fit import fit

pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))

SMALL_POSE = {"sfmlearner": "{base_channels: 2}", "monodepth2": "{base_channels: 2, decoder_channels: 4}"}

SMALL = {
    "fcrn": "{width: 4, blocks: [1, 1, 1, 1]}",
    "fcrn-compact": "{base_channels: 4}",
    "eigen2014": "{width: 0.0625, hidden: 8}",
    "eigen2015": "{width: 0.0625, hidden: 8}",
    "vgg16-regressor": "{width: 0.0625, hidden: 8}",
    "multiscale-conv": "{width: 0.0625, channels: 8}",
    "unet": "{base_channels: 2}",
    "unet-paper": "{base_channels: 2}",
    "dispnet": "{base_channels: 2}",
    "dispnet-s": "{base_channels: 4}",
    "deeplabv3plus": "{encoder: test_resnet}",
    "depth-anything": "{hidden_size: 24, heads: 2, layers: 4, neck: [4, 4, 8, 8], fusion: 8}",
    "garg2016": "{base_channels: 3, fc_channels: 4}",
    "monodepth-vgg": "{base_channels: 2}",
    "monodepth-resnet50": "{base_channels: 4}",
    "sfmlearner": "{base_channels: 2}",
    "monodepth2": "{base_channels: 2, decoder_channels: [2, 2, 2, 2, 2]}",
    "smp": "{}",
}
"""Options that make a network small, by the start of its name."""


def small_options(name: str, given: dict) -> dict:
    family = max((key for key in SMALL if name.startswith(key)), key=len)
    kept = {key: value for key, value in given.items() if key not in ("trunk_weights", "encoder")}
    return {**kept, **yaml.safe_load(SMALL[family])}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), count=4, size=(256, 320))


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("slices"), count=4, size=(256, 256))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video"), count=3)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_tells_command_time_and_score(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"# fathom train configs/{path.name}")
    assert re.match(r"# Time: .+\. Score: .+\.", lines[1])
    assert load_recipe(path).name == path.stem


def test_every_supervised_network_has_a_paper_and_a_small_recipe():
    named = {load_recipe(path).model.name for path in RECIPES if not path.stem.endswith("-small")}
    small = {load_recipe(path).model.name for path in RECIPES if path.stem.endswith("-small")}
    unsupervised = {"garg2016", "monodepth-vgg", "monodepth-resnet50", "sfmlearner", "monodepth2-resnet18"}
    assert unsupervised <= named
    classic = {
        name
        for name, row in models.MODELS.items()
        if name.startswith(("fcrn", "eigen", "vgg16", "multiscale", "deeplab")) or name in ("unet", "dispnet-s")
    }
    assert classic <= named
    assert classic <= small


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_one_step(path, data, slices, video, tmp_path):
    given = load_recipe(path)
    root = slices if given.tasks == ("segmentation",) else data
    changes = [
        f"data.{part}={{dataset: folder, root: {root}, split: {part}, options: {{}}}}" for part in ("train", "val")
    ]
    if given.selfsupervised is not None:
        changes = [f"data.{part}={{dataset: kitti-odometry, root: {video}, split: all}}" for part in ("train", "val")]
        changes += ["data.resize=[64, 128]", *(["augment.crop=[64, 128]"] if given.augment.crop else [])]
        if given.selfsupervised.pose is not None:
            changes.append(f"selfsupervised.pose_options={SMALL_POSE[given.selfsupervised.pose]}")
    options = small_options(given.model.name, given.model.options)
    if given.model.name.startswith("smp:"):
        changes.append("model.name=smp:Unet:test_resnet")
    changes += [
        f"model.options={yaml.safe_dump(options, default_flow_style=True, width=9999).strip()}",
        "model.pretrained=null",
        "data.batch_size=2",
        "data.workers=0",
        "hardware.precision=fp32",
        "lint.overfit_steps=0",
        "validation.every_steps=1000",
        "validation.protocol=null",
        "validation.max_samples=1",
        "validation.pictures=1",
        "log_every=1",
    ]
    if given.phases:
        phases = [{**phase.model_dump(mode="json"), "steps": 1} for phase in given.phases]
        changes.append(f"phases={yaml.safe_dump(phases, default_flow_style=True, width=9999).strip()}")
    else:
        changes += ["steps=1", "epochs=null"]
    if given.schedule.warmup_steps:
        changes.append("schedule.warmup_steps=1")
    if given.distillation is not None:
        changes.append(f"distillation.cache={tmp_path / 'teacher'}")
    recipe = load_recipe(path, changes)
    lines: list[str] = []
    result = fit(recipe, tmp_path / "run", load_teacher=lambda _: teacher, say=lines.append)
    assert result.step == max(1, len(given.phases))
    assert result.scores
    assert (tmp_path / "run" / "best.ckpt").is_file()
    assert not [line for line in lines if "reached by no loss" in line]


def teacher(image):
    """Predict inverse depth from brightness, with an unknown scale and shift."""
    from fathom.types import Depth, DepthKind

    return Depth(3.0 - image[..., 0] / 100.0, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
