"""Two-layer networks whose singular vectors are those of the task."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import require
from layerflow.theory._matrices import measured, real_arrays, times
from layerflow.theory._mode import sigmoidal


def aligned_strengths(strengths: ArrayLike, targets: ArrayLike, t: ArrayLike) -> Float[Array, "*t mode"]:
    """Strengths of the modes of an aligned two-layer network: each a sigmoid of its own.

    On whitened inputs with sigma_yx = U diag(rho) V^T, w1(0) = R A V^T, w2(0) = U A R^T, the same
    diagonal A in both and R orthogonal, the modes never mix, and u_i = A_ii^2 follows

        u_i' = 2 u_i (rho_i - u_i),    u_i(t) / rho_i = 1 / (1 + (rho_i / u_i(0) - 1) e^{-2 rho_i t}).

    So w2 w1(t) = U diag(u) V^T: the mode overlap equals A_ii^2, not A_ii as the line under (12) of the
    paper says. A mode at 0 stays there. When each has a share of its target: `sigmoidal_time`.

    Args:
        strengths: u_i(0) = A_ii(0)^2, not negative, shape (mode,).
        targets: Singular values rho of sigma_yx, not negative, shape (mode,).
        t: Gradient-flow time, shape () or (t,).

    Returns:
        Array of shape (mode,) or (t, mode).

    Raises:
        ValueError: If the shapes do not fit, or a strength, target or time is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import aligned_strengths
        >>> aligned_strengths(jnp.full(2, 1e-3), jnp.array([2.0, 1.0]), 2.5).round(3).tolist()
        [1.8..., 0.12...]

    References:
        Nam et al., arXiv:2502.21009, (12), (57)-(59); Saxe et al. (2014), arXiv:1312.6120.
    """
    u0, rho, t = real_arrays(strengths=strengths, targets=targets, t=t)
    u0, rho, t = *_modes(u0, rho), times(t)
    if t.ndim > 1:
        raise ValueError(f"Argument `t` needs shape () or (t,), but it has shape {t.shape}.")
    late = jnp.broadcast_to(t[..., None], (*t.shape, *rho.shape))
    u0, rho = jnp.broadcast_to(u0, late.shape), jnp.broadcast_to(rho, late.shape)
    return sigmoidal(late, u0, rho)


def aligned_matrix(
    u: ArrayLike, v: ArrayLike, strengths: ArrayLike, targets: ArrayLike, t: ArrayLike
) -> Float[Array, "*t out inp"]:
    """End-to-end matrix w2 w1(t) = U diag(u(t)) V^T of an aligned two-layer network.

    Modes beyond the width of the hidden layer do not exist: pass only the first hid.

    Args:
        u: Left singular vectors of sigma_yx, shape (out, mode), from
            `u, targets, vt = jnp.linalg.svd(sigma_yx, full_matrices=False)`.
        v: Right singular vectors, vt.T, shape (inp, mode).
        strengths, targets, t: As for `aligned_strengths`.

    Returns:
        Array of shape (out, inp) or (t, out, inp).

    Raises:
        ValueError: As for `aligned_strengths`.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import aligned_matrix
        >>> aligned_matrix(jnp.eye(2), jnp.eye(2), jnp.full(2, 0.1), jnp.ones(2), 50.0).round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    References:
        Nam et al., arXiv:2502.21009, (12), (59).
    """
    u, v, strengths, targets, t = real_arrays(u=u, v=v, strengths=strengths, targets=targets, t=t)
    if u.ndim != 2 or v.ndim != 2 or u.shape[1:] != targets.shape or v.shape[1:] != targets.shape:
        raise ValueError(
            f"Singular vectors need `u` of shape (out, mode) and `v` of shape (inp, mode) for targets of shape "
            f"{targets.shape}, but they have shapes {u.shape} and {v.shape}. Pass vt.T as `v`."
        )
    return jnp.einsum("om,...m,im->...oi", u, aligned_strengths(strengths, targets, t), v)


def _modes(u0: Array, rho: Array) -> tuple[Array, Array]:
    """Strengths and targets, one of each per mode and none negative, or an error."""
    if u0.ndim != 1 or u0.shape != rho.shape:
        raise ValueError(
            f"Aligned modes need one strength and one target each, but `strengths` has shape {u0.shape} and `targets` "
            f"{rho.shape}. For all alike pass jnp.full(modes, strength)."
        )
    hint = "An aligned, balanced network has both layers equal in each mode"
    u0 = require(u0, u0 >= 0, f"{hint}, so `strengths` are squares, but some are negative{measured(u0, np.min)}.")
    rho = require(
        rho, rho >= 0, f"Argument `targets` holds singular values, but some are negative{measured(rho, np.min)}."
    )
    return u0, rho
