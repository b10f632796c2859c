"""Shared fixtures: where the development data lies, and a skip with a reason where it is absent."""

import os
from pathlib import Path

import pytest

# With --doctest-modules pytest would import every conftest.py as a module, and they share one name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real development data, or skip."""
    folder = Path(os.environ.get("FATHOM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real development data is absent (set FATHOM_SHARED_DATA to its folder)")
    return folder
