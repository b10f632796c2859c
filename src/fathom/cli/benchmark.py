"""``fathom benchmark``: models and runtimes side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    models: Annotated[
        list[str],
        typer.Option("--model", "-m", help="Model or exported file; may be repeated, the first is compared to."),
    ],
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", "-r", help="Runtime for every model; may be repeated.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures; default: the package's photographs.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Take so many pictures of the folder.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over all pictures.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of one network run.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the table and the plot.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure latency, throughput, memory, size and agreement of every model with every runtime."""
    from fathom.benchmark import Candidate
    from fathom.benchmark import benchmark as measure
    from fathom.export.parity import find_pictures
    from fathom.predict import check_choices, stated_kind

    for runtime in runtimes or ["auto"]:
        check_choices(runtime, precision)
    for model in models:
        stated_kind(model)
    candidates = [Candidate(model, runtime, precision) for model in models for runtime in runtimes or ["auto"]]
    paths = find_pictures(pictures, limit=limit) if pictures is not None else []
    done = measure(candidates, pictures=paths, repeats=repeats, num_threads=threads)
    typer.echo(json.dumps(done.to_json(), indent=2) if as_json else done.markdown())
    if out is not None:
        for path in done.save(out):
            typer.echo(f"Wrote {path}", err=True)
