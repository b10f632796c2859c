"""ONNX: the network as a graph, its weights in half precision, and the steps around it inside the file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.export.picture_graph import OPSET, wrap_network
from fathom.export.source import Source, trace
from fathom.models.cards import FileRole, InputSpec

SMALLEST_COMPACT = 64
"""Tensors with fewer numbers stay in float32: they weigh nothing, and biases and constants are the most sensitive."""


def network_to_onnx(source: Source, spec: InputSpec, path: Path, *, dynamic: bool) -> Path:
    """Write a network as ONNX in float32, with the input ``image`` and the output ``depth``.

    Args:
        source: The model.
        spec: Its law, which gives the input shape or its multiple.
        path: File to write.
        dynamic: Leave batch, height and width free.

    Raises:
        ModelError: If the network cannot be traced or translated.
    """
    onnx = require("onnx", "export", "Export to ONNX")
    if source.network is None:
        assert source.files is not None
        model = onnx.load(source.files.path(source.files.card.graph_role))
        if not dynamic:
            raise ModelError(f"{source.card.name} is only an ONNX file, which is dynamic already. Leave out --static.")
    else:
        model = program_to_onnx(trace(source.network, spec, dynamic=dynamic))
    model.graph.doc_string = ""
    onnx.save(model, path)
    return path


def program_to_onnx(program: Any) -> Any:
    """Translate a traced program to an ONNX model, opset 18."""
    torch = require("torch", "export", "Export to ONNX")
    require("onnxscript", "export", "Export to ONNX")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the libraries' own code
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=["image"],
                output_names=["depth"],
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"The network has no form in ONNX: {str(error).splitlines()[0]}") from error
    assert exported is not None
    model = exported.model_proto
    del model.graph.metadata_props[:]  # torch's notes on the trace, which list the limits of sizes in any order
    return merge_interleaving(drop_softmax_guards(model))


def drop_softmax_guards(model: Any) -> Any:
    """Drop torch's guard behind the softmax of attention: ``where(isnan(p), 0, p)``, for rows that are masked entirely.

    Where the mask is finite or absent there are none; the guard costs two passes over the largest tensor of a
    transformer, and hides the attention from the runtimes that have one operation for it.

    Args:
        model: ONNX model, changed in place.

    Returns:
        The model.
    """
    onnx = require("onnx", "export", "Export to ONNX")
    nodes = list(model.graph.node)
    made_by = {name: node for node in nodes for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def is_finite(name: str) -> bool:
        if name in stored:
            return bool(np.isfinite(onnx.numpy_helper.to_array(stored[name])).all())
        node = made_by.get(name)
        if node is None or node.op_type not in ("MatMul", "Add", "Where"):
            return False
        return node.op_type == "MatMul" or all(is_finite(part) for part in node.input[node.op_type == "Where" :])

    instead: dict[str, str] = {}
    dropped: set[str] = set()
    for node in nodes:
        guard = made_by.get(node.input[0]) if node.op_type == "Where" else None
        softmax = made_by.get(node.input[2]) if node.op_type == "Where" else None
        if guard is None or softmax is None or guard.op_type != "IsNaN" or softmax.op_type != "Softmax":
            continue
        if guard.input[0] == softmax.output[0] and is_finite(softmax.input[0]):
            instead[node.output[0]] = softmax.output[0]
            dropped.update((node.output[0], guard.output[0]))
    kept = [node for node in nodes if node.output[0] not in dropped]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def merge_interleaving(model: Any) -> Any:
    """Write the interleaving of four maps (FCRN's fast up-projection) as one concatenation and ``DepthToSpace``.

    torch stacks them on an axis of their own, which becomes part of the channels before the pixel shuffle. With the
    other order of ``DepthToSpace``, map by map, four dimensions are enough, which converters and runtimes understand
    better.

    Args:
        model: ONNX model, changed in place.

    Returns:
        The model.
    """
    onnx = require("onnx", "export", "Export to ONNX")
    made_by = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def options(node: Any) -> dict[str, Any]:
        return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}

    for node in model.graph.node:
        if node.op_type != "DepthToSpace" or options(node).get("mode") != b"CRD":
            continue
        view = made_by.get(node.input[0])
        stack = made_by.get(view.input[0]) if view is not None and view.op_type == "Reshape" else None
        if stack is None or stack.op_type != "Concat" or options(stack)["axis"] != 2:
            continue
        parts = [made_by.get(name) for name in stack.input]
        if len(parts) != options(node)["blocksize"] ** 2 or not all(
            part is not None
            and part.op_type == "Unsqueeze"
            and part.input[1] in stored
            and onnx.numpy_helper.to_array(stored[part.input[1]]).tolist() == [2]
            for part in parts
        ):
            continue
        if sum(stack.output[0] in other.input for other in model.graph.node) != 1:
            continue  # somebody else wants the five dimensions
        stale = [entry for entry in model.graph.value_info if entry.name == stack.output[0]]
        for entry in stale:
            model.graph.value_info.remove(entry)
        stack.input[:] = [part.input[0] for part in parts if part is not None]
        _set_attribute(onnx, stack, "axis", 1)
        _set_attribute(onnx, node, "mode", "DCR")
        node.input[0] = stack.output[0]
    # What nothing reads any more goes.
    ends = {output.name for output in model.graph.output}
    while True:
        read = ends.union(*(node.input for node in model.graph.node))
        kept = [node for node in model.graph.node if read.intersection(node.output)]
        if len(kept) == len(model.graph.node):
            return model
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _set_attribute(onnx: Any, node: Any, name: str, value: Any) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def compact_weights(model: Any, precision: str) -> Any:
    """Store float32 weights in 16 or 8 bits with a cast and a scale behind each, and drop the exporter's notes.

    The arithmetic stays float32: runtimes fold the casts when they load the file. With batch norm folded in, the
    channels of one kernel differ in size by more than float16 spans, so each slice along the first axis has a scale.

    Args:
        model: ONNX model, changed in place.
        precision: ``"fp16"`` (11 bits), ``"bf16"`` (8 bits) or ``"int8-weights"`` (a grid of 255 steps).

    Returns:
        The model.
    """
    onnx = require("onnx", "export", "Export to ONNX")
    weights, casts = [], []
    for tensor in model.graph.initializer:
        name, is_float = tensor.name, tensor.data_type == onnx.TensorProto.FLOAT
        if is_float and len(tensor.dims) > 1 and np.prod(tensor.dims) >= SMALLEST_COMPACT:
            full = onnx.numpy_helper.to_array(tensor)
            scale = np.abs(full).max(axis=tuple(range(1, full.ndim)), keepdims=True)
            scale = np.where(scale > 0, scale, np.float32(1))
            if precision == "int8-weights":
                scale = scale / np.float32(127)
                small = np.rint(full / scale).astype(np.int8)
            else:
                wanted = onnx.TensorProto.BFLOAT16 if precision == "bf16" else onnx.TensorProto.FLOAT16
                small = (full / scale).astype(onnx.helper.tensor_dtype_to_np_dtype(wanted))
            weights.append(onnx.numpy_helper.from_array(small, f"{name}_small"))
            weights.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_small"], [f"{name}_float"], to=1))
            casts.append(onnx.helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
        else:
            weights.append(tensor)
    nodes = casts + list(model.graph.node)
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.initializer[:], model.graph.node[:], model.graph.value_info[:]
    model.graph.initializer.extend(weights)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as ONNX; returns the file by its role."""
    onnx = require("onnx", "export", "Export to ONNX")
    path = job.path(".onnx")
    network_to_onnx(job.source, job.spec, path, dynamic=job.dynamic)
    if job.precision in ("fp16", "bf16", "int8-weights"):
        onnx.save(compact_weights(onnx.load(path), job.precision), path)
    elif job.precision != "fp32":
        from fathom.export.quantise import quantise_onnx

        quantise_onnx(job, path)
    model = onnx.load(path)
    if job.in_graph:
        model = wrap_network(model, job.card)
    facts = {"fathom.name": job.card.name, "fathom.kind": job.card.kind.value, "fathom.unit": job.card.kind.unit}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)
    return {"onnx": path}
