"""Batches are a function of the seed and the step."""

import numpy as np
import pytest
from train_helpers import make_folder, make_recipe

torch = pytest.importorskip("torch")

from fathom.data import open_dataset  # noqa: E402
from fathom.errors import ConfigError  # noqa: E402
from fathom.train.loader import (  # noqa: E402
    Pick,
    Prepare,
    RankSampler,
    StepSampler,
    TrainSamples,
    ValSamples,
    add_normals,
    classes_of,
    join_batches,
    train_loader,
)
from fathom.types import Camera, FocalSource, Sample  # noqa: E402

AUGMENT = {"flip": 0.5, "zoom": [1.0, 1.3], "rotate_deg": 5.0, "crop": [24, 32], "brightness": 0.3, "noise": 0.05}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), 5)


def samples_of(data, **changes):
    recipe = make_recipe(data, augment=AUGMENT, **changes)
    dataset = open_dataset("folder", data, "train")
    return TrainSamples(dataset, Prepare(recipe.data, dataset.ignore_label), recipe.augment, recipe.seed)


def picks(sampler):
    return [pick for batch in sampler for pick in batch]


def test_every_pass_shows_every_picture_once_in_its_own_order():
    order = [pick.index for pick in picks(StepSampler(7, 3, 7, seed=1))]
    passes = [order[:7], order[7:14], order[14:21]]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert order != [pick.index for pick in picks(StepSampler(7, 3, 7, seed=2))]


def test_two_processes_see_together_what_one_sees():
    one = list(StepSampler(7, 4, 5, seed=1))
    two = [list(StepSampler(7, 2, 5, seed=1, rank=rank, num_processes=2)) for rank in range(2)]
    assert one == [first + second for first, second in zip(*two, strict=True)]


def test_starting_late_gives_the_rest_and_the_whole_length():
    late = StepSampler(7, 3, 9, seed=4, start=5)
    assert list(late) == list(StepSampler(7, 3, 9, seed=4))[5:]
    assert len(late) == 9


def test_a_picture_depends_on_its_position_alone(data):
    first, again, other = (samples_of(data)[Pick(position, 2)] for position in (11, 11, 12))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"], again["target"])
    assert not torch.equal(first["image"], other["image"])


@pytest.mark.slow
def test_workers_change_nothing(data):
    samples = samples_of(data)
    alone, helped = (list(train_loader(samples, StepSampler(5, 2, 4, seed=0), workers)) for workers in (0, 2))
    assert len(alone) == len(helped) == 4
    for left, right in zip(alone, helped, strict=True):
        assert left["id"] == right["id"]
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["target"], right["target"])


def test_what_augmentation_adds_is_unlabelled_and_invalid(data):
    recipe = make_recipe(data, augment={"rotate_deg": 45.0})
    dataset = open_dataset("folder", data, "train")
    samples = TrainSamples(dataset, Prepare(recipe.data, None), recipe.augment, 3)
    outside = [samples[Pick(position, 0)] for position in range(4)]
    outside = max(outside, key=lambda batch: int((batch["labels"] < 0).sum()))
    assert int((outside["labels"] < 0).sum()) > 50
    black = outside["image"][0].sum(0) == 0
    assert bool((outside["labels"][0][black] == -1).all())
    assert not bool(outside["valid_mask"][0][black].any())
    assert set(outside["labels"].unique().tolist()) == {-1, 0, 1}


def test_labels_are_counted_from_zero():
    labels = np.array([[0, 1, 2, 40]], np.uint8)
    assert classes_of(labels, offset=1, ignore_label=0).tolist() == [[0, 1, 2, 40]]
    assert classes_of(labels, offset=0, ignore_label=None).tolist() == [[1, 2, 3, 41]]
    assert classes_of(labels, offset=0, ignore_label=2).tolist() == [[1, 2, 0, 41]]


def test_the_range_limits_targets_only(data):
    recipe = make_recipe(data, data={"min_depth": 2.0, "max_depth": 2.5})
    dataset = open_dataset("folder", data, "train")
    prepared = Prepare(recipe.data, None)(dataset[0])
    inside = prepared.target[prepared.valid_mask]
    assert inside.min() >= 2.0
    assert inside.max() <= 2.5
    assert np.array_equal(prepared.target, dataset[0].target)


def test_normals_of_a_plane():
    # z = 2 + x / 4 in metres; its normal points to the camera: (1, 0, -4) / sqrt(17)
    columns = (np.arange(40) + 0.5 - 20.0) / 50.0
    depth = np.tile(2.0 / (1.0 - columns / 4), (30, 1)).astype(np.float32)
    camera = Camera.from_focal(50.0, height=30, width=40, source=FocalSource.USER)
    sample = Sample(np.zeros((30, 40, 3), np.uint8), depth, depth > 0, camera)
    normals = add_normals(sample, 0.0).meta["normals"]
    assert np.allclose(normals[15, 20], np.array([1, 0, -4]) / np.sqrt(17), atol=1e-3)
    assert not normals[0].any()  # no neighbour above
    smooth = add_normals(sample, 2.0).meta["normals"]
    assert np.allclose(smooth[15, 20], normals[15, 20], atol=0.02)
    with pytest.raises(ConfigError, match="metric depth and a camera"):
        add_normals(Sample(sample.image, depth, depth > 0, None), 0.0)


def test_validation_cuts_the_middle_and_keeps_the_whole(data):
    recipe = make_recipe(data)
    dataset = open_dataset("folder", data, "val")
    item = ValSamples(dataset, Prepare(recipe.data, None), (16, 24), keep_samples=True)[1]
    assert item["image"].shape == (1, 3, 16, 24)
    assert np.allclose(item["image"][0, 0].numpy() * 255, dataset[1].image[8:24, 12:36, 0])
    assert item["samples"][0].target.shape == dataset[1].target.shape


def test_each_picture_is_scored_by_one_process():
    parts = [list(RankSampler(5, rank, 2)) for rank in range(2)]
    assert parts == [[0, 2, 4], [1, 3]]


def test_sizes_that_differ_are_refused():
    batches = [{"image": torch.zeros(1, 3, 4, size)} for size in (5, 6)]
    with pytest.raises(ValueError, match=r"Set `data.resize`"):
        join_batches(batches)
