"""Seconds and memory of every figure, each in a process of its own from start to files.

    python -m benchmarks.figures            all of them
    python -m benchmarks.figures 6a 10      these; the others keep what was measured before
    python -m benchmarks.figures --record FOLDER    the claims of full recipes, from the files in FOLDER

All start from an empty compile cache, which they share from then on, as `layerflow figure all` does.
"""

import dataclasses
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import xarray

from benchmarks import _measure
from layerflow.figures import FIGURES

README = _measure.RESULTS.parent / "README.md"
BEGIN, END = "<!-- table of figures -->\n", "<!-- end of the table -->"


def quick(name: str) -> list[str]:
    """The flag for the quick recipe, where a figure has one."""
    return ["--quick"] * ("quick" in inspect.signature(FIGURES[name].compute).parameters)


def measured(name: str, folder: str) -> dict[str, float]:
    """Seconds and peak memory of one figure by the command."""
    command = [sys.executable, "-m", "layerflow.cli", "figure", name, "--out", folder, *quick(name)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | {"XDG_CACHE_HOME": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"Figure {name} ended with exit code {process.returncode}: {' '.join(command)}")
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),  # the same on a machine that others use too
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def earlier() -> dict[str, dict[str, float]]:
    """What was measured before, of figures that there still are."""
    path = _measure.RESULTS / "figures.json"
    before = json.loads(path.read_text())["figures"] if path.exists() else {}
    return {name: before[name] for name in FIGURES if name in before}


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    row = lambda name, s, cpu, gib: f"| {name} | {s:.0f} | {cpu:.0f} | {gib:.2f} |"
    names = [" ".join([name, *quick(name)]) for name in results]
    head = ["| figure | seconds | of processor time | peak memory (GiB) |", "|---|---|---|---|"]
    columns = [[r[key] for r in results.values()] for key in ("seconds", "cpu_seconds", "peak_gib")]
    last = row("all", sum(columns[0]), sum(columns[1]), max(columns[2]))
    return "\n".join([*head, *map(row, names, *columns), last]) + "\n"


def record(folder: str) -> None:
    """Judge figures by the files that `layerflow figure` wrote without --quick, and keep their claims."""
    path = _measure.RESULTS / "claims.json"
    kept = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name, figure in FIGURES.items():
        if (file := pathlib.Path(folder, f"figure_{name}.nc")).exists():
            kept[name] = [dataclasses.asdict(claim) for claim in figure.claims(xarray.load_dataset(file))]
    _measure.save("claims", {"figures": {name: kept[name] for name in FIGURES if name in kept}})


def main(names: list[str]) -> None:
    """Measure, save, and renew the table in the README."""
    if names[:1] == ["--record"]:
        record(*names[1:])
        return
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        sys.exit(f"There is no figure {unknown[0]}. Figures: {', '.join(FIGURES)}.")
    results = earlier()
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FIGURES:
            results[name] = measured(name, folder)
            print(f"figure {name}: {results[name]}", flush=True)
    results = {name: results[name] for name in FIGURES if name in results}
    _measure.save("figures", {"figures": results})
    before, rest = README.read_text("utf-8").split(BEGIN)
    README.write_text(f"{before}{BEGIN}{table(results)}{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
