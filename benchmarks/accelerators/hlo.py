"""Reading a compiled program as XLA prints it: what it launches, how often the host waits, and what memory it moves.

Of the steps that XLA prints, all but a few launch something. A loop whose number of rounds XLA does not know, and a
choice between branches, make the host of a GPU wait for the device; such a loop is counted as one round, and of the
branches the one that launches most.
"""

import functools
import math
import re
from typing import NamedTuple

_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"),
    *("partition-id", "replica-id", "domain"),
}
_MARKS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="Sharding"')
_KERNEL = re.compile(r'custom_call_target="[^"]*(triton|mosaic|tpu_custom_call)')  # what Pallas compiles
_IN_PLACE = {"scatter": 2, "dynamic-update-slice": 1}  # the place of what is written among the operands
_LOOKS_UP = {"gather", "dynamic-slice"}
_STEP = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


class Step(NamedTuple):
    """A step of a computation: its name, what it does, the types of its results, what it takes, and all else."""

    name: str
    kind: str
    gives: str
    takes: list[str]
    rest: str

    def called(self, *how: str) -> list[str]:
        """The computations that it calls so."""
        found = re.findall(rf"\b(?:{'|'.join(how)})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.rest)
        return [name for several, one in found for name in re.findall(r"[\w.\-]+", several or one)]


class Load(NamedTuple):
    """What running something takes: launches, bytes that they read and write, waits of the host, and cycles.

    Cycles are what XLA takes an operation of a TPU to last, of those that it judges; it says nothing of a GPU.
    """

    launches: float = 0
    bytes: float = 0
    syncs: float = 0
    cycles: float = 0

    def plus(self, other: "Load", times: float = 1) -> "Load":
        """Both, the other so many times."""
        return Load(*(mine + times * its for mine, its in zip(self, other, strict=True)))


class Module:
    """A compiled program, by computation."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Step]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                self.computations[name] = []
                self.entry = name if line.startswith("ENTRY ") else self.entry
            elif match := _STEP.match(line):
                self.computations[name].append(_read(match[1], line[match.end() :]))
        if not self.entry:
            raise ValueError("This is no compiled program as XLA prints it: it has no ENTRY.")
        self._loads: dict[str, Load] = {}

    def load(self, name: str) -> Load:
        """Of a computation, run once."""
        if name not in self._loads:
            own = {step.name: step for step in self.computations[name]}
            loads = (self._load_of(step, own) for step in own.values())
            self._loads[name] = functools.reduce(Load.plus, loads, Load())
        return self._loads[name]

    def loops(self, name: str) -> list[Step]:
        """The loops of a computation and of what it calls, but not those inside of loops."""
        found = []
        for step in self.computations[name]:
            found += [step] if step.kind == "while" else []
            for inner in step.called("to_apply", "calls", "branch_computations") if step.kind in _CALLS else ():
                found += self.loops(inner)
        return found

    def kernels(self, name: str) -> Load:
        """Those kernels of a computation that were written by hand."""
        own = {step.name: step for step in self.computations[name]}
        by_hand = [s for s in own.values() if s.kind == "custom-call" and _KERNEL.search(s.rest)]
        return functools.reduce(Load.plus, (self._load_of(step, own) for step in by_hand), Load())

    def rounds(self, loop: Step) -> int | None:
        """How often a loop goes round, if that is known: XLA says so, or its condition counts to a constant."""
        said = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if said:
            return int(said[1])
        own = {step.name: step for step in self.computations[loop.called("condition")[0]]}
        compares = [[own[name] for name in step.takes] for step in own.values() if step.kind == "compare"]
        limits = [[_number(one) for one in compared if one.kind == "constant"] for compared in compares]
        if not limits or not all(limits) or any(step.kind == "fusion" for step in own.values()):
            return None
        return max(map(max, limits)) or None

    def _load_of(self, step: Step, own: dict[str, Step]) -> Load:
        if step.kind in _NOTHING or step.kind.endswith("-done") or any(mark in step.rest for mark in _MARKS):
            return Load()
        if step.kind == "while":
            body, rounds = self.load(step.called("body")[0]), self.rounds(step)
            if rounds is not None:
                return Load().plus(body, rounds)
            return body.plus(self.load(step.called("condition")[0])).plus(Load(syncs=1))
        if step.kind == "conditional":
            branches = step.called("branch_computations", "true_computation", "false_computation")
            return max(map(self.load, branches)).plus(Load(syncs=1))
        if step.kind in ("call", "async-start"):
            return functools.reduce(Load.plus, map(self.load, step.called("to_apply", "calls")), Load())
        cycles = re.search(r'"estimated_cycles":"(\d+)"', step.rest)
        return Load(1, self._moved(step, own), cycles=int(cycles[1]) if cycles else 0)

    def _moved(self, step: Step, own: dict[str, Step]) -> float:
        """Bytes that one launch reads and writes: of what it looks up, or writes in place, those alone."""
        takes = [own[name].gives for name in step.takes if name in own]
        if step.kind == "fusion":
            inner = self.computations[step.called("calls")[0]]
        else:
            inner = [Step(f"{place}", "parameter", gives, [], f"({place})") for place, gives in enumerate(takes)]
            inner.append(step._replace(takes=[one.name for one in inner]))
        by_name = {one.name: one for one in inner}
        names = {_number(one): one.name for one in inner if one.kind == "parameter"}
        read, written = 0.0, size(step.gives)
        for place, gives in enumerate(takes):
            users = [one for one in inner if names.get(place) in one.takes]
            kinds = {one.kind if one.takes.index(names[place]) == 0 else "" for one in users}
            if kinds and kinds <= _LOOKS_UP:
                read += sum(size(one.gives) for one in users)
            elif len(users) == 1 and kinds <= _IN_PLACE.keys():
                update = users[0].takes[_IN_PLACE[users[0].kind]]
                written += size(by_name[update].gives) - size(gives)
            else:
                read += size(gives)
        return read + max(written, 0)


_CALLS = {"call", "conditional", "async-start"}


def _read(name: str, text: str) -> Step:
    """A step from what stands behind its name."""
    ends = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    gives, text = text[:ends], text[ends:].lstrip()
    opens = text.index("(")
    kind, text = text[:opens], text[opens:]
    ends = _closing(text) + 1
    takes = re.findall(r"%([\w.\-]+)", text[:ends])
    return Step(name, kind, gives, takes, text if kind in ("parameter", "constant") else text[ends:])


def _closing(text: str) -> int:
    """Where the bracket closes that text begins with."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"A bracket does not close: {text[:80]}")


def _number(step: Step) -> int:
    """Which parameter it is, or which whole number."""
    found = re.match(r"\((\d+)\)", step.rest)
    return int(found[1]) if found else 0


def size(types: str) -> float:
    """Bytes of arrays of these types, filled up to tiles where a TPU does so."""
    return sum(_size(*found) for found in _ARRAY.findall(types))


def _size(kind: str, sizes: str, layout: str) -> float:
    order, _, more = layout.partition(":")
    dims = [int(one) for one in sizes.split(",") if one]
    bits = re.search(r"\d+", kind)
    tile = re.match(r"T\(([\d,]+)\)", more)
    if tile and dims:
        places = [int(one) for one in order.split(",") if one]
        for place, edge in zip(places, reversed([int(one) for one in tile[1].split(",")]), strict=False):
            dims[place] = math.ceil(dims[place] / edge) * edge
    return math.prod(dims) * (max(1, int(bits[0]) / 8) if bits else 1)
