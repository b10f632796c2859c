"""Tiny models for the command, and the command itself."""

import pytest
from cli_helpers import bad_inputs

from tiny_models import make_model


@pytest.fixture(scope="session")
def metric_model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "metric"))


@pytest.fixture(scope="session")
def relative_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "relative"
    return str(make_model(folder, name="tiny-relative", kind="affine_invariant_inverse_depth"))


@pytest.fixture
def command():
    """Run ``fathom`` with arguments; returns exit code, standard output, standard error."""
    return lambda *arguments, stdin=b"": bad_inputs.run_command([str(word) for word in arguments], stdin)
