"""Figure I: Theorem I.1 over the flow, with and without inflection (Remark I.2).

Scalar networks f = x sum_i a_i b_i of random starts and growing weight scale learn f* = x S. The
growth factor gamma of the aligned sums a_i + b_i is a piece of a sigmoid, and has an inflection iff
S > A = Sigma(0) + f(0). The paper states this without a picture, and prints the exponent of gamma
with 4 r t / Z; it is 2 r t / Z, as the flow shows. Recipe: S = 1, Z = 1, 8 hidden units, Gaussian
weights whose scale runs over two decades; time in units of 1/r, r^2 = S^2 + Sigma(0)^2 - f(0)^2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import (
    BLUE,
    GREY,
    LOW_MIDDLE_HIGH,
    VERMILION,
    fine_flow,
    flow_and_theory,
    key_of_styles,
    new_figure,
    panel_title,
    worst,
)
from layerflow.figures._figure import Claim, Figure

TITLE = "Growth of a scalar network from random starts (Theorem I.1), with and without inflection"
NOTES = (
    "Broad lines and dots: integrated flow; dashed: Theorem I.1 with e^(-2 r t / Z). The paper prints e^(-4 r t / Z), "
    "which contradicts its Eq. 9 at width 1.",
    "S = 1, Z = 1, 8 hidden units, Gaussian weights; (a) and (b) show the seed 0, in (c) every dot is a start. Time is "
    "in units of 1/r.",
)

TARGET, HIDDEN, END = 1.0, 8, 9.0


@lf.observable(long_name="output f")
def output(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:  # noqa: ARG001
    """The slope of the function."""
    return network.matrix[0, 0]


@lf.observable(long_name="growth factor γ")
def growth(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """How much the squares of all a_i + b_i have grown: from the weights alone, not from the theorem."""
    square = lambda network: jnp.sum((network.weights[0][:, 0] + network.weights[1][0]) ** 2)
    return square(network) / square(problem.start)


@lf.observable(dims=("unit",), long_name="weight at the start")
def start(trajectory: lf.Trajectory) -> dict[str, Array]:
    """Both layers at t = 0."""
    first, last = trajectory.problem.start.weights
    return {"a": first[:, 0], "b": last[0]}


def compute(grid: int = 25, seeds: int = 8, times: int = 400) -> xarray.Dataset:
    """Output and growth over scale (mean sqrt(Sigma(0))), seed and t, in units of 1/r, by flow and Theorem I.1."""

    def scalar(key: jax.Array, scale: jax.Array) -> lf.Problem:
        a, b = scale / jnp.sqrt(HIDDEN) * jax.random.normal(key, (2, HIDDEN))
        opposed, aligned = 0.5 * jnp.sum((a - b) ** 2), 0.5 * jnp.sum((a + b) ** 2)
        network = lf.LinearNetwork((a[:, None], b[None, :]))
        return lf.Problem(network, lf.Modes(jnp.ones(1), TARGET), rates=1 / jnp.sqrt(TARGET**2 + aligned * opposed))

    scales = np.geomspace(0.03, 3.0, grid)
    ts = np.linspace(0.0, END, times)
    how: dict[str, Any] = {"seeds": seeds, "method": fine_flow(END), "ts": ts}
    diagram = lf.sweep(scalar, {"scale": scales}, observe=(output, growth), summary=start, **how)
    diagram["t"].attrs["long_name"] = "time in units of 1/r"
    return diagram.assign(_of_theorem(diagram)).assign(
        inflection=(("scale", "seed"), _fastest(diagram.growth.values, ts), {"long_name": "inflection of γ, flow"})
    )


def _of_theorem(diagram: xarray.Dataset) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]:
    """What Theorem I.1 and Remark I.2 say of the same starts."""
    a, b = diagram.start_a.values, diagram.start_b.values
    aligned, opposed = (0.5 * np.sum(part**2, axis=-1) for part in (a + b, a - b))
    unit = 1 / np.sqrt(TARGET**2 + aligned * opposed)
    ts = unit[..., None] * diagram.t.values
    closed = lf.theory.scalar_network(ts, a[..., None, :], b[..., None, :], TARGET)
    bend = lf.theory.inflection_time(a, b, TARGET) / unit
    starts, paths = ("scale", "seed"), ("scale", "seed", "t")
    return {
        "target_to_aligned": (starts, TARGET / aligned, {"long_name": "S / A, A = Σ(0) + f(0)"}),
        "predicted_output": (paths, np.asarray(closed.output), {"long_name": "output f, Theorem I.1"}),
        "predicted_growth": (paths, np.asarray(closed.growth), {"long_name": "growth factor γ, Theorem I.1"}),
        "predicted_inflection": (starts, np.asarray(bend), {"long_name": "inflection of γ, Remark I.2"}),
        "final_growth": (starts, np.asarray(lf.theory.scalar_network_limit(a, b, TARGET).growth), {"long_name": "γ₊"}),
    }


def _fastest(growth: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """When a path changes fastest, by a parabola through three slopes; infinite if at the first of them."""
    slopes, middles = np.abs(np.diff(growth, axis=-1)), 0.5 * (ts[1:] + ts[:-1])
    place = slopes.argmax(axis=-1)
    inner = np.clip(place, 1, len(middles) - 2)
    before, at, after = (np.take_along_axis(slopes, inner[..., None] + k, axis=-1)[..., 0] for k in (-1, 0, 1))
    shift = 0.5 * (before - after) / (before - 2 * at + after)
    return np.where(place == 0, np.inf, middles[inner] + shift * (ts[1] - ts[0]))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: output, growth over its end, and the time of the inflection."""
    figure = new_figure(10.2, 3.4)
    left, middle, right = figure.subplots(1, 3)
    for scale, colour in zip(_shown(diagram), LOW_MIDDLE_HIGH, strict=True):
        one = diagram.sel(scale=scale).isel(seed=0)
        label = f"S/A = {float(one.target_to_aligned):.3g}"
        flow_and_theory(left, diagram.t, one.output, one.predicted_output, colour=colour, label=label)
        end = float(one.final_growth)
        flow_and_theory(middle, diagram.t, one.growth / end, one.predicted_growth / end, colour=colour)
        bend = float(one.inflection)
        if np.isfinite(bend):
            middle.plot(bend, np.interp(bend, diagram.t, one.growth / end), "o", color=colour, markeredgecolor="black")
    for ax in (left, middle):
        ax.set(xlabel="time in units of 1/r", xlim=(0, END))
    left.set_ylabel("output f")
    middle.set_ylabel("growth γ over its end γ₊")
    key_of_styles(left, loc="lower right")
    panel_title(left, "a", "output")
    panel_title(middle, "b", "growth; dot: inflection")
    _draw_inflections(right, diagram)
    return figure


def _shown(diagram: xarray.Dataset) -> list[float]:
    """Three scales: small, where S / A of seed 0 is a little above 1, and large."""
    ratio = diagram.target_to_aligned.isel(seed=0).values
    scales = diagram.scale.values
    return [float(scales[np.abs(np.log(ratio / wanted)).argmin()]) for wanted in (100.0, 5.0, 0.3)]


def _draw_inflections(ax: Axes, diagram: xarray.Dataset) -> None:
    """Measured and predicted times of the inflection over S / A."""
    ratio, measured, predicted = (
        diagram[name].values.ravel() for name in ("target_to_aligned", "inflection", "predicted_inflection")
    )
    bends = np.isfinite(measured)
    ax.plot(ratio[bends], measured[bends], "o", color=BLUE, alpha=0.4, markersize=7, label="inflection, flow")
    ax.plot(ratio[~bends], np.zeros((~bends).sum()), "x", color=VERMILION, markersize=5, label="none, flow")
    known = np.isfinite(predicted)
    ax.plot(ratio[known], predicted[known], ".", color="black", markersize=2.5, label="Remark I.2")
    ax.axvline(1.0, color=GREY, linewidth=0.9, linestyle=":")
    ax.set(xscale="log", xlabel="S / A, A = Σ(0) + f(0)", ylabel="time of the inflection, in 1/r")
    ax.legend(fontsize="small", frameon=False, loc="upper left")
    panel_title(ax, "c", "inflection iff S > A")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The flow is Theorem I.1, and growth has an inflection where and when Remark I.2 says."""
    end = diagram.final_growth
    off = worst(diagram.output, diagram.predicted_output), worst(diagram.growth / end, diagram.predicted_growth / end)
    bends, expected = diagram.inflection.values, diagram.predicted_inflection.values
    both = np.isfinite(bends) & np.isfinite(expected)
    # An inflection within the first step of time cannot be seen.
    right = (np.isfinite(bends) == (diagram.target_to_aligned.values > 1))[~(expected < float(diagram.t[1]))]
    apart = "Largest distance of the flow from Theorem I.1, in f/S and in the growth over its end"
    return (
        Claim.between(apart, off, high=100 * diagram.attrs["rtol"]),
        Claim("Starts of which growth has an inflection iff S > A", right.all(), right.sum(), f"all {right.size}"),
        Claim.between("Largest error of its time by Remark I.2, in 1/r", worst(bends[both], expected[both]), high=1e-3),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
