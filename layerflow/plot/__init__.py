"""Pictures of diagrams: functions take labelled data, return matplotlib Axes, and never call show."""

from layerflow.plot._curves import curves
from layerflow.plot._heatmap import heatmap

__all__ = ["curves", "heatmap"]
