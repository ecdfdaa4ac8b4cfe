"""Where Python objects come from: an installed package, by name and version, or the user; and what functions read."""

import dis
import functools
import importlib.metadata
import itertools
import os
import sys
import sysconfig
import types
from typing import Any


def name_of(value: Any) -> str:
    """Module and name of a class or function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def version_of(module: str | None) -> str:
    """Name and version of the installed package, or of Python, that a module belongs to; "" if it is a user's own."""
    top = (module or "").partition(".")[0]
    return _version_of_package(top) if top else ""


@functools.lru_cache(maxsize=1024)
def _version_of_package(top: str) -> str:
    if top in sys.stdlib_module_names and top != "__main__":
        return f"python {sys.version}"
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    folder = os.path.dirname(os.path.dirname(file) if os.path.basename(file).startswith("__init__.") else file)
    try:
        found = importlib.metadata.distribution(top)
        version, there = found.version, str(found.locate_file(""))
    except importlib.metadata.PackageNotFoundError:
        version, there = getattr(sys.modules.get(top), "__version__", ""), ""
    # Into one of these, into those of another Python that this one builds on, or into any with `pip --target`.
    installed = {there.rstrip(os.sep), *(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))}
    kept = folder in installed or os.path.basename(folder) in ("site-packages", "dist-packages")
    return f"{top} {version}" if top == "layerflow" or (file and kept) else ""


def offered_as(value: Any) -> str:
    """Where an installed package has this very object, with its version; "" if it is nobody's."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not version_of(module):
        return ""
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    return f"{module}.{name} of {version_of(module)}" if there is value else ""


@functools.lru_cache(maxsize=1024)
def chains(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """The global names that code and the functions inside it read, each with the attributes taken of it at once.

    What is imported on the way begins with a space, which no name does.
    """
    found: list[list[str]] = []
    chain: list[str] | None = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.append(chain := [step.argval])
        elif step.opname == "IMPORT_NAME":
            found.append(chain := [f" {step.argval}"])
        elif chain is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(step.argval)
        elif step.opname not in ("CACHE", "PUSH_NULL", "PRECALL", "EXTENDED_ARG"):
            chain = None
    inside = [chains(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return (*map(tuple, found), *itertools.chain(*inside))
