"""THIRD_PARTY.md names every dependency of pyproject.toml, its reason and its licence, and no other Python package."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_dependency_has_a_reason_and_a_licence():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for part in project["optional-dependencies"].values() for line in part)]
    wanted = {re.match(r"[\w.-]+", line)[0] for line in lines} - {project["name"]}
    table = [line for line in (REPOSITORY / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:] if "(npm)" not in line]
    assert all(len(row) == 4 and all(row) for row in rows)
    assert {name for row in rows for name in row[0].split(", ")} == wanted
