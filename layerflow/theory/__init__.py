"""Closed forms of layerwise linear models, which know nothing of the rest of the library."""

from layerflow.theory._aligned_features import AlignedFeatures, aligned_features
from layerflow.theory._deep import deep_mode, deep_time
from layerflow.theory._mode import LayerPair, exponential, layer_pair, sigmoidal
from layerflow.theory._richness import (
    ends_at_saddle,
    frozen_kernel_output,
    growth_bound,
    inflection_time,
    kernel_growth,
)
from layerflow.theory._scalar import ScalarNetwork, scalar_network, scalar_network_limit, scalar_network_time
from layerflow.theory._stages import (
    critical_speed_ratio,
    exponential_time,
    plateau_losses,
    sigmoidal_time,
    stages_separate,
)

__all__ = [
    "AlignedFeatures",
    "LayerPair",
    "ScalarNetwork",
    "aligned_features",
    "critical_speed_ratio",
    "deep_mode",
    "deep_time",
    "ends_at_saddle",
    "exponential",
    "exponential_time",
    "frozen_kernel_output",
    "growth_bound",
    "inflection_time",
    "kernel_growth",
    "layer_pair",
    "plateau_losses",
    "scalar_network",
    "scalar_network_limit",
    "scalar_network_time",
    "sigmoidal",
    "sigmoidal_time",
    "stages_separate",
]
