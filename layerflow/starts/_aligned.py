"""Starts that line up with the task, with one another, or put the weight into one layer."""

from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from layerflow.base._checks import check_key, real_array, require
from layerflow.networks import MLP, LinearNetwork
from layerflow.networks._widths import checked_widths, per_layer
from layerflow.starts._balanced import orthogonal_matrices, two_layers
from layerflow.starts._chain import chain
from layerflow.tasks import Moments, Samples


def aligned(
    task: Moments | Samples,
    lam: ArrayLike | Sequence[ArrayLike],
    strengths: ArrayLike,
    *,
    hid: int | Sequence[int],
    key: PRNGKeyArray | None = None,
) -> LinearNetwork:
    """A linear network with the singular vectors of its task: every mode learns by itself (Eqs. 49, 59).

    With E[y x^T] = U diag(s) V^T, and for every pair of neighbouring layers,

        w[-1] @ ... @ w[0] = U diag(strengths) V^T,    w[l+1]^T w[l+1] - w[l] w[l]^T = lam[l] * I.

    Args:
        task: Whose correlation E[y x^T] gives U and V; modes come by falling singular value.
        lam: Layer imbalance, shape (), under the conditions of `lambda_balanced`; with several hidden layers also one
            for each pair, shape (layers - 1,), under those of `lambda_balanced_chain`.
        strengths: Mode strengths at t = 0, shape (min(inp, *hid, out),) or a scalar for all.
        hid: Width of the hidden layer, or of every hidden layer, (4, 4).
        key: Source of random rotations of the hidden units; none if not given.

    Returns:
        Network with `weights` of shapes (hid, inp), ..., (out, hid).

    Raises:
        TypeError: If the task is not made of data, or has a loss that is not that of squares.
        ValueError: If no such weights exist for these widths, or `strengths` does not fit.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 1.0])))
        >>> abs(lf.aligned(task, 0.0, 0.1, hid=2).matrix).round(3).tolist()
        [[0.1..., 0.0], [0.0, 0.1...]]
        >>> lf.aligned(task, 0.0, 0.1, hid=(2, 3)).widths
        (2, 2, 3, 2)

    References:
        Saxe et al. (2014), arXiv:1312.6120; Dominé et al. (2025), arXiv:2409.14623.
    """
    if not isinstance(task, Moments | Samples):
        raise TypeError(
            f"aligned needs a task made of data, Moments or Samples, but it is of type {type(task).__name__}."
        )
    yx = task.yx if isinstance(task, Moments) else task.moments.yx
    u, _, vt = jnp.linalg.svd(yx, full_matrices=True)
    hidden = (hid,) if isinstance(hid, int) else tuple(hid)
    if len(hidden) != 1:
        widths = checked_widths((yx.shape[1], *hidden, yx.shape[0]))
        turned = [*_rotations(key, hidden, yx.dtype)]
        return chain(lam, strengths, widths, lambda dtype: [r.astype(dtype) for r in (vt.T, *turned, u)])
    (r,) = _rotations(key, hidden, yx.dtype)
    one: Any = lam
    return two_layers(one, strengths, u, r, vt.T)


def _rotations(key: PRNGKeyArray | None, hidden: tuple[int, ...], dtype: Any) -> Sequence[Array]:
    """Of the units of every hidden layer."""
    if key is None:
        return [jnp.eye(width, dtype=dtype) for width in hidden]
    return orthogonal_matrices(key, hidden, dtype)


Layers = TypeVar("Layers", LinearNetwork, MLP)


def upstream(network: Layers, factor: ArrayLike) -> Layers:
    """Make the later layers heavier: the last times `factor`, the first divided by it; the function stays.

    In an MLP hidden biases are divided too, and the function stays if its activation is homogeneous, as
    a ReLU is.

    Args:
        network: A linear network, or an MLP, of at least two layers.
        factor: Positive; below 1 it is `downstream`.

    Returns:
        Network of the same function.

    Raises:
        ValueError: If there is one layer only, or `factor` is not positive.

    Example:
        >>> import jax, layerflow as lf
        >>> network = lf.upstream(lf.gaussian(jax.random.key(0), (2, 2, 2)), 3.0)

    References:
        Kunin et al. (2024), arXiv:2406.06158.
    """
    factor = _checked_factor(network, factor)
    return _scaled(network, first=1 / factor, last=factor)


def downstream(network: Layers, factor: ArrayLike) -> Layers:
    """Make the earlier layers heavier: the first times `factor`, the last divided by it; the function stays.

    In an MLP hidden biases grow with the first layer, see `upstream`.

    Args:
        network: A linear network, or an MLP, of at least two layers.
        factor: Positive; below 1 it is `upstream`.

    Returns:
        Network of the same function.

    Raises:
        ValueError: If there is one layer only, or `factor` is not positive.

    Example:
        >>> import jax, layerflow as lf
        >>> network = lf.downstream(lf.gaussian(jax.random.key(0), (2, 2, 2)), 3.0)
    """
    factor = _checked_factor(network, factor)
    return _scaled(network, first=factor, last=1 / factor)


def _checked_factor(network: LinearNetwork | MLP, factor: ArrayLike) -> Array:
    """The factor by which weight moves between layers, or an error."""
    if len(network.weights) < 2:
        raise ValueError("Weight can move from layer to layer only where there are two, but the network has one.")
    factor = real_array(factor, "factor")
    return require(factor, factor > 0, f"Argument `factor` needs to be positive, but it is {factor}.")


def _scaled(network: Layers, *, first: Array, last: Array) -> Layers:
    """The network with its first and last layers times a factor each, and hidden biases times the first."""
    w_first, *middle, w_last = network.weights
    scaled = eqx.tree_at(lambda network: network.weights, network, (w_first * first, *middle, w_last * last))
    if not isinstance(network, MLP) or network.biases is None:
        return scaled
    *hidden, output = network.biases
    biases = (*(None if b is None else b * first for b in hidden), output)
    return eqx.tree_at(lambda network: network.biases, scaled, biases, is_leaf=lambda leaf: leaf is None)


def orthogonal(
    key: PRNGKeyArray, widths: Sequence[int], *, gain: ArrayLike | Sequence[ArrayLike] = 1.0
) -> LinearNetwork:
    """Draw a linear network of random orthogonal layers, all singular values of a layer equal.

    Args:
        key: Source of the rotations.
        widths: Width of every layer of units, input first.
        gain: Singular value of every layer, one for all or one per layer.

    Returns:
        Network with one matrix of shape (out, inp) per layer; where a layer changes the width its
        rows or columns are orthonormal times the gain.

    Raises:
        ValueError: If there are fewer than two widths, a width is below 1, or `gain` is
            negative or does not hold one number per layer.

    Example:
        >>> import jax, layerflow as lf
        >>> lf.orthogonal(jax.random.key(0), (4, 2, 3), gain=0.5).widths
        (4, 2, 3)

    References:
        Saxe et al. (2014), arXiv:1312.6120.
    """
    check_key(key)
    widths = checked_widths(widths)
    gains = per_layer(gain, len(widths) - 1, "gain")
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    rotations = orthogonal_matrices(key, tuple(max(shape) for shape in shapes), gains.dtype)
    return LinearNetwork(
        tuple(g * q[:rows, :columns] for g, q, (rows, columns) in zip(gains, rotations, shapes, strict=True))
    )
