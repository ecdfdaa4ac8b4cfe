"""What a chunk of cells computes, as functions of arrays: the cells are built, then they travel."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray, PyTree

from layerflow.engine._lanes import MANY_STEPS, Lanes, UnderWay
from layerflow.engine._program import Frozen
from layerflow.engine._trace import Parts, Traced
from layerflow.engine._wanted import Wanted
from layerflow.methods import Path

Values = dict[str, Array]


class Seeds(NamedTuple):
    """Every seed of a chunk once, and the place of each cell's among them."""

    distinct: Any
    where: Any


class Built(NamedTuple):
    """All cells of a chunk: outputs of `build`, stacked where they vary, with derivatives by the axes asked for."""

    outputs: list[Array]
    slopes: dict[str, list[Array | None]]
    keys: Key[Array, " cells"]


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

    def build_cells(self, shared: list[Array], root: PRNGKeyArray, values: Values, seeds: Seeds) -> Built:
        """The cells' arrays."""
        distinct = keys_of(root, seeds.distinct)
        keys = distinct[seeds.where]
        outputs = lambda values: self._stacked(shared, distinct, (values, keys, seeds.where))
        slopes = {}
        for axis in self.wanted.derivative:
            along = lambda value, axis=axis: outputs(values | {axis: value})
            # Cells do not depend on one another, so one direction holds the derivatives of all.
            slope = jax.jvp(along, (values[axis],), (jnp.ones_like(values[axis]),))[1]
            slopes[axis] = [None if d.dtype == jax.dtypes.float0 else d for d in slope]
        return Built(outputs(values), slopes, keys)

    def run(
        self,
        lanes: int | None,
        constants: PyTree,
        ts: Array | None,
        real: Bool[Array, " cells"],
        built: Built,
        under_way: UnderWay | None = None,
    ) -> tuple[list[Array], Path, UnderWay | None]:
        """Let the cells travel, in lanes or all side by side.

        Returns:
            What is kept of each, the paths besides, and where lanes stand: cells that take many steps may be under way.
        """
        if not self.wanted.derivative:
            kept, path, under_way = self._kept(self._travel(lanes, constants, ts, real, built, under_way, MANY_STEPS))
        else:
            travel = lambda outputs: self._kept(
                self._travel(lanes, constants, ts, real, built._replace(outputs=outputs))
            )
            (kept, path, _), under_way = travel(built.outputs), None
            slopes = []
            for directions in built.slopes.values():
                varied, fixed = eqx.partition(built.outputs, [d is not None for d in directions])
                by_axis = lambda varied, fixed=fixed: travel(eqx.combine(varied, fixed))[0]
                _, slope = jax.jvp(by_axis, (varied,), (directions,))
                slopes += [jnp.where(jnp.isnan(value), value, d) for value, d in zip(kept, slope, strict=True)]
            kept = [*kept, *slopes]
        return [*kept, *path.verified], eqx.tree_at(lambda path: path.verified, path, []), under_way

    def _kept(self, travelled: tuple[Path, UnderWay | None]) -> tuple[list[Array], Path, UnderWay | None]:
        """What is kept of each cell apart from the path."""
        path, under_way = travelled
        kept = [*(path.observed if self.wanted.paths else []), *path.summaries]
        return kept, eqx.tree_at(lambda path: (path.observed, path.summaries), path, ([], [])), under_way

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

        return _over(self.parts.factorises)(of_cell, (values, keys_of(root, seeds)))

    def gauge(
        self, shared: list[Array], root: PRNGKeyArray, values: Values, seeds: Array, constants: PyTree
    ) -> list[Array]:
        """By how much each observable changes with a rotation that the closed form does not know, in the first cell."""
        cell = jax.tree.map(lambda array: array[0], (values, keys_of(root, seeds)))
        leaves, method, _ = jax.tree.unflatten(self.build.structure, self.parts.whole(shared, *cell))
        return self.frozen.program.gauge(constants, leaves, method)

    def _travel(
        self,
        lanes: int | None,
        constants: PyTree,
        ts: Array | None,
        real: Bool[Array, " cells"],
        built: Built,
        under_way: UnderWay | None = None,
        most: int | None = None,
    ) -> tuple[Path, UnderWay | None]:
        program = self.frozen.program
        leaves, method, _ = jax.tree.unflatten(self.build.structure, built.outputs)
        axes = jax.tree.unflatten(self.build.structure, [0 if varies else None for varies in self.parts.varies])
        if lanes is None:
            travel = lambda leaves, method, key: program.travel(constants, leaves, method, ts, key)
            return jax.vmap(travel, in_axes=(axes[0], axes[1], 0))(leaves, method, built.keys), None

        prepare = lambda leaves: program.prepare(constants, leaves)
        prepared = jax.vmap(prepare, in_axes=(axes[0],), axis_size=real.shape[0])(leaves)
        cells, over = (leaves, method, prepared), (axes[0], axes[1], 0)
        stepper = lambda cell: program.apart.method(cell[1]).stepper(program.course(constants, *cell), ts)
        # Elsewhere nothing was measured, and functions of lanes last lose their rules for derivatives.
        last = program.small_steps and jax.default_backend() == "cpu" and not self.wanted.derivative
        run = Lanes(stepper, cells, over, real.shape[0], -1 if last else 0)
        under_way = run.travel(real, lanes, under_way, most)

        def finish(cell: Any, at: Any, saved: Any) -> Path:
            return program.judged(constants, cell[0], cell[1], ts, stepper(cell).finish(at, saved))

        path = jax.vmap(finish, in_axes=(over, 0, 0))(cells, under_way.ended, under_way.saved)
        return path, run.hand_over(under_way)

    def _stacked(self, shared: list[Array], distinct: Key[Array, " seeds"], cells: Any) -> list[Array]:
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


def keys_of(root: PRNGKeyArray, seeds: Int[Array, " cells"]) -> Key[Array, " cells"]:
    """Seed s has the key fold_in(root, s)."""
    return jax.vmap(lambda seed: jax.random.fold_in(root, seed))(seeds)


def _over(factorises: bool) -> Any:
    """How to map over cells: side by side; on CPU factorisations one by one, for batches of them were seen to hang."""
    one_by_one = factorises and jax.default_backend() == "cpu"
    return jax.lax.map if one_by_one else lambda function, xs: jax.vmap(function)(xs)
