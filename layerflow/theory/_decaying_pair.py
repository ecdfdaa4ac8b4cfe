"""Two layers under weight decay: one mode of any layers, and zero-balanced networks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import finite, not_negative, times, together, variances
from layerflow.theory._balanced import Balanced, balanced_arguments, record, time_or_times
from layerflow.theory._eigen import flow_axes, flow_matrix
from layerflow.theory._mode import LayerPair
from layerflow.theory._riccati import riccati_factor
from layerflow.theory._special import Alike, phi1, quotient

_STEPS, _REACH, _ORDER = 512, 0.25, 14


def decaying_pair(
    t: ArrayLike, a0: ArrayLike, b0: ArrayLike, target: ArrayLike, decay: ArrayLike, variance: ArrayLike = 1.0
) -> LayerPair:
    """One mode of two layers under weight decay.

        a' = E b (S - a b) - nu a,    b' = E a (S - a b) - nu b.

    Equal layers are those of `sigmoidal` with the target S - nu / E. For others let

        a + b = (a0 + b0) sqrt(g),    a - b = (a0 - b0) x / sqrt(g),    x = e^(-2 nu t),
        g' = 2 (E S - nu) g - A g^2 + x^2 B,    A = E (a0 + b0)^2 / 2,    B = E (a0 - b0)^2 / 2,

    a Riccati equation that Bessel functions of order (1 -+ E S / nu) / 2 solve. It is integrated here, in 512 steps
    that each take the linear equation behind it as a Taylor series, with errors of rounding for any E S / nu. The
    imbalance a^2 - b^2 decays as x, see `decayed`, and u = a b ends at S - nu / E, or at 0 where that is not positive.

    Args:
        t: Times t >= 0.
        a0, b0: The two layers at t = 0, of any sign and size.
        target: S, the strength that the task asks for, of any sign.
        decay: nu, the decay adds (nu / 2) |weights|^2 to the loss.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The layers `a` and `b` and their product `strength`.

    Raises:
        ValueError: If a time, a decay or a variance is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import decaying_pair
        >>> mode = decaying_pair(2.0, 1.5, 0.1, 1.0, 0.2)
        >>> print(f"{mode.a:.4f} {mode.b:.4f} {mode.strength:.4f}")
        1.2146 0.6847 0.8316

    References:
        Derived here; Kunin et al. (2024), arXiv:2406.06158, for the flow without decay.
    """
    decay = not_negative(decay, "decay", "a weight decay")
    return _decaying_pair(*together(t=times(t), a0=a0, b0=b0, target=target, decay=decay, variance=variances(variance)))


def decaying_network(w1: ArrayLike, w2: ArrayLike, sigma_yx: ArrayLike, t: ArrayLike, decay: ArrayLike) -> Balanced:
    """A zero-balanced two-layer network on whitened inputs under weight decay, after gradient flow for a time t.

    For E[x x^T] = I and w2^T w2 = w1 w1^T at t = 0 the flow is that of `balanced_network` with

        F = [[-nu I, sigma_yx^T], [sigma_yx, -nu I]],

    so that it forgets modes with s <= nu and learns the others up to s - nu. Other imbalances decay themselves, and
    the flow then has no such form; for one mode see `decaying_pair`.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid).
        sigma_yx: Input-output correlation E[y x^T], shape (out, inp).
        t: Gradient-flow time, shape ().
        decay: nu, the decay adds (nu / 2) |weights|^2 to the loss; shape ().

    Returns:
        The network at that time, up to a rotation of its hidden units.

    Raises:
        ValueError: If the shapes do not fit, the time or the decay is negative, or the start is not zero-balanced.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import decaying_network
        >>> sigma_yx = jnp.diag(jnp.array([2.0, 0.3]))
        >>> network = decaying_network(jnp.eye(2), jnp.eye(2), sigma_yx, 20.0, 0.5)
        >>> network.matrix.round(3).diagonal().tolist()
        [1.5, 0.0]

    References:
        Braun et al. (2022), NeurIPS, for the flow without decay.
    """
    (t,) = time_or_times(t, "t", ())
    w1, w2, _, sigma_yx, t = balanced_arguments(w1, w2, 0.0, sigma_yx, t, "t")
    decay = not_negative(finite(decay, "decay"), "decay", "a weight decay").astype(w1.dtype)
    if decay.shape != ():
        raise ValueError(
            f"Argument `decay` is one number, but it has shape {decay.shape}. Map over many with jax.vmap."
        )
    return record(_decaying_factor(w1, w2, sigma_yx, t, decay), w1.shape[1])


@jax.jit
def _decaying_factor(w1: Array, w2: Array, sigma_yx: Array, t: Array, decay: Array) -> Float[Array, "inp_out hid"]:
    """Q = [w1^T; w2] at time t."""
    balanced = jnp.zeros((), w1.dtype)
    f, (rates, v) = flow_matrix(balanced, sigma_yx), flow_axes(balanced, sigma_yx)
    shifted = f - decay * jnp.eye(f.shape[0], dtype=f.dtype)
    return riccati_factor(shifted, jnp.concatenate([w1.T, w2]), t, (rates - decay, v))


@jax.jit
def _decaying_pair(t: Alike, a0: Alike, b0: Alike, target: Alike, decay: Alike, e: Alike) -> LayerPair:
    # b -> -b, S -> -S leaves the flow as it is: only S >= 0 is left to do.
    sign = jnp.where(target < 0, -1.0, 1.0).astype(t.dtype)
    more, less = a0 + sign * b0, a0 - sign * b0
    root = safe_root(_growth(t, e * sign * target - decay, 0.5 * e * more**2, 0.5 * e * less**2, decay))
    more, less = more * root, quotient(less * jnp.exp(-2 * decay * t), root)
    a, b = 0.5 * (more + less), 0.5 * sign * (more - less)
    return LayerPair(a, b, a * b)


def _growth(t: Alike, rate: Alike, a: Alike, b: Alike, decay: Alike) -> Alike:
    """g at time t, with `rate` = S - nu for S >= 0: integrated while x^2 B counts, and then in closed form."""
    end = jnp.minimum(t, jax.lax.stop_gradient(_counts(a, b, decay)))
    lows, begin = jax.lax.stop_gradient(_mesh(end, rate, a, b, decay))
    # Only the last step has a derivative by its end.
    widths = jnp.concatenate([(end - lows[0])[None], lows[:-1] - lows[1:]])
    limit = jnp.finfo(t.dtype).max ** 0.75  # of the growth of what is not there, a0 + b0 = 0

    def step(g: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        low, width = at
        return jnp.minimum(_step(g, width, rate, a, b * jnp.exp(-4 * decay * low), decay), limit), None

    g, _ = jax.lax.scan(step, begin, (lows, widths), reverse=True)
    left, rising = t - end, rate >= 0
    fading = jnp.where(rising, rate, -rate) * left * 2
    decayed = jnp.exp(-fading)
    full = jnp.where(rising, decayed, 1.0) + a * g * left * phi1(fading)
    return jnp.minimum(quotient(g * jnp.where(rising, 1.0, decayed), full), limit)


def _counts(a: Alike, b: Alike, decay: Alike) -> Alike:
    """Until when x^2 B is more than rounding beside what g is."""
    most = quotient(jnp.maximum(b, safe_root(a) * safe_root(b)), 2 * decay) / (0.05 * jnp.finfo(a.dtype).eps)
    return jnp.where(decay > 0, quotient(jnp.log1p(most), 2 * decay), jnp.inf)


def _mesh(end: Alike, rate: Alike, a: Alike, b: Alike, decay: Alike) -> tuple[Float[Array, "step *shape"], Alike]:
    """Where steps begin, the last first, and g where the first does: at t = 0, or where the start is forgotten.

    A step is as long as r = sqrt(F^2 + x^2 A B), by which g nears the stable g of its time, and x allow. All steps
    are 128 such lengths, so that a start before them is left with e^(-100) of what it was.
    """
    nearing = lambda t: safe_root(rate**2 + a * b * jnp.exp(-4 * decay * t))

    def back(high: Array, _: None) -> tuple[Array, Array]:
        pace = nearing(high) + 2 * decay
        low = jnp.where(pace > 0, jnp.maximum(high - quotient(_REACH * jnp.ones_like(pace), pace), 0.0), 0.0)
        return low, low

    first, lows = jax.lax.scan(back, end, None, length=_STEPS)
    r, tiny = nearing(first), jnp.finfo(end.dtype).tiny ** 0.5
    rising = (rate + r) / jnp.maximum(a, tiny)
    stable = jnp.where(rate >= 0, rising, quotient(b * jnp.exp(-4 * decay * first), r - rate))
    return lows, jnp.where(first > 0, stable, 1.0)


def _step(g: Alike, width: Alike, rate: Alike, a: Alike, b: Alike, decay: Alike) -> Alike:
    """g = y / z after a step of y' = 2 F y + x^2 B z, z' = A y, by their series from y = g, z = 1."""
    sources = [width * b]
    for j in range(1, _ORDER):
        sources.append(sources[-1] * (-4 / j) * decay * width)
    y, z = [g], [jnp.ones_like(g)]
    for j in range(_ORDER):
        fed = sum((sources[i] * z[j - i] for i in range(j + 1)), 2 * rate * width * y[j])
        y.append(fed / (j + 1))
        z.append(a * width * y[j] / (j + 1))
    return sum(reversed(y[:-1]), y[-1]) / sum(reversed(z[:-1]), z[-1])
