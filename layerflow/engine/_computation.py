"""What a chunk of cells computes, as functions of arrays: the cells are built, then they travel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from layerflow.engine._lanes import MANY_STEPS, Lanes, blocks
from layerflow.engine._machine import Plan
from layerflow.engine._program import Frozen
from layerflow.engine._trace import Parts, Traced
from layerflow.engine._under_way import UnderWay
from layerflow.engine._wanted import Wanted
from layerflow.methods import Path, Position, Saved

Values = dict[str, Array]


class Seeds(NamedTuple):
    """Every seed of a chunk once, how many there are, and the place of each cell's among them."""

    distinct: Any
    total: Any
    where: Any


class Built(NamedTuple):
    """All cells of a chunk: outputs of `build`, stacked where they vary, with derivatives by the axes asked for."""

    outputs: list[Array]
    slopes: dict[str, list[Array | None]]
    keys: Key[Array, " cells"]


class Chunk(NamedTuple):
    """What the programs of a chunk are called with once its cells are built."""

    constants: PyTree  # what the functions that are called closed over
    ts: Array | None
    total: Any  # how many of its cells, the first, are no filling
    built: Built


@dataclass(frozen=True)
class Computation:
    """The functions that are compiled for chunks.

    Attributes:
        frozen: The cell's functions.
        build: (arguments of the cell function, key) -> (the cell's arrays, its method's, checks).
        parts: `build` taken apart by what its steps depend on.
        wanted: What to keep of each cell.
    """

    frozen: Frozen
    build: Traced
    parts: Parts
    wanted: Wanted

    def build_cells(
        self,
        plan: Plan,
        shared: list[Array],
        root: PRNGKeyArray,
        total: Int[Array, ""],
        values: Values,
        seeds: Seeds,
    ) -> Built:
        """The cells' arrays; zero of cells that fill the chunk, where building each takes its time."""
        distinct = keys_of(root, seeds.distinct)
        keys = distinct[seeds.where]
        counts = (seeds.total, total) if plan.filled else (None, None)
        outputs = lambda values: self._stacked(shared, distinct, (values, keys, seeds.where), counts, plan.platform)
        slopes = {}
        for axis in self.wanted.derivative:
            along = lambda value, axis=axis: outputs(values | {axis: value})
            # Cells do not depend on one another, so one direction holds the derivatives of all.
            slope = jax.jvp(along, (values[axis],), (jnp.ones_like(values[axis]),))[1]
            slopes[axis] = [None if d.dtype == jax.dtypes.float0 else d for d in slope]
        return Built(outputs(values), slopes, keys)

    def apart(self, plan: Plan) -> bool:
        """Whether travelling and measuring are programs of their own, so that another observable leaves the first."""
        return plan.lanes is not None and not self.wanted.derivative

    def travel(self, plan: Plan, chunk: Chunk, under_way: UnderWay | None = None, whole: bool = False) -> UnderWay:
        """Let the cells travel in lanes, from their start or from where they are: the whole way or for many steps."""
        most = None if whole else MANY_STEPS
        assert plan.lanes is not None
        return self._in_lanes(plan, chunk).travel(chunk.total, plan.lanes, under_way, most)

    def measure(self, plan: Plan, chunk: Chunk, ended: Position, saved: Saved) -> tuple[list[Array], Path]:
        """What is kept of each cell where it ended, and the paths besides."""
        return _with_checks(*self._kept(self._finished(plan, chunk, ended, saved)))

    def run(self, plan: Plan, chunk: Chunk) -> tuple[list[Array], Path]:
        """Let the cells travel, in lanes or side by side, and measure them, with derivatives by the axes asked for."""
        built = chunk.built
        through = lambda outputs: self._kept(self._path(plan, chunk._replace(built=built._replace(outputs=outputs))))
        kept, path = through(built.outputs)
        slopes = []
        for axis in self.wanted.derivative:  # the order of a dict that JAX handed on is that of its names
            directions = built.slopes[axis]
            varied, fixed = eqx.partition(built.outputs, [d is not None for d in directions])
            by_axis = lambda varied, fixed=fixed: through(eqx.combine(varied, fixed))[0]
            _, slope = jax.jvp(by_axis, (varied,), (directions,))
            slopes += [jnp.where(jnp.isnan(value), value, d) for value, d in zip(kept, slope, strict=True)]
        return _with_checks([*kept, *slopes], path)

    def _path(self, plan: Plan, chunk: Chunk) -> Path:
        """All paths, from start to end."""
        if plan.lanes is not None:
            there = self.travel(plan, chunk, whole=True)
            return self._finished(plan, chunk, there.ended, there.saved)
        (leaves, method), axes = self._arrays(chunk.built)
        program, constants, ts = self.frozen.program, chunk.constants, chunk.ts
        travel = lambda leaves, method, key: program.travel(constants, leaves, method, ts, key)
        return jax.vmap(travel, in_axes=(*axes, 0))(leaves, method, chunk.built.keys)

    def _finished(self, plan: Plan, chunk: Chunk, ended: Position, saved: Saved) -> Path:
        """The paths of cells that travelled in lanes."""
        program, cells = self.frozen.program, self._in_lanes(plan, chunk)

        def finish(cell: Any, at: Position, saved: Saved) -> Path:
            path = cells.stepper(cell).finish(at, saved)
            return program.judged(chunk.constants, cell[0], cell[1], chunk.ts, path)

        return cells.each(finish, ended, saved, block=plan.lanes if plan.filled else None, total=chunk.total)

    def _kept(self, path: Path) -> tuple[list[Array], Path]:
        """What is kept of each cell, but checks, apart from the path."""
        kept = [*(path.observed if self.wanted.paths else []), *path.summaries]
        return kept, eqx.tree_at(lambda path: (path.observed, path.summaries), path, ([], []))

    def check(self, shared: list[Array], root: PRNGKeyArray, values: Values, seeds: Array) -> list[Array]:
        """Judge the checks that the cell function made."""

        def judge(cell: Any) -> list[Array]:
            return jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))[2]

        return jax.vmap(judge)((values, keys_of(root, seeds)))

    def floor(
        self, shared: list[Array], root: PRNGKeyArray, values: Values, seeds: Array, constants: PyTree
    ) -> tuple[Array, ...]:
        """What the tolerance leaves of the loss of each cell, its `until`, and rtol."""

        def of_cell(cell: Any) -> tuple[Array, ...]:
            leaves, method, _ = jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))
            return self.frozen.program.floor(constants, leaves, method)

        return _over(self.parts.factorises, jax.default_backend())(of_cell, (values, keys_of(root, seeds)))

    def gauge(
        self, shared: list[Array], root: PRNGKeyArray, values: Values, seeds: Array, constants: PyTree
    ) -> list[Array]:
        """By how much each observable changes with a rotation that the closed form does not know, in the first cell."""
        cell = jax.tree.map(lambda array: array[0], (values, keys_of(root, seeds)))
        leaves, method, _ = jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))
        return self.frozen.program.gauge(constants, leaves, method)

    def _arrays(self, built: Built) -> tuple[tuple[PyTree, PyTree], tuple[PyTree, PyTree]]:
        """The arrays of all cells and those of their methods, and for each 0 where they are stacked, else None."""
        leaves, method, _ = jax.tree.unflatten(self.build.structure, built.outputs)
        axes = jax.tree.unflatten(self.build.structure, [0 if varies else None for varies in self.parts.varies])
        return (leaves, method), axes[:2]

    def _in_lanes(self, plan: Plan, chunk: Chunk) -> Lanes:
        """The cells as lanes take them up."""
        program, ((leaves, method), axes) = self.frozen.program, self._arrays(chunk.built)
        cells = chunk.built.keys.shape[0]
        prepare = lambda leaves: program.prepare(chunk.constants, leaves)
        prepared = jax.vmap(prepare, in_axes=axes[:1], axis_size=cells)(leaves)
        stepper = lambda cell: program.apart.method(cell[1]).stepper(program.course(chunk.constants, *cell), chunk.ts)
        # Functions of lanes last lose their rules for derivatives.
        last = program.small_steps and not self.wanted.derivative
        return Lanes(stepper, (leaves, method, prepared), (*axes, 0), cells, -1 if last else 0, plan.platform)

    def _stacked(
        self, shared: list[Array], distinct: Key[Array, " seeds"], cells: Any, counts: tuple[Any, Any], platform: str
    ) -> list[Array]:
        """The outputs of `build`: those that vary from cell to cell stacked, the others once.

        Of `distinct` and `cells` the first so many, `counts`, are needed; all where None.
        """
        parts, (seeds, count) = self.parts, counts
        keyed = _over(parts.key_factorises, platform, seeds)(lambda key: parts.per_key(shared, key), distinct)

        def outputs(cell: Any) -> list[Array]:
            values, key, where = cell
            return parts.per_cell(shared, [array[where] for array in keyed], values, key)

        own = lambda cell: [out for out, v in zip(outputs(cell), parts.varies, strict=True) if v]
        stacked = iter(_over(parts.cell_factorises, platform, count)(own, cells))
        first = outputs(jax.tree.map(lambda a: a[0], cells))
        return [next(stacked) if varies else out for out, varies in zip(first, parts.varies, strict=True)]


def _with_checks(kept: list[Array], path: Path) -> tuple[list[Array], Path]:
    """What is kept, with what was held against theory behind it, apart from the path."""
    return [*kept, *path.verified], eqx.tree_at(lambda path: path.verified, path, [])


def keys_of(root: PRNGKeyArray, seeds: Int[Array, " cells"]) -> Key[Array, " cells"]:
    """Seed s has the key fold_in(root, s)."""
    return jax.vmap(lambda seed: jax.random.fold_in(root, seed))(seeds)


def _over(factorises: bool, platform: str, count: Int[Array, ""] | None = None) -> Any:
    """How to map over cells: side by side; on CPU factorisations one by one, for batches of them were seen to hang.

    These for the first so many cells alone, where a count is given.
    """
    if not factorises or platform != "cpu":
        return lambda function, xs: jax.vmap(function)(xs)
    if count is None:
        return jax.lax.map

    def first(function: Callable[..., Any], xs: Any) -> Any:
        cells = jax.tree.leaves(xs)[0].shape[0]
        alone = lambda cut: function(jax.tree.map(lambda array: cut(array)[0], xs))
        return blocks(lambda cut: jax.tree.map(lambda array: array[None], alone(cut)), 1, cells, count)

    return first
