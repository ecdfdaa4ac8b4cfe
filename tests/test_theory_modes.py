"""Closed forms of one mode: against the flow itself, their limits, their derivatives and their checks."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import hyp2f1

from layerflow import theory
from layerflow.theory._special import log1p_over, phi1

REFERENCE = {"rtol": 0, "atol": 1e-10}  # THEORY.md prints eleven digits
FLOW = {"rtol": 1e-8, "atol": 1e-9}  # the reference runs at 1e-12, over 50 relaxation times

signed = st.one_of(st.sampled_from([0.0, 1e-9, -1e-9]), st.floats(-2.0, 2.0, allow_subnormal=False))
variance = st.floats(0.1, 3.0)
few = settings(max_examples=15, deadline=None, derandomize=True)


def integrate(velocity, start, times):
    """The flow by an eighth order method, to relative 1e-12 in each variable."""
    run = solve_ivp(
        lambda t, y: velocity(y), (0.0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-60
    )
    assert run.success
    return run.y


def sums_and_differences(a0, b0, target, e, times):
    """Flow of one mode of two layers in a + b and a - b, in which neither side of the saddle amplifies rounding."""
    output = lambda y: 0.25 * (y[0] ** 2 - y[1] ** 2)
    velocity = lambda y: e * (target - output(y)) * np.array([y[0], -y[1]])
    total, difference = integrate(velocity, np.array([a0 + b0, a0 - b0]), times)
    return 0.5 * (total + difference), 0.5 * (total - difference)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (theory.exponential, (0.5, 0.0, 1.0, 2.0), 0.63212055883),
        (theory.exponential, (3.0, 0.4, -2.0, 0.5), -1.4644876156),
        (theory.sigmoidal, (1.5, 1e-3, 1.0, 2.0), 0.28766436868),
        (theory.sigmoidal, (4.0, 1e-4, 2.0, 0.7), 1.5705117607),
        (theory.sigmoidal, (0.5, 3.0, 1.0, 1.0), 1.3249472314),
        (theory.sigmoidal, (2.0, 0.5, -1.0, 1.0), 0.0061427155495),
        (theory.sigmoidal, (2.0, 0.7, 0.0, 1.0), 0.18421052632),
        (theory.sigmoidal, (2.0, -0.3, 1.0, 1.0), -0.0042446266008),
        (theory.deep_time, (0.01, 0.5, 1.0, 1), 0.68309684471),
        (theory.deep_time, (0.01, 0.5, 1.0, 2), 2.2975599251),
        (theory.deep_time, (0.01, 0.5, 1.0, 3), 3.7680367811),
        (theory.deep_time, (0.01, 0.5, 1.0, 4), 4.6834123385),
    ],
)
def test_reference_values_of_one_mode(function, arguments, expected):
    np.testing.assert_allclose(function(*arguments), expected, **REFERENCE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.7, 1.5, 0.1, 1.0, 1.0), (1.5909228898, 0.53947719258, 0.85826661420)),
        ((1.0, 0.01, 0.5, 2.0, 1.0), (1.0906926823, 1.1997960357, 1.3086087563)),
        ((0.4, -1.2, 0.3, 1.0, 2.0), (-1.2531891154, -0.46955612972, 0.58844263083)),
        ((3.0, 0.4, 1.1, -1.0, 0.7), (-0.74835681739, 1.2688726989, -0.94956953466)),
    ],
)
def test_reference_values_of_unequal_layers(arguments, expected):
    mode = theory.layer_pair(*arguments)
    np.testing.assert_allclose((mode.a, mode.b, mode.strength), expected, **REFERENCE)


def test_reference_value_of_infinite_depth():
    np.testing.assert_allclose(theory.deep_time(0.01, 0.5, 1.0, math.inf), 102.59511985, rtol=1e-10)


@few
@given(signed, signed, variance)
@example(0.5, 0.0, 1.0)
@example(1.0, 1.0, 1.0)
@example(-0.5, 1.0, 1.0)
def test_sigmoidal_is_the_flow_of_two_equal_or_opposite_layers(start, target, e):
    times = np.linspace(0.0, 50 / (2 * e * max(abs(target), 0.1)), 6)
    velocity = lambda u: np.sign(start) * 2 * e * u * (target - u)
    expected = integrate(velocity, np.array([start]), times)[0]
    np.testing.assert_allclose(theory.sigmoidal(times, start, target, e), expected, **FLOW)


@few
@given(signed, signed, variance)
def test_exponential_is_the_flow_of_one_layer(start, target, e):
    times = np.linspace(0.0, 50 / e, 6)
    expected = integrate(lambda u: e * (target - u), np.array([start]), times)[0]
    np.testing.assert_allclose(theory.exponential(times, start, target, e), expected, **FLOW)


@few
@given(signed, signed, signed, variance)
@example(0.7, -0.7, 1.0, 1.0)
@example(0.5, 0.5, -1.0, 1.0)
@example(0.5, -0.5 + 1e-9, 1.0, 1.0)
@example(0.0, 0.0, 1.0, 1.0)
@example(0.0, 1.0, 0.0, 1.0)
@example(1.2, -0.3, 0.0, 2.0)
def test_layer_pair_is_the_flow_of_two_layers(a0, b0, target, e):
    """Whatever the signs: a0 b0 < 0, S <= 0, equal, opposite and zero layers."""
    rate = math.sqrt(target**2 + 0.25 * (a0**2 - b0**2) ** 2)
    times = np.linspace(0.0, 50 / (2 * e * max(rate, 0.1)), 6)
    a, b = sums_and_differences(a0, b0, target, e, times)
    mode = theory.layer_pair(times, a0, b0, target, e)
    np.testing.assert_allclose((mode.a, mode.b, mode.strength), (a, b, a * b), **FLOW)


@few
@given(st.floats(1e-6, 0.9), st.floats(0.2, 3.0), st.sampled_from([1, 2, 3, 5, math.inf]))
def test_deep_mode_is_the_flow_of_a_chain_of_equal_layers(share, target, depth):
    e, start = 0.7, share * target
    pace, power = (depth, 2 - 2 / depth) if depth < math.inf else (1, 2)
    half = float(theory.deep_time(start, max(0.5, share) * target, target, depth, e))
    # Time to the rise is as good as the reference: to rounding of the wait.
    times = np.linspace(0.0, half + 50 / (pace * e * target**power / target), 7)
    expected = integrate(lambda u: pace * e * u**power * (target - u), np.array([start]), times)[0]
    np.testing.assert_allclose(theory.deep_mode(times, start, target, depth, e), expected, **FLOW)


@pytest.mark.parametrize("depth", [3, 4, 5, 8, 50])
def test_deep_time_is_the_hypergeometric_function(depth):
    low, high = np.sort(10.0 ** np.random.default_rng(0).uniform(-8, -1e-3, (2, 50)), axis=0)
    k = -1 + 2 / depth
    antiderivative = lambda z: z**k / k * hyp2f1(1, k, 1 + k, z)
    expected = 2.0 ** (k - 1) * (antiderivative(high) - antiderivative(low)) / depth
    np.testing.assert_allclose(theory.deep_time(2 * low, 2 * high, 2.0, depth), expected, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 1000, math.inf])
def test_deep_mode_inverts_deep_time(depth):
    """From 1e-6 to both sides of the middle and close to the target, to the rounding of a wait of up to 1e6."""
    ends = jnp.array([2e-6, 1e-3, 0.3, 0.5, 0.9, 1 - 1e-6])
    times = theory.deep_time(1e-6, ends, 1.0, depth)
    np.testing.assert_allclose(theory.deep_mode(times, 1e-6, 1.0, depth), ends, rtol=1e-8)


@pytest.mark.parametrize("start", [0.2, 1.7, -0.4])
def test_equal_layers_of_a_pair_are_sigmoidal(start):
    """A pair of opposite layers too."""
    ts, a0 = jnp.linspace(0.0, 9.0, 6), abs(start) ** 0.5
    pair = theory.layer_pair(ts, a0, math.copysign(a0, start), 1.3, 0.8)
    np.testing.assert_allclose(pair.strength, theory.sigmoidal(ts, start, 1.3, 0.8), rtol=1e-12)


def test_heavily_unequal_layers_are_exponential():
    """|C| -> inf at fixed |C| t: linear dynamics of the light layer."""
    ts, heavy = jnp.linspace(0.0, 5.0, 6), 1e4
    pair = theory.layer_pair(ts / heavy**2, heavy, 0.5 / heavy, -1.0)
    np.testing.assert_allclose(pair.strength, theory.exponential(ts, 0.5, -1.0), atol=1e-7)


def test_unequal_layers_keep_their_imbalance():
    pair = theory.layer_pair(jnp.linspace(0.0, 30.0, 7), 0.3, -1.4, 2.0)
    np.testing.assert_allclose(pair.a**2 - pair.b**2, 0.3**2 - 1.4**2, rtol=1e-13)


def test_half_time_of_a_mode():
    """Eq. 9 at u = S / 2."""
    np.testing.assert_allclose(theory.sigmoidal_time(0.5, 1e-3, 2.0, 0.7), math.log(1999) / 2.8, rtol=1e-14)


@pytest.mark.parametrize(("start", "fractions"), [(0.01, [0.01, 0.3, 0.9999]), (2.5, [1.6, 1.01])])
def test_times_are_where_modes_have_their_fraction(start, fractions):
    fractions = jnp.array(fractions)
    for mode, time in ((theory.exponential, theory.exponential_time), (theory.sigmoidal, theory.sigmoidal_time)):
        at = time(fractions, start, 1.5, 0.7)
        np.testing.assert_allclose(mode(at, start, 1.5, 0.7), 1.5 * fractions, rtol=1e-12)


@pytest.mark.parametrize("time", [theory.exponential_time, theory.sigmoidal_time])
def test_what_is_not_reached_has_infinite_time(time):
    """Passed already, beyond the target, the target itself, and an input that is never seen."""
    fractions, e = jnp.array([0.1, 1.5, 1.0, 0.7]), jnp.array([1.0, 1.0, 1.0, 0.0])
    assert np.all(np.isinf(time(fractions, 0.5, 1.0, e)))
    assert np.isinf(theory.sigmoidal_time(0.5, -0.1, 1.0))
    assert np.isinf(theory.sigmoidal_time(0.5, 0.0, 1.0))
    assert time(0.5, 0.5, 1.0) == 0


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_stages_separate_beyond_the_critical_speed_ratio(margin):
    """With one u(0) / S for both modes."""
    ratio = float(theory.critical_speed_ratio(1e-3, margin))
    wait, rise = math.log(999), math.log(1 / margin - 1)
    np.testing.assert_allclose(ratio, (wait + rise) / (wait - rise))
    for factor, separate in ((1.01, True), (0.99, False)):
        targets = np.array([1.0, factor * ratio])
        assert bool(theory.stages_separate(1e-3 * targets, targets, margin=margin)) is separate


def test_stages_separate_where_one_mode_is_above_the_margin_before_the_next():
    starts, targets = jnp.array([1e-4, 1e-7, 1e-5]), jnp.array([1.0, 9.0, 3.0])
    order = [1, 2, 0]
    gaps = [
        theory.sigmoidal_time(0.1, starts[late], targets[late])
        - theory.sigmoidal_time(0.9, starts[soon], targets[soon])
        for soon, late in itertools.pairwise(order)
    ]
    assert bool(theory.stages_separate(starts, targets)) is bool(min(gaps) > 0)
    assert np.isinf(theory.critical_speed_ratio(0.2, 0.1))


def test_plateaus_of_the_loss_from_small_weights():
    """Loss just before each half-time, the modes being far apart."""
    targets, e = np.array([1.0, 400.0, 20.0]), np.array([1.0, 0.5, 1.0])
    losses = theory.plateau_losses(targets, e)
    starts = 1e-9 * targets
    halves = np.sort(theory.sigmoidal_time(0.5, starts, targets, e))
    for t, expected in zip(0.6 * halves, losses, strict=False):
        strengths = np.asarray(theory.sigmoidal(t, starts, targets, e))
        np.testing.assert_allclose(0.5 * np.sum(e * (targets - strengths) ** 2), expected, rtol=1e-3)
    assert losses[-1] == 0


CASES = {
    "exponential": (lambda *p: theory.exponential(2.0, *p), (0.3, 1.2, 0.7)),
    "sigmoidal": (lambda *p: theory.sigmoidal(2.0, *p), (0.3, 1.2, 0.7)),
    "opposite": (lambda *p: theory.sigmoidal(2.0, *p), (-0.3, 1.2, 0.7)),
    "layer_pair": (lambda *p: theory.layer_pair(2.0, *p).strength, (0.3, -0.8, 1.2, 0.7)),
    "layer_pair, short": (lambda *p: theory.layer_pair(0.3, *p).a, (0.3, -0.8, 1.2, 0.7)),
    "deep_mode": (lambda t, *p: theory.deep_mode(t, *p, 3), (4.0, 0.1, 1.2)),
    "deep_time": (lambda *p: theory.deep_time(*p, math.inf), (0.05, 0.9, 1.2)),
    "sigmoidal_time": (theory.sigmoidal_time, (0.7, 0.3, 1.2, 0.7)),
    "exponential_time": (theory.exponential_time, (0.7, 0.3, 1.2, 0.7)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_differences(name):
    function, point = CASES[name]
    together = jax.jit(lambda p: function(*p))
    point, step = jnp.array(point), 1e-6
    forward, backward = jax.jit(jax.jacfwd(together))(point), jax.jit(jax.jacrev(together))(point)
    steps = step * np.eye(point.size)
    differences = [(together(point + d) - together(point - d)) / (2 * step) for d in steps]
    np.testing.assert_allclose(forward, differences, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(forward, backward, rtol=1e-12, atol=1e-14)


SWITCHES = {
    "C = 0": (0.6, 0.6, 1.0),
    "a = -b": (0.6, -0.6, 1.0),
    "a = -b, S < 0": (0.6, -0.6, -1.0),
    "S = 0": (0.6, 0.4, 0.0),
    "S = C = 0": (0.6, 0.6, 0.0),
    "S = u0": (0.5, 1.5, 0.75),
    "a = 0": (0.0, 0.6, 1.0),
    "nothing": (0.0, 0.0, 0.0),
}


@pytest.fixture(scope="module")
def pair_and_slopes():
    """Layers and strength of a pair, and their derivatives by t, a0, b0 and S."""
    values = lambda p: jnp.stack(jax.tree.leaves(theory.layer_pair(*p)))
    return jax.jit(values), jax.jit(jax.jacfwd(values)), jax.jit(jax.jacrev(values))


@pytest.mark.parametrize("case", SWITCHES)
def test_derivatives_at_switch_points_are_those_of_a_smooth_function(case, pair_and_slopes):
    """The flow is smooth in its start and its target, so at every point differences are right."""
    values, forward, backward = pair_and_slopes
    for t in (0.5, 3.0):
        point = np.array([t, *SWITCHES[case]])
        differences = np.stack([(values(point + d) - values(point - d)) / 2e-5 for d in 1e-5 * np.eye(4)], axis=-1)
        np.testing.assert_allclose(forward(point), differences, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(forward(point), backward(point), rtol=1e-12, atol=1e-13)
    for t in (0.0, 1e8):
        point = np.array([t, *SWITCHES[case]])
        assert np.all(np.isfinite(values(point)))
        assert np.all(np.isfinite(forward(point)))
        assert np.all(np.isfinite(backward(point)))


def test_sigmoidal_is_smooth_through_its_switch_points():
    value = jax.jit(lambda p: theory.sigmoidal(*p))
    slopes, backward = (jax.jit(mode(lambda p: theory.sigmoidal(*p))) for mode in (jax.jacfwd, jax.jacrev))
    for point in ((2.0, 0.5, 0.0), (2.0, -0.5, 0.0), (2.0, 0.7, 0.7)):
        differences = [(value(point + d) - value(point - d)) / 2e-6 for d in 1e-6 * np.eye(3)]
        np.testing.assert_allclose(slopes(np.array(point)), differences, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(slopes(np.array(point)), backward(np.array(point)), rtol=1e-12, atol=1e-14)
    for t, start, target in [(0.0, 0.0, 1.0), (1e8, 0.0, 1.0), (1e8, 0.5, -1.0), (1e8, 0.5, 0.0), (1e8, 1e-100, 1.0)]:
        assert np.isfinite(value(np.array([t, start, target])))
        assert np.all(np.isfinite(slopes(np.array([t, start, target]))))
        assert np.all(np.isfinite(backward(np.array([t, start, target]))))


def test_removable_singularities_are_smooth_to_second_order():
    """Against series in 40 terms, on both sides of the point where the formula changes."""
    ys = jnp.array([-1.0001, -0.9999, -1e-3, 0.0, 1e-9, 0.1, 0.9999, 1.0001])
    n = np.arange(40)
    factorials = np.cumprod(np.concatenate([[1.0], np.arange(1.0, 43.0)]))
    for order in range(3):
        function = phi1
        for _ in range(order):
            function = jax.grad(function)
        expected = sum((-1.0) ** (k + order) / factorials[k + order + 1] * factorials[k + order] / factorials[k] * ys**k
                       for k in n)  # fmt: skip
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(ys), expected, rtol=1e-14)
    xs = jnp.array([0.2499, 0.2501, 1e-12, -0.2499, -0.2501, 30.0])
    np.testing.assert_allclose(log1p_over(xs), np.log1p(xs) / xs, rtol=1e-14)
    slopes = 1 / (xs * (1 + xs)) - np.log1p(xs) / xs**2
    far = np.abs(xs) > 0.1
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(log1p_over)))(xs)[far], slopes[far], rtol=1e-13)
    assert jax.grad(log1p_over)(0.0) == -0.5


@pytest.mark.parametrize(
    "function",
    [
        theory.exponential,
        theory.sigmoidal,
        lambda t, u, s: theory.layer_pair(t, u, -0.2, s).strength,
        lambda t, u, s: theory.deep_mode(t, u, s, 3),
        lambda t, u, s: theory.deep_mode(t, u, s, math.inf),
    ],
)
def test_modes_broadcast_jit_vmap_and_keep_their_precision(function):
    ts, starts, targets = np.array([0.0, 1.0, 1e8]), np.array([[0.1], [0.3]]), np.array([[1.0], [2.0]])
    whole = function(ts, starts, targets)
    assert whole.shape == (2, 3)
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(whole[:, -1:], targets, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(function)(ts, starts, targets), whole, rtol=1e-13)
    mapped = jax.vmap(jax.vmap(function, (0, None, None)), (None, 0, 0))(ts, starts[:, 0], targets[:, 0])
    np.testing.assert_allclose(mapped, whole, rtol=1e-13)
    single = [jnp.asarray(x, jnp.float32) for x in (ts, starts, targets)]
    assert function(*single).dtype == jnp.float32
    np.testing.assert_allclose(function(*single), whole, rtol=1e-5)
    slopes = jax.vmap(jax.grad(function, argnums=(0, 1, 2)), (0, None, None))(single[0], *jnp.float32([0.1, 1.0]))
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.sigmoidal(-1.0, 0.1, 1.0), r"`t` needs finite times that are not negative, but it holds -1\.0"),
        (lambda: theory.exponential(np.array([0.0, np.nan]), 0.1, 1.0), r"not negative, but it holds nan"),
        (lambda: theory.layer_pair(np.inf, 0.1, 0.1, 1.0), r"not negative, but it holds inf"),
        (lambda: theory.sigmoidal(1.0, np.nan, 1.0), r"`start` needs finite numbers, but it holds nan"),
        (lambda: theory.sigmoidal(1.0, 0.1, 1.0, -2.0), r"E\[x\^2\] of an input and .* at least 0, but it holds -2"),
        (lambda: theory.sigmoidal(1.0, 1j, 1.0), r"`start` needs real numbers, but its dtype is complex"),
        (lambda: theory.sigmoidal(np.ones(2), np.ones(3), 1.0), r"broadcast, but they are `t` \(2,\), `start` \(3,\)"),
        (lambda: theory.deep_mode(1.0, 1.5, 1.0, 3), r"`start - target` needs to be negative, but it holds 0\.5"),
        (lambda: theory.deep_mode(1.0, 0.0, 1.0, 3), r"saddle at 0.*needs to be positive, but it holds 0\.0"),
        (lambda: theory.deep_time(0.1, 0.5, -1.0, 3), r"`target` is .* needs to be positive, but it holds -1"),
        (lambda: theory.deep_mode(1.0, 0.5, 1.0, 2.5), r"number of layers, so 1, 2, ... or math.inf, but it is 2\.5"),
        (lambda: theory.sigmoidal_time(-0.5, 0.1, 1.0), r"`fraction` .* needs to be positive, but it holds -0"),
        (lambda: theory.critical_speed_ratio(1.5), r"`weight_to_target` needs to be below 1, but it holds 1\.5"),
        (lambda: theory.critical_speed_ratio(0.1, 0.6), r"`margin` .* needs to be below 1/2, but it holds 0\.6"),
        (lambda: theory.stages_separate(0.1, 1.0), r"needs a last axis of modes, but none has"),
        (lambda: theory.plateau_losses(1.0), r"needs a last axis of modes, but none has"),
    ],
)  # fmt: skip
def test_errors_name_what_was_assumed_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_values_are_checked_as_well():
    with pytest.raises(eqx.EquinoxRuntimeError, match="needs finite times that are not negative"):
        eqx.filter_jit(theory.sigmoidal)(jnp.array(-1.0), 0.1, 1.0)
    with pytest.raises(eqx.EquinoxRuntimeError, match="`start - target` needs to be negative"):
        eqx.filter_jit(lambda t, u: theory.deep_mode(t, u, 1.0, 3))(jnp.array(1.0), jnp.array(1.5))
