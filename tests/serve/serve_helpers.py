"""A predictor that is easy to check, and clients of a server that holds it."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs fathom-depth[serve]")
pytest.importorskip("prometheus_client", reason="the server needs fathom-depth[serve]")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from starlette.testclient import TestClient

from fathom.models.cards import InputSpec
from fathom.predict import Ready
from fathom.runtime.steps import postprocess, preprocess
from fathom.serve.app import ServedModel, create_app
from fathom.serve.schema import ModelInfo, ServeSettings
from fathom.types import Camera, Depth, DepthKind, Provenance


class BrightnessPredictor:
    """Depth in metres is one plus the mean of the three channels: easy to check, and different for each picture."""

    def __init__(self, kind: DepthKind = DepthKind.METRIC_DEPTH) -> None:
        self.kind = kind
        self.batches: list[int] = []

    def prepare(self, image) -> Ready:
        camera = image.camera or Camera.assumed(height=image.height, width=image.width)
        return Ready(preprocess(image.rgb, InputSpec(law="area", area=(64, 64))), camera, image)

    def infer(self, group: Sequence[Ready]) -> list[np.ndarray]:
        self.batches.append(len(group))
        return [1 + item.prepared.array[0].mean(axis=0) for item in group]

    def finish(self, raw: np.ndarray, ready: Ready) -> Depth:
        provenance = Provenance(model=f"brightness-{self.kind}", weights_sha256="0" * 64, licence="CC0")
        return postprocess(raw, ready.prepared, kind=self.kind, camera=ready.camera, provenance=provenance)

    def predict(self, picture) -> Depth:
        ready = self.prepare(picture)
        return self.finish(self.infer([ready])[0], ready)


def served(name: str, predictor, is_default: bool = True) -> ServedModel:
    kind = predictor.kind
    info = ModelInfo(
        name=name, kind=kind, unit=kind.unit, larger_is_nearer=kind.larger_is_nearer, is_default=is_default
    )
    return ServedModel(info, predictor)


def both_models() -> list[ServedModel]:
    relative = BrightnessPredictor(DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
    return [served("metric", BrightnessPredictor()), served("relative", relative, is_default=False)]


def encoded(height: int = 24, width: int = 32, seed: int = 0, file_format: str = "PNG", **options) -> bytes:
    """Encode a smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def client_for(models, settings: ServeSettings | None = None, **options) -> TestClient:
    return TestClient(create_app(models, settings), base_url="http://127.0.0.1", **options)
