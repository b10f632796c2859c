"""A model leaves Fathom for another runtime, and gives the same numbers there."""
