"""What closed forms of matrices ask of their arguments."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from layerflow._checks import is_concrete, real_array, require


def real_arrays(**values: ArrayLike) -> list[Array]:
    """The arguments as arrays of floating point numbers of one dtype."""
    arrays = [real_array(value, name) for name, value in values.items()]
    dtype = jnp.result_type(*(array.dtype for array in arrays)) if len({a.dtype for a in arrays}) < 2 else None
    if dtype is None:
        dtype = max((array.dtype for array in arrays), key=lambda dtype: jnp.finfo(dtype).bits)
    return [array.astype(dtype) for array in arrays]


def times(t: Array, name: str = "t") -> Array:
    """`t` if no time is negative, or an error."""
    return require(t, t >= 0, f"Argument `{name}` needs times from 0 on, but some are negative{measured(t, np.min)}.")


def measured(value: Any, summary: Any = np.max) -> str:
    """': number' for a message, or nothing while the value is traced."""
    return f": {float(summary(np.asarray(value))):.3g}" if is_concrete(value) else ""
