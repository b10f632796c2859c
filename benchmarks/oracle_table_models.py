"""Print every closed-form number that the networks must meet: section of the specification, expected, got.

Run ``python benchmarks/oracle_table_models.py``. The rows live beside the tests, which check the same ones.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))

from oracles_a import ORACLES as FIRST
from oracles_a import matches
from oracles_b import ORACLES as SECOND


def main() -> int:
    """Print the table; return 1 if a row is wrong."""
    wrong = 0
    print("| oracle | expected | got | |\n|---|---|---|---|")
    for name, expected, compute in [*FIRST, *SECOND]:
        got = compute()
        fits = matches(expected, got)
        wrong += not fits
        print(f"| {name} | {show(expected)} | {show(got)} | {'ok' if fits else '**wrong**'} |")
    return int(wrong > 0)


def show(value: object) -> str:
    """Write a number with separators, sizes as height x width."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return "x".join(str(item) for item in value)
    if isinstance(value, list):
        return ", ".join(show(item) for item in value)
    return f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
