"""The cells of a diagram that failed, as a place for what comes of them when they are run again."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from layerflow.diagrams._array import has_failed
from layerflow.engine._machine import Plan
from layerflow.sweeps._chunks import Keeper, chunks_of

Found = tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class FailedCells(Keeper):
    """Cells whose status is a failure.

    Args:
        status: By combination of static values and cell.
    """

    def __init__(self, status: np.ndarray) -> None:
        self.bad = has_failed(status)
        self.cells = int(self.bad.sum())
        self._rows: list[np.ndarray] = []
        self._cells: list[np.ndarray] = []
        self._values: list[dict[str, np.ndarray]] = []

    def missing(self, number: int) -> int:
        """How many cells of a combination of static values failed."""
        return int(self.bad[number].sum())

    def chunks(self, number: int, plan: Plan) -> Iterator[np.ndarray]:
        """Those of a combination, by chunks."""
        return chunks_of(np.flatnonzero(self.bad[number]), plan)

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Keep what came of some cells."""
        self._rows.append(np.full(len(cells), number))
        self._cells.append(cells)
        self._values.append({name: own[: len(cells)] for name, own in values.items()})

    def found(self) -> Found:
        """The cells, by combination of static values and number, and what came of them."""
        values = {name: np.concatenate([own[name] for own in self._values]) for name in self._values[0]}
        return (np.concatenate(self._rows), np.concatenate(self._cells)), values
