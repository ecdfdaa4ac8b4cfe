"""What a sweep is asked for: everything checked, and traced to batches that run."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from layerflow._problem import Problem
from layerflow.base._checks import check_known, check_ordered, collect, named_apart, spelled
from layerflow.base._keys import as_key
from layerflow.diagrams._array import TAKEN
from layerflow.diagrams._variables import axes_and_arguments, names_of, variables_of
from layerflow.engine._cell import Cell, take_apart
from layerflow.engine._chunks import Batch, Cells
from layerflow.engine._grid import Axis, Grid, make_axis
from layerflow.engine._program import Frozen, freeze, say_floor
from layerflow.engine._programs import Numbers
from layerflow.engine._trace import trace_open
from layerflow.engine._wanted import Observe, Summarise, Wanted, checked_wanted
from layerflow.methods import Method, Times, checked_method, checked_times
from layerflow.sweeps._cell_function import CellFunction, bound_by_partial, match_arguments, without_jit

_CHECKED, _FEWEST_CHECKED = 2**11, 2**9  # cells at a time of large sweeps and of small ones
_FLOOR_CELLS = 2**10  # enough to find what to say of a grid


@dataclass(frozen=True)
class Request:
    """All that decides the numbers of a sweep but its chunks and lanes.

    Attributes:
        cell: The user's function.
        grid: The cells.
        takes_key: Whether the function takes a key.
        method: How to travel, unless the cell says so.
        wanted: What to keep of each cell.
        ts: Where to measure.
        root: Seed s has the key fold_in(root, s).
        opened: Arguments of the function that no axis gives, PyTrees of arrays.
    """

    cell: CellFunction
    grid: Grid
    takes_key: bool
    method: Method | None
    wanted: Wanted
    ts: Times | None
    root: PRNGKeyArray
    opened: dict[str, Any] = field(default_factory=dict)

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
        opened: Iterable[str] = (),
    ) -> "Request":
        """The arguments of `sweep`, checked."""
        cell, wanted = without_jit(cell), checked_wanted(observe, summary, ts)
        check_ordered(ts, "Argument `ts`")
        if not paths and not wanted.summary:
            raise ValueError("With paths=False a sweep keeps what summaries say, but there is none: give `summary`.")
        grid, takes_key = grid_of(cell, axes or {}, seeds, opened)
        wanted = Wanted(wanted.observe, wanted.summary, paths, _differentiable(derivative, grid), verify)
        method = None if method is None else checked_method(method)
        return cls(cell, grid, takes_key, method, wanted, ts, as_key(root, "root"))

    def batches(self) -> list[Batch]:
        """The cells of each combination of static values, traced; raises where they cannot be one diagram."""
        check_known((self.method, self.ts, self.root), "its method, `ts` or root key")
        batches = [_batch(self, chosen) for chosen, _ in self.grid.combinations()]
        kinds = sorted({type(batch.frozen.program.method).__name__ for batch in batches})
        if self.ts is not None and len(kinds) > 1:
            raise TypeError(
                f"With `ts` all cells need one kind of method, got {' and '.join(kinds)}: `ts` are times for Flow "
                "and Exact, and steps for Descent. Sweep them apart, or measure at the end."
            )
        _check_shapes([words for _, words in self.grid.combinations()], batches)
        _check_names(names_of(batches[0]), self.grid)
        variables_of(self.grid, batches[0])  # raises where names of dimensions collide
        return batches

    def again(self, batches: list[Batch]) -> list[Batch]:
        """Batches that were traced for numbers of the same kinds, with these."""
        _check_keys(frozenset({str(self.root.dtype)}))
        for batch in batches:
            if self.method is not None:
                self.method.check_precision(batch.frozen.program.start.outputs.dtype)
        return [batch.again(self.numbers(batch.frozen.program.method)) for batch in batches]

    def numbers(self, own: Method) -> Numbers:
        """What all cells of a batch share, whose method is `own` but for its numbers."""
        times = checked_times(self.ts, own.time, None if self.method is None else self.method.end)
        return Numbers(jax.tree.leaves(self.given), times, self.root, self.grid.seeds)

    @property
    def title(self) -> str:
        """The name of the cell function, or of its type."""
        cell = self.cell
        while isinstance(cell, functools.partial):
            cell = cell.func
        return getattr(cell, "__name__", type(cell).__name__)

    @property
    def given(self) -> tuple[dict[str, Any], Method | None]:
        """The arrays of what is opened and of the method."""
        return self.opened, eqx.filter(self.method, eqx.is_array)

    def judge(self, batches: list[Batch]) -> None:
        """Raise for cells that cannot start and for observables that a closed form does not know; before any runs.

        Warns of cells whose tolerance keeps them from their `until`.
        """
        for (_, words), batch in zip(self.grid.combinations(), batches, strict=True):
            _judge(batch, self.grid, words)
            _say_floor(batch, self.grid, words)
            batch.check_gauge(*_values_and_seeds(self.grid, np.zeros(1, int)))

    def outside(self) -> ValueError:
        """The error of a diagram in which no cell fulfils what the closed form assumes."""
        problem, method = _first_cell(self)
        ts = None if self.ts is None else jnp.asarray(self.ts, float)
        said = method.refusal(problem, ts, method.end.dtype)
        return ValueError(f"{said} So it is in every cell. Use lf.Flow(t1=...).")


def grid_of(
    cell: CellFunction, axes: Mapping[str, Any], seeds: int | None, opened: Iterable[str] = ()
) -> tuple[Grid, bool]:
    """The grid that the axes span, and whether the cell function takes a key; something else gives what is `opened`."""
    if not callable(cell):
        raise TypeError(
            f"A cell function is needed, from axis values to a lf.Problem, but a {type(cell).__name__} came."
        )
    if not isinstance(axes, Mapping):
        raise TypeError(f'Argument `axes` is a dict, {{"lam": values}}, but it is a {type(axes).__name__}.')
    made = [make_axis(name, values) for name, values in named_apart(axes, "axis").items()]
    given = [argument for axis in made for argument in axis.arguments]
    _check_axes_apart(made, given)
    takes_key = match_arguments(cell, [*given, *opened])
    if seeds is None:
        return Grid(tuple(made)), takes_key
    if not isinstance(seeds, int | np.integer) or seeds < 1:
        raise ValueError(f"Argument `seeds` counts repetitions and needs to be a positive whole number, not {seeds!r}.")
    if not takes_key:
        bound = " but the one that functools.partial binds" if "key" in bound_by_partial(cell) else ""
        raise TypeError(
            f"The cell function takes no `key`{bound}, so all seeds would be copies. Give it an argument `key`."
        )
    numbers = np.arange(seeds)
    seed = Axis("seed", {"seed": numbers}, numbers, {"long_name": "seed", "units": "1"})
    return Grid((*made, seed)), takes_key


def _check_axes_apart(axes: list[Axis], given: list[str]) -> None:
    """Raise where axes, or the arguments that they give, take a name twice or one that is not theirs."""
    names = [axis.name for axis in axes]
    if len(set(given)) < len(given):
        raise TypeError(
            f"Each argument of the cell function belongs to one axis, but these are given: {sorted(given)}."
        )
    for axis in axes:
        other = next((argument for argument in axis.arguments if argument != axis.name and argument in names), None)
        if other is not None:
            raise ValueError(
                f"The axis `{axis.name}` gives the argument `{other}`, and another axis is called so: the diagram "
                f"could not tell the two apart. Rename that axis."
            )
    for name in ("seed", "t", "step", *TAKEN):
        if name in names or name in given:
            raise ValueError(f"The name `{name}` belongs to the diagram itself. Rename this axis or argument.")


def _differentiable(names: Sequence[str], grid: Grid) -> tuple[str, ...]:
    """The axes to differentiate by, or an error."""
    names = tuple(map(spelled, (names,) if isinstance(names, str) else dict.fromkeys(names)))
    numbers = {n for axis in grid.inner for n, v in axis.arguments.items() if v.dtype.kind == "f" and v.ndim == 1}
    for name in names:
        if name not in numbers:
            there = ", ".join(sorted(numbers)) or "none"
            raise ValueError(
                f"Argument `derivative` names axes of floating point numbers (here: {there}), but `{name}` is not one. "
                f"Whole numbers, lf.static values and seeds have no derivative."
            )
    return names


def _batch(request: Request, chosen: dict[str, Any]) -> Batch:
    """Trace the cells of one combination of static values."""
    grid, method, wanted, root = request.grid, request.method, request.wanted, request.root
    found: dict[str, Any] = {}

    def build(given: tuple[dict[str, Any], Any], values: dict[str, Array], key: PRNGKeyArray) -> Any:
        opened, numbers = given
        arguments = dict(chosen) | {name: value for name, value in values.items() if name != "seed"} | opened
        with collect() as checks:
            returned = request.cell(**arguments, **({"key": key} if request.takes_key else {}))
            problem, how = _returned(returned, None if method is None else eqx.combine(numbers, method))
            found["apart"], leaves, method_arrays = take_apart(Cell.of(problem, how))
        found["messages"] = checks.messages
        leaves, method_arrays = jax.tree.map(jnp.asarray, (leaves, method_arrays))
        return leaves, method_arrays, checks.holds

    one = {name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in grid.values(np.zeros(1, int)).items()}
    key_shape = jax.ShapeDtypeStruct(root.shape, root.dtype)
    try:
        traced, closed = trace_open(build, jax.tree.map(_kind, request.given), one, key_shape)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"The cell function hands a traced value to NumPy, which cannot be compiled. Use jax.numpy; where the "
            f"value decides a shape, make its axis lf.static([...]). JAX says: {error}"
        ) from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError) as error:
        raise _decides_shape(error, request.opened) from error
    except (TypeError, IndexError) as error:  # a shape, a slice such as x[:n] or a mask such as x[x < n]
        if not any(word in str(error) for word in ("concrete", "static integers", "static start/stop/step")):
            raise
        raise _decides_shape(error, request.opened) from error
    check_known(closed, "a number that the cell function closes over")
    leaves, method_arrays, _ = traced.outputs
    own: Method = found["apart"].static.method
    numbers = request.numbers(own)
    if wanted.derivative and not own.forward_mode:
        raise TypeError(
            "derivative= differentiates in forward mode, which adjoint=RecursiveCheckpointAdjoint() does not have. "
            "Leave `adjoint` out."
        )

    def frozen(wanted: Wanted) -> Frozen:
        found_out = freeze(found["apart"], leaves, method_arrays, wanted, numbers.ts, key_shape)
        check_known(found_out.constants, "a number that an observable or the method closes over")
        (own if method is None else method).check_precision(found_out.program.start.outputs.dtype)
        return found_out

    quick = replace(wanted, quick="exact" in own.needs)
    judging = functools.cache(lambda: frozen(wanted)) if quick.quick else None
    batch = Batch(frozen(quick), traced, closed, numbers, one, found["messages"], quick, judging)
    _check_keys(batch.keys)
    return batch


def _kind(array: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, and whether it gives way to others like a plain number."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=getattr(array, "weak_type", False))


def _check_keys(kinds: frozenset[str]) -> None:
    """Raise for random keys that draw other numbers in a batch than alone."""
    others = sorted(kinds - {"key<fry>"})
    if others:
        raise ValueError(
            f"A sweep needs random keys of JAX's threefry, whose numbers do not depend on what is computed beside "
            f"them, but some are {', '.join(others)}: those draw for a whole chunk from its first key. Make them by "
            f'jax.random.key(0, impl="threefry2x32"), which is also what `root` takes, or set jax_default_prng_impl so.'
        )


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


def _decides_shape(error: Exception, opened: Iterable[str]) -> TypeError:
    names = ", ".join(f"`{name}`" for name in opened)
    # A shape, a slice such as x[:n] or a mask, as of someone who wants fewer samples.
    cut = isinstance(error, IndexError) or "Shapes must be" in str(error)
    first = "To take the first n of many samples write lf.Samples(x, y).first(n), which compiles once. " if cut else ""
    return TypeError(
        f"The cell function uses a value of an axis{f' or of {names}' if names else ''} where a plain number or a "
        f"fixed shape is needed. Make that axis lf.static([...]), which compiles once per value; "
        f"{'bind an argument by functools.partial; ' if names else ''}or use jnp.where in place of `if`. {first}"
        f"JAX says: {error}"
    )


def _judge(batch: Batch, grid: Grid, words: str) -> None:
    """Raise for the first check that some cell fails, before any of them runs."""
    if not batch.messages:
        return
    size = _CHECKED if grid.cells > _FEWEST_CHECKED * grid.seeds else _FEWEST_CHECKED
    for begin in range(0, grid.cells, size):
        cells = np.arange(begin, min(begin + size, grid.cells))
        for message, holds in zip(batch.messages, batch.check(*_filled(batch, grid, cells, size)), strict=True):
            broken = np.flatnonzero(~np.asarray(holds)[: len(cells)])
            if broken.size:
                where = ", ".join(filter(None, [words, grid.words(int(cells[broken[0]]))]))
                raise ValueError(f"{message} First at {where}, in {broken.size} of {grid.cells} cells.")


def _say_floor(batch: Batch, grid: Grid, words: str) -> None:
    """Warn of cells whose `until` lies below what their tolerance makes of the loss, as some cells all over show."""
    cells = np.unique(np.linspace(0, grid.cells - 1, min(grid.cells, _FLOOR_CELLS)).astype(int))
    floor = batch.floor(*_filled(batch, grid, cells, _FLOOR_CELLS))
    if floor is not None:
        at = lambda i: ", ".join(filter(None, [words, grid.words(int(cells[min(i, len(cells) - 1)]))]))
        say_floor(floor, lambda i: f", first at {at(i)}")


def _values_and_seeds(grid: Grid, cells: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values and seeds of some cells."""
    values = grid.values(cells)
    return values, values.get("seed", np.zeros(len(cells), int))


def _filled(batch: Batch, grid: Grid, cells: np.ndarray, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The same, of small cells filled up with the last of them to a size, for each is compiled anew."""
    size = size if batch.light else len(cells)
    return _values_and_seeds(grid, np.pad(cells, (0, size - len(cells)), mode="edge"))


def _first_cell(request: Request) -> tuple[Problem, Method]:
    """The problem of the first cell, of known numbers, and its method."""
    chosen, _ = next(request.grid.combinations())
    values = {n: jnp.asarray(v[0]) for n, v in request.grid.values(np.zeros(1, int)).items() if n != "seed"}
    key = {"key": jax.random.fold_in(request.root, 0)} if request.takes_key else {}
    return _returned(request.cell(**chosen, **values, **request.opened, **key), request.method)


def _check_shapes(words: list[str], batches: list[Batch]) -> None:
    """Raise where the variables of the combinations of static values differ; `words` say which each is."""
    described = [{kept.name: kept.like.shape for kept in batch.kept} for batch in batches]
    for other_words, other in zip(words[1:], described[1:], strict=True):
        for name in {*described[0], *other}:
            here, there = described[0].get(name, "none"), other.get(name, "none")
            if here != there:
                raise ValueError(
                    f"An observable needs one shape all over the diagram, but `{name}` has shape {here} at {words[0]} "
                    f"and {there} at {other_words}. Reduce it to one shape, or sweep these values apart."
                )


def _check_names(names: list[str], grid: Grid) -> None:
    """Raise where variables take a name that is not theirs, or two take one."""
    for name in names:
        if name in (*TAKEN, "t", "step") or name in axes_and_arguments(grid):
            raise ValueError(
                f"The variable `{name}` has the name of an axis or of the diagram's own variables "
                f"({', '.join(TAKEN)}). Name it apart: observe={{'my_{name}': f}}."
            )
        if not name or "/" in name:
            raise ValueError(f"A variable is called {name!r}, but files of diagrams need a name without `/`.")
        if names.count(name) > 1:
            raise ValueError(
                f"The diagram would hold two variables called `{name}`: of the functions in `observe` and `summary`, "
                f"and of what `derivative`, `verify` and statuses add. Name yours apart: observe={{'my_{name}': f}}."
            )


def cells_of(grid: Grid, cells: np.ndarray, size: int) -> Cells:
    """Some cells of the grid, filled up with the last of them to a fixed size, so that one program serves all."""
    return Cells(*_values_and_seeds(grid, np.pad(cells, (0, size - len(cells)), mode="edge")), len(cells))
