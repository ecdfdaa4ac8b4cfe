"""What the assumptions of closed forms cost the answer where they are violated.

An assumption is judged by the relative error that its violation causes in the answer, not by the size of the
violation: layers that differ by 1e-8 decide when a mode of that size is learnt, and nothing of one that is learnt.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from layerflow.theory._special import phi1

_ROUNDINGS = 100  # by so many a start or a task may miss an assumption: numbers as given are no more exact


def beyond_rounding(violations: Float[Array, "*some"]) -> Bool[Array, "*some"]:
    """Whether violations are larger than rounding of numbers as given, so that what they cost has to be judged."""
    return violations > _ROUNDINGS * jnp.finfo(violations.dtype).eps


class Assumption(eqx.Module):
    """What a closed form assumes of the numbers of a problem.

    Attributes:
        needs: What needs to hold, in words, and how to have it.
        violation: How far it is from holding, relative; zero if it does.
        cost: The relative error of the answer that this causes; infinite where nothing bounds it.
        doubtful: Whether the violation is beyond rounding, and what it costs was left open.
    """

    needs: str
    violation: Float[Array, ""]
    cost: Float[Array, ""]
    doubtful: Bool[Array, ""] | bool = False

    @classmethod
    def strict(cls, needs: str, violation: Float[Array, ""]) -> "Assumption":
        """One without which the formula says nothing, however small its violation."""
        return cls(needs, violation, jnp.where(violation == 0, 0.0, jnp.inf))

    @classmethod
    def to_rounding(cls, needs: str, violation: Float[Array, ""]) -> "Assumption":
        """One of which no more than rounding may be missing, whatever more would cost."""
        return cls(needs, violation, jnp.where(beyond_rounding(violation), jnp.inf, violation))

    @classmethod
    def not_negative(cls, variance: Float[Array, "..."]) -> "Assumption":
        """Variances of data; the sign of a time that runs backwards, from which flows may blow up."""
        return cls.strict("no variance of the inputs is negative", jnp.maximum(-variance, 0.0).max())


def allowed_cost(dtype: Any) -> float:
    """The relative error of the answer up to which a closed form is claimed: 2e-5 in float32, 4e-11 in float64."""
    return float(jnp.finfo(dtype).eps) ** (2 / 3)


def cost_of_spread(
    sizes: Float[Array, "layer mode"],
    target: Float[Array, " mode"],
    variance: Float[Array, " mode"],
    ts: Float[Array, " t"] | None,
    strength: Float[Array, "t mode"] | None,
) -> Float[Array, ""]:
    """The relative error of deep modes of equal layers where the layers of a mode differ in size.

    The flow keeps the differences of squares, a_i^2 = x + c_i, so with g the geometric mean of the sizes and
    d_i = log(a_i^2 / g^2) at t = 0,

        u' = (1 + eta) L E u^(2 - 2/L) (S - u),    eta = mean(e^(-d)) - 1 <= mean(d^2 e^|d|) / 2 at all times,

    as the d_i shrink while u grows. So u is that of equal layers, ahead in time by at most eta t, and its layers
    are off by max|d| / 2 times (g(0) / g(t))^2, relatively.

    Args:
        sizes: Of every layer at t = 0, positive.
        target: S.
        variance: E.
        ts: Where the answer is wanted; its worst time counts. At any time if not given.
        strength: u by the closed form at `ts`.
    """
    depth = len(sizes)
    k, start = 1 - 2 / depth, jnp.prod(sizes, axis=0)
    d = 2 * jnp.log(sizes / sizes[:1])
    d = jnp.abs(d - d.mean(axis=0, keepdims=True))
    ahead = jnp.mean(0.5 * d**2 * jnp.exp(d), axis=0)
    d = d.max(axis=0)
    if ts is None or strength is None:
        # t u' / u <= (S / u(0))^k / k, for the time to u is at most that at the rate L E v^(2 - 2/L) (S - u).
        growth = target**k / start**k / k
        return (0.5 * d + jnp.where(ahead > 0, ahead * growth, 0.0)).max()  # 0 times infinity is 0 here
    left = jnp.maximum(target[None, :] - strength, 0.0)
    growth = ts[:, None] * (depth * variance)[None, :] * strength**k * left
    fade = (start[None, :] / strength) ** (2 / depth)
    return (0.5 * d[None, :] * fade + jnp.minimum(ahead[None, :] * growth, left / strength)).max()


def cost_of_coupling(
    coupling: Float[Array, "mode mode"],
    variance: Float[Array, " mode"],
    target: Float[Array, " mode"],
    scale: Float[Array, ""],
    start: tuple[Float[Array, " mode"], ...],
    ts: Float[Array, " t"],
    layers: tuple[Float[Array, "t mode"], ...],
) -> Float[Array, ""]:
    """The relative error, at the worst of `ts`, of independent modes of two layers where inputs are correlated.

    Whatever drives a mode, a + b grows by e^G and a - b shrinks by it, where

        G' = scale (E (S - f) - r),    f = scale a b,    r = sum_{j != i} xx_ij f_j.

    So to leave r out puts G off by D with D' = -scale^2 E (a^2 + b^2) D - scale r to first order, and the layers by
    D, relative to the pair. A mode goes straight to its target: |f_j| stays below its start or that target, and
    a^2 + b^2, whose imbalance is kept, above what it is at the least |f| of the way.

    Args:
        coupling: |E[x_i x_j]|, 0 on the diagonal.
        variance: E.
        target: S.
        scale: Output scale.
        start: Both layers at t = 0.
        ts: Where the answer is wanted.
        layers: The answer there.
    """
    coupling, variance, target, scale, (a, b), ts, layers = jax.lax.stop_gradient(
        (coupling, variance, target, scale, start, ts, layers)
    )
    now, begin = layers[0] * layers[1], (a * b)[None]
    pull = jnp.abs(scale) * coupling @ jnp.maximum(jnp.abs(scale * a * b), jnp.abs(target))
    least = jnp.where(now * begin > 0, jnp.minimum(jnp.abs(now), jnp.abs(begin)), 0.0)
    damping = scale**2 * variance[None] * jnp.sqrt((a**2 - b**2)[None] ** 2 + 4 * least**2)
    return (pull[None] * ts[:, None] * phi1(damping * ts[:, None])).max()
