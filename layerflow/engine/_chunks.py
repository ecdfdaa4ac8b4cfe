"""Chunks: a fixed number of cells computed by one call of compiled programs."""

import contextlib
import functools
import math
import re
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow.base._numerics import full_precision
from layerflow.engine._computation import Computation, Seeds
from layerflow.engine._devices import Ask
from layerflow.engine._identity import Identity, identity, settings
from layerflow.engine._kept import programs
from layerflow.engine._lanes import MANY_STEPS, UnderWay
from layerflow.engine._machine import Device, Machine
from layerflow.engine._program import Frozen, check_gauge
from layerflow.engine._trace import Traced, split
from layerflow.engine._wanted import Measured, Wanted
from layerflow.methods import Path, Status

Tell = Callable[[np.ndarray], Any]

_one_at_a_time = threading.Lock()
_STATE_COPIES = 24  # of a trajectory's weights that a step works on: stages, errors, what controls it


class Cells(NamedTuple):
    """The cells of one chunk, on the host: arguments of the cell function, seeds, and which are no filling."""

    values: dict[str, np.ndarray]
    seeds: np.ndarray
    real: np.ndarray

    def part(self, begin: int, size: int) -> "Cells":
        """Some of them, in order."""
        return jax.tree.map(lambda array: array[begin : begin + size], self)


class Plan(NamedTuple):
    """How a chunk is computed: how many cells it has and, of a flow, how many step side by side."""

    size: int
    lanes: int | None

    @classmethod
    def of(cls, size: int, lanes: int | None) -> "Plan":
        """A plan with no more lanes than cells."""
        return cls(size, None if lanes is None else min(lanes, size))


class Programs(NamedTuple):
    """What builds the cells of a chunk and what lets them travel.

    Attributes:
        build, run: The compiled programs.
        build_factorises, run_factorises: Whether each calls a matrix factorisation.
        bytes: What they take while they run.
    """

    build: Any
    run: Any
    build_factorises: bool
    run_factorises: bool
    bytes: int


class Batch:
    """All cells of one structure, to be run chunk by chunk.

    Args:
        frozen: The cell's functions.
        build: (arguments of the cell function, key) -> (the cell's arrays, its method's, checks).
        constants: What `build` closed over.
        one: Shapes of the arguments of one cell.
        messages: What to say of a cell that fails a check.
        ts: Where to measure.
        root: Seed s has the key fold_in(root, s).
        wanted: What to keep of each cell.
        seeds: How many there are.
        judging: Makes the batch that finds out what `frozen` leaves open, of cells that are DOUBTFUL.
    """

    def __init__(
        self,
        frozen: Frozen,
        build: Traced,
        constants: list[Array],
        one: dict[str, jax.ShapeDtypeStruct],
        messages: list[str],
        ts: Array | None,
        root: PRNGKeyArray,
        wanted: Wanted,
        seeds: int,
        judging: "Callable[[], Batch] | None" = None,
    ) -> None:
        self.frozen, self.build, self.messages, self.wanted = frozen, build, messages, wanted
        self.one, self.ts, self.root, self.seeds, self.judging = one, ts, root, seeds, judging
        self.computation = Computation(frozen, build, split(build), wanted)
        self._compile_seconds = 0.0
        self.chunk_bytes = 0  # what one chunk takes while it runs, as far as is known
        self.calls_split = 0  # because memory ran out
        self.closed_over = [*constants, *jax.tree.leaves(frozen.constants)]
        self.shared = self._at_once("share", self.computation.parts.share, constants)
        self._fixed: dict[Device, PyTree] = {}
        self._thorough: Batch | None = None

    def plan(self, cells: int, on: Machine) -> Plan:
        """How many cells a call takes, and how many lanes; compiled for the first device."""
        method, start = self.frozen.program.method, self.frozen.program.start.outputs
        lanes = on.lanes_of(_STATE_COPIES * _bytes(start)) if method.in_lanes else None
        steps = "velocity" in method.needs
        planned = lambda bytes_per_cell: Plan.of(on.chunk_size(cells, bytes_per_cell, lanes, steps), lanes)
        plan, budget = planned(self._bytes_per_cell()), on.budget()
        taken = self.compile(plan, on.local_devices()[0])
        if taken > budget and on.chunk is None:
            # Memory is linear in cells: two sizes tell how many fit.
            other = Plan.of(plan.size // 2 or 2, lanes)
            per_cell = (taken - self.compile(other, on.local_devices()[0])) / (plan.size - other.size)
            room = budget - (taken - plan.size * per_cell)
            if room < per_cell:
                raise MemoryError(
                    f"To compute even one cell takes {(budget - room + per_cell) / 2**30:.2g} GiB, more than the "
                    f"{budget / 2**30:.2g} GiB of `memory`. Raise lf.Machine(memory=...), or measure at fewer `ts`."
                )
            plan = planned(budget * per_cell / room)
            self.compile(plan, on.local_devices()[0])
        return plan

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
            if "RESOURCE_EXHAUSTED" not in str(error) or plan.size == 1:
                raise
        if not self.calls_split:
            warnings.warn(
                f"Out of memory with {plan.size} cells in one call on {device}, so it is split in two. "
                f"Smaller chunks from the start: lf.Machine(memory=...).",
                stacklevel=2,
            )
        self.calls_split += 1
        half = Plan.of(math.ceil(plan.size / 2), plan.lanes)
        begins = (0, plan.size - half.size)
        runs = (
            self.run(device, cells.part(begin, half.size), half, ask, lambda slow, begin=begin: tell(slow + begin))
            for begin in begins
        )
        first, second = map(jax.device_get, runs)
        twice = 2 * half.size - plan.size  # cells that both halves hold
        return jax.tree.map(lambda one, other: np.concatenate([one, other[twice:]]), first, second)

    def check(self, values: dict[str, Array], seeds: Array) -> list[Array]:
        """Judge the checks that the cell function made, for some cells."""
        return self._at_once("check", self.computation.check, self.shared, self.root, values, seeds)

    def check_gauge(self, values: dict[str, Array], seeds: Array) -> None:
        """Raise for an observable that the closed form does not know, as the first of some cells shows."""
        if self.frozen.program.turned is not None:
            arguments = (self.shared, self.root, *jax.tree.map(lambda array: array[:1], (values, seeds)))
            gaps = self._at_once("gauge", self.computation.gauge, *arguments, self.frozen.constants)
            check_gauge(gaps, self.frozen.measured)

    def floor(self, values: dict[str, Array], seeds: Array) -> tuple[Array, ...] | None:
        """What the tolerance leaves of the loss of some cells, their `until`, and rtol; None if that says nothing."""
        if self.frozen.program.apart.marked_method.stops_at is None:
            return None
        return self._at_once(
            "floor", self.computation.floor, self.shared, self.root, values, seeds, self.frozen.constants
        )

    @functools.cached_property
    def identity(self) -> Identity:
        """Of everything that was traced, of the method, of what is wanted, and of JAX's settings."""
        wanted = (self.wanted.paths, self.wanted.derivative, self.wanted.verify)
        parts = (self.build.identity, self.frozen.program.identity)
        whole = identity([part.digest for part in parts], wanted, settings())
        return Identity(whole.digest, frozenset().union(*(part.strange for part in parts)))

    @property
    def compile_seconds(self) -> float:
        """What compiling has taken so far."""
        return self._compile_seconds + (0.0 if self._thorough is None else self._thorough.compile_seconds)

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
        parts, state = self.computation.parts, _bytes(self.frozen.program.start.outputs)
        shapes = jax.tree.leaves(self.build.outputs)
        own = sum(_bytes(s) for s, varies in zip(shapes, parts.varies, strict=True) if varies)
        measured = sum(_bytes(one.like) for one in self.frozen.measured)
        return own + _STATE_COPIES * state + (1 if self.ts is None else len(self.ts)) * (2 * state + 3 * measured) + 256

    def _call(self, device: Device, cells: Cells, plan: Plan, ask: Ask, tell: Tell) -> tuple[list[Any], Path]:
        if device not in self._fixed:
            self._fixed[device] = _moved(device, (self.shared, self.frozen.constants, self.ts, self.root))
        shared, constants, ts, root = self._fixed[device]
        compiled = self._programs(plan, device, ask)
        # What differs from chunk to chunk goes in as NumPy arrays: programs take them to their device in less time
        # than jax.device_put.
        with _turn(device, compiled.build_factorises):
            built = jax.block_until_ready(compiled.build(shared, root, cells.values, self._distinct(cells.seeds)))
        with _turn(device, compiled.run_factorises):
            *found, under_way = jax.block_until_ready(compiled.run(constants, ts, cells.real, built))
            while under_way is not None and under_way.finished < cells.real.sum():
                tell(_slow(under_way))
                onward = self._onward(plan, device, ask, (built, under_way))
                ended = np.asarray(under_way.ended.status) != Status.RUNNING
                *after, under_way = jax.block_until_ready(onward(constants, ts, cells.real, built, under_way))
                found = _joined(ended, found, after)
                tell(_slow(under_way))
        if self.judging is not None and (np.asarray(found[1].status) == Status.DOUBTFUL).any():
            return self._judging(ask)._call(device, cells, plan, ask, tell)
        return found[0], found[1]

    def _judging(self, ask: Ask) -> "Batch":
        """The batch that finds out what this one leaves open, made if there is a chunk for it."""
        assert self.judging is not None
        thorough = self._thorough or ask(self.judging)
        self._thorough = thorough
        return thorough

    def _distinct(self, seeds: np.ndarray) -> Seeds:
        """Every seed of some cells once, filled up to a fixed number, and the place of each cell among them."""
        distinct, where = np.unique(seeds, return_inverse=True)
        most = min(len(seeds), self.seeds)
        return Seeds(np.pad(distinct, (0, most - len(distinct)), mode="edge"), where)

    def compile(self, plan: Plan, device: Device) -> int:
        """Compile for a device; the bytes that a chunk takes while it runs."""
        self.chunk_bytes = self._programs(plan, device).bytes
        return self.chunk_bytes

    def _programs(self, plan: Plan, device: Device, ask: Ask = lambda call: call()) -> Programs:
        return programs.get(self._of_chunks(plan, device), lambda: ask(lambda: self._compiled(plan, device)))

    def _compiled(self, plan: Plan, device: Device) -> Programs:
        build, run = map(self._timed, self._lowered(plan, device))
        factorise = self.computation.parts.factorises, self.frozen.program.factorises
        return Programs(build, run, *factorise, max(map(_working_set, (build, run))))

    def _onward(self, plan: Plan, device: Device, ask: Ask, state: PyTree) -> Any:
        """The program that goes on with a chunk under way; few chunks need it."""
        compiled = lambda: self._timed(self._lowered_run(plan, device, *state))
        return programs.get(("onward", *self._of_chunks(plan, device)), lambda: ask(compiled))

    def _timed(self, lowered: Any) -> Any:
        """Compile, and count the time."""
        begin = time.perf_counter()
        compiled = lowered.compile()
        self._compile_seconds += time.perf_counter() - begin
        return compiled

    @full_precision()
    def _lowered(self, plan: Plan, device: Device) -> tuple[Any, Any]:
        """The programs that build the cells of a chunk, and let them travel."""
        of_cells = lambda shape: jax.ShapeDtypeStruct((plan.size, *shape.shape), shape.dtype)
        number = jax.ShapeDtypeStruct((), jnp.result_type(int))
        seeds = Seeds(jax.ShapeDtypeStruct((min(plan.size, self.seeds),), number.dtype), of_cells(number))
        placed = functools.partial(_placed, device)
        shared, root = placed((self.shared, self.root))
        values, seeds = placed(({name: of_cells(shape) for name, shape in self.one.items()}, seeds))
        build = jax.jit(self.computation.build_cells).lower(shared, root, values, seeds)
        return build, self._lowered_run(plan, device, build.out_info)

    @full_precision()
    def _lowered_run(self, plan: Plan, device: Device, *state: PyTree) -> Any:
        """The program that lets cells travel: of what is built, and of a chunk under way if it is to go on with one."""
        real = jax.ShapeDtypeStruct((plan.size,), bool)
        run = jax.jit(functools.partial(self.computation.run, plan.lanes))
        return run.lower(*_placed(device, (self.frozen.constants, self.ts, real, *state)))

    def _at_once(self, name: str, function: Callable[..., Any], *arguments: PyTree) -> Any:
        """A smaller function of all cells, compiled for arguments like these, or found compiled by an equal batch."""
        compiled = lambda: self._timed(self._lowered_at_once(function, arguments))
        return programs.get((name, *self._key(arguments)), compiled)(*arguments)

    @full_precision()
    def _lowered_at_once(self, function: Callable[..., Any], arguments: PyTree) -> Any:
        return jax.jit(function).lower(*arguments)

    def _of_chunks(self, plan: Plan, device: Device) -> tuple[Any, ...]:
        arguments = (self.shared, self.root, self.one, self.frozen.constants, self.ts)
        return (plan, device, min(plan.size, self.seeds), *self._key(arguments))

    def _key(self, arguments: PyTree) -> tuple[Any, ...]:
        """What makes two programs one: all that decides their numbers, and the shapes of arguments."""
        shapes = str(jax.tree.map(lambda a: (a.shape, a.dtype), arguments))
        return (self.identity, jax.default_backend(), shapes)


def _joined(first: np.ndarray, one: PyTree, other: PyTree) -> PyTree:
    """What came of the cells of a chunk: `one` of the first ones, `other` of the rest."""
    one, other = jax.device_get((one, other))
    spread = lambda array: first.reshape(first.shape + (1,) * (array.ndim - 1))
    return jax.tree.map(lambda a, b: np.where(spread(a), a, b), one, other)


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


def _placed(device: Device, tree: PyTree) -> PyTree:
    """Shapes of arrays that lie on a device."""
    there = SingleDeviceSharding(device)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there), tree)


def _working_set(program: Any) -> int:
    """Bytes that a compiled program takes while it runs."""
    sizes = program.memory_analysis()
    if sizes is None:  # not every backend tells
        return 0
    own = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return own - sizes.alias_size_in_bytes + _uncounted(program.as_text())


def _uncounted(text: str) -> int:
    """Bytes that a program, as XLA prints it, takes beside what its memory analysis counts.

    From jax 0.12 on, XLA hands some fusions on CPU to a library (YNNPACK) that allocates on its own: at most the
    largest array inside one of them, measured half of that.
    """
    called = re.findall(r"calls=%([\w.-]+),.*__ynn_fusion", text)
    bodies = (re.search(rf"^%{re.escape(name)} \(.*?^}}", text, re.MULTILINE | re.DOTALL) for name in called)
    inside = (array for body in bodies if body for array in _INSIDE.findall(body[0]))
    return max(
        (_width(kind) * math.prod(map(int, filter(None, sizes.split(",")))) for kind, sizes in inside), default=0
    )


# Arrays that the steps of a fusion give, but for its result; arguments and constants are counted.
_INSIDE = re.compile(r"^  %\S+ = (\w+)\[([\d,]*)\]\S* (?!parameter|constant)", re.MULTILINE)


def _width(kind: str) -> int:
    """Bytes of one number of a kind that XLA calls f64, bf16, pred and the like."""
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1


def _bytes(shape: Any) -> int:
    return shape.size * (shape.dtype.itemsize if jnp.issubdtype(shape.dtype, jnp.number) else 16)
