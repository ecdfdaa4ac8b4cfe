"""What `import layerflow` takes beyond what it is built on.

    python -m benchmarks.imports

Fresh processes import diffrax and optax, or layerflow, in turns; seconds from before the import to behind it. Byte code
is kept, as pip and Python do unless they are told not to: to compile the sources takes as long as all the rest.
"""

import os
import statistics
import subprocess
import sys

from benchmarks import _measure

TURNS = 15
TIMED = "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"
LATE = ("xarray", "matplotlib", "dask", "distributed", "zarr", "pandas")


def seconds(modules: str) -> float:
    """Seconds of an import in a process of its own."""
    return float(printed(TIMED.format(modules)))


def printed(code: str) -> str:
    """What code prints in a process of its own, which keeps byte code."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout


def imports() -> dict[str, float]:
    """Medians of both, of what layerflow adds turn by turn, and how many of the late modules it loads."""
    late = printed(f"import layerflow, sys; print(sum(name in sys.modules for name in {LATE}))")  # leaves byte code
    pairs = [(seconds("diffrax, optax"), seconds("layerflow")) for _ in range(TURNS)]
    below, ours = zip(*pairs, strict=True)
    return {
        "diffrax_and_optax_seconds": statistics.median(below),
        "layerflow_seconds": statistics.median(ours),
        "added_seconds": statistics.median(b - a for a, b in pairs),
        "late_modules_loaded": int(late),
    }


if __name__ == "__main__":
    _measure.run("imports", imports)
