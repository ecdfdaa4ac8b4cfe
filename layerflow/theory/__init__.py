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
from layerflow.theory._scaling import ComputeLaw, ScalingLaw, compute_law, data_law, parameter_law, time_law
from layerflow.theory._skills import (
    expected_skill_loss,
    skill_frequencies,
    skill_loss,
    skill_strengths_in_data,
    skill_strengths_in_parameters,
    skill_strengths_in_time,
)
from layerflow.theory._stages import (
    critical_speed_ratio,
    exponential_time,
    plateau_losses,
    sigmoidal_time,
    stages_separate,
)

__all__ = [
    "AlignedFeatures",
    "ComputeLaw",
    "LayerPair",
    "ScalarNetwork",
    "ScalingLaw",
    "aligned_features",
    "compute_law",
    "critical_speed_ratio",
    "data_law",
    "deep_mode",
    "deep_time",
    "ends_at_saddle",
    "expected_skill_loss",
    "exponential",
    "exponential_time",
    "frozen_kernel_output",
    "growth_bound",
    "inflection_time",
    "kernel_growth",
    "layer_pair",
    "parameter_law",
    "plateau_losses",
    "scalar_network",
    "scalar_network_limit",
    "scalar_network_time",
    "sigmoidal",
    "sigmoidal_time",
    "skill_frequencies",
    "skill_loss",
    "skill_strengths_in_data",
    "skill_strengths_in_parameters",
    "skill_strengths_in_time",
    "stages_separate",
    "time_law",
]
