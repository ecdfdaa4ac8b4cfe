"""Every closed form over the integrated flow: lines are `layerflow.theory`, dots `lf.solve` or a sum over many skills.

python docs/gallery.py    writes docs/gallery.png
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import layerflow as lf
from layerflow import theory

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
METHOD = lf.Flow(t1=6.0, rtol=1e-9)
TS, DOTS = np.linspace(0, 6, 300), np.linspace(0, 6, 13)


def flow(problem, observe, dots=DOTS):
    """An observable at the dots."""
    path = lf.solve(problem, lf.Flow(t1=float(dots[-1]), rtol=1e-9), ts=dots, observe={"value": observe})
    return np.asarray(path.observed["value"])


def strength(network, problem):  # noqa: ARG001
    return network.strengths[0]


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def pair(a, b, target=1.0):
    return lf.Problem(lf.DiagonalNetwork((jnp.array([a]), jnp.array([b]))), lf.Modes(jnp.ones(1), target))


def exponential(ax):
    for colour, rate in zip(COLOURS, (0.5, 1.0, 2.0), strict=False):
        problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.array([rate]), 1.0))
        draw(
            ax, colour, TS, theory.exponential(TS, 0.0, 1.0, rate), DOTS, flow(problem, matrix)[:, 0, 0], f"E = {rate}"
        )


def sigmoidal(ax):
    for colour, start in zip(COLOURS, (0.1, 1e-2, 1e-3), strict=False):
        measured = flow(pair(start**0.5, start**0.5), strength)
        draw(ax, colour, TS, theory.sigmoidal(TS, start, 1.0), DOTS, measured, f"u(0) = {start:g}")


def layer_pairs(ax):
    for colour, (a, b) in zip(COLOURS, ((0.1, 0.1), (1.0, 0.01), (2.0, -0.3)), strict=False):
        draw(
            ax,
            colour,
            TS,
            theory.layer_pair(TS, a, b, 1.0).strength,
            DOTS,
            flow(pair(a, b), strength),
            f"a, b = {a}, {b}",
        )


def deep(ax):
    ts, dots = np.linspace(0, 14, 300), np.linspace(0, 14, 15)
    for colour, depth in zip(COLOURS, (2, 3, 4), strict=False):
        layers = tuple(jnp.array([0.003 ** (1 / depth)]) for _ in range(depth))
        problem = lf.Problem(lf.DiagonalNetwork(layers), lf.Modes(jnp.ones(1), 1.0))
        draw(
            ax,
            colour,
            ts,
            theory.deep_mode(ts, 0.003, 1.0, depth),
            dots,
            flow(problem, strength, dots),
            f"{depth} layers",
        )


def scalar(ax):
    for colour, scale in zip(COLOURS, (0.1, 0.5, 2.0), strict=False):
        a0, b0 = scale * jax.random.normal(jax.random.key(4), (2, 6))
        problem = lf.Problem(
            lf.LinearNetwork((a0[:, None], b0[None, :]), 0.5),
            lf.Moments(jnp.eye(1), jnp.full((1, 1), 1.5), jnp.full((1, 1), 2.25)),
        )
        line = theory.scalar_network(TS, a0, b0, 1.5, z=2.0).output
        draw(ax, colour, TS, line, DOTS, flow(problem, matrix)[:, 0, 0], f"weights × {scale}")


def balanced(ax):
    yx = jnp.array([[1.0, 0.3, -0.2], [-0.2, 0.8, 0.5]])
    for colour, lam in zip(COLOURS, (-2.0, 0.0, 2.0), strict=False):
        start = lf.lambda_balanced(jax.random.key(2), lam, 0.1, inp=3, hid=2, out=2)
        problem = lf.Problem(start, lf.Moments.whitened(yx=yx))
        line = theory.balanced_path(*start.weights, lam, yx, TS).loss(yx)
        draw(ax, colour, TS, line, DOTS, flow(problem, lf.loss), f"λ = {lam:g}")


def transition(ax):
    for colour, lam in zip(COLOURS, (0.0, 0.5, 2.0), strict=False):
        start = lf.aligned(lf.Moments.whitened(yx=jnp.eye(2)), lam, 0.02, hid=2)
        problem = lf.Problem(start, lf.Moments.whitened(yx=jnp.eye(2)))
        measured = (flow(problem, lf.mode_strengths)[:, 0] - 0.02) / (1 - 0.02)
        draw(ax, colour, TS, theory.transition(TS, lam, 1.0, 0.02), DOTS, measured, f"λ = {lam:g}")


def neuron(ax):
    beta, w = jnp.array([1.0, 0.5]), jnp.array([-0.4, 0.3])
    for colour, a in zip(COLOURS, (0.1, 1.0, -1.0), strict=False):
        problem = lf.Problem(lf.LinearNetwork((w[None, :], jnp.array([[a]]))), lf.Moments.whitened(yx=beta[None, :]))
        line = theory.single_neuron(w, a, beta, TS).map[:, 0]
        draw(ax, colour, TS, line, DOTS, flow(problem, matrix)[:, 0, 0], f"a(0) = {a}")


def skills(ax):
    t = np.geomspace(10, 3000, 60)
    frequency = theory.skill_frequencies(100_000, 0.6)
    dots = np.geomspace(10, 3000, 9)
    summed = [theory.skill_loss(theory.skill_strengths_in_time(d, frequency, 0.01, 1.0), frequency, 1.0) for d in dots]
    draw(ax, COLOURS[0], t, theory.time_law(0.6, 0.01, 1.0)(t), dots, np.array(summed), "α = 0.6")
    ax.set(xscale="log", yscale="log")


def estimator(ax):
    x, y = np.asarray(jax.random.normal(jax.random.key(5), (3, 4))), np.array([1.0, -0.5, 0.8])
    for colour, decay in zip(COLOURS, (0.0, 0.1, 0.5), strict=False):
        problem = lf.Problem(lf.linear_model(0.3 * jnp.ones(4)), lf.Samples(x, y[:, None]), decay=decay)
        line = theory.linear_estimator(TS, x, y, 0.3 * np.ones(4), decay=decay)[:, 0]
        draw(ax, colour, TS, line, DOTS, flow(problem, matrix)[:, 0, 0], f"decay {decay:g}")


def regression(ax):
    inp, ts, dots = 400, np.geomspace(0.1, 1000, 120), np.geomspace(0.1, 1000, 13)
    key, data = jax.random.split(jax.random.key(6))
    w = jax.random.normal(key, (inp,))
    truth = lf.linear_model(w / jnp.linalg.norm(w))
    for colour, ratio in zip(COLOURS, (0.5, 1.0, 2.0), strict=False):
        task = lf.teacher(data, truth, n=int(ratio * inp), inp=inp, noise=0.5)
        problem = lf.Problem(lf.linear_model(jnp.zeros(inp)), task, test=lf.population(truth, noise=0.5))
        path = lf.solve(problem, lf.Exact(t1=1000.0), ts=dots, observe=lf.excess_error)
        line = theory.estimator_errors(ts, ratio, noise=0.5).test
        draw(ax, colour, ts, line, dots, np.asarray(path.observed["excess_error"]), f"N/d = {ratio:g}")
    ax.set(xscale="log", yscale="log")
    ax.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    ax.minorticks_off()


def student(ax):
    width = 150
    truth = jnp.zeros((width, width)).at[0, 0].set(3.0)
    seen = lf.Moments.whitened(yx=truth + jax.random.normal(jax.random.key(7), truth.shape) / width**0.5)
    for colour, lam in zip(COLOURS, (0.0, 1.0, 10.0), strict=False):
        problem = lf.Problem(lf.aligned(seen, lam, 1e-3, hid=width), seen, test=lf.population(lf.linear_model(truth)))
        path = lf.solve(problem, lf.Exact(t1=6.0), ts=DOTS, observe=lf.excess_error)
        line = theory.student_error(TS, lam, jnp.array([3.0]), 1e-3, inp=width, out=width, noise=width**-0.5)
        draw(ax, colour, TS, line, DOTS, np.asarray(path.observed["excess_error"]), f"λ = {lam:g}")
    ax.set(yscale="log")


def draw(ax, colour, ts, line, dots, measured, label):
    ax.plot(ts, np.asarray(line), color=colour, label=label)
    ax.plot(dots, measured, "o", color=colour, markersize=3.5, markerfacecolor="white")


PANELS = {
    "one layer (Eq. 10)": (exponential, "strength"),
    "two equal layers (Eq. 9)": (sigmoidal, "strength"),
    "two unequal layers": (layer_pairs, "strength"),
    "deep modes, u(0) = 0.003": (deep, "strength"),
    "scalar network (Theorem I.1)": (scalar, "output"),
    "λ-balanced networks 3-2-2": (balanced, "loss"),
    "transition (Theorem G.2)": (transition, "T(t; λ)"),
    "single neuron": (neuron, "a w₁"),
    "10⁵ skills: scaling in time": (skills, "loss"),
    "regression on three samples": (estimator, "w₁"),
    "noisy samples of 400 inputs": (regression, "test error"),
    "student of a noisy matrix": (student, "squared error"),
}


def main() -> None:
    """Draw all panels into one picture."""
    jax.config.update("jax_enable_x64", True)
    figure = matplotlib.figure.Figure(figsize=(9.0, 9.8), layout="constrained")
    for ax, (title, (panel, label)) in zip(figure.subplots(4, 3).flat, PANELS.items(), strict=True):
        panel(ax)
        ax.set_title(title, fontsize="medium")
        ax.set(xlabel="gradient-flow time t", ylabel=label)
        ax.legend(fontsize="x-small", frameon=False)
    figure.suptitle(
        "Lines: closed forms. Dots: integrated flow; of skills a sum; last row: one draw.", fontsize="medium"
    )
    path = pathlib.Path(__file__).with_name("gallery.png")
    figure.savefig(path, dpi=160)
    print(path)


if __name__ == "__main__":
    main()
