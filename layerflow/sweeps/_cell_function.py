"""The cell function: what it takes, and what is bound in it already."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax

from layerflow._problem import Problem
from layerflow.methods import Method

CellFunction = Callable[..., Problem | tuple[Problem, Method]]

_JITTED: Any = type(jax.jit(lambda: None))


def without_jit(cell: CellFunction) -> CellFunction:
    """The function that `jax.jit` was given: the sweep compiles it anyway, and jit turns a plain 0 into an array."""
    if isinstance(cell, functools.partial):
        return functools.partial(without_jit(cell.func), *cell.args, **cell.keywords)
    function: Any = cell
    return without_jit(function.__wrapped__) if isinstance(function, _JITTED) else cell


def left_open(cell: CellFunction, given: Iterable[str]) -> dict[str, bool]:
    """The arguments that nothing gives, and whether each has a default."""
    known = {*given, *bound_by_partial(cell), "key"}
    parameters = inspect.signature(cell).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in known]
    return {p.name: p.default is not p.empty for p in named}


def without_default(arguments: dict[str, bool]) -> list[str]:
    """Those of the arguments that nothing gives at all."""
    return [name for name, has_default in arguments.items() if not has_default]


def match_arguments(cell: CellFunction, given: list[str]) -> bool:
    """Whether the cell function takes a key; raises if its arguments and the axes differ."""
    parameters, bound = inspect.signature(cell).parameters.values(), bound_by_partial(cell)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named_ones = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in bound]
    names = [p.name for p in named_ones]
    if "key" in given:
        raise TypeError("The argument `key` is made by the sweep from `seeds` and `root`; it cannot be an axis.")
    twice = [name for name in given if name in bound]
    if twice:
        raise TypeError(
            f"The argument {_listed(twice)} is bound by functools.partial, and an axis gives it too. Leave one out."
        )
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if any(p.name in given or p.default is p.empty for p in parameters if p.name in by_position):
        raise TypeError(
            f"The cell function takes {_listed(by_position)} by position only, but arguments are handed over by name. "
            f"Take the `/` out of its arguments."
        )
    surplus = [name for name in given if name not in names and not takes_all]
    if surplus:
        others = next((f", and *{p.name} by position" for p in parameters if p.kind is p.VAR_POSITIONAL), "")
        raise TypeError(
            f"The cell function does not take {_listed(surplus)}; it takes {_listed(names) or 'nothing'}{others}. Axes "
            f"are named after its arguments: def cell({', '.join([*names, *surplus])})."
        )
    missing = without_default(left_open(cell, given))
    if missing:
        raise TypeError(
            f"The cell function takes {_listed(missing)}, but no axis gives it. "
            f"Axes: {_listed(given) or 'none'}. Add the axis, or give the argument a default."
        )
    return "key" in names or (takes_all and "key" not in bound)


def bound_by_partial(cell: CellFunction) -> set[str]:
    """Names of the arguments that functools.partial or equinox.Partial binds."""
    bound: set[str] = set()
    while isinstance(cell, functools.partial | eqx.Partial):
        bound |= set(cell.keywords)
        cell = cell.func
    return bound


def _listed(names: Iterable[str]) -> str:
    """Names one after the other."""
    return ", ".join(f"`{name}`" for name in names)
