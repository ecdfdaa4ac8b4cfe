"""Measurements of any network: predictions, weights and curvature."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.networks import LinearNetwork
from layerflow.observables._at_hand import method
from layerflow.observables._observable import observable
from layerflow.tasks import Samples, Stream


def samples_of(problem: Problem, name: str) -> Samples:
    """The samples of the problem's task, or an error that names the observable."""
    task = problem.task.seen if isinstance(problem.task, Stream) else problem.task
    if not isinstance(task, Samples):
        raise TypeError(
            f"{name} needs inputs, but {type(task).__name__} holds none. Use Samples(x, y) as the task, or measure it "
            f"on a test task made of samples."
        )
    return task


def check_alike(task: Samples, name: str) -> None:
    """Raise for samples with weights, of an observable that has a row for each sample."""
    if task.weight is not None:
        raise TypeError(
            f"{name} has a row for every sample, but these samples have weights, which rows cannot tell. Give `first` "
            f"a whole number, on an axis lf.static([...]), which cuts the others off."
        )


@observable(long_name="accuracy")
def accuracy(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """Fraction of samples, by weight, whose largest output is where the largest target is.

    With one output, the fraction whose output has the sign of the target; so targets are one-hot,
    centred one-hot, or of either sign, at any scale.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the task holds no samples.
    """
    task = samples_of(problem, "accuracy")
    outputs = jax.vmap(network)(task.x).reshape(task.x.shape[0], -1)
    targets = task.y.reshape(task.y.shape[0], -1)
    if outputs.shape[1] == 1:
        right = (outputs[:, 0] > 0) == (targets[:, 0] > 0)
    else:
        right = jnp.argmax(outputs, axis=1) == jnp.argmax(targets, axis=1)
    return task.mean(right.astype(outputs.dtype))


@observable(dims=("layer",), long_name="weight norm", units="weight")
def weight_norms(network: PyTree, problem: Problem) -> Float[Array, " layer"]:
    """Frobenius norm of every array of moving weights, in the order of the network. Shape (layer,)."""
    weights, _ = problem.split(network)
    return jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(weights)])


@observable(dims=("hidden", "mode"), long_name="alignment of neighbouring layers")
def alignment(network: PyTree, problem: Problem) -> Float[Array, "hidden mode"]:  # noqa: ARG001
    """How well the singular vectors of neighbouring layers of a linear network line up.

    For hidden layer l and mode k, |u_k(w_l) . v_k(w_{l+1})|: the left singular vector of the layer
    before it against the right one of the layer after, both by falling singular value. 1 when
    aligned; for random layers about 1/sqrt(width).

    Returns:
        Array of shape (hidden layers, modes), with as many modes as the narrowest layer has.

    Raises:
        TypeError: If the network is not a LinearNetwork of at least two layers.
    """
    if not isinstance(network, LinearNetwork) or len(network.weights) < 2:
        raise TypeError(
            f"alignment compares neighbouring layers of a LinearNetwork, but the network is of type "
            f"{type(network).__name__}{' of one layer' if isinstance(network, LinearNetwork) else ''}."
        )
    modes = min(network.widths)
    factors = [jnp.linalg.svd(w, full_matrices=False) for w in network.weights]
    pairs = itertools.pairwise(factors)
    return jnp.stack([jnp.abs(jnp.sum(u[:, :modes] * vt[:modes].T, axis=0)) for (u, _, _), (_, _, vt) in pairs])


@observable(long_name="sharpness", units="1/time")
def sharpness(network: PyTree, problem: Problem, *, steps: int = 64) -> Float[Array, ""]:
    """Largest eigenvalue of the Hessian of the loss by the moving weights, by Lanczos iteration.

    Descent at rate eta is stable while eta * sharpness < 2. The iteration keeps all its vectors
    and orthogonalises against them, so it is exact once `steps` reaches the number of weights.

    Args:
        network: Where to measure.
        problem: Whose task's loss, without weight decay.
        steps: Most Hessian-vector products to take.

    Returns:
        Array of shape ().

    References:
        Lanczos (1950); Cohen et al. (2021), arXiv:2103.00065, for the edge of stability.
    """
    weights, rest = problem.split(network)
    flat, unravel = ravel_pytree(weights)
    slope = jax.grad(lambda w: problem.task.loss(eqx.combine(unravel(w), rest)))
    product = lambda v: jax.jvp(slope, (flat,), (v,))[1]
    v = jax.lax.stop_gradient(_top_vector(product, flat.shape[0], min(steps, flat.shape[0]), flat.dtype))
    # The derivative of an eigenvalue is v . dH v: that of the eigenvector does not enter.
    return jnp.dot(v, product(v))


def _top_vector(product: Any, size: int, steps: int, dtype: Any) -> Float[Array, " size"]:
    """Eigenvector of the largest eigenvalue: Lanczos iteration, fully orthogonalised, from a fixed random vector."""
    first = jax.random.normal(jax.random.key(0), (size,), dtype)
    tiny = jnp.finfo(dtype).eps

    def step(carry: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        basis, v, scale = carry
        basis = basis.at[i].set(v)
        image = product(v)
        along = jnp.dot(image, v)
        for _ in range(2):  # once is not enough in floating point
            image = image - basis.T @ (basis @ image)
        scale = jnp.maximum(scale, jnp.abs(along))
        length = jnp.linalg.norm(image)
        # An invariant subspace is used up: the rest of the steps have a vector of zeros.
        done = length <= tiny * size * scale
        length = jnp.where(done, 0.0, length)
        following = jnp.where(done, 0.0, image / jnp.where(done, 1.0, length))
        return (basis, following, jnp.maximum(scale, length)), (along, length)

    start = (jnp.zeros((steps, size), dtype), first / jnp.linalg.norm(first), jnp.zeros((), dtype))
    (basis, _, _), (diagonal, beside) = jax.lax.scan(step, start, jnp.arange(steps))
    # Steps without a vector are set far below, where the largest eigenvalue has no part in them.
    used = jnp.arange(steps) < 1 + jnp.sum(beside[:-1] > 0)
    spread = jnp.abs(diagonal).max() + 2 * beside.max()
    diagonal = jnp.where(used, diagonal, -2 * spread)
    v = basis.T @ _top_of_tridiagonal(diagonal, beside[:-1])
    return v / jnp.linalg.norm(v)


def _top_of_tridiagonal(diagonal: Float[Array, " n"], beside: Float[Array, " rest"]) -> Float[Array, " n"]:
    """Eigenvector of the largest eigenvalue, by bisection and inverse iteration.

    Without LAPACK, whose batched calls were seen to deadlock on CPU where a program holds several.
    """
    n = diagonal.shape[0]
    if n == 1:
        return jnp.ones_like(diagonal)
    top = jax.scipy.linalg.eigh_tridiagonal(
        diagonal, beside, eigvals_only=True, select="i", select_range=(n - 1, n - 1)
    )
    size = jnp.abs(diagonal).max() + 2 * jnp.abs(beside).max()
    # Above all eigenvalues the matrix is negative definite, and elimination needs no pivots.
    shifted = diagonal - (top[0] + 8 * jnp.finfo(diagonal.dtype).eps * jnp.where(size > 0, size, 1.0))

    def eliminate(pivot: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        following = row[0] - row[1] ** 2 / pivot
        return following, following

    _, pivots = jax.lax.scan(eliminate, shifted[0], (shifted[1:], beside))
    pivots = jnp.concatenate([shifted[:1], pivots])

    def solve(v: Float[Array, " n"]) -> Float[Array, " n"]:
        down = lambda above, row: (row[0] - row[1] * above,) * 2
        up = lambda below, row: ((row[0] - row[1] * below) / row[2],) * 2
        _, rest = jax.lax.scan(down, v[0], (v[1:], beside / pivots[:-1]))
        v = jnp.concatenate([v[:1], rest])
        last = v[-1] / pivots[-1]
        _, rest = jax.lax.scan(up, last, (v[:-1], beside, pivots[:-1]), reverse=True)
        v = jnp.concatenate([rest, last[None]])
        return v / jnp.abs(v).max()

    return solve(solve(solve(jnp.ones_like(diagonal))))


@observable(long_name="learning rate × sharpness")
def scaled_sharpness(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """The sharpness times the step size of descent: 2 is the edge of stability.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the method is not `Descent` with a number as `learning_rate`.

    References:
        Cohen et al. (2021), arXiv:2103.00065.
    """
    step_size = getattr(method(), "step_size", None)
    if step_size is None:
        raise TypeError(
            "scaled_sharpness multiplies by the step size, so it is measured under lf.Descent(..., learning_rate=0.1) "
            "with a number, no schedule, as learning rate. Elsewhere use sharpness."
        )
    return step_size * sharpness(network, problem)
