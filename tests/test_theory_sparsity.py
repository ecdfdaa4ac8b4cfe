"""Diagonal networks on few samples: mirror flow, where it ends, from saddle to saddle, fine-tuning; against flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerflow as lf
from layerflow import theory

few = settings(max_examples=40, deadline=None, derandomize=True)
X, Y = np.array([[1.0, 0.5, -0.3, 0.2], [0.1, -0.4, 0.8, 0.6]]), np.array([1.0, -0.5])
A, B = np.array([0.3, 0.1, 0.5, 0.2]), np.array([0.1, -0.2, 0.2, 0.05])
XX, YX = X.T @ X / 2, X.T @ Y / 2  # of the loss over both samples
SAMPLES = lf.Samples(X, Y[:, None])
FIRST = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 1.0]]), np.array([2.0, -1.2, 0.4])
SECOND = np.array([[1.0, 0.8, 0.7], [0.8, 1.0, 0.2], [0.7, 0.2, 1.0]]), np.array([1.76, 1.48, 1.34])
SPARSE_X = np.random.default_rng(3).normal(size=(5, 12))
SPARSE = np.zeros(12)
SPARSE[[1, 6]] = 0.5, -0.75

TS = np.array([3.0, 0.0, 2.0, 8.0])
ORDER = np.argsort(TS)

strengths = st.floats(-50.0, 50.0).filter(lambda x: abs(x) > 1e-6)
project = jax.jit(lambda x, y, theta, c: theory.bregman_projection(x, y, theta, c).strength)


def strength(network, problem):  # noqa: ARG001
    return network.strengths


def path(start, speed=1.0):
    """Strengths along the flow of the layers, at times over `speed`."""
    flow = lf.Flow(t1=8.0 / speed, rtol=1e-11)
    return lf.solve(lf.Problem(start, SAMPLES), flow, ts=TS[ORDER] / speed, observe=strength).observed["strength"]


def of_scale(scale, x=SPARSE_X, beta=SPARSE):
    """The limit of the flow from beta = 0."""
    return np.asarray(project(x, x @ beta, jnp.zeros(()), jnp.asarray(scale)))


# Mirror coordinates.


@few
@given(strengths, strengths)
def test_mirror_coordinates_have_the_strength_of_the_layers(a, b):
    theta, c = theory.mirror_coordinate(a, b), theory.conserved_difference(a, b)
    if abs(c) > 1e-6 * a**2:
        np.testing.assert_allclose(theory.mirror_strength(theta, c), a * b, rtol=1e-13)
        other = theory.mirror_strength(theory.mirror_coordinate(b, a), -c)
        np.testing.assert_allclose(other, a * b, rtol=1e-13)


def test_mirror_coordinates_keep_their_digits():
    np.testing.assert_allclose(theory.mirror_coordinate(1.0, 1e-200), 2e-200, rtol=1e-15)
    np.testing.assert_allclose(theory.mirror_coordinate(1.0, 1.0 - 2.0**-50), np.log(2.0**51 - 1), rtol=1e-15)
    assert theory.mirror_coordinate(0.0, 0.0) == 0
    assert theory.mirror_coordinate(1.0, -1.0) == -np.inf
    large = 400 * np.log(10) + np.log(4) - 100 * np.log(10)  # of beta = 1 at |C| = 1e-300
    np.testing.assert_allclose(theory.mirror_strength(large, 1e-300), 1.0, rtol=1e-12)
    across = theory.mirror_strength(np.array([30.0 - 1e-9, 30.0 + 1e-9]), 1.0)
    np.testing.assert_allclose(across[1] / across[0] - 1, 2e-9, rtol=1e-5)


@pytest.mark.parametrize("theta", [-50.0, -0.5, 0.0, 29.0, 31.0])
def test_the_derivative_of_strength_by_the_coordinate_is_the_weight_of_both_layers(theta):
    """d beta / d theta = sqrt(C^2 + 4 beta^2) / 2 = (a^2 + b^2) / 2."""
    beta = theory.mirror_strength(theta, 1e-3)
    slope = jax.grad(theory.mirror_strength)(theta, 1e-3)
    np.testing.assert_allclose(slope, 0.5 * np.hypot(1e-3, 2 * beta), rtol=1e-13)
    np.testing.assert_allclose(jax.grad(theory.mirror_strength, 1)(theta, 1e-3), beta / 1e-3, rtol=1e-13)


@pytest.mark.parametrize("c", [-3.0, 1e-2, 1e-100])
def test_the_slope_of_the_potential_is_half_the_coordinate(c):
    beta = jnp.array([-2.0, -1e-3, 0.0, 0.7, 40.0])
    slope = jax.vmap(jax.grad(theory.mirror_potential), (0, None))(beta, c)
    np.testing.assert_allclose(theory.mirror_strength(2 * slope, c), beta, rtol=1e-12)
    assert theory.mirror_potential(0.0, c) == 0


def test_limits_and_kin_of_the_potential():
    beta, alpha = np.array([-1.3, 0.2, 2.0]), 0.4
    z = beta / alpha**2
    q = 2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2)
    np.testing.assert_allclose(2 * theory.mirror_potential(beta, 4 * alpha**2), alpha**2 * q, rtol=1e-14)
    np.testing.assert_allclose(theory.mirror_potential(beta, 1e8), 0.5 * beta**2 / 1e8, rtol=1e-12)
    sparse = 0.5 * np.abs(beta) * (np.log(4 * np.abs(beta)) + 200 * np.log(10) - 1)
    np.testing.assert_allclose(theory.mirror_potential(beta, 1e-200), sparse, rtol=1e-14)


@pytest.mark.parametrize("depth", [3, 4, 7])
def test_deep_mirror_coordinates_are_those_of_both_branches(depth):
    u, v = np.array([0.3, 1.2, 0.5, 0.7]), np.array([0.4, 0.2, 0.5, 0.7 - 1e-9])
    more, less = v ** (2 - depth), u ** (2 - depth)
    size, m = (0.5 * (more + less)) ** (-1 / (depth - 2)), (more - less) / (more + less)

    found = theory.deep_mirror_strength(m, size, depth=depth)

    np.testing.assert_allclose(found, lf.DifferenceNetwork(u, v, depth).strengths, rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(found[:3], (u**depth - v**depth)[:3], rtol=1e-13, atol=1e-15)


# The path.


@pytest.mark.parametrize(
    ("depth", "size", "first", "last"),
    [(3, 0.4, 0.697728188947318, -0.037918570781059), (4, 0.5, 0.705091257034651, -0.041401012736853)],
)
def test_reference_values_of_deep_networks(depth, size, first, last):
    """And the flow of the layers: u' = -D u^(D - 1) g, v' = D v^(D - 1) g."""
    found = theory.deep_mirror_flow(TS, XX, YX, 0.0, size, depth=depth).strength
    np.testing.assert_allclose(found[2, jnp.array([0, 3])], (first, last), atol=1e-9)
    start = lf.DifferenceNetwork(size * np.ones(4), size * np.ones(4), depth)
    np.testing.assert_allclose(found[ORDER], path(start), atol=1e-9)


def test_the_flow_of_layers_is_mirror_flow():
    """From layers of mixed signs and sizes; u^2 - v^2 has the same path at twice the speed."""
    found = theory.mirror_flow(TS, XX, YX, theory.mirror_coordinate(A, B), A**2 - B**2).strength[ORDER]
    np.testing.assert_allclose(found, path(lf.DiagonalNetwork((A, B))), atol=1e-9)
    np.testing.assert_allclose(found, path(lf.DifferenceNetwork((A + B) / 2, (A - B) / 2), speed=2.0), atol=1e-9)


@pytest.mark.parametrize("depth", [3, 4])
def test_deep_networks_from_unequal_branches_are_mirror_flow(depth):
    u, v = np.array([0.4, 0.6, 0.5, 0.3]), np.array([0.5, 0.4, 0.5, 0.6])
    more, less = v ** (2 - depth), u ** (2 - depth)
    m, size = (more - less) / (more + less), (0.5 * (more + less)) ** (-1 / (depth - 2))
    found = theory.deep_mirror_flow(TS, XX, YX, m, size, depth=depth).strength[ORDER]
    np.testing.assert_allclose(found, path(lf.DifferenceNetwork(u, v, depth)), atol=1e-9)


@pytest.mark.slow
def test_derivatives_of_the_path():
    at = lambda c: theory.mirror_flow(2.0, XX, YX, 0.3, c).strength
    step = 1e-4
    quotient = (at(0.2 + step) - at(0.2 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jacfwd(at)(0.2), quotient, atol=1e-7)


# Where it ends.

ENDS = {
    "lazy": (1.0, 0.0, (0.656625962717396, 0.443606668973474, -0.442901198276449, -0.0564982834353186)),
    "rich": (0.1, 0.0, (0.683275143426047, 0.308493594438707, -0.548449561547600, -0.0102840455484039)),
    "mixed": (A, B, (0.774406861788663, 0.042332710857998, -0.690463500107459, -0.013561336249500)),
}


@pytest.mark.parametrize("name", ENDS)
def test_reference_values_of_the_projection_are_where_the_flow_ends(name):
    a, b, expected = (np.broadcast_to(part, 4) for part in ENDS[name])
    end = theory.bregman_projection(X, Y, theory.mirror_coordinate(a, b), a**2 - b**2)
    np.testing.assert_allclose(end.strength, expected, atol=1e-13)
    theta = theory.mirror_coordinate(a, b) + end.dual @ X
    np.testing.assert_allclose(end.strength, theory.mirror_strength(theta, a**2 - b**2), rtol=1e-14)
    problem = lf.Problem(lf.DiagonalNetwork((a, b)), SAMPLES)
    flow = lf.solve(problem, lf.Flow(t1=1000.0, rtol=1e-12, atol=1e-14)).network.strengths
    np.testing.assert_allclose(end.strength, flow, atol=1e-10)


@pytest.mark.parametrize("c", [50.0, 1.0, 1e-4, 1e-8])
def test_the_projection_is_where_mirror_flow_ends(c):
    end = theory.bregman_projection(X, Y, 0.2, c)
    late = theory.mirror_flow(1000 * TS, XX, YX, 0.2, c)
    np.testing.assert_allclose(end.strength, late.strength[0], rtol=1e-11, atol=1e-13)


def test_only_the_difference_and_the_strength_of_the_start_matter():
    """Layers exchanged or both of other sign, and u^2 - v^2 of |C| = 4 |u v|, end at the same place."""
    ends = []
    branches = lf.DifferenceNetwork((A + B) / 2, (A - B) / 2)
    for network in (lf.DiagonalNetwork((B, A)), lf.DiagonalNetwork((-A, -B)), branches):
        ends.append(lf.solve(lf.Problem(network, SAMPLES), lf.Flow(t1=600.0, rtol=1e-11)).network.strengths)
    np.testing.assert_allclose(np.stack(ends), np.tile(ENDS["mixed"][2], (3, 1)), atol=1e-9)


@pytest.mark.parametrize("start", [0.0, 0.7])
def test_large_scales_end_at_the_least_norm(start):
    """The error falls as |C|^-2, weights are 1 / |C_i|."""
    ratio = np.array([1.0, 2.0, 0.5, 1.0])
    lazy = theory.least_norm(X, Y, start, ratio)
    np.testing.assert_allclose(X @ lazy, Y, atol=1e-14)
    weighted = start + ratio * (X.T @ np.linalg.solve(X * ratio @ X.T, Y - X @ np.full(4, start)))
    np.testing.assert_allclose(lazy, weighted, atol=1e-14)
    off = []
    for scale in (1e2, 1e3, 1e4):
        theta = np.arcsinh(2 * start / (scale * ratio))
        off.append(np.abs(project(X, Y, theta, scale * ratio) - lazy).max())
    np.testing.assert_allclose(-np.diff(np.log10(off)), 2.0, atol=5e-3)


@pytest.mark.parametrize("scale", [1e4, 1e-2, 1e-12, 1e-60, 1e-300])
@pytest.mark.parametrize("theta", [0.0, 3.0])
def test_the_projection_minimises_the_potential_among_interpolators(scale, theta):
    """Steps along the null space raise it."""
    rng = np.random.default_rng(5)
    beta = np.asarray(theory.bregman_projection(SPARSE_X, SPARSE_X @ SPARSE, theta, scale).strength)
    np.testing.assert_allclose(SPARSE_X @ beta, SPARSE_X @ SPARSE, atol=1e-11)
    null = np.linalg.svd(SPARSE_X)[2][5:]
    value = lambda beta: np.sum(theory.mirror_potential(beta, scale) - 0.5 * theta * beta)
    # A step small beside beta changes nothing that float64 holds of phi: the whole step counts.
    steps = 0.1 * rng.normal(size=(20, 7)) @ null
    assert all(value(beta + step) > value(beta) for step in steps)


def test_samples_that_depend_on_one_another_or_are_too_many_change_nothing():
    twice = np.vstack([X, X.sum(axis=0)])
    alone = theory.bregman_projection(X, Y, 0.1, 0.5)
    more = theory.bregman_projection(twice, np.append(Y, Y.sum()), 0.1, 0.5)
    np.testing.assert_allclose(more.strength, alone.strength, atol=1e-14)
    np.testing.assert_allclose(more.dual @ twice, alone.dual @ X, atol=1e-14)
    every = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(project(every, every @ A, 0.1 * np.ones(4), np.ones(4)), A, atol=1e-13)


SMOOTH = (X, Y, np.array([0.3, -0.2, 0.1, 1.0]), np.array([0.5, -0.2, 0.1, 1.0]))


@pytest.mark.parametrize("by", range(4), ids=["x", "y", "theta", "difference"])
def test_derivatives_of_the_projection(by):
    towards = np.random.default_rng(by).normal(size=SMOOTH[by].shape)
    at = lambda s: theory.bregman_projection(*(a + s * towards if i == by else a for i, a in enumerate(SMOOTH)))
    step = 1e-4
    for name in ("strength", "dual"):
        part = lambda s, name=name: getattr(at(s), name)
        quotient = (part(step) - part(-step)) / (2 * step)
        np.testing.assert_allclose(jax.jacfwd(part)(0.0), quotient, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.jacrev(part)(0.0), jax.jacfwd(part)(0.0), atol=1e-13)


@pytest.mark.parametrize("by", range(4), ids=["x", "y", "start", "difference"])
def test_derivatives_of_the_least_norm(by):
    """With weights that are equal, so that singular values are."""
    point = (X, Y, np.full(4, 0.2), np.ones(4))
    towards = np.random.default_rng(by).normal(size=point[by].shape)
    at = lambda s: theory.least_norm(*(a + s * towards if i == by else a for i, a in enumerate(point)))
    step = 1e-4
    np.testing.assert_allclose(jax.jacfwd(at)(0.0), (at(step) - at(-step)) / (2 * step), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(at)(0.0), jax.jacfwd(at)(0.0), atol=1e-13)


def test_second_derivatives_maps_and_single_precision():
    at = lambda s: theory.bregman_projection(X, Y, SMOOTH[2], s * SMOOTH[3]).strength
    slope = jax.jacfwd(at)
    np.testing.assert_allclose(jax.jacfwd(jax.jacrev(at))(1.0), (slope(1.001) - slope(0.999)) / 2e-3, atol=1e-5)
    scales = jnp.array([1e-6, 1.0, 30.0])
    np.testing.assert_allclose(jax.vmap(at)(scales), jnp.stack([at(s) for s in scales]), atol=1e-14)
    single = theory.bregman_projection(*(a.astype(np.float32) for a in SMOOTH)).strength
    assert single.dtype == np.float32
    np.testing.assert_allclose(np.asarray(single), at(1.0), atol=1e-6)


@pytest.mark.slow
def test_a_sweep_projects_at_every_cell():
    def cell(scale):
        end = theory.bregman_projection(X, Y, 0.0, scale)
        return lf.Problem(lf.linear_model(end.strength), SAMPLES)

    found = lf.sweep(cell, {"scale": [1e-3, 1.0]}, method=lf.Flow(t1=1e-3), observe={"m": lf.loss}, progress=False)
    np.testing.assert_allclose(found.m, 0.0, atol=1e-25)


@pytest.mark.slow
def test_no_projection_fails_whatever_the_scales_and_starts():
    """Uniform |C| from 1e-290 to 1e3 and mixed by eight orders, solutions of any sparsity over six orders of size."""
    rng = np.random.default_rng(11)
    for n, inp in ((1, 3), (2, 5), (5, 12), (8, 40)):
        x, beta = rng.normal(size=(300, n, inp)), np.zeros((300, inp))
        for row in beta:
            size = rng.integers(1, n + 1)
            row[rng.choice(inp, size, replace=False)] = rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size)
        y, half = np.einsum("mni,mi->mn", x, beta), rng.random((300, 2, 1)) < 0.5
        c = 10.0 ** (rng.uniform(-290, 3, (300, 1)) + half[:, 0] * rng.uniform(-4, 4, (300, inp)))
        end = jax.vmap(project)(x, y, half[:, 1] * rng.normal(size=(300, inp)), c)
        off = np.abs(np.einsum("mni,mi->mn", x, end) - y).max(axis=1) / np.abs(end).max(axis=1)
        assert off.max() < 2e-12  # measured 9e-13; NaN fails


# Towards the least l1 norm.


def test_small_scales_end_at_the_least_l1_norm_at_the_rate_of_the_linear_programme():
    xi = theory.l1_rate(SPARSE_X, SPARSE)
    np.testing.assert_allclose(theory.least_l1(SPARSE_X, SPARSE_X @ SPARSE), SPARSE, atol=1e-12)
    np.testing.assert_allclose(1 - xi, 0.155628, atol=1e-6)
    scales = np.array([1e-16, 1e-24, 1e-32, 1e-40])
    off = [np.linalg.norm(of_scale(scale) - SPARSE) for scale in scales]
    local = np.diff(np.log10(off)) / np.diff(np.log10(scales))
    np.testing.assert_allclose(local, [0.1567, 0.1565, 0.1562], atol=5e-5)
    excess = [np.abs(of_scale(scale)).sum() - 1.25 for scale in (1e-4, 1e-40)]
    np.testing.assert_allclose(excess, [6.43e-2, 1.80e-7], rtol=2e-3)


def test_the_norm_is_least_long_before_the_point_is_right():
    """A target that is not sparse: as many entries as samples, 1 - xi = 0.0074."""
    rng = np.random.default_rng(26)
    x = rng.normal(size=(5, 12))
    beta = np.asarray(theory.least_l1(x, x @ rng.normal(size=12)))
    assert np.count_nonzero(beta) == 5
    end = of_scale(1e-40, x, beta)
    np.testing.assert_allclose(1 - theory.l1_rate(x, beta), 0.00736, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(end - beta), 0.649, atol=1e-3)
    np.testing.assert_allclose(np.abs(end).sum() - np.abs(beta).sum(), 3.59e-3, atol=1e-5)


@pytest.mark.slow
def test_the_exponent_of_many_sparse_targets():
    """Between |C| = 1e-60 and 1e-70, where the error is far above rounding."""
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        x, beta = rng.normal(size=(6, 14)), np.zeros(14)
        beta[:2] = rng.choice([-1, 1], 2) * rng.uniform(0.5, 1.5, 2)
        least = np.asarray(theory.least_l1(x, x @ beta))
        exponent = 1 - float(theory.l1_rate(x, least))
        off = [np.abs(of_scale(scale, x, least) - least).max() for scale in (1e-60, 1e-70)]
        if off[1] > 1e-10 and exponent > 0.05:
            found.append(np.log10(off[0] / off[1]) / 10 / exponent)
    assert len(found) >= 5
    np.testing.assert_allclose(found, 1.0, atol=0.02)


# From saddle to saddle.


def test_reference_values_of_saddles():
    first, second = theory.saddle_to_saddle(*FIRST), theory.saddle_to_saddle(*SECOND)
    np.testing.assert_allclose(first.time, [1 / 2, 13 / 18, 1.616022099447514], rtol=1e-12)
    np.testing.assert_allclose(
        first.strength,
        [
            [2, 0, 0],
            [2.593406593406593, -1.978021978021977, 0],
            [2.648275862068966, -2.160919540229886, 0.832183908045977],
        ],
        atol=1e-12,
    )
    np.testing.assert_allclose(second.time, [25 / 44, 25 / 9, 180.5555555556], rtol=1e-10)
    np.testing.assert_allclose(second.strength, [[1.76, 0, 0], [0, 1.2625, 1.0875], [-0.2, 1.4, 1.2]], atol=1e-12)


@pytest.mark.parametrize(("n", "inp"), [(5, 12), (30, 8)])
def test_saddles_end_at_the_least_l1_norm_or_at_least_squares(n, inp):
    rng = np.random.default_rng(2)
    for _ in range(5):
        x, y = rng.normal(size=(n, inp)), rng.normal(size=n)
        last = theory.saddle_to_saddle(x.T @ x / n, x.T @ y / n).strength[-1]
        end = theory.least_l1(x, y) if n < inp else np.linalg.lstsq(x, y)[0]
        np.testing.assert_allclose(last, end, atol=1e-11)


def falls(xx, yx, saddles, scale):
    """When the loss is half way between plateaus, in tau."""
    loss = lambda beta: 0.5 * np.einsum("...i,ij,...j", beta, xx, beta) - beta @ yx
    wait, levels = -np.log(scale), loss(np.vstack([np.zeros(len(yx)), saddles.strength]))
    tau = np.concatenate([t + np.linspace(0.0, 8.0, 60) / wait for t in np.asarray(saddles.time)])
    path = loss(np.asarray(theory.mirror_flow(tau * wait / 2, xx, yx, 0.0, scale).strength))
    return np.array([np.interp(-level, -path, tau) for level in 0.5 * (levels[1:] + levels[:-1])])


@pytest.mark.parametrize("scale", [1e-10, 1e-160])
def test_jumps_of_the_flow_are_late_by_a_constant_over_the_logarithm_of_the_scale(scale):
    saddles = theory.saddle_to_saddle(*FIRST)
    late = (falls(*FIRST, saddles, scale) - saddles.time) * -np.log(scale)
    np.testing.assert_allclose(late, [0.599, 1.02, 1.18], atol=5e-3)


@pytest.mark.parametrize(("problem", "middle"), [(FIRST, (0.61, 1.17)), (SECOND, (0.65, 90.0))])
def test_in_between_the_flow_is_at_the_saddles(problem, middle):
    """By a power of |C|; in the second problem a coordinate goes back to 0, and returns with the other sign."""
    saddles, wait = theory.saddle_to_saddle(*problem), 80 * np.log(10)
    late = saddles.time[-1] + 40
    tau = np.resize([*middle, late], 180)  # as many as above: compiled once
    path = theory.mirror_flow(tau * wait / 2, *problem, 0.0, 1e-80).strength
    np.testing.assert_allclose(path[:3], saddles.strength, atol=1e-9)


# Fine-tuning.


def test_pretraining_ends_where_fine_tuning_begins():
    """The layers of a flow on the auxiliary task, of either sign of C, rescaled and with a fresh readout."""
    auxiliary = np.array([0.8, -0.5, 0.0])
    for a, b in ((0.3, 0.0), (0.1, 0.4)):
        start = lf.DiagonalNetwork((a * jnp.ones(3), b * jnp.ones(3)))
        end = lf.solve(lf.Problem(start, lf.Modes(jnp.ones(3), auxiliary)), lf.Flow(t1=200.0, rtol=1e-11)).network
        found = theory.fine_tuned(auxiliary, 0.01, factor=0.5, difference=a**2 - b**2)
        np.testing.assert_allclose(found.a, 0.5 * jnp.abs(end.weights[0]), atol=1e-8)
    plain = theory.fine_tuned(auxiliary, 0.01)
    np.testing.assert_allclose(plain.difference, np.abs(auxiliary) - 1e-4, rtol=1e-14)
    np.testing.assert_allclose(plain.strength, 0.01 * np.sqrt(np.abs(auxiliary)), rtol=1e-14)
    np.testing.assert_allclose(theory.mirror_strength(plain.coordinate, plain.difference), plain.strength, rtol=1e-12)


def test_fine_tuning_ends_at_the_projection():
    start = theory.fine_tuned(np.array([1.0, -0.6, 0.0, 0.3]), 0.05, difference=1e-2)
    problem = lf.Problem(lf.DiagonalNetwork((start.a, start.b)), SAMPLES)
    flow = lf.solve(problem, lf.Flow(t1=2000.0, rtol=1e-12, atol=1e-14)).network.strengths
    end = theory.bregman_projection(X, Y, start.coordinate, start.difference).strength
    np.testing.assert_allclose(end, flow, atol=1e-10)


def test_the_price_of_a_feature_in_fine_tuning():
    """beta^2 / (2 |beta_aux|) far below |beta_aux|; |beta| (ln(4 |beta| / |beta_aux|) - 1) / 2 far beyond."""
    start = theory.fine_tuned(np.array([0.3]), 1e-8)
    below, beyond = theory.mirror_potential(np.array([1e-4, 1e5]), start.difference)
    np.testing.assert_allclose(below, 0.5 * 1e-8 / 0.3, rtol=1e-5)
    np.testing.assert_allclose(beyond, 0.5e5 * (np.log(4e5 / 0.3) - 1), rtol=1e-6)


@pytest.mark.slow
def test_what_shrinking_pretrained_weights_does():
    """Errors of one hundred inputs, twenty auxiliary features; 45 draws, each task by six starts.

    Where as many samples are too few for the sparse limit errors are spread over orders, so medians of nine draws
    differ by a factor; what holds beyond the spread is held.
    """
    columns = ("rich", "lazy", 10.0, 1.0, 0.1, 0.01)
    medians = {
        task: dict(zip(columns, np.median(fine_tuning_errors(task, n), axis=0), strict=True)) for task, n in TASKS
    }
    same, nested, new = (medians[task] for task, _ in TASKS)
    assert same[10.0] < same[1.0] < same[0.1] < same[0.01] < same["rich"]  # features as they are
    assert 0.1 < same[10.0] < 0.35
    assert 0.5 < same[0.01] < 0.7
    assert nested[0.01] < 0.1 * nested[1.0] < 0.1 * nested["lazy"]  # few of the features that are there
    assert (
        new["rich"] < 0.01 < new[0.01] < new[0.1] < new["lazy"] + 0.3 < new[1.0] < new[10.0]
    )  # features reused wrongly


TASKS = [("same", 15), ("nested", 15), ("new", 25)]


def fine_tuning_errors(task, n, draws=45):
    rng, found = np.random.default_rng(0), []
    ones, end = np.ones(100), jax.vmap(project, (None, None, 0, 0))
    for _ in range(draws):
        order, auxiliary, target = rng.permutation(100), np.zeros(100), np.zeros(100)
        auxiliary[order[:20]] = rng.choice([-1.0, 1.0], 20)
        chosen = {"same": order[:20], "nested": order[:4], "new": order[20:24]}[task]
        target[chosen] = rng.choice([-1.0, 1.0], len(chosen))
        x = rng.normal(size=(n, 100))
        tuned = [theory.fine_tuned(auxiliary, 1e-4 * c, factor=c, difference=1e-6) for c in (10.0, 1.0, 0.1, 0.01)]
        theta = np.stack([0 * ones, 0 * ones, *(start.coordinate for start in tuned)])
        c = np.stack([1e-6 * ones, 900 * ones, *(start.difference for start in tuned)])
        found.append(np.sum((np.asarray(end(x, x @ target, theta, c)) - target) ** 2, axis=1) / np.sum(target**2))
    return np.stack(found)


# What is refused.

REFUSED = {
    "no solution": (lambda: theory.bregman_projection(np.ones((2, 3)), Y, 0.0, 1.0), r"there is none.*share: 0.949"),
    "no solution of least norm": (lambda: theory.least_norm(np.ones((2, 3)), Y), r"there is none"),
    "no solution of least l1": (lambda: theory.least_l1(np.ones((2, 3)), Y), r"none was found"),
    "frozen sign": (lambda: theory.bregman_projection(X, Y, 0.0, np.array([1.0, 0, 1, 1])), r"sign.*is frozen"),
    "frozen path": (lambda: theory.mirror_flow(1.0, XX, YX, 0.0, 0.0), r"`difference` needs numbers other than 0"),
    "targets as a column": (lambda: theory.bregman_projection(X, Y[:, None], 0.0, 1.0), r"\(2, 1\).*give y\[:, 0\]"),
    "coordinates of another length": (
        lambda: theory.bregman_projection(X, Y, np.zeros(3), 1.0),
        r"4 inputs, so argument `theta` needs shape \(\) or \(4,\), but it has shape \(3,\)",
    ),
    "moments of another shape": (lambda: theory.mirror_flow(1.0, XX, YX[None], 0.0, 1.0), r"\(1, 4\).*give yx\[0\]"),
    "scales of another length": (lambda: theory.mirror_flow(1.0, XX, YX, 0.0, np.ones(2)), r"`difference` needs shape"),
    "moments that are not symmetric": (
        lambda: theory.mirror_flow(1.0, np.triu(XX), YX, 0.0, 1.0),
        r"symmetric.*transpose is not 0",
    ),
    "a tolerance of nothing": (lambda: theory.mirror_flow(1.0, XX, YX, 0.0, 1.0, rtol=0.0), r"`rtol` is a tolerance"),
    "depth 2": (lambda: theory.deep_mirror_flow(1.0, XX, YX, 0.0, 1.0, depth=2), r"at least 3, but it is 2"),
    "m of 1": (lambda: theory.deep_mirror_strength(1.0, 1.0, depth=3), r"above -1 and below 1, but it holds 1"),
    "branches of no size": (lambda: theory.deep_mirror_strength(0.0, 0.0, depth=3), r"`size`.*positive"),
    "not of least l1": (lambda: theory.l1_rate(np.array([[1.0, 0.5]]), np.array([0.0, 1.0])), r"another.*smaller one"),
    "no rate off the support": (lambda: theory.l1_rate(X, np.ones(4)), r"but 4 of 4 are not"),
    "rate of another shape": (lambda: theory.l1_rate(X, np.ones(3)), r"shapes \(2, 4\) and \(3,\)"),
    "no least squares": (lambda: theory.saddle_to_saddle(np.zeros((2, 2)), np.ones(2)), r"no beta has xx beta = yx"),
    "a negative variance": (lambda: theory.saddle_to_saddle(-np.eye(2), np.ones(2)), r"negative variance"),
    "nothing to learn": (lambda: theory.saddle_to_saddle(np.eye(2), np.zeros(2)), r"`yx` is 0"),
    "saddles of samples": (lambda: theory.saddle_to_saddle(X, Y), r"shapes \(2, 4\) and \(2,\)"),
    "saddles not symmetric": (lambda: theory.saddle_to_saddle(np.triu(XX), YX), r"`xx`.*symmetric"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_answer_is_refused(case):
    ask, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        ask()


HOST = {
    "least_l1": lambda s: theory.least_l1(X, s * Y),
    "l1_rate": lambda s: theory.l1_rate(s * X, Y),
    "saddle_to_saddle": lambda s: theory.saddle_to_saddle(s * XX, YX).time,
}


@pytest.mark.parametrize("name", HOST)
def test_what_scipy_computes_is_refused_under_tracing(name):
    for trace in (jax.jit, jax.grad, lambda ask: lambda s: jax.vmap(ask)(s * jnp.ones(2))):
        with pytest.raises(TypeError, match=r"computed by SciPy of known numbers, but argument `\w+` is traced"):
            trace(HOST[name])(1.0)

    def cell(scale):
        return lf.Problem(lf.linear_model(jnp.atleast_1d(HOST[name](scale))), lf.Modes(jnp.ones(1), 1.0))

    with pytest.raises(TypeError, match=r"Compute it outside and hand the result in"):
        lf.sweep(cell, {"scale": [1.0, 2.0]}, method=lf.Flow(t1=1.0), progress=False)


def test_scipy_computes_of_known_numbers_inside_of_what_is_traced():
    found = jax.jit(lambda s: s * theory.least_l1(X, Y))(2.0)
    np.testing.assert_allclose(found, 2 * theory.least_l1(X, Y), rtol=1e-15)


@pytest.mark.slow
def test_a_target_that_no_solution_reaches_is_refused_by_a_sweep_too():
    def cell(off):
        end = theory.bregman_projection(np.ones((2, 4)), jnp.stack([off, jnp.ones(())]), 0.0, 1.0)
        return lf.Problem(lf.linear_model(end.strength), SAMPLES)

    with pytest.raises(ValueError, match=r"there is none.*First at off=2"):
        lf.sweep(cell, {"off": [1.0, 2.0]}, method=lf.Flow(t1=1.0), progress=False)


@pytest.mark.parametrize("factor", [1e-10, 1e8])
def test_the_least_l1_norm_knows_no_units_of_samples(factor):
    x, y = np.random.default_rng(0).normal(size=(4, 9)), np.random.default_rng(1).normal(size=4)
    rows = np.array([1.0, factor, 1.0, 1.0])
    beta = theory.least_l1(x, y)

    np.testing.assert_allclose(theory.least_l1(x * rows[:, None], y * rows), beta, atol=1e-12)
    np.testing.assert_allclose(theory.least_l1(x * factor, y) * factor, beta, atol=1e-9)
    np.testing.assert_allclose(theory.l1_rate(x * factor, beta), theory.l1_rate(x, beta), rtol=1e-9)


def test_mirror_flow_of_large_scales_ends_at_the_projection_or_is_refused():
    x, y = np.array([[1.0, 0.5, 0.2], [0.3, -1.0, 0.4]]), np.array([1.0, -0.5])
    moments = x.T @ x / 2, x.T @ y / 2

    end = theory.mirror_flow(100.0, *moments, 0.0, 1e3).strength

    np.testing.assert_allclose(end, theory.bregman_projection(x, y, 0.0, 1e3).strength, atol=1e-9)
    with pytest.raises(ValueError, match=r"too small here to keep the digits .* lf\.Flow"):
        theory.mirror_flow(3.0, *moments, 0.0, 1e20)
