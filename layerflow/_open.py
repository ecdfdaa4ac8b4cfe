"""Open a diagram, from a store or a netCDF file; what reads either is imported late, for it takes its time."""

import os
from typing import TYPE_CHECKING

import numpy as np

from layerflow.diagrams._array import status_of
from layerflow.methods import Status

if TYPE_CHECKING:
    import xarray


def open_diagram(path: str | os.PathLike[str]) -> "xarray.Dataset":
    """Open a diagram that a sweep keeps in a store, finished or still under way, or one in a netCDF file.

    Numbers of a store are read when they are used, and only those: `diagram.loss.sel(lam=0.0).values` reads the
    chunks that hold that slice. A cell that is not computed yet has status MISSING and is NaN. A file,
    which `diagram.to_netcdf` writes, is read as a whole.

    Args:
        path: Folder or URL of the store, or a netCDF file.

    Returns:
        xarray.Dataset like the one that `sweep` returns.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If the file holds no diagram, or the store is damaged. A chunk of which something was
            lost or flipped raises when it is read; the sweep, called again, finds and computes it anew.

    Example:
        >>> import tempfile, jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.eye(2))
        >>> def cell(key, lam):
        ...     return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
        >>> path = tempfile.mkdtemp()
        >>> _ = lf.sweep(cell, {"lam": jnp.linspace(-3, 3, 5)}, method=lf.Flow(t1=10.0), store=path)
        >>> dict(lf.open_diagram(path).sizes)
        {'lam': 5}
    """
    from layerflow import _accessor as _accessor  # noqa: PLC0414 - where there are diagrams, there is diagram.lf

    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return _in_file(path)
    from layerflow.store._diagram import diagram_in
    from layerflow.store._place import Place

    return diagram_in(Place(path))


def _in_file(path: str | os.PathLike[str]) -> "xarray.Dataset":
    """The diagram in a netCDF file."""
    import xarray

    from layerflow.diagrams._dataset import Diagram
    from layerflow.store._checked import Unlike, check_facts

    try:
        read = xarray.load_dataset(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # there are a dozen errors for files of other kinds and for damaged ones
        raise ValueError(f"The file {path} cannot be read as netCDF: {error}") from error
    # netCDF 3 has signed bytes alone; masked cells are NaN.
    status = status_of(read).fillna(int(Status.MISSING)).astype("uint8")
    facts = {name: np.asarray(value).tolist() for name, value in read.attrs.items()}
    try:
        if "chunk_bytes" in facts:  # as in all that comes of a sweep or a store
            check_facts(facts)
    except Unlike as wrong:
        raise ValueError(f"The file {path} does not say how its diagram was made: {wrong}.") from None
    return Diagram({**read.data_vars, "status": status}, read.coords, facts)
