"""Figure delay: the delay of grokking over weight-to-target ratio and layer imbalance, and where theory draws the line.

Networks f(x) = (s/N) sum_i a_i phi(w_i . x), phi(z) = z + eps z^2 / 2, learn y = (beta . x)^2 / 2 from few samples by
descent of both layers; `upstream` by c puts the weight into the later layer: a_i = +-c and w_i ~ N(0, I / c^2).
Units come in pairs of opposite sign, so that f = 0 at the start.

Theory is the linear network of the same start: f = (1/Z) sum_i a_i w_i in the direction of beta (Theorem I.1 of
Nam et al., 2025). Its units are aligned with the target or against it; with S the slope of a linear target as large
as y,

    NTK(inf) / NTK(0) = sqrt(1 + 1/Q^2),    Q = Sigma(0) / S = q (c^2 + c^-2) / 2,

where q = s / S is the weight-to-target ratio at c = 1. That treats both layers alike: the kernel of the linear network
keeps still at any large imbalance, of either sign. But a network that is not linear gains features only as its first
layer turns, and this the same theorem gives too. An aligned weight of the first layer grows by

    w(inf) / w(0) = cosh g + c^2 sinh g,    2 g = arcsinh(1/Q),

as a_i^2 - w_i^2 is conserved. Upstream (c > 1) it grows although the kernel of the linear network does not change, by
1 + 1/q as c -> inf; downstream by 1 + c^4/q: there the readout learns alone. The line predicted is where it doubles.
It is the side, not the size, of the imbalance in which a network and its linear kernel part (Kunin et al., 2024).

References:
    Kunin et al. (2024), arXiv:2406.06158; Kumar et al. (2024), arXiv:2310.06110; Nam et al. (2025), arXiv:2502.21009.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray
from matplotlib.axes import Axes
from matplotlib.patheffects import Normal, Stroke

import layerflow as lf
from layerflow.figures._curves import BLUE, VERMILION, new_figure
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._grokking import log_ticks, mirrored, relative_loss, steps_to
from layerflow.figures._words import rank_correlation

TITLE = "Grokking delay over weight-to-target ratio and layer imbalance, and the line that linear networks predict"
NOTES = (
    "Polynomial regression with both layers trained. Delay over training time: from when the training loss is 0.2 of "
    "that of the zero function to when the test loss is, in units of the first; so it does not depend on the learning "
    "rate, which is one over the size of the linear network's tangent kernel at the end.",
    "Hatched: the test loss does not get there by the last step, or training does not.",
    "Solid line: the aligned weights of the linear network's first layer double. Dashed: its kernel grows by as much "
    "as it does at c = 1 on the solid line; it treats both signs of the imbalance alike.",
    "That the line is at two is a choice, its shape is not. Not a figure of a paper; imbalance as in Kunin et al., and "
    "the linear network has a linear target as large as the one that is learned.",
    "The quick map has fewer cells and steps: its late rim is cut off sooner.",
)

INP, SAMPLES, HID, EPS = 20, 100, 60, 0.5
RATE = 0.2
RATIOS, FACTORS = (0.03, 3.0), (0.3, 3.0)
LEVEL = 0.2  # of the loss over that of the zero function
DOUBLED = 2.0  # growth of the first layer at the predicted line
KERNEL_LEVEL = 17 / 8  # growth of the kernel there at c = 1
LINES = (
    ("first_layer_growth", DOUBLED, "-", "first layer doubles"),
    ("kernel_growth", KERNEL_LEVEL, "--", "kernel grows as there at c = 1"),
)


def compute(quick: bool = False, seeds: int = 3, grid: int | None = None) -> xarray.Dataset:
    """When training and testing reach the level, over factor, weight_to_target and seed, and what theory predicts.

    The quick map has 12 points along each axis and fewer steps, the full one 24.
    """
    grid = (12 if quick else 24) if grid is None else grid
    steps = 10_000 if quick else 60_000
    train, test = lf.polynomial_regression(jax.random.key(1), n=SAMPLES, inp=INP, test=500)
    size = jnp.sqrt(2 * train.null_loss())
    train, test = (task.rescale(target=1 / size) for task in (train, test))

    def polynomial(key: jax.Array, factor: jax.Array, weight_to_target: jax.Array) -> tuple[lf.Problem, lf.Descent]:
        half = jax.random.normal(key, (HID // 2, INP))
        sign = jnp.where(jnp.arange(HID // 2) % 2, -1.0, 1.0)
        # In the direction of the target the input has standard deviation 1/sqrt(inp), so that S = sqrt(inp).
        scale = weight_to_target * INP**0.5
        start = mirrored(half, sign, eps=EPS, scale=scale)
        sigma = (factor**2 + factor**-2) / 2
        # Of the start, times its growth: the descent is to follow the flow to its end.
        kernel = scale**2 / HID * jnp.hypot(sigma, 1 / weight_to_target)
        descent = lf.Descent(optax.sgd, learning_rate=RATE / kernel, steps=steps)
        return lf.Problem(lf.upstream(start, factor), train, test=test), descent

    axes = {"factor": np.geomspace(*FACTORS, grid), "weight_to_target": np.geomspace(*RATIOS, grid)}
    diagram = lf.sweep(
        polynomial,
        axes,
        seeds=seeds,
        ts=steps_to(steps, 80),
        observe={"train": relative_loss, "test": lf.on_test(relative_loss)},
        summary=lf.grokking_delay(train="train", test="test", level=LEVEL, falling=True),
        paths=False,
    )
    diagram["factor"].attrs.update(long_name="layer imbalance: later layer × c, first ÷ c", units="1")
    growth = predicted(diagram.factor.values[:, None], diagram.weight_to_target.values)
    every = ("factor", "weight_to_target")
    return diagram.rename(grokking_train="train_time", grokking_test="test_time", grokking_delay="delay").assign(
        first_layer_growth=(every, growth[0], {"long_name": "growth of the first layer, linear network"}),
        kernel_growth=(every, growth[1], {"long_name": "growth of the kernel, linear network"}),
    )


def predicted(factor: np.ndarray, weight_to_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Growth of an aligned first-layer weight, and of the kernel, in the flow of the linear network."""
    c, q = np.broadcast_arrays(factor, weight_to_target)
    later, first = np.stack([c, -c], axis=-1), np.stack([1 / c, 1 / c], axis=-1)
    # Of the pair, Z = 2/q gives Sigma(0) = q (c^2 + c^-2) / 2 beside S = 1.
    z = 2 / q
    end = lf.theory.scalar_network_limit(first, later, 1.0, z=z)
    return np.asarray(end.a[..., 0] / first[..., 0]), np.asarray(lf.theory.kernel_growth(first, later, 1.0, z=z))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The map with both lines, and every cell over what the linear network predicts."""
    figure = new_figure(10.4, 4.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
    lf.plot.heatmap(_median_wait(diagram), x="weight_to_target", log=True, ax=left)
    log_ticks(left, [0.03, 0.1, 0.3, 1.0, 3.0], [0.3, 0.5, 1.0, 2.0, 3.0])
    _draw_lines(left, diagram)
    _draw_cells(right, diagram)
    return figure


def _draw_lines(ax: Axes, diagram: xarray.Dataset) -> None:
    """Both predicted lines, white on the map and black in the legend; a grid of few cells may have none."""
    for name, level, style, words in LINES:
        with contextlib.suppress(ValueError):
            line = lf.boundary(diagram[name], level, x="weight_to_target", log=True)
            # A gap between branches, or one line would lead across from the end of one to the start of the next.
            gaps = np.flatnonzero(np.diff(line.branch.values)) + 1
            x, y = (np.insert(line[axis].values, gaps, np.nan) for axis in ("weight_to_target", "factor"))
            dark = [Stroke(linewidth=3.6, foreground="black"), Normal()]
            ax.plot(x, y, style, color="white", linewidth=2.0, path_effects=dark, label=words)
    if ax.get_legend_handles_labels()[0]:
        legend = ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False)
        for black in (*legend.get_texts(), *legend.get_lines()):
            black.set_color("black")


def _draw_cells(ax: Axes, diagram: xarray.Dataset) -> None:
    """Delay over predicted growth; those that did not generalise on a line of their own above."""
    wait, growth = _median_wait(diagram).values, diagram.first_layer_growth.values - 1
    later = np.broadcast_to(diagram.factor.values[:, None] > 1, wait.shape)
    seen, never = wait > 0, ~np.isfinite(wait)
    ceiling = 2.0 * float(wait[seen].max(initial=0.5))
    for words, side, colour, marker in (
        ("later layer heavier (c > 1)", later, BLUE, "o"),
        ("first layer heavier (c ≤ 1)", ~later, VERMILION, "^"),
    ):
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "alpha": 0.75, "markersize": 5}
        ax.plot(growth[side & seen], wait[side & seen], label=words, **style)
        hollow = growth[side & never]
        ax.plot(hollow, np.full(hollow.size, ceiling), markerfacecolor="none", **style)
    ax.axvline(DOUBLED - 1, color="black", linewidth=1.4, label="predicted line")
    ax.axhline(ceiling / 1.35, color="0.6", linewidth=0.8, linestyle=":")
    ax.annotate("hollow: not by the last step", (0.03, 0.955), xycoords="axes fraction", fontsize="small")
    ax.set(xscale="log", yscale="log", xlabel="predicted growth of the first layer, w(∞)/w(0) − 1")
    ax.set_ylabel("delay over training time")
    ax.set_ylim(top=1.7 * ceiling)
    ax.legend(fontsize="small", frameon=False, loc="lower left")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The growth of the linear network's first layer orders and divides the delays, better than that of its kernel."""
    wait, known, growth = _trained(diagram)
    order = [rank_correlation(-known, values) for values in growth]
    right = [_share_right(known, values, level) for values, (_, level, *_) in zip(growth, LINES, strict=True)]
    turned = np.isfinite(known[growth[0] > 2 * DOUBLED]).mean()
    row = wait.isel(weight_to_target=wait.sizes["weight_to_target"] // 3, factor=[-1, 0])
    at = f"at ratio {told(row.weight_to_target)}, for c = {told(row.factor)}"
    line, better = "Share of cells on the predicted side of the line", "the first above 0.8 and above the second"
    by = "growth of the first layer and of the kernel"
    return (
        Claim(f"Rank correlation of short delays and the {by}", order[0] > max(0.8, order[1]), order, better),
        Claim(f"{line}, by {by}", right[0] > right[1], right, "the first above the second"),
        Claim.between(
            f"Share that generalise where the first layer grows above {2 * DOUBLED:g} times", turned, low=1.0
        ),
        Claim(
            f"Delay over training time {at}", row[0] < row[1], row, "the first smaller, though the kernel grows alike"
        ),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """How many cells do not generalise."""
    _, known, _ = _trained(diagram)
    return (f"Of {known.size} cells that train, {np.isinf(known).sum()} do not generalise by the last step.",)


def _trained(diagram: xarray.Dataset) -> tuple[xarray.DataArray, np.ndarray, list[np.ndarray]]:
    """Delays, infinite if later than the last step; of the cells that train the delays and what theory has grow."""
    wait, trained = _median_wait(diagram).fillna(np.inf), np.isfinite(diagram.train_time).all("seed").values
    return wait, wait.values[trained], [diagram[name].values[trained] for name, *_ in LINES]


def _share_right(wait: np.ndarray, growth: np.ndarray, level: float) -> float:
    """Share of cells on the predicted side of `level`, if as many as predicted are called late."""
    late = growth < level
    cut = np.sort(wait)[-late.sum()] if late.any() else np.inf
    return float(np.mean((wait >= cut) == late))


def _median_wait(diagram: xarray.Dataset) -> xarray.DataArray:
    """Median over seeds of the delay over training time; NaN where most seeds do not generalise."""
    wait = diagram.delay / diagram.train_time
    middle = wait.fillna(np.inf).median("seed")
    middle = middle.where(np.isfinite(middle)).rename("wait")
    return middle.assign_attrs(long_name="delay over training time", units="1")


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks, dtype="float32")
