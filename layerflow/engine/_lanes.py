"""Lanes: many trajectories in one program, each with steps of its own, none waiting for another.

A fixed number of lanes step side by side. After every few steps the lanes whose trajectory ended
hand over where it stands, and load the next cell of the queue.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from layerflow.methods import Lane, Position, Saved, Status, Stepper

_BURST = 8  # steps that all lanes take before those that ended are refilled


class _State(eqx.Module):
    """All lanes under way, and what the cells that ended have left."""

    cell: Int[Array, " lanes"]  # which cell each lane holds; one beyond the last if none
    lanes: Lane
    ended: Position  # by cell
    saved: Saved  # likewise
    queued: Int[Array, ""]  # how many cells have been handed to lanes
    finished: Int[Array, ""]  # how many have ended


def travel_in_lanes(
    stepper: Callable[[PyTree], Stepper],
    every: PyTree,
    axes: PyTree,
    real: Bool[Array, " cells"],
    lanes: int,
) -> tuple[Position, Saved]:
    """Let all cells travel, a fixed number of them at a time.

    Args:
        stepper: The stepper of one cell, of its arrays.
        every: The arrays of all cells, stacked where `axes` say 0.
        axes: For each of these arrays 0, or None where all cells share it.
        real: Which cells are meant; the others, there to fill the chunk, stay where they start.
        lanes: How many step side by side.

    Returns:
        Where each cell stands at its end, and what it saved at `ts`.
    """
    cells = real.shape[0]
    pick = lambda some, arrays: jax.tree.map(lambda array: array[some], arrays)
    take = lambda some: jax.tree.map(lambda axis, a: a if axis is None else pick(some, a), axes, every, is_leaf=_none)
    loaded = jax.vmap(lambda cell: stepper(cell).load(), in_axes=(axes,), axis_size=cells)(every)
    loaded = eqx.tree_at(lambda lane: lane.at.status, loaded, jnp.where(real, loaded.at.status, Status.REACHED_T1))
    hardness = jax.vmap(lambda cell: stepper(cell).hardness(), in_axes=(axes,), axis_size=cells)(every)
    queue, count = _hardest_first(hardness, real), jnp.sum(real)

    def step(state: _State) -> _State:
        at_hand = take(jnp.minimum(state.cell, cells - 1))
        over = lambda function, *more: jax.vmap(function, in_axes=(axes, *[0] * len(more)))(at_hand, *more)

        def advance(_: Any, carry: tuple[Lane, Saved]) -> tuple[Lane, Saved]:
            before, saved = carry
            after, dense = over(lambda cell, lane: stepper(cell).advance(lane), before)
            if saved.moved.shape[1] == 0:
                return after, saved
            passes = lambda lanes: over(lambda cell, *steps: stepper(cell).passes(*steps), before, lanes)

            def save(carry: tuple[Lane, Saved]) -> tuple[Lane, Saved]:
                visited, number, values = over(
                    lambda cell, *steps: stepper(cell).visit(*steps), before, carry[0], dense
                )
                put = lambda rows, value: rows.at[state.cell, number].set(value, mode="drop")
                return visited, jax.tree.map(put, carry[1], values)

            return jax.lax.while_loop(lambda carry: jnp.any(passes(carry[0])), save, (after, saved))

        after, saved = jax.lax.fori_loop(0, _BURST, advance, (state.lanes, state.saved))
        return refill(_State(state.cell, after, state.ended, saved, state.queued, state.finished))

    def refill(state: _State) -> _State:
        done = ~state.lanes.at.running & (state.cell < cells)
        hand_over = lambda of_cells, of_lanes: of_cells.at[jnp.where(done, state.cell, cells)].set(of_lanes, mode="drop")
        place = state.queued + jnp.cumsum(done) - 1
        fresh = done & (place < count)
        cell = jnp.where(done, cells, state.cell)
        cell = jnp.where(fresh, queue[jnp.minimum(place, cells - 1)], cell)
        reload = lambda of_lanes, of_cells: jax.vmap(jnp.where)(fresh, of_cells[jnp.minimum(cell, cells - 1)], of_lanes)
        return _State(
            cell=cell,
            lanes=jax.tree.map(reload, state.lanes, loaded),
            ended=jax.tree.map(hand_over, state.ended, state.lanes.at),
            saved=state.saved,
            queued=state.queued + jnp.sum(fresh),
            finished=state.finished + jnp.sum(done),
        )

    first = queue[:lanes]
    state = _State(
        cell=jnp.where(jnp.arange(lanes) < count, first, cells),
        lanes=jax.tree.map(lambda of_cells: of_cells[first], loaded),
        ended=loaded.at,
        saved=stepper(take(0)).room(cells),
        queued=jnp.minimum(lanes, count),
        finished=jnp.asarray(0),
    )
    state = jax.lax.while_loop(lambda state: state.finished < count, step, state)
    return state.ended, state.saved


def _hardest_first(hardness: Float[Array, " cells"], real: Bool[Array, " cells"]) -> Int[Array, " cells"]:
    """The order in which cells are taken up: the longest trajectory, taken up last, would run on alone."""
    return jnp.lexsort((-jax.lax.stop_gradient(hardness), ~real))


def _none(axis: Any) -> bool:
    return axis is None
