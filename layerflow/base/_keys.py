"""Random keys, from one another by name and from what the user gives."""

import contextlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray, UInt32

from layerflow.base._checks import check_key, is_key


def fold(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """A key of its own for each purpose, from one key and a name.

    Unlike splitting, it does not change when another purpose is added beside it.

    Args:
        key: The key of a cell, say.
        name: What the new key is for.

    Returns:
        Key that depends on both.

    Example:
        >>> import jax, layerflow as lf
        >>> key = jax.random.key(0)
        >>> bool(lf.fold(key, "task") == lf.fold(key, "start"))
        False
    """
    check_key(key)
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def normals(
    keys: Key[Array, " draws"] | UInt32[Array, "draws words"], shapes: Sequence[tuple[int, ...]], dtype: Any
) -> list[Array]:
    """Normal numbers of each shape, by a key of its own.

    Those of one shape are drawn together, for every draw takes its time to compile; by threefry they are the same.
    """
    if jax.random.key_impl(keys) != "threefry2x32":
        return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]
    draw = lambda shape, keys: jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    drawn = {
        shape: iter(draw(shape, keys[np.array([other == shape for other in shapes])]))
        for shape in dict.fromkeys(shapes)
    }
    return [next(drawn[shape]) for shape in shapes]


def as_key(key: Any, name: str) -> PRNGKeyArray:
    """A key from a key, an old-style key or a whole number, or an error.

    A number beyond 32 bits gives the same key with and without float64: JAX alone would drop its upper half without.
    """
    if isinstance(key, int | np.integer):
        if not -(2**63) <= key < 2**63:
            raise ValueError(
                f"Argument `{name}` makes a key of a whole number of 64 bits, from -2^63 to 2^63 - 1, but it is {key}. "
                f"Shorten it, as in {name}=number % 2**63."
            )
        with contextlib.nullcontext() if -(2**31) <= key < 2**32 else jax.enable_x64(True):
            return jax.random.key(int(key))
    if is_key(key):
        return jax.random.wrap_key_data(key) if key.dtype == jnp.uint32 else key
    raise TypeError(f"Argument `{name}` needs a key, jax.random.key(0), or a whole number, but it is {key!r}.")
