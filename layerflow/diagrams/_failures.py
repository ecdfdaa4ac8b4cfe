"""Which cells of a diagram failed, and why."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import has_failed, status_of
from layerflow.methods import Status

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
