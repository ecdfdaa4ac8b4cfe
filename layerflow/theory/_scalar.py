"""The scalar network of any width: Theorem I.1 and what follows from it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import ensure, finite, times, together, variances
from layerflow.theory._growth import Growth, final_growth, growth, rates
from layerflow.theory._special import Alike, log1p_over, quotient


class ScalarNetwork(eqx.Module):
    """State of the network f(x) = (x / Z) sum_i a_i b_i; `...` is the joint shape of times and parameters."""

    a: Float[Array, "... p"]
    b: Float[Array, "... p"]
    output: Float[Array, "..."]  # f, the coefficient of x
    growth: Float[Array, "..."]  # gamma, of the aligned sums a + b; infinite at the end of some saddles
    weight_scale: Float[Array, "..."]  # Sigma = sum (a_i^2 + b_i^2) / (2 Z)
    ntk: Float[Array, "..."]  # 2 Sigma / |Z|: the kernel is this times x x'


def scalar_network(
    t: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> ScalarNetwork:
    """Gradient flow of a two-layer linear network of any width with scalar input and output.

        f = (1 / Z) sum_i a_i b_i,    a_i' = (E / Z) b_i (S - f),    b_i' = (E / Z) a_i (S - f).

    One number, the growth factor gamma, moves all weights:

        a_i + b_i = gamma^(1/2) (a_i + b_i)(0),    a_i - b_i = gamma^(-1/2) (a_i - b_i)(0),
        f = (A gamma - B / gamma) / 2,    A = Sigma(0) + f(0),    B = Sigma(0) - f(0),
        gamma = [r + T (B + S)] / [r + T (A - S)],    T = tanh(r E t / Z),    r^2 = S^2 + A B.

    The paper's (75) has e^{-4 r t / Z} where this has e^{-2 r t / Z}: its (90) has a factor 2 too many, as
    comparing width 1 and a = b with its Eq. 9 shows.

    Args:
        t: Times t >= 0.
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, the slope of the target function, of any sign.
        z: Z, not zero; a negative Z is that of the opposite b. It divides, where the `output_scale` of a
            LinearNetwork multiplies.
        variance: E = E[x^2].

    The shapes of `t`, `target`, `z`, `variance` and of the weights without their last axis
    broadcast to one shape (...).

    Returns:
        Weights of shape (..., p) and, of shape (...), `output`, `growth`, `weight_scale` and `ntk`.

    Raises:
        ValueError: If a time or a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scalar_network
        >>> a0, b0 = jnp.array([0.5, -0.2, 0.1]), jnp.array([0.3, 0.4, -0.6])
        >>> now = scalar_network(1.0, a0, b0, 1.5, z=2.0)
        >>> print(f"{now.output:.6f} {now.growth:.6f}")
        0.401653 3.712835

    References:
        Nam et al. (2025), arXiv:2502.21009, Theorem I.1, Eqs. 71 to 98.
    """
    t, a0, b0, target, e, z = scalar_arguments(t=times(t), a0=a0, b0=b0, target=target, variance=variance, z=z)
    return _scalar_network(t, a0, b0, target, e, z)


def scalar_network_limit(a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0) -> ScalarNetwork:
    """Where the flow of `scalar_network` ends, t -> inf.

        gamma_inf = (S + r) / A,    f = S,    Sigma = r = sqrt(S^2 + Sigma(0)^2 - f(0)^2).

    If no weights are aligned with the target it ends at the saddle f = 0 instead, see `ends_at_saddle`.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.

    The shapes broadcast as for `scalar_network`.

    Returns:
        As `scalar_network` does.

    Raises:
        ValueError: If Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scalar_network_limit
        >>> signs = jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])
        >>> print(f"{scalar_network_limit(*signs, 10.0).growth:.6f}")
        10.099020

    References:
        Nam et al. (2025), arXiv:2502.21009, Eqs. 77 and 98.
    """
    a0, b0, target, z = scalar_arguments(a0=a0, b0=b0, target=target, z=z)
    return _scalar_network_limit(a0, b0, target, z)


def scalar_network_time(
    output: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """When the output of `scalar_network` is at a level.

        t = [Z / (2 r E)] log( (g - gamma_-) (gamma_+ - 1) / ((gamma_+ - g) (1 - gamma_-)) ),

    gamma_± = (S ± r) / A, and g the growth at which f = q; written as log(1 + 2 r y) / (2 r), which has
    no special case at r = 0 or A = 0. At width 1 this is the time of a mode of unequal layers, `layer_pair`.

    Args:
        output: The level q of f.
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        The time, shape (...); infinite for levels that f does not have at any t >= 0.

    Raises:
        ValueError: If a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scalar_network_time
        >>> time = scalar_network_time(0.401653, jnp.array([0.5, -0.2, 0.1]), jnp.array([0.3, 0.4, -0.6]), 1.5,
        ...                            z=2.0)
        >>> print(f"{time:.4f}")
        1.0000

    References:
        Nam et al. (2025), arXiv:2502.21009, Eqs. 88 and 94 to 96, solved for t.
    """
    level, a0, b0, target, e, z = scalar_arguments(output=output, a0=a0, b0=b0, target=target, variance=variance, z=z)
    return _scalar_network_time(level, a0, b0, target, e, z)


def scalar_arguments(*, z: ArrayLike, **values: ArrayLike) -> list[Array]:
    """All arguments checked and in one shape: in the order given, Z last."""
    if "variance" in values:
        values["variance"] = variances(values["variance"])
    return together(("a0", "b0"), **values, z=divisors(z))


def divisors(z: ArrayLike) -> Array:
    """Numbers Z that an output can be divided by."""
    needs = "The output is divided by Z, so argument `z` needs numbers other than 0"
    return ensure(finite(z, "z"), lambda x: x != 0, needs)


@jax.jit
def _scalar_network(
    t: Alike, a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> ScalarNetwork:
    a, b = parts(a0, b0, z)
    return _state(growth(e * t / jnp.abs(z), target, a, b), a0, b0, target, z)


@jax.jit
def _scalar_network_limit(
    a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, z: Alike
) -> ScalarNetwork:
    a, b = parts(a0, b0, z)
    return _state(final_growth(target, a, b), a0, b0, target, z)


def parts(a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], z: Alike) -> tuple[Alike, Alike]:
    """A = Sigma(0) + f(0) and B = Sigma(0) - f(0), from squares."""
    b0 = signed(b0, z)
    a, b = (jnp.sum(part**2, axis=-1) for part in (a0 + b0, a0 - b0))
    return a / (2 * jnp.abs(z)), b / (2 * jnp.abs(z))


def signed(b0: Float[Array, "*shape p"], z: Alike) -> Float[Array, "*shape p"]:
    """The weights b of the same network with |Z|."""
    return jnp.where((z < 0)[..., None], -b0, b0)


def _state(
    grown: Growth, a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, z: Alike
) -> ScalarNetwork:
    a, b = parts(a0, b0, z)
    b0 = signed(b0, z)
    up, down = (root[..., None] for root in grown.roots())
    aligned, opposed = 0.5 * (a0 + b0) * up, 0.5 * (a0 - b0) * down
    start = jnp.sum(a0 * b0, axis=-1) / jnp.abs(z)
    more, less = grown.halves(a, b)
    scale = more + less
    # A layer that is small beside the other would drown in the sums a + b and a - b.
    cosh, sinh, small = (part[..., None] for part in grown.turn(target - start))
    return ScalarNetwork(
        a=jnp.where(small, a0 * cosh + b0 * sinh, aligned + opposed),
        b=signed(jnp.where(small, b0 * cosh + a0 * sinh, aligned - opposed), z),
        output=grown.output(a, b, start, target),
        growth=grown.factor(),
        weight_scale=scale,
        ntk=2 * scale / jnp.abs(z),
    )


@jax.jit
def _scalar_network_time(
    level: Alike, a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike
) -> Alike:
    a, b = parts(a0, b0, z)
    start = jnp.sum(a0 * signed(b0, z), axis=-1) / jnp.abs(z)
    way, left = level - start, target - level
    comes = (way * left > 0) | (way == 0)
    # The mirror image, f -> -f, where the level is negative: sums of positive numbers are left only.
    sign = jnp.where(level < 0, -1.0, 1.0).astype(level.dtype)
    a, b = jnp.where(level < 0, b, a), jnp.where(level < 0, a, b)
    r, plus, minus = rates(sign * target, a, b)
    sigma, at, _ = rates(sign * level, a, b)
    y = quotient(way, left) * quotient(r + sigma, sigma + 0.5 * (a + b)) * quotient(at + a, (a + minus) * (plus + at))
    comes = comes & (((a + minus) * (plus + at) > 0) | (way == 0))
    y = jnp.where(comes, y, 0.0)
    work = jnp.abs(z) * y * log1p_over(2 * r * y)
    return jnp.where(comes & ((e > 0) | (work == 0)), quotient(work, e), jnp.inf)
