"""Core ML packages, for Apple's systems. They are made and checked here; only a Mac or a phone runs them."""

import operator
import warnings
from pathlib import Path
from typing import Any

from fathom.errors import ExportError, ModelError, require
from fathom.export.environments import require_alone
from fathom.export.job import Job
from fathom.export.source import trace
from fathom.models.cards import FileRole
from fathom.runtime.steps import grid_size

INPUT, OUTPUT = "image", "depth"


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as an ``.mlpackage`` with the input ``image`` and the output ``depth``; returns the folder.

    Raises:
        ModelError: If coremltools cannot convert the network.
    """
    network = job.source.needs_network("A Core ML package")
    coremltools = require_alone("coremltools", "coreml", "Export to Core ML")
    traced = _without_cubic(trace(network, job.spec, dynamic=False))
    program = _plain(traced.run_decompositions({}))
    half = coremltools.precision.FLOAT16 if job.precision == "fp16" else coremltools.precision.FLOAT32
    path = job.path(".mlpackage")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the libraries' own code
            package = coremltools.convert(
                program,
                convert_to="mlprogram",
                compute_precision=half,
                minimum_deployment_target=coremltools.target.iOS16,
                outputs=[coremltools.TensorType(name=OUTPUT)],
                skip_model_load=True,
            )
    except Exception as error:  # coremltools raises whatever its passes raise
        raise ModelError(f"coremltools cannot convert the network: {str(error).splitlines()[0]}") from error
    facts = {"fathom.name": job.card.name, "fathom.kind": job.card.kind.value, "fathom.unit": job.card.kind.unit}
    package.user_defined_metadata.update(facts)
    package.short_description = job.card.description
    package.license = job.card.licence.weights
    package.save(str(path))
    return {"coreml": path}


def _without_cubic(program: Any) -> Any:
    """Compute cubic resizes of stored values ahead, since Core ML has none.

    Transformers resize their position embedding so; at one input size no picture changes it.
    """
    torch = require("torch", "coreml", "Export to Core ML")
    module = program.module()
    cubic = [node for node in module.graph.nodes if "upsample_bicubic2d" in str(node.target)]
    if not cubic:
        return program

    def value(node: Any) -> Any:
        if not isinstance(node, torch.fx.Node):
            return [value(item) for item in node] if isinstance(node, list | tuple) else node
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(module)
        if node.op != "call_function":
            raise LookupError(node.name)  # it depends on the picture
        return node.target(*map(value, node.args), **{name: value(item) for name, item in node.kwargs.items()})

    for count, node in enumerate(cubic):
        try:
            with torch.no_grad():
                module.register_buffer(f"resized_{count}", value(node))
        except LookupError:
            continue  # coremltools says what it lacks
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"resized_{count}"))
    module.graph.eliminate_dead_code()
    module.recompile()
    (example,), _ = program.example_inputs
    return torch.export.export(module, (example,), strict=False)


def _plain(program: Any) -> Any:
    """Write out what coremltools does not read: second names of whole slices, and the stride that a pool leaves out."""
    graph = program.graph_module.graph
    for node in [node for node in graph.nodes if str(node.target) == "aten.alias.default"]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    for node in graph.nodes:
        if str(node.target) == "aten.max_pool2d.default" and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
    program.graph_module.recompile()
    return program


def check(job: Job, path: Path) -> dict[str, Any]:
    """Check the specification of a package: its input and output, their shapes, and the stored kind.

    Args:
        job: The job.
        path: The package.

    Returns:
        Name and shape of the input and of the output.

    Raises:
        ExportError: If the specification is not that of the job.
    """
    coremltools = require_alone("coremltools", "coreml", "Export to Core ML")
    spec = coremltools.utils.load_spec(str(path))
    (given,), (made,) = spec.description.input, spec.description.output
    wanted = [1, 3, *grid_size(job.spec, 1, 1)]
    found = list(given.type.multiArrayType.shape)
    kind = dict(spec.description.metadata.userDefined).get("fathom.kind")
    if spec.WhichOneof("Type") != "mlProgram" or given.name != INPUT or made.name != OUTPUT or found != wanted:
        raise ExportError(
            f"The Core ML package must map {INPUT} {wanted} to {OUTPUT}; it maps {given.name} {found} to {made.name}."
        )
    if kind != job.card.kind.value:
        raise ExportError(f"The Core ML package must name the kind {job.card.kind.value}; it names {kind}.")
    return {"input": (given.name, found), "output": (made.name, list(made.type.multiArrayType.shape))}
