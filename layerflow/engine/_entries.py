"""A program written number by number: each array is an array of objects, and an object is one number of every lane.

What moves numbers about is then done while the program is written, and what is left is arithmetic.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from layerflow.engine._flat import Flat, Step
from layerflow.engine._lanes_last import ENTRYWISE, terms_in

Entries = Any  # of objects: vectors with one number for each lane, or numbers that lanes share

# Those that Pallas has no rule for, in one version of JAX or another, are left out.
_ENTRYWISE = ENTRYWISE - {"erf", "erfc", "log2", "polynomial", "round"}
_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_sum": jnp.add,
    "reduce_prod": jnp.multiply,
    "reduce_max": jnp.maximum,
    "reduce_min": jnp.minimum,
    "reduce_and": jnp.logical_and,
    "reduce_or": jnp.logical_or,
}


def array_of(entries: list[Any], shape: tuple[int, ...]) -> Entries:
    """Objects as an array; NumPy would look into them."""
    array = np.empty(len(entries), object)
    for place, entry in enumerate(entries):
        array[place] = entry
    return array.reshape(shape)


def numbers_in(arrays: list[Entries]) -> list[Any]:
    """The objects of some arrays, one after the other."""
    return [number for array in arrays for number in array.flat]


def _broadcast(array: Entries, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Entries:
    ones = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, array.shape, strict=True):
        ones[axis] = size
    return np.broadcast_to(array.reshape(ones), shape)


def _slice(array: Entries, *, start_indices: Any, limit_indices: Any, strides: Any) -> Entries:
    steps = strides or (1,) * len(start_indices)
    return array[tuple(map(slice, start_indices, limit_indices, steps))]


def _split(array: Entries, *, sizes: Any, axis: int) -> list[Entries]:
    return np.split(array, np.cumsum(sizes)[:-1], axis)


def _reshape(array: Entries, *, new_sizes: Any, dimensions: Any, **_: Any) -> Entries:
    return (array if dimensions is None else array.transpose(dimensions)).reshape(new_sizes)


def _iota(*, dtype: Any, shape: Any, dimension: int, **_: Any) -> Entries:
    numbers = np.broadcast_to(np.arange(shape[dimension]).reshape(-1, *[1] * (len(shape) - dimension - 1)), shape)
    return array_of([np.asarray(number, dtype) for number in numbers.flat], shape)


# What makes arrays of the numbers of others.
_MOVES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *arrays, dimension: np.concatenate(arrays, dimension),
    "iota": _iota,
    "reshape": _reshape,
    "rev": lambda array, *, dimensions: np.flip(array, dimensions),
    "slice": _slice,
    "split": _split,
    "squeeze": lambda array, *, dimensions: np.squeeze(array, dimensions),
    "stack": lambda *arrays, axis: np.stack(arrays, axis),
    "transpose": lambda array, *, permutation: array.transpose(permutation),
    "unstack": lambda array, *, axis: list(np.moveaxis(array, axis, 0)),
}


def _product(a: Entries, b: Entries, *, dimension_numbers: Any, **_: Any) -> Entries:
    """A product of two arrays over some of their axes, for each place along those that they have in common."""
    (over_a, over_b), (both_a, both_b) = dimension_numbers

    def rows(array: Entries, over: Any, both: Any) -> tuple[Entries, tuple[int, ...]]:
        free = [axis for axis in range(array.ndim) if axis not in {*over, *both}]
        front = array.transpose(*both, *free, *over)
        kept = front.shape[len(both) : len(both) + len(free)]
        return front.reshape(math.prod(front.shape[: len(both)]), math.prod(kept), -1), kept

    (first, kept_a), (second, kept_b) = rows(a, over_a, both_a), rows(b, over_b, both_b)
    pairs = [(x, y) for of_a, of_b in zip(first, second, strict=True) for x in of_a for y in of_b]
    sums = [functools.reduce(jnp.add, map(jnp.multiply, x, y)) for x, y in pairs]
    return array_of(sums, (*[a.shape[axis] for axis in both_a], *kept_a, *kept_b))


def _reduced(name: str, array: Entries, axes: Any) -> Entries:
    front = np.moveaxis(array, axes, range(len(axes)))
    rows = front.reshape(-1, math.prod(front.shape[len(axes) :]))
    left = [functools.reduce(_REDUCTIONS[name], column) for column in rows.T]
    return array_of(left, front.shape[len(axes) :])


def _number(own: Any, *operands: Any) -> Any:
    """A step of single numbers, each of every lane or of all of them."""
    (shape,) = {jnp.shape(one) for one in operands} - {()} or {()}
    return own.primitive.bind(*[jnp.broadcast_to(one, shape) for one in operands], **own.params)


def _values_of(step: Step, takes: list[Entries]) -> list[Entries]:
    """What a step gives."""
    own, name = step.own, step.own.primitive.name
    if name in _MOVES:
        given = _MOVES[name](*takes, **own.params)
        return given if isinstance(given, list) else [given]
    if name == "dot_general":
        return [_product(*takes, **own.params)]
    if name in _REDUCTIONS:
        return [_reduced(name, takes[0], own.params["axes"])]
    spread = np.broadcast_arrays(*takes)
    numbers = [_number(own, *one) for one in zip(*(array.flat for array in spread), strict=True)]
    return [array_of(numbers, spread[0].shape)]


def has_rules(flat: Flat) -> bool:
    """Whether each step of a program can be written number by number."""
    return all(_has_rule(step) for step in flat.steps)


def _has_rule(step: Step) -> bool:
    name, avals = step.own.primitive.name, [atom.aval for atom in step.own.invars]
    if name == "dot_general" or name in _REDUCTIONS:  # sums of something, of one dtype
        return all(aval.size and aval.dtype == step.own.outvars[0].aval.dtype for aval in avals)
    return name in _ENTRYWISE or name in _MOVES


def entries_of(flat: Flat, known: dict[int, Entries]) -> list[Entries]:
    """The outputs of a program, of its arguments and constants."""
    known = dict(known)
    read = lambda one: known[one] if isinstance(one, int) else array_of([np.asarray(one.val, one.aval.dtype)], ())
    for step in flat.steps:
        known |= zip(step.gives, _values_of(step, [read(one) for one in step.takes]), strict=True)
    return [read(one) for one in flat.outputs]


def most_at_once(flat: Flat, shared: set[int]) -> int:
    """Bytes of the numbers of a lane that are known at once and needed still, where none is kept in memory.

    Args:
        flat: The program.
        shared: Its arguments and constants that all lanes share.
    """
    size: dict[int, int] = {}
    made_of: dict[int, set[int]] = {}  # values that were moved about are those that they were made of
    last: dict[int, int] = {}
    own = lambda one: made_of.get(one, {one} - shared) if isinstance(one, int) else set()
    for place, step in enumerate(flat.steps):
        takes = set().union(*map(own, step.takes))
        last |= dict.fromkeys(takes, place)
        for value, out in zip(step.gives, step.own.outvars, strict=True):
            moves = step.own.primitive.name in _MOVES
            made_of[value] = takes if moves or not takes else {value}
            if not moves and takes:
                size[value] = out.aval.size * max(out.aval.dtype.itemsize, 4)
    last |= dict.fromkeys(set().union(*map(own, flat.outputs)), len(flat.steps))
    first = {value: place for place, step in enumerate(flat.steps) for value in step.gives}
    bounds = [(first[value], last.get(value, first[value]), bytes_) for value, bytes_ in size.items()]
    return max((sum(b for begin, end, b in bounds if begin <= at < end) for at in range(len(flat.steps))), default=0)


def operations(flat: Flat) -> int:
    """How many operations on single numbers a program is."""
    return sum(map(_operations, flat.steps))


def _operations(step: Step) -> int:
    own, name = step.own, step.own.primitive.name
    size = sum(out.aval.size for out in own.outvars)
    if name in _MOVES:
        return 0
    if name == "dot_general":
        return 2 * size * terms_in(own)
    return own.invars[0].aval.size if name in _REDUCTIONS else size
