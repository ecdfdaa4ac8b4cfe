"""One mode: exponential growth in one layer, sigmoidal in two equal ones, and two of any size."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import times, together, variances
from layerflow.theory._growth import growth
from layerflow.theory._special import Alike, phi1, quotient


def exponential(t: ArrayLike, start: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Strength of a mode of a linear model, which learns at one rate from the first step to the last.

        theta(t) = S + (theta(0) - S) e^{-E t},    the flow theta' = E (S - theta).

    Args:
        t: Times t >= 0.
        start: theta(0), of any sign.
        target: S, the strength that the task asks for.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        theta(t), of that shape.

    Raises:
        ValueError: If a time or a variance is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import exponential
        >>> print(f"{exponential(0.5, 0.0, 1.0, 2.0):.6f}")
        0.632121

    References:
        Nam et al. (2025), arXiv:2502.21009, Eqs. 7 and 10.
    """
    return grown_exponentially(*together(t=times(t), start=start, target=target, variance=variances(variance)))


def sigmoidal(t: ArrayLike, start: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Strength u = a b of a mode of two equal layers: long waiting, then a sudden rise.

        u(t) = S / (1 + (S / u(0) - 1) e^{-2 S E t}),    the flow u' = 2 E u (S - u) of a = b.

    The paper asks for 0 < u(0) < S, but the formula holds for any u(0) > 0 and any S. Where u(0) < 0 the
    layers are opposite, a = -b, and u' = -2 E u (S - u). A mode of the sign of its target goes to the
    target, one of the other sign to the saddle at 0; at u(0) = 0 it stays.

    Args:
        t: Times t >= 0.
        start: u(0), of any sign.
        target: S, the strength that the task asks for, of any sign.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        u(t), of that shape. The derivative by `start` at 0, where it jumps, is that from above.

    Raises:
        ValueError: If a time or a variance is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import sigmoidal
        >>> [f"{u:.4f}" for u in sigmoidal(jnp.array([0.0, 1.5, 100.0]), 1e-3, 1.0, 2.0)]
        ['0.0010', '0.2877', '1.0000']

    References:
        Nam et al. (2025), arXiv:2502.21009, Eqs. 6, 9 and 39; Saxe et al. (2014), arXiv:1312.6120.
    """
    return grown_sigmoidally(*together(t=times(t), start=start, target=target, variance=variances(variance)))


class LayerPair(eqx.Module):
    """One mode of two layers at some times; all arrays have the times' and the parameters' joint shape."""

    a: Alike
    b: Alike
    strength: Alike  # a b, with all its digits


def layer_pair(t: ArrayLike, a0: ArrayLike, b0: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0) -> LayerPair:
    """One mode of two layers that need not be equal.

        a' = b E (S - a b),    b' = a E (S - a b),    a^2 - b^2 = C for all time,

    so the strength u = a b obeys u' = E sqrt(C^2 + 4 u^2) (S - u). It is sigmoidal for C = 0 and the
    more exponential, at rate E |C|, the larger |C|. For C != 0 it reaches any target, crossing 0 if need
    be. This is Theorem I.1 at width 1, which unlike the formulas by C and artanh has no special cases.

    Args:
        t: Times t >= 0.
        a0, b0: The two layers at t = 0, of any sign and size.
        target: S, the strength that the task asks for, of any sign.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The layers `a` and `b` and their product `strength`.

    Raises:
        ValueError: If a time or a variance is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import layer_pair
        >>> mode = layer_pair(0.7, 1.5, 0.1, 1.0)
        >>> print(f"{mode.a:.4f} {mode.b:.4f} {mode.strength:.4f}")
        1.5909 0.5395 0.8583

    References:
        Saxe et al. (2014), arXiv:1312.6120, appendix A; Nam et al. (2025), arXiv:2502.21009, Eqs. 6, 8
        and Theorem I.1.
    """
    return _layer_pair(*together(t=times(t), a0=a0, b0=b0, target=target, variance=variances(variance)))


@jax.jit
def grown_exponentially(t: Alike, start: Alike, target: Alike, e: Alike) -> Alike:
    return start * jnp.exp(-e * t) - target * jnp.expm1(-e * t)


def relaxed(t: Alike, start: Alike, pull: Alike, speed: Alike) -> Alike:
    """Where w' = pull - speed w is at `t`; a speed of 0 is no special case."""
    return jnp.exp(-speed * t) * start + t * phi1(speed * t) * pull


@jax.jit
def grown_sigmoidally(t: Alike, start: Alike, target: Alike, e: Alike) -> Alike:
    sign = jnp.where(start < 0, -1.0, 1.0).astype(start.dtype)
    size = sign * start
    x = 2 * sign * target * e * t
    rising = x >= 0
    distance = jnp.where(rising, x, -x)  # spelled out, as its derivative at 0 has to be one-sided
    decay, slowing = jnp.exp(-distance), 2 * e * t * size * phi1(distance)
    # One function on both sides of x = 0, written so that no exponential grows.
    return sign * quotient(size * jnp.where(rising, 1.0, decay), jnp.where(rising, decay, 1.0) + slowing)


@jax.jit
def _layer_pair(t: Alike, a0: Alike, b0: Alike, target: Alike, e: Alike) -> LayerPair:
    aligned, opposed = 0.5 * (a0 + b0), 0.5 * (a0 - b0)
    a, b = 2 * aligned**2, 2 * opposed**2
    grown = growth(e * t, target, a, b)
    up, down = grown.roots()
    strength = grown.output(a, b, a0 * b0, target)
    return LayerPair(aligned * up + opposed * down, aligned * up - opposed * down, strength)
