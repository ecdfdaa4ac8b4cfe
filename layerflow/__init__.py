"""layerflow: gradient flow of layerwise linear models, whole phase diagrams in one call."""

from layerflow import plot
from layerflow._compile_cache import enable_compile_cache
from layerflow._problem import Problem
from layerflow._solve import Trajectory, solve
from layerflow._sweep import sweep
from layerflow.engine._grid import paired, static
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Flow, Status
from layerflow.networks import DiagonalNetwork, LinearNetwork, constant, linear_model
from layerflow.observables import (
    effective_rank,
    kernel_distance,
    layer_imbalance,
    layer_movement,
    loss,
    mode_strengths,
    ntk,
    observable,
    on_test,
)
from layerflow.starts import gaussian, lambda_balanced, symmetrised
from layerflow.tasks import Modes, Moments, Samples, Task, random_regression

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
    "Task",
    "Trajectory",
    "constant",
    "effective_rank",
    "enable_compile_cache",
    "gaussian",
    "kernel_distance",
    "lambda_balanced",
    "layer_imbalance",
    "layer_movement",
    "linear_model",
    "loss",
    "mode_strengths",
    "ntk",
    "observable",
    "on_test",
    "paired",
    "plot",
    "random_regression",
    "solve",
    "static",
    "sweep",
    "symmetrised",
]
