"""What is measured: free functions of (network, problem)."""

from layerflow.observables._basic import (
    effective_rank,
    excess_error,
    layer_imbalance,
    layer_movement,
    loss,
    mode_strengths,
)
from layerflow.observables._distance import function_distance
from layerflow.observables._features import feature_rank, features, neural_collapse, skill_strengths
from layerflow.observables._kernel import kernel_distance, ntk
from layerflow.observables._laziness import laziness, leaving_flow
from layerflow.observables._network import accuracy, alignment, scaled_sharpness, sharpness, weight_norms
from layerflow.observables._observable import observable, on_test

__all__ = [
    "accuracy",
    "alignment",
    "effective_rank",
    "excess_error",
    "feature_rank",
    "features",
    "function_distance",
    "kernel_distance",
    "layer_imbalance",
    "layer_movement",
    "laziness",
    "leaving_flow",
    "loss",
    "mode_strengths",
    "neural_collapse",
    "ntk",
    "observable",
    "on_test",
    "scaled_sharpness",
    "sharpness",
    "skill_strengths",
    "weight_norms",
]
