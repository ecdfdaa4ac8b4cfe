"""Where a function of one number is 0, differentiable by all that the function depends on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from layerflow.theory._special import Alike


def root(function: Callable[[Array], Array], low: Alike, high: Alike, halvings: int = 60) -> Alike:
    """The place between `low` and `high` where a function that goes from below 0 to above it is 0."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        up = function(middle) < 0
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.stop_gradient(jax.lax.fori_loop(0, halvings, halve, jax.lax.stop_gradient((low, high))))

    def newton(_: Array, at: Array) -> Array:
        value, slope = jax.jvp(function, (at,), (jnp.ones_like(at),))
        return at - value / jnp.where(slope > 0, slope, 1.0)

    # Newton's steps, differentiated whole, have the derivatives of the root: one step the first, two the third.
    return jax.lax.fori_loop(0, 2, newton, 0.5 * (low + high))
