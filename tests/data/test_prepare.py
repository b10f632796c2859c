"""Fast training files give back the same samples; splits keep scenes together."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fathom.data.base import DepthDataset, camera_from_calibration, make_sample
from fathom.data.prepare import ARTICLE_SPLITS, PreparedDataset, prepare, prepare_parts, split_indices
from fathom.errors import ConfigError, InputError, OutputError
from fathom.io import FathomWarning
from fathom.types import DepthKind, Sample


class Rooms(DepthDataset):
    """Frames of scenes of different length and picture size."""

    name, split, kind, ignore_label = "rooms", "train", DepthKind.METRIC_DEPTH, 0

    def __init__(self, lengths: tuple[int, ...] = (3, 2)) -> None:
        self.scenes = [f"room{k}" for k, length in enumerate(lengths) for _ in range(length)]

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> str:
        return self.scenes[index]

    def class_names(self) -> tuple[str, ...]:
        return ("void", "wall")

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        shape = (8 + index, 10)
        image = rng.integers(0, 255, (*shape, 3), np.uint8)
        target = rng.uniform(-1, 5, shape)
        meta = {
            "id": f"{index}",
            "scene": self.scenes[index],
            "labels": rng.integers(0, 3, shape).astype(np.uint8),
            "pose": rng.normal(size=(4, 4)),
            "neighbours": [image, image[::-1]],
            "index": index,
        }
        camera = camera_from_calibration(500.25, 501, 5, 4, baseline_m=0.1)
        return make_sample(image, target, camera=camera, meta=meta)


def assert_same(sample: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(sample.image, other.image)
    np.testing.assert_array_equal(sample.target, other.target)
    np.testing.assert_array_equal(sample.valid_mask, other.valid_mask)
    assert sample.camera == other.camera and sample.kind == other.kind
    assert sample.meta.keys() == other.meta.keys()
    for key, value in sample.meta.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other.meta[key]), err_msg=key)


def test_round_trip_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.data.prepare.MAX_SHARD_BYTES", 3000)  # several shards
    source, seen = Rooms(), []
    folder = prepare(source, tmp_path, licence="CC0", on_sample=seen.append)
    assert folder == tmp_path / "train" and seen == [1, 2, 3, 4, 5]
    assert len(list(folder.glob("shard-*.bin"))) > 1
    back = PreparedDataset(tmp_path, "train")
    assert (back.name, back.kind, back.ignore_label, back.licence) == ("rooms", DepthKind.METRIC_DEPTH, 0, "CC0")
    assert back.class_names() == ("void", "wall") and len(back) == 5 and back.scene(4) == "room1"
    for i in (4, 0, 2, 1, 3):
        assert_same(back[i], source[i])
    assert_same(pickle.loads(pickle.dumps(back))[1], source[1])
    assert not back[0].image.flags.writeable and back.nbytes() > 0
    with pytest.raises(OutputError, match="already"):
        prepare(source, tmp_path)


def test_relative_targets_keep_zero_and_negative_values(tmp_path: Path) -> None:
    class Relative(Rooms):
        kind = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH

        def read(self, index: int) -> Sample:
            target = np.array([[-1.0, 0.0, 2.0, np.nan]])
            return make_sample(np.zeros((1, 4, 3), np.uint8), target, kind=self.kind, meta={"id": str(index)})

    prepare(Relative(), tmp_path)
    sample = PreparedDataset(tmp_path, "train")[0]
    assert sample.valid_mask.tolist() == [[True, True, True, False]] and sample.target.tolist() == [[-1, 0, 2, 0]]


def test_prepared_at_another_size(tmp_path: Path) -> None:
    prepare(Rooms(), tmp_path, size=(6, 5))
    sample = PreparedDataset(tmp_path, "train")[2]
    assert sample.image.shape == (6, 5, 3) and sample.meta["labels"].shape == (6, 5) and sample.camera is not None
    assert sample.camera.focal_px == 500.25 / 2


def test_an_unfinished_folder_is_recognised(tmp_path: Path) -> None:
    prepare(Rooms(), tmp_path)
    (tmp_path / "train" / "dataset.json").unlink()
    with pytest.raises(InputError, match="not prepared to the end"):
        PreparedDataset(tmp_path, "train")
    with pytest.raises(InputError, match="not a folder"):
        PreparedDataset(tmp_path, "val")


@pytest.mark.parametrize("name", ARTICLE_SPLITS)
def test_scene_wise_splits_never_divide_a_scene(name: str) -> None:
    source = Rooms(tuple(np.random.default_rng(0).integers(3, 12, 60)))
    parts = split_indices(source, ARTICLE_SPLITS[name], seed=4)
    assert sorted(i for indices in parts.values() for i in indices) == list(range(len(source)))
    scenes = [{source.scene(i) for i in indices} for indices in parts.values()]
    assert not scenes[0] & scenes[1] and not scenes[0] & scenes[2] and not scenes[1] & scenes[2]
    for share, indices in zip(ARTICLE_SPLITS[name], parts.values(), strict=True):
        assert len(indices) / len(source) == pytest.approx(share, abs=0.02)
    assert parts == split_indices(source, ARTICLE_SPLITS[name], seed=4)
    assert parts != split_indices(source, ARTICLE_SPLITS[name], seed=5)


def test_frame_wise_splits_warn() -> None:
    # The random split of 1440 of the 1449 NYU frames leaks scenes; 80/10/10 of 1449 would be 1159/145/145.
    with pytest.warns(FathomWarning, match="measures memory"):
        parts = split_indices(Rooms((10, 10)), (0.8, 0.1, 0.1), by="frame")
    assert [len(indices) for indices in parts.values()] == [16, 2, 2]


def test_splits_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="too few"):
        split_indices(Rooms((5,)), (0.8, 0.1, 0.1))
    with pytest.raises(ConfigError, match="sum to 1"):
        split_indices(Rooms(), (0.8, 0.1, 0.2))
    with pytest.raises(ConfigError, match="scene, frame"):
        split_indices(Rooms(), (0.8, 0.1, 0.1), by="image")


def test_parts_are_written_side_by_side(tmp_path: Path) -> None:
    source = Rooms((4, 2, 2))
    parts = split_indices(source, (0.5, 0.25, 0.25))
    prepare_parts(source, tmp_path, parts)
    assert [len(PreparedDataset(tmp_path, part)) for part in ("train", "val", "test")] == [4, 2, 2]
    assert_same(PreparedDataset(tmp_path, "val")[0], source[parts["val"][0]])
