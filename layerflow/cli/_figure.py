"""`layerflow figure` and `layerflow list`: the figures of the paper, by name."""

import difflib
import pathlib
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from layerflow.cli._shared import Dtype, MethodName, UserError, check_positive, report, save, set_up, writable


@dataclass(frozen=True)
class Figure:
    """Compute and draw a figure of the paper."""

    name: Annotated[str, tyro.conf.Positional]
    """Which figure; `layerflow list` names them."""
    grid: int = 40
    """Points along each axis."""
    seeds: int | None = None
    """Random starts in each cell; the figure's own number if not given."""
    method: MethodName = "flow"
    """Gradient flow, its closed form where there is one, or gradient descent as the authors have it."""
    dtype: Dtype = "float64"
    """Precision of all numbers."""
    out: pathlib.Path = pathlib.Path("figures")
    """Folder for the picture (PNG, PDF) and the data (NetCDF)."""

    def run(self) -> None:
        """Compute, draw, save and report."""
        begin = time.perf_counter()
        folder = writable(self.out)
        check_positive(grid=self.grid, seeds=self.seeds)
        set_up(self.dtype)
        from layerflow.figures import FIGURES

        if self.name not in FIGURES:
            near = difflib.get_close_matches(self.name.lower(), FIGURES, n=1, cutoff=0.3)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"There is no figure {self.name!r}.{hint} Figures: {', '.join(FIGURES)}.")
        figure = FIGURES[self.name]
        seeds = {} if self.seeds is None else {"seeds": self.seeds}
        diagram = figure.compute(grid=self.grid, method=self.method, **seeds)
        files = save(figure.draw(diagram), diagram, folder / f"figure_{self.name}")
        report(f"Figure {self.name}: {figure.TITLE}", diagram, figure.NOTES, files, begin)


@dataclass(frozen=True)
class List:
    """Name the figures."""

    def run(self) -> None:
        """Print every figure's name and title."""
        from layerflow.figures import FIGURES

        for name, figure in FIGURES.items():
            print(f"{name:4} {figure.TITLE}")
