"""Scaling laws of the model of skills: its loss as a power of time, data, parameters and compute."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import below, positive, positive_count, together
from layerflow.theory._special import Alike


class ScalingLaw(eqx.Module):
    """A power law, constant * resource^exponent; call it with the resource."""

    constant: Alike
    exponent: Alike

    def __call__(self, resource: ArrayLike) -> Float[Array, "..."]:
        """The value at a resource, whose shape broadcasts with that of the law."""
        resource, constant, exponent = together(
            resource=positive_count(resource, "resource", "what is spent"),
            constant=self.constant,
            exponent=self.exponent,
        )
        return constant * resource**exponent


class ComputeLaw(eqx.Module):
    """The best use of compute C = N t, parameters times time; each field is a law in C."""

    loss: ScalingLaw
    parameters: ScalingLaw  # N*, the number of parameters with the least loss
    time: ScalingLaw  # C / N*


def time_law(alpha: ArrayLike, start: ArrayLike, target: ArrayLike) -> ScalingLaw:
    """Loss as a power of training time, with data and parameters in plenty and infinitely many skills.

        L = A_T S^2 (S t)^(-alpha / (alpha + 1)),
        A_T = I zeta(alpha + 1)^(-1 / (alpha + 1)) 2^(-alpha / (alpha + 1)) / (2 (alpha + 1)),
        I = int_0^inf u^(-1 / (alpha + 1)) (1 + e^u / c)^-2 du,    c = S / R(0) - 1.

    Args:
        alpha: Exponent of the frequencies, p_k ~ k^(-(alpha + 1)), positive.
        start: R(0), the strength of every skill at t = 0, in (0, S).
        target: S, positive.

    The shapes broadcast.

    Returns:
        The law, to be called with times (learning rate times steps); its fields have the joint shape.

    Raises:
        ValueError: If an argument is not in its range.

    Example:
        >>> from layerflow.theory import time_law
        >>> law = time_law(0.6, 0.01, 1.0)
        >>> print(f"{law.constant:.6f} t^{law.exponent:.4f}")
        0.600062 t^-0.3750

    References:
        Nam et al. (2024), arXiv:2404.17563, who give 2 A_T as 1.29, 1.20, 1.06 for alpha = 0.3, 0.6, 0.9.
    """
    return _time_law(*_checked(alpha, start, target))


def data_law(alpha: ArrayLike, target: ArrayLike) -> ScalingLaw:
    """Loss as a power of the number of samples, trained to the end, with infinitely many skills.

        L = A_D S^2 D^(-alpha / (alpha + 1)),
        A_D = Gamma(alpha / (alpha + 1)) zeta(alpha + 1)^(-1 / (alpha + 1)) / (2 (alpha + 1)).

    Args:
        alpha: Exponent of the frequencies, p_k ~ k^(-(alpha + 1)), positive.
        target: S, positive; R(0) counts as small beside it.

    The shapes broadcast.

    Returns:
        The law, to be called with numbers of samples; its fields have the joint shape.

    Raises:
        ValueError: If an argument is not in its range.

    Example:
        >>> from layerflow.theory import data_law
        >>> law = data_law(0.6, 1.0)
        >>> print(f"{law.constant:.6f} D^{law.exponent:.4f}")
        0.441859 D^-0.3750

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    return _data_law(*together(alpha=_exponent(alpha), target=positive(target, "target", "S")))


def parameter_law(alpha: ArrayLike, target: ArrayLike) -> ScalingLaw:
    """Loss as a power of the number of parameters, trained to the end, with infinitely many skills.

        L = S^2 N^(-alpha) / (2 alpha zeta(alpha + 1)).

    Args:
        alpha: Exponent of the frequencies, p_k ~ k^(-(alpha + 1)), positive.
        target: S, positive; R(0) counts as small beside it.

    The shapes broadcast.

    Returns:
        The law, to be called with numbers of parameters; its fields have the joint shape.

    Raises:
        ValueError: If an argument is not in its range.

    Example:
        >>> from layerflow.theory import parameter_law
        >>> law = parameter_law(0.6, 1.0)
        >>> print(f"{law.constant:.6f} N^{law.exponent:.4f}")
        0.364575 N^-0.6000

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    return _parameter_law(*together(alpha=_exponent(alpha), target=positive(target, "target", "S")))


def compute_law(alpha: ArrayLike, start: ArrayLike, target: ArrayLike) -> ComputeLaw:
    """Least loss as a power of compute C = N t, and the number of parameters that has it.

    With x = t / N^(alpha + 1) the N first skills are learned for the time t with the loss

        2 L / S^2 = N^(-alpha) G(x) = C^(-alpha / (alpha + 2)) x^(alpha / (alpha + 2)) G(x),
        G(x) = (1 / zeta) [int_0^1 q^(-alpha - 1) (1 + e^(2 S x q^(-alpha - 1) / zeta) / c)^-2 dq + 1 / alpha],

    zeta = zeta(alpha + 1), c = S / R(0) - 1, and the least over x gives N* = (C / x)^(1 / (alpha + 2)).

    Args:
        alpha: Exponent of the frequencies, p_k ~ k^(-(alpha + 1)), positive.
        start: R(0), the strength of every skill at t = 0, in (0, S).
        target: S, positive.

    The shapes broadcast.

    Returns:
        The laws of `loss`, `parameters` N* and `time` C / N*, to be called with C.

    Raises:
        ValueError: If an argument is not in its range.

    Example:
        >>> from layerflow.theory import compute_law
        >>> law = compute_law(0.6, 0.01, 5.0)
        >>> print(f"{law.loss.exponent:.4f} {law.parameters.exponent:.4f} {law.time.exponent:.4f}")
        -0.2308 0.3846 0.6154

    References:
        Nam et al. (2024), arXiv:2404.17563, whose constants 0.68 and 0.70 of 2 L / S^2 (for alpha = 0.3
        and 0.6, S = 5, R(0) = 0.01) we cannot confirm: the minimum is 0.95 and 0.79, for alpha = 0.9
        theirs and ours are 0.64 and 0.65.
    """
    return _compute_law(*_checked(alpha, start, target))


def _exponent(alpha: ArrayLike) -> Array:
    return positive(alpha, "alpha", "the exponent of the law of frequencies")


def _checked(alpha: ArrayLike, start: ArrayLike, target: ArrayLike) -> tuple[Array, Array, Array]:
    alpha, start, target = together(
        alpha=_exponent(alpha),
        start=positive(start, "start", "the strength R(0) of a skill that will be learned"),
        target=positive(target, "target", "S"),
    )
    return alpha, below(start, target, "start"), target


@jax.jit
def _time_law(alpha: Alike, start: Alike, target: Alike) -> ScalingLaw:
    share = alpha / (alpha + 1)
    tail = _unlearned(jnp.zeros_like(alpha), alpha, _log_odds(start, target))
    scale = 0.5 / (alpha + 1) * _zeta(alpha + 1) ** (share - 1) * 2**-share
    return ScalingLaw(scale * tail * target ** (2 - share), -share)


@jax.jit
def _data_law(alpha: Alike, target: Alike) -> ScalingLaw:
    share = alpha / (alpha + 1)
    scale = 0.5 / (alpha + 1) * _zeta(alpha + 1) ** (share - 1) * jnp.exp(jax.scipy.special.gammaln(share))
    return ScalingLaw(scale * target**2, -share)


@jax.jit
def _parameter_law(alpha: Alike, target: Alike) -> ScalingLaw:
    return ScalingLaw(target**2 / (2 * alpha * _zeta(alpha + 1)), -alpha)


@jax.jit
def _compute_law(alpha: Alike, start: Alike, target: Alike) -> ComputeLaw:
    odds, zeta, root = _log_odds(start, target), _zeta(alpha + 1), 1 / (alpha + 2)
    # How far the last skill has come: y = 2 S x / zeta, the exponent of its sigmoid.
    y = jnp.exp(_best_progress(alpha, odds))
    x = y * zeta / (2 * target)
    g = (y ** (-alpha / (alpha + 1)) * _unlearned(y, alpha, odds) / (alpha + 1) + 1 / alpha) / zeta
    return ComputeLaw(
        loss=ScalingLaw(0.5 * target**2 * x ** (alpha * root) * g, -alpha * root),
        parameters=ScalingLaw(x**-root, root),
        time=ScalingLaw(x**root, 1 - root),
    )


def _best_progress(alpha: Alike, odds: Alike) -> Alike:
    """log y at the minimum of y^(alpha / (alpha + 2)) G."""

    def slope(log_y: Array) -> Array:
        """Rises with y from -inf to 1 / (alpha + 2)."""
        y, last = jnp.exp(log_y), alpha + 1
        past = alpha * y ** (-alpha / last) * _unlearned(y, alpha, odds) / (last**2 * (alpha + 2))
        return 1 / (alpha + 2) - jax.nn.sigmoid(odds - y) ** 2 / last - past

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        up = slope(middle) < 0
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jnp.full_like(alpha, -30.0), jnp.log(jnp.maximum(odds, 0.0) + 30)
    low, high = jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, halve, jax.lax.stop_gradient((low, high))))
    found = 0.5 * (low + high)
    value, steepness = jax.jvp(slope, (found,), (jnp.ones_like(found),))
    # One step of Newton's method, which has the derivative of the root by alpha and the odds.
    return found - value / jax.lax.stop_gradient(steepness)


def _log_odds(start: Alike, target: Alike) -> Alike:
    """log(S / R(0) - 1)."""
    return jnp.log((target - start) / start)


def _unlearned(y: Alike, alpha: Alike, odds: Alike) -> Alike:
    """int_y^inf u^(-1 / (alpha + 1)) (1 + e^(u - odds))^-2 du.

    Double exponential quadrature copes with the singularity at 0, wherever y is, and is fine enough
    to see the step at u = odds.
    """
    nodes, weights = (jnp.asarray(row, alpha.dtype) for row in _quadrature(float(jnp.finfo(alpha.dtype).tiny)))
    length = (jnp.maximum(jnp.maximum(odds, y), 0.0) + 30 - y)[..., None]
    u = y[..., None] + length * _rows(nodes, alpha)
    unlearned = jax.nn.sigmoid(odds[..., None] - u) ** 2
    # Not u ** p, whose derivative holds u ** (p - 1) and overflows at the first nodes.
    power = jnp.exp(-jnp.log(u) / (alpha[..., None] + 1))
    return jnp.sum(length * _rows(weights, alpha) * power * unlearned, axis=-1)


def _rows(row: Float[Array, " node"], like: Alike) -> Float[Array, "*shape node"]:
    return jnp.broadcast_to(row, (*like.shape, row.size))


@functools.cache
def _quadrature(tiny: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], the nodes no smaller than a float can be."""
    s, step = np.linspace(-np.arcsinh(-np.log(tiny) / np.pi), 3.2, 800, retstep=True)
    nodes = 1 / (1 + np.exp(-np.pi * np.sinh(s)))
    return nodes, step * np.pi * np.cosh(s) * nodes / (1 + np.exp(np.pi * np.sinh(s)))


def _zeta(s: Alike) -> Alike:
    """Riemann's zeta function for s > 1 by Euler's summation; JAX's own has no derivative by s."""
    terms = 12
    total = sum(k**-s for k in range(1, terms)) + terms ** (1 - s) / (s - 1) + 0.5 * terms**-s
    rising = s
    from scipy.special import bernoulli, factorial  # late: scipy takes its time, and sets a warnings filter

    for j, number in enumerate(bernoulli(16)[2::2], start=1):
        total = total + float(number / factorial(2 * j)) * rising * terms ** (1 - s - 2 * j)
        rising = rising * (s + 2 * j - 1) * (s + 2 * j)
    return total
