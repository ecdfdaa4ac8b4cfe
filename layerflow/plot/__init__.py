"""Pictures of diagrams: functions take labelled data, return matplotlib's objects, and never call show."""

from layerflow.diagrams._array import over_seeds
from layerflow.plot._arrows import arrows
from layerflow.plot._bands import band
from layerflow.plot._boundary import boundary
from layerflow.plot._curves import curves
from layerflow.plot._data import PALETTE, colours
from layerflow.plot._heatmap import heatmap
from layerflow.plot._modes import modes
from layerflow.plot._panels import panels
from layerflow.plot._style import style

__all__ = [
    "PALETTE",
    "arrows",
    "band",
    "boundary",
    "colours",
    "curves",
    "heatmap",
    "modes",
    "over_seeds",
    "panels",
    "style",
]
