"""Store the matrices of an ONNX file in 4 bits that runtimes turn into their 8 bits when they load it.

The file computes in 8 bits. Every matrix on a grid of `fathom.models.four_bits` becomes two tables of bytes and a
few operations on constants, which every runtime folds away: two codes, or two sizes, lie in each byte and are looked up
in a table of 256 rows, because lookups have no other meaning to a runtime. (A cast and a product could be taken for
weights that it should keep compressed.) ONNX Runtime frees what lies between only at the end, so the steps are few.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from fathom.models.four_bits import LOWEST, Grid, codes_of, snap

_BYTES = np.arange(256)
PAIRS = np.stack([_BYTES & 15, _BYTES >> 4], 1).astype(np.float32)
TABLES = {"pairs_of_codes": PAIRS + LOWEST, "pairs_of_sizes": PAIRS}


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
    added = [tensor(values, name) for name, values in TABLES.items()]
    nodes: list[Any] = []
    replaced: set[str] = set()

    def unpack(values: np.ndarray, name: str, table: str) -> str:
        """Add the operations that turn bytes (..., N / 2) into numbers (..., N / 2, 2)."""
        low, high = values[..., ::2].astype(np.uint8), values[..., 1::2].astype(np.uint8)
        added.append(tensor(low | (high << 4), f"{name}_bytes"))
        nodes.append(node("Cast", [f"{name}_bytes"], [f"{name}_index"], to=onnx.TensorProto.INT32))
        nodes.append(node("Gather", [table, f"{name}_index"], [f"{name}_pairs"]))
        return f"{name}_pairs"

    for name, (weight, grid) in matrices.items():
        wanted = snap(weight, grid).numpy().T
        near = [key for key, (values, _) in candidates.items() if values.shape == wanted.shape]
        key = min(near, key=lambda one: np.abs(candidates[one][0] - wanted).max(), default="")
        if not key or np.abs(candidates[key][0] - wanted).max() > 0.01 * np.abs(wanted).max():
            raise ValueError(f"No matrix of the file is '{name}'.")
        codes = (codes_of(weight, grid).numpy().T - LOWEST).reshape(grid.sizes.shape[1], -1, wanted.shape[1])
        sizes = grid.sizes.numpy().T[:, None]
        factors = [
            unpack(codes, f"{key}_codes", "pairs_of_codes"),
            unpack(sizes, f"{key}_sizes", "pairs_of_sizes"),
        ]
        added.append(tensor(np.array(wanted.shape, np.int64), f"{key}_shape"))
        nodes += [
            node("Mul", factors, [f"{key}_product"]),
            node("Cast", [f"{key}_product"], [f"{key}_whole"], to=onnx.TensorProto.INT8),
            node("Reshape", [f"{key}_whole", f"{key}_shape"], [key]),
        ]
        added.append(tensor(grid.scale.numpy()[:, 0].copy(), candidates[key][1]))
        replaced.update((key, candidates[key][1]))
        del candidates[key]
    kept = [item for item in model.graph.initializer if item.name not in replaced]
    graph = nodes + list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *added])
    model.graph.node.extend(graph)
    onnx.checker.check_model(model)
    return model
