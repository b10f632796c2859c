import runpy
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from serve_helpers import BrightnessPredictor, both_models, encoded

from fathom.io import read_image
from fathom.serve.app import create_app

CLIENT = Path(__file__).parents[2] / "examples" / "client.py"


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(both_models()), port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_the_example_client_gets_the_direct_result(address, tmp_path, monkeypatch, capsys):
    client = runpy.run_path(str(CLIENT))
    content = encoded(seed=9)
    answer = client["ask"](address, content)
    np.testing.assert_array_equal(answer.values, BrightnessPredictor().predict(read_image(content)).values)
    assert (answer.kind, answer.unit) == ("metric_depth", "m")
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr("sys.argv", ["client.py", str(tmp_path / "a.png"), "--server", address, "--model", "relative"])
    assert client["main"]() == 0
    assert "relative, no unit" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes(b"text")
    assert client["main"]() == 1
    assert "Not a picture" in capsys.readouterr().err
