"""Eigenvalues of symmetric matrices, small ones many at a time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALL = 4  # rows up to which rotations are written out
_SWEEPS = 6  # five bring any four rows to rounding, and each one squares what is left


@jax.custom_jvp
def symmetric_axes(f: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
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
def _(point: tuple[Array], change: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    rates, v = symmetric_axes(*point)
    turned = v.T @ change[0] @ v
    gap = rates[None, :] - rates[:, None]
    turn = jnp.where(gap == 0, 0.0, turned / jnp.where(gap == 0, 1.0, gap))
    return (rates, v), (jnp.diagonal(turned), v @ turn)


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
    a, v = jax.lax.fori_loop(0, _SWEEPS * (n - 1 + n % 2), meet, (upper, axes))
    return jnp.stack([a[i, i] for i in range(n)]), jnp.stack([jnp.stack([v[i, j] for j in range(n)]) for i in range(n)])
