"""Sweep a cell function over a grid: a phase diagram in one call."""

import dataclasses
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from layerflow._checks import collect
from layerflow._diagram import RESERVED, Results, facts_of
from layerflow._numerics import full_precision
from layerflow._problem import Problem
from layerflow._solve import Observe, Summarise, Times, as_key, checked_method, checked_times, checked_wanted
from layerflow.engine._cell import Cell, Wanted, take_apart
from layerflow.engine._chunks import Batch, Cells, Plan
from layerflow.engine._devices import pull
from layerflow.engine._grid import Axis, Grid, make_axis
from layerflow.engine._machine import Machine
from layerflow.engine._program import freeze
from layerflow.engine._trace import trace
from layerflow.methods import Exact, Method, Status
from layerflow.observables import loss

if TYPE_CHECKING:
    import xarray

CellFunction = Callable[..., Problem | tuple[Problem, Method]]

_CHECK_CHUNK = 2**16


@full_precision
def sweep(
    cell: CellFunction,
    axes: Mapping[str, Any] | None = None,
    *,
    method: Method | None = None,
    seeds: int | None = None,
    root: int | np.integer | PRNGKeyArray = 0,
    ts: Times | None = None,
    observe: Observe = loss,
    summary: Summarise | None = None,
    paths: bool = True,
    derivative: Sequence[str] = (),
    verify: bool = False,
    progress: bool = True,
    on: Machine | None = None,
) -> "xarray.Dataset":
    """Solve the problem of every cell of a grid.

    Args:
        cell: The user's function from axis values (and `key`, if it takes one) to a Problem, or
            to a Problem and its method. Written for one cell; it is traced, so its values are
            JAX arrays and a value that decides a shape needs `lf.static`.
        axes: Values by name of the cell's argument: vectors of numbers, `lf.static` for values
            that change shapes, `lf.paired` for arguments that move together.
        method: How to travel, unless the cell says so.
        seeds: Repeat each cell with that many keys. Seed s has the key fold_in(root, s), the
            same in every cell. Without it there is one key and no dimension `seed`.
        root: Root key, or a number to make it from.
        ts: Where to measure: times for Flow, steps for Descent. Only at the end if not given.
        observe: An observable, several, or a dict of them by name.
        summary: A function of a cell's whole trajectory (see `lf.Trajectory`), several, or a dict of
            them by name, such as `lf.half_times`; needs `ts`. Returns an array or a dict of arrays.
        paths: Keep the observables at `ts`; False keeps what the summaries say and no path.
        derivative: Names of axes to differentiate by. For every variable `v` and axis `a` the diagram
            then holds `v_d_a`, the derivative of each cell by its own axis value, in forward mode.
        verify: Hold every cell against theory. For each observable `v` the diagram then holds `v_error`,
            the distance from the closed form where one holds; `drift`, how far layer imbalances
            are from their conservation (or decay) law, relative to |weights|^2; and
            `error_over_tolerance`, the worst of these over what a hundred times the method's
            tolerance of the weights allows; NaN where there is nothing to hold a cell against.
            Cells at most 1 there are `verified`, as in `diagram.loss.where(diagram.verified)`.
        progress: Show a bar between chunks when a sweep takes longer than a second.
        on: What the computation may use.

    Returns:
        xarray.Dataset with the axes in the given order, then `seed`, then `t` or `step`, then the
        observable's own dimensions; one variable per observable, and `status` (see `lf.Status`),
        `num_steps` and `end`. A failed cell is NaN. `attrs` say how it was made.

    Raises:
        TypeError: If axes and the arguments of `cell` do not match, or it returns no Problem.
        ValueError: If an axis is empty or not finite, or a start cannot exist.
        MemoryError: If the diagram does not fit the memory.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.eye(2))
        >>> def cell(key, lam):
        ...     return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
        >>> diagram = lf.sweep(cell, {"lam": jnp.linspace(-3, 3, 5)}, seeds=2, method=lf.Flow(t1=10.0))
        >>> dict(diagram.sizes)
        {'lam': 5, 'seed': 2}
    """
    begin = time.perf_counter()
    wanted = checked_wanted(observe, summary, ts)
    if not paths and not wanted.summary:
        raise ValueError("With paths=False a sweep keeps what summaries say, but there is none: give `summary`.")
    grid, takes_key = _grid(cell, axes or {}, seeds)
    wanted = dataclasses.replace(wanted, paths=paths, derivative=_differentiable(derivative, grid), verify=verify)
    root = as_key(root, "root")
    method = None if method is None else checked_method(method)
    on = Machine() if on is None else on
    if not isinstance(on, Machine):
        raise TypeError(f"Argument `on` needs a lf.Machine, such as lf.Machine(devices=1), but it is {on!r}.")

    batches = [
        (words, _batch(cell, chosen, grid, takes_key, method, wanted, ts, root))
        for chosen, words in grid.combinations()
    ]
    kinds = {type(batch.frozen.program.method) for _, batch in batches}
    if ts is not None and len(kinds) > 1:
        raise TypeError("`ts` are times for Flow and steps for Descent: sweep the two apart, or measure at the end.")
    variables = _same_variables([(words, batch.kept) for words, batch in batches], grid)
    results = Results(grid, batches, variables, on)
    for words, batch in batches:
        _judge(batch, grid, words)
        batch.check_gauge(*_arguments(grid, np.zeros(1, int)))
    plans = _run(grid, batches, results, on, progress)

    if (results.status == Status.OUTSIDE).all():
        raise ValueError(
            f"{Exact.applies(_first_problem(cell, grid, takes_key, root))} So it is in every cell. Use lf.Flow(t1=...)."
        )
    facts = facts_of(cell, batches[0][1], method, root) | {
        "chunk": _one_or_all([plan.size for plan in plans]),
        **({} if plans[0].lanes is None else {"lanes": _one_or_all([plan.lanes for plan in plans])}),
        "devices": max(len(on.devices_for(grid.cells, plan.size)) for plan in plans),
        "calls_split": sum(batch.calls_split for _, batch in batches),
        "chunk_bytes": max(batch.chunk_bytes for _, batch in batches),
        "compile_seconds": round(sum(b.compile_seconds for _, b in batches), 3),
    }
    diagram = results.dataset(wanted, batches[0][1])
    if verify:
        for name in ("error_over_tolerance", "drift"):
            if name in diagram:
                facts[f"worst_{name}"] = float(diagram[name].max())
    diagram.attrs |= facts | {"wall_seconds": round(time.perf_counter() - begin, 3)}
    return diagram


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
    takes_key = _match_arguments(cell, given)
    if seeds is None:
        return Grid(tuple(made)), takes_key
    if not isinstance(seeds, int | np.integer) or seeds < 1:
        raise ValueError(f"Argument `seeds` counts repetitions and needs to be a positive whole number, not {seeds}.")
    if not takes_key:
        raise TypeError("The cell function takes no `key`, so all seeds would be copies. Give it an argument `key`.")
    numbers = np.arange(seeds)
    seed = Axis("seed", {"seed": numbers}, numbers, {"long_name": "seed", "units": "1"})
    return Grid((*made, seed)), takes_key


def _match_arguments(cell: CellFunction, given: list[str]) -> bool:
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


def _batch(
    cell: CellFunction,
    chosen: dict[str, Any],
    grid: Grid,
    takes_key: bool,
    method: Method | None,
    wanted: Wanted,
    ts: Times | None,
    root: PRNGKeyArray,
) -> Batch:
    """Trace the cells of one combination of static values."""
    found: dict[str, Any] = {}

    def build(values: dict[str, Array], key: PRNGKeyArray) -> Any:
        arguments = dict(chosen) | {name: value for name, value in values.items() if name != "seed"}
        with collect() as checks:
            returned = cell(**arguments, **({"key": key} if takes_key else {}))
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
    times = checked_times(ts, type(found["static"].method), None if method is None else method.end)
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


def _first_problem(cell: CellFunction, grid: Grid, takes_key: bool, root: PRNGKeyArray) -> Problem:
    """The problem of the first cell, of known numbers."""
    chosen, _ = next(grid.combinations())
    values = {name: jnp.asarray(array[0]) for name, array in grid.values(np.zeros(1, int)).items() if name != "seed"}
    returned = cell(**chosen, **values, **({"key": jax.random.fold_in(root, 0)} if takes_key else {}))
    return returned[0] if isinstance(returned, tuple) else returned


def _names(grid: Grid) -> set[str]:
    """Names of axes and of the arguments that they give."""
    return {name for axis in grid.axes for name in (axis.name, *axis.arguments)}


def _same_variables(described: list[tuple[str, dict[str, Any]]], grid: Grid) -> dict[str, Any]:
    """The variables of all combinations of static values, which need to agree."""
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
        if name in (*RESERVED, "t", "step") or name in _names(grid):
            raise ValueError(
                f"The observable `{name}` has the name of an axis or of the diagram's own variables "
                f"({', '.join(RESERVED)}). Name it apart: observe={{'my_{name}': f}}."
            )
    return variables


def _run(grid: Grid, batches: list[tuple[str, Batch]], results: Results, on: Machine, progress: bool) -> list[Plan]:
    """Run every chunk; returns how the chunks of each combination were computed."""
    with warnings.catch_warnings():  # a notebook without widgets gets a bar of text, and no word about it
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    plans = []
    with tqdm(total=grid.cells * len(batches), unit="cell", delay=1.0, disable=not progress) as bar:
        for number, (words, batch) in enumerate(batches):
            bar.set_description(words or "sweep", refresh=False)
            plans.append(plan := batch.plan(grid.cells, on))
            prepare = functools.partial(batch.compile, plan)
            solve = lambda device, begin, run=batch.run, plan=plan: run(device, _chunk(grid, begin, plan.size), plan)
            begins, devices = range(0, grid.cells, plan.size), on.devices_for(grid.cells, plan.size)
            for begin, (kept, path) in pull(devices, begins, prepare, solve):
                cells = np.arange(begin, min(begin + plan.size, grid.cells))
                results.put(number, cells, dict(zip(batch.kept, kept, strict=True)), path)
                bar.update(len(cells))
    return plans


def _one_or_all(numbers: list[Any]) -> Any:
    """One number where all combinations of static values agree."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _chunk(grid: Grid, begin: int, size: int) -> Cells:
    """Some cells of the grid; the last chunk is filled up with its last cell, so that one program serves all."""
    number = np.arange(begin, begin + size)
    return Cells(*_values_and_seeds(grid, np.minimum(number, grid.cells - 1)), number < grid.cells)
