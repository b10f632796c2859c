"""Predict depth: a reusable `Predictor`, and the easy functions over it."""

import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from fathom.config import nearest_name
from fathom.errors import ConfigError, InputError, ModelError, ShapeError
from fathom.io.images import Picture, read_image
from fathom.models import build
from fathom.models.cards import FileRole, ModelCard, ModelFiles, find_model
from fathom.models.hub import is_hub, load_hub
from fathom.runtime.artefacts import RUNTIME_OF, open_artefact
from fathom.runtime.base import PRECISIONS, RUNTIMES, Precision, Runtime
from fathom.runtime.steps import Prepared, postprocess, preprocess
from fathom.types import Camera, Depth, DepthKind, Provenance

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "fathom-general"
MAX_INPUT_SIDE = 8192
"""Largest network input side that `size` may ask for [px]."""

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Ready:
    """A picture between the stages.

    Args:
        prepared: Network input, and how to undo it.
        camera: The camera that the result will carry.
        picture: The picture itself, for writers that show it.
    """

    prepared: Prepared
    camera: Camera
    picture: Picture


class Predictor:
    """A loaded model that turns pictures into `Depth`; safe to call from several threads.

    A picture may be a path, encoded bytes, a `fathom.io.Picture`, a Pillow image, a NumPy array or a torch tensor:

    - arrays are RGB (H, W, 3), RGBA (H, W, 4, laid over white) or grey (H, W) or (H, W, 1); a tensor may also have its
      channels first, (3, H, W);
    - uint8 is 0 to 255, uint16 is 0 to 65535, floats are 0 to 1.

    Results do not depend on which pictures are run together or in which order.

    Args:
        model: Name of an embedded model, a folder or file in Fathom's format, ``hf:OWNER/NAME``, or a folder of
            transformers.
        runtime: ``"auto"``: ONNX Runtime for an ONNX file; for torch networks OpenVINO where it is installed and no
            GPU is used, else torch.
        precision: ``"auto"``: int8 where that is the only ONNX file (the embedded models); else float32 with ONNX
            Runtime and torch, and with OpenVINO bf16 where the hardware has it. Asked for bf16, OpenVINO and torch
            compute in float32, and say so in the result, where the CPU has none.
        size: Network input: one number for a square's area (or side), or (height, width) [px]; default: the card's.
        num_threads: CPU threads for one network run; default: every core this process may use.
        device: ``"auto"``, ``"cpu"``, or a device of the runtime such as ``"cuda"``.

    Raises:
        ModelError: If the model, or the combination of choices, does not exist.
        MissingExtraError: If it needs something that is not installed.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        runtime: str = "auto",
        precision: str = "auto",
        size: Size | None = None,
        num_threads: int | None = None,
        device: str = "auto",
    ) -> None:
        check_choices(runtime, precision)
        card, self._runtime, sha256 = _load(model, runtime, precision, num_threads, device)
        self._input = card.input if size is None else card.input.resized(*_checked_size(size, card.input.multiple))
        self.card: ModelCard = card
        self._provenance = Provenance(model=card.name, weights_sha256=sha256, licence=card.licence.weights)

    @property
    def kind(self) -> DepthKind:
        """What the results are."""
        return self.card.kind

    @property
    def runtime(self) -> str:
        """Name of the runtime in use."""
        return self._runtime.name

    @property
    def precision(self) -> str:
        """Arithmetic in use."""
        return self._runtime.precision

    @property
    def batches(self) -> bool:
        """Whether several pictures are run at once; only on a GPU, where it pays."""
        return self._runtime.batches

    def __repr__(self) -> str:
        return f"Predictor({self.card.name!r}, {self.kind}, runtime={self.runtime!r}, precision={self.precision!r})"

    def predict(self, image: Any, *, right: Any = None, camera: Camera | None = None) -> Depth:
        """Predict the depth of one picture, at its own size.

        Args:
            image: See the class.
            right: The right picture of a rectified pair, for a model that sees pairs (``card.input.views`` is 2).
            camera: The camera of the picture; default: from its EXIF, else assumed.

        Raises:
            InputError: If the picture cannot be read, or `right` is missing or not wanted.
            ShapeError: If an array is no picture, or the pictures of a pair differ in size.
        """
        ready = self.prepare(image, right=right, camera=camera)
        return self.finish(self.infer([ready])[0], ready)

    def predict_batch(self, images: Iterable[Any], *, batch_size: int = 1) -> list[Depth]:
        """Predict several pictures, of any sizes; results in the same order. See `stream`."""
        return list(self.stream(images, batch_size=batch_size))

    def stream(self, images: Iterable[Any], *, batch_size: int = 1) -> Iterator[Depth]:
        """Predict pictures as they come, holding only one batch at a time.

        Args:
            images: Pictures; see the class.
            batch_size: On a GPU, up to this many neighbours of equal input shape are run at once.

        Raises:
            ModelError: If `batch_size` is not positive.
            InputError: If a picture cannot be read.
            ShapeError: If an array is no picture.
        """
        if batch_size < 1:
            raise ModelError(f"`batch_size` must be at least 1; got {batch_size}.")
        return self._stream(iter(images), batch_size)

    def _stream(self, images: Iterator[Any], batch_size: int) -> Iterator[Depth]:
        while group := [self.prepare(image) for image in itertools.islice(images, batch_size)]:
            yield from map(self.finish, self.infer(group), group)

    # The three stages, which a pipeline overlaps

    def prepare(self, image: Any, *, right: Any = None, camera: Camera | None = None) -> Ready:
        """Read a picture and make the network's input; the camera is the user's, else that of EXIF, else assumed."""
        if (right is not None) != (self._input.views == 2):
            raise InputError(
                f"{self.card.name} sees one picture; leave `right` out."
                if right is not None
                else f"{self.card.name} sees both pictures of a rectified stereo pair. Give the other one, in Python: "
                "load_model(...).predict(left, right=right)."
            )
        picture = as_picture(image)
        known = camera or picture.camera or Camera.assumed(height=picture.height, width=picture.width)
        prepared = preprocess(picture.rgb, self._input)
        if right is not None:
            other = as_picture(right)
            if other.rgb.shape != picture.rgb.shape:
                raise ShapeError(
                    f"The pictures of a pair must share one size; got {picture.height} x {picture.width} and "
                    f"{other.height} x {other.width}."
                )
            pair = np.concatenate([prepared.array, preprocess(other.rgb, self._input).array], axis=1)
            prepared = replace(prepared, array=pair)
        return Ready(prepared, known, picture)

    def infer(self, group: Sequence[Ready]) -> list[npt.NDArray[np.float32]]:
        """Run the network; one raw map (h, w) for each prepared picture, in order."""
        if not self._runtime.batches:
            return [self._runtime.run(item.prepared.array)[0] for item in group]
        raws: list[npt.NDArray[np.float32]] = []
        for _, neighbours in itertools.groupby(group, key=lambda item: item.prepared.array.shape):
            raws.extend(self._runtime.run(np.concatenate([item.prepared.array for item in neighbours])))
        return raws

    def finish(self, raw: npt.NDArray[np.float32], ready: Ready) -> Depth:
        """Turn a raw map into the result at the picture's size."""
        return postprocess(
            raw,
            ready.prepared,
            kind=self.kind,
            camera=ready.camera,
            provenance=replace(self._provenance, preprocessing={"runtime": self.runtime, "precision": self.precision}),
        )


def load_model(model: str | Path = DEFAULT_MODEL, **options: Any) -> Predictor:
    """Load a model once, to predict many pictures; the options are those of `Predictor`.

    Example:
        >>> load_model("fathom-general", runtime="openvin")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fathom.errors.ModelError: No runtime is called 'openvin'. Did you mean 'openvino'? Known: auto, ...
    """
    return Predictor(model, **options)


def predict(image: Any, *, model: str | Path = DEFAULT_MODEL, camera: Camera | None = None, **options: Any) -> Depth:
    """Predict the depth of one picture; the model stays loaded for the next call.

    Args:
        image: Path, Pillow image, array or tensor; see `Predictor`.
        model: See `Predictor`.
        camera: The camera of the picture; default: from its EXIF, else assumed.
        **options: Other options of `Predictor`.

    Returns:
        The depth map at the picture's own size.

    Raises:
        FathomError: If the model or the picture cannot be read.
    """
    return _kept(str(model), tuple(sorted(options.items()))).predict(image, camera=camera)


@lru_cache(maxsize=2)
def _kept(model: str, options: tuple[tuple[str, Any], ...]) -> Predictor:
    return Predictor(model, **dict(options))


def as_picture(image: Any) -> Picture:
    """Turn what a caller may have into a `Picture`; the rules are those of `Predictor`.

    Raises:
        InputError: If a file cannot be read, or the object is no picture.
        ShapeError: If an array has the wrong shape, type or range.

    Example:
        >>> as_picture(np.full((2, 3), 0.5)).rgb[0, 0].tolist()
        [128, 128, 128]
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, np.ndarray):
        return Picture(_rgb_of_array(image, "array"), name="array")
    home = type(image).__module__.partition(".")[0]
    if home == "PIL":
        return _of_pillow(image)
    if home == "torch":
        array = image.detach().cpu().numpy()
        if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
            array = array.transpose(1, 2, 0)
        return Picture(_rgb_of_array(array, "tensor"), name="tensor")
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read"):
        return read_image(image)
    raise InputError(
        f"Expected a path, bytes, a Pillow image, a NumPy array or a torch tensor; got {type(image).__name__}."
    )


def _rgb_of_array(array: npt.NDArray, what: str) -> npt.NDArray[np.uint8]:
    """Return RGB uint8 (H, W, 3) by the rules of `Predictor`."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " Put the channels last: array.transpose(1, 2, 0)."
        elif array.ndim == 4:
            hint = " For several pictures call predict_batch."
        raise ShapeError(f"Expected a picture (H, W, 3), (H, W, 4) or (H, W); the {what} is {array.shape}.{hint}")
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())  # NaN fails the comparison below
        if not (low >= 0 and high <= 1):
            raise ShapeError(f"A float picture must lie in 0 to 1; the {what} has {low:g} to {high:g}. Scale it first.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ShapeError(f"A picture must be uint8, uint16 or float; the {what} is {array.dtype}. Convert it first.")
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint32)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    rgb = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)
    return cast(npt.NDArray[np.uint8], rgb)


def _of_pillow(image: Any) -> Picture:
    """Read a Pillow image by the same rules as a file: the same modes, transparency, orientation and focal length."""
    exif = image.getexif()
    if image.mode == "RGB" and not exif and "transparency" not in image.info:
        return Picture(np.array(image), name="image")
    container = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    buffer = io.BytesIO()
    options = {"compress_level": 0} if container == "PNG" else {}
    image.save(buffer, container, exif=exif, **options)
    return read_image(buffer.getvalue(), name="image")


def check_choices(runtime: str, precision: str) -> None:
    """Refuse a runtime or precision that does not exist, before anything is loaded.

    Raises:
        ModelError: If a name is unknown.
    """
    if runtime not in RUNTIMES:
        raise ModelError(f"No runtime is called '{runtime}'. {nearest_name(runtime, RUNTIMES)}")
    if precision not in PRECISIONS:
        raise ModelError(f"No precision is called '{precision}'. {nearest_name(precision, PRECISIONS)}")


def stated_kind(model: str | Path) -> DepthKind | None:
    """Return what a model gives, from its card and without loading it; None for a model of transformers.

    Raises:
        ModelError: If there is no such model.
        ConfigError: If its card is wrong.
    """
    return None if is_hub(model) else find_model(model).card.kind


def parse_size(text: str) -> Size:
    """Read an input size: one number, or height and width with an x between them.

    Raises:
        ConfigError: If it is neither.

    Example:
        >>> parse_size("518"), parse_size("256x320")
        (518, (256, 320))
    """
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(part.strip().isdecimal() for part in parts):
        numbers = tuple(int(part) for part in parts)
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    raise ConfigError(f"An input size is a number or HEIGHTxWIDTH [px], for instance 518 or 256x320; got '{text}'.")


def _checked_size(size: Size, multiple: int) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if not (multiple <= min(height, width) and max(height, width) <= MAX_INPUT_SIDE):
        raise ModelError(f"The input size must lie in {multiple} to {MAX_INPUT_SIDE} px; got {height} x {width}.")
    return height, width


def _load(
    model: str | Path, runtime: str, precision: str, num_threads: int | None, device: str
) -> tuple[ModelCard, Runtime, str]:
    """Find a model, choose what runs it, and load it; returns the card, the runtime and the hash of the weights."""
    if is_hub(model):
        if precision == "int8" or runtime == "onnxruntime":
            raise ModelError(f"{model} is a torch network: it runs with openvino or torch, in fp32 or bf16.")
        hub = load_hub(model)
        return hub.card, _network_runtime(hub.network, runtime, precision, num_threads, device), hub.weights_sha256
    files = find_model(model)
    have = files.card.files
    if files.card.export is not None:
        return _exported(files, runtime, precision, num_threads, device)
    if (
        precision == "auto"
        and files.card.graph_role == "onnx_int8"
        and runtime != "torch"
        and device in ("auto", "cpu")
    ):
        precision = "int8"  # the model's only form outside torch
    role: FileRole = "onnx_int8" if precision == "int8" else "onnx"
    on_cpu = device in ("auto", "cpu")
    if precision == "int8" and role not in have:
        raise ModelError(f"{files.card.name} has no int8 file. Use fp32 or bf16, or make one: fathom export --help.")
    if runtime == "auto" and role in have and on_cpu:
        runtime = "openvino" if precision == "bf16" else "onnxruntime"
    if runtime == "onnxruntime" or (runtime == "openvino" and role in have):
        return files.card, _file_runtime(files, runtime, precision, num_threads, device), files.sha256(role)
    if precision == "int8":
        raise ModelError(f"The {runtime} runtime has no int8. Use onnxruntime or openvino on the CPU.")
    weights = files.path("safetensors")
    architecture = files.card.architecture
    assert architecture is not None, "a card with safetensors names its architecture"
    network = _main_only(build(architecture.builder, pretrained=str(weights), **architecture.options))
    engine = _network_runtime(network, runtime, precision, num_threads, device)
    return files.card, engine, files.sha256("safetensors")


def _main_only(network: "nn.Module") -> "nn.Module":
    """Reduce a network with several outputs to the first."""
    from fathom.models.base import MainOutput

    return MainOutput(network)


def _exported(
    files: ModelFiles, runtime: str, precision: str, num_threads: int | None, device: str
) -> tuple[ModelCard, Runtime, str]:
    """Load a file that `fathom export` wrote: it has one form, and one runtime of its own."""
    card = files.card
    assert card.export is not None
    role = next(role for role in card.files if not role.endswith("_bin"))
    own = RUNTIME_OF.get(role, "")
    # OpenVINO reads ONNX files, too.
    if runtime not in ("auto", own) and not (runtime == "openvino" and role in ("onnx", "onnx_int8")):
        raise ModelError(f"{card.name} is a {card.export.format} file; it runs with {own or 'nothing here'}.")
    exact: Precision = "int8" if card.export.precision == "int8" else "fp32"
    if precision == "bf16" and exact == "fp32" and "openvino" in (runtime, own):
        exact = "bf16"
    elif precision not in ("auto", exact):
        raise ModelError(f"{card.name} holds {card.export.precision}; got precision '{precision}'.")
    companion = next((files.path(other) for other in card.files if other == f"{role}_bin"), None)
    engine = open_artefact(
        "openvino" if runtime == "openvino" else role,
        files.path(role),
        weights=companion,
        precision=exact,
        num_threads=num_threads,
        device=device,
    )
    return card, engine, files.sha256(role)


def _file_runtime(files: ModelFiles, runtime: str, precision: str, num_threads: int | None, device: str) -> Runtime:
    """Load an ONNX file."""
    int8 = precision == "int8"
    path = files.path("onnx_int8" if int8 else "onnx")
    if runtime == "openvino":
        from fathom.runtime.openvino import OpenVinoRuntime

        exact: Precision = "int8" if int8 else _openvino_precision(precision)
        return OpenVinoRuntime(path, device=device, precision=exact, num_threads=num_threads)
    if precision == "bf16":
        raise ModelError("ONNX Runtime has no bf16 on the CPU. Use the openvino runtime, or fp32.")
    if device not in ("auto", "cpu"):
        raise ModelError(f"ONNX Runtime runs on the CPU here; got device '{device}'. Use the torch runtime for a GPU.")
    from fathom.runtime.onnx import OnnxRuntime

    return OnnxRuntime(path, num_threads=num_threads, precision="int8" if int8 else "fp32")


def _network_runtime(
    network: "nn.Module", runtime: str, precision: str, num_threads: int | None, device: str
) -> Runtime:
    """Hand a torch network to OpenVINO or torch."""
    if runtime == "auto":
        runtime = "openvino" if device in ("auto", "cpu") and find_spec("openvino") else "torch"
    if runtime == "openvino":
        from fathom.runtime.openvino import OpenVinoRuntime

        exact = _openvino_precision(precision)
        return OpenVinoRuntime(network, device=device, precision=exact, num_threads=num_threads)
    from fathom.runtime.torch import TorchRuntime

    return TorchRuntime(network, device=device, precision="bf16" if precision == "bf16" else "fp32")


def _openvino_precision(precision: str) -> Precision:
    """Ask for bf16 wherever float32 is not demanded; the runtime falls back where the hardware has none."""
    return "fp32" if precision == "fp32" else "bf16"


class _CallableModule(ModuleType):
    """Lets ``fathom.predict(image)`` work in every order of imports.

    The public function has the name of this module, and importing a module binds its name in the package: after
    ``from fathom.predict import Predictor`` the name ``fathom.predict`` means the module, which therefore is callable.
    """

    def __call__(
        self, image: Any, *, model: str | Path = DEFAULT_MODEL, camera: Camera | None = None, **options: Any
    ) -> Depth:
        return predict(image, model=model, camera=camera, **options)


sys.modules[__name__].__class__ = _CallableModule
