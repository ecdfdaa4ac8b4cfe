"""Linear networks of any depth with a given imbalance between each pair of layers."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow.base._checks import check_key, is_concrete, real_array, require
from layerflow.base._numerics import safe_root
from layerflow.networks import LinearNetwork
from layerflow.networks._widths import checked_widths
from layerflow.starts._balanced import orthogonal_matrices, rectangular


def lambda_balanced_chain(
    key: PRNGKeyArray,
    lams: ArrayLike | Sequence[ArrayLike],
    strengths: ArrayLike,
    *,
    widths: Sequence[int],
) -> LinearNetwork:
    """Draw a linear network of any depth with a given imbalance between each pair of layers.

    The weights satisfy, for l = 0, ..., layers - 2,

        w[l+1]^T w[l+1] - w[l] w[l]^T = lams[l] * I,    singular values of the product = strengths,

    and gradient flow keeps the first for all time. Neighbouring layers share their singular vectors,
    and the squared singular values of a mode grow by lams[l] from layer to layer. Where a layer of
    units is wider than the narrowest, the squares of its surplus are sums of `lams`, which must not
    be negative, and must be zero where the surplus ends at a narrower layer on both sides.

    Args:
        key: Source of the random singular vectors.
        lams: Imbalance of each pair of neighbouring layers, shape (layers - 1,), or one number for all.
        strengths: Singular values of the end-to-end matrix at t = 0, shape (min(widths),) or a
            scalar for all.
        widths: Width of every layer of units, input first.

    Returns:
        Network with one matrix of shape (out, inp) per layer; with two layers, that of
        `lambda_balanced` for the same key.

    Raises:
        ValueError: If no such weights exist for these widths, there is one layer only, or
            `lams` or `strengths` does not fit.

    Example:
        >>> import jax, layerflow as lf
        >>> network = lf.lambda_balanced_chain(jax.random.key(0), (0.5, -0.2), 1.0, widths=(2, 2, 2, 2))
        >>> w1, w2, w3 = network.weights
        >>> (w3.T @ w3 - w2 @ w2.T).round(3).diagonal().tolist()
        [-0.2..., -0.2...]

    References:
        Arora, Cohen, Hazan (2018), arXiv:1802.06509, for the conserved quantities of deep linear networks.
    """
    check_key(key)
    widths = checked_widths(widths)
    return chain(lams, strengths, widths, lambda dtype: orthogonal_matrices(key, widths, dtype))


def chain(
    lams: ArrayLike | Sequence[ArrayLike],
    strengths: ArrayLike,
    widths: tuple[int, ...],
    rotations_of: Callable[[Any], Sequence[Float[Array, "_width _width"]]],
) -> LinearNetwork:
    """The chain with given imbalances, strengths and singular vectors at every layer of units, or an error."""
    lams, strengths = _checked(lams, strengths, widths)
    lams = _feasible(lams, widths)
    squares = [[column] for column in layer_squares(lams, strengths).T]
    for low, high, begin, end in _surplus(widths):
        layers, values, _ = _surplus_squares(lams, widths, begin, end)
        for layer, square in zip(layers, values, strict=True):
            squares[layer].append(jnp.full(high - low, jnp.maximum(square, 0.0)))
    rotations = rotations_of(lams.dtype)
    values = [safe_root(jnp.concatenate(parts)) for parts in squares]
    return LinearNetwork(
        tuple(
            after @ rectangular(value, after.shape[0], before.shape[0]) @ before.T
            for value, (before, after) in zip(values, itertools.pairwise(rotations), strict=True)
        )
    )


def layer_squares(lams: Float[Array, " pairs"], strengths: Float[Array, " modes"]) -> Float[Array, "modes layers"]:
    """Squared singular values of every layer whose product is strengths^2 and whose steps are `lams`."""
    heights = jnp.concatenate([jnp.zeros(1, lams.dtype), jnp.cumsum(lams)])
    offsets = (heights - heights.min())[None, :]
    layers = offsets.shape[1]
    zero = strengths == 0
    goal = 2 * jnp.log(jnp.where(zero, 1.0, strengths))[:, None]

    def newton(_: Array, log_least: Float[Array, "modes 1"]) -> Float[Array, "modes 1"]:
        least = jnp.exp(log_least)
        gap = jnp.sum(jnp.log(least + offsets), axis=1, keepdims=True) - goal
        return log_least - gap / jnp.sum(least / (least + offsets), axis=1, keepdims=True)

    # The sum of logarithms is convex in that of the least square and bends once per layer, so from
    # above, where all squares are as small as the least, Newton's method falls to the root.
    log_least = jax.lax.fori_loop(0, layers + 10, newton, goal / layers)
    return jnp.where(zero[:, None], 0.0, jnp.exp(log_least)) + offsets


def _checked(
    lams: ArrayLike | Sequence[ArrayLike], strengths: ArrayLike, widths: tuple[int, ...]
) -> tuple[Float[Array, " pairs"], Float[Array, " modes"]]:
    """Imbalances and strengths as vectors of one dtype, or an error."""
    pairs, modes = len(widths) - 2, min(widths)
    if pairs < 1:
        raise ValueError(
            f"An imbalance is one between two layers, but `widths` is {widths}, one layer. List at least three widths."
        )
    lams = jnp.stack([real_array(lam, "lams") for lam in lams]) if isinstance(lams, Sequence) else lams
    lams, strengths = real_array(lams, "lams"), real_array(strengths, "strengths")
    dtype = jnp.promote_types(lams.dtype, strengths.dtype)
    for name, array, length, what in (
        ("lams", lams, pairs, "imbalance per pair of layers"),
        ("strengths", strengths, modes, "singular value per mode"),
    ):
        if array.shape not in ((), (length,)):
            raise ValueError(
                f"Argument `{name}` holds one {what}, so for widths {widths} it needs shape ({length},), but it has "
                f"shape {array.shape}. For all alike pass one number."
            )
    strengths = require(
        strengths, strengths >= 0, "Argument `strengths` holds singular values, which are not negative, but some are."
    )
    return jnp.broadcast_to(lams.astype(dtype), (pairs,)), jnp.broadcast_to(strengths.astype(dtype), (modes,))


def _surplus(widths: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Units beyond the narrowest layer: from which to which number, and between which layers of units they reach."""
    for low, high in itertools.pairwise(sorted(set(widths))):
        wide = [width >= high for width in widths]
        for flag, run in itertools.groupby(range(len(widths)), key=wide.__getitem__):
            if flag:
                begin, *others = run
                yield low, high, begin, others[-1] if others else begin


def _surplus_squares(
    lams: Float[Array, " pairs"], widths: tuple[int, ...], begin: int, end: int
) -> tuple[range, Float[Array, " layers"], Float[Array, ""] | None]:
    """Squared singular values of surplus units that reach from layer of units `begin` to `end`.

    They are 0 before and after, unless that is the input or the output of the network; where both
    ends are inside, a remainder has to be 0 too.

    Returns:
        Layers of weights, the square in each, and the remainder.
    """
    if begin == 0:
        return range(end), -jnp.cumsum(lams[:end][::-1])[::-1], None
    sums = jnp.cumsum(lams[begin - 1 : end])
    if end == len(widths) - 1:
        return range(begin, end), sums, None
    return range(begin, end), sums[:-1], sums[-1]


def _feasible(lams: Float[Array, " pairs"], widths: tuple[int, ...]) -> Float[Array, " pairs"]:
    """`lams` if there are such networks, or an error that says which there are."""
    slack = 100 * jnp.finfo(lams.dtype).eps * jnp.sum(jnp.abs(lams))
    lams = require(lams, jnp.isfinite(lams), "Argument `lams` needs finite numbers, but some are not.")
    conditions: dict[str, Array] = {}
    for _, _, begin, end in _surplus(widths):
        layers, squares, remainder = _surplus_squares(lams, widths, begin, end)
        for layer, square in zip(layers, squares, strict=True):
            formula = f"{_sum(layer, end - 1)} <= 0" if begin == 0 else f"{_sum(begin - 1, layer - 1)} >= 0"
            conditions[formula] = square >= -slack
        if remainder is not None:
            conditions[f"{_sum(begin - 1, end - 1)} = 0"] = jnp.abs(remainder) <= slack
    came = f", but `lams` is {np.asarray(lams).tolist()}" if is_concrete(lams) else ""
    message = (
        f"No linear network of widths {widths} has these imbalances: units beyond its narrowest layer need "
        f"{' and '.join(conditions)}{came}. Change `lams`, or make no hidden layer wider than a neighbour."
    )
    for holds in conditions.values():
        lams = require(lams, holds, message)
    return lams


def _sum(first: int, last: int) -> str:
    """The sum of some imbalances, in words."""
    return " + ".join(f"lams[{pair}]" for pair in range(first, last + 1))
