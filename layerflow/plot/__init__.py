"""Pictures of diagrams: functions take labelled data, return matplotlib Axes, and never call show."""

from layerflow.plot._arrows import arrows
from layerflow.plot._boundary import boundary
from layerflow.plot._curves import curves
from layerflow.plot._heatmap import heatmap
from layerflow.plot._modes import modes
from layerflow.plot._style import style

__all__ = ["arrows", "boundary", "curves", "heatmap", "modes", "style"]
