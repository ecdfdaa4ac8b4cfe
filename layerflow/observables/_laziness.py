"""How far functions are apart, and how far a network's flow leaves that of its linearised twin."""

import functools
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.base._numerics import safe_root
from layerflow.networks import DiagonalNetwork, LinearisedNetwork, LinearNetwork, is_linear, is_weight, linearise
from layerflow.observables._at_hand import method, movement, peaks
from layerflow.observables._kernel import input_moment
from layerflow.observables._network import samples_of
from layerflow.observables._observable import observable
from layerflow.tasks import Modes, Moments, Samples


def function_distance(network: PyTree, other: PyTree, problem: Problem) -> Float[Array, ""]:
    """Root mean square distance between two networks on the inputs of the task.

        |f - g| = sqrt(E |f(x) - g(x)|^2),    summed over outputs.

    Args:
        network, other: The two networks.
        problem: Whose task gives the inputs: samples, or for linear networks moments or modes.

    Returns:
        Array of shape (), in units of the output.

    Raises:
        TypeError: If the task holds no inputs and a network is not linear.
    """
    by_matrix = _by_matrix(problem, network, other)
    return _size(_values(network, problem, by_matrix) - _values(other, problem, by_matrix), problem, by_matrix)


def _distances(network: PyTree, twin: LinearisedNetwork, problem: Problem) -> Float[Array, "3"]:
    """|f - g|, |f - f0| and |g - f0| of a network and its twin."""
    by_matrix = _by_matrix(problem, network)
    moved = _change(network, problem.start, problem, by_matrix)
    moved_lazily = _change(twin, linearise(problem.start), problem, by_matrix)
    return jnp.stack([_size(change, problem, by_matrix) for change in (moved - moved_lazily, moved, moved_lazily)])


@observable(long_name="distance from the linearised flow", follow=_distances)
def laziness(network: PyTree, problem: Problem) -> Float[Array, ""]:  # noqa: ARG001
    """How far the network's flow has left the flow of its linearised twin: 0 is perfectly lazy.

        max_s |f_s - g_s| / max(max_s |f_s - f_0|, max_s |g_s - f_0|),    0 <= s <= t,

    where g is the network linearised at its start, trained on the same task by the same method, and
    |.| is `function_distance` on the task's inputs. Both end at the target, so the path decides, not
    its end; relative to the way that the functions go, at most 2. Unlike the kernel distance it sees
    networks of one input and one output, and it sees a kernel that changes its scale alone. The twin
    travels beside the network, at about twice the cost; the largest value is taken over the method's
    steps. In float32 distances below 1e-5 are rounding.

    Returns:
        Array of shape (); 0 where the functions move by no more than the method's noise, NaN from where the twin
        diverged, which `laziness_status` tells and which changes nothing else of the cell.

    Raises:
        TypeError: If it is called by itself, outside of `observe`, or the task holds no inputs.

    References:
        Chizat, Oyallon, Bach (2019), arXiv:1812.07956.
    """
    followed = peaks()
    if followed is None:
        raise TypeError(
            "laziness compares two paths, so it is measured along them: lf.solve(problem, flow, observe=lf.laziness). "
            "The distance between two networks is lf.function_distance."
        )
    gap, way = followed[0], jnp.max(followed[1:])
    by_matrix = _by_matrix(problem, problem.start)
    size = _size(_values(problem.start, problem, by_matrix), problem, by_matrix)
    tolerance = getattr(method(), "tolerances", {}).get("rtol", 0.0)
    noise = jnp.maximum(jnp.finfo(way.dtype).eps ** 0.75, jnp.asarray(tolerance, way.dtype) / 100) * size
    still = way <= noise  # not where the twin left the numbers: there both are NaN
    return jnp.where(still, 0.0, gap / jnp.where(still, 1.0, way))


def _by_matrix(problem: Problem, *networks: PyTree) -> bool:
    """Whether the networks' matrices say all of them, so that samples need not be gone through."""
    if isinstance(problem.task, Moments | Modes):
        return all(hasattr(network, "matrix") for network in networks)
    return all(map(is_linear, networks)) and samples_of(problem, "The distance between functions").x.ndim == 2


def _values(network: PyTree, problem: Problem, by_matrix: bool) -> Array:
    """The matrix of the network, or its outputs on the samples."""
    if by_matrix:
        return network.matrix
    return jax.vmap(network)(samples_of(problem, "The distance between functions that are not linear").x)


def _change(network: PyTree, start: PyTree, problem: Problem, by_matrix: bool) -> Array:
    """`_values` now minus at the start, from the movement of the weights where that has more digits."""
    moved: Any = movement(network, start)
    if isinstance(network, LinearisedNetwork):
        weights, rest = eqx.partition(network.start, is_weight(network.start))
        values = lambda weights: _values(eqx.combine(weights, rest), problem, by_matrix)
        return jax.jvp(values, (weights,), (moved.weights,))[1]
    if by_matrix and type(network) is LinearNetwork:
        return network.output_scale * _product_change(operator.matmul, start.weights, moved.weights)
    if by_matrix and type(network) is DiagonalNetwork:
        return network.output_scale * _product_change(operator.mul, start.weights, moved.weights)[None, :]
    return _values(network, problem, by_matrix) - _values(start, problem, by_matrix)


def _product_change(product: Any, weights: tuple[Array, ...], moved: tuple[Array, ...]) -> Array:
    """By how much the product of layers grew, with all the digits of their movement."""

    def with_layer(before: tuple[Array, Array], layer: tuple[Array, Array]) -> tuple[Array, Array]:
        (p, dp), (w, dw) = before, layer
        return product(w, p), product(dw, p + dp) + product(w, dp)

    (first, *rest) = zip(weights, moved, strict=True)
    return functools.reduce(with_layer, rest, first)[1]


def _size(values: Array, problem: Problem, by_matrix: bool) -> Float[Array, ""]:
    """Root mean square over the inputs of a function given by `_values`."""
    known = isinstance(problem.task, Moments | Modes)
    task = problem.task if known else samples_of(problem, "The distance between functions")
    if not by_matrix:
        values = task.weighed(values) if isinstance(task, Samples) else values
        return safe_root(jnp.sum(values**2) / values.shape[0])
    if isinstance(task, Samples) and task.few:
        return safe_root(jnp.sum((values @ task.weighed(task.x).T) ** 2) / task.x.shape[0])
    xx = input_moment(task)
    return safe_root(jnp.sum((values * xx[None, :] if xx.ndim == 1 else values @ xx) * values))
