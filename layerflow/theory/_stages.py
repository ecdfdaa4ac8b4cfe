"""When modes are learned, and whether one after the other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from layerflow.theory._arguments import below, ensure, positive, together, variances
from layerflow.theory._special import Alike, log1p_over, or_infinite, quotient


def exponential_time(
    fraction: ArrayLike, start: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """When a mode of a linear model has a fraction of its target: the inverse of `exponential`.

        t_q = log((S - theta(0)) / (S - q S)) / E.

    Args:
        fraction: q > 0, in units of the target.
        start: theta(0), of any sign.
        target: S.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        t_q, of that shape; infinite where the mode does not come by q S at any t >= 0.

    Raises:
        ValueError: If a fraction is not positive, a variance is negative, or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import exponential_time
        >>> print(f"{exponential_time(0.9, 0.0, 1.0):.6f}")  # log(10)
        2.302585

    References:
        Nam et al. (2025), arXiv:2502.21009, Eq. 10, solved for t.
    """
    return _exponential_time(
        *together(fraction=_fraction(fraction), start=start, target=target, variance=variances(variance))
    )


def sigmoidal_time(
    fraction: ArrayLike, start: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """When a mode of two equal layers has a fraction of its target: the inverse of `sigmoidal`.

        t_q = [log(S / u(0) - 1) + log(q / (1 - q))] / (2 S E).

    The half-time is t_q at q = 1/2; with a small q, t_{1-q} is the time of saturation. Of several modes,
    `jnp.argsort` of these times is the order of the stages of learning.

    Args:
        fraction: q > 0, in units of the target.
        start: u(0), of any sign.
        target: S, of any sign.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        t_q, of that shape; infinite where the mode does not come by q S at any t >= 0.

    Raises:
        ValueError: If a fraction is not positive, a variance is negative, or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import sigmoidal_time
        >>> print(f"{sigmoidal_time(0.5, 0.1, 1.0):.6f}")  # log(3)
        1.098612

    References:
        Nam et al. (2025), arXiv:2502.21009, Eq. 9, solved for t.
    """
    return _sigmoidal_time(
        *together(fraction=_fraction(fraction), start=start, target=target, variance=variances(variance))
    )


def critical_speed_ratio(weight_to_target: ArrayLike, margin: ArrayLike = 0.1) -> Float[Array, "..."]:
    """How much faster a mode must be than the next for the two to be learned in separate stages.

        S_1 E_1 / (S_2 E_2) > (l + m) / (l - m),    l = log(S / u(0) - 1),    m = log((1 - q) / q),

    where separate means that the first has saturated, u_1 > (1 - q) S_1, before the second sets in,
    u_2 > q S_2, and both have the same u(0) / S. The smaller the weights, the nearer to 1.

    Args:
        weight_to_target: u(0) / S, in (0, 1).
        margin: q, in (0, 1/2).

    The shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The ratio, of that shape; infinite where modes set in at t = 0, u(0) >= q S.

    Raises:
        ValueError: If an argument is out of its range or not real.

    Example:
        >>> from layerflow.theory import critical_speed_ratio
        >>> print(f"{critical_speed_ratio(1e-6):.3f}")
        1.378

    References:
        From Eq. 9 of Nam et al. (2025), arXiv:2502.21009, whose section 4.1 speaks of stages.
    """
    weight_to_target = ensure(
        positive(weight_to_target, "weight_to_target", "u(0) / S"),
        lambda x: x < 1,
        "Modes have stages of learning if they start below their targets, so `weight_to_target` needs to be below 1",
    )
    return _critical_speed_ratio(*together(weight_to_target=weight_to_target, margin=_margin(margin)))


def stages_separate(
    start: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0, *, margin: ArrayLike = 0.1
) -> Bool[Array, "..."]:
    """Whether modes of two equal layers are learned one after the other.

    They are if each has saturated, u > (1 - q) S, before the next sets in, u > q S, in the order in which
    they saturate. For two modes with one u(0) / S this is the criterion of `critical_speed_ratio`.

    Args:
        start: Strengths u(0) of all modes, in (0, S), shape (..., mode).
        target: S, positive.
        variance: E = E[x^2] of each mode's input.
        margin: q, in (0, 1/2), the same for all modes: shape (...) without the last axis.

    The shapes of `start`, `target` and `variance` broadcast; their last axis, if any, counts modes.

    Returns:
        True or False, of the joint shape without its last axis.

    Raises:
        ValueError: If no argument has an axis of modes, or one is out of its range or not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import stages_separate
        >>> bool(stages_separate(1e-4, jnp.array([1.0, 5.0, 25.0])))
        True
    """
    start, target, variance = together(
        start=positive(start, "start", "the strength u(0) of a mode that will be learned"),
        target=positive(target, "target", "the strength that a mode with u(0) > 0 can reach"),
        variance=variances(variance),
    )
    if start.ndim < 1:
        raise ValueError("Stages are those of several modes, so one argument needs a last axis of modes, but none has.")
    start = below(start, target, "start")
    margin = jnp.broadcast_to(_margin(margin).astype(start.dtype)[..., None], start.shape)
    return _stages_separate(start, target, variance, margin)


def plateau_losses(target: ArrayLike, variance: ArrayLike = 1.0) -> Float[Array, "... stage"]:
    """Losses of the plateaus between the stages of learning, from small weights.

        L_k = (1/2) sum of E S^2 over the modes that are not learned yet,

    if the modes are learned in the order of their speeds E |S|, the largest first.

    Args:
        target: S of all modes, shape (..., mode).
        variance: E = E[x^2] of each mode's input.

    The shapes broadcast; the last axis of the joint shape counts modes.

    Returns:
        Losses in the order in which they come, shape (..., mode + 1): that of no mode learned first, 0 last.

    Raises:
        ValueError: If neither argument has an axis of modes, a variance is negative, or a number is not
            real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import plateau_losses
        >>> plateau_losses(jnp.array([1.0, 3.0, 2.0])).tolist()
        [7.0, 2.5, 0.5, 0.0]
    """
    target, variance = together(target=target, variance=variances(variance))
    if target.ndim < 1:
        raise ValueError(
            "Plateaus are those of several modes, so one argument needs a last axis of modes, but none has."
        )
    slowest_first = jnp.argsort(variance * jnp.abs(target), axis=-1)
    losses = jnp.take_along_axis(0.5 * variance * target**2, slowest_first, axis=-1)
    unlearned = jnp.concatenate([jnp.zeros_like(losses[..., :1]), jnp.cumsum(losses, axis=-1)], axis=-1)
    return unlearned[..., ::-1]


def _fraction(fraction: ArrayLike) -> Array:
    return positive(fraction, "fraction", "in units of the target")


def _margin(margin: ArrayLike) -> Array:
    needs = "Argument `margin` is the part of the target that counts as nothing, and needs to be below 1/2"
    return ensure(positive(margin, "margin", "a part of the target"), lambda x: x < 0.5, needs)


@jax.jit
def _exponential_time(fraction: Alike, start: Alike, target: Alike, e: Alike) -> Alike:
    passed = quotient(fraction * target - start, (1 - fraction) * target)
    comes = (passed >= 0) & (fraction * target != target)
    passed = jnp.where(comes, passed, 0.0)
    return _where_learned(comes, passed * log1p_over(passed), e)


@jax.jit
def _sigmoidal_time(fraction: Alike, start: Alike, target: Alike, e: Alike) -> Alike:
    sign = jnp.where(start < 0, -1.0, 1.0).astype(start.dtype)
    size, goal = sign * start, sign * target
    # log(1 + S y) / (2 S E) with y = (q S - u0) / (u0 S (1 - q)), which makes sense only on the way to S > 0.
    way, left = fraction * goal - size, size * (1 - fraction) * goal
    comes = (goal > 0) & (size > 0) & ((way == 0) | (way * left > 0))
    y = jnp.where(comes, quotient(way, left), 0.0)
    return _where_learned(comes, 0.5 * y * log1p_over(jnp.where(comes, goal, 0.0) * y), e)


def _where_learned(comes: Bool[Array, "*shape"], work: Alike, e: Alike) -> Alike:
    """work / E, infinite for what does not come and where nothing moves."""
    return jnp.where(comes & ((e > 0) | (work == 0)), quotient(work, e), jnp.inf)


@jax.jit
def _critical_speed_ratio(weight_to_target: Alike, margin: Alike) -> Alike:
    wait, rise = _odds(1 / weight_to_target), _odds(1 / margin)
    return jnp.where(wait > rise, quotient(wait + rise, wait - rise), jnp.inf)


@jax.jit
def _stages_separate(
    start: Float[Array, "*shape mode"],
    target: Float[Array, "*shape mode"],
    e: Float[Array, "*shape mode"],
    margin: Float[Array, "*shape mode"],
) -> Bool[Array, "*shape"]:
    wait, rise, speed = _odds(target / start), _odds(1 / margin), 2 * target * e
    onset = or_infinite(wait - rise, speed)
    saturated = or_infinite(wait + rise, speed)
    order = jnp.argsort(saturated, axis=-1)
    onset, saturated = (jnp.take_along_axis(when, order, axis=-1) for when in (onset, saturated))
    return jnp.all(saturated[..., :-1] < onset[..., 1:], axis=-1)


def _odds(ratio: Alike) -> Alike:
    """log(ratio - 1)."""
    return jnp.log(ratio - 1)
