"""Files appear whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fathom.errors import OutputError
from fathom.io import DEPTH_FORMATS, TEMPORARY_PREFIX, write_atomic, write_depth
from fathom.types import Depth, DepthKind

DEPTH = Depth(np.ones((8, 9)), DepthKind.METRIC_DEPTH)


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a" / "b" / "c.bin", [b"one"])
    assert write_atomic(path, [b"t", b"wo"]).read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["c.bin"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = write_atomic(tmp_path / "a.bin", [b""])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_failure_leaves_the_old_file_and_no_temporary(error: type[BaseException], tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a.bin", [b"old"])

    def pieces() -> Iterator[bytes]:
        yield b"new"
        assert len(list(tmp_path.iterdir())) == 2
        raise error

    with pytest.raises(error):
        write_atomic(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class FullDisk:
    """A file on which only the first bytes find room."""

    def __init__(self, file: object) -> None:
        self.file = file

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *details: object) -> None:
        self.file.close()  # type: ignore[attr-defined]

    def write(self, chunk: bytes) -> int:
        self.file.write(bytes(chunk)[:10])  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", DEPTH_FORMATS)
def test_full_disk_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def full_open(path: Path, mode: str = "r", *rest: object) -> object:
        file = real_open(path, mode, *rest)  # type: ignore[arg-type]
        return FullDisk(file) if "x" in mode else file

    monkeypatch.setattr(Path, "open", full_open)
    with pytest.raises(OutputError, match="No space left on device"):
        write_depth(DEPTH, tmp_path / ("a" + DEPTH_FORMATS[name].suffixes[0]))
    assert list(tmp_path.iterdir()) == []


def test_exr_says_when_the_scratch_folder_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="set TMPDIR"):
        write_depth(DEPTH, tmp_path / "a.exr")


def test_unwritable_targets(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="not an ordinary file"):
        write_atomic(tmp_path / "folder", [b""])
    with pytest.raises(OutputError, match="Cannot write"):
        write_atomic(tmp_path / "file" / "inside.bin", [b""])
    with pytest.raises(OutputError, match="not an ordinary file"):
        write_atomic("/dev/null", [b""])
    with pytest.raises(OutputError, match="Cannot write"):
        write_atomic(tmp_path / ("n" * 300), [b""])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomic(tmp_path / "a.bin", [b""])


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / ("n" * 255), [b"x"]).read_bytes() == b"x"


KILLED = """
import os, signal, sys
from fathom.io import write_atomic
def pieces():
    yield b"half"
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(sys.argv[1], pieces())
"""


def test_what_a_killed_process_left_is_removed_at_the_next_write(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.bin")], check=False)
    [left] = tmp_path.iterdir()
    assert killed.returncode == -signal.SIGKILL and left.name.startswith(TEMPORARY_PREFIX)
    host, dead, word = left.name.removeprefix(TEMPORARY_PREFIX).split("-")
    kept = {
        f"{TEMPORARY_PREFIX}{host}-{os.getpid()}-{word}",  # of a process that lives: this one
        f"{TEMPORARY_PREFIX}{host}-1-{word}",  # and one that may belong to somebody else
        f"{TEMPORARY_PREFIX}{int(host, 16) ^ 1:08x}-{dead}-{word}",  # of another machine
        f"{TEMPORARY_PREFIX}mine.tmp",
    }
    for name in kept:
        (tmp_path / name).touch()
    path = write_atomic(tmp_path / "a.bin", [b"whole"])
    assert path.read_bytes() == b"whole" and {entry.name for entry in tmp_path.iterdir()} == {"a.bin", *kept}


def test_a_folder_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []
    real_listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: searched.append(folder) or real_listdir(folder))
    for number in range(3):
        write_atomic(tmp_path / f"{number}.bin", [b""])
    assert searched == [tmp_path.resolve()]
