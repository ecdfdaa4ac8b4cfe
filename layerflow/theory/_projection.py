"""Where the flow of a diagonal network on fewer samples than inputs ends: a Bregman projection of its start."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from layerflow.base._checks import require
from layerflow.base._numerics import full_precision, spanned
from layerflow.theory._matrices import measured, of_inputs, real_arrays
from layerflow.theory._mirror import log_scales, not_zero, stiffness, strength

_STEPS = 4000  # of Newton at most: |C| = 1e-300 takes some 700
_LAZY = 10.0  # |C| over the size of the solution, from where the way down begins


class Projection(eqx.Module):
    """The interpolator at which a flow ends."""

    strength: Float[Array, " inp"]  # beta
    dual: Float[Array, " n"]  # nu, in theta = theta(0) + x^T nu


def bregman_projection(x: ArrayLike, y: ArrayLike, theta: ArrayLike, difference: ArrayLike) -> Projection:
    """The interpolator at which gradient flow of f(x) = sum_i a_i b_i x_i ends.

        x beta = y,    beta_i = (|C_i| / 2) sinh(theta_i(0) + x_i . nu),    x_i column i of x.

    Of all solutions it is the one whose `mirror_potential` lies least above its tangent at beta(0). For large |C| it
    is that of `least_norm`, for small |C| and beta(0) = 0 that of `least_l1`, see `l1_rate`. Only C and beta(0)
    matter, not a and b, and neither does the weight of a sample. It is the limit of u^2 - v^2 too, of |C| = 4 |u v|.

    nu minimises a smooth convex function, found by Newton's method from large |C| down, to rounding. Derivatives of
    any order, in either mode, are those of the solution and not of the steps.

    Args:
        x: Inputs, one row per sample, shape (n, inp), of any rank; usually n < inp.
        y: Targets, shape (n,).
        theta: Mirror coordinates at t = 0, shape (inp,) or (): 0 where beta = 0, else `mirror_coordinate`.
        difference: C, not 0, shape (inp,) or ().

    Returns:
        beta and nu, of rows that depend on one another the least nu; NaN if no solution was found to rounding.

    Raises:
        ValueError: If no solution reaches y, C is 0, the shapes do not fit, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import bregman_projection
        >>> x, y = jnp.array([[1.0, 0.5, 0.2]]), jnp.array([1.0])
        >>> for difference in (100.0, 1.0, 1e-12):
        ...     print([f"{beta:.4f}" for beta in bregman_projection(x, y, 0.0, difference).strength])
        ['0.7752', '0.3876', '0.1550']
        ['0.8070', '0.3352', '0.1270']
        ['1.0000', '0.0000', '0.0000']

    References:
        Woodworth et al. (2020), arXiv:2002.09277; Azulay et al. (2021), arXiv:2102.09769.
    """
    x, y, theta, scale = _arguments(x, y, theta=theta, difference=log_scales(difference))
    rows, y = _reachable(x, y)
    beta, dual = _projection(rows, x, y, theta, scale)
    return Projection(beta, dual)


def least_norm(x: ArrayLike, y: ArrayLike, start: ArrayLike = 0.0, difference: ArrayLike = 1.0) -> Float[Array, " inp"]:
    """The interpolator of least weighted distance from the start: the lazy limit of `bregman_projection`.

        min sum_i (beta_i - beta_i(0))^2 / |C_i|    over all beta with x beta = y.

    For |C| -> inf the projection is off by the order of |C|^-2; of u^2 - v^2 the weights are 4 |u v|.

    Args:
        x: Inputs, one row per sample, shape (n, inp).
        y: Targets, shape (n,).
        start: beta(0), shape (inp,) or ().
        difference: C, not 0, shape (inp,) or (); only its ratios matter.

    Returns:
        beta, shape (inp,).

    Raises:
        ValueError: As for `bregman_projection`.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import least_norm
        >>> [f"{beta:.4f}" for beta in least_norm(jnp.array([[1.0, 0.5, 0.2]]), jnp.array([1.0]))]
        ['0.7752', '0.3876', '0.1550']

    References:
        Woodworth et al. (2020), arXiv:2002.09277; Azulay et al. (2021), arXiv:2102.09769.
    """
    x, y, start, c = _arguments(x, y, start=start, difference=not_zero(difference))
    rows, y = _reachable(x, y)
    return _least_norm(rows, x, y, start, jnp.abs(c))


def _arguments(x: ArrayLike, y: ArrayLike, **per_input: ArrayLike) -> list[Array]:
    """Everything in one dtype, what is per input in the shape of a row of `x`."""
    x, y, *rest = real_arrays(x=x, y=y, **per_input)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"A projection needs `x` of shape (n, inp) and `y` of shape (n,), but they have shapes {x.shape} and "
            f"{y.shape}. Of Samples with one output give y[:, 0]."
        )
    return [x, y, *of_inputs(x.shape[1], **dict(zip(per_input, rest, strict=True)))]


def _reachable(x: Float[Array, "n inp"], y: Float[Array, " n"]) -> tuple[Float[Array, "r n"], Float[Array, " n"]]:
    """A matrix p that makes the rows of p x orthonormal, those beyond the rank 0; and `y` if a solution reaches it."""
    rows, off = _orthonormal(x, y)
    most = jnp.finfo(y.dtype).eps ** 0.5
    y = require(
        y,
        off <= most,
        f"The flow ends at a beta with x beta = y, but there is none: of |y|, the nearest misses this share"
        f"{measured(off)}. Give fewer samples than inputs, or samples whose targets agree.",
    )
    return rows, y


@jax.jit
@full_precision()
def _orthonormal(x: Float[Array, "n inp"], y: Float[Array, " n"]) -> tuple[Float[Array, "r n"], Float[Array, ""]]:
    """Of the singular value decomposition, and how far y is from the columns of x, over |y|."""
    x, y = jax.lax.stop_gradient((x, y))
    u, s, _ = jnp.linalg.svd(x, full_matrices=False)
    kept = spanned(s, x.shape)
    rows = jnp.where(kept[:, None], u.T / jnp.where(kept, s, 1.0)[:, None], 0.0)
    inside = u @ jnp.where(kept, u.T @ y, 0.0)
    size = jnp.linalg.norm(y)
    return rows, jnp.linalg.norm(y - inside) / jnp.where(size > 0, size, 1.0)


@jax.jit
@full_precision()
def _projection(
    rows: Float[Array, "r n"],
    x: Float[Array, "n inp"],
    y: Float[Array, " n"],
    theta: Float[Array, " inp"],
    scale: Float[Array, " inp"],
) -> tuple[Float[Array, " inp"], Float[Array, " n"]]:
    w = rows @ x
    dual = _dual(w, rows @ y, theta, scale)
    return strength(theta + dual @ w, scale), dual @ rows


@jax.jit
@full_precision()
def _least_norm(
    rows: Float[Array, "r n"],
    x: Float[Array, "n inp"],
    y: Float[Array, " n"],
    start: Float[Array, " inp"],
    c: Float[Array, " inp"],
) -> Float[Array, " inp"]:
    w, c = rows @ x, c / c.max()
    return start + c * (_newton(w, c, rows @ (y - x @ start)) @ w)


@jax.custom_jvp
def _dual(
    w: Float[Array, "r inp"], y: Float[Array, " r"], theta: Float[Array, " inp"], scale: Float[Array, " inp"]
) -> Float[Array, " r"]:
    """mu with w beta(theta + w^T mu) = y, for orthonormal rows of w, or rows of 0."""
    end: Any = jax.lax.while_loop(_goes_on, functools.partial(_step, w, y, theta, scale), _begin(w, y, theta, scale))
    found = strength(theta + end.dual @ w, scale)
    missed = jnp.abs(y - w @ found).max()
    # Rounding of theta, which may be hundreds, is a relative error of beta.
    allowed = min(2.0**20 * float(jnp.finfo(y.dtype).eps), 1e-3) * jnp.abs(found).max()
    return jnp.where(missed <= allowed, end.dual, jnp.nan)


@_dual.defjvp
def _(point: tuple[Array, ...], change: tuple[Array, ...]) -> tuple[Array, Array]:
    """Of the solution: what changes the left side at fixed mu has to be undone by mu."""
    w, _, theta, scale = point
    dual = _dual(*point)
    left = lambda w, theta, scale: w @ strength(theta + dual @ w, scale)
    dw, dy, dtheta, dscale = change
    _, moved = jax.jvp(left, (w, theta, scale), (dw, dtheta, dscale))
    return dual, _newton(w, stiffness(theta + dual @ w, scale), dy - moved)


@jax.custom_jvp
def _newton(w: Float[Array, "r inp"], h: Float[Array, " inp"], left: Float[Array, " r"]) -> Float[Array, " r"]:
    """The solution of w diag(h) w^T d = left, 0 in rows of w that are 0.

    By the singular values of sqrt(h) w^T: the product has the square of its condition, which for small |C| is all
    digits. Not by QR, of which batches were seen to hang.
    """
    unused = jnp.diag((jnp.abs(w).max(axis=1) == 0).astype(w.dtype))
    _, s, vt = jnp.linalg.svd(jnp.concatenate([jnp.sqrt(h)[:, None] * w.T, unused]), full_matrices=False)
    return (vt @ left / s**2) @ vt


@_newton.defjvp
def _(point: tuple[Array, ...], change: tuple[Array, ...]) -> tuple[Array, Array]:
    """Of the solution: singular values that are equal, as at large |C|, have no derivative of their own."""
    (w, h, left), (dw, dh, dleft) = point, change
    d = _newton(w, h, left)
    moved = dw @ (h * (d @ w)) + w @ (dh * (d @ w)) + w @ (h * (d @ dw))
    return d, _newton(w, h, dleft - moved)


class _State(eqx.Module):
    dual: Float[Array, " r"]
    above: Float[Array, ""]  # ln of the factor by which C still is too large
    step: Float[Array, ""]  # by how much Newton last wanted to move theta at the C asked for
    number: Int[Array, ""]
    done: Bool[Array, ""]


def _begin(
    w: Float[Array, "r inp"], y: Float[Array, " r"], theta: Float[Array, " inp"], scale: Float[Array, " inp"]
) -> _State:
    """At mu = 0, and |C| so large that the way to the solution is short."""
    size = jnp.maximum(jnp.abs(y @ w).max(), jnp.abs(strength(theta, scale)).max())
    lazy = jnp.log(_LAZY * jnp.where(size > 0, size, 1.0)) - scale.max()
    above = jnp.where(size > 0, jnp.maximum(lazy, 0.0), 0.0)
    return _State(jnp.zeros_like(y), above, jnp.full_like(above, jnp.inf), jnp.asarray(0), jnp.asarray(False))


def _goes_on(state: _State) -> Bool[Array, ""]:
    return ~state.done & (state.number < _STEPS)


def _step(
    w: Float[Array, "r inp"],
    y: Float[Array, " r"],
    theta: Float[Array, " inp"],
    scale: Float[Array, " inp"],
    state: _State,
) -> _State:
    """One step of Newton at the present |C|, and where it is small a step down in ln |C| along the solution."""
    start, size = _start(theta, state.above), scale + state.above
    now = start + state.dual @ w
    beta, h = strength(now, size), stiffness(now, size)
    eps, left = jnp.finfo(y.dtype).eps, y - w @ beta
    # Directions of mu that move beta by less than rounding of y are left alone: what is missed there is noise.
    solve = functools.partial(_newton, w, h + 64 * eps * jnp.abs(beta).max())
    # At beta(0) held fixed and mu held fixed, beta falls by beta - h tanh(start) for each unit of ln |C|.
    newton, along = jax.vmap(solve)(jnp.stack([left, w @ (beta - h * jnp.tanh(start))]))
    wanted, speed = jnp.abs(newton @ w).max(), jnp.abs(along @ w).max()
    down = jnp.where(wanted < 0.25, jnp.minimum(state.above, 1 / jnp.maximum(speed, 1.0)), 0.0)
    move = newton + down * along
    limit = jnp.abs(move @ w).max()
    rounding = eps * (1 + jnp.abs(now).max()) * jnp.abs(beta).max()
    near = (wanted < 1e-3) | (jnp.abs(left).max() < 64 * rounding)
    still = (wanted < 4 * eps) | (near & (wanted >= 0.9 * state.step))
    return _State(
        dual=state.dual + move / jnp.maximum(limit, 1.0),
        above=state.above - down,
        step=jnp.where(state.above > 0, jnp.inf, wanted),
        number=state.number + 1,
        done=((state.above == 0) & still) | ~jnp.isfinite(limit),
    )


def _start(theta: Float[Array, " inp"], above: Float[Array, ""]) -> Float[Array, " inp"]:
    """theta of the same beta(0) at |C| larger by e^above: asinh(e^-above sinh theta)."""
    size = jnp.abs(theta)
    far = jnp.arcsinh(-0.5 * jnp.exp(size - above) * jnp.expm1(-2 * size))
    return jnp.where(above == 0, theta, jnp.sign(theta) * far)
