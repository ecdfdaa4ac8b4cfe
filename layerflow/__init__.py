"""layerflow: gradient flow of layerwise linear models, whole phase diagrams in one call."""

import sys as _sys

from layerflow import networks, observables, plot, starts, summaries, tasks, theory
from layerflow._open import open_diagram
from layerflow._prepare import prepare
from layerflow._problem import Problem
from layerflow._replay import replay, retry
from layerflow._solve import solve
from layerflow._sweep import sweep
from layerflow._trajectory import Trajectory
from layerflow.base._compile_cache import enable_compile_cache
from layerflow.base._keys import fold
from layerflow.diagrams._boundary import boundary
from layerflow.diagrams._calibrate import Calibration, calibrate
from layerflow.diagrams._classes import phase
from layerflow.diagrams._collapse import collapse
from layerflow.diagrams._failures import failures
from layerflow.diagrams._provenance import provenance
from layerflow.engine._grid import paired, static
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Exact, Flow, Status
from layerflow.networks import *
from layerflow.observables import *
from layerflow.observables._observable import Watch
from layerflow.starts import *
from layerflow.summaries import *
from layerflow.tasks import *

if "xarray" in _sys.modules:  # else with the first diagram: xarray takes its time to import
    from layerflow import _accessor as _accessor

__version__ = "0.3.0.dev0"

__all__ = [
    "Calibration",
    "Descent",
    "Exact",
    "Flow",
    "Machine",
    "Problem",
    "Status",
    "Trajectory",
    "Watch",
    "boundary",
    "calibrate",
    "collapse",
    "enable_compile_cache",
    "failures",
    "fold",
    "open_diagram",
    "paired",
    "phase",
    "plot",
    "prepare",
    "provenance",
    "replay",
    "retry",
    "solve",
    "static",
    "sweep",
    "theory",
]
# What is trained, learned, begun from and measured: the public names of each room, listed there.
__all__ += networks.__all__
__all__ += observables.__all__
__all__ += starts.__all__
__all__ += summaries.__all__
__all__ += tasks.__all__
