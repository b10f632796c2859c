"""``fathom evaluate``: scores under a named protocol, for models and for saved predictions of any tool."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

FORMATS = ["md", "json"]
app = typer.Typer(help="Score models or saved predictions under a named protocol.", invoke_without_command=True)


@app.callback()
def evaluate(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Option("--model", "-m", help="Model to run; may be repeated.")] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option("--predictions", "-p", help="Folder of maps (npy npz png16 tiff pfm exr); may be repeated."),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="NAME:PATH, a YAML, or a folder with rgb/ and depth/.")
    ] = "",
    split: Annotated[str | None, typer.Option(help="Part of the data; default: that of its reader.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--data-option", metavar="KEY=VALUE", help="Option of the reader.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option("--protocol", "-P", help="Name or YAML file; may be repeated.")
    ] = None,
    all_protocols: Annotated[bool, typer.Option("--all-protocols", help="Score under every named protocol.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change of the protocol, e.g. range.max_depth=8.0."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="What saved maps of other tools hold.")] = None,
    scale: Annotated[float | None, typer.Option(help="Unit for each stored count of such maps, e.g. 0.001.")] = None,
    format: Annotated[str | None, typer.Option(help="Format of saved maps, where a folder holds several.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Allow another number of images than stated.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first images; with --partial.")] = None,
    boundary: Annotated[bool, typer.Option("--boundary", help="Also Depth Pro's boundary F1.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for reports.")] = None,
    formats: Annotated[list[str], typer.Option(help="Of the reports, comma-separated: md, json, html.")] = FORMATS,
    num_worst: Annotated[int, typer.Option("--worst", min=0, help="Rows of the sheet of the worst images.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Score models or saved predictions; every number carries the hash of its protocol."""
    if context.invoked_subcommand is not None:
        return
    from fathom.cli.progress import _progress
    from fathom.errors import ConfigError
    from fathom.evaluate import describe_data, evaluate_all, open_source, parse_options
    from fathom.protocol import list_protocols, load_protocol

    names = list_protocols() if all_protocols else tuple(protocol or ())
    if not data or not names or not (models or predictions):
        raise ConfigError("Give --data, --protocol (or --all-protocols), and --model or --predictions.")
    protocols = [load_protocol(name, changes or ()) for name in names]
    described = describe_data(data, split, parse_options(options or ()))
    samples = open_source(described)
    made = [{"folder": str(path), "kind": kind, "scale": scale, "format": format} for path in predictions or ()]
    made += [{"model": name} for name in models or ()]
    candidates = {_name(item): _open(item) for item in made}
    sources = {_name(item): {"data": described, "predictions": _resolved(item)} for item in made}
    total = len(candidates) * min(len(samples), limit or len(samples))
    with _progress(total) as progress:
        run = evaluate_all(
            candidates,
            samples,
            protocols,
            is_partial=partial,
            boundary=boundary,
            limit=limit,
            out=out,
            formats=",".join(formats).split(","),
            num_worst=num_worst,
            sources=sources,
            on_image=lambda _: progress.advance(),
        )
    typer.echo(json.dumps([report.to_json() for report in run.reports]) if as_json else run.text)
    for path in run.files:
        typer.echo(f"Wrote {path}", err=True)


@app.command()
def explain(
    first: Annotated[Path, typer.Argument(help="A report.json.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which switch accounts for how much of the gap between two reports, by scoring again."""
    from fathom.evaluate import Report
    from fathom.evaluate import explain as explain_reports

    found = explain_reports(Report.load(first), Report.load(second), open_predictions=_open)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.markdown())


def _open(made: Mapping[str, Any]) -> Any:
    """Load a model, or open a folder of saved predictions."""
    from fathom.evaluate import FromPair, SavedPredictions

    if "folder" in made:
        return SavedPredictions.from_json(made)
    from fathom.predict import Predictor

    predictor = Predictor(made["model"])
    return FromPair(predictor.predict) if predictor.card.input.views == 2 else predictor.predict


def _name(made: Mapping[str, Any]) -> str:
    """Name a candidate in tables: the model, or the folder as it was given."""
    return str(made.get("model") or made["folder"])


def _resolved(made: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(Path(value).resolve()) if key == "folder" else value for key, value in made.items()}
