"""Which arrays of a network are weights, and which only vary from cell to cell."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, PyTree

from layerflow.base._checks import real_array

_MARK = "layerflow_constant"


def constant(**kwargs: Any) -> Any:
    """Declare a field of a network that training neither moves nor decays.

    Such a field may hold an array, so it can be an axis of a sweep without recompiling:
    the output scale Z of Eq. 15, or the frozen start of a linearised network.

    Args:
        **kwargs: Handed on to `equinox.field`, for example `default=` or `converter=`.

    Returns:
        A dataclass field.

    Example:
        >>> import equinox as eqx, jax, layerflow as lf
        >>> class Scaled(eqx.Module):
        ...     weight: jax.Array
        ...     output_scale: jax.Array = lf.constant()
        ...
        ...     def __call__(self, x):
        ...         return self.output_scale * self.weight @ x
    """
    return eqx.field(metadata={_MARK: True}, **kwargs)


def as_layers(weights: Iterable[ArrayLike]) -> tuple[Array, ...]:
    """The layers of a network as arrays of floating point numbers."""
    return tuple(real_array(w, "weights") for w in weights)


def is_weight(network: PyTree) -> PyTree:
    """Mark the leaves of `network` that training moves.

    Args:
        network: Any PyTree; arrays of floating point numbers count as weights, except
            below a field declared with `constant()`.

    Returns:
        The same tree with True at every weight and False elsewhere.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(network)
    marks = [eqx.is_inexact_array(leaf) and not _passes_constant(network, path) for path, leaf in leaves]
    return jax.tree.unflatten(structure, marks)


def _passes_constant(node: Any, path: tuple[Any, ...]) -> bool:
    """Whether the way from `node` down `path` leads through a field declared constant."""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            if dataclasses.is_dataclass(node):
                field = next((f for f in dataclasses.fields(node) if f.name == key.name), None)
                if field is not None and field.metadata.get(_MARK, False):
                    return True
            node = getattr(node, key.name)
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key]
        else:  # a PyTree of the user's own kind cannot hold our fields' marks
            return False
    return False
