"""Reconstruct what a sweep was asked for from the coordinates and attributes of its diagram."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.base._checks import check_known, named_apart
from layerflow.diagrams._asked import Record
from layerflow.engine._grid import Axis, Grid, make_axis
from layerflow.engine._identity import identity, settings
from layerflow.engine._wanted import Observe, Summarise, Wanted, checked_wanted
from layerflow.methods import Method
from layerflow.methods._recipe import NoRecipe, made_by
from layerflow.sweeps._record import public_function

if TYPE_CHECKING:
    import xarray


def wanted_again(asked: Record, observe: Observe | None, summary: Summarise | None) -> Wanted:
    """What to measure: what is given, or else what the diagram names."""
    observe = _functions(asked, "observe") if observe is None else observe
    summary = _functions(asked, "summary") or None if summary is None else summary
    wanted = checked_wanted(observe, summary, asked["ts"])
    return replace(wanted, paths=asked["paths"], derivative=tuple(asked["derivative"]), verify=asked["verify"])


def _functions(asked: Record, kind: str) -> dict[str, Callable[..., Any]]:
    """The functions that a diagram names, where they are layerflow's."""
    own = [name for name, public in asked[kind].items() if public is None]
    if own:
        raise ValueError(f"`{own[0]}` is no function of layerflow: give `{kind}` as it was given to the sweep.")
    return {name: public_function(public) for name, public in asked[kind].items()}


def method_again(asked: Record) -> Method:
    """The method of a diagram, where it says all of it."""
    record = asked.get("method") or {}
    try:
        made = made_by(record.get("recipe"))
    except NoRecipe:
        made = None
    if made is None or identity(made).digest != record.get("digest"):
        old = (
            " (diagrams of layerflow 0.2.0 left out settings of controllers and solvers)"
            if "method" not in asked
            else ""
        )
        raise ValueError(
            f"The diagram does not say all of its method{old}: give `method` as it was given to the sweep."
        )
    return made


def check_settings(asked: Record) -> None:
    """Raise where JAX is set otherwise than when the diagram was made, and numbers would not be the same."""
    there, here = asked.get("settings", {}), settings()
    differing = [f"{name} was {there[name]} and is {here.get(name)}" for name in there if there[name] != here.get(name)]
    if differing:
        raise ValueError(
            f"The diagram was made under other settings of JAX, which change its numbers: {'; '.join(differing)}. Set "
            f"them as they were, jax.config.update(name, value) before anything is computed."
        )


def grid_again(asked: Record, diagram: "xarray.Dataset", axes: Mapping[str, Any] | None) -> Grid:
    """The grid of a diagram, or of the part of it that is given."""
    given = named_apart(axes or {}, "axis")
    return Grid(tuple(_axis(known, diagram, given) for known in asked["axes"]))


def _axis(known: Record, diagram: "xarray.Dataset", axes: Mapping[str, Any]) -> Axis:
    """An axis: from the diagram's coordinates, or from the values as they were given to the sweep."""
    name = known["name"]
    if name not in diagram.coords:
        raise ValueError(
            f"The diagram has no axis `{name}` any more. Give it as lf.sweep or lf.open_diagram returned it."
        )
    here = np.atleast_1d(diagram[name].values)
    if name in axes:
        whole = make_axis(name, axes[name])
        at = [_index(whole, value) for value in here.tolist()]
        pick = lambda values: [values[i] for i in at] if whole.static else values[np.asarray(at)]
        return Axis(name, {n: pick(values) for n, values in whole.arguments.items()}, here, static=whole.static)
    if known["static"] and not known["labelled"]:
        return Axis(name, {name: here.tolist()}, here, static=True)
    if known["static"] or any(argument not in diagram.coords for argument in known["arguments"]):
        raise ValueError(
            f"The diagram knows axis `{name}` by its labels alone: give its values as they were given to the sweep, "
            f'axes={{"{name}": ...}}.'
        )
    return Axis(name, {n: np.atleast_1d(diagram[n].values) for n in known["arguments"]}, here)


def position(grid: Grid, coordinates: Mapping[str, Any]) -> Iterator[tuple[Axis, int]]:
    """Where a cell lies along each axis."""
    names, coordinates = {axis.name for axis in grid.axes}, named_apart(coordinates, "coordinate")
    check_known(coordinates, "a coordinate")
    surplus = sorted(set(coordinates) - names)
    missing = sorted(a.name for a in grid.axes if a.name not in coordinates and len(a) > 1)
    if surplus or missing:
        raise TypeError(
            f"A cell is named by its value along each of {', '.join(sorted(names)) or 'no axis'}, but "
            + (f"`{surplus[0]}` is none of them." if surplus else f"`{missing[0]}` is missing.")
        )
    return iter([(a, _index(a, coordinates[a.name]) if a.name in coordinates else 0) for a in grid.axes])


def _index(axis: Axis, value: Any) -> int:
    """Where a value stands on an axis."""
    there = axis.coordinate
    value = np.asarray(value).item() if np.ndim(value) == 0 else value
    if there.dtype.kind in "iuf" and isinstance(value, int | float):
        found = np.flatnonzero(np.isclose(there, value, rtol=1e-6 if there.dtype == np.float32 else 1e-12, atol=0))
        nearest = f" The nearest is {there[np.abs(there - value).argmin()]}."
    else:
        found = np.flatnonzero([one == value for one in there.tolist()])
        nearest = f" It has {', '.join(map(str, there.tolist()[:5]))}{', ...' if len(there) > 5 else ''}."
    if not found.size:
        raise ValueError(f"{axis.name}={value} is not on the grid.{nearest}")
    return int(found[0])
