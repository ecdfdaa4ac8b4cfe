"""Care for digits: functions that stay finite where the textbook form does not, and the precision of products."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def safe_root(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, zero at and below zero, with derivative zero there."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def full_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`function` with products of matrices computed to all digits of their dtype, on accelerators too."""

    @functools.wraps(function)
    def at_full_precision(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return at_full_precision
