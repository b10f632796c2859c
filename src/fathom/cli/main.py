"""The command ``fathom``: gathers the commands, and turns errors into one line and an exit code."""

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from fathom.errors import ConfigError, FathomError, KindError, MissingExtraError, ModelError
from fathom.version import __version__

COMMANDS = ("predict", "models", "demo", "export", "benchmark", "serve", "data", "evaluate", "train", "runs")
"""One module of this package for each; it holds a function of that name, or a typer app called ``app``."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

app = typer.Typer(
    name="fathom",
    help="Depth from one picture: maps that say what they are.",
    no_args_is_help=True,
    add_completion=False,  # installing it would write to the user's shell files
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fathom {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""


for _name in COMMANDS:
    _module = import_module(f"fathom.cli.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name)(getattr(_module, _name))


def exit_code(error: FathomError) -> int:
    """Return 2 where the user's words were wrong, 1 where the work failed."""
    return 2 if isinstance(error, ConfigError | ModelError | KindError | MissingExtraError) else 1


def run() -> None:
    """Run the command line."""
    # A file name may hold any bytes; printing one must not end the program.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except FathomError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
