"""Leaky ReLU networks with one input: of units of one sign exactly, of both to first order in 1 - slope."""

import math
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import ensure, not_negative, times, together
from layerflow.theory._roots import root
from layerflow.theory._scalar import scalar_network
from layerflow.theory._special import Alike, phi1, quotient

_TRIED = 4097  # of l on its way, a sixth apart
_STEPS = 4096  # of an integration at most, far beyond what was met


class LeakyScalar(eqx.Module):
    """State of a leaky ReLU network with one input; `...` is the joint shape of times and parameters."""

    a: Float[Array, "... p"]  # input weights
    b: Float[Array, "... p"]  # output weights
    positive_units: Float[Array, "..."]  # sum of a_i b_i where a_i > 0
    negative_units: Float[Array, "..."]  # sum of a_i b_i where a_i < 0
    above: Float[Array, "..."]  # f(x) / x for x > 0
    below: Float[Array, "..."]  # f(x) / x for x < 0
    loss: Float[Array, "..."]  # E|f(x) - S x|^2 / 2


def leaky_scalar_network(
    t: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    slope: ArrayLike,
    variance_above: ArrayLike,
    variance_below: ArrayLike,
) -> LeakyScalar:
    """Gradient flow of a leaky ReLU network with one input, for input weights of one sign: exact at every slope.

        f(x) = sum_i b_i phi(a_i x),    phi(z) = slope z + (1 - slope) max(z, 0),    L = E|f(x) - S x|^2 / 2.

    Where all a_i > 0, f(x) = u x for x > 0 and slope u x for x < 0, with u = sum_i a_i b_i, and the weights are those
    of `scalar_network` with

        E = E_+ + slope^2 E_-,    S_eff = S (E_+ + slope E_-) / E,    L >= (S^2 / 2) (1 - slope)^2 E_+ E_- / E,

    E_+ = E[x^2; x > 0] and E_- = E[x^2; x < 0], exchanged where all a_i < 0. It holds until an a_i changes its sign,
    which none does if |a_i| >= |b_i| at t = 0.

    Args:
        t: Times t >= 0.
        a0: Input weights at t = 0, shape (..., p), all above 0 or all below 0.
        b0: Output weights at t = 0, shape (..., p).
        target: S, the slope of the target function, of any sign.
        slope: The slope of the units at negative arguments; 1 is linear, 0 is ReLU.
        variance_above: E_+, half of E[x^2] if x and -x are as likely.
        variance_below: E_-.

    The shapes of all but `a0` and `b0`, and of these without their last axis, broadcast to one shape (...).

    Returns:
        Weights of shape (..., p) and, of shape (...), what they do and the loss; NaN from where an a_i has changed
        its sign.

    Raises:
        ValueError: If input weights differ in sign or are 0, a time, E_+ or E_- is negative, or a number is not real
            or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import leaky_scalar_network
        >>> a0, b0 = jnp.array([0.4, 0.2, 0.9]), jnp.array([0.3, -0.1, 0.2])
        >>> relu = leaky_scalar_network(1.0, a0, b0, 1.4, slope=0.0, variance_above=0.8, variance_below=0.3)
        >>> print(f"{relu.above:.4f} {relu.below:.4f} {relu.loss:.4f}")
        1.1434 0.0000 0.3203

    References:
        Zhang, Saxe & Latham (2024), arXiv:2406.12615, for symmetric inputs; this reduction is our own.
    """
    t, a0, b0, target, slope, above, below = _arguments(t, a0, b0, target, slope, variance_above, variance_below)
    needs = "The solution is exact for input weights of one sign, so `a0` needs numbers all above 0 or all below 0"
    mend = "; leaky_scalar_first_order takes both"
    a0 = ensure(a0, lambda x: (x != 0) & ((x > 0) == (x[..., :1] > 0)), needs + mend)
    up, down = _gains(a0[..., 0] > 0, slope)
    e = up**2 * above + down**2 * below
    linear = scalar_network(t, a0, b0, quotient(target * (up * above + down * below), e), variance=e)
    return _state(linear.a, linear.b, a0, target, slope, above, below)


def leaky_scalar_first_order(
    t: ArrayLike,
    a0: ArrayLike,
    b0: ArrayLike,
    target: ArrayLike,
    *,
    slope: ArrayLike,
    variance_above: ArrayLike,
    variance_below: ArrayLike,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> LeakyScalar:
    """The network of `leaky_scalar_network` with input weights of both signs, to first order in 1 - slope.

    With eps = 1 - slope, E = E_+ + E_-, chi = (E_+ - E_-) / E and kappa = (1 + slope) / 2 all weights follow one
    number, l, from 0:

        l' = 2 kappa E (S - kappa f - (eps / 2) chi g),    f = u_P(l_P) + u_N(l_N),    g = u_P(l) - u_N(l),
        a_i +- b_i = e^{+-l_i / 2} (a_i +- b_i)(0),    l_i = l (1 +- eps chi / 2) = l_P if a_i > 0, l_N if a_i < 0,

    where u_P and u_N are the sums of a_i b_i over units of positive and of negative a_i. The one equation is integrated
    to 1e-11, in float32 to 1e-5. What is left out is of order eps^2; far from the linear network, with units on the
    side of the smaller variance above all, the equation may have no rest, and l grows without bound in a finite time.
    At chi = 0 it is the linear network of gain kappa, and where units of both signs are alike at t = 0 the correction
    by chi cancels in f: asymmetry is of first order only if both the inputs and the start have it.

    Args:
        t: Times t >= 0.
        a0: Input weights at t = 0, shape (..., p), none 0.
        b0: Output weights at t = 0, shape (..., p).
        target: S, of any sign.
        slope: The slope of the units at negative arguments, at least 0.
        variance_above: E_+ = E[x^2; x > 0].
        variance_below: E_- = E[x^2; x < 0].
        adjoint: As for Flow: `diffrax.ForwardMode()` (the default), `RecursiveCheckpointAdjoint()` for `jax.grad`.

    The shapes broadcast as for `leaky_scalar_network`.

    Returns:
        As `leaky_scalar_network` does; NaN also from where l has grown without bound.

    Raises:
        ValueError: If an input weight is 0, a time, the slope, E_+ or E_- is negative, or a number is not real or not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import leaky_scalar_first_order
        >>> a0, b0 = jnp.array([0.5, 0.3, -0.2, -0.6]), jnp.array([0.4, -0.1, -0.3, 0.1])
        >>> now = leaky_scalar_first_order(1.0, a0, b0, 1.4, slope=0.9, variance_above=0.8, variance_below=0.2)
        >>> print(f"{now.loss:.6f}")
        0.027777

    References:
        Our own; Zhang, Saxe & Latham (2024), arXiv:2406.12615, for symmetric inputs.
    """
    slope = not_negative(slope, "slope", "that of a perturbed linear unit")
    t, a0, b0, target, slope, above, below = _arguments(t, a0, b0, target, slope, variance_above, variance_below)
    a0 = ensure(a0, lambda x: x != 0, "Units are told apart by the sign of `a0`, so it needs numbers other than 0")
    tolerance = 1e-11 if t.dtype == jnp.float64 else 1e-5
    by = dfx.ForwardMode() if adjoint is None else adjoint
    return _first_order(t, a0, b0, target, slope, above, below, tolerance, by)


def _arguments(
    t: ArrayLike, a0: ArrayLike, b0: ArrayLike, target: ArrayLike, slope: ArrayLike, above: ArrayLike, below: ArrayLike
) -> list[Array]:
    """All in one shape and in the order given."""
    above = not_negative(above, "variance_above", "E[x^2; x > 0]")
    below = not_negative(below, "variance_below", "E[x^2; x < 0]")
    values = {"target": target, "slope": slope, "variance_above": above, "variance_below": below}
    return together(("a0", "b0"), t=times(t), a0=a0, b0=b0, **values)


def _gains(positive: Array, slope: Array) -> tuple[Array, Array]:
    """What units do to inputs above and below 0, by the sign of their input weights."""
    return jnp.where(positive, 1.0, slope), jnp.where(positive, slope, 1.0)


@eqx.filter_jit
def _first_order(
    t: Alike,
    a0: Float[Array, "*shape p"],
    b0: Float[Array, "*shape p"],
    target: Alike,
    slope: Alike,
    above: Alike,
    below: Alike,
    rtol: float,
    adjoint: dfx.AbstractAdjoint,
) -> LeakyScalar:
    e, gain, positive = above + below, 0.5 * (1 + slope), a0 > 0
    tilt = 0.5 * (1 - slope) * quotient(above - below, e)
    aligned, opposed = a0 + b0, a0 - b0
    sums = [
        0.5 * jnp.sum(jnp.where(of, part**2, 0.0), axis=-1)
        for of in (positive, ~positive)
        for part in (aligned, opposed)
    ]
    flat = [jnp.ravel(x) for x in (t, target, 2 * gain * e, gain, tilt, *sums)]
    growth = jax.vmap(lambda *of: _log_growth(tuple(of), rtol, adjoint))(*flat).reshape(t.shape)
    own = 0.5 * growth[..., None] * jnp.where(positive, 1 + tilt[..., None], 1 - tilt[..., None])
    more, less = 0.5 * _times_exponential(aligned, own), 0.5 * _times_exponential(opposed, -own)
    return _state(more + less, more - less, a0, target, slope, above, below)


def _log_growth(of: tuple[Array, ...], rtol: float, adjoint: dfx.AbstractAdjoint) -> Float[Array, ""]:
    """The number l of one network at its time, NaN where the integration failed.

    With l = l_end (1 - e^{-y}) and d = l_end - l, y' = l' / d is smooth and goes to a constant: no step is short by
    stability, and l' is not the difference of numbers that are nearly equal.
    """
    t, target, speed, gain, tilt, *sums = of
    # Weight and rate of each sum of a_i b_i in kappa f + (eps / 2) chi g.
    terms = [(gain, 1 + tilt, sums[:2]), (gain, 1 - tilt, sums[2:]), (tilt, 1.0, sums[:2]), (-tilt, 1.0, sums[2:])]
    most = 0.95 * math.log(float(jnp.finfo(t.dtype).max))

    def above(growth: Array) -> Array:
        ups = [jnp.exp(jnp.clip(rate * growth, -most, most)) for _, rate, _ in terms]
        return -target + sum(0.5 * w * (a * up - b / up) for up, (w, _, (a, b)) in zip(ups, terms, strict=True))

    end, ends = _first_zero(above, t, most)

    def velocity(_: Any, y: Array, of: Any) -> Array:
        end, whole, terms = of
        d = end * jnp.exp(-y)
        near = jnp.where(ends, end, 0.0)
        parts = [
            0.5 * w * rate * phi1(rate * d) * (a * jnp.exp(rate * near) + b * jnp.exp(rate * (d - near)))
            for w, rate, (a, b) in terms
        ]
        away = ~ends & (jnp.abs(d) > 1)
        straight = -above(-end * jnp.expm1(-y)) / jnp.where(away, d, 1.0)
        return whole * jnp.where(ends, sum(parts), jnp.where(away, straight, 0.0))

    run = dfx.diffeqsolve(
        dfx.ODETerm(velocity),
        dfx.Tsit5(),
        t0=jnp.zeros_like(t),
        t1=jnp.ones_like(t),
        dt0=None,
        y0=jnp.zeros_like(t),
        args=(end, t * speed, terms),
        stepsize_controller=dfx.PIDController(rtol=rtol, atol=rtol),
        adjoint=adjoint,
        max_steps=_STEPS,
        throw=False,
    )
    found: Any = run.ys
    return jnp.where(run.result == dfx.RESULTS.successful, -end * jnp.expm1(-found[0]), jnp.nan)


def _first_zero(above: Callable[[Array], Array], like: Array, most: float) -> tuple[Array, Array]:
    """Where l' = -above(l) comes to rest from l = 0, and whether it does; else as far as numbers reach that way.

    Beyond first order in 1 - slope there may be other zeros, and none on the way: l then grows without end.
    """
    first = above(jnp.zeros_like(like))
    way = -jnp.sign(first)
    tried = jnp.linspace(0.0, most, _TRIED, dtype=like.dtype)
    passed = (jax.vmap(lambda size: above(way * size))(tried) * first <= 0)[1:]
    ends, number = jnp.any(passed) | (first == 0), jnp.argmax(passed)
    one, other = way * tried[number], way * tried[number + 1]
    found = root(above, jnp.minimum(one, other), jnp.maximum(one, other))
    return jnp.where(first == 0, 0.0, jnp.where(ends, found, way * most)), ends


def _times_exponential(part: Alike, exponent: Alike) -> Alike:
    """part e^exponent, and 0 where `part` is, however large the exponent."""
    return jnp.where(part == 0, 0.0, part * jnp.exp(jnp.where(part == 0, 0.0, exponent)))


@jax.jit
def _state(
    a: Float[Array, "*shape p"],
    b: Float[Array, "*shape p"],
    a0: Float[Array, "*shape p"],
    target: Alike,
    slope: Alike,
    above: Alike,
    below: Alike,
) -> LeakyScalar:
    positive = a0 > 0
    by_sign = [jnp.sum(jnp.where(of, a * b, 0.0), axis=-1) for of in (positive, ~positive)]
    over, under = by_sign[0] + slope * by_sign[1], slope * by_sign[0] + by_sign[1]
    loss = 0.5 * (above * (target - over) ** 2 + below * (target - under) ** 2)
    crossed = jnp.any(jnp.where(positive, a < 0, a > 0), axis=-1)
    state = LeakyScalar(a, b, *by_sign, above=over, below=under, loss=loss)
    return jax.tree.map(
        lambda x: jnp.where(crossed if x.ndim == crossed.ndim else crossed[..., None], jnp.nan, x), state
    )
