"""What is wanted of a run: observables and summaries by name, and what a sweep makes of them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_origin

import jax

from layerflow._problem import Problem
from layerflow._trajectory import Trajectory
from layerflow.base._checks import named_apart
from layerflow.methods import Times

Observe = Callable[..., Any] | Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]]
Summarise = Observe
Observables = Mapping[str, Callable[[Any, Problem], Any]]
Summaries = Mapping[str, Callable[[Trajectory], Any]]


@dataclass(frozen=True)
class Wanted:
    """What a run measures: observables and, of whole paths, summaries, by name.

    A sweep may leave the paths of the observables out of the diagram, add derivatives of all that it
    keeps by some of its axes, and verify what it measures against closed forms and conservation laws. With `quick` it
    leaves open whether a closed form holds, where that takes longer to find out than the answer (`Status.DOUBTFUL`).
    """

    observe: Observables
    summary: Summaries
    paths: bool = True
    derivative: tuple[str, ...] = ()
    verify: bool = False
    quick: bool = False


class Measured(NamedTuple):
    """What is kept of a cell under one name, and what it is."""

    kind: Literal["observed", "summed", "slope", "error", "check"]
    of: str  # the function that gave it, by its name in `observe` or `summary`; of a check its own name
    part: str  # its entry in the dict that the function returned; nothing of one array
    like: jax.ShapeDtypeStruct
    by: str = ""  # the axis that a slope is by
    timed: bool = False  # whether its first dimension is that of `ts`

    @property
    def base(self) -> str:
        """The variable that a slope or an error is of; any other itself."""
        return f"{self.of}_{self.part}" if self.part else self.of

    @property
    def name(self) -> str:
        """What it is called in a diagram."""
        return self.base + {"slope": f"_d_{self.by}", "error": "_error"}.get(self.kind, "")


def checked_wanted(observe: Observe, summary: Summarise | None, ts: Times | None) -> Wanted:
    """Observables and summaries by name, or an error."""
    observables = named(observe, "observe", "(network, problem)")
    if summary is None:
        return Wanted(observables, {})
    summaries = named(summary, "summary", "the trajectory")
    if ts is None and not all(watch_of(function) for function in summaries.values()):
        raise ValueError(
            "A summary measures a whole path, so it needs times to measure at: ts=jnp.linspace(0, 40, 200)."
        )
    both = sorted({*observables} & {*summaries})
    if both:
        raise ValueError(f"An observable and a summary are both called `{both[0]}`. Name one of them apart.")
    return Wanted(observables, summaries)


def watch_of(function: Callable[..., Any]) -> Any:
    """How a summary sees every step of a descent, None if it does not."""
    return getattr(function, "watch", None)


def named(given: Observe, argument: str, of: str) -> dict[str, Callable[..., Any]]:
    """Functions by name, or an error that names the argument and what its functions are functions of."""
    if isinstance(given, Mapping):
        functions = named_apart(given, f"function in `{argument}`")
    else:
        if not callable(given) and not isinstance(given, Sequence):
            raise TypeError(f"Argument `{argument}` needs functions of {of}, but it is {given!r}.")
        functions = {}
        for function in [given] if callable(given) or isinstance(given, str) else given:
            if isinstance(function, str):
                raise TypeError(
                    f"Argument `{argument}` needs functions of {of}, such as lf.{function}, not their names, but "
                    f"{function!r} came."
                )
            name = getattr(function, "__name__", type(function).__name__)
            if callable(function) and name == "<lambda>":
                raise ValueError(
                    f"A lambda has no name for its variable. Give it one: {argument}={{'name': lambda ...}}."
                )
            if name in functions:
                raise ValueError(
                    f"Argument `{argument}` holds two functions called `{name}`. Name them apart: "
                    f"{argument}={{'first': f, 'second': g}}."
                )
            functions[name] = function
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(
                f"Argument `{argument}` needs functions of {of}, or a dict of them by name, but `{name}` is of type "
                f"{type(function).__name__}."
            )
        if _makes_one(function) or not _takes(function, of.count(",") + 1):
            raise TypeError(
                f"Argument `{argument}` needs functions of {of}, but `{name}` does not take that. If it makes one, "
                f"call it first: {argument}={name}(...)."
            )
    if not functions:
        raise ValueError(f"Argument `{argument}` needs at least one function of {of}, but it is empty.")
    return functions


def _makes_one(function: Callable[..., Any]) -> bool:
    """Whether a function says that it returns another."""
    returned = getattr(function, "__annotations__", {}).get("return")
    return get_origin(returned) is Callable or returned is Callable


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as Python can tell."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # has no signature to read
        return True
    return True
