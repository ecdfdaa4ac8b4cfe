"""Aligned networks, Theorem G.2, the single neuron, conserved quantities and collapse in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.theory import (
    aligned_matrix,
    aligned_strengths,
    balanced_network,
    balanced_strength,
    collapsed,
    conserved_difference,
    conserved_imbalances,
    conserved_scalar,
    decayed,
    sigmoidal_time,
    single_neuron,
    symmetric_factorisation,
    transition,
    transition_exponential,
    transition_sigmoidal,
)

few = settings(max_examples=12, deadline=None, derandomize=True)
rho = jax.jit(balanced_strength)
t_of = jax.jit(transition)
neuron = jax.jit(single_neuron)
factor = jax.jit(symmetric_factorisation)


def integrate(velocity, start, ts):
    return scipy.integrate.solve_ivp(
        velocity, (0.0, ts[-1]), np.ravel(start), method="DOP853", t_eval=ts, rtol=1e-11, atol=1e-13
    ).y.T


@pytest.mark.parametrize(
    ("lam", "start", "t", "strength", "share"),
    [
        (2.0, 0.1, 0.5, 0.70229474227, 0.66921638030),
        (-5.0, 0.1, 0.3, 0.80683386620, 0.78537096244),
        (0.0, 0.1, 2.0, 0.85848644976, 0.84276272195),
        (1.0, -0.4, 1.0, 0.56262014093, 0.68758581495),
    ],
)
def test_theorem_g2_meets_its_reference_values(lam, start, t, strength, share):
    """50-digit arithmetic, printed to 11 digits; and the mirrored mode."""
    np.testing.assert_allclose(rho(t, lam, 1.0, start), strength, rtol=2e-11)
    np.testing.assert_allclose(t_of(t, lam, 1.0, start), share, rtol=2e-11)
    np.testing.assert_allclose(rho(t, -lam, -1.0, -start), -strength, rtol=2e-11)


@few
@given(
    lam=st.sampled_from([0.0, 1e-9, -0.5, 2.0, -40.0]),
    target=st.sampled_from([-1.5, 0.0, 0.3, 2.0]),
    start=st.sampled_from([-0.7, -1e-3, 1e-3, 0.3, 2.0]),
)
def test_a_balanced_mode_follows_its_equation(lam, target, start):
    """rho' = sqrt(lam^2 + 4 rho^2) (s - rho), for 50 relaxation times; the tolerance is the integrator's."""
    ts = np.linspace(0.0, 50 / max(1.0, abs(lam)), 12)
    expected = integrate(lambda _, r: np.sqrt(lam**2 + 4 * r**2) * (target - r), start, ts)[:, 0]

    # Starts that wait at 0 for lam = 1e-9 multiply the integrator's error by 1e9 before they leave.
    slack = 1e-8 if lam != 1e-9 or start * target > 0 else 3e-3
    np.testing.assert_allclose(rho(ts, lam, target, start), expected, atol=slack, rtol=0)


def test_the_transition_runs_from_sigmoidal_to_exponential():
    """(70): lam -> 0 and |lam| -> infinity at fixed |lam| t; even in lam, from 0 to 1, rising."""
    ts = np.linspace(0.0, 8.0, 30)
    for start in (0.1, -0.1):
        for target in (1.0, -1.0, 0.0):
            np.testing.assert_allclose(
                t_of(ts, 0.0, target, start), transition_sigmoidal(ts, target, start), atol=1e-14
            )
    textbook = np.expm1(2 * ts) / (np.expm1(2 * ts) + 1 / 0.1)
    np.testing.assert_allclose(transition_sigmoidal(ts, 1.0, 0.1), textbook, atol=1e-14)
    lazy = t_of(ts / 1e6, 1e6, 1.0, 0.1)
    # The next order is s / |lam|.
    np.testing.assert_allclose(lazy, transition_exponential(ts / 1e6, -1e6), atol=1e-6)
    np.testing.assert_allclose(t_of(ts, 3.0, 1.0, 0.1), t_of(ts, -3.0, 1.0, 0.1), rtol=1e-15)
    assert (np.diff(t_of(ts, 0.5, 1.0, 0.1)) > 0).all()
    assert t_of(0.0, 0.5, 1.0, 0.1) == 0


def test_extremes_of_the_transition_are_finite_with_their_derivatives():
    """|lam| to 1e3, t to 1e4, s = rho(0), s = 0, rho(0) = 0: every switch point at once; float32 too."""
    grid = [[0.0, 1.0, 1e4], [0.0, 1e-12, -1.0, 1e3], [-1.0, 0.0, 0.3], [-0.3, 0.0, 0.3]]
    for dtype in (np.float64, np.float32):
        points = [np.asarray(axis, dtype) for axis in np.broadcast_arrays(*np.meshgrid(*grid, indexing="ij"))]
        value = rho(*points)
        slopes = GRADIENT(*(jnp.asarray(axis.ravel()) for axis in points))
        assert value.dtype == dtype
        assert np.isfinite(value).all()
        assert all(np.isfinite(slope).all() for slope in slopes)


GRADIENT = jax.jit(jax.vmap(jax.grad(balanced_strength, argnums=(0, 1, 2, 3))))


@pytest.mark.parametrize(
    "point", [(0.7, 0.0, 1.0, 0.3), (0.7, 0.9, 0.3, 0.3), (1.3, -2.0, -0.4, 0.2), (0.4, 1.0, 0.0, 0.1)]
)
def test_derivatives_of_the_transition_are_those_of_finite_differences(point):
    """At lam = 0, s = rho(0) and s = 0 among them; h = 1e-5 leaves h^2 and 1e-16 / h."""
    slopes = np.array([slope[0] for slope in GRADIENT(*(jnp.array([value]) for value in point))])
    forward = np.array(jax.jit(jax.jacfwd(balanced_strength, argnums=(0, 1, 2, 3)))(*point))
    np.testing.assert_allclose(forward, slopes, atol=1e-13)
    for place in range(4):
        ends = [np.array(point) + h * np.eye(4)[place] for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(slopes[place], (rho(*ends[0]) - rho(*ends[1])) / 2e-5, atol=1e-8)


def test_the_riccati_solution_of_an_aligned_start_is_theorem_g2():
    lam, targets, starts = 0.8, np.array([2.0, 1.0]), np.array([0.3, 0.1])
    k = np.sqrt(lam**2 + 4 * starts**2)
    network = balanced_network(
        np.diag(np.sqrt((k - lam) / 2)), np.diag(np.sqrt((k + lam) / 2)), lam, np.diag(targets), 0.9
    )
    np.testing.assert_allclose(network.matrix, np.diag(rho(0.9, lam, targets, starts)), atol=1e-14)


@pytest.mark.parametrize(
    ("w", "a", "beta", "t", "end_w", "end_a"),
    [
        ([-1, 0], 1, [0, 1], 1.0, [-0.51208505226, 0.60180296466], 0.79018852752),
        ([0.3, -0.2, 0.1], 1.5, [1, 0.5, -1], 0.8, [0.57664877706, 0.24111159427, -0.52269129790], 1.6654923614),
        ([1.2, -0.7, 0.4], 0.3, [1, 0.5, -1], 2.0, [1.4983215886, -0.14082123833, -0.40295908690], 0.65358567131),
    ],
)
def test_the_neuron_meets_its_reference_values(w, a, beta, t, end_w, end_a):
    """50-digit arithmetic, delta = 0, 2.11 and -2; also by the Riccati solution, of which it is a case."""
    w, beta = np.array(w, float), np.array(beta, float)
    found = neuron(w, float(a), beta, t)
    np.testing.assert_allclose(found.w, end_w, rtol=1e-10)
    np.testing.assert_allclose(found.a, end_a, rtol=1e-10)
    twin = balanced_network(w[None, :], np.array([[float(a)]]), a**2 - w @ w, beta[None, :], t)
    np.testing.assert_allclose(found.map, twin.matrix[0], atol=1e-14)


@few
@given(a=st.sampled_from([-1.0, -0.01, 0.0, 0.3, 2.0]), size=st.sampled_from([0.01, 1.0, 2.0]), seed=st.integers(0, 20))
def test_the_neuron_follows_direct_integration(a, size, seed):
    w, beta = size * np.random.default_rng(seed).normal(size=3), np.array([1.0, 0.5, -1.0])
    ts = np.linspace(0.0, 50 / np.linalg.norm(beta), 12)
    flow = lambda _, x: np.concatenate([x[3] * (beta - x[3] * x[:3]), [x[:3] @ (beta - x[3] * x[:3])]])
    expected = integrate(flow, np.append(w, a), ts)

    found = neuron(w, a, beta, ts)

    np.testing.assert_allclose(np.column_stack([found.w, found.a]), expected, atol=1e-8)


def test_the_neuron_is_finite_at_its_extremes():
    """t = 1e5, |delta| up to 1e3, no target, no weights: values, and derivatives in every argument."""
    derivative = jax.jit(jax.jacfwd(single_neuron, argnums=(0, 1, 2, 3)))
    for w, a, beta in [
        ([30.0, 1.0], 1.0, [1.0, 0.5]),
        ([0.1, 0.2], 30.0, [1.0, 0.5]),
        ([1.0, 0.0], -1.0, [0.0, 1.0]),
        ([0.3, 0.4], 0.5, [0.0, 0.0]),
        ([0.0, 0.0], 0.0, [0.0, 0.0]),
        ([0.0, 0.0], 0.0, [1.0, 0.0]),
    ]:
        for t in (0.0, 1.0, 1e5):
            arguments = [jnp.asarray(value) for value in (w, a, beta, t)]
            found = neuron(*arguments)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(derivative(*arguments)))
            if t == 1e5 and a != 0 and np.any(beta):
                np.testing.assert_allclose(found.map, beta, atol=1e-12)


@few
@given(size=st.sampled_from([0.01, 1.0]), shift=st.sampled_from([-3.0, 0.0, 3.0]), seed=st.integers(0, 50))
def test_a_symmetric_factorisation_follows_direct_integration(size, shift, seed):
    """U' = 2 (sigma - U U^T) U; eigenvalues of either sign, one of them 0, and fewer columns than rows."""
    rng = np.random.default_rng(seed)
    u, axes = size * rng.normal(size=(3, 2)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    sigma = axes * np.array([shift, 0.0, 1.0]) @ axes.T
    sigma = 0.5 * (sigma + sigma.T)
    flow = lambda _, x: 2 * ((sigma - x.reshape(3, 2) @ x.reshape(3, 2).T) @ x.reshape(3, 2)).ravel()
    ts = np.linspace(0.0, 50 / 2 / max(1.0, abs(shift)), 6)

    for t, expected in zip(ts, integrate(flow, u, ts).reshape(-1, 3, 2), strict=True):
        found = factor(u, sigma, t)
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-8)


def test_a_factorisation_is_of_a_symmetric_matrix():
    with pytest.raises(ValueError, match=r"needs to be symmetric, but its largest difference .* is not 0: 1\. Pass"):
        symmetric_factorisation(np.ones((2, 2)), np.array([[1.0, 1.0], [0.0, 1.0]]), 1.0)


@few
@given(
    starts=st.lists(st.sampled_from([0.0, 1e-6, 0.1, 1.0, 3.0]), min_size=3, max_size=3),
    targets=st.lists(st.sampled_from([0.0, 1e-9, 0.4, 2.0]), min_size=3, max_size=3),
)
def test_aligned_layers_follow_direct_integration(starts, targets):
    """alpha' = rho alpha - alpha^3, of strength alpha^2, with strengths and singular values of 0 among them."""
    starts, targets = np.array(starts), np.array(targets)
    ts = np.linspace(0.0, 50 / 2 / max(targets.max(), 0.1), 6)
    alphas = integrate(lambda _, alpha: targets * alpha - alpha**3, np.sqrt(starts), ts)

    np.testing.assert_allclose(aligned_strengths(starts, targets, ts), alphas**2, atol=1e-8)


def test_aligned_modes_are_sigmoids_and_saturate_in_order():
    """(12): against the logistic formula, the matrix U diag(u) V^T, the Riccati solution, and the times."""
    starts, targets, ts = np.array([1e-3, 0.1, 0.0]), np.array([3.0, 1.0, 2.0]), np.array([0.0, 0.7, 40.0, 1e6])
    found = aligned_strengths(starts, targets, ts)
    textbook = targets[:2] / (1 + (targets[:2] / starts[:2] - 1) * np.exp(-2 * targets[:2] * ts[:, None]))
    np.testing.assert_allclose(found[:, :2], textbook, rtol=1e-13)
    np.testing.assert_array_equal(found[:, 2], 0.0)
    np.testing.assert_allclose(
        aligned_strengths(np.array([0.5]), np.zeros(1), 3.0), 0.5 / (1 + 2 * 3 * 0.5), rtol=1e-15
    )

    u, s, vt = np.linalg.svd(np.random.default_rng(0).normal(size=(4, 3)), full_matrices=False)
    root = np.diag(np.sqrt([0.1, 0.2, 0.3]))
    twin = balanced_network(root @ vt, u @ root, 0.0, u * s @ vt, 0.8)
    np.testing.assert_allclose(aligned_matrix(u, vt.T, np.array([0.1, 0.2, 0.3]), s, 0.8), twin.matrix, atol=1e-14)

    for share in (0.05, 0.5, 0.99):
        times = sigmoidal_time(share, starts, targets)
        comes = np.isfinite(times)
        np.testing.assert_array_equal(comes, (starts > 0) & (starts < share * targets))
        at = np.diagonal(aligned_strengths(starts[comes], targets[comes], times[comes]))
        np.testing.assert_allclose(at, share * targets[comes], rtol=1e-12)
    assert list(np.argsort(sigmoidal_time(0.5, 1e-4, np.array([1.0, 3.0, 2.0])))) == [1, 2, 0]


def test_aligned_derivatives_are_finite_at_zero_and_repeated_values():
    value = lambda starts, targets, t: aligned_strengths(starts, targets, t).sum()
    for t in (0.0, 1.0, 1e4):
        slopes = jax.grad(value, argnums=(0, 1, 2))(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.0, 1.0, 0.0, 1.0]), t)
        assert all(np.isfinite(slope).all() for slope in slopes)
    late = jax.grad(lambda r: sigmoidal_time(0.6, jnp.array([0.5, 0.1, 0.0]), r).sum())(jnp.array([0.0, 1.0, 1.0]))
    assert np.isfinite(late).all()


def test_conserved_quantities_decay_with_the_weights():
    """Descent on L + mu |w|^2 / 2: imbalances times e^{-2 mu t}, Sigma^2 - f^2 times e^{-4 mu t}; mu = 0 keeps them."""
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (2, 3), (2, 2)]
    sizes = np.cumsum([0] + [a * b for a, b in shapes])
    split = lambda x: [x[i:j].reshape(shape) for i, j, shape in zip(sizes[:-1], sizes[1:], shapes, strict=True)]
    xx, yx = np.diag([1.0, 2.0]), rng.normal(size=(2, 2))

    def velocity(mu):
        def flow(_, x):
            w1, w2, w3 = split(x)
            slope = yx - w3 @ w2 @ w1 @ xx
            moves = ((w3 @ w2).T @ slope, w3.T @ slope @ w1.T, slope @ (w2 @ w1).T)
            return np.concatenate([move.ravel() for move in moves]) - mu * x

        return flow

    start = rng.normal(size=sizes[-1])
    for mu in (0.0, 0.2):
        end = integrate(velocity(mu), start, [0.0, 1.5])[-1]
        for before, after in zip(conserved_imbalances(split(start)), conserved_imbalances(split(end)), strict=True):
            np.testing.assert_allclose(after, decayed(before, mu, 1.5), atol=1e-9)

        pair = lambda x: (x[:4], x[4:])
        scalar = lambda _, x, mu=mu: np.concatenate([x[4:], x[:4]]) * (1.5 - x[:4] @ x[4:] / 2) / 2 - mu * x
        final = integrate(scalar, start[:8], [0.0, 1.5])[-1]
        expected = decayed(conserved_scalar(*pair(start[:8]), 2.0), mu, 1.5, degree=4)
        np.testing.assert_allclose(conserved_scalar(*pair(final), 2.0), expected, rtol=1e-9)
        modes = decayed(conserved_difference(*pair(start[:8])), mu, 1.5)
        np.testing.assert_allclose(conserved_difference(*pair(final)), modes, atol=1e-9)


@pytest.mark.parametrize("centred", [False, True])
def test_unconstrained_features_collapse(centred):
    """Gradient flow in features and classifier from zero balance; what starts at 1e-5 may stay of that order."""
    c, m, p = 3, 2, 4
    labels = np.repeat(np.eye(c), m, axis=0) - (1 / c if centred else 0.0)
    rng = np.random.default_rng(0)
    # Zero-balanced: H = A B R^T, W = R B C^T for orthonormal A, R, C.
    basis = lambda n, k: np.linalg.qr(rng.normal(size=(n, k)))[0]
    r, b = basis(p, c), np.diag([1e-5, 2e-5, 3e-5])
    h, w = basis(c * m, c) @ b @ r.T, r @ b @ basis(c, c).T

    def velocity(_, x):
        h, w = x[: c * m * p].reshape(c * m, p), x[c * m * p :].reshape(p, c)
        gap = labels - h @ w
        return np.concatenate([(gap @ w.T).ravel(), (h.T @ gap).ravel()])

    end = integrate(velocity, np.concatenate([h.ravel(), w.ravel()]), [0.0, 40.0])[-1]
    h, w = end[: c * m * p].reshape(c * m, p), end[c * m * p :].reshape(p, c)
    found = collapsed(c, m, p, centred=centred)

    means = h.reshape(c, m, p).mean(axis=1)
    np.testing.assert_allclose(h, np.repeat(means, m, axis=0), atol=1e-4)
    np.testing.assert_allclose(means @ means.T, found.feature_gram, atol=1e-4)
    np.testing.assert_allclose(w.T @ w, found.classifier_gram, atol=1e-4)
    np.testing.assert_allclose(found.means @ found.means.T, found.feature_gram, atol=1e-14)
    np.testing.assert_allclose(found.means @ found.classifier.T, labels[::m], atol=1e-14)
    middle = means - means.mean(axis=0)
    trap = np.sum((w.T / np.linalg.norm(w) - middle / np.linalg.norm(middle)) ** 2)
    np.testing.assert_allclose(trap, found.nc3, atol=1e-4)
    expected = np.asarray(found.means - found.means.mean(axis=0, keepdims=True))
    cosines = expected @ expected.T / np.sum(expected**2, axis=1)
    np.testing.assert_allclose(cosines, (c * np.eye(c) - 1) / (c - 1), atol=1e-14)


def test_errors_say_what_is_needed():
    with pytest.raises(ValueError, match=r"`t` needs times from 0 on, but some are negative: -1\."):
        transition(-1.0, 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"`strengths` are squares, but some are negative: -0\.1\."):
        aligned_strengths(np.array([-0.1]), np.ones(1), 1.0)
    with pytest.raises(ValueError, match=r"For all alike pass jnp.full\(modes, strength\)"):
        aligned_strengths(np.ones(2), np.ones(1), 1.0)
    with pytest.raises(ValueError, match=r"one shape \(inp,\)"):
        single_neuron(np.ones(2), 1.0, np.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"weights\[0\] has shape \(2, 2\) and weights\[1\] has \(2, 3\)"):
        conserved_imbalances([np.ones((2, 2)), np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"`hid` of at least 4, but it is 3"):
        collapsed(4, 1, 3)
    with pytest.raises(ValueError, match=r"at least two classes"):
        collapsed(1, 1, 3)
