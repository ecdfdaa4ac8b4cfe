"""Networks of leaky ReLU as perturbations of linear ones, the units slope z + (1 - slope) max(z, 0) of `MLP(slope=)`.

Such a unit is kappa z + ((1 - slope) / 2) |z|, with the gain kappa = (1 + slope) / 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import full_precision
from layerflow.theory._absolute import absolute_products
from layerflow.theory._arguments import ensure, finite, times
from layerflow.theory._matrices import real_arrays
from layerflow.theory._neuron import Neuron, single_neuron


def leaky_pair(w: ArrayLike, a: ArrayLike, beta: ArrayLike, t: ArrayLike, *, slope: ArrayLike) -> Neuron:
    """A leaky ReLU unit and its mirror image, f(x) = a phi(w.x) - a phi(-w.x), after gradient flow for a time t.

    The even parts of the two cancel, f(x) = 2 kappa a w.x with kappa = (1 + slope) / 2, and do so for all time. On
    inputs with E[x x^T] = I that are as likely as their negatives, and targets beta.x, the weights are those of

        single_neuron(sqrt(2) w, sqrt(2) a, beta / kappa, kappa^2 t) / sqrt(2),

    exactly and at every slope, that of ReLU included.

    Args:
        w: Input weights of the unit at t = 0, shape (inp,).
        a: Its output weight at t = 0, shape ().
        beta: Target E[y x], shape (inp,).
        t: Gradient-flow time, shape () or (t,).
        slope: The slope of the units at negative arguments, above -1, shape ().

    Returns:
        Weights of the unit at `t`; those of the other are their negatives. The network is the linear map
        (1 + slope) `map`.

    Raises:
        ValueError: If the shapes do not fit, a time is negative, the slope is -1 or less, or a number is not real or
            not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import leaky_pair
        >>> relu = leaky_pair(jnp.array([0.5, -0.3, 0.2]), 0.6, jnp.array([1.0, -0.5, 0.3]), 20.0, slope=0.0)
        >>> jnp.abs(relu.map).round(3).tolist()  # 1 + slope times it is the network
        [1.0, 0.5, 0.3]

    References:
        Zhang, Saxe & Latham (2024), arXiv:2406.12615.
    """
    w, a, beta, t, slope = real_arrays(w=w, a=a, beta=beta, t=times(t), slope=_shared(slope))
    gain = 0.5 * (1 + slope)
    linear = single_neuron(2**0.5 * w, 2**0.5 * a, beta / gain, gain**2 * t)
    return Neuron(linear.w / 2**0.5, linear.a / 2**0.5)


def leaky_map(
    linear: Callable[[Array, Array], Float[Array, "..."]], target: ArrayLike, t: ArrayLike, *, slope: ArrayLike
) -> Float[Array, "..."]:
    """The linear part E[f(x) x^T] of a leaky ReLU network on symmetric white inputs, to first order in 1 - slope.

        kappa A(target / kappa, kappa^2 t),    kappa = (1 + slope) / 2,

    where A(target, t) is the map of the linear network from the same weights: a leaky network on inputs that are as
    likely as their negatives is the linear network of output scale kappa, up to (1 - slope)^2. It is exact at every
    slope where units come in pairs of weights (w, a) and (-w, -a).

    Args:
        linear: A closed form of linear networks, (target, t) to map.
        target: Its target, of the shape that it takes.
        t: Times t >= 0, of the shape that it takes.
        slope: The slope of the units at negative arguments, above -1, shape ().

    Returns:
        The map, in the shape that `linear` gives.

    Raises:
        ValueError: If a time is negative, the slope is -1 or less or not one number, or a number is not real or not
            finite.

    Example:
        >>> from layerflow import theory
        >>> mode = lambda target, t: theory.sigmoidal(t, 0.01, target)
        >>> [f"{theory.leaky_map(mode, 1.0, 4.0, slope=slope):.4f}" for slope in (1.0, 0.5)]
        ['0.9679', '0.7530']

    References:
        Zhang, Saxe & Latham (2024), arXiv:2406.12615.
    """
    target, t, slope = real_arrays(target=target, t=times(t), slope=_shared(slope))
    gain = 0.5 * (1 + slope)
    found = linear(target / gain, gain**2 * t)
    return gain.astype(found.dtype) * found


def leaky_loss(w1: ArrayLike, w2: ArrayLike, sigma_yx: ArrayLike, *, slope: ArrayLike) -> Float[Array, ""]:
    """E|f(x) - sigma_yx x|^2 / 2 of the leaky ReLU network f(x) = w2 phi(w1 x) over inputs x ~ N(0, I).

        L = |sigma_yx - kappa w2 w1|^2 / 2 + ((1 - slope)^2 / 8) tr(w2 G w2^T),    kappa = (1 + slope) / 2,

    with G of `absolute_moments`. The population flow of such a network is that of this loss, without samples; its
    gradient exists where units are parallel too.

    Args:
        w1: Input weights, shape (hid, inp).
        w2: Output weights, shape (out, hid).
        sigma_yx: Target E[y x^T], shape (out, inp).
        slope: The slope of the units at negative arguments, shape ().

    Returns:
        The loss without that of noise in the targets.

    Raises:
        ValueError: If the shapes do not fit, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import leaky_loss
        >>> one, pair = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> relu = [leaky_loss(one, jnp.ones((1, 1)), one, slope=0.0), leaky_loss(pair, pair[:, :1].T, one, slope=0.0)]
        >>> [f"{loss:.4f}" for loss in map(abs, relu)]
        ['0.2500', '0.0000']

    References:
        Cho & Saul (2009), NeurIPS: the kernel of ReLU.
    """
    w1, w2, sigma_yx, slope = real_arrays(w1=w1, w2=w2, sigma_yx=sigma_yx, slope=_single(slope))
    shapes = w1.shape, w2.shape, sigma_yx.shape
    if (
        any(len(shape) != 2 for shape in shapes)
        or sigma_yx.shape != (w2.shape[0], w1.shape[1])
        or len(w1) != w2.shape[1]
    ):
        raise ValueError(
            f"A leaky network needs `w1` of shape (hid, inp), `w2` of shape (out, hid) and `sigma_yx` of shape (out, "
            f"inp), but they have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    return _loss(w1, w2, sigma_yx, slope)


def _single(slope: ArrayLike) -> Array:
    """One slope for all units."""
    slope = finite(slope, "slope")
    if slope.ndim != 0:
        raise ValueError(f"All units have one `slope`, of shape (), but it has shape {slope.shape}. Use jax.vmap.")
    return slope


def _shared(slope: ArrayLike) -> Array:
    """One slope for all units, that leaves them a linear part."""
    needs = "The linear part of a unit is (1 + slope) / 2, so argument `slope` needs to be above -1"
    return ensure(_single(slope), lambda x: x > -1, needs)


@jax.jit
@full_precision()
def _loss(
    w1: Float[Array, "hid inp"], w2: Float[Array, "out hid"], sigma_yx: Float[Array, "out inp"], slope: Float[Array, ""]
) -> Float[Array, ""]:
    left = sigma_yx - 0.5 * (1 + slope) * w2 @ w1
    return 0.5 * jnp.sum(left**2) + (1 - slope) ** 2 / 8 * jnp.sum(w2 * (w2 @ absolute_products(w1)))
