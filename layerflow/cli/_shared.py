"""What the commands share: settings before anything is computed, and files after."""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MethodName = Literal["flow", "exact", "descent"]
Dtype = Literal["float64", "float32"]


class UserError(Exception):
    """Something the user can mend, said in one line."""


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


_NUMBERS_PER_POINT = 100  # that figures hold at least for each point of an axis: times, or the other axis


def check_fits(grid: int | None, seeds: int | None) -> None:
    """Raise for a grid that cannot fit the memory, whatever the figure; a sweep checks its own cells besides."""
    import psutil

    size, free = 8 * _NUMBERS_PER_POINT * (grid or 1) * (seeds or 1), psutil.virtual_memory().available
    if size > 0.5 * free:
        raise UserError(
            f"Such a grid takes {size / 2**30:.1f} GiB at least, but {free / 2**30:.1f} GiB are free. "
            f"Take a smaller --grid or fewer --seeds."
        )


def writable(folder: pathlib.Path) -> pathlib.Path:
    """`folder`, made and tried out before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}. Name another folder.") from None
    return folder


def save(picture: "Figure", diagram: "xarray.Dataset", stem: pathlib.Path) -> list[pathlib.Path]:
    """Write the picture and the numbers; returns the files."""
    png, pdf, nc = (stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf", "nc"))
    picture.savefig(png, dpi=200)
    picture.set_layout_engine("none")  # keep the layout just found
    picture.savefig(pdf, dpi=200)
    diagram.to_netcdf(nc, engine="scipy")
    return [png, pdf, nc]


def report(
    title: str,
    diagram: "xarray.Dataset",
    notes: Iterable[str],
    files: list[pathlib.Path],
    begin: float,
    agreement: Iterable[str] = (),
) -> None:
    """Say what was done and where it lies."""
    print(title)
    print(diagram)
    for note in notes:
        print(f"  note      {note}")
    for sentence in agreement:
        print(f"  agrees?   {sentence}")
    for file in files:
        print(f"  file      {file}")
    print(f"  all in    {time.perf_counter() - begin:.1f} s")
