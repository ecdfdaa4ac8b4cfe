"""Files of results: who measured what, when, on what."""

import importlib.metadata
import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

from benchmarks import _measure
from benchmarks.suite.measure import Record
from layerflow.sweeps._record import now

FORMAT = "layerflow benchmarks 1"
LIBRARIES = ("jaxlib", "equinox", "optax", "xarray", "scipy", "torch", "torchode", "torchdiffeq")
Key = tuple[str, str, int, float]


def file_of(records: Sequence[Record], repeats: int) -> dict[str, Any]:
    """Records with the machine, versions and commit."""
    return {
        "format": FORMAT,
        "date": now(),
        "machine": _measure.machine() | versions(),
        "commit": git("rev-parse", "HEAD"),
        "changed": git("status", "--porcelain").splitlines(),  # what the commit does not hold
        "repeats": repeats,
        "results": list(records),
    }


def versions() -> dict[str, str]:
    """Versions of what is installed besides."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git(*words: str) -> str:
    """What git says of these sources; nothing where they are no clone."""
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.rstrip()


def read(path: pathlib.Path) -> dict[str, Any]:
    """A file of results, or an error that says what else it is."""
    needed = "A file of `python -m benchmarks run` is needed"
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{needed}, but {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ValueError(f"{needed}, but {path} is no JSON: {error}.") from None
    kind = found.get("format") if isinstance(found, dict) else None
    if kind != FORMAT:
        what = f"its format is {kind!r}" if kind else "its `format` is missing"
        raise ValueError(f"{needed}, format {FORMAT!r}, but {what} in {path}. Make one: python -m benchmarks run.")
    return found


def by_key(file: dict[str, Any]) -> dict[Key, Record]:
    """Records by what was solved by whom, at how many cells and which tolerance."""
    return {(r["problem"], r["backend"], r["cells"], r["rtol"]): r for r in file["results"]}
