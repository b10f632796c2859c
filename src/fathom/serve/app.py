"""The application: routes over resident models. `create_app` builds it, `serve` runs it."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from fathom.errors import ConfigError, FathomError
from fathom.io import Picture
from fathom.outputs import OutputOptions
from fathom.predict import Ready
from fathom.serve import openapi
from fathom.serve.answers import choose_format, describe_headers, encode
from fathom.serve.batching import Answered, Batcher, StoppedError
from fathom.serve.gate import Gate
from fathom.serve.metrics import METRICS_TYPE, Metrics
from fathom.serve.page import add_page
from fathom.serve.problems import ProblemError, add_problem_handlers
from fathom.serve.schema import AnswerFormat, ModelInfo, ModelList, ServeSettings, Status
from fathom.serve.uploads import decode_picture, read_upload
from fathom.types import Camera, Depth, FocalSource
from fathom.version import __version__
from fathom.viz import COLORMAPS, DEFAULT_COLORMAP

_NUM_CODEC_THREADS = 4
"""Threads that decode pictures and encode answers beside the network."""
_PENDING_PICTURES = 4
"""Decoded pictures that may wait, in units of the largest picture allowed; bounds the memory."""
_MAX_BATCH_PIXELS = 4_000_000
"""Network input in one run of more than one picture, height times width times pictures; bounds the memory."""

T = TypeVar("T")


class StagedPredictor(Protocol):
    """A model in three steps, so that only the network itself is waited for; `fathom.predict.Predictor` is one."""

    def prepare(self, image: Any) -> Ready:
        """Make the network's input of a picture."""

    def infer(self, group: Sequence[Ready]) -> list[npt.NDArray[np.float32]]:
        """Run the network; one raw map (h, w) for each picture, in order."""

    def finish(self, raw: npt.NDArray[np.float32], ready: Ready) -> Depth:
        """Turn a raw map into the result."""


@dataclass(frozen=True)
class ServedModel:
    """A model that the server holds.

    Args:
        info: What clients are told about it.
        predictor: The loaded model.
        shares_runs: Whether several pictures in one run of the network are faster than one after the other.
    """

    info: ModelInfo
    predictor: StagedPredictor
    shares_runs: bool = True


class DepthOptions(BaseModel):
    """Options of `POST /v1/depth`, all in the address."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, max_length=200, description="Name of a model in /v1/models; default: its first.")
    format: AnswerFormat | None = Field(None, description="Format of the answer; default: by the Accept header.")
    focal_px: float | None = Field(
        None, gt=0, le=1e6, description="Focal length in pixels of the picture as it is shown; default: from its EXIF."
    )
    colormap: str = Field(
        DEFAULT_COLORMAP, description="Colour map of the format `color`.", json_schema_extra={"enum": list(COLORMAPS)}
    )
    low: float | None = Field(None, description="Value of one end of the colour map, in the unit of the map.")
    high: float | None = Field(None, description="Value of the other end; goes with `low` and is larger.")
    legend: bool = Field(False, description="Whether the format `color` gets a legend.")
    mesh: bool = Field(False, description="Whether PLY and GLB hold triangles and not points only.")

    @model_validator(mode="after")
    def _range(self) -> "DepthOptions":
        if (self.low is None) != (self.high is None):
            raise ValueError("give both low and high, or neither")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be smaller than high")
        if self.colormap not in COLORMAPS:
            raise ValueError(f"colormap must be one of {', '.join(COLORMAPS)}")
        return self

    @property
    def output(self) -> OutputOptions:
        """How the answer is written."""
        span = (self.low, self.high) if self.low is not None and self.high is not None else None
        return OutputOptions(colormap=self.colormap, value_range=span, legend=self.legend, mesh=self.mesh)


class _Service:
    """The state behind the routes: batchers, codec threads, what is under way."""

    def __init__(self, models: Sequence[ServedModel], settings: ServeSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.models = {model.info.name: model for model in models}
        if not models or len(self.models) != len(models):
            raise ConfigError(f"A server needs models with different names; got {[m.info.name for m in models]}.")
        self.default = models[0].info.name
        self.codec = ThreadPoolExecutor(_NUM_CODEC_THREADS, "fathom-codec")
        self.under_way = 0
        self.pending_pixels = 0
        self.seconds_for_one = 0.1
        self.stopping = False
        self.batchers = {name: self._batcher(model) for name, model in self.models.items()}

    def _batcher(self, model: ServedModel) -> "Batcher[Ready, npt.NDArray[np.float32]]":
        sizes = self.metrics.batch.labels(model.info.name)
        times = self.metrics.predict_seconds.labels(model.info.name)

        def on_run(size: int, seconds: float) -> None:
            sizes.observe(size)
            times.observe(seconds)
            self.seconds_for_one += 0.2 * (seconds / size - self.seconds_for_one)

        def max_batch(item: Ready) -> int:
            if not model.shares_runs:
                return 1
            pixels = int(np.prod(item.prepared.array.shape[2:]))
            return min(self.settings.max_batch, _MAX_BATCH_PIXELS // pixels)

        return Batcher(
            model.predictor.infer,
            key=lambda item: item.prepared.array.shape,
            max_batch=max_batch,
            on_run=on_run,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Answer while the application lives; at its end, finish what is queued."""
        for batcher in self.batchers.values():
            batcher.start()
        try:
            yield
        finally:
            self.stopping = True
            for batcher in self.batchers.values():
                await batcher.stop()
            self.codec.shutdown()

    async def in_codec(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a step that takes processor time beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.codec, function, *arguments)

    def busy(self) -> ProblemError:
        """Return the refusal that tells when to come back."""
        wait = max(1, math.ceil(self.seconds_for_one * self.under_way))
        return ProblemError(
            "busy",
            f"{self.under_way} requests are under way, as many as this server takes. Try again in {wait} s.",
            {"Retry-After": str(wait)},
        )

    @contextlib.contextmanager
    def place(self) -> Any:
        """Hold a place among the requests under way.

        Raises:
            ProblemError: If all are taken, or the server is stopping.
        """
        if self.stopping:
            raise ProblemError("stopping", "The server is stopping. Try again in a moment.", {"Retry-After": "5"})
        if self.under_way >= self.settings.max_requests:
            raise self.busy()
        self.under_way += 1
        self.metrics.under_way.set(self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1
            self.metrics.under_way.set(self.under_way)

    @contextlib.contextmanager
    def room_for(self, picture: Picture) -> Any:
        """Hold memory for a decoded picture while it waits.

        Raises:
            ProblemError: If too many pixels wait already.
        """
        pixels = picture.height * picture.width
        if self.pending_pixels and self.pending_pixels + pixels > _PENDING_PICTURES * self.settings.max_pixels:
            raise self.busy()
        self.pending_pixels += pixels
        try:
            yield
        finally:
            self.pending_pixels -= pixels

    async def depth(self, request: Request, options: DepthOptions) -> Response:
        """Answer one picture with its depth."""
        form = choose_format(options.format, request.headers.get("accept", ""))
        name = options.model or self.default
        if name not in self.batchers:
            raise ProblemError("bad-option", f"This server holds {', '.join(self.models)}; got model={name[:80]!r}.")
        notes: dict[str, object] = request.scope["fathom_log"]
        notes |= {"model": name, "format": form.value}
        limit = self.settings.timeout_s
        stage = "slow-upload"
        try:
            async with asyncio.timeout(limit):
                with self.place():
                    times = [time.monotonic()]
                    content = await read_upload(request, self.settings.max_bytes)
                    stage = "too-slow"
                    times.append(time.monotonic())
                    notes["bytes_in"] = len(content)
                    picture = await self.in_codec(decode_picture, content, self.settings.max_pixels)
                    del content
                    times.append(time.monotonic())
                    notes |= {"height": picture.height, "width": picture.width}
                    with self.room_for(picture):
                        depth, answered = await self._predict(name, _with_focal(picture, options.focal_px))
                        times.append(time.monotonic())
                        body = await self.in_codec(encode, depth, picture, form, options.output)
                    times.append(time.monotonic())
        except TimeoutError:
            raise ProblemError(stage, f"The request was not done within {limit:g} s and was given up.") from None
        timing = {
            "upload": times[1] - times[0],
            "decode": times[2] - times[1],
            "queue": answered.queue_s,
            "predict": answered.run_s,
            "encode": times[4] - times[3],
            "total": times[4] - times[0],
        }
        notes |= {f"{stage}_s": round(seconds, 4) for stage, seconds in timing.items()} | {"batch": answered.batch}
        headers = describe_headers(depth, form) | {"Fathom-Batch": str(answered.batch)}
        headers["Server-Timing"] = ", ".join(f"{stage};dur={seconds * 1e3:.1f}" for stage, seconds in timing.items())
        return Response(body, headers=headers)

    async def _predict(self, name: str, picture: Picture) -> tuple[Depth, Answered[npt.NDArray[np.float32]]]:
        predictor = self.models[name].predictor
        try:
            ready = await self.in_codec(predictor.prepare, picture)
            answered = await self.batchers[name].submit(ready)
            return await self.in_codec(predictor.finish, answered.result, ready), answered
        except StoppedError:
            raise ProblemError("stopping", "The server is stopping. Try again in a moment.") from None
        except FathomError as error:
            raise ProblemError("damaged-picture", str(error)) from None


def _with_focal(picture: Picture, focal_px: float | None) -> Picture:
    if focal_px is None:
        return picture
    camera = Camera.from_focal(focal_px, height=picture.height, width=picture.width, source=FocalSource.USER)
    return replace(picture, camera=camera)


def create_app(models: Sequence[ServedModel], settings: ServeSettings | None = None) -> FastAPI:
    """Build the application.

    Args:
        models: The models it holds; the first one answers when none is named.
        settings: Limits, token, host names.

    Raises:
        ConfigError: If there is no model, or two have one name.
    """
    settings = settings or ServeSettings()
    metrics = Metrics()
    service = _Service(models, settings, metrics)
    app = FastAPI(
        title="Fathom",
        version=__version__,
        description=openapi.DESCRIPTION,
        lifespan=service.lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    add_problem_handlers(app)

    @app.post("/v1/depth", **openapi.DEPTH)
    async def depth(request: Request, options: Annotated[DepthOptions, Query()]) -> Response:
        return await service.depth(request, options)

    @app.get("/v1/models", **openapi.MODELS)
    async def list_models() -> ModelList:
        return ModelList(models=[model.info for model in service.models.values()])

    @app.get("/healthz", **openapi.HEALTH)
    async def health() -> Status:
        return Status(status="ok")

    @app.get("/readyz", **openapi.READY)
    async def ready() -> Status:
        if service.stopping or not all(batcher.is_alive for batcher in service.batchers.values()):
            raise ProblemError("stopping", "The server does not take pictures now.", {"Retry-After": "5"})
        return Status(status="ready")

    @app.get("/metrics", **openapi.METRICS)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=METRICS_TYPE)

    add_page(app)
    openapi.complete(app, has_token=settings.token is not None)
    return app
