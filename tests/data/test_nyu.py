"""Facts of section 2 and 3 of the dataset notes: layouts, units and traps of NYU Depth V2."""

import multiprocessing
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.data.nyu import (
    DEPTH_CALIBRATION,
    DEPTH_TO_RGB_TRANSLATION_M,
    RGB_CALIBRATION,
    NyuBts,
    NyuFolder,
    NyuLabelled,
    NyuSparseToDense,
    kinect_raw_to_depth,
    nyu_camera,
    read_kinect_pgm,
    read_splits,
)
from fathom.errors import ConfigError, InputError
from fathom.types import DepthKind

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

NUM, HEIGHT, WIDTH = 6, 12, 16


def write_mat(path: Path, chunks: bool = True) -> dict[str, np.ndarray]:
    """Write a small .mat with the fields, axes and references of the real one; return it in (N, H, W) order."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (NUM, HEIGHT, WIDTH, 3), np.uint8)
    depths = rng.uniform(0.7, 10, (NUM, HEIGHT, WIDTH)).astype(np.float32)
    raw = np.where(rng.random(depths.shape) < 0.2, 0, depths).astype(np.float32)
    labels = rng.integers(0, 895, (NUM, HEIGHT, WIDTH)).astype(np.uint16)
    instances = rng.integers(0, 9, (NUM, HEIGHT, WIDTH)).astype(np.uint8)
    with h5py.File(path, "w", userblock_size=512) as file:
        # MATLAB's (H, W, 3, N) is (N, 3, W, H) for h5py.
        options = {"compression": "gzip"} if chunks else {}
        file.create_dataset("images", data=images.transpose(0, 3, 2, 1), **options)
        for name, maps in {"depths": depths, "rawDepths": raw, "labels": labels, "instances": instances}.items():
            file.create_dataset(name, data=maps.transpose(0, 2, 1), **options)
        group = file.create_group("#refs#")
        for name, texts in {
            "scenes": [f"kitchen_{i // 2:04d}" for i in range(NUM)],
            "sceneTypes": ["kitchen"] * NUM,
            "names": ["book", "bottle"],
        }.items():
            references = np.empty((1, len(texts)), h5py.ref_dtype)
            for i, text in enumerate(texts):
                codes = np.array([[ord(letter)] for letter in text], np.uint16)
                references[0, i] = group.create_dataset(f"{name}{i}", data=codes).ref
            file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    # 1-based, one column, uint16, as in the real file.
    scipy_io.savemat(
        path.parent / "splits.mat",
        {"trainNdxs": np.array([[3], [4], [6]], np.uint16), "testNdxs": np.array([[1], [2], [5]], np.uint16)},
    )
    return {"images": images, "depths": depths, "raw": raw, "labels": labels, "instances": instances}


@pytest.mark.parametrize("chunks", [True, False])
def test_labelled_frames_are_transposed_back(tmp_path: Path, chunks: bool) -> None:
    truth = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", chunks)
    dataset = NyuLabelled(tmp_path, "all")
    assert len(dataset) == NUM and dataset.kind is DepthKind.METRIC_DEPTH
    for i, sample in enumerate(dataset):
        np.testing.assert_array_equal(sample.image, truth["images"][i])
        np.testing.assert_array_equal(sample.target, truth["depths"][i])
        np.testing.assert_array_equal(sample.meta["labels"], truth["labels"][i])
        np.testing.assert_array_equal(sample.meta["instances"], truth["instances"][i])
        assert sample.meta["scene"] == f"kitchen_{i // 2:04d}" and sample.meta["number"] == i + 1
    assert dataset.class_names() == ("unlabelled", "book", "bottle")


def test_a_chunk_of_many_frames_is_decompressed_once(tmp_path: Path) -> None:
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        shape = (20, 64, 2048)
        maps = np.random.default_rng(0).random(shape).astype(np.float32)
        del file["depths"], file["images"]
        file.create_dataset("depths", data=maps, chunks=(20, 64, 256), compression="gzip")
        file.create_dataset("images", data=np.zeros((20, 3, 64, 2048), np.uint8), chunks=(20, 3, 64, 256))
    dataset = NyuLabelled(tmp_path / "nyu_depth_v2_labeled.mat", "all")
    depths = dataset._fields()["depths"]

    def seconds(frame: int) -> float:
        start = time.process_time()
        depths[frame]
        return time.process_time() - start

    first = seconds(0)  # inflates 10 MB
    assert min(seconds(frame) for frame in range(1, 6)) < first / 5


def test_raw_depth_has_holes(tmp_path: Path) -> None:
    truth = write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    sample = NyuLabelled(tmp_path, "all", depth="raw")[0]
    np.testing.assert_array_equal(sample.valid_mask, truth["raw"][0] > 0)
    assert NyuLabelled(tmp_path, "all")[0].valid_mask.all()


def test_splits_count_from_one(tmp_path: Path) -> None:
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    splits = read_splits(tmp_path / "splits.mat")
    assert splits["train"].tolist() == [2, 3, 5] and splits["test"].tolist() == [0, 1, 4]
    assert [s.meta["number"] for s in NyuLabelled(tmp_path, "train")] == [3, 4, 6]
    assert [s.meta["number"] for s in NyuLabelled(tmp_path, "test")] == [1, 2, 5]


def _read_in_child(dataset: NyuLabelled, index: int, queue: "multiprocessing.Queue[np.ndarray]") -> None:
    queue.put(dataset[index].target)


def test_labelled_survives_fork_and_pickle(tmp_path: Path) -> None:
    truth = write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    dataset = NyuLabelled(tmp_path, "all")
    before = dataset[0].target  # the parent's handle is open now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_read_in_child, args=(dataset, i, queue)) for i in (1, 2)]
    for worker in workers:
        worker.start()
    seen = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    for i in (1, 2):
        assert any(np.array_equal(target, truth["depths"][i]) for target in seen)
    np.testing.assert_array_equal(dataset[0].target, before)
    copy = pickle.loads(pickle.dumps(dataset))  # what spawn does
    np.testing.assert_array_equal(copy[3].target, truth["depths"][3])


def test_labelled_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        NyuLabelled(tmp_path, "all")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(InputError, match=r"MATLAB 7\.3"):
        NyuLabelled(tmp_path, "all")
    with pytest.raises(ConfigError, match="train, test, all"):
        NyuLabelled(tmp_path, "val")


def test_index_out_of_range(tmp_path: Path) -> None:
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    dataset = NyuLabelled(tmp_path, "train")
    assert dataset[-1].meta["number"] == 6
    with pytest.raises(IndexError, match="3 samples"):
        dataset[3]


def test_toolbox_constants() -> None:
    assert RGB_CALIBRATION["fx"] == 518.85790117450188 and RGB_CALIBRATION["cy"] == 253.73616633400465
    assert DEPTH_CALIBRATION["fx"] == 582.62448167737955 and DEPTH_CALIBRATION["k3"] == -0.51031725053400578
    assert DEPTH_TO_RGB_TRANSLATION_M == (0.075031875059141302, 0.00066238747008330102, 0.029342312935846411)
    # Half a pixel more than published: there the first pixel's centre is (0, 0), in `Camera` it is (0.5, 0.5).
    np.testing.assert_allclose(nyu_camera().intrinsics[:2, 2], [325.58244941119034 + 0.5, 253.73616633400465 + 0.5])


@pytest.mark.parametrize(("raw", "metres"), [(500, 0.59291), (800, 1.20103), (1000, 3.79784), (1057, 9.8958)])
def test_kinect_raw_depth(raw: int, metres: float) -> None:
    assert kinect_raw_to_depth(np.array([raw]))[0] == pytest.approx(metres, abs=5e-5)


def test_kinect_raw_depth_stays_in_range() -> None:
    depth = kinect_raw_to_depth(np.array([0, 1090, 1092, 1093, 2047]))
    assert depth.min() >= 0 and depth.max() == 10.0
    assert depth[-1] == 0.0


def test_kinect_pgm_bytes_are_swapped(tmp_path: Path) -> None:
    # The dump stores 1000 as e8 03 although PGM means big-endian.
    (tmp_path / "d.pgm").write_bytes(b"P5\n2 1\n65535\n" + np.array([1000, 500], "<u2").tobytes())
    assert read_kinect_pgm(tmp_path / "d.pgm").tolist() == [[1000, 500]]


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_bts_export(tmp_path: Path) -> None:
    write_png(tmp_path / "kitchen/rgb_00001.jpg", np.full((8, 10, 3), 90, np.uint8))
    write_png(tmp_path / "kitchen/sync_depth_00001.png", np.full((8, 10), 2500, np.uint16))
    (tmp_path / "list.txt").write_text(
        "/kitchen/rgb_00001.jpg /kitchen/sync_depth_00001.png 518.8579\n/kitchen/rgb_2.jpg None 518.8579\n"
    )
    dataset = NyuBts(tmp_path, "train", list_file=tmp_path / "list.txt")
    assert len(dataset) == 1 and dataset.missing == ["/kitchen/rgb_2.jpg"]
    sample = dataset[0]
    assert sample.target[0, 0] == np.float32(2.5) and sample.meta["focal_px"] == 518.8579
    assert dataset.scene(0) == "kitchen"


def test_sparse_to_dense_h5(tmp_path: Path) -> None:
    (tmp_path / "train" / "scene").mkdir(parents=True)
    rgb = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
    depth = np.arange(20, dtype=np.float32).reshape(4, 5)
    with h5py.File(tmp_path / "train" / "scene" / "00001.h5", "w") as file:
        file["rgb"], file["depth"] = rgb, depth
    sample = NyuSparseToDense(tmp_path, "train")[0]
    np.testing.assert_array_equal(sample.image, rgb.transpose(1, 2, 0))
    np.testing.assert_array_equal(sample.target, depth)
    assert not sample.valid_mask[0, 0] and sample.valid_mask.sum() == 19  # 0 is never a depth


def test_4d_no_valid_pixel_in_the_border(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb/0001.png", np.zeros((480, 640, 3), np.uint8))
    write_png(tmp_path / "depth/0001.png", np.full((480, 640), 2000, np.uint16))
    write_png(tmp_path / "labels40/0001.png", np.full((480, 640), 7, np.uint8))
    (tmp_path / "val.txt").write_text("0001\n")
    assert NyuFolder(tmp_path, "val")[0].valid_mask.all()
    sample = NyuFolder(tmp_path, "val", mask_border=True)[0]
    assert sample.valid_mask[7:474, 7:632].all() and sample.valid_mask.sum() == 467 * 625
    assert sample.meta["labels"][0, 0] == 7 and sample.target[100, 100] == 2.0


@pytest.mark.shared_data
def test_real_frames(shared_data: Path) -> None:
    train, val = NyuFolder(shared_data / "nyuv2", "train"), NyuFolder(shared_data / "nyuv2", "val")
    assert (len(train), len(val)) == (700, 95) and not set(train.stems) & set(val.stems)
    sample = val[0]
    assert sample.image.shape == (480, 640, 3) and sample.valid_mask.all()
    assert 0.5 < sample.target.min() and sample.target.max() <= 10.0
