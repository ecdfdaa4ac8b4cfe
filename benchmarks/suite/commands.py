"""The command `python -m benchmarks`: problems, the backends that are installed, and what is made of the results.

Runs in float64.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import tyro
from tyro.conf import Positional, subcommand

from benchmarks._shared import known
from benchmarks.suite import compare, files, plots, report
from benchmarks.suite.backends import BACKENDS
from benchmarks.suite.measure import Record, measure
from benchmarks.suite.problems import problems

QUICK = 64  # cells


@dataclass(frozen=True)
class List:
    """List problems and backends."""

    def run(self) -> None:
        """Print both tables."""
        print(report.overview())


@dataclass(frozen=True)
class Run:
    """Run problems on backends, hold the answers against the judge, print a table and write JSON."""

    problems: Positional[tuple[str, ...]] = ()
    """Names, see `python -m benchmarks list`; all of them if not given."""
    backends: tuple[str, ...] = ()
    """Names; all that are installed if not given."""
    tolerances: tuple[float, ...] = (1e-6,)
    """Relative tolerances of flows; several make a work-precision plot."""
    cells: tuple[int, ...] = ()
    """Numbers of cells in place of each problem's own; several make a scaling plot."""
    quick: bool = False
    """Few cells and one turn: whether it works, not how fast."""
    repeats: int = 5
    """Turns of each backend, of which the median counts."""
    out: pathlib.Path = pathlib.Path("benchmarks.json")
    """Where to write the results."""

    def run(self) -> None:
        """Measure problem by problem; what is done is on disk."""
        wanted = [problems()[name] for name in known("problem", self.problems, problems())]
        backends = [BACKENDS[name] for name in known("backend", self.backends, BACKENDS)]
        for backend in backends if self.backends else ():
            if backend.missing:
                needed = " ".join(backend.missing)
                raise ValueError(f"Backend {backend.name} is not installed. Install it: pip install {needed}.")
        if not any(backend.does(problem) for backend in backends for problem in wanted):
            able = ", ".join(backend.name for backend in BACKENDS.values() if backend.does(wanted[0]))
            raise ValueError(f"No backend named solves a problem named. Backends of {wanted[0].name}: {able}.")
        self._check()
        repeats, records = 1 if self.quick else self.repeats, []
        for problem in wanted:
            able = [backend for backend in backends if backend.does(problem) and not backend.missing]
            for cells in self.cells or ((QUICK,) if self.quick else (problem.cells,)):
                for rtol in self.tolerances if problem.steps is None else self.tolerances[:1]:
                    measured = measure(problem, cells, rtol, able, repeats)
                    records += measured
                    print(report.results(measured), end="\n\n", flush=True)
                    self._write(records, repeats)
        print(f"saved {self.out}")

    def _check(self) -> None:
        for name, values in (("cells", self.cells), ("repeats", (self.repeats,))):
            if min(values, default=1) < 1:
                raise ValueError(f"--{name} needs whole numbers of at least 1, but it is {min(values)}.")
        if not all(1e-11 <= rtol < 1 for rtol in self.tolerances):
            given = " ".join(map(str, self.tolerances))
            raise ValueError(
                f"--tolerances need to be from 1e-11, which the judge can tell, to 1, but they are {given}."
            )
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out} lies in a folder that does not exist. Make it, or name another.")

    def _write(self, records: Sequence[Record], repeats: int) -> None:
        self.out.write_text(json.dumps(files.file_of(records, repeats), indent=1) + "\n", "utf-8")


@dataclass(frozen=True)
class Compare:
    """Compare two files of results; exit code 1 if something became slower beyond the noise, or wrong."""

    before: Positional[pathlib.Path]
    """The file to compare with."""
    after: Positional[pathlib.Path]
    """The file that is judged."""

    def run(self) -> None:
        """Print a table and warnings."""
        table, warnings, worse = compare.compare(files.read(self.before), files.read(self.after))
        print(table)
        for warning in warnings:
            print(f"warning: {warning}")
        sys.exit(int(worse))


@dataclass(frozen=True)
class Plot:
    """Draw work-precision and scaling plots, PNG and PDF, of one file of results or of several together."""

    files: Positional[tuple[pathlib.Path, ...]]
    """Files of results; of a result that several hold, the last counts."""
    out: pathlib.Path = pathlib.Path("figures")
    """The folder to draw into."""

    def run(self) -> None:
        """Draw what there is."""
        if not self.files:
            raise ValueError("To plot takes a file of results: python -m benchmarks plot benchmarks.json.")
        records = {}
        for file in self.files:
            records |= files.by_key(files.read(file))
        for path in plots.draw(list(records.values()), self.out):
            print(path)


Command = (
    Annotated[List, subcommand("list")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Plot, subcommand("plot")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's error ends it with one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    jax.config.update("jax_enable_x64", True)
    try:
        tyro.cli(Command, prog="python -m benchmarks", description=__doc__, args=given or ["list"]).run()
    except (ValueError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)
