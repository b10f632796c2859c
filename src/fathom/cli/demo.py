"""``fathom demo``: real photographs through the packaged models, with every kind of output."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs.")] = Path(
        "fathom-demo"
    ),
) -> None:
    """Predict the photographs that come with Fathom: depth maps, colour pictures beside the photo, a point cloud."""
    from fathom.demo import PHOTOS, run_demo

    for step in run_demo(out):
        typer.echo(f"{step.photo} ({step.model}): {step.depth!r}")
        for path in step.outputs:
            typer.echo(f"  {path}")
    typer.echo(f"\nPhotographs: {'; '.join(f'{name}: {credit}' for name, credit in PHOTOS.items())}.")
    typer.echo(f"All files are in {out}. Now your own: fathom predict PHOTO -o {out} --formats png16,panel")
