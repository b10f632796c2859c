"""ExecuTorch: PyTorch's runtime for devices, on the CPU (XNNPACK)."""

import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import OnePictureRuntime


class ExecuTorchRuntime(OnePictureRuntime):
    """One ``.pte`` program with one picture input and one depth output.

    The number of threads is ExecuTorch's own.

    Args:
        path: The file.

    Raises:
        ModelError: If ExecuTorch cannot load the file, or TensorFlow is loaded in this process.
        MissingExtraError: If ExecuTorch is not installed.
    """

    name: Literal["executorch"] = "executorch"

    def __init__(self, path: Path) -> None:
        if "tensorflow" in sys.modules:  # each brings its own LLVM, and the second one ends the process
            raise ModelError("ExecuTorch and TensorFlow cannot share one process. Run them one after the other.")
        runtime = require("executorch.runtime", "executorch", "The ExecuTorch runtime")
        self._torch = require("torch", "executorch", "The ExecuTorch runtime")
        try:
            self._program = runtime.Runtime.get().load_program(path)
            self._method = self._program.load_method("forward")
        except (RuntimeError, OSError) as error:
            raise ModelError(f"ExecuTorch cannot load {path}: {str(error).splitlines()[0]}") from error
        self._lock = threading.Lock()  # a method holds its own buffers

    def _run(self, image: npt.NDArray[np.float32]) -> npt.NDArray:
        try:
            with self._lock:
                output = self._method.execute([self._torch.from_numpy(np.ascontiguousarray(image))])[0]
                return np.array(output)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"ExecuTorch failed on an input of shape {image.shape}: {reason}") from error
