"""Figure linear-grokking: how long linear regression takes from fitting its samples to generalising.

f(x) = w.x learns y = w*.x without noise from N samples of d inputs. The training error hardly sees the slow directions
of the inputs, so it is small long before the test error is, for ever if there are fewer samples than inputs and no
weight decay. Lines are averages for large d; dots are draws.

References:
    Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441; Liu et al. (2023), arXiv:2210.01117.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREY, VERMILION, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._noise import residual
from layerflow.figures._words import facts

TITLE = "Grokking of linear regression: the delay between training and test error, over samples and weight decay"
NOTES = (
    "Lines: averages for infinitely many inputs, the times solved from them. Dots: the median over draws of finite "
    "data, solved by layerflow, with bars from the 10th to the 90th percentile; in (a) the mean of the errors.",
    "(a) and (b): no decay, w starts at 0, and an error is small when 95 % of the outputs are within √0.001 of the "
    "target. (c): 0.8 samples per input, a start of length 10, and an error is small below 0.3 |w*|².",
    "Dashed in (b): the law for thresholds much smaller than this one. Star: the law for as many samples as inputs. "
    "Dashed in (c): only the decay takes the start away where there are no samples. Not a figure of the paper.",
)

ACCURACY, TOLERANCE = 0.95, 1e-3
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9)  # inputs per sample of the draws
SHOWN = 0.9  # of these in (a)
FEW, START, LEVEL = 0.8, 10.0, 0.3
DECAYS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SLOW = np.geomspace(1e-4, 0.1, 61)  # decays of the lines
SHEET = {0.3: 2.394, 0.5: 8.596, 0.7: 36.80, 0.9: 405.6, 0.97: 3417.0}  # delays to 30 digits, rounded


def compute(quick: bool = False, seeds: int | None = None, grid: int | None = None) -> xarray.Dataset:
    """Delays over load (d/N) and over decay, and errors over t at one load, of draws and on average.

    The quick recipe has 100 inputs and 8 draws, the full one 300 and 10.
    """
    inp, seeds = 100 if quick else 300, (8 if quick else 10) if seeds is None else seeds
    threshold = float(lf.theory.variance_of_accuracy(ACCURACY, TOLERANCE))
    over_load, over_decay = _over_load(inp, seeds, threshold), _over_decay(inp, seeds)
    far = np.linspace(0.2, 0.98, 40 if grid is None else grid)
    loads = np.concatenate([far, 1 - np.geomspace(0.01, 1e-4, 9), [1.0]])
    fine = np.geomspace(0.1, 3e3, 121)
    along = lf.theory.estimator_errors(fine, 1 / SHOWN)
    data = {
        "curve_test": ("fine", along.test),
        "curve_train": ("fine", along.train),
        "edge_delay": ("fine_load", np.append(lf.theory.edge_delay(1 / loads[:-1]), np.inf)),
        "forgetting": ("fine_decay", lf.theory.forgetting_time(LEVEL, FEW, start=START, decay=SLOW)),
        **_times(loads, threshold),
    }
    points = {
        "fine": fine,
        "which": ["train", "test"],
        "fine_load": loads,
        "fine_decay": SLOW,
        "sheet_load": [*SHEET],
    }
    critical = float(lf.theory.critical_delay(threshold))
    return (
        xarray.merge([over_load, over_decay])
        .assign_coords(points)
        .assign({name: (dim, np.asarray(values)) for name, (dim, values) in data.items()})
        .assign_attrs(facts(over_load) | {"inputs": inp, "threshold": threshold, "critical_delay": critical})
    )


def _times(loads: np.ndarray, threshold: float) -> dict[str, tuple[str, np.ndarray]]:
    """All times by theory in one call, which compiles once."""
    without = 1 / np.array([*loads, *SHEET, SHOWN])
    either = lambda plain, decayed: np.append(np.full(without.size, plain), np.broadcast_to(decayed, SLOW.size))
    times = lf.theory.estimator_times(
        either(threshold, LEVEL),
        np.append(without, np.full(SLOW.size, FEW)),
        start=either(0.0, START),
        decay=either(0.0, SLOW),
    )
    ends = [loads.size, loads.size + len(SHEET), without.size]
    delay, sheet, *_ = np.split(np.asarray(times.delay), ends)
    train, test = (np.split(np.asarray(x), ends)[2:] for x in (times.train, times.test))
    return {
        "curve_times": ("which", np.append(train[0], test[0])),
        "exact_delay": ("fine_load", delay),
        "sheet_delay": ("sheet_load", sheet),
        "exact_train": ("fine_decay", train[1]),
        "exact_test": ("fine_decay", test[1]),
    }


def _problem(key: jax.Array, n: int, inp: int, samples: jax.Array, start: float, decay: jax.Array) -> lf.Problem:
    """Regression on the first samples of a draw, from weights of a given length."""
    direction, data, first = jax.random.split(key, 3)
    w, w0 = (draw / jnp.linalg.norm(draw) for draw in (jax.random.normal(k, (inp,)) for k in (direction, first)))
    truth = lf.linear_model(w)
    task = lf.teacher(data, truth, n=n, inp=inp).first(samples)
    return lf.Problem(lf.linear_model(start * w0), task, test=lf.population(truth), decay=decay)


def _swept(cell: Any, axes: dict[str, np.ndarray], seeds: int, level: float, **how: Any) -> xarray.Dataset:
    """Errors over t, and when they come down to a level."""
    return lf.sweep(
        cell,
        axes,
        seeds=seeds,
        method=lf.Exact(t1=1e5),
        ts=np.geomspace(0.1, 1e5, 200),
        observe={"test": lf.excess_error, "train": residual},
        summary=lf.grokking_delay(train="train", test="test", level=level, falling=True),
        progress=False,
        **how,
    )


def _over_load(inp: int, seeds: int, threshold: float) -> xarray.Dataset:
    """Times and errors of draws without decay, over d/N."""
    samples = np.round(inp / np.array(LOADS))

    def regression(key: jax.Array, samples: jax.Array) -> lf.Problem:
        return _problem(key, round(inp / LOADS[0]), inp, samples, 0.0, jnp.zeros(()))

    diagram = _swept(regression, {"samples": samples}, seeds, threshold)
    return diagram.rename(samples="inputs_per_sample").assign_coords(inputs_per_sample=inp / samples)


def _over_decay(inp: int, seeds: int) -> xarray.Dataset:
    """Times of draws of fewer samples than inputs, over the weight decay."""

    def regression(key: jax.Array, decay: jax.Array) -> lf.Problem:
        n = round(FEW * inp)
        return _problem(key, n, inp, jnp.asarray(n, float), START, decay)

    diagram = _swept(regression, {"decay": np.array(DECAYS)}, seeds, LEVEL, paths=False)
    return diagram[["grokking_train", "grokking_test"]].rename(
        grokking_train="decay_train", grokking_test="decay_test", seed="draw"
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """A curve with its delay, the delay over inputs per sample, and times over decay."""
    figure = new_figure(11.4, 3.9)
    first, second, third = figure.subplots(1, 3)
    _draw_curve(first, diagram)
    _draw_loads(second, diagram)
    _draw_decays(third, diagram)
    return figure


def _draw_curve(ax: Axes, diagram: xarray.Dataset) -> None:
    threshold = diagram.attrs["threshold"]
    drawn = diagram.isel(inputs_per_sample=int(np.abs(diagram.inputs_per_sample.values - SHOWN).argmin())).isel(
        t=slice(0, None, 8)
    )
    for name, colour, words in (("train", BLUE, "training error"), ("test", VERMILION, "test error")):
        ax.plot(diagram.fine, diagram[f"curve_{name}"], color=colour, linewidth=1.5, label=words)
        values = drawn[name]
        mean = values.mean("seed")
        ax.plot(drawn.t, mean, "o", color=colour, markersize=4, markerfacecolor="white")
    ax.plot(
        [], [], "o", color=GREY, markersize=4, markerfacecolor="white", label=f"draws, {diagram.attrs['inputs']} inputs"
    )
    ax.axhline(threshold, color=GREY, linewidth=0.8, linestyle="--")
    begin, end = diagram.curve_times.values
    ax.annotate("", (begin, threshold), (end, threshold), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
    ax.annotate(f"delay {end - begin:,.0f}", (1.05 * begin, 1.25 * threshold), va="bottom", fontsize="small")
    ax.set(xscale="log", yscale="log", xlim=(0.1, 3e3), ylim=(1e-5, 2.0))
    ax.set(xlabel="gradient-flow time t", ylabel="squared error over |w*|²")
    ax.legend(fontsize="small", frameon=False, loc="lower left")
    panel_title(ax, "a", f"training at d/N = {SHOWN:g}")


def _draw_loads(ax: Axes, diagram: xarray.Dataset) -> None:
    ax.plot(diagram.fine_load, diagram.exact_delay, color=BLUE, linewidth=1.6, label="average")
    known = np.isfinite(diagram.edge_delay)
    ax.plot(diagram.fine_load[known], diagram.edge_delay[known], "--", color="black", linewidth=1.0, label="edge law")
    ax.plot(1.0, diagram.attrs["critical_delay"], "*", color=VERMILION, markersize=11, label="law of d = N")
    _dots(ax, diagram.inputs_per_sample, diagram.grokking_delay, "seed", BLUE, "draws")
    ax.set(
        yscale="log",
        xlabel="inputs per sample d/N",
        ylabel="delay of the test error",
        xlim=(0.18, 1.03),
        ylim=(0.7, 2e7),
    )
    ax.legend(fontsize="small", frameon=False, loc="upper left")
    panel_title(ax, "b", "delay without decay")


def _draw_decays(ax: Axes, diagram: xarray.Dataset) -> None:
    for name, colour, words in (("test", VERMILION, "test error"), ("train", BLUE, "training error")):
        ax.plot(diagram.fine_decay, diagram[f"exact_{name}"], color=colour, linewidth=1.6, label=words)
        _dots(ax, diagram.decay, diagram[f"decay_{name}"], "draw", colour, None)
    ax.plot(diagram.fine_decay, diagram.forgetting, "--", color="black", linewidth=1.0, label="law of forgetting")
    ax.set(xscale="log", yscale="log", xlabel="weight decay ν", ylabel="time until the error is small")
    ax.legend(fontsize="small", frameon=False, loc="upper right")
    panel_title(ax, "c", f"N/d = {FEW:g}: decay generalises")


def _dots(ax: Axes, x: xarray.DataArray, values: xarray.DataArray, over: str, colour: str, label: str | None) -> None:
    low, middle, high = (values.quantile(share, over) for share in (0.1, 0.5, 0.9))
    bars = np.stack([middle - low, high - middle])
    ax.errorbar(x, middle, bars, fmt="o", color=colour, markersize=4.5, elinewidth=0.9, mfc="white", label=label)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Delays are those of the averages, the edge law is their limit, and its star that of as many samples as inputs."""
    on_average = np.interp(diagram.inputs_per_sample, diagram.fine_load, np.log(diagram.exact_delay.values))
    drawn = np.log(diagram.grokking_delay.median("seed")) - on_average
    few = diagram.inputs_per_sample.values < 0.85
    decayed = diagram.decay_test.median("draw") / np.interp(diagram.decay, diagram.fine_decay, diagram.exact_test)
    slow = diagram.fine_decay <= 1e-2
    forgetting = (diagram.forgetting / diagram.exact_test).values[slow]
    long_wait = (diagram.exact_test / diagram.exact_train).values[0]
    return (
        Claim.near(f"Delay for d/N = {told([*SHEET])}", diagram.sheet_delay, [*SHEET.values()], rtol=2e-4),
        Claim.near(
            "Delay for as many samples as inputs over its law",
            diagram.exact_delay[-1] / diagram.attrs["critical_delay"],
            1,
            rtol=1e-6,
        ),
        Claim.between(
            "Edge law over the delay, at the most and the fewest samples",
            [diagram.edge_delay[0] / diagram.exact_delay[0], diagram.edge_delay[-2] / diagram.exact_delay[-2]],
            low=1.0,
        ),
        Claim.near("Delay of draws over the average, for d/N up to 0.8", np.exp(drawn[few]), 1, atol=0.3),
        Claim.near("Time of the test error of draws with decay over the average", decayed, 1, atol=0.15),
        Claim.near(
            "Law of forgetting over the time, decay up to 0.01, least and largest",
            [forgetting.min(), forgetting.max()],
            1,
            atol=0.01,
        ),
        Claim.between("Time of the test error over that of the training error, least decay", long_wait, low=1000.0),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
