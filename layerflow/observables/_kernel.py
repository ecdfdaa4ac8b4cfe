"""The tangent kernel, and how far it moved."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.base._numerics import product
from layerflow.networks import DiagonalNetwork, LinearNetwork
from layerflow.observables._at_hand import movement
from layerflow.observables._network import check_alike
from layerflow.observables._observable import observable
from layerflow.tasks import Modes, Moments, Samples
from layerflow.tasks._moments import mean_product


@observable(dims=("output_sample", "output_sample_2"), long_name="neural tangent kernel", units="input²·weight²")
def ntk(network: PyTree, problem: Problem) -> Float[Array, "out_n out_n"]:
    """Neural tangent kernel K = J J^T of the network on the inputs of the task.

    J holds the derivatives of all outputs on all samples by all moving weights, each once
    whatever its rate. Outputs come first: row k n + i is output k on sample i.

    Returns:
        Array of shape (out n, out n).

    Raises:
        TypeError: If the task holds no inputs (Moments, Modes), or its samples have weights.

    References:
        Jacot et al. (2018), arXiv:1806.07572.
    """
    task = problem.task
    if isinstance(task, Samples):
        check_alike(task, "ntk")
    return _weighed_kernel(network, problem)


def _weighed_kernel(network: PyTree, problem: Problem) -> Float[Array, "out_n out_n"]:
    """The kernel, of two samples of weights w and v times the root of w v."""
    task = problem.task
    if not isinstance(task, Samples):
        raise TypeError(
            f"ntk is a matrix over inputs, but {type(task).__name__} holds none. Use Samples; or kernel_distance, "
            f"which needs second moments only."
        )
    weights, rest = problem.split(network)
    output = lambda weights, x: eqx.combine(weights, rest)(x).ravel()
    outputs = jax.eval_shape(output, weights, task.x[0]).size
    # Reverse mode takes one product per output, forward mode one per weight.
    few_weights = sum(leaf.size for leaf in jax.tree.leaves(weights)) < outputs
    derivative = (jax.jacfwd if few_weights else jax.jacrev)(output)
    jacobian = jax.vmap(derivative, in_axes=(None, 0))(weights, task.x)
    rows = outputs * task.x.shape[0]
    flat = [task.weighed(part).swapaxes(0, 1).reshape(rows, -1) for part in jax.tree.leaves(jacobian)]
    return sum((part @ part.T for part in flat), start=jnp.zeros((rows, rows), flat[0].dtype))


@observable(long_name="kernel distance")
def kernel_distance(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """Distance between the tangent kernels at the start and now (Fort et al., 2020).

        D = 1 - <K0, K> / (|K0| |K|) = |K0/|K0| - K/|K||^2 / 2,    in [0, 1].

    The second form keeps its digits where the first is rounding noise. For linear networks no
    whole kernel is built, only matrices as small as outputs and inputs, or samples if these are
    fewer. For one input and one output a linear network's distance is identically 0.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the task is none of Modes, Moments and Samples, or the network is not linear
            and the task holds no inputs.

    References:
        Fort et al. (2020), arXiv:2010.15110.
    """
    if type(network) in (LinearNetwork, DiagonalNetwork):
        moving = [layer for layer, w in enumerate(problem.split(network)[0].weights) if w is not None]
        distance: Any = _linear_distance if isinstance(network, LinearNetwork) else _diagonal_distance
        task: Any = problem.task
        few = isinstance(task, Samples) and task.few
        return distance(problem.start, network, moving, task.weighed(task.x) if few else input_moment(task), few)
    k0, k1 = _weighed_kernel(problem.start, problem), _weighed_kernel(network, problem)
    return 0.5 * jnp.sum((k0 / jnp.linalg.norm(k0) - k1 / jnp.linalg.norm(k1)) ** 2)


def input_moment(task: Any) -> Float[Array, "inp inp"] | Float[Array, " inp"]:
    """E[x x^T], or its diagonal for uncorrelated modes."""
    if isinstance(task, Samples):
        return mean_product(task.x, task.x, task.weight)
    if isinstance(task, Moments):
        return task.xx
    if isinstance(task, Modes):
        return task.variance
    raise TypeError(f"kernel_distance needs Modes, Moments or Samples, but the task is of type {type(task).__name__}.")


def _diagonal_distance(
    start: DiagonalNetwork,
    end: DiagonalNetwork,
    moving: list[int],
    inputs: Float[Array, "_inp inp"] | Float[Array, " inp"],
    few: bool,
) -> Float[Array, ""]:
    """Distance for K(x, x') = sum_i x_i x'_i k_i, whose inner products are k^T (xx * xx) k'.

    `inputs` are xx = E[x x^T], its diagonal, or `few` samples one a row.
    """

    def kernel(network: DiagonalNetwork) -> Float[Array, " inp"]:
        others = [_product(network.weights[:i] + network.weights[i + 1 :]) for i in moving]
        return sum((jnp.asarray(other) ** 2 for other in others), start=jnp.zeros_like(network.weights[0]))

    def inner(k: Float[Array, " inp"], other: Float[Array, " inp"]) -> Float[Array, ""]:
        if few:
            return jnp.sum(((inputs * k[None]) @ inputs.T) * ((inputs * other[None]) @ inputs.T))
        return k @ (inputs**2 @ other) if inputs.ndim == 2 else jnp.sum(inputs**2 * k * other)

    unit = lambda k: k / jnp.sqrt(inner(k, k))
    chord = unit(kernel(end)) - unit(kernel(start))
    return 0.5 * jnp.maximum(inner(chord, chord), 0.0)


def _product(vectors: tuple[Array, ...]) -> Any:
    product: Any = 1.0
    for vector in vectors:
        product = product * vector
    return product


def _linear_distance(
    start: LinearNetwork,
    end: LinearNetwork,
    moving: list[int],
    inputs: Float[Array, "_inp inp"] | Float[Array, " inp"],
    few: bool,
) -> Float[Array, ""]:
    """Distance for K = sum_l B_l (x) X^T A_l X over the layers l that move, from the small matrices alone.

    With P the layers after layer l and Q those before, B_l = P P^T and A_l = Q^T Q. Inner products
    of such kernels are sums over pairs of outputs, up to a factor that cancels:

        <K, K'> = sum_{k,m} tr(C_km xx C'_mk xx),    C_km = sum_l (B_l)_km A_l.

    Of `few` samples X^T A_l X itself is small, the square of their signals before layer l.
    """
    if start.widths[0] == start.widths[-1] == 1:
        return jnp.zeros(
            (), start.weights[0].dtype
        )  # a kernel of one number per pair of inputs changes its scale alone
    moved = movement(end, start).weights
    return _chord(start.weights, moved, tuple(moving), few, jnp.diag(inputs) if inputs.ndim == 1 else inputs)


@functools.partial(jax.jit, static_argnums=(2, 3))  # traced once, not at every sweep
def _chord(
    weights: tuple[Float[Array, "_out _inp"], ...],
    moved: tuple[Float[Array, "_out _inp"], ...],
    moving: tuple[int, ...],
    few: bool,
    inputs: Float[Array, "_inp inp"],
) -> Float[Array, ""]:
    """The distance from the weights at the start and their movement."""
    transposed = lambda layers: tuple(w.T for w in reversed(layers))
    if few:  # a layer of its own that stands still
        before = _squares((inputs.T, *weights), (jnp.zeros_like(inputs.T), *moved))[1:]
    else:
        before = [(product(a, inputs), product(da, inputs)) for a, da in _squares(weights, moved)]
    after = _squares(transposed(weights), transposed(moved))[::-1]
    a0, da = (jnp.stack(terms) for terms in zip(*(before[layer] for layer in moving), strict=True))
    b0, db = (jnp.stack(terms, axis=1) for terms in zip(*(after[layer] for layer in moving), strict=True))
    few = b0.shape[0] * a0.shape[1] <= _FEW
    over_rows = jax.vmap if few else lambda function: functools.partial(jax.lax.map, function)

    def kernels(row: Rows) -> tuple[Float[Array, "out inp inp"], Float[Array, "out inp inp"]]:
        """One row of blocks of K0, and of K - K0."""
        # As terms with a small factor each: subtracting the kernels, or squaring before adding up,
        # would cancel the digits of a lazy kernel.
        b, grown = row
        return _blocks(b, a0), _blocks(grown, a0 + da) + _blocks(b, da)

    def squares(row: Rows) -> list[Float[Array, ""]]:
        k0, grown = kernels(row)
        return [_inner(k0, k0), _inner(k0 + grown, k0 + grown), _inner(2 * k0 + grown, grown)]

    squared0, squared1, growth = (values.sum() for values in over_rows(squares)((b0, db)))
    size0, size1 = jnp.sqrt(squared0), jnp.sqrt(squared1)
    # K/|K| - K0/|K0| = (K - K0 - share K0) / |K|, where share = (|K| - |K0|) / |K0|.
    share = growth / (size0 * (size0 + size1))

    def chord(row: Rows) -> Float[Array, ""]:
        k0, grown = kernels(row)
        return _inner(grown - share * k0, grown - share * k0)

    return 0.5 * jnp.maximum(over_rows(chord)((b0, db)).sum(), 0.0) / squared1


Rows = tuple[Float[Array, "_terms out"], Float[Array, "_terms out"]]


def _squares(
    weights: tuple[Float[Array, "_out _inp"], ...], moved: tuple[Float[Array, "_out _inp"], ...]
) -> list[tuple[Float[Array, "inp inp"], Float[Array, "inp inp"]]]:
    """Q^T Q for the product Q of the layers before each one, and by how much it grew as the layers moved."""
    eye = jnp.eye(weights[0].shape[1], dtype=weights[0].dtype)
    squares, q0, dq = [(eye, jnp.zeros_like(eye))], weights[0], moved[0]
    for w0, dw in zip(weights[1:], moved[1:], strict=True):
        squares.append((product(q0.T, q0), product(dq.T, q0 + dq) + product(q0.T, dq)))
        q0, dq = product(w0, q0), product(dw, q0 + dq) + product(w0, dq)
    return squares


def _blocks(b: Float[Array, "_terms out"], a: Float[Array, "_terms inp inp"]) -> Float[Array, "out inp inp"]:
    """One row of sum_l B_l (x) A_l, output by output."""
    terms = [row[:, None, None] * square[None] for row, square in zip(b, a, strict=True)]
    return functools.reduce(jnp.add, terms)


def _inner(c: Float[Array, "out inp inp"], d: Float[Array, "out inp inp"]) -> Float[Array, ""]:
    """The share of one row k in <K, K'> = sum_{k,m} tr(C_km C'_mk)."""
    return jnp.sum(c * d.mT)


_FEW = 64  # outputs times inputs: up to here a loop costs more than the memory it saves
