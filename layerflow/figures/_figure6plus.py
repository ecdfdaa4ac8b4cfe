"""Figure 6+: dynamics and representation are two things (Appendix G.2 of the paper).

Networks 3-3-3 start lambda-balanced and aligned with a random task of whitened inputs, all singular values
equal to `scale`, in units of the task's largest one, s = 1. So at the start the kernel knows nothing of the
task. The course of a mode is the transition function of Theorem G.2,

    rho(t) = rho(0) + T(t; lambda) (s - rho(0)),    rho' = sqrt(lambda^2 + 4 rho^2) (s - rho).

In balance the speed 2 rho grows with what has been learned, by s / rho(0) in all: a sigmoid from small
scales, an exponential at scale 1, where T = 1 - e^(-2st). Yet at the end w1^T w1 and w2 w2^T are the task's,
and the kernel distance is the same at every scale. Imbalance alone keeps the kernel.

The paper says that the dynamics go over to the exponential as the scale grows. They do up to scale 1. Beyond
it the function has to shrink, and does so quicker than an exponential before its last part, e^(-2st).

References:
    Nam et al. (2025), arXiv:2502.21009, Appendix G.2; Braun et al. (2022); Dominé et al. (2025), arXiv:2409.14623.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import LOW_MIDDLE_HIGH, new_figure
from layerflow.figures._figure import Claim, Figure, told

TITLE = "Representation apart from dynamics: weight scale shapes the course, imbalance the kernel (3-3-3)"
NOTES = (
    "Not a figure of the paper but a claim of its Appendix G.2, drawn. Starts are aligned with the task, as Theorem "
    "G.2 asks, with equal singular values: their kernel knows nothing of the task.",
    "Panel (b) compares the course of the leading mode with the exponential of the same half-time.",
    "The course becomes exponential as the scale grows to that of the target. Beyond it the function shrinks, "
    "quicker than an exponential at first: the paper's words hold up to there.",
    "Dots are the flow (mean over random tasks), lines the transition function.",
)

LAMS = (0.0, 3.0, 9.0)
END = 40.0


@lf.observable(long_name="strength of the leading mode")
def leading_strength(network: Any, problem: lf.Problem) -> jax.Array:
    """The strength of the mode of the task's largest singular value."""
    return lf.mode_strengths(network, problem)[0]


def compute(grid: int = 19, seeds: int = 8, method: Literal["flow", "exact"] = "flow") -> xarray.Dataset:
    """Strength of the leading mode and kernel distance over lam, scale, seed (a random task) and time."""

    def balanced(key: jax.Array, lam: jax.Array, scale: jax.Array) -> lf.Problem:
        task = lf.random_regression(key, n=10, inp=3, out=3, whiten=True).moments
        task = task.rescale(target=1 / jnp.linalg.svd(task.yx, compute_uv=False)[0])
        return lf.Problem(lf.aligned(task, lam, scale, hid=3, key=lf.fold(key, "hidden")), task)

    label = {"long_name": "weight scale over target scale", "units": "1"}
    axes = {"lam": np.array(LAMS), "scale": xarray.DataArray(np.geomspace(1e-3, 30, grid), attrs=label)}
    ts = np.concatenate([[0.0], np.geomspace(1e-4, END, 300)])
    how = (lf.Flow if method == "flow" else lf.Exact)(t1=END)
    return lf.sweep(balanced, axes, seeds=seeds, method=how, ts=ts, observe=(leading_strength, lf.kernel_distance))


def courses(diagram: xarray.Dataset) -> xarray.DataArray:
    """The share T of its way that the leading mode has gone."""
    return (diagram.leading_strength - diagram.scale) / (1 - diagram.scale)


def departure(t: np.ndarray, course: np.ndarray) -> float:
    """Largest distance of a course from the exponential of its half-time."""
    half = np.interp(0.5, course, t)
    return float(abs(course - (1 - 2 ** (-t / half))).max())


def departures(diagram: xarray.Dataset) -> np.ndarray:
    """`departure` of the flow, mean over seeds, by lam and scale."""
    rows = courses(diagram).transpose("lam", "scale", "seed", "t").values
    each = np.array([departure(diagram.t.values, row) for row in rows.reshape(-1, rows.shape[-1])])
    return each.reshape(rows.shape[:-1]).mean(-1)


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Courses in balance, their departure from the exponential, and the kernel distance."""
    figure = new_figure(10.4, 3.7)
    axes = figure.subplots(1, 3)
    _draw_courses(axes[0], diagram)
    _draw_departures(axes[1], diagram)
    _draw_distances(axes[2], diagram)
    for ax, title in zip(axes, ("(a) course in balance", "(b) dynamics", "(c) representation"), strict=True):
        ax.set_title(title, fontsize="medium")
    return figure


_DRAWN = (1e-3, 3e-2, 1.0, 30.0)  # scales in (a)


def _draw_courses(ax: Axes, diagram: xarray.Dataset) -> None:
    """T over time in half-times at lam = 0, flow and closed form, and the exponential."""
    found = courses(diagram).sel(lam=0.0).mean("seed")
    in_halves = np.linspace(0, 4, 200)
    for scale, colour in zip(_DRAWN, lf.plot.colours(np.array(_DRAWN)), strict=True):
        course = found.sel(scale=scale, method="nearest")
        half, x = np.interp(0.5, course.values, diagram.t.values), float(course.scale)
        line = lf.theory.transition(in_halves * half, 0.0, 1.0, x)
        ax.plot(in_halves, np.asarray(line), color=colour, label=f"{x:.2g}")
        dots = np.linspace(0, 4, 17)
        ax.plot(dots, np.interp(dots * half, diagram.t.values, course.values), "o", color=colour, markersize=3)
    ax.plot(in_halves, 1 - 2.0**-in_halves, color="0.1", linestyle="--", linewidth=1, label="exponential")
    ax.set(xlabel="time t / half-time", ylabel="share of the way T")
    ax.legend(title="scale", fontsize="small", frameon=False, loc="lower right")


def _draw_departures(ax: Axes, diagram: xarray.Dataset) -> None:
    """Departure from the exponential over the scale."""
    t, fine = diagram.t.values, np.geomspace(diagram.scale.values[0], diagram.scale.values[-1], 120)
    for lam, colour, dots in zip(LAMS, LOW_MIDDLE_HIGH, departures(diagram), strict=True):
        line = [departure(t, np.asarray(lf.theory.transition(t, lam, 1.0, scale))) for scale in fine]
        ax.plot(fine, line, color=colour, label=f"λ = {lam:g}")
        ax.plot(diagram.scale, dots, "o", color=colour, markersize=4)
    ax.set(xscale="log", xlabel="weight scale over target scale", ylabel="departure from the exponential", ylim=0)
    ax.legend(fontsize="small", frameon=False)


def _draw_distances(ax: Axes, diagram: xarray.Dataset) -> None:
    """Kernel distance at the end over the scale, with the middle half of the tasks."""
    for i, colour in enumerate(LOW_MIDDLE_HIGH):
        ends = diagram.kernel_distance.isel(lam=i, t=-1).transpose("seed", "scale")
        lf.plot.band(diagram.scale, ends, color=colour, marker="o", markersize=4, linewidth=1, ax=ax)
    ax.set(xscale="log", yscale="log", xlabel="weight scale over target scale", ylabel="kernel distance at the end")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Scale shapes the course, imbalance the kernel."""
    gaps, scale = departures(diagram)[0], diagram.scale.values
    least = int(np.argmin(gaps))
    ends = diagram.kernel_distance.isel(t=-1).mean("seed")
    balanced, imbalanced = ends.sel(lam=0.0), ends.isel(lam=-1)
    closed = np.asarray(
        lf.theory.balanced_strength(diagram.t.values[:, None, None], np.array(LAMS)[:, None], 1.0, scale)
    )
    flow = diagram.leading_strength.transpose("seed", "t", "lam", "scale").values
    off = float((abs(flow - closed) / (1 + closed)).max())
    return (
        Claim(
            f"In balance, departure from the exponential at scales {told(scale[[0, least, -1]])}",
            (np.diff(gaps[: least + 1]) < 0).all() and gaps[least] < gaps[-1],
            gaps[[0, least, -1]],
            "falling all the way to the second",
        ),
        Claim.between("Scale of the least departure, in units of the target's", scale[least], 0.5, 2.0),
        Claim.between(
            "In balance, least kernel distance at any scale over the largest", balanced.min() / balanced.max(), low=0.5
        ),
        Claim.between(
            f"At λ = {LAMS[-1]:g}, the largest over the least in balance", imbalanced.max() / balanced.min(), high=0.01
        ),
        # rtol 1e-6 a step, amplified by the growth from small scales.
        Claim.between("Largest distance of the flow from ρ of Theorem G.2, over 1 + ρ", off, high=1e-4),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
