"""Store the matrices of an ONNX file in 4 bits that runtimes turn into their 8 bits when they load it.

The file computes in 8 bits. Every matrix on a grid of `fathom.models.four_bits` becomes two tables of bytes and a few
operations on constants, which every runtime folds away: two codes, and two sizes, lie in each byte and are looked up in
tables of 256, because lookups have no other meaning to a runtime. (A cast and a product could be taken for weights that
it should keep compressed.)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from fathom.models.four_bits import GROUP, LOWEST, SCALE, SIZES, Grid, pack_grid, snap

BYTES = np.arange(256)
TABLES = {
    "codes_low": (BYTES & 15) + LOWEST,
    "codes_high": (BYTES >> 4) + LOWEST,
    "sizes_low": BYTES & 15,
    "sizes_high": BYTES >> 4,
}


def store_in_four_bits(model: Any, matrices: Mapping[str, tuple[Tensor, Grid]]) -> Any:
    """Replace matrices in 8 bits by the same in 4.

    Args:
        model: Quantised ONNX model (QDQ), changed in place.
        matrices: Each weight (N, K) of the network, and its grid.

    Returns:
        The model.

    Raises:
        ValueError: If a matrix is not found in the file.
    """
    array, tensor, node = onnx.numpy_helper.to_array, onnx.numpy_helper.from_array, onnx.helper.make_node
    stored = {item.name: item for item in model.graph.initializer}
    candidates: dict[str, tuple[np.ndarray, str]] = {}
    for item in model.graph.node:
        if item.op_type == "DequantizeLinear" and set(item.input[:2]) <= set(stored):
            values, scale = (array(stored[name]) for name in item.input[:2])
            if values.ndim == 2 and scale.shape == values.shape[1:]:  # the second factor of a product
                candidates[item.input[0]] = values.astype(np.float32) * scale, item.input[1]
    added = [tensor(values.astype(np.float32), name) for name, values in TABLES.items()]
    nodes: list[Any] = []
    replaced: set[str] = set()

    def unpack(packed: np.ndarray, name: str, table: str) -> str:
        """Add the operations that turn bytes (R, N) into numbers (2 R, N)."""
        added.append(tensor(np.ascontiguousarray(packed), f"{name}_bytes"))
        nodes.append(node("Cast", [f"{name}_bytes"], [f"{name}_index"], to=onnx.TensorProto.INT32))
        for half in ("low", "high"):
            nodes.append(node("Gather", [f"{table}_{half}", f"{name}_index"], [f"{name}_{half}"]))
        nodes.append(node("Concat", [f"{name}_low", f"{name}_high"], [f"{name}_whole"], axis=0))
        return f"{name}_whole"

    for name, (weight, grid) in matrices.items():
        wanted = snap(weight, grid).numpy().T
        near = [key for key, (values, _) in candidates.items() if values.shape == wanted.shape]
        key = min(near, key=lambda one: np.abs(candidates[one][0] - wanted).max(), default="")
        if not key or np.abs(candidates[key][0] - wanted).max() > 0.01 * np.abs(wanted).max():
            raise ValueError(f"No matrix of the file is '{name}'.")
        packed = {part: value.numpy().T for part, value in pack_grid(weight, grid, name).items()}
        rows, columns = wanted.shape
        shapes = {"groups": (rows // GROUP, GROUP, columns), "each": (rows // GROUP, 1, columns), "all": wanted.shape}
        added += [tensor(np.array(shape, np.int64), f"{key}_{part}") for part, shape in shapes.items()]
        codes, sizes = (
            unpack(packed[name], f"{key}_codes", "codes"),
            unpack(packed[name + SIZES], f"{key}_sizes", "sizes"),
        )
        nodes += [
            node("Reshape", [codes, f"{key}_groups"], [f"{key}_grouped"]),
            node("Reshape", [sizes, f"{key}_each"], [f"{key}_each_size"]),
            node("Mul", [f"{key}_grouped", f"{key}_each_size"], [f"{key}_product"]),
            node("Reshape", [f"{key}_product", f"{key}_all"], [f"{key}_float"]),
            node("Cast", [f"{key}_float"], [key], to=onnx.TensorProto.INT8),
        ]
        added.append(tensor(np.ascontiguousarray(packed[name + SCALE][0]), candidates[key][1]))
        replaced.update((key, candidates[key][1]))
        del candidates[key]
    kept = [item for item in model.graph.initializer if item.name not in replaced]
    graph = nodes + list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *added])
    model.graph.node.extend(graph)
    onnx.checker.check_model(model)
    return model
