"""Laziness: the distance of a network's flow from that of its linearised twin."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import layerflow as lf

METHOD = lf.Flow(t1=20.0, rtol=1e-8)


def one_mode(a, b, target=1.0):
    return lf.Problem(lf.DiagonalNetwork((jnp.array([a]), jnp.array([b]))), lf.Modes(jnp.ones(1), target))


def sup_distance(a, t1):
    """The definition for a = b, where f is sigmoidal (Eq. 9) and its twin exponential (Eq. 10)."""
    t = np.linspace(0.0, t1, 400_001)
    u0 = a * a
    f = 1 / (1 + (1 / u0 - 1) * np.exp(-2 * t))
    g = 1 + (u0 - 1) * np.exp(-2 * u0 * t)
    return np.abs(f - g).max() / max(np.abs(f - u0).max(), np.abs(g - u0).max())


@pytest.mark.parametrize("a", [0.1, 0.5, 0.9])
def test_it_is_the_distance_of_a_sigmoid_from_an_exponential(a):
    """One input and one output, where the kernel distance sees nothing; at a time and at the end."""
    path = lf.solve(one_mode(a, a), METHOD, ts=[0.0, 2.0, 20.0], observe=(lf.laziness, lf.kernel_distance))

    expected = [0.0, sup_distance(a, 2.0), sup_distance(a, 20.0)]
    # The largest value is taken over steps, about 0.1 apart: below the true one by (0.1)^2/8 of its curvature.
    np.testing.assert_allclose(path.observed["laziness"], expected, atol=2e-3)
    np.testing.assert_allclose(path.observed["kernel_distance"], 0.0, atol=1e-30)


def test_descent_follows_its_twin_as_flow_does():
    flow = lf.solve(one_mode(0.3, 0.3), METHOD, observe=lf.laziness).observed["laziness"]
    method = lf.Descent(optax.sgd, learning_rate=1e-3, steps=20_000)

    descent = lf.solve(one_mode(0.3, 0.3), method, observe=lf.laziness).observed["laziness"]

    np.testing.assert_allclose(descent, flow, rtol=1e-2)


@pytest.mark.parametrize(
    "optimiser",
    [optax.sgd, lambda learning_rate: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(learning_rate))],
)
def test_watching_laziness_does_not_change_descent(optimiser):
    """Not even where the optimiser looks at all weights at once: the twin has a state of its own."""
    method = lf.Descent(optimiser, learning_rate=0.01, steps=50)

    watched, alone = (lf.solve(one_mode(0.4, 0.2), method, observe=f).network for f in (lf.laziness, lf.loss))

    np.testing.assert_allclose(watched.strengths, alone.strengths, rtol=1e-14)


def test_a_network_that_is_linear_in_its_weights_is_perfectly_lazy(coloured_samples):
    start = lf.linear_model(jnp.ones((2, 4)))
    problem = lf.Problem(start, coloured_samples)

    assert lf.solve(problem, METHOD, observe=lf.laziness).observed["laziness"] < 1e-12
    standing = lf.Problem(start, lf.Moments.whitened(yx=jnp.ones((2, 4))))
    assert lf.solve(standing, METHOD, observe=lf.laziness).observed["laziness"] == 0.0


def test_where_only_noise_moves_it_is_zero():
    """A start that is its target: what moves is the solver's own noise, on both sides."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    task = lf.Samples(x, 0.5 * x)
    problem = lf.Problem(lf.aligned(task, 0.3, 0.5, hid=3), task)
    target = lf.Problem(problem.start, lf.Samples(x, jax.vmap(problem.start)(jnp.asarray(x))))

    assert lf.solve(target, lf.Flow(t1=5.0), observe=lf.laziness).observed["laziness"] == 0.0


def test_a_stream_is_followed_on_its_fixed_sample():
    task = lf.Stream(lambda key, n: (jax.random.normal(key, (n, 2)), jax.random.normal(key, (n, 2))), sample=50)
    method = lf.Descent(optax.sgd, learning_rate=0.05, steps=20, batch=5)

    path = lf.solve(lf.Problem(lf.gaussian(jax.random.key(0), (2, 3, 2)), task), method, observe=lf.laziness)

    assert 0 < path.observed["laziness"] < 2


@pytest.fixture(scope="module")
def figure_6a():
    """Figure 6(a), on every fourth of its ratios, with laziness beside the kernel distance."""
    task = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments

    def cell(key, lam, ratio):
        start = lf.lambda_balanced(key, lam, jnp.sqrt(ratio), inp=2, hid=2, out=2)
        return lf.Problem(start, task.rescale(target=1 / ratio))

    axes = {"lam": np.linspace(-9, 9, 40), "ratio": np.linspace(1, 20, 10)}
    observe = (lf.laziness, lf.kernel_distance, kernel_growth)
    return lf.sweep(cell, axes, seeds=4, method=lf.Flow(t1=39.99), observe=observe)


def kernel_growth(network, problem):
    """|K - K0| / |K0|, which unlike the kernel distance sees a change of scale."""
    task = lf.Samples(jnp.sqrt(2.0) * jnp.eye(2), jnp.zeros((2, 2)))  # as white as the task
    problem = eqx.tree_at(lambda p: p.task, problem, task, is_leaf=lambda node: isinstance(node, lf.Task))
    k0, k1 = lf.ntk(problem.start, problem), lf.ntk(network, problem)
    return jnp.linalg.norm(k1 - k0) / jnp.linalg.norm(k0)


def test_over_figure_6a_it_grows_with_the_kernel_distance_at_every_ratio(figure_6a):
    """From |lam| = 9 to 0 both grow, in every column and for every seed."""
    for ratio in figure_6a.ratio:
        for seed in figure_6a.seed:
            column = figure_6a.sel(ratio=ratio, seed=seed)
            half = column.sel(lam=slice(-9, 0.1))
            assert (np.diff(half.kernel_distance) > 0).all()
            assert (np.diff(half.laziness) > 0).all()
    assert figure_6a.laziness.sel(lam=[-9, 9], ratio=1).max() < 0.02
    assert figure_6a.laziness.sel(lam=0, ratio=1, method="nearest").min() > 0.1


def test_over_all_of_figure_6a_it_is_small_where_the_kernel_distance_is_and_grows_with_it(figure_6a):
    """Over two decades of kernel distance at a time. Not from every cell to every other: see the next test."""
    distance, laziness = (figure_6a[name].values.ravel() for name in ("kernel_distance", "laziness"))
    decades = np.floor(np.log10(distance) / 2)

    groups = [laziness[decades == pair] for pair in np.unique(decades)]

    assert len(groups) >= 5
    assert (np.diff([np.median(group) for group in groups]) > 0).all()
    assert (np.diff([group.max() for group in groups]) > 0).all()
    assert groups[0].max() < 0.15 < np.median(groups[-1])


def test_along_the_ratio_it_follows_the_scale_of_the_kernel_which_the_distance_does_not_see(figure_6a):
    """There the kernel shrinks ever more as a whole and turns ever less, and time slows down with it."""
    lazy_side = figure_6a.sel(lam=9).mean("seed")

    assert (lazy_side.kernel_distance.diff("ratio") < 0).all()
    assert (lazy_side.kernel_growth.diff("ratio") > 0).all()
    assert (lazy_side.laziness.diff("ratio") > 0).all()
    rank = scipy.stats.spearmanr(figure_6a.laziness.values.ravel(), figure_6a.kernel_growth.values.ravel())
    assert rank.statistic > 0.95


@pytest.mark.slow
def test_over_starts_of_zero_function_it_grows_with_the_kernel_distance_everywhere():
    """As in Figure 6(b): weight scales against the target's."""
    task = lf.random_regression(jax.random.key(1), n=10, inp=20, out=2).moments

    def cell(key, difference, ratio):
        stds = (0.1 + jnp.maximum(difference, 0.0), 0.1 + jnp.maximum(-difference, 0.0))
        return lf.Problem(lf.symmetrised(key, (20, 20, 2), std=stds), task.rescale(target=1 / ratio))

    axes = {"ratio": np.geomspace(0.1, 50, 4), "difference": np.linspace(-0.5, 0.5, 5)}
    diagram = lf.sweep(cell, axes, method=lf.Flow(t1=39.99), observe=(lf.laziness, lf.kernel_distance))

    rank = scipy.stats.spearmanr(diagram.laziness.values.ravel(), diagram.kernel_distance.values.ravel())
    assert rank.statistic > 0.95
    assert diagram.laziness.where(diagram.kernel_distance < 1e-6).max() < 0.02


def test_samples_and_their_moments_give_the_same_laziness(key, coloured_samples):
    """So do a linear network and the same map written as a module of one's own."""
    start = lf.gaussian(key, (4, 3, 2), std=0.5)

    class Own(eqx.Module):
        weights: tuple

        def __call__(self, x):
            return self.weights[1] @ (self.weights[0] @ x)

    problems = [lf.Problem(start, coloured_samples), lf.Problem(start, coloured_samples.moments)]
    problems.append(lf.Problem(Own(start.weights), coloured_samples))
    values = [lf.solve(problem, METHOD, observe=lf.laziness).observed["laziness"] for problem in problems]

    assert values[0] > 0.05
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_it_is_measured_on_the_test_task_too(key, coloured_samples):
    rng = np.random.default_rng(0)
    problem = lf.Problem(
        lf.gaussian(key, (4, 3, 2), std=0.5),
        coloured_samples,
        test=lf.Samples(rng.normal(size=(9, 4)), rng.normal(size=(9, 2))),
    )
    observed = lf.solve(problem, METHOD, observe=(lf.laziness, lf.on_test(lf.laziness))).observed

    assert observed["test_laziness"] > 0.05
    assert observed["test_laziness"] != observed["laziness"]


def test_decay_and_rates_of_the_network_are_those_of_its_twin(coloured_samples):
    """A linear model is its own twin, so any difference would show."""
    start = lf.linear_model(jnp.ones((2, 4)))
    rates = eqx.tree_at(lambda network: network.weights, start, (jnp.linspace(0.5, 2.0, 8).reshape(2, 4),))

    path = lf.solve(lf.Problem(start, coloured_samples, decay=0.3, rates=rates), METHOD, observe=lf.laziness)

    assert path.observed["laziness"] < 1e-12


def test_float32_keeps_small_distances():
    """A heavy layer: 4e-5 of the way, where the weights' own rounding is 1e-6."""
    numbers = []
    for dtype in (jnp.float32, jnp.float64):
        weights = (jnp.array([10.0], dtype), jnp.array([0.1], dtype))
        problem = lf.Problem(lf.DiagonalNetwork(weights), lf.Modes(jnp.ones(1, dtype), jnp.asarray(1.5, dtype)))
        numbers.append(float(lf.solve(problem, lf.Flow(t1=0.1), observe=lf.laziness).observed["laziness"]))

    assert numbers[1] < 5e-5
    np.testing.assert_allclose(*numbers, rtol=0.05)
