"""Depth maps in every file format: exact round trips, what other programs read, and damaged or foreign files."""

import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depth_strategies import depths
from fathom.errors import ConfigError, FathomError, InputError
from fathom.io import DEPTH_FORMATS, FathomWarning, read_depth, write_depth
from fathom.io.png16 import LARGEST_COUNT, png16_law
from fathom.io.sidecar import sidecar_path
from fathom.types import Camera, ConfidenceMeaning, Depth, DepthKind, FocalSource, InvalidReason, Provenance

EXACT_WITH_CONFIDENCE = ("npz", "tiff", "exr")
EXACT_WITHOUT_CONFIDENCE = ("npy", "pfm")
quick = settings(max_examples=30, deadline=None, database=None)


def suffix(name: str) -> str:
    return DEPTH_FORMATS[name].suffixes[0]


@pytest.fixture
def metric() -> Depth:
    rng = np.random.default_rng(3)
    values = rng.uniform(0.4, 9.0, (12, 17)).astype(np.float32)
    reason = np.zeros(values.shape, np.uint8)
    reason[0, :3], reason[5, 4], reason[-1, :] = InvalidReason.SKY, InvalidReason.UNKNOWN, InvalidReason.BORDER
    camera = Camera.from_focal(20.0, height=12, width=17, source=FocalSource.EXIF)
    provenance = Provenance("fathom-indoor", "ab" * 32, {"size": [12, 17], "name": "küche"}, "Apache-2.0")
    return Depth(values, DepthKind.METRIC_DEPTH, reason == 0, reason, camera=camera, provenance=provenance)


def round_trip(depth: Depth, name: str, **options: object) -> Depth:
    with tempfile.TemporaryDirectory() as folder:
        path = write_depth(depth, Path(folder, "map" + suffix(name)), **options)[0]
        return read_depth(path)


class TestExactRoundTrip:
    @pytest.mark.parametrize("name", EXACT_WITH_CONFIDENCE)
    @quick
    @given(depth=depths())
    def test_everything_comes_back(self, name: str, depth: Depth) -> None:
        assert round_trip(depth, name) == depth

    @pytest.mark.parametrize("name", EXACT_WITHOUT_CONFIDENCE)
    @quick
    @given(depth=depths(confidence=False))
    def test_all_but_confidence_comes_back(self, name: str, depth: Depth) -> None:
        assert round_trip(depth, name) == depth

    @quick
    @given(depth=depths(confidence=False))
    def test_big_endian_pfm(self, depth: Depth) -> None:
        assert round_trip(depth, "pfm", byte_order="big") == depth

    def test_npz_keeps_what_invalid_pixels_hold(self, metric: Depth) -> None:
        assert np.array_equal(round_trip(metric, "npz").values, metric.values)

    @pytest.mark.parametrize("name", ["npy", "pfm", "png16"])
    def test_confidence_left_out_is_said(self, name: str, tmp_path: Path) -> None:
        sure = Depth(
            np.ones((2, 2)),
            DepthKind.METRIC_DEPTH,
            confidence=np.ones((2, 2)),
            confidence_meaning=ConfidenceMeaning.LARGER_IS_SURER,
        )
        with pytest.warns(FathomWarning, match="confidence map; it was left out"):
            write_depth(sure, tmp_path / ("a" + suffix(name)))
        assert read_depth(tmp_path / ("a" + suffix(name))).confidence is None


class TestPng16:
    @quick
    @given(depth=depths(confidence=False, kinds=tuple(set(DepthKind) - {DepthKind.METRIC_DEPTH})))
    def test_relative_kinds_come_back_to_half_a_count(self, depth: Depth) -> None:
        scale, offset = png16_law(depth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FathomWarning)
            back = round_trip(depth, "png16")
        assert back.metadata() == depth.metadata()
        if (
            depth.kind is not DepthKind.SCALE_INVARIANT_DEPTH
        ):  # its range starts at 0, so it alone may lose small values
            assert np.array_equal(back.invalid_reason, depth.invalid_reason)
        both = back.valid_mask
        error = np.abs(back.values[both].astype(np.float64) - depth.values[both].astype(np.float64))
        largest = max(abs(offset), abs(offset + scale * LARGEST_COUNT))
        assert (error <= 0.5001 * scale + largest * 2.0**-22).all()

    @quick
    @given(counts=st.lists(st.integers(1, LARGEST_COUNT), min_size=1, max_size=20))
    def test_millimetres_are_exact_and_stable(self, counts: list[int]) -> None:
        depth = Depth(np.array([counts]) * 0.001, DepthKind.METRIC_DEPTH)
        back = round_trip(depth, "png16")
        assert np.array_equal(np.rint(back.values.astype(np.float64) * 1000), [counts])
        assert back == depth

    def test_reasons_come_back(self, metric: Depth) -> None:
        back = round_trip(metric, "png16")
        assert np.array_equal(back.invalid_reason, metric.invalid_reason)
        assert np.abs(back.values - metric.values)[metric.valid_mask].max() <= 0.000501
        assert back.metadata() == metric.metadata()

    def test_out_of_range_is_invalid_and_counted(self, tmp_path: Path) -> None:
        depth = Depth(np.array([[0.0003, 1.0, 65.535, 65.536, 1000.0]]), DepthKind.METRIC_DEPTH)
        with pytest.warns(FathomWarning, match=r"3 of 5 pixels lie outside 0\.001\.\.65\.535 m"):
            write_depth(depth, tmp_path / "a.png")
        back = read_depth(tmp_path / "a.png")
        assert back.valid_mask.tolist() == [[False, True, True, False, False]]
        assert back.invalid_reason[0, 4] == InvalidReason.UNKNOWN

    def test_other_scale_and_offset(self, tmp_path: Path) -> None:
        depth = Depth(np.array([[100.0, 600.0]]), DepthKind.METRIC_DEPTH)
        write_depth(depth, tmp_path / "a.png", scale=0.01, offset=50.0)
        assert read_depth(tmp_path / "a.png") == depth
        assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[5000, 55000]]

    @pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": -1}, {"scale": float("nan")}, {"offset": 1.0}])
    def test_senseless_law(self, options: dict[str, float], metric: Depth, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="16-bit PNG"):
            write_depth(metric, tmp_path / "a.png", **options)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 2.0**100])
    def test_flat_map(self, value: float) -> None:
        depth = Depth(np.full((2, 3), value), DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
        assert round_trip(depth, "png16") == depth

    def test_no_valid_pixel(self) -> None:
        depth = Depth(np.full((2, 3), np.nan), DepthKind.DISPARITY)
        assert round_trip(depth, "png16") == depth

    def test_every_program_reads_the_counts(self, metric: Depth, tmp_path: Path) -> None:
        write_depth(metric, tmp_path / "a.png")
        expected = np.where(metric.valid_mask, np.rint(metric.values.astype(np.float64) * 1000), 0)
        image = Image.open(tmp_path / "a.png")
        assert image.mode == "I;16" and np.array_equal(np.asarray(image), expected)
        law = json.loads(image.text["fathom"])["encoding"]
        assert law == {"law": "value = offset + scale * count", "scale": 0.001, "offset": 0.0, "invalid_count": 0}
        cv2 = pytest.importorskip("cv2")
        assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), expected)

    def test_foreign_counts(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 256, 512]], np.uint16)).save(tmp_path / "kitti.png")
        depth = read_depth(tmp_path / "kitti.png", scale=1 / 256)
        assert depth.kind is DepthKind.METRIC_DEPTH
        assert depth.valid_mask.tolist() == [[False, True, True]]
        assert depth.values[0, 1:].tolist() == [1.0, 2.0]
        Image.fromarray(np.array([[0, 3, 6]], np.uint8)).save(tmp_path / "middlebury.png")
        disparity = read_depth(tmp_path / "middlebury.png", kind="disparity", scale=1 / 3)
        assert disparity.values[0, 1:].tolist() == [1.0, 2.0] and not disparity.valid_mask[0, 0]

    def test_real_depth(self, shared_data: Path) -> None:
        path = sorted((shared_data / "nyuv2" / "depth").glob("*.png"))[0]
        depth = read_depth(path, scale=0.001)
        assert depth.values.shape == (480, 640) and 0.3 < depth.value_range[0] < depth.value_range[1] < 10.1
        assert round_trip(depth, "png16") == depth


class TestOtherProgramsRead:
    """The numbers that other libraries find in our files, and the other way round."""

    def marked(self, depth: Depth) -> np.ndarray:
        return np.where(depth.valid_mask, depth.values, np.nan)

    def test_npy_and_npz(self, metric: Depth, tmp_path: Path) -> None:
        map_path, sidecar = write_depth(metric, tmp_path / "a.npy")
        assert np.array_equal(np.load(map_path), self.marked(metric), equal_nan=True)
        assert np.load(map_path).dtype == np.float32
        assert sidecar == tmp_path / "a.npy.json"
        stated = json.loads(sidecar.read_text())
        assert stated["kind"] == "metric_depth" and stated["unit"] == "m"
        assert stated["provenance"]["model"] == "fathom-indoor"
        write_depth(metric, tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as archive:
            assert sorted(archive) == ["fathom", "intrinsics", "invalid_reason", "valid_mask", "values"]
            assert np.array_equal(archive["intrinsics"], metric.camera.intrinsics)
            assert json.loads(str(archive["fathom"]))["camera"]["focal_source"] == "exif"

    def test_tiff(self, metric: Depth, tmp_path: Path) -> None:
        write_depth(metric, tmp_path / "a.tiff")
        tifffile = pytest.importorskip("tifffile")
        assert np.array_equal(tifffile.imread(tmp_path / "a.tiff"), self.marked(metric), equal_nan=True)
        tifffile.imwrite(tmp_path / "b.tif", metric.values, compression=None)
        assert np.array_equal(read_depth(tmp_path / "b.tif", kind="metric_depth").values, metric.values)
        tifffile.imwrite(tmp_path / "c.tif", metric.values, byteorder=">")
        assert np.array_equal(read_depth(tmp_path / "c.tif", kind="metric_depth").values, metric.values)
        cv2 = pytest.importorskip("cv2")
        found = cv2.imread(str(tmp_path / "a.tiff"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, self.marked(metric), equal_nan=True)

    @pytest.mark.parametrize("byte_order", ["little", "big"])
    def test_pfm(self, byte_order: str, metric: Depth, tmp_path: Path) -> None:
        write_depth(metric, tmp_path / "a.pfm", byte_order=byte_order)
        content = (tmp_path / "a.pfm").read_bytes()
        assert content.startswith(b"Pf\n17 12\n-1.0\n" if byte_order == "little" else b"Pf\n17 12\n1.0\n")
        order = "<f4" if byte_order == "little" else ">f4"
        assert np.frombuffer(content[-4 * 17 :], order).tolist()[3:] == metric.values[0].tolist()[3:]  # top row is last
        cv2 = pytest.importorskip("cv2")
        found = cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, self.marked(metric), equal_nan=True)

    def test_foreign_pfm(self, tmp_path: Path) -> None:
        cv2 = pytest.importorskip("cv2")
        values = np.array([[1, 2, 3], [4, np.inf, 6]], np.float32)
        cv2.imwrite(str(tmp_path / "a.pfm"), values)
        depth = read_depth(tmp_path / "a.pfm", kind=DepthKind.DISPARITY)
        assert np.array_equal(depth.values, values) and depth.valid_mask.tolist() == [[True] * 3, [True, False, True]]
        (tmp_path / "b.pfm").write_bytes(b"Pf 2 1\r\n-0.003922\r\n" + struct.pack("<2f", 5, 7))
        assert read_depth(tmp_path / "b.pfm", kind="disparity").values.tolist() == [[5, 7]]

    def test_exr(self, metric: Depth, tmp_path: Path) -> None:
        import OpenEXR

        write_depth(metric, tmp_path / "a.exr")
        file = OpenEXR.File(str(tmp_path / "a.exr"))
        assert set(file.channels()) == {"Z", "invalid_reason"}
        assert np.array_equal(file.channels()["Z"].pixels, np.where(metric.valid_mask, metric.values, 0))
        assert np.array_equal(file.channels()["invalid_reason"].pixels, metric.invalid_reason)
        relative = Depth(metric.values, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
        write_depth(relative, tmp_path / "b.exr")
        assert set(OpenEXR.File(str(tmp_path / "b.exr")).channels()) == {"Y", "invalid_reason"}

    def test_foreign_exr(self, tmp_path: Path) -> None:
        import OpenEXR

        header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}
        half = np.array([[0.5, 2.0]], np.float16)
        OpenEXR.File(header, {"R": half, "G": half * 2, "B": half}).write(str(tmp_path / "a.exr"))
        assert read_depth(tmp_path / "a.exr", kind="metric_depth").values.tolist() == [[0.5, 2.0]]
        OpenEXR.File(header, {"far": half}).write(str(tmp_path / "b.exr"))
        assert read_depth(tmp_path / "b.exr", kind="metric_depth", scale=2.0).values.tolist() == [[1.0, 4.0]]
        OpenEXR.File(header, {"p": half, "q": half}).write(str(tmp_path / "c.exr"))
        with pytest.raises(InputError, match="Expected a channel named Z"):
            read_depth(tmp_path / "c.exr", kind="metric_depth")


class TestForeignNumpy:
    def test_shapes_and_names(self, tmp_path: Path) -> None:
        values = np.array([[1.0, 0.0, np.inf, 4.0]])
        for number, array in enumerate((values, values[None], values[..., None], values.astype(">f4"))):
            np.save(tmp_path / f"{number}.npy", array)
            depth = read_depth(tmp_path / f"{number}.npy", kind="metric_depth")
            assert depth.valid_mask.tolist() == [[True, False, False, True]]
        np.savez(tmp_path / "a.npz", depth=values, other=values)
        assert read_depth(tmp_path / "a.npz", kind="metric_depth").values[0, 3] == 4.0
        np.savez(tmp_path / "b.npz", anything=np.array([[0, 5000]], np.uint16))
        assert read_depth(tmp_path / "b.npz", scale=0.001).values[0, 1] == 5.0

    def test_what_it_holds_must_be_said(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.ones((2, 2)))
        np.save(tmp_path / "b.npy", np.ones((2, 2), np.uint16))
        with pytest.raises(InputError, match="does not say what its numbers are"):
            read_depth(tmp_path / "a.npy")
        with pytest.raises(InputError, match="whole numbers without Fathom metadata"):
            read_depth(tmp_path / "b.npy", kind="metric_depth")
        with pytest.raises(InputError, match="`kind` must be one of"):
            read_depth(tmp_path / "a.npy", kind="depth")
        with pytest.raises(InputError, match="`scale` must be a positive number"):
            read_depth(tmp_path / "a.npy", scale=-1.0)

    def test_pickles_are_never_run(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match="NumPy file of numbers"):
            read_depth(tmp_path / "a.npy", kind="metric_depth")


@pytest.mark.parametrize("name", DEPTH_FORMATS)
class TestEveryFormat:
    def test_same_bytes_every_time(self, name: str, metric: Depth, tmp_path: Path) -> None:
        first = [path.read_bytes() for path in write_depth(metric, tmp_path / ("a" + suffix(name)))]
        second = [path.read_bytes() for path in write_depth(metric, tmp_path / "sub" / ("b" + suffix(name)))]
        assert first == second

    def test_contradiction_is_refused(self, name: str, metric: Depth, tmp_path: Path) -> None:
        path = write_depth(metric, tmp_path / ("a" + suffix(name)))[0]
        assert read_depth(path, kind="metric_depth").kind is DepthKind.METRIC_DEPTH
        with pytest.raises(InputError, match="says it holds metric_depth; got kind='disparity'"):
            read_depth(path, kind="disparity")
        with pytest.raises(InputError, match="states its own scale"):
            read_depth(path, scale=0.001)

    def test_cut_short_anywhere_is_an_input_error(self, name: str, metric: Depth, tmp_path: Path) -> None:
        path = write_depth(metric, tmp_path / ("a" + suffix(name)))[0]
        content = path.read_bytes()
        for length in (0, 1, 7, 20, len(content) // 2, len(content) - 30):
            path.write_bytes(content[:length])
            with pytest.raises(InputError, match=r"a\.\w+'"):
                read_depth(path)

    def test_any_flipped_byte_gives_a_depth_or_a_fathom_error(self, name: str, metric: Depth, tmp_path: Path) -> None:
        path = write_depth(metric, tmp_path / ("a" + suffix(name)))[0]
        content = path.read_bytes()
        rng = np.random.default_rng(7)
        for position in rng.integers(0, len(content), 40):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries warn about the damage in their own words
                try:
                    assert isinstance(read_depth(path), Depth)
                except FathomError as error:
                    assert "a." in str(error)

    def test_something_else_under_this_name(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / ("a" + suffix(name))
        for content in (b"hello, this is text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" + bytes(50), b"II*\0" + bytes(40)):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"a\.\w+'"):
                read_depth(path, kind="metric_depth", scale=1.0)

    def test_missing_folder_and_directory(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot read '.*nowhere"):
            read_depth(tmp_path / ("nowhere" + suffix(name)))
        (tmp_path / ("folder" + suffix(name))).mkdir()
        with pytest.raises(InputError, match="is a folder"):
            read_depth(tmp_path / ("folder" + suffix(name)))

    def test_unknown_option(self, name: str, metric: Depth, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Unknown option 'quality'"):
            write_depth(metric, tmp_path / "a", name, quality=3)

    def test_writers_of_one_path_never_mix(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / ("a" + suffix(name))
        maps = [Depth(np.full((40, 50), value), DepthKind.METRIC_DEPTH) for value in (1.0, 2.0, 3.0, 4.0)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda depth: write_depth(depth, path), maps * 5))
        assert read_depth(path) in maps
        expected = {path.name, sidecar_path(path).name} if name in EXACT_WITHOUT_CONFIDENCE else {path.name}
        assert {entry.name for entry in tmp_path.iterdir()} == expected


def test_damaged_metadata(metric: Depth, tmp_path: Path) -> None:
    path, sidecar = write_depth(metric, tmp_path / "a.npy")
    good = json.loads(sidecar.read_text())
    for change, sentence in (
        ({"fathom_metadata": 99}, "layout 99"),
        ({"height": 3}, r"says \(3, 17\) pixels"),
        ({"kind": "depth"}, "do not make a depth map"),
        ({"camera": {"focal_source": "user"}}, "do not make a depth map"),
        ({"provenance": None}, "do not make a depth map"),
        ({"camera": {"intrinsics": [[1]], "focal_source": "user"}}, "do not make a depth map"),
    ):
        sidecar.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=sentence):
            read_depth(path)
    for text in ("", "[]", "{", '{"a": 1}', "\udc80"):
        sidecar.write_text(text, errors="surrogateescape")
        with pytest.raises(InputError, match="is damaged"):
            read_depth(path)


def test_a_valid_pixel_that_the_kind_forbids(metric: Depth, tmp_path: Path) -> None:
    path, _ = write_depth(metric, tmp_path / "a.npy")
    np.save(path, -np.load(path))
    with pytest.raises(InputError, match="do not make a depth map"):
        read_depth(path)


def test_npz_lacking_an_array(metric: Depth, tmp_path: Path) -> None:
    write_depth(metric, tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as source, zipfile.ZipFile(tmp_path / "b.npz", "w") as target:
        for entry in source.infolist():
            if not entry.filename.startswith("invalid"):
                target.writestr(entry, source.read(entry))
    with pytest.raises(InputError, match="lacks the array 'invalid_reason'"):
        read_depth(tmp_path / "b.npz")


def test_reasons_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    """A small chunk must not fill the memory."""
    from fathom.io.png import png_chunks
    from fathom.io.sidecar import metadata_text

    depth = Depth(np.ones((2, 2)), DepthKind.METRIC_DEPTH)
    text = metadata_text(depth, {"scale": 0.001, "offset": 0.0})
    bomb = zlib.compress(bytes(50_000_000))
    path = tmp_path / "a.png"
    path.write_bytes(b"".join(png_chunks(np.ones((2, 2), np.uint16), {"fathom": text}, {b"fmRN": bomb})))
    with pytest.raises(InputError, match="do not fit its size"):
        read_depth(path)


def test_color_pictures_are_not_depth(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="has colours"):
        read_depth(tmp_path / "a.png", scale=0.001)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="mode RGB"):
        read_depth(tmp_path / "a.tif", scale=0.001)
    (tmp_path / "a.pfm").write_bytes(b"PF\n1 1\n-1\n" + bytes(12))
    with pytest.raises(InputError, match="three colours"):
        read_depth(tmp_path / "a.pfm", kind="metric_depth")


def test_formats_by_name_and_suffix(metric: Depth, tmp_path: Path) -> None:
    write_depth(metric, tmp_path / "a.TIF")
    assert read_depth(tmp_path / "a.TIF") == metric
    write_depth(metric, tmp_path / "plain", "npz")
    assert read_depth(tmp_path / "plain", format="npz") == metric
    with pytest.raises(ConfigError, match=r"got the suffix '\.jpg'"):
        write_depth(metric, tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="got the format 'bmp'"):
        write_depth(metric, tmp_path / "a.bmp", "bmp")
    with pytest.raises(InputError, match=r"Expected a depth map \(\.png"):
        read_depth(tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="got 'bmp'"):
        read_depth(tmp_path / "a.png", format="bmp")
    with pytest.raises(ConfigError, match="byte order"):
        write_depth(metric, tmp_path / "a.pfm", byte_order="middle")


@pytest.mark.parametrize("name", DEPTH_FORMATS)
def test_names_that_are_not_utf8(name: str, metric: Depth, tmp_path: Path) -> None:
    path = tmp_path / ("raum\udcff" + suffix(name))
    written = write_depth(metric, path)
    assert written[0] == path and path.is_file()
    assert read_depth(path).valid_mask.tolist() == metric.valid_mask.tolist()


def test_buffers_are_not_files() -> None:
    with pytest.raises(TypeError):
        read_depth(io.BytesIO(b""))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["tiff", "npy", "pfm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_foreign_map_without_a_number_has_no_valid_pixel(suffix: str, value: float, tmp_path: Path) -> None:
    path, values = tmp_path / f"a.{suffix}", np.full((2, 3), value, np.float32)
    if suffix == "npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path, "TIFF" if suffix == "tiff" else "PPM")
    depth = read_depth(path, kind="metric_depth")
    assert not depth.valid_mask.any() and depth.value_range is None
