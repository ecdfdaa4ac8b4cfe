"""The scalar network whose layers learn at rates of their own, and its phases as the width grows."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from layerflow.base._checks import require
from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import positive, together
from layerflow.theory._scalar import ScalarNetwork, scalar_network, scalar_network_limit
from layerflow.theory._special import quotient

_RATE = "the learning rate of a layer"


class TwoRateNetwork(eqx.Module):
    """State of the network f(x) = x gain sum_i a_i b_i; `...` is the joint shape of times and parameters."""

    a: Float[Array, "... p"]
    b: Float[Array, "... p"]
    output: Float[Array, "..."]  # f, the coefficient of x
    alignment: Float[Array, "..."]  # the cosine of the angle between a and b; 0 if one of them is all zero
    weight_scale: Float[Array, "..."]  # Sigma, half the sum of both squared lengths, each in its rate's units
    imbalance: Float[Array, "..."]  # Delta, half their difference: conserved
    ntk: Float[Array, "..."]  # f' = ntk E (S - f)


def two_rate_network(
    t: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    gain: ArrayLike = 1.0,
    rate_a: ArrayLike = 1.0,
    rate_b: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> TwoRateNetwork:
    """Gradient flow of a scalar network of any width whose two layers learn at rates of their own.

        f = gain sum_i a_i b_i,    a_i' = rate_a gain E b_i (S - f),    b_i' = rate_b gain E a_i (S - f).

    It is `scalar_network` of a / sqrt(rate_a) and b / sqrt(rate_b) with Z = 1 / (gain sqrt(rate_a rate_b)). With

        Sigma, Delta = (|gain| / 2) sum_i [ sqrt(rate_b / rate_a) a_i^2 +- sqrt(rate_a / rate_b) b_i^2 ],

    both Delta and Sigma^2 - f^2 are conserved, and for gain > 0

        cos angle(a, b) = f / sqrt(Sigma^2 - Delta^2),

    so layers align if |f| grows, and lose their alignment if it falls.

    Args:
        t: Times t >= 0.
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, the slope of the target function, of any sign.
        gain: What multiplies the output, not zero; its dependence on the width p included.
        rate_a, rate_b: Learning rates of the layers, positive, in units of 1 / t.
        variance: E = E[x^2].

    The shapes of `t`, `target`, `gain`, the rates, `variance` and of the weights without their last axis
    broadcast to one shape (...).

    Returns:
        Weights of shape (..., p) and, of shape (...), `output`, `alignment`, `weight_scale`, `imbalance` and `ntk`.

    Raises:
        ValueError: If a time or a variance is negative, a rate is not positive, the gain is 0, or a number is not
            real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import two_rate_network
        >>> a0, b0 = jnp.array([0.5, -0.2, 0.1]), jnp.array([0.3, 0.4, -0.6])
        >>> now = two_rate_network(1.0, a0, b0, 1.5, gain=0.5, rate_b=4.0)
        >>> print(f"{now.output:.4f} {now.alignment:.4f}")
        0.9634 0.9762

    References:
        Xu and Ziyin (2024), arXiv:2401.07085; Nam et al. (2025), arXiv:2502.21009, Theorem I.1.
    """
    a0, b0, z, roots = _in_units(a0, b0, gain, rate_a, rate_b)
    return _state(scalar_network(t, a0, b0, target, z=z, variance=variance), a0, b0, z, *roots)


def two_rate_network_limit(
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    gain: ArrayLike = 1.0,
    rate_a: ArrayLike = 1.0,
    rate_b: ArrayLike = 1.0,
) -> TwoRateNetwork:
    """Where the flow of `two_rate_network` ends, t -> inf.

        f = S,    Sigma = sqrt(S^2 + Sigma(0)^2 - f(0)^2),    cos angle(a, b) = S / sqrt(Sigma^2 - Delta^2)

    for gain > 0. The kernel has grown by Sigma / Sigma(0), and layers end more aligned than they began if |S| > |f(0)|.
    If no weights are aligned with the target the flow ends at f = 0 instead, see `scalar_network_limit`.

    Args:
        a0, b0: Weights at t = 0, shape (..., p).
        target: S, of any sign.
        gain: What multiplies the output, not zero.
        rate_a, rate_b: Learning rates of the layers, positive.

    The shapes broadcast as for `two_rate_network`.

    Returns:
        As `two_rate_network` does.

    Raises:
        ValueError: If a rate is not positive, the gain is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import two_rate_network_limit
        >>> weights = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])
        >>> print(*(f"{two_rate_network_limit(*weights, target).alignment:.4f}" for target in (0.1, 1.0, 10.0)))
        0.0995 0.7071 0.9950

    References:
        Xu and Ziyin (2024), arXiv:2401.07085; Nam et al. (2025), arXiv:2502.21009, Eqs. 77 and 98.
    """
    a0, b0, z, roots = _in_units(a0, b0, gain, rate_a, rate_b)
    return _state(scalar_network_limit(a0, b0, target, z=z), a0, b0, z, *roots)


class WidthPhase(eqx.Module):
    """Powers of the width p in a family of scalar networks, and the phase that they put it in."""

    weight_scale: Float[Array, "..."]  # x of Sigma(0) ~ p^x
    speed: Float[Array, "..."]  # of 1 / (time of learning); 0 for a time that the width does not change
    kernel: Bool[Array, "..."]  # whether x > 0, the kernel phase, where the kernel stays; else features are learned


def width_phase(
    gain: ArrayLike, variance_a: ArrayLike, variance_b: ArrayLike, rate_a: ArrayLike, rate_b: ArrayLike
) -> WidthPhase:
    """Kernel phase or feature learning of `two_rate_network` as its width p grows, by the exponents of its recipe.

    For gain = p^(-g), weights of variances p^(-v_a) and p^(-v_b), rates p^(-r_a) and p^(-r_b), and a target of
    order 1,

        Sigma(0) ~ p^x,    x = 1 - g + max(-v_a + (r_a - r_b) / 2, -v_b + (r_b - r_a) / 2),
        NTK(inf) / NTK(0) - 1 ~ p^(-2x) for x > 0,    speed ~ p^(max(x, 0) - g - (r_a + r_b) / 2).

    For x > 0 this is the kernel phase, for x <= 0 features are learned. Training takes a finite time, not 0, as
    p -> inf if the exponent of the speed is 0.

    Args:
        gain: g.
        variance_a, variance_b: v_a and v_b; 0 for weights of order 1.
        rate_a, rate_b: r_a and r_b; below 0 for rates that grow with the width.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The exponents `weight_scale`, which is x, and `speed`, and whether it is the `kernel` phase.

    Raises:
        ValueError: If a number is not real or not finite.

    Example:
        >>> from layerflow.theory import width_phase
        >>> ntk, mean_field = width_phase(0.5, 0, 0, 0, 0), width_phase(1, 0, 0, -1, -1)
        >>> print(*(f"{float(phase.weight_scale)} {bool(phase.kernel)}" for phase in (ntk, mean_field)))
        0.5 True 0.0 False

    References:
        Xu and Ziyin (2024), arXiv:2401.07085.
    """
    gain, variance_a, variance_b, rate_a, rate_b = together(
        gain=gain, variance_a=variance_a, variance_b=variance_b, rate_a=rate_a, rate_b=rate_b
    )
    lead = 0.5 * (rate_a - rate_b)
    exponent = 1 - gain + jnp.maximum(lead - variance_a, -lead - variance_b)
    return WidthPhase(exponent, jnp.maximum(exponent, 0.0) - gain - 0.5 * (rate_a + rate_b), exponent > 0)


def _in_units(
    a0: ArrayLike, b0: ArrayLike, gain: ArrayLike, rate_a: ArrayLike, rate_b: ArrayLike
) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """Both layers in units of the roots of their rates, Z, and the roots."""
    a0, b0, gain, rate_a, rate_b = together(
        ("a0", "b0"),
        a0=a0,
        b0=b0,
        gain=gain,
        rate_a=positive(rate_a, "rate_a", _RATE),
        rate_b=positive(rate_b, "rate_b", _RATE),
    )
    gain = require(gain, gain != 0, "The output is multiplied by `gain`, which needs to be other than 0, but it is 0.")
    root_a, root_b = jnp.sqrt(rate_a), jnp.sqrt(rate_b)
    return a0 / root_a[..., None], b0 / root_b[..., None], 1 / (gain * root_a * root_b), (root_a, root_b)


def _state(network: ScalarNetwork, a0: Array, b0: Array, z: Array, root_a: Array, root_b: Array) -> TwoRateNetwork:
    """What `network` is in the units of the weights themselves."""
    imbalance = jnp.sum((a0 - b0) * (a0 + b0), axis=-1) / (2 * jnp.abs(z))
    z, root_a, root_b, imbalance = (jnp.broadcast_to(x, network.output.shape) for x in (z, root_a, root_b, imbalance))
    size_a, size_b = (safe_root(jnp.sum(part**2, axis=-1)) for part in (network.a, network.b))
    return TwoRateNetwork(
        a=network.a * root_a[..., None],
        b=network.b * root_b[..., None],
        output=network.output,
        alignment=jnp.clip(quotient(network.output * z, size_a * size_b), -1.0, 1.0),
        weight_scale=network.weight_scale,
        imbalance=imbalance,
        ntk=network.ntk,
    )
