"""Converters whose pins clash with Fathom's run in a virtual environment of their own.

Nothing is installed here: where an environment is missing, the error prints the one command that makes it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fathom.errors import MissingExtraError, ModelError, require

FOLDER_VARIABLE = "FATHOM_ENVIRONMENTS"
"""Environment variable with the folder of all such environments."""
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Environment:
    """One virtual environment.

    Args:
        name: Its folder.
        requirements: What pip installs there.
        reason: Why it cannot share Fathom's environment.
    """

    name: str
    requirements: tuple[str, ...]
    reason: str

    @property
    def folder(self) -> Path:
        """Where it lies: under ``$FATHOM_ENVIRONMENTS``, else in the user's cache."""
        stated = os.environ.get(FOLDER_VARIABLE)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return (Path(stated) if stated else cache / "fathom" / "environments") / self.name

    @property
    def programs(self) -> Path:
        """Folder of its programs."""
        return self.folder / ("Scripts" if sys.platform == "win32" else "bin")

    def command(self) -> str:
        """Return the command that makes it.

        Example:
            >>> "pip install 'onnx2tf==" in ONNX2TF.command()
            True
        """
        packages = " ".join(f"'{requirement}'" for requirement in self.requirements)
        return f"{sys.executable} -m venv '{self.folder}' && '{self.programs / 'python'}' -m pip install {packages}"

    def run(self, arguments: Sequence[str], *, cwd: Path, purpose: str) -> str:
        """Run Python there and return what it printed.

        Args:
            arguments: For its interpreter, for instance ``["-m", "onnx2tf", ...]``.
            cwd: Folder to run in.
            purpose: Start of an error sentence ("Export to LiteRT").

        Raises:
            MissingExtraError: If the environment is not there.
            ModelError: If the program fails.
        """
        python = self.programs / ("python.exe" if sys.platform == "win32" else "python")
        if not python.exists():
            raise MissingExtraError(
                f"{purpose} needs {self.name} in an environment of its own ({self.reason}). Run: {self.command()}"
            )
        # Fathom's own packages must not leak in.
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            done = subprocess.run(
                [str(python), *arguments],
                cwd=cwd,
                env={**clean, "TF_CPP_MIN_LOG_LEVEL": "3"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"{purpose}: {self.name} did not finish within {TIMEOUT_SECONDS} s.") from None
        if done.returncode != 0:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            # A message of many lines ends with arrays and lists; the line that names the error says more.
            named = [line for line in said if re.match(r"[\w.]*(Error|Exception): ", line)]
            said = named or said or [f"exit code {done.returncode}"]
            raise ModelError(f"{purpose}: {self.name} failed: {said[-1]}")
        return done.stdout


def require_alone(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a converter so that it does not pull TensorFlow and ExecuTorch into one process.

    coremltools imports both where they are installed; each brings its own LLVM, and the second one ends the process.
    What is loaded already stays; the other looks absent while the converter is imported.

    Raises:
        MissingExtraError: If the converter is not installed.
    """
    hidden = [name for name in ("tensorflow", "executorch") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        return require(module, extra, purpose)
    finally:
        for name in hidden:
            del sys.modules[name]


ONNX2TF = Environment(
    "onnx2tf",
    ("onnx2tf==1.29.24",),
    "it pins older numpy, onnx, onnxruntime and protobuf",
)
"""Makes SavedModel folders and LiteRT files from ONNX."""
