"""Figure 6(b): the lazy/rich boundary over weight scales and weight-to-target ratio.

Networks 20-20-2 of zero function at the start learn one random regression of 10 samples, not whitened. The layers'
standard deviations are 0.1 + max(d, 0) and 0.1 + max(-d, 0) with d the vertical axis. The paper calls d lambda, but its
sense is opposite to the imbalance of Eq. 14 (d > 0 makes the first layer heavier), and its tick labels are ten times d
and upside down. The samples span ten of the input directions, the symmetrised start twelve of the hidden ones, and the
flow leaves the others alone: so networks 10-12-2 are integrated, of equal function and kernel.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import layerflow as lf
from layerflow.figures import _figure6
from layerflow.figures._figure import Claim, Figure

TITLE = "Lazy or rich, by weight scales and weight-to-target ratio (20-20-2)"
NOTES = (
    "The vertical axis is called lambda in the paper, which draws it upside down and times ten.",
    "Losses below 100 rtol² and laziness below 10 rtol are solver noise and share the darkest colour.",
    "One random task serves the whole map; colours are the geometric mean over seeds, without the authors' +1e-6.",
    "The line is where the kernel distance is 1e-3, with the middle half of the seeds about it. Laziness follows the "
    "path, so descent leaves it out.",
)

# Mean log10(kernel distance + 1e-6) by ratio, at equal scales and at a difference of 0.5, three runs of the recipe.
RECIPE_EQUAL = {0.1: -0.6, 1.0: -1.2, 10.0: -2.5, 50.0: -5.1}
RECIPE_APART = {0.1: -1.1, 1.0: -3.5, 10.0: -5.7, 50.0: -6.0}


def compute(grid: int = 40, seeds: int = 2, method: Literal["flow", "descent"] = "flow") -> xarray.Dataset:
    """Kernel distance, laziness and loss at t = 39.99 over weight_to_target, std_difference and seed."""
    samples = lf.random_regression(jax.random.key(1), n=10, inp=20, out=2)
    seen = jnp.linalg.svd(samples.x, full_matrices=False)[2].T  # the directions that the samples span
    task = lf.Samples(samples.x @ seen, samples.y).moments

    def unbalanced(key: jax.Array, std_difference: jax.Array, weight_to_target: jax.Array) -> lf.Problem:
        stds = (0.1 + jnp.maximum(std_difference, 0.0), 0.1 + jnp.maximum(-std_difference, 0.0))
        w1, w2 = lf.symmetrised(key, (20, 20, 2), std=stds).weights
        used = jnp.linalg.qr(jnp.concatenate([w1 @ seen, w2.T], axis=1))[0]
        start = lf.LinearNetwork((used.T @ w1 @ seen, w2 @ used))
        return lf.Problem(start, task.rescale(target=1 / weight_to_target))

    label = {"long_name": "scale difference σ₁ − σ₂", "units": "weight"}
    differences = xarray.DataArray(np.linspace(-0.5, 0.5, grid), attrs=label)
    # The ratio comes first: cells that step together then have targets, and so time scales, alike.
    axes = {"weight_to_target": np.linspace(0.1, 50.0, grid), "std_difference": differences}
    return lf.sweep(unbalanced, axes, seeds=seeds, **_figure6.how(method))


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The map is the authors' along two rows, and turns lazy the sooner the farther the scales are apart."""
    decades = np.log10(diagram.kernel_distance + 1e-6).mean("seed")
    equal = decades.sel(std_difference=0.0, method="nearest")
    apart = decades.sel(std_difference=[-0.5, 0.5], method="nearest").mean("std_difference")
    lazy = [row.weight_to_target.values[row < np.log10(_figure6.LEVEL)].min(initial=np.inf) for row in (equal, apart)]
    mean = "Mean log₁₀(kernel distance + 1e-6) at"
    first = f"First ratio with a kernel distance below {_figure6.LEVEL:g}, at equal scales and at a difference of ±0.5"
    return (
        _figure6.as_in_the_recipe(f"{mean} equal scales and ratios", equal, RECIPE_EQUAL, atol=0.6),
        _figure6.as_in_the_recipe(f"{mean} a scale difference of ±0.5 and ratios", apart, RECIPE_APART, atol=0.6),
        Claim(first, lazy[1] < lazy[0] < np.inf, lazy, "the second is smaller"),
    )


FIGURE = Figure(TITLE, NOTES, compute, _figure6.panels, claims, _figure6.remarks)
