"""One mode of equal layers under weight decay: where it rests, dies, and could have lived."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import check_counts
from layerflow.theory._arguments import ensure, finite, not_negative, positive, together, variances
from layerflow.theory._roots import root
from layerflow.theory._special import Alike


class DecayStates(eqx.Module):
    """Where a mode under weight decay rests; `...` is the joint shape of the parameters."""

    stable: Float[Array, "..."]  # the strength that lives, 0 where none does
    unstable: Float[Array, "..."]  # below it a mode dies: 0 where none does, infinite where all do


class DecayThresholds(eqx.Module):
    """Weight decays at which a mode jumps, and where it is then; `...` is the joint shape of the parameters."""

    spinodal: Float[Array, "..."]  # from here on every mode dies
    spinodal_strength: Float[Array, "..."]
    maxwell: Float[Array, "..."]  # from here on the dead mode has the least energy
    maxwell_strength: Float[Array, "..."]


def decay_energy(
    strength: ArrayLike, target: ArrayLike, depth: int, decay: ArrayLike, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Loss of a mode of equal layers with its weight decay, what the flow of `decay_states` lowers.

        V(u) = (E / 2) (S - u)^2 + (nu depth / 2) |u|^(2 / depth),    u = a^depth.

    From depth 3 on u = 0 is a local minimum for every nu > 0.

    Args:
        strength: u, of any sign; the layers are equal but for signs.
        target: S, of any sign.
        depth: Number of layers of weights, 1, 2, ...
        decay: nu, the decay adds (nu / 2) |weights|^2 to the loss.
        variance: E = E[x^2] of the mode's input.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        V(u), of that shape.

    Raises:
        ValueError: If `depth` is no whole number of at least 1, a decay or a variance is negative, or a number is not
            real or not finite.

    Example:
        >>> from layerflow.theory import decay_energy
        >>> [round(float(decay_energy(u, 1.0, 3, 0.35)), 4) for u in (0.0, 0.05, 0.5945)]
        [0.5, 0.5225, 0.4534]

    References:
        Wang & Jacot (2024), arXiv:2305.16038.
    """
    check_counts(depth=depth)
    u, target, decay, e = together(
        strength=finite(strength, "strength"), target=target, decay=_decay(decay), variance=variances(variance)
    )
    weights = jnp.abs(u) if depth == 2 else u**2 if depth == 1 else _power(jnp.abs(u), 2 / depth)
    return 0.5 * e * (target - u) ** 2 + 0.5 * depth * decay * weights


def decay_states(target: ArrayLike, depth: int, decay: ArrayLike, variance: ArrayLike = 1.0) -> DecayStates:
    """Where a mode of equal layers with weight decay rests.

        E (S - u) = nu u^(2 / depth - 1),    u > 0.

    At depth 1 this is u = E S / (E + nu), which never dies, and at depth 2 u = S - nu / E, which dies without a jump
    at nu = E S. From depth 3 on it has two roots up to nu of `decay_thresholds`, the larger stable, the smaller
    unstable: a start of equal layers below it dies, one above it lives. Beyond there is only u = 0, which is stable for
    every nu > 0, so what died stays dead when the decay is taken back.

    Args:
        target: S, positive.
        depth: Number of layers of weights, 1, 2, ...
        decay: nu, the decay adds (nu / 2) |weights|^2 to the loss.
        variance: E = E[x^2] of the mode's input, positive.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The strengths `stable` and `unstable`.

    Raises:
        ValueError: If `depth` is no whole number of at least 1, a decay is negative, the target or a variance is not
            positive, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import decay_states
        >>> states = decay_states(1.0, 3, 0.3)
        >>> print(f"{states.stable:.4f} {states.unstable:.4f}")
        0.6545 0.0295

    References:
        Wang & Jacot (2024), arXiv:2305.16038.
    """
    check_counts(depth=depth)
    target, decay, e = together(target=_target(target), decay=_decay(decay), variance=_fed(variance))
    nu = decay / e
    if depth == 1:
        return DecayStates(target / (1 + nu), jnp.zeros_like(target))
    if depth == 2:
        return DecayStates(jnp.maximum(target - nu, 0.0), jnp.where(nu < target, 0.0, jnp.inf))
    power = 2 - 2 / depth
    lives = nu < _spinodal(depth) * target**power
    states = _states(depth, jnp.where(lives, nu / target**power, 0.0))
    return DecayStates(
        stable=jnp.where(lives, target * states.stable, 0.0),
        unstable=jnp.where(lives, target * states.unstable, jnp.inf),
    )


def decay_thresholds(target: ArrayLike, depth: int, variance: ArrayLike = 1.0) -> DecayThresholds:
    """Weight decays at which a mode of equal layers dies, and at which to be dead costs less.

        spinodal:  nu = E (L / (L - 2)) u^(2 - 2 / L),               u = S (L - 2) / (2 (L - 1)),
        Maxwell:   nu = E (S / (L - 1)) u^(1 - 2 / L),               u = S (L - 2) / (L - 1),

    with depth L. A mode that lives keeps living up to the first and then jumps to 0; the least `decay_energy` is at 0
    from the second on. Their ratio is (L / 4) 2^(2 / L). At depth 2 both are E S and u = 0: the mode dies without a
    jump, and comes back.

    Args:
        target: S, positive.
        depth: Number of layers of weights L, 2, 3, ...
        variance: E = E[x^2] of the mode's input, positive.

    The shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The decays `spinodal` and `maxwell`, and the strengths there.

    Raises:
        ValueError: If `depth` is no whole number of at least 2, the target or a variance is not positive, or a number
            is not real or not finite.

    Example:
        >>> from layerflow.theory import decay_thresholds
        >>> at = decay_thresholds(1.0, 3)
        >>> print(f"dies at {at.spinodal:.4f} from {at.spinodal_strength:.2f}, costs more from {at.maxwell:.4f} on")
        dies at 0.4725 from 0.25, costs more from 0.3969 on

    References:
        Wang & Jacot (2024), arXiv:2305.16038, who tell of the jumps; the thresholds were derived here.
    """
    check_counts(depth=depth)
    if depth == 1:
        raise ValueError(
            "A single layer has no threshold: its mode goes to E S / (E + nu) for every weight decay nu. Take depth=2, "
            "where a mode dies at nu = E S, or a larger one, where it jumps."
        )
    target, e = together(target=_target(target), variance=_fed(variance))
    least, at = 0.5 * (depth - 2) / (depth - 1), target ** (2 - 2 / depth)
    return DecayThresholds(
        spinodal=e * _spinodal(depth) * at,
        spinodal_strength=least * target,
        maxwell=e * (2 * least) ** (1 - 2 / depth) / (depth - 1) * at,
        maxwell_strength=2 * least * target,
    )


def _spinodal(depth: int) -> float:
    """The spinodal decay at S = E = 1."""
    return depth / (2 * (depth - 1)) * (0.5 * (depth - 2) / (depth - 1)) ** (1 - 2 / depth)


def _target(value: ArrayLike) -> Array:
    return positive(value, "target", "the strength that a mode of equal layers can reach")


def _decay(value: ArrayLike) -> Array:
    return not_negative(value, "decay", "a weight decay")


def _fed(variance: ArrayLike) -> Array:
    needs = "A mode without input has no strength to rest at, so argument `variance` needs to be positive"
    return ensure(variances(variance), lambda x: x > 0, needs)


def _power(size: Array, power: float) -> Array:
    """size^power, whose derivative at 0 is that of the local minimum there and not infinite."""
    inside = size > 0
    return jnp.where(inside, jnp.where(inside, size, 1.0) ** power, 0.0)


def _states(depth: int, nu: Alike) -> DecayStates:
    """Both strengths at S = E = 1 below the spinodal, where u^k (1 - u) = nu with k = 1 - 2 / depth.

    In log(u) for the smaller and log(1 - u) for the larger: each keeps its digits where it is small.
    """
    k, top = 1 - 2 / depth, 0.5 * (depth - 2) / (depth - 1)
    decays = nu > 0
    log_nu = jnp.log(jnp.where(decays, nu, 0.5 * _spinodal(depth)))

    def smaller(own: float, other: float, most: float) -> Alike:
        """The x from 0 to `most` at which x^own (1 - x)^other = nu."""
        excess = lambda y: own * y + other * jnp.log1p(-jnp.exp(y)) - log_nu
        return jnp.exp(root(excess, log_nu / own, jnp.full_like(log_nu, math.log(most))))

    missing, unstable = smaller(1.0, k, 1 - top), smaller(k, 1.0, top)
    return DecayStates(1 - jnp.where(decays, missing, nu), jnp.where(decays, unstable, 0.0))
