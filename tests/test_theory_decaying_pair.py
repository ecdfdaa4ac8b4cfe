"""Two layers under weight decay, against Bessel functions, integration and the flow without decay."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from layerflow import theory

STARTS = {"unequal": (1.5, 0.1), "opposed": (0.4, -0.9), "small": (2e-3, 1e-3), "lazy": (-3.0, 2.5)}


def bessel(t, a0, b0, target, decay):
    """Both layers by modified Bessel functions of order (1 - S / nu) / 2, in many digits."""
    # Of small starts the two solutions agree in hundreds of digits.
    with mpmath.workdps(600 if abs(a0 + b0) < 0.1 else 120):
        t, a0, b0, target, decay = map(mpmath.mpf, (t, a0, b0, target, decay))
        a, b = (a0 + b0) ** 2 / 2, (a0 - b0) ** 2 / 2
        order, kappa = (1 - target / decay) / 2, mpmath.sqrt(a * b) / (2 * decay)

        def four(x):
            return [f(o, kappa * x) for o in (order - 1, order) for f in (mpmath.besseli, mpmath.besselk)]

        scale = -2 * decay / a * kappa
        i_before, k_before, i, k = four(1)
        m = (i - scale * i_before) / (-scale * k_before - k)
        i_before, k_before, i, k = four(mpmath.exp(-2 * decay * t))
        root = mpmath.sqrt(scale * (i_before - m * k_before) / (i + m * k))
        more, less = (a0 + b0) * root, (a0 - b0) / root
        shrunk = mpmath.exp(-decay * t) / 2
        return float(shrunk * (more + less)), float(shrunk * (more - less))


def flow(start, target, decay, ts, variance=1.0):
    """Both layers at `ts`, integrated."""

    def velocity(_, y):
        pull = variance * (target - y[0] * y[1])
        return [pull * y[1] - decay * y[0], pull * y[0] - decay * y[1]]

    # The tolerance of LSODA is of a step: errors of the whole are some ten times as large.
    return solve_ivp(velocity, (0, ts[-1]), start, t_eval=ts, method="LSODA", rtol=1e-13, atol=1e-15).y


@jax.jit
def first_layer(*at):
    return theory.decaying_pair(*at).a


first_layer_slopes = jax.jit(jax.grad(first_layer, argnums=tuple(range(6))))


def test_a_decaying_pair_has_the_reference_values():
    mode = theory.decaying_pair(2.0, 1.5, 0.1, 1.0, 0.2)
    assert mode.a == pytest.approx(1.214597853955180, rel=1e-14)
    assert mode.b == pytest.approx(0.684653976260967, rel=1e-14)


@pytest.mark.parametrize("target", [2.0, 0.1, -0.7])
@pytest.mark.parametrize("start", STARTS)
def test_a_decaying_pair_is_made_of_bessel_functions(start, target):
    """S / nu up to 77, below 1 and below 0, of noninteger order."""
    for decay, t in ((0.026, 5.0), (0.31, 20.0)):
        mode = theory.decaying_pair(t, *STARTS[start], target, decay)
        np.testing.assert_allclose((mode.a, mode.b), bessel(t, *STARTS[start], target, decay), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("target", "decay"), [(5.0, 0.01), (50.0, 0.1), (-20.0, 0.05), (1.0, 1e-3), (0.3, 0.3)])
@pytest.mark.parametrize("start", STARTS)
def test_a_decaying_pair_is_its_flow_at_any_ratio_of_target_to_decay(start, target, decay):
    ts = np.array([0.1, 1.0, 8.0, 30.0])
    mode = theory.decaying_pair(ts, *STARTS[start], target, decay)
    # Eleven digits of the escape from the saddle too, by which LSODA's errors grow.
    np.testing.assert_allclose((mode.a, mode.b), flow(STARTS[start], target, decay, ts), rtol=0, atol=2e-11)
    np.testing.assert_allclose(mode.strength, mode.a * mode.b, rtol=1e-14)


def test_balanced_pairs_are_the_sigmoid_of_the_target_less_the_decay():
    ts, start = np.array([0.0, 1.0, 5.0, 400.0]), 0.05
    for target, decay, e in ((1.3, 0.2, 0.8), (0.1, 0.6, 1.2), (-1.0, 0.3, 1.0)):
        mode = theory.decaying_pair(ts, start**0.5, start**0.5, target, decay, e)
        expected = theory.sigmoidal(ts, start, target - decay / e, e)
        np.testing.assert_allclose(mode.strength, expected, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(mode.a, mode.b, rtol=1e-15)


def test_without_decay_it_is_the_layer_pair():
    ts = np.array([0.0, 0.5, 3.0, 1e3])
    for start in STARTS.values():
        for target in (1.2, -0.6):
            mode, pair = theory.decaying_pair(ts, *start, target, 0.0, 0.7), theory.layer_pair(ts, *start, target, 0.7)
            np.testing.assert_allclose((mode.a, mode.b), (pair.a, pair.b), rtol=0, atol=1e-12)


def test_the_imbalance_decays_and_the_strength_ends_at_the_target_less_the_decay():
    ts = np.array([0.0, 1.0, 4.0])
    mode = theory.decaying_pair(ts, 1.5, 0.4, 0.9, 0.25)
    np.testing.assert_allclose(mode.a**2 - mode.b**2, (1.5**2 - 0.4**2) * np.exp(-0.5 * ts), rtol=1e-13)
    late = theory.decaying_pair(1e5, 1.5, 0.4, np.array([0.9, 0.2, -0.9]), 0.25)
    np.testing.assert_allclose(late.strength, [0.65, 0, -0.65], atol=1e-14)


def test_input_variance_is_a_unit_of_time():
    mode, scaled = theory.decaying_pair(3.0, 1.0, 0.2, 0.7, 0.3, 0.6), theory.decaying_pair(1.8, 1.0, 0.2, 0.7, 0.5)
    np.testing.assert_allclose((mode.a, mode.b), (scaled.a, scaled.b), rtol=1e-13)
    unfed = theory.decaying_pair(3.0, 1.0, 0.2, 0.7, 0.3, 0.0)
    np.testing.assert_allclose((unfed.a, unfed.b), np.exp(-0.9) * np.array([1.0, 0.2]), rtol=1e-14)


def test_a_pair_that_is_not_aligned_goes_to_the_saddle():
    mode = theory.decaying_pair(jnp.array([1.0, 50.0, 1e6]), 0.5, -0.5, 20.0, 0.1)
    np.testing.assert_array_equal(mode.a, -mode.b)
    np.testing.assert_allclose(mode.strength[1:], 0, atol=1e-100)
    assert jnp.isfinite(jax.grad(lambda t: theory.decaying_pair(t, 0.5, -0.5, 20.0, 0.1).a)(50.0))


@pytest.mark.parametrize(
    "at", [(2.0, 1.5, 0.1, 1.0, 0.2, 0.9), (1.0, 0.3, 0.3, 0.5, 0.1, 1.0), (4.0, 0.4, -0.9, -1.0, 0.5, 1.1)]
)
def test_a_decaying_pair_has_derivatives_by_all_that_it_depends_on(at):
    """Against fourth order differences."""
    slopes = first_layer_slopes(*at)
    for k, slope in enumerate(slopes):
        far, near = (
            float(first_layer(*at[:k], at[k] + h, *at[k + 1 :])) - float(first_layer(*at[:k], at[k] - h, *at[k + 1 :]))
            for h in (2e-3, 1e-3)
        )
        assert slope == pytest.approx((8 * near - far) / 12e-3, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("widths", [(3, 2, 2), (2, 4, 3)])
def test_a_zero_balanced_network_under_decay_is_its_flow(widths):
    """Any widths: F is less by nu."""
    inp, hid, out = widths
    rng = np.random.default_rng(1)
    target, modes = rng.normal(size=(out, inp)), min(widths)
    r = np.linalg.qr(rng.normal(size=(hid, hid)))[0][:, :modes]
    u, v = (np.linalg.qr(rng.normal(size=(size, size)))[0][:, :modes] for size in (out, inp))
    root = np.diag(np.sqrt(rng.uniform(0.1, 1.0, modes)))
    w1, w2 = r @ root @ v.T, u @ root @ r.T

    def velocity(_, y):
        w1, w2 = y[: hid * inp].reshape(hid, inp), y[hid * inp :].reshape(out, hid)
        pull = target - w2 @ w1
        return np.concatenate([(w2.T @ pull - 0.3 * w1).ravel(), (pull @ w1.T - 0.3 * w2).ravel()])

    end = solve_ivp(
        velocity, (0, 1.7), np.concatenate([w1.ravel(), w2.ravel()]), method="DOP853", rtol=1e-13, atol=1e-15
    ).y[:, -1]
    w1_end, w2_end = end[: hid * inp].reshape(hid, inp), end[hid * inp :].reshape(out, hid)
    network = theory.decaying_network(w1, w2, target, 1.7, 0.3)

    np.testing.assert_allclose(network.matrix, w2_end @ w1_end, rtol=0, atol=1e-12)
    np.testing.assert_allclose(network.input_gram, w1_end.T @ w1_end, rtol=0, atol=1e-12)
    np.testing.assert_allclose(network.output_gram, w2_end @ w2_end.T, rtol=0, atol=1e-12)


def test_a_decaying_network_forgets_modes_below_the_decay():
    network = theory.decaying_network(jnp.eye(2), jnp.eye(2), jnp.diag(jnp.array([2.0, 0.3])), 60.0, 0.5)
    np.testing.assert_allclose(network.matrix, np.diag([1.5, 0.0]), atol=1e-9)
    slope = jax.grad(
        lambda nu: theory.decaying_network(jnp.eye(2), jnp.eye(2), jnp.eye(2), 60.0, nu).matrix[0, 0].sum()
    )
    assert slope(0.5) == pytest.approx(-1, abs=1e-9)


def test_decaying_pairs_map_and_keep_float32():
    starts = jnp.array([1.5, 2e-3], jnp.float32)
    one = lambda a: theory.decaying_pair(jnp.float32(2.0), a, jnp.float32(0.1), jnp.float32(1.0), jnp.float32(0.2))
    mapped, exact = jax.vmap(one)(starts), theory.decaying_pair(2.0, np.asarray(starts, float), 0.1, 1.0, 0.2)

    assert mapped.a.dtype == mapped.strength.dtype == jnp.float32
    np.testing.assert_allclose((mapped.a, mapped.b), (exact.a, exact.b), rtol=2e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.decaying_pair(1.0, 0.1, 0.1, 1.0, -0.1), r"`decay` is a weight decay and needs to be at least"),
        (lambda: theory.decaying_pair(-1.0, 0.1, 0.1, 1.0, 0.1), r"times that are not negative, but it holds -1"),
        (lambda: theory.decaying_network(jnp.eye(2), 2 * jnp.eye(2), jnp.eye(2), 1.0, 0.1), r"lambda-balanced start"),
        (lambda: theory.decaying_network(jnp.eye(2), jnp.eye(2), jnp.eye(2), 1.0, -0.1), r"`decay` is a weight decay"),
        (
            lambda: theory.decaying_network(jnp.eye(2), jnp.eye(2), jnp.eye(2), 1.0, jnp.ones(2)),
            r"`decay` is one number, but it has shape \(2,\)",
        ),
    ],
)
def test_decaying_layers_refuse_what_they_are_not(call, words):
    with pytest.raises(ValueError, match=words):
        call()
