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

References:
    Saxe et al. (2014), arXiv:1312.6120, for ReLU on symmetric inputs; Nam et al. (2025), arXiv:2502.21009,
    section 9.1, on how far layerwise linear models carry.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.engine._grid import static
from layerflow.figures._curves import BLUE, GREEN, VERMILION, flow_and_theory, key_of_styles, new_figure, panel_title
from layerflow.figures._words import facts, listed
from layerflow.methods import Exact, Flow
from layerflow.networks import MLP
from layerflow.observables import kernel_distance, observable
from layerflow.starts import aligned
from layerflow.tasks import Samples

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "How far the linear theory carries: from a linear network (slope 1) to a ReLU network (slope 0)"
NOTES = (
    "Theory in (a) and full in (b) is that of the linear network whose gain is that of the activation, "
    "(1 + slope) / 2; dashed in (b) that of the linear network as it is. Means over starts.",
    "Inputs come with their negatives, so that the activation's even part is uncorrelated with the linear targets.",
)

TARGETS = np.array([2.0, 1.0, 0.5])
INP, SAMPLES, END = 4, 40, 15.0
STRENGTHS = (0.01, 1.0, 10.0)  # of every mode at the start
WIDTHS = (16, 64, 256)
SHOWN = (1.0, 0.5, 0.0)  # slopes in (a)


def task() -> Samples:
    """White inputs with their negatives, and targets that are their first coordinates times S_k."""
    half = np.random.default_rng(0).normal(size=(SAMPLES // 2, INP))
    u, _, _ = np.linalg.svd(np.concatenate([half, -half]), full_matrices=False)
    x = u * SAMPLES**0.5
    return Samples(x, x[:, : TARGETS.size] * TARGETS)


@observable(dims=("mode",), long_name="mode strength")
def output_modes(network: Any, problem: Problem) -> jax.Array:
    """u_k = E[(u_k . f(x)) (v_k . x)] of the output, for any network."""
    x: Any = problem.task.x  # pyright: ignore[reportAttributeAccessIssue]
    return jnp.mean(jax.vmap(network)(x) * x[:, : TARGETS.size], axis=0)


def network(key: jax.Array, slope: jax.Array, strength: jax.Array, hid: int) -> MLP:
    """Balanced weights aligned with the task, spread over the hidden units."""
    return MLP(aligned(task(), 0.0, strength, hid=hid, key=key).weights, slope=slope)


def compute(grid: int = 11, seeds: int = 4) -> "xarray.Dataset":
    """Modes of the output and the kernel distance over the slope.

    Args:
        grid: Slopes from 0 to 1.
        seeds: Random rotations of the hidden units.

    Returns:
        Dataset with `modes` over `hid`, `slope`, `strength`, `seed`, `t` and `mode`, their `theory` and
        `plain_theory`, `kernel_distance` at the end for the widest network, and `exact_distance` of the linear one.
    """
    import xarray

    slopes = np.linspace(0.0, 1.0, grid)
    axes = {"slope": np.union1d(slopes, SHOWN), "strength": np.array(STRENGTHS)}
    data = task()

    def cell(key: jax.Array, hid: int, slope: jax.Array, strength: jax.Array) -> Problem:
        return Problem(network(key, slope, strength, hid), data)

    def linear(strength: jax.Array) -> Problem:
        return Problem(aligned(data, 0.0, strength, hid=INP), data)

    ts, method = np.linspace(0.0, END, 91), Flow(t1=END)
    widths = lambda *hids: {"hid": static({str(hid): hid for hid in hids})} | axes
    paths = sweep(cell, widths(*WIDTHS), seeds=seeds, method=method, ts=ts, observe=output_modes, progress=False)
    ends = sweep(cell, widths(WIDTHS[-1]), seeds=seeds, method=method, observe=kernel_distance, progress=False)
    at_slope_1 = {"strength": axes["strength"]}
    exact = sweep(linear, at_slope_1, method=Exact(t1=END), observe=kernel_distance, progress=False)
    gain = (1 + axes["slope"]) / 2
    over = ("slope", "strength", "t", "mode")
    return xarray.Dataset(
        {
            "modes": paths.output_modes,
            "theory": (over, _theory(ts, gain)),
            "plain_theory": (over, _theory(ts, np.ones_like(gain))),
            "kernel_distance": ends.kernel_distance.isel(hid=0, drop=True),
            "exact_distance": exact.kernel_distance,
        },
        attrs=facts(paths),
    )


def _theory(ts: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Eq. 9 for a linear network of this gain, shape (slope, strength, t, mode)."""
    gain = gain[:, None, None, None]
    start = gain * np.array(STRENGTHS)[:, None, None]
    return np.asarray(theory.sigmoidal(ts[:, None], start, TARGETS, gain))


def errors(diagram: "xarray.Dataset", theory: str) -> "xarray.DataArray":
    """The largest distance from theory over time and modes, as a share of the largest mode at start or end."""
    apart = abs(diagram.modes.mean("seed") - diagram[theory])
    return (apart / np.maximum(diagram.strength, TARGETS.max())).max(("t", "mode"))


def draw(diagram: "xarray.Dataset") -> "Figure":
    """Modes in time, errors of the theory, and the kernel."""
    figure = new_figure(10.0, 4.0, TITLE)
    a, b, c = figure.subplots(1, 3)
    shown = diagram.isel(hid=-1).sel(strength=STRENGTHS[0]).mean("seed")
    for colour, slope in zip((BLUE, GREEN, VERMILION), SHOWN, strict=True):
        run = shown.sel(slope=slope)
        for mode in range(TARGETS.size):
            label = f"slope {slope:g}" if mode == 0 else None
            flow_and_theory(a, run.t, run.modes[:, mode], run.theory[:, mode], colour=colour, label=label)
    a.set(xlabel="gradient-flow time t", ylabel="mode strength u")
    key_of_styles(a, flow="network", theory="theory", loc="center right", bbox_to_anchor=(1.0, 0.72))
    _draw_errors(b, diagram)
    for colour, strength in zip((BLUE, GREEN, VERMILION), STRENGTHS, strict=True):
        at = diagram.sel(strength=strength)
        c.plot(
            diagram.slope, at.kernel_distance.mean("seed"), color=colour, linewidth=1.8, label=f"u(0) = {strength:g}"
        )
        c.plot(
            1.0, at.exact_distance, "o", color=colour, markerfacecolor="white", markersize=7, zorder=3, clip_on=False
        )
    c.plot([], [], "o", color="0.4", markerfacecolor="white", label="closed form")
    c.set(xlabel="slope", ylabel="kernel distance at the end")
    c.legend(frameon=False, fontsize="small")
    for ax in (b, c):
        ax.invert_xaxis()
    for ax, letter, words in zip(
        (a, b, c), "abc", ("modes of the output", "error of theory", "the kernel"), strict=True
    ):
        panel_title(ax, letter, words)
    return figure


def _draw_errors(ax: "Axes", diagram: "xarray.Dataset") -> None:
    """The worst error over the slope, for each width; from a small start."""
    with_gain, plain = (errors(diagram, name).sel(strength=STRENGTHS[0]) for name in ("theory", "plain_theory"))
    for colour, hid in zip((BLUE, GREEN, VERMILION), diagram.hid.values, strict=True):
        ax.plot(
            diagram.slope[:-1], with_gain.sel(hid=hid)[:-1], color=colour, linewidth=1.8, label=f"{hid} hidden units"
        )
    ax.plot(
        diagram.slope[:-1],
        plain.isel(hid=-1)[:-1],
        color="black",
        linewidth=1.2,
        linestyle="--",
        label="gain left at 1",
    )
    ax.set(xlabel="slope", ylabel="largest error, share of the largest mode", yscale="log", ylim=(1e-7, 2))
    ax.legend(frameon=False, fontsize="small", loc="lower right")


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How far networks are from theory at both ends of the dial."""
    with_gain, plain = errors(diagram, "theory"), errors(diagram, "plain_theory")
    relu = with_gain.sel(slope=0.0).max("strength")
    exact = float(abs(diagram.kernel_distance.sel(slope=1.0) / diagram.exact_distance - 1).max())
    moved = diagram.kernel_distance.sel(slope=0.0).mean("seed") / diagram.exact_distance
    return (
        f"At slope 1 the modes are within {float(with_gain.sel(slope=1.0).max()):.0e} of Eq. 9, and the kernel "
        f"distance within {100 * exact:.1g} % of the closed form.",
        f"ReLU networks of {', '.join(map(str, diagram.hid.values))} hidden units are within "
        f"{listed(100 * relu, '.2g')} % of the linear theory with gain 1/2, from every start.",
        f"Without that gain the theory is off by {100 * float(plain.sel(slope=0.0).max()):.0f} %.",
        f"The kernel of the ReLU network moves {listed(moved, '.2g')} times as far as that of the linear one, from "
        f"u(0) = {listed(diagram.strength, 'g')}.",
    )
