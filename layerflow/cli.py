"""The command `layerflow`: the figures of the paper, by name.

Turns float64 on (unless told otherwise) and keeps compiled programs in the user's cache folder.
"""

import contextlib
import difflib
import io
import pathlib
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class Figure:
    """Compute and draw a figure of the paper."""

    name: Annotated[str, tyro.conf.Positional]
    """Which figure; `layerflow list` names them."""
    grid: int = 40
    """Points along each axis."""
    seeds: int | None = None
    """Random starts in each cell; the figure's own number if not given."""
    method: Literal["flow", "descent"] = "flow"
    """Gradient flow, or gradient descent as the authors have it."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of all numbers."""
    out: pathlib.Path = pathlib.Path("figures")
    """Folder for the picture (PNG, PDF) and the data (NetCDF)."""


@dataclass(frozen=True)
class List:
    """Name the figures."""


Command = Annotated[Figure, tyro.conf.subcommand("figure")] | Annotated[List, tyro.conf.subcommand("list")]


class UserError(Exception):
    """Something the user can mend, said in one line."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors end it with one line and exit code 2."""
    try:
        command = _parsed(arguments)
        _list() if isinstance(command, List) else _figure(command)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    except (UserError, ValueError, TypeError, MemoryError, OSError) as error:
        print(f"layerflow: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("layerflow: interrupted", file=sys.stderr)
        sys.exit(130)


def _parsed(arguments: list[str] | None) -> Figure | List:
    """The command as typed; tyro's boxed complaint is brought down to one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(Command, prog="layerflow", description=__doc__, args=arguments)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        words = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        inside = [line.strip("│| ") for line in words.splitlines()[1:]]  # the first line is the box's title
        parts = re.split(r"Argument helptext|For full helptext|[─-]{4,}", " ".join(inside))
        complaint = next((part for part in parts if part.strip()), "The command was not understood")
        raise UserError(f"{' '.join(complaint.split()).rstrip('.')}. See `layerflow --help`.") from None


def _list() -> None:
    from layerflow.figures import FIGURES

    for name, figure in FIGURES.items():
        print(f"{name:4} {figure.TITLE}")


def _figure(command: Figure) -> None:
    folder = _writable(command.out)
    for name, value in (("grid", command.grid), ("seeds", command.seeds)):
        if value is not None and value < 1:
            raise UserError(f"--{name} needs a positive whole number, but it is {value}.")
    import jax

    jax.config.update("jax_enable_x64", command.dtype == "float64")
    from layerflow import enable_compile_cache
    from layerflow.figures import FIGURES

    if command.name not in FIGURES:
        near = difflib.get_close_matches(command.name.lower(), FIGURES, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no figure {command.name!r}.{hint} Figures: {', '.join(FIGURES)}.")
    with contextlib.suppress(OSError):  # a cache that cannot be kept is no reason to stop
        enable_compile_cache()

    figure, begin = FIGURES[command.name], time.perf_counter()
    seeds = {} if command.seeds is None else {"seeds": command.seeds}
    diagram = figure.compute(grid=command.grid, method=command.method, **seeds)
    computed = time.perf_counter()
    picture = figure.draw(diagram)
    stem = folder / f"figure_{command.name}"
    picture.savefig(stem.with_suffix(".png"), dpi=200)
    picture.set_layout_engine("none")  # keep the layout just found
    picture.savefig(stem.with_suffix(".pdf"), dpi=200)
    diagram.to_netcdf(stem.with_suffix(".nc"), engine="scipy")

    cells, failures = diagram.status.size, int((diagram.status >= 3).sum())
    print(f"Figure {command.name}: {figure.TITLE}")
    print(f"  {' x '.join(f'{size} {name}' for name, size in diagram.kernel_distance.sizes.items())} = {cells} cells")
    print(f"  method   {_method(diagram.attrs)}, {diagram.attrs['dtype']} on {diagram.attrs['device']}")
    print(f"  failed   {failures} cells")
    print(
        f"  seconds  {computed - begin:.2f} to compute ({diagram.attrs['compile_seconds']:.2f} of it compiling), "
        f"{time.perf_counter() - computed:.2f} to draw and save"
    )
    for note in figure.NOTES:
        print(f"  note     {note}")
    for ending in ("png", "pdf", "nc"):
        print(f"  file     {stem.with_suffix(f'.{ending}')}")


def _method(attrs: dict[str, Any]) -> str:
    """How the cells were solved, in words."""
    if attrs["method"] == "Flow":
        return f"gradient flow to t = {attrs['t1']:g}, {attrs['solver']}, rtol {attrs['rtol']:g}"
    return f"{attrs['steps']} steps of {attrs['optimiser']} at rate {attrs['learning_rate']:g}"


def _writable(folder: pathlib.Path) -> pathlib.Path:
    """`folder`, made and tried out before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}. Name another folder.") from None
    return folder


if __name__ == "__main__":
    main()
