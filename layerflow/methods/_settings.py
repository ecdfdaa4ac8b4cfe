"""What a record says of the settings of a solver, a controller or an optimiser: plain values, by name."""

import functools
import inspect
import json
import re
from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax
import numpy as np

from layerflow.base._checks import closed_over

_MOST = 64  # values of an array that are written down whole
_FORM = {"scan_kind"}  # decides how a program is written and no number


def settings(module: eqx.Module, leave: Collection[str] = ()) -> str | None:
    """The settings of a module that are not its defaults, as JSON; None if all are.

    Args:
        module: A solver or a controller, whose arguments are its attributes. What is None in it but not by default
            varies from cell to cell, and is left out.
        leave: Names not to tell.
    """
    return as_json(_changed(module, leave))


def as_json(values: dict[str, Any]) -> str | None:
    """Values by name as JSON, without those that are None; None if none is left."""
    shown = {name: told(value) for name, value in values.items() if value is not None}
    return json.dumps(shown) if shown else None


def told(value: Any) -> Any:
    """A value as JSON holds it, the same in every process: functions and objects by name and what they hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | dict):
        return jax.tree.map(told, value, is_leaf=lambda node: node is not value)
    if eqx.is_array_like(value):
        return _array(np.asarray(value))
    if isinstance(value, eqx.Module):
        return {"name": type(value).__name__, **{name: told(one) for name, one in _changed(value).items()}}
    return _function(value) if callable(value) else re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _array(array: np.ndarray) -> Any:
    """The numbers of an array, of a long one its ends."""
    if array.size <= _MOST:
        return array.tolist()
    return {"first": array.flat[0].item(), "last": array.flat[-1].item(), "shape": list(array.shape)}


def _changed(module: eqx.Module, leave: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of a module, by what it holds of them, that are not the defaults."""
    parameters = {n: p for n, p in inspect.signature(type(module)).parameters.items() if n not in {*leave, *_FORM}}
    held = {name: (getattr(module, name, None), parameter.default) for name, parameter in parameters.items()}
    return {name: value for name, (value, usual) in held.items() if value is not None and told(value) != told(usual)}


def _function(function: Callable[..., Any]) -> str:
    """The name of a function, and the numbers that it closes over or was given: `schedule(init_value=0.1)`."""
    if isinstance(function, functools.partial):
        given = {**{str(place): value for place, value in enumerate(function.args)}, **function.keywords}
        return f"{_function(function.func)}({_listed(given)})"
    name = getattr(function, "__name__", type(function).__name__)
    closed = closed_over(function)
    return f"{name}({_listed(closed)})" if closed else name


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={told(value)}" for name, value in values.items())


def listed(settings: str) -> str:
    """Settings in a row, from JSON, for people to read."""
    return ", ".join(f"{name}={short(value)}" for name, value in json.loads(settings).items())


def short(value: Any) -> str:
    """A setting as short as its digits allow; a nested one with its own in brackets."""
    if isinstance(value, dict) and "name" in value:
        rest = {key: own for key, own in value.items() if key != "name"}
        return f"{value['name']}({listed(json.dumps(rest))})"
    return f"{value:g}" if is_number(value) else str(value)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)
