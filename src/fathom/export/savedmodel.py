"""TensorFlow SavedModel, made from ONNX by onnx2tf in an environment of its own; the same run makes LiteRT files."""

import shutil
from pathlib import Path

import numpy as np

from fathom.errors import ModelError
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


def convert(job: Job, purpose: str) -> Path:
    """Convert a job's network with onnx2tf; returns its output folder, which holds a SavedModel and LiteRT files.

    The channels come last there, as TensorFlow wants them.

    Raises:
        MissingExtraError: If the environment is missing; the sentence holds the command that makes it.
        ModelError: If onnx2tf cannot convert the network.
    """
    graph = network_to_onnx(job.source, job.spec, job.path(".graph.onnx"), dynamic=False)
    photos = [resize_image(read_image(path).rgb, SAMPLE_SIDE, SAMPLE_SIDE) / 255 for path in find_pictures()]
    samples = np.stack([photos[index % len(photos)] for index in range(NUM_SAMPLES)]).astype(np.float32)
    np.save(job.folder / SAMPLE_FILE, samples)
    made = job.folder / "onnx2tf"
    options = ["--input_onnx_file_path", graph.name, "--output_folder_path", made.name]
    options += ["--output_signaturedefs", "--non_verbose"]
    # LiteRT has no error function of its own; a transformer's GELU needs one.
    options += ["--replace_to_pseudo_operators", "Erf"]
    ONNX2TF.run(["-m", "onnx2tf", *options], cwd=job.folder, purpose=purpose)
    graph.unlink()
    if not (made / "saved_model.pb").is_file():
        raise ModelError(f"{purpose}: onnx2tf wrote no SavedModel for this network.")
    return made


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as a SavedModel folder; returns it by its role."""
    made = convert(job, "Export to SavedModel")
    path = job.path(".savedmodel")
    path.mkdir()
    for name in ("saved_model.pb", "fingerprint.pb", "variables"):
        if (made / name).exists():
            shutil.move(made / name, path / name)
    return {"savedmodel": path}
