"""Solve one problem."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from layerflow._problem import Problem
from layerflow._trajectory import Trajectory
from layerflow.base._checks import check_ordered, is_concrete, is_key, named_apart, plain, require
from layerflow.base._numerics import full_precision, undisturbed
from layerflow.engine._cell import Cell, Wanted, take_apart
from layerflow.engine._kept import programs
from layerflow.engine._program import check_gauge, freeze, say_floor
from layerflow.methods import Descent, Exact, Flow, Method, Path, Status
from layerflow.observables import loss

Times = ArrayLike | Sequence[float | int]
Observe = Callable[..., Any] | Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]]
Summarise = Observe


@full_precision
@undisturbed
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
    times = checked_times(ts, type(method), method.end)
    apart, leaves, method_arrays = take_apart(Cell.of(problem, method))
    key = as_key(0 if key is None else key, "key")
    frozen = freeze(apart, leaves, method_arrays, wanted, times, jax.eval_shape(lambda: key))
    method.check_precision(frozen.program.start.outputs.dtype)
    if frozen.program.turned is not None:
        gauge = programs.get(("gauge", frozen.program.identity), lambda: jax.jit(frozen.program.gauge))
        check_gauge(gauge(frozen.constants, leaves, method_arrays), frozen.variables)
    if isinstance(method, Flow) and method.has_floor and all(map(is_concrete, [*leaves, *method_arrays])):
        floor = programs.get(("floor", frozen.program.identity), lambda: jax.jit(frozen.program.floor))
        say_floor(floor(frozen.constants, leaves, method_arrays), lambda _: "")
    travel = programs.get(("travel", frozen.program.identity), lambda: jax.jit(frozen.program.travel))
    path: Path = travel(frozen.constants, leaves, method_arrays, times, key)
    if isinstance(method, Exact) and is_concrete(path.status) and path.status == Status.OUTSIDE:
        at = method.times(times, path.end.dtype)
        raise ValueError(f"{Exact.applies(problem, at)} Use lf.Flow(t1=...).")
    return Trajectory(
        problem=problem,
        ts=times,
        observed=dict(zip(frozen.variables, path.observed, strict=True)),
        summary=dict(zip(frozen.summaries, path.summaries, strict=True)),
        followed_status={} if path.twin is None else dict.fromkeys(frozen.followed, path.twin),
        network=frozen.network(path.weights, leaves),
        status=path.status,
        num_steps=path.num_steps,
        end=path.end,
    )


def as_key(key: Any, name: str) -> PRNGKeyArray:
    """A key from a key, an old-style key or a whole number, or an error.

    A number beyond 32 bits gives the same key with and without float64: JAX alone would drop its upper half without.
    """
    if isinstance(key, int | np.integer):
        if not -(2**63) <= key < 2**63:
            raise ValueError(
                f"Argument `{name}` makes a key of a whole number of 64 bits, from -2^63 to 2^63 - 1, but it is {key}. "
                f"Shorten it, as in {name}=number % 2**63."
            )
        with contextlib.nullcontext() if -(2**31) <= key < 2**32 else jax.enable_x64(True):
            return jax.random.key(int(key))
    if is_key(key):
        return jax.random.wrap_key_data(key) if key.dtype == jnp.uint32 else key
    raise TypeError(f"Argument `{name}` needs a key, jax.random.key(0), or a whole number, but it is {key!r}.")


def checked_method(method: Any) -> Method:
    """A method, or an error."""
    if not isinstance(method, Method):
        raise TypeError(
            f"Argument `method` needs lf.Flow(t1=...), lf.Exact(t1=...) or lf.Descent(optax.sgd, steps=..., ...), but "
            f"it is {'missing' if method is None else f'a {type(method).__name__}'}."
        )
    return method


def checked_wanted(observe: Observe, summary: Summarise | None, ts: Times | None) -> Wanted:
    """Observables and summaries by name, or an error."""
    observables = named(observe, "observe", "(network, problem)")
    if summary is None:
        return Wanted(observables, {})
    if ts is None:
        raise ValueError(
            "A summary measures a whole path, so it needs times to measure at: ts=jnp.linspace(0, 40, 200)."
        )
    summaries = named(summary, "summary", "the trajectory")
    both = sorted({*observables} & {*summaries})
    if both:
        raise ValueError(f"An observable and a summary are both called `{both[0]}`. Name one of them apart.")
    return Wanted(observables, summaries)


def named(given: Observe, argument: str, of: str) -> dict[str, Callable[..., Any]]:
    """Functions by name, or an error that names the argument and what its functions are functions of."""
    if isinstance(given, Mapping):
        functions = named_apart(given, f"function in `{argument}`")
    else:
        if not callable(given) and not isinstance(given, Sequence):
            raise TypeError(f"Argument `{argument}` needs functions of {of}, but it is {given!r}.")
        functions = {}
        for function in [given] if callable(given) or isinstance(given, str) else given:
            if isinstance(function, str):
                raise TypeError(
                    f"Argument `{argument}` needs functions of {of}, such as lf.{function}, not their names, but "
                    f"{function!r} came."
                )
            name = getattr(function, "__name__", type(function).__name__)
            if callable(function) and name == "<lambda>":
                raise ValueError(
                    f"A lambda has no name for its variable. Give it one: {argument}={{'name': lambda ...}}."
                )
            if name in functions:
                raise ValueError(
                    f"Argument `{argument}` holds two functions called `{name}`. Name them apart: "
                    f"{argument}={{'first': f, 'second': g}}."
                )
            functions[name] = function
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(
                f"Argument `{argument}` needs functions of {of}, or a dict of them by name, but `{name}` is of type "
                f"{type(function).__name__}."
            )
        if not _takes(function, of.count(",") + 1):
            raise TypeError(
                f"Argument `{argument}` needs functions of {of}, but `{name}` does not take that. If it makes one, "
                f"call it first: {argument}={name}(...)."
            )
    if not functions:
        raise ValueError(f"Argument `{argument}` needs at least one function of {of}, but it is empty.")
    return functions


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as Python can tell."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # has no signature to read
        return True
    return True


def checked_times(ts: Times | None, kind: type[Method], end: Array | None) -> Array | None:
    """`ts` as an array of times or steps, or an error; `end` is None where it varies from cell to cell."""
    if ts is None:
        return None
    check_ordered(ts, "Argument `ts`")
    ts = plain(ts, "Argument `ts`")
    times = plain(np.asarray(ts), "ts") if isinstance(ts, Sequence) else ts
    if getattr(times, "dtype", np.dtype(float)).kind not in "biuf":
        raise TypeError(f"Argument `ts` needs real numbers, but it is {ts!r}.")
    times = jnp.asarray(times)
    if times.ndim != 1 or times.shape[0] == 0:
        raise ValueError(
            f"Argument `ts` needs at least one time, shape (t,), but it has shape {times.shape}. Fifty times are "
            f"jnp.linspace(0, t1, 50), one is [t1]."
        )
    if kind is Descent:
        whole = require(
            times,
            times == jnp.round(times),
            "Under Descent `ts` counts steps: whole numbers, but some are not. Round them to steps: "
            "ts=jnp.round(ts).astype(int).",
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
