"""Averages over the eigenvalues of a sample covariance, by a quadrature that is exact to rounding.

The d eigenvalues eta of X^T X / N for N samples of d standard normal inputs fill, at ratio = N / d, the interval
between eta_-+ = (1 -+ ratio^(-1/2))^2 with density ratio sqrt((eta_+ - eta)(eta - eta_-)) / (2 pi eta); the share
(1 - ratio)_+ of them is 0. Of the N eigenvalues of X X^T / N the share (1 - 1 / ratio)_+ is 0.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._special import Alike, quotient


class Spectrum(eqx.Module):
    """Nodes of the eigenvalues that are not 0, on a last axis of their own."""

    ratio: Alike
    lowest: Alike  # eta_-
    above: Float[Array, "*shape node"]  # eta - eta_-, without cancellation
    weights: Float[Array, "*shape node"]  # they add up to min(ratio, 1)

    @property
    def eta(self) -> Float[Array, "*shape node"]:
        """The eigenvalues."""
        return self.lowest[..., None] + self.above

    def mean(self, values: Float[Array, "*shape node"]) -> Alike:
        """Mean over all d eigenvalues of a function that is 0 at 0."""
        return jnp.sum(self.weights * values, axis=-1)

    def mean_over_inputs(self, values: Float[Array, "*shape node"], scale: Alike, at_zero: Alike) -> Alike:
        """Mean over all d eigenvalues of a function whose value at 0 is `at_zero`, and slope -`scale` times that."""
        smooth = kept(jnp.ones_like(scale), scale, self.ratio)
        return self._pole_apart(values, scale, at_zero, smooth, jnp.maximum(1 - self.ratio, 0.0))

    def mean_over_samples(self, values: Float[Array, "*shape node"], scale: Alike, at_zero: Alike) -> Alike:
        """Mean over all N eigenvalues of X X^T / N: the same ones, but for the number of zeros."""
        smooth = kept_by_samples(jnp.ones_like(scale), scale, self.ratio)
        zeros = jnp.maximum((self.ratio - 1) / self.ratio, 0.0)
        return self._pole_apart(values, scale, at_zero, smooth, zeros, 1 / self.ratio)

    def _pole_apart(
        self, values: Array, scale: Alike, at_zero: Alike, smooth: Alike, zeros: Alike, share: Array | float = 1.0
    ) -> Alike:
        # The number of zeros has a kink at ratio = 1, and so has the rest. Near it, 1 / (1 + scale eta) takes the
        # pole at eta = 0 out of the sum: its mean, `smooth`, is known in closed form and has no kink.
        near = self.lowest * scale < 1
        pole = jnp.where(near, at_zero, 0.0)[..., None] / (1 + scale[..., None] * self.eta)
        return share * self.mean(values - pole) + at_zero * jnp.where(near, smooth, zeros)


def spectrum(ratio: Alike, step: float = 0.14, reach: float = 47.0) -> Spectrum:
    """Nodes for functions of eta that are bounded where |arg(eta)| < pi / 2, as e^{-eta t} is.

    With eta = eta_- + 4 ratio^(-1/2) / cosh(x)^2 the measure is (16 / pi) sinh(x)^2 / (cosh(x)^5 eta) dx: nodes are
    equidistant in log(eta - eta_-) towards the lower edge, so that a function is seen at any scale, and functions
    are analytic for |Im x| < pi / 4, so that the error falls like e^{-pi^2 / (2 step)}.
    """
    if ratio.dtype != jnp.float64:
        reach = min(reach, 20.0)  # 1 / cosh^4, which derivatives have, is to be a normal number
    square, measure = (jnp.asarray(row, ratio.dtype) for row in _nodes(step, reach))
    rows = lambda row: jnp.broadcast_to(row, (*ratio.shape, row.size))
    lowest = lower_edge(ratio)
    above = rows(square) * (4 / jnp.sqrt(ratio))[..., None]
    return Spectrum(ratio, lowest, above, rows(measure) * (rows(square) / (lowest[..., None] + above)))


def lower_edge(ratio: Alike) -> Alike:
    """eta_- = (1 - ratio^(-1/2))^2, which would cancel near ratio = 1."""
    root = jnp.sqrt(ratio)
    return ((ratio - 1) / (root * (1 + root))) ** 2


def kept(decay: Alike, scale: Alike, ratio: Alike) -> Alike:
    """<decay / (decay + scale eta)> over the inputs, the Stieltjes transform without a division by 0."""
    return _kept(decay, scale, scale / ratio, (ratio - 1) / ratio)


def kept_by_samples(decay: Alike, scale: Alike, ratio: Alike) -> Alike:
    """The same mean over the eigenvalues of X X^T / N."""
    return _kept(decay, scale / ratio, scale, 1 - ratio)


def gap(decay: Alike, ratio: Alike) -> Alike:
    """sqrt((decay + eta_-)(decay + eta_+)), which the derivative of `kept` is divided by."""
    return safe_root((decay + (ratio - 1) / ratio) ** 2 + 4 * decay / ratio)


def _kept(decay: Alike, scale: Alike, part: Alike, more: Alike) -> Alike:
    """The root u >= 0 of part u^2 + (decay + more scale) u = decay.

    `more` = 1 - 1 / ratio comes with all its digits, which are few near ratio = 1 if it is computed of 1 / ratio.
    """
    free = decay + scale * more
    root = safe_root(free**2 + 4 * decay * part)
    rising = free >= 0
    size = jnp.where(rising, free, -free) + root
    return jnp.where(rising, 2 * quotient(decay, size), 0.5 * quotient(size, part))


@functools.cache
def _nodes(step: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """1 / cosh(x)^2 and the measure over it."""
    x = np.arange(0.5 * step, reach, step)
    return 1 / np.cosh(x) ** 2, 16 / np.pi * step * np.tanh(x) ** 2 / np.cosh(x)
