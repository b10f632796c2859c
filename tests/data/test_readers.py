"""Facts of sections 6 to 11 of the dataset notes: tiny files in the real layout of each set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.data import DATASETS, Subset, open_dataset
from fathom.data.base import camera_from_calibration, make_sample
from fathom.data.diode import Diode
from fathom.data.ibims import Ibims1
from fathom.data.make3d import C1_MAX_DEPTH_M, FCRN_SIZE, Make3D
from fathom.data.middlebury import Middlebury, disparity_to_depth, read_calibration
from fathom.data.segmentation import CamVid, Isbi2012
from fathom.data.sevenscenes import SevenScenes, register_depth
from fathom.data.stored import read_stored
from fathom.data.sunrgbd import SunRgbd, decode_depth, rotate_bits
from fathom.data.tum import FREIBURG1_CALIBRATION, TumRgbd, associate
from fathom.errors import ConfigError, InputError, ShapeError
from fathom.types import DepthKind

RGB = np.full((4, 6, 3), 60, np.uint8)


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_pfm(path: Path, array: np.ndarray, little: bool = True) -> None:
    """Write a grey PFM: rows bottom to top, the sign of the scale says the byte order."""
    head = f"Pf\n{array.shape[1]} {array.shape[0]}\n{-1.0 if little else 1.0}\n"
    path.write_bytes(head.encode() + array[::-1].astype("<f4" if little else ">f4").tobytes())


# Make3D


def test_make3d(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for number in (1, 2):
        write_png(tmp_path / f"Test134/img-op{number}-p-015t000.jpg", np.full((92, 69, 3), 90, np.uint8))
        grid = np.zeros((55, 305, 4))
        grid[..., 3] = np.linspace(1, 80, 55)[:, None]
        (tmp_path / "Gridlaserdata").mkdir(exist_ok=True)
        scipy_io.savemat(tmp_path / f"Gridlaserdata/depth_sph_corr-op{number}-p-015t000.mat", {"Position3DGrid": grid})
    dataset = Make3D(tmp_path)
    assert len(dataset) == 2 and dataset.grid(0).shape == (55, 305)
    sample = dataset[0]
    assert FCRN_SIZE == (460, 345) == sample.target.shape == sample.image.shape[:2]
    assert set(np.unique(sample.target)) <= set(dataset.grid(0).ravel())  # nearest: no new numbers
    assert (sample.target < C1_MAX_DEPTH_M).mean() == pytest.approx((dataset.grid(0) < 70).mean(), abs=0.02)
    assert len(Make3D(tmp_path, skip=(1,))) == 1  # the damaged picture of some mirrors
    (tmp_path / "Gridlaserdata/depth_sph_corr-op2-p-015t000.mat").unlink()
    with pytest.raises(InputError, match="op2"):
        Make3D(tmp_path)


# TUM RGB-D


def write_tum(root: Path) -> Path:
    write_png(root / "rgb/1.png", RGB)
    write_png(root / "rgb/2.png", RGB)
    write_png(root / "depth/1.png", np.full((4, 6), 10000, np.uint16))
    (root / "rgb.txt").write_text("# color images\n1.000 rgb/1.png\n2.000 rgb/2.png\n")
    (root / "depth.txt").write_text("# depth maps\n1.020 depth/1.png\n2.500 depth/1.png\n")
    (root / "groundtruth.txt").write_text("# t tx ty tz qx qy qz qw\n1.001 1 2 3 0 0 0.70710678 0.70710678\n")
    return root


def test_tum_units_and_association(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "rgbd_dataset_freiburg1_desk")
    dataset = TumRgbd(root)
    assert len(dataset) == 1  # 0.02 s belongs to a pair, 0.5 s does not
    sample = dataset[0]
    assert (sample.target == 2.0).all()
    np.testing.assert_allclose(sample.meta["pose"][:3, 3], [1, 2, 3])
    np.testing.assert_allclose(sample.meta["pose"][:2, :2], [[0, -1], [1, 0]], atol=1e-7)  # a quarter turn about z
    assert sample.camera is not None and sample.camera.focal_px == FREIBURG1_CALIBRATION[0] == 517.3


def test_tum_default_camera_is_centred(tmp_path: Path) -> None:
    camera = TumRgbd(write_tum(tmp_path / "freiburg2"))[0].camera
    assert camera is not None
    # 319.5, 239.5 counts pixel centres from 0: the middle of 640 x 480.
    assert camera.intrinsics[:2, 2].tolist() == [320.0, 240.0] and camera.focal_px == 525.0


def test_association_takes_the_closest_once() -> None:
    assert associate(np.array([0.0, 0.015]), np.array([0.01])) == [(1, 0)]
    assert associate(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == [(0, 1), (1, 0)]


# SUN RGB-D


def test_sun_bits_are_rotated_in_16_bits(tmp_path: Path) -> None:
    stored = np.array([[8, 16000, 1]], np.uint16)
    assert rotate_bits(stored).tolist() == [[1, 2000, 8192]]
    np.testing.assert_allclose(decode_depth(stored), [[0.001, 2.0, 8.0]])
    with pytest.raises(InputError, match="16-bit"):
        rotate_bits(stored.astype(np.int32))
    frame = tmp_path / "kv1/NYUdata/NYU0001"
    write_png(frame / "image/NYU0001.jpg", RGB)
    for folder in ("depth", "depth_bfx"):
        write_png(frame / folder / "NYU0001.png", np.full((4, 6), 16000 if folder == "depth" else 8000, np.uint16))
    (frame / "intrinsics.txt").write_text("518.8 0 284.5 0 519.4 208.7 0 0 1")
    (frame / "scene.txt").write_text("kitchen\n")
    sample = SunRgbd(tmp_path)[0]
    assert (sample.target == 1.0).all() and sample.meta["scene"] == "kitchen"
    assert (SunRgbd(tmp_path, refined=False)[0].target == 2.0).all()
    (tmp_path / "list.txt").write_text("kv1/NYUdata/NYU0001\n")
    assert len(SunRgbd(tmp_path, "mine", list_file=tmp_path / "list.txt")) == 1


# 7-Scenes


def test_seven_scenes_original_layout(tmp_path: Path) -> None:
    for sequence in (1, 2):
        folder = tmp_path / f"seq-{sequence:02d}"
        write_png(folder / "frame-000000.color.png", np.zeros((480, 640, 3), np.uint8))
        depth = np.full((480, 640), 2000, np.uint16)
        depth[:10] = 65535
        depth[10:20] = 0
        write_png(folder / "frame-000000.depth.png", depth)
        np.savetxt(folder / "frame-000000.pose.txt", np.eye(4))
    (tmp_path / "TrainSplit.txt").write_text("sequence1\n")
    (tmp_path / "TestSplit.txt").write_text("sequence2\n")
    train = SevenScenes(tmp_path, "train")
    assert len(train) == 1 and train.scene(0).endswith("seq-01") and len(SevenScenes(tmp_path)) == 2
    raw = SevenScenes(tmp_path, "train", registered=True)[0]
    assert not raw.valid_mask[:20].any() and raw.valid_mask[20:].all() and raw.target.max() == 2.0
    # Registered, the map shrinks by 525 / 585 about the centre and moves left by 525 * 0.025 / 2 = 6.6 pixels.
    columns = np.nonzero(train[0].valid_mask[240])[0]
    assert columns.min() == round(320 - 525 * (320 / 585 + 0.025 / 2))
    assert columns.max() == round(320 + 525 * (319 / 585 - 0.025 / 2))


def test_registration_keeps_the_nearest() -> None:
    depth = np.zeros((480, 640), np.float32)
    depth[240, 319:321] = [1.0, 5.0]
    registered = register_depth(depth)
    assert registered[240].max() == 5.0  # both land in the row; at 1 m the shift is 13 px, at 5 m it is 3 px
    assert np.nonzero(registered[240])[0].tolist() == [306, 317]


# DIODE


def test_diode(tmp_path: Path) -> None:
    folder = tmp_path / "val/indoors/scene_00019/scan_00183"
    stem = "00019_00183_indoors_000_010"
    write_png(folder / f"{stem}.png", RGB)
    depth = np.full((4, 6, 1), 3.0, np.float32)
    mask = np.ones((4, 6), np.float32)
    mask[0] = 0
    np.save(folder / f"{stem}_depth.npy", depth)
    np.save(folder / f"{stem}_depth_mask.npy", mask)
    np.save(folder / f"{stem}_normal.npy", np.zeros((4, 6, 3)))
    sample = Diode(tmp_path)[0]
    assert sample.target.shape == (4, 6) and not sample.valid_mask[0].any() and sample.valid_mask[1:].all()
    assert sample.meta["normals"].shape == (4, 6, 3) and sample.meta["scene"] == "scene_00019"
    assert sample.camera is not None
    assert sample.camera.intrinsics.tolist() == [[886.81, 0, 512], [0, 927.06, 384], [0, 0, 1]]
    with pytest.raises(InputError, match="outdoor"):
        Diode(tmp_path, scene_type="outdoor")


# Middlebury


@pytest.mark.parametrize("little", [True, False])
def test_middlebury_2014(tmp_path: Path, little: bool) -> None:
    folder = tmp_path / "Piano"
    write_png(folder / "im0.png", RGB)
    write_png(folder / "im1.png", RGB)
    disparity = np.full((4, 6), 90.0, np.float32)
    disparity[0] = np.inf
    disparity[3] = 190.0
    write_pfm(folder / "disp0.pfm", disparity, little)
    (folder / "calib.txt").write_text(
        "cam0=[1000 0 3; 0 1000 2; 0 0 1]\ncam1=[1000 0 13; 0 1000 2; 0 0 1]\ndoffs=10\nbaseline=200\nndisp=260\n"
    )
    dataset = Middlebury(tmp_path)
    sample = dataset[0]
    assert dataset.kind is DepthKind.METRIC_DEPTH and sample.camera is not None
    assert sample.camera.baseline_m == 0.2
    assert not sample.valid_mask[0].any()  # the top row: PFM starts at the bottom
    np.testing.assert_allclose(sample.target[1:, 0], [2.0, 2.0, 1.0])  # 200 mm * 1000 px / (90 + 10) px
    assert read_calibration(folder / "calib.txt")["cam1"][0, 2] == 13
    assert disparity_to_depth(np.array([-10.0]), focal_px=1, baseline_mm=1, doffs_px=10).tolist() == [0.0]


def test_middlebury_integer_disparity(tmp_path: Path) -> None:
    for left, right, factor in (("view1", "view5", 3), ("im2", "im6", 4)):
        folder = tmp_path / left
        write_png(folder / f"{left}.png", RGB)
        write_png(folder / f"{right}.png", RGB + 1)
        stored = np.full((4, 6), 12 * factor, np.uint8)
        stored[0, 0] = 0
        write_png(folder / f"disp{left[-1]}.png", stored)
        write_png(folder / f"disp{right[-1]}.png", stored)
    dataset = Middlebury(tmp_path)
    assert dataset.kind is DepthKind.DISPARITY and len(dataset) == 2
    for sample in dataset:
        assert sample.target[1, 1] == 12.0 and not sample.valid_mask[0, 0]
        assert sample.meta["image_right"][0, 0, 0] == 61 and sample.meta["target_right"].shape == (4, 6)


# iBims-1


def test_ibims_raw(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb/a_01.png", RGB)
    write_png(tmp_path / "depth/a_01.png", np.full((4, 6), 13107, np.uint16))
    invalid, transparent = np.full((4, 6), 255, np.uint8), np.full((4, 6), 255, np.uint8)
    invalid[0], transparent[1] = 0, 0
    write_png(tmp_path / "mask_invalid/a_01.png", invalid)
    write_png(tmp_path / "mask_transp/a_01.png", transparent)
    write_png(tmp_path / "edges/a_01.png", np.eye(4, 6, dtype=np.uint8))
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib/a_01.txt").write_text("550.39,548.55,312.97,235.89")
    sample = Ibims1(tmp_path)[0]
    assert sample.target[3, 3] == pytest.approx(10.0) and sample.valid_mask.any(axis=1).tolist() == [0, 0, 1, 1]
    assert sample.meta["edges"].sum() == 4 and sample.camera is not None
    assert sample.camera.focal_px == 550.39


def test_ibims_matlab(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    data = {
        "rgb": RGB,
        "depth": np.full((4, 6), 7.5),
        "edges": np.eye(4, 6),
        "calib": np.array([[550.0, 0, 0], [0, 548.0, 0], [312.0, 235.0, 1]]),  # MATLAB keeps it transposed
        "mask_invalid": np.ones((4, 6)),
        "mask_transp": np.ones((4, 6)),
        "mask_wall": np.zeros((4, 6)),
        "mask_wall_paras": np.array([[0.0, 0, 1, 2]]),
    }
    scipy_io.savemat(tmp_path / "a_01.mat", {"data": data})
    sample = Ibims1(tmp_path)[0]
    assert (sample.target == 7.5).all() and sample.meta["mask_wall_paras"].shape == (1, 4)
    assert sample.camera is not None
    assert sample.camera.intrinsics[:2, 2].tolist() == [312.5, 235.5]


# Segmentation


def test_isbi_pictures_and_volume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 255, (10, 8, 8)).astype(np.uint8)
    labels = (rng.random((10, 8, 8)) > 0.3).astype(np.uint8) * 255
    for i in range(10):
        write_png(tmp_path / f"png/image/{i}.png", slices[i])
        write_png(tmp_path / f"png/label/{i}.png", labels[i])
    (tmp_path / "tif").mkdir()
    for name, pages in (("train-volume", slices), ("train-labels", labels)):
        first, *rest = (Image.fromarray(page) for page in pages)
        first.save(tmp_path / f"tif/{name}.tif", save_all=True, append_images=rest)
    for layout in ("png", "tif"):
        train, val = Isbi2012(tmp_path / layout, "train"), Isbi2012(tmp_path / layout, "val")
        assert (len(train), len(val)) == (4, 6) and train.kind is None
        sample = val[0]
        np.testing.assert_array_equal(sample.image[..., 0], slices[4])
        np.testing.assert_array_equal(sample.meta["labels"], labels[4] // 255)
        assert not sample.valid_mask.any() and train.class_names() == ("membrane", "cell")


def test_camvid(tmp_path: Path) -> None:
    write_png(tmp_path / "train/0001TP_006690.png", RGB)
    write_png(tmp_path / "trainannot/0001TP_006690.png", np.full((4, 6), 11, np.uint8))
    dataset = CamVid(tmp_path)
    assert dataset.ignore_label == 11 and len(dataset.class_names()) == 11 and dataset.scene(0) == "0001TP"
    assert (dataset[0].meta["labels"] == 11).all()
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0001TP_006690.png /SegNet/x/0001TP_006690.png\n")
    assert len(CamVid(tmp_path, "train", list_file=tmp_path / "train.txt")) == 1
    with pytest.raises(InputError, match="val"):
        CamVid(tmp_path, "val")


# The contract


def test_open_dataset_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tum-rgbd'"):
        open_dataset("tum-rgb", tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'calibration'"):
        open_dataset("tum-rgbd", tmp_path, calibratio=(1, 2, 3, 4))
    with pytest.raises(ConfigError, match="needs the option split_file"):
        open_dataset("kitti-raw", tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        open_dataset("diode", tmp_path / "absent")
    assert len(open_dataset("tum-rgbd", write_tum(tmp_path / "a"), "all", calibration=(1.0, 1.0, 0.0, 0.0))) == 1
    assert all(entry.description and entry.licence for entry in DATASETS.values())


def test_subset(tmp_path: Path) -> None:
    for i in range(3):
        write_png(tmp_path / f"train/000{i}TP_1.png", RGB + i)
        write_png(tmp_path / f"trainannot/000{i}TP_1.png", RGB[..., 0])
    part = Subset(CamVid(tmp_path), [2, 0], "part")
    assert [sample.image[0, 0, 0] for sample in part] == [62, 60] and part.scene(0) == "0002TP"
    assert part.ignore_label == 11 and part.class_names()[0] == "sky" and part.split == "part"
    with pytest.raises(ConfigError, match=r"0\.\.2"):
        Subset(part.dataset, [3], "x")


def test_make_sample_never_passes_on_what_is_not_a_depth() -> None:
    target = np.array([[np.nan, np.inf, -1.0, 0.0, 2.0, 3.0]])  # 17a, and 0 is never a depth
    mask = np.array([[True] * 5 + [False]])
    sample = make_sample(RGB[:1], target, mask, meta={"id": "x"})
    assert sample.valid_mask.tolist() == [[False] * 4 + [True, False]]
    assert sample.target.tolist() == [[0, 0, 0, 0, 2, 0]]
    with pytest.raises(ShapeError, match="6 x 4 but its labels is 5 x 4"):
        make_sample(RGB, None, meta={"id": "x", "labels": np.zeros((4, 5))})
    with pytest.raises(ShapeError, match="target"):
        make_sample(RGB, np.ones((2, 3)), meta={"id": "x"})


@pytest.mark.parametrize(("origin", "expected"), [(0.0, 320.0), (0.5, 319.5), (1.0, 319.0)])
def test_calibrations_of_every_pixel_convention(origin: float, expected: float) -> None:
    camera = camera_from_calibration(500, 500, 319.5, 239.5, first_pixel_centre=origin)
    assert camera.intrinsics[0, 2] == expected


def test_stored_numbers_keep_their_type(tmp_path: Path) -> None:
    expected = {
        "a.png": np.array([[0, 65535]], np.uint16),
        "b.npy": np.array([[0.5, np.nan]], np.float64),
        "d.tiff": np.array([[1.5, 2.5]], np.float32),
    }
    write_png(tmp_path / "a.png", expected["a.png"])
    np.save(tmp_path / "b.npy", expected["b.npy"][None])
    np.savez(tmp_path / "c.npz", depth=expected["b.npy"], other=np.zeros(3))
    Image.fromarray(expected["d.tiff"]).save(tmp_path / "d.tiff")
    for name, array in expected.items():
        stored = read_stored(tmp_path / name)
        np.testing.assert_array_equal(stored, array)
        assert stored.dtype == array.dtype
    np.testing.assert_array_equal(read_stored(tmp_path / "c.npz"), expected["b.npy"])
    with pytest.raises(InputError, match="npz_key"):
        read_stored(tmp_path / "c.npz", key="nothing")
    write_png(tmp_path / "colour.png", RGB)
    with pytest.raises(InputError, match="colour picture"):
        read_stored(tmp_path / "colour.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError, match="Cannot read"):
        read_stored(tmp_path / "cut.png")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("7-scenes", "7scenes-redkitchen", 90),
        ("middlebury", "middlebury", 8),
        ("isbi2012", "isbi2012", 24),
    ],
)
def test_real_sets(shared_data: Path, name: str, folder: str, count: int) -> None:
    dataset = open_dataset(name, shared_data / folder)
    assert len(dataset) == count
    sample = dataset[count - 1]
    assert sample.image.dtype == np.uint8 and sample.target.shape == sample.image.shape[:2]
