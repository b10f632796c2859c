"""ncnn: a small runtime for phones and boards, on the CPU."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import OnePictureRuntime, thread_count

INPUT, OUTPUT = "in0", "out0"
"""Names that pnnx gives."""


class NcnnRuntime(OnePictureRuntime):
    """One ``.param`` file and its ``.bin``.

    Args:
        path: The ``.param`` file.
        weights: The ``.bin`` file.
        num_threads: Threads for one run; default: every core this process may use.

    Raises:
        ModelError: If ncnn cannot load the files.
        MissingExtraError: If ncnn is not installed.
    """

    name: Literal["ncnn"] = "ncnn"

    def __init__(self, path: Path, weights: Path, *, num_threads: int | None = None) -> None:
        self._ncnn = require("ncnn", "ncnn", "The ncnn runtime")
        self._net = self._ncnn.Net()
        self._net.opt.num_threads = thread_count(num_threads)
        # Half precision is its default; a depth in metres needs more digits than 11 bits at far range.
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, option, False)
        if self._net.load_param(str(path)) != 0 or self._net.load_model(str(weights)) != 0:
            raise ModelError(f"ncnn cannot load {path} with {weights}. Export the model again.")

    def _run(self, image: npt.NDArray[np.float32]) -> npt.NDArray:
        extractor = self._net.create_extractor()
        # A Mat that borrows an array has no count of its users, and layers that work in place crash on it: copy it.
        extractor.input(INPUT, self._ncnn.Mat(np.ascontiguousarray(image[0])).clone())
        status, output = extractor.extract(OUTPUT)
        if status != 0:
            raise ModelError(f"ncnn failed on an input of shape {image.shape}.")
        values = np.array(output)
        return values.reshape(1, 1, *values.shape[-2:])
