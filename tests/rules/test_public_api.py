"""The public names are frozen in `public_api.json`; a change there is a decision, not an accident."""

import inspect
import json
from pathlib import Path

import fathom

FROZEN = Path(__file__).with_name("public_api.json")


def public_api() -> dict[str, list[str]]:
    """Return each public name with the names of its parameters or its public members."""
    described: dict[str, list[str]] = {}
    for name in fathom.__all__:
        value = getattr(fathom, name)
        if inspect.isclass(value):
            described[name] = sorted(member for member in dir(value) if not member.startswith("_"))
        elif callable(value):
            described[name] = list(inspect.signature(value).parameters)
        else:
            described[name] = []
    return described


def test_public_names_are_frozen():
    frozen, now = json.loads(FROZEN.read_text()), public_api()
    removed = [f"{name}" for name in frozen if name not in now]
    removed += [f"{name}.{part}" for name in frozen if name in now for part in frozen[name] if part not in now[name]]
    assert not removed, (
        f"Removed from the public names: {', '.join(removed)}. Users rely on them: keep them for one release with a "
        "DeprecationWarning, then take them out of tests/rules/public_api.json and note it in CHANGELOG.md."
    )
    added = [name for name in now if name not in frozen]
    added += [f"{name}.{part}" for name in now if name in frozen for part in now[name] if part not in frozen[name]]
    assert not added, f"New public names: {', '.join(added)}. If they are meant, add them to public_api.json."


def test_dir_lists_the_public_names():
    assert dir(fathom) == sorted(fathom.__all__)


def test_an_unknown_name_is_told():
    try:
        fathom.no_such_name  # noqa: B018
    except AttributeError as error:
        assert "has no attribute 'no_such_name'" in str(error)
    else:
        raise AssertionError("an unknown name was found")
