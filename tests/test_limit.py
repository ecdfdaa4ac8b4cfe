"""The program in C++ that layerflow is measured against solves the same flows by the same steps."""

import os

import numpy as np
import pytest

from benchmarks import lanes
from benchmarks.limit import program
from benchmarks.limit.__main__ import apart
from benchmarks.suite.problems import problems

CELLS = 61  # no multiple of a vector register
needs_compiler = pytest.mark.skipif(program.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def flow():
    """The program."""
    with program.built() as built:
        yield built


@needs_compiler
def test_it_takes_the_steps_of_layerflow_to_the_same_answers(flow):
    """Rounding differs: at the edge of stability, where wide cells end, a step may then fall out otherwise."""
    for kind, equal, within in (("uniform", 1.0, 1e-10), ("wide", 0.9, 20 * lanes.RTOL)):
        problem = problems()[kind]
        given = problem.draw(CELLS)
        diagram = lanes.sweep(problem, given)
        for at_once in (True, False):
            solved = program.solve(flow, problem, given, lanes.RTOL, at_once=at_once, repeats=2, threads=2)

            assert solved.succeeded.all()
            assert len(solved.seconds) == 2
            assert np.mean(solved.num_steps == diagram.num_steps.values) >= equal
            assert apart(diagram, solved) < within


@needs_compiler
def test_it_says_which_cells_it_could_not_solve(flow):
    problem = problems()["uniform"]
    given = problem.draw(CELLS)
    given["w"][7] = np.nan

    solved = program.solve(flow, problem, given, lanes.RTOL, at_once=True, repeats=1, threads=1)

    assert np.flatnonzero(~solved.succeeded).tolist() == [7]


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(os.environ, "CXX", "no-such-compiler")

    missing = pytest.raises(RuntimeError, match=r"no compiler 'no-such-compiler' here\. Install one.*apt install g\+\+")
    with missing, program.built():
        pass
