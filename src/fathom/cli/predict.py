"""``fathom predict``: pictures in, depth files out."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FORMATS = ["png16"]


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Pictures: files, folders, globs, - for standard input, http(s) addresses."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs.")],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Embedded model, folder or file of a model, or hf:OWNER/NAME."),
    ] = "fathom-general",
    formats: Annotated[
        list[str],
        typer.Option("--formats", "-f", help="Comma-separated: png16, npy, npz, tiff, exr, pfm, color, panel ..."),
    ] = DEFAULT_FORMATS,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino or torch.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures run at once on a GPU; a CPU takes one.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Network input size [px]; default: that of the model.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or a device of the runtime such as cuda.")] = "auto",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search the folders of a folder.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out what is done already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each input on standard output.")] = False,
) -> None:
    """Predict depth and write it, one set of files for each picture.

    x/room.jpg becomes DIR/room.png; equal names keep their sub-folders. Exit code: 0 all done, 1 some inputs failed
    (the others are done), 2 wrong usage.
    """
    from fathom.batch import check_model, plan_outputs, predict_files
    from fathom.cli.progress import report
    from fathom.errors import OutputError
    from fathom.predict import Predictor, parse_size

    wanted_size = parse_size(size) if size is not None else None
    try:
        plan = plan_outputs(sources, out, ",".join(formats), recursive=recursive)
    except OutputError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    check_model(model, plan.formats, runtime=runtime, precision=precision)

    def load() -> Predictor:
        return Predictor(model, runtime=runtime, precision=precision, size=wanted_size, device=device)

    outcomes = predict_files(plan, load, skip_existing=skip_existing, batch_size=batch_size)
    raise typer.Exit(report(outcomes, total=len(plan.tasks) + len(plan.failed), as_json=as_json))
