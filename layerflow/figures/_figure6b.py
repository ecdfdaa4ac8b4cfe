"""Figure 6(b): the lazy/rich boundary over weight scales and weight-to-target ratio.

Networks 20-20-2 of zero function at the start learn one random regression of 10 samples, not
whitened. The layers' standard deviations are 0.1 + max(d, 0) and 0.1 + max(-d, 0) with d the
vertical axis. The paper calls d lambda, but its sense is opposite to the imbalance of Eq. 14 (d > 0
makes the first layer heavier), and its tick labels are ten times d and upside down.
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
from layerflow.starts import symmetrised
from layerflow.tasks import random_regression

if TYPE_CHECKING:
    import xarray

TITLE = "Lazy or rich, by weight scales and weight-to-target ratio (20-20-2)"
NOTES = (
    "The vertical axis is the difference of the two layers' standard deviations, first minus second; the paper "
    "calls it lambda, upside down and times ten.",
    "Losses below 100 rtol² are solver noise and share the darkest colour.",
    "One random task serves the whole map; colours are the geometric mean over seeds, without the authors' +1e-6.",
)


def compute(grid: int = 40, seeds: int = 1, method: MethodName = "flow") -> "xarray.Dataset":
    """Kernel distance and loss at t = 39.99 over weight_to_target and std_difference.

    Args:
        grid: Points along each axis.
        seeds: Random starts.
        method: "flow", or "descent" at rate 0.01 as the authors have it; there is no closed form.

    Returns:
        Diagram of dimensions weight_to_target, std_difference, seed.
    """
    import xarray

    task = random_regression(jax.random.key(1), n=10, inp=20, out=2).moments

    def unbalanced(key: jax.Array, std_difference: jax.Array, weight_to_target: jax.Array) -> Problem:
        stds = (0.1 + jnp.maximum(std_difference, 0.0), 0.1 + jnp.maximum(-std_difference, 0.0))
        start = symmetrised(key, (20, 20, 2), std=stds)
        return Problem(start, task.rescale(target=1 / weight_to_target))

    label = {"long_name": "scale difference σ₁ − σ₂", "units": "weight"}
    # The ratio comes first: cells that step together then have targets, and so time scales, alike.
    axes = {
        "weight_to_target": np.linspace(0.1, 50.0, grid),
        "std_difference": xarray.DataArray(np.linspace(-0.5, 0.5, grid), attrs=label),
    }
    return sweep(unbalanced, axes, seeds=seeds, method=_figure6.make_method(method), observe=(kernel_distance, loss))


def draw(diagram: "xarray.Dataset") -> matplotlib.figure.Figure:
    """The picture."""
    return _figure6.draw(diagram, TITLE)
