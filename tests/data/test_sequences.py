"""Frames with their neighbours: every reader of video, from tiny files in the real layout."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fathom.data import open_dataset
from fathom.data.base import DepthDataset, make_sample
from fathom.data.frames import FrameFolder, VideoFrames, moving_frames, read_intrinsics
from fathom.data.kitti import KittiRaw
from fathom.data.kitti_video import Kitti360
from fathom.data.middlebury import Middlebury
from fathom.data.prepare import PreparedDataset, prepare
from fathom.data.sequence import find_neighbours, frames_in, relative_poses
from fathom.data.sevenscenes import SevenScenes
from fathom.errors import ConfigError, InputError
from fathom.io import FathomWarning
from fathom.types import FocalSource, Sample

ROWS, COLUMNS = 12, 16


def write_grey(
    path: Path, value: int, *, size: tuple[int, int] = (COLUMNS, ROWS), exif: Image.Exif | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (value, value, value))
    picture.save(path, **({"exif": exif} if exif is not None else {}))


def greys(sample: Sample) -> tuple[int, list[int]]:
    """Return the value of a sample's picture and of its neighbours, all of one grey."""
    return int(sample.image[0, 0, 0]), [int(picture[0, 0, 0]) for picture in sample.meta.get("neighbours", [])]


# Parts and neighbours


def test_parts_are_slices():
    assert list(frames_in(5, (1, -1))) == [1, 2, 3]
    assert list(frames_in(5, (None, 2))) == [0, 1]
    with pytest.raises(ConfigError, match=r"\(5, None\) holds none of the 5 frames"):
        frames_in(5, (5, None))


def test_neighbours_do_not_cross_clips_and_gaps():
    frames = [("a", 0), ("a", 1), ("a", 2), ("a", 4), ("b", 3), ("b", 4)]
    places = {frame: f"{frame[0]}{frame[1]}" for frame in frames}
    assert find_neighbours(frames, (1,), places) == [(0, ("a1",)), (1, ("a2",)), (4, ("b4",))]
    assert [position for position, _ in find_neighbours(frames, (), places)] == list(range(6))
    with pytest.raises(ConfigError, match="0 is the frame itself"):
        find_neighbours(frames, (-1, 0), places)
    with pytest.raises(ConfigError, match=r"None of the 6 frames has neighbours at \[-5\]"):
        find_neighbours(frames, (-5,), places)


def test_relative_poses_take_points_to_the_other_camera():
    rng = np.random.default_rng(0)
    here, there = (np.eye(4), np.eye(4))
    for pose in (here, there):
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, 3] = rng.normal(size=3)
    world = np.array([0.3, -0.2, 4.0, 1.0])
    [motion] = relative_poses(here, [there])
    np.testing.assert_allclose(motion @ np.linalg.inv(here) @ world, np.linalg.inv(there) @ world, atol=1e-12)


# Readers


def test_kitti_360_keeps_held_out_frames_out(tmp_path: Path):
    (tmp_path / "calibration").mkdir()
    p = "552.5 0 8 {} 0 552.5 6 0 0 0 1 0"
    (tmp_path / "calibration" / "perspective.txt").write_text(
        f"P_rect_00: {p.format(0)}\nP_rect_01: {p.format(-328.3)}\n"
    )
    for number in range(3000, 3008):
        write_grey(tmp_path / "image_00" / f"{number:010d}.png", number - 3000)
        if number != 3002:  # a picture without lidar can still be a neighbour
            depth = np.full((ROWS, COLUMNS), 256, np.uint16)
            (tmp_path / "depth").mkdir(exist_ok=True)
            Image.fromarray(depth).save(tmp_path / "depth" / f"{number:010d}.png")
    train = Kitti360(tmp_path, frames=(0, -2), neighbours=(-1, 1))
    assert [greys(sample) for sample in train] == [(1, [0, 2]), (3, [2, 4]), (4, [3, 5])]  # 6 and 7 are held out
    assert [greys(sample) for sample in Kitti360(tmp_path, frames=(-2, None))] == [(6, []), (7, [])]
    assert "pose" not in train[0].meta
    lines = [
        " ".join(str(x) for x in (number, *np.vstack([np.eye(4)[:2], [0, 0, 1, 0.5 * number], [0, 0, 0, 1]]).ravel()))
        for number in range(3000, 3005)
    ]
    (tmp_path / "cam0_to_world.txt").write_text("\n".join(lines) + "\n")
    train = Kitti360(tmp_path, frames=(0, -2), neighbours=(-1, 1))
    assert train[0].meta["pose"][2, 3] == 1500.5
    np.testing.assert_allclose(train[1].meta["neighbour_poses"][:, 2, 3], [0.5, -0.5])
    assert "neighbour_poses" not in train[2].meta  # its later neighbour has no pose
    (tmp_path / "cam0_to_world.txt").write_text("3000 1 0 0 0\n")
    with pytest.raises(InputError, match=r"16 numbers in each line .* got 5"):
        Kitti360(tmp_path)


def test_seven_scenes_neighbours_and_motion(tmp_path: Path):
    for number in range(0, 12, 3):  # every third frame of the video
        write_grey(tmp_path / "rgb" / f"{number:06d}.jpg", 20 * number)
        (tmp_path / "depth").mkdir(exist_ok=True)
        Image.fromarray(np.full((ROWS, COLUMNS), 1000, np.uint16)).save(tmp_path / "depth" / f"{number:06d}.png")
        pose = np.eye(4)
        pose[2, 3] = 0.1 * number
        (tmp_path / "poses").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "poses" / f"{number:06d}.txt", pose)
    dataset = SevenScenes(tmp_path, neighbours=(-1, 1))
    assert [greys(sample) for sample in dataset] == [(60, [0, 120]), (120, [60, 180])]
    np.testing.assert_allclose(dataset[0].meta["neighbour_poses"][:, 2, 3], [0.3, -0.3])
    assert len(SevenScenes(tmp_path, frames=(0, 3), neighbours=(-1, 1))) == 1
    (tmp_path / "poses" / "000006.txt").unlink()
    assert "neighbour_poses" not in dataset[0].meta and "neighbour_poses" not in dataset[1].meta
    (tmp_path / "poses" / "000003.txt").write_text("1 0 0")
    with pytest.raises(InputError, match="4 x 4 numbers"):
        dataset[0]


def test_kitti_raw_neighbours_are_of_the_same_camera(tmp_path: Path):
    date, drive = "2011_09_26", "2011_09_26/2011_09_26_drive_0001_sync"
    p = "70 0 8 {} 0 70 6 0 0 0 1 0"
    (tmp_path / date).mkdir()
    (tmp_path / date / "calib_cam_to_cam.txt").write_text(f"P_rect_02: {p.format(4.2)}\nP_rect_03: {p.format(-33.6)}\n")
    for number in range(3):
        for camera in (2, 3):
            write_grey(tmp_path / drive / f"image_{camera:02d}/data/{number:010d}.png", 40 * camera + number)
    (tmp_path / "list.txt").write_text(f"{drive} 0 l\n{drive} 1 l\n{drive} 1 r\n")
    options = {"split_file": tmp_path / "list.txt", "ground_truth": "none"}
    dataset = KittiRaw(tmp_path, "mine", neighbours=(-1, 1), stereo=True, **options)
    assert [greys(sample) for sample in dataset] == [(81, [80, 82]), (121, [120, 122])]
    assert [sample.meta["baseline_sign"] for sample in dataset] == [1, -1]
    assert len(KittiRaw(tmp_path, "mine", **options)) == 3


def test_middlebury_scenes_can_be_left_out(tmp_path: Path):
    for scene in ("Art", "Books", "Dolls"):
        for name in ("view1.png", "view5.png", "disp1.png", "disp5.png"):
            write_grey(tmp_path / scene / name, 30)
        for name in ("disp1.png", "disp5.png"):
            Image.fromarray(np.full((ROWS, COLUMNS), 30, np.uint8)).save(tmp_path / scene / name)
    dataset = Middlebury(tmp_path, scenes=("Dolls", "Art"))
    assert [dataset.scene(i) for i in range(len(dataset))] == ["Dolls", "Art"]
    assert dataset[0].meta["image_right"].shape == (ROWS, COLUMNS, 3)
    with pytest.raises(InputError, match="Teddy"):
        Middlebury(tmp_path, scenes=("Teddy",))


class Walk(DepthDataset):
    """Five frames of one scene and two of another, each a metre ahead of the one before."""

    name, split, kind = "walk", "train", None

    def __len__(self) -> int:
        return 7

    def read(self, index: int) -> Sample:
        pose = np.eye(4)
        pose[2, 3] = index
        meta = {"id": str(index), "scene": "a" if index < 5 else "b", "index": index, "pose": pose}
        return make_sample(np.full((ROWS, COLUMNS, 3), index, np.uint8), None, meta=meta)


def test_prepared_frames_find_their_neighbours(tmp_path: Path):
    prepare(Walk(), tmp_path)
    dataset = PreparedDataset(tmp_path, neighbours=(-1, 2))
    assert [greys(sample) for sample in dataset] == [(1, [0, 3]), (2, [1, 4])]  # none across the two scenes
    np.testing.assert_allclose(dataset[0].meta["neighbour_poses"][:, 2, 3], [1, -2])
    assert greys(pickle.loads(pickle.dumps(dataset))[1]) == (2, [1, 4])
    assert len(PreparedDataset(tmp_path)) == 7 and "neighbours" not in PreparedDataset(tmp_path)[1].meta


def test_prepared_pictures_without_numbers_have_no_neighbours(tmp_path: Path):
    class Loose(Walk):
        def read(self, index: int) -> Sample:
            return make_sample(np.zeros((ROWS, COLUMNS, 3), np.uint8), None, meta={"id": str(index)})

    prepare(Loose(), tmp_path)
    with pytest.raises(InputError, match="no frame numbers"):
        PreparedDataset(tmp_path, neighbours=(1,))


def test_prepared_cameras_are_not_mixed(tmp_path: Path):
    class TwoCameras(Walk):
        def read(self, index: int) -> Sample:
            sample = super().read(index % 4)
            return make_sample(sample.image, None, meta={**sample.meta, "side": "lr"[index // 4]})

    class Mixed(TwoCameras):
        split = "mixed"

        def read(self, index: int) -> Sample:
            meta = dict(super().read(index).meta)
            del meta["side"]
            return make_sample(np.zeros((ROWS, COLUMNS, 3), np.uint8), None, meta=meta)

    prepare(TwoCameras(), tmp_path)
    dataset = PreparedDataset(tmp_path, neighbours=(1,))
    assert [(sample.meta["side"], *greys(sample)) for sample in dataset] == [
        *(("l", i, [i + 1]) for i in range(3)),
        *(("r", i, [i + 1]) for i in range(2)),
    ]
    prepare(Mixed(), tmp_path)
    with pytest.raises(InputError, match=r"3 samples in .* share scene and frame number"):
        PreparedDataset(tmp_path, "mixed", neighbours=(1,))


# A folder of frames


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path: Path):
    for number in (1, 2, 9, 10, 11):
        write_grey(tmp_path / f"frame{number}.png", number)
    dataset = FrameFolder(tmp_path, intrinsics=(100.0, 101.0, 8.0, 6.0), neighbours=(-1, 1))
    assert [greys(sample) for sample in dataset] == [(2, [1, 9]), (9, [2, 10]), (10, [9, 11])]
    sample = dataset[0]
    assert sample.camera is not None and sample.camera.intrinsics[:2].tolist() == [[100, 0, 8], [0, 101, 6]]
    assert sample.meta["focal_source"] == "user" and sample.meta["index"] == 1 and not sample.valid_mask.any()
    assert dataset.kind is None and dataset.scene(0) == "."


def test_sub_folders_are_clips_of_their_own(tmp_path: Path):
    for clip, values in {"x/one": (1, 2, 3), "two": (11, 12)}.items():
        for value in values:
            write_grey(tmp_path / clip / f"{value:03d}.png", value)
        (tmp_path / clip / "intrinsics.txt").write_text(f"{100 + values[0]} 0 8\n0 100 6\n0 0 1\n")
    dataset = FrameFolder(tmp_path, neighbours=(1,))
    assert [(dataset.scene(i), *greys(dataset[i])) for i in range(len(dataset))] == [
        ("two", 11, [12]),
        ("x/one", 1, [2]),
        ("x/one", 2, [3]),
    ]
    assert [sample.camera.focal_px for sample in dataset if sample.camera is not None] == [111, 101, 101]
    (tmp_path / "val.txt").write_text("two\n")
    assert [greys(sample)[0] for sample in FrameFolder(tmp_path, "val")] == [11, 12]
    assert [greys(sample)[0] for sample in FrameFolder(tmp_path, frames=(-1, None))] == [12, 3]
    (tmp_path / "bad.txt").write_text("x\n")
    with pytest.raises(InputError, match=r"'bad.txt' names the folder .*x', which holds no picture"):
        FrameFolder(tmp_path, "bad")


def test_the_focal_length_comes_from_exif_or_is_said_to_be_assumed(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 36  # a 35-mm equivalent of 36 mm
    write_grey(tmp_path / "exif" / "1.jpg", 0, exif=exif)
    told = FrameFolder(tmp_path / "exif")[0]
    assert told.camera is not None and told.meta["focal_source"] == "exif"
    assert told.camera.focal_px == pytest.approx(36 * np.hypot(COLUMNS, ROWS) / np.hypot(36, 24))
    write_grey(tmp_path / "plain" / "1.jpg", 0)
    with pytest.warns(FathomWarning, match="field of view of 55 degrees over the longer side is assumed"):
        guessed = FrameFolder(tmp_path / "plain")[0]
    assert guessed.camera is not None and guessed.camera.focal_source is FocalSource.ASSUMED
    assert guessed.meta["focal_source"] == "assumed"
    assert guessed.camera.fov_x_deg(COLUMNS) == pytest.approx(55)


def test_static_frames_are_left_out(tmp_path: Path):
    for number, value in enumerate([50, 50, 51, 60, 60, 70]):
        write_grey(tmp_path / f"{number}.png", value)
    options = {"intrinsics": (100.0, 100.0, 8.0, 6.0)}
    dataset = FrameFolder(tmp_path, min_change=2.0, neighbours=(-1, 1), **options)
    assert [greys(sample) for sample in dataset] == [(60, [50, 70])] and dataset.num_static == 3
    assert len(FrameFolder(tmp_path, **options)) == 6


def test_noise_is_static_and_slow_motion_is_thinned():
    rng = np.random.default_rng(0)
    still = [np.clip(rng.normal(100, 0.5, (48, 64)), 0, 255).astype(np.uint8) for _ in range(5)]
    assert moving_frames(still, 2.0) == [0]
    ramp = np.arange(64)[None] * np.ones((48, 1))
    slow = [(ramp + 0.7 * step).astype(np.uint8) for step in range(10)]
    assert moving_frames(slow, 2.0) == [0, 3, 6, 9]
    assert moving_frames(slow, 0.0) == list(range(10))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("500 510 320 240", (500, 510, 320, 240)), ("500,0,320\n0,510,240\n0,0,1\n", (500, 510, 320, 240))],
)
def test_intrinsics_files(tmp_path: Path, text: str, numbers: tuple[float, ...]):
    (tmp_path / "intrinsics.txt").write_text(text)
    assert read_intrinsics(tmp_path / "intrinsics.txt") == numbers


@pytest.mark.parametrize("text", ["500 510", "500 1 320 0 510 240 0 0 1", "f=500"])
def test_bad_intrinsics_files(tmp_path: Path, text: str):
    (tmp_path / "intrinsics.txt").write_text(text)
    with pytest.raises(InputError, match="3 x 3"):
        read_intrinsics(tmp_path / "intrinsics.txt")


def test_fractions_are_not_pixels(tmp_path: Path):
    write_grey(tmp_path / "1.png", 0)
    with pytest.raises(ConfigError, match="fractions of its size"):
        FrameFolder(tmp_path, intrinsics=(0.58, 1.92, 0.5, 0.5))
    centred = FrameFolder(tmp_path, intrinsics=(500.0, 500.0, 7.5, 5.5), first_pixel_centre=0.0)[0]
    assert centred.camera is not None and centred.camera.intrinsics[:2, 2].tolist() == [8, 6]


def test_an_empty_folder(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="found none"):
        FrameFolder(tmp_path)


# A video file


def write_video(path: Path, values: list[int], *, codec: str = "libx264", key_every: int = 12) -> None:
    """Write a clip of plain grey frames with a dark left upper quarter, 25 a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.codec_context.max_b_frames = 2 if codec == "libx264" else 0
        for value in values:
            rgb = np.full((48, 64, 3), value, np.uint8)
            rgb[:24, :32] = 0
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def corner(picture: np.ndarray) -> int:
    return int(picture[-4, -4, 1])


CAMERA = {"intrinsics": (60.0, 60.0, 32.0, 24.0)}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_video_frames_in_any_order(tmp_path: Path, suffix: str):
    values = [20 + 4 * number for number in range(40)]
    write_video(tmp_path / f"clip.{suffix}", values)
    dataset = VideoFrames(tmp_path / f"clip.{suffix}", neighbours=(-1, 1), **CAMERA)
    assert len(dataset) == 38 and dataset.num_static == 0
    for index in np.random.default_rng(0).permutation(38):
        sample = dataset[int(index)]
        assert corner(sample.image) == pytest.approx(values[index + 1], abs=2)
        assert [corner(picture) for picture in sample.meta["neighbours"]] == pytest.approx(
            [values[index], values[index + 2]], abs=2
        )
        assert sample.meta["time_s"] - dataset[0].meta["time_s"] == pytest.approx(index / 25, abs=1e-6)
    assert corner(pickle.loads(pickle.dumps(dataset))[5].image) == pytest.approx(values[6], abs=2)


def test_static_frames_of_a_video_are_left_out(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", [20] * 5 + [60] * 5 + [100, 140])
    dataset = VideoFrames(tmp_path / "clip.mp4", neighbours=(1,), **CAMERA)
    assert dataset.num_static == 8
    assert [[corner(view) for view in (s.image, *s.meta["neighbours"])] for s in dataset] == [
        pytest.approx(pair, abs=2) for pair in ([20, 60], [60, 100], [100, 140])
    ]
    assert len(VideoFrames(tmp_path / "clip.mp4", min_change=0.0, **CAMERA)) == 12
    assert len(VideoFrames(tmp_path / "clip.mp4", frames=(0, 2), **CAMERA)) == 2


def test_a_portrait_video_is_turned_upright(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", [200, 100])
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    lying = b"".join(n.to_bytes(4, "big", signed=True) for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    turned = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    place = content.index(lying, content.index(b"tkhd"))  # the display matrix of the track: a quarter turn clockwise
    content[place : place + 36] = turned
    (tmp_path / "clip.mp4").write_bytes(content)
    image = VideoFrames(tmp_path / "clip.mp4", **CAMERA)[0].image
    assert image.shape == (64, 48, 3)
    assert image[4, -4, 1] < 10 and min(image[4, 4, 1], image[-4, 4, 1], image[-4, -4, 1]) > 190


def test_a_video_whose_camera_nobody_tells(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", [20, 60])
    with pytest.warns(FathomWarning, match="Nothing tells the focal length of .*clip.mp4"):
        sample = open_dataset("video", tmp_path / "clip.mp4")[0]
    assert sample.meta["focal_source"] == "assumed" and sample.camera is not None
    assert sample.camera.fov_x_deg(64) == pytest.approx(55)


def test_what_is_no_video(tmp_path: Path):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(InputError, match="Expected a video file"):
        VideoFrames(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match="Expected a video file"):
        VideoFrames(tmp_path / "absent.mp4")


def test_a_video_that_was_cut_off_tells_where_to_start(tmp_path: Path):
    write_video(tmp_path / "clip.ts", [20 + 4 * number for number in range(40)])
    dataset = VideoFrames(tmp_path / "clip.ts", **CAMERA)
    content = (tmp_path / "clip.ts").read_bytes()
    (tmp_path / "clip.ts").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"no frame at the time stamp|damaged"):
        dataset[39]


@pytest.mark.shared_data
def test_real_sequences(shared_data: Path):
    drive = open_dataset("kitti-360", shared_data / "kitti360-mono", frames=(0, -10), neighbours=(-1, 1))
    assert [len(drive), drive[0].meta["index"], drive[-1].meta["index"]] == [38, 3001, 3038]
    room = open_dataset("7-scenes", shared_data / "7scenes-redkitchen", neighbours=(-1, 1))
    assert len(room) == 88 and room[0].meta["neighbour_poses"].shape == (2, 4, 4)
    frames = FrameFolder(
        shared_data / "kitti360-mono" / "image_00", intrinsics=(552.55, 552.55, 682.05, 238.77), min_change=2.0
    )
    assert len(frames) == 50 and frames.num_static == 0
