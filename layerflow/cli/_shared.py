"""What the commands share: settings before anything is computed, and files after."""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MethodName = Literal["flow", "exact", "descent"]
Dtype = Literal["float64", "float32"]


class UserError(Exception):
    """Something the user can mend, said in one line."""


class DoesNotHold(Exception):
    """A claim of a figure that its numbers do not bear out, said in one line; all else was done."""


def set_up(dtype: Dtype) -> None:
    """Choose the precision, use every core, and keep compiled programs; before anything is computed."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    with contextlib.suppress(RuntimeError):  # too late where JAX is in use already
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", cores)
    from layerflow import enable_compile_cache

    with contextlib.suppress(OSError):  # a cache that cannot be kept is no reason to stop
        enable_compile_cache()


def check_positive(**values: float | int | None) -> None:
    """Raise if a flag that needs a positive number has another."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} needs to be positive, but it is {value}.")


def writable(folder: pathlib.Path) -> pathlib.Path:
    """`folder`, made and tried out before anything is computed."""
    folder = plain(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}. Name another folder.") from None
    return folder


def plain(path: pathlib.Path) -> pathlib.Path:
    """`path` with the user's home for a leading ~, which a shell leaves alone in --out=~/drawn."""
    return pathlib.Path(os.path.expanduser(path))


@dataclass(frozen=True)
class Saved:
    """What was saved of a diagram, and why its picture was not."""

    files: list[pathlib.Path]
    undrawn: str = ""

    def check(self) -> None:
        """Raise if there is no picture."""
        if self.undrawn:
            raise UserError(f"The picture could not be drawn: {self.undrawn} The numbers are kept in {self.files[0]}.")


def keep(diagram: "xarray.Dataset", stem: pathlib.Path) -> pathlib.Path:
    """Write the numbers, which comes before anything is drawn; returns the file."""
    file = stem.with_name(f"{stem.name}.nc")
    try:
        diagram.to_netcdf(file, engine="scipy")
    except (KeyError, TypeError, ValueError) as error:  # of labels that came from elsewhere
        raise UserError(f"The numbers cannot be written to {file}: {error}") from error
    return file


def draw(picture: Callable[[], "Figure"], numbers: pathlib.Path) -> Saved:
    """Draw and write the picture beside the numbers; what a drawing may fail of, it costs the picture alone."""
    png, pdf = numbers.with_suffix(".png"), numbers.with_suffix(".pdf")
    try:
        figure = picture()
        figure.savefig(png, dpi=200)
        figure.set_layout_engine("none")  # keep the layout just found
        figure.savefig(pdf, dpi=200)
    except Exception as error:  # whatever it is, the numbers took longer
        for file in (png, pdf):
            with contextlib.suppress(OSError):
                file.unlink()  # half a picture, or that of an earlier run, would pass for this one's
        return Saved([numbers], f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}.")
    return Saved([png, pdf, numbers])


def report(
    title: str,
    diagram: "xarray.Dataset",
    notes: Iterable[str],
    saved: Saved,
    begin: float,
    claims: Iterable[object] = (),
) -> None:
    """Say what was done and where it lies."""
    print(title)
    print(diagram)
    for note in notes:
        print(f"  note      {note}")
    for claim in claims:
        print(f"  claim     {claim}")
    if saved.undrawn:
        print("  picture   could not be drawn")
    for file in saved.files:
        print(f"  file      {file}")
    print(f"  all in    {time.perf_counter() - begin:.1f} s")
