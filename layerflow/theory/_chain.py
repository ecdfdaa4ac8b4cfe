"""One mode of a chain of layers that need not be equal."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import check_counts
from layerflow.theory._arguments import below, positive, times, together, variances
from layerflow.theory._roots import root
from layerflow.theory._special import Alike

_PANELS, _TOP = 64, 40.0  # from the start to where u = S to rounding
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(16)[0] + 1) / 2, np.polynomial.legendre.leggauss(16)[1] / 2


class LayerChain(eqx.Module):
    """One mode of a chain of layers at some times; `...` is the joint shape of times and parameters."""

    layers: Float[Array, "... layer"]
    strength: Float[Array, "..."]  # the product of the layers
    effective_depth: Float[Array, "..."]  # how many layers still move


def layer_chain(t: ArrayLike, a0: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0) -> LayerChain:
    """One mode of a chain of layers that need not be equal, u = a_1 ... a_L.

        a_l' = E (S - u) u / a_l,    a_l^2 = x + c_l,    x' = 2 E u (S - u),    u = prod sqrt(x + c_l),

    with x the square of the lightest layer and constants c_l >= 0. Every layer gains the same square, so the light
    ones move and the heavy ones rest. The time to a strength is an integral, `layer_chain_time`, and the strength at
    a time its inverse, found to rounding. `deep_mode` is the chain of equal layers.

    Args:
        t: Times t >= 0.
        a0: Layers at t = 0, shape (..., L), positive and with a product below the target.
        target: S, positive.
        variance: E = E[x^2] of the mode's input.

    The shapes of `t`, `target`, `variance` and of `a0` without its last axis broadcast to one shape (...).

    Returns:
        `layers` of shape (..., L) and, of shape (...), `strength` and `effective_depth`.

    Raises:
        ValueError: If a layer or the target is not positive, the chain starts at its target or above, a time or a
            variance is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import layer_chain
        >>> mode = layer_chain(3.0, jnp.array([0.1, 0.1, 1.0]), 1.0)
        >>> print(f"{mode.strength:.4f} {mode.effective_depth:.4f}", [f"{a:.4f}" for a in mode.layers])
        0.9422 2.4212 ['0.8488', '0.8488', '1.3078']

    References:
        Saxe et al. (2014), arXiv:1312.6120, for equal layers; Kunin et al. (2024), arXiv:2406.06158, for unequal ones.
    """
    given = together(("a0",), t=times(t), a0=_layers(a0, "a0"), target=_target(target), variance=variances(variance))
    t, a0, target, e = given
    return _layer_chain(t, _below_target(a0, target), target, e)


def layer_chain_time(
    a0: ArrayLike, end: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Time that a mode of a chain of unequal layers takes from its start to a strength.

        t = int dx / (2 E u (S - u)),    u = prod sqrt(x + c_l),

    between the squares x of the lightest layer, taken by quadrature in log(x / (x_S - x)), x_S that at u = S: the
    integrand is analytic within pi / 2 of the real axis of it, whatever the layers.

    Args:
        a0: Layers at t = 0, shape (..., L), positive and with a product below the target.
        end: A strength in (0, S).
        target: S, positive.
        variance: E = E[x^2] of the mode's input.

    The shapes of `end`, `target`, `variance` and of `a0` without its last axis broadcast to one shape (...).

    Returns:
        The time, of that shape, negative if `end` is below the start.

    Raises:
        ValueError: If a layer, the target or `end` is not positive, the chain starts or ends at its target or above,
            a variance is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import layer_chain_time
        >>> light = jnp.array([[0.01, 0.01, 0.01], [0.01, 0.01, 1.0], [0.01, 1.0, 1.0]])
        >>> [f"{t:.3f}" for t in layer_chain_time(light, 0.5, 1.0)]
        ['99.150', '4.366', '0.526']

    References:
        As for `layer_chain`.
    """
    end = positive(end, "end", "a strength between the saddle at 0, which a chain never leaves, and the target")
    given = together(("a0",), a0=_layers(a0, "a0"), end=end, target=_target(target), variance=variances(variance))
    a0, end, target, e = given
    return _layer_chain_time(_below_target(a0, target), below(end, target, "end"), target, e)


def effective_depth(layers: ArrayLike) -> Float[Array, "..."]:
    """How many layers of a chain move.

        n = sum_l x / a_l^2,    x = min a_l^2,    with the local law u' = n E u^2 (S - u) / x.

    It is the number of light layers where some are light and some heavy, and the depth where all are equal.

    Args:
        layers: Layers of a mode at one time, shape (..., L), positive.

    Returns:
        n from 1 to L, shape (...).

    Raises:
        ValueError: If a layer is not positive, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import effective_depth
        >>> print(f"{effective_depth(jnp.array([0.1, 0.1, 1.0])):.2f}")
        2.01
    """
    layers = _layers(layers, "layers")
    return jnp.sum((jnp.min(layers, axis=-1, keepdims=True) / layers) ** 2, axis=-1)


def layer_chain_delay(
    start: ArrayLike, light: int, target: ArrayLike, *, heavy: ArrayLike = 1.0, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Time to half of the target of `layer_chain` from light layers a -> 0, by how many are light.

        one:          log(2) / (E K^2),                 no delay,
        two:          log(S / (K a^2)) / (2 S K E),     logarithmic,
        n >= 3:       a^(2 - n) / ((n - 2) E K S),      a power,

    with K the product of the heavy layers, which rest. So one heavy layer of three makes a power law a logarithm,
    and two leave no delay.

    Args:
        start: The light layers a at t = 0, equal and positive.
        light: How many there are.
        target: S, positive.
        heavy: K, positive; 1 without heavy layers.
        variance: E = E[x^2] of the mode's input.

    The shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The leading term of the time as a -> 0, of that shape.

    Raises:
        ValueError: If `light` is no whole number of at least 1, a layer or the target is not positive, a variance is
            negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import layer_chain_delay
        >>> [f"{layer_chain_delay(0.01, light, 1.0):.2f}" for light in (1, 2, 3, 4)]
        ['0.69', '4.61', '100.00', '5000.00']
    """
    check_counts(light=light)
    start, heavy = positive(start, "start", "a light layer"), positive(heavy, "heavy", "a product of heavy layers")
    start, target, heavy, e = together(start=start, target=_target(target), heavy=heavy, variance=variances(variance))
    if light == 1:
        return math.log(2) / (e * heavy**2)
    if light == 2:
        return (jnp.log(target) - jnp.log(heavy) - 2 * jnp.log(start)) / (2 * target * heavy * e)
    return start ** (2 - light) / ((light - 2) * e * heavy * target)


def _layers(value: ArrayLike, name: str) -> Array:
    layers = positive(value, name, "the layers of a chain")
    if layers.ndim == 0:
        raise ValueError(
            f"Argument `{name}` holds one number per layer, so its last axis is the layers, but it is a scalar. For "
            f"one layer write jnp.array([a])."
        )
    return layers


def _target(value: ArrayLike) -> Array:
    return positive(value, "target", "the strength that a chain of positive layers can reach")


def _below_target(a0: Float[Array, "*shape layer"], target: Alike) -> Float[Array, "*shape layer"]:
    """The layers, if their product is below the target."""
    product = jnp.prod(a0, axis=-1)
    return a0 + (0 * below(product, target, "prod(a0)"))[..., None]


class _Course(eqx.Module):
    """What stays on the way of a chain."""

    excess: Float[Array, "*shape layer"]  # c, what the square of each layer is above that of the lightest
    end: Float[Array, "*shape"]  # x where u = S
    target: Float[Array, "*shape"]


@jax.jit
def _layer_chain(t: Alike, a0: Float[Array, "*shape layer"], target: Alike, e: Alike) -> LayerChain:
    course, begin = _course(a0, target)
    place = _place(course, begin, e * t)
    light = course.end * jax.nn.sigmoid(place)
    squares = light[..., None] + course.excess
    return LayerChain(
        layers=jnp.sqrt(squares),
        strength=target * jnp.exp(_log_share(course, place)),
        effective_depth=jnp.sum(light[..., None] / squares, axis=-1),
    )


@jax.jit
def _layer_chain_time(a0: Float[Array, "*shape layer"], end: Alike, target: Alike, e: Alike) -> Alike:
    course, begin = _course(a0, target)
    finish = _place_at(course, end)
    width = (finish - begin) / _PANELS

    def panel(k: Array, work: Array) -> Array:
        low = begin + k.astype(width.dtype) * width
        return work + _work(course, low, low + width)

    return jax.lax.fori_loop(0, _PANELS, panel, jnp.zeros_like(begin)) / e


def _course(a0: Float[Array, "*shape layer"], target: Alike) -> tuple[_Course, Alike]:
    """What stays, and the place at the start."""
    lightest = jnp.min(a0, axis=-1, keepdims=True)
    excess = (a0 - lightest) * (a0 + lightest)
    end = _lightest(excess, target)
    return _Course(excess, end, target), _place_of(lightest[..., 0] ** 2, end)


def _lightest(excess: Float[Array, "*shape layer"], strength: Alike) -> Alike:
    """The square x of the lightest layer at a strength."""
    wanted = 2 * jnp.log(strength)
    high = wanted / excess.shape[-1]
    low = wanted + high - jnp.sum(jnp.log(jnp.exp(high)[..., None] + excess), axis=-1)

    def missing(log_x: Array) -> Array:
        return jnp.sum(jnp.log(jnp.exp(log_x)[..., None] + excess), axis=-1) - wanted

    return jnp.exp(root(missing, low, high))


def _place_of(light: Alike, end: Alike) -> Alike:
    """The logit of x / x_S; of what rounding has put beyond x_S, that of the float before it."""
    return jnp.log(light) - jnp.log(jnp.maximum(end - light, 0.5 * jnp.finfo(end.dtype).eps * end))


def _place_at(course: _Course, strength: Alike) -> Alike:
    """Where the chain has a strength, with all digits that S - u has."""
    near = _place_of(_lightest(course.excess, strength), course.end)
    left = (course.target - strength) / course.target
    late = left < 0.5
    wanted = jnp.where(late, jnp.log1p(-jnp.where(late, left, 0.0)), jnp.log(strength) - jnp.log(course.target))
    return root(lambda place: _log_share(course, place) - wanted, near - 3, near + 3, halvings=30)


def _log_share(course: _Course, place: Alike) -> Alike:
    """log(u / S), with all its digits at both ends."""
    place, end = place[..., None], course.end[..., None]
    near = place >= 0
    left = jnp.where(near, end / (end + course.excess) * jax.nn.sigmoid(-place), 0.0)
    squares = jnp.where(near, 1.0, (end * jax.nn.sigmoid(place) + course.excess) / (end + course.excess))
    return 0.5 * jnp.sum(jnp.where(near, jnp.log1p(-left), jnp.log(squares)), axis=-1)


def _pace(course: _Course, place: Alike) -> Alike:
    """E dt by the place."""
    share = _log_share(course, place)
    slowing = jax.nn.sigmoid(-place) / -jnp.expm1(share)
    log_pace = jnp.log(course.end) + jax.nn.log_sigmoid(place) - share - 2 * jnp.log(course.target)
    # A time beyond all floats is cut, so that what is left of it is finite.
    return 0.5 * slowing * jnp.exp(jnp.minimum(log_pace, 0.9 * math.log(jnp.finfo(place.dtype).max)))


def _work(course: _Course, low: Alike, high: Alike) -> Alike:
    """E t from one place to another, less than a few apart."""
    nodes, weights = (jnp.asarray(column, low.dtype) for column in (_NODES, _WEIGHTS))
    paces = jax.vmap(lambda node: _pace(course, low + node * (high - low)))(nodes)
    return jnp.tensordot(weights, paces, axes=1) * (high - low)


def _place(course: _Course, begin: Alike, work: Alike) -> Alike:
    """Where the chain is after E t: the panel from sums over panels, the place in it by halving."""
    width = (_TOP - begin) / _PANELS
    edges = lambda k: begin + k * width

    def panel(done: Array, k: Array) -> tuple[Array, Array]:
        after = done + _work(course, edges(k), edges(k + 1))
        return after, after

    total, done = jax.lax.scan(panel, jnp.zeros_like(begin), jnp.arange(_PANELS, dtype=begin.dtype))
    passed = jnp.minimum(jnp.sum(done <= work[None], axis=0), _PANELS - 1)
    before = jnp.take_along_axis(jnp.concatenate([jnp.zeros_like(done[:1]), done]), passed[None], axis=0)[0]
    low = edges(passed.astype(begin.dtype))
    wanted = jnp.minimum(work, total) - before
    within = root(lambda place: _work(course, low, place) - wanted, low, low + width, halvings=30)
    # Behind the last panel the pace no longer changes.
    late = jnp.maximum(work - total, 0.0) / _pace(course, jnp.full_like(begin, _TOP))
    return jnp.where(work < total, within, _TOP + late)
