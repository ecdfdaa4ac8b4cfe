"""Leaky ReLU as a perturbation of a linear network: what is exact, and how good the first order is."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import dblquad, solve_ivp

import layerflow as lf
from layerflow import theory

ROUNDING = {"rtol": 2e-12, "atol": 2e-13}
BOTH = {"a0": np.array([0.5, 0.3, -0.2, -0.6]), "b0": np.array([0.4, -0.1, -0.3, 0.1]), "target": 1.4}
GROUP = {"a0": np.array([0.4, 0.2, 0.9]), "b0": np.array([0.3, -0.1, 0.2]), "target": 1.4}
SIDES = {"variance_above": 0.8, "variance_below": 0.2}
EVEN = {"variance_above": 0.5, "variance_below": 0.5}
PAIR = {"w": np.array([0.5, -0.3, 0.2]), "a": 0.6, "beta": np.array([1.0, -0.5, 0.3])}
TS = np.linspace(0.0, 6.0, 61)


def integrated(velocity, start, ts):
    run = solve_ivp(lambda _, y: velocity(y), (0.0, max(ts[-1], 1e-9)), start, "DOP853", ts, rtol=1e-12, atol=1e-14)
    return run.y.T


def scalar_flow(ts, *, a0, b0, target, slope, variance_above, variance_below):
    """Weights over time and losses of the leaky network of two samples, x = 1 and x = -1, by their weights."""
    x, weight = np.array([1.0, -1.0]), np.array([variance_above, variance_below])

    def residual(a, b):
        z = np.multiply.outer(x, a)
        return target * x - np.where(z > 0, z, slope * z) @ b, z

    def velocity(y):
        a, b = np.split(y, 2)
        left, z = residual(a, b)
        active = np.where(z > 0, 1.0, slope)
        return np.concatenate([(weight * left * x) @ (active * b), (weight * left) @ (active * z)])

    a, b = np.split(integrated(velocity, np.concatenate([a0, b0]), ts), 2, axis=1)
    loss = [0.5 * weight @ residual(*at)[0] ** 2 for at in zip(a, b, strict=True)]
    return a, b, np.array(loss)


def population_flow(ts, w, a, beta, slope):
    """Weights over time of a leaky network on N(0, I), by the gradient of the population loss in NumPy."""
    gain, hid = 0.5 * (1 + slope), len(a)

    def velocity(y):
        w, a = y[:-hid].reshape(hid, -1), y[-hid:]
        size = np.linalg.norm(w, axis=1)
        cosine = np.clip(w @ w.T / np.outer(size, size), -1.0, 1.0)
        np.fill_diagonal(cosine, 1.0)
        sine, angle = np.sqrt(1 - cosine**2), np.arcsin(cosine)
        gram = 2 / np.pi * np.outer(size, size) * (sine + cosine * angle)
        left = beta - gain * a @ w
        even = (1 - slope) ** 2 / 4
        own = (sine * size) @ a / size
        dw = gain * np.outer(a, left) - even * 2 / np.pi * a[:, None] * (w * own[:, None] + angle @ (a[:, None] * w))
        return np.concatenate([dw.ravel(), gain * w @ left - even * gram @ a])

    y = integrated(velocity, np.concatenate([w.ravel(), a]), ts)
    return y[:, :-hid].reshape(len(ts), hid, -1), y[:, -hid:]


def log_slope(errors, small):
    return np.diff(np.log(errors)) / np.diff(np.log(small))


# ---- One input


@pytest.mark.parametrize(
    ("slope", "u", "loss"),
    [(0.8, 1.314228921656020, 0.0211727286933388), (0.0, 1.143432668832488, 0.320330718168968)],
)
def test_reference_values_of_one_group(slope, u, loss):
    now = theory.leaky_scalar_network(1.0, **GROUP, slope=slope, variance_above=0.8, variance_below=0.3)
    np.testing.assert_allclose([now.positive_units, now.loss], [u, loss], **ROUNDING)
    np.testing.assert_allclose([now.above, now.below], [u, slope * u], **ROUNDING)


@pytest.mark.parametrize("slope", [0.9, 0.3, 0.0, -0.5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_group_is_exact_at_every_slope(slope, sign):
    call = GROUP | SIDES | {"a0": sign * GROUP["a0"], "slope": slope}
    now = theory.leaky_scalar_network(TS[:31], **call)
    a, b, loss = scalar_flow(TS[:31], **call)
    np.testing.assert_allclose(now.a, a, atol=1e-10)
    np.testing.assert_allclose(now.b, b, atol=1e-10)
    np.testing.assert_allclose(now.loss, loss, atol=1e-10)


@pytest.mark.parametrize("slope", [0.8, 0.3, 0.0])
def test_one_group_ends_at_its_floor(slope):
    """(S^2 / 2) (1 - slope)^2 E_+ E_- / (E_+ + slope^2 E_-): one slope cannot fit both sides."""
    late = theory.leaky_scalar_network(200.0, **GROUP, **SIDES, slope=slope)
    floor = 0.5 * 1.4**2 * (1 - slope) ** 2 * 0.8 * 0.2 / (0.8 + slope**2 * 0.2)
    np.testing.assert_allclose(late.loss, floor, rtol=1e-12)


def test_a_weight_that_changes_its_sign_ends_the_solution():
    """There the unit belongs to the other group: NaN, and numbers before."""
    call = {"a0": np.array([0.2, 1.0]), "b0": np.array([-1.5, 0.2]), "target": 2.0, "slope": 0.5} | SIDES
    ts = np.array([0.0, 0.02, 3.0])
    a = scalar_flow(ts, **call)[0]
    assert a[1, 0] > 0 > a[2, 0]
    for solution in (theory.leaky_scalar_network, theory.leaky_scalar_first_order):
        assert np.isnan(solution(ts, **call).loss).tolist() == [False, False, True]


def test_reference_values_of_both_groups():
    """The network itself, and its first order."""
    call = BOTH | SIDES | {"slope": 0.9}
    a, b, loss = scalar_flow(np.array([0.0, 1.0]), **call)
    u = (a * b)[-1]
    exact = [0.805072138542130, 0.407592802851837, 0.027984759265355]
    np.testing.assert_allclose([u[:2].sum(), u[2:].sum(), loss[-1]], exact, rtol=1e-11)
    found = theory.leaky_scalar_first_order(1.0, **call)
    np.testing.assert_allclose(found.loss, 0.027777155091442, rtol=1e-9)


def scalar_errors(small, sides):
    """Largest errors of the loss over time, as shares of that at the start: first order, gain only, plain linear."""
    rows = []
    for eps in small:
        _, _, loss = scalar_flow(TS, **BOTH, **sides, slope=1 - eps)
        first = theory.leaky_scalar_first_order(TS, **BOTH, **sides, slope=1 - eps).loss
        flow = lambda gain, t: theory.scalar_network(gain**2 * t, BOTH["a0"], BOTH["b0"], 1.4 / gain).output
        linear = [0.5 * (1.4 - gain * flow(gain, TS)) ** 2 for gain in (1 - eps / 2, 1.0)]
        rows.append([abs(guess - loss).max() / loss[0] for guess in (first, *linear)])
    return np.array(rows).T


def test_the_first_order_is_right_to_second_order():
    """Slopes in log-log: 2, and 1 for the gain alone and the plain linear network, where inputs are asymmetric."""
    small = np.array([0.02, 0.01, 0.005])
    first, gain, plain = scalar_errors(small, SIDES)
    np.testing.assert_allclose(log_slope(first, small), 2.0, atol=0.05)
    np.testing.assert_allclose(log_slope(gain, small), 1.0, atol=0.1)
    np.testing.assert_allclose(log_slope(plain, small), 1.0, atol=0.1)
    np.testing.assert_allclose(first[1] / small[1] ** 2, 0.0263, atol=0.0005)
    first, gain, _ = scalar_errors(small, EVEN)
    np.testing.assert_allclose(log_slope(first, small), 2.0, atol=0.05)
    np.testing.assert_allclose(log_slope(gain, small), 2.0, atol=0.05)
    np.testing.assert_allclose(first[1] / small[1] ** 2, 0.0066, atol=0.0002)


def test_how_far_the_first_order_carries():
    """To 1 % and 5 % of the loss at the start: first order, gain alone, plain linear."""
    for column, share in ((0, 0.01), (1, 0.05)):
        for row, most in enumerate([(0.459, 0.656), (0.121, 0.441), (0.0259, 0.1285)]):
            eps = most[column]
            step = 0.01 * eps
            below, above = scalar_errors([eps - step, eps + step], SIDES)[row]
            assert below < share < above, (row, share, below, above)
    gain = scalar_errors([0.60, 0.66, 1.0], EVEN)[1]
    assert gain[0] < 0.01 < gain[1] < gain[2] < 0.05


def test_asymmetry_needs_both_the_inputs_and_the_start():
    """Symmetric inputs, or groups that are alike: the linear network of gain kappa."""
    alike = {"a0": np.array([0.5, -0.5]), "b0": np.array([0.2, -0.2]), "target": 1.4}
    linear = lambda start: lambda target, t: theory.scalar_network(t, start["a0"], start["b0"], target).output
    even = theory.leaky_scalar_first_order(TS, **BOTH, **EVEN, slope=0.7)
    expected = theory.leaky_map(linear(BOTH), 1.4, TS, slope=0.7)
    np.testing.assert_allclose(0.5 * (even.above + even.below), expected, atol=1e-9)
    off = []
    for eps in (0.02, 0.01):
        found = theory.leaky_scalar_first_order(TS, **alike, **SIDES, slope=1 - eps)
        f = 0.5 * (found.above + found.below)
        off.append(abs(f - theory.leaky_map(linear(alike), 1.4, TS, slope=1 - eps)).max())
    assert off[0] < 4.2 * off[1] < 4.2e-4


def test_without_a_perturbation_it_is_the_linear_network():
    linear = theory.scalar_network(TS, BOTH["a0"], BOTH["b0"], 1.4)
    found = theory.leaky_scalar_first_order(TS, **BOTH, **SIDES, slope=1.0)
    np.testing.assert_allclose(found.above, linear.output, atol=1e-9)
    np.testing.assert_allclose(found.a, linear.a, atol=1e-9)


def test_scales_at_the_ends():
    """Tiny and large starts, long times and nothing to learn stay finite."""
    for size in (1e-100, 1e-8, 1e-3):
        call = BOTH | SIDES | {"a0": size * BOTH["a0"], "b0": size * BOTH["b0"]}
        late = theory.leaky_scalar_first_order(1e4, **call, slope=0.9)
        assert late.loss < 0.01
    none = np.array([0.5, 0.3, -0.2]) * np.array([[1.0], [-1.0]])
    saddle = theory.leaky_scalar_first_order(TS, *none[:, None], 1.4, slope=0.9, **SIDES)
    assert (np.diff(abs(saddle.above)) < 0).all()
    assert abs(saddle.above[-1]) < 1e-6
    still = theory.leaky_scalar_first_order(5.0, **BOTH, slope=0.5, variance_above=0.0, variance_below=0.0)
    np.testing.assert_allclose(still.a, BOTH["a0"])


# ---- Symmetric inputs


@pytest.mark.parametrize(
    ("eps", "w1", "a", "loss"),
    [
        (0.3, 0.664272571054519, 0.773545557990050, 0.00850017008610997),
        (1.0, 0.699522152783997, 0.825754646633855, 0.109772197710193),
    ],
)
def test_reference_values_of_a_pair(eps, w1, a, loss):
    unit = theory.leaky_pair(**PAIR, t=1.0, slope=1 - eps)
    np.testing.assert_allclose([unit.w[0], unit.a], [w1, a], **ROUNDING)
    left = PAIR["beta"] - (2 - eps) * unit.map
    np.testing.assert_allclose(0.5 * left @ left, loss, **ROUNDING)
    both = jnp.stack([unit.w, -unit.w]), jnp.stack([unit.a, -unit.a])[None]
    np.testing.assert_allclose(theory.leaky_loss(*both, PAIR["beta"][None], slope=1 - eps), loss, **ROUNDING)


@pytest.mark.parametrize("eps", [0.3, 1.0, 1.7])
def test_pairs_are_exact(eps):
    """Against the flow of both units on the population."""
    w = np.stack([PAIR["w"], -PAIR["w"]])
    ts = np.linspace(0.0, 4.0, 9)
    flow_w, flow_a = population_flow(ts, w, np.array([0.6, -0.6]), PAIR["beta"], 1 - eps)
    unit = theory.leaky_pair(**PAIR, t=ts, slope=1 - eps)
    np.testing.assert_allclose(unit.w, flow_w[:, 0], atol=1e-9)
    np.testing.assert_allclose(unit.a, flow_a[:, 0], atol=1e-9)
    np.testing.assert_allclose(flow_w[:, 1], -flow_w[:, 0], atol=1e-9)


def test_the_gain_is_right_to_second_order_and_the_plain_network_to_first():
    """A network of no pairs from a small random start."""
    rng = np.random.default_rng(1)
    w, a, beta = 0.1 * rng.normal(size=(6, 3)), 0.1 * rng.normal(size=6), PAIR["beta"]
    ts, small = np.linspace(0.0, 8.0, 33), np.array([0.1, 0.05, 0.025])

    def loss(at_w, at_a, slope):
        return [theory.leaky_loss(*of, beta[None], slope=slope) for of in zip(at_w, at_a[:, None], strict=True)]

    def linear(target, t):
        at_w, at_a = population_flow(np.asarray(t), w, a, np.asarray(target), 1.0)
        return jnp.asarray(np.einsum("th,thi->ti", at_a, at_w))

    gain, plain = [], []
    for eps in small:
        exact = np.array(loss(*population_flow(ts, w, a, beta, 1 - eps), 1 - eps))
        guesses = theory.leaky_map(linear, beta, ts, slope=1 - eps), linear(beta, ts)
        errors = [abs(0.5 * np.sum((beta - np.asarray(guess)) ** 2, axis=-1) - exact).max() for guess in guesses]
        gain.append(errors[0])
        plain.append(errors[1])
    np.testing.assert_allclose(log_slope(gain, small), 2.0, atol=0.15)
    np.testing.assert_allclose(log_slope(plain, small), 1.0, atol=0.15)


def test_a_mode_is_the_sigmoid_of_its_gain():
    """What the figure `dial` draws: the speed and the start times the gain."""
    mode = lambda target, t: theory.sigmoidal(t, 0.01, target)
    found = theory.leaky_map(mode, 2.0, TS, slope=0.4)
    np.testing.assert_allclose(found, theory.sigmoidal(TS, 0.7 * 0.01, 2.0, 0.7), rtol=1e-12)


# ---- Moments


def test_reference_values_of_the_moments():
    w, mean = np.array([[1.0, 0.2], [-0.3, 0.8]]), np.array([0.7, -0.2])
    np.testing.assert_allclose(theory.absolute_moments(w)[0, 1], 0.561875846284774, **ROUNDING)
    expected = [1.167354532762637, -0.099179209507003]
    np.testing.assert_allclose(theory.shifted_absolute_moments(w, mean)[0], expected, **ROUNDING)
    np.testing.assert_allclose(theory.shifted_absolute_moments(w[0], mean), expected, **ROUNDING)


def test_moments_by_quadrature():
    """In polar coordinates the kinks of |w.x| are the only ones, and a fine grid takes them."""
    w, mean = np.array([[1.0, 0.2], [-0.3, 0.8]]), np.array([0.7, -0.2])
    density = lambda y, x: np.exp(-0.5 * (x**2 + y**2)) / (2 * np.pi)
    both = lambda y, x: abs(w[0] @ [x, y]) * abs(w[1] @ [x, y]) * density(y, x)
    found, _ = dblquad(both, -8, 8, -8, 8, epsabs=1e-5)
    np.testing.assert_allclose(theory.absolute_moments(w)[0, 1], found, atol=1e-4)
    z = np.random.default_rng(0).normal(size=(200_000, 2)) + mean
    draws = abs(z @ w.T)[:, :, None] * z[:, None]
    error = draws.std(axis=0) / len(z) ** 0.5
    assert (abs(draws.mean(axis=0) - theory.shifted_absolute_moments(w, mean)) < 3.5 * error).all()


@pytest.mark.parametrize("slope", [0.7, 0.0, -0.7])
def test_the_population_loss_is_the_mean_over_draws(slope):
    """Of a network with two outputs, within 3.5 standard errors; the network is layerflow's own."""
    rng = np.random.default_rng(2)
    w1, w2, target = rng.normal(size=(5, 3)), rng.normal(size=(2, 5)), rng.normal(size=(2, 3))
    x = rng.normal(size=(100_000, 3))
    network = lf.MLP((jnp.asarray(w1), jnp.asarray(w2)), slope=slope)
    losses = 0.5 * jnp.sum((jax.vmap(network)(jnp.asarray(x)) - x @ target.T) ** 2, axis=1)
    error = float(losses.std()) / len(x) ** 0.5
    assert abs(theory.leaky_loss(w1, w2, target, slope=slope) - losses.mean()) < 3.5 * error


@pytest.mark.slow
def test_derivatives_of_the_moments_exist_where_units_are_parallel_or_zero():
    """Where cosines have none: the gradient is (2 / pi) [w_i (|w_j| / |w_i|) sqrt(1 - c^2) + w_j asin c]."""
    w = jnp.array([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
    jacobian = jax.jacobian(theory.absolute_moments)(w)
    np.testing.assert_allclose(jacobian[0, 1, 0], w[1], rtol=1e-13)
    np.testing.assert_allclose(jacobian[0, 2, 0], -w[2], rtol=1e-13)
    np.testing.assert_allclose(jacobian[0, 0, 0], 2 * w[0], rtol=1e-13)
    np.testing.assert_array_equal(jacobian[3, :, 3], 0)
    hessian = jax.hessian(lambda w: theory.absolute_moments(w).trace())(w)
    np.testing.assert_allclose(hessian.reshape(8, 8), 2 * np.eye(8), atol=1e-12)
    shifted = jax.jacobian(theory.shifted_absolute_moments)(w, jnp.array([0.5, -0.5]))
    assert np.isfinite(shifted).all()
    # One part in 1e9 from parallel, where a cosine is 1 to rounding.
    near = jnp.array([[1.0, 0.0], [1.0, 1e-9]])
    moved = jax.jacobian(theory.absolute_moments)(near)[0, 1, 0]
    np.testing.assert_allclose(moved[1], 2 / np.pi * 1e-9 * np.arcsin(1.0), rtol=1e-8)


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    w1, w2, beta = jnp.array([[1.0, 0.2], [-0.3, 0.8]]), jnp.array([[0.5, -0.4]]), jnp.array([[1.0, -0.5]])
    check_grads(lambda *of: theory.leaky_loss(*of, beta, slope=0.3), (w1, w2), order=2, eps=1e-5)
    check_grads(theory.shifted_absolute_moments, (w1, beta[0]), order=1, eps=1e-5)
    pair = lambda w, slope: theory.leaky_pair(w, 0.6, jnp.asarray(PAIR["beta"]), 1.0, slope=slope).map
    check_grads(pair, (jnp.asarray(PAIR["w"]), 0.4), order=1, eps=1e-5)
    group = lambda a0, t, slope: theory.leaky_scalar_network(t, **GROUP | SIDES | {"a0": a0, "slope": slope}).loss
    check_grads(group, (jnp.asarray(GROUP["a0"]), 0.7, 0.4), order=1, eps=1e-5)


def first_order_loss(slope, t, adjoint=None):
    return theory.leaky_scalar_first_order(t, **BOTH | SIDES, slope=slope, adjoint=adjoint).loss


@pytest.mark.slow
def test_the_first_order_has_the_derivatives_of_differences():
    found, h = jax.jacfwd(first_order_loss, (0, 1))(0.8, 1.0), 1e-4
    values = first_order_loss(np.array([0.8 + h, 0.8 - h, 0.8, 0.8]), np.array([1.0, 1.0, 1.0 + h, 1.0 - h]))
    np.testing.assert_allclose(found, (values[::2] - values[1::2]) / (2 * h), rtol=1e-6)


@pytest.mark.slow
def test_the_first_order_has_derivatives_of_both_modes():
    forward = jax.jacfwd(first_order_loss, (0, 1))(0.8, 1.0)
    reverse = jax.jacrev(first_order_loss, (0, 1))(0.8, 1.0, dfx.RecursiveCheckpointAdjoint())
    np.testing.assert_allclose(reverse, forward, rtol=1e-7)


def test_the_exact_ones_have_the_derivatives_of_differences():
    pair = lambda slope: theory.leaky_pair(**PAIR, t=1.0, slope=slope).a
    group = lambda slope: theory.leaky_scalar_network(1.0, **GROUP | SIDES, slope=slope).loss
    for function in (pair, group):
        expected = (function(0.4 + 1e-5) - function(0.4 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(function)(0.4), expected, rtol=1e-7)


@pytest.mark.slow
def test_compiled_and_mapped_they_are_the_same():
    slopes = jnp.array([0.9, 0.5])
    first = lambda slope: theory.leaky_scalar_first_order(1.0, **BOTH | SIDES, slope=slope).loss
    np.testing.assert_allclose(jax.jit(jax.vmap(first))(slopes), first(slopes), rtol=1e-9)
    pair = lambda slope: theory.leaky_pair(**PAIR, t=1.0, slope=slope).a
    np.testing.assert_allclose(jax.jit(jax.vmap(pair))(slopes), [pair(0.9), pair(0.5)], rtol=1e-13)


def test_single_precision():
    single = lambda call: {name: np.asarray(value, np.float32) for name, value in call.items()}
    for solution, call in ((theory.leaky_scalar_first_order, BOTH), (theory.leaky_scalar_network, GROUP)):
        exact = solution(1.0, **call, **SIDES, slope=0.9)
        found = solution(np.float32(1.0), **single(call | SIDES | {"slope": 0.9}))
        assert found.loss.dtype == jnp.float32
        np.testing.assert_allclose(found.above, exact.above, rtol=2e-5)
    w = np.array([[1.0, 0.2], [1.0, 0.2001], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(theory.absolute_moments(w), theory.absolute_moments(w.astype(float)), rtol=1e-6)
    assert theory.leaky_pair(**single(PAIR), t=1.0, slope=0.0).w.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: theory.leaky_scalar_network(1.0, **BOTH, **SIDES, slope=0.9),
            "all above 0 or all below 0; leaky_scal",
        ),
        (
            lambda: theory.leaky_scalar_first_order(1.0, **BOTH, **SIDES, slope=-0.1),
            "`slope` .*at least 0, but it .*-0.1",
        ),
        (
            lambda: theory.leaky_scalar_first_order(1.0, **BOTH | {"a0": np.zeros(4)}, **SIDES, slope=0.1),
            "by the sign of `a0`, so it needs numbers other than 0, but it holds 0.0",
        ),
        (
            lambda: theory.leaky_scalar_network(1.0, **GROUP, slope=0.5, variance_above=-1.0, variance_below=1.0),
            r"`variance_above` is E\[x\^2; x > 0\] and needs to be at least 0",
        ),
        (lambda: theory.leaky_pair(**PAIR, t=1.0, slope=-1.0), "`slope` needs to be above -1, but it holds -1.0"),
        (lambda: theory.leaky_pair(**PAIR, t=1.0, slope=np.ones(2)), r"one `slope`, of shape \(\), but .* \(2,\)"),
        (
            lambda: theory.leaky_loss(np.eye(2), np.ones((1, 3)), np.ones((1, 2)), slope=0.5),
            r"`w2` of shape \(out, hid\)",
        ),
        (lambda: theory.absolute_moments(np.ones(2)), r"needs shape \(hid, inp\), not \(2,\)"),
        (lambda: theory.shifted_absolute_moments(np.eye(2), np.ones(3)), r"`mean` of shape \(inp,\), but"),
    ],
)
def test_arguments_that_do_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("slope", [0.98, 0.9, 0.5, 0.0])
def test_one_group_on_the_side_of_the_smaller_variance_has_its_first_order_too(slope):
    """Where the equation has a second rest, or none: against its integration as it is printed."""
    ts, a0, b0, s, above, below = np.array([0.0, 0.5, 1.0, 5.0]), np.array([0.4]), np.array([0.3]), 1.4, 0.2, 0.48
    e, chi, eps, gain = above + below, (above - below) / (above + below), 1 - slope, (1 + slope) / 2
    strength = lambda grown: 0.25 * ((a0 + b0) ** 2 * np.exp(grown) - (a0 - b0) ** 2 * np.exp(-grown))
    pull = lambda grown: s - gain * strength(grown * (1 + eps * chi / 2)) - eps / 2 * chi * strength(grown)
    speed = lambda _, grown: 2 * gain * e * pull(grown)
    growth = solve_ivp(speed, (0, 5), [0.0], t_eval=ts, method="DOP853", rtol=1e-12, atol=1e-14).y[0]

    found = theory.leaky_scalar_first_order(ts, a0, b0, s, slope=slope, variance_above=above, variance_below=below)

    np.testing.assert_allclose(found.positive_units, strength(growth * (1 + eps * chi / 2)), rtol=1e-8)
    mirrored = theory.leaky_scalar_first_order(ts, -a0, -b0, s, slope=slope, variance_above=below, variance_below=above)
    np.testing.assert_allclose(mirrored.negative_units, found.positive_units, rtol=1e-9)
