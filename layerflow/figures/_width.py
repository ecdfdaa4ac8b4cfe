"""Figure width: wide networks from random weights follow a closed form, lazy below K = variance x width, active above.

Two-layer linear networks on whitened inputs, weights of variance v. The flow never leaves the span of the rows of the
first layer and the columns of the second, so a network of any width moves as one of inp + out hidden units does, whose
weights are the triangle of a QR decomposition of all weights: normal numbers, and chi's on its diagonal.

References:
    Tu, Aranguri & Jacot (2024), arXiv:2405.17580; Xu & Ziyin (2024), arXiv:2401.07085.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import LOW_MIDDLE_HIGH, PURPLE, fine_flow, handle, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure
from layerflow.figures._words import facts

TITLE = "Wide networks from random weights: the closed form, lazy and active modes, and layers of two rates"
NOTES = (
    "Dots: flow of random networks by layerflow. It stays in the span of the rows of the first layer and the columns "
    "of the second, so any width is integrated exactly with as many hidden units as inputs and outputs together.",
    "(a), (b): 20 inputs and outputs, K = variance × width = 0.5, three modes to learn. Lines of (a) are the closed "
    "form from each network's own map at t = 0, and one draw is shown; (b) is the root mean square over draws and "
    "times, and its slope is fitted from width 2,000 on.",
    "(c) to (e): one mode of two inputs and outputs; the kernel growth is how many times faster the mode moves at the "
    "end than at the start. The line is where it is √2, with the middle half of the draws; dashed is K = target.",
    "(f): the angle between both layers of a scalar network, of lengths 1 and 0.4 at first, whose rates have product 1 "
    "and this ratio, second to first; its closed form as lines. Not a figure of the paper.",
)

DIM, SCALE = 20, 0.5
MODES = (4.0, 2.0, 1.0)
SHOWN = (20, 200, 2000)
FITTED = 2000  # widths from here on
PHASE_WIDTHS = (100, 300, 1000, 3000)
MAPPED = 1000  # of these in (c)
RATIOS = (1 / 16, 1.0, 16.0)
TARGETS = (2.0, 0.05)  # above and below the slope at the start
A0, B0 = np.array([1.0, 0.0]), np.array([0.24, 0.32])


def compute(quick: bool = False, seeds: int | None = None, grid: int | None = None) -> xarray.Dataset:
    """Maps over width, seed and t, kernel growth over phase_width, variance, target and draw, and angles of layers.

    The quick recipe has 8 draws and 13 variances by 9 targets, the full one 32 draws and 25 by 17.
    """
    seeds = (8 if quick else 32) if seeds is None else seeds
    grid = (13 if quick else 25) if grid is None else grid
    wide, growth, angles = _wide(seeds), _growth(grid, seeds), _angles()
    exact = {"pm_off": ((), _exact_network())}
    found = xarray.merge([wide, growth, angles], combine_attrs="drop")
    return found.assign(exact).assign_attrs(facts(growth))


def random_start(key: jax.Array, width: jax.Array, variance: jax.Array, dim: int) -> lf.LinearNetwork:
    """A network of dim inputs and outputs and any width, in the span of its own weights: at most 2 dim hidden units."""
    above, diagonal = jax.random.split(key)
    free = width - jnp.arange(2 * dim, dtype=width.dtype)  # degrees of freedom; a row without any is zero
    chi = jnp.sqrt(2 * jax.random.gamma(diagonal, jnp.maximum(free, 1.0) / 2))
    triangle = jnp.triu(jax.random.normal(above, (2 * dim, 2 * dim)), 1) + jnp.diag(chi)
    weights = jnp.sqrt(variance) * jnp.where(free[:, None] > 0, triangle, 0.0)
    return lf.LinearNetwork((weights[:, :dim], weights[:, dim:].T))


@lf.observable(long_name="map of the network")
def whole_map(network: PyTree, problem: lf.Problem) -> Float[Array, "out inp"]:  # noqa: ARG001
    """The end-to-end matrix."""
    return network.matrix


@lf.observable(long_name="speed of the first mode")
def mode_speed(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:  # noqa: ARG001
    """Half the kernel of the first input and output."""
    first, second = network.weights
    return 0.5 * (jnp.sum(first[:, 0] ** 2) + jnp.sum(second[0] ** 2))


@lf.observable(long_name="cosine of the angle between layers")
def layer_cosine(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:  # noqa: ARG001
    """Of a scalar network."""
    first, second = network.weights[0][:, 0], network.weights[1][0]
    return first @ second / (jnp.linalg.norm(first) * jnp.linalg.norm(second))


def _wide(seeds: int) -> xarray.Dataset:
    """Leading singular values of maps and of the closed form from the same start, and how far they are apart."""
    task = jnp.diag(jnp.zeros(DIM).at[: len(MODES)].set(jnp.array(MODES)))
    ts = np.linspace(0.0, 3.0, 25)

    def random(key: jax.Array, width: jax.Array) -> lf.Problem:
        return lf.Problem(random_start(key, width, SCALE / width, DIM), lf.Moments.whitened(yx=task))

    widths = np.array([20.0, 60, 200, 600, 2000, 6000, 20000])
    method = fine_flow(float(ts[-1]), rtol=1e-6)
    found = lf.sweep(random, {"width": widths}, seeds=seeds, method=method, ts=ts, observe=whole_map, progress=False)
    flow = jnp.asarray(found.whole_map.transpose("width", "seed", "t", ...).values)
    closed = jax.jit(jax.vmap(jax.vmap(lambda start: lf.theory.wide_matrix(start, SCALE, task, ts))))(flow[:, :, 0])
    leading = lambda maps: np.linalg.svd(np.asarray(maps), compute_uv=False)[..., : len(MODES)]
    off = jnp.linalg.norm(flow - closed, axis=(-2, -1)) / jnp.linalg.norm(task)
    return xarray.Dataset(
        {
            "flow": (("width", "t", "mode"), leading(flow[:, 0])),
            "closed": (("width", "t", "mode"), leading(closed[:, 0])),
            "deviation": (("width", "seed"), np.sqrt(np.mean(off**2, axis=-1))),
        },
        {"width": widths, "t": ts},
    )


def _growth(grid: int, seeds: int) -> xarray.Dataset:
    """Kernel growth of one mode over width, variance and target."""

    def one_mode(key: jax.Array, phase_width: jax.Array, variance: jax.Array, target: jax.Array) -> lf.Problem:
        task = lf.Moments.whitened(yx=target * jnp.diag(jnp.array([1.0, 0.0])))
        return lf.Problem(random_start(key, phase_width, variance, 2), task)

    axes = {
        "phase_width": np.array(PHASE_WIDTHS, float),
        "variance": np.geomspace(1e-5, 0.1, grid),
        "target": np.geomspace(0.1, 10, 2 * (grid // 3) + 1),
    }
    method = lf.Flow(t1=1e4, rtol=1e-5, until=1e-8)
    found = lf.sweep(one_mode, axes, seeds=seeds, method=method, ts=[0.0, 1e4], observe=mode_speed, progress=False)
    first, last = (found.mode_speed.isel(t=k, drop=True) for k in (0, 1))
    return (last / first).rename("growth").rename(seed="draw").to_dataset().assign_attrs(found.attrs)


def _angles() -> xarray.Dataset:
    """Cosines between both layers of a scalar network, of flow and closed form."""
    ts, fine = np.linspace(0.0, 3.0, 16), np.linspace(0.0, 3.0, 121)

    def scalar(ratio: jax.Array, slope: jax.Array) -> lf.Problem:
        start = lf.LinearNetwork((jnp.asarray(A0)[:, None], jnp.asarray(B0)[None, :]))
        rates = eqx.tree_at(lambda network: network.weights, start, (ratio**-0.5, ratio**0.5))
        return lf.Problem(start, lf.Moments.whitened(yx=slope[None, None]), rates=rates)

    axes = {"ratio": np.array(RATIOS), "slope": np.array(TARGETS)}
    method = fine_flow(float(ts[-1]))
    found = lf.sweep(scalar, axes, method=method, ts=ts, observe=layer_cosine, progress=False)
    ratio, slope = np.array(RATIOS)[:, None, None], np.array(TARGETS)[:, None]
    rates = {"rate_a": ratio**-0.5, "rate_b": ratio**0.5}
    closed = lambda at: np.asarray(lf.theory.two_rate_network(at, A0, B0, slope, **rates).alignment)
    return xarray.Dataset(
        {
            "cosine": (("ratio", "slope", "time"), found.layer_cosine.transpose("ratio", "slope", "t").values),
            "closed_cosine_at_dots": (("ratio", "slope", "time"), closed(ts)),
            "closed_cosine": (("ratio", "slope", "fine"), closed(fine)),
        },
        {"ratio": list(RATIOS), "slope": list(TARGETS), "time": ts, "fine": fine},
    )


def _exact_network() -> float:
    """How far the flow of a network whose layers differ by eigenvalues K and -K is from the closed form."""
    dim, ts = 6, np.linspace(0.0, 3.0, 10)
    task = jax.random.normal(jax.random.key(1), (dim, dim))
    one, none = np.sqrt(SCALE) * jnp.eye(dim), jnp.zeros((dim, dim))
    start = lf.LinearNetwork((jnp.concatenate([one, none]), jnp.concatenate([none, one], axis=1)))
    problem = lf.Problem(start, lf.Moments.whitened(yx=task))
    path = lf.solve(problem, fine_flow(float(ts[-1])), ts=ts, observe=whole_map)
    closed = lf.theory.wide_matrix(none, SCALE, task, ts)
    return float(jnp.abs(path.observed["whole_map"] - closed).max())


def _slope(diagram: xarray.Dataset) -> tuple[float, float]:
    """The power of the width in the deviation, and its standard error over draws."""
    kept = diagram.deviation.where(diagram.width >= FITTED, drop=True)
    slopes = np.polyfit(np.log(kept.width.values), np.log(kept.transpose("width", "seed").values), 1)[0]
    return float(slopes.mean()), float(slopes.std(ddof=1) / np.sqrt(slopes.size))


def _lines(diagram: xarray.Dataset) -> dict[int, xarray.Dataset]:
    """The line where the growth is that of K = target, of each width."""
    return {width: _line(diagram.growth.sel(phase_width=width, drop=True), "variance") for width in PHASE_WIDTHS}


def _line(growth: xarray.DataArray, x: str) -> xarray.Dataset:
    """Where 1 / growth^2, which is 1 / (1 + (s/K)^2), is a half: there it has no curvature over log(K)."""
    return lf.boundary((growth**-2).rename("growth"), 0.5, x=x, y="target", over="draw")


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Singular values, deviation, phases; boundaries, their collapse, and angles."""
    figure = new_figure(12.6, 7.4)
    axes = figure.subplots(2, 3).ravel()
    lines = _lines(diagram)
    found = lf.collapse(lines, by="width")
    _draw_modes(axes[0], diagram)
    _draw_deviation(axes[1], diagram)
    _draw_phases(axes[2], diagram)
    _draw_lines(axes[3], lines)
    _draw_collapse(axes[4], found)
    _draw_angles(axes[5], diagram)
    return figure


def _draw_modes(ax: Axes, diagram: xarray.Dataset) -> None:
    for width, colour in zip(SHOWN, LOW_MIDDLE_HIGH, strict=True):
        ax.plot(diagram.t, diagram.closed.sel(width=width), color=colour, linewidth=1.3)
        ax.plot(diagram.t, diagram.flow.sel(width=width), "o", color=colour, markersize=3.5, markerfacecolor="white")
    key = [handle(f"width {width:,}", color=colour) for width, colour in zip(SHOWN, LOW_MIDDLE_HIGH, strict=True)]
    key += [handle("flow", marker="o", linestyle="", markersize=3.5, markerfacecolor="white"), handle("closed form")]
    ax.set(xlabel="gradient-flow time t", ylabel="leading singular values of the map", ylim=(0, 6.3))
    ax.legend(handles=key, fontsize="small", frameon=False, loc="upper left", ncols=2)
    panel_title(ax, "a", f"{DIM} inputs and outputs, K = {SCALE:g}")


def _draw_deviation(ax: Axes, diagram: xarray.Dataset) -> None:
    deviation, width = diagram.deviation, diagram.width
    mean = np.sqrt((deviation**2).mean("seed"))
    bars = np.stack([mean - deviation.min("seed"), deviation.max("seed") - mean])
    ax.errorbar(width, mean, bars, fmt="o", color=PURPLE, mfc="white", markersize=5, elinewidth=0.9, label="flow")
    law = mean.values[-1] * np.sqrt(width.values[-1] / width)
    ax.plot(width, law, "--", color="black", linewidth=1.0, label="width$^{-1/2}$")
    slope, error = _slope(diagram)
    ax.annotate(f"slope {slope:.3f} ± {error:.3f}".replace("-", "−"), (0.06, 0.08), xycoords="axes fraction")
    ax.set(xscale="log", yscale="log", xlabel="width", ylabel="|A − closed form| / |S|")
    ax.legend(fontsize="small", frameon=False, loc="upper right")
    panel_title(ax, "b", "deviation from the closed form")


def _draw_phases(ax: Axes, diagram: xarray.Dataset) -> None:
    growth = diagram.growth.sel(phase_width=MAPPED, drop=True)
    scale = diagram.variance.values * MAPPED
    growth = growth.rename(variance="weight_scale").assign_coords(weight_scale=scale)
    mean = np.exp(np.log(growth).mean("draw")).assign_attrs(long_name="kernel growth of the mode", units="1")
    lf.plot.heatmap(mean, x="weight_scale", y="target", log=True, ax=ax)
    lf.plot.boundary(_line(growth, "weight_scale"), ax=ax)
    ends = np.array([diagram.target.values[0], diagram.target.values[-1]])
    ax.plot(ends, ends, "--", color="black", linewidth=1.0, zorder=5)
    ax.set(xlabel="weight scale K = variance × width", ylabel="target of the mode s")
    for words, place, colour in (("lazy", (0.8, 0.2), "white"), ("active", (0.2, 0.85), "black")):
        ax.annotate(words, place, xycoords="axes fraction", color=colour, ha="center")
    panel_title(ax, "c", f"kernel growth, width {MAPPED:,}")


def _draw_lines(ax: Axes, lines: dict[int, xarray.Dataset]) -> None:
    for (width, line), colour in zip(lines.items(), lf.plot.PALETTE, strict=False):
        ax.fill_betweenx(line.target, line.variance_low, line.variance_high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(line.variance, line.target, color=colour, linewidth=3.0, alpha=0.65, label=f"width {width:,}")
        ax.plot(line.target / width, line.target, "--", color="black", linewidth=0.8)
    ax.plot([], [], "--", color="black", linewidth=0.8, label="K = s")
    ax.set(xscale="log", yscale="log", xlabel="weight variance v", ylabel="target of the mode s", xlim=(1e-5, 1.0))
    ax.legend(fontsize="small", frameon=False, loc="lower right")
    panel_title(ax, "d", "the line of every width")


def _draw_collapse(ax: Axes, found: xarray.Dataset) -> None:
    for (width, line), colour in zip(found.groupby("width"), lf.plot.PALETTE, strict=False):
        ax.plot(line.rescaled, line.target, color=colour, linewidth=3.0, alpha=0.65, label=f"width {width:,.0f}")
    ends = np.array([0.1, 10])
    ax.plot(ends, ends, "--", color="black", linewidth=0.8, label="K = s")
    ax.annotate(
        f"p = {found.exponent.item():.3f} ± {found.exponent_error.item():.3f}", (0.06, 0.9), xycoords="axes fraction"
    )
    ax.set(xscale="log", yscale="log", xlabel="v × width$^p$", ylabel="target of the mode s")
    ax.legend(fontsize="small", frameon=False, loc="lower right")
    panel_title(ax, "e", "collapse of the lines")


def _draw_angles(ax: Axes, diagram: xarray.Dataset) -> None:
    for k, colour in enumerate(LOW_MIDDLE_HIGH):
        for slope, style in zip(TARGETS, ("-", "--"), strict=True):
            curve = diagram.isel(ratio=k).sel(slope=slope)
            ax.plot(diagram.fine, curve.closed_cosine, style, color=colour, linewidth=1.3)
            ax.plot(diagram.time, curve.cosine, "o", color=colour, markersize=3.5, markerfacecolor="white")
    names = ("1/16", "1", "16")
    key = [handle(f"ratio of rates {name}", color=colour) for name, colour in zip(names, LOW_MIDDLE_HIGH, strict=True)]
    key += [handle(f"target {slope:g}", linestyle=style) for slope, style in zip(TARGETS, ("-", "--"), strict=True)]
    ax.set(xlabel="gradient-flow time t", ylabel="cosine of the angle between layers", ylim=(0, 1.03))
    ax.legend(handles=key, fontsize="small", frameon=False, loc="center right")
    panel_title(ax, "f", "layers of two rates")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The deviation falls by the root of the width, the network of +-K has none, and the line is K = target."""
    slope, error = _slope(diagram)
    lines = _lines(diagram)
    found = lf.collapse(lines, by="width")
    p, p_error = float(found.exponent), float(found.exponent_error)
    widest = lines[PHASE_WIDTHS[-1]]
    scale = np.exp(np.log(widest.variance * PHASE_WIDTHS[-1] / widest.target).mean())
    wide = diagram.deviation.where(diagram.width >= FITTED)
    share = np.sqrt((wide**2).mean("seed") * diagram.width / DIM).values
    return (
        Claim.near("Deviation from the closed form as a power of the width", slope, -0.5, atol=max(0.01, 3 * error)),
        Claim.between(
            "Deviation over √(inputs / width), least and largest", [np.nanmin(share), np.nanmax(share)], 0.05, 0.2
        ),
        Claim.between("Network of eigenvalues ±K: largest error of the closed form", diagram.pm_off, high=1e-7),
        Claim.near("K over target on the line of the widest networks", scale, 1, atol=0.02),
        Claim.near("Power of the width that collapses the lines, error of two deviations", p, 1, atol=2 * p_error),
        Claim.between("Error of this power", p_error, high=0.05),
        Claim.between(
            "Angles between layers of two rates: largest error of the closed form",
            np.abs(diagram.cosine - diagram.closed_cosine_at_dots).max(),
            high=1e-7,
        ),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
