"""How far functions are apart, on the inputs of a task."""

import functools
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.base._numerics import safe_root
from layerflow.networks import DiagonalNetwork, LinearisedNetwork, LinearNetwork, is_linear, is_weight
from layerflow.observables._at_hand import movement
from layerflow.observables._kernel import input_moment
from layerflow.observables._network import samples_of
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
    by_matrix = told_by_matrix(problem, network, other)
    return size_of(values_of(network, problem, by_matrix) - values_of(other, problem, by_matrix), problem, by_matrix)


def told_by_matrix(problem: Problem, *networks: PyTree) -> bool:
    """Whether the networks' matrices say all of them, so that samples need not be gone through."""
    if isinstance(problem.task, Moments | Modes):
        return all(hasattr(network, "matrix") for network in networks)
    return all(map(is_linear, networks)) and samples_of(problem, "The distance between functions").x.ndim == 2


def values_of(network: PyTree, problem: Problem, by_matrix: bool) -> Array:
    """The matrix of the network, or its outputs on the samples."""
    if by_matrix:
        return network.matrix
    return jax.vmap(network)(samples_of(problem, "The distance between functions that are not linear").x)


def change_of(network: PyTree, start: PyTree, problem: Problem, by_matrix: bool) -> Array:
    """`values_of` now minus at the start, from the movement of the weights where that has more digits."""
    moved: Any = movement(network, start)
    if isinstance(network, LinearisedNetwork):
        weights, rest = eqx.partition(network.start, is_weight(network.start))
        values = lambda weights: values_of(eqx.combine(weights, rest), problem, by_matrix)
        return jax.jvp(values, (weights,), (moved.weights,))[1]
    if by_matrix and type(network) is LinearNetwork:
        return network.output_scale * _product_change(operator.matmul, start.weights, moved.weights)
    if by_matrix and type(network) is DiagonalNetwork:
        return network.output_scale * _product_change(operator.mul, start.weights, moved.weights)[None, :]
    return values_of(network, problem, by_matrix) - values_of(start, problem, by_matrix)


def _product_change(product: Any, weights: tuple[Array, ...], moved: tuple[Array, ...]) -> Array:
    """By how much the product of layers grew, with all the digits of their movement."""

    def with_layer(before: tuple[Array, Array], layer: tuple[Array, Array]) -> tuple[Array, Array]:
        (p, dp), (w, dw) = before, layer
        return product(w, p), product(dw, p + dp) + product(w, dp)

    (first, *rest) = zip(weights, moved, strict=True)
    return functools.reduce(with_layer, rest, first)[1]


def size_of(values: Array, problem: Problem, by_matrix: bool) -> Float[Array, ""]:
    """Root mean square over the inputs of a function given by `values_of`."""
    known = isinstance(problem.task, Moments | Modes)
    task = problem.task if known else samples_of(problem, "The distance between functions")
    if not by_matrix:
        values = task.weighed(values) if isinstance(task, Samples) else values
        return safe_root(jnp.sum(values**2) / values.shape[0])
    if isinstance(task, Samples) and task.few:
        return safe_root(jnp.sum((values @ task.weighed(task.x).T) ** 2) / task.x.shape[0])
    xx = input_moment(task)
    return safe_root(jnp.sum((values * xx[None, :] if xx.ndim == 1 else values @ xx) * values))


def residual_of(network: PyTree, problem: Problem) -> tuple[Array, Array]:
    """What is left to learn, and the outputs it is left of: by entry of the matrix, or on the samples."""
    task = problem.task
    if isinstance(task, Modes):
        return task.target - network.matrix[0], network.matrix
    if isinstance(task, Moments):
        return task.yx - network.matrix @ task.xx, network.matrix
    samples = samples_of(problem, "The residual")
    outputs = jax.vmap(network)(samples.x)
    return samples.residual(outputs), outputs
