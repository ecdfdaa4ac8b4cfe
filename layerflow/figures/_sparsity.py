"""Figure sparsity: which of many solutions a diagonal network ends at, over the scale of its start and samples.

With fewer samples than inputs the flow of f(x) = sum_i a_i b_i x_i ends at the Bregman projection of its start. The
scale is |C| = |a^2 - b^2|: for large ones that is the solution of least l2 norm, for small ones that of least l1 norm,
which finds a sparse target from few samples. Panels are computed in three ways that are held against each other: the
flow of the layers, swept over |C| and the number of samples; the flow in mirror coordinates, at scales that layers do
not hold; and the projection.

Fine-tuning is the same with |C| of each input as pretraining left it: 100 inputs, of which 20 are features of the
auxiliary task.

References:
    Woodworth et al. (2020), arXiv:2002.09277; Pesme, Flammarion (2023), arXiv:2304.00488; Lippl, Lindsey (2023),
    arXiv:2310.02396.
"""

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, GREY, PURPLE, VERMILION, handle, new_figure, panel_title, worst
from layerflow.figures._figure import Claim, Figure

TITLE = "Which solution: diagonal networks on fewer samples than inputs"
NOTES = (
    "(a) Flow of the layers from b = 0 on 40 inputs of which 3 count. Error: |β − β*|²/|β*|² where the flow ends, "
    "median over draws. Line: an error of 0.1. Dotted: from there on the solution of least ℓ1 norm is the target in "
    "half of the draws.",
    "(b, c) Five samples of 12 inputs, of which two count. In red in (c): a target that is not sparse, whose norm is "
    "nearly the least long before the point is near. ξ is that of a linear programme.",
    "(d) Three inputs with given second moments. The first strength goes back to 0 and returns with the other sign.",
    "(e, f) Fine-tuning of 100 inputs after pretraining on 20 features of strength ±1, with a readout of 1e-4 times "
    "the factor; from scratch |C| is 1e-6 (rich) and 900 (lazy). Medians over draws, which spread over orders where "
    "the error falls.",
    "Not a figure of a paper.",
)

INP, NONZERO, MOST = 40, 3, 30
SCALES = (1e-10, 10.0)
LEVEL = 0.1
CHECKED = {"draw": slice(2), "scale": slice(None, None, 2), "n": slice(None, None, 3)}  # held against the projection
WIDE, FEATURES, READOUT, FLOOR = 100, 20, 1e-4, 1e-6
FACTORS = (1.0, 0.1, 0.01)
STARTS = ("scratch, rich", "scratch, lazy", *(f"pretrained × {factor:g}" for factor in FACTORS))
TASKS = {"same": FEATURES, "nested": 4}
XX = np.array([[1.0, 0.8, 0.7], [0.8, 1.0, 0.2], [0.7, 0.2, 1.0]])
YX = np.array([1.76, 1.48, 1.34])
PATHS = (1e-10, 1e-160)

project = jax.jit(lambda x, y, theta, c: lf.theory.bregman_projection(x, y, theta, c).strength)


def compute(quick: bool = False, grid: int | None = None, seeds: int | None = None) -> xarray.Dataset:
    """All six panels; the map over scale, n and draw.

    The quick map has 12 scales, 10 numbers of samples and 5 draws, the full one 23, 15 and 15.
    """
    grid, draws = grid or (12 if quick else 23), seeds or (5 if quick else 15)
    ns = np.linspace(3, MOST, 10 if quick else 15).round().astype(int)
    more = np.array([5, 10, 15, 20, 30]) if quick else np.arange(5, 41, 2)
    parts = (_map(np.geomspace(*SCALES, grid), ns, draws), _norms(), _rates(), _path(), _tuned(more, 2 * draws - 1))
    found = xarray.merge(parts, combine_attrs="drop_conflicts")
    return found.assign_attrs(parts[0].attrs)


def _map(scales: np.ndarray, ns: np.ndarray, draws: int) -> xarray.Dataset:
    """Errors of the flow of layers, of the projection, and of the solution of least l1 norm."""
    keys = jax.random.split(jax.random.key(0), (draws, 2))
    teachers = [lf.sparse_teacher(key, INP, nonzero=NONZERO) for key in keys[:, 0]]
    data = [lf.teacher(key, teacher, n=MOST, inp=INP) for key, teacher in zip(keys[:, 1], teachers, strict=True)]
    x, y = (jnp.stack([getattr(task, name) for task in data]) for name in ("x", "y"))
    targets = jnp.concatenate([teacher.matrix for teacher in teachers])

    def few_samples(draw: jax.Array, scale: jax.Array, n: jax.Array) -> lf.Problem:
        start = lf.DiagonalNetwork((jnp.sqrt(scale) * jnp.ones(INP), jnp.zeros(INP)))
        everything = lf.population(lf.linear_model(targets[draw]))
        return lf.Problem(start, lf.Samples(x[draw], y[draw]).first(n), test=everything)

    axes = {"draw": np.arange(draws), "scale": scales, "n": ns}
    method = lf.Flow(t1=1e6, rtol=1e-6, until=1e-6)
    found = lf.sweep(few_samples, axes, method=method, observe=lf.excess_error)

    def projected(draw: jax.Array, scale: jax.Array, n: jax.Array) -> jax.Array:
        kept = (jnp.arange(MOST) < n).astype(x.dtype)
        end = project(kept[:, None] * x[draw], kept * y[draw, :, 0], 0.0, scale)
        return jnp.sum((end - targets[draw]) ** 2)

    over = lambda function, axis: jax.vmap(function, tuple(0 if i == axis else None for i in range(3)))
    some = [jnp.asarray(values[CHECKED[name]]) for name, values in axes.items()]
    by_projection = over(over(over(projected, 2), 1), 0)(*some)
    l1 = [[_l1_error(x[k, :n], y[k, :n, 0], targets[k]) for n in ns] for k in range(draws)]
    found["scale"].attrs.update(long_name="scale of the start, |C|", units="1")
    found["n"].attrs.update(long_name="samples", units="1")
    return found.assign(
        error=(found.excess_error / NONZERO).assign_attrs(long_name="error |β − β*|² / |β*|²", units="1"),
        projected=(("checked_draw", "checked_scale", "checked_n"), np.asarray(by_projection) / NONZERO),
        l1_error=(("draw", "n"), np.asarray(l1) / NONZERO),
    )


def _l1_error(x: jax.Array, y: jax.Array, target: jax.Array) -> float:
    return float(jnp.sum((lf.theory.least_l1(x, y) - target) ** 2))


def _sparse() -> tuple[np.ndarray, np.ndarray]:
    """Five samples of twelve inputs, and a target on two of these."""
    x, target = np.random.default_rng(3).normal(size=(5, 12)), np.zeros(12)
    target[[1, 6]] = 0.5, -0.75
    return x, target


def _dense() -> tuple[np.ndarray, np.ndarray]:
    """The same of a target that is the solution of least l1 norm with as many entries as samples."""
    rng = np.random.default_rng(26)
    x = rng.normal(size=(5, 12))
    return x, np.asarray(lf.theory.least_l1(x, x @ rng.normal(size=12)))


def _norms() -> xarray.Dataset:
    """Both norms of the limit over |C|, by the projection and by mirror flow, and of both ends."""
    x, target = _sparse()
    scales, dots = np.geomspace(1e-12, 1e2, 57), np.geomspace(1e-12, 1e2, 8)
    line = jax.vmap(lambda c: project(x, x @ target, 0.0, c))(jnp.asarray(scales))
    late = lambda c: lf.theory.mirror_flow(1e5, x.T @ x / 5, x.T @ x @ target / 5, 0.0, c).strength
    flow = np.stack([late(scale) for scale in dots])
    both = lambda beta: np.stack([np.abs(beta).sum(axis=-1), np.linalg.norm(beta, axis=-1)])
    return xarray.Dataset(
        {
            "norm": (("kind", "norm_scale"), both(line)),
            "flow_norm": (("kind", "dot_scale"), both(flow)),
            "rich_norm": ("kind", both(lf.theory.least_l1(x, x @ target))),
            "lazy_norm": ("kind", both(lf.theory.least_norm(x, x @ target))),
        },
        {"norm_scale": scales, "dot_scale": dots, "kind": [1, 2]},
    )


def _rates() -> xarray.Dataset:
    """How far the limit is from the solution of least l1 norm, as a point and by its norm, over |C|."""
    scales, points, excess, rates = np.geomspace(1e-40, 1e-4, 37), [], [], []
    for x, target in (_sparse(), _dense()):
        ends = np.asarray(jax.vmap(lambda c, x=x, y=x @ target: project(x, y, 0.0, c))(jnp.asarray(scales)))
        points.append(np.linalg.norm(ends - target, axis=1))
        excess.append(np.abs(ends).sum(axis=1) - np.abs(target).sum())
        rates.append(1 - float(lf.theory.l1_rate(x, target)))
    return xarray.Dataset(
        {"off": (("kind_of_target", "rate_scale"), points), "excess_norm": (("kind_of_target", "rate_scale"), excess)}
        | {"rate": ("kind_of_target", rates)},
        {"rate_scale": scales, "kind_of_target": [0, 1]},
    )


def _path() -> xarray.Dataset:
    """Strengths over tau at two scales, what is predicted, and when the loss of another problem falls."""
    saddles = lf.theory.saddle_to_saddle(XX, YX)
    tau = np.geomspace(0.1, 2000.0, 400)
    strengths = [lf.theory.mirror_flow(-0.5 * np.log(c) * tau, XX, YX, 0.0, c).strength for c in PATHS]
    return xarray.Dataset(
        {
            "strength": (("path_scale", "tau", "input"), np.stack(strengths)),
            "jump": ("stage", np.asarray(saddles.time)),
            "saddle": (("stage", "input"), np.asarray(saddles.strength)),
        },
        {"path_scale": list(PATHS), "tau": tau},
    )


def _tuned(ns: np.ndarray, draws: int) -> xarray.Dataset:
    """Errors of fine-tuning, over task, start, n and draw."""
    rng, found = np.random.default_rng(0), np.empty((len(TASKS), len(STARTS), len(ns), draws))
    kept = jnp.asarray(np.arange(ns.max()) < ns[:, None], float)
    end = lambda x, y, theta, c, kept: project(kept[:, None] * x, kept * y, theta, c)

    @jax.jit
    def ends(x: jax.Array, y: jax.Array, theta: jax.Array, c: jax.Array) -> jax.Array:
        # One start after the other: side by side all would take as many steps as the slowest.
        every = jax.vmap(end, (None, None, None, None, 0))
        return jax.lax.map(lambda start: every(x, y, start[0], start[1], kept), (theta, c))

    for task, counted in enumerate(TASKS.values()):
        for draw in range(draws):
            order, auxiliary, target = rng.permutation(WIDE), np.zeros(WIDE), np.zeros(WIDE)
            auxiliary[order[:FEATURES]] = rng.choice([-1.0, 1.0], FEATURES)
            target[order[:counted]] = rng.choice([-1.0, 1.0], counted)
            x = rng.normal(size=(ns.max(), WIDE))
            beta = ends(x, x @ target, *_starts(auxiliary))
            found[task, ..., draw] = np.sum((np.asarray(beta) - target) ** 2, axis=-1) / counted
    return xarray.Dataset(
        {"tuned": (("task", "start", "tuned_n", "tuned_draw"), found)},
        {"task": list(TASKS), "start": list(STARTS), "tuned_n": ns},
    )


def _starts(auxiliary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror coordinates and C of every start."""
    tuned = [lf.theory.fine_tuned(auxiliary, READOUT * factor, factor=factor, difference=FLOOR) for factor in FACTORS]
    at_rest = np.zeros(WIDE)
    theta = np.stack([at_rest, at_rest, *(np.asarray(start.coordinate) for start in tuned)])
    return theta, np.stack([at_rest + 1e-6, at_rest + 900.0, *(np.asarray(start.difference) for start in tuned)])


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture."""
    figure = new_figure(12.0, 7.2)
    axes = figure.subplots(2, 3)
    _draw_map(axes[0, 0], diagram)
    _draw_norms(axes[0, 1], diagram)
    _draw_rates(axes[0, 2], diagram)
    _draw_path(axes[1, 0], diagram)
    for ax, letter, task, words in zip(
        axes[1, 1:], "ef", TASKS, ("the same 20 features", "4 of the 20 features"), strict=True
    ):
        _draw_tuned(ax, diagram.sel(task=task))
        panel_title(ax, letter, f"fine-tuned on {words}")
    axes[1, 1].legend(fontsize="small", frameon=False, loc="lower left")
    return figure


def _middle(diagram: xarray.Dataset) -> xarray.DataArray:
    """Median error of the flow over draws, not below where rounding and tolerance are all there is."""
    return np.maximum(diagram.error.median("draw", keep_attrs=True), 1e-6)


def _draw_map(ax: Axes, diagram: xarray.Dataset) -> None:
    lf.plot.heatmap(_middle(diagram), x="scale", y="n", log=True, ax=ax)
    line = _line(diagram)
    if line is not None:
        lf.plot.boundary(line, ax=ax)
    found = (diagram.l1_error < 1e-6).mean("draw") >= 0.5
    if found.any():
        ax.axhline(float(diagram.n[found][0]), color="white", linewidth=1.4, linestyle=":")
        height = float(diagram.n[found][0])
        ax.text(float(diagram.scale[-1]), height + 0.3, "least ℓ1 norm", color="white", fontsize="small", ha="right")
    panel_title(ax, "a", "where the flow of the layers ends")


def _line(diagram: xarray.Dataset) -> xarray.Dataset | None:
    """Where the error is at the level; None on a grid too coarse."""
    try:
        return lf.boundary(_middle(diagram), LEVEL, x="scale", y="n", log=True)
    except ValueError:
        return None


def _draw_norms(ax: Axes, diagram: xarray.Dataset) -> None:
    for kind, colour in zip((0, 1), (BLUE, VERMILION), strict=True):
        here = diagram.isel(kind=kind)
        ax.plot(diagram.norm_scale, here.norm, color=colour, label=f"|β| in ℓ{kind + 1}, projection")
        ax.plot(diagram.dot_scale, here.flow_norm, "o", color=colour, markersize=5, markerfacecolor="white")
        for end, style in ((here.rich_norm, ":"), (here.lazy_norm, "--")):
            ax.axhline(float(end), color=GREY, linewidth=0.9, linestyle=style, zorder=0)
    ax.set(xscale="log", xlabel="scale of the start, |C|", ylabel="norm of the limit")
    ax.set_ylim(0.35, 2.35)
    handles = [
        *ax.get_legend_handles_labels()[0],
        handle("mirror flow", marker="o", linestyle="none", markerfacecolor="white"),
        handle("of least ℓ1 norm", color=GREY, linestyle=":"),
        handle("of least ℓ2 norm", color=GREY, linestyle="--"),
    ]
    ax.legend(handles=handles, fontsize="small", frameon=False, loc="upper left", ncols=2, columnspacing=1.0)
    panel_title(ax, "b", "norms of the limit, 5 samples")


def _draw_rates(ax: Axes, diagram: xarray.Dataset) -> None:
    x = diagram.rate_scale
    for kind, (colour, words) in enumerate(((BLUE, "sparse"), (VERMILION, "not sparse"))):
        here = diagram.isel(kind_of_target=kind)
        ax.plot(x, here.off, color=colour, label=f"{words}: |β − β(ℓ1)|")
        ax.plot(x, here.excess_norm, color=colour, linestyle="--", label=f"{words}: |β|₁ above the least")
    sparse = diagram.isel(kind_of_target=0)
    slope = float(sparse.off[0]) * (x / x[0]) ** float(sparse.rate)
    ax.plot(
        x, 2.5 * slope, color="black", linewidth=1.0, linestyle=":", label=f"slope 1 − ξ = {float(sparse.rate):.4f}"
    )
    ax.set(xscale="log", yscale="log", xlabel="scale of the start, |C|", ylabel="distance from the rich limit")
    ax.legend(fontsize="small", frameon=False, loc="lower right")
    ax.set_xticks(10.0 ** np.arange(-40, 0, 10))
    ax.set_ylim(1e-11, 3.0)
    panel_title(ax, "c", "how fast the ℓ1 limit is reached")


def _draw_path(ax: Axes, diagram: xarray.Dataset) -> None:
    ends = np.concatenate([[float(diagram.tau[0])], diagram.jump.values, [float(diagram.tau[-1])]])
    steps = np.vstack([np.zeros(len(YX)), diagram.saddle.values])
    for number, colour in enumerate((BLUE, VERMILION, GREEN)):
        for scale, width, alpha in ((0, 1.3, 0.6), (1, 2.4, 1.0)):
            ax.plot(diagram.tau, diagram.strength[scale, :, number], color=colour, linewidth=width, alpha=alpha)
        ax.step(
            ends,
            np.append(steps[:, number], steps[-1, number]),
            where="post",
            color="black",
            linewidth=0.9,
            linestyle="--",
        )
    ax.set(xscale="log", xlabel="τ = 2 t / ln(1/|C|)", ylabel="strength β")
    ax.set_ylim(-0.35, 2.45)
    handles = [handle(f"β{n}", color=colour) for n, colour in zip("₁₂₃", (BLUE, VERMILION, GREEN), strict=True)]
    handles += [
        handle("|C| = 1e-10", color=GREY, linewidth=1.3, alpha=0.6),
        handle("|C| = 1e-160", color=GREY, linewidth=2.4),
        handle("predicted", color="black", linewidth=0.9, linestyle="--"),
    ]
    ax.legend(handles=handles, fontsize="small", frameon=False, ncols=2, loc="upper right")
    panel_title(ax, "d", "from saddle to saddle")


def _draw_tuned(ax: Axes, here: xarray.Dataset) -> None:
    styles = (("0.25", ":"), ("0.55", ":"), (BLUE, "-"), (PURPLE, "-"), (VERMILION, "-"))
    for (colour, style), start in zip(styles, here.start.values, strict=True):
        middle = here.tuned.sel(start=start).median("tuned_draw")
        ax.plot(here.tuned_n, middle, style, color=colour, marker="o", markersize=3.5, label=str(start))
    ax.set(yscale="log", ylim=(1e-4, 3.0), xlabel="samples", ylabel="error |β − β*|² / |β*|²")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Flows end at projections, small scales need few samples, jumps and rates are those predicted."""
    line = _line(diagram)
    needed = (
        []
        if line is None
        else [line.n.values[np.argmin(line.scale.values)], line.n.values[np.argmax(line.scale.values)]]
    )
    local = np.diff(np.log(diagram.off)) / np.diff(np.log(diagram.rate_scale))
    middles = [float(diagram.tau[np.argmin(np.abs(diagram.tau.values - t))]) for t in (0.65, 90.0, 1900.0)]
    rests = diagram.strength.isel(path_scale=1).sel(tau=middles).values
    tuned = diagram.tuned.sel(start=["pretrained × 1", "pretrained × 0.01"]).median("tuned_draw")
    same, nested = (tuned.sel(task=task, tuned_n=slice(10, 20)).mean("tuned_n").values for task in TASKS)
    return (
        Claim.between(
            "Largest difference of errors between flow of the layers and projection",
            worst(diagram.error.isel(CHECKED), diagram.projected),
            high=0.01,
        ),
        Claim(
            "Samples for an error of 0.1, at the smallest and at the largest scale that the line has",
            len(needed) == 2 and needed[0] < 0.6 * needed[1],
            needed,
            "the first below 0.6 of the second",
        ),
        Claim.between(
            "Largest difference of norms between mirror flow and projection",
            worst(diagram.flow_norm, np.asarray(diagram.norm)[:, ::8]),
            high=1e-9,
        ),
        Claim.near(
            "Norms of the limit at the ends of the scales, over those predicted",
            [float(diagram.norm[0, 0] / diagram.rich_norm[0]), float(diagram.norm[1, -1] / diagram.lazy_norm[1])],
            1.0,
            atol=0.02,
        ),
        Claim.near(
            "Slope of the distance from the rich limit over |C| from 1e-40 to 1e-30, sparse target",
            local[0, :10].mean(),
            float(diagram.rate[0]),
            rtol=0.01,
        ),
        Claim.between(
            "Distance of the other target over the excess of its norm, at 1e-40",
            diagram.off[1, 0] / diagram.excess_norm[1, 0],
            low=100.0,
        ),
        Claim.between(
            "Largest distance from the predicted saddles in the middle of each rest, at 1e-160",
            worst(rests, diagram.saddle),
            high=1e-6,
        ),
        Claim(
            "Error after pretraining, weights as they are and × 0.01, over 10 to 20 samples, the same features",
            same[0] < same[1],
            same,
            "the first smaller",
        ),
        Claim("The same on 4 of the features", nested[1] < nested[0], nested, "the second smaller"),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
