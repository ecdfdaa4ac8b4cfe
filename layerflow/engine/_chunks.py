"""Chunks: a fixed number of cells computed by one call of compiled programs."""

import contextlib
import copy
import dataclasses
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from layerflow.engine._compiled import Compiled, bytes_of
from layerflow.engine._computation import Chunk, Computation, Seeds
from layerflow.engine._devices import Ask
from layerflow.engine._identity import Identity
from layerflow.engine._kept import traces
from layerflow.engine._lanes import MANY_STEPS
from layerflow.engine._machine import Device, Machine, Plan, check_float64
from layerflow.engine._program import Frozen, check_gauge
from layerflow.engine._programs import Numbers, Programs, travelling
from layerflow.engine._trace import Traced
from layerflow.engine._under_way import UnderWay
from layerflow.engine._wanted import Measured, Wanted
from layerflow.methods import Path, Status

Tell = Callable[[np.ndarray], Any]

_one_at_a_time = threading.Lock()
_LIGHT_STATE = 2**16  # bytes of a trajectory's state, up to which many cells are looked at as fast as a few
_STATE_COPIES = 24  # of a trajectory's weights that a step works on: stages, errors, what controls it


class Cells(NamedTuple):
    """The cells of one chunk, on the host: arguments of the cell function, seeds, and how many are no filling."""

    values: dict[str, np.ndarray]
    seeds: np.ndarray
    total: int

    def part(self, begin: int, size: int) -> "Cells":
        """Some of them, in order."""
        cut = lambda array: array[begin : begin + size]
        return Cells(jax.tree.map(cut, self.values), cut(self.seeds), min(max(self.total - begin, 0), size))


class Batch:
    """All cells of one structure, to be run chunk by chunk.

    Args:
        frozen: The cell's functions.
        build: (arguments of the cell function, key) -> (the cell's arrays, its method's, checks).
        closed: The arrays that `build` closed over.
        numbers: What else its cells share.
        one: Shapes of the arguments of one cell.
        messages: What to say of a cell that fails a check.
        wanted: What to keep of each cell.
        judging: Makes the functions that find out what `frozen` leaves open, of cells that are DOUBTFUL.
    """

    def __init__(
        self,
        frozen: Frozen,
        build: Traced,
        closed: list[Array | np.ndarray],
        numbers: Numbers,
        one: dict[str, jax.ShapeDtypeStruct],
        messages: list[str],
        wanted: Wanted,
        judging: Callable[[], Frozen] | None = None,
    ) -> None:
        self.frozen, self.build, self.closed, self.messages, self.wanted = frozen, build, closed, messages, wanted
        self.one, self.judging = one, judging
        make = lambda: Programs(Computation(frozen, build, build.parts, wanted), one)
        same = (frozen.lasting, build.identity, tuple((name, like.shape, like.dtype) for name, like in one.items()))
        self.programs = make() if frozen.lasting is None else traces.get(same, make)
        self.computation = self.programs.computation
        self._set(numbers)

    def _set(self, numbers: Numbers) -> None:
        self.numbers, self.ts, self.root, self.seeds = numbers, numbers.ts, numbers.root, numbers.seeds
        self.chunk_bytes = 0  # what one chunk takes while it runs, as far as is known
        self.calls_split = 0  # because memory ran out
        constants = [*self.closed, *numbers.given]
        self.closed_over = [*constants, *jax.tree.leaves(self.frozen.constants)]
        self.programs = self.programs.of_numbers(constants, numbers)
        self.shared = self.programs.shared
        self._fixed: dict[Device, PyTree] = {}
        self._thorough: Batch | None = None

    def again(self, numbers: Numbers) -> "Batch":
        """The same with other numbers of the same kinds."""
        other = copy.copy(self)
        other._set(numbers)
        return other

    def read_all(self) -> None:
        """Trace what otherwise waits until a chunk needs it."""
        if self.judging is not None:
            self.judging()

    def plan(self, cells: int, on: Machine, filled: bool = False) -> Plan:
        """How many cells a call takes, and how many lanes; compiled for the first device.

        Args:
            cells: How many there are.
            on: Where, and with what means.
            filled: Whether the chunk may be filled up, so that sweeps of other sizes find their programs.
        """
        method, start = self.frozen.program.method, self.frozen.program.start.outputs
        lanes = on.lanes_of(_STATE_COPIES * bytes_of(start)) if method.in_lanes else None
        steps = "velocity" in method.needs

        def planned(bytes_per_cell: int | float) -> Plan:
            if filled and on.chunk is None:
                return on.filled(cells, self.seeds, bytes_per_cell, lanes, steps)
            return Plan.of(on.chunk_size(cells, bytes_per_cell, lanes, steps), lanes)

        plan, budget, device = planned(self._bytes_per_cell()), on.budget(), on.local_devices()[0]
        taken = self._taken(plan, device)
        if taken > budget and plan.filled:  # filling has no room
            return self.plan(cells, on)
        while math.isinf(taken) and plan.size > 1 and on.chunk is None:
            plan = Plan.of(plan.size // 2, plan.lanes)
            taken = self._taken(plan, device)
        if math.isinf(taken):
            raise MemoryError(
                f"To compute {plan.size} cells in one call takes more memory than {device} has. Take smaller chunks, "
                f"lf.Machine(chunk=...), or measure at fewer `ts`."
            )
        if taken > budget and on.chunk is None:
            # Memory is linear in cells: two sizes tell how many fit.
            other = Plan.of(plan.size // 2 or 2, plan.lanes)
            per_cell = (taken - self.compile(other, device)) / (plan.size - other.size)
            room = budget - (taken - plan.size * per_cell)
            if room < per_cell:
                raise MemoryError(
                    f"To compute even one cell takes {(budget - room + per_cell) / 2**30:.2g} GiB, more than the "
                    f"{budget / 2**30:.2g} GiB of `memory`. Raise lf.Machine(memory=...), or measure at fewer `ts`."
                )
            plan = planned(budget * per_cell / room)
            self.compile(plan, device)
        return plan

    def _taken(self, plan: Plan, device: Device) -> int | float:
        """The bytes that a chunk takes; without end where the compiler finds that the device has no room for it."""
        try:
            return self.compile(plan, device)
        except jax.errors.JaxRuntimeError as error:
            if not _no_room(error):
                raise
            return math.inf

    def run(
        self, device: Device, cells: Cells, plan: Plan, ask: Ask = lambda call: call(), tell: Tell = lambda _: None
    ) -> tuple[list[Any], Path]:
        """Solve a chunk on a device: what is `kept` of each cell, and the paths besides.

        Where memory runs out the call is split; the chunk stays what it is.

        Args:
            device: Where.
            cells: The chunk.
            plan: How.
            ask: Has what must be compiled done in the thread that compiles.
            tell: Is told, while it runs, the places in the chunk of cells that take many steps.
        """
        try:
            return self._call(device, cells, plan, ask, tell)
        except jax.errors.JaxRuntimeError as error:
            if not _no_room(error) or plan.size == 1:
                raise
        if not self.calls_split:
            warnings.warn(
                f"Out of memory with {plan.size} cells in one call on {device}, so it is split in two. "
                f"Smaller chunks from the start: lf.Machine(memory=...).",
                stacklevel=2,
            )
        self.calls_split += 1
        half = Plan.of(math.ceil(plan.size / 2), plan.lanes, plan.filled)
        begins = (0, plan.size - half.size)
        runs = (
            self.run(device, cells.part(begin, half.size), half, ask, lambda slow, begin=begin: tell(slow + begin))
            for begin in begins
        )
        first, second = map(jax.device_get, runs)
        twice = 2 * half.size - plan.size  # cells that both halves hold
        return jax.tree.map(lambda one, other: np.concatenate([one, other[twice:]]), first, second)

    def check(self, values: dict[str, np.ndarray], seeds: np.ndarray) -> list[Array]:
        """Judge the checks that the cell function made, for some cells."""
        return self.programs.at_once("check", self.computation.check, self.shared, self.root, values, seeds)

    def check_gauge(self, values: dict[str, np.ndarray], seeds: np.ndarray) -> None:
        """Raise for an observable that the closed form does not know, as the first of some cells shows."""
        if self.frozen.program.turned is not None:
            arguments = (self.shared, self.root, *jax.tree.map(lambda array: array[:1], (values, seeds)))
            gaps = self.programs.at_once("gauge", self.computation.gauge, *arguments, self.frozen.constants)
            check_gauge(gaps, self.frozen.measured)

    def floor(self, values: dict[str, np.ndarray], seeds: np.ndarray) -> tuple[Array, ...] | None:
        """What the tolerance leaves of the loss of some cells, their `until`, and rtol; None if that says nothing."""
        if self.frozen.program.apart.marked_method.stops_at is None:
            return None
        return self.programs.at_once(
            "floor", self.computation.floor, self.shared, self.root, values, seeds, self.frozen.constants
        )

    @property
    def light(self) -> bool:
        """Whether cells are so small that looking at many takes no longer than at a few."""
        return _STATE_COPIES * bytes_of(self.frozen.program.start.outputs) <= _LIGHT_STATE

    @property
    def identity(self) -> Identity:
        """Of everything that decides its numbers but chunks and lanes."""
        return self.programs.identity

    @property
    def compile_seconds(self) -> float:
        """What compiling has taken so far."""
        return self.programs.seconds + (0.0 if self._thorough is None else self._thorough.compile_seconds)

    @property
    def keys(self) -> frozenset[str]:
        """Kinds of random keys that cells draw by."""
        return self.computation.parts.keys.union(*(part.keys for part in self.frozen.program.parts))

    @property
    def kept(self) -> list[Measured]:
        """What the diagram keeps of each cell, beside how it ended; over `ts` in front of its own dimensions."""
        over_time, timed = (() if self.ts is None else self.ts.shape), self.ts is not None
        whole = lambda like: jax.ShapeDtypeStruct(over_time + like.shape, like.dtype)
        observed = [m._replace(like=whole(m.like), timed=timed) for m in self.frozen.measured if self.wanted.paths]
        values = [*observed, *self.frozen.summed]
        slopes = [one._replace(kind="slope", by=axis) for axis in self.wanted.derivative for one in values]
        verified = [one._replace(timed=timed and one.kind == "error") for one in self.frozen.verified]
        return [*values, *slopes, *verified]

    def _bytes_per_cell(self) -> int:
        """Rough size of one cell of a chunk: its own arrays, where it starts and stands, and what it measures."""
        parts, state = self.computation.parts, bytes_of(self.frozen.program.start.outputs)
        shapes = jax.tree.leaves(self.build.outputs)
        own = sum(bytes_of(s) for s, varies in zip(shapes, parts.varies, strict=True) if varies)
        measured = sum(bytes_of(one.like) for one in self.frozen.measured)
        return own + _STATE_COPIES * state + (1 if self.ts is None else len(self.ts)) * (2 * state + 3 * measured) + 256

    def _call(self, device: Device, cells: Cells, plan: Plan, ask: Ask, tell: Tell) -> tuple[list[Any], Path]:
        if device not in self._fixed:
            self._fixed[device] = _moved(device, (self.shared, self.frozen.constants, self.ts, self.root))
        shared, constants, ts, root = self._fixed[device]
        compiled = self.programs.of_chunks(plan, device, ask)

        def call(program: Compiled, *arguments: PyTree) -> Any:
            with _turn(device, program.factorises):
                return jax.block_until_ready(program.call(*arguments))

        # What differs from chunk to chunk goes in as NumPy arrays: programs take them to their device in less time
        # than jax.device_put.
        seeds = self._distinct(cells.seeds, plan)
        total = np.asarray(cells.total)
        built = call(compiled["build"], shared, root, total, cells.values, seeds)
        chunk = Chunk(constants, ts, total, built)
        if "run" in compiled:
            found, path = call(compiled["run"], chunk)
        else:
            under_way = call(compiled["travel"], travelling(chunk))
            while np.asarray(under_way.finished) < cells.total:
                tell(_slow(under_way))
                onward = self.programs.onward(plan, device, under_way, built, ask)
                under_way = call(onward, travelling(chunk), under_way)
                tell(_slow(under_way))
            found, path = call(compiled["measure"], chunk, under_way.ended, under_way.saved)
        if self.judging is not None and (np.asarray(path.status) == Status.DOUBTFUL).any():
            return self._judging(ask)._call(device, cells, plan, ask, tell)
        return found, path

    def _judging(self, ask: Ask) -> "Batch":
        """The batch that finds out what this one leaves open, made if there is a chunk for it."""
        if self._thorough is not None:
            return self._thorough
        assert self.judging is not None
        judging, wanted = self.judging, dataclasses.replace(self.wanted, quick=False)
        own = (self.build, self.closed, self.numbers, self.one, self.messages, wanted)
        self._thorough = thorough = ask(lambda: Batch(judging(), *own))
        return thorough

    def _distinct(self, seeds: np.ndarray, plan: Plan) -> Seeds:
        """Every seed of some cells once, filled up to a fixed number, and the place of each cell among them."""
        distinct, where = np.unique(seeds, return_inverse=True)
        room = plan.room(self.seeds) - len(distinct)
        return Seeds(np.pad(distinct, (0, room), mode="edge"), np.asarray(len(distinct)), where)

    def compile(self, plan: Plan, device: Device) -> int:
        """Compile for a device; the bytes that a chunk takes while it runs."""
        program = self.frozen.program
        check_float64(program.start.outputs.dtype, device, program.method.emulated)
        self.chunk_bytes = max(program.bytes for program in self.programs.of_chunks(plan, device).values())
        return self.chunk_bytes


def _no_room(error: Exception) -> bool:
    """Whether memory ran out."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _slow(under_way: UnderWay) -> np.ndarray:
    """The places in a chunk of the cells under way that have taken many steps."""
    cell, steps = jax.device_get((under_way.cell, under_way.lanes.at.num_steps))
    return np.sort(cell[(steps >= MANY_STEPS) & (cell < under_way.ended.t.shape[0])])


def _turn(device: Device, factorises: bool) -> contextlib.AbstractContextManager[Any]:
    """Leave to compute: factorisations of two threads at once were seen to hang on CPU."""
    return _one_at_a_time if factorises and device.platform == "cpu" else contextlib.nullcontext()


def _moved(device: Device, tree: PyTree) -> PyTree:
    """Arrays on a device. Those that lie there already are left alone: jax.device_put takes 70 us to find that out."""
    return jax.tree.map(lambda a: a if a.devices() == {device} else jax.device_put(a, device), tree)
