"""Modes of a task as a network learns them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow._trajectory import Trajectory
from layerflow.diagrams._array import chosen
from layerflow.observables._basic import mode_targets
from layerflow.plot._bands import Spread
from layerflow.plot._curves import curves
from layerflow.summaries._times import path_of

if TYPE_CHECKING:
    import xarray
    from jaxtyping import ArrayLike
    from matplotlib.axes import Axes

_GREY = "0.35"  # of a target that several modes share


def modes(
    data: "xarray.Dataset | xarray.DataArray | Trajectory",
    *,
    target: "ArrayLike | None" = None,
    closed: "xarray.Dataset | xarray.DataArray | Trajectory | None" = None,
    band: str = "seed",
    spread: Spread = "quartiles",
    log: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the strength of each mode over time, and dashed the strength that the task asks for.

    Modes are told by colour, and so are their targets, but for those that several share, which are
    grey. Times in geometric order are drawn evenly.

    Args:
        data: What `solve` returned with `ts` and `mode_strengths`, whose targets are known; or a diagram
            with `mode_strengths`, or that variable of it, once it has no axes but time, mode and `band`.
        target: Strengths asked for, shape (mode,) or a number for all; those of the task of a
            trajectory if not given.
        closed: Theory, drawn thin and black over the numbers: what `solve` or `sweep` gave with `Exact`, at any times.
        band: Dimension of the ensemble, where the data have it.
        spread: What the band is, as for `curves`.
        log: Logarithmic vertical axis.
        ax: Where to draw; a new figure if not given.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If there are no modes or no times, dimensions are left over, `target` does not hold one
            number per mode, or `closed` has other modes.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> start = lf.DiagonalNetwork((jnp.array([0.1, 0.1]), jnp.array([0.1, 0.1])))
        >>> problem = lf.Problem(start, lf.Modes(variance=jnp.array([1.0, 0.3]), target=1.0))
        >>> path = lf.solve(problem, lf.Flow(t1=9.0), ts=jnp.linspace(0, 9, 50), observe=lf.mode_strengths)
        >>> lf.plot.modes(path).get_ylabel()
        'mode strength'

    References:
        Saxe et al. (2014), arXiv:1312.6120, Figure 3; Nam et al. (2025), arXiv:2502.21009, Figure 3.
    """
    if isinstance(data, Trajectory):
        target = mode_targets(data.problem, "plot.modes") if target is None else target
    array = _strengths(data)
    count = array.sizes["mode"]
    if target is not None and np.shape(target) not in ((), (count,)):
        raise ValueError(
            f"Argument `target` holds one strength for each of {count} modes, so it needs shape ({count},), but it has "
            f"shape {np.shape(target)}. To ask the same of all, give one number."
        )
    before = 0 if ax is None else len(ax.lines)
    ax = curves(array, hue="mode", band=band, spread=spread, log=log, ax=ax)
    colours = [line.get_color() for line in ax.lines[before:]]
    if closed is not None:
        _draw_closed(ax, _strengths(closed), array, band)
    if target is not None:
        _draw_targets(ax, np.broadcast_to(np.asarray(target, float), count), colours)
    if ax.get_legend() is not None:  # many modes have a colour bar there
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def _strengths(data: Any) -> "xarray.DataArray":
    """Strengths over time and mode, or an error."""
    data = _labelled(data) if isinstance(data, Trajectory) else data
    array = chosen(data, "mode_strengths" if hasattr(data, "data_vars") else None)
    if "mode" not in array.dims:
        raise ValueError(
            f"Modes lie along a dimension `mode`, but `{array.name}` has {', '.join(f'`{d}`' for d in array.dims)}. "
            f'Rename its own, as in array.rename(skill="mode").'
        )
    return array


def _draw_closed(ax: "Axes", closed: "xarray.DataArray", array: "xarray.DataArray", band: str) -> None:
    """A thin line for each mode, of the median over the ensemble if there is one."""
    closed = closed.median(band) if band in closed.dims else closed
    (time, *others) = (dim for dim in closed.dims if dim != "mode")
    if others or closed.sizes["mode"] != array.sizes["mode"] or time not in array.dims:
        raise ValueError(
            f"Argument `closed` needs strengths of the same {array.sizes['mode']} modes over {time}, as lf.Exact gives "
            f"them, but they have {dict(closed.sizes)} beside {dict(array.sizes)}."
        )
    thin: dict[str, Any] = {"color": "black", "linewidth": 0.9, "dashes": (4, 3)}
    ax.plot(closed[time], closed.transpose(time, "mode"), **thin)
    ax.plot([], [], label="closed form", **thin)


def _labelled(trajectory: Trajectory) -> "xarray.DataArray":
    """Strengths over time, as a diagram labels them."""
    import xarray

    ts, strengths = map(np.asarray, path_of(trajectory, "mode_strengths", "plot.modes"))
    if strengths.ndim != 2:
        raise ValueError(
            f"One trajectory is needed, with strengths of shape (t, mode), but they have shape {strengths.shape}. "
            f"Many are a diagram: use lf.sweep, and select one."
        )
    descends = np.issubdtype(np.asarray(trajectory.ts).dtype, np.integer)
    time, words = ("step", "steps") if descends else ("t", "gradient-flow time")
    coords = {time: (time, ts, {"long_name": words, "units": "1"})}
    attrs = {"long_name": "mode strength", "units": "1"}
    return xarray.DataArray(strengths, coords, (time, "mode"), "mode_strengths", attrs)


def _draw_targets(ax: "Axes", target: np.ndarray, colours: list[Any]) -> None:
    """A dashed line for each value, in the colour of its mode if there is one such."""
    dashed: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0, "zorder": 0}
    for value in np.unique(target[np.isfinite(target)]):
        own = [colour for colour, one in zip(colours, target, strict=True) if one == value]
        ax.axhline(value, color=own[0] if len(own) == 1 else _GREY, **dashed)
    ax.plot([], [], color=_GREY, label="target", **dashed)
