"""The programs of a batch: what is compiled for its chunks, and what makes two programs one."""

import copy
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow.base._numerics import full_precision
from layerflow.engine._compiled import Compiled, compiled
from layerflow.engine._computation import Chunk, Computation, Seeds
from layerflow.engine._devices import Ask
from layerflow.engine._identity import Identity, identity, settings
from layerflow.engine._kept import programs
from layerflow.engine._machine import Device, Plan
from layerflow.engine._program import MEASURING, TRAVELLING


class Numbers(NamedTuple):
    """What all cells share, and another call may give otherwise.

    Attributes:
        given: Arrays of arguments of the cell function and of the method that no axis gives.
        ts: Where to measure.
        root: Seed s has the key fold_in(root, s).
        seeds: How many there are.
    """

    given: list[Array]
    ts: Array | None
    root: PRNGKeyArray
    seeds: int


class Programs:
    """What is compiled for the chunks of a batch.

    A flow in lanes has three: `build` makes the cells, `travel` lets them travel, `measure` measures them where they
    ended. Another observable leaves the first two as they are. All others `run`, that is travel and measure, in one.

    Args:
        computation: What they compute.
        one: Shapes of the arguments of one cell.
    """

    ts: Array | None
    root: PRNGKeyArray
    seeds: int
    shared: list[Array]
    seconds = 0.0  # that compiling took so far

    def __init__(self, computation: Computation, one: dict[str, jax.ShapeDtypeStruct]) -> None:
        self.computation, self.one, self.constants = computation, one, computation.frozen.constants
        self._keys: dict[tuple[Plan, Device, int], dict[str, Any]] = {}

    def of_numbers(self, constants: list[Array | np.ndarray], numbers: Numbers) -> "Programs":
        """The same programs, to be called with these numbers; `constants` are what `build` closed over."""
        _ = self.identity, self._identity_of_building, self._identity_of_way  # read once for all that are copied
        other = copy.copy(self)
        other.ts, other.root, other.seeds = numbers.ts, numbers.root, numbers.seeds
        other.seconds = 0.0
        other.shared = other.at_once("share", self.computation.parts.share, constants)
        return other

    @functools.cached_property
    def identity(self) -> Identity:
        """Of everything that was traced, of the method, of what is wanted, and of JAX's settings."""
        wanted = self.computation.wanted
        return self._whole((wanted.paths, wanted.derivative, wanted.verify), self.computation.frozen.program.identity)

    @functools.cached_property
    def _identity_of_building(self) -> Identity:
        """Of how cells are built, and of JAX's settings."""
        return self._whole(())

    @functools.cached_property
    def _identity_of_way(self) -> Identity:
        """Of how cells are built and travel, and of JAX's settings."""
        return self._whole((), self.computation.frozen.program.way)

    def keys(self, plan: Plan, device: Device) -> dict[str, tuple[Any, ...]]:
        """What makes two programs of a chunk one, by their names in the order in which they are called."""
        known = plan, device, self.seeds
        if known not in self._keys:  # once, not once a chunk; and in the thread that compiles
            names = ("build", "travel", "measure") if self.computation.apart(plan) else ("build", "run")
            self._keys[known] = {name: self._key_of(name, plan, device) for name in names}
        return self._keys[known]

    def of_chunks(self, plan: Plan, device: Device, ask: Ask = lambda call: call()) -> dict[str, Compiled]:
        """The programs of a chunk by name."""
        keys = self.keys(plan, device)

        def make(found: dict[str, Compiled]) -> dict[str, Compiled]:
            gives = {name: program.gives for name, program in found.items()}

            def lower(name: str) -> Any:
                lowered = self.lowered(name, plan, device, gives)
                gives[name] = lowered.out_info
                return lowered

            return self._compiled({name: functools.partial(lower, name) for name in keys if name not in found})

        return programs.get_all(keys, lambda found: ask(lambda: make(found)))

    def onward(self, plan: Plan, device: Device, under_way: PyTree, built: PyTree, ask: Ask) -> Compiled:
        """What goes on with a chunk under way; few chunks need it."""
        gives = {"build": built, "travel": under_way}
        make = lambda: self._compiled({"onward": lambda: self.lowered("onward", plan, device, gives)})["onward"]
        return programs.get(self._key_of("onward", plan, device), lambda: ask(make))

    def at_once(self, name: str, function: Callable[..., Any], *arguments: PyTree) -> Any:
        """A smaller function of all cells, compiled for arguments like these, or found compiled by an equal batch."""
        lower = full_precision()(lambda: jax.jit(function).lower(*arguments))
        make = lambda: self._compiled({name: lower})[name]
        return programs.get((name, *_key(self._identity_of(name), arguments)), make).call(*arguments)

    @full_precision()
    def lowered(self, name: str, plan: Plan, device: Device, gives: dict[str, PyTree]) -> Any:
        """One of them, ready to be compiled: of shapes that those before it give."""
        computation, of = self.computation, lambda *arguments: _placed(device, arguments)
        plan = plan._replace(platform=device.platform)
        total = jax.ShapeDtypeStruct((), jnp.result_type(int))
        lower = lambda function, *arguments: jax.jit(functools.partial(function, plan)).lower(*of(*arguments))
        if name == "build":
            return lower(computation.build_cells, self.shared, self.root, total, *self._cells(plan))
        chunk = Chunk(self.constants, self.ts, total, gives["build"])
        if name == "measure":
            return lower(computation.measure, chunk, gives["travel"].ended, gives["travel"].saved)
        if name == "run":
            return lower(computation.run, chunk)
        state = (gives["travel"],) if name == "onward" else ()
        return lower(computation.travel, travelling(chunk), *state)

    def _cells(self, plan: Plan) -> tuple[dict[str, jax.ShapeDtypeStruct], Seeds]:
        """Shapes of what tells one chunk from another."""
        of_cells = lambda shape: jax.ShapeDtypeStruct((plan.size, *shape.shape), shape.dtype)
        number = jax.ShapeDtypeStruct((), jnp.result_type(int))
        distinct = jax.ShapeDtypeStruct((plan.room(self.seeds),), number.dtype)
        return {name: of_cells(shape) for name, shape in self.one.items()}, Seeds(distinct, number, of_cells(number))

    def _compiled(self, lower: dict[str, Callable[[], Any]]) -> dict[str, Compiled]:
        """Compile, and count the time."""
        program, build = self.computation.frozen.program, self.computation.parts.factorises
        way = program.factorises(TRAVELLING)
        factorises = {"build": build, "travel": way, "onward": way, "measure": program.factorises(MEASURING)}
        begin = time.perf_counter()
        made = compiled(lower, {name: factorises.get(name, program.factorises()) for name in lower})
        self.seconds += time.perf_counter() - begin
        return made

    def _key_of(self, name: str, plan: Plan, device: Device) -> tuple[Any, ...]:
        """What makes two of these programs one: all that decides their numbers, their shapes and where they run."""
        arguments = {
            "build": (),
            "travel": (on_the_way(self.constants), self.ts),
            "onward": (on_the_way(self.constants), self.ts),
        }.get(name, (self.constants, self.ts))
        how = (self.computation.wanted.derivative, plan.filled) if name == "build" else plan
        shapes = (self.shared, self.root, self.one, arguments)
        return (name, plan.size, how, device, plan.room(self.seeds), *_key(self._identity_of(name), shapes))

    def _identity_of(self, name: str) -> Identity:
        """Of a program, by what it depends on."""
        if name in ("share", "check", "build"):
            return self._identity_of_building
        return self._identity_of_way if name in ("floor", "travel", "onward") else self.identity

    def _whole(self, wanted: Any, *more: Identity) -> Identity:
        """Of how cells are built, of more, of what is wanted, and of JAX's settings."""
        parts = (self.computation.build.identity, *more)
        whole = identity([part.digest for part in parts], wanted, settings())
        return Identity(whole.digest, frozenset().union(*(part.strange for part in parts)))


def travelling(chunk: Chunk) -> Chunk:
    """A chunk for the programs that let it travel."""
    return chunk._replace(constants=on_the_way(chunk.constants))


def on_the_way(constants: dict[str, list[Array]]) -> dict[str, list[Array]]:
    """What the functions closed over that a flow in lanes calls on its way."""
    return {name: constants[name] for name in TRAVELLING if name in constants}


def _key(own: Identity, arguments: PyTree) -> tuple[Any, ...]:
    """All that decides the numbers of a program, and the shapes of its arguments."""
    return (own, jax.default_backend(), str(jax.tree.map(lambda a: (a.shape, a.dtype), arguments)))


def _placed(device: Device, tree: PyTree) -> PyTree:
    """Shapes of arrays that lie on a device."""
    there = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there), tree)
