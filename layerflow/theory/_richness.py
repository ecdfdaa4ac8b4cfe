"""Lazy or rich: what decides how far the kernel of a scalar network moves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from layerflow.theory._arguments import times
from layerflow.theory._growth import final_growth, rates
from layerflow.theory._scalar import parts, scalar_arguments, signed
from layerflow.theory._special import Alike, log1p_over, or_infinite, quotient


def kernel_growth(a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0) -> Float[Array, "..."]:
    """How many times its first value the tangent kernel of a scalar network is at last: its richness.

        NTK(inf) / NTK(0) = r / Sigma(0) = sqrt(1 + (S^2 - f(0)^2) / Sigma(0)^2).

    It is near 1 for a lazy network, and large for weights that are small beside the target.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.

    The shapes broadcast as for `scalar_network`.

    Returns:
        The ratio, shape (...): 0 if the flow ends at the saddle, 1 for weights that are all zero.

    Raises:
        ValueError: If Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import kernel_growth
        >>> print(f"{kernel_growth(jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0]), 10.0):.4f}")
        5.0990

    References:
        Nam et al. (2025), arXiv:2502.21009, from Eqs. 77 and 89.
    """
    return _kernel_growth(*scalar_arguments(a0=a0, b0=b0, target=target, z=z))


def ends_at_saddle(a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0) -> Bool[Array, "..."]:
    """Whether the flow of a scalar network ends at the saddle f = 0 and not at its target.

    It does if all a_i = -b_i (A = 0) and S > 0, or all a_i = b_i (B = 0) and S < 0: what would have to grow
    is exactly zero. However little of it there is, the flow ends at the target, but waits near the saddle.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.

    The shapes broadcast as for `scalar_network`.

    Returns:
        True or False, shape (...).

    Raises:
        ValueError: If Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import ends_at_saddle
        >>> bool(ends_at_saddle(jnp.array([0.3, -0.1]), jnp.array([-0.3, 0.1]), 1.0))
        True

    References:
        Nam et al. (2025), arXiv:2502.21009, Theorem I.1, which leaves these out.
    """
    a0, b0, target, z = scalar_arguments(a0=a0, b0=b0, target=target, z=z)
    b0 = signed(b0, z)
    return (
        jnp.all(((a0 + b0) == 0) | (target <= 0)[..., None], axis=-1)
        & jnp.all(((a0 - b0) == 0) | (target >= 0)[..., None], axis=-1)
        & (target != 0)
    )


def inflection_time(
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """When the growth of a scalar network is fastest: the inflection of gamma(t).

        t = [Z / (2 r E)] log( (r + S - A) / (r - S + A) ),    where gamma = S / A,

    gamma being a piece of a sigmoid centred there. It has an inflection iff S > A = Sigma(0) + f(0); else
    the weights are so large beside the target that growth is fastest at once. For S < 0 all this holds of
    1 / gamma, with -S and B = Sigma(0) - f(0). The paper calls f(0) Delta_0 here.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        The time, shape (...); infinite where there is no inflection.

    Raises:
        ValueError: If a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import inflection_time
        >>> weights = jnp.array([0.1]), jnp.array([0.1])
        >>> print(f"{inflection_time(*weights, 1.0):.4f} {inflection_time(*weights, 0.01):.4f}")  # log(99) / 2
        2.2976 inf

    References:
        Nam et al. (2025), arXiv:2502.21009, Remark I.2.
    """
    return _inflection_time(*scalar_arguments(a0=a0, b0=b0, target=target, variance=variance, z=z))


def growth_bound(a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0) -> Float[Array, "..."]:
    """The inverse weight-to-target ratio, below which the final growth cannot be.

        gamma_inf >= S / Sigma(0)    for S > 0,

    so weights that are small beside the target make for rich dynamics.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign; for S < 0 the bound is one on 1 / gamma_inf.
        z: Z, not zero.

    The shapes broadcast as for `scalar_network`.

    Returns:
        |S| / Sigma(0), shape (...); infinite for weights that are all zero.

    Raises:
        ValueError: If Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import growth_bound
        >>> float(growth_bound(jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0]), 10.0))
        5.0

    References:
        Nam et al. (2025), arXiv:2502.21009, Remark I.3.
    """
    a0, b0, target, z = scalar_arguments(a0=a0, b0=b0, target=target, z=z)
    scale = 0.5 * jnp.sum(a0**2 + b0**2, axis=-1) / jnp.abs(z)
    return or_infinite(jnp.abs(target), scale)


def frozen_kernel_output(
    t: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """Output of a scalar network whose tangent kernel stays as it is at t = 0: its lazy limit.

        f(t) = S + (f(0) - S) e^{-2 Sigma(0) E t / Z}.

    `scalar_network` comes to this as Z = sqrt(p), p -> inf (the NTK limit), and as S -> 0 at f(0) = 0 (target
    downscaling).

    Args:
        t: Times t >= 0.
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        f(t), shape (...).

    Raises:
        ValueError: If a time or a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import frozen_kernel_output
        >>> print(f"{frozen_kernel_output(0.25, jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0]), 1.0):.4f}")
        0.6321

    References:
        Nam et al. (2025), arXiv:2502.21009, section 7.1, Eqs. 17 and 18.
    """
    t, a0, b0, target, e, z = scalar_arguments(t=times(t), a0=a0, b0=b0, target=target, variance=variance, z=z)
    return _frozen_kernel_output(t, a0, b0, target, e, z)


@jax.jit
def _kernel_growth(a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, z: Alike) -> Alike:
    a, b = parts(a0, b0, z)
    scale = 0.5 * (a + b)
    more, less = final_growth(target, a, b).halves(a, b)
    return jnp.where(scale > 0, quotient(more + less, scale), 1.0)


@jax.jit
def _inflection_time(
    a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> Alike:
    a, b = parts(a0, b0, z)
    a, b, size = jnp.where(target < 0, b, a), jnp.where(target < 0, a, b), jnp.abs(target)
    bends = size > a
    r, _, minus = rates(jnp.where(bends, size, 1.0), a, b)
    bends = bends & (minus + a > 0) & (e > 0)
    y = jnp.where(bends, quotient(size - a, minus + a), 0.0)
    return jnp.where(bends, jnp.abs(z) * y * log1p_over(2 * y) * quotient(jnp.ones_like(r), r * e), jnp.inf)


@jax.jit
def _frozen_kernel_output(
    t: Alike, a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> Alike:
    start = jnp.sum(a0 * b0, axis=-1) / z
    rate = e * jnp.sum(a0**2 + b0**2, axis=-1) / z**2
    return start * jnp.exp(-rate * t) - target * jnp.expm1(-rate * t)
