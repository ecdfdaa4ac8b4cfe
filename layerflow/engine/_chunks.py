"""Chunks: a fixed number of cells computed by one call of a compiled program."""

import functools
import hashlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from layerflow.engine._cell import Wanted
from layerflow.engine._program import Frozen, check_gauge
from layerflow.engine._trace import Traced, split
from layerflow.methods import Path

_programs: dict[Any, Any] = {}


class Batch:
    """All cells of one structure, to be run chunk by chunk.

    Args:
        frozen: The cell's functions.
        build: (arguments of the cell function, key) -> (the cell's arrays, its method's, checks).
        constants: What `build` closed over.
        messages: What to say of a cell that fails a check.
        ts: Where to measure.
        root: Seed s has the key fold_in(root, s).
        wanted: What to keep of each cell.
        seeds: How many there are.
    """

    def __init__(
        self,
        frozen: Frozen,
        build: Traced,
        constants: list[Array],
        messages: list[str],
        ts: Array | None,
        root: PRNGKeyArray,
        wanted: Wanted,
        seeds: int,
    ) -> None:
        self.frozen, self.build, self.messages, self.wanted = frozen, build, messages, wanted
        self.parts, self.seeds = split(build), seeds
        self.compile_seconds = 0.0
        self.chunk_bytes = 0  # what one chunk takes while it runs, once one did
        self.shared = self._compiled("share", self.parts.share, constants)(constants)
        self.fixed = (self.shared, frozen.constants, ts, root)

    def run(self, values: dict[str, Array], seeds: Int[Array, " cells"]) -> tuple[list[Array], Path]:
        """Solve some cells; every number of cells compiles once. What is `kept` of each, and the paths besides."""
        arguments = (*self.fixed, values, self._distinct(seeds))
        program = self._compiled("run", self._run, *arguments)
        self.chunk_bytes = _working_set(program)
        return program(*arguments)

    def _distinct(self, seeds: Int[Array, " cells"]) -> tuple[Array, Array]:
        """Every seed of some cells once, filled up to a fixed number, and the place of each cell among them."""
        distinct, where = np.unique(np.asarray(seeds), return_inverse=True)
        most = min(len(seeds), self.seeds)
        return jnp.asarray(np.pad(distinct, (0, most - len(distinct)), mode="edge")), jnp.asarray(where)

    def check(self, values: dict[str, Array], seeds: Int[Array, " cells"]) -> list[Array]:
        """Judge the checks that the cell function made, for some cells."""
        arguments = (*self.fixed, values, seeds)
        return self._compiled("check", self._check, *arguments)(*arguments)

    def check_gauge(self, values: dict[str, Array], seeds: Int[Array, " cells"]) -> None:
        """Raise for an observable that the closed form does not know, as the first of some cells shows."""
        if self.frozen.program.gauge is not None:
            first = jax.tree.map(lambda array: array[:1], (values, seeds))
            arguments = (*self.fixed, *first)
            gaps = self._compiled("gauge", self._gauge, *arguments)(*arguments)
            check_gauge(gaps, self.frozen.variables)

    @property
    def fingerprint(self) -> str:
        """A digest of everything that was traced."""
        program = self.frozen.program
        parts = [self.build, *program.parts]
        return hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()

    @property
    def kept(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Name and shape, per cell, of all that the diagram keeps."""
        ts = self.fixed[2]
        over_time = () if ts is None else ts.shape
        observed = {n: jax.ShapeDtypeStruct(over_time + v.shape, v.dtype) for n, v in self.frozen.variables.items()}
        values = (observed if self.wanted.paths else {}) | self.frozen.summaries
        slopes = {f"{n}_d_{axis}": shape for axis in self.wanted.derivative for n, shape in values.items()}
        return values | slopes | self.frozen.verified

    def bytes_per_cell(self) -> int:
        """Rough size of one cell at work: its own arrays, the stages of a step, and what it measures."""
        shapes = jax.tree.leaves(self.build.outputs)
        own = sum(_bytes(s) for s, varies in zip(shapes, self.parts.varies, strict=True) if varies)
        state = _bytes(self.frozen.program.start.outputs)
        measured = sum(map(_bytes, self.frozen.variables.values()))
        ts = self.fixed[2]
        return own + 24 * state + (1 if ts is None else ts.shape[0]) * (2 * state + 3 * measured) + 256

    def _run(
        self,
        shared: list[Array],
        constants: PyTree,
        ts: Array | None,
        root: PRNGKeyArray,
        values: dict[str, Array],
        seeds: tuple[Array, Array],
    ) -> tuple[list[Array], Path]:
        def travel(values: dict[str, Array]) -> tuple[list[Array], Path]:
            path = self._travel(shared, constants, ts, root, values, seeds)
            kept = [*(path.observed if self.wanted.paths else []), *path.summaries]
            return kept, eqx.tree_at(lambda path: (path.observed, path.summaries), path, ([], []))

        kept, path = travel(values)
        slopes = []
        for axis in self.wanted.derivative:
            by_axis = lambda along, axis=axis: travel(values | {axis: along})[0]
            # Cells do not depend on one another, so one direction holds the derivatives of all.
            _, slope = jax.jvp(by_axis, (values[axis],), (jnp.ones_like(values[axis]),))
            slopes += [jnp.where(jnp.isnan(value), value, d) for value, d in zip(kept, slope, strict=True)]
        return [*kept, *slopes, *path.verified], eqx.tree_at(lambda path: path.verified, path, [])

    def _travel(
        self,
        shared: list[Array],
        constants: PyTree,
        ts: Array | None,
        root: PRNGKeyArray,
        values: dict[str, Array],
        seeds: tuple[Array, Array],
    ) -> Path:
        distinct, where = _keys(root, seeds[0]), seeds[1]
        keys = distinct[where]
        outputs = self._build_all(shared, distinct, (values, keys, where))
        leaves, method, _ = jax.tree.unflatten(self.build.structure, outputs)
        axes = jax.tree.unflatten(self.build.structure, [0 if varies else None for varies in self.parts.varies])
        travel = lambda leaves, method, key: self.frozen.program.travel(constants, leaves, method, ts, key)
        return lockstep(travel, (leaves, method, keys), (axes[0], axes[1], 0))

    def _check(
        self,
        shared: list[Array],
        _constants: PyTree,
        _ts: Any,
        root: PRNGKeyArray,
        values: dict[str, Array],
        seeds: Array,
    ) -> list[Array]:
        def judge(cell: Any) -> list[Array]:
            _, _, holds = jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))
            return holds

        return jax.vmap(judge)((values, _keys(root, seeds)))

    def _gauge(
        self,
        shared: list[Array],
        constants: PyTree,
        _ts: Any,
        root: PRNGKeyArray,
        values: dict[str, Array],
        seeds: Array,
    ) -> list[Array]:
        assert self.frozen.program.gauge is not None
        cell = jax.tree.map(lambda array: array[0], (values, _keys(root, seeds)))
        leaves, method, _ = jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))
        return self.frozen.program.gauge(constants["gauge"], leaves, method)

    def _build_all(self, shared: list[Array], distinct: Key[Array, " seeds"], cells: Any) -> list[Array]:
        """The outputs of `build`: those that vary from cell to cell stacked, the others once."""
        parts = self.parts
        keyed = _over(parts.key_factorises)(lambda key: parts.per_key(shared, key), distinct)

        def outputs(cell: Any) -> list[Array]:
            values, key, where = cell
            return parts.per_cell(shared, [array[where] for array in keyed], values, key)

        own = lambda cell: [out for out, v in zip(outputs(cell), parts.varies, strict=True) if v]
        stacked = iter(_over(parts.cell_factorises)(own, cells))
        first = outputs(jax.tree.map(lambda a: a[0], cells))
        return [next(stacked) if varies else out for out, varies in zip(first, parts.varies, strict=True)]

    def _compiled(self, name: str, function: Callable[..., Any], *arguments: PyTree) -> Callable[..., Any]:
        """`function` compiled for arguments like these, or found compiled by an equal batch."""
        key = (
            name,
            (self.wanted.paths, self.wanted.derivative, self.wanted.verify),
            self.build,
            self.frozen.program,
            jax.default_backend(),
            *(str(jax.config.values[f"jax_{name}"]) for name in ("default_matmul_precision", "threefry_partitionable")),
            str(jax.tree.map(lambda a: (a.shape, a.dtype), arguments)),
        )
        if key not in _programs:
            begin = time.perf_counter()
            _programs[key] = jax.jit(function).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - begin
        return _programs[key]


def _over(factorises: bool) -> Callable[..., Any]:
    """How to map over cells: side by side; on CPU factorisations one by one, for batches of them were seen to hang."""
    one_by_one = factorises and jax.default_backend() == "cpu"
    return jax.lax.map if one_by_one else lambda function, xs: jax.vmap(function)(xs)


def lockstep(travel: Callable[..., Path], cells: tuple[Any, ...], axes: tuple[Any, ...]) -> Path:
    """Let the cells of a chunk travel side by side; each step waits for all."""
    return jax.vmap(travel, in_axes=axes)(*cells)


@functools.cache  # programs live as long as the process, and are slow to ask
def _working_set(program: Any) -> int:
    """Bytes that a compiled program takes while it runs."""
    sizes = program.memory_analysis()
    if sizes is None:  # not every backend tells
        return 0
    own = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return own - sizes.alias_size_in_bytes


def _keys(root: PRNGKeyArray, seeds: Int[Array, " cells"]) -> Key[Array, " cells"]:
    return jax.vmap(lambda seed: jax.random.fold_in(root, seed))(seeds)


def _bytes(shape: Any) -> int:
    return shape.size * (shape.dtype.itemsize if jnp.issubdtype(shape.dtype, jnp.number) else 16)
