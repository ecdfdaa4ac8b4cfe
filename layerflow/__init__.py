"""layerflow: gradient flow of layerwise linear models, whole phase diagrams in one call."""

from layerflow import plot
from layerflow._compile_cache import enable_compile_cache
from layerflow._keys import fold
from layerflow._problem import Problem
from layerflow._solve import Trajectory, solve
from layerflow._sweep import sweep
from layerflow.engine._grid import paired, static
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Flow, Status
from layerflow.networks import DiagonalNetwork, LinearNetwork, constant, linear_model, linearise
from layerflow.observables import (
    accuracy,
    alignment,
    effective_rank,
    function_distance,
    kernel_distance,
    layer_imbalance,
    layer_movement,
    loss,
    mode_strengths,
    ntk,
    observable,
    on_test,
    sharpness,
    weight_norms,
)
from layerflow.starts import aligned, downstream, gaussian, lambda_balanced, orthogonal, symmetrised, upstream
from layerflow.tasks import Modes, Moments, Samples, Stream, Task, power_law_modes, random_regression, teacher

__version__ = "0.1.0"

__all__ = [
    "Descent",
    "DiagonalNetwork",
    "Flow",
    "LinearNetwork",
    "Machine",
    "Modes",
    "Moments",
    "Problem",
    "Samples",
    "Status",
    "Stream",
    "Task",
    "Trajectory",
    "accuracy",
    "aligned",
    "alignment",
    "constant",
    "downstream",
    "effective_rank",
    "enable_compile_cache",
    "fold",
    "function_distance",
    "gaussian",
    "kernel_distance",
    "lambda_balanced",
    "layer_imbalance",
    "layer_movement",
    "linear_model",
    "linearise",
    "loss",
    "mode_strengths",
    "ntk",
    "observable",
    "on_test",
    "orthogonal",
    "paired",
    "plot",
    "power_law_modes",
    "random_regression",
    "sharpness",
    "solve",
    "static",
    "sweep",
    "symmetrised",
    "teacher",
    "upstream",
    "weight_norms",
]
