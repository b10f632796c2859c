"""Facts of sections 4 and 5 of the dataset notes: KITTI raw, odometry, KITTI-360."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.data.kitti import KittiRaw, KittiStereo2015, read_annotated
from fathom.data.kitti_calibration import (
    FOCAL_PX_BY_WIDTH,
    baseline_between,
    project_points,
    read_calibration,
    read_poses,
    read_velodyne,
    velodyne_to_image,
)
from fathom.data.kitti_splits import ODOMETRY_LENGTHS, SPLIT_COUNTS, parse_split_line, read_split, scenes_of
from fathom.data.kitti_video import Kitti360, KittiOdometry
from fathom.errors import ConfigError, InputError

DATE, DRIVE = "2011_09_26", "2011_09_26/2011_09_26_drive_0001_sync"
FOCAL, CX, CY, HEIGHT, WIDTH = 70.0, 20.0, 10.0, 20, 40


def numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:e}" for value in np.ravel(values))


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def projection(shift_px: float) -> np.ndarray:
    return np.array([[FOCAL, 0, CX, shift_px], [0, FOCAL, CY, 0], [0, 0, 1, 0]])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One drive with two frames, one of them without accumulated depth."""
    (tmp_path / DATE).mkdir()
    (tmp_path / DATE / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
        f"S_rect_02: {WIDTH}. {HEIGHT}.\nR_rect_00: {numbers(np.eye(3))}\n"
        f"P_rect_02: {numbers(projection(4.2))}\nP_rect_03: {numbers(projection(4.2 - 0.54 * FOCAL))}\n"
    )
    # Lidar: x forward, y left, z up; camera: x right, y down, z forward.
    turn = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    (tmp_path / DATE / "calib_velo_to_cam.txt").write_text(
        f"calib_time: 15-Mar-2012 11:37:16\nR: {numbers(turn)}\nT: {numbers(np.array([0, 0, -0.3]))}\n"
    )
    for index in (0, 1):
        for camera in (2, 3):
            picture = np.full((HEIGHT, WIDTH, 3), 40 * camera + index, np.uint8)
            write_png(tmp_path / DRIVE / f"image_{camera:02d}/data/{index:010d}.png", picture)
        folder = tmp_path / DRIVE / "velodyne_points/data"
        folder.mkdir(parents=True, exist_ok=True)
        points = np.array([[10, 0, 0, 0.5], [20, 0, 0, 0.5], [-5, 0, 0, 0.5], [10, 1, 0.5, 0.1]], "<f4")
        points.tofile(folder / f"{index:010d}.bin")
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    depth[5, 6] = 2560
    name = "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000000.png"
    write_png(tmp_path / "gt/val" / name, depth)
    (tmp_path / "list.txt").write_text(f"{DRIVE} 0 l\n{DRIVE} 1 l\n")
    return tmp_path


def test_annotated_depth_is_metres_times_256(raw: Path) -> None:
    dataset = KittiRaw(raw, "mine", split_file=raw / "list.txt", annotated_root=raw / "gt")
    assert len(dataset) == 1 and dataset.missing == ["2011_09_26_drive_0001_sync/image_02/0000000001"]
    sample = dataset[0]
    assert sample.target[5, 6] == 10.0 and sample.valid_mask.sum() == 1  # 5b: one valid pixel stays one
    assert sample.camera is not None
    assert sample.camera.baseline_m == pytest.approx(0.54) and sample.camera.focal_px == FOCAL


def test_annotated_refuses_a_picture(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="8 bits"):
        read_annotated(tmp_path / "a.png")


def test_velodyne_is_projected_along_the_axis(raw: Path) -> None:
    dataset = KittiRaw(raw, "mine", split_file=raw / "list.txt", ground_truth="velodyne")
    sample = dataset[0]
    # Both points straight ahead fall on one pixel, round(c + shift / z) - 1; the nearer stays: 10 m less 0.3 m.
    row, column = round(CY) - 1, round(CX + 4.2 / 9.7) - 1
    assert sample.target[row, column] == pytest.approx(9.7)
    assert sample.valid_mask.sum() == 2


def test_monodepth_stores_the_lidars_forward_axis(raw: Path) -> None:
    dataset = KittiRaw(raw, "mine", split_file=raw / "list.txt", ground_truth="velodyne-monodepth")
    sample = dataset[0]
    assert sample.target.max() == 10.0  # x forward of the lidar, not 9.7 along the camera's axis
    straight = KittiRaw(raw, "mine", split_file=raw / "list.txt", ground_truth="velodyne")[0]
    assert straight.target.max() == pytest.approx(9.7)


def test_monodepth_index_merges_two_pixels() -> None:
    to_image = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    # Pixel (0, 2), the last of its row, and (1, 0): row * (3 - 1) + column is 2 for both.
    points = np.array([[2.0, -4.0, 0.0], [1.0, 0.0, -1.0]])
    exact = project_points(points, to_image, 2, 3, first_pixel=0)
    assert exact.tolist() == [[0, 0, 2], [1, 0, 0]]
    merged = project_points(points, to_image, 2, 3, first_pixel=0, collisions="monodepth")
    assert merged.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_nearest_point_stays_and_those_behind_go() -> None:
    to_image = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    points = np.array([[5.0, 0, 0], [3.0, 0, 0], [4.0, 0, 0], [-2.0, 0, 0]])
    for collisions in ("pixel", "monodepth"):
        depth = project_points(points, to_image, 1, 1, first_pixel=0, collisions=collisions)
        assert depth.tolist() == [[3.0]]


def test_matlab_parity_subtracts_one() -> None:
    to_image = np.array([[1.0, 0, 0, 2.4], [0, 1, 0, 1.0], [0, 0, 0, 1.0]])
    depth = project_points(np.zeros((1, 3)), to_image, 3, 4)
    assert np.argwhere(depth).tolist() == [[0, 1]]  # round(2.4) - 1, round(1.0) - 1


def test_calibration_parser_keeps_dates_as_text(raw: Path) -> None:
    calibration = read_calibration(raw / DATE / "calib_cam_to_cam.txt")
    assert calibration["calib_time"] == "09-Jan-2012 13:57:47"
    assert isinstance(calibration["corner_dist"], np.ndarray) and calibration["corner_dist"][0] == 0.0995
    # A date of digits alone must stay text too: every character of it could belong to a number.
    (raw / "c.txt").write_text("calib_time: 2012-01-09 13:57:47\nR: 1 0 0\n")
    parsed = read_calibration(raw / "c.txt")
    assert parsed["calib_time"] == "2012-01-09 13:57:47"
    np.testing.assert_array_equal(parsed["R"], [1, 0, 0])


def test_baseline_of_the_colour_pair(raw: Path) -> None:
    assert baseline_between(projection(4.2), projection(4.2 - 0.54 * FOCAL)) == pytest.approx(0.54)
    assert velodyne_to_image(raw / DATE, 2).shape == (3, 4)


def test_stereo_sides(raw: Path) -> None:
    (raw / "sides.txt").write_text(f"{DRIVE} 0 l\n{DRIVE} 0 r\n")
    dataset = KittiRaw(raw, "mine", split_file=raw / "sides.txt", ground_truth="none", stereo=True)
    left, right = dataset
    assert left.image[0, 0, 0] == 80 and left.meta["image_right"][0, 0, 0] == 120 and left.meta["baseline_sign"] == 1
    assert right.image[0, 0, 0] == 120 and right.meta["image_right"][0, 0, 0] == 80
    assert right.meta["baseline_sign"] == -1 and dataset.kind is None and not left.valid_mask.any()


@pytest.mark.parametrize(
    ("line", "folder", "index", "camera"),
    [
        (f"{DRIVE}/image_02/data/0000000069.jpg {DRIVE}/image_03/data/0000000069.jpg", DRIVE, 69, 2),
        (f"{DRIVE} 473 r", DRIVE, 473, 3),
        (f"{DRIVE} 0000000069 l", DRIVE, 69, 2),
        ("9 17 l", "9", 17, 2),
        ("2011_09_26_drive_0005_sync_03 0000000004", "2011_09_26/2011_09_26_drive_0005_sync", 4, 3),
        (f"{DRIVE}/image_02/data/0000000005.png", DRIVE, 5, 2),
    ],
)
def test_split_lines(line: str, folder: str, index: int, camera: int) -> None:
    frame = parse_split_line(line)
    assert (frame.folder, frame.index, frame.camera) == (folder, index, camera)


def test_split_lines_of_bts() -> None:
    gt = "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000069.png"
    frame = parse_split_line(f"{DRIVE}/image_02/data/0000000069.png {gt} 721.5377")
    assert (frame.ground_truth, frame.focal_px, frame.has_ground_truth) == (gt, 721.5377, True)
    absent = parse_split_line(f"{DRIVE}/image_02/data/0000000069.png None 721.5377")
    assert (absent.ground_truth, absent.has_ground_truth) == (None, False)


@pytest.mark.parametrize("line", ["", "hello", "a b c d", f"{DRIVE}/image_02/data/0000000069.png other.png"])
def test_split_lines_that_are_none(line: str) -> None:
    with pytest.raises(InputError, match="Expected a line"):
        parse_split_line(line)


def test_split_counts() -> None:
    assert SPLIT_COUNTS["eigen-test"] == 697
    assert SPLIT_COUNTS["eigen-test"] - 45 == SPLIT_COUNTS["eigen-benchmark-test"] == 652
    pairs = {
        ("monodepth-eigen-train", "monodepth-eigen-val"): (22600, 888),
        ("eigen-zhou-train", "eigen-zhou-val"): (39810, 4424),
        ("eigen-full-train", "eigen-full-val"): (45200, 1776),
        ("odom-test-09", "odom-test-10"): (1590, 1200),
    }
    for names, counts in pairs.items():
        assert tuple(SPLIT_COUNTS[name] for name in names) == counts
    assert [SPLIT_COUNTS[f"monodepth-kitti-{part}"] for part in ("train", "val", "test")] == [29000, 1159, 200]
    assert (SPLIT_COUNTS["benchmark-train"], SPLIT_COUNTS["bts-eigen-train"]) == (72084, 23158)


def test_odometry_lengths_fit_the_splits() -> None:
    train = sum(ODOMETRY_LENGTHS[sequence] for sequence in range(9))
    assert train == 20409
    # Both cameras, without the first and last two frames of each of the nine sequences.
    assert SPLIT_COUNTS["odom-train"] + SPLIT_COUNTS["odom-val"] == 2 * (train - 9 * 4)
    assert ODOMETRY_LENGTHS[9] - 1 == SPLIT_COUNTS["odom-test-09"]
    assert ODOMETRY_LENGTHS[10] - 1 == SPLIT_COUNTS["odom-test-10"]


def test_a_published_split_of_the_wrong_length_is_refused(raw: Path) -> None:
    assert len(read_split(raw / "list.txt", "my-split")) == 2
    assert scenes_of(read_split(raw / "list.txt")) == {DRIVE}
    with pytest.raises(InputError, match="697 samples"):
        read_split(raw / "list.txt", "eigen-test")


def test_focal_length_by_width() -> None:
    assert FOCAL_PX_BY_WIDTH == {1242: 721.5377, 1241: 718.856, 1224: 707.0493, 1238: 718.3351}


def write_odometry(root: Path) -> None:
    folder = root / "sequences" / "00"
    for index in range(4):
        for camera in (2, 3):
            write_png(folder / f"image_{camera}/{index:06d}.png", np.full((6, 8, 3), 50 * camera + index, np.uint8))
    lines = [
        f"P{camera}: {numbers(projection(-shift))}" for camera, shift in enumerate((0.0, 0.54 * FOCAL, -4.2, 33.6))
    ]
    (folder / "calib.txt").write_text("\n".join(lines) + f"\nTr: {numbers(np.eye(4)[:3])}\n")
    (root / "poses").mkdir()
    rows = []
    for index in range(4):
        pose = np.eye(4)[:3]
        pose[2, 3] = 1.5 * index
        rows.append(numbers(pose))
    (root / "poses" / "00.txt").write_text("\n".join(rows) + "\n")


def test_odometry_poses_and_neighbours(tmp_path: Path) -> None:
    write_odometry(tmp_path)
    dataset = KittiOdometry(tmp_path, stereo=True, neighbours=(-1, 1))
    assert len(dataset) == 2 and dataset.kind is None  # the first and last frame lack a neighbour
    sample = dataset[0]
    assert sample.meta["index"] == 1 and sample.camera is not None
    assert sample.camera.baseline_m == pytest.approx((33.6 + 4.2) / FOCAL)
    assert [int(picture[0, 0, 0]) for picture in sample.meta["neighbours"]] == [100, 102]
    # A point ahead comes nearer in the next frame, 1.5 m further on.
    ahead = np.array([0, 0, 10, 1.0])
    np.testing.assert_allclose((sample.meta["neighbour_poses"] @ ahead)[:, 2], [11.5, 8.5])
    # Camera 2 sits beside camera 0, whose poses the file holds: x_2 = x_0 + P[0, 3] / f.
    np.testing.assert_allclose(sample.meta["pose"][:3, 3], [-4.2 / FOCAL, 0, 1.5], atol=1e-12)
    assert read_poses(tmp_path / "poses" / "00.txt").shape == (4, 4, 4)


def test_odometry_split_file(tmp_path: Path) -> None:
    write_odometry(tmp_path)
    (tmp_path / "split.txt").write_text("0 2 r\n0 1 l\n")
    dataset = KittiOdometry(tmp_path, "mine", split_file=tmp_path / "split.txt", stereo=True)
    assert [sample.image[0, 0, 0] for sample in dataset] == [152, 101]
    assert dataset[0].meta["baseline_sign"] == -1 and dataset.scene(0) == "00"
    with pytest.raises(ConfigError, match="not both"):
        KittiOdometry(tmp_path, sequences=("00",), split_file=tmp_path / "split.txt")


def test_odometry_lidar(tmp_path: Path) -> None:
    write_odometry(tmp_path)
    folder = tmp_path / "sequences" / "00" / "velodyne"
    folder.mkdir()
    for index in range(4):
        np.array([[0.0, 0, 5, 1]], "<f4").tofile(folder / f"{index:06d}.bin")
    dataset = KittiOdometry(tmp_path)
    assert dataset.kind is not None and len(dataset) == 4
    # Principal point (20, 10) lies outside these 8 x 6 pictures, so no point is seen; the frames still read.
    assert not dataset[0].valid_mask.any()


def test_stereo_2015(tmp_path: Path) -> None:
    root = tmp_path / "training"
    write_png(root / "image_2/000000_10.png", np.zeros((4, 5, 3), np.uint8))
    write_png(root / "image_3/000000_10.png", np.ones((4, 5, 3), np.uint8))
    write_png(root / "disp_occ_0/000000_10.png", np.full((4, 5), 512, np.uint16))
    (root / "calib_cam_to_cam").mkdir()
    (root / "calib_cam_to_cam/000000.txt").write_text(
        f"P_rect_02: {numbers(projection(4.2))}\nP_rect_03: {numbers(projection(4.2 - 0.54 * FOCAL))}\n"
    )
    sample = KittiStereo2015(tmp_path)[0]
    assert sample.target[0, 0] == 2.0 and sample.kind == "disparity" and sample.meta["image_right"].max() == 1


def test_velodyne_files_are_whole_points(tmp_path: Path) -> None:
    np.arange(7, dtype="<f4").tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match="7 numbers"):
        read_velodyne(tmp_path / "a.bin")


@pytest.mark.shared_data
def test_real_lidar_projection(shared_data: Path) -> None:
    dataset = Kitti360(shared_data / "kitti360-mono")
    assert len(dataset) == 50
    sample = dataset[0]
    points = read_velodyne(shared_data / "kitti360-mono" / "velodyne_points" / "0000003000.bin")
    depth = project_points(points, dataset.velodyne_to_image(), *sample.image.shape[:2], first_pixel=0)
    np.testing.assert_array_equal(depth > 0, sample.valid_mask)
    assert np.abs(depth - sample.target).max() <= 0.5 / 256 + 1e-6
    assert 0.04 < sample.valid_mask.mean() < 0.06


@pytest.mark.shared_data
def test_real_odometry(shared_data: Path) -> None:
    dataset = KittiOdometry(shared_data / "kitti-stereo", stereo=True, neighbours=(1,))
    assert len(dataset) == 100 and {dataset.scene(i) for i in range(100)} == {"a", "b"}
    sample = dataset[0]
    assert sample.camera is not None
    assert sample.camera.baseline_m == pytest.approx(0.537, abs=1e-3)
    assert sample.meta["image_right"].shape == sample.image.shape
    assert 0.5 < np.linalg.norm(sample.meta["neighbour_poses"][0][:3, 3]) < 3.0
