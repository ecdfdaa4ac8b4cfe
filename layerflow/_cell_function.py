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
    _check_by_name(parameters, given)
    surplus = [name for name in given if name not in names and not takes_all]
    if surplus:
        raise TypeError(
            f"The cell function does not take {_listed(surplus)}; it takes {_listed(names) or 'nothing'}. Axes are "
            f"named after its arguments."
        )
    missing = [p.name for p in named_ones if p.default is p.empty and p.name not in (*given, "key")]
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


def _check_by_name(parameters: Iterable[inspect.Parameter], given: list[str]) -> None:
    """Raise if the cell function takes by position alone what it has to be given by name."""
    without = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and (p.default is p.empty or p.name in given)]
    if without:
        raise TypeError(
            f"The cell function takes {_listed(without)} by position only, but arguments are handed over by name. Take "
            f"the `/` out of its arguments."
        )
    kinds = {p.kind for p in parameters}
    if inspect.Parameter.VAR_POSITIONAL in kinds and kinds <= {inspect.Parameter.VAR_POSITIONAL} and given:
        raise TypeError(
            f"The cell function takes any arguments by position, but they are handed over by name. Name them: "
            f"def cell({', '.join(given)})."
        )


def _listed(names: Iterable[str]) -> str:
    """Names one after the other."""
    return ", ".join(f"`{name}`" for name in names)
