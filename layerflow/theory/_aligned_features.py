"""The toy model of features that agree or disagree with the target."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from layerflow.theory._arguments import counts, positive, times, together, variances
from layerflow.theory._growth import growth
from layerflow.theory._special import Alike


class AlignedFeatures(eqx.Module):
    """State of the toy model of features that agree or disagree with the target."""

    aligned: Alike  # what features of the sign of the target add to the output
    anti_aligned: Alike  # what the others add, of the opposite sign
    output: Alike  # theta, the sum of the two
    weight_scale: Alike  # Delta_theta, the aligned part minus the other, in size
    growth: Alike  # gamma > 1 of aligned features; the others shrink by it


def aligned_features(
    t: ArrayLike,
    aligned: ArrayLike,
    anti_aligned: ArrayLike,
    target: ArrayLike,
    *,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> AlignedFeatures:
    """Features that begin at +1 or -1: those aligned with the target grow and the others shrink.

        theta' = -(2 E / Z) Delta (theta - S),    Delta' = -(2 E / Z) theta (theta - S),

    with theta = (n_+ gamma - n_- / gamma) / Z and Delta = (n_+ gamma + n_- / gamma) / Z for S > 0: this is
    `scalar_network` for a_i(0), b_i(0) = ±1, of which n_+ have a_i b_i S > 0 and n_- have a_i b_i S < 0.

    Args:
        t: Times t >= 0.
        aligned, anti_aligned: Numbers of features n_+ and n_-, not negative.
        target: S, of any sign.
        z: Z, positive: what divides the output.
        variance: E = E[x^2].

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The two modes, their sum `output`, their distance `weight_scale`, and `growth`.

    Raises:
        ValueError: If a time, a variance or a number of features is negative, Z is not positive, or a
            number is not real or not finite.

    Example:
        >>> from layerflow.theory import aligned_features
        >>> rich, lazy = aligned_features(100.0, 1, 1, 10.0), aligned_features(100.0, 1, 1, 0.1)
        >>> print(f"{rich.growth:.4f} {lazy.growth:.4f}")
        10.0990 1.0512

    References:
        Nam et al. (2025), arXiv:2502.21009, section 7.1, Eqs. 15 to 20.
    """
    t, aligned, anti_aligned, target, variance, z = together(
        t=times(t),
        aligned=counts(aligned, "aligned", "a number of features"),
        anti_aligned=counts(anti_aligned, "anti_aligned", "a number of features"),
        target=target,
        variance=variances(variance),
        z=positive(z, "z", "what divides the output"),
    )
    return _aligned_features(t, aligned, anti_aligned, target, variance, z)


@jax.jit
def _aligned_features(t: Alike, n: Alike, m: Alike, target: Alike, e: Alike, z: Alike) -> AlignedFeatures:
    sign = jnp.where(target < 0, -1.0, 1.0).astype(t.dtype)
    a, b = 2 * n / z, 2 * m / z
    grown = growth(e * t / z, sign * target, a, b)
    more, less = grown.halves(a, b)
    output = grown.output(a, b, (n - m) / z, sign * target)
    return AlignedFeatures(sign * more, -sign * less, sign * output, more + less, grown.factor())
