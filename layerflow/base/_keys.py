"""Random keys by name."""

import zlib

import jax
from jaxtyping import PRNGKeyArray

from layerflow.base._checks import check_key


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
