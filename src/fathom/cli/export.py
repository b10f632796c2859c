"""``fathom export``: a model leaves for another runtime, and gives the same numbers there."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Option("--model", "-m", help="Model to export, or a network of fathom models.")],
    to: Annotated[
        str, typer.Option(help="onnx, openvino, coreml, litert, savedmodel, executorch, ncnn, torch-export or web.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Folder, or file with the format's suffix.")],
    dynamic: Annotated[
        bool | None, typer.Option("--dynamic/--static", help="Free input size, or one; default: by the format.")
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(help="picture: resizing and normalisation inside the file (default for onnx); or network."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, int8-weights or int8-dynamic.")] = "fp32",
    size: Annotated[str | None, typer.Option(metavar="N|HxW", help="One fixed input size [px].")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint for a network of fathom models.")] = None,
    calibrate: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures for int8.")] = None,
    pictures: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures for the parity check.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest mean relative difference; default: by the precision.")
    ] = None,
    max_delta1_loss: Annotated[
        float | None, typer.Option(help="For int8: keep sensitive layers in float32 until delta1 loses less than this.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report on standard output, as JSON.")] = False,
) -> None:
    """Write a model in another format with a card, and a parity report on real pictures beside it.

    A file that differs from its model by more than the tolerance is removed, and the exit code is 1.
    """
    import json

    from fathom.export.command import run_export

    text, values = run_export(
        model,
        to,
        out,
        graph=graph,
        size=size,
        mean_tolerance=tolerance,
        dynamic=dynamic,
        precision=precision,
        weights=weights,
        calibrate=calibrate,
        pictures=pictures,
        max_delta1_loss=max_delta1_loss,
    )
    typer.echo(json.dumps(values, indent=2) if as_json else text)
