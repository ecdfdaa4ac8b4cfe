"""Care for digits: functions that stay finite where the textbook form does not, and the precision of products.

And what of JAX's settings compiled programs do without.
"""

import contextlib
import functools
from collections.abc import Generator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FEW = 8  # terms up to which a sum of outer products is the faster: 4 times for 4 x 4, as fast for 8 x 8


def safe_root(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, zero at and below zero, with derivative zero there; NaN stays NaN."""
    none = squared <= 0
    return jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, squared)))


def spanned(singular: Float[Array, " r"], shape: tuple[int, ...]) -> Bool[Array, " r"]:
    """Which singular values of a matrix of this shape, largest first, are more than rounding."""
    return singular > max(shape) * jnp.finfo(singular.dtype).eps * singular[0]


def product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """The product of two matrices, of small ones as a sum of outer products.

    On a CPU a batch of products calls a library once for each; sums are arithmetic of the whole batch, which
    XLA joins with what stands before and after.
    """
    if b.shape[0] > FEW:
        return a @ b
    return functools.reduce(jnp.add, [a[:, k, None] * b[None, k, :] for k in range(b.shape[0])])


@contextlib.contextmanager
def full_precision() -> Generator[None]:
    """Products of matrices computed to all digits of their dtype inside, on accelerators too; decorates as well."""
    with jax.default_matmul_precision("highest"):
        yield


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Do without what helps to debug code of one's own, `jax.disable_jit`, `jax_debug_nans` and `_infs`.

    Whole programs are compiled all the same, and a cell that fails says so in its status, is NaN and leaves the
    others alone. Decorates as well.
    """
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        yield
