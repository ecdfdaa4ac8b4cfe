"""Checks on values that may still be traced when the check is written down."""

import contextlib
import unicodedata
from collections.abc import Generator, Iterator, Mapping, Set
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from layerflow.base._jax import Tracer, get_opaque_trace_state


@dataclass
class Checks:
    """The checks met while a cell function was traced: what must hold, and what to say if it does not."""

    trace: Any
    messages: list[str] = field(default_factory=list)
    holds: list[Array] = field(default_factory=list)


_collecting: ContextVar[Checks | None] = ContextVar("_collecting", default=None)


@contextlib.contextmanager
def collect() -> Generator[Checks]:
    """Gather the checks of traced values made inside, for the caller to evaluate."""
    checks = Checks(get_opaque_trace_state())
    token = _collecting.set(checks)
    try:
        yield checks
    finally:
        _collecting.reset(token)


def require(value: ArrayLike, holds: ArrayLike, message: str) -> Array:
    """Hand `value` through if `holds`, and complain with `message` if not.

    A concrete `holds` is judged now. A traced one is judged by the sweep that traces it,
    before any of its cells runs; under a user's own jit it is left to `eqx.error_if`.
    """
    value = jnp.asarray(value)
    if is_concrete(holds):
        if not np.all(holds):
            raise ValueError(message)
        return value
    checks = _collecting.get()
    # A value of an inner trace (a vmap or scan inside the cell) must not leave that trace.
    if checks is not None and checks.trace == get_opaque_trace_state():
        checks.messages.append(message)
        checks.holds.append(jnp.all(holds))
        return value
    return eqx.error_if(value, ~jnp.all(holds), message)


def not_negative(array: Array, needs: str) -> Array:
    """`array`, or an error that says what it needs and, if that is known, what came."""
    known = np.asarray(array) if is_concrete(array) else array
    return require(array, known >= 0, f"{needs}, but it is {array}." if is_concrete(array) else f"{needs}.")


def whole(value: Any) -> bool:
    """Whether `value` is a plain whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_number(value: Any, name: str, most: int, what: str) -> int | Array:
    """A number of things, at least 1 and at most so many; of an array, which may be traced, a whole array."""
    needed = f"Argument `{name}` counts {what} and needs to be a whole number from 1 to {most}, as many as there are"
    if not isinstance(value, jax.Array):
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not 1 <= value <= most or value % 1 != 0:
            raise ValueError(f"{needed}, but it is {value!r}.")
        return int(value)
    kinds = jnp.integer, jnp.floating
    if value.shape != () or not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise ValueError(f"{needed}, but it is an array of shape {value.shape} of {value.dtype}.")
    came = f", but it is {value}." if is_concrete(value) else "."
    count = value.astype(int)
    value = count if jnp.issubdtype(value.dtype, jnp.integer) else value  # a small dtype may not hold the most
    return require(count, (value >= 1) & (value <= most) & (value == jnp.floor(value)), f"{needed}{came}")


def check_shaping(**counts: Any) -> None:
    """Raise for a number that decides a shape, and is the value of an axis."""
    for name, value in counts.items():
        if not is_concrete(value):
            draw = "Draw the most samples and take `.first(n)` of them, which compiles once; or make" * (name == "n")
            raise TypeError(
                f"Argument `{name}` decides a shape, but a value of an axis came. {draw or 'Make'} that axis "
                f"lf.static([...]), which compiles once per value."
            )


def check_counts(**counts: Any) -> None:
    """Raise unless every argument is a whole number of at least 1."""
    check_shaping(**counts)
    for name, value in counts.items():
        if not whole(value) or value < 1:
            raise ValueError(f"Argument `{name}` is a whole number of at least 1, but it is {value!r}.")


def check_key(key: Any) -> None:
    """Raise unless `key` is one random key, new style or old."""
    if not is_key(key):
        came = f"an array of shape {key.shape}" if isinstance(key, jax.Array) else repr(key)
        raise TypeError(f"Argument `key` needs one random key, such as jax.random.key(0), but it is {came}.")


def is_key(key: Any) -> bool:
    """Whether `key` is one random key, new style or old."""
    if not isinstance(key, jax.Array):
        return False
    new = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.ndim == (0 if new else 1) and bool(new or key.dtype == jnp.uint32)


def is_concrete(value: Any) -> bool:
    """Whether the numbers of `value` are known, and not about to be traced."""
    return not isinstance(value, Tracer)


def closed_over(function: Any) -> dict[str, Any]:
    """What a function closes over, by name."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    closed = {}
    for name, cell in zip(code.co_freevars, cells, strict=True) if code and cells else ():
        with contextlib.suppress(ValueError):  # never bound
            closed[name] = cell.cell_contents
    return closed


def spelled(name: Any) -> Any:
    """A name as Python spells it in code, by NFKC: the two characters for epsilon are one there."""
    return unicodedata.normalize("NFKC", name) if isinstance(name, str) else name


def named_apart(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` by names as Python spells them, or an error where two are one."""
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"Names are text, but one {what} is called {name!r}, of type {type(name).__name__}.")
    names = [spelled(name) for name in values]
    twice = [f"`{given}`" for given, name in zip(values, names, strict=True) if names.count(name) > 1]
    if twice:
        raise ValueError(f"Python takes the names {' and '.join(twice)} for one. Rename one {what}.")
    return dict(zip(names, values.values(), strict=True))


def plain(value: Any, what: str) -> Any:
    """`value` as JAX takes it: bytes in this machine's order, an error if some of its numbers are masked."""
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise ValueError(
            f"{what} needs all of its numbers, but some are masked, and masks are not kept. Drop those, as in "
            f"values.compressed(), or fill them in, as in values.filled(0.0)."
        )
    value = np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else value
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return np.asarray(value).astype(dtype.newbyteorder("="))
    return value


def plain_leaves(tree: PyTree, what: str) -> PyTree:
    """`tree` with every array in it plain; itself where they are so already."""
    leaves, structure = jax.tree.flatten(tree)
    converted = [plain(leaf, what) for leaf in leaves]
    same = all(new is old for new, old in zip(converted, leaves, strict=True))
    return tree if same else jax.tree.unflatten(structure, converted)


def check_ordered(values: Any, what: str) -> None:
    """Raise for values that have no order, or can be run through only once."""
    if isinstance(values, Set | Iterator):
        kind, mend = ("set, which has no order", "sorted") if isinstance(values, Set) else ("generator", "list")
        raise TypeError(f"{what} needs a list or an array, but it is a {kind}. Write {mend}(...) around it.")


def check_whole(given: np.ndarray, kept: np.ndarray, what: str) -> None:
    """Raise if whole numbers are others in the dtype that they are kept in."""
    if kept.dtype.kind in "iu" and (kept != given).any():
        raise ValueError(f"{what} holds whole numbers beyond {kept.dtype}, such as {given[given != kept].flat[0]}.")


def check_known(tree: PyTree, what: str) -> None:
    """Raise if a transformation of JAX's traces a number that has to be known."""
    if not all(map(is_concrete, jax.tree.leaves(tree))):
        raise TypeError(
            f"A diagram is computed of known numbers, but inside jax.grad, jax.vmap, jax.jit or a cell function "
            f"numbers are traced, here {what}. For derivatives by an axis call lf.sweep(..., derivative=...) outside; "
            f"what can be differentiated, mapped and compiled is lf.solve, of one problem."
        )


def real_array(value: ArrayLike, name: str) -> Array:
    """`value` as an array of floating point numbers, integers converted."""
    value = plain(value, f"Argument `{name}`")
    if isinstance(value, bool | int | float):  # of JAX's own dtype at once: converting would compile a program
        value = np.asarray(value, jnp.result_type(float))
    try:
        array = jnp.asarray(plain(np.asarray(value), name) if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Argument `{name}` needs numbers, but it is {value!r}.") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"Argument `{name}` needs real numbers, but its dtype is {array.dtype}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array
