"""Which cells of a diagram failed, and why."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.methods import FAILURES, Status

if TYPE_CHECKING:
    import pandas
    import xarray


def failures(diagram: "xarray.Dataset") -> "pandas.DataFrame":
    """The cells of a diagram that failed.

    Args:
        diagram: What `sweep` or `open_diagram` returned, or a part of it.

    Returns:
        pandas.DataFrame of one row per failed cell: its values along the axes, its `status` and the
        `reason` in words. Cells that are not computed yet are no failures.

    Raises:
        ValueError: If the dataset has no `status`, or one that holds no codes, as after a mean over seeds.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def cell(target):
        ...     layer = jnp.sqrt(target) * jnp.ones(1)
        ...     return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(jnp.ones(1), 1.0))
        >>> diagram = lf.sweep(cell, {"target": [-1.0, 1.0]}, method=lf.Flow(t1=1.0))
        >>> print(lf.failures(diagram).to_string(index=False))
         target     status                                     reason
           -1.0 not_finite weights or velocity became NaN or infinite
    """
    import pandas

    status = status_of(diagram)
    where = np.nonzero(np.atleast_1d(has_failed(status.values)))
    codes = [Status(int(code)) for code in np.atleast_1d(status.values)[where]]
    columns: dict[str, Any] = {}
    for position, dim in zip(where, status.dims, strict=False):
        for name, coordinate in status.coords.items():
            if coordinate.dims == (dim,):
                columns[str(name)] = coordinate.values[position]
    fixed = {str(n): c.values[()] for n, c in status.coords.items() if c.ndim == 0}
    said = {"status": [code.name.lower() for code in codes], "reason": [code.meaning for code in codes]}
    return pandas.DataFrame({**{n: [value] * len(codes) for n, value in fixed.items()}, **columns, **said})


def axes_of(diagram: "xarray.Dataset") -> tuple[Any, ...]:
    """The axes of a diagram, which are those of its status, or an error."""
    if "status" not in getattr(diagram, "data_vars", {}):
        raise ValueError(
            "A diagram as lf.sweep or lf.open_diagram returns it is needed, with its variable `status`, but a "
            f"{type(diagram).__name__} without one came."
        )
    return diagram["status"].dims


def status_of(diagram: "xarray.Dataset") -> "xarray.DataArray":
    """The status of every cell, or an error where something was computed with the codes."""
    axes_of(diagram)
    status = diagram["status"]
    if not _are_codes(status):
        raise ValueError(
            f"The variable `status` holds one code per cell (lf.Status), but here it holds numbers computed with "
            f"them, of dtype {status.dtype}, and a mean of codes is no code. Give the diagram as lf.sweep or "
            f"lf.open_diagram returned it, or a selection of it. The share of cells that failed is "
            f"diagram.failed.mean(...)."
        )
    return status


def _are_codes(status: "xarray.DataArray") -> bool:
    """Whether a status holds codes still. Those of sweeps are not read, as a store may hold many of them."""
    if status.dtype in (np.uint8, np.int8):  # the latter in a netCDF 3 file
        return True
    # Where cells are masked or added, xarray turns codes into float32 and NaN; means and the like are float64, and
    # may be whole numbers by chance.
    if status.dtype.kind not in "iu" and status.dtype != np.float32:
        return False
    return bool(np.isin(status.values[~np.isnan(status.values)], list(Status)).all())


def has_failed(status: np.ndarray) -> np.ndarray:
    """Whether cells failed; those that are missing did not."""
    return np.isin(status, sorted(FAILURES))
