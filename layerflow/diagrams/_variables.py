"""The diagram that a sweep returns: its numbers and labels."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerflow.diagrams._array import RESERVED
from layerflow.diagrams._classes import flags
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Grid
from layerflow.engine._wanted import Measured, Wanted
from layerflow.methods import Path, Status

if TYPE_CHECKING:
    pass

_OF_CHECKS = {
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
    time, variables = batch.frozen.program.method.time, {}
    # Axes, time and variables keep their names to themselves: no dimension of an observable has size -1.
    sizes = dict.fromkeys([*axes_and_arguments(grid), "t", "step", *RESERVED, *names_of(batch)], -1)
    for kept in batch.kept:
        times = (time.name,) if kept.timed else ()
        dims = _dims(kept, kept.like.shape[len(times) :], batch.wanted, sizes)
        variables[kept.name] = _variable((*times, *dims), kept.like.shape, kept.like.dtype, **_told(kept, batch.wanted))
    if batch.wanted.verify:
        said = "held against theory and found within the tolerance"
        variables["verified"] = _variable((), (), bool, False, long_name=said)
    for name in batch.frozen.beside:
        label = _label(batch.wanted.observe[name], name)
        long_name = f"how that which is followed for the {label} ended"
        variables[f"{name}_status"] = _status_variable(long_name=long_name, of=name)
    variables["status"] = _status_variable(long_name="why the cell ended")
    variables["num_steps"] = _variable((), (), np.int32, 0, long_name="steps taken", units="1")
    variables["end"] = _variable((), (), float, long_name=f"{time.label} at the end of the cell", units="1")
    return variables


def _dims(kept: Measured, shape: tuple[int, ...], wanted: Wanted, sizes: dict[str, int]) -> tuple[str, ...]:
    """The dimensions of what is kept, beyond time: as its function names them, or else numbered."""
    dims = getattr({**wanted.observe, **wanted.summary}.get(kept.of), "dims", ())
    dims = dims if len(dims) == len(shape) else ()
    # A name that stands twice, means something else here, or another size, gives way to numbers.
    unfit = len(set(dims)) < len(shape) or any(sizes.get(d, size) != size for d, size in zip(dims, shape, strict=True))
    dims = _numbered(kept.name, len(shape), sizes) if unfit else dims
    sizes |= dict(zip(dims, shape, strict=True))
    return dims


def _told(kept: Measured, wanted: Wanted) -> dict[str, Any]:
    """What a variable says of itself: its label and units and, where it is of another one, of which and by what."""
    if kept.kind == "check":
        return _OF_CHECKS[kept.name]
    function = {**wanted.observe, **wanted.summary}[kept.of]
    label = " ".join(filter(None, [_label(function, kept.of), kept.part.replace("_", " ")]))
    units = getattr(function, "units", "1")
    if kept.kind == "error":
        return {"long_name": f"error of {label} against the closed form", "units": units, "of": kept.base}
    if kept.kind == "slope":
        whose = {"of": kept.base, "by": kept.by}
        return {"long_name": f"derivative of {label} by {kept.by}", "units": f"{units}/[{kept.by}]", **whose}
    classes = getattr(function, "classes", None)
    return {"long_name": label, "units": units, **(flags(classes) if classes else {})}


def _label(function: Callable[..., Any], name: str) -> str:
    """What an observable or a summary is called in a picture."""
    return getattr(function, "long_name", None) or name.replace("_", " ")


def _status_variable(**attrs: Any) -> Variable:
    """A variable of codes, with their meanings."""
    classes = {int(status): status.name.lower() for status in Status if status >= 0}
    return _variable((), (), np.uint8, int(Status.MISSING), **attrs, **flags(classes))


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
    followed = [f"{name}_status" for name in batch.frozen.beside]
    return [*(kept.name for kept in batch.kept), *followed, *(["verified"] if batch.wanted.verify else [])]


def _variable(dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any, fill: Any = np.nan, **attrs: Any) -> Variable:
    return Variable(dims, shape, np.dtype(dtype), fill, attrs)


def coordinates_of(grid: Grid, batch: Batch) -> Coordinates:
    """Values and labels along axes and time, and what a paired axis gives to each argument."""
    coords: Coordinates = {axis.name: (axis.name, axis.coordinate, axis.attrs) for axis in grid.axes}
    for axis in grid.axes:
        vectors = {n: v for n, v in axis.arguments.items() if n != axis.name and np.ndim(v) == 1 and not axis.static}
        coords |= {name: (axis.name, values, {}) for name, values in vectors.items()}
    if batch.ts is not None and batch.wanted.paths:
        time = batch.frozen.program.method.time
        coords[time.name] = (time.name, np.asarray(batch.ts), {"long_name": time.label, "units": "1"})
    return coords


def measured(batch: Batch, kept: list[Any], path: Path) -> dict[str, Any]:
    """What the diagram holds of some cells, by variable."""
    values = dict(zip((of.name for of in batch.kept), kept, strict=True))
    if batch.wanted.verify:
        values["verified"] = values["error_over_tolerance"] <= 1
    followed = {f"{name}_status": getattr(path, which) for name, which in batch.frozen.beside.items()}
    return values | followed | {"status": path.status, "num_steps": path.num_steps, "end": path.end}


def axes_and_arguments(grid: Grid) -> set[str]:
    """Names of axes and of the arguments that they give."""
    return {name for axis in grid.axes for name in (axis.name, *axis.arguments)}
