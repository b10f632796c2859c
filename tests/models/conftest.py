"""Helpers of the network tests: one thread and one seed, pretrained files of the development machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_and_repeatable() -> Iterator[None]:
    """Use one thread and one seed: the same numbers on every machine, and no fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pretrained_folder() -> Path:
    """Return the folder of pretrained trunks, or skip."""
    default = Path("~/.cache/fathom-dev/weights").expanduser()
    folder = Path(os.environ.get("FATHOM_DEV_WEIGHTS", default))
    if not folder.is_dir():
        pytest.skip("pretrained trunks are absent (set FATHOM_DEV_WEIGHTS to their folder)")
    return folder
