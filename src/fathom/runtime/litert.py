"""LiteRT (formerly TensorFlow Lite): the runtime of phones and small boards, on the CPU."""

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import OnePictureRuntime, Precision, thread_count


class LiteRtRuntime(OnePictureRuntime):
    """One ``.tflite`` file with one picture input and one depth output, of either channel order.

    Args:
        path: The file.
        num_threads: Threads for one run; default: every core this process may use.
        precision: What the file holds.

    Raises:
        ModelError: If LiteRT cannot load the file.
        MissingExtraError: If LiteRT is not installed.
    """

    name: Literal["litert"] = "litert"

    def __init__(self, path: Path, *, num_threads: int | None = None, precision: Precision = "fp32") -> None:
        interpreter = require("ai_edge_litert.interpreter", "litert", "The LiteRT runtime")
        self.precision = precision
        try:
            self._interpreter = interpreter.Interpreter(str(path), num_threads=thread_count(num_threads))
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT cannot load {path}: {str(error).splitlines()[0]}") from error
        self._input: dict[str, Any] = self._interpreter.get_input_details()[0]
        self._output: dict[str, Any] = self._interpreter.get_output_details()[0]
        self.channels_last = int(self._input["shape"][-1]) == 3
        self._lock = threading.Lock()  # an interpreter holds its own buffers

    def _run(self, image: npt.NDArray[np.float32]) -> npt.NDArray:
        wanted = tuple(self._input["shape"].tolist())
        if image.shape != wanted:
            raise ModelError(f"This file takes an input of {wanted}; got {image.shape}.")
        with self._lock:
            self._interpreter.set_tensor(self._input["index"], image)
            self._interpreter.invoke()
            return np.asarray(self._interpreter.get_tensor(self._output["index"]))
