"""Errors as `application/problem+json` (RFC 9457), one class, one list of kinds."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fathom.serve.schema import Problem

PROBLEM_TYPE = "application/problem+json"

TITLES = {
    "bad-request": (400, "The request is malformed"),
    "no-token": (401, "A token is needed"),
    "foreign-site": (403, "Requests from another site are refused"),
    "not-acceptable": (406, "No such answer format"),
    "slow-upload": (408, "The upload took too long"),
    "too-large": (413, "The picture is too large"),
    "not-a-picture": (415, "Not a picture"),
    "unknown-host": (421, "Unknown host name"),
    "damaged-picture": (422, "The picture cannot be read"),
    "bad-option": (422, "An option is wrong"),
    "not-possible": (422, "Not possible for this kind of depth"),
    "failed": (500, "The server failed"),
    "busy": (503, "The server is busy"),
    "stopping": (503, "The server is stopping"),
    "too-slow": (504, "The answer took too long"),
}
"""Every kind of problem: its status and its words."""


class ProblemError(Exception):
    """A request that ends in a problem.

    Args:
        kind: Key of `TITLES`.
        detail: What was expected, what came, what to do.
        headers: Headers to add, such as Retry-After.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """HTTP status."""
        return TITLES[self.kind][0]

    def response(self, request_id: str) -> Response:
        """Return the answer for a request with this identifier."""
        status, title = TITLES[self.kind]
        problem = Problem(
            type=f"/problems/{self.kind}", title=title, status=status, detail=self.detail, request_id=request_id
        )
        return Response(problem.model_dump_json(), status, self.headers, media_type=PROBLEM_TYPE)


def plain_response(status: int, detail: str, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem that has no kind of its own: a wrong path or method."""
    title = HTTPStatus(status).phrase
    problem = Problem(type="about:blank", title=title, status=status, detail=detail, request_id=request_id)
    return Response(problem.model_dump_json(), status, dict(headers or {}), media_type=PROBLEM_TYPE)


def request_id_of(request: Request) -> str:
    """Return the identifier that the gate gave to the request."""
    return str(request.scope.get("fathom_request_id", ""))


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the app as a problem."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return error.response(request_id_of(request))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        detail = {
            404: f"There is nothing at {path}. The interface is described at /openapi.json.",
            405: f"{path} does not take {request.method}. The interface is described at /openapi.json.",
        }.get(error.status_code, str(error.detail))
        return plain_response(error.status_code, detail, request_id_of(request), error.headers)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        sentences = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"][1:]) or "the request"
            got = json.dumps(item["input"], default=str)
            sentences.append(
                f"Unknown option '{where}'."
                if item["type"] == "extra_forbidden"
                else f"'{where}': {item['msg']}; got {got[:80]}."
            )
        return ProblemError("bad-option", " ".join(sentences)).response(request_id_of(request))

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
