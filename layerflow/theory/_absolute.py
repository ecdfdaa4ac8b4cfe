"""Gaussian averages of |w.x|, the even part of a leaky ReLU."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import full_precision, safe_root
from layerflow.theory._matrices import real_arrays
from layerflow.theory._special import quotient


def absolute_moments(w: ArrayLike) -> Float[Array, "hid hid"]:
    """E[|w_i.x| |w_j.x|] of all pairs of hidden units, for inputs x ~ N(0, I).

        G_ij = (2 / pi) |w_i| |w_j| (sqrt(1 - c^2) + c asin c),    c = cos(w_i, w_j).

    Its gradient in w_i, (2 / pi) [w_i (|w_j| / |w_i|) sqrt(1 - c^2) + w_j asin c], keeps its digits at c = +-1 too,
    where asin has no derivative. At w_i = 0, where |w_i.x| has none, it is 0.

    Args:
        w: Input weights, shape (hid, inp).

    Returns:
        G, shape (hid, hid), whose diagonal is |w_i|^2.

    Raises:
        ValueError: If `w` is no matrix, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import absolute_moments
        >>> absolute_moments(jnp.array([[3.0, 0.0], [0.0, 2.0]])).round(4).tolist()
        [[9.0, 3.8197...], [3.8197..., 4.0]]

    References:
        Cho & Saul (2009), NeurIPS: the kernel of ReLU, from which it follows.
    """
    (w,) = real_arrays(w=w)
    if w.ndim != 2:
        raise ValueError(f"Argument `w` holds a row per hidden unit, so it needs shape (hid, inp), not {w.shape}.")
    return absolute_products(w)


def shifted_absolute_moments(w: ArrayLike, mean: ArrayLike) -> Float[Array, "*hid inp"]:
    """E[|w.x| x] for inputs x ~ N(m, I), which is 0 where m = 0.

        h = m [s sqrt(2 / pi) e^{-r^2 / 2} + w.m erf(r / sqrt(2))] + w erf(r / sqrt(2)),    s = |w|, r = w.m / s.

    To first order in 1 - slope, a leaky ReLU network f = kappa l + (1 - slope) g / 2 of input weights w_i and output
    weights a_i, l = sum_i a_i w_i.x and g = sum_i a_i |w_i.x|, has for targets beta.x the loss

        E(beta.x - kappa l)^2 / 2 - ((1 - slope) / 2) (beta - sum_i a_i w_i).(sum_i a_i h_i).

    Args:
        w: Input weights, shape (hid, inp), or (inp,) for one unit.
        mean: m, the mean of the inputs, shape (inp,).

    Returns:
        h, in the shape of `w`. At w = 0 it is 0, and so are its derivatives by w, which do not exist there.

    Raises:
        ValueError: If the shapes do not fit, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import shifted_absolute_moments
        >>> shifted_absolute_moments(jnp.array([1.0, 0.2]), jnp.array([0.7, -0.2])).round(4).tolist()
        [1.1674..., -0.0992...]
    """
    w, mean = real_arrays(w=w, mean=mean)
    if w.ndim not in (1, 2) or mean.shape != w.shape[-1:]:
        raise ValueError(
            f"Absolute moments need `w` of shape (hid, inp) or (inp,) and `mean` of shape (inp,), but they have shapes "
            f"{w.shape} and {mean.shape}."
        )
    return _shifted(w, mean)


@jax.jit
@full_precision()
def _shifted(w: Float[Array, "*hid inp"], mean: Float[Array, " inp"]) -> Float[Array, "*hid inp"]:
    size, along = safe_root(jnp.sum(w**2, axis=-1)), w @ mean
    ratio = quotient(along, size)
    share = jax.scipy.special.erf(ratio / math.sqrt(2))
    absolute = size * math.sqrt(2 / math.pi) * jnp.exp(-0.5 * ratio**2) + along * share  # E|w.x|
    return jnp.multiply(*jnp.broadcast_arrays(absolute[..., None], mean)) + w * share[..., None]


@jax.custom_jvp
@full_precision()
def absolute_products(w: Float[Array, "hid inp"]) -> Float[Array, "hid hid"]:
    """`absolute_moments` of an array that is checked."""
    size, angle = _polar(w)
    shape = jnp.sin(angle) + jnp.cos(angle) * (0.5 * math.pi - angle)
    return (2 / math.pi) * size[:, None] * size[None, :] * shape


@absolute_products.defjvp
@full_precision()
def _(point: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    """The gradient above: a derivative of the angle, infinite where units are parallel, does not occur in it."""
    (w,), (dw,) = point, change
    size, angle = _polar(w)
    own = quotient(jnp.sum(w * dw, axis=-1), size)
    half = own[:, None] * size[None, :] * jnp.sin(angle) + (0.5 * math.pi - angle) * (dw @ w.T)
    return absolute_products(w), (2 / math.pi) * (half + half.T)


def _polar(w: Float[Array, "hid inp"]) -> tuple[Float[Array, " hid"], Float[Array, "hid hid"]]:
    """Lengths of all rows, and angles between them, to all digits at 0 and pi too, which a cosine would not give."""
    size = safe_root(jnp.sum(w**2, axis=-1))
    unit = quotient(w, jnp.broadcast_to(size[:, None], w.shape))
    apart, close = (safe_root(jnp.sum((unit[:, None] + s * unit[None]) ** 2, axis=-1)) for s in (-1.0, 1.0))
    # Two rows of zeros have no angle: 0, without the NaN of a derivative.
    return size, 2 * jnp.arctan2(apart, jnp.where((apart == 0) & (close == 0), 1.0, close))
