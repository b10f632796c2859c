"""What the server takes and gives: its settings, the answer formats, and the JSON bodies."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from fathom.config import StrictConfig
from fathom.types import DepthKind

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine can reach."""


class ServeSettings(StrictConfig):
    """How the server behaves; every limit has one number here.

    Example:
        >>> ServeSettings(port=9000).max_batch
        8
        >>> ServeSettings(host="0.0.0.0").is_loopback
        False
    """

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; the default can be reached from this machine only."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    token: SecretStr | None = None
    """Bearer token that every request to /v1 and /metrics must carry; none: no token is asked for."""
    max_bytes: int = Field(default=32 * 2**20, gt=0)
    """Largest upload [bytes]."""
    max_pixels: int = Field(default=50_000_000, gt=0)
    """Largest picture, height times width [px]; all pictures of one batch together stay under it too."""
    max_requests: int = Field(default=64, gt=0)
    """Most requests for depth that may be under way at once; one more is answered 503."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest time for one request, from its first byte to its answer [s]."""
    max_batch: int = Field(default=8, gt=0)
    """Most pictures in one run of the network."""
    shutdown_s: int = Field(default=30, ge=0)
    """How long a shutdown waits for requests under way [s]."""
    allowed_hosts: tuple[str, ...] = ()
    """Names accepted in the Host header; none: those of this machine when bound to it alone, else any."""

    @model_validator(mode="after")
    def _token_is_safe(self) -> "ServeSettings":
        if self.token is not None:
            text = self.token.get_secret_value()
            if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(
                    "the token must have at least 16 printable ASCII characters and no space, "
                    'such as python -c "import secrets; print(secrets.token_urlsafe())" prints.'
                )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK_HOSTS

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """Names accepted in the Host header; empty means any.

        A page of another site can make a browser resolve its own name to 127.0.0.1 and so read a server that has no
        token (DNS rebinding); it cannot forge this header.
        """
        return self.allowed_hosts or (LOOPBACK_HOSTS if self.is_loopback else ())


class AnswerFormat(StrEnum):
    """Forms in which a depth map can be answered."""

    JSON = "json"
    NPY = "npy"
    NPZ = "npz"
    PNG16 = "png16"
    COLOR = "color"
    PLY = "ply"
    GLB = "glb"

    @classmethod
    def _missing_(cls, value: object) -> "AnswerFormat | None":
        return cls.COLOR if value == "colour" else None


MEDIA_TYPES = {
    AnswerFormat.JSON: "application/json",
    AnswerFormat.NPY: "application/x-npy",
    AnswerFormat.NPZ: "application/x-npz",
    AnswerFormat.PNG16: "image/png",
    AnswerFormat.COLOR: "image/png",
    AnswerFormat.PLY: "application/x-ply",
    AnswerFormat.GLB: "model/gltf-binary",
}
"""Content type of each format."""

ACCEPTED_TYPES = {
    "application/json": AnswerFormat.JSON,
    "application/x-npy": AnswerFormat.NPY,
    "application/x-npz": AnswerFormat.NPZ,
    "image/png": AnswerFormat.COLOR,
    "application/x-ply": AnswerFormat.PLY,
    "model/gltf-binary": AnswerFormat.GLB,
}
"""Format that an Accept header asks for. Two formats are PNG; image/png means the one for looking at."""


class Problem(BaseModel):
    """An error as RFC 9457 describes it (`application/problem+json`)."""

    model_config = ConfigDict(json_schema_extra={"example": {}})

    type: str = Field(description="Kind of problem, stable across versions.", examples=["/problems/not-a-picture"])
    title: str = Field(description="The kind in words.", examples=["Not a picture"])
    status: int = Field(description="HTTP status.", examples=[415])
    detail: str = Field(
        description="What was expected, what came, what to do.",
        examples=["Expected a picture (JPEG, PNG, WebP, ...); the upload is none. Send the bytes of a picture file."],
    )
    request_id: str = Field(description="Identifier of the request; it is in the server's log.", examples=["f3a1c09b"])


Problem.model_config["json_schema_extra"] = {
    "example": {
        "type": "/problems/not-a-picture",
        "title": "Not a picture",
        "status": 415,
        "detail": "Expected a picture (JPEG, PNG, WebP, ...); the upload is none. Send the bytes of a picture file.",
        "request_id": "f3a1c09b",
    }
}


class ModelInfo(BaseModel):
    """One model that the server holds."""

    name: str = Field(description="Name to give as `model`.", examples=["fathom-indoor"])
    kind: DepthKind = Field(description="What its numbers are.")
    unit: str = Field(description="Unit of the values; empty where the scale is unknown.", examples=["m"])
    larger_is_nearer: bool = Field(description="Whether a larger value means a nearer surface.")
    description: str = Field(default="", description="One or two sentences for people.")
    licence: str = Field(default="", description="Terms of the weights.")
    parameters: int | None = Field(default=None, description="Number of parameters.")
    limits: list[str] = Field(default_factory=list, description="Known failures, one sentence each.")
    is_default: bool = Field(description="Whether it answers when no model is named.")


class ModelList(BaseModel):
    """The models that the server holds."""

    models: list[ModelInfo]


class Percentiles(BaseModel):
    """How the valid values are spread, in the unit of the map."""

    p1: float
    p50: float
    p99: float


class DepthAnswer(BaseModel):
    """A depth map as JSON; the same numbers as the npy answer."""

    kind: DepthKind = Field(description="What the values are.")
    unit: str = Field(description="Unit of the values; empty where the scale is unknown.")
    larger_is_nearer: bool = Field(description="Whether a larger value means a nearer surface.")
    height: int = Field(description="Rows of the map and of the picture as it is shown [px].")
    width: int = Field(description="Columns [px].")
    model: str = Field(description="Model that made it.")
    valid_fraction: float = Field(description="Share of the pixels that have a value, 0 to 1.")
    smallest: float | None = Field(description="Smallest valid value; null where there is none.")
    largest: float | None = Field(description="Largest valid value; null where there is none.")
    percentiles: Percentiles | None = Field(description="Spread of the valid values; null where there is none.")
    metadata: dict[str, Any] = Field(description="Camera and provenance, as they are written into files.")
    dtype: Literal["float32le"] = Field(default="float32le", description="Number format of `values`.")
    values: str = Field(description="Base64 of the values row by row; a pixel without a value is NaN.")


class Status(BaseModel):
    """A short answer for probes."""

    status: str = Field(examples=["ok"])
