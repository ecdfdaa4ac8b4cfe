"""Eigenvalues of symmetric matrices, small ones many at a time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from layerflow.base._numerics import product

Axes = tuple[Float[Array, " n"], Float[Array, "n n"]]

_SMALL = 4  # rows up to which rotations are written out
_SWEEPS = 6  # five bring any four rows to rounding, and each one squares what is left; one does for two


@jax.custom_jvp
def symmetric_axes(f: Float[Array, "n n"]) -> Axes:
    """Eigenvalues in any order and the eigenvectors as columns, F = V diag(f) V^T.

    On a CPU LAPACK is called once for each matrix of a batch, which for a 4 x 4 one takes four times as
    long as Jacobi's rotations: those are arithmetic of whole batches. Derivatives need distinct
    eigenvalues, as those of `jnp.linalg.eigh`.
    """
    if f.shape[0] <= _SMALL:
        return _jacobi(f)
    rates, v = jnp.linalg.eigh(f)
    return rates, v


@symmetric_axes.defjvp
def _(point: tuple[Array], change: tuple[Array]) -> tuple[Axes, Axes]:
    axes = symmetric_axes(*point)
    return axes, _turned(axes, change[0])


def flow_matrix(lam: Float[Array, ""], sigma_yx: Float[Array, "out inp"]) -> Float[Array, "inp_out inp_out"]:
    """F = [[-lam/2 I, sigma_yx^T], [sigma_yx, lam/2 I]]."""
    out, inp = sigma_yx.shape
    signs = jnp.concatenate([-jnp.ones(inp, lam.dtype), jnp.ones(out, lam.dtype)])
    corner = jnp.zeros((inp + out, inp + out), lam.dtype).at[inp:, :inp].set(sigma_yx)
    return corner + corner.T + jnp.diag(0.5 * lam * signs)


@jax.custom_jvp
def flow_axes(lam: Float[Array, ""], sigma_yx: Float[Array, "out inp"]) -> Axes:
    """`symmetric_axes` of the flow matrix, from the singular vectors of sigma_yx, a matrix of half the size.

    A mode of strength s couples one direction of the inputs to one of the outputs by [[-lam/2, s], [s, lam/2]],
    with eigenvalues +-sqrt(lam^2/4 + s^2); directions without a partner keep -lam/2 and lam/2.
    """
    out, inp = sigma_yx.shape
    if inp + out <= _SMALL and (out, inp) != (2, 2):
        return symmetric_axes(flow_matrix(lam, sigma_yx))
    u, s, v = _two_rotations(sigma_yx) if (out, inp) == (2, 2) else _singular_axes(sigma_yx)
    modes = len(s)
    half = 0.5 * lam
    rate = jnp.hypot(half, s)
    # The eigenvector of +rate is (s, rate + half), or (rate - half, s): the one that does not cancel.
    large = rate + jnp.abs(half)
    length = jnp.hypot(large, s)
    large = jnp.where(length > 0, large, 1.0) / jnp.where(length > 0, length, 1.0)
    small = s / jnp.where(length > 0, length, 1.0)
    first, second = jnp.where(half < 0, large, small), jnp.where(half < 0, small, large)
    v, v_alone, u, u_alone = v[:, :modes], v[:, modes:], u[:, :modes], u[:, modes:]
    upper = [v * first[None, :], -v * second[None, :], v_alone, jnp.zeros((inp, out - modes), s.dtype)]
    lower = [u * second[None, :], u * first[None, :], jnp.zeros((out, inp - modes), s.dtype), u_alone]
    alone = [jnp.full(inp - modes, -half), jnp.full(out - modes, half)]
    return jnp.concatenate([rate, -rate, *alone]), jnp.block([upper, lower])


@flow_axes.defjvp
def _(point: tuple[Array, Array], change: tuple[Array, Array]) -> tuple[Axes, Axes]:
    axes = flow_axes(*point)
    return axes, _turned(axes, flow_matrix(*change))


def _turned(axes: Axes, df: Array) -> Axes:
    """How eigenvalues and eigenvectors change with the matrix."""
    rates, v = axes
    turned = v.T @ df @ v
    gap = rates[None, :] - rates[:, None]
    turn = jnp.where(gap == 0, 0.0, turned / jnp.where(gap == 0, 1.0, gap))
    return jnp.diagonal(turned), v @ turn


def _singular_axes(a: Array) -> tuple[Array, Array, Array]:
    u, s, vt = jnp.linalg.svd(a)
    return u, s, vt.T


def _two_rotations(a: Array) -> tuple[Array, Array, Array]:
    """U, s and V of a 2 x 2 matrix U diag(s) V^T, with signs in s: one rotation makes it symmetric, one diagonal."""
    x, y = a[0, 0] + a[1, 1], a[1, 0] - a[0, 1]
    length = jnp.hypot(x, y)
    x = jnp.where(length > 0, x, 1.0)
    turn = jnp.stack([jnp.stack([x, -y]), jnp.stack([y, x])]) / jnp.where(length > 0, length, 1.0)
    s, v = symmetric_axes(product(turn.T, a))
    return product(turn, v), s, v


Entries = dict[tuple[int, int], Array]


def _jacobi(f: Array) -> tuple[Array, Array]:
    """Rotations that make one entry off the diagonal zero after the other, as in a tournament of rows.

    In a round the rows 0 and 1, 2 and 3 meet; then all but one move on by a place, until each met each.
    """
    n = f.shape[0]
    places = [0, *range(n - 1, n), *range(1, n - 1)] if n % 2 == 0 else [n - 1, *range(n - 1)]

    def meet(_: Array, carry: tuple[Entries, Entries]) -> tuple[Entries, Entries]:
        a, v = (dict(entries) for entries in carry)
        for p in range(0, n - 1, 2):
            q = p + 1
            # The smaller of the angles that make a_pq zero, by its tangent.
            gap, twice = a[q, q] - a[p, p], 2 * a[p, q]
            # Rounding between equal rows would turn them by any angle, sweep after sweep.
            least = jnp.finfo(f.dtype).eps * jnp.sqrt(jnp.abs(a[p, p])) * jnp.sqrt(jnp.abs(a[q, q]))
            twice = jnp.where(jnp.abs(twice) > least, twice, 0.0)
            length = jnp.abs(gap) + jnp.sqrt(gap * gap + twice * twice)
            tangent = jnp.where(gap < 0, -twice, twice) / jnp.where(length > 0, length, 1.0)
            cosine = 1 / jnp.sqrt(1 + tangent * tangent)
            sine, shift = tangent * cosine, tangent * a[p, q]
            a[p, p], a[q, q], a[p, q] = a[p, p] - shift, a[q, q] + shift, jnp.zeros_like(shift)
            others = [(min(p, r), max(p, r), min(q, r), max(q, r)) for r in range(n) if r not in (p, q)]
            for i, j, k, m in others:
                a[i, j], a[k, m] = cosine * a[i, j] - sine * a[k, m], sine * a[i, j] + cosine * a[k, m]
            for r in range(n):
                v[r, p], v[r, q] = cosine * v[r, p] - sine * v[r, q], sine * v[r, p] + cosine * v[r, q]
        moved = {(i, j): a[min(places[i], places[j]), max(places[i], places[j])] for i, j in a}
        return moved, {(i, j): v[i, places[j]] for i, j in v}

    upper = {(i, j): f[i, j] for i in range(n) for j in range(i, n)}
    one, zero = jnp.ones((), f.dtype), jnp.zeros((), f.dtype)
    axes = {(i, j): one if i == j else zero for i in range(n) for j in range(n)}
    a, v = jax.lax.fori_loop(0, (_SWEEPS if n > 2 else 1) * (n - 1 + n % 2), meet, (upper, axes))
    return jnp.stack([a[i, i] for i in range(n)]), jnp.stack([jnp.stack([v[i, j] for j in range(n)]) for i in range(n)])
