"""Two-layer networks with a given layer imbalance."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow.base._checks import check_key, real_array, require
from layerflow.base._keys import normals
from layerflow.base._numerics import safe_root
from layerflow.networks import LinearNetwork


def lambda_balanced(
    key: PRNGKeyArray, lam: ArrayLike, strengths: ArrayLike, *, inp: int, hid: int, out: int
) -> LinearNetwork:
    """Draw a two-layer network with a given layer imbalance and mode strengths.

    The weights satisfy

        w2^T w2 - w1 w1^T = lam * I,    singular values of w2 @ w1 = strengths,

    and gradient flow keeps the first for all time. Possible for lam = 0; for lam > 0
    if hid <= out; for lam < 0 if hid <= inp.

    Args:
        key: Source of the random singular vectors.
        lam: Layer imbalance, shape (), in units of weight^2.
        strengths: Singular values at t = 0, shape (min(inp, hid, out),) or a scalar for all.
            The code behind the paper's Figure 6(a) puts sqrt(scale) where its text says
            scale; to draw that figure pass sqrt(scale).
        inp, hid, out: Widths.

    Returns:
        Network with `weights` of shapes (hid, inp) and (out, hid).

    Raises:
        ValueError: If no such weights exist for these widths, or `strengths` does not
            hold one value per mode or holds a negative one.

    Example:
        >>> import jax, layerflow as lf
        >>> network = lf.lambda_balanced(jax.random.key(0), 2.0, 1.0, inp=3, hid=1, out=1)
        >>> [w.shape for w in network.weights]
        [(1, 3), (1, 1)]

    References:
        Dominé et al. (2025), "From Lazy to Rich", arXiv:2409.14623.
    """
    check_key(key)
    for name, width in (("inp", inp), ("hid", hid), ("out", out)):
        if isinstance(width, tuple | list):
            raise TypeError(
                f"Argument `{name}` is one width, but it is {width}. For several hidden layers take "
                f"lf.lambda_balanced_chain(key, lams, strengths, widths=(inp, ..., out))."
            )
        if width < 1:
            raise ValueError(f"Argument `{name}` is a width and needs to be at least 1, but it is {width}.")
    dtype = jnp.promote_types(real_array(lam, "lam").dtype, real_array(strengths, "strengths").dtype)
    v, r, u = orthogonal_matrices(key, (inp, hid, out), dtype)
    return two_layers(lam, strengths, u, r, v)


def two_layers(
    lam: ArrayLike,
    strengths: ArrayLike,
    u: Float[Array, "out out"],
    r: Float[Array, "hid hid"],
    v: Float[Array, "inp inp"],
) -> LinearNetwork:
    """The lambda-balanced network with given strengths and singular vectors, or an error."""
    return LinearNetwork(_layers(*_checked(lam, strengths, v.shape[0], r.shape[0], u.shape[0]), u, r, v))


@functools.partial(jax.jit, inline=True)  # traced once, not at every sweep
def _layers(
    lam: Float[Array, ""],
    strengths: Float[Array, " modes"],
    u: Float[Array, "out out"],
    r: Float[Array, "hid hid"],
    v: Float[Array, "inp inp"],
) -> tuple[Float[Array, "hid inp"], Float[Array, "out hid"]]:
    inp, hid, out = v.shape[0], r.shape[0], u.shape[0]
    # Not jnp.abs, whose derivative at 0 is neither that of the one side nor of the other.
    size = jnp.where(lam >= 0, lam, -lam)
    larger, smaller = _layer_strengths(size, strengths)
    # Hidden units beyond the modes carry the imbalance alone: sqrt(|lam|) in the heavier layer.
    surplus = jnp.full(hid - strengths.size, safe_root(size))
    heavy = jnp.concatenate([larger, surplus])
    light = jnp.concatenate([smaller, jnp.zeros_like(surplus)])
    s1, s2 = jnp.where(lam >= 0, light, heavy), jnp.where(lam >= 0, heavy, light)
    return r @ rectangular(s1, hid, inp) @ v.T, u @ rectangular(s2, out, hid) @ r.T


def _checked(
    lam: ArrayLike, strengths: ArrayLike, inp: int, hid: int, out: int
) -> tuple[Float[Array, ""], Float[Array, " modes"]]:
    """Imbalance and strengths as arrays of one dtype, or an error."""
    lam, strengths = real_array(lam, "lam"), real_array(strengths, "strengths")
    dtype = jnp.promote_types(lam.dtype, strengths.dtype)
    lam, strengths = lam.astype(dtype), strengths.astype(dtype)
    modes = min(inp, hid, out)
    if lam.shape != ():
        raise ValueError(
            f"Argument `lam` is one number, but it has shape {lam.shape}. For many values map the call with "
            f"jax.vmap, or make `lam` an axis of lf.sweep."
        )
    if strengths.shape not in ((), (modes,)):
        raise ValueError(
            f"Argument `strengths` holds one singular value per mode, so for inp={inp}, hid={hid} and out={out} it "
            f"needs shape ({modes},), but it has shape {strengths.shape}. To start all modes equal, pass one number."
        )
    strengths = require(
        jnp.broadcast_to(strengths, (modes,)),
        strengths >= 0,
        "Argument `strengths` holds singular values, which are not negative, but some are.",
    )
    reason = (
        "No two-layer network with inp={inp}, hid={hid}, out={out} has w2^T w2 - w1 w1^T = lam * I with lam {sign} 0: "
        "the rank of the heavier layer, {layer}, is at most {name}, and it needs to be hid. "
        "Take hid <= {name}, or lam {other} 0."
    )
    if hid > out:
        message = reason.format(inp=inp, hid=hid, out=out, sign=">", layer="w2", name=f"out={out}", other="<=")
        lam = require(lam, lam <= 0, message)
    if hid > inp:
        message = reason.format(inp=inp, hid=hid, out=out, sign="<", layer="w1", name=f"inp={inp}", other=">=")
        lam = require(lam, lam >= 0, message)
    return lam, strengths


def _layer_strengths(
    lam: Float[Array, ""], strengths: Float[Array, " modes"]
) -> tuple[Float[Array, " modes"], Float[Array, " modes"]]:
    """Singular values of the heavier and of the lighter layer for imbalance lam >= 0."""
    heavy_squared = 0.5 * (lam + jnp.hypot(lam, 2 * strengths))
    # strengths / heavy instead of sqrt((k - lam) / 2), which cancels for large lam; zero
    # strengths at lam = 0 leave both layers zero, and the inner where keeps gradients finite.
    zero = heavy_squared == 0
    heavy = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, heavy_squared)))
    return heavy, jnp.where(zero, 0.0, strengths / jnp.where(zero, 1.0, heavy))


def rectangular(diagonal: Float[Array, " k"], rows: int, columns: int) -> Float[Array, "rows columns"]:
    """The matrix with the leading part of `diagonal` on its diagonal."""
    return jnp.eye(rows, columns, dtype=diagonal.dtype) * _pad(diagonal, columns)[None, :]


def _pad(values: Float[Array, " k"], length: int) -> Float[Array, " length"]:
    return jnp.pad(values[:length], (0, max(0, length - values.shape[0])))


@functools.partial(jax.jit, static_argnums=(1, 2))  # traced once, not at every sweep
def orthogonal_matrices(
    key: PRNGKeyArray, sizes: tuple[int, ...], dtype: jnp.dtype
) -> tuple[Float[Array, "_n _n"], ...]:
    """Random rotations (Haar), one per size, from one stacked factorisation.

    jaxlib on CPU was seen to deadlock on programs with several independent batched QR calls.
    """
    largest = max(sizes)
    keys = jax.random.split(key, len(sizes))
    # A block of the identity beside each draw makes all draws one size and stays apart in the QR.
    draws = normals(keys, [(n, n) for n in sizes], dtype)
    draws = [jnp.eye(largest, dtype=dtype).at[:n, :n].set(draw) for n, draw in zip(sizes, draws, strict=True)]
    q, r = jnp.linalg.qr(jnp.stack(draws))
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]  # makes the draw uniform
    return tuple(q[i, :n, :n] for i, n in enumerate(sizes))
