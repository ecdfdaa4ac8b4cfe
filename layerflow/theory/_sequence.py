"""A sequence of tasks, each learnt from the weights that the one before it left."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import require
from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import not_negative, positive, together
from layerflow.theory._balanced import Balanced, balanced_arguments, balanced_limit
from layerflow.theory._eigen import Axes, flow_axes, flow_matrix
from layerflow.theory._matrices import real_arrays, times
from layerflow.theory._riccati import riccati_factor
from layerflow.theory._special import Alike, log1p_over, quotient


def balanced_sequence(
    w1: ArrayLike,
    w2: ArrayLike,
    lam: ArrayLike,
    sigma_yx: ArrayLike,
    switches: ArrayLike,
    ts: ArrayLike,
    *,
    factors: ArrayLike = 1.0,
) -> Balanced:
    """A lambda-balanced two-layer network that learns several tasks on whitened inputs, one after the other.

    Every task keeps w2^T w2 - w1 w1^T = lam I, so `balanced_network` of one task begins where that of the task
    before ended. With P = [w1^T; w2] [w1, w2^T], task k of length T maps

        P -> e^{F T} P (I + int_0^T e^{2Fs} ds P)^{-1} e^{F T},    F = [[-lam/2 I, S_k^T], [S_k, lam/2 I]].

    P is all that later tasks see of the earlier ones. A network that has converged on a task of full rank is
    `balanced_limit` of (lam, S_k) and no longer knows what came before. Multiplying all weights by c at a switch takes
    P to c^2 P and lam to c^2 lam.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid).
        lam: Layer imbalance of the start, shape ().
        sigma_yx: Input-output correlations E[y x^T] of the tasks in their order, shape (tasks, out, inp).
        switches: Times at which one task ends and the next begins, shape (tasks - 1,), none before the one in front.
        ts: Gradient-flow times from the start of the first task on, shape (t,), in any order.
        factors: c > 0, by which all weights are multiplied at the switches, shape () or (tasks - 1,).

    Returns:
        The network along the path, time first in every array; at a switch that of the task that begins.

    Raises:
        ValueError: If the shapes do not fit, a time is negative, the switches fall back, a factor is not positive, or
            the start is not lambda-balanced.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import balanced_sequence
        >>> w, tasks = 0.1 * jnp.eye(1), jnp.array([[[1.0]], [[2.0]]])
        >>> path = balanced_sequence(w, w, 0.0, tasks, jnp.array([10.0]), jnp.array([10.0, 11.0]))
        >>> [f"{strength:.4f}" for strength in path.matrix.ravel()]
        ['1.0000', '1.9640']

    References:
        Braun et al. (2022), NeurIPS; Dominé et al. (2025), arXiv:2409.14623.
    """
    factors = positive(factors, "factors", "what multiplies the weights")
    w1, w2, lam, sigma_yx, switches, ts, factors = real_arrays(
        w1=w1, w2=w2, lam=lam, sigma_yx=sigma_yx, switches=switches, ts=ts, factors=factors
    )
    _sequences(sigma_yx, switches, ts, factors)
    w1, w2, lam, _, ts = balanced_arguments(w1, w2, lam, sigma_yx[0], ts, "ts")
    switches = times(switches, "switches")
    switches = require(
        switches,
        switches[1:] >= switches[:-1],
        "Argument `switches` holds the ends of tasks in their order, but some fall back. Sort it with jnp.sort.",
    )
    factors = jnp.broadcast_to(factors, switches.shape)
    path = _along(jnp.concatenate([w1.T, w2]), lam, sigma_yx, switches, ts, factors)
    return Balanced(path[:, : w1.shape[1], :].mT, path[:, w1.shape[1] :, :])


def reversal_time(lam: ArrayLike, strength: ArrayLike, target: ArrayLike) -> Float[Array, "..."]:
    """When the strength of a mode that has to change its sign is 0.

    With s1 = |strength| learnt so far and s2 = |target| to learn with the other sign, l = |lam| / 2,
    q = sqrt(s1^2 + l^2) and r = sqrt(s2^2 + l^2), the flow of `balanced_strength` crosses 0 at

        t = log(1 + 2 r y) / (2 r),
        y = (s1 / s2) (r + l) (r + s2) (q + s1 + l) / [l (q + l) (q + s1 + r + s2) (r + s2 + l)],
        t = log(1 + 2 r / |lam|) / (2 r)    for s1 = s2 = s:

    log(2 s / |lam|) / (2 s) for |lam| << s, log(2) / |lam| for |lam| >> s, and never for lam = 0, where a mode
    decays to the saddle at 0 and the loss to s2^2 / 2.

    Args:
        lam: Layer imbalance, of any sign.
        strength: Strength of the mode when the new task begins, of any sign.
        target: Its strength in the new task. All three broadcast.

    Returns:
        The time, of the common shape: 0 for a strength of 0, and infinite if the strength never crosses 0, as for
        lam = 0, for a target of the same sign and for a target of 0.

    Raises:
        ValueError: If a number is not real or not finite.

    Example:
        >>> from layerflow.theory import reversal_time
        >>> [f"{reversal_time(lam, 1.0, -1.0):.4f}" for lam in (1.0, 1e-3, 1e-6, 0.0)]
        ['0.5252', '3.8007', '7.2543', 'inf']

    References:
        Derived here; for lam = 0 the saddle is known from Braun et al. (2022), NeurIPS.
    """
    return _reversal_time(*together(lam=lam, strength=strength, target=target))


def forgetting(first: ArrayLike, second: ArrayLike, *, hid: int | None = None) -> Float[Array, ""]:
    """Loss of the first task after complete training on the second: how little alike the tasks are.

        D = |S_1 - S_2|^2 / 2,    or |S_1 - (best approximation of rank hid to S_2)|^2 / 2 with a bottleneck,

    above the part of the loss that no linear map can learn. Without an obstruction (`sign_obstruction`) it is the
    same at every imbalance, scale and width: how a network learns changes what it forgets on the way only.

    Args:
        first: Input-output correlation E[y x^T] of the task learnt first, shape (out, inp).
        second: That of the task learnt after it, shape (out, inp).
        hid: Width of the hidden layer, if it may be a bottleneck.

    Returns:
        D, shape ().

    Raises:
        ValueError: If the shapes do not fit, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import forgetting
        >>> first, second = jnp.eye(2), jnp.diag(jnp.array([2.0, 1.5]))
        >>> float(forgetting(first, second)), round(float(forgetting(first, second, hid=1)), 6)
        (0.625, 1.0)

    References:
        Braun et al. (2022), NeurIPS.
    """
    first, second = real_arrays(first=first, second=second)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"Two tasks of one network need `first` and `second` of one shape (out, inp), but they have shapes "
            f"{first.shape} and {second.shape}."
        )
    end = second if hid is None or hid >= min(second.shape) else balanced_limit(0.0, second, hid).matrix
    return 0.5 * jnp.sum((first - end) ** 2)


def forgetting_excess(first_loss: ArrayLike, second_loss: ArrayLike, distance: ArrayLike) -> Float[Array, "..."]:
    """What a network forgets of a first task beyond need while it learns a second.

        x = max_t (sqrt(L_1) + sqrt(L_2)) / sqrt(D) - 1 >= 0,

    as sqrt(L_1) + sqrt(L_2) >= sqrt(D) on any path from the first task to the second, with equality only on the
    straight line between the two maps. Two aligned modes have x <= sqrt(2) - 1, approached where one
    changes after the other; for |lam| -> infinity the path is straight.

    Args:
        first_loss: L_1 = |w2 w1 - S_1|^2 / 2 at times during the second task, shape (..., t): `Balanced.loss`.
        second_loss: L_2 = |w2 w1 - S_2|^2 / 2 at the same times, shape (..., t).
        distance: D = |S_1 - S_2|^2 / 2, shape (...): `forgetting`.

    Returns:
        x over these times, shape (...).

    Raises:
        ValueError: If a loss is negative, D is not positive, or the shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import forgetting_excess
        >>> share = jnp.linspace(0.0, 1.0, 11)  # straight, and by way of the origin between (1, 0) and (0, 1)
        >>> round(abs(float(forgetting_excess(share**2, (1 - share) ** 2, 1.0))), 6)
        0.0
        >>> round(float(forgetting_excess(jnp.array([0.0, 0.5, 1.0]), jnp.array([1.0, 0.5, 0.0]), 1.0)), 6)
        0.414214
    """
    first_loss = not_negative(first_loss, "first_loss", "a loss")
    second_loss = not_negative(second_loss, "second_loss", "a loss")
    distance = positive(distance, "distance", "half the squared distance of the tasks")
    if first_loss.ndim < 1 or second_loss.ndim < 1:
        raise ValueError(
            f"The losses are those along a path, so `first_loss` and `second_loss` need shape (..., t), but they have "
            f"shapes {first_loss.shape} and {second_loss.shape}."
        )
    first_loss, second_loss, distance = together(
        first_loss=first_loss, second_loss=second_loss, distance=distance[..., None]
    )
    return jnp.max((safe_root(first_loss) + safe_root(second_loss)) / jnp.sqrt(distance), axis=-1) - 1


def switch_rates(lam: ArrayLike, strengths: ArrayLike) -> Float[Array, "n n"]:
    """The rates at which a network that has learnt one task begins to learn the next.

        rate_ij = (k_i + k_j) / 2,    k_i = sqrt(lam^2 + 4 s_i^2).

    In the singular vectors U and V of the finished task S_1 = U diag(s) V^T, the map first moves as
    U^T (w2 w1 - S_1) V = t rate_ij Delta_ij, entry by entry, with Delta = U^T (S_2 - S_1) V. So
    L_1 = (t^2 / 2) sum_ij (rate_ij Delta_ij)^2 + O(t^3). What task 1 used moves at up to 2 s, what it did not use at
    |lam|: for lam = 0 a direction that is new on both sides starts at rest.

    Args:
        lam: Layer imbalance, shape ().
        strengths: s, the singular values of the finished task, inp = out = n of them and hid >= n, shape (n,).

    Returns:
        The rates, outputs first, shape (n, n).

    Raises:
        ValueError: If the shapes do not fit, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import switch_rates
        >>> switch_rates(0.0, jnp.array([1.0, 0.0])).tolist()
        [[2.0, 1.0], [1.0, 0.0]]
    """
    lam, strengths = real_arrays(lam=lam, strengths=strengths)
    if lam.shape != () or strengths.ndim != 1:
        raise ValueError(
            f"Argument `lam` is one number and `strengths` holds one per mode, shape (n,), but they have shapes "
            f"{lam.shape} and {strengths.shape}. Map over many with jax.vmap."
        )
    k = safe_root(lam**2 + 4 * strengths**2)
    return 0.5 * (k[:, None] + k[None, :])


def _sequences(sigma_yx: Array, switches: Array, ts: Array, factors: Array) -> None:
    """An error if tasks, switches and factors are not as many as they should be."""
    if sigma_yx.ndim != 3 or sigma_yx.shape[0] < 2:
        raise ValueError(
            f"Argument `sigma_yx` holds one matrix for each of two tasks or more, shape (tasks, out, inp), but it has "
            f"shape {sigma_yx.shape}. For one task call balanced_path."
        )
    between = (sigma_yx.shape[0] - 1,)
    if switches.shape != between or factors.shape not in ((), between):
        raise ValueError(
            f"Between {sigma_yx.shape[0]} tasks there are {between[0]} switches, so `switches` needs shape {between} "
            f"and `factors` () or {between}, but they have shapes {switches.shape} and {factors.shape}."
        )
    if ts.ndim != 1:
        raise ValueError(f"Argument `ts` holds times in a vector, but it has shape {ts.shape}.")


@eqx.filter_jit
def _along(
    q0: Float[Array, "inp_out hid"],
    lam: Float[Array, ""],
    sigma_yx: Float[Array, "tasks out inp"],
    switches: Float[Array, " switches"],
    ts: Float[Array, " t"],
    factors: Float[Array, " switches"],
) -> Float[Array, "t inp_out hid"]:
    """Q at all times, from Q where each task begins."""
    lams = lam * jnp.concatenate([jnp.ones_like(factors[:1]), jnp.cumprod(factors**2)])
    begins = jnp.concatenate([jnp.zeros_like(switches[:1]), switches])
    f = jax.vmap(flow_matrix)(lams, sigma_yx)
    axes = jax.vmap(flow_axes)(lams, sigma_yx)

    def task(q: Array, of: tuple[Array, Axes, Array, Array]) -> tuple[Array, Array]:
        f, axes, duration, factor = of
        q = factor * riccati_factor(f, q, duration, axes)
        return q, q

    but_last = jax.tree.map(lambda array: array[:-1], (f, axes))
    _, later = jax.lax.scan(task, q0, (*but_last, jnp.diff(begins), factors))
    starts = jnp.concatenate([q0[None], later])

    def at(t: Array) -> Array:
        task = jnp.searchsorted(switches, t, side="right")
        now = jax.tree.map(lambda array: array[task], axes)
        return riccati_factor(f[task], starts[task], t - begins[task], now)

    return jax.vmap(at)(ts)


@jax.jit
def _reversal_time(lam: Alike, strength: Alike, target: Alike) -> Alike:
    half, s1, s2 = 0.5 * jnp.abs(lam), jnp.abs(strength), jnp.abs(target)
    q, r = safe_root(s1**2 + half**2), safe_root(s2**2 + half**2)
    crosses = (strength * target < 0) & (half > 0)
    share = quotient(r + half, s2) * quotient(r + s2, r + s2 + half)
    share = share * quotient(q + s1 + half, q + half) * quotient(s1, q + s1 + r + s2)
    y = jnp.where(crosses, quotient(share, half), 0.0)
    time = y * log1p_over(2 * r * y)
    return jnp.where(crosses | (strength == 0), time, jnp.inf)
