"""What is measured of whole paths: functions of a `Trajectory`."""

from layerflow.summaries._descent_class import DescentClass, descent_class
from layerflow.summaries._plateaus import plateaus
from layerflow.summaries._times import first_time, grokking_delay, half_times, mode_order, time_to_fraction

__all__ = [
    "DescentClass",
    "descent_class",
    "first_time",
    "grokking_delay",
    "half_times",
    "mode_order",
    "plateaus",
    "time_to_fraction",
]
