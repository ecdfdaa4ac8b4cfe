"""Closed forms of layerwise linear models, which know nothing of the rest of the library."""

from layerflow.theory._deep import deep_mode, deep_time
from layerflow.theory._mode import LayerPair, exponential, layer_pair, sigmoidal
from layerflow.theory._stages import (
    critical_speed_ratio,
    exponential_time,
    plateau_losses,
    sigmoidal_time,
    stages_separate,
)

__all__ = [
    "LayerPair",
    "critical_speed_ratio",
    "deep_mode",
    "deep_time",
    "exponential",
    "exponential_time",
    "layer_pair",
    "plateau_losses",
    "sigmoidal",
    "sigmoidal_time",
    "stages_separate",
]
