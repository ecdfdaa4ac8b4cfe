"""Run cells of a diagram again: one alone, or all that failed."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow._solve import solve
from layerflow._trajectory import Trajectory
from layerflow.base._numerics import full_precision, undisturbed
from layerflow.diagrams._array import RETRIED, has_failed, status_of
from layerflow.diagrams._asked import Record, asked_again
from layerflow.diagrams._variables import variables_of
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Axis, Grid
from layerflow.engine._machine import Machine
from layerflow.engine._wanted import Observe, Summarise
from layerflow.methods import Method, checked_method
from layerflow.sweeps._cell_function import CellFunction, match_arguments, without_jit
from layerflow.sweeps._chunks import Here, Keeper, fill
from layerflow.sweeps._failed import FailedCells
from layerflow.sweeps._rebuilt import check_settings, grid_again, method_again, position, wanted_again
from layerflow.sweeps._record import method_facts, root_of, velocity_of
from layerflow.sweeps._request import Request

if TYPE_CHECKING:
    import xarray


@full_precision()
def replay(
    cell: CellFunction,
    diagram: "xarray.Dataset",
    /,
    *,
    method: Method | None = None,
    observe: Observe | None = None,
    summary: Summarise | None = None,
    axes: Mapping[str, Any] | None = None,
    **coordinates: Any,
) -> Trajectory:
    """Run one cell of a diagram alone.

    Args:
        cell: The cell function of the diagram.
        diagram: What `sweep` or `open_diagram` returned, or a part of it.
        method: How to travel; as the diagram did if not given, with all its settings, where these are told by
            public names: of solvers, controllers and optimisers of packages, not of your own.
        observe: What to measure; what the diagram holds if not given, where these are layerflow's own.
        summary: Likewise.
        axes: The axes as given to `sweep`, where the diagram does not know their values: `lf.static` with
            labels, vectors in `lf.paired`.
        **coordinates: The value along each axis, and `seed`; not needed for axes of one value.

    Returns:
        Trajectory, as `solve` returns it. Its numbers agree with the diagram's to a small multiple of
        the solver's tolerance.

    Raises:
        TypeError: If coordinates are missing or belong to no axis.
        ValueError: If a coordinate is not on the grid, or the diagram does not say enough.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.eye(2))
        >>> def cell(key, lam):
        ...     return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
        >>> diagram = lf.sweep(cell, {"lam": [-3.0, 0.0, 3.0]}, seeds=2, method=lf.Flow(t1=10.0))
        >>> lf.replay(cell, diagram, lam=3.0, seed=1).status.item()
        0
    """
    asked, cell = asked_again(diagram), without_jit(cell)
    check_settings(asked)
    grid = grid_again(asked, diagram, axes)
    values = {name: given[i] for axis, i in position(grid, coordinates) for name, given in axis.arguments.items()}
    key = jax.random.fold_in(root_of(diagram.attrs, asked), int(values.pop("seed", 0)))
    values = {n: v if any(a.static and n == a.name for a in grid.axes) else jnp.asarray(v) for n, v in values.items()}
    returned = cell(**values, **({"key": key} if match_arguments(cell, list(values)) else {}))
    problem, own = returned if isinstance(returned, tuple) else (returned, None)
    wanted = wanted_again(asked, observe, summary)
    how = method or own or method_again(asked)
    return solve(problem, how, ts=asked["ts"], observe=wanted.observe, summary=wanted.summary or None, key=key)


@full_precision()
@undisturbed()
def retry(
    cell: CellFunction,
    diagram: "xarray.Dataset",
    method: Method,
    *,
    observe: Observe | None = None,
    summary: Summarise | None = None,
    axes: Mapping[str, Any] | None = None,
    on: Machine | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Run the cells of a diagram that failed again, tighter or with another solver.

    What comes of them takes their place; `retried` marks them with the number of the retry, 0 elsewhere, and
    `attrs["retries"]` names the methods. In a store the first results stay as they are, beside the new ones.

    Args:
        cell: The cell function of the diagram.
        diagram: What `sweep` or `open_diagram` returned.
        method: How to travel; also where the cell function returns a method of its own.
        observe: The observables of the diagram; not needed where these are layerflow's own.
        summary: Likewise.
        axes: The axes as given to `sweep`, where the diagram does not know their values: `lf.static` with
            labels, vectors in `lf.paired`.
        on: What the computation may use.
        progress: Show a bar when it takes longer than a second.

    Returns:
        The diagram with the new results; of a store, opened from there.

    Raises:
        ValueError: If no cell failed, or the cell function or the observables are not those of the diagram.
        BlockingIOError: If another process writes to the store.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def cell(target):
        ...     return lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), target))
        >>> diagram = lf.sweep(cell, {"target": [1.0, 2.0]}, method=lf.Flow(t1=9.0, max_steps=2))
        >>> mended = lf.retry(cell, diagram, lf.Flow(t1=9.0))
        >>> mended.status.values.tolist(), mended.retried.values.tolist()
        ([0, 0], [1, 1])
    """
    if not has_failed(status_of(diagram).values).any():
        raise ValueError("No cell of the diagram failed, so there is nothing to retry.")
    asked, cell = asked_again(diagram), without_jit(cell)
    check_settings(asked)
    grid, wanted = grid_again(asked, diagram, axes), wanted_again(asked, observe, summary)
    method, names = checked_method(method), [name for a in grid.axes if a.name != "seed" for name in a.arguments]
    whole = Request(
        _problem_of(cell),
        grid,
        match_arguments(cell, names),
        method,
        wanted,
        asked["ts"],
        root_of(diagram.attrs, asked),
    )
    batches = whole.batches()
    _check_same(diagram, asked, whole, batches)
    on = Machine() if on is None else on
    keeper = _keeper(diagram, grid, method)
    fill(keeper, Here(whole, batches, on), progress)
    return keeper.dataset()


def _keeper(diagram: "xarray.Dataset", grid: Grid, method: Method) -> Keeper:
    """Who keeps what comes of the failed cells."""
    if "store" not in diagram.attrs:
        return _AgainInMemory(diagram, grid, method)
    from layerflow.store._again import AgainInStore  # zarr takes its time to import

    return AgainInStore(diagram, method)


class _AgainInMemory(FailedCells):
    """The failed cells of a diagram in memory, to be run by a method."""

    def __init__(self, diagram: "xarray.Dataset", grid: Grid, method: Method) -> None:
        super().__init__(_flat_status(diagram, grid))
        self.diagram, self.grid, self.method = diagram, grid, method

    def dataset(self) -> "xarray.Dataset":
        """A copy of the diagram with what came of them."""
        (rows, cells), values = self.found()
        return _merged(self.diagram, self.grid, self.method, rows, cells, values)


def _flat_status(diagram: "xarray.Dataset", grid: Grid) -> np.ndarray:
    """The status by combination of static values and cell."""
    ordered = [*grid.outer, *grid.inner]
    status = status_of(diagram).expand_dims([a.name for a in grid.axes if a.name not in diagram["status"].dims])
    return status.transpose(*(axis.name for axis in ordered)).values.reshape(-1, grid.cells)


def _merged(
    diagram: "xarray.Dataset", grid: Grid, method: Method, rows: np.ndarray, cells: np.ndarray, values: dict[str, Any]
) -> "xarray.Dataset":
    """A copy of a diagram in memory with new results in some cells."""
    merged, dims = diagram.copy(deep=True), status_of(diagram).dims
    retries = [*json.loads(diagram.attrs.get("retries", "[]")), method_facts(method)]
    if "retried" not in merged:
        merged["retried"] = merged["status"].copy(data=np.zeros(merged["status"].shape, np.uint8))
        merged["retried"].attrs = RETRIED
    where = dict(zip((axis.name for axis in grid.outer), _unravelled(rows, grid.outer), strict=True))
    where |= dict(zip((axis.name for axis in grid.inner), _unravelled(cells, grid.inner), strict=True))
    for name, new in {**values, "retried": np.full(len(cells), len(retries), np.uint8)}.items():
        # Axes come first in every variable, in one order; axes of one value may have been selected away.
        merged[name].values[tuple(where[str(dim)] for dim in dims)] = new if dims else new[0]
    merged.attrs["retries"] = json.dumps(retries)
    return merged


def _unravelled(flat: np.ndarray, axes: tuple[Axis, ...]) -> Any:
    return np.unravel_index(flat, [len(axis) for axis in axes]) if axes else ()


def _check_same(diagram: "xarray.Dataset", asked: Record, whole: Request, batches: list[Batch]) -> None:
    """Raise if the functions given cannot be those of the diagram."""
    for name, variable in variables_of(whole.grid, batches[0]).items():
        own = diagram[name].shape[status_of(diagram).ndim :] if name in diagram else None
        if own != variable.shape:
            there = "none" if own is None else f"one of shape {own}"
            raise ValueError(
                f"The cells now give a variable `{name}` of shape {variable.shape}, but the diagram holds {there}. "
                f"Give the cell function and `observe` as they were given to the sweep."
            )
    same_kind = method_facts(whole.method)["method"] == diagram.attrs["method"]
    sizes = [known["size"] for known in asked["axes"] if known["static"]]
    all_there = [len(axis) for axis in whole.grid.outer] == sizes
    # Numbers of the cells are not compared: a retry trusts that they are the same.
    if same_kind and all_there and velocity_of(batches) != asked["velocity"]:
        raise ValueError("The cell function is not that of the diagram: its cells have another velocity.")


def _problem_of(cell: CellFunction) -> Callable[..., Any]:
    """The cell function without the method that it may return."""

    @functools.wraps(cell)
    def problem(**arguments: Any) -> Any:
        returned = cell(**arguments)
        return returned[0] if isinstance(returned, tuple) else returned

    return problem
