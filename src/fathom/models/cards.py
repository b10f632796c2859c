"""Model cards: what a packaged model is, what it wants, what it gives, and what may be done with it.

A model in Fathom's own format is a card beside an ONNX file, a safetensors file, or both: ``NAME.json`` in the
package, ``card.json`` in a user's folder. Imports without torch.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fathom.config import StrictConfig, load_config, nearest_name
from fathom.errors import ModelError
from fathom.types import DepthKind

WEIGHTS_FOLDER = Path(__file__).resolve().parents[1] / "weights"
CARD_FILE = "card.json"

Triple = tuple[float, float, float]
FileRole = Literal[
    "onnx",
    "onnx_int8",
    "safetensors",
    "openvino",
    "openvino_bin",
    "coreml",
    "litert",
    "savedmodel",
    "executorch",
    "ncnn",
    "ncnn_bin",
    "torch_export",
]
"""What a file beside a card is; ``*_bin`` holds the weights of a graph in two files; coreml and savedmodel are
folders."""

_FILE_SUFFIXES = (".onnx", ".safetensors", ".xml", ".tflite", ".pte", ".param", ".pt2")
"""Files that name a model whose card lies beside them."""


class InputSpec(StrictConfig):
    """How a picture becomes the network's input."""

    law: Literal["area", "keep_aspect", "fixed", "native"]
    """area: keep the aspect ratio at a constant number of pixels. keep_aspect: fit to height or width, whichever needs
    the smaller change (Hugging Face's rule for DPT). fixed: always height x width. native: the picture's own size,
    rounded down."""
    area: tuple[int, int] | None = None
    """Height and width [px] whose product is the number of input pixels; for the law `area`."""
    height: int | None = Field(default=None, gt=0)
    """Input height [px]; for the laws `keep_aspect` and `fixed`."""
    width: int | None = Field(default=None, gt=0)
    """Input width [px]; for the laws `keep_aspect` and `fixed`."""
    multiple: int = Field(default=32, gt=0)
    """Input height and width are multiples of this [px]."""
    interpolation: Literal["area", "bilinear", "bicubic"] = "area"
    """How the picture is resized."""
    in_graph: bool = False
    """Whether the file does all of this itself: it takes the picture, uint8 (B, H, W, 3), and gives depth (B, H, W)."""
    mirror_border: bool = False
    """Mirror a border of 3 * sqrt(side / 2) px around the picture first, and cut it from the result (ZoeDepth)."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Mean per RGB channel, for values in 0 to 1."""
    std: Triple = (1.0, 1.0, 1.0)
    """Standard deviation per RGB channel, for values in 0 to 1."""
    views: Literal[1, 2] = 1
    """Pictures the network sees: 2 for a rectified stereo pair, left then right, as six channels."""

    @model_validator(mode="after")
    def _complete(self) -> "InputSpec":
        if self.law == "area" and (self.area is None or min(self.area) < 1):
            raise ValueError("the law 'area' needs area: [height, width], both positive.")
        if self.law in ("keep_aspect", "fixed") and (self.height is None or self.width is None):
            raise ValueError(f"the law '{self.law}' needs both height and width.")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {self.std}.")
        return self

    def resized(self, height: int, width: int) -> "InputSpec":
        """Return the same law at another input size [px].

        Raises:
            ModelError: If the size is part of the file.
        """
        if self.in_graph:
            raise ModelError("The input size is part of this file; export the model again with the size you want.")
        if self.law == "area":
            return self.model_copy(update={"area": (height, width)})
        law = "keep_aspect" if self.law == "native" else self.law
        return self.model_copy(update={"law": law, "height": height, "width": width})


class OutputSpec(StrictConfig):
    """Where the network's values can be trusted."""

    min_depth: float | None = Field(default=None, gt=0)
    """Smallest depth [m] the model was trained on; metric models only."""
    max_depth: float | None = Field(default=None, gt=0)
    """Largest depth [m] the model was trained on; metric models only."""


class Architecture(StrictConfig):
    """How to build the network that the safetensors file fills."""

    builder: str
    """Name in `fathom.models.MODELS`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the builder."""


class FileEntry(StrictConfig):
    """One file beside the card."""

    name: str
    """File name, in the card's folder."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the file."""
    bytes: int = Field(gt=0)
    """Size of the file."""

    @model_validator(mode="after")
    def _plain(self) -> "FileEntry":
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise ValueError(f"a file lies beside its card, so its name has no folder; got '{self.name}'.")
        return self


class Licence(StrictConfig):
    """Terms of the parts of a model."""

    code: str = ""
    """Terms of the network's code."""
    weights: str = ""
    """Terms of the weights."""
    data: str = ""
    """Terms of the training data."""


class Score(StrictConfig):
    """Measured values on one dataset under one protocol."""

    data: str
    """Dataset and split."""
    protocol: str
    """Name of the protocol."""
    values: dict[str, float]
    """Metric name to value."""


class ExportRecord(StrictConfig):
    """How an exported file was made, and how well it repeats its source."""

    format: str
    """Name of the format, as `fathom export` takes it."""
    precision: str
    """How weights, and for int8 activations too, are stored."""
    dynamic: bool
    """Whether batch, height and width of the network's input are free."""
    source: str
    """The model that was exported."""
    source_sha256: str = ""
    """Hash of its weights."""
    tools: dict[str, str] = Field(default_factory=dict)
    """Packages that made the file, with their versions."""
    parity: dict[str, float] = Field(default_factory=dict)
    """Largest and mean relative difference, AbsRel and delta1 against the source."""


class ModelCard(StrictConfig):
    """Everything that must travel with the weights of a model."""

    name: str = Field(min_length=1)
    """Name of the model."""
    kind: DepthKind
    """What the output is."""
    version: str = "1"
    """Version of the weights."""
    description: str = ""
    """One or two sentences for people."""
    parameters: int | None = Field(default=None, gt=0)
    """Number of parameters."""
    input: InputSpec
    """From picture to input."""
    output: OutputSpec = OutputSpec()
    """From output to depth."""
    architecture: Architecture | None = None
    """How to build the network; needed by the safetensors file."""
    files: dict[FileRole, FileEntry] = Field(default_factory=dict)
    """The files beside the card."""
    licence: Licence = Licence()
    """What may be used how."""
    training_data: tuple[str, ...] = ()
    """Names of the training sets."""
    recipe: str = ""
    """The command that made the weights."""
    scores: tuple[Score, ...] = ()
    """Measured values."""
    limits: tuple[str, ...] = ()
    """Known failures, one sentence each."""
    export: ExportRecord | None = None
    """How the files were made, for an exported model."""

    @model_validator(mode="after")
    def _metric_range(self) -> "ModelCard":
        low, high = self.output.min_depth, self.output.max_depth
        if (low is not None or high is not None) and self.kind is not DepthKind.METRIC_DEPTH:
            raise ValueError(f"min_depth and max_depth are for metric_depth; this model gives {self.kind}.")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_depth must be below max_depth; got {low} and {high}.")
        if "safetensors" in self.files and self.architecture is None:
            raise ValueError("a safetensors file needs `architecture`, which says what network it fills.")
        return self

    @property
    def graph_role(self) -> FileRole:
        """The ONNX file: ``"onnx"``, or ``"onnx_int8"`` where its weights and most of its arithmetic are 8-bit."""
        return "onnx_int8" if "onnx_int8" in self.files and "onnx" not in self.files else "onnx"


@dataclass(frozen=True)
class ModelFiles:
    """A card and the folder where its files lie."""

    card: ModelCard
    folder: Path

    def path(self, role: FileRole) -> Path:
        """Return one file of the model, after checking its size and hash.

        Raises:
            ModelError: If the card names no such file, or the file is missing or damaged.
        """
        if role not in self.card.files:
            have = ", ".join(sorted(self.card.files)) or "none"
            raise ModelError(f"{self.card.name} has no {role} file; its card names: {have}.")
        entry = self.card.files[role]
        path = self.folder / entry.name
        if not path.exists():
            raise ModelError(f"{self.card.name} needs {path}, which is missing. Copy it beside its card.")
        size, sha256 = content_size(path), content_sha256(path)
        if size != entry.bytes or sha256 != entry.sha256:
            raise ModelError(
                f"{path} is not the file its card describes (expected {entry.bytes} bytes with sha256 "
                f"{entry.sha256[:12]}..., got {size} bytes). Copy or install it again."
            )
        return path

    def sha256(self, role: FileRole) -> str:
        """Return the hash the card states for a file."""
        return self.card.files[role].sha256


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_size(path: Path) -> int:
    """Return the size of a file, or of all files of a folder [bytes]."""
    return (
        sum(item.stat().st_size for item in path.rglob("*") if item.is_file()) if path.is_dir() else path.stat().st_size
    )


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; for a folder, that of its sorted list of names and hashes."""
    if not path.is_dir():
        return file_sha256(path)
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())
    return hashlib.sha256("".join(f"{name} {file_sha256(path / name)}\n" for name in names).encode()).hexdigest()


def describe_file(path: Path) -> FileEntry:
    """Measure a file or folder for a card."""
    return FileEntry(name=path.name, sha256=content_sha256(path), bytes=content_size(path))


def list_cards() -> list[ModelCard]:
    """List the cards of the embedded models, by name.

    Example:
        >>> all(card.name.startswith("fathom-") for card in list_cards())
        True
    """
    return [_packaged_card(path) for path in sorted(WEIGHTS_FOLDER.glob("*.json"))]


@cache
def _packaged_card(path: Path) -> ModelCard:
    return load_config(path, ModelCard)


def embedded_names() -> list[str]:
    """List the names of the embedded models without reading their cards."""
    return sorted(path.name.removesuffix(".json") for path in WEIGHTS_FOLDER.glob("*.json"))


def find_model(model: str | Path) -> ModelFiles:
    """Find a model in Fathom's own format.

    Args:
        model: Name of an embedded model; a folder with ``card.json``; a card; or a file (``.onnx``, ``.safetensors``,
            ``.xml`` and the other exports) whose card lies beside it (``NAME.json`` or ``card.json``).

    Returns:
        Card and folder; the files themselves are checked when they are asked for.

    Raises:
        ModelError: If there is no such model.
        ConfigError: If the card is wrong.
    """
    text = str(model)
    if text in embedded_names():
        return ModelFiles(_packaged_card(WEIGHTS_FOLDER / f"{text}.json"), WEIGHTS_FOLDER)
    path = Path(model)
    if path.is_dir():
        card = path / CARD_FILE
        if not card.is_file():
            raise ModelError(
                f"{path} has no {CARD_FILE}. A model folder holds {CARD_FILE} with model.onnx or model.safetensors, "
                "or config.json as transformers writes it."
            )
        return ModelFiles(load_config(card, ModelCard), path)
    if path.suffix == ".json" and path.is_file():
        return ModelFiles(load_config(path, ModelCard), path.parent)
    if path.suffix in _FILE_SUFFIXES and path.is_file():
        return _beside(path)
    if path.suffix or "/" in text or "\\" in text:
        raise ModelError(f"No model at {text}. Give a folder with {CARD_FILE}, an .onnx file, or hf:OWNER/NAME.")
    raise ModelError(
        f"No model is called '{text}'. {nearest_name(text, embedded_names())} "
        "Or give a folder, an .onnx file, or hf:OWNER/NAME."
    )


def _beside(path: Path) -> ModelFiles:
    """Find the card of one file; a card that lists other files is not taken for it."""
    for candidate in (path.with_suffix(".json"), path.parent / CARD_FILE):
        if candidate.is_file():
            card = load_config(candidate, ModelCard)
            named = [role for role, entry in card.files.items() if entry.name == path.name]
            if not named:
                raise ModelError(f"{candidate} does not name {path.name}. Its card must list the file with its sha256.")
            # A graph in two files needs its weights, too.
            kept = {role: item for role, item in card.files.items() if role.removesuffix("_bin") in named}
            return ModelFiles(card.model_copy(update={"files": kept}), path.parent)
    raise ModelError(
        f"{path} has no card, so nothing says what its numbers are. Put {CARD_FILE} beside it (docs/model_cards.md)."
    )


def write_card(card: ModelCard, path: Path) -> None:
    """Write a card as JSON that `find_model` reads back."""
    values = card.model_dump(mode="json", exclude_none=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
