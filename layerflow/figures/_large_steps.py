"""Figure large-steps: gradient descent with steps of any size on the scalar network, and where it leaves the flow.

f(x) = a b x learns the slope S = 1, E[x^2] = 1, from f(0) = 0.01 and the imbalance C = a^2 - b^2 by steps of size eta.
Two numbers decide how descent ends: mu = eta S and eta C. An ellipse in a and b that no step crosses parts what stays
bounded from what diverges; no minimum is stable beyond mu = 1. Classes and sharpness are measured along every step of
descent; lines are closed forms. In (f) descent of two matrix networks beside their flow.

References:
    Kreisler et al. (2023), arXiv:2305.13064; Wang et al. (2021), arXiv:2110.03677; Zhu et al. (2022),
    arXiv:2210.03294; Lewkowycz et al. (2020), arXiv:2003.02218.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, GREY, PURPLE, VERMILION, handle, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told

TITLE = "Large steps: how gradient descent ends, and where it leaves the flow"
NOTES = (
    "(a) Classes as lf.descent_class tells them. Lines of theory: the ellipse η C = 4 − (η S)², beyond which descent "
    "diverges; η S = 1, beyond which it does not converge, and √5 − 1, up to which a cycle of two steps is stable; "
    "dotted, η times the sharpness of the flow's minimum at 1 and 2, which are guides. The first step raises the loss "
    "where η C is above 2.",
    "(b, c) Four descents, marked in (a). Dashed in (c): η times the sharpness of the minimum that the flow reaches.",
    "(d, f) The largest distance of descent from the flow at equal time, relative to the way of the flow, "
    "lf.leaving_flow. Outlined in (d): a tenth. In (f) networks of random matrices; dotted, where η times the largest "
    "sharpness on the flow's way is 2.",
    "(e) Sharpness where descent ends over that of the flow's minimum, of all cells of (a) that converge. Black: the "
    "balancing of layers to first order in η.",
    "Not a figure of the paper.",
)

S, F0 = 1.0, 0.01
CONVERGED = (lf.DescentClass.FOLLOWS, lf.DescentClass.OSCILLATES, lf.DescentClass.CATAPULTS)
SHOWN = {"follows": (0.2, 0.5), "oscillates": (0.7, 0.5), "catapults": (0.7, 3.0), "period two": (1.15, 1.0)}
COLOURS = dict(zip(SHOWN, (BLUE, GREEN, VERMILION, PURPLE), strict=True))
RANGES = ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5))  # of eta times the flow's sharpness, in which balancing is judged
WORST = (0.006, 0.03, 0.1)  # errors of the final sharpness there by the law of first order
TENTH = 0.1
NETWORKS = {"2 layers": (3, 4, 2), "3 layers": (3, 4, 4, 2)}
END = 4.0  # gradient-flow time of (f)


def _weights(mu: Any, imbalance: Any) -> tuple[jax.Array, jax.Array]:
    """Both weights of a scalar network of imbalance C = imbalance / eta, eta = mu / S, and f = F0; shape (..., 1)."""
    c = jnp.asarray(imbalance * S / mu)
    a = jnp.sqrt(0.5 * (jnp.sqrt(c**2 + 4 * F0**2) + c))
    return a[..., None], F0 / a[..., None]


def _scalar(mu: Any, imbalance: Any) -> lf.Problem:
    return lf.Problem(lf.DiagonalNetwork(_weights(mu, imbalance)), lf.Modes(jnp.ones(1), S))


def _descent(mu: Any, steps: int) -> lf.Descent:
    return lf.Descent(optax.sgd, learning_rate=mu / S, steps=steps)


@lf.observable(long_name="largest distance from the flow")
def farthest(trajectory: lf.Trajectory) -> jax.Array:
    """Summary: the largest of `leaving_flow`."""
    return jnp.max(trajectory.observed["leaving_flow"])


def compute(quick: bool = False, grid: int | None = None) -> xarray.Dataset:
    """Classes, final sharpness and distance from the flow over mu and imbalance; paths; distances over step sizes.

    The quick maps have 60 x 60 and 30 x 30 cells, the full ones 120 x 120 and 60 x 60.
    """
    grid = (60 if quick else 120) if grid is None else grid
    ends = lf.sweep(
        lambda mu, imbalance: (_scalar(mu, imbalance), _descent(mu, 4000 if quick else 20_000)),
        _axes(grid, ""),
        observe=lf.sharpness,
        summary=lf.descent_class(),
    )
    parts = [ends, _farthest(max(grid // 2, 8)), _paths(), _matrices(7 if quick else 13)]
    return xarray.merge(parts, combine_attrs="drop_conflicts").assign_attrs(ends.attrs)


def _axes(grid: int, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}mu": np.linspace(0.01, 2.3, grid), f"{prefix}imbalance": np.linspace(0.02, 4.6, grid)}


def _farthest(grid: int) -> xarray.Dataset:
    """The map of the distance from the flow, over every step until the flow is at its end."""
    steps = np.unique(np.geomspace(1, 600, 100).round().astype(int))
    found = lf.sweep(
        lambda far_mu, far_imbalance: (_scalar(far_mu, far_imbalance), _descent(far_mu, 600)),
        _axes(grid, "far_"),
        ts=steps,
        observe=lf.leaving_flow,
        summary=farthest,
        paths=False,
    )
    return found[["farthest"]]


def _paths() -> xarray.Dataset:
    """Loss and scaled sharpness of the descents that are shown, step by step."""
    mu, imbalance = np.array(list(SHOWN.values())).T
    found = lf.sweep(
        lambda mu, imbalance: (_scalar(mu, imbalance), _descent(mu, 60)),
        {"shown": lf.paired({"mu": mu, "imbalance": imbalance}, labels=list(SHOWN))},
        ts=np.arange(61),
        observe=(lf.loss, lf.scaled_sharpness),
        summary=lf.descent_class(),
    )
    keep = found[["loss", "scaled_sharpness", "descent_class"]].drop_vars(["mu", "imbalance"])
    return keep.rename(
        loss="path_loss", scaled_sharpness="path_sharpness", descent_class="path_class", step="path_step"
    )


def _matrices(points: int) -> xarray.Dataset:
    """How far descent of random networks leaves their flow at most, over step sizes, and where steps are unstable."""
    steps = np.unique(np.geomspace(4, 1024, points).round().astype(int))
    every = np.unique(np.geomspace(1, steps[-1], 200).round().astype(int))
    found, edges = [], []
    for widths in NETWORKS.values():
        task = lf.random_regression(jax.random.key(3), n=20, inp=widths[0], out=widths[-1])
        problem = lf.Problem(lf.gaussian(jax.random.key(4), widths, std=0.6), task)
        way = lf.solve(problem, lf.Flow(t1=END), ts=jnp.linspace(0, END, 80), observe=lf.sharpness)
        edges.append(2 / float(way.observed["sharpness"].max()))
        descents = lf.sweep(
            lambda rate, steps, problem=problem: (problem, lf.Descent(optax.sgd, learning_rate=rate, steps=steps)),
            {"descent": lf.paired({"rate": END / steps, "steps": steps})},
            ts=every,
            observe=lf.leaving_flow,
            summary=farthest,
            paths=False,
        )
        found.append(descents.farthest.values)
    return xarray.Dataset(
        {"matrix_farthest": (("network", "rate"), np.asarray(found)), "edge": ("network", edges)},
        {"network": list(NETWORKS), "rate": END / steps},
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture."""
    figure = new_figure(12.6, 7.4)
    axes = figure.subplots(2, 3)
    _draw_classes(axes[0, 0], diagram)
    _draw_paths(axes[0, 1], axes[0, 2], diagram)
    _draw_distances(axes[1, 0], diagram)
    _draw_ends(axes[1, 1], diagram)
    _draw_matrices(axes[1, 2], diagram)
    return figure


def _draw_classes(ax: Axes, diagram: xarray.Dataset) -> None:
    lf.plot.heatmap(_labelled(diagram.descent_class), x="mu", y="imbalance", ax=ax)
    _draw_guides(ax, diagram.mu.values, diagram.imbalance.values[-1])
    for name, (mu, imbalance) in SHOWN.items():
        ax.plot(mu, imbalance, "o", color=COLOURS[name], markeredgecolor="white", markersize=7, zorder=5)
    panel_title(ax, "a", "how descent ends")


def _labelled(array: xarray.DataArray) -> xarray.DataArray:
    """With axes in words."""
    mu, imbalance = array.dims
    words = {mu: "step size × target, η S", imbalance: "step size × imbalance, η C"}
    for dim, long_name in words.items():
        array[dim].attrs.update(long_name=long_name, units="1")
    return array


def _draw_guides(ax: Axes, mu: np.ndarray, top: float) -> None:
    """The ellipse and both ends of convergence as lines, the guides dotted."""
    fine = np.linspace(0.0, 2.0, 200)
    style: dict[str, Any] = {"color": "white", "zorder": 4}
    ax.plot(fine, np.where(4 - fine**2 < top, 4 - fine**2, np.nan), linewidth=1.8, **style)
    for end in (1.0, np.sqrt(5) - 1):
        ax.plot([end, end], [0, 4 - end**2], linewidth=1.8 if end == 1 else 1.2, **style)
    for guide in (1.0, 2.0):
        inside = np.linspace(0, guide / 2, 100)
        ax.plot(inside, np.sqrt(guide**2 - 4 * inside**2), linewidth=1.4, linestyle=":", **style)
    ax.set(xlim=(0, mu[-1]), ylim=(0, top))


def _draw_paths(loss: Axes, sharpness: Axes, diagram: xarray.Dataset) -> None:
    """Loss and scaled sharpness of four descents, and the sharpness of the minimum that the flow would reach."""
    for name, colour in COLOURS.items():
        here = diagram.sel(shown=name)
        loss.plot(here.path_step, here.path_loss, color=colour, marker="o", markersize=2.5, linewidth=1.2, label=name)
        sharpness.plot(here.path_step, here.path_sharpness, color=colour, marker="o", markersize=2.5, linewidth=1.2)
        sharpness.axhline(_goal(*SHOWN[name]), color=colour, linewidth=1.0, linestyle="--")
    loss.set(yscale="log", ylim=(1e-12, 30), xlabel="steps", ylabel="loss")
    loss.legend(fontsize="small", frameon=False, loc="center right")
    sharpness.axhline(2.0, color="black", linewidth=1.4)
    edge = handle("2, the edge of stability", color="black", linewidth=1.4)
    goal = handle("of the flow's minimum", color=GREY, linewidth=1.0, linestyle="--")
    sharpness.legend(handles=[edge, goal], fontsize="small", frameon=False, loc="upper right")
    sharpness.set(xlabel="steps", ylabel="step size × sharpness", ylim=(0, None))
    panel_title(loss, "b", "loss of four descents")
    panel_title(sharpness, "c", "sharpness on the way")


def _goal(mu: float, imbalance: float) -> float:
    """Eta times the sharpness of the minimum that the flow reaches."""
    return float(mu / S * lf.theory.flow_sharpness(*_weights(mu, imbalance), S))


def _ends(diagram: xarray.Dataset) -> xarray.Dataset:
    """Of the cells that converged, in a row: eta times the flow's sharpness, the final one, and by first order."""
    cells = diagram[["sharpness", "descent_class"]].stack(cell=("mu", "imbalance"))
    cells = cells.isel(cell=np.isin(cells.descent_class, CONVERGED))
    mu, imbalance = cells.mu.values, cells.imbalance.values
    start, eta = _weights(mu, imbalance), mu / S
    flow = eta * np.asarray(lf.theory.flow_sharpness(*start, S))
    left = np.exp(-eta * np.asarray(lf.theory.balancing(*start, S)))
    first_order = np.sqrt((imbalance * left) ** 2 + 4 * mu**2)
    found = {"flow": flow, "end": eta * cells.sharpness.values, "first_order": first_order}
    return xarray.Dataset({name: ("cell", values) for name, values in found.items()}).assign(
        code=("cell", cells.descent_class.values)
    )


def _draw_ends(ax: Axes, diagram: xarray.Dataset) -> None:
    ends = _ends(diagram)
    for one, colour in zip(CONVERGED, (BLUE, GREEN, VERMILION), strict=True):
        here = ends.isel(cell=ends.code.values == one)
        ax.plot(here.flow, here.end, ".", color=colour, markersize=3, alpha=0.5, rasterized=True)
    top = float(ends.flow.max())
    ax.plot([0, 2.2], [0, 2.2], color=GREY, linewidth=1.0, linestyle="--")
    ax.axhline(2.0, color="black", linewidth=1.4)
    small = ends.isel(cell=ends.flow.values < RANGES[-1][1])
    ax.plot(small.flow, small.first_order, ".", color="black", markersize=1.2, rasterized=True)
    names = [one.name.lower() for one in CONVERGED]
    dots = [
        handle(n, color=c, marker="o", linestyle="none") for n, c in zip(names, (BLUE, GREEN, VERMILION), strict=True)
    ]
    first = handle("first order in η", color="black", marker=".", linestyle="none")
    more = [first, handle("as the flow", color=GREY, linestyle="--"), handle("2", color="black", linewidth=1.4)]
    ax.legend(handles=[*dots, *more], fontsize="small", frameon=False, loc="upper left", ncols=2)
    ax.set(xlabel="η × sharpness of the flow's minimum", ylabel="η × final sharpness", xlim=(0, top), ylim=(0, 3.2))
    panel_title(ax, "e", "the minimum that descent finds")


def _draw_distances(ax: Axes, diagram: xarray.Dataset) -> None:
    array = _labelled(diagram.farthest.assign_attrs(long_name="largest distance from the flow", units="1"))
    lf.plot.heatmap(array, x="far_mu", y="far_imbalance", log=True, vmin=1e-2, vmax=1e1, ax=ax)
    lf.plot.boundary(_tenth(diagram), ax=ax)
    _draw_guides(ax, diagram.far_mu.values, diagram.far_imbalance.values[-1])
    panel_title(ax, "d", "where descent leaves the flow")


def _tenth(diagram: xarray.Dataset) -> xarray.Dataset:
    """Where the distance is a tenth."""
    return lf.boundary(diagram.farthest, TENTH, x="far_mu", y="far_imbalance", log=True)


def _draw_matrices(ax: Axes, diagram: xarray.Dataset) -> None:
    for (name, colour), marker in zip({"2 layers": BLUE, "3 layers": VERMILION}.items(), "os", strict=True):
        here = diagram.sel(network=name)
        ax.plot(here.rate, here.matrix_farthest, color=colour, marker=marker, markersize=4, label=f"linear, {name}")
        ax.axvline(float(here.edge), color=colour, linewidth=1.0, linestyle=":")
    rate = diagram.rate.values
    low = float(diagram.matrix_farthest[0, -1])
    ax.plot(rate, 0.5 * low * rate / rate[-1], color="black", linewidth=1.0, linestyle="--", label="slope 1")
    ax.set(xscale="log", yscale="log", xlabel="step size η", ylabel="largest distance from the flow")
    stable = handle("η × largest sharpness = 2", color=GREY, linewidth=1.0, linestyle=":")
    handles = [*ax.get_legend_handles_labels()[0], stable]
    ax.legend(handles=handles, fontsize="small", frameon=False, loc="upper left")
    ax.set_ylim(1e-3, 200.0)
    panel_title(ax, "f", "matrices: first order in η")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """What is exact holds in every cell, guides in most; balancing to first order, distance of first order."""
    codes, mu, imbalance = diagram.descent_class, diagram.mu, diagram.imbalance
    steps = lf.theory.critical_steps(*_weights(mu.values[:, None], imbalance.values[None]), S)
    eta = mu.values[:, None] / S
    bounded, converged = eta < np.asarray(steps.bounded), eta < np.asarray(steps.convergent)
    misplaced = (codes.values != lf.DescentClass.DIVERGES) != bounded
    misplaced |= np.isin(codes, CONVERGED) != converged
    ends = _ends(diagram)
    overshoots = np.isin(ends.code, CONVERGED[1:])[ends.flow.values > 1.0]
    errors = [_worst_error(ends, *between) for between in RANGES]
    slopes = np.diff(np.log(diagram.matrix_farthest)) / np.diff(np.log(diagram.rate))
    return (
        Claim.near("Cells of another kind (convergent, bounded, divergent) than theory says", misplaced.sum(), 0.0),
        Claim.between("Largest step size × sharpness where descent converged", ends.end.max(), high=2.0),
        Claim.between(
            "Of cells that converge with η × sharpness of the flow's minimum above 1, the share that overshoots",
            overshoots.mean(),
            low=0.95,
        ),
        Claim.between(
            f"Worst relative error of the final sharpness by first order, η × sharpness below {told(RANGES[0][1])}, "
            f"{told(RANGES[1][1])} and {told(RANGES[2][1])}",
            errors,
            high=WORST,
        ),
        Claim.near(
            "Slope of the distance of matrices from their flow at the least steps", slopes[:, -1], 1.0, atol=0.05
        ),
    )


def _worst_error(ends: xarray.Dataset, low: float, high: float) -> float:
    here = ends.isel(cell=(ends.flow.values >= low) & (ends.flow.values < high))
    return float(np.abs(here.first_order / here.end - 1).max())


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """What became of cells that are bounded and do not converge, and of those that catapult."""
    codes = diagram.descent_class.values
    period, wanders = ((codes == one).sum() for one in (lf.DescentClass.PERIOD_TWO, lf.DescentClass.WANDERS))
    ends = _ends(diagram)
    above = ends.isel(cell=ends.flow.values > 2)
    catapults, kept = (above.code == lf.DescentClass.CATAPULTS).mean(), (above.end / above.flow).median()
    return (
        f"Of {period + wanders} bounded cells that do not converge {period} end in a cycle of two steps.",
        f"Where descent converges with η × the flow's sharpness above 2, {told(100 * catapults)} % of cells catapult; "
        f"it ends at {told(kept)} of that sharpness, in the median.",
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks)
