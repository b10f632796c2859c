"""What a user names as input: files, folders, globs, standard input, addresses; and what their outputs are called.

Nothing is ever fetched unless the user wrote its address.
"""

import glob
import itertools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from fathom.errors import ConfigError, InputError
from fathom.io import PICTURE_SUFFIXES, TEMPORARY_PREFIX

STDIN = "-"
MAX_FETCHED_BYTES = 64 * 2**20
"""Largest answer taken from an address, and most bytes taken from standard input."""
MAX_FETCH_SECONDS = 60.0
"""Longest time one address may take in all."""
_SOCKET_SECONDS = 15.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to read.

    Args:
        label: What the user calls it: a path, an address, or ``-``.
        name: Path under the output folder that it asks for, without suffix; ``/`` separates folders.
        suffix: Suffix of its file name, without dot; empty where it has none.
        folder: Folder it lies in, absolute; empty for an address or standard input.
    """

    label: str
    name: str
    suffix: str = ""
    folder: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a path on this machine."""
        return bool(self.folder)


def is_address(text: str) -> bool:
    """Tell whether a text is an http or https address.

    Example:
        >>> is_address("https://example.org/a.jpg"), is_address("a.jpg")
        (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


def expand_sources(
    sources: Iterable[str | Path], *, recursive: bool = False, leave_out: str | Path | None = None
) -> tuple[list[Source], list[tuple[str, str]]]:
    """List the pictures that a user's words mean, in order, each once.

    A folder means the files in it with a picture's suffix, sorted by name, hidden ones left out. A path that exists is
    never taken for a glob. A file that does not exist is listed all the same: reading it tells why it fails.

    Args:
        sources: Files, folders, globs, ``-`` for standard input, and http(s) addresses.
        recursive: Look into the folders of a folder, too.
        leave_out: Folder that is not searched: where the outputs go.

    Returns:
        The pictures, and for each word that means none of them, the word and the reason.

    Raises:
        ConfigError: If standard input is named twice, or a searched folder is where the outputs go.
    """
    found: dict[str, Source] = {}
    empty: list[tuple[str, str]] = []
    hidden = os.path.realpath(leave_out) if leave_out is not None else None
    for source in sources:
        text = os.fspath(source)
        if text == STDIN:
            if STDIN in found:
                raise ConfigError("Standard input (-) can be read once; it is named twice. Name it once.")
            found[STDIN] = Source(STDIN, "stdin")
        elif is_address(text):
            stem, suffix = _address_name(text)
            found.setdefault(text, Source(text, stem, suffix))
        elif os.path.isdir(text):
            if hidden is not None and os.path.realpath(text) == hidden:
                raise ConfigError(
                    f"The outputs would go into the folder that is searched, {_shown(text)}, and be taken for pictures "
                    "next time. Choose another output folder."
                )
            paths = _pictures_in(text, recursive, hidden)
            if not paths:
                deeper = "" if recursive else " Its own folders are searched with --recursive."
                empty.append((text, f"There is no picture in the folder '{_shown(text)}'.{deeper}"))
            for path in paths:
                _add(found, path, os.path.relpath(path, text))
        elif not os.path.lexists(text) and glob.has_magic(text):
            matches = sorted(path for path in glob.glob(text, recursive=True) if not os.path.isdir(path))
            if not matches:
                empty.append((text, f"No file matches '{_shown(text)}'. Check the pattern, or quote it less."))
            base = _fixed_part(text)
            for path in matches:
                _add(found, path, os.path.relpath(path, base or "."))
        else:
            _add(found, text, os.path.basename(text))
    return list(found.values()), empty


def _add(found: dict[str, Source], path: str, relative: str) -> None:
    absolute = os.path.abspath(path)
    stem, suffix = os.path.splitext(relative)
    found.setdefault(absolute, Source(path, stem.replace(os.sep, "/"), suffix[1:], os.path.dirname(absolute) or "/"))


def _pictures_in(folder: str, recursive: bool, hidden: str | None) -> list[str]:
    paths: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if recursive and not name.startswith(".") and os.path.realpath(os.path.join(place, name)) != hidden
        )
        paths.extend(
            os.path.join(place, name)
            for name in sorted(files)
            if not name.startswith((".", TEMPORARY_PREFIX)) and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES
        )
    # A pipe or a device in a folder would block for ever; a link that leads nowhere stays, and its reading fails.
    return [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]


def _fixed_part(pattern: str) -> str:
    """Return the folders of a glob before its first wildcard."""
    kept = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        kept.append(part)
    return os.path.join(*kept) if kept else ""


def _address_name(address: str) -> tuple[str, str]:
    """Return a safe file stem and suffix for an address; nothing in it can name another folder."""
    try:
        path = urlsplit(address).path
    except ValueError:  # not an address after all; fetching it tells
        path = ""
    last = unquote(path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, suffix = os.path.splitext(last)
    stem = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in stem).strip(" .")
    return (stem or "download")[:100], suffix[1:]


def _shown(text: str) -> str:
    """Return a path as text that can be printed, whatever bytes it holds."""
    return os.fsencode(text).decode("utf-8", "replace")


def name_outputs(sources: Sequence[Source], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Choose the start of the output names of each source, so that no two outputs, and no input, share a file.

    ``x/room.jpg`` becomes ``FOLDER/room``; a file of a searched folder keeps its sub-folders. Where two would write one
    file, files of different folders keep as many folders as tell them apart, and files of one folder add their suffix
    (``room_jpg``, ``room_png``); what then still clashes gets a number. Upper and lower case count as equal, because
    many file systems take them so.

    Args:
        sources: What `expand_sources` listed.
        folder: Output folder.
        suffixes: What each output adds to the start.

    Returns:
        One path for each source, in order.

    Example:
        >>> pair = [Source("a/room.jpg", "room", "jpg", "/a"), Source("b/room.jpg", "room", "jpg", "/b")]
        >>> [path.as_posix() for path in name_outputs(pair, Path("out"), [".png"])]
        ['out/a/room', 'out/b/room']
    """
    names = [source.name for source in sources]
    for clash in _clashes(names):
        files = [index for index in clash if sources[index].is_file]
        if len({sources[index].folder for index in files}) > 1:
            common = os.path.commonpath([sources[index].folder for index in files])
            for index in files:
                inside = os.path.relpath(sources[index].folder, common).replace(os.sep, "/")
                names[index] = f"{inside}/{os.path.basename(names[index])}".removeprefix("./")
    for clash in _clashes(names):
        for index in clash:
            if sources[index].suffix:
                names[index] += f"_{sources[index].suffix.lower()}"
    taken = {
        os.path.realpath(os.path.join(source.folder, os.path.basename(source.label))).casefold()
        for source in sources
        if source.is_file
    }
    root = os.path.realpath(folder)
    chosen = []
    for name, source in zip(names, sources, strict=True):
        ending = f"_{source.suffix.lower()}"
        with_suffix = [name + ending] if source.suffix and not name.endswith(ending) else []
        for candidate in itertools.chain([name], with_suffix, (f"{name}_{number}" for number in itertools.count(2))):
            made = {os.path.join(root, candidate + suffix).casefold() for suffix in suffixes}
            if not made & taken:
                break
        taken |= made
        chosen.append(folder / candidate)
    return chosen


def _clashes(names: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name.casefold(), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def open_source(source: Source) -> Path | bytes:
    """Return what `fathom.io.read_image` takes: a path, or the bytes of standard input or an address.

    Raises:
        InputError: If an address or standard input gives nothing, too much, or fails.
    """
    if source.is_file:
        return Path(source.label)
    if source.label == STDIN:
        return _limited(sys.stdin.buffer, "standard input", float("inf"))
    return fetch(source.label)


def fetch(address: str) -> bytes:
    """Fetch one address, within `MAX_FETCHED_BYTES` and `MAX_FETCH_SECONDS`; only http and https, redirects included.

    Raises:
        InputError: If it cannot be had within these limits.
    """
    # Imported here: the network code of the standard library would cost every cold start some 20 ms.
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    deadline = time.monotonic() + MAX_FETCH_SECONDS
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "fathom-depth", "Accept": "image/*"})
        with opener.open(request, timeout=_SOCKET_SECONDS) as answer:
            stated = answer.headers.get("Content-Length", "")
            if stated.isdigit() and int(stated) > MAX_FETCHED_BYTES:
                raise InputError(_too_large(address))
            return _limited(answer, address, deadline)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        raise InputError(f"{address} answered {error.code} {error.reason}. Check the address.") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"Cannot fetch {address}: {reason}. Check the address and the network.") from error


def _limited(stream: IO[bytes], name: str, deadline: float) -> bytes:
    """Read a stream to its end, within the limits."""
    content = bytearray()
    while chunk := stream.read(_CHUNK):
        content += chunk
        if len(content) > MAX_FETCHED_BYTES:
            raise InputError(_too_large(name))
        if time.monotonic() > deadline:
            raise InputError(f"{name} took longer than {MAX_FETCH_SECONDS:g} s. Save it to a file first.")
    if not content:
        raise InputError(f"Expected a picture; {name} gave no data.")
    return bytes(content)


def _too_large(name: str) -> str:
    return f"{name} is larger than {MAX_FETCHED_BYTES // 2**20} MB. Save it to a file first."
