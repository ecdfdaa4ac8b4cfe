"""Random regression, the task of Figure 6."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from layerflow.base._checks import check_key, check_shaping
from layerflow.tasks._samples import Samples


def random_regression(key: PRNGKeyArray, *, n: int, inp: int, out: int, whiten: bool = False) -> Samples:
    """Draw inputs and targets from the standard normal distribution.

    Args:
        key: Source of the numbers.
        n: Samples.
        inp, out: Width of inputs and of targets.
        whiten: Standardise the inputs and whiten them exactly, X^T X / n = I to rounding.

    Returns:
        Task with `x` of shape (n, inp) and `y` of shape (n, out).

    Raises:
        ValueError: If `whiten` is asked of n <= inp samples: centred, they span n - 1 dimensions.

    Example:
        >>> import jax, layerflow as lf
        >>> task = lf.random_regression(jax.random.key(0), n=10, inp=2, out=1, whiten=True)
        >>> task.x.shape, task.y.shape
        ((10, 2), (10, 1))

    References:
        Nam et al. (2025), arXiv:2502.21009v1, Fig. 6 and Appendix G.3.
    """
    check_key(key)
    check_shaping(n=n, inp=inp, out=out)
    for name, width in (("n", n), ("inp", inp), ("out", out)):
        if width < 1:
            raise ValueError(
                f"Argument `{name}` counts {'samples' if name == 'n' else 'units'}: at least 1, not {width}."
            )
    if whiten and n <= inp:
        raise ValueError(f"Whitening inp={inp} inputs needs more samples than inputs, at least n={inp + 1}, but n={n}.")
    return Samples(*_draw(key, n, inp, out, whiten))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _draw(
    key: PRNGKeyArray, n: int, inp: int, out: int, whiten: bool
) -> tuple[Float[Array, "n inp"], Float[Array, "n out"]]:
    x_key, y_key = jax.random.split(key)
    x = jax.random.normal(x_key, (n, inp))
    y = jax.random.normal(y_key, (n, out))
    return (_whitened((x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True)) if whiten else x), y


def _whitened(x: Float[Array, "n inp"]) -> Float[Array, "n inp"]:
    """`x` times the inverse square root of its second moment, x^T x / n."""
    variance, axes = jnp.linalg.eigh(x.T @ x / x.shape[0])
    return x @ (axes / jnp.sqrt(variance)[None, :]) @ axes.T
