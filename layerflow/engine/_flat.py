"""A program as one list of steps, those of the programs that it calls among them, and what of it to compute apart.

XLA joins steps into few passes over all lanes, and what is used in several places it computes in each. So a product
that is used more than once is computed apart, with all that leads to it alone, and so is what a product takes; the rest
XLA joins to what uses it.
"""

import collections
import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from layerflow.base._jax import ClosedJaxpr, Literal

# What moves numbers about and computes none.
_MOVES = {"broadcast_in_dim", "reshape", "transpose", "slice", "squeeze", "split", "rev"}


class Step(NamedTuple):
    """A step of a program.

    Attributes:
        own: As JAX has it.
        takes: Each a value's number, or a `Literal`.
        gives: The numbers of its values.
    """

    own: Any
    takes: list[Any]
    gives: list[int]


def values_in(atoms: Iterable[Any]) -> set[int]:
    """The numbers of values among what a step takes or a program gives."""
    return {one for one in atoms if isinstance(one, int)}


class Flat:
    """A program as one list of steps.

    Args:
        closed: The program. Its arguments are its first values.
        called: The program that a step calls, if it is to be written in; else None.

    Attributes:
        steps: In their order.
        constants: What it closed over, by the number of the value.
        outputs: Each a value's number, or a `Literal`.
    """

    def __init__(self, closed: ClosedJaxpr, called: Callable[[Any], ClosedJaxpr | None]) -> None:
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self._called, self._numbers = called, itertools.count()
        inputs = [next(self._numbers) for _ in closed.jaxpr.invars]
        self.outputs = self._write(closed, inputs)

    def without_unused(self) -> "Flat":
        """The same program with those steps alone that its outputs depend on."""
        other, needed, steps = copy.copy(self), values_in(self.outputs), []
        for step in reversed(self.steps):
            if needed & set(step.gives):
                needed |= values_in(step.takes)
                steps.append(step)
        other.steps = steps[::-1]
        return other

    def _write(self, closed: ClosedJaxpr, inputs: list[Any]) -> list[Any]:
        """Add the steps of a program, of these values; its outputs."""
        jaxpr = closed.jaxpr
        constants = {next(self._numbers): constant for constant in closed.consts}
        self.constants |= constants
        known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
        read = lambda atom: atom if isinstance(atom, Literal) else known[atom]
        for own in jaxpr.eqns:
            takes, inner = [read(atom) for atom in own.invars], self._called(own)
            if inner is None:
                gives = list(itertools.islice(self._numbers, len(own.outvars)))
                self.steps.append(Step(own, takes, gives))
            else:
                gives = self._write(inner, takes)
            known |= zip(own.outvars, gives, strict=True)
        return [read(atom) for atom in jaxpr.outvars]


class Apart(NamedTuple):
    """What computes one value apart.

    Attributes:
        takes: The numbers of the values that it takes.
        steps: In their order.
    """

    takes: list[int]
    steps: list[Step]


def computed_apart(
    flat: Flat, terms: Callable[[Step], int], joined: Callable[[Step], bool], called: bool
) -> tuple[dict[int, Apart], set[int]]:
    """Which values to compute apart.

    Args:
        flat: The program.
        terms: Of how many terms a step's numbers are sums, if it is a product that is written out; else 0.
        joined: Whether XLA computes what a step takes inside of it, each number once.
        called: Whether the program is itself computed apart.

    Returns:
        How each of them is computed, and the values that are needed there alone.
    """
    users = _users(flat)
    uses = lambda value: sum(1 if joined(step) and not _repeats(step) else 2 for step in users[value])
    outputs = collections.Counter(value for value in flat.outputs if isinstance(value, int))
    loaded: set[int] = set()  # values that hold a product, up to where that is computed apart
    lasts: dict[int, int] = {}  # the place of the step of each value that is computed apart
    place = {value: at for at, step in enumerate(flat.steps) for value in step.gives}
    for at, step in enumerate(flat.steps):
        if not (terms(step) or (joined(step) and loaded & values_in(step.takes))):
            continue
        (value,) = step.gives
        often = uses(value) + outputs[value] * (1 if called else 2) > 1
        # Of one term it would be joined to a sum, as a product and a sum in one, which rounds otherwise.
        if often or terms(step) == 1 or (terms(step) and not step.own.outvars[0].aval.shape):
            lasts[value] = at
        else:
            loaded.add(value)
    factors = _factors(flat, terms, place)
    lasts |= {value: place[value] for value, product in factors if not set(product.gives) & lasts.keys()}
    ends = lasts.keys() | {value for value, _ in factors}
    apart = {value: _leading_to(at, flat, users, ends) for value, at in lasts.items()}
    inside = {value for one in apart.values() for step in one.steps for value in step.gives}
    return apart, inside & loaded


def _users(flat: Flat) -> dict[int, list[Step]]:
    """The steps that take each value."""
    users: dict[int, list[Step]] = collections.defaultdict(list)
    for step in flat.steps:
        for value in values_in(step.takes):
            users[value].append(step)
    return users


def _factors(flat: Flat, terms: Callable[[Step], int], place: dict[int, int]) -> list[tuple[int, Step]]:
    """Computed values that products take, before they are moved about, each with the product."""
    found = []
    for step in flat.steps:
        for value in values_in(step.takes) if terms(step) else ():
            moved = {value}
            while moved and (value := moved.pop()) in place and _moves(flat.steps[place[value]]):
                moved = values_in(flat.steps[place[value]].takes)
            if value in place and len(flat.steps[place[value]].gives) == 1:
                found.append((value, step))
    return found


def _moves(step: Step) -> bool:
    return step.own.primitive.name in _MOVES


def _repeats(step: Step) -> bool:
    """Whether a step only repeats numbers."""
    size = lambda atom: math.prod(atom.aval.shape)
    return step.own.primitive.name == "broadcast_in_dim" and size(step.own.outvars[0]) > size(step.own.invars[0])


def _leading_to(at: int, flat: Flat, users: dict[int, list[Step]], ends: set[int]) -> Apart:
    """The step at a place with those before that lead to it alone, or move numbers about."""
    last, outputs = flat.steps[at], values_in(flat.outputs)
    inside, steps, needed = set(last.gives), [last], values_in(last.takes)
    for step in reversed(flat.steps[:at]):
        gives = set(step.gives)
        if not gives & needed or gives & ends:
            continue
        alone = not gives & outputs and all(set(user.gives) <= inside for value in gives for user in users[value])
        if alone or _moves(step):
            inside |= gives
            needed |= values_in(step.takes)
            steps.append(step)
    return Apart(sorted(needed - inside), steps[::-1])
