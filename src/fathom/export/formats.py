"""The formats that a model can leave in."""

from dataclasses import dataclass

from fathom.models.cards import FileRole


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: As `fathom export --to` takes it.
        role: What a card calls its file.
        suffix: Of the file or folder.
        module: Module of `fathom.export` that writes it.
        precisions: What it can store.
        is_dynamic: Whether the input size is free unless the user fixes it.
        can_choose: Whether the user may change that.
        can_hold_steps: Whether the steps around the network can go into the file.
        holds_steps: Whether they do, unless the user says otherwise.
        packages: What makes it, for the record.
    """

    name: str
    role: FileRole
    suffix: str
    module: str
    precisions: tuple[str, ...]
    is_dynamic: bool
    can_choose: bool
    can_hold_steps: bool = False
    holds_steps: bool = False
    packages: tuple[str, ...] = ()


_ALL = ("fp32", "fp16", "bf16", "int8", "int8-weights", "int8-dynamic")

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            "onnx",
            ".onnx",
            "onnx",
            _ALL,
            True,
            True,
            True,
            True,
            ("torch", "onnx", "onnxscript", "onnxruntime"),
        ),
        Format(
            "openvino",
            "openvino",
            ".xml",
            "openvino",
            ("fp32", "fp16", "int8", "int8-weights"),
            True,
            True,
            True,
            False,
            ("torch", "onnx", "openvino", "nncf"),
        ),
        Format("torch-export", "torch_export", ".pt2", "torch_export", ("fp32",), True, True, packages=("torch",)),
        Format(
            "coreml",
            "coreml",
            ".mlpackage",
            "coreml",
            ("fp32", "fp16"),
            False,
            False,
            packages=("torch", "coremltools"),
        ),
        Format(
            "executorch", "executorch", ".pte", "executorch", ("fp32",), False, False, packages=("torch", "executorch")
        ),
        Format("ncnn", "ncnn", ".param", "ncnn", ("fp32", "fp16"), False, False, packages=("torch", "pnnx", "ncnn")),
        Format(
            "savedmodel",
            "savedmodel",
            ".savedmodel",
            "savedmodel",
            ("fp32",),
            False,
            False,
            packages=("torch", "onnx", "tensorflow"),
        ),
        Format(
            "litert",
            "litert",
            ".tflite",
            "litert",
            ("fp32", "fp16"),
            False,
            False,
            packages=("torch", "onnx", "ai-edge-litert"),
        ),
    )
}
