"""The flow of one linear layer on any data, with derivatives that exist where variances of the inputs are equal too."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from layerflow.theory._mode import grown_exponentially, relaxed
from layerflow.theory._special import phi1

_TERMS = 8  # of a series below 0.1, where the next is 1e-13 of the first


@jax.custom_jvp
def one_layer(
    ts: Float[Array, " t"],
    w: Float[Array, "out inp"],
    xx: Float[Array, "inp inp"],
    yx: Float[Array, "out inp"],
    scale: Float[Array, ""],
    decay: Float[Array, ""] | None,
) -> Float[Array, "t out inp"]:
    """The weights at `ts` of the flow w' = -scale (scale w xx - yx) - decay w.

    Axes whose variance is below rounding of the largest count as zero.
    """
    variance, axes = jnp.linalg.eigh(xx)
    return along_axes(ts, w @ axes, variance, yx @ axes, excites(variance, scale), scale, decay) @ axes.T


def excites(variance: Float[Array, " inp"], scale: Float[Array, ""]) -> Bool[Array, " inp"]:
    """Which axes of data move."""
    return (variance > jnp.finfo(variance.dtype).eps * jnp.abs(variance).max()) & (variance * scale != 0)


def along_axes(
    ts: Float[Array, " t"],
    w: Float[Array, "*layer"],
    variance: Float[Array, " inp"],
    slope: Float[Array, "*some"],
    excited: Bool[Array, " inp"],
    scale: Float[Array, ""],
    decay: Float[Array, ""] | None,
) -> Float[Array, "t *layer"]:
    """The weights at `ts`, of inputs that are uncorrelated; `slope` is E[y x]."""
    # With f = scale * w x a mode moves at E scale^2 to S / scale. Where nothing excites it, it stays.
    excited, variance, slope = (jnp.broadcast_to(array, w.shape) for array in (excited, variance, slope))
    target = jnp.where(excited, slope / jnp.where(excited, variance * scale, 1.0), 0.0)
    speed = jnp.where(excited, variance * scale**2, 0.0)
    wide = lambda array: jnp.broadcast_to(array, (len(ts), *w.shape))
    late = ts.reshape(-1, *[1] * w.ndim)
    if decay is None:
        # Without the checks of `theory.exponential`: inside of a rule for derivatives they would be errors of a run.
        return grown_exponentially(*map(wide, (late, w, target, speed)))
    # A mode that nothing excites and that does not decay has no speed to divide by.
    return relaxed(*map(wide, (late, w, jnp.where(excited, slope * scale, 0.0), speed + decay)))


@one_layer.defjvp
def _(point: tuple[Any, ...], change: tuple[Any, ...]) -> tuple[Array, Array]:
    """By divided differences, as axes have no derivative where variances are equal.

    With A = V diag(k) V^T, the derivative of g(A) along dA is V (g[k_i, k_j] * (V^T dA V)_ij) V^T (Daleckii, Krein).
    """
    (ts, w, xx, yx, scale, decay), (dts, dw, dxx, dyx, dscale, ddecay) = point, change
    variance, axes = jnp.linalg.eigh(xx)
    excited, slope = excites(variance, scale), yx @ axes
    value = along_axes(ts, w @ axes, variance, slope, excited, scale, decay) @ axes.T
    rate = jnp.where(excited, variance * scale**2, 0.0)
    drate = jnp.where(excited, 2 * variance * scale * dscale, 0.0)
    if decay is not None:
        rate, drate = rate + decay, drate + ddecay
    masked = lambda array: jnp.where(excited[None], array, 0.0)
    pull, dpull = masked(scale * slope), masked(dscale * slope + scale * (dyx @ axes))
    turned = scale**2 * axes.T @ dxx @ axes

    def at(given: tuple[Array, Array]) -> Array:
        t, dt = given
        wide = lambda array: jnp.broadcast_to(array, w.shape)
        state = (wide(t), w @ axes, pull, wide(rate))
        along = jax.jvp(relaxed, state, (wide(dt), dw @ axes, dpull, wide(drate)))[1]
        of_decay, of_pull = _differences(t, rate)
        return (along + (w @ axes) @ (of_decay * turned) + pull @ (of_pull * turned)) @ axes.T

    return value, jax.lax.map(at, (ts, dts))


def _differences(
    t: Float[Array, ""], k: Float[Array, " inp"]
) -> tuple[Float[Array, "inp inp"], Float[Array, "inp inp"]]:
    """Divided differences of e^{-k t} and of t phi1(k t), by k."""
    one, other = jnp.broadcast_arrays(k[:, None] * t, k[None, :] * t)
    fall = jnp.exp(-jnp.minimum(one, other)) * phi1(jnp.abs(one - other))
    larger = jnp.abs(one) >= jnp.abs(other)
    large, small = jnp.where(larger, one, other), jnp.where(larger, other, one)
    near = jnp.abs(large) < 0.1
    # From k t phi1(k t) = 1 - e^{-k t}; where that cancels, the sum of (-1)^n h_n / (n + 2)!, h_n of degree n in both.
    x, y = jnp.where(near, small, 0.0), jnp.where(near, large, 0.0)
    series, term, power, factor = jnp.zeros_like(x), jnp.ones_like(x), jnp.ones_like(x), 0.5
    for n in range(_TERMS):
        series = series + factor * term
        power = power * y
        term, factor = x * term + power, -factor / (n + 3)
    away = (phi1(small) - fall) / jnp.where(near, 1.0, large)
    return -t * fall, -(t**2) * jnp.where(near, series, away)
