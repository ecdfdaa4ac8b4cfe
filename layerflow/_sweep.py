"""Sweep a cell function over a grid: a phase diagram in one call."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import PRNGKeyArray

from layerflow.base._numerics import full_precision, undisturbed
from layerflow.engine._chunks import Batch
from layerflow.engine._machine import Machine
from layerflow.engine._wanted import Observe, Summarise
from layerflow.methods import Method, Times
from layerflow.observables import loss
from layerflow.sweeps._cell_function import CellFunction
from layerflow.sweeps._chunks import Crew, Here, Keeper, fill
from layerflow.sweeps._memory import InMemory
from layerflow.sweeps._request import Request

if TYPE_CHECKING:
    import xarray


@full_precision()
@undisturbed()
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
    store: str | os.PathLike[str] | None = None,
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
        root: Root key, or a whole number of at most 64 bits to make it from.
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
        store: Folder or URL to keep every finished chunk in, as a zarr store. The same call again goes on
            where it stopped, and computes only what is missing. The diagram is not held in memory but
            opened from there, see `open_diagram`.

    Returns:
        xarray.Dataset with the axes in the given order, then `seed`, then `t` or `step`, then the
        observable's own dimensions; one variable per observable, and `status` (see `lf.Status`),
        `num_steps` and `end`. A failed cell is NaN. `attrs` say how it was made.

    Raises:
        TypeError: If axes and the arguments of `cell` do not match, or it returns no Problem; if numbers are
            traced, as inside `jax.grad`.
        ValueError: If an axis is empty, masked or not finite, or a start cannot exist; if names of axes,
            variables and dimensions collide; if the store is of another sweep.
        MemoryError: If the diagram does not fit the memory.
        FileExistsError: If `store` is a file, or holds something else.
        BlockingIOError: If another process writes to the store.
        OSError: If nothing can be written there, or no space is left.
        KeyboardInterrupt: If a sweep with a store is interrupted; it ends after the running chunk and
            says how to go on.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.eye(2))
        >>> def cell(key, lam):
        ...     return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
        >>> diagram = lf.sweep(cell, {"lam": jnp.linspace(-3, 3, 5)}, seeds=2, method=lf.Flow(t1=10.0))
        >>> dict(diagram.sizes)
        {'lam': 5, 'seed': 2}
    """
    begin, on = time.perf_counter(), checked_machine(on, store)
    request = Request.of(
        cell,
        axes,
        method=method,
        seeds=seeds,
        root=root,
        ts=ts,
        observe=observe,
        summary=summary,
        paths=paths,
        derivative=derivative,
        verify=verify,
    )
    return computed(request, request.batches(), on, store, progress, begin)


def computed(
    request: Request,
    batches: list[Batch],
    on: Machine,
    store: str | os.PathLike[str] | None,
    progress: bool,
    begin: float,
) -> "xarray.Dataset":
    """The diagram of what was traced."""
    from layerflow import _accessor as _accessor  # noqa: PLC0414 - where there are diagrams, there is diagram.lf

    crew = _crew(request, batches, on)
    keeper = _keeper(store, request, batches, crew, on, begin)
    request.judge(batches)
    fill(keeper, crew, progress)
    return keeper.dataset()


def checked_machine(on: Machine | None, store: str | os.PathLike[str] | None) -> Machine:
    """What the computation may use, or an error."""
    if on is not None and not isinstance(on, Machine):
        raise TypeError(f"Argument `on` needs a lf.Machine, such as lf.Machine(devices=1), but it is {on!r}.")
    if store is not None and not isinstance(store, str | os.PathLike):
        raise TypeError(f'Argument `store` needs a folder or URL, such as "diagram.zarr", but it is {store!r}.')
    if on is not None and on.client is not None and store is None:
        raise ValueError('Workers of a cluster write to a store that all can reach. Name it: store="diagram.zarr".')
    return Machine() if on is None else on


def _crew(request: Request, batches: list[Batch], on: Machine) -> Crew:
    """Who computes."""
    if on.client is None:
        return Here(request, batches, on)
    from layerflow.store._cluster import There  # dask takes its time to import

    return There(request, batches, on)


def _keeper(
    store: str | os.PathLike[str] | None, request: Request, batches: list[Batch], crew: Crew, on: Machine, begin: float
) -> Keeper:
    """Who keeps what is computed."""
    if store is None:
        return InMemory(request, batches, crew.device, on, begin)
    from layerflow.store._into import InStore  # zarr takes its time to import

    return InStore(store, request, batches, crew, on)
