"""The Q Q^T solution of lambda-balanced networks against published numbers, direct integration and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import example, given, settings
from hypothesis import strategies as st

import layerflow as lf
from layerflow.theory import (
    Balanced,
    balanced_limit,
    balanced_network,
    balanced_path,
    balanced_violations,
    sign_obstruction,
)
from layerflow.theory._eigen import flow_axes, flow_matrix, symmetric_axes
from layerflow.theory._riccati import riccati_factor

path = jax.jit(balanced_path)


def rotation(x):
    return np.array([[np.cos(x), -np.sin(x)], [np.sin(x), np.cos(x)]])


def about_z(x):
    return np.block([[rotation(x), np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])


def about_x(x):
    return np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), rotation(x)]])


def sampler(lam, rho, u, r, v):
    """W1, W2 with singular values rho of the product, as in section 8.1 of the theory notes."""
    inp, hid, out, modes = len(v), len(r), len(u), len(rho)
    k = np.sqrt(lam**2 + 4 * np.asarray(rho) ** 2)
    s1, s2 = np.zeros((hid, inp)), np.zeros((out, hid))
    for j in range(hid):
        if j < modes:
            s1[j, j], s2[j, j] = np.sqrt((k[j] - lam) / 2), np.sqrt((k[j] + lam) / 2)
        elif lam > 0:
            s2[j, j] = np.sqrt(lam)
        elif lam < 0:
            s1[j, j] = np.sqrt(-lam)
    return r @ s1 @ v.T, u @ s2 @ r.T


def integrated(w1, w2, sigma_yx, ts):
    """Gradient flow in plain NumPy: W1, W2 at every time."""
    hid, inp = w1.shape

    def velocity(_, flat):
        w1, w2 = flat[: hid * inp].reshape(hid, inp), flat[hid * inp :].reshape(-1, hid)
        gap = sigma_yx - w2 @ w1
        return np.concatenate([(w2.T @ gap).ravel(), (gap @ w1.T).ravel()])

    start = np.concatenate([w1.ravel(), w2.ravel()])
    flow = scipy.integrate.solve_ivp(
        velocity, (0.0, ts[-1]), start, method="DOP853", t_eval=ts, rtol=1e-13, atol=1e-16
    ).y.T
    return flow[:, : hid * inp].reshape(-1, hid, inp), flow[:, hid * inp :].reshape(len(ts), -1, hid)


def draw(seed, lam, strengths, inp, hid, out):
    w1, w2 = lf.lambda_balanced(jax.random.key(seed), lam, strengths, inp=inp, hid=hid, out=out).weights
    return np.asarray(w1), np.asarray(w2)


R = {
    "R1": (
        sampler(0.5, [0.2, 0.6], rotation(0.7), np.eye(2), rotation(0.3)),
        0.5,
        [[1, 0.3], [-0.2, 0.8]],
        1.0,
        [[0.76108524681, 0.093161639454], [-0.17707663376, 0.69760659751]],
        (1.0658686299, 2.0658686299),
    ),
    "R2": (
        sampler(0.0, [0.2, 0.6], rotation(0.7), rotation(0.4), rotation(0.3)),
        0.0,
        [[1, 0.3], [-0.2, 0.8]],
        3.0,
        [[0.99320677013, 0.29218493655], [-0.19942046649, 0.79435424456]],
        (1.8539283302, 1.8539283302),
    ),
    "R3": (
        sampler(-0.4, [0.2, 0.6], rotation(0.7), np.eye(2), about_z(0.3) @ about_x(0.5)),
        -0.4,
        [[1, 0.3, -0.5], [-0.2, 0.8, 0.1]],
        1.5,
        [[0.94371974720, 0.16361597632, -0.36789196167], [-0.15586649948, 0.68483918273, 0.24446171142]],
        (2.2100530529, 1.4100530529),
    ),
    "R4": (
        sampler(1.2, [0.2, 0.6], about_z(0.7) @ about_x(0.2), about_z(0.1) @ about_x(0.9), rotation(0.3)),
        1.2,
        [[1, 0.3], [-0.2, 0.8], [0.4, -0.6]],
        1.0,
        [[0.87440615009, 0.17945467210], [-0.18588488880, 0.75780972341], [0.33245900771, -0.46061789208]],
        (1.0089659136, 4.6089659136),
    ),
}


@pytest.mark.parametrize("case", R)
def test_the_solution_meets_its_reference_values(case):
    """50-digit arithmetic; the values are printed to 11 digits."""
    (w1, w2), lam, sigma_yx, t, matrix, traces = R[case]
    network = balanced_network(w1, w2, lam, np.array(sigma_yx), t)

    np.testing.assert_allclose(network.matrix, matrix, atol=2e-11, rtol=0)
    np.testing.assert_allclose(
        [jnp.trace(network.input_gram), jnp.trace(network.output_gram)], traces, rtol=1e-10, atol=0
    )


def test_the_kernel_distance_meets_its_reference_value():
    (w1, w2), lam, sigma_yx, t, *_ = R["R1"]
    x = np.array([[1, 0, 0.5], [0, 1, -0.5]])
    start, now = Balanced(jnp.asarray(w1), jnp.asarray(w2)), balanced_network(w1, w2, lam, np.array(sigma_yx), t)

    np.testing.assert_allclose(now.kernel_distance(start, x @ x.T), 0.022660154631, rtol=1e-9)
    k0, k1 = (np.asarray(network.ntk(x.T)) for network in (start, now))
    chord = k0 / np.linalg.norm(k0) - k1 / np.linalg.norm(k1)
    np.testing.assert_allclose(now.kernel_distance(start, x @ x.T), 0.5 * np.sum(chord**2), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_axes_of_small_matrices_are_those_of_lapack(n):
    """Generic, graded over twelve orders of magnitude, and with equal, zero and nearly equal eigenvalues."""
    rng = np.random.default_rng(0)
    generic = rng.normal(size=(1000, n, n))
    graded = 10.0 ** rng.uniform(-6, 6, (1000, n, 1)) * rng.normal(size=(1000, n, n))
    turns, near = np.linalg.qr(generic)[0], rng.choice([0.0, 1e-9, 1e-15], (1000, n))
    close = turns * (rng.choice([-1.0, 0.0, 1.0], (1000, n)) + near)[:, None] @ turns.swapaxes(1, 2)
    f = np.concatenate([generic, graded, close, np.zeros((1, n, n))])
    f = f + f.swapaxes(1, 2)
    rates, v = jax.jit(jax.vmap(symmetric_axes))(f)

    size = np.linalg.norm(f, axis=(1, 2))[:, None]
    assert (np.abs(np.sort(rates) - np.linalg.eigvalsh(f)) <= 1e-14 * size).all()
    assert (np.abs(v * rates[:, None, :] @ v.mT - f) <= 1e-14 * size[:, None]).all()
    np.testing.assert_allclose(v.mT @ v, np.broadcast_to(np.eye(n), f.shape), atol=1e-14)
    slope = jax.jvp(lambda f: jnp.sort(symmetric_axes(f)[0]), (jnp.asarray(f[0]),), (jnp.asarray(f[1]),))[1]
    step = 1e-6 * f[1]
    along = (np.linalg.eigvalsh(f[0] + step) - np.linalg.eigvalsh(f[0] - step)) / 2e-6
    np.testing.assert_allclose(slope, along, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (3, 1), (3, 3), (2, 4), (5, 2)])
def test_axes_of_the_flow_matrix_are_those_of_lapack(shape):
    """Generic, graded, of low rank, zero, rotations and mirrors, at imbalances of both signs and none."""
    rng = np.random.default_rng(0)
    generic = rng.normal(size=(300, *shape))
    graded = 10.0 ** rng.uniform(-9, 3, (300, *shape)) * generic
    low = generic[:, :, :1] @ generic[:, :1]
    equal = np.broadcast_to(np.array([1.0, -1.0])[:, None, None] * np.eye(*shape), (2, *shape))
    mirror = np.eye(*shape)[None] * np.where(np.arange(shape[1]) == 0, -1.0, 1.0)
    sigma = np.concatenate([generic, graded, low, equal, mirror, mirror[:, ::-1], np.zeros((1, *shape))])
    sigma = np.tile(sigma, (5, 1, 1))
    lam = np.repeat([-3.0, -1e-7, 0.0, 0.1, 1e4], len(sigma) // 5)
    f = jax.vmap(flow_matrix)(lam, sigma)
    rates, v = jax.jit(jax.vmap(flow_axes))(lam, sigma)

    size = np.linalg.norm(f, axis=(1, 2))[:, None]
    assert (np.abs(np.sort(rates) - np.linalg.eigvalsh(f)) <= 1e-14 * size).all()
    assert (np.abs(v * rates[:, None, :] @ v.mT - f) <= 1e-14 * size[:, None]).all()
    np.testing.assert_allclose(v.mT @ v, np.broadcast_to(np.eye(sum(shape)), f.shape), atol=1e-14)
    along = (jnp.asarray(0.3), jnp.asarray(generic[1]))
    _, slope = jax.jvp(lambda *at: jnp.sort(flow_axes(*at)[0]), (jnp.asarray(0.7), jnp.asarray(generic[0])), along)
    df = flow_matrix(*along)
    apart, w = np.linalg.eigh(flow_matrix(jnp.asarray(0.7), jnp.asarray(generic[0])))
    if np.diff(apart).min() > 1e-9:  # first order perturbation theory; repeated ones have no derivative
        np.testing.assert_allclose(slope, np.diagonal(w.T @ df @ w), rtol=1e-9, atol=1e-12)


SHAPES = [(2, 2, 2), (3, 1, 2), (4, 2, 2), (2, 2, 4), (3, 2, 3), (2, 3, 2)]


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from(SHAPES),
    lam=st.sampled_from([0.0, 1e-8, -1e-8, 0.7, -0.7, 6.0, -6.0]),
    start=st.sampled_from([1e-3, 0.3, 2.0]),
    rank=st.integers(0, 2),
    seed=st.integers(0, 50),
)
@example(shape=(2, 2, 4), lam=6.0, start=0.3, rank=0, seed=3)
@example(shape=(3, 1, 2), lam=-6.0, start=0.3, rank=2, seed=1)
@example(shape=(3, 2, 3), lam=-0.7, start=1e-3, rank=1, seed=2)
def test_the_solution_follows_direct_integration(shape, lam, start, rank, seed):
    """Any widths, imbalance, scale and rank, for 50 relaxation times of the integrated flow (rtol 1e-13)."""
    inp, hid, out = shape
    lam = -abs(lam) if hid > out else abs(lam) if hid > inp else lam
    lam = 0.0 if hid > min(inp, out) and hid > max(inp, out) else lam
    w1, w2 = draw(seed, lam, start, inp, hid, out)
    rng = np.random.default_rng(seed)
    sigma_yx = rng.normal(size=(out, rank)) @ rng.normal(size=(rank, inp))
    ts = np.linspace(0.0, 50 / max(1.0, abs(lam)), 12)
    one, two = integrated(w1, w2, sigma_yx, ts)

    found = path(w1, w2, lam, sigma_yx, ts)

    # A flow that passes a saddle multiplies the integrator's 1e-13: allow what 1e-10 at the start does.
    nudge = 1 + 1e-10 * np.random.default_rng(1).normal(size=(hid + inp + out, max(shape)))
    nudged = path(w1 * nudge[:hid, :inp], w2 * nudge[hid : hid + out, :hid], lam, sigma_yx, ts)
    scale = np.abs(two).max() ** 2 + np.abs(one).max() ** 2
    for name, expected in (
        ("matrix", two @ one),
        ("input_gram", one.swapaxes(1, 2) @ one),
        ("output_gram", two @ two.swapaxes(1, 2)),
    ):
        value, other = getattr(found, name), getattr(nudged, name)
        slack = 1e-8 * scale + 10 * np.abs(value - other).max(axis=(1, 2))
        assert (np.abs(value - expected).max(axis=(1, 2)) <= slack).all(), name


@pytest.mark.parametrize("lam", [0.0, 1e-9, 3.0, -3.0, 1e3, -1e3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_long_times_come_to_the_limit_without_overflow(lam, dtype):
    """lam up to 1e3, t up to 1e4 and 1e8, where e^{Ft} is e^{5e10}, by one evaluation.

    A bottleneck at |lam| = 1e3 takes longer: its modes differ by (s_2^2 - s_3^2) / |lam| in their rates.
    """
    hid = 2 if abs(lam) < 10 else 3
    w1, w2 = draw(4, lam, 0.5, 3, hid, 3)
    sigma_yx = np.array([[2.0, 0.3, 0.0], [-0.4, 1.0, 0.1], [0.0, 0.2, 0.5]])
    arguments = [np.asarray(value, dtype) for value in (w1, w2, lam, sigma_yx, [0.0, 1e-30, 1.0, 1e4, 1e8])]

    found, limit = path(*arguments), balanced_limit(*arguments[2:4], hid=hid)

    assert found.matrix.dtype == dtype
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    slack = 1e3 * np.finfo(dtype).eps * max(1.0, abs(lam))
    np.testing.assert_allclose(found.matrix[-2:], np.stack([limit.matrix] * 2), atol=slack, rtol=0)
    u, s, vt = np.linalg.svd(sigma_yx)
    np.testing.assert_allclose(limit.matrix, u[:, :hid] * s[:hid] @ vt[:hid], atol=slack, rtol=0)
    np.testing.assert_allclose(found.matrix[:2], np.stack([w2 @ w1] * 2), atol=slack, rtol=0)


def test_the_limit_has_the_imbalance_and_the_target():
    """W1^T W1 -> V diag((sqrt(lam^2 + 4 s^2) - lam) / 2) V^T; hidden units beyond the modes carry lam alone."""
    sigma_yx = np.diag([2.0, 1.0, 0.0])
    for lam in (-1.5, 0.0, 1.5):
        found = balanced_limit(lam, sigma_yx, hid=3)
        k = np.sqrt(lam**2 + 4 * np.diag(sigma_yx) ** 2)
        np.testing.assert_allclose(found.input_gram, np.diag((k - lam) / 2), atol=1e-14)
        np.testing.assert_allclose(found.output_gram, np.diag((k + lam) / 2), atol=1e-14)
        np.testing.assert_allclose(found.w2.T @ found.w2 - found.w1 @ found.w1.T, lam * np.eye(3), atol=1e-13)


def test_the_sign_of_the_determinant_obstructs():
    """lam = 0, square: det(W2 W1) keeps its sign, so the loss stops at s_min^2 / 2 (here 1/8)."""
    w = 0.3 * np.eye(2)
    sigma_yx = np.diag([2.0, -0.5])

    assert bool(sign_obstruction(w, w, sigma_yx))
    assert not bool(sign_obstruction(w, w, -sigma_yx @ np.diag([-1.0, 1.0])))
    assert not bool(sign_obstruction(np.ones((1, 2)), np.ones((2, 1)), sigma_yx))
    np.testing.assert_allclose(balanced_network(w, w, 0.0, sigma_yx, 25.0).loss(sigma_yx), 0.125, rtol=1e-9)
    tilted = np.array([0.3, 0.3 - 1e-6])
    lam = 1e-9
    w1, w2 = sampler(lam, tilted**2, np.eye(2), np.eye(2), np.eye(2))
    np.testing.assert_allclose(balanced_network(w1, w2, lam, sigma_yx, 200.0).loss(sigma_yx), 0.0, atol=1e-12)


def test_kernel_distances_keep_their_digits_down_to_the_lazy_end():
    """Square networks: D lam^4 tends to a constant, 0.72, 0.78, 0.80, 0.81 at lam = 10, 20, 40, 80 for one task."""
    sigma_yx = np.array([[1.0, 0.3], [-0.2, 0.8]])
    scaled = []
    for lam in (250.0, 500.0, 1000.0):
        w1, w2 = draw(1, lam, 1.0, 2, 2, 2)
        start = Balanced(jnp.asarray(w1), jnp.asarray(w2))
        scaled.append(float(path(w1, w2, lam, sigma_yx, np.array([1.0, 2.0])).kernel_distance(start)[0]) * lam**4)
    # The next order is lam^-2 smaller, at lam = 250 about 1e-4; the smallest D is about 1e-12.
    np.testing.assert_allclose(scaled[:2], scaled[2], rtol=3e-4)
    assert scaled[2] / 1000.0**4 < 1e-11


@jax.jit
def invariants(lam, sigma_yx, t, q0):
    """Those of a network that starts at q0; the check of balance reads the start, so it stays out."""
    q = riccati_factor(flow_matrix(lam, sigma_yx), q0, t)
    return q @ q.T


FORWARD, BACKWARD = (jax.jit(mode(invariants, argnums=(0, 1, 2, 3))) for mode in (jax.jacfwd, jax.jacrev))


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize(
    "sigma_yx", [np.eye(3)[:2], np.diag([1.0, 0.0, 0.0])[:2], np.array([[1.0, 0.3, 0.0], [0.2, -0.5, 0.4]])]
)
def test_derivatives_are_finite_and_right_where_eigenvalues_repeat(lam, sigma_yx):
    """At lam = 0 with repeated and with zero singular values, t from 0 to long, in every argument."""
    w1, w2 = draw(2, lam, 0.4, 3, 2, 2)
    for t in (0.0, 0.7, 30.0):
        at = tuple(jnp.asarray(value) for value in (lam, sigma_yx, t, np.concatenate([w1.T, w2])))
        forward, backward = FORWARD(*at), BACKWARD(*at)
        for place, (one, two) in enumerate(zip(forward, backward, strict=True)):
            assert np.isfinite(one).all()
            np.testing.assert_allclose(one, two, atol=1e-10 * (1 + np.abs(one).max()))
            direction = np.random.default_rng(place).normal(size=at[place].shape)
            if place == 2:
                direction = np.ones(())
            step = lambda h, at=at, place=place, to=direction: invariants(
                *at[:place], at[place] + h * to, *at[place + 1 :]
            )
            if place == 2 and t == 0:
                continue  # no times before 0; the velocity there is checked below
            h = 1e-4
            slope = (8 * (step(h) - step(-h)) - (step(2 * h) - step(-2 * h))) / (12 * h)
            along = np.tensordot(one, direction, axes=direction.ndim)
            # Fourth order, h^4 = 1e-16, and rounding 1e-16 / h = 1e-12.
            np.testing.assert_allclose(along, slope, atol=1e-9 * (1 + np.abs(along).max()))


def test_the_velocity_at_the_start_is_minus_the_gradient():
    w1, w2 = draw(2, 0.8, 0.4, 3, 2, 2)
    sigma_yx = np.array([[1.0, 0.3, 0.0], [0.2, -0.5, 0.4]])
    gap = sigma_yx - w2 @ w1
    velocity = jax.jacfwd(lambda t: balanced_network(w1, w2, 0.8, sigma_yx, t).matrix)(0.0)
    np.testing.assert_allclose(velocity, w2 @ w2.T @ gap + gap @ w1.T @ w1, atol=1e-13)


@pytest.mark.slow
def test_derivatives_reach_through_the_public_functions():
    """grad of a kernel distance and of the limit, at equal singular values; the derivative of the limit by hand."""
    w1, w2 = draw(2, 0.0, 0.4, 2, 2, 2)
    start = Balanced(jnp.asarray(w1), jnp.asarray(w2))
    distance = lambda s, lam: balanced_path(w1, w2, lam, s, jnp.array([1.0, 2.0])).kernel_distance(start).sum()
    by_target, by_lam = jax.grad(distance, argnums=(0, 1))(jnp.eye(2), 0.0)
    assert np.isfinite(by_target).all()
    assert np.isfinite(by_lam)
    # Full rank: the limit of the map is the target, whose derivative is 1.
    slope = jax.jacfwd(lambda s: balanced_limit(0.0, s, hid=2).matrix)(jnp.eye(2))
    np.testing.assert_allclose(slope.reshape(4, 4), np.eye(4), atol=1e-14)


def test_violations_measure_both_assumptions():
    w1, w2 = draw(0, 0.6, 0.4, 2, 2, 3)
    skewed = balanced_violations(w1 + np.array([[0.1, 0.0], [0.0, 0.0]]), w2, xx=np.diag([1.0, 0.7]))
    right = balanced_violations(w1, w2)

    np.testing.assert_allclose(right.lam, 0.6, rtol=1e-14)
    assert right.balanced < 1e-15
    assert right.whitened == 0
    np.testing.assert_allclose(skewed.whitened, 0.3, rtol=1e-14)
    c = w2.T @ w2 - (w1 + np.diag([0.1, 0.0])) @ (w1 + np.diag([0.1, 0.0])).T
    np.testing.assert_allclose(skewed.balanced, np.abs(c - np.trace(c) / 2 * np.eye(2)).max(), rtol=1e-12)


def test_errors_name_the_assumption_and_the_violation():
    eye = np.eye(2)
    with pytest.raises(ValueError, match=r"w2\^T w2 - w1 w1\^T = lam I, .* too large: 0.5\. Draw"):
        balanced_network(eye, eye, 0.5, eye, 1.0)
    with pytest.raises(ValueError, match=r"needs times from 0 on, but some are negative: -1\."):
        balanced_path(eye, eye, 0.0, eye, np.array([0.0, -1.0]))
    with pytest.raises(ValueError, match=r"holds one time; for many call balanced_path"):
        balanced_network(eye, eye, 0.0, eye, np.ones(3))
    with pytest.raises(ValueError, match=r"needs shape \(2, 2\), but it has shape \(3, 2\)"):
        balanced_network(eye, eye, 0.0, np.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match=r"For a map x\^T W1 W2 pass w1 = W1.T"):
        balanced_network(np.ones((3, 2)), eye, 0.0, eye, 1.0)
    with pytest.raises(ValueError, match=r"hid=3 and out=2 has an imbalance lam > 0"):
        balanced_limit(1.0, eye, hid=3)
    with pytest.raises(ValueError, match=r"`xx` is E\[x x\^T\] and needs shape \(2, 2\)"):
        balanced_violations(eye, eye, xx=np.eye(3))
