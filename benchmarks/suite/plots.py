"""Pictures of results: error against time over tolerances, and time per cell over numbers of cells."""

import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.suite.measure import Record
from benchmarks.suite.report import median

# Okabe and Ito's colours, which all eyes tell apart; markers and dashes, which print does.
STYLES = {
    "layerflow": ("#000000", "o", "-"),
    "layerflow-lockstep": ("#000000", "o", ":"),
    "layerflow-exact": ("#CC79A7", "*", "-"),
    "diffrax": ("#0072B2", "s", "-"),
    "diffrax-chunks": ("#56B4E9", "D", "--"),
    "diffrax-sorted": ("#0072B2", "s", ":"),
    "torchode": ("#E69F00", "^", "-"),
    "torchode-threads": ("#E69F00", "^", ":"),
    "torchdiffeq": ("#D55E00", "v", "-"),
    "scipy": ("#009E73", "X", "-"),
    "jax": ("#0072B2", "s", "-"),
    "numpy": ("#009E73", "X", "-"),
}


def draw(records: Sequence[Record], folder: pathlib.Path) -> list[pathlib.Path]:
    """Every picture that the records hold, as PNG and PDF."""
    timed = [r for r in records if r["seconds"] and "error" in r and r["succeeded"] == r["expected"]]
    pictures = {
        f"work_precision_{name}": work_precision(name, some) for name, some in _series(timed, "cells", "rtol").items()
    } | {f"scaling_{name}": scaling(name, some) for name, some in _series(timed, "rtol", "cells").items()}
    if not pictures:
        raise ValueError(
            "To plot takes results of a problem at two tolerances or two numbers of cells, but there is one of each. "
            "Make some: python -m benchmarks run uniform --tolerances 1e-4 1e-6 1e-8, or --cells 256 1024 4096."
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{ending}" for name in pictures for ending in ("png", "pdf")]
    for file in files:
        pictures[file.stem].savefig(file, dpi=200)
    return files


def work_precision(problem: str, records: Sequence[Record]) -> Figure:
    """The largest error against seconds, a point for each tolerance."""
    cells = records[0]["cells"]
    figure = _lines(records, "rtol", lambda r: (r["error"], median(r)))
    axes = figure.axes[0]
    axes.set(
        title=f"{problem}, {cells:,} cells",
        xlabel="largest relative error of a cell; smaller to the right",
        ylabel="time (s)",
    )
    axes.invert_xaxis()
    return figure


def scaling(problem: str, records: Sequence[Record]) -> Figure:
    """Seconds per cell against the number of cells; wrong answers are left out."""
    rtol = records[0]["rtol"]
    right = [record for record in records if not record["wrong"]]
    figure = _lines(right, "cells", lambda r: (r["cells"], 1e6 * (median(r) or 0.0) / r["cells"]))
    axes, counts = figure.axes[0], sorted({record["cells"] for record in right})
    axes.set(title=f"{problem}, rtol {rtol:g}", xlabel="number of cells", ylabel="time per cell (µs)")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    return figure


def _series(records: Sequence[Record], fixed: str, varied: str) -> dict[str, list[Record]]:
    """The records of each problem that differ in one thing, at the value of the other that has most of them."""
    found = {}
    for problem in dict.fromkeys(record["problem"] for record in records):
        of_problem = [record for record in records if record["problem"] == problem]
        groups = [[r for r in of_problem if r[fixed] == value] for value in {r[fixed] for r in of_problem}]
        counts = [len({record[varied] for record in group}) for group in groups]
        if max(counts) > 1:
            found[problem] = groups[counts.index(max(counts))]
    return found


def _lines(records: Sequence[Record], along: str, point: Callable[[Record], Any]) -> Figure:
    """A line for each backend, on logarithmic axes."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for backend, (colour, marker, dashes) in STYLES.items():
        own = sorted((r for r in records if r["backend"] == backend), key=lambda record: record[along])
        if own:
            points = {}  # a closed form has the same error at every tolerance: one point
            for x, y in map(point, own):
                points.setdefault(x, []).append(y)
            look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.4}
            hollow: dict[str, Any] = (
                {} if dashes == "-" else {"markerfacecolor": "white", "markersize": 7, "zorder": 1.9}
            )
            medians = [statistics.median(ys) for ys in points.values()]
            look = {"markersize": 5, "label": backend} | look | hollow
            axes.plot(list(points), medians, **look)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside right center", frameon=False, fontsize="small", handlelength=3)
    return figure
