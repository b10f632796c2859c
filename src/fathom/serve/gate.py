"""The gate before every route: identifier, host name, token, safe headers, one log line, and no error unanswered."""

import contextlib
import json
import logging
import secrets
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom.serve.metrics import Metrics
from fathom.serve.problems import ProblemError
from fathom.serve.schema import ServeSettings

LOGGER = logging.getLogger("fathom.serve")

_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    # wasm-unsafe-eval: the network in the browser is WebAssembly. blob: pictures that the page itself made.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; connect-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_GUARDED = ("/v1/", "/metrics")
_KNOWN_PATHS = frozenset({"/", "/v1/depth", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json"})


class JsonFormatter(logging.Formatter):
    """One JSON object for each line; what a record carries as `fields` is merged in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one structured line."""
    LOGGER.log(level, event, extra={"fields": fields})


class Gate:
    """ASGI middleware around the whole app.

    Args:
        app: The app.
        settings: Token and host names.
        metrics: Where to count.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app = app
        self.hosts = settings.known_hosts
        self.token = settings.token.get_secret_value().encode() if settings.token else None
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = secrets.token_hex(6)
        scope["fathom_request_id"] = request_id
        scope["fathom_log"] = {}
        status, sent = 0, 0

        async def send_safely(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, send_safely)
        except ProblemError as problem:
            await problem.response(request_id)(scope, receive, send_safely)
        except Exception:
            LOGGER.exception("failed", extra={"fields": {"request_id": request_id, "path": scope["path"]}})
            if status == 0:
                detail = f"An error that the server did not expect; its log has it under {request_id}."
                with contextlib.suppress(OSError):  # the client is gone; there is nobody to tell
                    await ProblemError("failed", detail).response(request_id)(scope, receive, send_safely)
        finally:
            seconds = time.monotonic() - started
            path = scope["path"] if scope["path"] in _KNOWN_PATHS else "other"
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.requests.labels(path, method, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            log(
                "request",
                request_id=request_id,
                method=method,
                path=path,
                status=status,
                bytes_out=sent,
                seconds=round(seconds, 4),
                **scope["fathom_log"],
            )

    def _check(self, scope: Scope) -> None:
        """Refuse what must not reach a route.

        Raises:
            ProblemError: For an unknown host name, a request that another site makes a browser send, or a wrong token.
        """
        headers = Headers(scope=scope)
        if self.hosts:
            host = _host_name(headers.get("host", ""))
            if host not in self.hosts:
                raise ProblemError(
                    "unknown-host",
                    f"Expected a host name of {', '.join(self.hosts)}; got '{host[:80]}'. "
                    "Allow others with --allowed-host.",
                )
        guarded = scope["path"].startswith(_GUARDED)
        if guarded and headers.get("sec-fetch-site") == "cross-site":
            raise ProblemError(
                "foreign-site", "This server answers its own page and programs, not pages of other sites."
            )
        if guarded and self.token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # Compared as bytes in constant time: how long the comparison takes tells nothing about the token.
            right = secrets.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self.token)
            if scheme.lower() != "bearer" or not right:
                raise ProblemError(
                    "no-token",
                    "Expected the header 'Authorization: Bearer TOKEN' with this server's token.",
                    {"WWW-Authenticate": 'Bearer realm="fathom"'},
                )


def _host_name(host: str) -> str:
    """Return the name in a Host header, without the port.

    Example:
        >>> _host_name("localhost:8000"), _host_name("[::1]:80"), _host_name("")
        ('localhost', '::1', '')
    """
    try:
        return (urlsplit(f"//{host}").hostname or "") if host else ""
    except ValueError:
        return ""
