"""``fathom runs``: set training runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at training runs.", no_args_is_help=True)


@app.callback()
def runs() -> None:
    """Look at training runs."""


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    plot: Annotated[Path | None, typer.Option(help="Draw losses and scores to this picture (png, pdf, svg).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Print runs side by side: where they are, their best scores, and which options differ."""
    from fathom.train.runs import as_text, differing_options, plot_runs, read_run, table

    found = [read_run(folder) for folder in folders]
    heading, rows = table(found)
    different = differing_options(found)
    if as_json:
        values = [{"folder": str(run.folder), "best": run.best(), "last": run.train[-1:]} for run in found]
        typer.echo(json.dumps({"runs": values, "different_options": different}, indent=2))
    else:
        typer.echo(as_text(heading, rows))
        if different:
            cells = [[key, *(json.dumps(value) for value in values)] for key, values in different.items()]
            typer.echo("\n" + as_text(["differing option", *(run.folder.name for run in found)], cells))
    if plot is not None:
        typer.echo(f"Wrote {plot_runs(found, plot)}", err=True)
