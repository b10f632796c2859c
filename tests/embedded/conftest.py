"""The stages of the embedded models' training are scripts that import one another by name."""

import importlib
import sys
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / "training" / "embedded"


@pytest.fixture(scope="session")
def load_stage():
    """Import a script of training/embedded by its name."""

    def load(name):
        sys.path.insert(0, str(TRAINING))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(TRAINING))

    return load
