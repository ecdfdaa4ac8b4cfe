"""What the figures of grokking share: a network and its measure, steps to measure at, and how curves are drawn."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, VERMILION

TRAIN_LINE = {"color": BLUE, "linestyle": "--", "linewidth": 1.6}
TEST_LINE = {"color": VERMILION, "linestyle": "-", "linewidth": 1.9}


@lf.observable(long_name="loss over that of the zero function", units="1")
def relative_loss(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """The loss over the loss at the start, which for a centred start is that of the zero function. Shape ()."""
    return problem.task.loss(network) / problem.task.loss(problem.start)


def mirrored(
    half: Float[Array, "half inp"], readout: Float[Array, " half"], *, eps: float, scale: float | Array
) -> lf.MLP:
    """(scale/N) sum_i s_i phi(w_i . x), phi(z) = z + eps z^2/2, of N units in pairs of opposite readouts: 0 at first.

    Args:
        half: w_i of one half of the units, which the other half repeats.
        readout: s_i of that half; the other has them with the opposite sign.
        eps: Of the curvature.
        scale: Of the output.
    """
    weights = jnp.concatenate([half, half]), jnp.concatenate([readout, -readout])[None]
    slope = 1 / (1 + eps / 2)
    return lf.MLP(weights, activation=jnp.square, slope=slope, output_scale=scale / (slope * 2 * len(half)))


def steps_to(last: int, points: int) -> np.ndarray:
    """Steps from 0 to the last, about evenly spaced in the logarithm, without repeats."""
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, last, points))]).astype(int))


def log_ticks(ax: Axes, x: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray) -> None:
    """Numbers in full along two logarithmic axes."""
    ax.set_xticks(x, [f"{tick:g}" for tick in x])
    ax.set_yticks(y, [f"{tick:,g}" for tick in y])
    ax.minorticks_off()


def draw_seeds(ax: Axes, steps: Any, values: Any, style: dict[str, Any], label: str | None = None) -> None:
    """Median over seeds, the first dimension, and the range of all of them; step 0 stands at 1/2."""
    lf.plot.band(np.maximum(np.asarray(steps), 0.5), values, spread="range", label=label, **style, ax=ax)
