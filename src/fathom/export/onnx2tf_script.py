"""Run by the interpreter of onnx2tf's own environment, which has TensorFlow and no Fathom: ONNX in, one format out.

    python onnx2tf_script.py GRAPH.onnx savedmodel|fp32|fp16 OUT

onnx2tf would write every format at once, and through Keras, which turns each weight into a Python number three times:
minutes for a network of 30 million. Here Keras stays out of it, and only what was asked for is written.
"""

import sys
from typing import Any

LARGEST_DIFFERENCE = 1e-3
"""Between the network and the graph, as a share of the output's spread, before the slower way is taken."""


def fold(graph: str) -> str:
    """Compute what no picture changes, such as resized position embeddings, which onnx2tf cannot hold; new file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = "folded.onnx"
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    keep_corners("folded.onnx")
    return "folded.onnx"


def keep_corners(graph: str) -> None:
    """Write resizes that align the corners in the words of opset 17; in those of 18 onnx2tf centres the pixels."""
    import onnx

    model = onnx.load(graph)
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    modes = [one.s for node in resizes for one in node.attribute if one.name == "coordinate_transformation_mode"]
    if b"align_corners" not in modes:
        return
    for node in resizes:
        known = [one for one in node.attribute if one.name not in ("antialias", "keep_aspect_ratio_policy", "axes")]
        del node.attribute[:]
        node.attribute.extend(known)
    for entry in model.opset_import:
        entry.version = 17 if entry.domain in ("", "ai.onnx") else entry.version
    onnx.checker.check_model(model)
    onnx.save(model, graph)


def build(graph: str, *, careful: bool) -> Any:
    """Build the network; with `careful` onnx2tf runs every layer and mends the ones whose axes it took wrongly."""
    import onnx2tf

    return onnx2tf.convert(
        input_onnx_file_path=graph,
        output_folder_path="onnx2tf",
        disable_model_save=True,
        disable_strict_mode=not careful,
        # LiteRT has no error function of its own; a transformer's GELU needs one.
        replace_to_pseudo_operators=["erf"],
        non_verbose=True,
    )


def difference(network: Any, graph: str) -> float:
    """Return the mean difference of the outputs for one random picture, as a share of their spread."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    image = np.random.default_rng(0).random(entry.shape, np.float32)
    wanted = session.run(None, {entry.name: image})[0].squeeze()
    found = np.asarray(network(image.transpose(0, 2, 3, 1))).squeeze()
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found - wanted).mean() / max(wanted.std(), 1e-12))


def convert(graph: str, form: str, out: str) -> None:
    """Convert a file; OUT is a folder for savedmodel, else a ``.tflite`` file."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = fold(graph)
    try:
        network = build(graph, careful=False)
        is_right = difference(network, graph) < LARGEST_DIFFERENCE
    except (Exception, SystemExit):  # it ends the program where it takes axes wrongly; the careful way has its own say
        is_right = False
    if not is_right:
        network = build(graph, careful=True)
    wanted = [tf.TensorSpec(tensor.shape, tensor.dtype, "image") for tensor in network.inputs]
    serve = tf.function(lambda image: {"depth": network(image)}, input_signature=wanted)
    if form == "savedmodel":
        # A module that holds the weights alone: of the network itself Keras would write a description, weights and all.
        module = tf.Module()
        module.weights = list(network.variables)
        tf.saved_model.save(module, out, signatures={"serving_default": serve})
        return
    frozen = convert_variables_to_constants_v2(serve.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if form == "fp16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    with open(out, "wb") as file:
        file.write(converter.convert())


if __name__ == "__main__":
    convert(*sys.argv[1:])
