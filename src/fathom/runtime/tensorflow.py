"""TensorFlow: SavedModel folders, on the CPU."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import OnePictureRuntime

EXECUTORCH_CORE = "executorch.extension.pybindings._portable_lib"


class TensorFlowRuntime(OnePictureRuntime):
    """One SavedModel with one picture input and one depth output, of either channel order.

    The number of threads is TensorFlow's own, a setting of the whole process that is not touched here.

    Args:
        path: The folder.

    Raises:
        ModelError: If TensorFlow cannot load the folder, or ExecuTorch is loaded in this process.
        MissingExtraError: If TensorFlow is not installed.
    """

    name: Literal["tensorflow"] = "tensorflow"

    def __init__(self, path: Path) -> None:
        if EXECUTORCH_CORE in sys.modules:  # each brings its own LLVM, and the second one ends the process
            raise ModelError("TensorFlow and ExecuTorch cannot share one process. Run them one after the other.")
        tensorflow = require("tensorflow", "tensorflow", "The TensorFlow runtime")
        try:
            # The model owns its variables and must outlive the function.
            self._model = tensorflow.saved_model.load(str(path))
            self._function = self._model.signatures["serving_default"]
        except (OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else "it has no serving signature"
            raise ModelError(f"TensorFlow cannot load {path}: {reason}") from error
        (self._input,) = self._function.structured_input_signature[1].values()
        self.channels_last = self._input.shape[-1] == 3
        self._tensorflow = tensorflow

    def _run(self, image: npt.NDArray[np.float32]) -> npt.NDArray:
        if not self._input.shape.is_compatible_with(image.shape):
            raise ModelError(f"This model takes an input of {tuple(self._input.shape)}; got {image.shape}.")
        (output,) = self._function(**{self._input.name: self._tensorflow.constant(image)}).values()
        return np.asarray(output.numpy())
