"""Photographs that anybody may use, and what Fathom makes of them.

They come from the data of scikit-image (``skimage.data``), which states their terms: two are CC0 by their
photographers, two are in the public domain. They are saved here as JPEG at their size there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fathom.io import read_image
from fathom.outputs import write_outputs
from fathom.predict import Predictor
from fathom.types import Depth

PHOTOS = {
    "coffee": "CC0, Rachel Michetti, courtesy of Pikolo Espresso Bar",
    "chelsea": "CC0, Stefan van der Walt",
    "astronaut": "public domain, NASA, Eileen Collins (flic.kr/p/r9qvLn)",
    "rocket": "public domain, SpaceX, launch of DSCOVR (flickr.com/photos/spacexphotos/16511594820)",
}
"""Each photograph of this folder, and whom it comes from."""

_RELATIVE, _METRIC = "fathom-general", "fathom-indoor"
_INDOORS = "astronaut"


@dataclass(frozen=True)
class DemoStep:
    """One photograph through one model.

    Args:
        photo: Name in `PHOTOS`.
        model: Name of the model.
        depth: The result.
        outputs: Files written.
    """

    photo: str
    model: str
    depth: Depth
    outputs: tuple[Path, ...]


def photo_path(name: str) -> Path:
    """Return the file of one photograph.

    Example:
        >>> photo_path("coffee").name
        'coffee.jpg'
    """
    return Path(__file__).with_name(f"{name}.jpg")


def run_demo(out: Path) -> Iterator[DemoStep]:
    """Predict every photograph with the relative model, and the indoor one with the metric model.

    Args:
        out: Folder for the outputs.

    Yields:
        Each step when its files are written.

    Raises:
        ModelError: If the packaged weights are missing.
        OutputError: If the folder cannot be written.
    """
    plan = [
        *((name, _RELATIVE, ("png16", "npy", "panel")) for name in PHOTOS),
        (_INDOORS, _METRIC, ("png16", "panel", "ply", "glb")),
    ]
    loaded: dict[str, Predictor] = {}
    for name, model, formats in plan:
        if model not in loaded:
            loaded[model] = Predictor(model)
        picture = read_image(photo_path(name))
        depth = loaded[model].predict(picture)
        stem = out / (name if model == _RELATIVE else f"{name}_metric")
        yield DemoStep(name, model, depth, tuple(write_outputs(depth, picture, stem, formats)))
