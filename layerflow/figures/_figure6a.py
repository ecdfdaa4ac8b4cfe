"""Figure 6(a): the lazy/rich boundary over layer imbalance and weight-to-target ratio.

Two-layer 2-2-2 networks learn one random regression of 10 whitened samples from a lambda-balanced
start. THEORY: conditions of Dominé et al. (2025); recipe: the authors' code, whose axis called
weight-to-target ratio, q, divides the target, while the start has singular values sqrt(q), not q.
So the ratio of the two is q^(3/2). The authors draw fresh singular vectors in every cell; here a
seed has the same in all cells, which shows the map and not the scatter.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.figures import _figure6
from layerflow.figures._figure6 import MethodName
from layerflow.observables import kernel_distance, loss
from layerflow.starts import lambda_balanced
from layerflow.tasks import random_regression

if TYPE_CHECKING:
    import xarray

TITLE = "Lazy or rich, by layer imbalance and weight-to-target ratio (2-2-2, whitened inputs)"
NOTES = (
    "As in the authors' code the singular values at the start are sqrt(q) and the target is divided by q, "
    "where q is the axis called weight-to-target ratio.",
    "The loss at the end is what ten random samples leave to a linear map, over q²: training has ended everywhere.",
    "One random task serves the whole map; colours are the geometric mean over seeds, without the authors' +1e-6.",
)


def compute(grid: int = 40, seeds: int = 4, method: MethodName = "flow") -> "xarray.Dataset":
    """Kernel distance and loss at t = 39.99 over lam and weight_to_target.

    Args:
        grid: Points along each axis.
        seeds: Random starts.
        method: "flow", its closed form "exact", or "descent" at rate 0.01 as the authors have it.

    Returns:
        Diagram of dimensions lam, weight_to_target, seed.
    """
    task = random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments

    def balanced(key: jax.Array, lam: jax.Array, weight_to_target: jax.Array) -> Problem:
        start = lambda_balanced(key, lam, jnp.sqrt(weight_to_target), inp=2, hid=2, out=2)
        return Problem(start, task.rescale(target=1 / weight_to_target))

    axes = {"lam": np.linspace(-9.0, 9.0, grid), "weight_to_target": np.linspace(1.0, 20.0, grid)}
    return sweep(balanced, axes, seeds=seeds, method=_figure6.make_method(method), observe=(kernel_distance, loss))


def draw(diagram: "xarray.Dataset") -> matplotlib.figure.Figure:
    """The picture."""
    return _figure6.draw(diagram, TITLE)
