"""Where the cells of a chunk are between one call of their program and the next."""

import equinox as eqx
from jaxtyping import Array, Int

from layerflow.methods import Lane, Position, Saved


class UnderWay(eqx.Module):
    """A chunk under way: all lanes, and what the cells that ended have left."""

    cell: Int[Array, " lanes"]  # which cell each lane holds; one beyond the last if none
    lanes: Lane
    ended: Position  # by cell
    saved: Saved  # likewise
    queued: Int[Array, ""]  # how many cells have been handed to lanes
    finished: Int[Array, ""]  # how many have ended
    bursts: Int[Array, ""]  # taken since the program was called
