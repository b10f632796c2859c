"""Reading checkpoints and loading them strictly: every key that does not fit is named, none is skipped in silence."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import ModelError, WeightsError, require
from fathom.models.four_bits import ROW_SCALE, SIZES, Grid, pack_grid, unpack_grid

# Marks of published layouts: (part of a key that gives it away, what to call it). The first that occurs wins.
_FAMILIES = (
    ("res2a_branch1/", "FCRN, TensorFlow release (fathom.models.convert.fcrn_from_tensorflow)"),
    ("pretrained.blocks.0.", "Depth Anything, original (fathom.models.convert.depth_anything_to_hugging_face)"),
    ("neck.reassemble_stage.", "Depth Anything or DPT, Hugging Face"),
    ("decoder.0.conv.conv.", "monodepth2 depth.pth (fathom.models.convert.monodepth2_depth)"),
    ("encoder.layer1.0.conv1.", "monodepth2 encoder.pth, or a network with a ResNet inside"),
    ("net.0.weight", "monodepth2 pose.pth"),
    ("predict_disp1.", "SfMLearner-PyTorch DispNetS (fathom.models.convert.sfmlearner_dispnet)"),
    ("pose_pred.", "SfMLearner-PyTorch PoseExpNet (fathom.models.convert.sfmlearner_pose)"),
    ("layer1.weight_a", "Fathom FCRN"),
    ("trunk.layer1.0.", "Fathom FCRN"),
    ("trunk.features.", "Fathom network on VGG-16"),
    ("layer1.0.conv3.", "ResNet-50 or deeper (torchvision names)"),
    ("layer1.0.conv2.", "ResNet-18 or 34 (torchvision names)"),
    ("features.28.", "VGG-16 (torchvision names)"),
    ("features.0.", "torchvision features (AlexNet, VGG or MobileNet)"),
    ("segmentation_head.", "segmentation-models-pytorch"),
)


def guess_family(keys: Iterable[str]) -> str:
    """Say which published family a set of keys looks like.

    Args:
        keys: Names of the tensors in a checkpoint.

    Returns:
        A name for people to read; ``"unknown"`` if nothing fits.

    Example:
        >>> guess_family(["features.28.weight"])
        'VGG-16 (torchvision names)'
    """
    names = list(keys)
    for mark, family in _FAMILIES:
        if any(mark in name for name in names):
            return family
    return "unknown"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, without running code that it may carry.

    Wrappers that training programs put around the tensors (``state_dict``, ``model``, ``network``) are taken off, and
    so is the prefix ``module.`` of data-parallel training.

    Args:
        path: ``.safetensors``, or a file of ``torch.save``.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: If the file is absent, unreadable, or holds no tensors.

    Example:
        >>> read_state_dict("absent.pth")
        Traceback (most recent call last):
        fathom.errors.WeightsError: There is no weights file 'absent.pth'. Check the path.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"There is no weights file '{file}'. Check the path.")
    content: Any
    if file.suffix == ".safetensors":
        try:
            content = require("safetensors.torch", "train", "Reading weights").load_file(file)
        except Exception as error:  # safetensors raises its own type, which is not part of its interface
            raise WeightsError(f"'{file}' cannot be read as safetensors: {error}. Fetch it again.") from error
    else:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own
            raise WeightsError(f"'{file}' cannot be read as plain tensors: {error}. Save only a state dict.") from error
    for wrapper in ("state_dict", "model", "network"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"'{file}' holds {type(content).__name__}, not tensors by name. Save a state dict.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"'{file}' holds no tensors. Expected a state dict; check the file.")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return unpack_rows(tensors)


def pack_rows(state: Mapping[str, Tensor], grids: Mapping[str, Grid] | None = None) -> dict[str, Tensor]:
    """Store matrices and kernels in 8 bits: each row (slice along the first axis) as whole numbers times one scale.

    The largest error of an entry is 1/254 of the largest entry of its row. Vectors stay as they are.

    Args:
        state: Tensors by name.
        grids: Grids of the matrices that are stored in 4 bits instead.

    Example:
        >>> sorted(pack_rows({"a": torch.tensor([[1.0, -0.5]]), "b": torch.ones(1)}))
        ['a', 'a.row_scale', 'b']
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if grids and name in grids:
            packed |= pack_grid(value, grids[name], name)
        elif value.ndim > 1:
            scale = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True).clamp_min(1e-12) / 127
            packed[name], packed[name + ROW_SCALE] = (value / scale).round().to(torch.int8), scale
        else:
            packed[name] = value.contiguous()
    return packed


def unpack_rows(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `pack_rows`; other states pass unchanged.

    Example:
        >>> unpack_rows(pack_rows({"a": torch.tensor([[127.0, -64.0]])}))
        {'a': tensor([[127., -64.]])}
    """
    whole = {}
    for name, value in state.items():
        if name + SIZES in state:
            whole[name] = unpack_grid(value, state[name + SIZES], state[name + ROW_SCALE])
        elif name + ROW_SCALE in state:
            whole[name] = value * state[name + ROW_SCALE]
        elif not name.endswith((ROW_SCALE, SIZES)):
            whole[name] = value
    return whole


def load_weights(
    module: nn.Module, source: str | Path | Mapping[str, Tensor], *, unused: tuple[str, ...] = (), name: str = ""
) -> None:
    """Load weights strictly into a network.

    Values are converted to the network's number type. The counters ``num_batches_tracked`` may be absent: they are not
    weights.

    Args:
        module: The network, changed in place only if everything fits.
        source: A checkpoint file, or tensors by name.
        unused: Prefixes of keys that are known to be of no use here, for instance ``("fc.",)`` for a classifier.
        name: What to call the source in messages; the file name where empty.

    Raises:
        WeightsError: If keys are missing, unexpected, or of another shape: each is named.

    Example:
        >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "extra": torch.ones(1)})
        Traceback (most recent call last):
        fathom.errors.WeightsError: 1 key missing, 1 unexpected and 0 of another shape in the given tensors. \
Missing: bias. Unexpected: extra. It looks like a checkpoint of: unknown.
    """
    tensors = dict(source) if isinstance(source, Mapping) else read_state_dict(source)
    tensors = {key: value for key, value in tensors.items() if not (unused and key.startswith(unused))}
    own = module.state_dict()
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in tensors if key not in own]
    misshapen = [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if missing or unexpected or misshapen:
        origin = name or ("the given tensors" if isinstance(source, Mapping) else f"'{Path(source).name}'")
        sentences = [
            f"{len(missing)} {'key' if len(missing) == 1 else 'keys'} missing, {len(unexpected)} unexpected and "
            f"{len(misshapen)} of another shape in {origin}."
        ]
        for title, keys in (("Missing", missing), ("Unexpected", unexpected), ("Of another shape", misshapen)):
            if keys:
                sentences.append(f"{title}: {', '.join(keys)}.")
        sentences.append(f"It looks like a checkpoint of: {guess_family(tensors)}.")
        raise WeightsError(" ".join(sentences))
    module.load_state_dict({**own, **tensors})


def load_trunk(trunk: nn.Module, source: str | Path, *, torchvision_name: str = "") -> None:
    """Load the weights of a trunk that carries torchvision's key names.

    Args:
        trunk: The trunk, changed in place.
        source: A checkpoint file, whose classifier (``fc.``, ``classifier.``) is left out; or ``"imagenet"`` for the
            weights that torchvision publishes.
        torchvision_name: Name of the same network in torchvision; empty if torchvision has another function under that
            name.

    Raises:
        ModelError: If ``"imagenet"`` is asked for where nobody publishes such weights under a name.
        WeightsError: If the weights do not fit.

    Example:
        >>> load_trunk(nn.Linear(1, 1), "imagenet")
        Traceback (most recent call last):
        fathom.errors.ModelError: No package publishes weights of this trunk under a name. Give the path of a file \
with trunk_weights=.
    """
    if str(source) == "imagenet":
        if not torchvision_name:
            raise ModelError(
                "No package publishes weights of this trunk under a name. Give the path of a file with trunk_weights=."
            )
        models = require("torchvision.models", "train", "Loading ImageNet weights")
        weights = models.get_model_weights(torchvision_name).IMAGENET1K_V1
        tensors: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        load_weights(trunk, tensors, unused=("fc.", "classifier."), name=f"torchvision's {torchvision_name}")
    else:
        load_weights(trunk, source, unused=("fc.", "classifier."))
