"""Figure G: the transition function T(t; lambda) of Theorem G.2 between its limits.

One mode of a lambda-balanced network on whitened inputs, rho(t) = rho(0) + T (s - rho(0)). The paper
states T without a formula and has no picture of it. For lambda -> 0 it is the sigmoid of rich
dynamics, for |lambda| -> infinity the exponential 1 - e^{-|lambda| t} of lazy ones (Eq. 70). Here
s = 1 and rho(0) = 0.01, and lambda of both signs, of which T does not know. The flow is that of
aligned 2-2-2 networks, whose two modes are alike; it runs in units of 1/r, r^2 = s^2 + lambda^2/4,
which is the time scale of every lambda.
"""

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import (
    BLUE,
    GREY,
    VERMILION,
    fine_flow,
    flow_and_theory,
    key_of_styles,
    new_figure,
    panel_title,
    worst,
)
from layerflow.figures._figure import Claim, Figure

TITLE = "The transition function between its sigmoidal and its exponential limit (Theorem G.2)"
NOTES = (
    "Broad lines: integrated flow of aligned 2-2-2 networks, s = 1, rho(0) = 0.01; thin dashed: closed form of T, "
    "which the paper cites without a formula; grey dots: 1 - exp(-|λ| t).",
    "Distances in (c) are the largest over time, of the flow from either limit.",
)

TARGET, START, END = 1.0, 0.01, 12.0
SHOWN = (0.0, 0.3, 1.0, 3.0, 10.0)  # in panels (a) and (b)
ENDS = (1e-4, 1e-3, 30.0, 100.0)  # to fit the exponents to, however coarse the grid


def compute(grid: int = 41, times: int = 400) -> xarray.Dataset:
    """T over lambda, of either sign, and t, in units of 1/r, by flow, by closed form and in both limits."""
    sizes = np.union1d(np.geomspace(ENDS[0], ENDS[-1], grid), (*SHOWN, *ENDS))
    lams = np.union1d(-sizes, sizes)
    task = lf.Moments.whitened(yx=TARGET * jnp.eye(2))

    def transition(lam: jax.Array) -> lf.Problem:
        return lf.Problem(lf.aligned(task, lam, START, hid=2), task, rates=1 / jnp.sqrt(TARGET**2 + lam**2 / 4))

    ts = np.linspace(0.0, END, times)
    diagram = lf.sweep(transition, {"lam": lams}, method=fine_flow(END), ts=ts, observe=lf.mode_strengths)
    lam = lams[:, None]
    real = ts / np.sqrt(TARGET**2 + lam**2 / 4)
    measured = (diagram.mode_strengths - START) / (TARGET - START)
    dims = ("lam", "t")
    diagram["lam"].attrs["long_name"] = "layer imbalance λ"
    diagram["t"].attrs["long_name"] = "time in units of 1/r"
    return diagram.assign(
        transition=measured.mean("mode").assign_attrs(long_name="T, flow"),
        closed_form=(dims, np.asarray(lf.theory.transition(real, lam, TARGET, START)), {"long_name": "T, Theorem G.2"}),
        sigmoid=(dims, np.asarray(lf.theory.transition_sigmoidal(real, TARGET, START)), {"long_name": "T, λ → 0"}),
        exponential=(dims, np.asarray(lf.theory.transition_exponential(real, lam)), {"long_name": "T, |λ| → ∞"}),
        time=(dims, real, {"long_name": "gradient-flow time"}),
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: T over t, T over |lambda| t, and its distance from either limit."""
    figure = new_figure(10.2, 3.4)
    over_time, over_product, distances = figure.subplots(1, 3)
    for lam, colour in zip(SHOWN, lf.plot.colours(np.array(SHOWN)), strict=True):
        one = diagram.sel(lam=lam, method="nearest")
        flow_and_theory(over_time, one.time, one.transition, one.closed_form, colour=colour, label=f"λ = {lam:g}")
        if lam:
            flow_and_theory(over_product, lam * one.time, one.transition, one.closed_form, colour=colour)
    product = np.linspace(0.0, 8.0, 200)
    over_product.plot(product, -np.expm1(-product), color=GREY, linewidth=1.6, linestyle=":")
    over_time.annotate("sigmoid (Eq. 9)", (2.5, 0.57), (3.2, 0.7), arrowprops={"arrowstyle": "-"})
    over_product.annotate("$1-e^{-|\\lambda| t}$", (0.55, 0.42), (1.9, 0.3), arrowprops={"arrowstyle": "-"})
    over_time.set(xlabel="gradient-flow time t", ylabel="T(t; λ)", xlim=(0, 6), ylim=(-0.02, 1.05))
    over_product.set(xlabel="|λ| t", xlim=(0, 8), ylim=(-0.02, 1.05))
    panel_title(over_time, "a", "from sigmoid to exponential")
    panel_title(over_product, "b", "in the time of lazy dynamics")
    key_of_styles(over_time, loc="lower right", frameon=True, framealpha=0.9)
    _draw_distances(distances, diagram)
    return figure


def _draw_distances(ax: Axes, diagram: xarray.Dataset) -> None:
    """How far T is from either limit, over lambda."""
    near = _distances(diagram)
    positive = near.lam > 0
    for name, marker, colour, words in (
        ("sigmoid", "o", BLUE, "from the sigmoid, λ → 0"),
        ("exponential", "s", VERMILION, "from the exponential, |λ| → ∞"),
    ):
        ax.plot(near.lam[positive], near[name][positive], marker, color=colour, markersize=3, label=words)
        ax.plot(near.lam[positive], near[f"{name}_closed"][positive], color="black", linewidth=0.9, dashes=(4, 3))
    ax.set(xscale="log", yscale="log", xlabel="|λ|", ylabel="largest distance of T", ylim=(1e-6, 4.0))
    ax.legend(fontsize="small", frameon=False, loc="lower center")
    panel_title(ax, "c", "distance from the limits")


def _distances(diagram: xarray.Dataset) -> xarray.Dataset:
    """The largest distance over time of the flow, and of the closed form, from either limit."""
    pairs = {"": diagram.transition, "_closed": diagram.closed_form}
    far = {f"{limit}{of}": abs(T - diagram[limit]) for limit in ("sigmoid", "exponential") for of, T in pairs.items()}
    return xarray.Dataset(far).max("t")


def _slope(near: xarray.DataArray, low: float, high: float) -> float:
    """Exponent of lambda above one of its values and up to another."""
    part = near.where((near.lam > low) & (near.lam <= high), drop=True)
    return float(np.polyfit(np.log(part.lam), np.log(part), 1)[0])


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The flow is Theorem G.2 for either sign of lambda, and comes to both limits as the square of lambda."""
    near, flow = _distances(diagram), diagram.transition
    allowed = 100 * diagram.attrs["rtol"]  # a few steps' errors
    exponents = _slope(near.sigmoid, 0.0, 0.2 * START), _slope(near.exponential, 10 * TARGET, np.inf)
    below = [max(float((diagram[limit] - flow).max()), 0.0) for limit in ("exponential", "sigmoid")]
    far = f"Exponents of |λ|, in the distance from the sigmoid below ρ(0) = {START:g} and from the exponential above 10"
    return (
        Claim.between(
            "Largest distance of T by flow from its closed form", worst(flow, diagram.closed_form), high=allowed
        ),
        Claim.between("Largest difference of T at λ and at −λ", worst(flow, flow[::-1]), high=diagram.attrs["rtol"]),
        Claim.near(far, exponents, [2.0, -2.0], atol=0.02),
        Claim.between("How far T falls below 1 − exp(−|λ| t) and below the sigmoid", below, high=allowed),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
