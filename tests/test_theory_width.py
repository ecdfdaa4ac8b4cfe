"""Wide networks from random weights, when their modes are learned, and layers with rates of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp

import layerflow as lf
from layerflow import theory

TIGHT = dict(method="DOP853", rtol=3e-13, atol=1e-15)
TASKS = {(3, 3): 0, (2, 4): 1, (4, 2): 2}
SCALES = [1e-3, 0.3, 4.0]
TS = np.array([0.0, 0.1, 0.7, 3.0])
A0, B0 = np.array([0.5, -0.2, 0.1]), np.array([0.3, 0.4, -0.6])


def integrate(velocity, start, ts, **options):
    """States of one shape, time first."""
    flat = lambda t, y: velocity(y.reshape(start.shape)).ravel()
    return solve_ivp(flat, (0, ts[-1]), start.ravel(), t_eval=ts, **options).y.T.reshape(len(ts), *start.shape)


def kernel(gram, scale):
    """(gram + K^2)^(1/2)."""
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0) + scale**2)) @ vectors.T


def mixed(start, scale, task, ts):
    """The mixed dynamics, as they are printed."""
    velocity = lambda a: kernel(a @ a.T, scale) @ (task - a) + (task - a) @ kernel(a.T @ a, scale)
    return integrate(velocity, start, ts, **TIGHT)


def draw(shape, size=1.0):
    """A task and a start, with singular values that differ."""
    rng = np.random.default_rng(TASKS[shape])
    return size * rng.normal(size=shape), 0.3 * rng.normal(size=shape)


# ---- The mixed dynamics


@pytest.mark.parametrize(
    ("start", "task", "scale", "t", "expected"),
    [
        (
            [[0.1, 0], [-0.2, 0.1]],
            [[1, 0.3], [-0.2, 0.8]],
            0.3,
            1.0,
            [[0.688044658972661, 0.158112136981094], [-0.228232297647951, 0.520459893114180]],
        ),
        (
            [[0.1, 0, 0.05], [-0.2, 0.1, 0.1]],
            [[1, 0.3, -0.5], [-0.2, 0.8, 0.1]],
            2.0,
            0.3,
            [
                [0.742680624994067, 0.211947836225804, -0.341330417409229],
                [-0.201187774904962, 0.595266654235091, 0.100813883154012],
            ],
        ),
    ],
)
def test_the_map_meets_its_reference_values(start, task, scale, t, expected):
    found = theory.wide_matrix(np.array(start, float), scale, np.array(task, float), t)
    np.testing.assert_allclose(found, expected, atol=3e-15, rtol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", TASKS)
def test_the_map_is_that_of_the_printed_flow(shape, scale):
    """From a generic start and from 0."""
    task, start = draw(shape)
    for first in (start, np.zeros(shape)):
        found = theory.wide_matrix(first, scale, task, TS)
        np.testing.assert_allclose(found, mixed(first, scale, task, TS), atol=2e-12, rtol=0)
        np.testing.assert_allclose(theory.wide_matrix(first, scale, task, TS[2]), found[2], atol=1e-14, rtol=0)


@pytest.mark.parametrize("shape", TASKS)
def test_without_a_scale_layers_are_zero_balanced(shape):
    """K = 0 is allowed: the flow of the weights themselves, the limit of small K, and a start of 0 stays."""
    (out, inp), (task, start) = shape, draw(shape)
    u, sizes, vt = np.linalg.svd(start, full_matrices=False)
    hid = len(sizes)

    def velocity(both):  # of w1^T above w2
        w1, w2 = both[:inp].T, both[inp:]
        left = task - w2 @ w1
        return np.concatenate([left.T @ w2, left @ w1.T])

    path = integrate(velocity, np.concatenate([vt.T, u]) * np.sqrt(sizes), TS, **TIGHT)
    found = theory.wide_matrix(start, 0.0, task, TS)
    assert path.shape == (len(TS), inp + out, hid)
    np.testing.assert_allclose(found, path[:, inp:] @ path[:, :inp].swapaxes(1, 2), atol=1e-11, rtol=0)
    np.testing.assert_allclose(found, theory.wide_matrix(start, 1e-13, task, TS), atol=1e-11, rtol=0)
    assert not np.any(theory.wide_matrix(np.zeros(shape), 0.0, task, TS))


@pytest.mark.parametrize("scale", [1e4, 1e8, 1e12])
def test_a_large_scale_is_lazy_to_all_digits(scale):
    """A = (1 - e^{-2Kt}) S up to (S / K)^2."""
    task, start = draw((3, 3))
    found = theory.wide_matrix(np.zeros((3, 3)), scale, task, 0.5 / scale)
    np.testing.assert_allclose(found, -np.expm1(-1.0) * task, rtol=30 / scale**2 + 1e-13)
    assert not np.any(np.isnan(theory.wide_matrix(start, scale, task, 1e4)))
    np.testing.assert_allclose(theory.wide_matrix(start, scale, task, 1e4), task, rtol=1e-12)


@pytest.mark.parametrize("shape", TASKS)
def test_a_network_of_both_kinds_of_units_is_exact(shape):
    """Hid = inp + out, w1 = sqrt(K) [I; 0], w2 = sqrt(K) [0, I]: its map and both Gram matrices."""
    (out, inp), scale, ts = shape, 0.3, np.array([0.2, 1.0, 2.5])
    task, _ = draw(shape)
    w1, w2 = np.sqrt(scale) * np.eye(inp + out, inp), np.sqrt(scale) * np.eye(out, inp + out, inp)
    problem = lf.Problem(lf.LinearNetwork((w1, w2)), lf.Moments(np.eye(inp), task, task @ task.T + np.eye(out)))
    observe = {
        "matrix": lambda network, problem: network.matrix,
        "inputs": lambda network, problem: network.weights[0].T @ network.weights[0],
        "outputs": lambda network, problem: network.weights[1] @ network.weights[1].T,
    }
    flow = lf.solve(problem, lf.Flow(t1=2.5, rtol=1e-12, atol=1e-14), ts=ts, observe=observe).observed

    found = np.asarray(theory.wide_matrix(np.zeros(shape), scale, task, ts))
    np.testing.assert_allclose(flow["matrix"], found, atol=2e-10, rtol=0)
    for t, a in enumerate(found):
        np.testing.assert_allclose(flow["inputs"][t], kernel(a.T @ a, scale), atol=2e-10, rtol=0)
        np.testing.assert_allclose(flow["outputs"][t], kernel(a @ a.T, scale), atol=2e-10, rtol=0)


def test_it_is_the_balanced_network_of_twice_the_imbalance():
    """With lambda = 2K and hid = out for a wide task, and its transpose else; modes are those of balance."""
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    task, ts = rotation * [2.0, 0.5, 0.1] @ rotation.T, np.array([0.5, 2.0])
    w1, w2 = np.zeros((3, 3)), np.sqrt(2 * 0.2) * np.eye(3)
    found = theory.wide_matrix(np.zeros((3, 3)), 0.2, task, ts)
    np.testing.assert_allclose(found, theory.balanced_path(w1, w2, 0.4, task, ts).matrix, atol=1e-14, rtol=0)
    modes = np.asarray(theory.balanced_strength(ts[:, None], 0.4, np.array([[2.0, 0.5, 0.1]]), 0.0))
    np.testing.assert_allclose(found, (rotation * modes[:, None, :]) @ rotation.T, atol=1e-14, rtol=0)


def deviation(width, scale, seed, ts, task):
    """Of a random network, integrated in the span of its hidden directions, from the mixed dynamics, over |S|."""
    (out, inp), rng = task.shape, np.random.default_rng(seed)
    w1, w2 = (rng.normal(size=size) * np.sqrt(scale / width) for size in ((width, inp), (out, width)))
    basis = np.linalg.qr(np.concatenate([w1, w2.T], axis=1))[0]
    start = np.concatenate([basis.T @ w1, (w2 @ basis).T], axis=1)  # (inp + out, inp + out): w1, and w2^T

    def velocity(both):
        w1, w2 = both[:, :inp], both[:, inp:].T
        left = task - w2 @ w1
        return np.concatenate([w2.T @ left, (left @ w1.T).T], axis=1)

    path = integrate(velocity, start, ts, rtol=1e-7, atol=1e-9, method="DOP853")
    matrix = path[:, :, inp:].swapaxes(1, 2) @ path[:, :, :inp]
    gap = matrix - theory.wide_matrix(w2 @ w1, scale, task, ts)
    return np.linalg.norm(gap, axis=(1, 2)) / np.linalg.norm(task)


@pytest.mark.parametrize("scale", [0.2, 2.0])
def test_random_weights_deviate_by_the_inverse_root_of_the_width(scale):
    """By 0.1 to 0.2 times sqrt(d / width), d = 6, over draws, tasks and times."""
    widths, ts = np.array([240, 960, 3840]), np.array([0.3, 1.0, 3.0])
    draws = range(12)
    tasks = [np.random.default_rng(100 + seed).normal(size=(6, 6)) / 6**0.5 for seed in draws]
    squares = [[deviation(w, scale, seed, ts, tasks[seed]) ** 2 for seed in draws] for w in widths]
    rms = np.sqrt(np.mean(squares, axis=(1, 2)))
    assert abs(np.polyfit(np.log(widths), np.log(rms), 1)[0] + 0.5) < 0.03
    assert np.all(abs(rms / np.sqrt(6 / widths) - 0.15) < 0.05)


def test_a_network_of_the_delayed_side_of_a_funnel_is_of_another_kind():
    """4-2-2 with lambda < 0: far from the mixed dynamics of K = |lambda| / 2, and right on it for lambda > 0."""
    task = draw((2, 4))[0]
    gaps = []
    for lam in (1.0, -1.0):
        first, second = (np.sqrt(max(side, 0.0)) for side in (-lam, lam))
        w1, w2 = first * np.eye(2, 4), second * np.eye(2)
        balanced = theory.balanced_network(w1, w2, lam, task, 2.0).matrix
        gaps.append(np.abs(balanced - theory.wide_matrix(np.zeros((2, 4)), 0.5, task, 2.0)).max())
    assert gaps[0] < 1e-13
    assert gaps[1] > 0.1


@pytest.mark.parametrize("shape", TASKS)
@pytest.mark.parametrize("kind", ["generic", "zero", "rank one", "equal"])
def test_derivatives_exist_at_every_start(shape, kind):
    """Also where singular values of the start are equal or 0, which have no derivatives of their own."""
    task, start = draw(shape)
    start = {"generic": start, "zero": 0 * start, "rank one": np.outer(start[:, 0], start[0]), "equal": np.eye(*shape)}
    function = lambda start, scale, task, t: theory.wide_matrix(start, scale, task, t)
    check_grads(function, (start[kind], 0.3, task, 0.7), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_derivatives_without_a_scale_are_finite():
    task, start = draw((2, 4))
    for first in (start, np.zeros((2, 4))):
        grads = jax.grad(lambda *at: jnp.sum(theory.wide_matrix(*at, 0.7) ** 2), (0, 1, 2))(first, 0.0, task)
        assert all(np.all(np.isfinite(grad)) for grad in grads)


# ---- Modes


def mode_time(q, scale, s):
    """The formula as it is printed."""
    f, r = q * s, np.hypot(s, scale)
    g, up, down = (f + np.hypot(f, scale)) / scale, (s + r) / scale, -scale / (s + r)
    return np.log((g - down) * (up - 1) / ((up - g) * (1 - down))) / (2 * r)


def test_times_are_those_of_the_printed_formula_and_invert_the_mode():
    q, scale, s = np.meshgrid([0.05, 0.5, 0.95], [0.03, 0.3, 1.0, 4.0, 30.0], [0.2, 1.0, 5.0])
    found = theory.wide_time(q, scale, s)
    np.testing.assert_allclose(found, mode_time(q, scale, s), rtol=1e-11)
    np.testing.assert_allclose(theory.balanced_strength(found, 2 * scale, s, 0.0), q * s, rtol=1e-13)
    np.testing.assert_allclose(theory.wide_time(q, scale, -s), found, rtol=1e-14)


def test_half_times_of_lazy_and_of_active_modes():
    np.testing.assert_allclose(
        theory.wide_time(0.5, 1.0, np.array([0.0, 1e-300, 1e-20, 1e-9])), np.log(2) / 2, rtol=1e-15
    )
    np.testing.assert_allclose(theory.wide_time(0.5, 1.0, np.array([1e-4, 1e-2])), np.log(2) / 2, rtol=1e-4)
    small = np.array([1e-9, 1e-30, 1e-200])
    np.testing.assert_allclose(theory.wide_time(0.5, small, 3.0), np.log(6.0 / small) / 6, rtol=1e-8)
    # a lazy stretch first, in which rho = 2 K s t
    t = 1e-3
    np.testing.assert_allclose(theory.wide_time(2 * 1e-3 * t, 1e-3, 1.0), t, rtol=2e-3)


def test_times_that_never_come_are_infinite():
    assert np.all(np.isinf(theory.wide_time(np.array([1.0, 1.5]), 1.0, 2.0)))
    assert np.all(np.isinf(theory.wide_time(np.array([0.5, 2.0]), 0.0, 2.0)))
    assert np.isinf(theory.wide_time(1.5, 1.0, 0.0))


def test_kernel_growth_of_a_mode_and_the_line_between_lazy_and_active():
    s, scale = np.array([0.1, 1.0, 10.0])[:, None], np.array([1e-3, 1.0, 1e3])
    np.testing.assert_allclose(theory.wide_kernel_growth(scale, s), np.sqrt(1 + (s / scale) ** 2), rtol=1e-14)
    # it is the speed of the mode, of which that matrix of weights is made
    task = np.diag([2.0, 0.1])
    end = np.asarray(theory.wide_matrix(np.zeros((2, 2)), 0.5, task, 200.0))
    growth = theory.wide_kernel_growth(0.5, np.array([2.0, 0.1]))
    np.testing.assert_allclose(np.diagonal(kernel(end @ end.T, 0.5)) / 0.5, growth, rtol=1e-12)
    # d^(-g) is the variance, d^(g_w) the width, d the target: the line is g_w - g = 1, whatever d
    d, g = 10.0 ** np.array([2, 4, 6]), 0.7
    line = theory.wide_kernel_growth(d ** (1 + g) * d**-g, d)
    np.testing.assert_allclose(line, np.sqrt(2), rtol=1e-14)
    lazy, active = (theory.wide_kernel_growth(d ** (g_w - g), d) for g_w in (1.3 + g, 0.7 + g))
    assert np.all(np.diff(lazy) < 0)
    assert np.all(np.diff(active) > 0)
    assert lazy[-1] < 1 + 1e-3 < 50 < active[-1]


def test_early_stopping_keeps_low_rank_only_far_below_the_lazy_line():
    """A mode of 5 in unit noise, 200 x 200: best error over time, and the stable rank there, over K; from A = 0."""
    rng, n, s = np.random.default_rng(1), 200, 5.0
    left, right = (x / np.linalg.norm(x) for x in rng.normal(size=(2, n)))
    clean = s * np.outer(left, right)
    u, noisy, vt = np.linalg.svd(clean + rng.normal(size=(n, n)) / np.sqrt(n))
    along, best, rank = np.einsum("ik,ij,kj->k", u, clean, vt), [], []
    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
        ts = np.geomspace(1e-3, 60.0, 600) / max(scale, 0.5)
        modes = np.asarray(theory.balanced_strength(ts[:, None], 2 * scale, noisy[None], 0.0))
        errors = np.sum(modes**2, axis=1) - 2 * modes @ along + s**2
        stop = np.argmin(errors)
        best.append(errors[stop] / s**2)
        rank.append(np.sum(modes[stop] ** 2) / np.max(modes[stop]) ** 2)
    np.testing.assert_allclose(best, [0.076, 0.088, 0.26, 0.87, 0.88, 0.89], rtol=0.02)
    np.testing.assert_allclose(rank, [1.00, 1.01, 1.25, 7.1, 7.9, 8.0], rtol=0.02)


def test_derivatives_of_times_and_growth():
    check_grads(theory.wide_time, (0.3, 0.2, 1.5), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)
    check_grads(theory.wide_kernel_growth, (0.2, 1.5), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)
    grads = jax.grad(theory.wide_time, (0, 1, 2))(0.5, 1.0, 0.0)
    np.testing.assert_allclose(grads, [1.0, -np.log(2) / 2, 0.0], atol=1e-12)


# ---- Two rates


@pytest.mark.parametrize(
    ("numbers", "target", "t", "expected"),
    [
        (
            {"gain": 0.5, "rate_a": 1.0, "rate_b": 4.0},
            1.5,
            1.0,
            (0.963371219265499, 1.004686666089854, 1.768496872509246, 0.976240345475085),
        ),
        (
            {"gain": 2.0, "rate_a": 0.1, "rate_b": 1.0, "variance": 0.5},
            -1.0,
            2.0,
            (-0.791491414185648, 0.495759603179580, -0.218576854785107, -0.679183213894904),
        ),
    ],
)
def test_layers_meet_their_reference_values(numbers, target, t, expected):
    now = theory.two_rate_network(t, A0, B0, target, **numbers)
    np.testing.assert_allclose([now.output, now.a[0], now.b[0], now.alignment], expected, rtol=1e-13)


@pytest.mark.parametrize("gain", [0.5, -1.3])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (0.1, 2.0), (30.0, 0.5)])
@pytest.mark.parametrize("target", [1.5, 0.02, -0.7])
def test_layers_are_those_of_the_flow_at_their_rates(target, rates, gain):
    ts, e = np.array([0.0, 0.3, 2.0]), 0.7

    def velocity(both):
        a, b = both
        left = e * gain * (target - gain * (a @ b))
        return np.stack([rates[0] * b * left, rates[1] * a * left])

    path = integrate(velocity, np.stack([A0, B0]), ts, **TIGHT)
    found = theory.two_rate_network(ts, A0, B0, target, gain=gain, rate_a=rates[0], rate_b=rates[1], variance=e)
    a, b = path[:, 0], path[:, 1]
    np.testing.assert_allclose(found.a, a, atol=1e-11)
    np.testing.assert_allclose(found.b, b, atol=1e-11)
    output, sizes = gain * np.sum(a * b, axis=1), np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found.output, output, atol=1e-11)
    np.testing.assert_allclose(found.alignment, np.sum(a * b, axis=1) / sizes, atol=1e-11)
    ntk = gain**2 * (rates[0] * np.sum(b**2, axis=1) + rates[1] * np.sum(a**2, axis=1))
    np.testing.assert_allclose(found.ntk, ntk, rtol=1e-11)
    # what is conserved, and the alignment by it
    up = np.sqrt(rates[1] / rates[0]) * np.sum(a**2, axis=1)
    down = np.sqrt(rates[0] / rates[1]) * np.sum(b**2, axis=1)
    np.testing.assert_allclose(found.weight_scale, abs(gain) / 2 * (up + down), rtol=1e-11)
    np.testing.assert_allclose(found.imbalance, abs(gain) / 2 * (up - down), rtol=1e-10)
    size = np.sqrt(found.weight_scale**2 - found.imbalance**2)
    np.testing.assert_allclose(found.alignment, np.sign(gain) * output / size, atol=1e-11)


@pytest.mark.parametrize("target", [1.5, 0.05, -0.7])
def test_the_limit_is_the_flow_at_long_times(target):
    numbers = {"gain": 0.5, "rate_a": 0.3, "rate_b": 4.0}
    late = theory.two_rate_network(400.0, A0, B0, target, **numbers)
    end = theory.two_rate_network_limit(A0, B0, target, **numbers)
    for now, then in zip(jax.tree.leaves(late), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-12)
    first = theory.two_rate_network(0.0, A0, B0, target, **numbers)
    r = np.sqrt(target**2 + first.weight_scale**2 - first.output**2)
    np.testing.assert_allclose(end.ntk / first.ntk, r / first.weight_scale, rtol=1e-13)
    np.testing.assert_allclose(end.alignment, target / np.sqrt(r**2 - end.imbalance**2), rtol=1e-13)


def test_layers_lose_their_alignment_where_the_output_falls():
    """From 0.905 to 0.426 at Sigma(0) = 1, f(0) = 0.9, Delta = 0.1, S = 0.2."""
    size_a, size_b = np.sqrt(1.1), np.sqrt(0.9)
    cosine = 0.9 / (size_a * size_b)
    a0, b0 = size_a * np.array([1.0, 0.0]), size_b * np.array([cosine, np.sqrt(1 - cosine**2)])
    first, end = theory.two_rate_network(0.0, a0, b0, 0.2), theory.two_rate_network_limit(a0, b0, 0.2)
    np.testing.assert_allclose([first.weight_scale, first.imbalance], [1.0, 0.1], rtol=1e-14)
    np.testing.assert_allclose([first.alignment, end.alignment], [0.905, 0.426], atol=5e-4)
    for target, grows in ((0.2, False), (0.89, False), (0.91, True), (3.0, True)):
        assert (theory.two_rate_network_limit(a0, b0, target).alignment > first.alignment) == grows


def test_one_unit_and_a_layer_of_zeros_are_no_special_cases():
    single = theory.two_rate_network(jnp.array([0.0, 1.0]), np.array([0.1]), np.array([-0.3]), 1.0, rate_a=3.0)
    np.testing.assert_allclose(single.alignment, [-1.0, 1.0], rtol=1e-15)
    silent = theory.two_rate_network(0.0, np.zeros(2), A0[:2], 1.0)
    assert silent.alignment == 0
    grad = jax.grad(lambda a: theory.two_rate_network(1.0, a, jnp.array(A0[:2]), 1.0, rate_a=3.0).alignment)(
        jnp.zeros(2)
    )
    assert np.all(np.isfinite(grad))


def test_derivatives_of_layers():
    def values(t, a0, b0, target, gain, rate):
        now = theory.two_rate_network(t, a0, b0, target, gain=gain, rate_a=rate, rate_b=2.0)
        return now.output, now.alignment, now.a

    point = (0.7, A0, B0, 1.5, 0.5, 0.3)
    check_grads(values, point, order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


# ---- Phases


RECIPES = {  # g, v_a, v_b, r_a, r_b; x; speed
    "ntk": ((0.5, 0.0, 0.0, 0.0, 0.0), 0.5, 0.0),
    "mean field": ((1.0, 0.0, 0.0, -1.0, -1.0), 0.0, 0.0),
    "fan in": ((0.0, 1.0, 0.0, 1.0, 1.0), 1.0, 0.0),
    "apart": ((1.0, 0.0, 0.0, -2.0, -1.0), 0.5, 1.0),
    "small": ((1.0, 0.5, 0.5, -1.0, -1.0), -0.5, 0.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_exponents_of_the_width(recipe):
    """Against the scale of weights at the start and the rate 2 r / Z of networks drawn by the recipe."""
    numbers, x, speed = RECIPES[recipe]
    phase = theory.width_phase(*numbers)
    np.testing.assert_allclose([phase.weight_scale, phase.speed], [x, speed], atol=1e-15)
    assert phase.kernel == (x > 0)

    g, v_a, v_b, r_a, r_b = numbers
    p = np.array([10**3, 10**4, 10**5])
    # weights that all have the root of their variance, half of one layer of the other sign: f(0) = 0
    first = [
        theory.two_rate_network(
            0.0,
            np.full(n, n ** (-v_a / 2)),
            np.resize([1.0, -1.0], n) * n ** (-v_b / 2),
            1.0,
            gain=n**-g,
            rate_a=n**-r_a,
            rate_b=n**-r_b,
        )
        for n in map(float, p)
        for n in [int(n)]
    ]
    sigma = np.array([now.weight_scale for now in first])
    rate = np.array([now.ntk for now in first]) / sigma * np.hypot(1.0, sigma)
    tolerance = 0.02 if recipe == "apart" else 1e-3
    np.testing.assert_allclose(np.diff(np.log(sigma)) / np.diff(np.log(p)), x, atol=tolerance)
    np.testing.assert_allclose(np.diff(np.log(rate)) / np.diff(np.log(p)), speed, atol=tolerance)


def test_the_kernel_stays_in_the_ntk_scaling_and_grows_in_mean_field():
    """By 1 / 2p, and by the root of 2 at every width, from signs with f(0) = 0 and S = 1."""
    for p in (100, 1000, 10000):
        a0, b0 = np.ones(p), np.resize([1.0, -1.0], p)
        grown = []
        for numbers in ({"gain": p**-0.5}, {"gain": 1 / p, "rate_a": float(p), "rate_b": float(p)}):
            first = theory.two_rate_network(0.0, a0, b0, 1.0, **numbers)
            grown.append(theory.two_rate_network_limit(a0, b0, 1.0, **numbers).ntk / first.ntk)
        np.testing.assert_allclose(grown, [np.sqrt(1 + 1 / p), np.sqrt(2)], rtol=1e-12)


# ---- Arguments


def test_single_precision_keeps_its_digits():
    single = lambda x: jnp.asarray(x, jnp.float32)
    task, start = draw((2, 4))
    found = theory.wide_matrix(single(start), single(0.3), single(task), single(TS))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, theory.wide_matrix(start, 0.3, task, TS), atol=5e-6)
    now = theory.two_rate_network(single(0.7), single(A0), single(B0), 1.5, rate_a=3.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(now)} == {jnp.dtype("float32")}
    times = theory.wide_time(single(0.5), single([1e-20, 1e-3, 1.0, 1e10]), single(2.0))
    np.testing.assert_allclose(times, theory.wide_time(0.5, np.array([1e-20, 1e-3, 1.0, 1e10]), 2.0), rtol=2e-6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: theory.wide_matrix(np.eye(2), -1.0, np.eye(2), 1.0), "`weight_scale` is K, .* at least 0"),
        (lambda: theory.wide_matrix(np.eye(3), 1.0, np.eye(2), 1.0), r"`start` .* needs shape \(2, 2\)"),
        (lambda: theory.wide_matrix(np.eye(2), np.ones(2), np.eye(2), 1.0), "`weight_scale` is one number"),
        (lambda: theory.wide_matrix(np.ones(2), 1.0, np.ones(2), 1.0), r"`sigma_yx` is E\[y x\^T\]"),
        (lambda: theory.wide_matrix(np.eye(2), 1.0, np.eye(2), np.ones((2, 2))), "`t` holds one time or times"),
        (lambda: theory.wide_time(0.0, 1.0, 1.0), "`fraction` is a share of the target and needs to be positive"),
        (lambda: theory.wide_time(0.5, -1.0, 1.0), "`weight_scale` is K, .* at least 0"),
        (lambda: theory.wide_kernel_growth(0.0, 1.0), "`weight_scale` is K, .* positive"),
        (lambda: theory.two_rate_network(1.0, A0, B0, 1.0, gain=0.0), "`gain`, which needs to be other than 0"),
        (lambda: theory.two_rate_network(1.0, A0, B0, 1.0, rate_b=0.0), "`rate_b` is the learning rate of a layer"),
        (lambda: theory.two_rate_network_limit(A0, B0, 1.0, rate_a=-1.0), "`rate_a` is the learning rate"),
    ],
)
def test_bad_arguments_are_told(run, message):
    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.parametrize("rate", [1e-6, 1e-8, 1e-12])
def test_a_layer_that_all_but_stands_still_does_not_drown_the_other(rate):
    """In float32, where a / sqrt(rate) beside b has none of its digits; b is that of a frozen a."""
    now = theory.two_rate_network(1.0, *(np.array([w], np.float32) for w in (0.5, 0.3)), 1.5, rate_a=rate)
    b = 3.0 + (0.3 - 3.0) * np.exp(-0.25)  # b' = a (S - a b)
    np.testing.assert_allclose(now.b, [b], rtol=2e-6)
    np.testing.assert_allclose(now.output, 0.5 * b, rtol=2e-6)
    np.testing.assert_allclose(now.alignment, 1.0, rtol=1e-6)
