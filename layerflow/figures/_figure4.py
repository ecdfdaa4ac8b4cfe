"""Figure 4, solid lines: skills emerge one after the other in time, data and parameters.

Five skills of frequencies p_k ~ k^-1.6 and targets S = 5, as a diagonal network learns them
(Eq. 11), with the constants that Nam et al. (2024) fitted to a network on the first skill alone:

    time         R_k / S = 1 / (1 + (S / R(0) - 1) e^(-2 S p_k t)),    t = 2 * 0.02 * steps / 22,    R(0) = 0.01^2 / 3.6
    data         R_k / S = 1 - sqrt(max(0, 1 - D p_k / 800))
    parameters   R_k / S = clip(N / 4 - (k - 1), 0, 1)

The factor 2 in t is that of their loss without a half. Under the fits lies the model itself: in time
the flow of a diagonal network, in data that flow on drawn samples, where one sample teaches a skill,
and in parameters that flow with the first skills alone at hand. The dashed lines of the paper, a ReLU
network on sparse parity, are not drawn here.

References:
    Nam et al. (2024), arXiv:2404.17563, Figure 1; Nam et al. (2025), arXiv:2502.21009, Figure 4.
"""

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, PURPLE, VERMILION, handle, new_figure, worst
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._words import facts

TITLE = "Skills emerge one by one in time, data and parameters (skill model)"
NOTES = (
    "Lines: closed forms with the constants fitted to the first skill alone, as in the paper. Circles: the flow of "
    "the diagonal network. In (b) it is trained on drawn samples, circles are means over draws, and dashed lines their "
    "expectation 1 − (1 − p)^D.",
    "One sample teaches the model a skill; networks need about 800, which is why the fitted lines lie to the right.",
    "The paper's dashed lines, a trained ReLU network, are not among the solvable models and not drawn.",
)

SKILLS, ALPHA, TARGET = 5, 0.6, 5.0
STD, START_FACTOR = 0.01, 3.6  # R(0) = STD^2 / START_FACTOR
LEARNING_RATE, SLOWNESS = 0.02, 22.0  # t = 2 * LEARNING_RATE * steps / SLOWNESS
SHOTS = 800  # samples that teach a network a skill
PER_SKILL = 4  # hidden units that a skill takes
START = STD**2 / START_FACTOR
T_PER_STEP = 2 * LEARNING_RATE / SLOWNESS
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, "black")  # of the skills: those with enough contrast on white


def compute(grid: int = 200, seeds: int = 200) -> xarray.Dataset:
    """Relative skill strengths over time, data and parameters, by closed form and by flow, `seeds` data sets drawn."""
    frequency = lf.theory.skill_frequencies(SKILLS, ALPHA)
    steps = np.geomspace(200, 20_000, grid)
    samples = np.geomspace(1, 35_000, grid)
    parameters = np.linspace(0, PER_SKILL * SKILLS, grid)
    share = lambda strengths: np.asarray(strengths) / TARGET
    time = share(lf.theory.skill_strengths_in_time(T_PER_STEP * steps, frequency, START, TARGET))
    shots = share(lf.theory.skill_strengths_in_data(samples, frequency, TARGET, shots=SHOTS))
    one_shot = share(lf.theory.skill_strengths_in_data(samples, frequency, TARGET, start=START))
    held = share(lf.theory.skill_strengths_in_parameters(parameters, SKILLS, TARGET, per_skill=PER_SKILL))
    in_time, in_data, in_parameters = (
        _flow_in_time(frequency, steps),
        _flow_in_data(frequency, seeds),
        _flow_in_parameters(frequency),
    )
    curves = {
        "in_time": (("step", "skill"), time),
        "in_data": (("samples", "skill"), shots),
        "in_data_one_shot": (("samples", "skill"), one_shot),
        "in_parameters": (("parameters", "skill"), held),
        "flow_in_time": (("step", "skill"), in_time.skill_shares.values),
        "flow_in_data": (("drawn", "seed", "skill"), in_data.skill_shares.values),
        "flow_in_parameters": (("held", "skill"), in_parameters.skill_shares.values),
    }
    coordinates = {
        "step": ("step", steps, {"long_name": "SGD steps T"}),
        "samples": ("samples", samples, {"long_name": "samples D"}),
        "parameters": ("parameters", parameters, {"long_name": "hidden units N"}),
        "drawn": in_data.samples.values,
        "held": in_parameters.held.values * PER_SKILL,
        "skill": np.arange(1, SKILLS + 1),
        "frequency": ("skill", np.asarray(frequency)),
    }
    return xarray.Dataset(curves, coordinates, attrs=facts(in_time))


@lf.observable(dims=("skill",), long_name="skill strength R/S")
def skill_shares(network: lf.DiagonalNetwork, problem: lf.Problem) -> jax.Array:  # noqa: ARG001
    """R_k / S of every skill."""
    return network.strengths / TARGET


def _skills(variance: jax.Array, held: jax.Array | int = SKILLS) -> lf.Problem:
    """The skill model from its small start, with the first `held` skills at hand; the others stay at 0."""
    layer = jnp.where(jnp.arange(SKILLS) < held, START**0.5, 0.0)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(variance=variance, target=TARGET))


def _flow_in_time(frequency: jax.Array, steps: np.ndarray) -> xarray.Dataset:
    """Training on endless data, with all skills at hand."""

    def in_time() -> lf.Problem:
        return _skills(frequency)

    ts = T_PER_STEP * steps
    return lf.sweep(in_time, method=lf.Flow(t1=ts[-1]), ts=ts, observe=skill_shares, progress=False)


def _flow_in_data(frequency: jax.Array, seeds: int) -> xarray.Dataset:
    """Training to the end on samples drawn once: the frequency of a skill is its share among these."""

    def in_data(key: jax.Array, samples: jax.Array) -> tuple[lf.Problem, lf.Flow]:
        # The samples before the first `samples` of one long draw, so that data sets of a seed contain one another.
        asked = jax.random.choice(key, SKILLS, (most,), p=frequency)
        counted = (jnp.arange(most, dtype=samples.dtype) < samples).astype(frequency.dtype)
        drawn = jnp.zeros(SKILLS, frequency.dtype).at[asked].add(counted) / samples
        # Long enough for a skill that a single sample asks for: ln(S / R(0)) D / 2 S, and as much again.
        return _skills(drawn), lf.Flow(t1=samples * jnp.log(TARGET / START) / TARGET)

    numbers = np.unique(np.geomspace(1, 300, 15).round())
    most = int(numbers[-1])
    return lf.sweep(in_data, {"samples": numbers}, seeds=seeds, observe=skill_shares, progress=False)


def _flow_in_parameters(frequency: jax.Array) -> xarray.Dataset:
    """Training to the end with the first skills at hand."""

    def in_parameters(held: jax.Array) -> lf.Problem:
        return _skills(frequency, held)

    end = float(np.log(TARGET / START) / TARGET / frequency[-1])
    return lf.sweep(
        in_parameters, {"held": np.arange(SKILLS + 1)}, method=lf.Flow(t1=end), observe=skill_shares, progress=False
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Three panels side by side: time, data, parameters."""
    figure = new_figure(10.0, 3.9)
    axes = figure.subplots(1, 3, sharey=True)
    every = max(1, diagram.sizes["step"] // 30)
    parts = (
        ("(a) time", "step", "in_time", diagram.flow_in_time[::every].rename(step="at")),
        ("(b) data", "samples", "in_data", diagram.flow_in_data.mean("seed").rename(drawn="at")),
        ("(c) parameters", "parameters", "in_parameters", diagram.flow_in_parameters.rename(held="at")),
    )
    for ax, (title, resource, line, dots) in zip(axes, parts, strict=True):
        _draw_panel(ax, diagram[line], resource, dots)
        ax.set_title(title, fontsize="medium")
    for skill, colour in zip(range(SKILLS), COLOURS, strict=True):
        axes[1].plot(diagram.samples, diagram.in_data_one_shot[:, skill], color=colour, linewidth=0.8, linestyle="--")
    for ax in axes[:2]:
        ax.set_xscale("log")
    axes[0].set_ylabel("skill strength R/S")
    axes[2].set_xticks(PER_SKILL * np.arange(SKILLS + 1))
    axes[0].legend(title="skill", fontsize="small", frameon=False, loc="center left")
    key = [
        handle("closed form, constants fitted on skill 1", linewidth=1.8),
        handle("closed form, one sample teaches a skill", linewidth=0.8, linestyle="--"),
        handle("flow of the diagonal network", marker="o", markerfacecolor="white", linestyle=""),
    ]
    figure.legend(handles=key, fontsize="small", loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_panel(ax: Axes, line: xarray.DataArray, resource: str, dots: xarray.DataArray) -> None:
    """Fitted closed forms as lines and the flow as circles."""
    for skill, colour in zip(range(SKILLS), COLOURS, strict=True):
        ax.plot(line[resource], line[:, skill], color=colour, linewidth=1.8, label=f"{skill + 1}")
        ax.plot(dots["at"], dots[:, skill], "o", color=colour, markersize=4, markerfacecolor="white", zorder=3)
    ax.set(xlabel=line[resource].attrs["long_name"], ylim=(-0.04, 1.04))


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Skills come in the order and at the times of their frequencies, and the flow is that of the closed forms."""
    halves = half_times(diagram)
    mean, seeds = diagram.flow_in_data.mean("seed"), diagram.sizes["seed"]
    expected = lf.theory.skill_strengths_in_data(diagram.drawn.values, diagram.frequency.values, TARGET, start=START)
    learned = (diagram.flow_in_parameters > 0.5).transpose("held", "skill").values
    hand = diagram.held.values / PER_SKILL
    second = np.interp(0.95, diagram.flow_in_time[:, 0], diagram.flow_in_time[:, 1])
    return (
        Claim.near(
            f"Steps to half the strength of each skill over those of the first, which are {told(halves[0])}",
            halves / halves[0],
            np.arange(1, SKILLS + 1) ** (ALPHA + 1),
            rtol=0.01,
        ),
        Claim.between("Share of the second skill when the first is at 95 %", second, high=0.05),
        Claim.between(
            "Largest distance of the flow in time from the closed form",
            worst(diagram.flow_in_time, diagram.in_time),
            high=2e-5,
        ),
        Claim.between(
            f"Largest distance of the mean over {seeds} drawn data sets from 1 − (1 − p)^D, to three standard errors",
            worst(mean, expected / TARGET),
            high=1.5 / seeds**0.5,
        ),
        Claim(
            "Skills that the flow learns with so many at hand, the most frequent ones",
            (learned == (np.arange(SKILLS) < hand[:, None])).all(),
            learned.sum(axis=1),
            hand,
        ),
    )


def half_times(diagram: xarray.Dataset) -> np.ndarray:
    """Steps after which the flow has each skill at half strength; infinite where it does not get there."""
    curves = diagram.flow_in_time.values.T
    logs = [np.interp(0.5, curve, np.log(diagram.step.values), right=np.inf) for curve in curves]
    return np.exp(logs)


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
