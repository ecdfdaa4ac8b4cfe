"""Methods as JSON, to be made again: by the public names of their parts, wherever these are a package's own."""

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow.base._checks import is_concrete

# Recipes may come from anywhere: what they name is of these packages, and nothing that reads or writes.
_OF_CLASSES = ("layerflow", "diffrax", "optimistix", "lineax", "equinox")
_OF_FUNCTIONS = ("diffrax", "optimistix", "lineax", "optax")
_MOST = 1000  # numbers of an array that a recipe holds

Recipe = Any


class NoRecipe(Exception):
    """What is no package's own cannot be named."""


def recipe_of(value: Any) -> Recipe:
    """A method, or a part of one, as JSON.

    Raises:
        NoRecipe: If a part of it is not told by public names and numbers.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _of_array(value)
    if isinstance(value, tuple | list | dict):
        return _of_parts(value)
    if isinstance(value, type) or hasattr(value, "__qualname__") or not hasattr(value, "__dict__"):
        return {"name": _name_of(value)}
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else list(vars(value))
    fields = {name: recipe_of(getattr(value, name)) for name in names if hasattr(value, name)}
    return {"class": _name_of(type(value)), "fields": fields}


def _of_array(value: Any) -> Recipe:
    if not is_concrete(value) or value.size > _MOST or value.dtype.kind not in "biuf":
        raise NoRecipe
    return {"array": recipe_of(np.asarray(value).tolist()), "dtype": str(value.dtype)}


def _of_parts(value: Any) -> Recipe:
    if isinstance(value, dict):
        return {"dict": {str(name): recipe_of(part) for name, part in value.items()}}
    if type(value) not in (tuple, list):
        raise NoRecipe
    return {type(value).__name__: [recipe_of(part) for part in value]}


def made_by(recipe: Recipe) -> Any:
    """What a recipe is of.

    Raises:
        NoRecipe: If it is not what `recipe_of` gives.
    """
    if recipe is None or isinstance(recipe, bool | int | float | str):
        return recipe
    make = _MAKES.get(str(next(iter(recipe), ""))) if isinstance(recipe, dict) else None
    if make is None:
        raise NoRecipe
    try:
        return make(recipe)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise NoRecipe from error


def _array(recipe: Recipe) -> Any:
    return jnp.asarray(made_by(recipe["array"]), recipe["dtype"])


def _instance(recipe: Recipe) -> Any:
    """An instance with these fields; what it decides by them it has decided before."""
    kind = _named(recipe["class"])
    if not isinstance(kind, type):
        raise NoRecipe
    made = object.__new__(kind)
    for name, part in recipe["fields"].items():
        object.__setattr__(made, name, made_by(part))
    return made


_MAKES: dict[str, Callable[[Recipe], Any]] = {
    "float": lambda recipe: float(recipe["float"]),
    "array": _array,
    "tuple": lambda recipe: tuple(made_by(part) for part in recipe["tuple"]),
    "list": lambda recipe: [made_by(part) for part in recipe["list"]],
    "dict": lambda recipe: {name: made_by(part) for name, part in recipe["dict"].items()},
    "name": lambda recipe: _named(recipe["name"]),
    "class": _instance,
}


def _name_of(value: Any) -> str:
    name = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    if _named(name) is not value:
        raise NoRecipe
    return name


def _named(name: str) -> Any:
    """The class or function that a package has under a name."""
    module, _, path = name.partition(":")
    if module.partition(".")[0] not in (*_OF_CLASSES, *_OF_FUNCTIONS):
        raise NoRecipe
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NoRecipe from error
    home = str(getattr(found, "__module__", None)).partition(".")[0]
    if home not in (_OF_CLASSES if isinstance(found, type) else _OF_FUNCTIONS) or not callable(found):
        raise NoRecipe
    return found
