"""Every error that Fathom raises on purpose.

All share one base, so that ``except FathomError`` catches everything a user can cause::

    FathomError
    ├── ShapeError (ValueError)          an array has the wrong shape or type
    ├── KindError (ValueError)           a step that is not legal for this kind of depth
    ├── EmptyMaskError (ValueError)      no valid pixel is left to compute with
    ├── ConfigError (ValueError)         a recipe, protocol, card or option is wrong
    ├── InputError (ValueError)          a picture or depth file cannot be read
    ├── OutputError (OSError)            a result cannot be written
    ├── ModelError (ValueError)          a model name, folder or runtime is wrong
    │   └── WeightsError                 keys of a checkpoint do not fit the network
    ├── ExportError (RuntimeError)       an exported file does not give the numbers of its source
    └── MissingExtraError (ImportError)  an optional dependency is not installed

Each message says what was expected, what came, and what to do.
"""

import importlib
from types import ModuleType


class FathomError(Exception):
    """Base of every error that Fathom raises on purpose."""


class ShapeError(FathomError, ValueError):
    """An array has the wrong shape or type."""


class KindError(FathomError, ValueError):
    """A step is not legal for this kind of depth."""


class EmptyMaskError(FathomError, ValueError):
    """No valid pixel is left to compute with."""


class ConfigError(FathomError, ValueError):
    """A recipe, protocol, card or option is wrong."""


class InputError(FathomError, ValueError):
    """A picture or depth file cannot be read."""


class OutputError(FathomError, OSError):
    """A result cannot be written."""


class ModelError(FathomError, ValueError):
    """A model name, folder or runtime is wrong."""


class WeightsError(ModelError):
    """Keys of a checkpoint do not fit the network."""


class ExportError(FathomError, RuntimeError):
    """An exported file does not give the numbers of its source."""


class MissingExtraError(FathomError, ImportError):
    """An optional dependency is not installed."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say in one line how to install it.

    Args:
        module: Module to import, for instance ``"torch"``.
        extra: The extra of Fathom that brings it, for instance ``"train"``.
        purpose: What needs it, as the start of a sentence ("Training").

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module is not installed.

    Example:
        >>> require("math", "train", "Counting").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed. Run: pip install 'fathom-depth[{extra}]'"
        ) from None
