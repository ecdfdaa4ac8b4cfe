"""What closed forms of matrices ask of their arguments."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from layerflow.base._checks import is_concrete, require
from layerflow.theory._arguments import finite


def real_arrays(**values: ArrayLike) -> list[Array]:
    """The arguments as arrays of finite real numbers of one dtype; Python numbers take that of the arrays."""
    arrays = [finite(value, name) for name, value in values.items()]
    dtypes = [array.dtype for array in arrays if not array.weak_type]
    dtype = functools.reduce(jnp.promote_types, dtypes) if dtypes else jnp.result_type(float)
    return [array.astype(dtype) for array in arrays]


def times(t: Array, name: str = "t") -> Array:
    """`t` if no time is negative, or an error."""
    return require(t, t >= 0, f"Argument `{name}` needs times from 0 on, but some are negative{measured(t, np.min)}.")


def measured(value: Any, summary: Any = np.max) -> str:
    """': number' for a message, or nothing while the value is traced."""
    return f": {float(summary(np.asarray(value))):.3g}" if is_concrete(value) else ""
