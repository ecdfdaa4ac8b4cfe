"""Widths of layers, and numbers that come one per layer."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import is_concrete, real_array, require


def checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """Widths of at least two layers of units, or an error."""
    widths = tuple(widths)
    if not all(map(is_concrete, widths)):
        raise TypeError(
            "Argument `widths` decides the shapes of weights, but a value of an axis came. Make that axis "
            "lf.static([...]), which compiles once per value."
        )
    whole = all(isinstance(width, int | np.integer) for width in widths)
    if len(widths) < 2 or not whole or any(width < 1 for width in widths):
        raise ValueError(
            f"Argument `widths` lists the width of every layer of units, input first: at least two whole numbers, each "
            f"at least 1, but it is {widths}."
        )
    return widths


def per_layer(values: ArrayLike | Sequence[ArrayLike], layers: int, name: str) -> Float[Array, " layers"]:
    """One number per layer, none of them negative, or an error."""
    array = (
        jnp.stack([real_array(v, name) for v in values]) if isinstance(values, Sequence) else real_array(values, name)
    )
    if array.shape not in ((), (layers,)):
        raise ValueError(
            f"Argument `{name}` holds one number per layer, so for {layers} layers it needs shape ({layers},), but it "
            f"has shape {array.shape}. For all layers alike pass one number."
        )
    message = f"Argument `{name}` needs numbers that are not negative, but some are."
    return require(jnp.broadcast_to(array, (layers,)), array >= 0, message)
