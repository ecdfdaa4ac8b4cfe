"""How far a network's flow leaves that of its linearised twin, and descent the flow."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.networks import LinearisedNetwork, linearise
from layerflow.observables._at_hand import flow, method, peaks
from layerflow.observables._distance import change_of, size_of, told_by_matrix, values_of
from layerflow.observables._observable import observable


def _distances(network: PyTree, twin: LinearisedNetwork, problem: Problem) -> Float[Array, "3"]:
    """|f - g|, |f - f0| and |g - f0| of a network and its twin."""
    by_matrix = told_by_matrix(problem, network)
    moved = change_of(network, problem.start, problem, by_matrix)
    moved_lazily = change_of(twin, linearise(problem.start), problem, by_matrix)
    return jnp.stack([size_of(change, problem, by_matrix) for change in (moved - moved_lazily, moved, moved_lazily)])


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
    by_matrix = told_by_matrix(problem, problem.start)
    size = size_of(values_of(problem.start, problem, by_matrix), problem, by_matrix)
    tolerance = getattr(method(), "tolerances", {}).get("rtol", 0.0)
    noise = jnp.maximum(jnp.finfo(way.dtype).eps ** 0.75, jnp.asarray(tolerance, way.dtype) / 100) * size
    still = way <= noise  # not where the twin left the numbers: there both are NaN
    return jnp.where(still, 0.0, gap / jnp.where(still, 1.0, way))


@observable(long_name="distance from the flow at equal time", beside_flow=True)
def leaving_flow(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """How far gradient descent has left the gradient flow from the same start, at equal time t = eta k.

        |f_k - f_flow(eta k)| / |f_flow(eta k) - f_0|,

    with eta the learning rate and |.| the `function_distance` on the task's inputs: of first order in eta while
    descent follows the flow, and of order 1 where it has left it. Both may end at the same target, so the path
    decides: measure it at `ts`, and take its peak or, by `first_time("leaving_flow", level)`, when it comes to a level.
    The flow is of the whole task, at rtol 1e-8 (5e-7 in float32), and is integrated up to the last of `ts`, or to where
    descent failed. That takes some ten times as long as the descent, and more where weights of a map are far apart: the
    flow of the largest sharpness takes the most steps, and cells side by side wait for it. It needs plain descent at
    one constant rate, with weight decay and `rates` of layers or without, and with mini-batches or without.

    Returns:
        Array of shape (); 0 at the start, NaN from where the flow failed, which `leaving_flow_status` tells and which
        changes nothing else of the cell, and NaN where descent failed.

    Raises:
        TypeError: If the method is other than lf.Descent(optax.sgd, learning_rate=..., steps=...), without momentum or
            a schedule, if it is called by itself, outside of `observe`, or if the task holds no inputs.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf, optax
        >>> problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(variance=jnp.ones(1), target=1.0))
        >>> descent = lf.Descent(optax.sgd, learning_rate=0.1, steps=10)
        >>> path = lf.solve(problem, descent, ts=[0, 1, 10], observe=lf.leaving_flow)
        >>> [f"{gap:.4f}" for gap in path.observed["leaving_flow"]]  # |0.9^k - e^(-0.1 k)| / (1 - e^(-0.1 k))
        ['0.0000', '0.0508', '0.0304']
    """
    beside = flow()
    if beside is None:
        raise TypeError(
            "leaving_flow compares a step of descent with the flow at that time, so it is measured along both: "
            "lf.solve(problem, lf.Descent(optax.sgd, ...), observe=lf.leaving_flow). The distance between two networks "
            "is lf.function_distance."
        )
    by_matrix = told_by_matrix(problem, network)
    by_descent, by_flow = (change_of(one, problem.start, problem, by_matrix) for one in (network, beside))
    largest = jnp.maximum(jnp.abs(by_descent).max(), jnp.abs(by_flow).max())
    unit = jnp.where(largest > 0, largest, 1.0)  # squares of what is small would be 0
    gap, way = (size_of(change / unit, problem, by_matrix) for change in (by_descent - by_flow, by_flow))
    still = gap == 0
    return jnp.where(still, 0.0, gap / jnp.where(still, 1.0, way))
