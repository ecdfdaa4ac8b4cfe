"""Solve one problem."""

import jax
from jaxtyping import PRNGKeyArray

from layerflow._problem import Problem
from layerflow._trajectory import Trajectory
from layerflow.base._checks import is_concrete
from layerflow.base._keys import as_key
from layerflow.base._numerics import full_precision, undisturbed
from layerflow.engine._cell import Cell, take_apart
from layerflow.engine._kept import programs
from layerflow.engine._machine import check_float64, default_device
from layerflow.engine._program import check_gauge, freeze, say_floor
from layerflow.engine._wanted import Observe, Summarise, checked_wanted
from layerflow.methods import Method, Path, Status, Times, checked_method, checked_times
from layerflow.observables import loss


@full_precision()
@undisturbed()
def solve(
    problem: Problem,
    method: Method,
    *,
    ts: Times | None = None,
    observe: Observe = loss,
    summary: Summarise | None = None,
    key: PRNGKeyArray | None = None,
) -> Trajectory:
    """Solve one problem.

    Can be called inside `jax.jit`, `jax.vmap` and the cell of a sweep; has forward-mode derivatives
    (`jax.jvp`, `jax.jacfwd`) with explicit solvers and under Descent.

    Args:
        problem: Where to start and what to learn.
        method: How to travel: `Flow`, `Exact` or `Descent`.
        ts: Where to measure, strictly increasing: times for Flow, steps for Descent, shape (t,).
            Only at the end if not given.
        observe: An observable, several, or a dict of them by name. An observable is a function
            of (network, problem) that returns an array or a dict of arrays.
        summary: A function of the whole trajectory, several, or a dict of them by name; needs `ts`.
        key: Source of mini-batches.

    Returns:
        Trajectory; a failure is told by its `status`, not raised.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `ts` is not increasing or leaves the range of the method.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> start = lf.DiagonalNetwork((jnp.array([0.1]), jnp.array([0.1])))
        >>> problem = lf.Problem(start, lf.Modes(variance=jnp.ones(1), target=1.0))
        >>> path = lf.solve(problem, lf.Flow(t1=20.0), observe=lf.mode_strengths)
        >>> print(f"{path.observed['mode_strengths'][0]:.3f}")
        1.000
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"A Problem is needed, lf.Problem(start, task), but a {type(problem).__name__} came.")
    method = checked_method(method)
    wanted = checked_wanted(observe, summary, ts)
    times = checked_times(ts, method.time, method.end)
    apart, leaves, method_arrays = take_apart(Cell.of(problem, method))
    key = as_key(0 if key is None else key, "key")
    frozen = freeze(apart, leaves, method_arrays, wanted, times, jax.eval_shape(lambda: key))
    dtype = frozen.program.start.outputs.dtype
    method.check_precision(dtype)
    check_float64(dtype, default_device(), method.emulated)
    if frozen.program.turned is not None:
        gauge = programs.get(("gauge", frozen.program.identity), lambda: jax.jit(frozen.program.gauge))
        check_gauge(gauge(frozen.constants, leaves, method_arrays), frozen.measured)
    if method.stops_at is not None and all(map(is_concrete, [*leaves, *method_arrays])):
        floor = programs.get(("floor", frozen.program.identity), lambda: jax.jit(frozen.program.floor))
        say_floor(floor(frozen.constants, leaves, method_arrays), lambda _: "")
    travel = programs.get(("travel", frozen.program.identity), lambda: jax.jit(frozen.program.travel))
    path: Path = travel(frozen.constants, leaves, method_arrays, times, key)
    if is_concrete(path.status) and path.status == Status.OUTSIDE:
        raise ValueError(f"{method.refusal(problem, times, path.end.dtype)} Use lf.Flow(t1=...).")
    return Trajectory(
        problem=problem,
        ts=times,
        observed=dict(zip((of.name for of in frozen.measured), path.observed, strict=True)),
        summary=dict(zip((of.name for of in frozen.summed), path.summaries, strict=True)),
        followed_status={name: getattr(path, which) for name, which in frozen.beside.items()},
        network=frozen.network(path.weights, leaves),
        status=path.status,
        num_steps=path.num_steps,
        end=path.end,
    )
