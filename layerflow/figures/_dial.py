"""The dial: from a linear network to a ReLU network by the slope of a leaky ReLU.

A leaky ReLU of slope s is a linear map of gain c = (1 + s) / 2 and an even part,

    phi(z) = c z + (1 - s) / 2 |z|.

On inputs that are as likely as their negatives, the even part is uncorrelated with linear targets, and the
contributions of many hidden units to it cancel. So the linear theory should carry, with the gain as an
output scale: a mode of the output, u_k = E[(u_k . f(x)) (v_k . x)], follows Eq. 9 at the speed c from c u(0),

    u_k(t) = S_k / (1 + (S_k / (c u(0)) - 1) e^(-2 c S_k t)).

Two-layer networks without bias, from balanced weights aligned with three modes S = 2, 1, 1/2 and spread over all
hidden units by a random rotation, follow the gradient flow on 40 white inputs, 20 and their negatives.
At slope 1 they are linear networks, and theory is exact.

The second row is the perturbation in 1 - slope itself, `_leaky`: on normal inputs, whose gradients are known without
samples, and with one input, symmetric or not.

References:
    Saxe et al. (2014), arXiv:1312.6120, for ReLU on symmetric inputs; Nam et al. (2025), arXiv:2502.21009,
    section 9.1, on how far layerwise linear models carry; Zhang, Saxe & Latham (2024), arXiv:2406.12615.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures import _leaky
from layerflow.figures._curves import LOW_MIDDLE_HIGH, flow_and_theory, key_of_styles, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._words import facts

TITLE = "How far the linear theory carries: from a linear network (slope 1) to a ReLU network (slope 0)"
NOTES = (
    "Theory in (a) and full in (b) is that of the linear network whose gain is that of the activation, "
    "(1 + slope) / 2; dashed in (b) that of the linear network as it is. Means over starts.",
    "Inputs come with their negatives, so that the activation's even part is uncorrelated with the linear targets.",
    "(d) to (f): errors of order (1 − slope)² and, without the gain, of order 1 − slope. Dots in (d) are networks "
    "3-60-3 on normal inputs from a small start; those in pairs, (w, a) and (−w, −a), are exact up to the solver's "
    "tolerance. Lines in (e) and (f) are four units with one input, E[x²; x > 0] being 1/2 of E[x²] and 4/5.",
)

TARGETS = np.array([2.0, 1.0, 0.5])
INP, SAMPLES, END = 4, 40, 15.0
STRENGTHS = (0.01, 1.0, 10.0)  # of every mode at the start
WIDTHS = (16, 64, 256)
SHOWN = (1.0, 0.5, 0.0)  # slopes in (a)


def task() -> lf.Samples:
    """White inputs with their negatives, and targets that are their first coordinates times S_k."""
    half = np.random.default_rng(0).normal(size=(SAMPLES // 2, INP))
    u, _, _ = np.linalg.svd(np.concatenate([half, -half]), full_matrices=False)
    x = u * SAMPLES**0.5
    return lf.Samples(x, x[:, : TARGETS.size] * TARGETS)


@lf.observable(dims=("mode",), long_name="mode strength")
def output_modes(network: Any, problem: lf.Problem) -> jax.Array:
    """u_k = E[(u_k . f(x)) (v_k . x)] of the output, for any network."""
    data: Any = problem.task
    x = data.x
    return jnp.mean(jax.vmap(network)(x) * x[:, : TARGETS.size], axis=0)


def compute(quick: bool = False, grid: int | None = None, seeds: int | None = None) -> xarray.Dataset:
    """Modes of the output over hid, slope, strength, seed, t and mode, and the kernel distance of the widest network.

    `theory` is that of the linear network with the gain, `plain_theory` without. The quick recipe has two widths, three
    slopes and two seeds, the full one three, eleven and four.
    """
    grid, seeds = grid or (3 if quick else 11), seeds or (2 if quick else 4)
    hids = WIDTHS[::2] if quick else WIDTHS
    axes = {"slope": np.union1d(np.linspace(0.0, 1.0, grid), SHOWN), "strength": np.array(STRENGTHS)}
    data = task()

    def cell(key: jax.Array, hid: int, slope: jax.Array, strength: jax.Array) -> lf.Problem:
        return lf.Problem(lf.MLP(lf.aligned(data, 0.0, strength, hid=hid, key=key).weights, slope=slope), data)

    def linear(strength: jax.Array) -> lf.Problem:
        return lf.Problem(lf.aligned(data, 0.0, strength, hid=INP), data)

    ts, method = np.linspace(0.0, END, 91), lf.Flow(t1=END)
    widths = lambda *hids: {"hid": lf.static({str(hid): hid for hid in hids})} | axes
    paths = lf.sweep(cell, widths(*hids), seeds=seeds, method=method, ts=ts, observe=output_modes, progress=False)
    ends = lf.sweep(cell, widths(WIDTHS[-1]), seeds=seeds, method=method, observe=lf.kernel_distance, progress=False)
    at_slope_1 = {"strength": axes["strength"]}
    exact = lf.sweep(linear, at_slope_1, method=lf.Exact(t1=END), observe=lf.kernel_distance, progress=False)
    gain = (1 + axes["slope"]) / 2
    over = ("slope", "strength", "t", "mode")
    modes = xarray.Dataset(
        {
            "modes": paths.output_modes,
            "theory": (over, _theory(ts, gain)),
            "plain_theory": (over, _theory(ts, np.ones_like(gain))),
            "kernel_distance": ends.kernel_distance.isel(hid=0, drop=True),
            "exact_distance": exact.kernel_distance,
        },
        attrs=facts(paths),
    )
    return xarray.merge([modes, _leaky.compute(13 if quick else 25)], combine_attrs="override")


def _theory(ts: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Eq. 9 for a linear network of this gain, shape (slope, strength, t, mode)."""
    gain = gain[:, None, None, None]
    start = gain * np.array(STRENGTHS)[:, None, None]
    return np.asarray(lf.theory.sigmoidal(ts[:, None], start, TARGETS, gain))


def errors(diagram: xarray.Dataset, theory: str) -> xarray.DataArray:
    """The largest distance from theory over time and modes, as a share of the largest mode at start or end."""
    apart = abs(diagram.modes.mean("seed") - diagram[theory])
    return (apart / np.maximum(diagram.strength, TARGETS.max())).max(("t", "mode"))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Modes in time, errors of the theory and the kernel; the perturbation on normal inputs and with one input."""
    figure = new_figure(10.4, 7.4)
    (a, b, c), (d, e, f) = figure.subplots(2, 3)
    shown = diagram.isel(hid=-1).sel(strength=STRENGTHS[0]).mean("seed")
    for colour, slope in zip(LOW_MIDDLE_HIGH, SHOWN, strict=True):
        run = shown.sel(slope=slope)
        for mode in range(TARGETS.size):
            label = f"slope {slope:g}" if mode == 0 else None
            flow_and_theory(a, run.t, run.modes[:, mode], run.theory[:, mode], colour=colour, label=label)
    a.set(xlabel="gradient-flow time t", ylabel="mode strength u")
    key_of_styles(a, flow="network", theory="theory", loc="center right", bbox_to_anchor=(1.0, 0.72))
    _draw_errors(b, diagram)
    _draw_kernels(c, diagram)
    panel_title(a, "a", "modes of the output")
    panel_title(b, "b", "error of theory")
    panel_title(c, "c", "the kernel")
    _leaky.draw_losses(d, diagram)
    _leaky.draw_errors(e, diagram, "symmetric")
    _leaky.draw_errors(f, diagram, "asymmetric")
    panel_title(d, "d", "loss on normal inputs")
    panel_title(e, "e", "error, symmetric data")
    panel_title(f, "f", "error, asymmetric data")
    return figure


def _draw_errors(ax: Axes, diagram: xarray.Dataset) -> None:
    """The worst error over the slope, for each width; from a small start."""
    with_gain, plain = (errors(diagram, name).sel(strength=STRENGTHS[0]) for name in ("theory", "plain_theory"))
    slopes = diagram.slope[:-1]
    for colour, hid in zip(LOW_MIDDLE_HIGH[-diagram.sizes["hid"] :], diagram.hid.values, strict=True):
        ax.plot(slopes, with_gain.sel(hid=hid)[:-1], color=colour, linewidth=1.8, label=f"{hid} hidden units")
    ax.plot(slopes, plain.isel(hid=-1)[:-1], "--", color="black", linewidth=1.2, label="gain left at 1")
    ax.set(xlabel="slope", ylabel="largest error, share of the largest mode", yscale="log", ylim=(1e-7, 2))
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.invert_xaxis()


def _draw_kernels(ax: Axes, diagram: xarray.Dataset) -> None:
    """How far the kernel moves over the slope, for each start."""
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "white"}
    for colour, strength in zip(LOW_MIDDLE_HIGH, STRENGTHS, strict=True):
        at, label = diagram.sel(strength=strength), f"u(0) = {strength:g}"
        ax.plot(diagram.slope, at.kernel_distance.mean("seed"), color=colour, linewidth=1.8, label=label)
        ax.plot(1.0, at.exact_distance, color=colour, markersize=7, zorder=3, clip_on=False, **dot)
    ax.plot([], [], color="0.4", label="closed form", **dot)
    ax.set(xlabel="slope", ylabel="kernel distance at the end")
    ax.legend(frameon=False, fontsize="small")
    ax.invert_xaxis()


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Theory is exact at slope 1, and with the gain carries to ReLU networks, the better the wider."""
    with_gain, plain = errors(diagram, "theory"), errors(diagram, "plain_theory")
    relu = with_gain.sel(slope=0.0).max("strength").values
    kernel = abs(diagram.kernel_distance.sel(slope=1.0) / diagram.exact_distance - 1).max()
    better = (np.diff(relu) < 0).all() and relu[-1] < 0.02
    widths = told(diagram.hid.astype(float))
    return (
        Claim.between("Largest error of Eq. 9 at slope 1", with_gain.sel(slope=1.0).max(), high=1e-4),
        Claim.between("Largest error of the kernel distance's closed form at slope 1", kernel, high=1e-4),
        Claim(f"Largest error at slope 0, of {widths} hidden units", better, relu, "falling to below 0.02"),
        Claim.between("Smallest error at slope 0 of the theory without gain", plain.sel(slope=0.0).min(), low=0.3),
        *_leaky.claims(diagram),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """How far the kernel of the ReLU network moves."""
    moved = diagram.kernel_distance.sel(slope=0.0).mean("seed") / diagram.exact_distance
    return (
        f"From u(0) = {told(diagram.strength)} the kernel of the ReLU network moves {told(moved)} times as far as that "
        f"of the linear one.",
        _leaky.remark(diagram),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks)
