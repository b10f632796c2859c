"""Run the application: load the models once, listen, stop without dropping a request."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from fathom.config import load_config, parse_config
from fathom.errors import ConfigError
from fathom.models.cards import embedded_names
from fathom.predict import DEFAULT_MODEL, Predictor
from fathom.serve.app import ServedModel, create_app
from fathom.serve.gate import LOGGER, JsonFormatter, log
from fathom.serve.page import is_built
from fathom.serve.schema import ModelInfo, ServeSettings

TOKEN_VARIABLE = "FATHOM_SERVE_TOKEN"
"""Environment variable of the bearer token; a command line could be read by every user of the machine."""


def read_settings(
    config: Path | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    token_file: Path | None = None,
    allowed_hosts: tuple[str, ...] = (),
) -> ServeSettings:
    """Gather the settings: what is named here, else what the file says, else the defaults.

    Args:
        config: YAML or JSON file of `ServeSettings`.
        host: Address to listen on.
        port: Port to listen on.
        token_file: File that holds the bearer token; default: the environment variable `TOKEN_VARIABLE`.
        allowed_hosts: Names accepted in the Host header.

    Raises:
        ConfigError: If a file cannot be read, or a value is wrong.
    """
    base = load_config(config, ServeSettings) if config is not None else ServeSettings()
    values = base.model_dump(mode="json", exclude={"token"})
    values |= {"host": host} if host is not None else {}
    values |= {"port": port} if port is not None else {}
    values |= {"allowed_hosts": allowed_hosts} if allowed_hosts else {}
    token = _read_token(token_file) or (base.token.get_secret_value() if base.token else None)
    return parse_config(values | {"token": token}, ServeSettings, source="fathom serve")


def _read_token(token_file: Path | None) -> str | None:
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the token file {token_file}: {error}.") from None


def load_served(
    names: Sequence[str], *, runtime: str = "auto", precision: str = "auto", num_threads: int | None = None
) -> list[ServedModel]:
    """Load the models that a server holds.

    Args:
        names: What `Predictor` takes as a model; none: the embedded ones. The first answers when none is named.
        runtime: See `Predictor`.
        precision: See `Predictor`.
        num_threads: CPU threads for one network run.

    Raises:
        ModelError: If a model does not exist.
    """
    served: list[ServedModel] = []
    for name in names or embedded_names() or [DEFAULT_MODEL]:
        predictor = Predictor(name, runtime=runtime, precision=precision, num_threads=num_threads)
        card = predictor.card
        info = ModelInfo(
            name=card.name,
            kind=card.kind,
            unit=card.kind.unit,
            larger_is_nearer=card.kind.larger_is_nearer,
            description=card.description,
            licence=card.licence.weights,
            parameters=card.parameters,
            limits=list(card.limits),
            is_default=not served,
        )
        # Where batches do not pay, runs of one let the rest of each request overlap with the next run.
        served.append(ServedModel(info, predictor, shares_runs=predictor._runtime.batches))
    return served


def serve(models: Sequence[ServedModel], settings: ServeSettings | None = None) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished first.

    Args:
        models: Loaded models, from `load_served`.
        settings: Address, limits, token.
    """
    settings = settings or ServeSettings()
    _log_to_stderr()
    if not settings.is_loopback and settings.token is None:
        log(
            f"anyone who can reach {settings.host}:{settings.port} can use this server: it has no token. "
            f"Set {TOKEN_VARIABLE}, or listen on 127.0.0.1",
            logging.WARNING,
        )
    if not is_built():
        log("the web page was not built into this installation; the interface works", logging.WARNING)
    config = uvicorn.Config(
        create_app(models, settings),
        host=settings.host,
        port=settings.port,
        access_log=False,  # the gate writes one line for each request
        log_config=None,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=settings.shutdown_s,
        # Twice the places: probes and the page must get an answer when all places are taken.
        backlog=2 * settings.max_requests,
    )
    server = uvicorn.Server(config)
    log("starting", models=[model.info.name for model in models], host=settings.host, port=settings.port)
    # uvicorn handles these signals while it runs and sends them once more at its end, when all is done.
    before = [(sign, signal.signal(sign, lambda *_: None)) for sign in (signal.SIGINT, signal.SIGTERM)]
    try:
        server.run()
    finally:
        for sign, handler in before:
            signal.signal(sign, handler)
    log("stopped")


def _log_to_stderr() -> None:
    """Write structured lines to stderr: ours, and uvicorn's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
