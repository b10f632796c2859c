import http.server
import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fathom.io import read_depth
from tiny_models import make_photo

FATHOM = [sys.executable, "-m", "fathom"]
KEYS = ["source", "outputs", "kind", "unit", "height", "width", "seconds", "error"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    for index in range(4):
        make_photo(folder / f"{index}.jpg", 30 + index, 50, seed=index)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_json_lines(command, photos, tmp_path, metric_model):
    (photos / "1.jpg").write_bytes(b"no")
    formats = ["-f", "png16", "-f", "npy"]
    code, out, err = command("predict", photos, "-o", tmp_path / "out", "-m", metric_model, "--json", *formats)
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert [list(row) for row in rows] == [KEYS] * 4
    assert [row["error"] is None for row in rows] == [True, False, True, True]
    row = rows[2]
    assert (row["kind"], row["unit"], row["height"], row["width"]) == ("metric_depth", "m", 32, 50)
    assert row["outputs"] == [str(tmp_path / "out" / name) for name in ("2.png", "2.npy", "2.npy.json")]
    assert np.load(tmp_path / "out" / "2.npy").shape == (32, 50)
    assert rows[1]["outputs"] == []
    assert "Failed: " in err
    assert "3 done, 1 failed" in err


def test_lines_for_people(command, photos, tmp_path, relative_model):
    code, out, err = command("predict", photos / "0.jpg", "-o", tmp_path / "out", "-m", relative_model)
    assert code == 0
    assert out == f"{photos / '0.jpg'} -> {tmp_path / 'out' / '0.png'} (affine_invariant_inverse_depth, 30 x 50)\n"
    assert err.startswith("1 done in ")


def test_metres_from_a_relative_model_are_refused_before_it_loads(command, photos, tmp_path, relative_model):
    code, out, err = command("predict", photos, "-o", tmp_path / "out", "-m", relative_model, "-f", "png16,ply")
    assert (code, out) == (2, "")
    assert "The format ply needs metres" in err
    assert not list((tmp_path / "out").iterdir())


def test_the_format_is_checked_before_the_model(command, photos, tmp_path):
    code, _, err = command("predict", photos, "-o", tmp_path / "out", "-m", "no-such-model", "-f", "pgn16")
    assert code == 2
    assert "Did you mean 'png16'" in err
    assert not (tmp_path / "out").exists()


def test_options_reach_the_model(command, photos, tmp_path, metric_model):
    arguments = [
        "predict",
        photos / "0.jpg",
        "-o",
        tmp_path / "out",
        "-m",
        metric_model,
        "-f",
        "npz",
        "--size",
        "128x32",
    ]
    code, _, _ = command(*arguments, "--runtime", "onnxruntime", "--precision", "fp32", "--device", "cpu")
    assert code == 0
    record = read_depth(tmp_path / "out" / "0.npz").provenance.preprocessing
    assert record["height"] * record["width"] == 64 * 96


def test_skip_existing(command, photos, tmp_path, metric_model):
    arguments = ["predict", photos, "-o", tmp_path / "out", "-m", metric_model]
    command(*arguments)
    (tmp_path / "out" / "2.png").unlink()
    code, out, err = command(*arguments, "--skip-existing", "--json")
    assert code == 0
    assert "1 done, 3 skipped" in err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["kind"] for row in rows] == [None, None, "metric_depth", None]
    assert all(row["outputs"] and row["error"] is None for row in rows)


def test_an_address_is_fetched_only_when_it_is_named(command, photos, tmp_path, metric_model):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(photos))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        given = ["-o", tmp_path / "out", "-m", metric_model, "--json"]
        code, out, _ = command("predict", f"{address}/0.jpg?x=1", f"{address}/none.jpg", *given)
        server.shutdown()
        thread.join()
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert rows[0]["outputs"] == [str(tmp_path / "out" / "0.png")]
    assert "404" in rows[1]["error"]


def test_a_shell_pipeline(photos, tmp_path, metric_model):
    """Standard input, bytes on standard output, and a reader that goes away."""
    given = ["-o", tmp_path / "out", "-m", metric_model]
    done = subprocess.run(
        [*FATHOM, "predict", "-", *given, "--json"],
        input=(photos / "0.jpg").read_bytes(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["source"] == "-"
    assert (tmp_path / "out" / "stdin.png").is_file()


def test_a_name_that_is_not_utf8_in_a_real_shell(tmp_path, metric_model):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    make_photo(tmp_path / "a.jpg").rename(os.fsdecode(path))
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [*FATHOM, "predict", path, "-o", tmp_path / "out", "-m", metric_model, *extra], capture_output=True
        )
        assert done.returncode == 0, done.stderr
    assert os.path.isfile(os.fsencode(tmp_path) + b"/out/caf\xe9.png")
    assert os.fsencode(json.loads(done.stdout)["source"]) == path


NUM_MANY = 150


def start(folder, out, model, **options):
    command = [*FATHOM, "predict", folder, "-o", out, "-m", model, "-f", "png16,npz", "--json"]
    # A background job of a shell ignores Ctrl-C, and its children inherit that.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.fixture
def many(tmp_path):
    """More pictures than are done before a test has counted the first, however late a busy machine wakes it."""
    folder = tmp_path / "many"
    for index in range(10):
        make_photo(folder / f"{index:03}.jpg", 900, 1200, seed=index)
    for index in range(10, NUM_MANY):
        shutil.copy(folder / f"{index % 10:03}.jpg", folder / f"{index:03}.jpg")
    return folder


def test_kill_in_mid_batch_then_finish_gives_the_same_bytes(many, tmp_path, metric_model, command):
    whole = tmp_path / "whole"
    assert command("predict", many, "-o", whole, "-m", metric_model, "-f", "png16,npz")[0] == 0
    killed = tmp_path / "killed"
    process = start(many, killed, metric_model)
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = contents(killed)
    expected = contents(whole)
    made = {name: content for name, content in left.items() if ".fathom-" not in name}
    assert 5 <= len(made) < len(expected), "the kill came too early or too late to test anything"
    assert all(expected[name] == content for name, content in made.items()), "a file was not whole"
    code, _, err = command("predict", many, "-o", killed, "-m", metric_model, "-f", "png16,npz", "--skip-existing")
    assert code == 0
    assert "skipped" in err
    finished = {name: content for name, content in contents(killed).items() if ".fathom-" not in name}
    assert finished == expected


def test_interrupt_leaves_whole_files_and_says_how_many(many, tmp_path, metric_model, command):
    out = tmp_path / "out"
    process = start(many, out, metric_model)
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Interrupted: " in err
    assert f"of {NUM_MANY} done, every file whole".encode() in err
    assert b"Traceback" not in err
    for path in out.iterdir():
        assert ".fathom-" not in path.name
        read_depth(path)


def test_a_full_disk_is_told_and_leaves_no_partial_file(photos, tmp_path, metric_model):
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    out = tmp_path / "out"
    process = start(photos, out, metric_model, preexec_fn=small_files)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert all("Cannot write" in json.loads(line)["error"] for line in printed.splitlines())
    assert len(printed.splitlines()) == 4
    assert contents(out) == {}
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_ends_the_command_quietly(many, tmp_path, metric_model):
    process = start(many, tmp_path / "out", metric_model)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert b"Traceback" not in err


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(photos, tmp_path, metric_model):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FATHOM, "predict", photos, "-o", tmp_path / "out", "-m", metric_model],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the terminal is gone with the process
                break
        elif process.poll() is not None:
            break
    os.close(ours)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert b"4/4" in shown
    assert "━".encode() in shown
    assert b"4 done in" in shown
    assert len(out.splitlines()) == 4
    assert b"\x1b" not in out
