"""Depth models of Hugging Face transformers: what they are, what they want, and the network behind one contract.

Needs the extra ``hub`` (torch, torchvision, transformers), imported when `load_hub` is called. Models come from
``hf:OWNER/NAME`` (fetched into transformers' own cache) or from a local folder with ``config.json`` (no network).

References: transformers, "Monocular depth estimation" task guide; the image processors of DPT (Ranftl et al., ICCV
2021), GLPN (Kim et al., 2022), ZoeDepth (Bhat et al., 2023), Depth Pro (Bochkovskii et al., 2024).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fathom.errors import ModelError, require
from fathom.models.cards import InputSpec, Licence, ModelCard, OutputSpec, file_sha256
from fathom.types import DepthKind

if TYPE_CHECKING:
    from torch import nn

HUB_PREFIX = "hf:"

_RESAMPLE: dict[int, Literal["area", "bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic", 4: "area"}
"""Pillow's numbers for a kernel, as the processors store them; 4 is BOX."""


@dataclass(frozen=True)
class HubModel:
    """A model of transformers behind Fathom's contract.

    Args:
        card: Kind, input law, licence; it names no files.
        network: Maps (B, 3, h, w), normalised by the card, to (B, 1, h', w') in the card's kind.
        weights_sha256: Hash of ``model.safetensors``; empty for sharded or other files.
    """

    card: ModelCard
    network: "nn.Module"
    weights_sha256: str


def is_hub(model: str | Path) -> bool:
    """Tell whether a model name means transformers: ``hf:OWNER/NAME``, or a folder with ``config.json`` and no card.

    Example:
        >>> is_hub("hf:depth-anything/Depth-Anything-V2-Small-hf"), is_hub("fathom-general")
        (True, False)
    """
    if str(model).startswith(HUB_PREFIX):
        return True
    folder = Path(model)
    return (folder / "config.json").is_file() and not (folder / "card.json").is_file()


def load_hub(model: str | Path) -> HubModel:
    """Load a depth model of transformers with float32 weights.

    Args:
        model: ``hf:OWNER/NAME``, or a folder as transformers saves it.

    Raises:
        ModelError: If it cannot be loaded, is no depth model, or its numbers or preprocessing are not known.
        MissingExtraError: If transformers or torch is not installed.
    """
    torch = require("torch", "hub", "A model of transformers")
    transformers = require("transformers", "hub", "A model of transformers")
    require("torchvision", "hub", "A model of transformers")
    name = str(model)
    source = name.removeprefix(HUB_PREFIX)
    local = not name.startswith(HUB_PREFIX)
    try:
        with _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            kind = hub_kind(config, name)
            processor = transformers.AutoImageProcessor.from_pretrained(source, local_files_only=local)
            network = transformers.AutoModelForDepthEstimation.from_pretrained(
                source, local_files_only=local, dtype=torch.float32
            )
            weights = transformers.utils.cached_file(
                source, "model.safetensors", local_files_only=True, _raise_exceptions_for_missing_entries=False
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"transformers cannot load a depth model from {name}: {reason}") from error
    card = ModelCard(
        name=source if not local else Path(source).resolve().name,
        kind=kind,
        description=f"{type(network).__name__} of transformers",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        input=hub_input(processor, name),
        output=_output_spec(config, kind),
        licence=Licence(code="Apache-2.0 (transformers)", weights="see the page of the model"),
    )
    return HubModel(card, _wrap(network), file_sha256(Path(weights)) if weights else "")


def hub_kind(config: Any, name: str) -> DepthKind:
    """Say what the numbers of a transformers model are, from its configuration.

    Depth Anything states it. DPT gives affine-invariant inverse depth, as MiDaS trained it, except on a DINOv2
    backbone: those published weights are DINOv2's depth heads for NYU and KITTI, in metres. Depth Pro is metric only
    with its field-of-view network.

    Args:
        config: Configuration object of transformers.
        name: Named in an error.

    Raises:
        ModelError: If the numbers of this type of model are not known.
    """
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", "")
    match config.model_type:
        case "depth_anything" | "prompt_depth_anything":
            metric = config.depth_estimation_type == "metric"
            return DepthKind.METRIC_DEPTH if metric else DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        case "dpt":
            return DepthKind.METRIC_DEPTH if backbone == "dinov2" else DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        case "zoedepth" | "glpn":
            return DepthKind.METRIC_DEPTH
        case "depth_pro":
            return DepthKind.METRIC_DEPTH if config.use_fov_model else DepthKind.SCALE_INVARIANT_DEPTH
    raise ModelError(
        f"{name} is a '{config.model_type}' model; what its numbers mean is known only for depth_anything, "
        "prompt_depth_anything, dpt, zoedepth, glpn and depth_pro."
    )


def hub_input(processor: Any, name: str) -> InputSpec:
    """Translate an image processor of transformers into an input law.

    Args:
        processor: Image processor object of transformers.
        name: Named in an error.

    Raises:
        ModelError: If the processor does something that no input law can say.
    """

    def refuse(what: str) -> ModelError:
        return ModelError(f"{name}: its image processor {what}, which Fathom does not know how to do.")

    family = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    if getattr(processor, "do_center_crop", None):
        raise refuse("crops the centre")
    if not processor.do_rescale or abs(getattr(processor, "rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise refuse("does not scale pixels to 0..1")
    resample = int(getattr(processor, "resample", None) or 2)
    if resample not in _RESAMPLE:
        raise refuse(f"resizes with Pillow's kernel {resample}")
    normalise = bool(getattr(processor, "do_normalize", False))
    size = processor.size or {}
    keep_aspect = bool(getattr(processor, "keep_aspect_ratio", False))
    common: dict[str, Any] = {
        "interpolation": _RESAMPLE[resample],
        "mean": tuple(processor.image_mean) if normalise else (0.0, 0.0, 0.0),
        "std": tuple(processor.image_std) if normalise else (1.0, 1.0, 1.0),
    }
    if family == "GLPNImageProcessor":
        return InputSpec(law="native", multiple=processor.size_divisor, **common)
    zoe = family == "ZoeDepthImageProcessor"
    if getattr(processor, "do_pad", None) and not zoe:
        raise refuse("pads the picture")
    if not processor.do_resize or not getattr(size, "get", dict(size).get)("height"):
        raise refuse("does not resize to a height and a width")
    return InputSpec(
        law="keep_aspect" if keep_aspect else "fixed",
        height=size["height"],
        width=size["width"],
        # ZoeDepth's class default is a fraction; it means no constraint.
        multiple=max(1, int(getattr(processor, "ensure_multiple_of", 1) or 1)),
        mirror_border=zoe and bool(processor.do_pad),
        **common,
    )


def _output_spec(config: Any, kind: DepthKind) -> OutputSpec:
    stated = getattr(config, "max_depth", None)
    if kind is not DepthKind.METRIC_DEPTH or not isinstance(stated, int | float) or stated <= 0:
        return OutputSpec()
    return OutputSpec(max_depth=float(stated))


def _wrap(network: "nn.Module") -> "nn.Module":
    """Give a transformers model the contract (B, 3, h, w) -> (B, 1, h', w')."""
    import torch
    from torch import Tensor, nn

    class PredictedDepth(nn.Module):
        """Takes the depth out of the structure that transformers returns."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network  # a registered submodule: tracing needs to own its weights

        def forward(self, image: Tensor) -> Tensor:
            """Map a normalised picture to its depth."""
            output = self.network(pixel_values=image)
            depth: Tensor = output.predicted_depth
            if network.config.model_type == "depth_pro":
                # Depth Pro, eq. 1: its output is inverse depth for a focal length of one picture width.
                if output.field_of_view is not None:
                    half = torch.deg2rad(output.field_of_view) / 2
                    depth = depth * (2 * torch.tan(half)).reshape(-1, 1, 1)
                depth = 1.0 / depth.clamp(1e-4, 1e4)
            return depth.unsqueeze(1)

    return PredictedDepth().eval().requires_grad_(False)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' own messages and bars while a model loads, and put its settings back."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
