"""Backends on a problem in turns, with every answer held against the judge."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import _measure
from benchmarks.suite import outside_jax
from benchmarks.suite.backends import Backend
from benchmarks.suite.judge import error, reference
from benchmarks.suite.problems import Given, Problem, healthy

PATIENCE = 60.0  # seconds of turns after which a backend takes no more
Record = dict[str, Any]


def measure(problem: Problem, cells: int, rtol: float, backends: Sequence[Backend], repeats: int) -> list[Record]:
    """A record for each backend. All take a turn before one takes its next: a noisy machine treats them alike."""
    outside_jax.forget()
    given = problem.draw(cells)
    right = reference(problem, given)
    contenders = [Contender(backend, problem, given, right, rtol) for backend in backends]
    for _ in range(repeats):
        for contender in contenders:
            contender.turn()
    return [contender.record for contender in contenders]


class Contender:
    """A backend on a problem: it has run, which compiled it, and its answers are judged."""

    def __init__(self, backend: Backend, problem: Problem, given: Given, right: Given, rtol: float) -> None:
        cells = len(given["scale"])
        every = -(-cells // backend.most) if backend.most else 1
        given, right = ({name: array[::every] for name, array in arrays.items()} for arrays in (given, right))
        measured = len(given["scale"])
        self.scaled = cells / measured
        self.record: Record = {
            "problem": problem.name,
            "backend": backend.name,
            "cells": cells,
            "cells_measured": measured,
            "rtol": rtol,
            "judge": problem.judge,
            "within": problem.within(rtol),
            "seconds": [],  # of compiled programs, of every turn
            "call_seconds": [],  # of the whole call
        }
        try:
            self.run, read = backend.prepare(problem, given, rtol)
            result, self.record["first_call_seconds"], _ = timed(self.run)
            self.record |= judged(*read(result), right, healthy(given), problem.within(rtol))
            timed(self.run)  # torch.compile compiles again at a second call
        except Exception as failure:  # of a library that is judged here: the others go on
            message = " ".join(str(failure).split())
            self.record["wrong"], self.run = f"{type(failure).__name__}: {message}"[:300], None

    def turn(self) -> None:
        """Run once more, unless that has taken long enough already or never worked."""
        if self.run is None or sum(self.record["call_seconds"]) > PATIENCE * self.scaled:
            return
        _, call, programs = timed(self.run)
        self.record["seconds"].append(programs * self.scaled)
        self.record["call_seconds"].append(call * self.scaled)


def timed(run: Any) -> tuple[Any, float, float]:
    """A result, and seconds of the call and of its compiled programs; without a sweep they are the same."""
    with _measure.programs() as spans:
        begin = time.perf_counter()
        result = jax.block_until_ready(run())
        call = time.perf_counter() - begin
    return result, call, _measure.covered(spans) or call


def judged(found: Any, succeeded: np.ndarray, right: Given, well: np.ndarray, within: float) -> Record:
    """What the judge says: largest error, cells that succeeded and, in words, what is wrong."""
    largest = error(found, right, well & succeeded)
    wrong = ""
    if failed := int((well & ~succeeded).sum()):
        wrong = f"{failed} cells failed"
    elif not largest <= within:
        wrong = f"error {largest:.1e} is beyond {within:.0e}"
    elif poisoned := int((succeeded & ~well).sum()):
        wrong = f"{poisoned} poisoned cells passed for solved"
    return {"error": largest, "succeeded": int(succeeded.sum()), "expected": int(well.sum()), "wrong": wrong}
