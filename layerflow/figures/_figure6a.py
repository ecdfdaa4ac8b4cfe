"""Figure 6(a): the lazy/rich boundary over layer imbalance and weight-to-target ratio.

Two-layer 2-2-2 networks learn one random regression of 10 whitened samples from a lambda-balanced start. THEORY:
conditions of Dominé et al. (2025); recipe: the authors' code, whose axis called weight-to-target ratio, q, divides the
target, while the start has singular values sqrt(q), not q. So the ratio of the two is q^(3/2). The authors draw fresh
singular vectors in every cell; here a seed has the same in all cells, which shows the map and not the scatter.
"""

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import layerflow as lf
from layerflow.figures import _figure6
from layerflow.figures._figure import Claim, Figure, told

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

RECIPE = {9.0: -5.4, 3.0: -3.8, 0.5: -1.7}  # mean log10 kernel distance at q = 1 by |lam|, over thirty random tasks


def compute(grid: int = 40, seeds: int = 4, method: _figure6.MethodName = "flow") -> xarray.Dataset:
    """Kernel distance, laziness and loss at t = 39.99 over lam, weight_to_target and seed."""
    task = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments

    def balanced(key: jax.Array, lam: jax.Array, weight_to_target: jax.Array) -> lf.Problem:
        start = lf.lambda_balanced(key, lam, jnp.sqrt(weight_to_target), inp=2, hid=2, out=2)
        return lf.Problem(start, task.rescale(target=1 / weight_to_target))

    axes = {"lam": np.linspace(-9.0, 9.0, grid), "weight_to_target": np.linspace(1.0, 20.0, grid)}
    return lf.sweep(balanced, axes, seeds=seeds, **_figure6.how(method))


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The map is as deep along one edge as the authors', even in lam, and rich near balance alone."""
    decades = np.log10(diagram.kernel_distance).mean("seed")
    size, edge = abs(diagram.lam), decades.isel(weight_to_target=0)
    both = (edge + edge.values[::-1]).where(edge.lam > 0, drop=True) / 2
    odd, at = abs(decades - decades.values[::-1]).max(), f"at ratio {told(edge.weight_to_target)}"
    rich = size.values[edge > np.log10(_figure6.LEVEL)].max(initial=-np.inf)
    # A kernel that shrinks with its function keeps its direction, not its size. (At λ = 0 half end at a saddle.)
    row = diagram.where(diagram.lam > 0, drop=True).sel(lam=2.5, method="nearest").mean("seed")
    there = f"at λ = {told(row.lam)}, at the largest ratio over the smallest"
    grown = lambda name: row[name][-1] / row[name][0]
    lazy = [Claim.between(f"Laziness {there}", grown("laziness"), low=1.0)] if "laziness" in diagram else []
    return (
        # One task here, thirty there: tasks spread by about one in log10.
        _figure6.as_in_the_recipe(f"Mean log₁₀ kernel distance {at} and |λ|", both, RECIPE, atol=1.5),
        Claim.between("Largest difference in decades of the map from its mirror image in λ", odd, high=0.01),
        Claim.between(f"Largest |λ| {at} with a kernel distance above {_figure6.LEVEL:g}", rich, size.min(), size[-2]),
        Claim.between(f"Kernel distance {there}", grown("kernel_distance"), high=1e-3),
        *lazy,
    )


FIGURE = Figure(TITLE, NOTES, compute, _figure6.panels, claims, _figure6.remarks)
