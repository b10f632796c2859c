"""docs/dependencies.md names every dependency of pyproject.toml and no other."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE_NAMES = {"core", "dev", "extra"}


def wanted():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for part in project["optional-dependencies"].values() for line in part)]
    names = {re.match(r"[\w.-]+", line)[0] for line in lines}
    return names - {project["name"]}


def told():
    names = set()
    for line in (REPOSITORY / "docs" / "dependencies.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not line.startswith("|--") and cells[0] not in TABLE_NAMES:
            assert cells[-1], line
            names.update(cells[-2].split(", "))
    return names


def test_every_dependency_has_a_reason():
    assert told() == wanted()
