"""``fathom train``: one YAML recipe in, a folder with checkpoints, curves and a model out."""

from pathlib import Path
from typing import Annotated

import typer

SIGNALLED = 128
"""Exit code after a signal, as shells have it: this plus its number."""


def _show_options(wanted: bool) -> None:
    if wanted:
        from fathom.train.reference import describe_options

        typer.echo(describe_options())
        raise typer.Exit


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see configs/ and docs/train.md.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change of the recipe, e.g. optimiser.lr=0.1."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/ and the recipe's name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the recipe.")] = False,
    _: Annotated[
        bool, typer.Option("--options", callback=_show_options, is_eager=True, help="Explain every option and leave.")
    ] = False,
) -> None:
    """Train a network as a recipe says; continue an interrupted run with --resume."""
    from fathom.errors import require
    from fathom.train.config import load_recipe

    resolved = load_recipe(recipe, changes or ())
    if check:
        typer.echo(f"{recipe}: {resolved.name}, a recipe for {resolved.model.name}, can be read.")
        return
    for module in ("torch", "lightning"):
        require(module, "train", "Training")
    from fathom.predict import load_model
    from fathom.train.fit import fit, rank_of_process

    folder = out or Path("runs") / resolved.name
    result = fit(
        resolved,
        folder,
        resume=resume,
        load_teacher=lambda name: load_model(name).predict,
        say=lambda line: typer.echo(line, err=True),
    )
    if result.signal is not None:
        raise typer.Exit(SIGNALLED + result.signal)
    if rank_of_process() > 0:
        return
    typer.echo(str(folder))
    typer.echo(f"Compare it with others: fathom runs compare {folder} ...", err=True)
