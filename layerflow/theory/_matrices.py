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


def symmetric(matrix: Array, name: str, what: str, mend: str = "") -> Array:
    """`matrix` if it is symmetric to rounding of what made it, or an error."""
    skew = jnp.abs(matrix - matrix.T).max()
    return require(
        matrix,
        skew <= 100 * jnp.finfo(matrix.dtype).eps ** 0.5 * jnp.abs(matrix).max(),
        f"Argument `{name}` is {what} and needs to be symmetric, but its largest difference from its transpose is not "
        f"0{measured(skew)}.{mend}",
    )


def of_inputs(inputs: int, **values: Array) -> list[Array]:
    """What each input has, one number for each: of shape (inp,) or, the same for all, ()."""
    for name, value in values.items():
        if value.shape not in ((), (inputs,)):
            raise ValueError(
                f"There are {inputs} inputs, so argument `{name}` needs shape () or {(inputs,)}, but it has shape "
                f"{value.shape}."
            )
    return [jnp.broadcast_to(value, (inputs,)) for value in values.values()]


def measured(value: Any, summary: Any = np.max) -> str:
    """': number' for a message, or nothing while the value is traced."""
    return f": {float(summary(np.asarray(value))):.3g}" if is_concrete(value) else ""
