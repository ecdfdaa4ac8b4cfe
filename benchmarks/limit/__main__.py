"""How far layerflow is from the limit of a CPU: the same flows by a program in C++, vectorised by hand.

    python -m benchmarks.limit

The cells of `benchmarks.lanes`, uniform and wide, the wide ones as given and hardest first. The program takes the same
steps with the same tolerances, on one thread and on two; layerflow has as many virtual devices. They take turns. A lane
of the program that ended takes the next cell at once or (`packs wait`) when all of its register have. Needs g++.

Medians are told, and the least. Where others use the cores too, trust one core: two threads wait for each other.
"""

import functools
import pathlib
import statistics
import sys
from typing import Any

import jax
import numpy as np
from tabulate import tabulate

import layerflow as lf
from benchmarks import _measure, lanes
from benchmarks.limit import program
from benchmarks.suite.problems import Given, problems

CORES = (1, 2)
TURNS = 9
WARM, REPEATS = 3, 10  # runs of the program in its process before those that count, and those


def sorted_by_scale(given: Given) -> Given:
    """The same cells, hardest first."""
    order = np.argsort(-given["scale"])
    return {name: array[order] for name, array in given.items()}


def apart(diagram: Any, solved: program.Solved) -> float:
    """Largest distance of an entry of the end-to-end matrix, relative to the largest entry of the cell's."""
    ours = diagram.measured_matrix.values
    return float((np.abs(ours - solved.matrix).max(axis=(1, 2)) / np.abs(ours).max(axis=(1, 2))).max())


def compare(flow: pathlib.Path, kind: str, cores: int, hardest_first: bool = False) -> dict[str, float]:
    """Seconds of both, medians in turns, and how far apart their answers and steps are."""
    problem = problems()[kind]
    given = problem.draw(problem.cells)
    given = sorted_by_scale(given) if hardest_first else given
    solve = functools.partial(program.solve, flow, problem, given, lanes.RTOL, threads=cores, repeats=WARM + REPEATS)
    limits = {"limit": functools.partial(solve, at_once=True), "limit_packs": functools.partial(solve, at_once=False)}
    on = lf.Machine(devices=cores)
    sweep = functools.partial(lanes.sweep, problem, given, on=on)
    whole = lambda: sweep().measured_matrix.values
    seconds: dict[str, list[float]] = {name: [] for name in ("layerflow", "layerflow_call", *limits)}
    for _ in range(TURNS):
        for _ in range(2):  # compiles; later, what ran before has left its data in the cache
            whole()
        seconds["layerflow"].append(_measure.in_programs(sweep, repeats=1))
        seconds["layerflow_call"].append(_measure.seconds(whole, repeats=1))
        for name, limit in limits.items():
            seconds[name] += limit().seconds[WARM:]
    result = {f"{name}_seconds": statistics.median(times) for name, times in seconds.items()}
    result |= {f"{name}_least_seconds": min(times) for name, times in seconds.items()}
    result["ratio"] = result["layerflow_seconds"] / result["limit_seconds"]
    result["least_ratio"] = result["layerflow_least_seconds"] / result["limit_least_seconds"]
    return result | answers(sweep(), limits["limit"]())


def answers(diagram: Any, solved: program.Solved) -> dict[str, float]:
    """How the answers of both compare."""
    return {
        "limit_succeeded": int(solved.succeeded.sum()),
        "layerflow_succeeded": int((diagram.status == 0).sum()),
        "limit_steps": int(solved.num_steps.sum()),
        "layerflow_steps": int(diagram.num_steps.sum()),
        "equal_steps": float(np.mean(solved.num_steps == diagram.num_steps.values)),
        "largest_difference": apart(diagram, solved),
        "lanes": solved.lanes,
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """The results, a problem to a row."""
    columns = {
        "limit": ("limit_seconds", ".4f"),
        "packs wait": ("limit_packs_seconds", ".4f"),
        "layerflow": ("layerflow_seconds", ".4f"),
        "ratio": ("ratio", ".1f"),
        "whole call": ("layerflow_call_seconds", ".4f"),
        "least: limit": ("limit_least_seconds", ".4f"),
        "packs wait ": ("limit_packs_least_seconds", ".4f"),
        "layerflow ": ("layerflow_least_seconds", ".4f"),
        "ratio ": ("least_ratio", ".1f"),
        "steps of limit": ("limit_steps", ","),
        "of layerflow": ("layerflow_steps", ","),
        "difference": ("largest_difference", ".0e"),
    }
    rows = [[kind] + [format(of[name], form) for name, form in columns.values()] for kind, of in results.items()]
    return tabulate(rows, ["problem, cores", *columns], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Measure all, print and save."""
    jax.config.update("jax_num_cpu_devices", CORES[-1])
    jax.config.update("jax_enable_x64", True)
    results = {}
    try:
        with program.built() as flow:
            for n in CORES:
                results[f"uniform, {n}"] = compare(flow, "uniform", n)
                results[f"wide, {n}"] = compare(flow, "wide", n)
                results[f"wide, hardest first, {n}"] = compare(flow, "wide", n, hardest_first=True)
    except RuntimeError as error:
        sys.exit(str(error))
    print(table(results))
    _measure.save("limit", results)


if __name__ == "__main__":
    main()
