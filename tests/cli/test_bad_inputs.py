"""Odd and bad inputs; the list lives in `benchmarks/bad_inputs.py`, which prints it as a table."""

import pytest
from cli_helpers import bad_inputs

PARAMETERS = [
    pytest.param(case, id=case.name.replace(" ", "-"), marks=[pytest.mark.slow] if case.heavy else [])
    for case in bad_inputs.CASES
]


@pytest.mark.parametrize("case", PARAMETERS)
def test_what_comes_out(case, tmp_path, metric_model):
    folder = tmp_path.resolve() / "in"
    folder.mkdir()
    code, printed, _ = bad_inputs.run_case(case, folder, metric_model)
    assert not bad_inputs.verdict(case, code, printed, folder), printed
    assert "Traceback" not in printed
    assert not list(folder.rglob(".fathom-*")), "a temporary file was left behind"


def test_there_are_enough_kinds():
    assert len(bad_inputs.CASES) >= 40
    assert len({case.name for case in bad_inputs.CASES}) == len(bad_inputs.CASES)
