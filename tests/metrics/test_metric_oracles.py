"""Every closed-form oracle of losses, metrics and alignment, and the table that documents them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")
pytest.importorskip("scipy")

REPOSITORY = Path(__file__).resolve().parents[2]


def _load_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("oracle_table", REPOSITORY / "benchmarks" / "oracle_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["oracle_table"] = module
    spec.loader.exec_module(module)
    return module


TABLE = _load_table()


@pytest.mark.parametrize("oracle", TABLE.ORACLES, ids=lambda oracle: f"{oracle.group}: {oracle.name}")
def test_oracle(oracle):
    got = oracle.compute()
    assert TABLE.is_met(oracle, got), f"expected {oracle.expected}, got {got}"


def test_documented_table_lists_every_oracle_with_its_expected_value():
    rows = (REPOSITORY / "docs" / "oracles_losses_metrics.md").read_text(encoding="utf-8")
    for oracle in TABLE.ORACLES:
        name = oracle.name.replace("|", "\\|")
        assert f"| {oracle.group} | {name} | {TABLE.format_value(oracle.expected)} |" in rows
    assert "**NO**" not in rows
