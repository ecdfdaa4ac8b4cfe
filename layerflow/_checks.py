"""Checks on values that may still be traced when the check is written down."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jec
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike


@dataclass
class Checks:
    """The checks met while a cell function was traced: what must hold, and what to say if it does not."""

    trace: Any
    messages: list[str] = field(default_factory=list)
    holds: list[Array] = field(default_factory=list)


_collecting: ContextVar[Checks | None] = ContextVar("_collecting", default=None)


@contextlib.contextmanager
def collect() -> Generator[Checks]:
    """Gather the checks of traced values made inside, for the caller to evaluate."""
    checks = Checks(jec.get_opaque_trace_state())
    token = _collecting.set(checks)
    try:
        yield checks
    finally:
        _collecting.reset(token)


def require(value: ArrayLike, holds: ArrayLike, message: str) -> Array:
    """Hand `value` through if `holds`, and complain with `message` if not.

    A concrete `holds` is judged now. A traced one is judged by the sweep that traces it,
    before any of its cells runs; under a user's own jit it is left to `eqx.error_if`.
    """
    value = jnp.asarray(value)
    if is_concrete(holds):
        if not np.all(holds):
            raise ValueError(message)
        return value
    checks = _collecting.get()
    # A value of an inner trace (a vmap or scan inside the cell) must not leave that trace.
    if checks is not None and checks.trace == jec.get_opaque_trace_state():
        checks.messages.append(message)
        checks.holds.append(jnp.all(holds))
        return value
    return eqx.error_if(value, ~jnp.all(holds), message)


def whole(value: Any) -> bool:
    """Whether `value` is a plain whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_counts(**counts: Any) -> None:
    """Raise unless every argument is a whole number of at least 1."""
    for name, value in counts.items():
        if not whole(value) or value < 1:
            raise ValueError(f"Argument `{name}` is a whole number of at least 1, but it is {value!r}.")


def check_key(key: Any) -> None:
    """Raise unless `key` is one random key, new style or old."""
    if not is_key(key):
        came = f"an array of shape {key.shape}" if isinstance(key, jax.Array) else repr(key)
        raise TypeError(f"Argument `key` needs one random key, such as jax.random.key(0), but it is {came}.")


def is_key(key: Any) -> bool:
    """Whether `key` is one random key, new style or old."""
    if not isinstance(key, jax.Array):
        return False
    new = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.ndim == (0 if new else 1) and bool(new or key.dtype == jnp.uint32)


def is_concrete(value: Any) -> bool:
    """Whether the numbers of `value` are known, and not about to be traced."""
    return not isinstance(value, Tracer)


def real_array(value: ArrayLike, name: str) -> Array:
    """`value` as an array of floating point numbers, integers converted."""
    if isinstance(value, bool | int | float):  # of JAX's own dtype at once: converting would compile a program
        value = np.asarray(value, jnp.result_type(float))
    try:
        array = jnp.asarray(np.asarray(value) if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Argument `{name}` needs numbers, but it is {value!r}.") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"Argument `{name}` needs real numbers, but its dtype is {array.dtype}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array
