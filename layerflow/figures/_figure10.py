"""Figure 10: the kernel of funnel and anti-funnel networks over layer imbalance and time.

Networks 4-2-2 (funnel) and 2-2-4 (anti-funnel) from lambda-balanced starts, as in Figure 6(a) at ratio
1: ten whitened samples, singular values 1 at the start. With lambda as in Eq. 14, w2^T w2 - w1 w1^T =
lambda I, the funnel is lazy for lambda -> +inf and rich, but late, for lambda -> -inf; the anti-funnel is
its mirror image. The paper's Appendix G.3 has the two the other way round; its code draws the rows of
its maps upside down, which may be why.

Why: where the heavier layer is square, the lighter one can fit every target at once. Where it maps four
directions to two, or two to four, the lighter one at once fits the part of the task within these two;
the rest waits until the heavier layer has turned, at a speed that falls with the imbalance.

The paper does not say its widths; these are the smallest that allow both signs of lambda.

References:
    Nam et al. (2025), arXiv:2502.21009, Figure 10; Dominé et al. (2025), arXiv:2409.14623.
"""

from typing import Any, Literal

import jax
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import layerflow as lf
from layerflow.figures._curves import LOW_MIDDLE_HIGH, new_figure
from layerflow.figures._figure import Claim, Figure, told

TITLE = "Funnel and anti-funnel: lazy on one side of λ, rich with a delay on the other"
NOTES = (
    "With λ as in Eq. 14 the funnel is lazy for λ → +∞ and delayed-rich for λ → −∞, the anti-funnel the reverse. The "
    "paper's text has the two signs exchanged; its code draws the rows of its maps upside down, which may be why.",
    "The paper does not say its widths: 4-2-2 and 2-2-4 are the smallest that allow both signs of λ.",
    "Every seed draws a task and a start. Maps show the geometric mean, curves the median and the middle half.",
    "Excess loss: what the loss still has above its least, relative to its start.",
)

SHAPES = {"funnel": (4, 2, 2), "anti-funnel": (2, 2, 4)}
LARGEST = 9.0  # imbalance
END = 40.0
LAZY = -3.0  # decades of the kernel distance, as in Figure 6
LAZY_SIDE = {"funnel": LARGEST, "anti-funnel": -LARGEST}


@lf.observable(long_name="excess loss")
def excess_loss(network: Any, problem: lf.Problem) -> jax.Array:
    """The loss above the least that a linear map has."""
    return problem.task.loss(network) - problem.task.least_loss(network)


def compute(grid: int = 37, seeds: int = 16, method: Literal["flow", "exact"] = "flow") -> xarray.Dataset:
    """Kernel distance and excess loss over shape, lam (0 among them), seed (a random task and start) and time."""

    def balanced(key: jax.Array, shape: tuple[int, int, int], lam: jax.Array) -> lf.Problem:
        inp, hid, out = shape
        task = lf.random_regression(lf.fold(key, "task"), n=10, inp=inp, out=out, whiten=True)
        return lf.Problem(lf.lambda_balanced(lf.fold(key, "start"), lam, 1.0, inp=inp, hid=hid, out=out), task.moments)

    lams = np.linspace(-LARGEST, LARGEST, max(3, 2 * (grid // 2) + 1))
    axes = {"shape": lf.static(SHAPES), "lam": lams}
    ts = np.concatenate([[0.0], np.geomspace(0.01, END, 60)])
    how = (lf.Flow if method == "flow" else lf.Exact)(t1=END)
    return lf.sweep(balanced, axes, seeds=seeds, method=how, ts=ts, observe=(lf.kernel_distance, excess_loss))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """One row per shape: the map over λ and time, three courses, and the end over λ."""
    figure = new_figure(10.6, 6.2)
    axes = figure.subplots(2, 3, sharey="col")
    seen = diagram.kernel_distance.isel(t=slice(1, None))
    logarithms = np.log10(seen.where(seen > 0)).mean("seed")
    for row, name in zip(axes, SHAPES, strict=True):
        here = diagram.sel(shape=name)
        _draw_map(row[0], logarithms.sel(shape=name), float(logarithms.max()))
        _draw_courses(row[1], here)
        _draw_ends(row[2], here)
        title = f"{name} {'-'.join(map(str, SHAPES[name]))}"
        row[0].set_title(f"{title}: log₁₀ of the kernel distance", fontsize="medium")
        row[1].set_title(f"{title}: course", fontsize="medium")
        row[2].set_title(f"{title}: at t = {END:g}", fontsize="medium")
    figure.legend(handles=_key(), fontsize="small", loc="outside lower center", ncols=5, frameon=False)
    return figure


_LEAST = -6.0  # decades; the lower end of all scales


def _draw_map(ax: Axes, logarithms: xarray.DataArray, most: float) -> None:
    """Kernel distance over time and λ."""
    lam, t = logarithms.lam.values, logarithms.t.values
    mesh = ax.pcolormesh(t, lam, logarithms.transpose("lam", "t").values, vmin=_LEAST, vmax=most, rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, extend="min")
    ax.set(xscale="log", xlabel="gradient-flow time t", ylabel="layer imbalance λ (weight²)")


def _draw_courses(ax: Axes, here: xarray.Dataset) -> None:
    """Kernel distance and excess loss over time at both ends of λ and in balance."""
    for lam, colour in zip((-LARGEST, 0.0, LARGEST), LOW_MIDDLE_HIGH, strict=True):
        whole = here.sel(lam=lam, method="nearest")
        path, excess = whole.isel(t=slice(1, None)), relative_excess(whole).isel(t=slice(1, None))
        lf.plot.band(path.t, path.kernel_distance.transpose("seed", "t"), color=colour, ax=ax)
        ax.plot(path.t, excess.median("seed"), color=colour, linestyle=":")
    ax.set(xscale="log", yscale="log", ylim=(10**_LEAST, 2.0), xlabel="gradient-flow time t")


def _key() -> list[Line2D]:
    """Colours and kinds of lines of the courses."""
    lams = [
        Line2D([], [], color=colour, linewidth=3, label=f"λ = {told(lam)}")
        for lam, colour in zip((-LARGEST, 0.0, LARGEST), LOW_MIDDLE_HIGH, strict=True)
    ]
    kernel = Line2D([], [], color="0.3", linestyle="-", label="kernel distance")
    return [*lams, kernel, Line2D([], [], color="0.3", linestyle=":", label="excess loss")]


def _draw_ends(ax: Axes, here: xarray.Dataset) -> None:
    """Kernel distance at the end over λ."""
    lf.plot.band(here.lam, here.kernel_distance.isel(t=-1).transpose("seed", "lam"), color="0.1", ax=ax)
    ax.set(yscale="log", xlabel="layer imbalance λ (weight²)", ylabel="kernel distance")


def relative_excess(path: xarray.Dataset) -> xarray.DataArray:
    """The excess loss relative to its start; rounding below zero counts as none."""
    return (path.excess_loss / path.excess_loss.sel(t=0.0)).clip(min=1e-12)


def half_times(path: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """When the excess loss has halved, and when the kernel has gone half of its way, for each seed."""
    learned = path.t.values[(relative_excess(path).transpose("seed", "t").values <= 0.5).argmax(axis=1)]
    distance = path.kernel_distance.transpose("seed", "t").values
    return learned, path.t.values[(distance >= 0.5 * distance[:, -1:]).argmax(axis=1)]


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Each shape is lazy on one side of lambda, and rich on the other after a delay."""
    decades = np.log10(diagram.kernel_distance.isel(t=-1)).mean("seed")
    said = []
    for name, lazy in LAZY_SIDE.items():
        ends = decades.sel(shape=name, lam=[lazy, -lazy])
        learned, turned = (np.median(times) for times in half_times(diagram.sel(shape=name, lam=-lazy)))
        depth = f"Mean log₁₀ kernel distance of the {name} at λ = {told(ends.lam)}"
        delay = f"Time to half of the kernel's way over that to half of the excess loss, {name} at λ = {told(-lazy)}"
        said += [
            Claim(depth, ends[0] < LAZY < ends[1], ends, f"lazy, below {told(LAZY)}, and rich, above"),
            Claim.between(delay, turned / learned, low=10.0),
        ]
    apart = abs(decades.sel(shape="funnel").values - decades.sel(shape="anti-funnel").values[::-1]).max()
    mirrored = (
        "Largest difference in decades of the funnel at λ and the anti-funnel at −λ, of tasks that spread by half"
    )
    return (*said, Claim.between(mirrored, apart, high=1.0))


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
