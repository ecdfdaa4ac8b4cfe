"""What an observable may ask of the trajectory that it is measured on.

An observable is a function of (network, problem). While a trajectory is measured, more is kept at hand:

- How far the weights moved, with the digits that the sum start + movement would drop. Methods
  integrate the movement and add it to the start; in a lazy cell the movement is a small part of the
  weights, and subtracting the start again would return little but rounding noise, in float32 at least.
- The method by which the network travels.
- The largest values so far of what the observable follows along the path (its `follow`).
- The network of the flow at the time of a step of descent, for observables that ask for it (`beside_flow`).
- What a summary watched at every step of a descent (its `watch`).
"""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from layerflow.networks import is_weight


@dataclasses.dataclass(frozen=True)
class _AtHand:
    movements: Sequence[tuple[PyTree, PyTree]] = ()
    method: Any = None
    peaks: Array | None = None
    flow: PyTree = None
    watched: PyTree = None


_at_hand: ContextVar[_AtHand] = ContextVar("_at_hand", default=_AtHand())  # noqa: B039 - it is frozen


@contextlib.contextmanager
def at_hand(**known: Any) -> Generator[None]:
    """Keep something at hand for the observables called inside.

    Args:
        **known: `movements`, pairs of a network and its movement, None where nothing moves; `method`;
            `peaks`; `flow`; `watched`.
    """
    token = _at_hand.set(dataclasses.replace(_at_hand.get(), **known))
    try:
        yield
    finally:
        _at_hand.reset(token)


def movement(network: PyTree, start: PyTree) -> PyTree:
    """The weights of `network` minus those of `start`, None in place of all that are no weights."""
    weights = (eqx.filter(tree, is_weight(tree)) for tree in (network, start))
    difference = jax.tree.map(lambda now, then: now - then, *weights)
    # The very network of the trajectory, not one that an observable made of it.
    kept = next((moved for known, moved in _at_hand.get().movements if known is network), None)
    return difference if kept is None else eqx.combine(kept, difference)


def method() -> Any:
    """The method by which the network travels; None if it is measured by itself."""
    return _at_hand.get().method


def peaks() -> Array | None:
    """The largest values so far of what the observable follows; None if it is measured by itself."""
    return _at_hand.get().peaks


def flow() -> PyTree:
    """The network of the flow at the time of this step of descent; None if there is none."""
    return _at_hand.get().flow


def watched() -> PyTree:
    """What the summary saw at the steps of descent; None if it is asked by itself."""
    return _at_hand.get().watched
