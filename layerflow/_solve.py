"""Solve one problem."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from layerflow._checks import is_concrete, require
from layerflow._problem import Problem
from layerflow.engine._program import Cell, Observables, Program, freeze, take_apart
from layerflow.methods import Descent, Method, Path
from layerflow.observables import loss

Times = ArrayLike | Sequence[float | int]
Observe = Callable[..., Any] | Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]]


class Trajectory(eqx.Module):
    """What `solve` returns.

    Attributes:
        ts: Where it was measured: gradient-flow time, or steps under Descent. None if only the end was.
        observed: Each observable by name, time first if `ts` was given. NaN from where the
            trajectory failed; the last value beyond an early stop.
        network: Where it ended; NaN if it failed.
        status: A member of `lf.Status`: 0 went to the end, 1 converged, 2 stopped at a
            saddle, then one code per kind of failure.
        num_steps: Steps taken, rejected ones included.
        end: Where it stopped, in the units of `ts`.
    """

    ts: Float[Array, " t"] | Int[Array, " t"] | None
    observed: dict[str, Array]
    network: PyTree
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    end: Float[Array, ""] | Int[Array, ""]


def solve(
    problem: Problem,
    method: Method,
    *,
    ts: Times | None = None,
    observe: Observe = loss,
    key: PRNGKeyArray | None = None,
) -> Trajectory:
    """Solve one problem.

    Can be called inside `jax.jit`, `jax.vmap` and the cell of a sweep; has forward-mode derivatives
    (`jax.jvp`, `jax.jacfwd`) with explicit solvers and under Descent.

    Args:
        problem: Where to start and what to learn.
        method: How to travel, `Flow` or `Descent`.
        ts: Where to measure, strictly increasing: times for Flow, steps for Descent, shape (t,).
            Only at the end if not given.
        observe: An observable, several, or a dict of them by name. An observable is a function
            of (network, problem) that returns an array or a dict of arrays.
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
    observe = named(observe)
    times = checked_times(ts, type(method), method.end)
    static, structure, leaves, method_arrays = take_apart(Cell.of(problem, method))
    key = as_key(0 if key is None else key, "key")
    frozen = freeze(static, structure, leaves, observe, jax.eval_shape(lambda: key))
    method.check_precision(frozen.program.start.outputs.dtype)
    path = _travel(frozen.program, frozen.constants, leaves, method_arrays, times, key)
    return Trajectory(
        ts=times,
        observed=dict(zip(frozen.variables, path.observed, strict=True)),
        network=frozen.network(path.weights, leaves),
        status=path.status,
        num_steps=path.num_steps,
        end=path.end,
    )


@functools.partial(jax.jit, static_argnums=0)
def _travel(
    program: Program,
    constants: dict[str, list[Array]],
    leaves: list[Array],
    method: PyTree,
    ts: Array | None,
    key: PRNGKeyArray,
) -> Path:
    return program.travel(constants, leaves, method, ts, key)


def as_key(key: Any, name: str) -> PRNGKeyArray:
    """A key from a key, an old-style key or a whole number, or an error."""
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    if eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if eqx.is_array(key) and key.dtype == jnp.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    raise TypeError(f"Argument `{name}` needs a key, jax.random.key(0), or a whole number, but it is {key!r}.")


def checked_method(method: Any) -> Method:
    """A method, or an error."""
    if not isinstance(method, Method):
        raise TypeError(
            f"Argument `method` needs lf.Flow(t1=...) or lf.Descent(optax.sgd, steps=..., ...), but it is "
            f"{'missing' if method is None else f'a {type(method).__name__}'}."
        )
    return method


def named(observe: Observe) -> Observables:
    """Observables by name."""
    if isinstance(observe, Mapping):
        functions = dict(observe)
    else:
        if not callable(observe) and not isinstance(observe, Sequence):
            raise TypeError(f"Argument `observe` needs functions of (network, problem), but it is {observe!r}.")
        listed = [observe] if callable(observe) else list(observe)
        for function in listed:
            if not callable(function):
                raise TypeError(
                    f"An observable is a function of (network, problem), but a {type(function).__name__} came."
                )
        functions = {}
        for function in listed:
            name = getattr(function, "__name__", type(function).__name__)
            if name == "<lambda>":
                raise ValueError("A lambda has no name for its variable. Give it one: observe={'name': lambda ...}.")
            if name in functions:
                raise ValueError(
                    f"Two observables are called `{name}`. Name them apart: observe={{'first': f, 'second': g}}."
                )
            functions[name] = function
    for name, function in functions.items():
        if not isinstance(name, str) or not callable(function):
            raise TypeError(f"Argument `observe` maps names to functions of (network, problem), but holds {name!r}.")
    if not functions:
        raise ValueError("Argument `observe` needs at least one observable, but it is empty.")
    return functions


def checked_times(ts: Times | None, kind: type[Method], end: Array | None) -> Array | None:
    """`ts` as an array of times or steps, or an error; `end` is None where it varies from cell to cell."""
    if ts is None:
        return None
    times = np.asarray(ts) if isinstance(ts, Sequence) else ts
    if getattr(times, "dtype", np.dtype(float)).kind not in "biuf":
        raise TypeError(f"Argument `ts` needs real numbers, but it is {ts!r}.")
    times = jnp.asarray(times)
    if times.ndim != 1 or times.shape[0] == 0:
        raise ValueError(f"Argument `ts` needs at least one time, shape (t,), but it has shape {times.shape}.")
    if kind is Descent:
        whole = require(
            times, times == jnp.round(times), "Under Descent `ts` counts steps: whole numbers, but some are not."
        )
        times = whole.astype(int)
    elif not jnp.issubdtype(times.dtype, jnp.floating):
        times = times.astype(float)
    unit, name = ("steps", "steps") if kind is Descent else ("times", "t1")
    times = require(
        times,
        jnp.all(jnp.isfinite(times)) & jnp.all(times[1:] > times[:-1]) & (times[0] >= 0),
        f"Argument `ts` needs finite, strictly increasing {unit} from 0 on, but some repeat, fall back, are negative "
        f"or not finite. Sort it and drop repeats with jnp.unique(ts).",
    )
    if end is None or not (is_concrete(end) and is_concrete(times)):
        return times  # the last value holds beyond the end
    slack = 1 + 1e-5  # an end that was rounded to float32
    if float(times[-1]) > float(end) * slack:
        raise ValueError(
            f"Argument `ts` needs {unit} up to the end of the method, {name}={end:g}, but reaches {times[-1]:g}. "
            f"Raise `{name}` or shorten `ts`."
        )
    return times
