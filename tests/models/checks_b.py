"""Checks that the tests of several network families share."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from oracles_b import ORACLES, matches
from torch import Tensor, nn


def tensors(output: Any) -> list[Tensor]:
    """List what a network returned."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for item in (output.values() if isinstance(output, dict) else output) for tensor in tensors(item)]


def check_oracles(prefixes: tuple[str, ...]) -> None:
    """Compare every oracle of some sections with what the networks give."""
    rows = [row for row in ORACLES if row[0].startswith(prefixes)]
    assert rows
    wrong = [
        (name, expected, got) for name, expected, got in ((n, e, c()) for n, e, c in rows) if not matches(expected, got)
    ]
    assert not wrong


def check_gradients(network: nn.Module, *inputs: Tensor) -> None:
    """Every parameter gets a finite gradient."""
    network.train()
    sum(tensor.square().mean() for tensor in tensors(network(*inputs)) if tensor.requires_grad).backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def check_evaluation(network: nn.Module, *inputs: Tensor) -> None:
    """Evaluation gives the same numbers twice, and each picture of a batch its own."""
    network.eval()
    with torch.no_grad():
        once, again = tensors(network(*inputs)), tensors(network(*inputs))
        alone = tensors(network(*(batch[:1] for batch in inputs)))
    for first, second, single in zip(once, again, alone, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first[:1], single, rtol=1e-4, atol=1e-4)


EXPORT_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def check_export(network: nn.Module, inputs: tuple[Tensor, ...], others: Iterable[tuple[Tensor, ...]]) -> None:
    """Export with free batch, height and width; ONNX Runtime agrees with torch at the size of the export and others."""
    network.eval()
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free, tensor.ndim - 2: free, tensor.ndim - 1: free} for tensor in inputs)
    program = torch.onnx.export(network, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    for feed in (inputs, *others):
        with torch.no_grad():
            expected = tensors(network(*feed))
        got = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, feed, strict=True)})
        for mine, theirs in zip(expected, got, strict=True):
            assert mine.shape == theirs.shape
            assert np.abs(mine.numpy() - theirs).max() < 1e-4 * max(1.0, float(mine.abs().max()))


def sizes_of(outputs: dict[str, Tensor], name: str, scales: Iterable[int]) -> list[tuple[int, ...]]:
    """List the heights and widths of a pyramid."""
    return [tuple(outputs[f"{name}_{scale}"].shape[-2:]) for scale in scales]


def ceil_sizes(height: int, width: int, scales: Iterable[int]) -> list[tuple[int, int]]:
    """List ceil(size / 2^scale)."""
    return [(-(-height // 2**scale), -(-width // 2**scale)) for scale in scales]
