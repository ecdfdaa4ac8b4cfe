"""Figure 6(a): the lazy/rich boundary over layer imbalance and weight-to-target ratio.

Two-layer 2-2-2 networks learn one random regression of 10 whitened samples from a lambda-balanced
start. THEORY: conditions of Dominé et al. (2025); recipe: the authors' code, whose axis called
weight-to-target ratio, q, divides the target, while the start has singular values sqrt(q), not q.
So the ratio of the two is q^(3/2). The authors draw fresh singular vectors in every cell; here a
seed has the same in all cells, which shows the map and not the scatter. Beside the paper's two maps
stand laziness, the spread over seeds, and the line at which the kernel distance is 1e-3.
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
from layerflow.figures._words import beside, listed, verdict
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
    "The line is where the kernel distance is 1e-3, with the middle half of the seeds about it. Laziness follows the "
    "path, so descent and the closed form leave it out.",
    "A large ratio is lazy by the kernel distance alone: as the function shrinks to its small target the kernel loses "
    "size, which a cosine does not see, and leaves the linearised flow behind.",
    "Seeds differ in the singular vectors of the start, which leave the kernel of equal singular values as it is: "
    "their spread is all but zero where training has ended. The exception is λ = 0 itself, which a grid of odd size "
    "holds: there half of the starts, of the wrong determinant, end at a saddle.",
)

# Mean log10 kernel distance at q = 1 by |lam|, over thirty random tasks of the authors' recipe.
RECIPE = {9.0: -5.4, 3.0: -3.8, 0.5: -1.7}


def compute(grid: int = 40, seeds: int = 4, method: MethodName = "flow") -> "xarray.Dataset":
    """Kernel distance, laziness and loss at t = 39.99 over lam and weight_to_target.

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
    observe = _figure6.observables(method)
    return sweep(balanced, axes, seeds=seeds, method=_figure6.make_method(method), observe=observe)


def draw(diagram: "xarray.Dataset") -> matplotlib.figure.Figure:
    """The picture."""
    return _figure6.draw(diagram, TITLE)


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How far the map is the paper's: its depth along one edge, its symmetry, and where it turns rich."""
    decades = np.log10(diagram.kernel_distance).mean("seed")
    edge = decades.isel(weight_to_target=0)
    both = {size: edge.sel(lam=[-size, size], method="nearest") for size in RECIPE}
    places = ", ".join(f"{float(abs(side.lam).mean()):.2g}" for side in both.values())
    odd = float(abs(decades.values - decades.values[::-1]).max())
    rich = diagram.lam.values[(10**edge > _figure6.LEVEL).values]
    width = f"for |λ| up to {abs(rich).max():.2g}" if rich.size else "nowhere"
    return (
        f"At ratio {float(edge.weight_to_target):g} and |λ| = {places} the mean log₁₀ kernel distance is "
        f"{beside({size: float(side.mean()) for size, side in both.items()}, RECIPE)}; one task here, thirty there.",
        f"The two halves of the map differ by {odd:.1g} decades at most: it is even in λ, {verdict(odd < 0.01)}.",
        f"At the smallest ratio the kernel distance is above {_figure6.LEVEL:g} {width}: rich near balance only, "
        f"{verdict(rich.size and abs(rich).max() < diagram.lam.max())}.",
        *_near_balance(diagram),
        *_figure6.told_apart(diagram),
    )


def _near_balance(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """A sentence on the row nearest to balance, where the two measures part."""
    if "laziness" not in diagram:
        return ()
    row = diagram.sel(lam=0.0, method="nearest").mean("seed").isel(weight_to_target=[0, -1])
    first, last = row.weight_to_target.values
    (d0, d1), (z0, z1) = row.kernel_distance.values, row.laziness.values
    return (
        f"At λ = {listed([row.lam], '.2g')} the kernel distance goes from {d0:.1e} to {d1:.1e} as the ratio grows from "
        f"{first:g} to {last:g}, but laziness from {z0:.2f} to {z1:.2f}.",
    )
