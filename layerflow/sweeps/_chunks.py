"""The one loop: whoever computes chunks meets whoever keeps them.

These are kept in memory, in a store, or in place of cells that failed; those who compute are the devices of this
process or the workers of a cluster.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import numpy as np

from layerflow.base._numerics import undisturbed
from layerflow.diagrams._variables import measured
from layerflow.engine._chunks import Batch
from layerflow.engine._devices import Ask, pull
from layerflow.engine._grid import Grid
from layerflow.engine._lanes import MANY_STEPS
from layerflow.engine._machine import Device, Machine, Plan
from layerflow.sweeps._record import device_in_words
from layerflow.sweeps._request import Request, cells_of

if TYPE_CHECKING:
    import xarray

Facts = dict[str, Any]


class Stop:
    """Whether an interrupt asked to stop."""

    asked = False


class Keeper:
    """Who keeps chunks. As it stands here, in this process alone, computed as is best for each combination.

    Attributes:
        cells: How many there are to be.
        done: How many of them are there already.
    """

    cells = 0
    done = 0

    def held(self) -> contextlib.AbstractContextManager[Stop]:
        """Be the one that puts chunks there."""
        return contextlib.nullcontext(Stop())

    def missing(self, number: int) -> int:
        """How many cells of a combination of static values are missing."""
        raise NotImplementedError

    def plan(self, number: int) -> Plan | None:
        """How its chunks are computed, where that is settled."""
        return None

    def chunks(self, number: int, plan: Plan) -> Iterator[np.ndarray]:
        """The missing cells of a combination, by chunks of a plan."""
        raise NotImplementedError

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Keep what came of some cells; values beyond them fill the chunk."""
        raise NotImplementedError

    def note(self, cells: int, facts: Facts) -> None:
        """Hear that so many cells are done, and how the run went so far."""

    def dataset(self) -> "xarray.Dataset":
        """The diagram of all that is there."""
        raise NotImplementedError


@runtime_checkable
class Crew(Protocol):
    """Who computes chunks, on what device."""

    device: str

    def plans(self) -> list[Plan]:
        """How chunks of all combinations are computed, of one size."""
        ...

    def compute(self, keeper: Any, stop: Stop, bar: Any) -> Generator[tuple[int, Facts]]:
        """Compute what is missing and put it there; how many cells are done each time, and how the run went so far."""
        ...


def fill(keeper: Keeper, crew: Crew, progress: bool) -> None:
    """Compute every chunk that is missing."""
    with (
        keeper.held() as stop,
        progress_bar(keeper.cells, progress, keeper.done) as bar,
        contextlib.closing(crew.compute(keeper, stop, bar)) as computed,
    ):
        for cells, facts in computed:
            bar.update(cells)
            keeper.note(cells, facts)


class Here:
    """The devices of this process."""

    def __init__(self, request: Request, batches: list[Batch], on: Machine) -> None:
        self.grid, self.batches, self.on, self.device = request.grid, batches, on, device_in_words()

    def plans(self) -> list[Plan]:
        """How chunks of all combinations are computed: of one size, for all are chunks of the same arrays."""
        found = [batch.plan(self.grid.cells, self.on) for batch in self.batches]
        even = dataclasses.replace(self.on, chunk=min(plan.size for plan in found))
        both = zip(self.batches, found, strict=True)
        return [plan if plan.size == even.chunk else batch.plan(self.grid.cells, even) for batch, plan in both]

    def compute(self, keeper: Keeper, stop: Stop, bar: Any) -> Generator[tuple[int, Facts]]:
        """Compute what is missing, one combination of static values after the other."""
        used: list[Plan] = []
        for number, ((_, words), batch) in enumerate(zip(self.grid.combinations(), self.batches, strict=True)):
            missing = keeper.missing(number)
            if not missing or stop.asked:
                continue
            bar.set_description(words or "sweep", refresh=False)
            plan = keeper.plan(number) or batch.plan(missing, self.on, filled=True)
            used.append(plan)
            how = self._how(used)
            chunks = itertools.takewhile(lambda _: not stop.asked, keeper.chunks(number, plan))
            for cells, values in self._solved(batch, plan, chunks, bar):
                keeper.put(number, cells, values)
                yield len(cells), how | self._spent()

    def _solved(
        self, batch: Batch, plan: Plan, chunks: Iterable[np.ndarray], bar: Any
    ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Chunks as they are done, with what the diagram holds of their cells; the bar names cells of many steps."""

        @undisturbed()  # in threads of devices too
        def solve(device: Device, cells: np.ndarray, ask: Ask) -> dict[str, Any]:
            tell = lambda slow: bar.set_postfix_str(_slow_in_words(self.grid, cells, slow))
            return solved(self.grid, batch, plan, device, cells, ask, tell)

        prepare = undisturbed()(functools.partial(batch.compile, plan))
        yield from pull(self.on.devices_for(self.grid.cells, plan.size), chunks, prepare, solve)

    def _how(self, used: list[Plan]) -> Facts:
        """By what plans, on how many devices."""
        lanes = [plan.lanes for plan in used if plan.lanes is not None]
        return {
            "chunk": one_or_all([plan.size for plan in used]),
            **({"lanes": one_or_all(lanes)} if lanes else {}),
            **({"filled": 1} if any(plan.filled for plan in used) else {}),
            "devices": max(len(self.on.devices_for(self.grid.cells, plan.size)) for plan in used),
        }

    def _spent(self) -> Facts:
        """What the run took so far."""
        return {
            "calls_split": sum(batch.calls_split for batch in self.batches),
            "chunk_bytes": max(batch.chunk_bytes for batch in self.batches),
            "compile_seconds": round(sum(batch.compile_seconds for batch in self.batches), 3),
        }


def solved(grid: Grid, batch: Batch, plan: Plan, device: Device, cells: np.ndarray, *how: Any) -> dict[str, Any]:
    """What the diagram holds of the cells of a chunk, on the host; `how` goes to `Batch.run`."""
    return jax.device_get(measured(batch, *batch.run(device, cells_of(grid, cells, plan.size), plan, *how)))


def chunks_of(cells: Sequence[int] | np.ndarray, plan: Plan) -> Iterator[np.ndarray]:
    """Cells in chunks: one after the other, as a store has them and with its bits, where the plan is not filled.

    Else of some of every region each, so that none of several devices is left with the hard ones.
    """
    many = math.ceil(len(cells) / plan.size)
    if plan.filled:
        return (np.asarray(cells[begin::many]) for begin in range(many))
    return (np.asarray(cells[number * plan.size : (number + 1) * plan.size]) for number in range(many))


def progress_bar(total: int, show: bool, done: int = 0) -> Any:
    """A bar that counts cells, once a sweep takes longer than a second."""
    with warnings.catch_warnings():  # a notebook without widgets gets a bar of text, and no word about it
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit="cell", delay=1.0, disable=not show)


def _slow_in_words(grid: Grid, cells: np.ndarray, slow: np.ndarray) -> str:
    """How many cells of a chunk are slow, and where the first of them lies."""
    if not slow.size:
        return ""
    many = f"{slow.size} cell{'s' if slow.size > 1 else ''} beyond {MANY_STEPS:,} steps"
    return f"{many}, {grid.words(int(cells[min(slow[0], len(cells) - 1)]))}"


def one_or_all(numbers: list[Any]) -> Any:
    """One number where all combinations of static values agree."""
    return numbers[0] if len(set(numbers)) == 1 else numbers
