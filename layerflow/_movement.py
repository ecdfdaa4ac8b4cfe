"""How far a network moved, with the digits that the sum start + movement would drop.

Methods integrate the movement of the weights and add it to the start. In a lazy cell the movement
is a small part of the weights, and subtracting the start again would return little but rounding
noise, in float32 at least. So while a trajectory is measured, its movement is kept at hand.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import equinox as eqx
import jax
from jaxtyping import PyTree

from layerflow.networks import is_weight

_at_hand: ContextVar[tuple[PyTree, PyTree] | None] = ContextVar("_at_hand", default=None)


@contextlib.contextmanager
def at_hand(network: PyTree, moved: PyTree) -> Iterator[None]:
    """Keep the movement of `network`, None where nothing moves, for the observables called inside."""
    token = _at_hand.set((network, moved))
    try:
        yield
    finally:
        _at_hand.reset(token)


def movement(network: PyTree, start: PyTree) -> PyTree:
    """The weights of `network` minus those of `start`, None in place of all that are no weights."""
    kept = _at_hand.get()
    weights = (eqx.filter(tree, is_weight(tree)) for tree in (network, start))
    difference = jax.tree.map(lambda now, then: now - then, *weights)
    # The very network of the trajectory, not one that an observable made of it.
    return eqx.combine(kept[1], difference) if kept is not None and kept[0] is network else difference
