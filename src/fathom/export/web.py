"""A static page that runs a model in the browser: no server, and no picture leaves the device.

The page is the one that `fathom serve` shows, built by the package's build step; onnxruntime-web (WebAssembly) runs the
ONNX file of the model. The steps before and after the network are those of `fathom.runtime.steps`, written once more in
TypeScript; a test compares both on real pixels.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fathom.errors import ModelError, OutputError
from fathom.io import write_atomic
from fathom.models.cards import ModelFiles, find_model
from fathom.types import ASSUMED_FOV_X_DEG
from fathom.version import __version__
from fathom.viz import COLORMAPS, DEFAULT_COLORMAP, colormap_table

WEB_FOLDER = Path(__file__).resolve().parents[1] / "serve" / "web"
"""Where the package's build step puts the page."""
COLORMAPS_FILE = "colormaps.json"
SITE_FILE = "fathom.json"

_BACKEND = '<meta name="fathom-backend" content="{}"'


def colormaps_json() -> str:
    """Return the colour maps for the page: names and hexadecimal colours from far to near.

    Example:
        >>> json.loads(colormaps_json())["maps"]["gray"][:12]
        '000000010101'
    """
    maps = {name: colormap_table(name).tobytes().hex() for name in COLORMAPS}
    return json.dumps({"default": DEFAULT_COLORMAP, "maps": maps})


def export_web(models: str | Path | Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Write a static page that runs models in the browser.

    Any static web server can show the folder, for instance ``python -m http.server``; a browser does not load it from
    ``file://`` addresses.

    Args:
        models: Embedded models, or models in Fathom's format with an ONNX file; the first is shown first.
        folder: Folder to write, made where it is missing. Files of the page that are there already are replaced.

    Returns:
        Every file written.

    Raises:
        ModelError: If a model does not exist, has no ONNX file that takes the network's input, or two have one name.
        OutputError: If this installation lacks the built page, or the folder cannot be written.
    """
    wanted = [models] if isinstance(models, str | Path) else list(models)
    found = [find_model(model) for model in wanted]
    names = [model.card.name for model in found]
    if not found or len(set(names)) != len(names):
        raise ModelError(f"A page needs models with different names; got {', '.join(names) or 'none'}.")
    for model in found:
        if model.card.input.in_graph:
            raise ModelError(
                f"{model.card.name} has the steps before and after the network inside its file, and the page brings "
                "its own. Export the model it came from, or write it again without them."
            )
    networks = [model.path(model.card.graph_role) for model in found]
    index = WEB_FOLDER / "index.html"
    if not index.is_file():
        raise OutputError(
            "This installation was built without the web page, because Node.js was not there. Install Node.js 20 or "
            "newer and install Fathom from source again, or install a released wheel."
        )
    page = index.read_text(encoding="utf-8")
    assert _BACKEND.format("server") in page, "the page has no switch for its backend"
    folder = Path(folder)
    written = _copy_assets(folder)
    for model, network in zip(found, networks, strict=True):
        written.append(write_atomic(folder / _network_file(model), [network.read_bytes()]))
    site = {
        "fathom_version": __version__,
        "assumed_fov_x_deg": ASSUMED_FOV_X_DEG,
        "models": [_describe(model, is_default=model is found[0]) for model in found],
    }
    page = page.replace(_BACKEND.format("server"), _BACKEND.format("browser"))
    for name, text in (
        (COLORMAPS_FILE, colormaps_json()),
        (SITE_FILE, json.dumps(site, indent=2)),
        ("index.html", page),
    ):
        written.append(write_atomic(folder / name, [text.encode()]))
    return written


def _copy_assets(folder: Path) -> list[Path]:
    written = []
    for source in sorted(WEB_FOLDER.rglob("*")):
        if source.is_file() and source.name != "index.html" and not source.name.startswith("."):
            target = folder / source.relative_to(WEB_FOLDER)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError as error:
                raise OutputError(f"Cannot write '{target}': {error.strerror or error}.") from error
            written.append(target)
    return written


def _network_file(model: ModelFiles) -> str:
    # The hash in the name: a browser that has the old network in its cache never runs it under a new card.
    return f"models/{model.card.name}-{model.sha256(model.card.graph_role)[:12]}.onnx"


def _describe(model: ModelFiles, *, is_default: bool) -> dict[str, Any]:
    card = model.card
    return {
        "name": card.name,
        "kind": card.kind.value,
        "unit": card.kind.unit,
        "larger_is_nearer": card.kind.larger_is_nearer,
        "description": card.description,
        "licence": card.licence.weights,
        "limits": list(card.limits),
        "is_default": is_default,
        "input": card.input.model_dump(mode="json"),
        "file": _network_file(model),
        "weights_sha256": model.sha256(model.card.graph_role),
    }
