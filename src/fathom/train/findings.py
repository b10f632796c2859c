"""What a check found, and the file it is written to."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fathom.io.atomic import write_atomic

LINT_FILE = "lint.json"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: Its name.
        level: ``"ok"``, or ``"warning"`` for what is probably a mistake.
        text: One or two sentences.
    """

    check: str
    level: Literal["ok", "warning"]
    text: str


def write_findings(folder: Path, findings: list[Finding]) -> None:
    """Save what was found."""
    write_atomic(folder / LINT_FILE, [json.dumps([asdict(finding) for finding in findings], indent=2).encode()])


def add_finding(folder: Path, finding: Finding) -> None:
    """Add what was found during training to what was found before it."""
    path = folder / LINT_FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    write_atomic(path, [json.dumps([*found, asdict(finding)], indent=2).encode()])
