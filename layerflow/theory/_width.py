"""Wide networks from random weights: their map, and when its modes are learned."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import not_negative, positive, together
from layerflow.theory._eigen import flow_axes, flow_matrix
from layerflow.theory._matrices import real_arrays
from layerflow.theory._matrices import times as from_zero
from layerflow.theory._riccati import riccati_factor
from layerflow.theory._richness import kernel_growth
from layerflow.theory._scalar import scalar_network_time
from layerflow.theory._special import Alike, quotient

_SCALE = "K, weight variance times width,"


def wide_matrix(
    start: ArrayLike, weight_scale: ArrayLike, sigma_yx: ArrayLike, t: ArrayLike
) -> Float[Array, "*t out inp"]:
    """The map A = w2 w1 of a wide two-layer network from random weights, on whitened inputs: mixed dynamics.

    Weights of variance v and a width large beside inp + out start at w2 w2^T = w1^T w1 = K I, K = v * width.
    From there, up to deviations that fall as width^(-1/2),

        A' = (A A^T + K^2)^(1/2) (S - A) + (S - A) (A^T A + K^2)^(1/2),
        w2 w2^T = (A A^T + K^2)^(1/2),    w1^T w1 = (A^T A + K^2)^(1/2).

    This is also how w2 w1 moves in a lambda-balanced network of min(inp, out) hidden units with |lambda| = 2K,
    hence the closed form of `balanced_network`. It is exact for a network of any width in which
    w2^T w2 - w1 w1^T has eigenvalues K (out times), -K (inp times) and 0 only, and w2 w1 = 0 at t = 0, as for
    hid = inp + out, w1 = sqrt(K) [I; 0], w2 = sqrt(K) [0, I]. First derivatives are finite everywhere, at A = 0
    too; second ones need distinct singular values.

    Args:
        start: A at t = 0, shape (out, inp): w2 w1 of the network itself, or zeros for an infinite width.
        weight_scale: K >= 0, shape (). At K = 0 the flow is that of zero-balanced layers, and A = 0 stays.
        sigma_yx: S, the input-output correlation E[y x^T], shape (out, inp).
        t: Gradient-flow times, shape () or (t,).

    Returns:
        A, shape (out, inp) for one time, (t, out, inp) for many.

    Raises:
        ValueError: If the shapes do not fit, K or a time is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import wide_matrix
        >>> task = jnp.diag(jnp.array([2.0, 0.5]))
        >>> print(*(f"{mode:.4f}" for mode in wide_matrix(jnp.zeros((2, 2)), 0.1, task, 1.5).diagonal()))
        1.8284 0.1635

    References:
        Tu, Aranguri and Jacot (2024), arXiv:2405.17580; Dominé et al. (2025), arXiv:2409.14623.
    """
    start, scale, sigma_yx, t = real_arrays(
        start=start, weight_scale=not_negative(weight_scale, "weight_scale", _SCALE), sigma_yx=sigma_yx, t=t
    )
    if sigma_yx.ndim != 2:
        raise ValueError(f"Argument `sigma_yx` is E[y x^T] of shape (out, inp), but it has shape {sigma_yx.shape}.")
    if start.shape != sigma_yx.shape:
        raise ValueError(
            f"Argument `start` is the map at t = 0, so for this task it needs shape {sigma_yx.shape}, but it has shape "
            f"{start.shape}. An infinite width starts at jnp.zeros({sigma_yx.shape})."
        )
    if scale.shape != ():
        raise ValueError(
            f"Argument `weight_scale` is one number, but it has shape {scale.shape}. Map over many with jax.vmap."
        )
    if t.ndim > 1:
        raise ValueError(f"Argument `t` holds one time or times in a vector, but it has shape {t.shape}.")
    return _wide_matrix(start, scale, sigma_yx, from_zero(t))


def wide_time(fraction: ArrayLike, weight_scale: ArrayLike, target: ArrayLike) -> Float[Array, "..."]:
    """When a mode of `wide_matrix` that starts at 0 has a fraction of its target.

    The mode moves by rho' = 2 sqrt(rho^2 + K^2) (s - rho), which is `balanced_strength` with lam = 2K, and
    comes to rho = q s at

        t = log( (g - g_-) (g_+ - 1) / ((g_+ - g) (1 - g_-)) ) / (2 r),    r = sqrt(s^2 + K^2),
        g = (q s + sqrt(q^2 s^2 + K^2)) / K,    g_+ = (s + r) / K,    g_- = -K / (s + r).

    Half of the target takes log(2) / (2K) where s << K, the time of a lazy mode, the same for all, and
    log(2 s / K) / (2 s) where s >> K.

    Args:
        fraction: q > 0, in units of the target.
        weight_scale: K >= 0, weight variance times width.
        target: s, a singular value of the input-output correlation on whitened inputs.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, of that shape; infinite for q >= 1, and for K = 0, where the mode stays at 0.

    Raises:
        ValueError: If a fraction is not positive, K is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import wide_time
        >>> print(*(f"{time:.4f}" for time in wide_time(0.5, jnp.array([1e-3, 1.0, 1e3]), 1.0)))
        3.8000 0.3313 0.0003

    References:
        Tu, Aranguri and Jacot (2024), arXiv:2405.17580, for the dynamics.
    """
    fraction, scale, target = together(
        fraction=positive(fraction, "fraction", "a share of the target"),
        weight_scale=not_negative(weight_scale, "weight_scale", _SCALE),
        target=target,
    )
    # Of smaller targets the time is that of s -> 0 to rounding; at s = 0 itself every level is 0.
    least = jnp.finfo(target.dtype).eps * scale
    target = jnp.where(jnp.abs(target) < least, least, target)
    return scalar_network_time(fraction * target, *_single_mode(scale), target)


def wide_kernel_growth(weight_scale: ArrayLike, target: ArrayLike) -> Float[Array, "..."]:
    """How many times its first value the speed of a mode of `wide_matrix` from 0 is at last: lazy or active.

        sqrt(rho^2 + K^2) / K  at rho = s:    r / K = sqrt(1 + s^2 / K^2).

    Below s = K a mode is lazy, its kernel all but constant, and above it is active. Of one network
    some modes may be lazy and some active, hence mixed dynamics. With v = d^(-g) the variance of the weights,
    d^(g_w) the width and s = d^(g_s), modes are lazy for large d if g_w - g > g_s, and active if less.

    Args:
        weight_scale: K > 0, weight variance times width.
        target: s, a singular value of the input-output correlation on whitened inputs.

    The shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The ratio, of that shape.

    Raises:
        ValueError: If K is not positive, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import wide_kernel_growth
        >>> print(*(f"{growth:.3f}" for growth in wide_kernel_growth(jnp.array([0.1, 1.0, 10.0]), 1.0)))
        10.050 1.414 1.005

    References:
        Tu, Aranguri and Jacot (2024), arXiv:2405.17580, for the dynamics.
    """
    scale, target = together(weight_scale=positive(weight_scale, "weight_scale", _SCALE), target=target)
    return kernel_growth(*_single_mode(scale), target)


@jax.jit
def _wide_matrix(
    start: Float[Array, "out inp"], scale: Float[Array, ""], sigma_yx: Float[Array, "out inp"], t: Float[Array, "*t"]
) -> Float[Array, "*t out inp"]:
    out, inp = start.shape
    if out > inp:  # the flow of A^T is that of A with S^T, and its lambda-balanced network is the narrower one
        return _wide_matrix(start.T, scale, sigma_yx.T, t).mT
    lam, q0 = 2 * scale, jnp.concatenate(_layers(start, scale))
    f, axes = flow_matrix(lam, sigma_yx), flow_axes(lam, sigma_yx)

    def at(t: Array) -> Array:
        q = riccati_factor(f, q0, t, axes)
        return q[inp:] @ q[:inp].T

    return at(t) if t.ndim == 0 else jax.vmap(at)(t)


def wide_layers(
    w1: Float[Array, "hid inp"],
    w2: Float[Array, "out hid"],
    scale: Float[Array, ""],
    sigma_yx: Float[Array, "out inp"],
    t: Float[Array, " t"],
) -> tuple[Float[Array, "t hid inp"], Float[Array, "t out hid"]]:
    """Layers of `wide_matrix` at many times, up to a rotation of the hidden units, in units of E[x x^T] = I.

    With Q = [w1^T; w2], Q Q^T is a function of A and K alone: its root turns the start into what it becomes.
    """
    inp, start = w1.shape[1], w2 @ w1
    turned = jnp.linalg.solve(_gram_root(start, scale), jnp.concatenate([w1.T, w2]))

    def at(a: Float[Array, "out inp"]) -> tuple[Array, Array]:
        q = _gram_root(a, scale) @ turned
        return q[:inp].T, q[inp:]

    return jax.vmap(at)(_wide_matrix(start, scale, sigma_yx, t))


def _gram_root(a: Float[Array, "out inp"], scale: Float[Array, ""]) -> Float[Array, "inp_out inp_out"]:
    """The root of [(A^T A + K^2)^(1/2), A^T; A, (A A^T + K^2)^(1/2)]."""
    across, outputs = _layers(a, scale)
    return jnp.block([[_layers(a.T, scale)[1], across], [across.T, outputs]]) / 2**0.5


@jax.custom_jvp
def _layers(
    a: Float[Array, "out inp"], scale: Float[Array, ""]
) -> tuple[Float[Array, "inp out"], Float[Array, "out out"]]:
    """w1^T and w2 of the lambda-balanced network with lambda = 2K, w2 w1 = A and a symmetric w2.

    w2^2 = (A A^T + K^2)^(1/2) + K.
    """
    _, w2, inverse = _second_layer(a, scale)
    return a.T @ inverse, w2


@_layers.defjvp
def _(point: tuple[Array, Array], change: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """By divided differences of the eigenvalues h of w2, which have no difference in them.

    With h^2 = m + K, m^2 = s^2 + K^2: (h_i - h_k) / (s_i^2 - s_k^2) = 1 / ((h_i + h_k) (m_i + m_k)), dh / dK = h / 2m.
    """
    (a, scale), (da, dscale) = point, change
    (u, root, h), w2, inverse = _second_layer(a, scale)
    half = u.T @ da @ a.T @ u
    turned = quotient(half + half.T, (h[:, None] + h[None, :]) * (root[:, None] + root[None, :]))
    dw2 = u @ (turned + jnp.diag(0.5 * quotient(h, root) * dscale)) @ u.T
    w1 = a.T @ inverse
    return (w1, w2), ((da.T - w1 @ dw2) @ inverse, dw2)


def _second_layer(a: Array, scale: Array) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """Eigenvectors, m and h as above; w2; and its inverse, without the directions in which it is 0."""
    out, inp = a.shape
    u, s, _ = jnp.linalg.svd(a, full_matrices=out > inp)
    s = jnp.pad(s, (0, max(out - inp, 0)))
    root = safe_root(s**2 + scale**2)
    h = safe_root(root + scale)
    return (u, root, h), (u * h[None, :]) @ u.T, (u * quotient(jnp.ones_like(h), h)[None, :]) @ u.T


def _single_mode(scale: Alike) -> tuple[Float[Array, "*shape 1"], Float[Array, "*shape 1"]]:
    """Weights of a scalar network of width 1 that is a mode of mixed dynamics at 0: a^2 - b^2 = 2K."""
    layer = safe_root(2 * scale)[..., None]
    return layer, jnp.zeros_like(layer)
