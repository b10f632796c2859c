"""Fathom: one picture in, a depth map you can trust out.

The names below load on first use, so that ``import fathom`` stays light.
"""

import importlib
from typing import TYPE_CHECKING

from fathom.version import __version__ as __version__

if TYPE_CHECKING:
    from fathom.errors import FathomError as FathomError
    from fathom.models import list_models as list_models
    from fathom.predict import Predictor as Predictor
    from fathom.predict import load_model as load_model
    from fathom.predict import predict as predict
    from fathom.types import Camera as Camera
    from fathom.types import Depth as Depth
    from fathom.types import DepthKind as DepthKind
    from fathom.types import Sample as Sample

_HOMES = {
    "Camera": "fathom.types",
    "Depth": "fathom.types",
    "DepthKind": "fathom.types",
    "FathomError": "fathom.errors",
    "Predictor": "fathom.predict",
    "Sample": "fathom.types",
    "list_models": "fathom.models",
    "load_model": "fathom.predict",
    "predict": "fathom.predict",
}

__all__ = [
    "Camera",
    "Depth",
    "DepthKind",
    "FathomError",
    "Predictor",
    "Sample",
    "__version__",
    "list_models",
    "load_model",
    "predict",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fathom' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
