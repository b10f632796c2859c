"""Pictures of every kind, good, odd and bad."""

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

from fathom.errors import InputError, MissingExtraError
from fathom.io import PICTURE_SUFFIXES, Picture, read_image
from fathom.types import FocalSource

WHITE_HALF_RED = [255, 127, 127]


def picture_array(height: int = 24, width: int = 36) -> np.ndarray:
    """A smooth picture without any symmetry."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 9 % 256, columns * 6 % 256, (rows + 2 * columns) % 256], axis=-1).astype(np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


ARRAY = picture_array()
RGB = Image.fromarray(ARRAY)


class TestFormats:
    @pytest.mark.parametrize(
        ("format", "options"),
        [
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("BMP", {}),
            ("PPM", {}),
        ],
    )
    def test_lossless_formats_are_exact(self, format: str, options: dict[str, object]) -> None:
        picture = read_image(encode(RGB, format, **options))
        assert np.array_equal(picture.rgb, ARRAY)
        assert (picture.height, picture.width, picture.mode, picture.camera) == (24, 36, "RGB", None)

    @pytest.mark.parametrize(
        ("format", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {})]
    )
    def test_lossy_formats_are_close(self, format: str, options: dict[str, object]) -> None:
        smooth = np.stack(np.broadcast_arrays(*np.ix_(np.arange(24) * 4, np.arange(36) * 4), 90), axis=-1)
        picture = read_image(encode(Image.fromarray(smooth.astype(np.uint8)), format, **options))
        assert np.abs(picture.rgb.astype(int) - smooth).mean() < 6

    def test_the_name_does_not_decide(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(encode(RGB, "PNG"))
        assert np.array_equal(read_image(tmp_path / "a.jpg").rgb, ARRAY)
        (tmp_path / "plain").write_bytes(encode(RGB, "PNG"))
        assert read_image(str(tmp_path / "plain")).name == "plain"

    def test_sources(self, tmp_path: Path) -> None:
        content = encode(RGB, "PNG")
        (tmp_path / "a.png").write_bytes(content)
        with (tmp_path / "a.png").open("rb") as file:
            from_file = read_image(file)
        from_path = read_image(tmp_path / "a.png")
        for picture in (from_file, from_path, read_image(bytearray(content)), read_image(memoryview(content))):
            assert np.array_equal(picture.rgb, ARRAY)
        assert (from_file.name, from_path.name, read_image(content).name) == ("a.png", "a.png", "picture")
        assert read_image(io.BytesIO(content), name="stdin").name == "stdin"

    def test_pipe_without_seek(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as sink:
            sink.write(encode(RGB, "PNG"))
        with os.fdopen(reading, "rb") as source:
            assert np.array_equal(read_image(source).rgb, ARRAY)

    def test_result_is_read_only(self) -> None:
        picture = read_image(encode(RGB, "PNG"))
        with pytest.raises(ValueError, match="read-only"):
            picture.rgb[0, 0] = 1
        with pytest.raises(AttributeError):
            picture.name = "other"  # type: ignore[misc]

    @pytest.mark.parametrize("name", ["raum\udcff.png", "ключ 🔑.png", "a b'c\".png", "n" * 251 + ".png"])
    def test_odd_file_names(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(encode(RGB, "PNG"))
        assert np.array_equal(read_image(tmp_path / name).rgb, ARRAY)

    def test_every_suffix_is_lower_case(self) -> None:
        assert {suffix.lower() for suffix in PICTURE_SUFFIXES} == PICTURE_SUFFIXES
        assert {".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif", ".avif", ".heic"} <= PICTURE_SUFFIXES


class TestPixels:
    def read(self, image: Image.Image, format: str = "PNG", **options: object) -> Picture:
        return read_image(encode(image, format, **options))

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4000), (4000, 1)])
    def test_extreme_shapes(self, width: int, height: int) -> None:
        assert self.read(Image.new("RGB", (width, height), (1, 2, 3))).rgb.shape == (height, width, 3)

    def test_grey_and_bilevel(self) -> None:
        assert self.read(Image.new("L", (2, 2), 77)).rgb[0, 0].tolist() == [77] * 3
        assert self.read(Image.new("1", (2, 2), 1)).rgb[0, 0].tolist() == [255] * 3

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_not_cut(self, format: str) -> None:
        image = Image.fromarray(np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16))
        assert self.read(image, format).rgb[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]

    def test_16_bit_big_endian_tiff(self) -> None:
        tifffile = pytest.importorskip("tifffile")
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.array([[0, 257, 65535]], np.uint16), byteorder=">")
        assert read_image(buffer.getvalue()).rgb[0, :, 0].tolist() == [0, 1, 255]

    def test_16_bit_rgb_png(self) -> None:
        row = b"\0" + struct.pack(">3H", 65535, 32896, 0)
        content = b"\x89PNG\r\n\x1a\n"
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(row)),
            (b"IEND", b""),
        ):
            content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        assert read_image(content).rgb[0, 0].tolist() == [255, 128, 0]

    def test_alpha_over_white(self) -> None:
        assert self.read(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).rgb[0, 0].tolist() == WHITE_HALF_RED
        assert self.read(Image.new("RGBA", (1, 1), (9, 9, 9, 0))).rgb[0, 0].tolist() == [255] * 3
        assert self.read(Image.new("LA", (1, 1), (0, 128))).rgb[0, 0].tolist() == [127] * 3
        assert self.read(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "WEBP", lossless=True).mode == "RGBA"

    def test_palette(self) -> None:
        palette = RGB.quantize(64)
        assert np.array_equal(self.read(palette).rgb, np.asarray(palette.convert("RGB")))
        see_through = Image.new("P", (2, 1), 0)
        see_through.putpalette([255, 0, 0, 0, 0, 255])
        see_through.putpixel((1, 0), 1)
        picture = self.read(see_through, transparency=bytes([128, 255]))
        assert picture.rgb[0].tolist() == [WHITE_HALF_RED, [0, 0, 255]] and picture.mode == "P"

    def test_color_key(self) -> None:
        image = Image.new("RGB", (2, 1), (10, 20, 30))
        image.putpixel((1, 0), (1, 2, 3))
        assert self.read(image, transparency=(1, 2, 3)).rgb[0].tolist() == [[10, 20, 30], [255] * 3]

    @pytest.mark.parametrize("format", ["JPEG", "TIFF"])
    def test_cmyk(self, format: str) -> None:
        picture = self.read(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format)
        assert picture.mode == "CMYK"
        assert np.abs(picture.rgb[8, 8].astype(int) - [255, 0, 0]).max() <= 3

    def test_lab(self) -> None:
        assert self.read(Image.new("LAB", (2, 2), (255, 128, 128)), "TIFF").rgb[0, 0].min() > 240

    def test_float(self) -> None:
        unit = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
        byte = Image.fromarray(np.array([[0, 100.4, 255]], np.float32))
        assert self.read(unit, "TIFF").rgb[0, :, 0].tolist() == [0, 128, 255]
        assert self.read(byte, "TIFF").rgb[0, :, 0].tolist() == [0, 100, 255]

    @pytest.mark.parametrize("values", [[-1, 0], [0, 256], [np.nan, 0], [np.inf, 1]])
    def test_float_of_unknown_range(self, values: list[float]) -> None:
        with pytest.raises(InputError, match=r"within 0\.\.1 or 0\.\.255"):
            self.read(Image.fromarray(np.array([values], np.float32)), "TIFF")

    @pytest.mark.parametrize("format", ["TIFF", "PPM"])
    def test_float_without_a_number(self, format: str) -> None:
        with pytest.raises(InputError, match="no pixel of the given data is a finite number"):
            self.read(Image.fromarray(np.full((2, 3), np.nan, np.float32)), format)

    def test_32_bit_whole_numbers(self) -> None:
        assert self.read(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF").rgb[0, :, 0].tolist() == [0, 255]
        with pytest.raises(InputError, match=r"got 0\.\.65536"):
            self.read(Image.fromarray(np.array([[0, 65536]], np.int32)), "TIFF")

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_first_frame(self, format: str) -> None:
        frames = [Image.new("RGB", (4, 4), color) for color in ("white", "black")]
        content = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert read_image(content).rgb.min() >= 250


class TestExif:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
    def test_orientation(self, orientation: int, format: str) -> None:
        """Store the picture as a camera held that way would, and get it back upright."""
        stored = {
            1: ARRAY,
            2: ARRAY[:, ::-1],
            3: ARRAY[::-1, ::-1],
            4: ARRAY[::-1],
            5: ARRAY.swapaxes(0, 1),
            6: np.rot90(ARRAY, 1),
            7: np.rot90(ARRAY[::-1], -1)[::-1, ::-1].swapaxes(0, 1).swapaxes(0, 1),
            8: np.rot90(ARRAY, -1),
        }[orientation]
        if orientation == 7:  # transposed along the other diagonal
            stored = ARRAY[::-1, ::-1].swapaxes(0, 1)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if format == "WEBP" else {}
        picture = read_image(encode(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options))
        assert np.array_equal(picture.rgb, ARRAY)
        assert picture.rgb.flags.c_contiguous and not picture.rgb.flags.writeable

    @pytest.mark.parametrize("orientation", [0, 9, 255])
    def test_senseless_orientation_is_upright(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert np.array_equal(read_image(encode(RGB, "PNG", exif=exif)).rgb, ARRAY)

    def focal(self, tags: dict[int, object], size: tuple[int, int] = (360, 240), orientation: int = 1) -> Picture:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif.get_ifd(0x8769).update(tags)
        return read_image(encode(Image.new("RGB", size), "JPEG", exif=exif))

    def test_35mm_equivalent(self) -> None:
        camera = self.focal({0xA405: 36}).camera
        assert camera.focal_source is FocalSource.EXIF
        # 360 x 240 has the shape of the 36 x 24 mm frame: 10 pixels per millimetre.
        assert camera.focal_px == pytest.approx(360)
        assert camera.intrinsics[:2, 2].tolist() == [180, 120]

    def test_35mm_equivalent_keeps_the_diagonal(self) -> None:
        assert self.focal({0xA405: 26}, (400, 300)).camera.focal_px == pytest.approx(26 * 500 / 43.2666153)

    def test_turned_camera(self) -> None:
        picture = self.focal({0xA405: 36}, orientation=6)
        assert picture.rgb.shape == (360, 240, 3)
        assert picture.camera.focal_px == pytest.approx(360)
        assert picture.camera.intrinsics[:2, 2].tolist() == [120, 180]

    @pytest.mark.parametrize(
        ("unit", "resolution"), [(None, 5000.0), (2, 5000.0), (3, 5000 / 2.54), (4, 5000 / 25.4), (5, 5000 / 25400)]
    )
    def test_focal_plane_resolution(self, unit: int | None, resolution: float) -> None:
        """5 mm at 5000 pixels for each inch, in every unit; the picture was shrunk from 3600 to 360 pixels."""
        tags: dict[int, object] = {0x920A: 5.0, 0xA20E: TiffImagePlugin.IFDRational(resolution), 0xA002: 3600}
        if unit is not None:
            tags[0xA210] = unit
        assert self.focal(tags).camera.focal_px == pytest.approx(5 * 5000 / 25.4 * 360 / 3600, rel=1e-4)

    def test_focal_plane_without_width_is_of_this_picture(self) -> None:
        assert self.focal({0x920A: 5.0, 0xA20E: 5000.0}).camera.focal_px == pytest.approx(984.25, abs=0.01)

    @pytest.mark.parametrize(
        "tags",
        [
            {},
            {0xA405: 0},
            {0x920A: 5.0},
            {0x920A: 0.0, 0xA20E: 5000.0},
            {0x920A: TiffImagePlugin.IFDRational(0, 0), 0xA20E: 5000.0},
            {0x920A: 5.0, 0xA20E: TiffImagePlugin.IFDRational(1, 0)},
            {0x920A: 5.0, 0xA20E: 5000.0, 0xA210: 1},
            {0x920A: 5.0, 0xA20E: 1.0},
            {0xA405: 65535},
            {0xA405: 1},
        ],
    )
    def test_focal_that_is_missing_or_cannot_be_true(self, tags: dict[int, object]) -> None:
        assert self.focal(tags).camera is None

    def test_damaged_exif_keeps_the_picture(self) -> None:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = 36
        content = encode(Image.new("RGB", (36, 24), "red"), "JPEG", exif=exif)
        start = content.index(b"Exif\0\0")
        length = int.from_bytes(content[start - 2 : start], "big") - 4
        assert 20 < length < 200
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow says in its own words that the EXIF is damaged
            for position in range(start + 6, start + 2 + length):
                damaged = bytearray(content)
                damaged[position] ^= 0xFF
                assert read_image(bytes(damaged)).rgb.shape[2] == 3

    def test_real_photo(self, shared_data: Path) -> None:
        picture = read_image(sorted((shared_data / "nyuv2" / "rgb").glob("*.jpg"))[0])
        assert picture.rgb.shape == (480, 640, 3) and 40 < picture.rgb.mean() < 220


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any data."""
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


JPEG = encode(RGB, "JPEG")
BAD = {
    "empty": (b"", "is empty"),
    "one byte": (b"\xff", "Expected a picture"),
    "text": (b"hello, this is no picture\n", "is text"),
    "web page": (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG or XML"),
    "pdf": (b"%PDF-1.7 ...", "a PDF document"),
    "zip": (b"PK\x03\x04" + bytes(40), "a zip archive"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(40), "a NumPy array"),
    "exr": (b"\x76\x2f\x31\x01" + bytes(40), "an OpenEXR file"),
    "psd": (b"8BPS" + bytes(40), "a Photoshop document"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(40), "Matroska or WebM"),
    "zeros": (bytes(1000), "none of them"),
    "noise": (np.random.default_rng(0).bytes(1000), "none of them"),
    "cut jpeg": (JPEG[: len(JPEG) // 2], "Expected a whole JPEG"),
    "jpeg signature": (b"\xff\xd8\xff", "Expected a whole JPEG"),
    "jpeg then text": (b"\xff\xd8\xff and then text", "Expected a whole JPEG"),
    "cut png": (encode(RGB, "PNG")[:-80], "Expected a whole PNG"),
    "png signature": (b"\x89PNG\r\n\x1a\n", "Expected a whole PNG"),
    "png of no data": (png_header(400, 400), "Expected a whole PNG"),
    "png of no width": (png_header(0, 5), "(Expected a whole PNG|0 x 5)"),
    "png of no height": (png_header(5, 0), "(Expected a whole PNG|5 x 0)"),
    "png bomb": (png_header(20000, 20000), "20000 x 20000 = 400.0 megapixels"),
    "png of a giant": (png_header(2**31 - 1, 2**31 - 1), "megapixels"),
    "cut gif": (encode(RGB, "GIF")[:30], "Expected a whole GIF"),
    "cut webp": (encode(RGB, "WEBP")[:60], "Expected a whole WebP"),
    "cut tiff": (encode(RGB, "TIFF")[:400], "Expected a whole TIFF"),
    "tiff signature": (b"II*\0\x08\0\0\0", "Expected a whole TIFF"),
    "cut bmp": (encode(RGB, "BMP")[:100], "Expected a whole BMP"),
    "cut avif": (encode(RGB, "AVIF")[:200], "Expected a whole AVIF"),
    "cut ppm": (encode(RGB, "PPM")[:100], "Expected a whole PPM"),
}


class TestBadPictures:
    @pytest.mark.parametrize("name", BAD)
    def test_each_is_one_clear_error(self, name: str, tmp_path: Path) -> None:
        content, sentence = BAD[name]
        path = tmp_path / "room.jpg"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libtiff's "truncated" is said again, better, by the error
            with pytest.raises(InputError, match=sentence) as from_path:
                read_image(path)
            with pytest.raises(InputError, match=sentence):
                read_image(content)
        assert "room.jpg" in str(from_path.value)
        assert str(from_path.value).endswith(".")

    def test_limit_on_pixels(self) -> None:
        content = encode(Image.new("RGB", (40, 30)), "PNG")
        assert read_image(content, max_pixels=1200).width == 40
        with pytest.raises(InputError, match=r"at most 0\.001199 megapixels; the given data is 40 x 30"):
            read_image(content, max_pixels=1199)

    def test_between_pillows_limit_and_ours(self) -> None:
        """180 megapixels: Pillow alone would refuse, and warn from 90 on."""
        content = encode(Image.new("1", (18000, 10000)), "PNG")
        with pytest.raises(InputError, match=r"180\.0 megapixels"):
            read_image(content, max_pixels=179_999_999)

    @pytest.mark.slow
    def test_108_megapixels_are_read_without_a_warning(self) -> None:
        assert read_image(encode(Image.new("L", (12000, 9000), 7), "PNG")).rgb.shape == (9000, 12000, 3)

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"There is no file '.*gone\.jpg'"):
            read_image(tmp_path / "gone.jpg")
        with pytest.raises(InputError, match="is a folder"):
            read_image(tmp_path)
        with pytest.raises(InputError, match="Cannot open"):
            read_image("a\0b.jpg")
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(InputError, match="Cannot open"):
            read_image(tmp_path / "file" / "a.jpg")

    def test_camera_raw(self, tmp_path: Path) -> None:
        (tmp_path / "a.NEF").write_bytes(encode(RGB, "TIFF"))
        with pytest.raises(InputError, match="camera raw"):
            read_image(tmp_path / "a.NEF")

    def test_wrong_sources(self) -> None:
        with pytest.raises(InputError, match="got ndarray"):
            read_image(ARRAY)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="binary mode"):
            read_image(io.StringIO("text"))  # type: ignore[arg-type]
        closed = io.BytesIO(JPEG)
        closed.close()
        with pytest.raises(InputError, match="Cannot read the open file"):
            read_image(closed)

    def test_heic_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(MissingExtraError, match=r"pip install .fathom-depth\[heic\]"):
            read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))

    def test_heic_with_the_extra(self) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        smooth = Image.new("RGB", (64, 48), (200, 100, 50))
        buffer = io.BytesIO()
        pillow_heif.from_pillow(smooth).save(buffer, quality=95)
        picture = read_image(buffer.getvalue())
        assert picture.rgb.shape == (48, 64, 3)
        assert np.abs(picture.rgb.astype(int) - [200, 100, 50]).max() < 8
        with pytest.raises(InputError, match="Expected a whole HEIC"):
            read_image(buffer.getvalue()[:200])

    def test_random_damage_never_escapes(self) -> None:
        rng = np.random.default_rng(5)
        contents = [encode(RGB, format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn about the damage in their own words
            for content in contents:
                for _ in range(30):
                    damaged = bytearray(content)
                    for position in rng.integers(0, len(content), 4):
                        damaged[position] = int(rng.integers(256))
                    try:
                        assert read_image(bytes(damaged), max_pixels=10**6).rgb.dtype == np.uint8
                    except InputError as error:
                        assert "the given data" in str(error)


class TestGlobalState:
    def test_pillow_stays_as_it_was(self) -> None:
        before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
        read_image(JPEG)
        with pytest.raises(InputError):
            read_image(JPEG[:300])
        assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]) == before

    def test_many_threads(self, tmp_path: Path) -> None:
        pictures = [picture_array(20 + number, 30) for number in range(8)]
        for number, array in enumerate(pictures):
            (tmp_path / f"{number}.png").write_bytes(encode(Image.fromarray(array), "PNG"))
        start = threading.Barrier(8)

        def work(number: int) -> bool:
            start.wait()
            return all(np.array_equal(read_image(tmp_path / f"{number}.png").rgb, pictures[number]) for _ in range(10))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))

    def test_reading_twice_gives_the_same(self) -> None:
        assert np.array_equal(read_image(JPEG).rgb, read_image(JPEG).rgb)
