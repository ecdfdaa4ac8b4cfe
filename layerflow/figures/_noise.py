"""Figure noise: what finite noisy samples make of linear regression, when to stop it, and a matrix student.

f(x) = w.x starts from zero and learns y = w*.x + noise, |w*|^2 / sigma^2 = 4, from N samples of d standard normal
inputs by gradient flow. Dots are draws, lines their averages for large d (Marchenko and Pastur, 1967). In (d) a
two-layer network, aligned with what it sees, learns one mode of a matrix from a noisy correlation.

References:
    Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667; Lampinen & Ganguli (2019), arXiv:1809.10374.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, GREY, PURPLE, VERMILION, handle, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._words import facts

TITLE = "Noise and finite samples: test error over time and samples, when to stop, and a matrix student"
NOTES = (
    "Dots: the mean over draws of finite data, solved by layerflow, with bars from the 10th to the 90th percentile in "
    "(a). Lines: averages for infinitely many inputs. The signal-to-noise ratio is 4 in (a) and (b), w starts at 0.",
    "Test errors are without the noise of the test targets, training errors are mean squared residuals; the losses of "
    "layerflow are half of each.",
    "Dotted in (a): the law of late times for as many samples as inputs. In (b) the error of ridge regression at its "
    "best decay lies just below that of the best stopping time.",
    "In (d) two layers of imbalance λ learn a matrix of one mode, of strength 3, from a noisy one, in which modes "
    "below 1 are lost. Not a figure of the paper.",
)

SIGNAL, NOISE = 1.0, 0.5
SHOWN = (0.5, 1.0, 2.0)  # samples per input of (a)
TIMES = (3.0, 30.0, 300.0)  # of (b)
END = 1e4
COLOURS = (BLUE, VERMILION, GREEN)
STRENGTH, START, LAMS = 3.0, 1e-3, (0.0, 1.0, 10.0)
SNRS = np.geomspace(1.0, 1000.0, 25)


def compute(quick: bool = False, seeds: int | None = None, grid: int | None = None) -> xarray.Dataset:
    """Errors over samples_per_input, seed and t, those of students over lam, draw and time, and their averages.

    The quick recipe has 100 inputs and 8 draws, the full one 300 and 10; matrices are 60 or 150 wide.
    """
    seeds = (8 if quick else 10) if seeds is None else seeds
    few = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
    drawn = _regression(100 if quick else 300, seeds, np.array(few) if quick else np.arange(0.25, 3.01, 0.25))
    students = _students(60 if quick else 150, 4)
    ratios = np.union1d(np.linspace(0.2, 3.0, 57 if grid is None else grid), SHOWN)
    fine = np.geomspace(0.1, END, 121)
    sizes = {"signal": SIGNAL, "noise": NOISE}
    shown = np.array(SHOWN)[:, None]
    along, limit = lf.theory.estimator_errors(fine, shown, **sizes), lf.theory.estimator_limit(ratios, **sizes)
    fixed = lf.theory.estimator_errors(np.array(TIMES)[:, None], ratios, **sizes).test
    best = lf.theory.estimator_errors(lf.theory.best_stopping_time(ratios, **sizes), ratios, **sizes).test
    late = lf.theory.estimator_errors(END * np.array([1.0, 1.01]), shown, **sizes).test
    stopping = lf.theory.best_stopping_time(shown, noise=SNRS**-0.5)
    averages = {
        "theory_test": (("shown", "fine"), along.test),
        "theory_train": (("shown", "fine"), along.train),
        "law": ("fine", lf.theory.critical_error(fine, **sizes)),
        "late_slope": ("shown", np.diff(np.log(late), axis=1)[:, 0] / np.log(1.01)),
        "at_draws": (("samples_per_input", "t"), _average(drawn, "test")),
        "train_at_draws": (("samples_per_input", "t"), _average(drawn, "train")),
        "fixed": (("fixed_time", "ratio"), fixed),
        "limit": ("ratio", limit.test),
        "best": ("ratio", best),
        "ridge": ("ratio", lf.theory.optimal_ridge(ratios, **sizes).test),
        "stopping": (("shown", "snr"), stopping),
        "stopping_law": ("snr", lf.theory.critical_stopping_time(noise=SNRS**-0.5)),
    }
    points = {"shown": shown[:, 0], "fine": fine, "fixed_time": np.array(TIMES), "ratio": ratios, "snr": SNRS}
    data = {name: (dims, np.asarray(values)) for name, (dims, values) in averages.items()}
    together = xarray.merge([drawn[["test", "train"]], students])
    return together.assign_coords(points).assign(data).assign_attrs(facts(drawn) | {"inputs": drawn.attrs["inputs"]})


@lf.observable(long_name="mean squared residual")
def residual(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """Twice the training loss."""
    return 2 * problem.task.loss(network)


def _regression(inp: int, seeds: int, ratios: np.ndarray) -> xarray.Dataset:
    """Test and training error of finite draws; all ratios are the first samples of one draw."""

    def regression(key: jax.Array, samples: jax.Array) -> lf.Problem:
        direction, data = jax.random.split(key)
        w = jax.random.normal(direction, (inp,))
        truth = lf.linear_model(SIGNAL * w / jnp.linalg.norm(w))
        task = lf.teacher(data, truth, n=round(ratios[-1] * inp), inp=inp, noise=NOISE)
        test = lf.population(truth, noise=NOISE)
        return lf.Problem(lf.linear_model(jnp.zeros(inp)), task.first(samples), test=test)

    samples = np.round(ratios * inp)
    ts = np.union1d(np.geomspace(0.1, END, 16), TIMES)
    observe = {"test": lf.excess_error, "train": residual}
    axes = {"samples": samples}
    diagram = lf.sweep(regression, axes, seeds=seeds, method=lf.Exact(t1=END), ts=ts, observe=observe, progress=False)
    diagram = diagram.rename(samples="samples_per_input").assign_coords(samples_per_input=samples / inp)
    return diagram.assign_attrs(inputs=inp)


def _average(drawn: xarray.Dataset, which: str) -> Any:
    """What the draws are to be on average."""
    errors = lf.theory.estimator_errors(
        drawn.t.values, drawn.samples_per_input.values[:, None], signal=SIGNAL, noise=NOISE
    )
    return getattr(errors, which)


def _students(width: int, draws: int) -> xarray.Dataset:
    """Error of aligned two-layer students of a noisy matrix, and its average, in units of one mode's square."""
    unit = width**-0.5  # so that s = 1 is hidden by the noise of square matrices

    def student(key: jax.Array, lam: jax.Array) -> lf.Problem:
        truth = jnp.zeros((width, width)).at[0, 0].set(STRENGTH)
        seen = lf.Moments.whitened(yx=truth + unit * jax.random.normal(key, (width, width)))
        start = lf.aligned(seen, lam, START, hid=width)
        return lf.Problem(start, seen, test=lf.population(lf.linear_model(truth)))

    ts = np.linspace(0.0, 6.0, 25)
    diagram = lf.sweep(
        student,
        {"lam": np.array(LAMS)},
        seeds=draws,
        method=lf.Exact(t1=6.0),
        ts=ts,
        observe={"student": lf.excess_error},
        progress=False,
    )
    fine = np.linspace(0.0, 6.0, 241)
    student_of = lambda t: lf.theory.student_error(
        t, np.array(LAMS)[:, None], np.array([STRENGTH]), START, inp=width, out=width, noise=unit
    )
    return xarray.Dataset(
        {
            "student": (("lam", "draw", "time"), diagram.student.values),
            "student_theory": (("lam", "fine_time"), np.asarray(student_of(fine))),
            "student_at_draws": (("lam", "time"), np.asarray(student_of(ts))),
        },
        {"lam": np.array(LAMS), "time": ts, "fine_time": fine},
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The four panels."""
    figure = new_figure(10.0, 7.2)
    (first, second), (third, fourth) = figure.subplots(2, 2)
    _draw_times(first, diagram)
    _draw_samples(second, diagram)
    _draw_stopping(third, diagram)
    _draw_students(fourth, diagram)
    return figure


def _draw_times(ax: Axes, diagram: xarray.Dataset) -> None:
    drawn = diagram.sel(samples_per_input=list(SHOWN))
    for k, colour in enumerate(COLOURS):
        for name, style, marker in (("test", "-", "o"), ("train", "--", "s")):
            ax.plot(diagram.fine, diagram[f"theory_{name}"][k], style, color=colour, linewidth=1.3)
            values = drawn[name][k]
            low, high = (values.quantile(share, "seed") for share in (0.1, 0.9))
            mean = values.mean("seed")
            bars = np.abs(np.stack([mean - low, high - mean]))
            ax.errorbar(diagram.t, mean, bars, fmt=marker, color=colour, markersize=3.5, elinewidth=0.8, mfc="white")
    late = diagram.fine > 3
    ax.plot(diagram.fine[late], diagram.law[late], ":", color="black", linewidth=1.2)
    ax.set(xscale="log", yscale="log", xlabel="gradient-flow time t", ylabel="squared error", ylim=(3e-4, 30))
    key = [handle(f"N/d = {ratio:g}", color=colour) for ratio, colour in zip(SHOWN, COLOURS, strict=True)]
    key += [
        handle("test error", linestyle="-", marker="o", markersize=3.5, markerfacecolor="white"),
        handle("training error", linestyle="--", marker="s", markersize=3.5, markerfacecolor="white"),
        handle("late law, N = d", color="black", linestyle=":"),
    ]
    ax.legend(handles=key, fontsize="small", frameon=False, loc="lower left")
    panel_title(ax, "a", f"training; draws of {diagram.attrs['inputs']:,} inputs")


def _draw_samples(ax: Axes, diagram: xarray.Dataset) -> None:
    for k, colour in enumerate((BLUE, GREEN, VERMILION)):
        time = float(diagram.fixed_time[k])
        ax.plot(diagram.ratio, diagram.fixed[k], color=colour, linewidth=1.3, label=f"t = {time:g}")
        mean = diagram.test.sel(t=time, method="nearest").mean("seed")
        ax.plot(diagram.samples_per_input, mean, "o", color=colour, markersize=4, markerfacecolor="white")
    limit = diagram.limit.where(np.isfinite(diagram.limit))
    ax.plot(diagram.ratio, limit, "--", color=GREY, linewidth=1.1, label="t → ∞")
    ax.plot(diagram.ratio, diagram.best, color="black", linewidth=1.8, label="best time")
    ax.plot(diagram.ratio, diagram.ridge, ":", color=PURPLE, linewidth=2.0, label="best ridge")
    ax.set(yscale="log", xlabel="samples per input N/d", ylabel="test error", ylim=(0.08, 6.0), xlim=(0.15, 3.05))
    ax.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize="small", frameon=False, loc="upper right")
    panel_title(ax, "b", "the peak near N = d belongs to late times")


def _draw_stopping(ax: Axes, diagram: xarray.Dataset) -> None:
    for k, (ratio, colour) in enumerate(zip(SHOWN, COLOURS, strict=True)):
        ax.plot(diagram.snr, diagram.stopping[k], color=colour, linewidth=1.6, label=f"N/d = {ratio:g}")
    law = "law at N = d: (1 + √2)/4 × ratio"
    ax.plot(diagram.snr, diagram.stopping_law, ":", color="black", linewidth=1.6, label=law)
    ax.set(xscale="log", yscale="log", xlabel="signal-to-noise ratio |w*|²/σ²", ylabel="best stopping time t")
    ax.legend(fontsize="small", frameon=False, loc="upper left")
    panel_title(ax, "c", "when to stop")


def _draw_students(ax: Axes, diagram: xarray.Dataset) -> None:
    for k, (lam, colour) in enumerate(zip(LAMS, COLOURS, strict=True)):
        ax.plot(diagram.fine_time, diagram.student_theory[k], color=colour, linewidth=1.3, label=f"λ = {lam:g}")
        mean = diagram.student[k].mean("draw")
        ax.plot(diagram.time, mean, "o", color=colour, markersize=4, markerfacecolor="white")
    ax.axhline(STRENGTH**2, color=GREY, linewidth=0.8, linestyle="--")
    ax.annotate("nothing learned", (5.9, 0.96 * STRENGTH**2), ha="right", va="top", fontsize="small", color=GREY)
    ax.set(yscale="log", xlabel="gradient-flow time t", ylabel="squared error |W − W*|²", xlim=(0, 6))
    ax.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize="small", frameon=False, loc="lower right")
    panel_title(ax, "d", "two-layer student of a noisy matrix")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Draws are the averages, the law of stopping, overtraining at N = d alone, and the order of spike and noise."""
    off = (diagram.test.mean("seed") / diagram.at_draws - 1).values
    # One draw deviates by 12 % at 200 inputs.
    spread = 2 * 0.12 * np.sqrt(200 / diagram.attrs["inputs"] / diagram.sizes["seed"])
    # A training error begins at the mean square of its targets, of relative variance 2 / N.
    own = (SIGNAL**2 + NOISE**2) * np.sqrt(
        2 / (diagram.samples_per_input * diagram.attrs["inputs"] * diagram.sizes["seed"])
    )
    apart = (np.abs(diagram.train.mean("seed") - diagram.train_at_draws) / own).max().item()
    high = diagram.snr.values >= 10
    ratio = diagram.stopping[1] / diagram.stopping_law
    student = (diagram.student.mean("draw") / diagram.student_at_draws).values
    least = diagram.student_theory.min("fine_time").values / STRENGTH**2
    return (
        Claim.between(
            "Test error of draws: root mean square of the relative deviation of the mean",
            np.sqrt((off**2).mean()),
            high=spread,
        ),
        Claim.between(
            "Training error of draws: largest distance of the mean from the average, in standard errors of the mean "
            "square of the targets",
            apart,
            high=3.0,
        ),
        Claim.near(
            "Best stopping time over its law at N = d, signal-to-noise ratios from 10 on", ratio[high], 1, atol=0.01
        ),
        Claim.near(
            f"Growth of the test error by t at t = {END:,.0f}, as a power, for N/d = {told(SHOWN)}",
            diagram.late_slope,
            [0.0, 0.5, 0.0],
            atol=0.03,
        ),
        Claim.between(
            "Test error of the best stopping time over that of ridge, least and largest",
            [(diagram.best / diagram.ridge).min(), (diagram.best / diagram.ridge).max()],
            low=1.0,
            high=1.04,
        ),
        Claim.between(
            "Student's error over the theory's, least and largest", [student.min(), student.max()], low=0.8, high=1.2
        ),
        Claim(
            "Least error of the student over that of nothing learned, by λ",
            least[0] < 0.5 < least[-1],
            least,
            "below a half at λ = 0, above at λ = 10",
        ),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
