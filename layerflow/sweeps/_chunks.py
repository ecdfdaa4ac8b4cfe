"""Run the chunks of a sweep in this process."""

import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from layerflow.base._numerics import undisturbed
from layerflow.diagrams._variables import measured
from layerflow.engine._chunks import Batch, Plan
from layerflow.engine._devices import Ask, pull
from layerflow.engine._grid import Grid
from layerflow.engine._lanes import MANY_STEPS
from layerflow.engine._machine import Device, Machine
from layerflow.sweeps._request import cells_of

Chunk = tuple[np.ndarray, dict[str, Any]]


def progress_bar(total: int, show: bool, done: int = 0) -> Any:
    """A bar that counts cells, once a sweep takes longer than a second."""
    with warnings.catch_warnings():  # a notebook without widgets gets a bar of text, and no word about it
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit="cell", delay=1.0, disable=not show)


def chunks_of(cells: Sequence[int] | np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cells, one chunk after the other."""
    return (np.asarray(cells[begin : begin + size]) for begin in range(0, len(cells), size))


def solved(
    grid: Grid, batch: Batch, plan: Plan, chunks: Iterable[np.ndarray], on: Machine, bar: Any
) -> Iterator[Chunk]:
    """Chunks of cells as they are done: the cells, and what the diagram holds of them, padded to the plan's size.

    The bar names cells that take many steps.
    """

    @undisturbed  # in threads of devices too
    def solve(device: Device, cells: np.ndarray, ask: Ask) -> dict[str, Any]:
        tell = lambda slow: bar.set_postfix_str(_slow_in_words(grid, cells, slow))
        return measured(batch, *batch.run(device, cells_of(grid, cells, plan.size), plan, ask, tell))

    yield from pull(
        on.devices_for(grid.cells, plan.size), chunks, undisturbed(functools.partial(batch.compile, plan)), solve
    )


def _slow_in_words(grid: Grid, cells: np.ndarray, slow: np.ndarray) -> str:
    """How many cells of a chunk are slow, and where the first of them lies."""
    if not slow.size:
        return ""
    many = f"{slow.size} cell{'s' if slow.size > 1 else ''} beyond {MANY_STEPS:,} steps"
    return f"{many}, {grid.words(int(cells[min(slow[0], len(cells) - 1)]))}"


def facts_of_run(batches: list[Batch], plans: list[Plan]) -> dict[str, Any]:
    """What a run says of how it went."""
    lanes = [plan.lanes for plan in plans if plan.lanes is not None]
    return {
        "chunk": one_or_all([plan.size for plan in plans]),
        **({"lanes": one_or_all(lanes)} if lanes else {}),
        "calls_split": sum(batch.calls_split for batch in batches),
        "chunk_bytes": max(batch.chunk_bytes for batch in batches),
        "compile_seconds": round(sum(batch.compile_seconds for batch in batches), 3),
    }


def one_or_all(numbers: list[Any]) -> Any:
    """One number where all combinations of static values agree."""
    return numbers[0] if len(set(numbers)) == 1 else numbers
