"""OpenVINO IR, made from the ONNX graph."""

from pathlib import Path
from typing import Any

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.export.onnx import network_to_onnx
from fathom.export.picture_graph import wrap_network
from fathom.models.cards import FileRole


def read_ir(path: Path) -> Any:
    """Convert an ONNX file to OpenVINO's model, without its telemetry.

    Raises:
        ModelError: If OpenVINO cannot convert it.
    """
    openvino = require("openvino", "openvino", "Export to OpenVINO")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"OpenVINO cannot convert {path.name}: {lines[-1] if lines else error}") from error


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as OpenVINO IR; returns the graph and its weights."""
    openvino = require("openvino", "openvino", "Export to OpenVINO")
    graph = network_to_onnx(job.source, job.spec, job.path(".graph.onnx"), dynamic=job.dynamic)
    if job.in_graph:
        onnx = require("onnx", "export", "Export to OpenVINO")
        onnx.save(wrap_network(onnx.load(graph), job.card), graph)
    model = read_ir(graph)
    if job.precision in ("int8", "int8-weights"):
        from fathom.export.openvino_int8 import quantise_openvino

        model = quantise_openvino(job, model)
    path = job.path(".xml")
    openvino.save_model(model, path, compress_to_fp16=job.precision == "fp16")
    graph.unlink()
    return {"openvino": path, "openvino_bin": path.with_suffix(".bin")}
