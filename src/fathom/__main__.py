"""``python -m fathom`` is the command ``fathom``."""

from fathom.cli.main import run

if __name__ == "__main__":
    run()
