"""Two files of results side by side: what became slower or wrong, beyond the noise."""

import math
from typing import Any

from tabulate import tabulate

from benchmarks.suite.files import Key, by_key
from benchmarks.suite.measure import Record
from benchmarks.suite.report import median, spread

LEAST = 0.1  # a change of time below this is none: machines wander so much from run to run
UNKNOWN = 0.5  # the same, of what was measured once
SIGMAS = 3.0
ROUNDING = 1e-13  # errors below are none
SAME = ("processor", "cores", "memory_gib", "device")


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, list[str], bool]:
    """A table, warnings, and whether anything is a regression."""
    first, second = by_key(before), by_key(after)
    common = [key for key in second if key in first]
    if not common:
        raise ValueError(
            f"Results of the same problem, backend, cells and rtol are needed in both files, but there are none. "
            f"Before: {_held(first)}. After: {_held(second)}. Run both with the same options."
        )
    rows = [(key, *verdict(first[key], second[key])) for key in common]
    warnings = [
        f"{name} was {before['machine'].get(name)} and is {after['machine'].get(name)}: times say little of the code"
        for name in SAME
        if before["machine"].get(name) != after["machine"].get(name)
    ]
    for file, there in (("before", set(first) - set(second)), ("after", set(second) - set(first))):
        if there:
            warnings.append(f"{len(there)} results are in the file {file} alone")
    table = tabulate(
        [_row(key, first[key], second[key], noise, words) for key, noise, words, _ in rows],
        [
            "problem",
            "backend",
            "cells",
            "rtol",
            "before",
            "after",
            "ratio",
            "noise",
            "error before",
            "after",
            "verdict",
        ],
        tablefmt="github",
        disable_numparse=True,
    )
    return table, warnings, any(worse for *_, worse in rows)


def verdict(before: Record, after: Record) -> tuple[float, str, bool]:
    """The noise, as a relative change of time; what changed, in words; whether that is a regression."""
    noise = noise_of(before, after)
    if after["wrong"] and not before["wrong"]:
        return noise, f"REGRESSION: {after['wrong']}", True
    if after["wrong"]:
        return noise, f"wrong in both: {after['wrong']}", False
    words = ["was wrong: " + before["wrong"]] if before["wrong"] else []
    old, new = median(before), median(after)
    ratio = new / old if old and new else 1.0
    slower = ratio > 1 + noise
    if slower:
        words.append(f"REGRESSION: {ratio:.2f} times slower")
    elif ratio < 1 / (1 + noise):
        words.append(f"{1 / ratio:.2f} times faster")
    errors = [max(record.get("error", math.nan), ROUNDING) for record in (before, after)]
    if errors[1] > 2 * errors[0] or errors[0] > 2 * errors[1]:
        words.append("more accurate" if errors[1] < errors[0] else "less accurate")
    return noise, "; ".join(words), slower


def noise_of(before: Record, after: Record) -> float:
    """Which relative change of the median time turns alone may explain."""
    turns = [len(record["seconds"]) for record in (before, after)]
    if min(turns) < 3:
        return UNKNOWN
    # The median of n turns strays by 1.25 / sqrt(n) of what one does.
    strays = [1.25 * spread(record) / math.sqrt(n) for record, n in zip((before, after), turns, strict=True)]
    return max(LEAST, SIGMAS * math.hypot(*strays))


def _row(key: Key, before: Record, after: Record, noise: float, words: str) -> list[str]:
    problem, backend, cells, rtol = key
    old, new = median(before), median(after)
    of = lambda value, form: "" if value is None else format(value, form)
    ratio = f"{new / old:.2f}" if old and new else ""
    times = [of(old, ".3g"), of(new, ".3g"), ratio, f"{100 * noise:.0f} %"]
    errors = [of(record.get("error"), ".1e") for record in (before, after)]
    return [problem, backend, f"{cells:,}", f"{rtol:.0e}", *times, *errors, words]


def _held(records: dict[Key, Record]) -> str:
    shown = [f"{p} by {b}, {cells} cells, rtol {rtol:.0e}" for p, b, cells, rtol in list(records)[:3]]
    more = f" and {len(records) - 3} more" if len(records) > 3 else ""
    return ("; ".join(shown) or "nothing") + more
