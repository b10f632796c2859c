"""LiteRT (``.tflite``), made from ONNX by onnx2tf in an environment of its own."""

from pathlib import Path
from typing import Literal

from fathom.export.job import Job
from fathom.export.savedmodel import convert
from fathom.models.cards import FileRole


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a ``.tflite`` file; returns it by its role."""
    form: Literal["fp16", "fp32"] = "fp16" if job.precision == "fp16" else "fp32"
    return {"litert": convert(job, "Export to LiteRT", form, job.path(".tflite"))}
