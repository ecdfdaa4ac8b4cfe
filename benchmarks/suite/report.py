"""Results as tables."""

import statistics
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.suite.backends import BACKENDS, BASE
from benchmarks.suite.measure import Record
from benchmarks.suite.problems import problems


def overview() -> str:
    """The problems there are, and the backends."""
    of_problems = [[p.name, f"{p.cells:,}", p.what, p.judge] for p in problems().values()]
    of_backends = [[b.name, b.what, _installed(b.missing)] for b in BACKENDS.values()]
    return "\n\n".join(
        (
            _table(of_problems, ["problem", "cells", "what it is", "judge"]),
            _table(of_backends, ["backend", "what it is", "installed"]),
        )
    )


def _installed(missing: list[str]) -> str:
    return f"no: pip install {' '.join(missing)}" if missing else "yes"


def results(records: Sequence[Record]) -> str:
    """Medians, and ratios of right answers to the base."""
    header = ["problem", "cells", "rtol", "backend", "seconds", "+-", "whole call", "ratio", "error", "succeeded"]
    bases = {_setting(r): median(r) for r in records if r["backend"] == BASE and not r["wrong"]}
    return _table([_row(record, bases.get(_setting(record))) for record in records], header)


def _row(record: Record, base: float | None) -> list[Any]:
    seconds = median(record)
    ratio = f"{seconds / base:.2f}" if base and seconds else ""
    of = lambda value, form: "" if value is None else format(value, form)
    return [
        record["problem"],
        f"{record['cells']:,}",
        f"{record['rtol']:.0e}",
        record["backend"],
        of(seconds, ".3g"),
        f"{100 * spread(record):.0f} %" if len(record["seconds"]) > 1 else "",
        of(median(record, "call_seconds"), ".3g"),
        f"none: {record['wrong']}" if record["wrong"] else ratio,
        of(record.get("error"), ".1e"),
        f"{record['succeeded']} of {record['expected']}" if "succeeded" in record else "",
    ]


def _setting(record: Record) -> tuple[str, int, float]:
    return record["problem"], record["cells"], record["rtol"]


def median(record: Record, of: str = "seconds") -> float | None:
    """Median of all turns; none where there was no turn."""
    return statistics.median(record[of]) if record[of] else None


def spread(record: Record) -> float:
    """Standard deviation of a turn, relative to the median, by the quartiles: outliers leave them alone."""
    first, middle, third = statistics.quantiles(record["seconds"], n=4, method="inclusive")
    return (third - first) / 1.349 / middle


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)
