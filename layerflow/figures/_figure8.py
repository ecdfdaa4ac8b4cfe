"""Figure 8: grokking goes when the ratio of weights to target falls.

Two networks learn by full-batch descent from large weights, with a kernel that at first hardly moves: lazily they
fit what they train on, and long after they find features that generalise (Kumar et al., 2024). Six levers are pulled,
one at a time: target up; weights, input, output or width down; weight decay up. Polynomial regression of Kumar et al.,
y = (beta . x)^2 / 2, has the network

    f(x) = (1/N) sum_i s_i phi(w_i . x),    phi(z) = z + eps z^2 / 2,

of N units w_i ~ N(0, I) and fixed readouts; addition modulo a prime has that of Gromov (2023), of quadratic units
and two trained layers. What the solvable models say beforehand is

    q = |Df|^2 / (|D^2 f| |y|),    for f = (x/Z) sum_i a_i b_i:  q = 2 Sigma(0) / S,

the smaller, the farther the tangent kernel moves for its size as f learns y (Chizat et al., 2019); in the scalar
network it is twice the weight-to-target ratio, and NTK(inf)/NTK(0) = sqrt(1 + 4/q^2) (Theorem I.1). And in the limit
q -> inf the network is its linearised twin, which is trained beside the default.

Descent has a clock: the time that it takes in the lazy limit goes as one over the kernel. So in every configuration the
learning rate is one over the size of the kernel at the start, as in Kumar et al., and delays in steps can be compared.

References:
    Kumar et al. (2024), arXiv:2310.06110; Gromov (2023), arXiv:2301.02679; Chizat, Oyallon, Bach (2019),
    arXiv:1812.07956; Nam et al. (2025), arXiv:2502.21009, Section 7.
"""

from typing import Any

import jax
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import GREY, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._grokking import TEST_LINE, TRAIN_LINE, draw_seeds, log_ticks, steps_to
from layerflow.figures._levers import ARGUMENTS, LEVERS, Modular, Polynomial, Task, configurations
from layerflow.figures._words import facts, rank_correlation

TITLE = "Grokking goes as the ratio of weights to target falls: six levers on two tasks"
NOTES = (
    "Curves: median over starts, with the range of all. Grey dotted: the linearised twin of the default on the test "
    "set. Delay: from the first step at which training reaches its level (loss 0.2 of that of the zero function, or "
    "accuracy 0.9) to the first at which testing does.",
    "The learning rate is one over the size of the tangent kernel at the start, so that the lazy limit learns in the "
    "same number of steps in every configuration. Without that, smaller outputs and inputs would be slower by the "
    "clock alone.",
    "Against Kumar et al. f is centred by a mirrored half of units in place of its own value at the start: then decay "
    "draws the network to zero and not to minus that value, and it is the toy model of aligned and anti-aligned "
    "features. Besides eps = 0.5, the target has a size of its own, whatever its direction, and steps are fewer.",
    "The ratio is of the start, so that decay leaves it as it is. A smaller width keeps the scale of each unit.",
    "The quick recipe has 30 inputs in place of 100 and the prime 23 in place of 47: it shows the order of delays, not "
    "their size in large networks.",
)

POINTS = 90
TASKS: dict[str, tuple[Task, ...]] = {
    "full": (
        Polynomial(inp=100, n=550, hid=500, steps=40_000, size=1.0),
        Modular(prime=47, hid=200, steps=12_000, train=0.6),
    ),
    "quick": (Polynomial(inp=30, n=170, hid=100, steps=12_000, size=0.9), Modular(prime=23, hid=100, steps=10_000)),
}
TWIN_LINE = {"color": GREY, "linestyle": ":", "linewidth": 1.9}
MARKERS = ("o", "^", "v", "s", "D", "P", "X")


def compute(quick: bool = False, seeds: int = 3, tasks: tuple[Task, ...] | None = None) -> xarray.Dataset:
    """Train and test curves over task, config, seed and point, delays, and the ratio of weights to target.

    `lazy_train` and `lazy_test` are those of the default's twin. With `quick` networks are smaller and steps fewer.
    """
    tasks = TASKS["quick" if quick else "full"] if tasks is None else tasks
    parts = [_trained(task, seeds) for task in tasks]
    whole = xarray.concat([part.drop_attrs(deep=False) for part in parts], "task", join="exact")
    steps = [int(part.step[-1]) for part in parts]
    return whole.assign_coords(task=[task.name for task in tasks]).assign_attrs(facts(parts[0]), steps_by_task=steps)


def _trained(task: Task, seeds: int) -> xarray.Dataset:
    """One batched call for all levers and seeds of a task, and one for the twin of the default."""
    configs = configurations(task.factors, task.decay)
    steps = steps_to(task.steps, POINTS)
    how: dict[str, Any] = {"seeds": seeds, "ts": steps, "observe": task.observe}
    delay = lf.grokking_delay(train="train", test="test", level=task.level, falling=task.falling)
    runs = lf.sweep(task.cell(jax.random.key(1)), {"config": configs}, summary=delay, **how)
    default = {name: configs.values[name][:1] for name in ARGUMENTS}
    lazy = lf.sweep(task.cell(jax.random.key(1), lazy=True), default, **how)
    lazy = lazy.isel(dict.fromkeys(ARGUMENTS, 0), drop=True)
    table = {name: configs.values[name] for name in ARGUMENTS[:-1]}
    # Where steps repeat and are dropped, the last values stand in their place: all tasks have one length.
    padded = lambda array: np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, POINTS + 1 - array.shape[-1])], mode="edge")
    every = ("config", "seed", "point")
    return xarray.Dataset(
        {
            "step": ("point", padded(steps)),
            "train": (every, padded(runs.train.values), {"long_name": f"{task.measure}, train"}),
            "test": (every, padded(runs.test.values), {"long_name": f"{task.measure}, test"}),
            "lazy_train": (every[1:], padded(lazy.train.values)),
            "lazy_test": (every[1:], padded(lazy.test.values)),
            "train_time": (every[:2], runs.grokking_train.values, {"units": "steps"}),
            "test_time": (every[:2], runs.grokking_test.values, {"units": "steps"}),
            "delay": (every[:2], runs.grokking_delay.values, {"long_name": "grokking delay", "units": "steps"}),
            "ratio": ("config", task.ratio(**table), {"long_name": "weight-to-target ratio over the default's"}),
            "level": task.level,
            "falling": int(task.falling),
        },
        {"config": list(LEVERS), "seed": runs.seed.values},
        attrs=facts(runs),
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """A row of curves for each task, a panel for each lever; below, delay over the weight-to-target ratio."""
    figure = new_figure(13.0, 7.4)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.62, 1.0))
    curves, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    axes = curves.subplots(diagram.sizes["task"], len(LEVERS), sharex="row", sharey="row", squeeze=False)
    for i, row in enumerate(axes):
        one = diagram.isel(task=i)
        for number, ax in enumerate(row):
            _draw_curves(ax, one.isel(config=number), one, lazy=number == 0)
        _label_row(row, one, titled=i == 0)
    key = axes[0, 0].get_legend_handles_labels()
    curves.legend(*key, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    lower = below.subplots(1, diagram.sizes["task"] + 1, squeeze=False, width_ratios=(*[1.0] * len(axes), 0.42))[0]
    for number, ax in enumerate(lower[:-1]):
        _draw_delays(ax, diagram.isel(task=number))
        panel_title(ax, "abc"[number], f"delay, {diagram.task.values[number]}")
    lower[-1].axis("off")
    lower[-1].legend(*lower[0].get_legend_handles_labels(), loc="center left", fontsize="small", frameon=False)
    return figure


def _draw_curves(ax: Axes, here: xarray.Dataset, one: xarray.Dataset, *, lazy: bool) -> None:
    """Train, test, the level, and how long the median delay is."""
    steps = one.step.values
    draw_seeds(ax, steps, here.train, TRAIN_LINE, "train")
    draw_seeds(ax, steps, here.test, TEST_LINE, "test")
    if lazy:
        draw_seeds(ax, steps, one.lazy_test, TWIN_LINE, "linearised twin, test")
    ax.axhline(float(one.level), color="0.6", linewidth=0.8, zorder=0)
    first, last = (float(np.median(here[name])) for name in ("train_time", "test_time"))
    if np.isfinite([first, last]).all() and last > first:
        label = "delay (median)" if lazy else None
        ax.plot([first, last], [float(one.level)] * 2, color="black", linewidth=2.4, solid_capstyle="butt", label=label)


def _label_row(row: np.ndarray, one: xarray.Dataset, *, titled: bool) -> None:
    falling = bool(one.falling)
    row[0].set(xscale="log", ylim=(0.0, 1.25) if falling else (-0.03, 1.03))
    row[0].set_ylabel(f"{one.task.values}\n{'loss / loss of 0' if falling else 'accuracy'}")
    for ax, name in zip(row, one.config.values, strict=True):
        ax.set_xlabel("step")
        ax.set_xticks([1, 100, 10_000])
        if titled:
            ax.set_title(name, fontsize="medium")


def _draw_delays(ax: Axes, one: xarray.Dataset) -> None:
    """One mark for each run; decay, which leaves the ratio as it is, hollow."""
    reached = one.delay.where(np.isfinite(one.delay))
    ceiling = 1.6 * float(reached.max()) if bool(np.isfinite(one.delay).any()) else 1.0
    for number, (name, colour) in enumerate(zip(one.config.values, (GREY, *lf.plot.PALETTE), strict=False)):
        style: dict[str, Any] = {"markerfacecolor": "none"} if name == LEVERS[-1] else {}
        style |= {"color": colour, "alpha": 0.85, "label": str(name), "markersize": 9.5 if number == 1 else 6.5}
        ratio = np.full(one.sizes["seed"], float(one.ratio[number]))
        ax.plot(ratio, reached[number], MARKERS[number], **style)
        for _ in range(int((~np.isfinite(one.delay[number])).sum())):
            ax.annotate("later", (ratio[0], ceiling), color=colour, ha="right", fontsize="small")
    ax.set(xscale="log", yscale="log", xlabel="weight-to-target ratio q over the default's", ylabel="delay in steps")
    log_ticks(ax, [0.25, 0.35, 0.5, 0.7, 1.0], [100, 200, 500, 1000, 2000, 5000, 10_000])
    low, high = float(reached.min()), ceiling
    ax.set(xlim=(0.22, 1.13), ylim=(0.75 * low, 1.25 * high) if np.isfinite(low) else (50, 20_000))
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """On each task every lever shortens the delay, the ratio orders them, and the twin does not generalise."""
    return tuple(claim for i in range(diagram.sizes["task"]) for claim in _judged(diagram.isel(task=i)))


def _judged(one: xarray.Dataset) -> tuple[Claim, ...]:
    name = str(one.task.values).capitalize()
    delay, level = one.delay.values, float(one.level)
    shorter = delay[1:] < delay[0]
    order = rank_correlation(one.ratio.values[:-1], np.median(delay[:-1], axis=1))
    best = one[["lazy_train", "lazy_test"]].to_array()
    best = best.min("point") if one.falling else best.max("point")
    trains, generalises = (best <= level).values == bool(one.falling)
    apart = np.abs(delay[1] / delay[4] - 1).max()
    wait = f"{name}: steps of the default to generalise over those to train, start by start"
    twin = f"{name}: best of the linearised twin in training and on the test set"
    levers = f"{name}: starts of which the delay is shorter than the default's, by {', '.join(LEVERS[1:])}"
    return (
        Claim.between(wait, one.test_time[0] / one.train_time[0], low=5.0),
        Claim(
            twin,
            trains.all() and not generalises.any(),
            best.median("seed"),
            f"in all starts within the level {level:g}, and in none",
        ),
        Claim(levers, shorter.all(), shorter.sum(axis=1), f"all {delay.shape[1]}"),
        Claim.between(f"{name}: rank correlation of the weight-to-target ratio and the delay", order, low=0.7),
        Claim.between(f"{name}: share by which delays of target up and output down differ", apart, high=0.05),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """How long delays are."""
    middle = diagram.median("seed")
    return tuple(
        f"On {one.task.values} the default trains in {told(one.train_time[0])} steps and generalises after "
        f"{told(one.test_time[0])}; delays with the levers are {told(one.delay[1:] / one.delay[0])} of the default's."
        for one in (middle.isel(task=i) for i in range(middle.sizes["task"]))
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks, dtype="float32")
