"""Stage 3: turn a checkpoint into the three files that the package carries.

    python training/embedded/package.py --checkpoint RUN/last.pt --card training/embedded/fathom-general.yaml
        --out src/fathom/weights

NAME.onnx        half-precision weights, each cast to float32 inside the graph; ONNX Runtime folds the casts when it
                 loads the file, so the arithmetic is float32. Batch, height and width are dynamic.
NAME.safetensors the same weights before batch norm was folded in, for fine-tuning; matrices in half precision.
NAME.json        the card: what people wrote in the YAML file, and what is counted here (parameters, hashes, sizes).

The ONNX file is run on two sizes and compared with the network before anything is written to its place.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from fathom.config import parse_config
from fathom.export.onnx import compact_weights, program_to_onnx
from fathom.export.source import trace
from fathom.models import MODELS
from fathom.models.cards import InputSpec, ModelCard, file_sha256, write_card

MAX_BYTES = 10_000_000
TOLERANCE = 2e-2
"""Largest difference of any pixel to the network, as a share of the output's spread; float16 weights cause about 7e-3
at single pixels and 1e-3 in the mean."""


def largest_difference(network: nn.Module, path: Path) -> float:
    """Compare the file with the network on two sizes; return the largest difference over the output's spread."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, height, width in ((1, 256, 320), (2, 64, 160)):
        image = torch.rand(batch, 3, height, width, generator=generator)
        with torch.inference_mode():
            expected = network(image).numpy()
        got = session.run(None, {"image": image.numpy()})[0]
        assert got.shape == expected.shape, (got.shape, expected.shape)
        worst = max(worst, float(np.abs(got - expected).max() / expected.std()))
    return worst


def package(network: nn.Module, written: dict[str, Any], out: Path, *, tolerance: float = TOLERANCE) -> ModelCard:
    """Write NAME.onnx, NAME.safetensors and NAME.json.

    Args:
        network: In evaluation mode, on the CPU.
        written: What people say in the card: name, description, input, licence and so on.
        out: Folder for the three files.
        tolerance: Largest difference between the file and the network, as a share of the output's spread.

    Returns:
        The card.
    """
    name = written["name"]
    out.mkdir(parents=True, exist_ok=True)
    network = network.eval().float().to(memory_format=torch.contiguous_format)
    # The last checks come before the rename, so a bad export never replaces a good file.
    with tempfile.TemporaryDirectory(dir=out) as folder:
        files = {"onnx": Path(folder, f"{name}.onnx"), "safetensors": Path(folder, f"{name}.safetensors")}
        spec = parse_config(written["input"], InputSpec, source=name)
        model = program_to_onnx(trace(network, spec, dynamic=True))
        onnx.save(compact_weights(model, "fp16"), files["onnx"])
        difference = largest_difference(network, files["onnx"])
        if difference > tolerance:
            raise SystemExit(f"{name}.onnx differs from the network by {difference:.2e}; allowed are {tolerance:.0e}.")
        size = files["onnx"].stat().st_size
        if size > MAX_BYTES:
            raise SystemExit(f"{name}.onnx has {size} bytes; allowed are {MAX_BYTES}.")
        state = {
            key: (value.half() if value.ndim > 1 else value).contiguous() for key, value in network.state_dict().items()
        }
        save_file(state, files["safetensors"])
        entries = {
            role: {"name": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
            for role, path in files.items()
        }
        values = {
            **written,
            "kind": MODELS[written["architecture"]["builder"]].kind,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "files": entries,
        }
        card = parse_config(values, ModelCard, source=name)
        for path in files.values():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
            path.replace(out / path.name)
    write_card(card, out / f"{name}.json")
    print(f"{name}: {card.parameters} parameters, {size} bytes of ONNX, difference {difference:.1e} of the spread")
    return card


def main() -> None:
    """Package one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="last.pt of train.py; its averaged weights")
    parser.add_argument("--card", type=Path, required=True, help="what people say about the model, YAML")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    written = yaml.safe_load(args.card.read_text())
    architecture = written["architecture"]
    network = MODELS[architecture["builder"]].build(**architecture.get("options", {}))
    network.load_state_dict(torch.load(args.checkpoint, map_location="cpu")["average"])
    package(network, written, args.out)


if __name__ == "__main__":
    main()
