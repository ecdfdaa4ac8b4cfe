"""From saddle to saddle: a diagonal network from an infinitely small start, on any data."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._host import known

_ROUNDING = 1e-10  # of E[y x], and of coordinates that are 1 at most
_JUMPS = 1000  # per input at most: on the examples at hand one to three


class Saddles(eqx.Module):
    """The jumps of a flow from an infinitely small start, in order."""

    time: Float[Array, " jump"]  # tau, of t = tau ln(1 / |C|) / 2
    strength: Float[Array, "jump inp"]  # beta after the jump, until the next


def saddle_to_saddle(xx: ArrayLike, yx: ArrayLike) -> Saddles:
    """When coordinates of a diagonal network are learnt, and what it is in between, |C| -> 0 from beta(0) = 0.

    In the time tau = 2 t / ln(1/|C|) the coordinates s = theta / ln(1/|C|) stay between -1 and 1 and obey

        ds / dtau = -(xx beta - yx),

    and beta is the least-squares solution under beta_i = 0 where |s_i| < 1 and beta_i s_i >= 0 where |s_i| = 1. It
    stands still until the next s_i gets to 1 or -1. A coordinate that was learnt may go back to 0, and return with the
    other sign. The last beta is the interpolator of least l1 norm, or least squares if there is none.

    By non-negative least squares of SciPy, of known numbers, in double precision. At |C| > 0 jumps are late by about
    1 / ln(1/|C|), whereas the saddles themselves are off by a power of |C|. u^2 - v^2 takes half the time.

    Args:
        xx: E[x x^T], shape (inp, inp), of any rank.
        yx: E[y x], shape (inp,): row 0 of the `yx` of Moments.

    Returns:
        Times tau, shape (jump,), and strengths, shape (jump, inp). Before the first jump beta is 0.

    Raises:
        ValueError: If the shapes do not fit, `yx` is 0 or has a part that `xx` has not, so that no least-squares
            solution exists, or a number is not real or not finite.
        TypeError: If a number is traced: under `jax.jit`, `jax.vmap`, `jax.grad` or in the cell of a sweep.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import saddle_to_saddle
        >>> saddles = saddle_to_saddle(jnp.diag(jnp.array([1.0, 2.0])), jnp.array([0.5, 2.0]))
        >>> saddles.time.round(3).tolist(), saddles.strength.round(3).tolist()
        ([0.5, 2.0], [[0.0, 1.0], [0.5, 1.0]])

    References:
        Pesme, Flammarion (2023), arXiv:2304.00488; Berthier (2022), arXiv:2208.14673.
    """
    g, c = known("Saddle to saddle", xx=xx, yx=yx)
    if c.ndim != 1 or g.shape != c.shape * 2:
        raise ValueError(
            f"Saddles of a flow on data need `xx` of shape (inp, inp) and `yx` of shape (inp,), but they have shapes "
            f"{g.shape} and {c.shape}. Of Moments with one output give yx[0]."
        )
    root, targets = _least_squares(g, c)
    s, beta, tau = np.zeros_like(c), np.zeros_like(c), 0.0
    times, strengths = [], []
    while np.abs(force := c - g @ beta).max() > _ROUNDING * np.abs(c).max():
        if len(times) == _JUMPS * c.size:
            raise ValueError(
                f"After {len(times)} jumps the flow has not ended. Are the numbers of `xx` and `yx` right?"
            )
        waits = _waits(force, np.where(beta == 0, s, np.nan))
        tau, s = tau + waits.min(), s + waits.min() * np.where(beta == 0, force, 0.0)
        s = np.where(np.abs(s) > 1 - _ROUNDING, np.sign(s), s)
        beta = _constrained(root, targets, np.where(np.abs(s) == 1, s, 0.0))
        times.append(tau)
        strengths.append(beta)
    return Saddles(jnp.asarray(times), jnp.asarray(strengths))


def _least_squares(g: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and b with A^T A = g and A^T b = c."""
    if not np.allclose(g, g.T, rtol=0, atol=1e-7 * np.abs(g).max()):
        raise ValueError("Argument `xx` is E[x x^T] and needs to be symmetric, but it is not.")
    variances, axes = np.linalg.eigh(0.5 * (g + g.T))
    most = np.abs(variances).max()
    kept = variances > c.size * np.finfo(float).eps * most
    root, targets = np.sqrt(variances[kept])[:, None] * axes.T[kept], (axes.T @ c)[kept] / np.sqrt(variances[kept])
    if (variances < -1e-7 * most).any() or not np.allclose(root.T @ targets, c, rtol=0, atol=1e-7 * np.abs(c).max()):
        raise ValueError(
            "The flow ends only if a least-squares solution exists, but no beta has xx beta = yx, or `xx` has a "
            "negative variance. Take both from the same data, as Moments.from_samples does."
        )
    if not c.any():
        raise ValueError("At yx = 0 nothing is learnt from beta = 0, so there is no saddle: argument `yx` is 0.")
    return root, targets


def _waits(force: np.ndarray, s: np.ndarray) -> np.ndarray:
    """How long until each coordinate gets to the sign of its force; without end where s is NaN, which rests there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        waits = (np.sign(force) - s) / force
    return np.where(np.isfinite(waits) & (waits > 0) & (s != np.sign(force)), waits, np.inf)


def _constrained(root: np.ndarray, targets: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Least squares over beta of these signs, 0 where the sign is."""
    from scipy.optimize import nnls

    on, beta = signs != 0, np.zeros_like(signs)
    found: Any = nnls(root[:, on] * signs[on], targets)
    beta[on] = signs[on] * found[0]
    return beta
