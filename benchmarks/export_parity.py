"""The parity table: every model in every format that is made and run here, against its source in torch.

    python benchmarks/export_parity.py [--hub FOLDER_OF_DEPTH_ANYTHING_V2_SMALL] [--models unet ...]
        [--formats onnx ...] [--pictures FOLDER] [--out FILE.md]

Each export runs in a process of its own, because some converters cannot share one. The networks without packaged
weights (FCRN, U-Net, DispNet) have random ones: the arithmetic is what is compared. An export that fails is a row of
the table, too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = ("fathom-general", "fathom-indoor", "fcrn-upproj", "unet", "dispnet-s")
FORMATS = ("onnx", "openvino", "torch-export", "executorch", "ncnn", "litert", "savedmodel", "coreml")

CHILD = """
import json, sys
import torch
torch.manual_seed(0)
from fathom.errors import FathomError
from fathom.export import export_model
model, form, out, pictures, options = json.loads(sys.argv[1])
try:
    done = export_model(model, form, out, pictures=pictures, **options)
    report = done.report
    answer = {
        "size_mb": sum(entry.bytes for entry in done.card.files.values()) / 1e6,
        "dynamic": done.card.export.dynamic,
        "runtime": report.runtime if report else None,
        "pictures": len(report.rows) if report else 0,
        **(report.worst if report else {}),
    }
except FathomError as error:
    answer = {"error": str(error)}
print("RESULT" + json.dumps(answer))
"""


def export(model: str, form: str, pictures: str | None, **options: object) -> dict[str, object]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = json.dumps([model, form, folder, pictures, options])
        done = subprocess.run([sys.executable, "-c", CHILD, arguments], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        said = done.stderr.strip().splitlines()
        return {"error": f"the process ended with code {done.returncode}: {said[-1] if said else ''}"}
    return {**json.loads(lines[-1].removeprefix("RESULT")), "seconds": time.perf_counter() - start}


def row(model: str, form: str, result: dict[str, object]) -> str:
    if "error" in result:
        return f"| {model} | {form} | | | | | | | failed: {str(result['error'])[:160]} |"
    size, where = f"{result['size_mb']:.1f}", "free" if result["dynamic"] else "fixed"
    if result["runtime"] is None:
        return f"| {model} | {form} | {where} | {size} | | | | | specification checked; runs on a Mac |"
    return (
        f"| {model} | {form} | {where} | {size} | {result['max_relative']:.1e} | {result['mean_relative']:.1e} | "
        f"{result['abs_rel']:.1e} | {result['delta1']:.5f} | ran in {result['runtime']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", help="folder of Depth Anything V2 Small, as transformers saves it")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--pictures", help="folder of pictures; default: the package's photographs, four sizes")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    args = parser.parse_args()
    lines = [
        "| model | format | input size | MB | max rel. | mean rel. | AbsRel | delta1 | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for model in [*args.models, *([args.hub] if args.hub else [])]:
        for form in args.formats:
            lines.append(row(Path(model).name, form, export(model, form, args.pictures)))
            print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
