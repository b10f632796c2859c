import http.server
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from fathom import sources as module
from fathom.errors import ConfigError, InputError
from fathom.sources import Source, expand_sources, fetch, name_outputs, open_source


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(sources):
    return [source.name for source in sources]


def test_a_folder_means_its_pictures_sorted_and_without_hidden_ones(tmp_path):
    touch(
        *(tmp_path / name for name in ("b.JPG", "a.png", ".c.png", "._d.jpg", "notes.txt", "sub/e.jpg", ".git/f.jpg"))
    )
    found, empty = expand_sources([tmp_path])
    assert names(found) == ["a", "b"]
    assert not empty
    found, _ = expand_sources([tmp_path], recursive=True)
    assert names(found) == ["a", "b", "sub/e"]


def test_the_output_folder_is_never_searched(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "out" / "a.png")
    found, _ = expand_sources([tmp_path], recursive=True, leave_out=tmp_path / "out")
    assert names(found) == ["a"]
    with pytest.raises(ConfigError, match="Choose another output folder"):
        expand_sources([tmp_path], leave_out=tmp_path)


def test_globs(tmp_path, monkeypatch):
    touch(*(tmp_path / name for name in ("x/1/a.jpg", "x/2/a.jpg", "x/b.txt", "odd[1].jpg")))
    found, empty = expand_sources([str(tmp_path / "x" / "*" / "*.jpg")])
    assert names(found) == ["1/a", "2/a"]
    found, _ = expand_sources([str(tmp_path / "**" / "*.jpg")])
    assert names(found) == ["odd[1]", "x/1/a", "x/2/a"]
    found, _ = expand_sources([str(tmp_path / "odd[1].jpg")])
    assert names(found) == ["odd[1]"]
    found, empty = expand_sources([str(tmp_path / "*.tif")])
    assert not found
    assert "No file matches" in empty[0][1]
    monkeypatch.chdir(tmp_path)
    assert names(expand_sources(["*/*/a.jpg"])[0]) == ["x/1/a", "x/2/a"]


def test_each_picture_is_listed_once_and_a_missing_one_is_kept(tmp_path):
    touch(tmp_path / "a.jpg")
    found, _ = expand_sources([tmp_path / "a.jpg", tmp_path, tmp_path / "x" / ".." / "a.jpg", tmp_path / "none.jpg"])
    assert names(found) == ["a", "none"]


def test_standard_input_is_read_once(monkeypatch):
    with pytest.raises(ConfigError, match="read once"):
        expand_sources(["-", "-"])
    (source,), _ = expand_sources(["-"])
    assert source.name == "stdin"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    assert open_source(source) == b"abc"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match="no data"):
        open_source(source)


@pytest.mark.parametrize(
    ("address", "name", "suffix"),
    [
        ("https://example.org/a/room.jpg?size=3#x", "room", "jpg"),
        ("http://example.org", "download", ""),
        ("https://example.org/..%2F..%2Fetc%2Fpasswd", "passwd", ""),
        ("https://example.org/a%00b.png", "a_b", "png"),
        ("https://example.org/%2e%2e", "download", ""),
        ("https://example.org/..%5C..%5Cx.png", "x", "png"),
    ],
)
def test_an_address_cannot_name_another_folder(address, name, suffix):
    (source,), _ = expand_sources([address])
    assert (source.name, source.suffix, source.is_file) == (name, suffix, False)


def file_source(path, relative=None):
    path = Path(path)
    stem = str(Path(relative or path.name).with_suffix(""))
    return Source(str(path), stem, path.suffix[1:], os.path.dirname(os.path.abspath(path)))


def made(paths, suffixes=(".png",), out="/out"):
    stems = name_outputs([file_source(*(p if isinstance(p, tuple) else (p,))) for p in paths], Path(out), suffixes)
    return [stem.as_posix().removeprefix(f"{out}/") for stem in stems]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/p/room.jpg"], ["room"]),
        (["/p/room.jpg", "/p/kitchen.jpg"], ["room", "kitchen"]),
        (["/p/a/room.jpg", "/p/b/room.jpg"], ["a/room", "b/room"]),
        (["/p/a/room.jpg", "/p/b/room.jpg", "/p/hall.jpg"], ["a/room", "b/room", "hall"]),
        (["/p/room.jpg", "/p/room.png"], ["room_jpg", "room_png"]),
        (["/p/Room.jpg", "/p/room.png"], ["Room_jpg", "room_png"]),
        (["/p/room.jpg", "/p/room.JPG"], ["room_jpg", "room_jpg_2"]),
        (["/p/room.jpg", "/p/room.png", "/p/room_jpg.gif"], ["room_jpg", "room_png", "room_jpg_gif"]),
        (["/p/a/room.jpg", "/p/room.jpg"], ["a/room", "room"]),
        ([("/p/x/s/1.jpg", "s/1.jpg"), ("/p/y/s/1.jpg", "s/1.jpg")], ["x/s/1", "y/s/1"]),
        (["/p/room", "/p/room.jpg"], ["room", "room_jpg"]),
    ],
)
def test_names_never_clash(paths, expected):
    assert made(paths) == expected


def test_one_pictures_output_is_not_anothers():
    # room_color.png would be both the colour picture of room.jpg and the depth of room_color.jpg.
    assert made(["/p/room.jpg", "/p/room_color.jpg"], (".png", "_color.png")) == ["room", "room_color_jpg"]


def test_no_input_is_overwritten():
    assert made(["/p/room.png"], out="/p") == ["room_png"]
    assert made(["/p/room.jpg", "/p/room_jpg.png", "/p/room.png"], out="/p") == [
        "room_jpg_2",
        "room_jpg_png",
        "room_png",
    ]


def test_many_equal_names_all_differ():
    stems = name_outputs([Source(f"https://a/{i}/x.jpg", "x", "jpg") for i in range(5)], Path("o"), [".png"])
    assert len(set(stems)) == 5


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/picture":
            self.answer(200, b"data")
        elif self.path == "/large":
            self.answer(200, b"", {"Content-Length": str(10**12)})
        elif self.path == "/endless":
            self.answer(200, b"x" * 5000, {"X-No-Length": "1"})
        elif self.path == "/empty":
            self.answer(200, b"", {"Content-Length": "0"})
        elif self.path == "/file":
            self.answer(302, b"", {"Location": "file:///etc/passwd"})
        elif self.path == "/moved":
            self.answer(302, b"", {"Location": "/picture"})
        elif self.path == "/loop":
            self.answer(302, b"", {"Location": "/loop"})
        else:
            self.answer(404, b"no")

    def answer(self, code, body, headers=None):
        self.send_response(code)
        for name, value in (headers or {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/picture", "/moved"])
def test_fetch(server, path):
    assert fetch(server + path) == b"data"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/none", "answered 404"),
        ("/large", "larger than"),
        ("/endless", "larger than"),
        ("/empty", "no data"),
        ("/file", "file"),
        ("/loop", "302"),
    ],
)
def test_fetch_has_limits(server, path, sentence, monkeypatch):
    monkeypatch.setattr(module, "MAX_FETCHED_BYTES", 4000)
    with pytest.raises(InputError, match=sentence):
        fetch(server + path)


def test_fetch_has_a_time_limit(server, monkeypatch):
    monkeypatch.setattr(module, "MAX_FETCH_SECONDS", -1.0)
    with pytest.raises(InputError, match="took longer"):
        fetch(server + "/picture")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x", "http://", "https://exa mple/x", "http://[::1"])
def test_an_address_that_cannot_be_reached_is_told(address):
    with pytest.raises(InputError, match="Cannot fetch"):
        fetch(address)
