"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed."""

import os
import re
import secrets
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fathom.errors import OutputError

TEMPORARY_PREFIX = ".fathom-"
"""How temporary names start. A killed process may leave one behind, never half a file under its own name; the next
process that writes into the folder removes it."""

Chunk = bytes | bytearray | memoryview


def _host() -> int:
    """Number the machine, and the container: elsewhere a process number belongs to another process, or to none."""
    name = os.uname().nodename if hasattr(os, "uname") else ""
    with suppress(OSError):  # only Linux has it
        name += os.readlink("/proc/self/ns/pid")
    return zlib.crc32(name.encode())


_HOST = _host()
_LEFT_BEHIND = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}{_HOST:08x}-(\d{{1,9}})-[0-9a-f]{{16}}\.tmp")
_cleaned: set[Path] = set()


def write_atomic(path: str | os.PathLike[str], chunks: Iterable[Chunk]) -> Path:
    """Write a file under a temporary name in the same folder, then rename it over the target.

    The folder is made where it is missing. Two writers of one path never mix: the last rename wins. The temporary file
    is removed on every failure, the interrupt of the user included.

    Args:
        path: The file to write; an existing file is replaced.
        chunks: Pieces of the content, in order.

    Returns:
        The path as `Path`.

    Raises:
        OutputError: If the folder cannot be made or written, the disk is full, or the target is not an ordinary file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder, "a", "b.bin"), [b"12", b"3"]).read_bytes()
        b'123'
    """
    target = Path(path)
    # A short random name of our own: the target's name may already use up the length a file system allows.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{_HOST:08x}-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        if target.exists() and not target.is_file():
            raise OutputError(
                f"Expected a file name to write to; '{target}' exists and is not an ordinary file. Choose another name."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(target.parent)
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):  # it may never have come into being; the first error is the one to tell
                temporary.unlink()
            raise
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write '{target}': {error.strerror or error}. "
            "Check that the folder exists, may be written to, and has room."
        ) from error
    return target


def _remove_left_behind(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, once for each folder and process."""
    folder = folder.resolve()
    if folder in _cleaned or os.name != "posix":  # elsewhere a signal of 0 is not harmless
        return
    _cleaned.add(folder)
    with suppress(OSError):  # a folder that may be written to but not listed, or a file that another one just removed
        for name in os.listdir(folder):
            match = _LEFT_BEHIND.fullmatch(name)
            if match is not None and not _is_alive(int(match[1])):
                (folder / name).unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
