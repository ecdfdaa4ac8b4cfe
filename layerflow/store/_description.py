"""What a store says of its sweep, as JSON: enough to label it, to tell it from another and to run it again."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow._asked import Asked
from layerflow._diagram import Coordinates, coordinates_of, facts_of
from layerflow.engine._chunks import Batch, Plan
from layerflow.engine._grid import Axis, Grid

FORMAT = 1
_NOT_COMPARED = ("title", "created", "numpy_version")  # of the facts: they change no number
Description = dict[str, Any]


def describe(asked: Asked, batches: list[Batch], device: str) -> Description:
    """All of the sweep but its chunks."""
    wanted, coordinates = asked.wanted, coordinates_of(asked.grid, batches[0])
    return {
        "format": FORMAT,
        "facts": facts_of(asked.cell, batches, asked.method, asked.root, device)
        | {"jaxlib_version": version("jaxlib")},
        "axes": [_of_axis(axis) for axis in asked.grid.axes],
        "coordinates": {name: _of_values(*coordinate) for name, coordinate in coordinates.items()},
        "times": None if batches[0].ts is None else np.asarray(batches[0].ts).tolist(),
        "observe": _names(wanted.observe),
        "summary": _names(wanted.summary),
        "paths": wanted.paths,
        "derivative": list(wanted.derivative),
        "verify": wanted.verify,
        "data": _digest([constant for batch in batches for constant in batch.closed_over]),
    }


def with_chunks(description: Description, plans: list[Plan]) -> Description:
    """The same with how its chunks are computed, by combination of static values."""
    return description | {"chunk": plans[0].size, "lanes": [plan.lanes for plan in plans]}


def plans_of(description: Description) -> list[Plan]:
    """How its chunks are computed."""
    return [Plan(description["chunk"], lanes) for lanes in description["lanes"]]


def sealed(description: Description) -> Description:
    """The description with a digest of itself."""
    return description | {"seal": _seal(description)}


def is_whole(description: Any) -> bool:
    """Whether nothing of a sealed description was lost or flipped."""
    return isinstance(description, Mapping) and description.get("seal") == _seal(description)


def _seal(description: Mapping[str, Any]) -> str:
    words = json.dumps({k: v for k, v in description.items() if k != "seal"}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def grid_of(description: Description) -> Grid:
    """The grid: what it gives to each argument is known where that is a number."""
    coordinates = coordinates_in(description)
    axes = []
    for axis in description["axes"]:
        _, values, attrs = coordinates[axis["name"]]
        arguments = {name: coordinates[name][1] for name in axis["arguments"] if name in coordinates}
        axes.append(Axis(axis["name"], arguments, values, attrs, axis["static"]))
    return Grid(tuple(axes))


def coordinates_in(description: Description) -> Coordinates:
    """Values and labels along axes and time."""
    return {
        name: (own["along"], np.asarray(own["values"], own["dtype"]), own["attrs"])
        for name, own in description["coordinates"].items()
    }


def differences(there: Description, here: Description) -> list[str]:
    """In what two sweeps differ as far as it may change a number, in words."""
    said = []
    for key in dict.fromkeys([*there["facts"], *here["facts"]]):
        one, other = there["facts"].get(key), here["facts"].get(key)
        if one != other and key not in (*_NOT_COMPARED, "fingerprint"):
            said.append(f"{key.replace('_version', ' version')} {_in_words(one)} there, {_in_words(other)} here")
    numbers_differ = bool(said)
    said += _of_axes(there, here)
    for key in ("times", "observe", "summary", "paths", "derivative", "verify", "chunk", "lanes"):
        if key in there and key in here and there[key] != here[key]:
            said.append(f"{key} {_in_words(there[key])} there, {_in_words(here[key])} here")
    if there["facts"]["fingerprint"] != here["facts"]["fingerprint"]:
        said.append("what was traced of the cell function, its observables or the solver")
    if there["data"] != here["data"] and not numbers_differ:
        said.append("numbers that the cell function closes over, its data say")
    return said


def _of_axes(there: Description, here: Description) -> list[str]:
    """In what the axes of two sweeps differ."""
    names = [[axis["name"] for axis in description["axes"]] for description in (there, here)]
    if names[0] != names[1]:
        return [f"axes {', '.join(names[0]) or 'none'} there, {', '.join(names[1]) or 'none'} here"]
    said = []
    for one, other in zip(there["axes"], here["axes"], strict=True):
        along = [{n: c for n, c in d["coordinates"].items() if c["along"] == one["name"]} for d in (there, here)]
        if along[0] != along[1] or one != other:
            ranges = [_range(d["coordinates"][one["name"]]["values"]) for d in (there, here)]
            said.append(f"axis {one['name']} {ranges[0]} there, {ranges[1]} here")
    return said


def _of_axis(axis: Axis) -> dict[str, Any]:
    """An axis; values that no coordinate shows are told by a digest."""
    arguments = {} if axis.static else {n: _digest([v]) for n, v in axis.arguments.items()}
    return {"name": axis.name, "static": axis.static, "arguments": arguments}


def _of_values(along: str, values: np.ndarray, attrs: Mapping[str, Any]) -> dict[str, Any]:
    plain = lambda value: value.item() if isinstance(value, np.generic) else str(value)
    attrs = json.loads(json.dumps(dict(attrs), default=plain))  # labels of the user's own may be anything
    return {"along": along, "dtype": values.dtype.str, "values": values.tolist(), "attrs": attrs}


def _range(values: list[Any]) -> str:
    words = f"{len(values)} values" if len(values) > 1 else "one value"
    return f"of {words}, {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else "")


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(value)} of them)"


def _digest(arrays: list[Any]) -> str:
    """A digest of numbers."""
    digest = hashlib.sha256()
    for array in arrays:
        plain = jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
        plain = np.ascontiguousarray(plain)
        digest.update(f"{plain.dtype.str} {plain.shape} ".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


def _names(functions: Mapping[str, Callable[..., Any]]) -> dict[str, str | None]:
    """For each function the name by which layerflow offers it; None where it is the user's own."""
    return {name: public_name(function) for name, function in functions.items()}


def public_name(function: Callable[..., Any]) -> str | None:
    """The name by which layerflow offers an observable or a summary; "test_" and it, on the test task."""
    import layerflow

    tested = getattr(function, "tested", None)
    if tested is not None:
        of = public_name(tested)
        return None if of is None else f"test_{of}"
    name = getattr(function, "__name__", "")
    return name if name in layerflow.__all__ and getattr(layerflow, name) is function else None


@functools.cache
def public_function(name: str) -> Callable[..., Any]:
    """The function of such a name."""
    import layerflow

    if name.startswith("test_"):
        return layerflow.on_test(public_function(name.removeprefix("test_")))
    if name not in layerflow.__all__:
        raise ValueError(f"layerflow has no observable or summary `{name}`.")
    return getattr(layerflow, name)
