"""What a sweep is asked for: everything checked, and traced to batches that run."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from layerflow._checks import collect
from layerflow._diagram import RESERVED, axes_and_arguments
from layerflow._problem import Problem
from layerflow._solve import Observe, Summarise, Times, as_key, checked_method, checked_times, checked_wanted
from layerflow.engine._cell import Cell, Wanted, take_apart
from layerflow.engine._chunks import Batch, Cells
from layerflow.engine._grid import Axis, Grid, make_axis
from layerflow.engine._program import freeze
from layerflow.engine._trace import trace
from layerflow.methods import Exact, Method

CellFunction = Callable[..., Problem | tuple[Problem, Method]]

_CHECK_CHUNK = 2**16


@dataclass(frozen=True)
class Asked:
    """All that decides the numbers of a sweep but its chunks and lanes.

    Attributes:
        cell: The user's function.
        grid: The cells.
        takes_key: Whether the function takes a key.
        method: How to travel, unless the cell says so.
        wanted: What to keep of each cell.
        ts: Where to measure.
        root: Seed s has the key fold_in(root, s).
    """

    cell: CellFunction
    grid: Grid
    takes_key: bool
    method: Method | None
    wanted: Wanted
    ts: Times | None
    root: PRNGKeyArray

    @classmethod
    def of(
        cls,
        cell: CellFunction,
        axes: Mapping[str, Any] | None,
        *,
        method: Method | None,
        seeds: int | None,
        root: int | np.integer | PRNGKeyArray,
        ts: Times | None,
        observe: Observe,
        summary: Summarise | None,
        paths: bool,
        derivative: Sequence[str],
        verify: bool,
    ) -> "Asked":
        """The arguments of `sweep`, checked."""
        wanted = checked_wanted(observe, summary, ts)
        if not paths and not wanted.summary:
            raise ValueError("With paths=False a sweep keeps what summaries say, but there is none: give `summary`.")
        grid, takes_key = _grid(cell, axes or {}, seeds)
        wanted = Wanted(wanted.observe, wanted.summary, paths, _differentiable(derivative, grid), verify)
        method = None if method is None else checked_method(method)
        return cls(cell, grid, takes_key, method, wanted, ts, as_key(root, "root"))

    def batches(self) -> list[Batch]:
        """The cells of each combination of static values, traced; raises where they cannot be one diagram."""
        batches = [_batch(self, chosen) for chosen, _ in self.grid.combinations()]
        kinds = {type(batch.frozen.program.method) for batch in batches}
        if self.ts is not None and len(kinds) > 1:
            raise TypeError(
                "`ts` are times for Flow and steps for Descent: sweep the two apart, or measure at the end."
            )
        _check_variables(
            [(words, b.kept) for (_, words), b in zip(self.grid.combinations(), batches, strict=True)], self.grid
        )
        return batches

    def judge(self, batches: list[Batch]) -> None:
        """Raise for cells that cannot start and for observables that a closed form does not know; before any runs."""
        for (_, words), batch in zip(self.grid.combinations(), batches, strict=True):
            _judge(batch, self.grid, words)
            batch.check_gauge(*_arguments(self.grid, np.zeros(1, int)))

    def outside(self) -> ValueError:
        """The error of a diagram in which no cell fulfils what the closed form assumes."""
        problem, method = _first_cell(self)
        assert isinstance(method, Exact)  # no other has cells outside
        at = method.times(None if self.ts is None else jnp.asarray(self.ts, float), method.t1.dtype)
        return ValueError(f"{Exact.applies(problem, at)} So it is in every cell. Use lf.Flow(t1=...).")


def _grid(cell: CellFunction, axes: Mapping[str, Any], seeds: int | None) -> tuple[Grid, bool]:
    """The grid that the axes span, and whether the cell function takes a key."""
    if not callable(cell):
        raise TypeError(
            f"A cell function is needed, from axis values to a lf.Problem, but a {type(cell).__name__} came."
        )
    if not isinstance(axes, Mapping):
        raise TypeError(f'Argument `axes` is a dict, {{"lam": values}}, but it is a {type(axes).__name__}.')
    made = [make_axis(name, values) for name, values in axes.items()]
    given = [argument for axis in made for argument in axis.arguments]
    if len(set(given)) < len(given):
        raise TypeError(
            f"Each argument of the cell function belongs to one axis, but these are given: {sorted(given)}."
        )
    for name in ("seed", "t", "step", *RESERVED):
        if name in axes or name in given:
            raise ValueError(f"The name `{name}` belongs to the diagram itself. Rename this axis or argument.")
    takes_key = match_arguments(cell, given)
    if seeds is None:
        return Grid(tuple(made)), takes_key
    if not isinstance(seeds, int | np.integer) or seeds < 1:
        raise ValueError(f"Argument `seeds` counts repetitions and needs to be a positive whole number, not {seeds}.")
    if not takes_key:
        raise TypeError("The cell function takes no `key`, so all seeds would be copies. Give it an argument `key`.")
    numbers = np.arange(seeds)
    seed = Axis("seed", {"seed": numbers}, numbers, {"long_name": "seed", "units": "1"})
    return Grid((*made, seed)), takes_key


def match_arguments(cell: CellFunction, given: list[str]) -> bool:
    """Whether the cell function takes a key; raises if its arguments and the axes differ."""
    parameters = inspect.signature(cell).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named_ones = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named_ones]
    if "key" in given:
        raise TypeError("The argument `key` is made by the sweep from `seeds` and `root`; it cannot be an axis.")
    surplus = [name for name in given if name not in names and not takes_all]
    if surplus:
        raise TypeError(
            f"The cell function does not take {', '.join(f'`{n}`' for n in surplus)}; it takes "
            f"{', '.join(f'`{n}`' for n in names) or 'nothing'}. Axes are named after its arguments."
        )
    missing = [p.name for p in named_ones if p.default is p.empty and p.name not in (*given, "key")]
    if missing:
        raise TypeError(
            f"The cell function takes {', '.join(f'`{n}`' for n in missing)}, but no axis gives it. "
            f"Axes: {', '.join(f'`{n}`' for n in given) or 'none'}. Add the axis, or give the argument a default."
        )
    return "key" in names or takes_all


def _differentiable(names: Sequence[str], grid: Grid) -> tuple[str, ...]:
    """The axes to differentiate by, or an error."""
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    numbers = {n for axis in grid.inner for n, v in axis.arguments.items() if v.dtype.kind == "f" and v.ndim == 1}
    for name in names:
        if name not in numbers:
            there = ", ".join(sorted(numbers)) or "none"
            raise ValueError(
                f"Argument `derivative` names axes of floating point numbers (here: {there}), but `{name}` is not one. "
                f"Whole numbers, lf.static values and seeds have no derivative."
            )
    return names


def _batch(asked: Asked, chosen: dict[str, Any]) -> Batch:
    """Trace the cells of one combination of static values."""
    grid, method, wanted, root = asked.grid, asked.method, asked.wanted, asked.root
    found: dict[str, Any] = {}

    def build(values: dict[str, Array], key: PRNGKeyArray) -> Any:
        arguments = dict(chosen) | {name: value for name, value in values.items() if name != "seed"}
        with collect() as checks:
            returned = asked.cell(**arguments, **({"key": key} if asked.takes_key else {}))
            problem, how = _returned(returned, method)
            found["static"], found["structure"], leaves, method_arrays = take_apart(Cell.of(problem, how))
        found["messages"] = checks.messages
        leaves, method_arrays = jax.tree.map(jnp.asarray, (leaves, method_arrays))
        return leaves, method_arrays, checks.holds

    one = {name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in grid.values(np.zeros(1, int)).items()}
    key_shape = jax.eval_shape(lambda: root)
    try:
        traced, constants = trace(build, one, key_shape)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"The cell function hands a traced value to NumPy, which cannot be compiled. Use jax.numpy; where the "
            f"value decides a shape, make its axis lf.static([...]). JAX says: {error}"
        ) from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError) as error:
        raise _decides_shape(error) from error
    except TypeError as error:
        if "concrete" not in str(error):
            raise
        raise _decides_shape(error) from error
    leaves, method_arrays, _ = traced.outputs
    times = checked_times(asked.ts, type(found["static"].method), None if method is None else method.end)
    if wanted.derivative and getattr(getattr(found["static"].method, "loop", None), "kind", "lax") == "checkpointed":
        raise TypeError(
            "derivative= differentiates in forward mode, which adjoint=RecursiveCheckpointAdjoint() does not have. "
            "Leave `adjoint` out."
        )
    frozen = freeze(found["static"], found["structure"], leaves, method_arrays, wanted, times, key_shape)
    (found["static"].method if method is None else method).check_precision(frozen.program.start.outputs.dtype)
    return Batch(frozen, traced, constants, one, found["messages"], times, root, wanted, grid.seeds)


def _returned(returned: Any, method: Method | None) -> tuple[Problem, Method]:
    """What the cell function returned, as a problem and a method, or an error."""
    problem, how = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(problem, Problem):
        raise TypeError(
            f"The cell function needs to return a lf.Problem, or a lf.Problem and its method, but it returned a "
            f"{type(returned).__name__}."
        )
    if how is not None and method is not None:
        raise TypeError("Both the cell function and `method` say how to travel. Leave one out.")
    return problem, checked_method(method if how is None else how)


def _decides_shape(error: Exception) -> TypeError:
    return TypeError(
        f"The cell function uses a value of an axis where a plain number or a fixed shape is needed. Make that axis "
        f"lf.static([...]), which compiles once per value; or use jnp.where in place of `if`. JAX says: {error}"
    )


def _judge(batch: Batch, grid: Grid, words: str) -> None:
    """Raise for the first check that some cell fails, before any of them runs."""
    if not batch.messages:
        return
    for begin in range(0, grid.cells, _CHECK_CHUNK):
        cells = np.arange(begin, min(begin + _CHECK_CHUNK, grid.cells))
        for message, holds in zip(batch.messages, batch.check(*_arguments(grid, cells)), strict=True):
            broken = np.flatnonzero(~np.asarray(holds))
            if broken.size:
                where = ", ".join(filter(None, [words, grid.words(int(cells[broken[0]]))]))
                raise ValueError(f"{message} First at {where}, in {broken.size} of {grid.cells} cells.")


def _values_and_seeds(grid: Grid, cells: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values and seeds of some cells."""
    values = grid.values(cells)
    return values, values.get("seed", np.zeros(len(cells), int))


def _arguments(grid: Grid, cells: np.ndarray) -> tuple[dict[str, Array], Array]:
    """The same as JAX arrays."""
    return jax.tree.map(jnp.asarray, _values_and_seeds(grid, cells))


def _first_cell(asked: Asked) -> tuple[Problem, Method]:
    """The problem of the first cell, of known numbers, and its method."""
    chosen, _ = next(asked.grid.combinations())
    values = {n: jnp.asarray(v[0]) for n, v in asked.grid.values(np.zeros(1, int)).items() if n != "seed"}
    key = {"key": jax.random.fold_in(asked.root, 0)} if asked.takes_key else {}
    return _returned(asked.cell(**chosen, **values, **key), asked.method)


def _check_variables(described: list[tuple[str, dict[str, Any]]], grid: Grid) -> None:
    """Raise where the variables of the combinations of static values differ, or take a name that is not theirs."""
    words, variables = described[0]
    for other_words, other in described[1:]:
        for name in {*variables, *other}:
            here, there = variables.get(name), other.get(name)
            if getattr(here, "shape", None) != getattr(there, "shape", None):
                raise ValueError(
                    f"An observable needs one shape all over the diagram, but `{name}` has shape "
                    f"{getattr(here, 'shape', 'none')} at {words} and {getattr(there, 'shape', 'none')} at "
                    f"{other_words}. "
                    f"Reduce it to one shape, or sweep these values apart."
                )
    for name in variables:
        if name in (*RESERVED, "t", "step") or name in axes_and_arguments(grid):
            raise ValueError(
                f"The observable `{name}` has the name of an axis or of the diagram's own variables "
                f"({', '.join(RESERVED)}). Name it apart: observe={{'my_{name}': f}}."
            )


def cells_of(grid: Grid, cells: np.ndarray, size: int) -> Cells:
    """Some cells of the grid, filled up with the last of them to a fixed size, so that one program serves all."""
    return Cells(
        *_values_and_seeds(grid, np.pad(cells, (0, size - len(cells)), mode="edge")), np.arange(size) < len(cells)
    )
