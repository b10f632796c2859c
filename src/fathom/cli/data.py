"""``fathom data``: list the readers, look a folder over, write fast training files."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Datasets: list readers, check a folder, prepare fast training files.", invoke_without_command=True
)


@app.callback()
def data(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List the datasets that can be read."""
    if context.invoked_subcommand is not None:
        return
    from fathom.data import DATASETS

    if as_json:
        rows = [{"name": n, "description": e.description, "licence": e.licence} for n, e in DATASETS.items()]
        typer.echo(json.dumps(rows, indent=2))
        return
    for name, entry in DATASETS.items():
        typer.echo(f"  {name:<20} {entry.description}; {entry.licence}")
    typer.echo("\nYour own folder: fathom data doctor PATH writes the YAML that `folder` reads.")


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(help="Folder with pictures and depth maps, in any layout.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results; default: doctor-NAME.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Pairs to open.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what a folder holds and what is wrong with it; write dataset.yaml, report.json and a contact sheet."""
    from fathom.data.doctor import diagnose

    report = diagnose(path, max_samples=samples)
    written = report.write(out or Path(f"doctor-{report.root.resolve().name}"))
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        typer.echo(report.title())
        for finding in report.findings:
            typer.echo(f"{finding.level.upper():<8} {finding.message}")
        typer.echo(f"Wrote {', '.join(str(file) for file in written)}")
    yamls = [file for file in written if file.suffix == ".yaml"]
    if yamls and report.ok:
        typer.echo(f"Next: fathom data prepare folder {yamls[0]} --out FOLDER", err=True)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Reader, as `fathom data` lists them.")],
    root: Annotated[Path, typer.Argument(help="Folder of the dataset, or its YAML.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the training files.")],
    split: Annotated[str | None, typer.Option(help="Part to convert; default: that of the reader.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Option of the reader; may be repeated.")
    ] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Rows and columns to bring all samples to [px].")] = None,
    shares: Annotated[
        str | None, typer.Option(help="Divide at random into train, val and test: 80/10/10 or 6:2:2.")
    ] = None,
    split_by: Annotated[
        str, typer.Option(help="What is kept together when dividing: scene, or frame (leaks).")
    ] = "scene",
    seed: Annotated[int, typer.Option(help="Of the division.")] = 0,
) -> None:
    """Write a dataset as files that need no decoding; `prepared` reads them."""
    from fathom.cli.progress import _progress, _warnings_to
    from fathom.data import DATASETS, open_dataset
    from fathom.data.prepare import article_shares, prepare, prepare_parts, split_indices
    from fathom.evaluate import parse_options

    fractions = article_shares(shares) if shares is not None else None
    dataset = open_dataset(name, root, split, **parse_options(options or ()))
    terms = DATASETS[name].licence
    with _progress(len(dataset)) as progress, _warnings_to(progress):
        if fractions is None:
            folders = [prepare(dataset, out, size=size, licence=terms, on_sample=lambda _: progress.advance())]
        else:
            parts = split_indices(dataset, fractions, by=split_by, seed=seed)
            folders = prepare_parts(
                dataset, out, parts, size=size, licence=terms, on_sample=lambda _: progress.advance()
            )
    typer.echo(f"Wrote {', '.join(map(str, folders))}; read them with the dataset `prepared` at {out}.")
