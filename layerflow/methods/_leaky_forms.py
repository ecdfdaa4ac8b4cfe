"""Networks of leaky ReLU, `MLP(slope=)`, whose flow has a closed form on samples."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from layerflow import theory
from layerflow._problem import Problem
from layerflow.methods._assumptions import Assumption
from layerflow.methods._form import ClosedForm, Layers
from layerflow.networks import MLP
from layerflow.tasks import Samples
from layerflow.tasks._moments import mean_product


class LeakyScalar(ClosedForm):
    """One input and one output, any width, input weights of one sign, on any samples.

    Units are linear above 0 and linear below it, so that weights are those of a scalar network with

        E = g_+^2 E[x^2; x > 0] + g_-^2 E[x^2; x < 0],    E S = g_+ E[x y; x > 0] + g_- E[x y; x < 0],

    where g_+ and g_- are 1 and the slope for positive input weights, and the other way round for negative ones.
    """

    name = "leaky ReLU network of one input, with input weights of one sign (Theorem I.1)"

    def unfit(self, problem: Problem) -> str | None:
        reason = _unfit(problem)
        if reason is not None:
            return reason
        widths = [*(len(w[0]) for w in problem.start.weights), len(problem.start.weights[-1])]
        return None if (widths[0], widths[2]) == (1, 1) else "it has more than one input or output"

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        first = problem.start.weights[0][:, 0]
        sign = jnp.sign(first[0])
        apart = jnp.where(jnp.all(first * sign > 0), 0.0, 1.0)
        if layers is None:  # at any time, as |a| stays above |b|
            b = problem.start.weights[1][0]
            kept = jnp.where(jnp.all(jnp.abs(first) >= jnp.abs(b)), 0.0, 1.0)
        else:
            kept = jnp.where(jnp.all(layers[0][..., 0] * sign > 0), 0.0, 1.0)
        return [
            Assumption.strict("all input weights are of one sign (theory.leaky_scalar_first_order takes both)", apart),
            Assumption.strict("input weights keep their sign, as those do that are as large as the output's", kept),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        (w1, w2), slope = problem.start.weights, jnp.asarray(problem.start.slope)
        task: Any = problem.task
        x, y = task.x[:, 0], task.y[:, 0]
        positive = w1[0, 0] > 0
        gain = jnp.where((x > 0) == positive, 1.0, slope.astype(x.dtype))
        e, pull = task.mean((gain * x) ** 2), task.mean(gain * x * y)
        target = jnp.where(e > 0, pull / jnp.where(e > 0, e, 1.0), 0.0)
        moved = theory.scalar_network(ts, w1[:, 0], w2[0], target, variance=e)
        return moved.a[..., None], moved.b[:, None, :]


class LeakyPair(ClosedForm):
    """A unit and its mirror image, one output, on white samples that come with their negatives: exact at any slope."""

    name = "leaky ReLU unit and its mirror image on symmetric white inputs (matrix Riccati)"

    def unfit(self, problem: Problem) -> str | None:
        reason = _unfit(problem)
        if reason is not None:
            return reason
        w1, w2 = problem.start.weights
        if w1.shape[0] != 2 or w2.shape[0] != 1:
            return "it is more than a pair of units with one output"
        return None if w1.shape[1] > 1 else "it has one input"

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        (w1, w2), (xx, _) = problem.start.weights, _second_moments(problem.task)
        variance, slope = jnp.trace(xx) / len(xx), jnp.asarray(problem.start.slope, w1.dtype)
        off = jnp.abs(xx - variance * jnp.eye(len(xx), dtype=xx.dtype)).max()
        size = lambda *parts: jnp.stack([jnp.abs(part).max() for part in parts]).max()
        unlike, largest = size(w1[0] + w1[1], w2[0, 0] + w2[0, 1]), size(w1, w2)
        return [
            Assumption.to_rounding(
                "the weights of one unit are those of the other with the other sign", _relative(unlike, largest)
            ),
            Assumption.to_rounding("the inputs are whitened, E[x x^T] = c I", _relative(off, variance)),
            Assumption.to_rounding(
                "the samples come with their negatives, -x and -y with x and y", _relative(*_asymmetry(problem.task))
            ),
            Assumption.strict("the slope is above -1", jnp.where(slope > -1, 0.0, -slope)),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        (w1, w2), (xx, yx) = problem.start.weights, _second_moments(problem.task)
        variance = jnp.trace(xx) / len(xx)
        beta = yx[0] / jnp.where(variance > 0, variance, 1.0)
        unit = theory.leaky_pair(w1[0], w2[0, 0], beta, variance * ts, slope=problem.start.slope)
        both = lambda part: jnp.stack([part, -part], axis=1)
        return both(unit.w), both(unit.a)[:, None, :]


def _unfit(problem: Problem) -> str | None:
    """Why it is no leaky ReLU network of two layers on samples."""
    network, task = problem.start, problem.task
    if type(network) is not MLP or network.activation is not jax.nn.relu:
        return "it is no MLP of leaky ReLU, activation=jax.nn.relu"
    if len(network.weights) != 2 or network.biases is not None:
        return "it has other than two layers, or biases"
    if not isinstance(network.output_scale, float) or network.output_scale != 1:
        return "its output scale is not 1"
    vectors = isinstance(task, Samples) and task.x.ndim == task.y.ndim == 2
    return None if vectors else "its task is no Samples of vectors"


def _second_moments(task: Any) -> tuple[Float[Array, "inp inp"], Float[Array, "out inp"]]:
    """E[x x^T] and E[y x^T]."""
    return mean_product(task.x, task.x, task.weight), mean_product(task.y, task.x, task.weight)


def _asymmetry(task: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How far samples are from their negatives in the order of their numbers, and how large they are."""
    rows = jnp.concatenate([task.x, task.y], axis=1)
    weight = jnp.ones(len(rows), rows.dtype) if task.weight is None else task.weight
    ordered = lambda rows: jnp.lexsort(rows.T[::-1])
    first, last = ordered(rows), ordered(-rows)
    apart = jnp.abs(rows[first] + rows[last]).max(), jnp.abs(weight[first] - weight[last]).max()
    return jnp.stack(apart).max(), jnp.abs(rows).max()


def _relative(violation: Float[Array, ""], size: Float[Array, ""]) -> Float[Array, ""]:
    return violation / jnp.where(size > 0, size, 1.0)
