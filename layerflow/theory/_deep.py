"""One mode of a deep chain of equal layers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import below, positive, times, together, variances
from layerflow.theory._mode import grown_exponentially, grown_sigmoidally
from layerflow.theory._special import Alike, phi1


def deep_mode(
    t: ArrayLike, start: ArrayLike, target: ArrayLike, depth: int | float, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Strength of a mode of a chain of equal layers, u = a^depth.

        u' = depth E u^(2 - 2 / depth) (S - u).

    This is exponential growth at depth 1 and sigmoidal at depth 2. From depth 3 on the time to a strength
    is a closed form, `deep_time`, and the strength at a time its inverse, found to rounding.

    Args:
        t: Times t >= 0; for depth = inf, depth times the time.
        start: u(0), in (0, S).
        target: S, positive.
        depth: Number of layers of weights, 1, 2, ... or inf; a Python number.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        u(t), of that shape.

    Raises:
        ValueError: If `depth` is not a number of layers, a strength is not in its range, a time or a
            variance is negative, or a number is not real or not finite.

    Example:
        >>> import math
        >>> from layerflow.theory import deep_mode
        >>> [f"{deep_mode(3.0, 0.01, 1.0, depth):.4f}" for depth in (1, 2, 3, math.inf)]
        ['0.9507', '0.8030', '0.1752', '0.0103']

    References:
        Saxe et al. (2014), arXiv:1312.6120, section on deep chains; Eqs. 7 and 9 of Nam et al. (2025),
        arXiv:2502.21009, for depths 1 and 2.
    """
    depth = _depth(depth)
    t, start, target, e = together(
        t=times(t), start=_strength(start, "start"), target=_target(target), variance=variances(variance)
    )
    start = below(start, target, "start")
    return _deep_mode(t, start, target, e, depth)


def deep_time(
    start: ArrayLike, end: ArrayLike, target: ArrayLike, depth: int | float, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Time that a mode of a chain of equal layers takes from one strength to another.

        t = [S^(-2 + 2 / depth) / (depth E)] int dw (1 + e^(-w))^(1 - 2 / depth),    w = log(u / (S - u)),

    from u = start to u = end, which is elementary for depths 1, 2, 4 and inf and hypergeometric for others.
    From small strengths it grows like u(0)^(-1 + 2 / depth): deeper chains wait longer.

    Args:
        start, end: Strengths in (0, S).
        target: S, positive.
        depth: Number of layers of weights, 1, 2, ... or inf; a Python number.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, of that shape, negative if `end` is below `start`; for depth = inf, depth times the time.

    Raises:
        ValueError: If `depth` is not a number of layers, a strength is not in its range, a variance is
            negative, or a number is not real or not finite.

    Example:
        >>> import math
        >>> from layerflow.theory import deep_time
        >>> [f"{deep_time(0.01, 0.5, 1.0, depth):.4f}" for depth in (1, 2, 3, math.inf)]
        ['0.6831', '2.2976', '3.7680', '102.5951']

    References:
        Saxe et al. (2014), arXiv:1312.6120, for depth 2 and inf.
    """
    depth = _depth(depth)
    start, end, target, e = together(
        start=_strength(start, "start"),
        end=_strength(end, "end"),
        target=_target(target),
        variance=variances(variance),
    )
    start, end = below(start, target, "start"), below(end, target, "end")
    return _deep_time(start, end, target, e, depth)


def _depth(depth: int | float) -> float:
    """The depth as a Python float, or an error."""
    if isinstance(depth, bool | jax.Array | np.ndarray) or depth < 1 or (depth != math.inf and depth != int(depth)):
        raise ValueError(f"Argument `depth` is a number of layers, so 1, 2, ... or math.inf, but it is {depth!r}.")
    return float(depth)


def _strength(value: ArrayLike, name: str) -> Array:
    return positive(value, name, "a strength between the saddle at 0, which a chain never leaves, and the target")


def _target(value: ArrayLike) -> Array:
    return positive(value, "target", "the strength that a mode with u(0) > 0 can reach")


@functools.partial(jax.jit, static_argnums=4)
def _deep_mode(t: Alike, start: Alike, target: Alike, e: Alike, depth: float) -> Alike:
    if depth <= 2:
        return (grown_exponentially if depth == 1 else grown_sigmoidally)(t, start, target, e)
    now = clock(_logit(start, target), 1 - 2 / depth) + t * _pace(target, e, depth)
    return target * jax.nn.sigmoid(unclock(now, 1 - 2 / depth))


@functools.partial(jax.jit, static_argnums=4)
def _deep_time(start: Alike, end: Alike, target: Alike, e: Alike, depth: float) -> Alike:
    if depth == 1:
        return jnp.log1p((end - start) / (target - end)) / e
    if depth == 2:
        return jnp.log1p(target * (end - start) / (start * (target - end))) / (2 * target * e)
    before, after = (clock(_logit(strength, target), 1 - 2 / depth) for strength in (start, end))
    return (after - before) / _pace(target, e, depth)


def _pace(target: Alike, e: Alike, depth: float) -> Alike:
    """How much of the clock goes by per unit of time."""
    return (1.0 if depth == math.inf else depth) * e * target ** (2 - 2 / depth)


def _logit(strength: Alike, target: Alike) -> Alike:
    return jnp.log(strength / (target - strength))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def clock(w: Alike, k: float) -> Alike:
    """int dw (1 + e^{-w})^k for 0 < k <= 1, the constant such that it nears w for large w.

    With z = e^{-w}, it is w - Q(z), Q(z) = int_0^z ((1 + y)^k - 1) dy / y. For z > 1 we expand around
    infinity instead: the two leading powers by hand, and what is left by quadrature in x = 1 / z.
    """
    right = w >= 0
    near, far = jnp.where(right, w, 0.0), jnp.where(right, 0.0, w)
    falling = near - _below_one(jnp.exp(-near), k)
    one = jnp.ones((), w.dtype)
    constant = jnp.broadcast_to(_below_one(one, k) + _beyond_one(one, k), w.shape)
    powers = far * phi1(k * far) + k * far * phi1((k - 1) * far)
    return jnp.where(right, falling, powers + _beyond_one(jnp.exp(far), k) - constant)


@clock.defjvp
def _(k: float, point: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    return clock(point[0], k), jnp.exp(k * jax.nn.softplus(-point[0])) * change[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def unclock(p: Alike, k: float) -> Alike:
    """The w at which the clock shows p, by Newton's method.

    In w >= 0 for w, and in w < 0 for y = e^{-k w}: the slope of the clock changes by no more than 2^k in
    either, always in one direction, so Newton's method needs no safeguard and few steps.
    """
    middle = clock(jnp.zeros_like(p), k)
    right = p >= middle
    w, y = jnp.maximum(p, 0.0), 1 + k * jnp.where(right, 0.0, middle - p)

    def newton(_: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        w, y = at
        below = -jnp.log(y) / k
        place = jnp.where(right, w, below)
        gap = p - clock(place, k)
        return (
            jnp.where(right, jnp.maximum(w + gap * jnp.exp(-k * jax.nn.softplus(-place)), 0.0), 0.0),
            jnp.where(right, 1.0, jnp.maximum(y - k * gap * jnp.exp(-k * jax.nn.softplus(place)), 1.0)),
        )

    w, y = jax.lax.fori_loop(0, 8, newton, (w, y))
    return jnp.where(right, w, -jnp.log(y) / k)


@unclock.defjvp
def _(k: float, point: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    """The implicit function theorem: no step of Newton's method is differentiated."""
    w = unclock(point[0], k)
    return w, jnp.exp(-k * jax.nn.softplus(-w)) * change[0]


def _below_one(z: Alike, k: float) -> Alike:
    """Q(z) for 0 <= z <= 1."""
    nodes, weights = _quadrature(0.0, z)
    return jnp.sum(weights / nodes * jnp.expm1(k * jnp.log1p(z[..., None] * nodes)), axis=-1)


def _beyond_one(x: Alike, k: float) -> Alike:
    """int_0^x ((1 + v)^k - 1 - k v) v^(-1 - k) dv for 0 < x <= 1."""
    nodes, weights = _quadrature(1 - k, x)
    v = x[..., None] * nodes
    small = v < 1e-3
    series = k * (k - 1) / 2 * (1 + (k - 2) / 3 * v * (1 + (k - 3) / 4 * v * (1 + (k - 4) / 5 * v)))
    safe = jnp.where(small, 1.0, v)
    rest = jnp.where(small, series, (jnp.expm1(k * jnp.log1p(safe)) / safe - k) / safe)
    return x ** (2 - k) * jnp.sum(weights * rest, axis=-1)


def _quadrature(power: float, like: Alike) -> Float[Array, "2 *shape node"]:
    """Nodes and weights on [0, 1] for the weight v^power, along a new last axis of `like`.

    The integrands are analytic but for -1, where a node more gains a factor (3 + sqrt(8))^2 = 34.
    """
    nodes, weights = _jacobi(power)
    rows = jnp.asarray(np.stack([(1 + nodes) / 2, weights / 2 ** (power + 1)]), like.dtype)
    return jnp.broadcast_to(rows.reshape(2, *(1,) * like.ndim, -1), (2, *like.shape, nodes.size))


@functools.cache
def _jacobi(power: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import roots_jacobi  # late: scipy takes its time, and sets a warnings filter

    return roots_jacobi(14, 0.0, power)
