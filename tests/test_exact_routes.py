"""Every way through `Exact` against direct integration, wherever its parameters are drawn, and in its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import layerflow as lf
from layerflow import theory

few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 1000)
targets = st.sampled_from([1.3, 0.2, 1e-9, 0.0, -0.8])


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def strengths(network, problem):  # noqa: ARG001
    return network.strengths


def assert_exact_is_the_flow(problem, fastest, observe=matrix):
    """Of the whole map, for 50 relaxation times 1 / `fastest`; the flow runs at rtol 1e-10."""
    t1 = 50 / fastest
    ts = np.linspace(0.0, t1, 6)
    exact, flow = (
        lf.solve(problem, method, ts=ts, observe={"map": observe}).observed["map"]
        for method in (lf.Exact(t1=t1), lf.Flow(t1=t1, rtol=1e-10, atol=1e-12))
    )
    np.testing.assert_allclose(exact, flow, atol=1e-8 * max(1.0, float(np.abs(flow).max())))


@few
@given(seed=seeds, rank=st.integers(0, 3), scale=st.sampled_from([0.5, -1.0, 2.0]))
@example(seed=0, rank=0, scale=1.0)
def test_linear_models(seed, rank, scale):
    """Coloured inputs with zero singular values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, rank)) @ rng.normal(size=(rank, 3)) + np.zeros((5, 3))
    task = lf.Samples(x, rng.normal(size=(5, 2)))
    start = lf.LinearNetwork((jnp.asarray(rng.normal(size=(2, 3))),), jnp.asarray(scale))
    fastest = scale**2 * np.linalg.norm(x.T @ x / 5, 2)
    assert_exact_is_the_flow(lf.Problem(start, task), max(fastest, 0.1))


@few
@given(
    seed=seeds, rank=st.integers(0, 3), scale=st.sampled_from([0.0, 0.5, -1.0]), decay=st.sampled_from([0.0, 0.2, 1.0])
)
@example(seed=0, rank=0, scale=1.0, decay=0.0)
def test_linear_models_with_decay(seed, rank, scale, decay):
    """Of an array, which the program does not know to be zero; at no input and no output scale decay alone moves."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, rank)) @ rng.normal(size=(rank, 3)) + np.zeros((5, 3))
    start = lf.LinearNetwork((jnp.asarray(rng.normal(size=(2, 3))),), jnp.asarray(scale))
    problem = lf.Problem(start, lf.Samples(x, rng.normal(size=(5, 2))), decay=jnp.asarray(decay))
    fastest = scale**2 * np.linalg.norm(x.T @ x / 5, 2) + decay
    assert_exact_is_the_flow(problem, max(fastest, 0.1), observe=lambda network, problem: network.weights[0])


@few
@given(
    heavy=st.floats(0.3, 1.5),
    light=st.floats(-0.2, 0.2),
    target=targets,
    equal=st.floats(0.05, 1.5),
    variance=st.floats(0.3, 3.0),
)
@example(heavy=1.0, light=-0.2, target=1.3, equal=1.3**0.5, variance=1.0)
def test_pairs_of_layers(heavy, light, target, equal, variance):
    """Against their target, S <= 0, and one pair of equal layers, from u(0) = S too."""
    layers = (jnp.array([heavy, light, equal]), jnp.array([light, -heavy, equal]))
    task = lf.Modes(jnp.full(3, variance), jnp.array([target, -target, 1.3]))
    fastest = variance * max(2.6, heavy**2)
    assert_exact_is_the_flow(lf.Problem(lf.DiagonalNetwork(layers), task), fastest, strengths)


@few
@given(share=st.floats(0.01, 0.95), target=st.floats(0.3, 2.0), variance=st.floats(0.3, 3.0))
def test_deep_modes(share, target, variance):
    size = (share * target) ** (1 / 3)
    start = lf.DiagonalNetwork(tuple(s * jnp.array([size, size]) for s in (1.0, -1.0, -1.0)))
    task = lf.Modes(jnp.array([variance, 0.5]), jnp.array([target, 2.5]))
    assert_exact_is_the_flow(lf.Problem(start, task), 3 * max(variance * target ** (4 / 3), 1.7), strengths)


@pytest.mark.parametrize("width", [1, 3])
@few
@given(seed=seeds, target=targets, scale=st.sampled_from([1.0, -0.6, 0.4]))
def test_scalar_networks(width, seed, target, scale):
    """Width 1 among them, whatever the signs of weights, target and scale."""
    rng = np.random.default_rng(seed)
    layers = jnp.asarray(rng.normal(size=(width, 1))), jnp.asarray(rng.normal(size=(1, width)))
    xx = jnp.array([[1.4]])
    task = lf.Moments(xx, xx * target, xx * target**2)
    rate = float(theory.scalar_network_limit(layers[0][:, 0], layers[1][0], target / scale).ntk)
    start = lf.LinearNetwork(layers, jnp.asarray(scale))
    assert_exact_is_the_flow(lf.Problem(start, task), 1.4 * scale**2 * max(rate, 0.2))


@few
@given(seed=seeds, lam=st.sampled_from([0.0, 1e-8, -1e-8, 0.7, 6.0]), rank=st.integers(0, 2))
@example(seed=1, lam=0.0, rank=1)
@example(seed=2, lam=-1e-8, rank=0)
def test_balanced_networks(seed, lam, rank):
    """Bottlenecks, lambda to 0, zero singular values; three inputs and two outputs, where no sign obstructs."""
    rng = np.random.default_rng(seed)
    yx = rng.normal(size=(2, rank)) @ rng.normal(size=(rank, 3)) + np.zeros((2, 3))
    start = lf.lambda_balanced(jax.random.key(seed), lam, 0.5, inp=3, hid=2, out=2)
    fastest = max(2 * np.linalg.norm(yx, 2), abs(lam), 0.5)
    assert_exact_is_the_flow(lf.Problem(start, lf.Moments.whitened(yx=jnp.asarray(yx))), fastest)


def test_wide_networks_and_small_targets_keep_their_kernel():
    """NTK limit, f = sum a b / sqrt(p): the kernel of p Gaussian units grows by (S^2 - f(0)^2) / 2 p.

    The output is that of the frozen kernel. So it is for two units with f(0) = 0 and a target of scale 1 / sqrt(p).
    """
    ts = jnp.linspace(0.0, 3.0, 7)
    gaussian = lambda p: np.random.default_rng(0).normal(size=(2, p))
    opposed = lambda p: np.array([[1.0, 1.0], [1.0, -1.0]])
    for weights, target, scale in (
        (gaussian, lambda p: 1.5, lambda p: p**-0.5),
        (opposed, lambda p: p**-0.5, lambda p: 1.0),
    ):
        for p in (100, 10_000):
            (a, b), s, size = weights(p), target(p), scale(p)
            task = lf.Samples(np.ones((1, 1)), np.full((1, 1), s))
            problem = lf.Problem(lf.LinearNetwork((jnp.asarray(a)[:, None], jnp.asarray(b)[None]), size), task)
            kernel = {"kernel": lambda network, problem: lf.ntk(network, problem)[0, 0], "f": matrix}
            path = lf.solve(problem, lf.Exact(t1=3.0), ts=ts, observe=kernel)

            frozen = theory.frozen_kernel_output(ts, a, b, s, z=1 / size)
            grown = path.observed["kernel"][-1] / path.observed["kernel"][0] - 1
            assert 0 < abs(grown) < 2 / p
            assert 0 < np.abs(path.observed["f"][:, 0, 0] - frozen).max() < 2 * s / p


def test_the_sign_of_the_determinant_stops_exact_and_flow_alike():
    """lambda = 0 and square: det(w2 w1) keeps its sign, so both stop at s_min^2 / 2 = 1/8 (THEORY.md, 9.5)."""
    layers = (0.3 * jnp.eye(2), 0.3 * jnp.eye(2))
    problem = lf.Problem(lf.LinearNetwork(layers), lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, -0.5]))))

    assert theory.sign_obstruction(*layers, problem.task.yx)
    for method in (lf.Exact(t1=25.0), lf.Flow(t1=25.0)):
        np.testing.assert_allclose(lf.solve(problem, method).observed["loss"], 0.125, rtol=1e-6)
    free = lf.Problem(problem.start, lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 0.5]))))
    assert lf.solve(free, lf.Exact(t1=25.0)).observed["loss"] < 1e-9
