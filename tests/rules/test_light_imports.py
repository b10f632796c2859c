"""What must stay light, stays light: each import is made in a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "openvino", "cv2", "matplotlib", "transformers", "timm", "scipy", "lightning", "av")
LIGHT = (
    "fathom",
    "fathom.alignment",
    "fathom.batch",
    "fathom.cli.main",
    "fathom.config",
    "fathom.data",
    "fathom.geometry",
    "fathom.io",
    "fathom.metrics",
    "fathom.models",
    "fathom.models.cards",
    "fathom.models.hub",
    "fathom.outputs",
    "fathom.predict",
    "fathom.runtime.onnx",
    "fathom.runtime.openvino",
    "fathom.runtime.torch",
    "fathom.types",
)


def loaded_after(code: str) -> set[str]:
    """Return which heavy modules an interpreter holds after running some code."""
    script = f"import sys\n{code}\nprint(*(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_no_heavy_module_is_loaded_by_any_light_one():
    # All in one interpreter: what none of them together loads, no one alone loads.
    assert loaded_after("import " + ", ".join(LIGHT)) == set()


def test_the_check_would_notice():
    pytest.importorskip("onnxruntime")
    assert loaded_after("import onnxruntime") == {"onnxruntime"}


def test_help_loads_no_heavy_module():
    code = "sys.argv = ['fathom', '--help']\nfrom fathom.cli.main import run\ntry:\n    run()\nexcept SystemExit: pass"
    assert loaded_after(code) == set()


def test_listing_models_loads_no_heavy_module():
    code = (
        "import fathom, fathom.models\nfathom.list_models()\nfrom fathom.models.cards import list_cards\nlist_cards()"
    )
    assert loaded_after(code) == set()
