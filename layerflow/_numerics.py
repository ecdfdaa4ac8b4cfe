"""Small functions that stay finite, with their derivatives, where the textbook form does not."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def safe_root(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, zero at and below zero, with derivative zero there."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
