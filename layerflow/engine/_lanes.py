"""Lanes: many trajectories in one program, each with steps of its own, none waiting for another.

A fixed number of lanes step side by side. After every few steps the lanes whose trajectory ended
hand over where it stands, and load the next cell of the queue. Which lane a cell is given changes none of
its bits, but for implicit steps, and where the lanes are no multiple of four.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from layerflow.engine._lanes_last import lanes_last
from layerflow.engine._under_way import UnderWay
from layerflow.methods import Lane, Saved, Status, Stepper

if TYPE_CHECKING:
    from layerflow.engine._kernel import Kernel

MANY_STEPS = 50_000  # of one cell, beyond which a sweep says where it is
_BURST = 8  # steps that all lanes take on a CPU before those that ended are refilled
_BURST_ELSEWHERE = 16  # refilling takes as many launches as a step
_VISITS = 4  # of `ts` that a step elsewhere than on a CPU saves at once


@dataclass(frozen=True)
class Lanes:
    """Cells that travel a fixed number at a time.

    Attributes:
        stepper: The stepper of one cell, of its arrays.
        every: The arrays of all cells, stacked where `axes` say 0.
        axes: For each of these arrays 0, or None where all cells share it.
        cells: How many there are.
        axis: Where steps have the lanes, as their first axis (0) or as their last (-1).
        platform: Of the device.
    """

    stepper: Callable[[PyTree], Stepper]
    every: PyTree
    axes: PyTree
    cells: int
    axis: Literal[0, -1]
    platform: str

    def travel(
        self, total: Int[Array, ""], count: int, under_way: UnderWay | None = None, most: int | None = None
    ) -> UnderWay:
        """Let the first `total` cells travel, `count` at a time; the others fill the chunk and stay where they start.

        Args:
            total: How many cells are no filling.
            count: How many lanes there are.
            under_way: Where to go on; the start if not given.
            most: Steps after which to come back, ended or not; none if not given.

        Returns:
            Where each cell stands at its end and what it saved at `ts`, and all that is needed to go on.
        """
        real = jnp.arange(self.cells) < total
        loaded = self._over(self.every, lambda stepper: stepper.load())
        loaded = eqx.tree_at(lambda lane: lane.at.status, loaded, jnp.where(real, loaded.at.status, Status.REACHED_T1))
        queue = self._hardest_first(real)
        begun = self._begun(loaded, queue, total, count) if under_way is None else under_way
        begun = eqx.tree_at(lambda state: state.bursts, begun, jnp.asarray(0))
        if kernel := self._kernel(loaded, count):
            return kernel.run(begun, queue, total, most)
        onward = lambda state: self._refill(self._advance(state), loaded, queue, total)

        def goes_on(state: UnderWay) -> Bool[Array, ""]:
            left = state.finished < total
            return left if most is None else left & (state.bursts < most // burst_on(self.platform))

        return jax.lax.while_loop(goes_on, onward, begun)

    def _kernel(self, loaded: Lane, count: int) -> "Kernel | None":
        """All steps as one kernel, where there are such and these fit into it."""
        if self.platform != "gpu" or self.axis == 0 or self._room().moved.size:
            return None
        from layerflow.engine._kernel import Kernel

        advance = lambda cell, lane: self.stepper(cell).advance(lane)[0]
        kernel = Kernel(advance, self.axes, self.every, loaded)
        return kernel if kernel.fits(count) else None

    def each(self, function: Callable[..., Any], *more: PyTree, block: int | None, total: Int[Array, ""]) -> Any:
        """`function` of each cell and of whatever else it has; the first `total` alone, `block` at a time, if given."""
        over = jax.vmap(function, in_axes=(self.axes, *[0] * len(more)))
        if block is None or self.cells % block:
            return over(self.every, *more)
        return blocks(lambda cut: over(self._own(cut), *jax.tree.map(cut, more)), block, self.cells, total)

    def _begun(self, loaded: Lane, queue: Int[Array, " cells"], total: Int[Array, ""], count: int) -> UnderWay:
        """All lanes at the start of their first cell."""
        first = queue[:count]
        return UnderWay(
            cell=jnp.where(jnp.arange(count) < total, first, self.cells),
            lanes=jax.tree.map(lambda of_cells: of_cells[first], loaded),
            ended=loaded.at,
            saved=self._room(),
            queued=jnp.minimum(count, total),
            finished=jnp.asarray(0),
            bursts=jnp.asarray(0),
        )

    def _room(self) -> Saved:
        """Room for what all cells save at `ts`."""
        return self.stepper(self._own(lambda array: array[0])).room(self.cells)

    def _advance(self, state: UnderWay) -> UnderWay:
        """A few steps of all lanes."""
        axis, held = self.axis, jnp.minimum(state.cell, self.cells - 1)
        arrays = self._own(lambda array: jnp.moveaxis(array[held], 0, axis))
        over = lambda function, *more: self._over(arrays, function, *more, axis=axis)

        def step(_: Any, carry: tuple[Lane, Saved]) -> tuple[Lane, Saved]:
            before, saved = carry
            after, dense = over(lambda stepper, lane: stepper.advance(lane), before)
            if saved.moved.shape[1] == 0:
                return after, saved
            return self._save(over, state.cell, before, after, dense, saved)

        lanes = jax.tree.map(lambda array: jnp.moveaxis(array, 0, axis), state.lanes)
        lanes, saved = jax.lax.fori_loop(0, burst_on(self.platform), step, (lanes, state.saved))
        lanes = jax.tree.map(lambda array: jnp.moveaxis(array, axis, 0), lanes)
        return eqx.tree_at(lambda state: (state.lanes, state.saved), state, (lanes, saved))

    def _save(
        self,
        over: Callable[..., Any],
        cell: Int[Array, " lanes"],
        before: Lane,
        after: Lane,
        dense: dict[str, Any],
        saved: Saved,
    ) -> tuple[Lane, Saved]:
        """Save what a step passed of `ts`: all of it on a CPU; elsewhere a few, and a step that passed more is retaken.

        A loop until nothing is left would ask the host at every step, and would wait for the lane that passed most.
        """
        at_once = 1 if self.platform == "cpu" else _VISITS
        left = lambda stepper, *steps: stepper.passes(*steps)

        def save(carry: tuple[Lane, Saved]) -> tuple[Lane, Saved]:
            visit = lambda stepper, *steps: stepper.visit(*steps, at_once)
            visited, number, values = over(visit, before, carry[0], dense)
            first = lambda array: jnp.moveaxis(array, self.axis, 0)
            put = lambda rows, v: rows.at[cell[:, None], first(number)].set(first(v), mode="drop")
            return visited, jax.tree.map(put, carry[1], values)

        if self.platform == "cpu":
            return jax.lax.while_loop(lambda carry: jnp.any(over(left, before, carry[0])), save, (after, saved))

        def unless_left(stepper: Stepper, before: Lane, visited: Lane) -> Lane:
            again = eqx.tree_at(lambda lane: lane.at.num_saved, before, visited.at.num_saved)
            return jax.tree.map(lambda a, v: jnp.where(left(stepper, before, visited), a, v), again, visited)

        visited, saved = save((after, saved))
        return over(unless_left, before, visited), saved

    def _refill(self, state: UnderWay, loaded: Lane, queue: Int[Array, " cells"], total: Int[Array, ""]) -> UnderWay:
        """Write down where lanes ended, and give them the next cells of the queue."""
        last = self.cells - 1
        done = ~state.lanes.at.running & (state.cell <= last)
        place = state.queued + jnp.cumsum(done) - 1
        beyond = place[-1] + 1  # the place of the next
        fresh = done & (place < total)
        cell = jnp.where(fresh, queue[jnp.minimum(place, last)], jnp.where(done, self.cells, state.cell))
        row = jnp.where(done, state.cell, self.cells)  # one beyond the last is dropped
        hand_over = lambda of_cells, of_lanes: of_cells.at[row].set(of_lanes, mode="drop")
        reload = lambda of_lanes, of_cells: jax.vmap(jnp.where)(fresh, of_cells[jnp.minimum(cell, last)], of_lanes)
        return UnderWay(
            cell=cell,
            lanes=jax.tree.map(reload, state.lanes, loaded),
            ended=jax.tree.map(hand_over, state.ended, state.lanes.at),
            saved=state.saved,
            queued=jnp.minimum(beyond, total),
            finished=state.finished + beyond - state.queued,
            bursts=state.bursts + 1,
        )

    def _hardest_first(self, real: Bool[Array, " cells"]) -> Int[Array, " cells"]:
        """The order in which cells are taken up: the longest trajectory, taken up last, would run on alone."""
        hardness: Float[Array, " cells"] = self._over(self.every, lambda stepper: stepper.hardness())
        return jnp.lexsort((-jax.lax.stop_gradient(hardness), ~real))

    def _own(self, pick: Callable[[Array], Array]) -> PyTree:
        """The arrays of cells, with `pick` of those that each cell has for itself."""
        shared = lambda axis: axis is None
        own = lambda axis, arrays: arrays if shared(axis) else jax.tree.map(pick, arrays)
        return jax.tree.map(own, self.axes, self.every, is_leaf=shared)

    def _over(self, arrays: PyTree, function: Callable[..., Any], *more: PyTree, axis: Literal[0, -1] = 0) -> Any:
        """`function` of the stepper of each cell whose arrays are given, and of whatever else each has."""
        size = jax.tree.leaves(more)[0].shape[axis] if more else self.cells
        each = lambda cell, *more: function(self.stepper(cell), *more)
        axes = (jax.tree.map(lambda _: axis, self.axes), *[axis] * len(more))
        if axis == -1:
            return lanes_last(each, axes, size, self.platform == "cpu")(arrays, *more)
        return jax.vmap(each, in_axes=axes, axis_size=size)(arrays, *more)


def burst_on(platform: str) -> int:
    """Steps that all lanes take before those that ended are refilled."""
    return _BURST if platform == "cpu" else _BURST_ELSEWHERE


def blocks(function: Callable[[Callable[[Array], Array]], Any], size: int, cells: int, total: Int[Array, ""]) -> Any:
    """What a function gives of cells, `size` at a time, as far as the first `total` of them go; zeros beyond.

    Args:
        function: Of `cut`, which takes the rows of its cells out of an array of all.
        size: How many cells it takes at a time, of which `cells` is a multiple.
        cells: How many there are.
        total: How many of them are needed.
    """

    def of(begin: Any) -> Any:
        return function(lambda array: jax.lax.dynamic_slice_in_dim(array, begin, size))

    def put(number: Any, rows: Any) -> Any:
        place = lambda rows, own: jax.lax.dynamic_update_slice_in_dim(rows, own, number * size, 0)
        return jax.tree.map(place, rows, of(number * size))

    room = jax.tree.map(lambda like: _zeros((cells, *like.shape[1:]), like.dtype), jax.eval_shape(of, 0))
    return jax.lax.fori_loop(0, -(-total // size), put, room)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros, or keys made from zero."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0, impl="threefry2x32"), shape)
    return jnp.zeros(shape, dtype)
