"""What quantisation costs and gives: accuracy, size and speed of every precision.

    python benchmarks/quantisation.py embedded --data NYU_FOLDER --split val --calibrate FOLDER_OF_PICTURES
    python benchmarks/quantisation.py hub --hub FOLDER_OF_DEPTH_ANYTHING_V2_SMALL --calibrate FOLDER_OF_PICTURES

``embedded`` exports the packaged models in every precision and scores each on ground truth. ``hub`` exports Depth
Anything V2 Small to OpenVINO in int8 and races it against the pipeline of transformers on the same CPU, in turns, on
pictures that it was not calibrated on. On a machine that does other work, CPU time is the figure to read.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fathom.alignment import fit_scale_shift
from fathom.benchmark import Candidate, benchmark
from fathom.errors import FathomError
from fathom.evaluate import describe_data, evaluate, open_source
from fathom.export import Tolerance, export_model
from fathom.export.parity import find_pictures
from fathom.metrics.depth import delta
from fathom.predict import Predictor
from fathom.protocol import load_protocol

EXPORTS = (
    ("onnx", "fp32", None),
    ("onnx", "fp16", None),
    ("onnx", "bf16", None),
    ("onnx", "int8-weights", None),
    ("onnx", "int8-dynamic", None),
    ("onnx", "int8", None),
    ("onnx", "int8", 0.02),
    ("openvino", "fp16", None),
    ("openvino", "int8-weights", None),
    ("openvino", "int8", None),
    ("openvino", "int8", 0.02),
)
PROTOCOLS = {"fathom-indoor": "nyu-eigen", "fathom-general": "zero-shot-midas"}
ANY = Tolerance(float("inf"), float("inf"), 0.0)
"""The loss is what is measured here, so no export is refused."""


def measure_embedded(args: argparse.Namespace, folder: Path) -> None:
    samples = open_source(describe_data(args.data, args.split, {}))
    for model in args.models:
        protocol = load_protocol(PROTOCOLS[model])
        made = []
        for form, precision, bound in EXPORTS:
            out = folder / model / f"{form}-{precision}{'-bounded' if bound else ''}"
            options = {"calibrate": args.calibrate} if precision == "int8" else {}
            try:
                export_model(
                    model,
                    form,
                    out,
                    precision=precision,
                    tolerance=ANY,
                    max_delta1_loss=bound,
                    in_graph=False,
                    **options,
                )
            except FathomError as error:
                print(f"{out.name}: {error}", flush=True)
            else:
                made.append(out)
        speeds = benchmark([Candidate(str(out)) for out in made], repeats=args.repeats).rows
        print(
            f"\n{model}, {len(samples)} images of {args.data.split(':')[0]} {args.split}, protocol {protocol.label}\n"
        )
        print("| file | MB | ms | CPU ms | AbsRel | delta1 | loss in delta1 |")
        print("|---|---|---|---|---|---|---|", flush=True)
        first = None
        for out, speed in zip(made, speeds, strict=True):
            scores = evaluate(Predictor(out).predict, samples, protocol, model=out.name, is_partial=True).per_image()
            first = scores["delta1"] if first is None else first
            print(
                f"| {out.name} | {speed.size_mb:.1f} | {speed.latency_ms:.1f} | {speed.cpu_ms:.1f} | "
                f"{scores['abs_rel']:.4f} | {scores['delta1']:.4f} | {first - scores['delta1']:+.4f} |",
                flush=True,
            )


def measure_hub(args: argparse.Namespace, folder: Path) -> None:
    import torch
    from transformers import pipeline

    exported = args.export or folder / "hub"
    if args.export is None:
        export_model(
            args.hub,
            "openvino",
            exported,
            precision="int8",
            dynamic=False,
            calibrate=args.calibrate,
            max_delta1_loss=args.max_delta1_loss,
        )
    reference = pipeline("depth-estimation", model=args.hub, dtype=torch.float32, device="cpu")
    predictor = Predictor(exported)
    pictures = [
        Image.open(path).convert("RGB").resize((640, 480)) for path in find_pictures(args.pictures, limit=args.num)
    ]
    predictor.predict(pictures[0]), reference(pictures[0])
    theirs, ours, their_cpu, our_cpu, agreement, raw = [], [], [], [], [], []
    for picture in pictures * args.repeats:
        start, cpu = time.perf_counter(), time.process_time()
        expected = reference(picture)["predicted_depth"].numpy()
        theirs.append(time.perf_counter() - start)
        their_cpu.append(time.process_time() - cpu)
        start, cpu = time.perf_counter(), time.process_time()
        values = predictor.predict(picture).values
        ours.append(time.perf_counter() - start)
        our_cpu.append(time.process_time() - cpu)
        known = expected > 0.01 * np.percentile(expected, 95)
        scale, shift = fit_scale_shift(values, expected, valid_mask=known)
        agreement.append(delta(np.maximum(scale * values + shift, 1e-6), expected, known))
        raw.append(delta(np.maximum(values, 1e-6), expected, known))
    size = predictor.card.input
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; input {size.height}x{size.width}; {predictor!r}\n")
    print("| | pictures/s | CPU s each |\n|---|---|---|")
    for name, wall, cpu_times in (
        ("transformers pipeline, fp32", theirs, their_cpu),
        ("fathom, OpenVINO int8", ours, our_cpu),
    ):
        print(f"| {name} | {1 / statistics.median(wall):.2f} | {statistics.median(cpu_times):.3f} |")
    print(f"\nratio of pictures/s: {statistics.median(theirs) / statistics.median(ours):.2f}")
    print(f"ratio of CPU time: {statistics.median(their_cpu) / statistics.median(our_cpu):.2f}")
    print(f"delta1 agreement as it is: mean {statistics.fmean(raw):.4f}, lowest picture {min(raw):.4f}")
    print(f"after scale and shift: mean {statistics.fmean(agreement):.4f}, lowest picture {min(agreement):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["embedded", "hub"])
    parser.add_argument("--models", nargs="*", default=list(PROTOCOLS))
    parser.add_argument("--data", help="ground truth, as fathom evaluate takes it")
    parser.add_argument("--split", default="val")
    parser.add_argument("--hub", help="folder of Depth Anything V2 Small, as transformers saves it")
    parser.add_argument("--export", type=Path, help="take this int8 export in place of making one")
    parser.add_argument("--max-delta1-loss", type=float, default=0.01, help="bound of the hub's int8")
    parser.add_argument("--calibrate", type=Path, help="pictures for the ranges of int8")
    parser.add_argument("--pictures", type=Path, help="pictures to compare on; default: the package's photographs")
    parser.add_argument("--num", type=int, default=8, help="how many of them")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        {"embedded": measure_embedded, "hub": measure_hub}[args.section](args, Path(text))


if __name__ == "__main__":
    main()
