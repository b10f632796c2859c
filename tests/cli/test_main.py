import subprocess
import sys

import pytest

from fathom import __version__
from fathom.cli.main import COMMANDS, exit_code
from fathom.errors import ConfigError, InputError, MissingExtraError, ModelError, OutputError


def test_help_names_every_command(command):
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert "Usage" in out


def test_version(command):
    assert command("--version")[:2] == (0, f"fathom {__version__}\n")


def test_no_command_shows_help(command):
    code, out, err = command()
    assert code == 2
    assert "Usage" in out + err


def test_exit_codes():
    assert [exit_code(kind("x")) for kind in (ConfigError, ModelError, MissingExtraError)] == [2, 2, 2]
    assert [exit_code(kind("x")) for kind in (InputError, OutputError)] == [1, 1]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fathom", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fathom {__version__}\n"
