"""What the OpenAPI document says beyond the types: bodies, answers, examples, problems."""

from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from fathom.serve.metrics import METRICS_TYPE
from fathom.serve.problems import PROBLEM_TYPE, TITLES
from fathom.serve.schema import MEDIA_TYPES, AnswerFormat, DepthAnswer, Problem
from fathom.serve.uploads import PART_NAME

DESCRIPTION = """Depth from one picture, over HTTP.

`POST /v1/depth` takes a picture, as the body itself or as the part `picture` of a form, and answers with its depth in
the format that `?format=` or the Accept header asks for. The headers `Fathom-Kind` and `Fathom-Unit` say what the
numbers are: an empty unit means a relative map, which is not in metres. Errors are `application/problem+json`
(RFC 9457).
Pictures are held in memory while they are answered, and never logged.
"""

_BINARY = {"type": "string", "format": "binary"}
_HEADERS = {
    "Fathom-Kind": "What the values are, such as `metric_depth`.",
    "Fathom-Unit": "Unit of the values; empty where the scale is unknown.",
    "Fathom-Larger-Is-Nearer": "`true` or `false`.",
    "Fathom-Model": "Model that made the map.",
    "Fathom-Intrinsics": "fx, fy, cx, cy of the camera in pixels of the map.",
    "Fathom-Focal-Source": "Where the focal length came from: `user`, `exif`, `model` or `assumed`.",
    "Server-Timing": "Milliseconds spent in each step.",
    "X-Request-Id": "Identifier of the request in the server's log.",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route can answer with."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [(kind, title) for kind, (of, title) in TITLES.items() if of == status]
        described[status] = {
            "description": "; ".join(title for _, title in kinds) + ".",
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return described


_ANYWHERE = (401, 403, 421, 500)

_EXAMPLE_JSON = {
    "kind": "metric_depth",
    "unit": "m",
    "larger_is_nearer": False,
    "height": 1,
    "width": 2,
    "model": "fathom-indoor",
    "valid_fraction": 1.0,
    "smallest": 1.5,
    "largest": 2.0,
    "percentiles": {"p1": 1.505, "p50": 1.75, "p99": 1.995},
    "metadata": {"camera": None, "provenance": {"model": "fathom-indoor"}, "confidence_meaning": None},
    "dtype": "float32le",
    "values": "AADAPwAAAEA=",
}

DEPTH: dict[str, Any] = {
    "summary": "Depth of one picture",
    "description": (
        "The body is the picture, or a form with the part `picture`. JPEG, PNG, WebP, TIFF, BMP, GIF and AVIF are "
        "read; EXIF orientation is applied. With curl: "
        "`curl -F picture=@photo.jpg 'http://127.0.0.1:8000/v1/depth?format=npy'`."
    ),
    "response_class": Response,
    "responses": {
        200: {
            "description": "The depth map.",
            "headers": {
                name: {"description": text, "schema": {"type": "string"}, "required": True}
                for name, text in _HEADERS.items()
            },
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/DepthAnswer"},
                    "example": _EXAMPLE_JSON,
                },
                **{
                    media_type: {"schema": _BINARY}
                    for form, media_type in MEDIA_TYPES.items()
                    if form is not AnswerFormat.JSON
                },
            },
        },
        **_problems(400, 406, 408, 413, 415, 422, 503, 504, *_ANYWHERE),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {PART_NAME: {**_BINARY, "description": "The picture file."}},
                        "required": [PART_NAME],
                        "additionalProperties": False,
                    }
                },
                "image/*": {"schema": _BINARY},
                "application/octet-stream": {"schema": _BINARY},
            },
        }
    },
}
MODELS: dict[str, Any] = {
    "summary": "The models that the server holds",
    "responses": _problems(*_ANYWHERE),
}
HEALTH: dict[str, Any] = {"summary": "Whether the process lives", "responses": _problems(421, 500)}
READY: dict[str, Any] = {"summary": "Whether pictures are taken", "responses": _problems(421, 500, 503)}
METRICS: dict[str, Any] = {
    "summary": "Counters in the format of Prometheus",
    "response_class": Response,
    "responses": {
        200: {"description": "Counters.", "content": {METRICS_TYPE: {"schema": {"type": "string"}}}},
        **_problems(*_ANYWHERE),
    },
}


def complete(app: FastAPI, *, has_token: bool) -> None:
    """Make the app's document carry the shared schemas, and the token where the server asks for one.

    Args:
        app: The app with all its routes.
        has_token: Whether /v1 and /metrics need the bearer token.
    """
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, DepthAnswer):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if has_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith(("/v1/", "/metrics")):
                for operation in operations.values():
                    operation["security"] = [{"token": []}]
