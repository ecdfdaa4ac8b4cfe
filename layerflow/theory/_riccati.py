"""The matrix Riccati flow behind two-layer linear networks, at any time in one evaluation."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from layerflow.base._numerics import product
from layerflow.theory._eigen import Axes, symmetric_axes
from layerflow.theory._special import phi1


def riccati_factor(
    f: Float[Array, "n n"], q0: Float[Array, "n h"], t: Float[Array, ""], axes: Axes | None = None
) -> Float[Array, "n h"]:
    """A factor Q of P(t) = Q Q^T for P' = F P + P F - P^2 with symmetric F and P(0) = Q0 Q0^T.

        P(t) = e^{Ft} Q0 (I + Q0^T psi(F) Q0)^{-1} Q0^T e^{Ft},    psi(f) = int_0^t e^{2fs} ds.

    Q equals the solution of Q' = F Q - Q Q^T Q / 2 up to a rotation from the right, and is Q0 at
    t = 0. Derivatives are those of a path of factors, so that functions of Q Q^T have theirs, and
    are finite where eigenvalues of F coincide.

    Args:
        f, q0, t: As above.
        axes: Eigenvalues and eigenvectors of F, where its structure gives them for less.
    """
    return _factor(symmetric_axes(f) if axes is None else axes, f, q0, t)


@jax.custom_jvp
def _factor(axes: Axes, f: Array, q0: Array, t: Array) -> Array:  # noqa: ARG001 - its change is what derivatives see
    return _evaluate(axes, q0, t)[0]


@_factor.defjvp
def _(point: tuple[Axes, Array, Array, Array], change: tuple[Axes, Array, Array, Array]) -> tuple[Array, Array]:
    """In the eigenbasis, where a change dF of F splits into one of the start and one of the axes.

    With N = V^T dF V, the change of e^{Ft} is e^{Ft} rho + Lambda e^{Ft}. Taking in rho the
    entries of N that feed a faster mode from a slower one and in Lambda the others, nothing in
    either grows faster than t; what is left of the change of psi is a matrix C as tame, for

        psi_ik - psi_i rho_ik = e^{f_k t} (sigma_i - sigma_k) / (f_i - f_k),    sigma(f) = sinh(ft) / f.
    """
    (axes, f, q0, t), (_, df, dq0, dt) = point, change
    q, (table, pivots, growth, out_scale, basis, back) = _evaluate(axes, q0, t)
    rates, v = axes
    n, h = q0.shape
    late = jnp.where(t > 0, t, 1.0)
    turned = v.T @ df @ v
    gap = jnp.abs(rates[:, None] - rates[None, :])
    spread = late * phi1(gap * late) * turned
    # Of two equal rates the later counts as the faster. The diagonal is shared between start and axes.
    tied, later = rates[:, None] == rates[None, :], jnp.tril(jnp.ones((n, n), bool), -1)
    faster = (rates[:, None] > rates[None, :]) | (tied & later)
    half = 0.5 * jnp.diag(jnp.diagonal(spread))
    to_faster, to_slower = jnp.where(faster, spread, half), jnp.where(faster.T, spread, half)

    dg = v.T @ dq0 + to_faster @ (v.T @ q0)
    dtable = jnp.concatenate([dg @ table[n:], jnp.zeros((h, h), q0.dtype)])
    dtable = dtable - table @ dtable[pivots]
    # An escape from a saddle has a derivative that no float holds: it is cut at the root of the largest.
    root = jnp.exp(0.5 * jnp.minimum(growth, 0.5 * jnp.log(jnp.finfo(q0.dtype).max)))
    dbasis = (dtable * root) * root @ back
    dbasis = dbasis - basis @ (basis.T @ dbasis)
    upper = basis[:n]
    dupper = dbasis[:n] - 0.5 * upper @ (upper.T @ (_leftover(rates, late) * turned) @ upper)
    moved = v @ (to_slower @ (out_scale[:, None] * upper) + out_scale[:, None] * dupper)
    return q, jnp.where(t > 0, moved, dq0) + (f @ q - 0.5 * q @ (q.T @ q)) * dt


def long_time_factor(f: Float[Array, "n n"], h: int) -> Float[Array, "n h"]:
    """The factor that almost every start with h columns comes to: the h largest eigenvalues of F."""
    return _long_time_factor(f, h)


def _evaluate(axes: Axes, q0: Array, t: Array) -> tuple[Array, tuple[Array, ...]]:
    """The factor, and what its derivative is made of."""
    n, (rates, v) = q0.shape[0], axes
    late = jnp.where(t > 0, t, 1.0)
    # psi = e^{2 max(f, 0) t} * share, kept as a logarithm because it may overflow.
    share = late * phi1(2 * jnp.abs(rates) * late)
    log_root = jnp.maximum(rates, 0.0) * late + 0.5 * jnp.log(share)
    # P = (g Q1) (g Q1)^T in the eigenbasis, where [Q1; Q2] is an orthonormal basis of the columns of
    # [sqrt(psi) V^T Q0; I] and g = e^{ft} / sqrt(psi) stays bounded.
    out_scale = jnp.exp(jnp.minimum(rates, 0.0) * late) / jnp.sqrt(share)
    table, pivots = _eliminate(product(v.T, q0), log_root)
    scale = jnp.concatenate([log_root, jnp.zeros(q0.shape[1], q0.dtype)])
    growth = scale[:, None] - scale[pivots][None, :]
    root = jnp.exp(0.5 * jnp.minimum(growth, jnp.log(jnp.finfo(q0.dtype).max)))
    basis, back = _orthonormal((table * root) * root)
    q = jnp.where(t > 0, product(v, out_scale[:, None] * basis[:n]), q0)
    return q, (table, pivots, growth, out_scale, basis, back)


def _eliminate(g: Float[Array, "n h"], log_scale: Float[Array, " n"]) -> tuple[Float[Array, "n_h h"], Int[Array, " h"]]:
    """Another basis of the columns of [G; I], that has 1 in a row of its own per column and 0 beside it.

    The rows stand for rows e^{log_scale} times as large (1 for I), which may overflow. The
    elimination is the same with and without these factors, so only the choice of the pivots looks
    at them: the largest entry of a column, to a factor of two. No scaled entry then is much larger than
    that of its pivot, and the scaled basis is well conditioned however many orders of magnitude the rows
    span. A QR decomposition of the scaled rows would round the small ones away.
    """
    n, h = g.shape
    table = jnp.concatenate([g, jnp.eye(h, dtype=g.dtype)])
    scale = jnp.concatenate([log_scale, jnp.zeros(h, g.dtype)])

    def pivot(
        j: Array, carry: tuple[Float[Array, "n_h h"], Bool[Array, " n_h"], Int[Array, " h"]]
    ) -> tuple[Float[Array, "n_h h"], Bool[Array, " n_h"], Int[Array, " h"]]:
        table, used, pivots = carry
        column = table[:, j]
        # The exponent in place of a logarithm, which costs more than all the rest.
        size = math.log(2) * jnp.frexp(jax.lax.stop_gradient(column))[1].astype(g.dtype) + scale
        row = jnp.argmax(jnp.where(used | (column == 0), -jnp.inf, size))
        here, this = jnp.arange(n + h) == row, jnp.arange(h) == j
        beside = table[row]
        column = column / beside[j]
        rest = table - column[:, None] * beside[None, :]
        table = jnp.where(this[None, :], column[:, None], rest)
        # Exactly 1 and 0: what rounding leaves here could be scaled up.
        table = jnp.where(here[:, None], this[None, :].astype(table.dtype), table)
        return table, used | here, jnp.where(this, row.astype(pivots.dtype), pivots)

    carry = (table, jnp.zeros(n + h, bool), jnp.zeros(h, jnp.int32))
    table, _, pivots = jax.lax.fori_loop(0, h, pivot, carry)
    return table, pivots


def _orthonormal(basis: Float[Array, "n h"]) -> tuple[Float[Array, "n h"], Float[Array, "h h"]]:
    """Orthonormal columns Q with the same span, and R^{-1} = the matrix that takes the basis to Q.

    Modified Gram-Schmidt: for so well conditioned a basis it is as exact as Householder's QR, and
    a batch of it is plain arithmetic.
    """
    h = basis.shape[1]

    def project(
        j: Array, carry: tuple[Float[Array, "n h"], Float[Array, "h h"]]
    ) -> tuple[Float[Array, "n h"], Float[Array, "h h"]]:
        basis, back = carry
        size = jnp.sqrt(jnp.sum(basis[:, j] ** 2))
        column, behind = basis[:, j] / size, back[:, j] / size
        share = jnp.where(jnp.arange(h) > j, column @ basis, 0.0)
        this = jnp.arange(h)[None, :] == j
        return (
            jnp.where(this, column[:, None], basis - column[:, None] * share[None, :]),
            jnp.where(this, behind[:, None], back - behind[:, None] * share[None, :]),
        )

    return jax.lax.fori_loop(0, h, project, (basis, jnp.eye(h, dtype=basis.dtype)))


def _leftover(rates: Float[Array, " n"], t: Float[Array, ""]) -> Float[Array, "n n"]:
    """(psi_ik - psi_i rho_ik) / sqrt(psi_i psi_k) for f_i >= f_k, and its mirror image.

    = e^{-gap t / 2} 2 sinh(L / 2) / gap,    L = log(sigma_i / sigma_k),    gap = f_i - f_k.
    """
    size = jnp.abs(rates)
    a, b = jnp.maximum(size[:, None], size[None, :]), jnp.minimum(size[:, None], size[None, :])
    between, gap = a - b, jnp.abs(rates[:, None] - rates[None, :])
    # The mean over [b, a] of d log(sigma) / df: three Gauss-Legendre nodes are exact to rounding where
    # the quotient of differences is not.
    near = between * t < 0.1
    nodes = [0.5 * (a + b) + x * between for x in (-0.5 * 0.6**0.5, 0.0, 0.5 * 0.6**0.5)]
    quadrature = sum(w / 18 * _log_slope(x * t) for w, x in zip((5, 8, 5), nodes, strict=True))
    far = jnp.where(near, 1.0, between)
    log_ratio = jnp.log(phi1(2 * a * t)) - jnp.log(phi1(2 * b * t))
    mean = t * jnp.where(near, quadrature, 1 + log_ratio / (far * t))
    half = 0.5 * between * mean
    # d|f|/df: +1 or -1 where both eigenvalues have one sign, and less where they have not.
    total = rates[:, None] + rates[None, :]
    same = jnp.sign(total)
    crossing = rates[:, None] * rates[None, :] < 0
    slope = same * jnp.where(crossing, between / jnp.where(gap > 0, gap, 1.0), 1.0)
    return jnp.exp(half - 0.5 * gap * t) * phi1(2 * half) * slope * mean


def _log_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """coth z - 1 / z for z >= 0."""
    small = z < 0.3
    near = jnp.where(small, z, 0.0)
    series = jnp.zeros_like(z)
    for c in (4 / 18243225, -1382 / 638512875, 2 / 93555, -1 / 4725, 2 / 945, -1 / 45, 1 / 3):
        series = series * near**2 + c
    far = jnp.where(small, 1.0, z)
    return jnp.where(small, near * series, 1 / jnp.tanh(far) - 1 / far)


@jax.custom_jvp
def _top(f: Array, pad: Array) -> Array:
    rates, v = jnp.linalg.eigh(f)
    h = pad.shape[0]
    return v[:, ::-1][:, :h] * jnp.sqrt(2 * jnp.maximum(rates[::-1][:h], 0.0))[None, :]


@_top.defjvp
def _(point: tuple[Array, Array], change: tuple[Array, Array]) -> tuple[Array, Array]:
    (f, pad), (df, _) = point, change
    rates, v = jnp.linalg.eigh(f)
    rates, v, h = rates[::-1], v[:, ::-1], pad.shape[0]
    positive = rates[:h] > 0
    root = jnp.where(positive, jnp.sqrt(2 * jnp.where(positive, rates[:h], 1.0)), 0.0)
    taken = jnp.concatenate([positive, jnp.zeros(f.shape[0] - h, bool)])
    gap = rates[None, :h] - rates[:, None]
    # Between a mode that is learnt and one that is not: the learnt one turns. A tie has no derivative.
    turn = jnp.where(gap > 0, root[None, :] / jnp.where(gap > 0, gap, 1.0), 0.0)
    grow = jnp.where(positive, 1 / jnp.where(positive, root, 1.0), 0.0)[None, :]
    return _top(f, pad), v @ (jnp.where(taken[:, None], grow, turn) * (v.T @ df @ v)[:, :h])


def _long_time_factor(f: Array, h: int) -> Array:
    return _top(f, jnp.zeros(h, f.dtype))
