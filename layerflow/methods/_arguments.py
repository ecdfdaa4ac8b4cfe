"""The arguments `method` and `ts`, checked."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from layerflow.base._checks import check_ordered, is_concrete, plain, require
from layerflow.methods._method import STEPS, Method, Time

Times = ArrayLike | Sequence[float | int]


def checked_method(method: Any) -> Method:
    """A method, or an error."""
    if not isinstance(method, Method):
        raise TypeError(
            f"Argument `method` needs lf.Flow(t1=...), lf.Exact(t1=...) or lf.Descent(optax.sgd, steps=..., ...), but "
            f"it is {'missing' if method is None else f'a {type(method).__name__}'}."
        )
    return method


def checked_times(ts: Times | None, time: Time, end: Array | None) -> Array | None:
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
    if time is STEPS:
        whole = require(
            times,
            times == jnp.round(times),
            "Under Descent `ts` counts steps: whole numbers, but some are not. Round them to steps: "
            "ts=jnp.round(ts).astype(int).",
        )
        times = whole.astype(int)
    elif not jnp.issubdtype(times.dtype, jnp.floating):
        times = times.astype(float)
    times = require(
        times,
        jnp.all(jnp.isfinite(times)) & jnp.all(times[1:] > times[:-1]) & (times[0] >= 0),
        f"Argument `ts` needs finite, strictly increasing {time.many} from 0 on, but some repeat, fall back, are "
        f"negative or not finite. Sort it and drop repeats with jnp.unique(ts).",
    )
    if end is None or not (is_concrete(end) and is_concrete(times)):
        return times  # the last value holds beyond the end
    slack = 1 + 1e-5  # an end that was rounded to float32
    if float(times[-1]) > float(end) * slack:
        raise ValueError(
            f"Argument `ts` needs {time.many} up to the end of the method, {time.end}={end:g}, but reaches "
            f"{times[-1]:g}. Raise `{time.end}` or shorten `ts`."
        )
    return times
