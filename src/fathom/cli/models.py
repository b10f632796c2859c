"""``fathom models``: what can be run, and what can be built and trained."""

import json
from typing import Annotated

import typer

app = typer.Typer(help="List models, or show one.", invoke_without_command=True)


@app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List the models that can predict, then the networks that can be built and trained."""
    if context.invoked_subcommand is not None:
        return
    from fathom.models import MODELS
    from fathom.models.cards import list_cards

    cards = list_cards()
    names = {card.name for card in cards}
    networks = [row for row in MODELS.values() if row.name not in names]
    if as_json:
        rows = [{"name": row.name, "kind": row.kind, "parameters": row.parameters} for row in networks]
        document = {"models": [card.model_dump(mode="json", exclude_none=True) for card in cards], "networks": rows}
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo("Ready to predict (fathom predict --model NAME):\n")
    for card in cards:
        size = sum(entry.bytes for role, entry in card.files.items() if role == card.graph_role) / 1e6
        scores = "; ".join(f"{s.data}: " + ", ".join(f"{k} {v:.3f}" for k, v in s.values.items()) for s in card.scores)
        typer.echo(f"  {card.name:<18} {card.kind}, {_count(card.parameters)} parameters, {size:.1f} MB")
        for label, text in (
            ("data", ", ".join(card.training_data)),
            ("licence", card.licence.weights),
            ("scores", scores),
        ):
            if text:
                typer.echo(f"  {'':<18} {label}: {text}")
    typer.echo("\nAlso: a folder or file in Fathom's format, hf:OWNER/NAME, or a folder of transformers.")
    typer.echo("\nNetworks to build and train (fathom.models.build, fathom train):\n")
    for row in networks:
        typer.echo(f"  {row.name:<24} {row.kind:<22} {_count(row.parameters):>7}  {row.paper}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Embedded model, model folder or file, or network.")]) -> None:
    """Show everything that is known about one model, as YAML."""
    from dataclasses import asdict

    import yaml

    from fathom.models import MODELS, entry
    from fathom.models.cards import embedded_names, find_model
    from fathom.models.hub import is_hub, load_hub

    if is_hub(name):
        values = load_hub(name).card.model_dump(mode="json", exclude_none=True)
    elif name in MODELS and name not in embedded_names():
        row = entry(name)
        values = {
            "name": row.name,
            "kind": row.kind,
            "parameters": row.parameters,
            "tasks": list(row.tasks),
            "input_multiple": row.input_multiple,
            "input": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(row.input_law).items()},
            "default_loss": row.default_loss,
            "recipe": f"configs/{row.recipe}" if row.recipe else None,
            "paper": row.paper,
            "licence": row.licence,
            "weights": "none packaged: train it, or load a checkpoint with fathom.models.build(pretrained=...)",
        }
    else:
        values = find_model(name).card.model_dump(mode="json", exclude_none=True)
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100).rstrip())


def _count(number: int | None) -> str:
    return f"{number / 1e6:.1f} M" if number else "-"
