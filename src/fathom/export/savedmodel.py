"""TensorFlow SavedModel, made from ONNX by onnx2tf in an environment of its own, as LiteRT files are, too."""

from pathlib import Path
from typing import Literal

import numpy as np

from fathom.export.environments import ONNX2TF
from fathom.export.job import Job
from fathom.export.onnx import network_to_onnx
from fathom.export.parity import find_pictures
from fathom.geometry import resize_image
from fathom.io import read_image
from fathom.models.cards import FileRole

SAMPLE_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf looks for this file, and would fetch it from the internet; it gets our photographs in its place."""
NUM_SAMPLES, SAMPLE_SIDE = 20, 128
SCRIPT = Path(__file__).with_name("onnx2tf_script.py")


def convert(job: Job, purpose: str, form: Literal["savedmodel", "fp32", "fp16"], out: Path) -> Path:
    """Convert a job's network with onnx2tf; the channels come last there, as TensorFlow wants them.

    Args:
        job: What is exported.
        purpose: Start of an error sentence ("Export to LiteRT").
        form: A SavedModel, or a LiteRT file in one of two precisions.
        out: Folder or file to write.

    Returns:
        `out`.

    Raises:
        MissingExtraError: If the environment is missing; the sentence holds the command that makes it.
        ModelError: If onnx2tf cannot convert the network.
    """
    graph = network_to_onnx(job.source, job.spec, job.path(".graph.onnx"), dynamic=False)
    photos = [resize_image(read_image(path).rgb, SAMPLE_SIDE, SAMPLE_SIDE) / 255 for path in find_pictures()]
    samples = np.stack([photos[index % len(photos)] for index in range(NUM_SAMPLES)]).astype(np.float32)
    np.save(job.folder / SAMPLE_FILE, samples)
    # -I: the folder of the script holds an onnx.py, which would be imported in place of the library.
    arguments = ["-I", str(SCRIPT), str(graph.resolve()), form, str(out.resolve())]
    ONNX2TF.run(arguments, cwd=job.folder, purpose=purpose)
    graph.unlink()
    return out


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a SavedModel folder; returns it by its role."""
    return {"savedmodel": convert(job, "Export to SavedModel", "savedmodel", job.path(".savedmodel"))}
