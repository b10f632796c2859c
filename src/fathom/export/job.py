"""What one export is asked to do, as every format sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fathom.export.source import Source
from fathom.models.cards import InputSpec, ModelCard

StoredPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights", "int8-dynamic"]


@dataclass(frozen=True)
class Job:
    """One export.

    Args:
        source: The model.
        spec: Input law of the export: the model's, or one fixed to a shape.
        folder: Where to write.
        stem: File name without suffix.
        dynamic: Leave batch, height and width of the network's input free.
        in_graph: Put the steps before and after the network into the file.
        precision: How weights (and for ``int8`` activations, too) are stored.
        calibration: Network inputs (1, 3, h, w) for static quantisation.
        max_delta1_loss: Leave sensitive layers in float32 until static int8 loses less than this share of delta1.
    """

    source: Source
    spec: InputSpec
    folder: Path
    stem: str
    dynamic: bool
    in_graph: bool
    precision: StoredPrecision
    calibration: Sequence[npt.NDArray[np.float32]] = ()
    max_delta1_loss: float | None = None

    @property
    def card(self) -> ModelCard:
        """The source's card with the law of the export."""
        return self.source.card.model_copy(update={"input": self.spec})

    def path(self, suffix: str) -> Path:
        """Return the file to write."""
        return self.folder / f"{self.stem}{suffix}"
