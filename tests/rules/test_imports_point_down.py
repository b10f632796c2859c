"""Imports point down: a part of Fathom imports only parts of lower layers, and files of its own folder.

The number before the point is the layer of `docs/design.md`; the digit after it orders the few parts of one layer that
build on each other, so that no two parts ever import each other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fathom

PACKAGE = Path(fathom.__file__).parent

LAYERS = {
    "version": 0.0,
    "errors": 0.0,
    "types": 0.1,
    "config": 1.0,
    "geometry": 1.0,
    "alignment": 1.0,
    "io": 1.0,
    "protocol": 1.1,
    "sources": 1.1,
    "calibrate": 2.0,
    "metrics": 2.0,
    "losses": 2.0,
    "viz": 2.0,
    "data": 2.0,
    "models": 2.0,
    "runtime": 2.0,
    "postprocess": 2.0,
    "fusion": 2.0,
    "attacks": 2.0,
    "pointcloud": 2.0,
    "predict": 3.0,
    "evaluate": 3.0,
    "train": 3.0,
    "export": 3.0,
    "outputs": 3.0,
    "video": 3.0,
    "batch": 4.0,
    "benchmark": 4.0,
    "serve": 4.0,
    "demo": 4.0,
    "cli": 5.0,
    "__main__": 5.1,
}
FACADE = "__init__"
"""Names things of every layer on first use; nothing inside Fathom may import from it."""


def part_of(path: Path) -> str:
    """Return the part that a file belongs to: its folder in the package, or its own name."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Yield every ``fathom...`` name that a source imports, in any form and at any depth, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "fathom":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:kept], *([base] if base else [])])
            if base.split(".")[0] == "fathom":
                # `from fathom import x` names the part x, unless x is a name of the facade.
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from _called_imports(node)


def _called_imports(node: ast.Call) -> Iterator[tuple[str, int]]:
    """Yield modules that are imported by a call with a plain text: ``import_module("fathom.x")``."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
        first = node.args[0]
        text = first.value if isinstance(first, ast.Constant) else getattr(first.values[0], "value", "")
        if isinstance(text, str) and text.split(".")[0] == "fathom":
            yield text.rstrip("."), node.lineno


def breaches(source: str, path: Path) -> list[str]:
    """Return one sentence for each import of a file that does not point down."""
    part = part_of(path)
    module = ".".join(["fathom", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    found = []
    for name, line in imported_modules(source, module, path.name == "__init__.py"):
        pieces = name.split(".")
        target = pieces[1] if len(pieces) > 1 else FACADE
        if target in (part, "version"):
            continue
        if target not in LAYERS:
            found.append(f"{path.name}:{line}: {part} imports '{name}' from the facade; import it from its own module.")
        elif LAYERS[target] >= LAYERS[part]:
            found.append(
                f"{path.name}:{line}: {part} (layer {LAYERS[part]:g}) imports {target} (layer {LAYERS[target]:g})."
            )
    return list(dict.fromkeys(found))


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_part_has_a_layer():
    missing = sorted({part_of(path) for path in FILES} - set(LAYERS))
    assert not missing, f"Give these parts a layer in tests/rules/test_imports_point_down.py: {', '.join(missing)}."


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    if part_of(path) not in LAYERS:
        pytest.skip("it has no layer yet; test_every_part_has_a_layer tells")
    found = breaches(path.read_text(encoding="utf-8"), path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import fathom.cli.main",
        "import fathom.cli as commands",
        "from fathom import cli",
        "from fathom.cli import main",
        "from fathom.cli.main import run",
        "from ..cli import main",
        "from .. import cli",
        "def inner():\n    from fathom.cli.main import run",
        "if True:\n    def inner():\n        import fathom.cli",
        "import importlib\nimportlib.import_module('fathom.cli.main')",
        "from fathom import load_model",
        "import fathom",
    ],
)
def test_every_form_of_a_breach_is_seen(source):
    assert len(breaches(source, PACKAGE / "losses" / "depth.py")) == 1


def test_what_is_allowed():
    source = (
        "import os\nfrom fathom.types import Depth\nfrom .other import x\nfrom fathom.losses import y\nimport fathomx"
    )
    assert breaches(source, PACKAGE / "losses" / "depth.py") == []
