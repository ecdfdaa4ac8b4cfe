"""What benchmarks share that needs no JAX: where results lie, precisions, the processor, and names a user gives."""

import contextlib
import difflib
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
DTYPES = ("float64", "float32")


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):  # Linux alone has this file
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def known(kind: str, names: Sequence[str], there_are: Sequence[str] | dict[str, Any]) -> Sequence[str]:
    """The names asked for, all if none; or an error with the nearest that there is."""
    for name in names:
        if name not in there_are:
            near = difflib.get_close_matches(name, there_are, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"There is no {kind} {name!r}.{hint} There are: {', '.join(there_are)}.")
    return list(dict.fromkeys(names)) or list(there_are)
