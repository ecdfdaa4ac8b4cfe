"""What a store says of its sweep, as JSON: enough to label it, to tell it from another and to run it again."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from layerflow.diagrams._variables import Coordinates, coordinates_of
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Axis, Grid
from layerflow.engine._machine import Plan
from layerflow.sweeps._record import asked_of, digest, facts_of
from layerflow.sweeps._request import Request

FORMAT = 2  # 1 was layerflow 0.2.0, whose fingerprints left out what can change a number
_NOT_COMPARED = {"title", "created", "numpy_version", "fingerprint"}  # of the facts: the last in words of its own
Description = dict[str, Any]


def describe(request: Request, batches: list[Batch], device: str) -> Description:
    """All of the sweep but its chunks."""
    coordinates = coordinates_of(request.grid, batches[0])
    return {
        "format": FORMAT,
        "facts": facts_of(request, batches, device),
        "asked": asked_of(request, batches),
        "coordinates": {name: _of_values(*coordinate) for name, coordinate in coordinates.items()},
        "strange": sorted(frozenset[str]().union(*(batch.identity.strange for batch in batches))),
        "data": digest([constant for batch in batches for constant in batch.closed_over]),
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
    """The grid, without labels: what it gives to each argument is known where that is a number."""
    coordinates = coordinates_in(description)
    axes = []
    for axis in description["asked"]["axes"]:
        values = coordinates[axis["name"]][1]
        arguments = {name: coordinates[name][1] for name in axis["arguments"] if name in coordinates}
        axes.append(Axis(axis["name"], arguments, values, static=axis["static"]))
    return Grid(tuple(axes))


def coordinates_in(description: Description) -> Coordinates:
    """Values and labels along axes and time."""
    return {
        name: (own["along"], np.asarray(own["values"], own["dtype"]), own["attrs"])
        for name, own in description["coordinates"].items()
    }


def differences(there: Description, here: Description) -> list[str]:
    """In what two sweeps differ as far as it may change a number, in words."""
    said = _differ(there["facts"], here["facts"], {*there["facts"], *here["facts"]} - _NOT_COMPARED)
    numbers_differ = bool(said)
    said += _of_axes(there, here)
    said += _differ(there["asked"], here["asked"], set(there["asked"]) - {"axes", "velocity", "method", "settings"})
    said += _differ(there["asked"].get("settings", {}), here["asked"]["settings"], set(here["asked"]["settings"]))
    said += _differ(there, here, {"chunk", "lanes"})
    if there["facts"]["fingerprint"] != here["facts"]["fingerprint"]:
        said.append("what was traced of the cell function, its observables or the method")
        if here["strange"]:
            said[-1] += f", which holds {', '.join(here['strange'])}: another process cannot compare that"
    if there["data"] != here["data"] and not numbers_differ:
        said.append("numbers that the cell function closes over or that stayed open, its data say")
    return said


def _differ(there: Mapping[str, Any], here: Mapping[str, Any], keys: set[str]) -> list[str]:
    """Which of some entries differ."""
    differing = sorted(key for key in keys if there.get(key) != here.get(key))
    name = lambda key: key.replace("_version", " version")
    return [f"{name(key)} {_in_words(there.get(key))} there, {_in_words(here.get(key))} here" for key in differing]


def _of_axes(there: Description, here: Description) -> list[str]:
    """In what the axes of two sweeps differ."""
    axes = [description["asked"]["axes"] for description in (there, here)]
    names = [[axis["name"] for axis in of_one] for of_one in axes]
    if names[0] != names[1]:
        return [f"axes {', '.join(names[0]) or 'none'} there, {', '.join(names[1]) or 'none'} here"]
    said = []
    for one, other in zip(*axes, strict=True):
        along = [
            {n: (c["values"], c["dtype"]) for n, c in d["coordinates"].items() if c["along"] == one["name"]}
            for d in (there, here)
        ]
        told = [{key: value for key, value in axis.items() if key != "values"} for axis in (one, other)]
        if along[0] != along[1] or told[0] != told[1]:
            ranges = [_range(d["coordinates"][one["name"]]["values"]) for d in (there, here)]
            said.append(f"axis {one['name']} {ranges[0]} there, {ranges[1]} here")
    return said


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
