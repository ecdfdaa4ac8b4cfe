"""How every benchmark measures and what it records."""

import contextlib
import json
import math
import os
import platform
import statistics
import time
import unittest.mock
from collections.abc import Callable, Generator
from importlib.metadata import version
from typing import Any

import jax
import psutil

from benchmarks._shared import RESULTS, processor
from layerflow.engine._chunks import Batch


def seconds(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median time of `run`, which is warm already and whose result is waited for."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


@contextlib.contextmanager
def programs() -> Generator[list[tuple[float, float]]]:
    """When each compiled program of a sweep begins and ends inside, chunk by chunk."""
    original, spans = Batch.run, []

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(original(*arguments))
        spans.append((begin, time.perf_counter()))
        return result

    with unittest.mock.patch.object(Batch, "run", timed):
        yield spans


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that spans of time cover together: programs on several devices run side by side."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def in_programs(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of `run` in which compiled programs of a sweep were running, on one device or on several."""
    totals = []
    for _ in range(repeats):
        with programs() as spans:
            run()
        totals.append(covered(spans))
    return statistics.median(totals)


def peak_gib() -> float:
    """Most memory that this process has held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": processor(),
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("layerflow", "jax", "diffrax", "numpy")},
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result as JSON, with the machine it was taken on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | result, indent=2) + "\n")
    print(f"saved {path}")


def run(name: str, *parts: Callable[[], dict[str, float]]) -> None:
    """Run all parts of a benchmark in float64, print and save what they measured."""
    jax.config.update("jax_enable_x64", True)
    result = {}
    for part in parts:
        result[part.__name__] = part()
        shown = {
            n: value if isinstance(value, int) else float(f"{value:.4g}") for n, value in result[part.__name__].items()
        }
        print(part.__name__, shown, flush=True)
    save(name, result)
