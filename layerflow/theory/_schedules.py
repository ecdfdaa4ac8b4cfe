"""Targets that change while they are learnt: equal layers whose target follows a schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import whole
from layerflow.base._numerics import full_precision
from layerflow.theory._arguments import finite, times, together, variances
from layerflow.theory._balanced import Balanced, balanced_arguments
from layerflow.theory._eigen import flow_matrix, symmetric_axes
from layerflow.theory._special import Alike, phi1, quotient

_NODES = tuple(np.polynomial.legendre.leggauss(8))  # of Gauss and Legendre, in every panel


def scheduled_strength(
    t: ArrayLike, start: ArrayLike, integral: Callable[[Array], Array], variance: ArrayLike = 1.0, *, panels: int = 64
) -> Float[Array, "..."]:
    """Strength u = a b of a mode of two equal layers whose target S(t) changes with time.

        u(t) = u(0) e^{2 E theta(t)} / (1 + 2 E u(0) int_0^t e^{2 E theta(x)} dx),    theta(t) = int_0^t S(x) dx,

    the flow u' = 2 E u (S(t) - u) of a = b. Where u(0) < 0 the layers are opposite, a = -b, and S has the other
    sign. For a target that is constant in pieces `sigmoidal` goes on from piece to piece, or `balanced_sequence` of
    matrices of one entry. A learning rate that changes is no new case: t is its integral.

    Args:
        t: Times t >= 0.
        start: u(0), of any sign.
        integral: theta, a function of arrays of times entry by entry; a constant added to it does not matter.
        variance: E = E[x^2] of the mode's input.
        panels: Pieces of [0, t], of 8 nodes each, in which the integral of e^{2 E theta} is summed. It is exact to
            rounding where S is smooth and 2 E S t / panels is below about 1.

    The shapes of `t`, `start` and `variance` broadcast, and the result has the shape they broadcast to.

    Returns:
        u(t), of that shape.

    Raises:
        ValueError: If a time or a variance is negative, `integral` returns another shape than it is given, `panels`
            is not a whole number from 1 on, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scheduled_strength, sigmoidal
        >>> print(f"{scheduled_strength(2.0, 0.1, lambda t: 1.5 * t):.6f} {sigmoidal(2.0, 0.1, 1.5):.6f}")
        1.449692 1.449692
        >>> print(f"{scheduled_strength(20.0, 0.1, lambda t: t - jnp.cos(t)):.4f}")  # S = 1 + sin t
        1.5966
    """
    t, start, variance = together(t=times(t), start=start, variance=variances(variance))
    nodes, weights = _grid(t, panels)
    # The function is called here, not under a jit of ours, which would keep the numbers that it closes over.
    begin, end, inside = (_of(integral, at) for at in (jnp.zeros_like(t), t, nodes))
    return _scheduled_strength(start, variance, end - begin, inside - begin[..., None, None], weights)


def scheduled_network(
    w1: ArrayLike,
    w2: ArrayLike,
    sigma_yx: ArrayLike,
    integral: Callable[[Array], Array],
    t: ArrayLike,
    *,
    panels: int = 64,
) -> Balanced:
    """A zero-balanced two-layer network on whitened inputs whose target c(t) sigma_yx changes in size and sign.

        P(t) = e^{F C(t)} P(0) (I + int_0^t e^{2 F C(x)} dx P(0))^{-1} e^{F C(t)},    C(t) = int_0^t c(x) dx,

    with P = [w1^T; w2] [w1, w2^T] and F = [[0, sigma_yx^T], [sigma_yx, 0]], from one panel of [0, t] to the next.
    With an imbalance the F of different times do not commute and there is no such formula; for c that is constant in
    pieces there is `balanced_sequence` at every imbalance.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid), with w2^T w2 = w1 w1^T.
        sigma_yx: Input-output correlation E[y x^T] where c = 1, shape (out, inp).
        integral: C, a function of arrays of times entry by entry; a constant added to it does not matter.
        t: Gradient-flow time, shape ().
        panels: Pieces of [0, t], of 8 nodes each, in which the integral is summed. It is exact to rounding where c
            is smooth and 2 c s t / panels is below about 1, for the largest singular value s of sigma_yx.

    Returns:
        The network at that time, up to a rotation of its hidden units.

    Raises:
        ValueError: If the shapes do not fit, the time is negative, the start is not zero-balanced, `integral` returns
            another shape than it is given, or `panels` is not a whole number from 1 on.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import scheduled_network
        >>> start, target = 0.1 * jnp.eye(2), jnp.diag(jnp.array([2.0, 1.0]))
        >>> network = scheduled_network(start, start, target, jnp.sin, 1.5)  # c = cos t
        >>> [f"{strength:.4f}" for strength in network.matrix.diagonal()]
        ['0.3321', '0.0655']
    """
    t = finite(t, "t")
    if t.ndim != 0:
        raise ValueError(f"Argument `t` holds one time, but it has shape {t.shape}. Map over many with jax.vmap.")
    w1, w2, lam, sigma_yx, t = balanced_arguments(w1, w2, 0.0, sigma_yx, t, "t")
    nodes, weights = _grid(t, panels)
    edges = _of(integral, jnp.linspace(0.0, 1.0, panels + 1, dtype=t.dtype) * t)
    inside = _of(integral, nodes) - edges[:-1, None]
    q0 = jnp.concatenate([w1.T, w2])
    factor = _scheduled_factor(q0, flow_matrix(lam, sigma_yx), jnp.diff(edges), inside, weights)
    return Balanced(factor[: w1.shape[1]].T, factor[w1.shape[1] :])


def _grid(t: Array, panels: int) -> tuple[Array, Array]:
    """Nodes in all panels of [0, t], shape (..., panels, nodes), and the weights of the nodes of each."""
    if not whole(panels) or panels < 1:
        raise ValueError(
            f"Argument `panels` counts pieces of time and needs to be a whole number from 1 on, but it is {panels!r}."
        )
    places, weights = (jnp.asarray(row, t.dtype) for row in _NODES)
    starts = jnp.arange(panels, dtype=t.dtype)
    inside = (starts[:, None] + 0.5 * (1 + places)[None, :]) / panels
    return jnp.multiply.outer(t, inside), jnp.multiply.outer(0.5 * t / panels, weights)


def _of(integral: Callable[[Array], Array], at: Array) -> Array:
    value = jnp.asarray(integral(at))
    if value.shape != at.shape:
        raise ValueError(
            f"Argument `integral` takes an array of times and needs to return one number for each, so for times of "
            f"shape {at.shape} the same shape, but it returned shape {value.shape}."
        )
    return value.astype(at.dtype)


@jax.jit
def _scheduled_strength(
    start: Alike,
    e: Alike,
    end: Alike,
    inside: Float[Array, "*shape panels nodes"],
    weights: Float[Array, "*shape nodes"],
) -> Alike:
    sign = jnp.where(start < 0, -1.0, 1.0).astype(start.dtype)
    end, inside = 2 * e * sign * end, (2 * e * sign)[..., None, None] * inside
    # Everything over the largest exponential, so that none overflows.
    most = jax.lax.stop_gradient(jnp.maximum(jnp.maximum(end, 0.0), jnp.max(inside, axis=(-2, -1))))
    summed = jnp.sum(weights[..., None, :] * jnp.exp(inside - most[..., None, None]), axis=(-2, -1))
    return start * quotient(jnp.exp(end - most), jnp.exp(-most) + 2 * e * sign * start * summed)


@jax.jit
@full_precision()
def _scheduled_factor(
    q0: Float[Array, "n h"],
    f: Float[Array, "n n"],
    across: Float[Array, " panels"],
    inside: Float[Array, "panels nodes"],
    weights: Float[Array, " nodes"],
) -> Float[Array, "n h"]:
    grown = _exponential(f, across)
    psi = jnp.einsum("k,pkij->pij", weights, _exponential(f, 2 * inside.ravel()).reshape(*inside.shape, *f.shape))
    eye = jnp.eye(q0.shape[1], dtype=q0.dtype)

    def panel(q: Array, of: tuple[Array, Array]) -> tuple[Array, None]:
        grown, psi = of
        root = jnp.linalg.cholesky(eye + q.T @ psi @ q)
        return grown @ jax.scipy.linalg.solve_triangular(root, q.T, lower=True).T, None

    return jax.lax.scan(panel, q0, (grown, psi))[0]


@jax.custom_jvp
def _exponential(f: Float[Array, "n n"], x: Float[Array, " k"]) -> Float[Array, "k n n"]:
    """e^{F x} of a symmetric F for every x, with derivatives where eigenvalues of F coincide too."""
    rates, v = symmetric_axes(f)
    return jnp.einsum("ij,kj,lj->kil", v, jnp.exp(x[:, None] * rates[None, :]), v)


@_exponential.defjvp
def _(point: tuple[Array, Array], change: tuple[Array, Array]) -> tuple[Array, Array]:
    """In the eigenbasis of F, a change of F is weighted by (e^{f_i x} - e^{f_k x}) / (f_i - f_k)."""
    (f, x), (df, dx) = point, change
    rates, v = symmetric_axes(f)
    powers = x[:, None] * rates[None, :]
    one, other = powers[:, :, None], powers[:, None, :]
    slopes = x[:, None, None] * jnp.exp(jnp.maximum(one, other)) * phi1(jnp.abs(one - other))
    by_f = jnp.einsum("ij,kjl,ml->kim", v, slopes * (v.T @ df @ v)[None], v)
    by_x = jnp.einsum("ij,kj,lj->kil", v, rates[None, :] * jnp.exp(powers), v)
    return _exponential(f, x), by_f + by_x * dx[:, None, None]
