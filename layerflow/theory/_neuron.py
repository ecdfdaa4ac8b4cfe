"""Two exactly solvable relatives: a single linear neuron, and a symmetric factorisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._matrices import real_arrays, symmetric, times
from layerflow.theory._riccati import riccati_factor
from layerflow.theory._special import phi1


class Neuron(eqx.Module):
    """Weights of f(x) = a w.x, at one time or at many."""

    w: Float[Array, "*t inp"]
    a: Float[Array, "*t"]

    @property
    def map(self) -> Float[Array, "*t inp"]:
        """The linear map a w."""
        return self.a[..., None] * self.w


def single_neuron(w: ArrayLike, a: ArrayLike, beta: ArrayLike, t: ArrayLike) -> Neuron:
    """A single linear neuron f(x) = a w.x on whitened inputs after gradient flow for a time t.

    For L = |a w - beta|^2 / 2, with delta = a^2 - |w|^2 (kept by the flow), s = |beta|,
    k = sqrt(delta^2 + 4 s^2) / 2 and w = wp beta / s + wo with wo orthogonal to beta,

        (wp, a)(t) = e^{Ht} (wp, a) / sqrt(M),    wo(t) = e^{-delta t / 2} wo / sqrt(M),
        H = [[-delta / 2, s], [s, delta / 2]],    M = 1 + int_0^t |e^{Hu} (wp, a)|^2 + e^{-delta u} |wo|^2 du.

    delta -> infinity is lazy, delta = 0 rich, delta -> -infinity delayed rich. Any sign of delta and
    a; a crosses 0 where it must. Near the reversal of a learnt task, where the part of (wp, a) that grows is small
    beside the one that shrinks, both are taken along the eigenvectors of H, which keeps all but the rounding of wp.

    Args:
        w: Input weights at t = 0, shape (inp,).
        a: Output weight at t = 0, shape ().
        beta: Target E[y x], shape (inp,).
        t: Gradient-flow time, shape () or (t,).

    Returns:
        Weights at `t`, time first if there are many.

    Raises:
        ValueError: If the shapes do not fit or a time is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import single_neuron
        >>> neuron = single_neuron(jnp.array([-1.0, 0.0]), 1.0, jnp.array([0.0, 1.0]), t=1.0)
        >>> neuron.w.tolist(), float(neuron.a)
        ([-0.5120..., 0.6018...], 0.7901...)

    References:
        Kunin et al. (2024), arXiv:2406.06158; Fukumizu (1998).
    """
    w, a, beta, t = real_arrays(w=w, a=a, beta=beta, t=t)
    if w.ndim != 1 or beta.shape != w.shape or a.ndim != 0 or t.ndim > 1:
        raise ValueError(
            f"A single neuron needs `w` and `beta` of one shape (inp,), `a` of shape () and `t` of shape () or (t,), "
            f"but they have shapes {w.shape}, {beta.shape}, {a.shape} and {t.shape}."
        )
    t = times(t)
    at = lambda t: _neuron(w, a, beta, t)
    return at(t) if t.ndim == 0 else jax.vmap(at)(t)


def _neuron(w: Float[Array, " inp"], a: Float[Array, ""], beta: Float[Array, " inp"], t: Float[Array, ""]) -> Neuron:
    delta, s = a**2 - jnp.sum(w**2), safe_root(jnp.sum(beta**2))
    unit = beta / jnp.where(s > 0, s, 1.0)
    along = unit @ w
    across = w - along * unit
    k = safe_root(0.25 * delta**2 + s**2)
    # k - |delta| / 2, without the cancellation.
    rest = jnp.where(k > 0, s**2 / jnp.where(k > 0, k + 0.5 * jnp.abs(delta), 1.0), 0.0)

    def flow(time: Array) -> tuple[Array, Array]:
        """e^{-kt} e^{Ht} (wp, a), with H^2 = k^2."""
        c, h = 0.5 * (1 + jnp.exp(-2 * k * time)), time * phi1(2 * k * time)
        return c * along + h * (s * a - 0.5 * delta * along), c * a + h * (s * along + 0.5 * delta * a)

    # int_0^t e^{2Hu} du = e^{Ht} sinh(kt) / k, so that its part of M is the square of half the way.
    half_w, half_a = flow(0.5 * t)
    end_w, end_a = flow(t)
    slower = jnp.where(delta < 0, rest, k + 0.5 * delta)  # k + delta / 2 >= 0
    decay, grown = jnp.exp(-2 * k * t), t * phi1(2 * k * t)
    way = half_w**2 + half_a**2
    (first, second), rises, falls = _eigen_parts(delta, s, k, along, across, a)
    reverses = (jnp.abs(rises) < 0.1 * jnp.abs(falls)) & (s > 0)
    way = jnp.where(reverses, rises**2 + decay * falls**2, way)
    end_w = jnp.where(reverses, rises * first + decay * falls * second, end_w)
    end_a = jnp.where(reverses, rises * second - decay * falls * first, end_a)
    m = decay + grown * way
    m = m + jnp.exp(-2 * jnp.where(delta < 0, rest, k) * t) * t * phi1(jnp.abs(delta) * t) * jnp.sum(across**2)
    # Only a start at rest at 0, or exactly on its way there, underflows.
    root = jnp.sqrt(jnp.where(m > 0, m, 1.0))
    return Neuron(end_w / root * unit + jnp.exp(-slower * t) / root * across, end_a / root)


def _eigen_parts(
    delta: Array, s: Array, k: Array, along: Array, across: Array, a: Array
) -> tuple[tuple[Array, Array], Array, Array]:
    """The eigenvector of H to +k, and how much of (wp, a) lies along it and along that to -k."""
    safe = jnp.where(k > 0, k, 1.0)
    larger = jnp.sqrt(0.5 + 0.25 * jnp.abs(delta) / safe)
    smaller = 0.5 * s / (safe * larger)
    first, second = jnp.where(delta < 0, larger, smaller), jnp.where(delta < 0, smaller, larger)
    # At a reversal wp and -a nearly cancel, and so do their squares in delta.
    exact = (a - along) * (a + along) - jnp.sum(across**2)
    rises = first * (along + a) + 0.5 * exact / (safe * (larger + smaller)) * a
    return (first, second), rises, second * along - first * a


def symmetric_factorisation(u: ArrayLike, sigma: ArrayLike, t: ArrayLike) -> Float[Array, "n hid"]:
    """The factor U of f(x) = U U^T x on whitened inputs after gradient flow for a time t.

    In the loss convention of this package, L = |U U^T - sigma|^2 / 2 for symmetric sigma, so

        U' = 2 (sigma - U U^T) U,
        U U^T(t) = e^{2 sigma t} U0 (I + 4 U0^T int_0^t e^{4 sigma u} du U0)^{-1} U0^T e^{2 sigma t}.

    Tarmoun et al. follow |U U^T - sigma|^2 / 4, whose time runs half as fast: pass t / 2 for it. Any rank of
    U and any signs of the eigenvalues of sigma; those below 0 are not learnt.

    Args:
        u: Factor at t = 0, shape (n, hid).
        sigma: Symmetric target, shape (n, n).
        t: Gradient-flow time, shape ().

    Returns:
        U(t) up to a rotation of its columns, shape (n, hid); U U^T is exact.

    Raises:
        ValueError: If the shapes do not fit, `sigma` is not symmetric, or the time is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import symmetric_factorisation
        >>> u = symmetric_factorisation(0.1 * jnp.eye(2), jnp.diag(jnp.array([2.0, -1.0])), t=10.0)
        >>> jnp.abs(u @ u.T).round(4).tolist()
        [[2.0, 0.0], [0.0, 0.0]]

    References:
        Tarmoun et al. (2021), ICML.
    """
    u, sigma, t = real_arrays(u=u, sigma=sigma, t=t)
    if u.ndim != 2 or sigma.shape != (u.shape[0],) * 2 or t.ndim != 0:
        raise ValueError(
            f"A symmetric factorisation needs `u` of shape (n, hid), `sigma` of shape (n, n) and `t` of shape (), but "
            f"they have shapes {u.shape}, {sigma.shape} and {t.shape}."
        )
    sigma = symmetric(sigma, "sigma", "the target of U U^T", " Pass (sigma + sigma.T) / 2.")
    # Q = sqrt(2) U obeys Q' = 2 (sigma Q - Q Q^T Q / 2).
    return riccati_factor(0.5 * (sigma + sigma.T), 2**0.5 * u, 2 * times(t)) / 2**0.5
