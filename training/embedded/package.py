"""Stage 4: turn a checkpoint, or the mean of some, into the three files that the package carries.

    python training/embedded/package.py --checkpoint FINAL/general_{start,4000,5000,6000,7000}.pt
        --card training/embedded/fathom-general.yaml --calibrate PICTURES --out src/fathom/weights
    python training/embedded/package.py --checkpoint FINAL/indoor_{start,5000,6000,7000}.pt
        --card training/embedded/fathom-indoor.yaml --calibrate PICTURES --out src/fathom/weights

NAME.onnx        matrices of the blocks in 4 bits (`four_bits.py`), which are 8 bits in the arithmetic; the other
                 layers with weights in 7 of 8 bits; activations in 8 bits with the ranges that they have on PICTURES.
                 Attention, norms, the layer that cuts the patches and the last one are in float32. Batch, height and
                 width are dynamic.
NAME.safetensors the network before that, for fine-tuning and for torch: the same matrices in 4 bits, and each row of
                 the rest in 8 bits with a scale.
NAME.json        the card: what people wrote in the YAML file, and what is counted here (parameters, hashes, sizes).

The ONNX file is run on the calibration pictures and compared with the network before anything is written to its place.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import yaml
from four_bits import store_in_four_bits
from safetensors.torch import save_file
from torch import nn

from fathom.config import parse_config
from fathom.export.convert import calibration_inputs
from fathom.export.onnx import compact_weights, program_to_onnx
from fathom.export.parity import find_pictures
from fathom.export.quantise import quantise_static
from fathom.export.source import trace
from fathom.models import MODELS
from fathom.models.cards import InputSpec, ModelCard, file_sha256, write_card
from fathom.models.embedded import EmbeddedNet
from fathom.models.four_bits import Grid, find_grid, snap
from fathom.models.weights import pack_rows

MAX_BYTES = 10_000_000
TOLERANCE = 0.06
"""Largest mean difference to the network over the calibration pictures, as a share of the output's spread."""
NUM_CALIBRATION = 48
"""Pictures that are enough for the ranges of the activations."""


def mean_difference(network: nn.Module, path: Path, inputs: Sequence[npt.NDArray[np.float32]]) -> float:
    """Compare the file with the network; return the mean difference over the output's spread, over all pictures."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for image in inputs:
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).numpy()
        got = session.run(None, {"image": image})[0]
        assert got.shape == expected.shape, (got.shape, expected.shape)
        differences.append(np.abs(got - expected).mean() / expected.std())
    return float(np.mean(differences))


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Return the mean of the averaged weights of some checkpoints (of one run, or one that went on from another)."""
    states = [torch.load(path, map_location="cpu")["average"] for path in checkpoints]
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}


def fixed_grids(checkpoints: Sequence[Path]) -> dict[str, Grid]:
    """Return the grids that a run from a packaged model kept; empty where checkpoints have none, or others."""
    first, *rest = (torch.load(path, map_location="cpu").get("grids", {}) for path in checkpoints)
    for grids in rest:
        same = grids.keys() == first.keys()
        if not same or not all(torch.equal(a, b) for n in first for a, b in zip(first[n], grids[n], strict=True)):
            return {}
    return {name: Grid(*grid) for name, grid in first.items()}


def package(
    network: EmbeddedNet,
    written: dict[str, Any],
    pictures: Path,
    out: Path,
    *,
    grids: dict[str, Grid] | None = None,
    tolerance: float = TOLERANCE,
) -> ModelCard:
    """Write NAME.onnx, NAME.safetensors and NAME.json.

    Args:
        network: In evaluation mode, on the CPU.
        written: What people say in the card: name, description, input, licence and so on.
        pictures: Folder with pictures for the calibration.
        out: Folder for the three files.
        grids: Of the matrices in 4 bits, by name; found for their values if not given.
        tolerance: Mean difference allowed between the file and the network, as a share of the output's spread.

    Returns:
        The card.
    """
    name = written["name"]
    out.mkdir(parents=True, exist_ok=True)
    network = network.eval().float().to(memory_format=torch.contiguous_format)
    # The last checks come before the rename, so a bad export never replaces a good file.
    with tempfile.TemporaryDirectory(dir=out) as folder:
        files = {"onnx_int8": Path(folder, f"{name}.onnx"), "safetensors": Path(folder, f"{name}.safetensors")}
        spec = parse_config(written["input"], InputSpec, source=name)
        found = find_pictures(pictures)
        inputs = calibration_inputs(spec, found[:: max(1, len(found) // NUM_CALIBRATION)])
        state = network.state_dict()
        grids = grids or {n: find_grid(w) for n, w in state.items() if n.startswith("blocks.") and w.ndim == 2}
        matrices = {n: (state[n].clone(), grid) for n, grid in grids.items()}
        network.load_state_dict(state | {n: snap(*matrix) for n, matrix in matrices.items()})
        model = program_to_onnx(trace(network, spec, dynamic=True))
        path = files["onnx_int8"]
        onnx.save(model, path)
        quantise_static(path, inputs)
        # In this order: half precision would make the tables of the 4 bits inexact.
        onnx.save(store_in_four_bits(compact_weights(onnx.load(path), "fp16"), matrices), path)
        difference = mean_difference(network, path, inputs)
        if difference > tolerance:
            raise SystemExit(f"{name}.onnx differs from the network by {difference:.3f}; allowed are {tolerance:g}.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SystemExit(f"{name}.onnx has {size} bytes; allowed are {MAX_BYTES}.")
        save_file(pack_rows(state, grids), files["safetensors"])
        entries = {
            role: {"name": file.name, "sha256": file_sha256(file), "bytes": file.stat().st_size}
            for role, file in files.items()
        }
        values = {
            **written,
            "kind": MODELS[written["architecture"]["builder"]].kind,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "files": entries,
        }
        card = parse_config(values, ModelCard, source=name)
        for file in files.values():
            file.chmod(0o644)  # safetensors writes files that only their owner may read
            file.replace(out / file.name)
    write_card(card, out / f"{name}.json")
    print(f"{name}: {card.parameters} parameters, {size} bytes of ONNX, difference {difference:.1e} of the spread")
    return card


def main() -> None:
    """Package one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, nargs="+", help="NAME.pt of train.py; of several, their mean"
    )
    parser.add_argument("--card", type=Path, required=True, help="what people say about the model, YAML")
    parser.add_argument("--calibrate", type=Path, required=True, help="folder with a few dozen varied pictures")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    written = yaml.safe_load(args.card.read_text())
    architecture = written["architecture"]
    network = MODELS[architecture["builder"]].build(**architecture.get("options", {}))
    network.load_state_dict(mean_weights(args.checkpoint))
    package(network, written, args.calibrate, args.out, grids=fixed_grids(args.checkpoint))


if __name__ == "__main__":
    main()
