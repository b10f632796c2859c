"""Key maps from published checkpoint layouts to the networks of this toolkit, and between two layouts.

Only names and axes are mapped; the facts come from the public definitions of each layout, no code is taken over. Every
function is strict: a key that has no place, or a place that gets no key, raises. The weights keep their own licences.

| layout                                  | function                           | network                          |
| --------------------------------------- | ---------------------------------- | -------------------------------- |
| FCRN, TensorFlow (``.npy`` dictionary)  | `fcrn_from_tensorflow`             | fcrn-upproj, `RELEASE_OPTIONS`   |
| monodepth2 encoder.pth and depth.pth    | `monodepth2_depth`                 | monodepth2-resnet18              |
| monodepth2 pose_encoder.pth, pose.pth   | `monodepth2_pose`                  | its pose network, num_motions=2  |
| SfMLearner-PyTorch DispNetS             | `sfmlearner_dispnet`               | dispnet-s                        |
| SfMLearner-PyTorch PoseExpNet           | `sfmlearner_pose`                  | the pose network without masks   |
| Depth Anything (V2), original           | `depth_anything_to_hugging_face`   | transformers' DepthAnything      |
| Depth Anything (V2), Hugging Face       | `depth_anything_from_hugging_face` | the original release             |
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fathom.errors import WeightsError

Rules = Iterable[tuple[str, str]]

_BATCH_NORM = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}
_PHASE = {"A": 0, "B": 1, "C": 2, "D": 3}
_UP_BLOCKS = {"2x": 0, "4x": 1, "8x": 2, "16x": 3}


def _rename(tensors: Mapping[str, Tensor], rules: Rules, layout: str, *, unused: str = r"(?!)") -> dict[str, Tensor]:
    """Rename every key by the first rule (pattern of the whole key, replacement) that fits.

    Raises:
        WeightsError: If keys fit no rule, or two keys come to the same name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in tensors.items():
        if re.fullmatch(unused, key):
            continue
        for pattern, replacement in compiled:
            match = pattern.fullmatch(key)
            if match:
                name = match.expand(replacement)
                if name in renamed:
                    raise WeightsError(f"Two keys of this {layout} checkpoint mean '{name}'; the second is '{key}'.")
                renamed[name] = value
                break
        else:
            unknown.append(key)
    if unknown:
        raise WeightsError(f"These keys are not of the {layout} layout: {', '.join(unknown)}. Check the file.")
    return renamed


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten ``{operation: {parameter: array}}`` to ``operation/parameter``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _fcrn_name(operation: str) -> str | None:
    """Tell the module that an operation of the TensorFlow graph is, or None."""
    fixed = {
        "conv1": "trunk.conv1",
        "bn_conv1": "trunk.bn1",
        "layer1": "layer1",
        "layer1_BN": "layer1_bn",
        "ConvPred": "head",
    }
    if operation in fixed:
        return fixed[operation]
    match = re.fullmatch(r"(res|bn)([2-5])([a-f])_branch(1|2([abc]))", operation)
    if match:
        kind, stage, block, _, part = match.groups()
        place = f"trunk.layer{int(stage) - 1}.{ord(block) - ord('a')}"
        if part is None:
            return f"{place}.downsample.{0 if kind == 'res' else 1}"
        return f"{place}.{'conv' if kind == 'res' else 'bn'}{ord(part) - ord('a') + 1}"
    match = re.fullmatch(r"layer(2x|4x|8x|16x)_(?:br([12])_)?(Conv|BN)", operation)
    if match:
        size, branch, kind = match.groups()
        if kind == "Conv" and branch:
            return None
        return f"decoder.{_UP_BLOCKS[size]}.{kind.lower()}{branch or ''}"
    return None


def fcrn_from_tensorflow(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Map the released TensorFlow weights of FCRN-UpProj.

    Kernels turn from (rows, columns, in, out) to (out, in, rows, columns). The four interleaved convolutions A to D of
    an up-convolution become its four kernels and the columns of its bias. Build the network with
    ``build("fcrn-upproj", **fathom.models.fcrn.RELEASE_OPTIONS)`` and feed RGB in 0 to 255.

    Args:
        content: ``{operation: {parameter: array}}``, as ``np.load(file, allow_pickle=True).item()`` gives it for a file
            you trust; or flat with keys ``operation/parameter``.

    Returns:
        State dict of the network.

    Raises:
        WeightsError: If a key is not of this layout, or a part of an up-convolution is missing.

    Example:
        >>> weights = fcrn_from_tensorflow({"ConvPred": {"weights": np.zeros((3, 3, 64, 1)), "biases": np.zeros(1)}})
        >>> {key: tuple(value.shape) for key, value in weights.items()}
        {'head.weight': (1, 64, 3, 3), 'head.bias': (1,)}

    Reference:
        Laina et al., 3DV 2016, arXiv 1606.00373; weights: Simplified BSD.
    """
    result: dict[str, Tensor] = {}
    biases: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for key, array in _flat(content).items():
        operation, _, parameter = key.rpartition("/")
        value = torch.as_tensor(np.asarray(array, dtype=np.float32))
        kernel = value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value
        branch = re.fullmatch(r"layer(2x|4x|8x|16x)_br([12])_Conv([A-D])", operation)
        if branch and parameter in ("weights", "biases"):
            place = f"decoder.{_UP_BLOCKS[branch[1]]}.up{branch[2]}"
            if parameter == "weights":
                result[f"{place}.weight_{branch[3].lower()}"] = kernel
            else:
                biases.setdefault(place, {})[_PHASE[branch[3]]] = value
            continue
        name = _fcrn_name(operation)
        own = {"weights": "weight", "biases": "bias", **_BATCH_NORM}.get(parameter)
        if name is None or own is None:
            unknown.append(key)
            continue
        result[f"{name}.{own}"] = kernel
    incomplete = [place for place, parts in biases.items() if len(parts) != 4]
    if unknown or incomplete:
        raise WeightsError(
            f"Expected FCRN's TensorFlow layout; these keys are not of it: {', '.join(unknown) or 'none'}; these "
            f"up-convolutions lack a bias: {', '.join(incomplete) or 'none'}. Check the file."
        )
    for place, parts in biases.items():
        result[f"{place}.bias"] = torch.stack([parts[phase] for phase in range(4)], dim=1)
    return result


def monodepth2_depth(encoder: Mapping[str, Tensor], depth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map ``encoder.pth`` and ``depth.pth`` of monodepth2 to ``monodepth2-resnet18``.

    The decoder there is one list: for levels 4 to 0 the convolution before and after the enlargement, then the four
    predictions, finest first. The classifier that the encoder still carries is left out.

    Args:
        encoder: Tensors of ``encoder.pth``.
        depth: Tensors of ``depth.pth``.

    Returns:
        State dict of the network.

    Raises:
        WeightsError: If a key is not of this layout.

    Example:
        >>> list(monodepth2_depth({}, {"decoder.9.conv.conv.bias": torch.zeros(16)}))
        ['decoder.after.0.conv.bias']

    Reference:
        Godard et al., ICCV 2019, arXiv 1806.01260; weights: Niantic, non-commercial.
    """
    rules = [
        (
            rf"decoder\.{2 * (4 - level) + index}\.conv\.conv\.(weight|bias)",
            rf"decoder.{part}.{level}.conv.\1",
        )
        for level in range(5)
        for index, part in enumerate(("before", "after"))
    ]
    rules += [
        (rf"decoder\.{10 + scale}\.conv\.(weight|bias)", rf"decoder.predict.{scale}.conv.\1") for scale in range(4)
    ]
    return _encoder(encoder) | _rename(depth, rules, "monodepth2 depth.pth")


def monodepth2_pose(pose_encoder: Mapping[str, Tensor], pose: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map ``pose_encoder.pth`` and ``pose.pth`` of monodepth2 to its pose network.

    The published decoder predicts two motions; build the network with ``num_motions=2`` and use the first.

    Args:
        pose_encoder: Tensors of ``pose_encoder.pth``.
        pose: Tensors of ``pose.pth``.

    Returns:
        State dict of the network.

    Raises:
        WeightsError: If a key is not of this layout.

    Example:
        >>> list(monodepth2_pose({}, {"net.3.bias": torch.zeros(12)}))
        ['decoder.6.bias']

    Reference:
        Godard et al., ICCV 2019, arXiv 1806.01260; weights: Niantic, non-commercial.
    """
    rules = [(rf"net\.{index}\.(weight|bias)", rf"decoder.{2 * index}.\1") for index in range(4)]
    return _encoder(pose_encoder) | _rename(pose, rules, "monodepth2 pose.pth")


def _encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = r"(?:conv1|bn1|layer[1-4]\.\d\.(?:conv[12]|bn[12]|downsample\.[01]))"
    values = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
    rules = [(rf"(encoder\.{names}\.{values})", r"\1")]
    return _rename(tensors, rules, "monodepth2 encoder.pth", unused=r"encoder\.fc\.(?:weight|bias)")


def sfmlearner_dispnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map DispNetS of SfMLearner-PyTorch to ``dispnet-s``; for ``sfmlearner``, put ``disparity.`` before each key.

    Args:
        tensors: Tensors of ``dispnet_model_best.pth.tar``.

    Returns:
        State dict of the network.

    Raises:
        WeightsError: If a key is not of this layout.

    Example:
        >>> list(sfmlearner_dispnet({"conv1.2.bias": torch.zeros(1), "predict_disp1.0.bias": torch.zeros(1)}))
        ['encoder.0.2.bias', 'predict.3.bias']

    Reference:
        Zhou et al., CVPR 2017, arXiv 1704.07813; port and weights: MIT.
    """
    rules = []
    for level in range(1, 8):
        rules.append((rf"conv{level}\.([02])\.(weight|bias)", rf"encoder.{level - 1}.\1.\2"))
        rules.append((rf"(upconv|iconv){level}\.0\.(weight|bias)", rf"\1.{7 - level}.0.\2"))
    rules += [(rf"predict_disp{scale}\.0\.(weight|bias)", rf"predict.{4 - scale}.\1") for scale in range(1, 5)]
    return _rename(tensors, rules, "SfMLearner-PyTorch DispNetS")


def sfmlearner_pose(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map the pose part of PoseExpNet of SfMLearner-PyTorch to the pose network without masks.

    The port's mask decoder (4x4 transposed convolutions, one sigmoid per source) is another function than the paper's;
    its keys ``upconv*`` and ``predict_mask*`` are left out.

    Args:
        tensors: Tensors of ``exp_pose_model_best.pth.tar``.

    Returns:
        State dict of the network.

    Raises:
        WeightsError: If a key is not of this layout.

    Example:
        >>> list(sfmlearner_pose({"conv6.0.bias": torch.zeros(1), "pose_pred.bias": torch.zeros(1)}))
        ['pose.0.0.bias', 'pose.2.bias']

    Reference:
        Zhou et al., CVPR 2017, arXiv 1704.07813; port and weights: MIT.
    """
    rules = [(rf"conv{level}\.0\.(weight|bias)", rf"trunk.{level - 1}.0.\1") for level in range(1, 6)]
    rules += [(rf"conv{level}\.0\.(weight|bias)", rf"pose.{level - 6}.0.\1") for level in (6, 7)]
    rules.append((r"pose_pred\.(weight|bias)", r"pose.2.\1"))
    unused = r"(?:upconv[1-5]\.0|predict_mask[1-4])\.(?:weight|bias)"
    return _rename(tensors, rules, "SfMLearner-PyTorch PoseExpNet", unused=unused)


# Pairs of names, original and Hugging Face; {} stands for a number or a parameter name that both share.
_DEPTH_ANYTHING = (
    ("pretrained.cls_token", "backbone.embeddings.cls_token"),
    ("pretrained.mask_token", "backbone.embeddings.mask_token"),
    ("pretrained.pos_embed", "backbone.embeddings.position_embeddings"),
    ("pretrained.patch_embed.proj.{}", "backbone.embeddings.patch_embeddings.projection.{}"),
    ("pretrained.blocks.{}.ls1.gamma", "backbone.encoder.layer.{}.layer_scale1.lambda1"),
    ("pretrained.blocks.{}.ls2.gamma", "backbone.encoder.layer.{}.layer_scale2.lambda1"),
    ("pretrained.blocks.{}.norm1.{}", "backbone.encoder.layer.{}.norm1.{}"),
    ("pretrained.blocks.{}.norm2.{}", "backbone.encoder.layer.{}.norm2.{}"),
    ("pretrained.blocks.{}.mlp.fc1.{}", "backbone.encoder.layer.{}.mlp.fc1.{}"),
    ("pretrained.blocks.{}.mlp.fc2.{}", "backbone.encoder.layer.{}.mlp.fc2.{}"),
    ("pretrained.blocks.{}.attn.proj.{}", "backbone.encoder.layer.{}.attention.output.dense.{}"),
    ("pretrained.norm.{}", "backbone.layernorm.{}"),
    ("depth_head.projects.{}.{}", "neck.reassemble_stage.layers.{}.projection.{}"),
    ("depth_head.resize_layers.{}.{}", "neck.reassemble_stage.layers.{}.resize.{}"),
    *((f"depth_head.scratch.layer{index + 1}_rn.{{}}", f"neck.convs.{index}.{{}}") for index in range(4)),
    *(
        (f"depth_head.scratch.refinenet{index}.{original}.{{}}", f"neck.fusion_stage.layers.{4 - index}.{other}.{{}}")
        for index in range(1, 5)
        for original, other in (
            ("out_conv", "projection"),
            ("resConfUnit1.conv1", "residual_layer1.convolution1"),
            ("resConfUnit1.conv2", "residual_layer1.convolution2"),
            ("resConfUnit2.conv1", "residual_layer2.convolution1"),
            ("resConfUnit2.conv2", "residual_layer2.convolution2"),
        )
    ),
    ("depth_head.scratch.output_conv1.{}", "head.conv1.{}"),
    ("depth_head.scratch.output_conv2.0.{}", "head.conv2.{}"),
    ("depth_head.scratch.output_conv2.2.{}", "head.conv3.{}"),
)
_QKV = re.compile(r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
# Names that transformers 5 uses in memory; files keep the older ones.
_IN_MEMORY = tuple(
    (re.compile(rf"(backbone\.encoder\.layer\.\d+\.attention)\.{new}\."), rf"\1.{old}.")
    for new, old in (
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("o_proj", "output.dense"),
    )
)
_SPLIT = re.compile(r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def _template_rules(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Turn pairs of templates into rules: each {} of the first becomes a group, each of the second its reference."""
    rules = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\{\}", r"(\d+|weight|bias)")
        pieces = target.split("{}")
        rules.append(
            (pattern, "".join(f"{piece}\\{index + 1}" for index, piece in enumerate(pieces[:-1])) + pieces[-1])
        )
    return rules


def depth_anything_to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map an original Depth Anything checkpoint (V1 or V2, any size, relative or metric) to transformers' names.

    The joint matrix of queries, keys and values of a block is split into three.

    Args:
        tensors: Tensors of ``depth_anything_*.pth``.

    Returns:
        Tensors by the names of ``model.safetensors``, which ``from_pretrained`` reads.

    Raises:
        WeightsError: If a key is not of this layout.

    Example:
        >>> depth_anything_to_hugging_face({"pretrained.blocks.0.attn.qkv.bias": torch.arange(6.0)})[
        ...     "backbone.encoder.layer.0.attention.attention.key.bias"
        ... ].tolist()
        [2.0, 3.0]

    Reference:
        Yang et al., Depth Anything V2, NeurIPS 2024, arXiv 2406.09414; weights: Small Apache-2.0, others CC-BY-NC-4.0.
    """
    rest = {key: value for key, value in tensors.items() if not _QKV.fullmatch(key)}
    result = _rename(rest, _template_rules(_DEPTH_ANYTHING), "original Depth Anything")
    for key, value in tensors.items():
        match = _QKV.fullmatch(key)
        if match:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"backbone.encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"] = piece.clone()
    return result


def depth_anything_from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map transformers' Depth Anything to the names of the original release.

    Args:
        tensors: Tensors of ``model.safetensors``, or the state dict of transformers' DepthAnythingForDepthEstimation,
            whose names in memory differ since version 5.

    Returns:
        Tensors by original name.

    Raises:
        WeightsError: If a key is not of this layout, or a block lacks one of query, key and value.

    Example:
        >>> list(depth_anything_from_hugging_face({"neck.fusion_stage.layers.0.projection.bias": torch.zeros(1)}))
        ['depth_head.scratch.refinenet4.out_conv.bias']

    Reference:
        Yang et al., Depth Anything V2, NeurIPS 2024, arXiv 2406.09414.
    """
    joint: dict[str, dict[str, Tensor]] = {}
    rest = {}
    for key, value in tensors.items():
        for pattern, replacement in _IN_MEMORY:
            key = pattern.sub(replacement, key)
        match = _SPLIT.fullmatch(key)
        if match:
            joint.setdefault(f"pretrained.blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = value
        else:
            rest[key] = value
    incomplete = [name for name, parts in joint.items() if len(parts) != 3]
    if incomplete:
        raise WeightsError(f"Query, key or value is missing for: {', '.join(incomplete)}. Check the file.")
    pairs = [(other, original) for original, other in _DEPTH_ANYTHING]
    result = _rename(rest, _template_rules(pairs), "Hugging Face Depth Anything")
    result |= {name: torch.cat([parts[part] for part in ("query", "key", "value")]) for name, parts in joint.items()}
    return result
