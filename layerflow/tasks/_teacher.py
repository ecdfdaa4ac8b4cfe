"""Tasks whose targets another network gives, and modes that follow a power law."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, PRNGKeyArray, PyTree

from layerflow.base._checks import check_key, real_array, require
from layerflow.tasks._modes import Modes
from layerflow.tasks._samples import Samples


def teacher(key: PRNGKeyArray, network: PyTree, *, n: int, inp: int, noise: ArrayLike = 0.0) -> Samples:
    """Draw standard normal inputs and let a network give their targets, y = f*(x) + noise * N(0, I).

    Args:
        key: Source of inputs and noise.
        network: The teacher f*, any network that takes a vector.
        n: Samples.
        inp: Width of the inputs.
        noise: Standard deviation of the noise on every target.

    Returns:
        Task with `x` of shape (n, inp) and one row of `y` per sample.

    Raises:
        ValueError: If there is no sample or input, `noise` is negative, or the teacher does
            not take inputs of this width.

    Example:
        >>> import jax, layerflow as lf
        >>> start = lf.gaussian(jax.random.key(0), (3, 5, 2))
        >>> lf.teacher(jax.random.key(1), start, n=8, inp=3).y.shape
        (8, 2)
    """
    check_key(key)
    for name, count in (("n", n), ("inp", inp)):
        if count < 1:
            raise ValueError(f"Argument `{name}` needs to be at least 1, but it is {count}.")
    noise = real_array(noise, "noise")
    noise = require(noise, noise >= 0, f"Argument `noise` is a standard deviation, not negative, but it is {noise}.")
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (n, inp))
    try:
        y = jax.vmap(network)(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The teacher cannot take an input of shape ({inp},): {error}") from error
    return Samples(x, y + noise * jax.random.normal(noise_key, y.shape, y.dtype))


def power_law_modes(modes: int, *, exponent: ArrayLike, target: ArrayLike = 1.0) -> Modes:
    """Modes whose input variances fall as a power of their rank and sum to 1.

        variance_k = k^(-exponent) / sum_j j^(-exponent),    k = 1, ..., modes.

    With exponent = alpha + 1 these are the frequencies of the skills of Nam et al. (2024).

    Args:
        modes: How many.
        exponent: Of the power law, shape ().
        target: S_k of every mode, shape (modes,) or a scalar for all.

    Returns:
        Task of that many modes.

    Raises:
        ValueError: If there is no mode or the shapes do not fit.

    Example:
        >>> import layerflow as lf
        >>> [f"{v:.3f}" for v in lf.power_law_modes(3, exponent=1.6).variance]
        ['0.666', '0.220', '0.115']

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    if modes < 1:
        raise ValueError(f"Argument `modes` needs to be at least 1, but it is {modes}.")
    exponent = real_array(exponent, "exponent")
    if exponent.shape != ():
        raise ValueError(f"Argument `exponent` is one number, but it has shape {exponent.shape}.")
    powers = jnp.arange(1, modes + 1, dtype=exponent.dtype) ** -exponent
    return Modes(powers / jnp.sum(powers), target)
