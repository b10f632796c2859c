"""Strict configuration: the base model, and a loader for YAML and JSON whose errors are plain sentences.

Files are read as plain data and validated in the JSON mode of pydantic, which accepts a list for a tuple and text for
a path, and still refuses ``"10"`` where a number is wanted.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fathom.errors import ConfigError


class StrictConfig(BaseModel):
    """Base of every configuration section: strict types, no unknown keys, frozen.

    The docstring under a field is its help text.

    Example:
        >>> class Range(StrictConfig):
        ...     min_depth: float = 0.1
        >>> Range(min_depth=1).min_depth
        1.0
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        # A float field may be infinite only where its own bounds say so.
        allow_inf_nan=False,
    )


Config = TypeVar("Config", bound=BaseModel)


def nearest_name(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest known word, then all of them.

    Example:
        >>> nearest_name("max_dept", ["root", "min_depth", "max_depth"])
        "Did you mean 'max_depth'? Known: root, min_depth, max_depth."
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def load_config(path: str | Path, model: type[Config], overrides: Iterable[str] = ()) -> Config:
    """Read a YAML or JSON file into a configuration.

    Args:
        path: File with one mapping; ``.json`` is read as JSON, anything else as YAML.
        model: Configuration class.
        overrides: Changes of the form ``section.key=value``; the value is read as YAML.

    Returns:
        The validated, frozen configuration.

    Raises:
        ConfigError: If the file cannot be read, or a value is wrong; every wrong value is named at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8; expected a YAML or JSON file.") from None
    try:
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        line = place.line + 1 if place is not None else getattr(error, "lineno", None)
        reason = getattr(error, "problem", None) or getattr(error, "msg", "unreadable")
        where = f", line {line}" if line else ""
        raise ConfigError(
            f"{path}{where}: not a valid {'JSON' if path.suffix == '.json' else 'YAML'} file: {reason}."
        ) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of names to values; got {_what(values)}.")
    for change in overrides:
        _override(values, change)
    return parse_config(values, model, source=str(path))


def parse_config(values: Mapping[str, Any], model: type[Config], source: str = "configuration") -> Config:
    """Validate plain values as a configuration.

    Args:
        values: Plain data, as YAML or JSON gives it.
        model: Configuration class.
        source: Named first in an error.

    Raises:
        ConfigError: If a key is unknown or a value is wrong; all are named at once.

    Example:
        >>> class Range(StrictConfig):
        ...     max_depth: float
        >>> parse_config({"max_dept": 10.0}, Range, source="a.yaml")
        Traceback (most recent call last):
        ...
        fathom.errors.ConfigError: a.yaml: 2 errors.
          'max_depth' is missing.
          Unknown option 'max_dept'. Did you mean 'max_depth'? Known: max_depth.
    """
    try:
        text = json.dumps(values, allow_nan=True)
    except TypeError as error:
        raise ConfigError(f"{source}: only text, numbers, lists, mappings and null can be read: {error}.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        sentences = [_sentence(item, model) for item in error.errors(include_url=False)]
    if len(sentences) == 1:
        raise ConfigError(f"{source}: {sentences[0]}")
    raise ConfigError("\n  ".join([f"{source}: {len(sentences)} errors.", *sentences]))


def _override(values: dict[str, Any], change: str) -> None:
    """Set one dotted key in nested mappings."""
    dotted, equals, text = change.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"A change is written section.key=value; got '{change}'.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"The value of '{dotted}' is not valid YAML: {text}") from None
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{dotted}' cannot be set: '{key}' is {_what(inner)}, not a section.")
        values = inner
    values[keys[-1]] = value


def _what(value: Any) -> str:
    """Name a plain value in a sentence."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text '{value}'"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "a section"
    return str(value)


_EXPECTED = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section of names and values",
    "model": "a section of names and values",
    "path": "a path",
}


def _sentence(item: Any, model: type[BaseModel]) -> str:
    """Turn one pydantic error into what was expected, what came, what to do."""
    place = ".".join(str(part) for part in item["loc"]) or "the file"
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"Unknown option '{place}'. {nearest_name(str(item['loc'][-1]), known)}"
    if kind == "missing":
        return f"'{place}' is missing."
    if kind == "value_error":  # a validator of ours: its own sentence, as it stands
        return str(context.get("error", item["msg"])) if place == "the file" else f"'{place}': {context.get('error')}"
    if kind in ("literal_error", "enum"):
        return f"'{place}' must be {context['expected']}; got {_what(value)}."
    base = kind.rsplit("_", 1)[0]
    if base in _EXPECTED and kind.endswith(("_type", "_parsing")):
        if base in ("float", "int") and isinstance(value, str) and _is_number(value):
            return (
                f"'{place}' must be {_EXPECTED[base]}; got the text '{value}'. "
                f"YAML reads a number only without quotes and with a dot before the exponent: write {_as_yaml(value)}."
            )
        return f"'{place}' must be {_EXPECTED[base]}; got {_what(value)}."
    message = item["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    return f"'{place}' must be {message}; got {_what(value)}."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_yaml(text: str) -> str:
    """Write a number so that YAML 1.1 reads it as one."""
    mantissa, letter, exponent = text.lower().partition("e")
    if letter and "." not in mantissa:
        mantissa += ".0"
    if letter and exponent[:1] not in "+-":
        exponent = f"+{exponent}"
    return mantissa + letter + exponent


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """List the names that are known at a place in nested sections."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", None)
        if isinstance(part, str) and fields and part in fields:
            current = _section(fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _section(annotation: Any) -> Any:
    """Find the section class inside an annotation such as ``Section | None`` or ``list[Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _section(inner)
        if found is not None:
            return found
    return None
