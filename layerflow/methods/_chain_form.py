"""Linear networks of several equal layers that are aligned with their task."""

import functools
import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from layerflow import theory
from layerflow._problem import Problem
from layerflow.methods._assumptions import Assumption, cost_of_spread
from layerflow.methods._form import ClosedForm, Layers, data_of
from layerflow.networks import LinearNetwork
from layerflow.tasks import Modes

Vectors = Float[Array, "_width modes"]
_APART = 0.6180339887498949  # a weight at which no two modes of task and start together have one strength


class AlignedChain(ClosedForm):
    """Three or more layers, aligned with a task on whitened inputs, all layers of a mode equal: deep modes.

    Every mode k follows u_k' = L E u_k^(2 - 2/L) (S_k - u_k), and layer l is B_l diag(u)^(1/L) B_{l-1}^T with the
    vectors B of its units, V at the inputs and U at the outputs.
    """

    name = "deep modes of an aligned linear network of equal layers on whitened inputs"

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if not isinstance(network, LinearNetwork) or len(network.weights) < 3:
            return "it is no linear network of three layers or more"
        if not isinstance(network.output_scale, float) or network.output_scale != 1:
            return "its output scale is not 1"
        return None

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        variance, target, off = _task(problem)
        vectors, sizes, apart = _modes(problem, target)
        largest = sizes.max(axis=0)
        alive = largest > 0
        spread = ((largest - sizes.min(axis=0)) / jnp.where(alive, largest, 1.0)).max()
        strength = jnp.prod(sizes, axis=0)
        goal = jnp.sum((target @ vectors[0]) * vectors[-1], axis=0)
        outside = jnp.maximum(-strength, strength - goal).max()
        inside = (strength > 0) & (strength < goal)
        sizes, goal = jnp.where(inside[None, :], sizes, 0.5), jnp.where(inside, goal, 1.0)
        now = None if ts is None else _strengths(ts, strength, goal, variance, len(sizes), inside)
        return [
            Assumption.to_rounding("the inputs are whitened, E[x x^T] = c I", off),
            Assumption.to_rounding("layers share singular vectors with one another and with the task (aligned)", apart),
            Assumption(
                "all layers of a mode are equal in size",
                spread,
                cost_of_spread(sizes, goal, jnp.broadcast_to(variance, goal.shape), ts, now),
            ),
            Assumption.strict("every mode starts between 0 and its target", jnp.where(outside < 0, 0.0, 1.0 + outside)),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        variance, target, _ = _task(problem)
        vectors, sizes, _ = _modes(problem, target)
        goal = jnp.sum((target @ vectors[0]) * vectors[-1], axis=0)
        strength, depth = jnp.prod(sizes, axis=0), len(sizes)
        inside = (strength > 0) & (strength < goal)
        size = _strengths(ts, strength, goal, variance, depth, inside) ** (1 / depth)
        layer = lambda after, before: jnp.einsum("ik,tk,jk->tij", after, size, before)
        return tuple(layer(after, before) for before, after in itertools.pairwise(vectors))


def _task(problem: Problem) -> tuple[Float[Array, ""], Float[Array, "out inp"], Float[Array, ""]]:
    """The variance of whitened inputs, the best map, and how far inputs are from white, relatively."""
    data = data_of(problem)
    xx, yx = (
        (jnp.diag(data.variance), (data.variance * data.target)[None, :])
        if isinstance(data, Modes)
        else (data.xx, data.yx)
    )
    variance = jnp.trace(xx) / len(xx)
    safe = jnp.where(variance > 0, variance, 1.0)
    off = jnp.abs(xx - variance * jnp.eye(len(xx), dtype=xx.dtype)).max() / safe
    return variance, yx / safe, off


def _modes(
    problem: Problem, target: Float[Array, "out inp"]
) -> tuple[list[Vectors], Float[Array, "layers modes"], Float[Array, ""]]:
    """Vectors of every layer of units, sizes of every layer of weights, and how far these are from both alone.

    Task and start together tell modes apart of which one of them has equal strengths.
    """
    weights = problem.start.weights
    least = min(problem.start.widths)
    unit = lambda matrix: matrix / jnp.where(jnp.abs(matrix).max() > 0, jnp.abs(matrix).max(), 1.0)
    whole = functools.reduce(lambda product, w: w @ product, weights)
    left, _, right = jnp.linalg.svd(unit(target) + _APART * unit(whole), full_matrices=False)
    vectors, sizes, apart = [right[:least].T], [], []
    for w in weights:
        image = w @ vectors[-1]
        size = jnp.sqrt(jnp.sum(image**2, axis=0))
        sizes.append(size)
        vectors.append(image / jnp.where(size > 0, size, 1.0)[None, :])
    for w, before, after, size in zip(weights, vectors[:-1], vectors[1:], sizes, strict=True):
        apart.append(jnp.abs(w - (after * size[None, :]) @ before.T).max() / jnp.abs(w).max(initial=1e-300))
    goal = (target @ vectors[0]).T @ vectors[-1]
    apart.append(jnp.abs(goal - jnp.diag(jnp.diagonal(goal))).max() / jnp.abs(target).max(initial=1e-300))
    ends = left[:, :least] * jnp.sign(jnp.sum(vectors[-1] * left[:, :least], axis=0))[None, :]
    apart.append(jnp.abs(vectors[-1] - ends).max())
    return vectors, jnp.stack(sizes), jnp.stack(apart).max()


def _strengths(
    ts: Float[Array, " t"],
    start: Float[Array, " modes"],
    target: Float[Array, " modes"],
    variance: Float[Array, ""],
    depth: int,
    inside: Array,
) -> Float[Array, "t modes"]:
    """The strength of every mode at `ts`, NaN for one that is outside of its theory."""
    safe = lambda value, other: jnp.where(inside, value, other)
    u = theory.deep_mode(ts[:, None], safe(start, 0.5), safe(target, 1.0), depth, variance)
    return jnp.where(inside[None, :], u, jnp.nan)
