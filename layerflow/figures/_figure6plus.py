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

from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.base._keys import fold
from layerflow.figures._curves import LOW_MIDDLE_HIGH
from layerflow.figures._words import verdict
from layerflow.methods import Exact, Flow
from layerflow.observables import kernel_distance, mode_strengths, observable
from layerflow.plot._bands import band
from layerflow.starts import aligned
from layerflow.tasks import random_regression

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


@observable(long_name="strength of the leading mode")
def leading_strength(network: Any, problem: Problem) -> jax.Array:
    """The strength of the mode of the task's largest singular value."""
    return mode_strengths(network, problem)[0]


def compute(grid: int = 19, seeds: int = 8, method: Literal["flow", "exact"] = "flow") -> "xarray.Dataset":
    """Strength of the leading mode and kernel distance over lam, scale and time.

    Args:
        grid: Scales, from 1e-3 to 30.
        seeds: Random tasks.
        method: "flow", or its closed form "exact".

    Returns:
        Diagram of dimensions lam, scale, seed, t.
    """
    import xarray

    def balanced(key: jax.Array, lam: jax.Array, scale: jax.Array) -> Problem:
        task = random_regression(key, n=10, inp=3, out=3, whiten=True).moments
        task = task.rescale(target=1 / jnp.linalg.svd(task.yx, compute_uv=False)[0])
        return Problem(aligned(task, lam, scale, hid=3, key=fold(key, "hidden")), task)

    label = {"long_name": "weight scale over target scale", "units": "1"}
    axes = {"lam": np.array(LAMS), "scale": xarray.DataArray(np.geomspace(1e-3, 30, grid), attrs=label)}
    ts = np.concatenate([[0.0], np.geomspace(1e-4, END, 300)])
    how = (Flow if method == "flow" else Exact)(t1=END)
    return sweep(balanced, axes, seeds=seeds, method=how, ts=ts, observe=(leading_strength, kernel_distance))


def courses(diagram: "xarray.Dataset") -> "xarray.DataArray":
    """The share T of its way that the leading mode has gone."""
    return (diagram.leading_strength - diagram.scale) / (1 - diagram.scale)


def departure(t: np.ndarray, course: np.ndarray) -> float:
    """Largest distance of a course from the exponential of its half-time."""
    half = np.interp(0.5, course, t)
    return float(abs(course - (1 - 2 ** (-t / half))).max())


def departures(diagram: "xarray.Dataset") -> np.ndarray:
    """`departure` of the flow, mean over seeds, by lam and scale."""
    rows = courses(diagram).transpose("lam", "scale", "seed", "t").values
    each = np.array([departure(diagram.t.values, row) for row in rows.reshape(-1, rows.shape[-1])])
    return each.reshape(rows.shape[:-1]).mean(-1)


def draw(diagram: "xarray.Dataset") -> "Figure":
    """Courses in balance, their departure from the exponential, and the kernel distance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.7), layout="constrained")
    axes = figure.subplots(1, 3)
    _draw_courses(axes[0], diagram)
    _draw_departures(axes[1], diagram)
    _draw_distances(axes[2], diagram)
    for ax, title in zip(axes, ("(a) course in balance", "(b) dynamics", "(c) representation"), strict=True):
        ax.set_title(title, fontsize="medium")
    figure.suptitle(TITLE, fontsize="medium")
    return figure


_DRAWN = (1e-3, 3e-2, 1.0, 30.0)  # scales in (a)


def _draw_courses(ax: "Axes", diagram: "xarray.Dataset") -> None:
    """T over time in half-times at lam = 0, flow and closed form, and the exponential."""
    import matplotlib as mpl

    found = courses(diagram).sel(lam=0.0).mean("seed")
    in_halves = np.linspace(0, 4, 200)
    for scale, at in zip(_DRAWN, np.linspace(0, 0.85, len(_DRAWN)), strict=True):
        colour = mpl.colormaps["viridis"](at)
        course = found.sel(scale=scale, method="nearest")
        half, x = np.interp(0.5, course.values, diagram.t.values), float(course.scale)
        line = theory.transition(in_halves * half, 0.0, 1.0, x)
        ax.plot(in_halves, np.asarray(line), color=colour, label=f"{x:.2g}")
        dots = np.linspace(0, 4, 17)
        ax.plot(dots, np.interp(dots * half, diagram.t.values, course.values), "o", color=colour, markersize=3)
    ax.plot(in_halves, 1 - 2.0**-in_halves, color="0.1", linestyle="--", linewidth=1, label="exponential")
    ax.set(xlabel="time t / half-time", ylabel="share of the way T")
    ax.legend(title="scale", fontsize="small", frameon=False, loc="lower right")


def _draw_departures(ax: "Axes", diagram: "xarray.Dataset") -> None:
    """Departure from the exponential over the scale."""
    t, fine = diagram.t.values, np.geomspace(diagram.scale.values[0], diagram.scale.values[-1], 120)
    for lam, colour, dots in zip(LAMS, LOW_MIDDLE_HIGH, departures(diagram), strict=True):
        line = [departure(t, np.asarray(theory.transition(t, lam, 1.0, scale))) for scale in fine]
        ax.plot(fine, line, color=colour, label=f"λ = {lam:g}")
        ax.plot(diagram.scale, dots, "o", color=colour, markersize=4)
    ax.set(xscale="log", xlabel="weight scale over target scale", ylabel="departure from the exponential", ylim=0)
    ax.legend(fontsize="small", frameon=False)


def _draw_distances(ax: "Axes", diagram: "xarray.Dataset") -> None:
    """Kernel distance at the end over the scale, with the middle half of the tasks."""
    for i, colour in enumerate(LOW_MIDDLE_HIGH):
        ends = diagram.kernel_distance.isel(lam=i, t=-1).transpose("seed", "scale")
        band(diagram.scale, ends, color=colour, marker="o", markersize=4, linewidth=1, ax=ax)
    ax.set(xscale="log", yscale="log", xlabel="weight scale over target scale", ylabel="kernel distance at the end")


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How the course and the kernel depend on the scale, in balance and out of it."""
    gaps = departures(diagram)
    scale = diagram.scale.values
    nearest = int(np.argmin(gaps[0]))
    ends = diagram.kernel_distance.isel(t=-1).mean("seed")
    balanced, imbalanced = ends.sel(lam=0.0), ends.isel(lam=-1)
    closed = theory.transition(diagram.t.values[:, None], 0.0, 1.0, scale[None, :])
    off = abs(
        courses(diagram).sel(lam=0.0).transpose("t", "scale", "seed").values - np.asarray(closed)[..., None]
    ).max()
    nears = (np.diff(gaps[0, : nearest + 1]) < 0).all() and nearest > 0
    adapts = float(balanced.min()) > 0.5 * float(balanced.max())
    lazy = float(imbalanced.max()) < 0.01 * float(balanced.min())
    return (
        f"In balance the departure from the exponential goes from {gaps[0, 0]:.2f} at scale {scale[0]:.2g} to "
        f"{gaps[0, nearest]:.3f} at scale {scale[nearest]:.2g}, {verdict(nears)}; at scale {scale[-1]:.2g} it is "
        f"{gaps[0, -1]:.2f} again, for a function that shrinks starts quicker than an exponential.",
        f"All the while the kernel distance is between {float(balanced.min()):.3f} and {float(balanced.max()):.3f}: "
        f"the representation adapts at {'any' if adapts else 'some'} scale, {verdict(adapts)}.",
        f"At λ = {LAMS[-1]:g} it is {float(imbalanced.max()):.1e} at most, whatever the scale: imbalance "
        f"{'alone is lazy' if lazy else 'is not lazy'}, {verdict(lazy)}.",
        f"In balance the flow is within {off:.1g} of the transition function of Theorem G.2.",
    )
