"""A program in C++ that solves networks 2-2-2 as layerflow does, a vector register of cells at a time.

`flow.cpp` knows nothing but these networks: no status, no displacement, no observables. It is built when asked for.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from benchmarks.suite.problems import DT0, Given, Problem, invariants

SOURCE = pathlib.Path(__file__).parent / "flow.cpp"
FLAGS = ("-O3", "-march=native", "-fopenmp")
WIDTHS = (2, 2, 2)
MOST_STEPS = 2**20
_NO_COMPILER = (
    "The limit is a program in C++, and there is no compiler {name!r} here. Install one, on Debian or Ubuntu say "
    "`apt install g++`, with conda `conda install gxx`; if it has another name, say it: "
    "`CXX=g++-14 python -m benchmarks.limit`."
)


@dataclass(frozen=True)
class Solved:
    """What the program printed and wrote."""

    matrix: np.ndarray  # end-to-end, of every cell
    num_steps: np.ndarray
    succeeded: np.ndarray
    seconds: list[float]  # of each repeat, from cells in memory to answers in memory
    lanes: int  # cells in a vector register


def compiler() -> str | None:
    """Where the C++ compiler is; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


@contextlib.contextmanager
def built() -> Generator[pathlib.Path]:
    """The program, in a folder that goes away with it.

    Raises:
        RuntimeError: If there is no compiler, or it refuses the source.
    """
    command = compiler()
    if command is None:
        raise RuntimeError(_NO_COMPILER.format(name=os.environ.get("CXX", "g++")))
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "flow")
        made = subprocess.run([command, *FLAGS, SOURCE, "-o", program], capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"The limit needs g++ with OpenMP, but {command} says:\n{made.stderr}")
        yield program


def solve(
    program: pathlib.Path, problem: Problem, given: Given, rtol: float, *, at_once: bool, repeats: int, threads: int
) -> Solved:
    """All cells by the program, in a process of its own.

    Args:
        program: Where it is.
        problem: What is solved.
        given: Its cells.
        rtol: Relative tolerance; the absolute one is a hundredth of it.
        at_once: Whether a lane that ended takes the next cell at once, or waits for the others of its pack.
        repeats: How often all cells are solved.
        threads: By how many threads.
    """
    assert problem.widths == WIDTHS
    cells = len(given["scale"])
    header = [cells, problem.t1, rtol, rtol / 100, DT0, MOST_STEPS, *problem.yx.ravel()]
    rows = np.column_stack([given["w"], given["scale"]])
    with tempfile.TemporaryDirectory() as folder:
        to, back = pathlib.Path(folder, "cells"), pathlib.Path(folder, "answers")
        np.concatenate([header, rows.ravel()]).tofile(to)
        environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [program, to, back, str(repeats), str(int(at_once))]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.split()
        answers = np.fromfile(back).reshape(cells, -1)
    matrix, steps = invariants(problem.layers(answers[:, :-1]))["matrix"], answers[:, -1].astype(int)
    return Solved(matrix, abs(steps), steps > 0, [float(seconds) for seconds in printed[2:]], int(printed[0]))
