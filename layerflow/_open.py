"""Open a diagram, from a store or a netCDF file."""

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

    from layerflow.store._retries import Retries
    from layerflow.store._store import Store


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
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return _in_file(path)
    from xarray import Variable
    from xarray.core.indexing import LazilyIndexedArray

    from layerflow.diagrams._array import RETRIED
    from layerflow.diagrams._dataset import Diagram
    from layerflow.store._description import coordinates_in
    from layerflow.store._lazy import OnGrid
    from layerflow.store._place import Place
    from layerflow.store._retries import Retries
    from layerflow.store._store import Store

    place = Place(path)
    store = Store(place)
    retries = Retries(store)
    axes = [axis.name for axis in store.grid.axes]
    read = lambda name: LazilyIndexedArray(OnGrid(store, retries, name))
    data = {
        name: Variable([*axes, *array.metadata.dimension_names[2:]], read(name), dict(array.attrs))
        for name, array in store.arrays.items()
    }
    if len(retries):
        data["retried"] = Variable(axes, read("retried"), RETRIED)
    return Diagram(data, coordinates_in(store.description), _attrs(store, retries))


def _in_file(path: str | os.PathLike[str]) -> "xarray.Dataset":
    """The diagram in a netCDF file."""
    import xarray

    from layerflow.diagrams._array import status_of
    from layerflow.diagrams._dataset import Diagram
    from layerflow.methods import Status
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


def _attrs(store: "Store", retries: "Retries") -> dict[str, Any]:
    """How the diagram was made: the facts of the sweep, and those of all runs together."""
    from layerflow.store._log import runs
    from layerflow.sweeps._chunks import one_or_all

    records, description = runs(store.place), store.description
    lanes = [count for count in description["lanes"] if count is not None]
    of_all = lambda name, over, default: over([record.get(name, default) for record in records] or [default])
    return description["facts"] | {
        "asked": json.dumps(description["asked"]),
        "store": str(store.place),
        "chunk": description["chunk"],
        **({"lanes": one_or_all(lanes)} if lanes else {}),
        "devices": of_all("devices", max, 1),
        "calls_split": of_all("calls_split", sum, 0),
        "chunk_bytes": of_all("chunk_bytes", max, 0),
        "compile_seconds": round(of_all("compile_seconds", sum, 0.0), 3),
        "wall_seconds": round(of_all("seconds", sum, 0.0), 3),
        "runs": len(records),
        **({"retries": json.dumps(retries.methods)} if len(retries) else {}),
    }
