"""LiteRT (``.tflite``), made from ONNX by onnx2tf in an environment of its own."""

from pathlib import Path

from fathom.errors import ModelError
from fathom.export.job import Job
from fathom.export.savedmodel import convert
from fathom.models.cards import FileRole


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a ``.tflite`` file; returns it by its role.

    Raises:
        ModelError: If onnx2tf wrote none.
    """
    made = convert(job, "Export to LiteRT")
    wanted = "_float16.tflite" if job.precision == "fp16" else "_float32.tflite"
    found = [path for path in made.glob("*.tflite") if path.name.endswith(wanted)]
    if len(found) != 1:
        raise ModelError("Export to LiteRT: onnx2tf wrote no LiteRT file for this network. Try savedmodel.")
    return {"litert": found[0].replace(job.path(".tflite"))}
