"""The tangent kernel, and how far it moved."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.networks import DiagonalNetwork, LinearNetwork
from layerflow.observables._observable import observable
from layerflow.tasks import Modes, Moments, Samples


@observable(dims=("output_sample", "output_sample_2"), long_name="neural tangent kernel", units="input²·weight²")
def ntk(network: PyTree, problem: Problem) -> Float[Array, "out_n out_n"]:
    """Neural tangent kernel K = J J^T of the network on the inputs of the task.

    J holds the derivatives of all outputs on all samples by all moving weights, each once
    whatever its rate. Outputs come first: row k n + i is output k on sample i.

    Returns:
        Array of shape (out n, out n).

    Raises:
        TypeError: If the task holds no inputs (Moments, Modes).

    References:
        Jacot et al. (2018), arXiv:1806.07572.
    """
    task = problem.task
    if not isinstance(task, Samples):
        raise TypeError(
            f"ntk is a matrix over inputs, but {type(task).__name__} holds none. Use Samples; or kernel_distance, "
            f"which needs second moments only."
        )
    weights, rest = problem.split(network)
    outputs = lambda weights: jax.vmap(eqx.combine(weights, rest))(task.x).reshape(task.x.shape[0], -1).T.ravel()
    jacobian = jax.tree.leaves(jax.jacrev(outputs)(weights))
    flat = jnp.concatenate([part.reshape(part.shape[0], -1) for part in jacobian], axis=1)
    return flat @ flat.T


@observable(long_name="kernel distance")
def kernel_distance(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """Distance between the tangent kernels at the start and now (Fort et al., 2020).

        D = 1 - <K0, K> / (|K0| |K|) = |K0/|K0| - K/|K||^2 / 2,    in [0, 1].

    The second form keeps its digits where the first is rounding noise. For linear networks no
    kernel is built: inner products of kernels are traces of products of small matrices. For one
    input and one output a linear network's distance is identically 0.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the network is not linear and the task holds no inputs.

    References:
        Fort et al. (2020), arXiv:2010.15110.
    """
    task = problem.task
    if isinstance(network, DiagonalNetwork):
        return _diagonal_distance(problem.start, network, _input_moment(task))
    all_move = len(jax.tree.leaves(problem.split(network)[0])) == len(getattr(network, "weights", ()))
    if isinstance(network, LinearNetwork) and all_move:
        return _linear_distance(problem.start, network, _input_moment(task))
    k0, k1 = ntk(problem.start, problem), ntk(network, problem)
    return 0.5 * jnp.sum((k0 / jnp.linalg.norm(k0) - k1 / jnp.linalg.norm(k1)) ** 2)


def _input_moment(task: Any) -> Float[Array, "inp inp"] | Float[Array, " inp"]:
    """E[x x^T], or its diagonal for uncorrelated modes."""
    if isinstance(task, Samples):
        return task.x.T @ task.x / task.x.shape[0]
    if isinstance(task, Moments):
        return task.xx
    if isinstance(task, Modes):
        return task.variance
    raise TypeError(f"kernel_distance needs Modes, Moments or Samples, but the task is a {type(task).__name__}.")


def _diagonal_distance(
    start: DiagonalNetwork, end: DiagonalNetwork, xx: Float[Array, "inp inp"] | Float[Array, " inp"]
) -> Float[Array, ""]:
    """Distance for K(x, x') = sum_i x_i x'_i k_i, whose inner products are k^T (xx * xx) k'."""

    def kernel(network: DiagonalNetwork) -> Float[Array, " inp"]:
        others = [_product(network.weights[:i] + network.weights[i + 1 :]) for i in range(len(network.weights))]
        return sum((jnp.asarray(other) ** 2 for other in others), start=jnp.zeros_like(network.weights[0]))

    inner = (lambda k, l: k @ (xx**2 @ l)) if xx.ndim == 2 else (lambda k, l: jnp.sum(xx**2 * k * l))
    unit = lambda k: k / jnp.sqrt(inner(k, k))
    chord = unit(kernel(end)) - unit(kernel(start))
    return 0.5 * inner(chord, chord)


def _product(vectors: tuple[Array, ...]) -> Any:
    product: Any = 1.0
    for vector in vectors:
        product = product * vector
    return product


Term = tuple[Float[Array, "out out"], Float[Array, "inp inp"]]


def _linear_distance(start: LinearNetwork, end: LinearNetwork, xx: Float[Array, "inp inp"]) -> Float[Array, ""]:
    """Distance for K = sum_l B_l (x) X^T A_l X, from the small matrices alone.

    <B (x) X^T A X, B' (x) X^T A' X> = <B, B'> tr(A xx A' xx), up to a factor that cancels.
    """
    k0, k1 = _kernel_terms(start), _kernel_terms(end)
    size0, size1 = jnp.sqrt(_squared(k0, xx)), jnp.sqrt(_squared(k1, xx))
    # The chord as a sum of products in which one factor is a small difference: subtracting
    # inner products of order one would lose what the chord is for.
    chord: list[Term] = []
    for layer, ((b0, a0), (b1, a1)) in enumerate(zip(k0, k1, strict=True)):
        # The factor that stays fixed (the identity: A in the first layer, B in the last) takes no part
        # of the normalisation, so that its own difference is exactly zero.
        (b0, b1), (a0, a1) = ((b0 / size0, b1 / size1), (a0, a1)) if layer == 0 else ((b0, b1), (a0 / size0, a1 / size1))
        chord += [(b1 - b0, a0), (b1, a1 - a0)]
    return 0.5 * _squared(chord, xx)


def _kernel_terms(network: LinearNetwork) -> list[Term]:
    """B_l = P P^T and A_l = Q^T Q for each layer l, with P the layers after it and Q those before."""
    weights = network.weights
    inp, out = network.widths[0], network.widths[-1]
    before = [jnp.eye(inp, dtype=weights[0].dtype)]
    for w in weights[:-1]:
        before.append(w @ before[-1])
    after = [jnp.eye(out, dtype=weights[-1].dtype)]
    for w in reversed(weights[1:]):
        after.append(after[-1] @ w)
    return [(p @ p.T, q.T @ q) for p, q in zip(reversed(after), before, strict=True)]


def _squared(terms: list[Term], xx: Float[Array, "inp inp"]) -> Float[Array, ""]:
    """|sum_l B_l (x) X^T A_l X|^2, in Frobenius norm."""
    bs, axs = jnp.stack([b for b, _ in terms]), jnp.stack([a @ xx for _, a in terms])
    outputs = jnp.einsum("lij,mij->lm", bs, bs)
    inputs = jnp.einsum("lij,mji->lm", axs, axs)
    # Rounding may leave a tiny negative square where the kernels agree to the last digit.
    return jnp.maximum(jnp.sum(outputs * inputs), 0.0)
