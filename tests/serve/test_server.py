import json
import logging

import pytest
from serve_helpers import both_models

from fathom.errors import ConfigError
from fathom.serve import server
from fathom.serve.schema import ServeSettings
from fathom.serve.server import TOKEN_VARIABLE, read_settings, serve

TOKEN = "a-long-enough-token"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_the_defaults_reach_this_machine_only():
    settings = read_settings()
    assert settings == ServeSettings()
    assert settings.is_loopback and settings.known_hosts == ("127.0.0.1", "::1", "localhost")
    assert read_settings(host="0.0.0.0").known_hosts == ()
    assert read_settings(host="0.0.0.0", allowed_hosts=("depth.example",)).known_hosts == ("depth.example",)


def test_options_win_over_the_file(tmp_path):
    config = tmp_path / "limits.yaml"
    config.write_text("port: 9000\nmax_bytes: 1000\n")
    settings = read_settings(config, port=9001)
    assert (settings.port, settings.max_bytes, settings.timeout_s) == (9001, 1000, 60.0)
    config.write_text("max_byte: 1000\n")
    with pytest.raises(ConfigError, match="Did you mean 'max_bytes'"):
        read_settings(config)


def test_the_token_comes_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_settings().token.get_secret_value() == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-2\n")
    assert read_settings(token_file=tmp_path / "token").token.get_secret_value() == f"{TOKEN}-2"
    with pytest.raises(ConfigError, match="token file"):
        read_settings(token_file=tmp_path / "missing")
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ConfigError, match="at least 16"):
        read_settings()


def test_the_token_is_never_shown(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    settings = read_settings()
    assert TOKEN not in repr(settings) and TOKEN not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("host", "token", "warns"), [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", TOKEN, False)]
)
def test_an_open_server_without_a_token_warns(host, token, warns, monkeypatch, capsys):
    monkeypatch.setattr("uvicorn.Server.run", lambda self: None)
    monkeypatch.setattr(server, "is_built", lambda: True)
    if token:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    names = (server.LOGGER.name, "uvicorn")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    try:
        serve(both_models(), read_settings(host=host))
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any(line["level"] == "warning" and "no token" in line["event"] for line in lines) == warns
    assert token is None or token not in str(lines)
