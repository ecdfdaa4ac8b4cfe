"""Mirror coordinates of a diagonal network, in which its gradient flow on any data is one line.

`difference` is C = a^2 - b^2 of every mode, of any sign, as `conserved_difference` has it; only |C| matters. Arrays
broadcast.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import whole
from layerflow.theory._arguments import ensure, finite, positive, together
from layerflow.theory._special import Alike, quotient

LARGE = 30.0  # of theta, from where sinh is an exponential to all digits


def mirror_coordinate(a: ArrayLike, b: ArrayLike) -> Float[Array, "..."]:
    """The mirror coordinate of a mode with layers a and b.

        theta = ln|a + b| - ln|a - b|,    a b = (|C| / 2) sinh theta,    C = a^2 - b^2.

    Args:
        a, b: The layers, of any sign.

    Returns:
        theta; infinite where C = 0, and 0 where both layers are 0.

    Raises:
        ValueError: If a number is not real or not finite.

    Example:
        >>> from layerflow.theory import mirror_coordinate
        >>> print(f"{mirror_coordinate(1.0, 0.5):.6f}")
        1.098612

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """
    return coordinate(*together(a=a, b=b))


def mirror_strength(theta: ArrayLike, difference: ArrayLike) -> Float[Array, "..."]:
    """Strength of a mode from its mirror coordinate, for any |C| that the dtype holds.

        beta = a b = (|C| / 2) sinh theta = sign(theta) e^{|theta| + ln(|C| / 4)}    for large theta.

    Args:
        theta: The mirror coordinate.
        difference: C, not 0.

    Returns:
        beta.

    Raises:
        ValueError: If C is 0, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import mirror_strength
        >>> print(f"{mirror_strength(461.0, 1e-200):.4f}")
        0.4052

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """
    theta, log_scale = together(theta=theta, log_scale=log_scales(difference))
    return strength(theta, log_scale)


def mirror_potential(strength: ArrayLike, difference: ArrayLike) -> Float[Array, "..."]:
    """The potential whose mirror flow the diagonal network follows, one term for each mode.

        phi = (1/2) [ beta asinh(2 beta / |C|) - 2 beta^2 / (sqrt(C^2 + 4 beta^2) + |C|) ],    phi' = theta / 2.

    Summed over modes it is what the flow from beta = 0 minimises among all interpolators: half of beta^2 / |C| for
    large |C|, half of |beta| (ln(4 |beta| / |C|) - 1) for small |C|. Twice it, at |C| = 4 alpha^2, is alpha^2 q(beta /
    alpha^2) of the network u^2 - v^2 that starts from u = v = alpha.

    Args:
        strength: beta, of any sign.
        difference: C, not 0.

    Returns:
        phi, not negative.

    Raises:
        ValueError: If C is 0, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import mirror_potential
        >>> print(f"{mirror_potential(1.0, 2.0):.6f}")
        0.233580

    References:
        Woodworth et al. (2020), arXiv:2002.09277; Azulay et al. (2021), arXiv:2102.09769.
    """
    beta, c = together(strength=strength, difference=not_zero(difference))
    return _potential(beta, jnp.abs(c))


def deep_mirror_strength(m: ArrayLike, size: ArrayLike, *, depth: int) -> Float[Array, "..."]:
    """Strength u^D - v^D of a mode of a deep DifferenceNetwork from its mirror coordinate, |m| < 1.

        beta = alpha^D [ (1 - m)^{-D / (D - 2)} - (1 + m)^{-D / (D - 2)} ],
        u = alpha (1 - m)^{-1 / (D - 2)},    v = alpha (1 + m)^{-1 / (D - 2)}.

    Gradient flow keeps alpha^{2 - D} = (u^{2 - D} + v^{2 - D}) / 2. A start from u = v = alpha has m = 0.

    Args:
        m: The mirror coordinate, above -1 and below 1.
        size: alpha, positive.
        depth: D, at least 3.

    Returns:
        beta.

    Raises:
        ValueError: If |m| is not below 1, `size` is not positive, `depth` is below 3, or a number is not real or not
            finite.

    Example:
        >>> from layerflow.theory import deep_mirror_strength
        >>> print(f"{deep_mirror_strength(0.5, 0.4, depth=3):.6f}")
        0.493037

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """
    inside = ensure(finite(m, "m"), lambda x: abs(x) < 1, "Argument `m` needs numbers above -1 and below 1")
    m, alpha = together(m=inside, size=positive(size, "size", "the weight alpha of both branches"))
    return deep_strength(m, alpha, deeper(depth))


def not_zero(difference: ArrayLike) -> Array:
    """C, if it is nowhere 0."""
    needs = (
        "Where a^2 = b^2 the sign of a mode is frozen and it has no mirror coordinate, so argument `difference` needs "
        "numbers other than 0"
    )
    return ensure(finite(difference, "difference"), lambda x: x != 0, needs)


def log_scales(difference: ArrayLike) -> Array:
    """ln |C|."""
    return jnp.log(jnp.abs(not_zero(difference)))


def deeper(depth: int) -> int:
    """A depth of at least 3."""
    if not whole(depth) or depth < 3:
        raise ValueError(
            f"Argument `depth` needs a whole number of at least 3, but it is {depth!r}. Of 2: mirror_flow."
        )
    return int(depth)


@jax.jit
def strength(theta: Alike, log_scale: Alike) -> Alike:
    """(|C| / 2) sinh theta from ln |C|."""
    far = jnp.abs(theta) > LARGE
    near = jnp.where(far, 0.0, theta)
    size = jnp.exp(jnp.where(far, jnp.abs(theta), 0.0) + log_scale)
    return jnp.where(far, 0.25 * jnp.sign(theta), 0.5 * jnp.sinh(near)) * size


@jax.jit
def stiffness(theta: Alike, log_scale: Alike) -> Alike:
    """The derivative of `strength` by theta, (|C| / 2) cosh theta = sqrt(C^2 + 4 beta^2) / 2."""
    far = jnp.abs(theta) > LARGE
    near = jnp.where(far, 0.0, theta)
    size = jnp.exp(jnp.where(far, jnp.abs(theta), 0.0) + log_scale)
    return jnp.where(far, 0.25, 0.5 * jnp.cosh(near)) * size


@functools.partial(jax.jit, static_argnums=2)
def deep_strength(m: Alike, alpha: Alike, depth: int) -> Alike:
    power = depth / (depth - 2)
    # From logarithms, so that the difference keeps its digits at small m.
    more, less = -power * jnp.log1p(-m), -power * jnp.log1p(m)
    return alpha**depth * jnp.exp(less) * jnp.expm1(more - less)


@jax.jit
def coordinate(a: Alike, b: Alike) -> Alike:
    first = jnp.abs(a) >= jnp.abs(b)
    ratio = quotient(jnp.where(first, b, a), jnp.where(first, a, b))
    close = jnp.abs(ratio) > 0.5
    small = jnp.where(close, 0.0, ratio)
    up, down = (jnp.where(close, jnp.abs(part), 1.0) for part in (a + b, a - b))
    return jnp.where(close, jnp.log(up) - jnp.log(down), 2 * jnp.arctanh(small))


@jax.jit
def _potential(beta: Alike, c: Alike) -> Alike:
    size = jnp.hypot(c, 2 * beta)
    return 0.5 * (beta * jnp.arcsinh(2 * beta / c) - 2 * beta**2 / (size + c))
