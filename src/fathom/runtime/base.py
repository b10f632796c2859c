"""The contract of a runtime, and the choices all runtimes share."""

import os
from collections.abc import Callable
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


def one_by_one(
    batch: npt.NDArray[np.float32], run: Callable[[npt.NDArray[np.float32]], npt.NDArray]
) -> npt.NDArray[np.float32]:
    """Run each picture of a batch alone, for engines whose files hold one picture.

    Args:
        batch: Shape (B, 3, h, w).
        run: Maps (1, 3, h, w) to (1, 1, h', w').

    Returns:
        Float32, shape (B, h', w').

    Example:
        >>> one_by_one(np.ones((2, 3, 4, 5), np.float32), lambda image: image[:, :1]).shape
        (2, 4, 5)
    """
    return np.concatenate([single_channel(run(batch[index : index + 1]), 1) for index in range(len(batch))])


def channels_first(output: npt.NDArray) -> npt.NDArray:
    """Turn an output (B, h, w, 1) into (B, 1, h, w); any other stays."""
    return np.moveaxis(output, -1, 1) if output.ndim == 4 and output.shape[-1] == 1 else output


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
