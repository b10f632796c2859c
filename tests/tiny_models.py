"""Models small enough for tests: real ONNX files and cards, made in milliseconds."""

from pathlib import Path

import numpy as np
import pytest

from fathom.models.cards import FileEntry, InputSpec, ModelCard, OutputSpec, file_sha256, write_card
from fathom.types import DepthKind

AREA = (64, 64)
MULTIPLE = 32


def make_model(
    folder: Path,
    *,
    name: str = "tiny",
    kind: str = DepthKind.METRIC_DEPTH,
    role: str = "onnx",
    bias: float = 2.0,
    spec: InputSpec | None = None,
) -> Path:
    """Write a two-layer network as ``model.onnx`` with ``card.json``; its output is close to `bias`.

    Returns:
        The folder, as `fathom.load_model` takes it.
    """
    onnx = pytest.importorskip("onnx", reason="making a test model needs onnx (pip install 'fathom-depth[export]')")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(0, 0.1, (1, 4, 3, 3)).astype(np.float32), "w2"),
        numpy_helper.from_array(np.array([bias], np.float32), "b2"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["depth"], pads=[1, 1, 1, 1]),
    ]
    shape = ["B", 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("depth", onnx.TensorProto.FLOAT, ["B", 1, "h", "w"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    card = ModelCard(
        name=name,
        kind=DepthKind(kind),
        input=spec or InputSpec(law="area", area=AREA, multiple=MULTIPLE),
        output=OutputSpec(),
        files={role: FileEntry(name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size)},
    )
    write_card(card, folder / "card.json")
    return folder


def make_photo(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """Write a smooth coloured picture; the format follows the suffix."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path
