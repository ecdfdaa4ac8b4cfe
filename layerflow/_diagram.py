"""The diagram that a sweep returns: its numbers, labels and the facts of how it was made."""

import datetime
import functools
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from layerflow.engine._cell import Wanted
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Grid
from layerflow.engine._machine import Machine
from layerflow.methods import Descent, Method, Status

if TYPE_CHECKING:
    import xarray

RESERVED = ("status", "num_steps", "end")
_OF_VERIFICATION = {
    "drift": {"long_name": "drift of the layer imbalances relative to |weights|²", "units": "1"},
    "error_over_tolerance": {"long_name": "worst error over what the tolerance allows", "units": "1"},
}


class Results:
    """The numbers of a diagram, by combination of static values and cell."""

    def __init__(self, grid: Grid, batches: list[tuple[str, Batch]], variables: dict[str, Any], on: Machine) -> None:
        self.grid = grid
        shape = (len(batches), grid.cells)
        on.check_results(sum(s.size * s.dtype.itemsize for s in variables.values()) * int(np.prod(shape)))
        self.observed = {n: np.full(shape + s.shape, np.nan, s.dtype) for n, s in variables.items()}
        self.status = np.zeros(shape, np.uint8)
        self.num_steps = np.zeros(shape, np.int32)
        self.end = np.zeros(shape)

    def put(self, number: int, cells: np.ndarray, observed: dict[str, Any], path: Any) -> None:
        """Write the results of some cells; padding beyond them is dropped."""
        keep = lambda array: np.asarray(array)[: len(cells)]
        for name, values in observed.items():
            self.observed[name][number, cells] = keep(values)
        self.status[number, cells] = keep(path.status)
        self.num_steps[number, cells] = keep(path.num_steps)
        self.end[number, cells] = keep(path.end)

    def dataset(self, wanted: Wanted, batch: Batch) -> "xarray.Dataset":
        """The diagram, labelled."""
        from layerflow._dataset import Diagram

        grid, ts = self.grid, batch.ts
        descent = isinstance(batch.frozen.program.method, Descent)
        time_name, time_label = ("step", "steps") if descent else ("t", "gradient-flow time")
        axes = [axis.name for axis in grid.axes]
        data = {}
        # Axes and time keep their names to themselves: no dimension of an observable has size -1.
        sizes = dict.fromkeys([*axes, "t", "step", *(name for axis in grid.axes for name in axis.arguments)], -1)
        for name, flat in self.observed.items():
            if name in batch.frozen.verified and not name.endswith("_error"):
                data[name] = (axes, grid.shaped(flat), _OF_VERIFICATION[name])
                continue
            by = next((axis for axis in wanted.derivative if name.endswith(f"_d_{axis}")), None)
            of = name if by is None else name.removesuffix(f"_d_{by}")
            of = of.removesuffix("_error") if name in batch.frozen.verified else of
            labels = _labels(of, {**wanted.observe, **wanted.summary})
            times = [] if ts is None or of in batch.frozen.summaries else [time_name]
            own = flat.shape[2 + len(times) :]
            dims = labels["dims"] if len(labels["dims"]) == len(own) else ()
            # A name that means something else here, or another size, gives way to numbers.
            if len(dims) < len(own) or any(sizes.get(dim, size) != size for dim, size in zip(dims, own, strict=True)):
                dims = [f"{name}_{i}" for i in range(len(own))]
            sizes |= dict(zip(dims, own, strict=True))
            attrs = {key: labels[key] for key in ("long_name", "units")}
            if name in batch.frozen.verified:
                attrs["long_name"] = f"error of {labels['long_name']} against the closed form"
            if by is not None:
                attrs = {
                    "long_name": f"derivative of {labels['long_name']} by {by}",
                    "units": f"{labels['units']}/[{by}]",
                }
            data[name] = ([*axes, *times, *dims], grid.shaped(flat), attrs)
        if wanted.verify:
            _, ratio, _ = data["error_over_tolerance"]
            data["verified"] = (axes, ratio <= 1, {"long_name": "held against theory and found within the tolerance"})
        codes = [status for status in Status if status >= 0]
        data["status"] = (
            axes,
            grid.shaped(self.status),
            {
                "long_name": "why the cell ended",
                "flag_values": [int(code) for code in codes],
                "flag_meanings": " ".join(code.name.lower() for code in codes),
            },
        )
        data["num_steps"] = (axes, grid.shaped(self.num_steps), {"long_name": "steps taken", "units": "1"})
        data["end"] = (axes, grid.shaped(self.end), {"long_name": f"{time_label} at the end of the cell", "units": "1"})
        coords: dict[str, Any] = {axis.name: (axis.name, axis.coordinate, axis.attrs) for axis in grid.axes}
        for axis in grid.axes:  # what a paired axis gives to each argument
            vectors = {
                n: v for n, v in axis.arguments.items() if n != axis.name and np.ndim(v) == 1 and not axis.static
            }
            coords |= {name: (axis.name, values) for name, values in vectors.items()}
        if ts is not None and batch.wanted.paths:
            coords[time_name] = (time_name, np.asarray(ts), {"long_name": time_label, "units": "1"})
        return Diagram(data, coords)


def _labels(variable: str, functions: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """What the observable or summary behind a variable says of itself."""
    name = max((n for n in functions if variable == n or variable.startswith(f"{n}_")), key=len)
    function = functions[name]
    label = getattr(function, "long_name", None) or name.replace("_", " ")
    part = variable[len(name) :].replace("_", " ")
    return {"dims": getattr(function, "dims", ()), "long_name": label + part, "units": getattr(function, "units", "1")}


def facts_of(cell: Callable[..., Any], batch: Batch, method: Method | None, root: PRNGKeyArray) -> dict[str, Any]:
    """How a diagram was made, as plain numbers and text that any file format holds."""
    device = jax.devices()[0]
    method = batch.frozen.program.method if method is None else method
    given = {name: value for name, value in method.facts().items() if value is not None}
    numbers = {name: np.asarray(v).item() if eqx.is_array_like(v) else str(v) for name, v in given.items()}
    return {
        "title": getattr(cell, "__name__", type(cell).__name__),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **_versions(),
        "method": type(method).__name__,
        **numbers,
        "root": np.asarray(jax.random.key_data(root)).tolist(),
        "dtype": str(batch.frozen.program.start.outputs.dtype),
        "device": f"{device.platform}: {device.device_kind}",
        "fingerprint": batch.fingerprint,
    }


@functools.cache  # installed packages stay what they are, and asking takes a millisecond
def _versions() -> dict[str, str]:
    return {f"{name}_version": version(name) for name in ("layerflow", "jax", "diffrax", "optax", "numpy")}
