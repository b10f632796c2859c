"""The data doctor on made-up rooms: healthy ones, and the same broken in every way it should recognise."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from fathom.data.doctor import diagnose
from fathom.data.doctor_checks import (
    difference_hash,
    disparity_factor,
    edge_pair,
    guess_scale,
    hash_distances,
    map_stats,
    own_rank,
    registration,
)
from fathom.data.doctor_scan import pattern_of, scan
from fathom.data.folder import FolderDataset
from fathom.errors import InputError
from fathom.types import DepthKind

Map = npt.NDArray[np.float64]
HEIGHT, WIDTH, NUM = 96, 128, 10


def room(seed: int) -> tuple[npt.NDArray[np.uint8], Map]:
    """Return a picture and its depth [m]: a floor that comes nearer downwards, a back wall, and boxes before it."""
    rng = np.random.default_rng(seed)
    back = rng.uniform(3.5, 6.0)
    y = np.arange(HEIGHT)[:, None] + 0.5
    depth = np.minimum(back, 70.0 / np.maximum(y - HEIGHT * 0.35, 1e-3) ** 0.9 + 0.4) * np.ones((1, WIDTH))
    image = np.where(depth >= back, rng.integers(60, 200), rng.integers(60, 200))[..., None] * np.ones(3)
    for _ in range(6):
        top, left = rng.integers(10, HEIGHT - 30), rng.integers(0, WIDTH - 30)
        box = slice(top, top + rng.integers(12, 34)), slice(left, left + rng.integers(12, 34))
        near = rng.uniform(0.8, 3.0)
        closer = depth[box] > near
        depth[box] = np.where(closer, near, depth[box])
        image[box] = np.where(closer[..., None], rng.integers(0, 255, 3), image[box])
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8), depth


def save(path: Path, array: npt.NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def millimetres(depth: Map) -> npt.NDArray:
    return (depth * 1000).astype(np.uint16)


def write_rooms(root: Path, encode: Callable[[Map], npt.NDArray] = millimetres, suffix: str = ".png") -> Path:
    for i in range(NUM):
        image, depth = room(i)
        save(root / f"rgb/{i:04d}.png", image)
        save(root / f"depth/{i:04d}{suffix}", encode(depth))
    return root


def test_a_healthy_folder(tmp_path: Path) -> None:
    root = write_rooms(tmp_path / "rooms")
    (root / "train.txt").write_text("\n".join(f"{i:04d}" for i in range(8)))
    (root / "val.txt").write_text("\n".join(f"{i:04d}" for i in range(8, NUM)))
    report = diagnose(root)
    assert report.ok, report.findings
    assert not report.codes & {"misregistered", "wrong-pairing", "doubtful-pairing", "leak", "frame-wise-split"}
    assert report.kind is DepthKind.METRIC_DEPTH and report.scales[0].counts_per_metre == 1000
    assert report.num_pairs == NUM and report.sizes == {"128 x 96": NUM}
    assert report.pairing is not None and report.pairing > 0.95
    assert sum(report.histogram["shares"]) == pytest.approx(1.0, abs=0.02)
    written = {path.name: path for path in report.write(tmp_path / "out")}
    assert written.keys() == {"dataset.yaml", "report.json", "contact_sheet.png"}
    assert json.loads(written["report.json"].read_text())["ok"] is True
    with Image.open(written["contact_sheet.png"]) as sheet:
        assert sheet.width > 800 and sheet.height > 1000
    # The YAML is ready to use.
    assert yaml.safe_load(written["dataset.yaml"].read_text())["scale"] == 0.001
    dataset = FolderDataset(written["dataset.yaml"], "val")
    assert len(dataset) == 2
    np.testing.assert_allclose(dataset[0].target, room(8)[1], atol=0.0011)


@pytest.mark.parametrize(
    ("encode", "per_metre"),
    [
        (lambda depth: (depth * 1000).astype(np.uint16) * 5, 5000),  # TUM: millimetres times 5
        (lambda depth: depth.astype(np.float32), 1),
        (lambda depth: (depth * 1000).astype(np.float32), 1000),
    ],
)
def test_scales(tmp_path: Path, encode: Callable[[Map], npt.NDArray], per_metre: float) -> None:
    suffix = ".npy" if encode(np.ones((1, 1))).dtype == np.float32 else ".png"
    report = diagnose(write_rooms(tmp_path, encode, suffix))
    assert report.scales[0].counts_per_metre == per_metre and report.ok


def test_sparse_street_is_times_256() -> None:
    # KITTI: 5 % of pixels, median near 9 m, the farthest near 70 m.
    best = guess_scale(9 * 256, 70 * 256, density=0.05, whole=True, divisor=1)[0]
    assert best.counts_per_metre == 256 and best.share > 0.8
    shares = [guess.share for guess in guess_scale(2500, 9000, density=1.0, whole=True, divisor=1)]
    assert sum(shares) == pytest.approx(1.0) and shares == sorted(shares, reverse=True)


def test_shuffled_pairing(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(NUM)
    for i in range(NUM):
        save(tmp_path / f"rgb/{i:04d}.png", room(i)[0])
        save(tmp_path / f"depth/{i:04d}.png", millimetres(room(order[i])[1]))
    report = diagnose(tmp_path)
    assert "wrong-pairing" in report.codes and not report.ok


def test_lists_out_of_step(tmp_path: Path) -> None:
    for i in range(NUM):
        save(tmp_path / f"rgb/{i:04d}.png", room(i)[0])
        save(tmp_path / f"depth/{i:04d}.png", millimetres(room(i + 1)[1]))
    [finding] = [f for f in diagnose(tmp_path).findings if f.code == "wrong-pairing"]
    assert "1 file(s) earlier" in finding.message


@pytest.mark.parametrize("encode", [lambda depth: 3000 / depth, lambda depth: 9000 - depth * 1000])
def test_inverted_depth(tmp_path: Path, encode: Callable[[Map], npt.NDArray]) -> None:
    report = diagnose(write_rooms(tmp_path, lambda depth: encode(depth).astype(np.uint16)))
    assert "inverted" in report.codes and not report.ok
    assert report.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH


@pytest.mark.parametrize(("down", "right"), [(0, 6), (-5, 0), (4, -7)])
def test_shifted_registration(tmp_path: Path, down: int, right: int) -> None:
    report = diagnose(write_rooms(tmp_path, lambda depth: np.roll(millimetres(depth), (down, right), (0, 1))))
    assert "misregistered" in report.codes and report.registration is not None
    # It says how to move the map back.
    assert report.registration.down_px == pytest.approx(-down, abs=1)
    assert report.registration.right_px == pytest.approx(-right, abs=1)


def test_scaled_registration() -> None:
    pairs = []
    for i in range(2 * NUM):
        image, depth = room(i)
        rows, columns = (np.clip((np.arange(n) - n / 2) / 1.1 + n / 2, 0, n - 1).astype(int) for n in depth.shape)
        pairs.append(edge_pair(image, depth[rows[:, None], columns]))
    assert registration(pairs).stretch == pytest.approx(0.1, abs=0.04)


def test_another_size(tmp_path: Path) -> None:
    report = diagnose(write_rooms(tmp_path, lambda depth: millimetres(depth)[::2, ::2]))
    assert "size-misfit" in report.codes and "misregistered" not in report.codes


def test_holes_and_special_numbers(tmp_path: Path) -> None:
    def holes(depth: Map) -> npt.NDArray:
        stored = millimetres(depth)
        stored[:10] = 0
        stored[-10:] = 65535
        return stored

    report = diagnose(write_rooms(tmp_path / "a", holes))
    assert {"zeros", "full"} <= report.codes and report.ok and report.config["invalid"] == [0.0, 65535.0]
    assert report.stored["shares"]["zeros"] == pytest.approx(10 / HEIGHT)

    def floats(depth: Map) -> npt.NDArray:
        stored = depth.astype(np.float32)
        stored[0], stored[1], stored[2] = np.nan, np.inf, -1.0
        return stored

    codes = diagnose(write_rooms(tmp_path / "b", floats, ".npy")).codes
    assert {"nan", "infinite", "negative"} <= codes
    assert "empty-maps" in diagnose(write_rooms(tmp_path / "c", lambda depth: millimetres(depth) * 0)).codes


def test_eight_bits_and_stretched_maps(tmp_path: Path) -> None:
    def stretch(depth: Map) -> npt.NDArray:
        return ((depth - depth.min()) * 255 / np.ptp(depth)).astype(np.uint8)

    report = diagnose(write_rooms(tmp_path / "a", stretch))
    assert report.kind is DepthKind.SCALE_INVARIANT_DEPTH and "eight-bits" in report.codes

    def own_range(depth: Map) -> npt.NDArray:
        return np.round(1 + (depth - depth.min()) * 65533 / np.ptp(depth)).astype(np.uint16)

    assert "stretched" in diagnose(write_rooms(tmp_path / "b", own_range)).codes
    quantised = diagnose(write_rooms(tmp_path / "c", lambda depth: np.uint16(np.round(depth / 0.04) * 40)))
    assert "quantised" in quantised.codes and quantised.ok


def test_coloured_maps_hold_no_depth(tmp_path: Path) -> None:
    report = diagnose(write_rooms(tmp_path, lambda depth: room(3)[0]))
    assert "coloured-maps" in report.codes and not report.ok and report.num_pairs == 0


def test_duplicates_and_leaks(tmp_path: Path) -> None:
    root = write_rooms(tmp_path)
    for split, numbers in {"train": [0, 1, 2, 3, 4, 5, 6, 7], "val": [7, 8, 9]}.items():
        (root / f"{split}.txt").write_text("\n".join(f"{i:04d}" for i in numbers))
    (root / "rgb/0008.png").write_bytes((root / "rgb/0002.png").read_bytes())
    report = diagnose(root)
    messages = [finding.message for finding in report.findings if finding.code == "leak"]
    assert any("1 samples are in both" in message for message in messages)
    assert any("1 pictures of val.txt are copies" in message for message in messages)
    assert "duplicates" in report.codes and not report.ok


def test_frame_wise_split_of_a_video(tmp_path: Path) -> None:
    image, depth = room(0)
    for i in range(20):
        part = "train" if i % 4 else "val"
        save(tmp_path / f"{part}/rgb/{i:04d}.png", np.roll(image, i, 1))
        save(tmp_path / f"{part}/depth/{i:04d}.png", np.roll(millimetres(depth), i, 1))
    report = diagnose(tmp_path)
    assert "frame-wise-split" in report.codes and not report.ok
    # Splits that are folders are written as lists beside the YAML.
    report.write(tmp_path / "out")
    assert len(FolderDataset(tmp_path / "out/dataset.yaml", "val")) == 5
    assert len(FolderDataset(tmp_path / "out/dataset.yaml", "train")) == 15


def test_missing_partners_are_counted(tmp_path: Path) -> None:
    root = write_rooms(tmp_path)
    save(root / "rgb/0100.png", room(0)[0])
    save(root / "depth/0200.png", millimetres(room(0)[1]))
    (root / "rgb/0005.png").write_bytes(b"\x89PNG\r\n")
    messages = " ".join(finding.message for finding in diagnose(root).findings)
    assert "1 pictures have no map" in messages and "1 depth maps have no picture" in messages


def test_disparity_and_its_factor(tmp_path: Path) -> None:
    disparities = np.random.default_rng(0).permutation(np.arange(4, 16))
    for k in range(4):
        image, depth = room(k)
        noise = np.random.default_rng(k).integers(0, 60, image.shape)
        left = np.clip(image * 0.6 + noise, 0, 255).astype(np.uint8)
        disparity = np.round(disparities[k] * 3 / depth).astype(int)
        right = np.zeros_like(left)
        rows, columns = np.indices(disparity.shape)
        order = np.argsort(disparity.ravel())  # the nearest is drawn last
        to = np.clip(columns - disparity, 0, WIDTH - 1)
        right[rows.ravel()[order], to.ravel()[order]] = left.reshape(-1, 3)[order]
        for name, view in (("view1", left), ("view5", right)):
            save(tmp_path / f"scene{k}/{name}.png", view)
            save(tmp_path / f"scene{k}/disp{name[-1]}.png", (disparity * 3).clip(0, 255).astype(np.uint8))
        assert disparity_factor(left, right, disparity * 3) == 3
    report = diagnose(tmp_path)
    assert report.kind is DepthKind.DISPARITY and "disparity" in report.codes
    assert report.config["scale"] == pytest.approx(1 / 3)
    assert report.config["images"] == "{scene}/view{stem}.png"


def test_labels_without_depth(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"image/{i}.png", room(i)[0])
        save(tmp_path / f"label/{i}.png", ((room(i)[1] > 2) * 255).astype(np.uint8))
    report = diagnose(tmp_path)
    assert report.num_label_pairs == 3 and {"labels", "label-numbers"} <= report.codes and report.ok
    report.write(tmp_path / "out")
    assert FolderDataset(tmp_path / "out/dataset.yaml").kind is None


def test_stereo_without_ground_truth(tmp_path: Path) -> None:
    for i in range(3):
        for camera in (0, 1):
            save(tmp_path / f"sequences/a/image_{camera}/{i:06d}.png", room(i)[0])
    report = diagnose(tmp_path)
    assert {"stereo", "no-ground-truth"} <= report.codes and report.config == {}
    assert {path.name for path in report.write(tmp_path / "out")} == {"report.json", "contact_sheet.png"}


def test_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        diagnose(tmp_path / "absent")
    with pytest.raises(InputError, match="Found no picture"):
        diagnose(tmp_path)


@pytest.mark.parametrize(
    ("image", "depth", "patterns"),
    [
        ("rgb/0001.jpg", "depth/0001.png", ("rgb/{stem}.jpg", "depth/{stem}.png")),
        ("a/rgb_00045.jpg", "a/sync_depth_00045.png", ("{scene}/rgb_{stem}.jpg", "{scene}/sync_depth_{stem}.png")),
        ("s/frame-01.color.png", "s/frame-01.depth.png", ("{scene}/{stem}.color.png", "{scene}/{stem}.depth.png")),
        ("train/rgb/k/1.png", "train/depth/k/1.npy", ("{scene}/rgb/{stem}.png", "{scene}/depth/{stem}.npy")),
        ("k/1.png", "k/1_depth.npy", ("{scene}/{stem}.png", "{scene}/{stem}_depth.npy")),
        ("image_02/7.png", "depth/7.png", ("image_02/{stem}.png", "depth/{stem}.png")),
    ],
)
def test_layouts_and_their_patterns(tmp_path: Path, image: str, depth: str, patterns: tuple[str, str]) -> None:
    save(tmp_path / image, room(0)[0])
    save(tmp_path / depth, millimetres(room(0)[1]))
    found = scan(tmp_path)
    assert [(i.relative_to(tmp_path).as_posix(), d.relative_to(tmp_path).as_posix()) for i, d in found.pairs] == [
        (image, depth)
    ]
    own, other = [tmp_path / image], [tmp_path / depth]
    assert (pattern_of(tmp_path, own, other), pattern_of(tmp_path, other, own)) == patterns


def test_hashes_see_through_compression(tmp_path: Path) -> None:
    for i in range(2):
        blocks = np.random.default_rng(i).integers(0, 255, (9, 12, 3), np.uint8)
        smooth = Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        smooth.resize((3 * WIDTH, 3 * HEIGHT)).save(tmp_path / f"{i}.png")
        smooth.save(tmp_path / f"{i}.jpg")
    codes = [difference_hash(tmp_path / name) for name in ("0.png", "0.jpg", "1.png", "1.jpg")]
    distances = hash_distances(codes, codes)
    assert distances[0, 1] <= 2 and distances[2, 3] <= 2 and distances[0, 2] > 10
    assert hash_distances([0b1011], [0b0001, 0b1011]).tolist() == [[2, 0]]


def test_small_measures() -> None:
    assert own_rank(np.eye(5)) == 1.0 and own_rank(1 - np.eye(5)) == 0.0
    stats = map_stats(np.array([[0, 65535, 1000, 3000]], np.uint16))
    assert (stats.valid, stats.zeros, stats.full) == (0.5, 0.25, 0.25) and stats.median == 2000


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "kind", "per_metre"),
    [
        ("nyuv2", DepthKind.METRIC_DEPTH, 1000),
        ("kitti360-mono", DepthKind.METRIC_DEPTH, 256),
        ("7scenes-redkitchen", DepthKind.METRIC_DEPTH, 1000),
        ("middlebury", DepthKind.DISPARITY, None),
    ],
)
def test_real_folders(shared_data: Path, folder: str, kind: DepthKind, per_metre: float | None) -> None:
    report = diagnose(shared_data / folder, max_samples=16)
    assert report.kind is kind and report.ok, report.findings
    if per_metre is not None:
        assert report.scales[0].counts_per_metre == per_metre and report.scales[0].share > 0.8
    else:
        assert set(report.stored["disparity_factors"].values()) == {3, 4}
