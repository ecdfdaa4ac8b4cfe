"""What is to be learned: a task gives the loss of a network."""

from layerflow.tasks._base import Task
from layerflow.tasks._components import PrincipalComponents as PrincipalComponents
from layerflow.tasks._components import principal_components
from layerflow.tasks._digits import digits
from layerflow.tasks._modes import Modes
from layerflow.tasks._modular import modular_arithmetic
from layerflow.tasks._moments import Moments
from layerflow.tasks._parity import SkillSamples as SkillSamples
from layerflow.tasks._parity import SparseParity
from layerflow.tasks._polynomial import polynomial_regression
from layerflow.tasks._regression import random_regression
from layerflow.tasks._samples import Samples
from layerflow.tasks._stream import Stream
from layerflow.tasks._teacher import population, power_law_modes, sparse_teacher, teacher

__all__ = [
    "Modes",
    "Moments",
    "Samples",
    "SparseParity",
    "Stream",
    "Task",
    "digits",
    "modular_arithmetic",
    "polynomial_regression",
    "population",
    "power_law_modes",
    "principal_components",
    "random_regression",
    "sparse_teacher",
    "teacher",
]
