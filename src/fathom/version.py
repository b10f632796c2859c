"""The one place that states Fathom's version."""

__version__ = "0.1.0"
