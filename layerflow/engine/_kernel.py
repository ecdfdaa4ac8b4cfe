"""A whole chunk of small networks as one kernel of a GPU, every number of a lane in a register.

XLA launches some twenty kernels for a step of a small network, and what passes from one to the next goes through
memory. Written number by number, a step is arithmetic of single numbers, and one kernel takes all steps there are: a
thread is a lane, and where its trajectory ended it takes the next cell of the queue on its own.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Int, PyTree

from layerflow.engine._entries import Entries, array_of, entries_of, has_rules, most_at_once, numbers_in, operations
from layerflow.engine._flat import Flat, values_in
from layerflow.engine._lanes_last import called_by, shared_leaves
from layerflow.engine._under_way import UnderWay
from layerflow.methods import Lane, Status

_REGISTERS = 4 * 224  # bytes that numbers may take at once, of the 4 * 255 that a thread has
_OPERATIONS = 1600  # of a step; with twice as many, it compiles for more than a minute
_BLOCK = 128  # lanes of one block of threads
_ENDLESS = 2**31 - 1


class _Table(NamedTuple):
    """An array as a kernel has it: a row for each cell or lane, or one row that all share."""

    array: Array
    shared: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape if self.shared else self.array.shape[1:]

    @property
    def columns(self) -> int:
        return math.prod(self.shape)

    @property
    def in_memory(self) -> Array:
        table = self.array.reshape(-1)
        return table.astype(jnp.int32) if jnp.issubdtype(table.dtype, bool) else table

    def read(self, ref: Any, rows: Any, mask: Any = None) -> Entries:
        """Numbers of some rows."""
        if self.shared:
            own = [ref[column] for column in range(self.columns)]
        else:
            own = [triton.load(ref.at[self.place(rows, column)], mask=mask) for column in range(self.columns)]
        return array_of([self._back(number) for number in own], self.shape)

    def place(self, rows: Any, column: int) -> Any:
        """Where in memory numbers of some rows are."""
        return rows * self.columns + column

    def array_of(self, table: Array) -> Array:
        """The array of a table like this one."""
        return self._back(table).reshape(self.array.shape)

    def _back(self, number: Any) -> Any:
        return number != 0 if jnp.issubdtype(self.array.dtype, bool) else number


class Kernel:
    """The kernel of a chunk.

    Args:
        advance: A step of one lane, of its cell's arrays.
        axes: For each of these arrays 0, where cells have their own as its first axis, or None if they share it.
        arrays: Of all cells.
        loaded: The start of each cell.
    """

    def __init__(self, advance: Callable[[Any, Lane], Lane], axes: PyTree, arrays: PyTree, loaded: Lane) -> None:
        shared = shared_leaves(axes, arrays)
        leaves, structure = jax.tree.flatten((arrays, loaded))
        tables = [_Table(leaf, number < len(shared) and shared[number]) for number, leaf in enumerate(leaves)]
        one = [jax.ShapeDtypeStruct(table.shape, table.array.dtype) for table in tables]
        self.flat = Flat(jax.make_jaxpr(advance)(*jax.tree.unflatten(structure, one)), called_by).without_unused()
        carried = range(len(shared), len(leaves))
        outputs = {n: out for n, out in zip(carried, self.flat.outputs, strict=True) if n != out}
        self.moving, self.flat.outputs = list(outputs), list(outputs.values())
        self.first, self.starts, self.structure = len(shared), leaves[len(shared) :], jax.tree.structure(loaded)
        self.status = self.moving.index(jax.tree.unflatten(self.structure, carried).at.status)
        own = dict(enumerate(tables)) | {n: _Table(jnp.asarray(a), True) for n, a in self.flat.constants.items()}
        used = values_in(self.flat.outputs).union(*(values_in(step.takes) for step in self.flat.steps))
        self.loaded = {n: own[n] for n in self.moving}
        self.held = {n: table for n, table in own.items() if n in used and n not in self.moving}

    def fits(self, lanes: int) -> bool:
        """Whether each step has a rule, the numbers of a lane fit into registers, and it compiles within seconds."""
        if lanes % _BLOCK or not has_rules(self.flat) or operations(self.flat) > _OPERATIONS:
            return False
        if any(table.array.size > _ENDLESS for table in (*self.held.values(), *self.loaded.values())):
            return False  # places in memory are counted in 32 bits
        return most_at_once(self.flat, set(self.held)) <= _REGISTERS

    def run(
        self,
        under_way: UnderWay,
        queue: Int[Array, " cells"],
        total: Int[Array, ""],
        most: int | None,
        interpret: bool = False,
    ) -> UnderWay:
        """Let lanes travel until the queue is empty and all have ended, or for so many steps of each.

        Args:
            under_way: Where they are.
            queue: The cells, in the order in which they are taken up.
            total: How many of them are to travel.
            most: Steps after which to come back; none if not given.
            interpret: Whether to run the kernel step by step on whatever device there is.
        """
        lanes, ended = jax.tree.leaves(under_way.lanes), jax.tree.leaves(under_way.ended)
        leaving = [n for n in self.moving if n - self.first < len(ended)]  # what of a lane is left where it ended
        tables = [_Table(lanes[n - self.first]) for n in self.moving] + [_Table(ended[n - self.first]) for n in leaving]
        short = lambda array: array.astype(jnp.int32)
        given = [table.in_memory for table in (*self.held.values(), *self.loaded.values())]
        given += [short(queue), short(total)[None]]
        counters = jnp.stack([under_way.queued, under_way.finished])
        changed = [short(under_way.cell), *[table.in_memory for table in tables], short(counters)]
        cell, *results, counters = pl.pallas_call(
            _Body(self, leaving, queue.shape[0], _ENDLESS if most is None else most),
            grid=(under_way.cell.shape[0] // _BLOCK,),
            out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in changed],
            input_output_aliases={len(given) + place: place for place in range(len(changed))},
            compiler_params=triton.CompilerParams(num_warps=_BLOCK // 32),
            name="travel",
            interpret=interpret,
        )(*given, *changed)
        arrays = [table.array_of(result) for table, result in zip(tables, results, strict=True)]
        moved = dict(zip(self.moving, arrays, strict=False))
        gone = dict(zip(leaving, arrays[len(moved) :], strict=True))
        held = jnp.minimum(cell, queue.shape[0] - 1)
        now = [moved[n] if n in moved else start[held] for n, start in enumerate(self.starts, self.first)]
        then = [gone.get(n, array) for n, array in enumerate(ended, self.first)]
        return dataclasses.replace(
            under_way,
            cell=cell.astype(under_way.cell.dtype),
            lanes=jax.tree.unflatten(self.structure, now),
            ended=jax.tree.unflatten(jax.tree.structure(under_way.ended), then),
            queued=jnp.minimum(counters[0].astype(total.dtype), total),
            finished=counters[1].astype(under_way.finished.dtype),
        )


class _Body:
    """What each block of threads does.

    Args:
        kernel: The kernel.
        leaving: What of a lane is left where it ended.
        cells: How many there are.
        most: Steps after which to come back.
    """

    def __init__(self, kernel: Kernel, leaving: list[int], cells: int, most: int) -> None:
        self.of, self.leaving, self.cells, self.most = kernel, leaving, cells, most

    def __call__(self, *refs: Any) -> None:
        """Read where lanes are, let them travel, and write where they are then."""
        of, left = self.of, iter(refs)
        take = lambda names: {name: next(left) for name in names}
        self.held, self.loaded = take(of.held), take(of.loaded)
        self.queue, self.total = next(left), next(left)[0]
        cell_before, before, _, _ = next(left), take(of.moving), take(self.leaving), next(left)
        cell_after, after, self.ended, self.counters = next(left), take(of.moving), take(self.leaving), next(left)
        rows = pl.program_id(0) * _BLOCK + jax.lax.iota(jnp.int32, _BLOCK)
        numbers = numbers_in([of.loaded[n].read(ref, rows) for n, ref in before.items()])
        start = jnp.int32(0), triton.load(cell_before.at[rows]), numbers
        _, cell, numbers = jax.lax.while_loop(self._goes_on, self._step, start)
        triton.store(cell_after.at[rows], cell)
        self._write(after, rows, numbers)

    def _goes_on(self, carry: Any) -> Any:
        count, cell, _ = carry
        return (count < self.most) & _any(cell < self.cells)

    def _step(self, carry: Any) -> Any:
        """One step of each lane; those that ended give room to others."""
        of, (count, cell, numbers) = self.of, carry
        rows = jnp.minimum(cell, self.cells - 1)
        held = {n: table.read(self.held[n], rows) for n, table in of.held.items()}
        outputs = entries_of(of.flat, held | self._arrays(numbers))
        numbers = [_spread(new, old) for new, old in zip(numbers_in(outputs), numbers, strict=True)]
        done = (outputs[of.status][()] != Status.RUNNING) & (cell < self.cells)
        stay = lambda _done, cell, numbers: (cell, numbers)
        return count + 1, *jax.lax.cond(_any(done), self._refill, stay, done, cell, numbers)

    def _refill(self, done: Array, cell: Array, numbers: list[Array]) -> tuple[Array, list[Array]]:
        """Write down where lanes ended, and give them the next cells of the queue."""
        of, last = self.of, self.cells - 1
        arrays = self._arrays(numbers)
        self._write(self.ended, cell, numbers_in([arrays[n] for n in self.leaving]), done)
        ones = done.astype(jnp.int32)
        many = jnp.sum(ones, dtype=jnp.int32)
        place = triton.atomic_add(self.counters, (jnp.int32(0),), many) + jnp.cumsum(ones, dtype=jnp.int32) - 1
        triton.atomic_add(self.counters, (jnp.int32(1),), many)
        fresh = done & (place < self.total)
        following = triton.load(self.queue.at[jnp.clip(place, 0, last)], mask=fresh, other=0)
        cell = jnp.where(fresh, following, jnp.where(done, self.cells, cell))
        rows = jnp.minimum(cell, last)
        starts = numbers_in([of.loaded[n].read(ref, rows, fresh) for n, ref in self.loaded.items()])
        return cell, [jnp.where(fresh, start, number) for start, number in zip(starts, numbers, strict=True)]

    def _arrays(self, numbers: list[Any]) -> dict[int, Entries]:
        """What a lane carries, as arrays of numbers."""
        left = iter(numbers)
        own = lambda table: array_of([next(left) for _ in range(table.columns)], table.shape)
        return {n: own(table) for n, table in self.of.loaded.items()}

    def _write(self, refs: dict[int, Any], rows: Any, numbers: list[Any], mask: Any = None) -> None:
        """Write numbers into rows of tables."""
        left = iter(numbers)
        for n, ref in refs.items():
            table = self.of.loaded[n]
            for column in range(table.columns):
                triton.store(ref.at[table.place(rows, column)], next(left).astype(ref.dtype), mask=mask)


def _any(flags: Array) -> Array:
    return jnp.max(flags.astype(jnp.int32)) > 0


def _spread(number: Any, like: Array) -> Array:
    """A number of every lane, of the dtype that it had."""
    return jnp.broadcast_to(jnp.asarray(number, like.dtype), like.shape)
