"""What an accelerator would run: programs of sweeps, compiled for devices that are not there, one row each.

A row says what a step of all lanes launches and moves, what comes between bursts of steps, how often the host waits,
what kernels and programs take, and how fast that might be: an estimate from launches and memory traffic, or from the
arithmetic of a kernel that is the whole way, not measured.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import tyro

from benchmarks._shared import DTYPES, RESULTS, known, processor
from benchmarks.accelerators.targets import ENVIRONMENT, TARGETS, WHEELS

Row = dict[str, Any]
Key = tuple[str, str, str]  # target, sweep and dtype

# Of sweeps.py, which is left to the processes that compile: JAX, with its plugins installed, has much to say.
NAMES = (
    *("2-2-2", "5-5-5", "20-20-20", "2-2-2-2-2", "samples", "times", "converged", "kvaerno5", "derivative"),
    *("descent", "exact", "figure-6a", "figure-10"),
)
CHECKED = (("h200", "2-2-2", "float64"), ("h200", "5-5-5", "float64"), ("v5e", "2-2-2", "float32"))
RECORD = RESULTS / "accelerators.json"
LIMIT = 1200  # seconds that compiling one row may take
_COLUMNS = {
    "step_launches": "launches/step",
    "refill_launches": "/refill",
    "host_syncs": "syncs",
    "registers": "registers",
    "spilled_bytes": "spilled",
    "bytes_per_lane_step": "bytes/lane-step",
    "memory_bytes": "memory",
    "compile_seconds": "compile s",
    "estimated_lane_steps_per_second": "estimated lane-steps/s",
}


@dataclass(frozen=True)
class Accelerators:
    """The arguments of the command."""

    target: tuple[str, ...] = ()
    """Devices to compile for; all known ones if not given."""
    sweeps: tuple[str, ...] = ()
    """Names of sweeps; all of them if not given."""
    dtype: tuple[str, ...] = ()
    """float64 and float32; both if not given."""
    out: pathlib.Path = RECORD
    """Where to store rows; others that are there stay."""
    check: bool = False
    """Compile a few rows only, store nothing, and exit with 1 if a step launches more than what is stored in OUT."""

    def run(self) -> None:
        """Compile row by row; what is done is on disk."""
        chosen = self._chosen()
        missing = {package for name, _, _ in chosen for package in TARGETS[name].missing}
        if missing:
            raise ValueError(
                f"To compile for these devices takes {' and '.join(sorted(missing))}, not installed here. Install it: "
                f'pip install "layerflow[accelerators]" (wheels exist for Linux on x86-64 alone).'
            )
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out} lies in a folder that does not exist. Make it, or name another.")
        stored = _stored(self.out)
        print(_line({}))
        if self.check:
            self._check(chosen, stored)
        for key in chosen:
            stored[key] = _told(compiled(*key))
            self.out.write_text(json.dumps({"rows": list(stored.values())}, indent=1) + "\n")
        print(f"saved {self.out}")

    def _check(self, chosen: Sequence[Key], stored: dict[Key, Row]) -> NoReturn:
        """Exit with 1 if a row is worse than the one that is stored."""
        for key in chosen:
            if key not in stored:
                raise ValueError(f"{self.out} holds no row {' '.join(key)} to check against. Run it without --check.")
        worse = [line for key in chosen for line in worsened(stored[key], _told(compiled(*key)))]
        print("\n".join(worse) or "No step launches more than is recorded.")
        sys.exit(int(bool(worse)))

    def _chosen(self) -> list[Key]:
        """Of every row."""
        of = (
            known("target", self.target, TARGETS),
            known("sweep", self.sweeps, NAMES),
            known("dtype", self.dtype, DTYPES),
        )
        if self.check and (self.target or self.sweeps or self.dtype):
            raise ValueError("--check has rows of its own. Leave out --target, --sweeps and --dtype.")
        return list(CHECKED) if self.check else [(t, s, d) for t in of[0] for d in of[2] for s in of[1]]


def compiled(target: str, sweep: str, dtype: str) -> Row:
    """A row, compiled in a process of its own: a precision is set once, and a compiler may end the process."""
    command = [sys.executable, "-m", "benchmarks.accelerators.row", target, sweep, dtype]
    try:
        ran = subprocess.run(
            command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        found = {"refused": f"not compiled within {LIMIT} seconds"}
    else:
        lines = ran.stderr.strip().splitlines() or [""]
        said = next((line for line in lines if re.match(r"F\d{4} ", line)), lines[-1])[:300]  # XLA ends a process so
        ended = {"refused": f"the process ended with exit code {ran.returncode}: {said}"}
        found = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else ended
    by = {"compiled_by": compilers(TARGETS[target].platform), "compiled_on": processor()}
    return {"target": target, "sweep": sweep, "dtype": dtype} | found | by


def worsened(before: Row, now: Row) -> list[str]:
    """In what a row is worse than the one that is stored."""
    where = f"{now['target']} {now['sweep']} {now['dtype']}"
    same = before["compiled_by"] == now["compiled_by"]
    other = "" if same else f" Compilers differ: {before['compiled_by']}, now {now['compiled_by']}."
    if "refused" in now and "refused" not in before:
        return [f"{where} is refused now: {now['refused']}{other}"]
    launches, were = now.get("step_launches", 0), before.get("step_launches", 0)
    return [f"{where}: a step launches {launches:g}, {were:g} are recorded.{other}"] if launches > were else []


def compilers(platform: str) -> str:
    """What compiles for a platform, with versions: another one launches more or fewer operations."""
    packages = ("jaxlib", *WHEELS[platform].values())
    return ", ".join(f"{package} {version(package)}" for package in packages)


def _stored(file: pathlib.Path) -> dict[Key, Row]:
    try:
        rows: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
        return {(row["target"], row["sweep"], row["dtype"]): row for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"--out {file} holds something else than rows of this benchmark. Name another file."
        ) from error


def _told(row: Row) -> Row:
    print(_line(row), flush=True)
    return row


def _line(row: Row) -> str:
    """A row of the table that is printed; of an empty one its heading."""
    names = [f"{row.get(name, name):{width}}" for name, width in (("target", 6), ("sweep", 10), ("dtype", 7))]
    value = lambda name: f"{row[name]:.4g}" if name in row else "-"
    cells = [f"{value(name) if row else head:>{len(head)}}" for name, head in _COLUMNS.items()]
    return "  ".join([*names, *cells, row.get("refused", "") if row else "refused"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's error ends it with one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        tyro.cli(Accelerators, prog="python -m benchmarks.accelerators", description=__doc__, args=given).run()
    except (ValueError, OSError) as error:
        print(f"accelerators: {error}", file=sys.stderr)
        sys.exit(2)
