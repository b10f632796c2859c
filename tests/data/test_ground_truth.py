"""Every reader says where its depth comes from, and a protocol that scores against another source refuses it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from fathom.data import DATASETS, open_dataset
from fathom.data.prepare import prepare
from fathom.errors import ConfigError
from fathom.evaluate import evaluate
from fathom.protocol import GroundTruth, load_protocol
from fathom.types import Depth, DepthKind

ROWS, COLUMNS = 4, 6
DATE, DRIVE = "2011_09_26", "2011_09_26/2011_09_26_drive_0001_sync"
P = "70 0 3 {} 0 70 2 0 0 0 1 0"


def colour(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (COLUMNS, ROWS)).save(path)


def counts(path: Path, value: int = 2560, dtype: type = np.uint16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((ROWS, COLUMNS), value, dtype)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def scan(path: Path) -> None:
    """One point straight ahead, whichever axis points ahead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array([[5, 0, 0, 1], [0, 0, 5, 1]], "<f4").tofile(path)


def pairs(root: Path) -> None:
    colour(root / "rgb/1.png")
    counts(root / "depth/1.png")


def your_folder(root: Path) -> None:
    pairs(root)
    text(root / "dataset.yaml", "name: a\nimages: 'rgb/{stem}.png'\ndepth: 'depth/{stem}.png'\nscale: 0.001\n")


def nyu_mat(root: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.zeros((1, 3, COLUMNS, ROWS), np.uint8)
        file["depths"] = file["rawDepths"] = np.ones((1, COLUMNS, ROWS), np.float32)


def nyu_bts(root: Path) -> None:
    colour(root / "room/rgb_1.jpg")
    counts(root / "room/sync_depth_1.png")
    text(root / "list.txt", "/room/rgb_1.jpg /room/sync_depth_1.png 518.8579\n")


def sparse_to_dense(root: Path, shape: tuple[int, int] = (480, 640)) -> None:
    h5py = pytest.importorskip("h5py")
    (root / "train/room").mkdir(parents=True)
    with h5py.File(root / "train/room/1.h5", "w") as file:
        file["rgb"], file["depth"] = np.zeros((3, *shape), np.uint8), np.ones(shape, np.float32)


def kitti_raw(root: Path) -> None:
    colour(root / DRIVE / "image_02/data/0000000000.png")
    scan(root / DRIVE / "velodyne_points/data/0000000000.bin")
    counts(root / "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000000.png")
    text(root / DATE / "calib_cam_to_cam.txt", f"P_rect_02: {P.format(0)}\nP_rect_03: {P.format(-38)}\n")
    with (root / DATE / "calib_cam_to_cam.txt").open("a") as file:
        file.write("R_rect_00: 1 0 0 0 1 0 0 0 1\n")
    text(root / DATE / "calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    text(root / "list.txt", f"{DRIVE} 0 l\n")


def odometry(root: Path) -> None:
    colour(root / "sequences/00/image_2/000000.png")
    lines = [f"P{camera}: {P.format(0 if camera == 2 else -38)}" for camera in range(4)]
    text(root / "sequences/00/calib.txt", "\n".join(lines) + "\nTr: 1 0 0 0 0 1 0 0 0 0 1 0\n")


def odometry_lidar(root: Path) -> None:
    odometry(root)
    scan(root / "sequences/00/velodyne/000000.bin")


def stereo_2015(root: Path) -> None:
    for folder in ("image_2", "image_3"):
        colour(root / f"training/{folder}/000000_10.png")
    counts(root / "training/disp_occ_0/000000_10.png")
    text(root / "training/calib_cam_to_cam/000000.txt", f"P_rect_02: {P.format(0)}\nP_rect_03: {P.format(-38)}\n")


def kitti_360(root: Path) -> None:
    colour(root / "image_00/0000000001.png")
    counts(root / "depth/0000000001.png")
    text(root / "calibration/perspective.txt", f"P_rect_00: {P.format(0)}\nP_rect_01: {P.format(-38)}\n")


def make3d(root: Path) -> None:
    colour(root / "Test134/img-1.jpg")
    (root / "Gridlaserdata").mkdir()
    grid = {"Position3DGrid": np.full((55, 305, 4), 5.0)}
    pytest.importorskip("scipy.io").savemat(root / "Gridlaserdata/depth_sph_corr-1.mat", grid)


def tum(root: Path) -> None:
    pairs(root)
    text(root / "rgb.txt", "1.0 rgb/1.png\n")
    text(root / "depth.txt", "1.0 depth/1.png\n")


def sun(root: Path) -> None:
    colour(root / "kv1/1/image/1.png")
    for folder in ("depth", "depth_bfx"):
        counts(root / f"kv1/1/{folder}/1.png")
    text(root / "kv1/1/intrinsics.txt", "70 0 3 0 70 2 0 0 1")


def diode(root: Path) -> None:
    scan_folder = root / "val/indoors/scene_1/scan_1"
    colour(scan_folder / "a.png")
    for name in ("depth", "depth_mask"):
        np.save(scan_folder / f"a_{name}.npy", np.ones((ROWS, COLUMNS), np.float32))


def middlebury(root: Path) -> None:
    colour(root / "Art/view1.png")
    counts(root / "Art/disp1.png", 30, np.uint8)


def middlebury_2014(root: Path) -> None:
    colour(root / "Piano/im0.png")
    (root / "Piano/disp0.pfm").write_bytes(b"Pf\n6 4\n-1.0\n" + np.full((ROWS, COLUMNS), 90, "<f4").tobytes())
    text(root / "Piano/calib.txt", "cam0=[70 0 3; 0 70 2; 0 0 1]\ndoffs=10\nbaseline=200\n")


def ibims(root: Path) -> None:
    pairs(root)
    text(root / "calib/1.txt", "70,70,3,2")


def prepared(root: Path) -> None:
    diode(root / "source")
    prepare(open_dataset("diode", root / "source"), root)


Layout = tuple[str, Callable[[Path], None], dict[str, Any], str | None]
KITTI = {"split_file": "list.txt"}
LAYOUTS: list[Layout] = [
    ("folder", your_folder, {}, None),
    ("nyu-labelled", nyu_mat, {"split": "all"}, "filled"),
    ("nyu-labelled", nyu_mat, {"split": "all", "depth": "raw"}, "raw"),
    ("nyu-folder", pairs, {"split": "all"}, None),
    ("nyu-folder", pairs, {"split": "all", "depth": "filled"}, "filled"),
    ("nyu-folder", pairs, {"split": "all", "depth": "raw"}, "raw"),
    ("nyu-bts", nyu_bts, {"list_file": "list.txt"}, "raw"),
    ("nyu-sparse-to-dense", sparse_to_dense, {}, "filled"),
    ("nyu-sparse-to-dense", lambda root: sparse_to_dense(root, (8, 9)), {}, None),
    ("kitti-raw", kitti_raw, KITTI, "annotated"),
    ("kitti-raw", kitti_raw, KITTI | {"ground_truth": "velodyne"}, "velodyne"),
    ("kitti-raw", kitti_raw, KITTI | {"ground_truth": "velodyne-monodepth"}, "velodyne"),
    ("kitti-raw", kitti_raw, KITTI | {"ground_truth": "none"}, None),
    ("kitti-odometry", odometry, {}, None),
    ("kitti-odometry", odometry_lidar, {}, "velodyne"),
    ("kitti-stereo-2015", stereo_2015, {}, "annotated"),
    ("kitti-360", kitti_360, {}, "velodyne"),
    ("make3d", make3d, {}, "laser"),
    ("tum-rgbd", tum, {}, "raw"),
    ("sun-rgbd", sun, {}, "filled"),
    ("sun-rgbd", sun, {"refined": False}, "raw"),
    ("7-scenes", pairs, {}, "raw"),
    ("diode", diode, {}, "laser"),
    ("middlebury", middlebury, {}, "structured_light"),
    ("middlebury", middlebury_2014, {}, "structured_light"),
    ("ibims1", ibims, {}, "laser"),
    ("prepared", prepared, {"split": "val"}, "laser"),
]
WITHOUT_DEPTH = {"frames", "video", "isbi2012", "camvid"}


def opened(name: str, root: Path, options: dict[str, Any]):
    options = {key: root / value if key in ("split_file", "list_file") else value for key, value in options.items()}
    place = root / "dataset.yaml" if name == "folder" else root
    return open_dataset(name, place, options.pop("split", None), **options)


@pytest.mark.parametrize(("name", "write", "options", "expected"), LAYOUTS)
def test_every_reader_says_where_its_depth_comes_from(
    tmp_path: Path, name: str, write: Callable[[Path], None], options: dict[str, Any], expected: str | None
) -> None:
    write(tmp_path)
    dataset = opened(name, tmp_path, options)
    found = dataset[0].meta.get("ground_truth")
    assert found == expected and (found is None or found in get_args(GroundTruth))
    assert dataset.kind is not None or found is None


def test_no_reader_is_forgotten() -> None:
    assert {name for name, *_ in LAYOUTS} | WITHOUT_DEPTH == set(DATASETS)


@pytest.mark.parametrize(("refined", "wanted"), [(True, "filled"), (False, "raw")])
def test_a_protocol_refuses_the_depth_of_another_source(tmp_path: Path, refined: bool, wanted: str) -> None:
    sun(tmp_path)
    dataset = open_dataset("sun-rgbd", tmp_path, refined=refined)
    crop = (
        "score_crop={name: none, unit: fraction, rows: [0.0, 1.0], columns: [0.0, 1.0], frame: full, frame_size: null}"
    )

    def score(source: str):
        protocol = load_protocol("nyu-eigen", [crop, "split.images=null", f"split.ground_truth={source}"])
        return evaluate(lambda image: Depth(np.ones(image.shape[:2]), DepthKind.METRIC_DEPTH), dataset, protocol)

    assert score(wanted).num_images == 1
    other = "raw" if refined else "filled"
    with pytest.raises(ConfigError, match=f"against {other} ground truth; this data declares {wanted}"):
        score(other)
