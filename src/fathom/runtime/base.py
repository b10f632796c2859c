"""The contract of a runtime, and the choices all runtimes share."""

import os
from abc import ABC, abstractmethod
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError

RuntimeName = Literal["onnxruntime", "openvino", "torch", "litert", "tensorflow", "executorch", "ncnn"]
Precision = Literal["fp32", "bf16", "int8"]

RUNTIMES: tuple[str, ...] = (
    "auto",
    "onnxruntime",
    "openvino",
    "torch",
    "litert",
    "tensorflow",
    "executorch",
    "ncnn",
)
PRECISIONS: tuple[str, ...] = ("auto", "fp32", "bf16", "int8")


class Runtime(Protocol):
    """Runs one network; safe to call from several threads."""

    @property
    def name(self) -> RuntimeName:
        """Which engine this is."""

    @property
    def precision(self) -> Precision:
        """Arithmetic in use."""

    @property
    def batches(self) -> bool:
        """Whether running several pictures at once pays.

        On a CPU it does not, and alone each result is the same bit for bit whatever else is predicted.
        """

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""


def available_cores() -> int:
    """Return how many cores this process may use (its affinity, not the machine's count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(num_threads: int | None) -> int:
    """Return the number of threads for one network run; default: every core this process may use.

    Raises:
        ModelError: If the number is not positive.

    Example:
        >>> thread_count(2)
        2
    """
    if num_threads is None:
        return available_cores()
    if num_threads < 1:
        raise ModelError(f"The number of threads must be at least 1; got {num_threads}.")
    return num_threads


class OnePictureRuntime(ABC):
    """A runtime of files that hold one picture: each picture of a batch runs alone, in the file's order of channels.

    Subclasses set `name` and implement `_run`.
    """

    precision: Precision = "fp32"
    batches = False
    channels_last = False
    """Whether the file takes (1, h, w, 3)."""

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""
        return np.concatenate([self._alone(batch[index : index + 1]) for index in range(len(batch))])

    def _alone(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if not self.channels_last:
            return single_channel(self._run(image), 1)
        output = self._run(np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        # The last operation may have put the channel first again.
        return single_channel(np.moveaxis(output, -1, 1) if output.shape[3:] == (1,) else output, 1)

    @abstractmethod
    def _run(self, image: npt.NDArray[np.float32]) -> npt.NDArray:
        """Map one picture, in the file's order of channels, to its output."""


def single_channel(output: npt.NDArray, batch: int) -> npt.NDArray[np.float32]:
    """Check a network's output and drop its channel axis.

    Args:
        output: Shape (B, 1, h, w) or (B, h, w).
        batch: B that was put in.

    Returns:
        Float32, shape (B, h, w).

    Raises:
        ModelError: If the output is not one map for each picture.
    """
    output = np.asarray(output)
    if output.ndim == 4 and output.shape[1] == 1:
        output = output[:, 0]
    if output.ndim != 3 or output.shape[0] != batch:
        raise ModelError(f"Expected an output of shape ({batch}, 1, h, w); the network gave {output.shape}.")
    return output.astype(np.float32, copy=False)
