"""Figure 3+: saddle to saddle, plateaus and drops of the loss, at depths 2 to 5.

Section 4.2 of the paper says this without a picture. Diagonal networks of equal layers learn three
modes (closed form at every depth); linear networks 5-3-...-3 learn a task with the same three
singular values from small balanced layers of random directions, for which there is none. Both rest
near saddles at which some modes are learned and the others not:

    L_k = 1/2 sum over unlearned modes of E_i S_i^2.

At depth 2 the delay grows like log(1/u(0)) and beyond like u(0)^(2/depth - 1), so depth 2 starts from
smaller layers than the others to have plateaus as long. Time is in units of when the slowest mode of
the diagonal network has half its target, which rates = that time does to the flow.
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
    worst,
)
from layerflow.figures._figure import Claim, Figure

TITLE = "From saddle to saddle: one drop of the loss for each mode, at any depth"
NOTES = (
    "Singular values 4, 2, 1. Dotted: predicted plateaus, 1/2 sum of S² over unlearned modes; dashed: closed form.",
    "Time is in units of the half-time of the slowest mode of the diagonal network of that depth. Depth 2 starts at "
    "strength 1e-10, the others at 1e-4.",
    "Linear networks 5-3-...-3 start balanced (lambda = 0) with random singular vectors: these set the times, not the "
    "heights. Singular values of one size may be learned together, which skips a plateau.",
)

TARGETS = np.array([4.0, 2.0, 1.0])
STARTS = {2: 1e-10, 3: 1e-4, 4: 1e-4, 5: 1e-4}
END = 8.0
DIAGONAL, LINEAR = "diagonal network", "linear network"


def compute(seeds: int = 3, depths: tuple[int, ...] = (2, 3, 4, 5), times: int = 400) -> xarray.Dataset:
    """Loss over time, its plateaus, and when each mode has half of its target, over model, depth and seed."""
    unknown = [depth for depth in depths if depth not in STARTS]
    if unknown:
        raise ValueError(
            f"Argument `depths` takes numbers of layers among {', '.join(map(str, STARTS))}, but has "
            f"{', '.join(map(str, unknown))}."
        )
    slowest = {depth: float(lf.theory.deep_time(STARTS[depth], 0.5, 1.0, depth)) for depth in depths}

    def saddles(key: jax.Array, model: str, depth: int) -> lf.Problem:
        if model == DIAGONAL:
            start = lf.skill_network(jnp.full(3, STARTS[depth]), depth=depth)
            return lf.Problem(start, lf.Modes(1.0, jnp.asarray(TARGETS)), rates=slowest[depth])
        start = lf.lambda_balanced_chain(key, 0.0, STARTS[depth], widths=(5, *[3] * depth))
        return lf.Problem(
            start, lf.Moments.whitened(yx=jnp.asarray(np.eye(3, 5) * TARGETS[:, None])), rates=slowest[depth]
        )

    ts = np.geomspace(0.05, END, times)
    diagram = lf.sweep(
        saddles,
        {"model": lf.static([DIAGONAL, LINEAR]), "depth": lf.static(depths)},
        seeds=seeds,
        method=fine_flow(END, rtol=1e-7, until="converged"),
        ts=ts,
        observe=(lf.loss, lf.mode_strengths),
        summary=(lf.plateaus(most=6), lf.half_times),
    )
    strengths = [np.asarray(lf.theory.deep_mode(slowest[d] * ts[:, None], STARTS[d], TARGETS, d)) for d in depths]
    closed = [0.5 * np.sum((TARGETS - strength) ** 2, axis=1) for strength in strengths]
    halves = [lf.theory.deep_time(STARTS[d], TARGETS / 2, TARGETS, d) / slowest[d] for d in depths]
    diagram["t"].attrs["long_name"] = "time over half-time of the slowest mode"
    return diagram.assign(
        closed_form=(("depth", "t"), np.stack(closed), {"long_name": "loss of the diagonal network, closed form"}),
        predicted_half_times=(("depth", "mode"), np.stack(halves), {"long_name": "half-time, closed form"}),
        predicted_height=("stage", np.asarray(lf.theory.plateau_losses(TARGETS)), {"long_name": "predicted plateau"}),
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: a column for each depth, a row for each kind of network."""
    figure = new_figure(9.6, 4.6)
    axes = figure.subplots(2, diagram.sizes["depth"], sharex=True, sharey=True, squeeze=False)
    for column, depth in enumerate(diagram.depth.values):
        here = diagram.isel(depth=column)
        above, below = axes[:, column]
        flow_and_theory(above, diagram.t, here.loss[0, 0], here.closed_form, colour=BLUE)
        for seed in range(diagram.sizes["seed"]):
            shade = 1.0 - 0.3 * seed / max(1, diagram.sizes["seed"] - 1)
            below.plot(diagram.t, here.loss[1, seed], color=VERMILION, linewidth=1.5, alpha=shade)
        for ax in (above, below):
            _draw_plateaus(ax, diagram)
        above.set_title(f"depth {depth}", fontsize="medium")
    axes[0, 0].set(xscale="log", xlim=(0.05, float(diagram.t[-1])), ylim=(-0.4, 11.2))
    for ax, model in zip(axes[:, 0], diagram.model.values, strict=True):
        ax.set_ylabel(f"loss, {model}")
    for ax in axes[1]:
        ax.set_xlabel("time over slowest half-time")
    key_of_styles(axes[0, 0], on=figure, loc="outside lower center", ncols=3)
    return figure


def _draw_plateaus(ax: Axes, diagram: xarray.Dataset) -> None:
    for number, height in enumerate(diagram.predicted_height.values):
        words = None if number else "½ Σ S² of unlearned modes"
        ax.axhline(height, color=GREY, linewidth=1.0, linestyle=":", zorder=0, label=words)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Diagonal networks follow the closed form, and every network rests at the predicted heights."""
    predicted = diagram.predicted_height.values
    diagonal, linear = diagram.isel(model=0, seed=0), diagram.isel(model=1)
    heights = diagonal.plateaus_height.values[:, : len(predicted)]
    # Random starts may skip a plateau, so each is held against the nearest one.
    found = linear.plateaus_height.values[np.isfinite(linear.plateaus_height.values)]
    nearest = np.abs(found[:, None] - predicted).min(axis=1)
    late = abs(diagonal.half_times / diagonal.predicted_half_times - 1).max()
    off = worst(diagonal.loss, diagonal.closed_form)
    return (
        # rtol is 1e-7 a step; at the end of a plateau a loss of 10 falls so steeply that a short delay is seen.
        Claim.between("Largest distance of the diagonal networks' loss from the closed form", off, high=1e-3),
        Claim.between("Largest relative error of their half-times", late, high=0.02),
        Claim.near("Their plateaus, by depth", diagonal.plateaus_count, len(predicted) + 0 * diagonal.depth),
        # A plateau is where the loss falls slowly, so its mean is a little below its height.
        Claim.between("Largest distance of their heights from predicted ones", worst(heights, predicted), high=0.05),
        Claim.between("The same for linear networks from random directions", nearest.max(), high=0.05),
        Claim.between("Fewest plateaus of these", linear.plateaus_count.min(), low=len(predicted) - 1),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
