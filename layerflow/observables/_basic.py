"""Loss, layers and modes."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.networks import DiagonalNetwork, LayerwiseNetwork, LinearNetwork
from layerflow.observables._at_hand import movement
from layerflow.observables._observable import observable
from layerflow.tasks import Modes, Moments, Samples


@observable(long_name="loss", units="1")
def loss(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """The loss of the task, L = E|f(x) - y|^2 / 2 (Eq. 2) or that of its `Samples`, without weight decay. Shape ()."""
    return problem.task.loss(network)


@observable(long_name="excess error", units="1")
def excess_error(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """How far the network is from the teacher on the population, E|f(x) - f*(x)|^2.

        G = tr((W - W*) E[x x^T] (W - W*)^T),    test loss = G / 2 + floor,

    where the population is the problem's test task, f* its best linear map W*, and the floor what noise
    leaves of the loss. G is evaluated by itself, not as that difference, and keeps its digits when small.

    Returns:
        Array of shape ().

    Raises:
        ValueError: If the problem has no test task.
        TypeError: If the test task is no population: neither Moments nor Modes.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> teacher = lf.linear_model(jnp.array([1.0, 2.0]))
        >>> task = lf.teacher(jax.random.key(0), teacher, n=20, inp=2)
        >>> problem = lf.Problem(lf.linear_model(jnp.zeros(2)), task, test=lf.population(teacher))
        >>> float(lf.excess_error(problem.start, problem))
        5.0
    """
    mend = "lf.Problem(..., test=lf.population(teacher))"
    if problem.test is None:
        raise ValueError(
            f"excess_error is held against the teacher on the population, but the problem has no test task: {mend}."
        )
    if not isinstance(problem.test, Moments | Modes):
        raise TypeError(
            f"excess_error is held against the teacher on the population, but the test task is of type "
            f"{type(problem.test).__name__}, which knows of samples alone. Give second moments: {mend}."
        )
    return problem.test.excess(network)


@observable(long_name="layer imbalance", units="weight²")
def layer_imbalance(network: PyTree, problem: Problem) -> Any:  # noqa: ARG001
    """The layer imbalance, which gradient flow without decay conserves (Eqs. 8, 48).

    For neighbouring layers l and l + 1

        w_{l+1}^T w_{l+1} - w_l w_l^T    (LinearNetwork),    b_i^2 - a_i^2    (DiagonalNetwork),

    and b_j^2 minus the squares of all weights into hidden unit j (LayerwiseNetwork). With weight decay
    mu on all layers it shrinks as exp(-2 mu t).

    Returns:
        Array of shape (hid, hid), or (inp,) for diagonal networks and (hid,) for layerwise ones, for
        two layers; a dict of such arrays, named by the hidden layer, for more. In units of weight^2.

    Raises:
        TypeError: If the network is none of these, or has one layer only.
    """
    if isinstance(network, LayerwiseNetwork):
        return network.last**2 - network.squares_into_hidden
    if isinstance(network, LinearNetwork):
        between = lambda before, after: after.T @ after - before @ before.T
    elif isinstance(network, DiagonalNetwork):
        between = lambda before, after: after**2 - before**2
    else:
        raise TypeError(
            f"layer_imbalance needs a LinearNetwork, a DiagonalNetwork or a LayerwiseNetwork, but the network is a "
            f"{type(network).__name__}."
        )
    pairs = list(zip(network.weights[:-1], network.weights[1:], strict=True))
    if not pairs:
        raise TypeError("layer_imbalance compares neighbouring layers, but the network has one layer only.")
    if len(pairs) == 1:
        return between(*pairs[0])
    return {f"hidden{number}": between(*pair) for number, pair in enumerate(pairs, start=1)}


@observable(dims=("layer",), long_name="relative movement of the layer")
def layer_movement(network: PyTree, problem: Problem) -> Float[Array, " layer"]:
    """How far each layer moved, |w_l(t) - w_l(0)| / |w_l(0)| in Frobenius norm.

    Returns:
        One number per array of moving weights, in the order of the network; infinite where a
        layer started at zero. Shape (layer,).
    """
    sizes = lambda tree: jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(problem.split(tree)[0])])
    return sizes(movement(network, problem.start)) / sizes(problem.start)


@observable(dims=("mode",), long_name="mode strength")
def mode_strengths(network: PyTree, problem: Problem) -> Float[Array, " mode"]:
    """Strength of each mode of the task in the network (Eqs. 9, 12).

    On Modes u_i = a_i b_i; on data u_k^T W v_k, with the singular vectors of E[y x^T] by falling
    singular value.

    Returns:
        Array of shape (mode,).

    Raises:
        TypeError: If the network is not linear, or the task is neither modes nor data of the square loss.
    """
    if not hasattr(network, "matrix"):
        raise TypeError(
            f"mode_strengths needs a linear network, with a `matrix`, but it is of type {type(network).__name__}."
        )
    task = problem.task
    if isinstance(task, Modes):
        return network.matrix[0]
    u, _, vt = jnp.linalg.svd(moments_of(task, "mode_strengths").yx, full_matrices=False)
    return jnp.sum((u.T @ network.matrix) * vt, axis=1)


def mode_targets(problem: Problem, asking: str) -> Float[Array, " mode"] | Float[Array, ""]:
    """Strength of each mode that the task asks for: the target of Modes, or that in the best linear map of data."""
    if isinstance(problem.task, Modes):
        return problem.task.target
    moments = moments_of(problem.task, asking)
    return mode_strengths(LinearNetwork((moments.yx @ moments.inverse,)), problem)


@observable(long_name="effective rank")
def effective_rank(network: PyTree, problem: Problem) -> Float[Array, ""]:  # noqa: ARG001
    """Effective rank of the end-to-end matrix: the exponential of the entropy of its singular values.

        exp(-sum_k p_k log p_k),    p_k = s_k / sum_j s_j;    0 for the zero matrix.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the network is not linear.

    References:
        Roy, Vetterli (2007), "The effective rank".
    """
    if not hasattr(network, "matrix"):
        raise TypeError(
            f"effective_rank needs a linear network, with a `matrix`, but it is of type {type(network).__name__}."
        )
    return entropy_rank(network.matrix)


def entropy_rank(matrix: Float[Array, "rows columns"]) -> Float[Array, ""]:
    """The exponential of the entropy of a matrix's singular values; 0 for the zero matrix."""
    strengths = jnp.linalg.svd(matrix, compute_uv=False)
    total = jnp.sum(strengths)
    shares = strengths / jnp.where(total == 0, 1.0, total)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0))
    return jnp.where(total == 0, 0.0, jnp.exp(entropy))


def moments_of(task: Any, name: str) -> Moments:
    """The second moments of a task made of data."""
    if isinstance(task, Moments):
        return task
    if isinstance(task, Samples):
        return task.moments
    raise TypeError(f"{name} needs Modes, Moments or Samples, but the task is of type {type(task).__name__}.")
