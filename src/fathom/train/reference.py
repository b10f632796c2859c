"""The reference of all options of a recipe, made from its models so that it cannot differ from them."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fathom.train.config import Recipe


def describe_options() -> str:
    """Return one line for each option of a recipe: its dotted name, its default, and what it is.

    Example:
        >>> [line for line in describe_options().splitlines() if line.startswith("optimiser.lr ")]
        ['optimiser.lr = 0.0001: Learning rate at the height of the schedule.']
    """
    return "\n".join(_lines(Recipe, ""))


def _lines(model: type[BaseModel], place: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        full = f"{place}{name}"
        text = " ".join((field.description or "").split())
        default = field.get_default(call_default_factory=True, validated_data={})
        section, many = _section(field.annotation)
        if default is PydanticUndefined:
            shown = "required"
        elif isinstance(default, BaseModel):
            shown = "section"
        else:
            shown = f"= {json.dumps(default, default=str)}"
        yield f"{full} {shown}: {text}" if shown.startswith("=") else f"{full} ({shown}): {text}"
        if section is not None:
            yield from _lines(section, f"{full}[]." if many else f"{full}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section that an annotation holds, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    many = get_origin(annotation) is tuple
    for inner in get_args(annotation):
        section, _ = _section(inner)
        if section is not None:
            return section, many
    return None, False
