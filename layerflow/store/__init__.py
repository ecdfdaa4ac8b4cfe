"""Sweeps on disk: every finished chunk is kept, whatever happens to the process."""

from layerflow._open import open_diagram

__all__ = ["open_diagram"]
