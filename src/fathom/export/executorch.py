"""ExecuTorch programs, with the operators that XNNPACK has run by it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.export.source import trace
from fathom.models.cards import FileRole


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a ``.pte`` program; returns the file by its role.

    Raises:
        ModelError: If ExecuTorch cannot lower the network.
    """
    network = job.source.needs_network("An ExecuTorch program")
    exir = require("executorch.exir", "executorch", "Export to ExecuTorch")
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch", "Export to ExecuTorch")
    program = trace(network, job.spec, dynamic=False)
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # about the libraries' own code
            edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
            lowered = edge.to_executorch()
    except Exception as error:  # ExecuTorch raises whatever its passes raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"ExecuTorch cannot lower the network: {reason}") from error
    path = job.path(".pte")
    with path.open("wb") as stream:
        lowered.write_to_file(stream)
    return {"executorch": path}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter's own log while it works."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
