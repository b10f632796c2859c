"""torch: any module that is handed over, on the CPU or a GPU."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError, require
from fathom.runtime.base import Precision, single_channel

if TYPE_CHECKING:
    from torch import nn


def cpu_has_bf16() -> bool:
    """Tell whether torch computes bf16 on this CPU by oneDNN; else it emulates it, up to 20 times as slow as fp32."""
    torch = require("torch", "hub", "The torch runtime")
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class TorchRuntime:
    """A built network in evaluation mode.

    The number of CPU threads is torch's own, a setting of the whole process that is not touched here.

    Args:
        network: Maps (B, 3, h, w) to (B, 1, h, w).
        device: ``"auto"`` (a CUDA GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        precision: ``"fp32"``, or ``"bf16"`` for automatic mixed precision; a CPU without bf16 computes in fp32.

    Raises:
        ModelError: If the device is not there.
        MissingExtraError: If torch is not installed.
    """

    name: Literal["torch"] = "torch"

    def __init__(self, network: "nn.Module", *, device: str = "auto", precision: Precision = "fp32") -> None:
        torch = require("torch", "hub", "The torch runtime")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            moved = network.to(self.device).requires_grad_(False)
            # A traced program has no modes, and refuses to be asked for one.
            self.network = moved if isinstance(moved, torch.fx.GraphModule) else moved.eval()
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"torch cannot use the device '{device}': {str(error).splitlines()[0]}") from error
        self.precision: Precision = "fp32" if self.device.type == "cpu" and not cpu_has_bf16() else precision
        self.batches = self.device.type != "cpu"
        self._torch = torch

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map an input (B, 3, h, w) to the raw output (B, h', w')."""
        torch = self._torch
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), mixed:
            output = self.network(torch.from_numpy(batch).to(self.device))
        return single_channel(output.float().cpu().numpy(), len(batch))
