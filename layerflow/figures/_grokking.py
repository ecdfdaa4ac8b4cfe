"""What the figures of grokking share: a network and its measure, steps to measure at, and how curves are drawn."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.figures._curves import BLUE, VERMILION
from layerflow.networks import MLP
from layerflow.observables import observable
from layerflow.plot._bands import band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN_LINE = {"color": BLUE, "linestyle": "--", "linewidth": 1.6}
TEST_LINE = {"color": VERMILION, "linestyle": "-", "linewidth": 1.9}


@observable(long_name="loss over that of the zero function", units="1")
def relative_loss(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """The loss over the loss at the start, which for a centred start is that of the zero function. Shape ()."""
    return problem.task.loss(network) / problem.task.loss(problem.start)


def mirrored(
    half: Float[Array, "half inp"], readout: Float[Array, " half"], *, eps: float, scale: float | Array
) -> MLP:
    """(scale/N) sum_i s_i phi(w_i . x), phi(z) = z + eps z^2/2, of N units in pairs of opposite readouts: 0 at first.

    Args:
        half: w_i of one half of the units, which the other half repeats.
        readout: s_i of that half; the other has them with the opposite sign.
        eps: Of the curvature.
        scale: Of the output.
    """
    weights = jnp.concatenate([half, half]), jnp.concatenate([readout, -readout])[None]
    slope = 1 / (1 + eps / 2)
    return MLP(weights, activation=jnp.square, slope=slope, output_scale=scale / (slope * 2 * len(half)))


def steps_to(last: int, points: int) -> np.ndarray:
    """Steps from 0 to the last, about evenly spaced in the logarithm, without repeats."""
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, last, points))]).astype(int))


def draw_seeds(ax: "Axes", steps: Any, values: Any, style: dict[str, Any], label: str | None = None) -> None:
    """Median over seeds, the first dimension, and the range of all of them; step 0 stands at 1/2."""
    band(np.maximum(np.asarray(steps), 0.5), values, spread="range", label=label, **style, ax=ax)
