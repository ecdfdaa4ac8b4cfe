"""How the package is built: one road downwards, no circle, nothing too long to read."""

import ast
import functools
import pathlib
import sys
import tomllib

import jax.numpy as jnp
import optax

import layerflow as lf
from layerflow.engine._kept import programs

ROOT = pathlib.Path(lf.__file__).parent
CONTRACT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
ROWS = [row.split(" | ") for row in reversed(CONTRACT["layers"])]  # from the ground up
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}
CLIMBS = {
    ("engine", "sweeps"): "to trace the cell function, and to fetch the next chunk",
    ("methods", "engine"): "to the traced functions of a cell",
    ("sweeps", "store"): "to the place where chunks are kept",
    ("engine", "store"): "to fetch the next chunk",
}


def cell(key, lam):
    return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), lf.Moments.whitened(yx=jnp.eye(2)))


@functools.cache
def room_of(file):
    """The room of a file; None of what is not layerflow's."""
    path = pathlib.Path(file)
    return path.relative_to(ROOT).parts[0].removesuffix(".py") if path.is_relative_to(ROOT) else None


def climbs_of(call):
    """Pairs of rooms between which a call went up; what the user's functions call is theirs."""
    found = set()

    def hear(frame, event, _):
        to = room_of(frame.f_code.co_filename) if event == "call" else None
        above = frame.f_back
        while to and above and room_of(above.f_code.co_filename) is None and above.f_code.co_filename != __file__:
            above = above.f_back
        by = room_of(above.f_code.co_filename) if to and above else None
        if by and by != to and HEIGHT[to] >= HEIGHT[by]:
            found.add((by, to))

    sys.setprofile(hear)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def test_a_sweep_goes_down_and_climbs_at_four_places_at_most(tmp_path):
    programs.clear()  # what is kept of another test would not be traced
    how = {"method": lf.Flow(t1=1.0), "store": tmp_path / "diagram.zarr", "progress": False}

    assert climbs_of(lambda: lf.sweep(cell, {"lam": [-1.0, 1.0]}, **how)) == set(CLIMBS)


def test_in_memory_it_climbs_at_two():
    programs.clear()
    method = lf.Descent(optax.sgd, learning_rate=0.1, steps=5)

    found = climbs_of(lambda: lf.sweep(cell, {"lam": [-1.0, 1.0]}, method=method, progress=False))

    assert found == {("engine", "sweeps"), ("methods", "engine")}


def functions():
    for file in sorted(ROOT.rglob("*.py")):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node, text.splitlines()


def test_every_function_fits_on_a_screen():
    long = []
    for file, node, lines in functions():
        first, *_ = node.body
        said = (
            isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
        )
        doc = first.end_lineno - first.lineno + 1 if said else 0
        code = [line for line in lines[node.lineno - 1 : node.end_lineno] if line.strip()]
        if len(code) - doc > 64:
            long.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert not long


def test_every_file_has_400_lines_at_most():
    lengths = {str(file.relative_to(ROOT)): file.read_text().count("\n") for file in ROOT.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}
