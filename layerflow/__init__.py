"""layerflow: gradient flow of layerwise linear models, whole phase diagrams in one call."""

import sys as _sys

from layerflow import plot, theory
from layerflow._open import open_diagram
from layerflow._problem import Problem
from layerflow._replay import replay, retry
from layerflow._solve import solve
from layerflow._sweep import sweep
from layerflow._trajectory import Trajectory
from layerflow.base._compile_cache import enable_compile_cache
from layerflow.base._keys import fold
from layerflow.diagrams._boundary import boundary
from layerflow.diagrams._calibrate import Calibration, calibrate
from layerflow.diagrams._failures import failures
from layerflow.diagrams._provenance import provenance
from layerflow.engine._grid import paired, static
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Exact, Flow, Status
from layerflow.networks import (
    MLP,
    DiagonalNetwork,
    LayerwiseNetwork,
    LinearNetwork,
    Transformer,
    constant,
    feature_model,
    linear_model,
    linearise,
    skill_network,
)
from layerflow.observables import (
    accuracy,
    alignment,
    effective_rank,
    feature_rank,
    features,
    function_distance,
    kernel_distance,
    layer_imbalance,
    layer_movement,
    laziness,
    loss,
    mode_strengths,
    neural_collapse,
    ntk,
    observable,
    on_test,
    scaled_sharpness,
    sharpness,
    skill_strengths,
    weight_norms,
)
from layerflow.starts import (
    aligned,
    downstream,
    gaussian,
    lambda_balanced,
    lambda_balanced_chain,
    orthogonal,
    symmetrised,
    upstream,
)
from layerflow.summaries import first_time, grokking_delay, half_times, mode_order, plateaus, time_to_fraction
from layerflow.tasks import (
    Modes,
    Moments,
    Samples,
    SparseParity,
    Stream,
    Task,
    digits,
    modular_arithmetic,
    polynomial_regression,
    power_law_modes,
    principal_components,
    random_regression,
    teacher,
)

if "xarray" in _sys.modules:  # else with the first diagram: xarray takes its time to import
    from layerflow import _accessor as _accessor

__version__ = "0.3.0.dev0"

__all__ = [
    "MLP",
    "Calibration",
    "Descent",
    "DiagonalNetwork",
    "Exact",
    "Flow",
    "LayerwiseNetwork",
    "LinearNetwork",
    "Machine",
    "Modes",
    "Moments",
    "Problem",
    "Samples",
    "SparseParity",
    "Status",
    "Stream",
    "Task",
    "Trajectory",
    "Transformer",
    "accuracy",
    "aligned",
    "alignment",
    "boundary",
    "calibrate",
    "constant",
    "digits",
    "downstream",
    "effective_rank",
    "enable_compile_cache",
    "failures",
    "feature_model",
    "feature_rank",
    "features",
    "first_time",
    "fold",
    "function_distance",
    "gaussian",
    "grokking_delay",
    "half_times",
    "kernel_distance",
    "lambda_balanced",
    "lambda_balanced_chain",
    "layer_imbalance",
    "layer_movement",
    "laziness",
    "linear_model",
    "linearise",
    "loss",
    "mode_order",
    "mode_strengths",
    "modular_arithmetic",
    "neural_collapse",
    "ntk",
    "observable",
    "on_test",
    "open_diagram",
    "orthogonal",
    "paired",
    "plateaus",
    "plot",
    "polynomial_regression",
    "power_law_modes",
    "principal_components",
    "provenance",
    "random_regression",
    "replay",
    "retry",
    "scaled_sharpness",
    "sharpness",
    "skill_network",
    "skill_strengths",
    "solve",
    "static",
    "sweep",
    "symmetrised",
    "teacher",
    "theory",
    "time_to_fraction",
    "upstream",
    "weight_norms",
]
