"""From lazy to rich: one mode of a lambda-balanced, task-aligned network (Theorem G.2)."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._growth import growth
from layerflow.theory._matrices import real_arrays, times
from layerflow.theory._special import Alike, phi1, quotient


def transition(t: ArrayLike, lam: ArrayLike, target: ArrayLike, strength: ArrayLike) -> Float[Array, "..."]:
    """The transition function T(t; lam) of Theorem G.2, which the paper cites without a formula.

    On whitened inputs, with w2^T w2 - w1 w1^T = lam I, hid >= min(inp, out) and the singular vectors
    of the task, a mode moves from rho(0) = `strength` to s = `target` as

        rho(t) = rho(0) + T(t; lam) (s - rho(0)),    rho' = sqrt(lam^2 + 4 rho^2) (s - rho).

    T rises from 0 to 1, depends on |lam| only, and is finite at s = rho(0). With r = sqrt(s^2 + lam^2 / 4),
    A, B = (sqrt(lam^2 + 4 rho(0)^2) +- 2 rho(0)) / 2, e = e^{-2rt} and h = (1 - e) / 2r,

        T = h (A / M + B / N),    M = e + (A + r - s) h,    N = (1 + e) / 2 + (s + B) h

    for s >= 0, and the same with A and B, s and -s exchanged for s < 0.

    Args:
        t: Gradient-flow time, any shape.
        lam: Layer imbalance.
        target: s, the singular value of the input-output correlation.
        strength: rho(0), of any sign: below 0 the mode starts against its target. All four broadcast.

    Returns:
        Array of the common shape, in [0, 1]. For lam = 0 a start of strength 0 stays, and one against
        the target ends at 0; there T is the value that the formula above for rho asks for.

    Raises:
        ValueError: If a time is negative.

    Example:
        >>> from layerflow.theory import transition
        >>> float(transition(0.5, lam=2.0, target=1.0, strength=0.1))
        0.66921...

    References:
        Nam et al., arXiv:2502.21009, Theorem G.2 and (69); Dominé et al. (2025), arXiv:2409.14623.
    """
    return _transition(*_same_shape(t, lam=lam, target=target, strength=strength))


def _transition(t: Alike, lam: Alike, target: Alike, strength: Alike) -> Alike:
    larger = 0.5 * (safe_root(lam**2 + 4 * strength**2) + 2 * jnp.abs(strength))
    smaller = quotient(0.25 * lam**2, larger)
    a, b = jnp.where(strength > 0, larger, smaller), jnp.where(strength > 0, smaller, larger)
    # A mode is a scalar network of width 1, whose A B is lam^2 / 4.
    grown = growth(t, target, a, b)
    return grown.h * (quotient(a, grown.down) + quotient(b, grown.up))


def transition_sigmoidal(t: ArrayLike, target: ArrayLike, strength: ArrayLike) -> Float[Array, "..."]:
    """T(t; lam) for lam -> 0, the rich limit: rho(t) is a sigmoid.

        T = (e^{2st} - 1) / (e^{2st} - 1 + s / rho(0))    for rho(0) > 0,

    and with both signs exchanged for rho(0) < 0. A mode without any strength does not move: T = 0.

    Args:
        t: Gradient-flow time, any shape.
        target: s.
        strength: rho(0). All three broadcast.

    Returns:
        Array of the common shape.

    Raises:
        ValueError: If a time is negative.

    Example:
        >>> from layerflow.theory import transition_sigmoidal
        >>> float(transition_sigmoidal(2.0, target=1.0, strength=0.1))
        0.84276...

    References:
        Nam et al., arXiv:2502.21009, (70).
    """
    t, target, strength = _same_shape(t, target=target, strength=strength)
    s, start = jnp.where(strength < 0, -target, target), jnp.abs(strength)
    x = 2 * jnp.abs(s) * t
    grown = 2 * start * t * phi1(x)
    decay = jnp.where(s > 0, jnp.exp(-x), 1.0)
    total = decay + grown
    return quotient(grown, total)


def transition_exponential(t: ArrayLike, lam: ArrayLike) -> Float[Array, "..."]:
    """T(t; lam) for |lam| -> infinity at fixed |lam| t, the lazy limit: 1 - e^{-|lam| t}.

    Args:
        t: Gradient-flow time, any shape.
        lam: Layer imbalance. Both broadcast.

    Returns:
        Array of the common shape.

    Raises:
        ValueError: If a time is negative.

    Example:
        >>> from layerflow.theory import transition_exponential
        >>> float(transition_exponential(0.1, lam=-10.0))
        0.63212...

    References:
        Nam et al., arXiv:2502.21009, (70).
    """
    t, lam = _same_shape(t, lam=lam)
    return -jnp.expm1(-jnp.abs(lam) * t)


def balanced_strength(t: ArrayLike, lam: ArrayLike, target: ArrayLike, strength: ArrayLike) -> Float[Array, "..."]:
    """rho(t), the strength of one mode of a lambda-balanced, task-aligned network.

        rho(t) = rho(0) + T(t; lam) (s - rho(0)),    |s - rho(t)| <= |s - rho(0)| e^{-|lam| t}.

    Args:
        t: Gradient-flow time, any shape.
        lam: Layer imbalance.
        target: s, the singular value of the input-output correlation.
        strength: rho(0), of any sign. All four broadcast.

    Returns:
        Array of the common shape.

    Raises:
        ValueError: If a time is negative.

    Example:
        >>> from layerflow.theory import balanced_strength
        >>> float(balanced_strength(0.5, lam=2.0, target=1.0, strength=0.1))
        0.70229...

    References:
        Nam et al., arXiv:2502.21009, Theorem G.2 and (69).
    """
    return strength_of(*_same_shape(t, lam=lam, target=target, strength=strength))


def strength_of(t: Alike, lam: Alike, target: Alike, strength: Alike) -> Alike:
    """`balanced_strength` of checked arguments of one shape."""
    return strength + _transition(t, lam, target, strength) * (target - strength)


def _same_shape(t: ArrayLike, **others: ArrayLike) -> list[Array]:
    """Times and numbers in one dtype and shape."""
    arrays = real_arrays(t=t, **others)
    arrays[0] = times(arrays[0])
    shape = jnp.broadcast_shapes(*(array.shape for array in arrays))
    return [jnp.broadcast_to(array, shape) for array in arrays]
