"""What a diagram says of how it was made, as plain text and numbers, and what is read from that."""

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from layerflow import observables, summaries
from layerflow.diagrams._asked import Record
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Axis
from layerflow.engine._identity import identity, settings
from layerflow.methods import Method
from layerflow.methods._recipe import NoRecipe, recipe_of
from layerflow.methods._settings import told
from layerflow.sweeps._request import Request

_MOST_VALUES = 4096  # of an axis that a record holds
_PUBLIC = {name: getattr(room, name) for room in (observables, summaries) for name in room.__all__}
VERSIONS = ("layerflow", "jax", "jaxlib", "diffrax", "optax", "numpy")


def facts_of(request: Request, batches: list[Batch], device: str) -> Record:
    """How a diagram is made, as any file format holds it."""
    method = batches[0].frozen.program.method if request.method is None else request.method
    return {
        "title": request.title,
        "created": now(),
        **_versions(),
        **method_facts(method),
        "root": " ".join(map(str, np.asarray(jax.random.key_data(request.root)))),  # beyond integers of netCDF
        "dtype": str(batches[0].frozen.program.start.outputs.dtype),
        "device": device,
        "fingerprint": _joined([batch.identity.digest for batch in batches]),
    }


@functools.cache  # installed packages stay what they are, and asking takes a millisecond
def _versions() -> dict[str, str]:
    return {f"{name}_version": version(name) for name in VERSIONS}


def method_facts(method: Any) -> Record:
    """A method by its name and numbers; what varies from cell to cell is left out."""
    given = {name: told(value) for name, value in method.facts().items() if value is not None}
    return {"method": type(method).__name__, **{name: _in_file(value) for name, value in given.items()}}


def _in_file(value: Any) -> int | float | str:
    """A value as every file format holds it: netCDF knows no truth values, lists and dicts."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value) if isinstance(value, bool) else value


def device_in_words() -> str:
    """What this process computes on."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def now() -> str:
    """The time, as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def root_of(facts: Mapping[str, Any], asked: Record) -> PRNGKeyArray:
    """The root key."""
    words = np.array(facts["root"].split(), np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=asked["keys"])


def digest(arrays: list[Any]) -> str:
    """A digest of numbers."""
    found = hashlib.sha256()
    for array in arrays:
        plain = jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
        plain = np.ascontiguousarray(plain)
        found.update(f"{plain.dtype.str} {plain.shape} ".encode())
        found.update(plain.tobytes())
    return found.hexdigest()


def public_function(name: str) -> Callable[..., Any]:
    """The observable or summary that layerflow offers by a name."""
    if name.startswith("test_"):
        return observables.on_test(public_function(name.removeprefix("test_")))
    if name not in _PUBLIC:
        raise ValueError(f"layerflow has no observable or summary `{name}`.")
    return _PUBLIC[name]


def velocity_of(batches: list[Batch]) -> str:
    """A digest of the velocities, which tells one cell function from another whatever the method's tolerances."""
    velocities = [batch.frozen.program.velocity for batch in batches]
    words = " ".join("none" if velocity is None else velocity.identity.digest for velocity in velocities)
    return hashlib.sha256(words.encode()).hexdigest()


def asked_of(request: Request, batches: list[Batch]) -> Record:
    """What a sweep was asked for beyond its coordinates and method, as JSON holds it."""
    wanted = request.wanted
    return {
        "axes": [_axis(axis) for axis in request.grid.axes],
        "observe": {name: _public_name(function) for name, function in wanted.observe.items()},
        "summary": {name: _public_name(function) for name, function in wanted.summary.items()},
        "paths": wanted.paths,
        "derivative": list(wanted.derivative),
        "verify": wanted.verify,
        "ts": None if batches[0].ts is None else np.asarray(batches[0].ts).tolist(),
        "keys": str(jax.random.key_impl(request.root)),
        "velocity": velocity_of(batches),
        "method": method_record(request.method),
        "settings": settings(),
    }


def method_record(method: Method | None) -> Record | None:
    """A method as JSON, to be made again: None where cells have their own, or it is not told by public names."""
    if method is None:
        return None
    try:
        return {"recipe": recipe_of(method), "digest": identity(method).digest}
    except NoRecipe:
        return None


def _axis(axis: Axis) -> Record:
    """An axis by its values, which a diagram may lose, and by what they do not show, a digest of each argument."""
    own = {"name": axis.name, "static": axis.static, "values": _values(axis)}
    if axis.static:
        labels = zip(axis.arguments[axis.name], axis.coordinate.tolist(), strict=True)
        same = all(isinstance(value, int | float | str | np.integer) and value == label for value, label in labels)
        return own | {"arguments": {}, "labelled": not same, "size": len(axis)}
    return own | {"arguments": {n: digest([v]) for n, v in axis.arguments.items()}}


def _values(axis: Axis) -> Record | list[Any]:
    """The values of an axis; of a very long one the ends and their number."""
    values = axis.coordinate
    if len(values) <= _MOST_VALUES:
        return values.tolist()
    return {"first": values[0].item(), "last": values[-1].item(), "count": len(values)}


def _public_name(function: Callable[..., Any]) -> str | None:
    """The name by which layerflow offers a function; "test_" and it, on the test task; None if it is the user's own."""
    tested = getattr(function, "tested", None)
    if tested is not None:
        of = _public_name(tested)
        return None if of is None else f"test_{of}"
    name = getattr(function, "__name__", "")
    return name if _PUBLIC.get(name) is function else None


def _joined(fingerprints: list[str]) -> str:
    """One digest of the fingerprints of all combinations of static values."""
    return fingerprints[0] if len(fingerprints) == 1 else hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
