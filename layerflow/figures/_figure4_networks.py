"""Figure 4, dashed lines: skills emerge in a ReLU network as in the model calibrated on the first skill.

A two-layer ReLU network with biases learns multitask sparse parity, five skills of frequencies
p_k ~ k^-1.6 and target S = 5, with ample time, data or parameters but for one:

    time         fresh samples at every step, measured along the way
    data         D samples, drawn once
    parameters   N hidden units: those beyond are zero, where they stay

The skill model's closed forms have one constant each, which lf.calibrate fits to the curve of the first skill alone:

    time         R_k / S = 1 / (1 + (S / R(0) - 1) e^(-2 S v p_k T / p_1)),    R(0) = std^2 / 3.6, free: v
    data         R_k / S = 1 - sqrt(max(0, 1 - D p_k / D_c)),                  free: D_c
    parameters   R_k / S = clip(N / N_c - (k - 1), 0, 1),                      free: N_c

The other four skills then are predictions. In time the model has a spread of its own: Gaussian layers a_k, b_k ~
N(0, std^2) in place of R(0), whose starts differ by factors and whose half-way points so by shares of 1 / ln(S / R(0)).
The loss here is a half of the authors', so rates are twice theirs and weight decay is half of it.

References:
    Nam et al. (2024), arXiv:2404.17563, Figure 1; Nam et al. (2025), arXiv:2502.21009, Figure 4.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray
from jaxtyping import Array, PRNGKeyArray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import handle, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._figure4 import COLOURS, PER_SKILL, SHOTS, SLOWNESS, START_FACTOR
from layerflow.figures._words import facts

TITLE = "Skills emerge in a ReLU network as in the skill model calibrated on the first skill"
NOTES = (
    "Dashed: two-layer ReLU network on multitask sparse parity, bands one standard deviation over starts and data. "
    "Full: closed forms of the skill model, their one constant fitted to the first skill alone. Bars: where the "
    "calibrated model has its half-way points from Gaussian starts, 10 to 90 % of them.",
    "With --quick batches are smaller, starts and sizes fewer, and training in data and parameters stops before rare "
    "skills have settled: these lie below their lines.",
)


@dataclass(frozen=True)
class Recipe:
    """How the networks of one panel are trained."""

    values: tuple[int, ...]  # of the resource; in time, the last step
    width: int
    steps: int
    batch: int
    rate: float
    std: float
    decay: float = 0.0
    seeds: int = 1


_MANY = (*range(500, 10_000, 500), *range(10_000, 15_001, 1000), *range(20_000, 35_001, 5000))
FULL = {
    "time": Recipe((30_000,), 1000, 30_000, 4000, 0.04, 0.01, seeds=10),
    "data": Recipe(_MANY, 1000, 100_000, 2000, 0.1, 0.001),
    "parameters": Recipe(tuple(range(1, 21)), 20, 500_000, 4000, 0.05, 0.05, 2.5e-4, seeds=50),
}
QUICK = {
    "time": Recipe((16_000,), 1000, 16_000, 250, 0.04, 0.01, seeds=4),
    "data": Recipe((250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000), 500, 8000, 250, 0.1, 0.01, seeds=2),
    "parameters": Recipe((1, 2, 3, 4, 6, 8, 12, 16, 20), 20, 15_000, 300, 0.005, 0.1, 1e-4, seeds=8),
}
PARITY = lf.SparseParity()
SKILLS, TARGET = PARITY.skills, PARITY.target
PER_SKILL_SAMPLES = 400  # on which strengths are measured
STARTS = 1000  # of the skill model
SPREAD = (0.1, 0.9)  # quantiles over them
UNITS = {"time": "Steps", "data": "Samples", "parameters": "Hidden units"}
LEAST = {"time": 4, "data": 3, "parameters": 2}  # skills that emerge in either recipe
MEASURE = lf.on_test(lf.skill_strengths)


class FirstSamples(lf.Task):
    """The first `count` of a set of samples, so that data sets of every size share one program."""

    samples: lf.Samples
    count: Array

    def check(self, network: Any) -> None:
        """Raise unless `network` takes one input and gives one target."""
        self.samples.check(network)

    def loss(self, network: Any) -> Array:
        """L = E|f(x) - y|^2 / 2 over the first samples."""
        errors = jnp.sum((jax.vmap(network)(self.samples.x) - self.samples.y) ** 2, axis=1)
        used = jnp.arange(errors.size) < self.count
        return 0.5 * jnp.sum(jnp.where(used, errors, 0.0)) / self.count

    def batch(self, key: PRNGKeyArray, step: Array, size: int, replace: bool = False) -> lf.Samples:
        """Samples drawn anew from the first, with replacement."""
        rows = jax.random.randint(jax.random.fold_in(key, step), (size,), 0, self.count.astype(int))
        return lf.Samples(self.samples.x[rows], self.samples.y[rows])


def compute(quick: bool = False, seeds: int | None = None) -> xarray.Dataset:
    """Train networks along each resource, and calibrate the skill model on their first skill.

    R_k / S of the networks is over the resource, `seed_time` (and so on) and `skill`, of the model over a finer mesh,
    `time_mesh`, and `skill`; `model_half_way` holds quantiles of its half-way points in time over its starts.
    """
    recipes = QUICK if quick else FULL
    pieces, attributes = [], {}
    for resource, train in (("time", _in_time), ("data", _in_data), ("parameters", _in_parameters)):
        recipe = recipes[resource]
        diagram = train(recipe, recipe.seeds if seeds is None else seeds)
        shares = (diagram.test_skill_strengths / TARGET).rename({"seed": f"seed_{resource}"})
        model, constant = _calibrated(resource, recipe, shares)
        pieces += [shares.rename(f"in_{resource}"), model.rename(f"model_in_{resource}")]
        attributes |= {f"constant_{resource}": constant}
        if resource == "time":
            attributes |= facts(diagram)
            pieces.append(_spread(recipe, constant))
    frequency = ("skill", np.asarray(PARITY.frequency, float))
    merged = xarray.merge([piece.assign_coords(skill=np.arange(1, SKILLS + 1)) for piece in pieces], join="outer")
    return merged.assign_coords(frequency=frequency).assign_attrs(attributes, quick=int(quick))


def _problem(key: jax.Array, start: lf.MLP, task: lf.Task, decay: float = 0.0) -> lf.Problem:
    return lf.Problem(start, task, test=PARITY.by_skill(lf.fold(key, "test"), PER_SKILL_SAMPLES), decay=decay)


def _start(key: jax.Array, recipe: Recipe) -> lf.MLP:
    return lf.MLP.gaussian(lf.fold(key, "start"), (PARITY.inp, recipe.width, 1), std=recipe.std)


def _method(recipe: Recipe, optimiser: Any = optax.sgd) -> lf.Descent:
    return lf.Descent(optimiser, learning_rate=recipe.rate, batch=recipe.batch, steps=recipe.steps)


def _in_time(recipe: Recipe, seeds: int) -> xarray.Dataset:
    """Fresh samples at every step."""

    def in_time(key: jax.Array) -> lf.Problem:
        return _problem(key, _start(key, recipe), lf.Stream(PARITY.draw, sample=1))

    ts = np.unique(np.geomspace(recipe.steps / 100, recipe.steps, 60).round()).astype(int)
    diagram = lf.sweep(in_time, seeds=seeds, ts=ts, method=_method(recipe), observe=MEASURE, progress=False)
    return diagram.rename(step="time")


def _in_data(recipe: Recipe, seeds: int) -> xarray.Dataset:
    """Samples drawn once; those of smaller sets are the first of larger ones."""

    def in_data(key: jax.Array, data: jax.Array) -> lf.Problem:
        samples = lf.Samples(*PARITY.draw(lf.fold(key, "data"), recipe.values[-1]))
        return _problem(key, _start(key, recipe), FirstSamples(samples, data))

    axes = {"data": np.array(recipe.values, float)}
    return lf.sweep(in_data, axes, seeds=seeds, method=_method(recipe), observe=MEASURE, progress=False)


def _in_parameters(recipe: Recipe, seeds: int) -> xarray.Dataset:
    """Hidden units up to a number; zero in all its weights, a unit has no gradient either."""

    def in_parameters(key: jax.Array, parameters: jax.Array) -> lf.Problem:
        start = _start(key, recipe)
        (w1, w2), (b1, b2) = start.weights, jax.tree.leaves(start.biases)
        held = (jnp.arange(recipe.width) < parameters).astype(w1.dtype)
        start = lf.MLP((w1 * held[:, None], w2 * held[None, :]), (held * b1, b2))
        return _problem(key, start, lf.Stream(PARITY.draw, sample=1), recipe.decay)

    axes = {"parameters": np.array(recipe.values, float)}
    method = _method(recipe, optax.adam)
    return lf.sweep(in_parameters, axes, seeds=seeds, method=method, observe=MEASURE, progress=False)


def _calibrated(resource: str, recipe: Recipe, shares: xarray.DataArray) -> tuple[xarray.DataArray, float]:
    """The skill model's R_k / S, its constant fitted to the mean curve of the first skill; and that constant."""
    frequency = np.asarray(PARITY.frequency, float)
    start = recipe.std**2 / START_FACTOR / TARGET
    # In time T of the first skill's speed v: the skill k learns p_k / p_1 times as fast.
    model, free, guess = {
        "time": (
            lambda t, v: lf.theory.skill_strengths_in_time(v * t, frequency / frequency[0], start, 1.0),
            "v",
            TARGET * recipe.rate * frequency[0] / SLOWNESS,
        ),
        "data": (
            lambda d, shots: lf.theory.skill_strengths_in_data(d, frequency, 1.0, shots=shots),
            "shots",
            float(SHOTS),
        ),
        "parameters": (
            lambda n, per_skill: lf.theory.skill_strengths_in_parameters(n, SKILLS, 1.0, per_skill=per_skill),
            "per_skill",
            float(PER_SKILL),
        ),
    }[resource]
    name, at = f"{resource}_mesh", np.asarray(shares[resource], float)
    first = shares.mean(f"seed_{resource}").values[:, 0]
    fit = lf.calibrate(lambda t, **free: model(t, **free)[:, 0], (at, first), (free,), parameters={free: guess})
    mesh = np.geomspace(at[0], at[-1], 300)
    return xarray.DataArray(np.asarray(model(mesh, **fit.values)), {name: mesh}, (name, "skill")), fit.values[free]


def _spread(recipe: Recipe, speed: float) -> xarray.DataArray:
    """Quantiles, over Gaussian starts of its layers, of where the calibrated model has each skill half-way in time."""
    frequency = np.asarray(PARITY.frequency, float)
    std = recipe.std / TARGET**0.5  # in units of S = 1
    a0, b0 = std * np.random.default_rng(0).normal(size=(2, STARTS, SKILLS, 1))
    mesh = np.geomspace(recipe.values[-1] / 100, 4 * recipe.values[-1], 1000)
    strengths = lf.theory.layer_pair(speed * mesh, a0, b0, 1.0, (frequency / frequency[0])[:, None]).strength
    curves = xarray.DataArray(np.asarray(strengths), {"mesh": mesh}, ("start", "skill", "mesh"), "model_half_way")
    return half_way(curves, "mesh").quantile(SPREAD, "start")


def half_way(curves: xarray.DataArray, along: str) -> xarray.DataArray:
    """How much of a resource first gives each skill half its strength; infinite where it never does."""

    def one(curve: np.ndarray, at: np.ndarray) -> float:
        return float(np.interp(0.5, np.maximum.accumulate(curve), at, right=np.inf))

    at = curves[along].values.astype(float)
    return xarray.apply_ufunc(one, curves, input_core_dims=[[along]], kwargs={"at": at}, vectorize=True)


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Three panels side by side: time, data, parameters."""
    figure = new_figure(10.0, 3.9)
    axes = figure.subplots(1, 3, sharey=True)
    labels = {"time": "SGD steps T", "data": "samples D", "parameters": "hidden units N"}
    for ax, letter, (resource, label) in zip(axes, "abc", labels.items(), strict=True):
        _draw_panel(ax, diagram, resource)
        panel_title(ax, letter, resource)
        ax.set(xlabel=label, ylim=(-0.08, 1.08))
    for ax in axes[:2]:
        ax.set_xscale("log")
    axes[0].set_ylabel("skill strength R/S")
    axes[0].legend(title="skill", fontsize="small", frameon=False, loc="center left")
    key = [
        handle("skill model, calibrated on skill 1", linewidth=1.8),
        handle("ReLU network, band: one standard deviation", linewidth=1.4, linestyle="--"),
        handle("skill model, 10 to 90 % of starts", marker="|", markersize=7),
    ]
    figure.legend(handles=key, fontsize="small", loc="outside lower center", ncols=3, frameon=False)
    _draw_spread(axes[0], diagram)
    return figure


def _draw_panel(ax: Axes, diagram: xarray.Dataset, resource: str) -> None:
    """The model as lines, the networks dashed with their spread."""
    x = diagram[resource]
    networks = diagram[f"in_{resource}"].transpose("skill", f"seed_{resource}", resource)
    for skill, colour in zip(diagram.skill.values, COLOURS, strict=True):
        model = diagram[f"model_in_{resource}"].sel(skill=skill)
        ax.plot(diagram[f"{resource}_mesh"], model, color=colour, linewidth=1.8, label=str(skill))
        members = networks.sel(skill=skill)
        lf.plot.band(x, members, spread="deviation", color=colour, linewidth=1.4, linestyle="--", ax=ax)


def _draw_spread(ax: Axes, diagram: xarray.Dataset) -> None:
    """Where the model's starts have each skill half-way, as far as it is within the range."""
    left, right = ax.get_xlim()
    for skill, colour in zip(diagram.skill.values, COLOURS, strict=True):
        low, high = diagram.model_half_way.sel(skill=skill).values
        if low < diagram.time[-1]:
            height = 0.52 if skill % 2 else 0.48  # or bars of neighbours overlap
            ax.plot([low, high], [height, height], color=colour, marker="|", markersize=7, linewidth=1.2, zorder=3)
    ax.set_xlim(left, right)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Skills come in the order of their frequency, in time and in data where the calibrated model has them."""
    halves = {name: half_way(diagram[f"in_{name}"], name).median(f"seed_{name}").values for name in LEAST}
    said = []
    for resource, least in LEAST.items():
        found = halves[resource][np.isfinite(halves[resource])]
        in_order = (np.diff(found) > 0).all() and np.isfinite(halves[resource][: found.size]).all()
        words = f"{UNITS[resource]} that give skills half their strength, as far as they emerge"
        said.append(Claim(words, in_order and found.size >= least, found, f"{least} skills or more, in their order"))
    low, high = diagram.model_half_way.values[:, : LEAST["time"]]
    in_time = halves["time"][: LEAST["time"]]
    in_data = half_way(diagram.model_in_data, "data_mesh").values[: LEAST["data"]] / halves["data"][: LEAST["data"]]
    return (
        *said,
        Claim(
            f"Steps to half the strength of the first {in_time.size} skills, within the model's spread over its starts",
            ((low < in_time) & (in_time < high)).all(),
            in_time,
            f"{told(low)} to {told(high)}",
        ),
        Claim.between(f"Samples for the first {in_data.size} skills, model over network", in_data, 0.8, 1.2),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """The constants that the calibration found."""
    samples, units = (diagram.attrs[f"constant_{name}"] for name in ("data", "parameters"))
    return (f"A skill takes the network {samples:,.0f} samples and {units:.1f} hidden units (the authors: 800 and 4).",)


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks, dtype="float32")
