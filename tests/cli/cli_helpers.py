"""The list of odd inputs of `benchmarks/bad_inputs.py`, and its way to run the command in this process."""

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bad_inputs = _load(REPOSITORY / "benchmarks" / "bad_inputs.py")
