"""The benchmark suite: its answers are right, its files complete, and a comparison finds what is worse and no noise."""

import copy
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.suite import compare, files, plots
from benchmarks.suite.backends import BACKENDS, BASE
from benchmarks.suite.commands import main
from benchmarks.suite.measure import judged, measure
from benchmarks.suite.problems import INVARIANTS, healthy, problems

CELLS = 8
ROOT = pathlib.Path(__file__).parents[1]
WITHOUT_TORCH = [backend for backend in BACKENDS.values() if "torch" not in backend.needs]


def record(problem="uniform", backend=BASE, cells=64, rtol=1e-6, seconds=(1.0, 1.02, 0.98, 1.01, 0.99), **more):
    """A result as a run writes it."""
    of = {"problem": problem, "backend": backend, "cells": cells, "rtol": rtol, "error": rtol, "wrong": ""}
    return of | {"seconds": list(seconds), "call_seconds": list(seconds), "succeeded": cells, "expected": cells} | more


@pytest.fixture
def file():
    """A file of two results."""
    return files.file_of([record(), record(backend="diffrax", seconds=(3.0, 3.5, 2.6, 3.1, 2.9))], repeats=5)


@pytest.fixture
def written(tmp_path):
    """Write something as JSON, and say where."""

    def write(content, name="file.json"):
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    return write


def test_the_module_lists_problems_and_backends():
    command = [sys.executable, "-m", "benchmarks"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    for name in (*problems(), *BACKENDS):
        assert f"| {name} " in printed
    assert "| yes " in printed


@pytest.mark.slow
def test_a_run_of_two_problems_is_right_and_says_all_there_is_to_say(tmp_path, capsys):
    """Of every backend that is installed."""
    out = tmp_path / "run.json"
    names = [backend.name for backend in WITHOUT_TORCH]
    main(
        [
            "run",
            "closed-form",
            "descent",
            "--cells",
            str(CELLS),
            "--repeats",
            "1",
            "--out",
            str(out),
            "--backends",
            *names,
        ]
    )

    found = files.read(out)
    assert {"processor", "cores", "memory_gib", "device", "python", "jax", "diffrax", "scipy"} <= set(found["machine"])
    assert {"date", "commit", "changed", "repeats"} <= set(found)
    able = {(p, b.name) for p in ("closed-form", "descent") for b in WITHOUT_TORCH if b.does(problems()[p])}
    assert {(r["problem"], r["backend"]) for r in found["results"]} == able
    for result in found["results"]:
        assert result["wrong"] == ""
        assert result["error"] < result["within"]
        assert result["succeeded"] == result["expected"] == CELLS
        assert min(result["seconds"] + result["call_seconds"] + [result["first_call_seconds"]]) > 0
    assert "| closed-form " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", problems())
def test_every_problem_is_solved_by_every_backend(name):
    """Poisoned cells, too, say that they failed: one in a hundred is."""
    problem = problems()[name]
    backends = [backend for backend in WITHOUT_TORCH if backend.does(problem)]
    for result in measure(problem, 108, 1e-6, backends, repeats=0):
        assert result["wrong"] == "", result


def test_the_velocity_by_hand_is_that_of_layerflow():
    """Of every problem, at its first starts, in float64."""
    for problem in problems().values():
        given = problem.draw(2)
        w, scale = given["w"][0], given["scale"][0]
        by_hand = problem.velocity(problem.layers(w), scale)
        cell = problem.cell(w, scale)
        by_layerflow = cell.velocity(cell.start).weights
        for ours, theirs in zip(by_hand, by_layerflow, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12, err_msg=problem.name)


def test_the_judge_finds_what_is_wrong():
    right = {name: np.ones((3, 2, 2)) for name in INVARIANTS}
    well, solved = np.array([True, True, False]), np.array([True, True, False])
    bad = right | {"matrix": right["matrix"] * np.array([1.0, 1.1, np.nan])[:, None, None]}

    assert judged(right, solved, right, well, 1e-6)["wrong"] == ""
    assert judged(right, np.array([True, False, False]), right, well, 1e-6)["wrong"] == "1 cells failed"
    assert judged(right, np.array([True] * 3), right, well, 1e-6)["wrong"] == "1 poisoned cells passed for solved"
    assert judged(bad, solved, right, well, 1e-6)["wrong"] == "error 1.0e-01 is beyond 1e-06"


def test_one_cell_in_a_hundred_is_poisoned():
    assert (~healthy(problems()["poisoned"].draw(300))).sum() == 3


def test_a_comparison_finds_no_regression_in_noise(file, written, capsys):
    again = copy.deepcopy(file)
    again["results"][0]["seconds"] = [1.05, 1.03, 1.06, 1.02, 1.04]
    again["results"][1]["seconds"] = [3.4, 3.3, 3.8, 2.9, 3.6]

    with pytest.raises(SystemExit, match=r"^0$"):
        main(["compare", written(file), written(again, "again.json")])
    assert "REGRESSION" not in (printed := capsys.readouterr().out)
    assert "warning" not in printed


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"seconds": [1.3, 1.31, 1.29, 1.3, 1.32]}, "REGRESSION: 1.30 times slower"),
        ({"wrong": "error 1.0e-02 is beyond 2e-05"}, "REGRESSION: error 1.0e-02"),
    ],
    ids=["slower", "wrong"],
)
def test_a_comparison_finds_a_regression(file, written, capsys, planted, words):
    worse = copy.deepcopy(file)
    worse["results"][0] |= planted
    worse["machine"] |= {"cores": 1000}

    with pytest.raises(SystemExit, match=r"^1$"):
        main(["compare", written(file), written(worse, "worse.json")])
    assert words in (printed := capsys.readouterr().out)
    assert printed.count("REGRESSION") == 1
    assert "and is 1000: times say little of the code" in printed


def test_a_comparison_says_what_is_better():
    before, after = record(), record(seconds=[0.5] * 5, error=1e-9)
    assert compare.verdict(before, after)[1:] == ("2.00 times faster; more accurate", False)


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    by_tolerance = [record(rtol=rtol, backend=name) for rtol in (1e-4, 1e-8) for name in BACKENDS]
    by_cells = [record("wide", cells=cells) for cells in (64, 256)]
    drawn = plots.draw([*by_tolerance, *by_cells], tmp_path)

    assert {path.name for path in drawn} == {
        f"{name}.{ending}" for name in ("work_precision_uniform", "scaling_wide") for ending in ("png", "pdf")
    }
    assert set(plots.STYLES) == set(BACKENDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "unifrom"], "There is no problem 'unifrom'. Did you mean uniform? There are: uniform, wide"),
        (["run", "--backends", "difrax"], "There is no backend 'difrax'. Did you mean diffrax?"),
        (["run", "uniform", "--backends", "numpy"], "No backend named solves a problem named. Backends of uniform"),
        (["run", "--cells", "0"], "--cells needs whole numbers of at least 1, but it is 0"),
        (["run", "--tolerances", "1e-14"], "--tolerances need to be from 1e-11"),
        (["run", "--out", "/nowhere/run.json"], "lies in a folder that does not exist"),
        (["compare", "{none}", "{none}"], "but its `format` is missing in"),
        (["compare", "README.md", "{file}"], "is no JSON"),
        (["compare", "nowhere.json", "{file}"], "cannot be read: No such file"),
        (["compare", "{file}", "{other}"], "there are none. Before: uniform by layerflow, 64 cells, rtol 1e-06"),
        (["plot", "{file}"], "To plot takes results of a problem at two tolerances or two numbers of cells"),
        (["plot"], "To plot takes a file of results"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_say_what_was_needed_what_came_and_how_to_mend_it(arguments, words, file, written, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    there = {"file": written(file), "none": written({"machine": {}}, "none.json")}
    there["other"] = written(file | {"results": [record(cells=7)]}, "other.json")

    with pytest.raises(SystemExit, match=r"^2$"):
        main([argument.format(**there) for argument in arguments])
    assert words in capsys.readouterr().err


def test_a_library_that_is_not_installed_is_told_with_its_remedy(capsys):
    missing = [backend for backend in BACKENDS.values() if backend.missing]
    if not missing:
        pytest.skip("all are installed")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["run", "--backends", missing[0].name])
    assert f"is not installed. Install it: pip install {missing[0].missing[0]}" in capsys.readouterr().err
