"""The model that is exported: its card, its network, and the one traced program that most formats start from."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import ModelError, require
from fathom.models import MODELS, ModelEntry, build, entry
from fathom.models.cards import InputSpec, Licence, ModelCard, ModelFiles, embedded_names, file_sha256, find_model
from fathom.models.hub import is_hub, load_hub
from fathom.runtime.artefacts import open_artefact
from fathom.runtime.base import Runtime
from fathom.runtime.steps import grid_size
from fathom.types import DepthKind

if TYPE_CHECKING:
    from torch import nn

TYPICAL_PICTURE = (480, 640)
"""Height and width [px] that stand for any picture where one input shape must be chosen."""


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        card: What it is.
        network: Maps (B, 3, h, w), normalised by the card, to (B, 1, h', w'); None where there is only an ONNX file.
        files: Its files, for a model in Fathom's own format.
        sha256: Hash of its weights; empty where they have no file.
    """

    card: ModelCard
    network: "nn.Module | None"
    files: ModelFiles | None
    sha256: str

    def runtime(self, *, num_threads: int | None = None) -> Runtime:
        """Return what runs the source, to compare an export with."""
        if self.network is not None:
            from fathom.runtime.torch import TorchRuntime

            return TorchRuntime(self.network, device="cpu")
        assert self.files is not None
        return open_artefact("onnx", self.files.path(self.files.card.graph_role), num_threads=num_threads)

    def needs_network(self, purpose: str) -> "nn.Module":
        """Return the network.

        Raises:
            ModelError: If there is only an ONNX file.
        """
        if self.network is None:
            raise ModelError(
                f"{purpose} starts from the network, and {self.card.name} is only an ONNX file. Add its safetensors "
                "file and `architecture` to the card, or export to onnx or openvino."
            )
        return self.network


def load_source(model: str | Path, *, weights: Path | None = None) -> Source:
    """Find a model to export and load its network.

    Args:
        model: Whatever `fathom.load_model` takes; or a network of `fathom.models.MODELS`.
        weights: Checkpoint of such a network; without one its weights are random, which is useful for tests only.

    Raises:
        ModelError: If there is no such model, or it is an export already.
        WeightsError: If the checkpoint does not fit.
    """
    name = str(model)
    if is_hub(model):
        hub = load_hub(model)
        return Source(hub.card, hub.network, None, hub.weights_sha256)
    if name not in embedded_names() and (name in MODELS or name.startswith("smp:")):
        return _of_entry(entry(name), weights)
    files = find_model(model)
    if files.card.export is not None:
        raise ModelError(f"{name} is an export of {files.card.export.source} already. Export that model.")
    if files.card.input.views == 2:
        raise ModelError(f"{name} sees both pictures of a stereo pair, and exports see one. It runs with torch here.")
    if "safetensors" not in files.card.files:
        return Source(files.card, None, files, files.sha256(files.card.graph_role))
    architecture = files.card.architecture
    assert architecture is not None, "a card with safetensors names its architecture"
    network = build(architecture.builder, pretrained=str(files.path("safetensors")), **architecture.options)
    return Source(files.card, _main_output(network), files, files.sha256("safetensors"))


def _of_entry(row: ModelEntry, weights: Path | None) -> Source:
    network = build(row.name, pretrained=None if weights is None else str(weights))
    low, high = row.input_law.value_range
    span = high - low
    law = row.input_law

    def _scaled(value: float) -> float:
        return (value - low) / span

    card = ModelCard(
        name=row.name.replace(":", "-"),
        kind=DepthKind(row.kind),
        description=row.paper,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        input=InputSpec(
            law="fixed",
            height=law.height,
            width=law.width,
            # The published size rules; the network pads by itself where it is no multiple.
            multiple=row.input_multiple
            if law.height % row.input_multiple == law.width % row.input_multiple == 0
            else 1,
            interpolation="area",
            mean=(_scaled(law.mean[0]), _scaled(law.mean[1]), _scaled(law.mean[2])),
            std=(law.std[0] / span, law.std[1] / span, law.std[2] / span),
        ),
        licence=Licence(code="Apache-2.0", weights=row.licence),
        limits=() if weights is not None else ("Its weights are random.",),
    )
    return Source(card, _main_output(network), None, file_sha256(weights) if weights is not None else "")


def _main_output(network: "nn.Module") -> "nn.Module":
    """Reduce a network to its main output; one with a single output stays as it is in effect."""
    from torch import Tensor, nn

    from fathom.models.base import main_output

    class MainOutput(nn.Module):
        """Keeps the depth of a network with several outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            """Map a normalised picture (B, 3, h, w) to its depth (B, 1, h', w')."""
            return main_output(self.network(image))

    return MainOutput().eval().requires_grad_(False)


def static_spec(spec: InputSpec, size: tuple[int, int] | None) -> InputSpec:
    """Fix a law to one input shape.

    Args:
        spec: The model's law.
        size: Height and width [px]; default: what the law gives for a picture of 480 x 640.

    Example:
        >>> static_spec(InputSpec(law="keep_aspect", height=518, width=518, multiple=14), None).width
        686
    """
    height, width = size or grid_size(spec, *TYPICAL_PICTURE)
    return spec.model_copy(update={"law": "fixed", "area": None, "height": height, "width": width})


SMALLEST_SIDE = 65
"""Smallest free height and width [px] of a network that cannot take every size."""


class FreeSizeError(ModelError):
    """The network's code depends on one input size."""


def trace(network: "nn.Module", spec: InputSpec, *, dynamic: bool) -> Any:
    """Trace a network with torch.export.

    Args:
        network: In evaluation mode.
        spec: Its law.
        dynamic: Leave batch, height and width free; else they are 1 and the law's.

    Returns:
        The exported program, with the input ``image``.

    Raises:
        FreeSizeError: If only its size cannot be left free.
        ModelError: If the network cannot be traced.
    """
    torch = require("torch", "export", "Export")
    if not dynamic:
        try:
            return _traced(network, torch.rand(1, 3, *grid_size(spec, *TYPICAL_PICTURE)), None)
        except Exception as error:  # the tracer lets any exception of the traced code through
            raise ModelError(f"torch.export cannot trace the network: {_first_line(error)}") from error
    try:
        return _traced(network, *_free(spec, 1))
    except Exception:
        # Networks of stride 32 and 64 have one cell in small pictures, where the tracer takes other ways.
        try:
            return _traced(network, *_free(spec, SMALLEST_SIDE))
        except Exception as error:
            raise FreeSizeError(
                f"torch.export cannot leave the input size of this network free: {_first_line(error)} "
                "Export it with one fixed size: --static."
            ) from error


def _free(spec: InputSpec, smallest: int) -> tuple[Any, Any]:
    """Return an example, and what of its shape is free, for sides of at least `smallest` pixels."""
    torch = require("torch", "export", "Export")
    height, width = grid_size(spec, *TYPICAL_PICTURE)
    multiple, axis = spec.multiple, torch.export.Dim
    # A small example traces fast; different sides and a batch of two, so that no axis is taken for another.
    rows = max(2, height // multiple // 4, 1 + smallest // multiple)
    columns = max(3, width // multiple // 4, 2 + smallest // multiple)
    if rows == columns:
        columns += 1
    limits = {"min": -(-smallest // multiple)} if smallest > 1 else {}
    free = [multiple * axis(name, **limits) for name in ("rows", "columns")]
    return torch.rand(2, 3, rows * multiple, columns * multiple), ({0: axis("batch"), 2: free[0], 3: free[1]},)


def _traced(network: "nn.Module", example: Any, shapes: Any) -> Any:
    torch = require("torch", "export", "Export")
    with warnings.catch_warnings(), _symbolic_sizes(network):
        warnings.simplefilter("ignore")  # about the code of the libraries that are traced
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _KeepSymbols(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, int)

    def __call__(cls, value: Any = 0, *rest: Any) -> Any:
        return value if type(value).__name__ == "SymInt" else int(value, *rest)


class _SymbolicInt(metaclass=_KeepSymbols):
    """Stands in for ``int`` where a size must stay a symbol."""


@contextmanager
def _symbolic_sizes(network: "nn.Module") -> Iterator[None]:
    """Keep ``int(size)`` in the code of transformers from freezing a size, while a network is traced.

    transformers writes ``int(height * patch_size)`` for the size of a resize; on a symbol, ``int`` gives the number of
    the example, silently, and the export would answer every picture in the shape of the example.
    """
    modules = {type(part).__module__ for part in network.modules()}
    touched = [sys.modules[name] for name in modules if name.startswith("transformers.models.")]
    if not touched:
        yield
        return
    # It also takes a way of its own for the grid of its training, unless a trace runs, by its older question.
    jit = require("torch.jit", "export", "Export")
    asked = jit.is_tracing
    for module in touched:
        module.int = _SymbolicInt  # type: ignore[attr-defined]
    jit.is_tracing = lambda: True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        jit.is_tracing = asked  # type: ignore[attr-defined]
        for module in touched:
            del module.int  # type: ignore[attr-defined]
