"""torch.export: a traced program that torch runs without Fathom's code."""

from pathlib import Path

from fathom.errors import require
from fathom.export.job import Job
from fathom.export.source import trace
from fathom.models.cards import FileRole


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a ``.pt2`` program; returns the file by its role."""
    network = job.source.needs_network("A torch.export program")
    torch = require("torch", "export", "Export with torch.export")
    path = job.path(".pt2")
    torch.export.save(trace(network, job.spec, dynamic=job.dynamic), path)
    return {"torch_export": path}
