"""The diagram that a sweep returns: its numbers and labels."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerflow.diagrams._array import RESERVED
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Grid
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Path, Status

if TYPE_CHECKING:
    import xarray

_OF_VERIFICATION = {
    "drift": {"long_name": "drift of the layer imbalances relative to |weights|²", "units": "1"},
    "error_over_tolerance": {"long_name": "worst error over what the tolerance allows", "units": "1"},
}


class Variable(NamedTuple):
    """One variable of a diagram: what it holds of a cell, and how that is labelled."""

    dims: tuple[str, ...]  # beyond the axes
    shape: tuple[int, ...]
    dtype: np.dtype
    fill: Any  # of a cell that is not computed yet
    attrs: dict[str, Any]


Coordinates = dict[str, tuple[str, np.ndarray, dict[str, Any]]]


def variables_of(grid: Grid, batch: Batch) -> dict[str, Variable]:
    """All variables of a diagram by name, as the cells of any combination of static values have them."""
    wanted, time_name, time_label = batch.wanted, *_time(batch)
    variables: dict[str, Variable] = {}
    slopes = _slopes(batch)
    # Axes, time and variables keep their names to themselves: no dimension of an observable has size -1.
    sizes = dict.fromkeys([*axes_and_arguments(grid), "t", "step", *RESERVED, *names_of(batch)], -1)
    for name, kept in batch.kept.items():
        if name in batch.frozen.verified and not name.endswith("_error"):
            variables[name] = _variable((), kept.shape, kept.dtype, **_OF_VERIFICATION[name])
            continue
        of, by = slopes.get(name, (name, None))
        of = of.removesuffix("_error") if name in batch.frozen.verified else of
        labels = _labels(of, {**wanted.observe, **wanted.summary})
        times = [] if batch.ts is None or of in batch.frozen.summaries else [time_name]
        own = kept.shape[len(times) :]
        dims = labels["dims"] if len(labels["dims"]) == len(own) else ()
        # A name that stands twice, means something else here, or another size, gives way to numbers.
        unfit = len(set(dims)) < len(own) or any(sizes.get(d, size) != size for d, size in zip(dims, own, strict=True))
        dims = _numbered(name, len(own), sizes) if unfit else dims
        sizes |= dict(zip(dims, own, strict=True))
        attrs = {key: labels[key] for key in ("long_name", "units")}
        if name in batch.frozen.verified:
            attrs["long_name"] = f"error of {labels['long_name']} against the closed form"
        if by is not None:
            attrs = {
                "long_name": f"derivative of {labels['long_name']} by {by}",
                "units": f"{labels['units']}/[{by}]",
            }
        variables[name] = _variable((*times, *dims), kept.shape, kept.dtype, **attrs)
    if wanted.verify:
        told = "held against theory and found within the tolerance"
        variables["verified"] = _variable((), (), bool, False, long_name=told)
    for name in batch.frozen.followed:
        label = _labels(name, wanted.observe)["long_name"]
        variables[f"{name}_status"] = _status_variable(f"how that which is followed for the {label} ended")
    variables["status"] = _status_variable("why the cell ended")
    variables["num_steps"] = _variable((), (), np.int32, 0, long_name="steps taken", units="1")
    variables["end"] = _variable((), (), float, long_name=f"{time_label} at the end of the cell", units="1")
    return variables


def _status_variable(long_name: str) -> Variable:
    """A variable of codes, with their meanings."""
    codes = [status for status in Status if status >= 0]
    flags = {
        "flag_values": [int(code) for code in codes],
        "flag_meanings": " ".join(code.name.lower() for code in codes),
    }
    return _variable((), (), np.uint8, int(Status.MISSING), long_name=long_name, **flags)


def _numbered(name: str, count: int, taken: Mapping[str, int]) -> tuple[str, ...]:
    """Names for the dimensions of a variable that has none of its own, or an error where they are taken."""
    dims = tuple(f"{name}_{i}" for i in range(count))
    for dim in dims:
        if dim in taken:
            raise ValueError(
                f"The dimensions of the variable `{name}` are numbered {', '.join(dims)}, but `{dim}` is the name of "
                f"an axis, a variable or another dimension. Rename that one, or name these: "
                f"@lf.observable(dims=(...))."
            )
    return dims


def names_of(batch: Batch) -> list[str]:
    """Names of the variables that hold what was measured of cells; a name stands twice if two are called so."""
    wanted, values = batch.wanted, _measured(batch)
    slopes = [f"{name}_d_{axis}" for axis in wanted.derivative for name in values]
    followed = [f"{name}_status" for name in batch.frozen.followed]
    return [*values, *slopes, *followed, *batch.frozen.verified, *(["verified"] if wanted.verify else [])]


def _slopes(batch: Batch) -> dict[str, tuple[str, str]]:
    """For every derivative in a diagram the variable and the axis that it is of and by."""
    return {f"{name}_d_{axis}": (name, axis) for axis in batch.wanted.derivative for name in _measured(batch)}


def _measured(batch: Batch) -> list[str]:
    """Names of observables and summaries that are kept."""
    return [*(batch.frozen.variables if batch.wanted.paths else ()), *batch.frozen.summaries]


def _variable(dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any, fill: Any = np.nan, **attrs: Any) -> Variable:
    return Variable(dims, shape, np.dtype(dtype), fill, attrs)


def coordinates_of(grid: Grid, batch: Batch) -> Coordinates:
    """Values and labels along axes and time, and what a paired axis gives to each argument."""
    coords: Coordinates = {axis.name: (axis.name, axis.coordinate, axis.attrs) for axis in grid.axes}
    for axis in grid.axes:
        vectors = {n: v for n, v in axis.arguments.items() if n != axis.name and np.ndim(v) == 1 and not axis.static}
        coords |= {name: (axis.name, values, {}) for name, values in vectors.items()}
    if batch.ts is not None and batch.wanted.paths:
        name, label = _time(batch)
        coords[name] = (name, np.asarray(batch.ts), {"long_name": label, "units": "1"})
    return coords


def _time(batch: Batch) -> tuple[str, str]:
    """The dimension of `ts`, and its label."""
    descends = isinstance(batch.frozen.program.method, Descent)
    return ("step", "steps") if descends else ("t", "gradient-flow time")


def measured(batch: Batch, kept: list[Any], path: Path) -> dict[str, Any]:
    """What the diagram holds of some cells, by variable."""
    values = dict(zip(batch.kept, kept, strict=True))
    if batch.wanted.verify:
        values["verified"] = values["error_over_tolerance"] <= 1
    followed = {f"{name}_status": path.twin for name in batch.frozen.followed}
    return values | followed | {"status": path.status, "num_steps": path.num_steps, "end": path.end}


class Results:
    """The numbers of a diagram in memory, by combination of static values and cell."""

    def __init__(self, grid: Grid, variables: dict[str, Variable], on: Machine) -> None:
        self.grid, self.variables = grid, variables
        shape = (math.prod(len(axis) for axis in grid.outer), grid.cells)
        on.check_results(sum(math.prod(v.shape) * v.dtype.itemsize for v in variables.values()) * math.prod(shape))
        self.values = {name: np.full(shape + v.shape, v.fill, v.dtype) for name, v in variables.items()}

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Write the results of some cells; padding beyond them is dropped."""
        for name, own in values.items():
            self.values[name][number, cells] = np.asarray(own)[: len(cells)]

    def dataset(self, coordinates: Coordinates) -> "xarray.Dataset":
        """The diagram, labelled."""
        from layerflow.diagrams._dataset import Diagram

        axes = [axis.name for axis in self.grid.axes]
        data = {
            name: ([*axes, *v.dims], self.grid.shaped(self.values[name]), v.attrs) for name, v in self.variables.items()
        }
        return Diagram(data, coordinates)


def axes_and_arguments(grid: Grid) -> set[str]:
    """Names of axes and of the arguments that they give."""
    return {name for axis in grid.axes for name in (axis.name, *axis.arguments)}


def _labels(variable: str, functions: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """What the observable or summary behind a variable says of itself."""
    name = max((n for n in functions if variable == n or variable.startswith(f"{n}_")), key=len)
    function = functions[name]
    label = getattr(function, "long_name", None) or name.replace("_", " ")
    part = variable[len(name) :].replace("_", " ")
    return {"dims": getattr(function, "dims", ()), "long_name": label + part, "units": getattr(function, "units", "1")}
