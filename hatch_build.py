"""Build step of the package: bundle the web page with npm and Vite, where Node.js is there.

The page must never stand in the way of an installation: without Node.js, without a network, or when the bundling takes
too long, a note is printed and the package is built without it (the server then says what it lacks). Everything
happens in a temporary folder; only ``src/fathom/serve/web`` is written.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TIME_LIMIT_S = 55.0
STAMP = ".source-hash"
"""Names the sources that a built page was made from, so that an unchanged page is not built again."""
SKIPPED = ("node_modules", "dist")


class WebPageHook(BuildHookInterface):
    """Bundles ``web/`` into ``src/fathom/serve/web``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page if it is missing or older than its sources."""
        source = Path(self.root, "web")
        target = Path(self.root, "src", "fathom", "serve", "web")
        if not (source / "package-lock.json").is_file():
            return
        stamp = source_hash(source)
        if (target / STAMP).is_file() and (target / STAMP).read_text() == stamp:
            return
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            self.app.display_warning("Node.js is not here: fathom is built without its web page (Node.js 20 or newer).")
            return
        try:
            build_page(npm, source, target, stamp)
        except (OSError, subprocess.SubprocessError) as error:
            kept = "that of an earlier build is kept" if target.is_dir() else "fathom is built without it"
            self.app.display_warning(f"The web page could not be built, {kept}: {error}")


def source_hash(source: Path) -> str:
    """Return the SHA-256 over names and contents of the page's sources."""
    total = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and relative.parts[0] not in SKIPPED:
            total.update(f"{relative.as_posix()}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def is_installed(source: Path) -> bool:
    """Return whether a developer's `npm ci` has put in place what the lock file names."""
    done = source / "node_modules" / ".package-lock.json"
    return done.is_file() and done.stat().st_mtime >= (source / "package-lock.json").stat().st_mtime


def build_page(npm: str, source: Path, target: Path, stamp: str) -> None:
    """Bundle the page in a temporary folder and put the result in place.

    Raises:
        subprocess.SubprocessError: If npm or Vite fails, or the time is up.
        OSError: If a folder cannot be written.
    """
    deadline = time.monotonic() + TIME_LIMIT_S
    with tempfile.TemporaryDirectory(prefix="fathom-web-") as folder:
        work = Path(folder, "web")
        shutil.copytree(source, work, ignore=shutil.ignore_patterns(*SKIPPED))
        environment = os.environ | {
            "npm_config_cache": str(Path(folder, "cache")),
            "npm_config_fetch_retries": "1",
            "npm_config_fetch_retry_mintimeout": "1000",
            "npm_config_fetch_timeout": "20000",
        }
        if is_installed(source):
            (work / "node_modules").symlink_to(source / "node_modules", target_is_directory=True)
        else:
            run([npm, "ci", "--omit=dev", "--no-progress"], work, environment, deadline)
        run([npm, "run", "build", "--", "--outDir", "out"], work, environment, deadline)
        (work / "out" / STAMP).write_text(stamp)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(work / "out", target)


def run(command: list[str], folder: Path, environment: dict[str, str], deadline: float) -> None:
    """Run a command, and end it with all its children when the time is up."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            raise
    if process.returncode != 0:
        raise subprocess.SubprocessError(f"{' '.join(command[1:3])} failed: {output.strip()[-400:]}")
