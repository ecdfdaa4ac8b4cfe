"""Random starts: independent Gaussian weights, and their mirrored form of zero function."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow.base._checks import check_key
from layerflow.base._keys import normals
from layerflow.networks import LinearNetwork
from layerflow.networks._widths import checked_widths, per_layer

Std = ArrayLike | Sequence[ArrayLike] | Literal["lecun", "ntk"]


def gaussian(key: PRNGKeyArray, widths: Sequence[int], *, std: Std = "lecun") -> LinearNetwork:
    """Draw a linear network with independent Gaussian weights.

    Args:
        key: Source of the weights.
        widths: Width of every layer of units, input first; two widths make one layer.
        std: Standard deviation of the weights: a number for all layers; one number per
            layer; "lecun" for 1/sqrt(fan_in); or "ntk" for the NTK parameterisation,
            weights of standard deviation 1 and the product of all 1/sqrt(fan_in) as the
            constant `output_scale`.

    Returns:
        Network with one matrix of shape (out, inp) per layer.

    Raises:
        ValueError: If there are fewer than two widths, a width is below 1, or `std` is
            negative or does not hold one number per layer.

    Example:
        >>> import jax, layerflow as lf
        >>> lf.gaussian(jax.random.key(0), (4, 2, 3), std=(0.1, 0.5)).widths
        (4, 2, 3)

    References:
        Jacot et al. (2018), arXiv:1806.07572, for "ntk".
    """
    check_key(key)
    widths = checked_widths(widths)
    fan_in = jnp.asarray(widths[:-1], jnp.result_type(float))
    scale: float | Float[Array, ""] = 1.0
    if isinstance(std, str):
        if std not in ("lecun", "ntk"):
            raise ValueError(f'Argument `std` takes numbers, "lecun" or "ntk", but it is "{std}".')
        stds = 1 / jnp.sqrt(fan_in)
        if std == "ntk":
            stds, scale = jnp.ones_like(stds), jnp.prod(stds)
    else:
        stds = per_layer(std, len(widths) - 1, "std")
    return LinearNetwork(tuple(_draw(key, widths, stds)), scale)


def symmetrised(key: PRNGKeyArray, widths: Sequence[int], *, std: ArrayLike | Sequence[ArrayLike]) -> LinearNetwork:
    """Draw a linear network whose two mirrored halves cancel: its function starts at zero.

    Every hidden layer consists of two equal halves, and the last layer reads them with opposite
    signs; for two layers

        w1 = [A; A],    w2 = [B, -B],    so w2 @ w1 = 0,

    while the tangent kernel is that of a Gaussian start. Halves in deeper networks do not
    see each other.

    Args:
        key: Source of the weights.
        widths: Width of every layer of units, input first; hidden widths are even.
        std: Standard deviation of the weights, one for all or one per layer.

    Raises:
        ValueError: If there is no hidden layer, a hidden width is odd, or `std` does not
            hold one number per layer.

    Example:
        >>> import jax, layerflow as lf
        >>> network = lf.symmetrised(jax.random.key(0), (3, 4, 2), std=1.0)
        >>> bool(abs(network.matrix).max() < 1e-6)
        True

    References:
        Chizat, Oyallon, Bach (2019), arXiv:1812.07956; Nam et al. (2025), Fig. 6(b).
    """
    check_key(key)
    widths = checked_widths(widths)
    if len(widths) < 3 or any(width % 2 for width in widths[1:-1]):
        raise ValueError(
            f"A symmetrised network needs at least one hidden layer and even hidden widths, to mirror one half in "
            f"the other, but `widths` is {widths}."
        )
    halves = (widths[0], *(width // 2 for width in widths[1:-1]), widths[-1])
    first, *middle, last = _draw(key, halves, per_layer(std, len(widths) - 1, "std"))
    blocks = [jnp.kron(jnp.eye(2, dtype=w.dtype), w) for w in middle]
    return LinearNetwork((jnp.concatenate([first, first]), *blocks, jnp.concatenate([last, -last], axis=1)))


def _draw(key: PRNGKeyArray, widths: Sequence[int], stds: Float[Array, " layers"]) -> list[Float[Array, "_out _inp"]]:
    """One Gaussian matrix per layer."""
    keys = jax.random.split(key, len(widths) - 1)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    return [s * w for s, w in zip(stds, normals(keys, shapes, stds.dtype), strict=True)]
