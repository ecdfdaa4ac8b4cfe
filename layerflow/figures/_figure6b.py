"""Figure 6(b): the lazy/rich boundary over weight scales and weight-to-target ratio.

Networks 20-20-2 of zero function at the start learn one random regression of 10 samples, not
whitened. The layers' standard deviations are 0.1 + max(d, 0) and 0.1 + max(-d, 0) with d the
vertical axis. The paper calls d lambda, but its sense is opposite to the imbalance of Eq. 14 (d > 0
makes the first layer heavier), and its tick labels are ten times d and upside down. Beside the
paper's two maps stand laziness, the spread over seeds, and the line at which the kernel distance is 1e-3.

Ten samples span ten of the twenty input directions, and the symmetrised start uses twelve of the
twenty hidden ones: the flow neither moves the others nor is moved by them. So networks 10-12-2 are
integrated whose function and kernel on the samples are those of the networks 20-20-2.
"""

from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.figures import _figure6
from layerflow.figures._words import beside, verdict
from layerflow.networks import LinearNetwork
from layerflow.starts import symmetrised
from layerflow.tasks import Samples, random_regression

if TYPE_CHECKING:
    import xarray

TITLE = "Lazy or rich, by weight scales and weight-to-target ratio (20-20-2)"
NOTES = (
    "The vertical axis is the difference of the two layers' standard deviations, first minus second; the paper "
    "calls it lambda, upside down and times ten.",
    "Losses below 100 rtol² and laziness below 10 rtol are solver noise and share the darkest colour.",
    "One random task serves the whole map; colours are the geometric mean over seeds, without the authors' +1e-6.",
    "The line is where the kernel distance is 1e-3, with the middle half of the seeds about it. Laziness follows the "
    "path, so descent leaves it out.",
)

# Mean log10(kernel distance + 1e-6) by ratio, at equal scales and at a difference of 0.5, three runs of the recipe.
RECIPE_EQUAL = {0.1: -0.6, 1.0: -1.2, 10.0: -2.5, 50.0: -5.1}
RECIPE_APART = {0.1: -1.1, 1.0: -3.5, 10.0: -5.7, 50.0: -6.0}


def compute(grid: int = 40, seeds: int = 2, method: Literal["flow", "descent"] = "flow") -> "xarray.Dataset":
    """Kernel distance, laziness and loss at t = 39.99 over weight_to_target and std_difference.

    Args:
        grid: Points along each axis.
        seeds: Random starts.
        method: "flow", or "descent" at rate 0.01 as the authors have it; there is no closed form.

    Returns:
        Diagram of dimensions weight_to_target, std_difference, seed.
    """
    import xarray

    samples = random_regression(jax.random.key(1), n=10, inp=20, out=2)
    seen = jnp.linalg.svd(samples.x, full_matrices=False)[2].T  # the directions that the samples span
    task = Samples(samples.x @ seen, samples.y).moments

    def unbalanced(key: jax.Array, std_difference: jax.Array, weight_to_target: jax.Array) -> Problem:
        stds = (0.1 + jnp.maximum(std_difference, 0.0), 0.1 + jnp.maximum(-std_difference, 0.0))
        w1, w2 = symmetrised(key, (20, 20, 2), std=stds).weights
        used = jnp.linalg.qr(jnp.concatenate([w1 @ seen, w2.T], axis=1))[0]
        start = LinearNetwork((used.T @ w1 @ seen, w2 @ used))
        return Problem(start, task.rescale(target=1 / weight_to_target))

    label = {"long_name": "scale difference σ₁ − σ₂", "units": "weight"}
    # The ratio comes first: cells that step together then have targets, and so time scales, alike.
    axes = {
        "weight_to_target": np.linspace(0.1, 50.0, grid),
        "std_difference": xarray.DataArray(np.linspace(-0.5, 0.5, grid), attrs=label),
    }
    observe = _figure6.observables(method)
    return sweep(unbalanced, axes, seeds=seeds, method=_figure6.make_method(method), observe=observe)


def draw(diagram: "xarray.Dataset") -> matplotlib.figure.Figure:
    """The picture."""
    return _figure6.draw(diagram, TITLE)


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How far the map is the paper's along two rows, and where it turns lazy."""
    decades = np.log10(diagram.kernel_distance + 1e-6).mean("seed")
    said = []
    for words, differences, expected in (
        ("equal scales", [0.0], RECIPE_EQUAL),
        ("a scale difference of ±0.5", [-0.5, 0.5], RECIPE_APART),
    ):
        row = decades.sel(std_difference=differences, method="nearest").mean("std_difference")
        near = {ratio: row.sel(weight_to_target=ratio, method="nearest") for ratio in expected}
        places = ", ".join(f"{float(value.weight_to_target):.2g}" for value in near.values())
        measured = {ratio: float(value) for ratio, value in near.items()}
        said.append(
            f"At {words} and ratios {places} the mean of log₁₀(kernel distance + 1e-6) is {beside(measured, expected)}."
        )
    lazy = decades < np.log10(_figure6.LEVEL)
    first = lambda row: float(row.weight_to_target[row.values.argmax()]) if bool(row.any()) else np.inf
    equal, apart = (first(lazy.sel(std_difference=d, method="nearest")) for d in (0.0, 0.5))
    return (
        *said,
        f"The kernel distance falls below {_figure6.LEVEL:g} from ratio {equal:.2g} on at equal scales and from "
        f"{apart:.2g} on at a difference of 0.5: imbalance and a small target are two ways to be lazy, "
        f"{verdict(apart < equal < np.inf)}.",
        *_figure6.told_apart(diagram),
    )
