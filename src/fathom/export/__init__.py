"""A model leaves Fathom for another runtime, and gives the same numbers there.

`export_model` writes a model in one of `FORMATS`, compares it with its source on real pictures, and keeps it only where
they agree. torch and the converters are imported when they are needed.
"""

from fathom.export.convert import Export, export_model
from fathom.export.formats import FORMATS
from fathom.export.parity import TOLERANCES, ParityReport, Tolerance

__all__ = ["FORMATS", "TOLERANCES", "Export", "ParityReport", "Tolerance", "export_model"]
