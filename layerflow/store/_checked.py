"""What a store says of itself, checked before anything is made of it: a store may come from anywhere.

Keys that are not known here are let through where a later version may add them.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from layerflow.base._memory import check_room
from layerflow.diagrams._array import RESERVED
from layerflow.methods import METHODS
from layerflow.store._place import OWN, Place

_CHUNK_BYTES = 200  # that a chunk takes in a list of all
_DTYPE = re.compile("[<>|](b1|[iu][1248]|f[248]|U[0-9]{1,9})")  # of coordinates
_LARGEST = 2**63


class _Description(TypedDict):
    facts: dict[str, Any]
    asked: dict[str, Any]
    coordinates: dict[str, Any]
    data: str
    chunk: int
    lanes: list[int | None]
    command: list[str] | None
    variables: list[str]


class _Facts(TypedDict):
    title: str
    created: str
    layerflow_version: str
    jax_version: str
    jaxlib_version: str
    diffrax_version: str
    root: str
    dtype: str
    device: str
    fingerprint: str
    wall_seconds: NotRequired[float]  # of a diagram, as the two below
    compile_seconds: NotRequired[float]
    chunk_bytes: NotRequired[float]


class _Method(TypedDict):
    method: str
    solver: NotRequired[str]
    controller: NotRequired[str]
    optimiser: NotRequired[str]
    t1: NotRequired[float]
    rtol: NotRequired[float]
    atol: NotRequired[float]


class _Asked(TypedDict):
    axes: list[dict[str, Any]]
    observe: dict[str, str | None]
    summary: dict[str, str | None]
    paths: bool
    derivative: list[str]
    verify: bool
    ts: list[float] | None
    keys: str
    velocity: str
    method: NotRequired[dict[str, Any] | None]  # since layerflow 0.3.0, as the next
    settings: NotRequired[dict[str, str]]


class _Axis(TypedDict):
    name: str
    static: bool
    arguments: dict[str, str]
    labelled: NotRequired[bool]
    size: NotRequired[int]
    values: NotRequired[list[Any] | dict[str, Any]]


class _Coordinate(TypedDict):
    along: str
    dtype: str
    values: list[Any]
    attrs: dict[str, Any]


class _Run(TypedDict):
    host: str
    pid: int
    begin: str
    updated: str
    seconds: float
    total: int
    done_before: int
    done: int
    ended: bool
    devices: NotRequired[int]
    calls_split: NotRequired[int]
    chunk_bytes: NotRequired[int]
    compile_seconds: NotRequired[float]


class Unlike(Exception):
    """What is wrong with what was read, in a few words."""


def check_description(place: Place, description: Mapping[str, Any], newest: int) -> None:
    """Raise unless a description is one that layerflow may have written, in the format `newest` at most."""
    number = description.get("format")
    if type(number) is int and number > newest:
        raise ValueError(f"The store {place} was written by a later version of layerflow. Update layerflow.")
    try:
        if type(number) is not int or number < 1:
            raise Unlike(f"format {_short(number)} is none")
        _check(description, _Description, "the description")
        check_facts(description["facts"])
        _check_asked(description["asked"])
        _check_grid(description["asked"]["axes"], description["coordinates"])
        _check_chunks(description)
        _check_variables(description)
    except Unlike as wrong:
        raise ValueError(
            f"The description of the store {place}, in its zarr.json, is not one that layerflow writes: {wrong}. Bring "
            f"that file back from a copy, or sweep into another folder."
        ) from None


def check_method(facts: Any) -> None:
    """Raise unless the facts of a method can be told in words."""
    _check(facts, _Method, "the method")
    _check_printable(facts, _Method.__annotations__)
    if facts["method"] not in METHODS:
        raise Unlike(f"method {facts['method']!r} is none of {', '.join(METHODS)}")
    missing = [name for name in METHODS[facts["method"]].told_by if name not in facts]
    if missing:
        raise Unlike(f"`{missing[0]}` of the method is missing")


def check_run(record: Any) -> None:
    """Raise unless a record of a run is one."""
    _check(record, _Run, "a run")
    _check_printable(record, _Run.__annotations__)
    counted = 0 <= record["done_before"] <= record["done"]
    if record["pid"] < 1 or not counted or not 0 <= record["seconds"] < math.inf:
        raise Unlike("the counts or the seconds of a run cannot be")


def check_name(name: str) -> None:
    """Raise unless a variable of this name can be a folder of a store."""
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts or parts[0] in (OWN, "zarr.json") or "\\" in name or "\0" in name:
        raise Unlike(f"{name!r} cannot be the name of a variable, for it is a folder of the store")


def _check(value: Any, kind: Any, what: str) -> None:
    """Raise unless a value has the keys of a kind, with values of their types; other keys are let through."""
    if not isinstance(value, Mapping):
        raise Unlike(f"{what} is {_short(value)} in place of named values")
    known = {key: one for key, one in value.items() if key in kind.__annotations__}
    try:
        check_type(known, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise Unlike(re.sub(r"(^|of )dict\b", rf"\1{what}", str(error))) from None
    for number in _numbers(value):
        if abs(number) >= _LARGEST and isinstance(number, int):
            raise Unlike(f"{what} holds the number {_short(number)}")
    for key, one in known.items():
        if isinstance(one, bool) and kind.__annotations__[key] in (int, float):
            raise Unlike(f"`{key}` of {what} is {one} in place of a number")


def _check_printable(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise if text that is shown could colour the screen or break the line."""
    for name in names:
        if isinstance(values.get(name), str) and not values[name].isprintable():
            raise Unlike(f"`{name}` holds what cannot be printed, {_short(values[name])}")


def _numbers(value: Any) -> Iterable[int | float]:
    """All numbers in nested values."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key != "values":  # of coordinates, which become arrays
                yield from _numbers(one)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one)


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise unless the facts of a sweep, or of a diagram, are such."""
    _check(facts, _Facts, "the facts")
    check_method(facts)
    _check_printable(facts, set(_Facts.__annotations__) - {"title"})
    words = facts["root"].split()
    if not words or not all(word.isascii() and word.isdigit() and int(word) < 2**32 for word in words):
        raise Unlike(f"the root {_short(facts['root'])} holds no words of a key")


def _check_asked(asked: Mapping[str, Any]) -> None:
    """Raise unless what was asked is told."""
    _check(asked, _Asked, "what was asked")
    for axis in asked["axes"]:
        _check(axis, _Axis, "an axis")
        if axis["static"] and not {"labelled", "size"} <= axis.keys():
            raise Unlike(f"the static axis {_short(axis['name'])} does not tell its labels and its size")


def _check_grid(axes: list[dict[str, Any]], coordinates: Mapping[str, Any]) -> None:
    """Raise unless every axis has values, and every coordinate lies along an axis or time."""
    names = [axis["name"] for axis in axes]
    if len(set(names)) < len(names):
        raise Unlike("two axes have one name")
    for name, own in coordinates.items():
        _check(own, _Coordinate, f"coordinate {_short(name)}")
        along = own["along"]
        if along not in names and not (along == name and name in ("t", "step")):
            raise Unlike(f"coordinate {_short(name)} lies along {_short(along)}, which is no axis")
        if along not in coordinates or len(coordinates[along]["values"]) != len(own["values"]) or not own["values"]:
            raise Unlike(f"coordinate {_short(name)} has another number of values than its axis, or none")
        _check_values(name, own["values"], own["dtype"])
    for axis in axes:
        if coordinates.get(axis["name"], {}).get("along") != axis["name"]:
            raise Unlike(f"the axis {_short(axis['name'])} has no values")
        own = coordinates[axis["name"]]
        if axis["static"] and axis["size"] != len(own["values"]):
            raise Unlike(f"the axis {_short(axis['name'])} has another size than values")
        if "values" in axis and not _of_coordinate(axis["values"], own["values"]):
            raise Unlike(f"the axis {_short(axis['name'])} has other values than its coordinate")


def _of_coordinate(told: list[Any] | dict[str, Any], values: list[Any]) -> bool:
    """Whether values of an axis, or of a long one its ends and their number, are those of its coordinate."""
    if isinstance(told, dict):
        told, values = [told.get(name) for name in ("first", "last", "count")], [values[0], values[-1], len(values)]
    return json.dumps(told) == json.dumps(values)


def _check_values(name: str, values: list[Any], dtype: str) -> None:
    """Raise unless values can be had in their type, as they are."""
    kind = dtype[1:2]
    try:
        # Text that is said to be wide takes memory for every value, however short it is.
        fits = bool(_DTYPE.fullmatch(dtype)) and _is_kind(values, kind)
        fits = fits and (kind != "U" or int(dtype[2:]) <= max(64, *map(len, values)))
        if fits:
            np.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError):  # no such type, or numbers beyond it
        fits = False
    if not fits:
        raise Unlike(f"values of coordinate {_short(name)} are not of type {_short(dtype)}")


def _is_kind(values: list[Any], kind: str) -> bool:
    """Whether all values are what JSON makes of this kind of number, or text."""
    of = {"b": bool, "i": int, "u": int, "f": (int, float), "U": str}[kind]
    return all(isinstance(value, of) and (kind == "b" or not isinstance(value, bool)) for value in values)


def _check_chunks(description: Mapping[str, Any]) -> None:
    """Raise unless chunks and lanes are of a size that the grid can have."""
    combinations, cells = sizes_of(description)
    chunk, lanes = description["chunk"], description["lanes"]
    if not 1 <= chunk <= cells:
        raise Unlike(f"a chunk of {_short(chunk)} cells cannot be, where there are {cells}")
    if len(lanes) != combinations or not all(c is None or (type(c) is int and 1 <= c <= chunk) for c in lanes):
        raise Unlike(f"lanes {_short(lanes)} cannot be, for {combinations} combinations in chunks of {chunk} cells")
    check_room(
        _CHUNK_BYTES * combinations * math.ceil(cells / chunk),
        "A list of its chunks",
        "The store is not to be trusted.",
    )


def sizes_of(description: Mapping[str, Any]) -> tuple[int, int]:
    """Combinations of static values, and cells of each."""
    size = lambda axis: len(description["coordinates"][axis["name"]]["values"])
    axes = description["asked"]["axes"]
    return math.prod(size(a) for a in axes if a["static"]), math.prod(size(a) for a in axes if not a["static"])


def _check_variables(description: Mapping[str, Any]) -> None:
    """Raise unless the variables can be arrays of the store, each once."""
    names = description["variables"]
    for name in names:
        check_name(name)
        if names.count(name) > 1 or any(other.startswith(f"{name}/") for other in names):
            raise Unlike(f"the variable {_short(name)} is there twice, or holds another")
        if name in description["coordinates"] or name == "retried":
            raise Unlike(f"{_short(name)} is the name of a variable and of something else")
    missing = [name for name in RESERVED if name not in names and name != "retried"]
    if missing:
        raise Unlike(f"the variable `{missing[0]}` is missing")


def each(values: Any, check: Callable[[Any], None]) -> None:
    """Raise unless values are a list, and each is right."""
    if not isinstance(values, list):
        raise Unlike(f"{_short(values)} stands where a list belongs")
    for value in values:
        check(value)


def _short(value: Any) -> str:
    # What is read may be of any length, and hold what colours the screen.
    text = repr(value) if not isinstance(value, int) or abs(value) < _LARGEST else "beyond all sizes"
    return text if len(text) <= 60 else f"{text[:50]}..."
