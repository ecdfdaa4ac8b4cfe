"""What every closed form asks of its arguments: real finite numbers of shapes that broadcast."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from layerflow.base._checks import is_concrete, real_array, require


def ensure(array: Array, holds: Callable[[Any], Any], needs: str) -> Array:
    """`array` if `holds` of every entry, or an error that says what it `needs` and the first entry at fault."""
    if not is_concrete(array):
        return require(array, holds(array), f"{needs}, but some are not.")
    entries = np.asarray(array)
    right = np.asarray(holds(entries))  # in NumPy: a check of known numbers should compile nothing
    return require(array, right, f"{needs}, but it holds {entries[~right].flat[0] if not right.all() else ''}.")


def _real(value: ArrayLike, name: str, whole: bool = False) -> Array:
    """`value` as an array of real numbers, at least one, of a weak type if it is a Python number.

    A plain number may be whole, an array only where `whole` things are counted: elsewhere an array of
    integers is more often a mistake, and its derivatives would be those of another function.
    """
    if isinstance(value, bool | int | float):
        return jnp.asarray(float(value))
    dtype = getattr(value, "dtype", np.dtype(float))
    if not whole and np.ndim(value) > 0 and not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"Argument `{name}` needs floating point numbers, but it is an array of {dtype}. Write "
            f"{name}.astype(float), or jnp.array([1.0, 2.0]) for jnp.array([1, 2])."
        )
    array = real_array(value, name)
    if array.size == 0:
        raise ValueError(f"Argument `{name}` needs at least one number, but it is empty, of shape {array.shape}.")
    return array


def finite(value: ArrayLike, name: str, whole: bool = False) -> Array:
    """`value` as an array of finite real numbers."""
    return ensure(_real(value, name, whole), lambda x: abs(x) < np.inf, f"Argument `{name}` needs finite numbers")


def positive(value: ArrayLike, name: str, what: str) -> Array:
    """`value` as an array of finite positive numbers."""
    return ensure(finite(value, name), lambda x: x > 0, f"Argument `{name}` is {what} and needs to be positive")


def not_negative(value: ArrayLike, name: str, what: str) -> Array:
    """`value` as an array of finite numbers that are not negative."""
    return ensure(finite(value, name), lambda x: x >= 0, f"Argument `{name}` is {what} and needs to be at least 0")


def counts(value: ArrayLike, name: str, what: str) -> Array:
    """`value` as an array of finite numbers that are not negative and count something: whole numbers too."""
    return not_negative(finite(value, name, whole=True), name, what)


def positive_count(value: ArrayLike, name: str, what: str) -> Array:
    """`value` as an array of `counts` that are at least something."""
    return positive(counts(value, name, what), name, what)


def below(value: Array, target: Array, name: str) -> Array:
    """`value` as it is if everywhere below `target`."""
    needs = f"A mode grows towards its target from below, so `{name} - target` needs to be negative"
    # The difference is judged, but under jit a check is made only if what it hands on is used.
    return value + 0 * ensure(value - target, lambda x: x < 0, needs)


def times(t: ArrayLike) -> Array:
    """Times of a flow that begins at t = 0."""
    needs = "The flow starts at t = 0, so argument `t` needs finite times that are not negative"
    return ensure(_real(t, "t"), lambda x: (x >= 0) & (x < np.inf), needs)


def variances(variance: ArrayLike) -> Array:
    """Second moments of an input."""
    return not_negative(variance, "variance", "E[x^2] of an input")


def together(vectors: tuple[str, ...] = (), /, **values: ArrayLike) -> list[Array]:
    """All `values` in one dtype and one shape; those named in `vectors` have one axis more, the last.

    Python numbers take the dtype of the arrays, as they do elsewhere in JAX.
    """
    arrays = {name: finite(value, name) for name, value in values.items()}
    dtypes = [array.dtype for array in arrays.values() if not array.weak_type]
    dtype = functools.reduce(jnp.promote_types, dtypes) if dtypes else jnp.result_type(float)
    for name in vectors:
        if arrays[name].ndim < 1:
            raise ValueError(f"Argument `{name}` holds one number per unit, so its last axis is p, but it is a scalar.")
    try:
        shape = np.broadcast_shapes(*(a.shape[:-1] if name in vectors else a.shape for name, a in arrays.items()))
        last = np.broadcast_shapes(*(arrays[name].shape[-1:] for name in vectors))
    except ValueError as error:
        shapes = ", ".join(f"`{name}` {array.shape}" for name, array in arrays.items())
        hint = f" The last axis of {' and '.join(vectors)} stands apart." if vectors else ""
        raise ValueError(f"The shapes of the arguments need to broadcast, but they are {shapes}.{hint}") from error
    return [
        jnp.broadcast_to(array.astype(dtype), shape + last if name in vectors else shape)
        for name, array in arrays.items()
    ]
