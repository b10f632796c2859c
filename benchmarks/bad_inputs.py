"""Odd and bad inputs of `fathom predict`, and what comes out of each, as a table.

    python benchmarks/bad_inputs.py [--model fathom-general] [--all]

Every case makes its files in a fresh folder, runs the command on them, and says what must come out; the tests run the
same list. ``--all`` adds the cases that need much memory.
"""

import argparse
import contextlib
import io
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fathom.cli.main import run

Make = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """One odd input.

    Args:
        name: What is odd.
        make: Writes the files into a folder and returns the arguments after ``fathom predict``.
        code: Exit code that must come out.
        says: Part of what must be printed.
        outputs: Output files that must be there, under the output folder.
        stdin: Bytes on standard input.
        heavy: Needs much memory or time.
    """

    name: str
    make: Make
    code: int
    says: str
    outputs: tuple[str, ...] = ()
    stdin: bytes = b""
    heavy: bool = False
    options: tuple[str, ...] = field(default=())


def photo(height: int = 48, width: int = 64) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


JPEG = encoded(photo(), "JPEG")
PNG = encoded(photo(), "PNG")


def holds(name: str | bytes, content: bytes) -> Make:
    """Make one file and name it."""

    def make(folder: Path) -> list[str]:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        with open(path, "wb") as stream:
            stream.write(content)
        return [os.fsdecode(path)]

    return make


def picture(name: str, image: Image.Image, **options: object) -> Make:
    """Make one picture; the format follows the suffix."""

    def make(folder: Path) -> list[str]:
        image.save(folder / name, **options)
        return [str(folder / name)]

    return make


def tree(files: dict[str, bytes], *arguments: str) -> Make:
    """Make several files; ``{}`` in the arguments is their folder."""

    def make(folder: Path) -> list[str]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return [argument.replace("{}", str(folder)) for argument in arguments]

    return make


def does(action: Callable[[Path], object], *arguments: str) -> Make:
    def make(folder: Path) -> list[str]:
        action(folder)
        return [argument.replace("{}", str(folder)) for argument in arguments]

    return make


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def float_tiff(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.float32)), "TIFF")


GREY = photo().convert("L")
ALPHA = Image.merge("RGBA", (*photo().split(), GREY))
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}
RGB16 = raw_png(2, 2, 16, 2, 2 * (b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 65535, 0)))
DAMAGED = "is damaged, cut short"
NO_PICTURE = "Expected a picture"
DONE = "48 x 64"

CASES = (
    # Pictures of every make
    Case("JPEG", holds("a.jpg", JPEG), 0, DONE, ("a.png",)),
    Case("JPEG with bytes after its end", holds("a.jpg", JPEG + b"\0garbage" * 99), 0, DONE, ("a.png",)),
    Case("JPEG called .png", holds("a.png", JPEG), 0, DONE, ("a.png",)),
    Case("PNG without suffix", holds("a", PNG), 0, DONE, ("a.png",)),
    Case("upper-case suffix", holds("A.JPEG", JPEG), 0, DONE, ("A.png",)),
    Case("1 x 1", picture("a.png", photo(1, 1)), 0, "1 x 1", ("a.png",)),
    Case("1 x 4000", picture("a.png", photo(1, 4000)), 0, "1 x 4000", ("a.png",)),
    Case("4000 x 1", picture("a.png", photo(4000, 1)), 0, "4000 x 1", ("a.png",)),
    Case("9000 x 12000", picture("a.jpg", photo(9000, 12000), quality=50), 0, "9000 x 12000", ("a.png",), heavy=True),
    Case("all black", picture("a.png", Image.new("RGB", (64, 48))), 0, DONE, ("a.png",)),
    Case("grey JPEG", picture("a.jpg", GREY), 0, DONE, ("a.png",)),
    Case("1-bit PNG", picture("a.png", photo().convert("1")), 0, DONE, ("a.png",)),
    Case("16-bit grey PNG", picture("a.png", Image.fromarray(np.full((48, 64), 4e4, "<u2"))), 0, DONE, ("a.png",)),
    Case("16-bit RGB PNG", holds("a.png", RGB16), 0, "2 x 2", ("a.png",)),
    Case("CMYK JPEG", picture("a.jpg", photo().convert("CMYK")), 0, DONE, ("a.png",)),
    Case("palette PNG", picture("a.png", photo().quantize(16)), 0, DONE, ("a.png",)),
    Case("palette with alpha", picture("a.png", photo().quantize(16), transparency=b"\x00\x80"), 0, DONE, ("a.png",)),
    Case("RGBA", picture("a.png", ALPHA), 0, DONE, ("a.png",)),
    Case("grey with alpha", picture("a.png", ALPHA.convert("LA")), 0, DONE, ("a.png",)),
    Case("EXIF turned by 90 degrees", picture("a.jpg", photo(), exif=exif_of(6)), 0, "64 x 48", ("a.png",)),
    Case("EXIF orientation 99", picture("a.jpg", photo(), exif=exif_of(99)), 0, DONE, ("a.png",)),
    Case("EXIF of random bytes", picture("a.jpg", photo(), exif=b"Exif\0\0" + bytes(range(200))), 0, DONE, ("a.png",)),
    Case("animated GIF", picture("a.gif", photo(), **FRAMES), 0, DONE, ("a.png",)),
    Case("animated WebP", picture("a.webp", photo(), **FRAMES), 0, DONE, ("a.png",)),
    Case("TIFF of several pages", picture("a.tif", photo(), **FRAMES), 0, DONE, ("a.png",)),
    Case("float TIFF, 0 to 1", holds("a.tif", float_tiff(np.full((48, 64), 0.5))), 0, DONE, ("a.png",)),
    Case("BMP", picture("a.bmp", photo()), 0, DONE, ("a.png",)),
    Case("AVIF", picture("a.avif", photo()), 0, DONE, ("a.png",)),
    # Files that are damaged or no picture
    Case("empty file", holds("a.jpg", b""), 1, "is empty (0 bytes)"),
    Case("text called .jpg", holds("a.jpg", b"hello\nworld\n"), 1, "is text"),
    Case("web page called .jpg", holds("a.jpg", b"<!DOCTYPE html><html>"), 1, "is a web page"),
    Case("SVG", holds("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 1, "is SVG or XML text"),
    Case("PDF", holds("a.pdf", b"%PDF-1.7\n"), 1, "is a PDF document"),
    Case("zip called .png", holds("a.png", b"PK\x03\x04" + bytes(60)), 1, "is a zip archive"),
    Case("NumPy array", holds("a.npy", b"\x93NUMPY" + bytes(60)), 1, "is a NumPy array"),
    Case("video", holds("a.mp4", b"\0\0\0\x18ftypisom" + bytes(60)), 1, "is a video"),
    Case("camera raw", holds("a.nef", b"II*\0" + bytes(60)), 1, "camera raw file"),
    Case("random bytes", holds("a.jpg", bytes(range(255, 55, -1))), 1, NO_PICTURE),
    Case("JPEG cut in half", holds("a.jpg", JPEG[: len(JPEG) // 2]), 1, DAMAGED),
    Case("JPEG of its first 4 bytes", holds("a.jpg", JPEG[:4]), 1, DAMAGED),
    Case("PNG cut in half", holds("a.png", PNG[: len(PNG) // 2]), 1, DAMAGED),
    Case("PNG with a flipped byte", holds("a.png", PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:]), 1, DAMAGED),
    Case("PNG of 0 x 0", holds("a.png", raw_png(0, 0, 8, 2, b"")), 1, "a.png"),
    Case("PNG that claims 60000 x 60000", holds("a.png", raw_png(60000, 60000, 8, 2, b"\0")), 1, "megapixels"),
    Case("float TIFF with NaN", holds("a.tif", float_tiff(np.array([[0.5, np.nan]]))), 1, "not finite"),
    Case("float TIFF up to 1e6", holds("a.tif", float_tiff(np.full((4, 4), 1e6))), 1, "0..1 or 0..255"),
    # Names and places
    Case("missing file", tree({}, "{}/none.jpg"), 1, "There is no file"),
    Case("folder without pictures", tree({"notes.txt": b"x"}, "{}"), 1, "no picture in the folder"),
    Case("glob that matches nothing", tree({}, "{}/*.jpg"), 1, "No file matches"),
    Case("folder called .jpg", does(lambda f: (f / "a.jpg").mkdir(), "{}/a.jpg"), 1, "no picture in the folder"),
    Case("link that leads nowhere", does(lambda f: (f / "a.jpg").symlink_to("none"), "{}/a.jpg"), 1, "no file"),
    Case("link to itself", does(lambda f: (f / "a.jpg").symlink_to("a.jpg"), "{}"), 1, "a.jpg"),
    Case("endless device", tree({}, "/dev/zero"), 1, NO_PICTURE),
    Case("name that is not UTF-8", holds(b"caf\xe9.jpg", JPEG), 0, DONE, ("caf\udce9.png",)),
    Case("name with spaces and a line break", holds("my\nphoto 1.jpg", JPEG), 0, DONE, ("my\nphoto 1.png",)),
    Case("name of 250 letters", holds("x" * 250 + ".jpg", JPEG), 0, DONE, ("x" * 250 + ".png",)),
    Case("name with glob letters", holds("a[1]*.jpg", JPEG), 0, DONE, ("a[1]*.png",)),
    Case("name with dots", holds("v1.2.final.jpg", JPEG), 0, DONE, ("v1.2.final.png",)),
    Case(
        "equal stems in one folder",
        tree({"a.jpg": JPEG, "a.bmp": encoded(photo(), "BMP")}, "{}"),
        0,
        "2 done",
        ("a_jpg.png", "a_bmp.png"),
    ),
    Case(
        "equal names in two folders",
        tree({"x/a.jpg": JPEG, "y/a.jpg": JPEG}, "{}/x", "{}/y"),
        0,
        "2 done",
        ("x/a.png", "y/a.png"),
    ),
    Case(
        "one colour picture named like another's depth",
        tree({"a.jpg": JPEG, "a_color.jpg": JPEG}, "{}", "--formats", "png16,color"),
        0,
        "2 done",
        ("a.png", "a_color.png", "a_color_jpg.png", "a_color_jpg_color.png"),
    ),
    Case("one file named twice", tree({"a.jpg": JPEG}, "{}/a.jpg", "{}"), 0, "1 done", ("a.png",)),
    Case("sub-folders", tree({"a.jpg": JPEG, "x/y/b.jpg": JPEG}, "{}", "-r"), 0, "2 done", ("a.png", "x/y/b.png")),
    Case(
        "one bad file among good ones",
        tree({"a.jpg": JPEG, "b.jpg": b"x", "c.jpg": JPEG}, "{}"),
        1,
        "1 failed",
        ("a.png", "c.png"),
    ),
    Case(
        "pipe in a folder",
        does(lambda f: (os.mkfifo(f / "p.jpg"), (f / "a.jpg").write_bytes(JPEG)), "{}"),
        0,
        "1 done",
        ("a.png",),
    ),
    Case("standard input", tree({}, "-"), 0, DONE, ("stdin.png",), stdin=JPEG),
    Case("empty standard input", tree({}, "-"), 1, "gave no data"),
    Case("standard input twice", tree({}, "-", "-"), 2, "read once"),
    Case("address that does not answer", tree({}, "http://127.0.0.1:1/a.jpg"), 1, "Cannot fetch"),
    Case("address of another kind", tree({}, "ftp://127.0.0.1/a.jpg"), 1, "There is no file"),
    # Outputs
    Case(
        "a folder where the output goes",
        does(lambda f: ((f / "a.jpg").write_bytes(JPEG), (f / "out/a.png").mkdir(parents=True)), "{}/a.jpg"),
        1,
        "not an ordinary file",
    ),
    Case("output folder is a file", tree({"a.jpg": JPEG, "out": b""}, "{}/a.jpg"), 2, "Cannot make the output folder"),
    Case(
        "output folder inside a file", tree({"a.jpg": JPEG, "f": b""}, "{}/a.jpg", "-o", "{}/f/out"), 2, "Cannot make"
    ),
    Case(
        "output folder is the searched one", tree({"a.jpg": JPEG}, "{}", "-o", "{}"), 2, "Choose another output folder"
    ),
    Case("output beside a PNG of that name", tree({"a.png": PNG}, "{}/a.png", "-o", "{}"), 0, DONE, ("../a_png.png",)),
    Case("output name too long", holds("x" * 251 + ".jpg", JPEG), 1, "name too long", options=("--formats", "color")),
    # Options
    Case("unknown format", tree({"a.jpg": JPEG}, "{}/a.jpg", "-f", "png17"), 2, "Did you mean 'png16'"),
    Case("no format", tree({"a.jpg": JPEG}, "{}/a.jpg", "-f", ","), 2, "at least one format"),
    Case("unknown model", tree({"a.jpg": JPEG}, "{}/a.jpg", "-m", "fathom-genral"), 2, "No model is called"),
    Case("unknown runtime", tree({"a.jpg": JPEG}, "{}/a.jpg", "--runtime", "onyx"), 2, "No runtime is called"),
    Case("unknown precision", tree({"a.jpg": JPEG}, "{}/a.jpg", "--precision", "fp8"), 2, "No precision is called"),
    Case("size of letters", tree({"a.jpg": JPEG}, "{}/a.jpg", "--size", "big"), 2, "HEIGHTxWIDTH"),
    Case("size of 3 pixels", tree({"a.jpg": JPEG}, "{}/a.jpg", "--size", "3"), 2, "must lie in"),
    Case("batch size 0", tree({"a.jpg": JPEG}, "{}/a.jpg", "--batch-size", "0"), 2, "batch-size"),
    Case("no source", tree({}), 2, "SOURCE"),
    Case("unknown option", tree({"a.jpg": JPEG}, "{}/a.jpg", "--nope"), 2, "--nope"),
)


class _Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def run_command(arguments: list[str], stdin: bytes = b"") -> tuple[int, str, str]:
    """Run ``fathom`` in this process; return exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    kept = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["fathom", *arguments], _Stdin(stdin)  # type: ignore[assignment]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        return code, out.getvalue(), err.getvalue()
    finally:
        sys.argv, sys.stdin = kept
    return 0, out.getvalue(), err.getvalue()


def run_case(case: Case, folder: Path, model: str) -> tuple[int, str, list[str]]:
    """Run one case; return the exit code, everything printed, and the names of what lies in the output folder."""
    out = folder / "out"
    arguments = [*case.make(folder), *case.options]
    if "-o" not in arguments:
        arguments += ["-o", str(out)]
    if "-m" not in arguments:
        arguments += ["-m", model]
    code, printed, said = run_command(["predict", *arguments], case.stdin)
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) if out.is_dir() else []
    return code, printed + said, made


def missing_outputs(case: Case, folder: Path) -> list[str]:
    out = os.path.join(folder, "out")
    return [name for name in case.outputs if not os.path.isfile(os.path.normpath(os.path.join(out, name)))]


def verdict(case: Case, code: int, printed: str, folder: Path) -> str:
    """Return what is wrong with what came out; empty where nothing is."""
    wrong = []
    if code != case.code:
        wrong.append(f"exit code {code}, not {case.code}")
    # The boxes around usage errors break lines.
    if case.says not in " ".join(printed.replace("│", " ").split()):
        wrong.append(f"does not say '{case.says}'")
    if missing := missing_outputs(case, folder):
        wrong.append(f"missing {missing}")
    return "; ".join(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fathom-general")
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    model = str(Path(args.model).resolve()) if os.path.exists(args.model) else args.model
    bad = 0
    print("| input | exit | what came out |\n|---|---|---|")
    for case in CASES:
        if case.heavy and not args.all:
            continue
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text).resolve()
            code, printed, made = run_case(case, folder, model)
            problem = verdict(case, code, printed, folder)
            bad += bool(problem)
            lines = [line for line in printed.replace(str(folder) + "/", "").splitlines() if line.strip()]
            told = next((line for line in lines if line.startswith(("Failed", "Error", "Warning", "│"))), "")
            told = told.removeprefix("Failed: ").strip("│ ") or ", ".join(made).replace("\n", "\\n")
            shown = os.fsencode(told).decode("utf-8", "replace")
            print(f"| {case.name} | {code} | {shown[:160]}{' **' + problem + '**' if problem else ''} |")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
