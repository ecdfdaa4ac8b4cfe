"""Chunks kept in memory."""

import json
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._variables import coordinates_of, variables_of
from layerflow.engine._chunks import Batch
from layerflow.engine._machine import Machine, Plan
from layerflow.methods import Status
from layerflow.sweeps._chunks import Facts, Keeper, chunks_of
from layerflow.sweeps._record import asked_of, facts_of
from layerflow.sweeps._request import Request

if TYPE_CHECKING:
    import xarray


class InMemory(Keeper):
    """The numbers of a diagram in memory, by combination of static values and cell; `begin` is when the sweep began."""

    def __init__(self, request: Request, batches: list[Batch], device: str, on: Machine, begin: float) -> None:
        self.request, self.batches, self.grid, self.begin = request, batches, request.grid, begin
        self.variables, self.cells = variables_of(self.grid, batches[0]), self.grid.cells * len(batches)
        on.check_results(self.cells * sum(math.prod(v.shape) * v.dtype.itemsize for v in self.variables.values()))
        shape = (len(batches), self.grid.cells)
        # Every chunk is put here before there is a diagram, so nothing needs to stand here before.
        self.values = {name: np.empty(shape + v.shape, v.dtype) for name, v in self.variables.items()}
        self.facts: Facts = facts_of(request, batches, device)

    def missing(self, number: int) -> int:
        """All of them."""
        return self.grid.cells

    def chunks(self, number: int, plan: Plan) -> Iterator[np.ndarray]:
        """All cells, by chunks."""
        return chunks_of(range(self.grid.cells), plan)

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Keep what came of some cells."""
        for name, own in values.items():
            self.values[name][number, cells] = own[: len(cells)]

    def note(self, cells: int, facts: Facts) -> None:
        """Remember how the run went."""
        self.facts |= facts

    def dataset(self) -> "xarray.Dataset":
        """The diagram, labelled."""
        from layerflow.diagrams._dataset import Diagram

        if (self.values["status"] == Status.OUTSIDE).all():
            raise self.request.outside()
        axes = [axis.name for axis in self.grid.axes]
        data = {
            name: ([*axes, *v.dims], self.grid.shaped(self.values[name]), v.attrs) for name, v in self.variables.items()
        }
        asked = json.dumps(asked_of(self.request, self.batches))
        diagram = Diagram(data, coordinates_of(self.grid, self.batches[0]), {**self.facts, "asked": asked})
        if self.request.wanted.verify:
            checks = [name for name in ("error_over_tolerance", "drift") if name in diagram]
            diagram.attrs |= {f"worst_{name}": float(diagram[name].max()) for name in checks}  # NaN is left out
        diagram.attrs["wall_seconds"] = round(time.perf_counter() - self.begin, 3)
        return diagram
