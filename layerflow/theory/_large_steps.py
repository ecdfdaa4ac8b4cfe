"""Gradient descent with large steps on the scalar network: an exact map and its invariant ellipse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import check_counts
from layerflow.theory._arguments import not_negative, together, variances
from layerflow.theory._growth import rates
from layerflow.theory._scalar import divisors, parts, scalar_arguments, signed
from layerflow.theory._special import Alike, or_infinite


class ScalarDescent(eqx.Module):
    """Gradient descent on a scalar network, step by step; `...` is the joint shape of the parameters."""

    a: Float[Array, "times ... p"]
    b: Float[Array, "times ... p"]
    output: Float[Array, "times ..."]  # f
    weight_scale: Float[Array, "times ..."]  # Sigma = sum (a_i^2 + b_i^2) / (2 Z)
    difference: Float[Array, "times ..."]  # C = sum (a_i^2 - b_i^2)
    ellipse: Float[Array, "times ..."]  # below 1 descent stays bounded, above it diverges


class CriticalSteps(eqx.Module):
    """Step sizes up to which descent is bounded, and converges; `...` is the joint shape of the parameters."""

    bounded: Float[Array, "..."]
    convergent: Float[Array, "..."]


class TwoCycle(eqx.Module):
    """The outputs between which balanced descent goes to and fro; `...` is the joint shape of the parameters."""

    smaller: Float[Array, "..."]  # f, the smaller in size
    larger: Float[Array, "..."]
    multiplier: Float[Array, "..."]  # of a small distance in two steps; the cycle attracts where it is within (-1, 1)


def scalar_descent(
    learning_rate: ArrayLike,
    steps: int,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> ScalarDescent:
    """Gradient descent of `scalar_network`, of any width and with steps of any size.

        a_i <- a_i - e b_i,    b_i <- b_i - e a_i,    e = h (f - S),    h = eta E / Z.

    Two numbers move all weights, a + b by the product of all 1 - e and a - b by that of all 1 + e, so with A and B
    as in Theorem I.1

        A <- A (1 - e)^2,    B <- B (1 + e)^2,    C <- C (1 - e^2),    f = (A - B) / 2,    Sigma = (A + B) / 2 :

    layers balance where e^2 < 2. With mu = h S and |mu| < 2 the ellipse

        q = (h / 2) [A / (2 + mu) + B / (2 - mu)],    q - 1 <- (q - 1) (1 + e (e + mu)),

    is invariant: descent stays inside of q = 1 or outside of it for ever. From |mu| = 2 on, where no ellipse is
    left, q is infinite. What diverges ends as numbers that are not finite.

    Args:
        learning_rate: eta, of a step, not negative.
        steps: How many steps, a whole number of at least 1.
        a0, b0: Weights at the start, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`, that of `learning_rate` with them.

    Returns:
        The start and what each step gives, `a` and `b` of shape (steps + 1, ..., p), all else (steps + 1, ...).

    Raises:
        ValueError: If a step size or a variance is negative, `steps` is no whole number of at least 1, Z is 0, or a
            number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scalar_descent
        >>> way = scalar_descent(0.4, 10, jnp.array([1.2]), jnp.array([0.1]), 1.0)
        >>> print(f"{way.ellipse[0]:.4f} {way.output[-1]:.4f} {way.difference[-1]:.4f}")
        0.1460 1.0000 1.2261

    References:
        Kreisler et al. (2023), arXiv:2305.13064; Zhu et al. (2022), arXiv:2210.03294, for the balancing of layers.
    """
    check_counts(steps=steps)
    rate = not_negative(learning_rate, "learning_rate", "the size of a step")
    given = scalar_arguments(learning_rate=rate, a0=a0, b0=b0, target=target, variance=variance, z=z)
    return _scalar_descent(steps, *given)


def critical_steps(
    a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0, variance: ArrayLike = 1.0
) -> CriticalSteps:
    """The largest steps with which descent on a scalar network stays bounded, and with which it converges.

        bounded:       eta < (Z / E) 4 / (Sigma + sqrt(Sigma^2 + 4 S (S - f)))    at the start,
        convergent:    eta < Z / (E |S|) as well, for no minimum is stable beyond.

    The first is the ellipse of `scalar_descent`, solved for eta, and at most 2 Z / (E |S|). Both are so for almost
    all starts: those of zero measure that come to rest on a saddle or on an unstable minimum are left out.

    Args:
        a0, b0: Weights at the start, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        Both step sizes, shape (...); infinite where nothing moves.

    Raises:
        ValueError: If a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import critical_steps
        >>> steps = critical_steps(jnp.array([3.0]), jnp.array([-0.4]), 0.5)
        >>> print(f"{steps.bounded:.4f} {steps.convergent:.4f}")
        0.4203 0.4203

    References:
        Wang et al. (2021), arXiv:2110.03677, for the 4 / eta rule at S = 0. That such a step size exists in closed
        form is announced by Liang and Montufar (2025), arXiv:2509.25351.
    """
    return _critical_steps(*scalar_arguments(a0=a0, b0=b0, target=target, variance=variance, z=z))


def flow_sharpness(
    a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Sharpness of the minimum that the flow of a scalar network would reach: the gradient flow solution sharpness.

        (2 E / Z) sqrt(S^2 + A B).

    A step of descent lowers it iff e^2 < 2. At eta times it below 1 descent follows the flow, to 2 it overshoots, and
    above 2 no minimum of that sharpness is stable: descent catapults to a flatter one, or diverges, `critical_steps`.

    Args:
        a0, b0: Weights, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        The largest eigenvalue of the loss's Hessian there, shape (...).

    Raises:
        ValueError: If a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import flow_sharpness
        >>> print(f"{flow_sharpness(jnp.array([1.8]), jnp.array([0.05]), 0.5):.4f}")
        3.3884

    References:
        Kreisler et al. (2023), arXiv:2305.13064.
    """
    return _flow_sharpness(*scalar_arguments(a0=a0, b0=b0, target=target, variance=variance, z=z))


def two_cycle(
    learning_rate: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0, variance: ArrayLike = 1.0
) -> TwoCycle:
    """The cycle of two steps on which descent with balanced layers ends where no minimum is stable.

        h |f| = [(1 + |mu|) ± sqrt((1 + |mu|)^2 - 4)] / 2,    multiplier = 9 - 2 (1 + |mu|)^2,

    for all a_i = b_i, or all a_i = -b_i if S / Z < 0, with h and mu of `scalar_descent`. It is born at |mu| = 1, where
    the flattest minimum loses its stability, and attracts up to |mu| = sqrt(5) - 1.

    Args:
        learning_rate: eta, of a step, not negative.
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    All shapes broadcast to one shape (...).

    Returns:
        Both outputs and the multiplier, shape (...); NaN for |mu| <= 1, where there is no such cycle.

    Raises:
        ValueError: If a step size or a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import two_cycle
        >>> cycle = two_cycle(1.1, 1.0)
        >>> print(f"{cycle.smaller:.4f} {cycle.larger:.4f} {cycle.multiplier:.2f}")
        0.6635 1.2456 0.18

    References:
        Zhu et al. (2022), arXiv:2210.03294.
    """
    rate = not_negative(learning_rate, "learning_rate", "the size of a step")
    return _two_cycle(*together(learning_rate=rate, target=target, variance=variances(variance), z=divisors(z)))


@functools.partial(jax.jit, static_argnums=0)
def _scalar_descent(
    steps: int,
    eta: Alike,
    a0: Float[Array, "*shape p"],
    b0: Float[Array, "*shape p"],
    target: Alike,
    e: Alike,
    z: Alike,
) -> ScalarDescent:
    a, b = parts(a0, b0, z)
    h = eta * e / jnp.abs(z)
    mu = h * target

    def step(moved: tuple[Alike, Alike], _: None) -> tuple[tuple[Alike, Alike], tuple[Alike, Alike]]:
        up, down = moved
        error = 0.5 * h * (a * up**2 - b * down**2) - mu
        return (up * (1 - error), down * (1 + error)), moved

    one = jnp.ones_like(h)
    _, (up, down) = jax.lax.scan(step, (one, one), None, length=steps + 1)
    aligned, opposed = a[None] * up**2, b[None] * down**2
    b0 = signed(b0, z)
    more, less = 0.5 * (a0 + b0)[None] * up[..., None], 0.5 * (a0 - b0)[None] * down[..., None]
    bound = (jnp.abs(mu) < 2)[None]
    kept = jnp.where(bound, mu[None], 0.0)
    ellipse = 0.5 * h[None] * (aligned / (2 + kept) + opposed / (2 - kept))
    return ScalarDescent(
        a=more + less,
        b=signed(more - less, jnp.broadcast_to(z[None], up.shape)),
        output=0.5 * (aligned - opposed),
        weight_scale=0.5 * (aligned + opposed),
        difference=jnp.sum(a0**2 - b0**2, axis=-1)[None] * up * down,
        ellipse=jnp.where(bound, ellipse, jnp.inf),
    )


@jax.jit
def _critical_steps(
    a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> CriticalSteps:
    a, b = parts(a0, b0, z)
    scale, output = 0.5 * (a + b), 0.5 * (a - b)
    # Sigma^2 + 4 S (S - f), as a sum of squares.
    root, _, _ = rates(2 * target - output, a, b)
    per_step = e / jnp.abs(z)
    bounded = or_infinite(4 * jnp.ones_like(scale), per_step * (scale + root))
    return CriticalSteps(bounded, jnp.minimum(bounded, or_infinite(jnp.ones_like(scale), per_step * jnp.abs(target))))


@jax.jit
def _flow_sharpness(
    a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> Alike:
    a, b = parts(a0, b0, z)
    r, _, _ = rates(target, a, b)
    return 2 * e / jnp.abs(z) * r


@jax.jit
def _two_cycle(eta: Alike, target: Alike, e: Alike, z: Alike) -> TwoCycle:
    h = eta * e / jnp.abs(z)
    mu = h * jnp.abs(target)
    there = mu > 1
    mu, h = jnp.where(there, mu, 2.0), jnp.where(there, h, 1.0)
    larger = 0.5 * (1 + mu + jnp.sqrt((mu - 1) * (mu + 3)))
    unit = jnp.where(there, jnp.sign(target), jnp.nan) / h
    multiplier = jnp.where(there, 9 - 2 * (1 + mu) ** 2, jnp.nan)
    return TwoCycle(smaller=unit / larger, larger=unit * larger, multiplier=multiplier)
