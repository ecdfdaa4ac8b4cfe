"""The scalar network of any width: Theorem I.1, its remarks and the toy model, against the flow itself."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from layerflow import theory

A0, B0 = np.array([0.5, -0.2, 0.1]), np.array([0.3, 0.4, -0.6])
FLOW = {"rtol": 1e-8, "atol": 1e-9}  # the reference runs at 1e-12, over 50 relaxation times

weights = st.lists(st.one_of(st.just(0.0), st.floats(-1.5, 1.5, allow_subnormal=False)), min_size=3, max_size=3)
few = settings(max_examples=15, deadline=None, derandomize=True)


def integrate(a0, b0, target, z, e, times):
    """Weights along the flow, by an eighth order method.

    In a + b and a - b, to relative 1e-12 each: a saddle then does not amplify rounding.
    """
    p = len(a0)

    def velocity(_, y):
        gap = e * (target - np.sum(y[:p] ** 2 - y[p:] ** 2) / (4 * z)) / z
        return gap * np.concatenate([y[:p], -y[p:]])

    start = np.concatenate([a0 + b0, a0 - b0])
    run = solve_ivp(velocity, (0.0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-60)
    assert run.success
    return 0.5 * (run.y[:p] + run.y[p:]).T, 0.5 * (run.y[:p] - run.y[p:]).T


def rate(a0, b0, target, z, e):
    """Speed of the last approach to the target, not less than 0.1."""
    product = np.sum((a0 + b0) ** 2) * np.sum((a0 - b0) ** 2) / (2 * z) ** 2
    return 2 * e / abs(z) * max(math.sqrt(target**2 + product), 0.1)


def test_reference_values_of_theorem_i1():
    now = theory.scalar_network(1.0, A0, B0, 1.5, z=2.0)
    start = theory.scalar_network(0.0, A0, B0, 1.5, z=2.0)
    end = theory.scalar_network_limit(A0, B0, 1.5, z=2.0)
    found = (start.weight_scale, start.output, now.growth, end.growth, now.output, now.ntk)
    expected = (0.2275, 0.005, 3.7128351788, 12.976971001, 0.40165346481, 0.46158071428)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(now.a, [0.82264633236, 0.036994425644, -0.30007641174], rtol=1e-10)
    np.testing.assert_allclose(now.b, [0.71885115855, 0.34837994708, -0.66335952008], rtol=1e-10)


def test_reference_values_of_theorem_i1_for_a_negative_target():
    now, end = theory.scalar_network(2.0, A0, B0, -0.5), theory.scalar_network_limit(A0, B0, -0.5)
    found = (now.growth, end.growth, now.output, now.ntk)
    np.testing.assert_allclose(found, (0.41310637794, 0.37841349904, -0.44255495746, 1.2692988464), rtol=1e-10)


@pytest.mark.parametrize(
    ("p", "z", "target", "expected"),
    [
        (2, 1.0, 0.1, 1.0512492197),
        (2, 1.0, 10.0, 10.099019514),
        (1000, 1000**0.5, 1.0, 1.0321226516),
    ],
)
def test_reference_values_of_the_toy_model(p, z, target, expected):
    signs = np.ones(p), np.where(np.arange(p) % 2, 1.0, -1.0)
    end = theory.scalar_network_limit(*signs, target, z=z)
    np.testing.assert_allclose(end.growth, expected, rtol=1e-10)
    toy = theory.aligned_features(1e3, p // 2, p // 2, target, z=z)
    np.testing.assert_allclose(toy.growth, expected, rtol=1e-10)


@few
@given(
    weights, weights, st.sampled_from([1.3, -0.8, 0.0, 1e-9]), st.sampled_from([1.0, -0.6, 3.0]), st.floats(0.3, 2.0)
)
@example([0.3, -0.2, 0.5], [-0.3, 0.2, -0.5], 1.3, 1.0, 1.0)  # A = 0
@example([0.3, -0.2, 0.5], [0.3, -0.2, 0.5], -0.8, 1.0, 1.0)  # B = 0
@example([0.3, -0.2, 0.5], [-0.3, 0.2, -0.5], 0.0, 1.0, 1.0)
@example([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1.3, 1.0, 1.0)
@example([0.3, -0.2, 0.5], [-0.3, 0.2, -0.5 + 1e-9], 1.3, 1.0, 1.0)
@example([1.2, 0.0, 0.0], [-0.4, 0.0, 0.0], -0.8, 3.0, 1.0)
def test_theorem_i1_is_the_flow(a0, b0, target, z, e):
    a0, b0 = np.array(a0), np.array(b0)
    times = np.linspace(0.0, 50 / rate(a0, b0, target, z, e), 6)
    a, b = integrate(a0, b0, target, z, e, times)
    now = theory.scalar_network(times, a0, b0, target, z=z, variance=e)
    np.testing.assert_allclose(now.a, a, **FLOW)
    np.testing.assert_allclose(now.b, b, **FLOW)
    np.testing.assert_allclose(now.output, np.sum(a * b, axis=1) / z, **FLOW)
    scale = np.sum(a**2 + b**2, axis=1) / (2 * abs(z))
    np.testing.assert_allclose(now.weight_scale, scale, **FLOW)
    np.testing.assert_allclose(now.ntk, 2 * scale / abs(z), **FLOW)


@few
@given(weights, weights, st.sampled_from([1.3, -0.8, 0.4]), st.sampled_from([1.0, -0.6, 3.0]))
def test_limit_is_where_the_flow_ends(a0, b0, target, z):
    """At 1e8, and without a saddle at the target."""
    a0, b0 = np.array(a0).round(3), np.array(b0).round(3)
    late = theory.scalar_network(1e8, a0, b0, target, z=z)
    end = theory.scalar_network_limit(a0, b0, target, z=z)
    for name in ("a", "b", "output", "weight_scale", "ntk", "growth"):
        np.testing.assert_allclose(getattr(late, name), getattr(end, name), rtol=1e-10, atol=1e-12)
    saddle = bool(theory.ends_at_saddle(a0, b0, target, z=z))
    np.testing.assert_allclose(end.output, 0.0 if saddle else target, atol=1e-12)
    ratio = theory.kernel_growth(a0, b0, target, z=z)
    start = theory.scalar_network(0.0, a0, b0, target, z=z)
    np.testing.assert_allclose(ratio * start.ntk, end.ntk, atol=1e-12)
    if not saddle:
        grown, bound = end.growth, theory.growth_bound(a0, b0, target, z=z)
        assert (grown if target > 0 else 1 / grown) >= bound * (1 - 1e-12)


@pytest.mark.parametrize(
    ("a0", "b0", "target"), [(0.5, -0.5, 1.0), (0.5, 0.5, -1.0), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]
)
def test_unaligned_weights_end_at_the_saddle(a0, b0, target):
    a0, b0 = np.full(2, a0), np.full(2, b0)
    assert theory.ends_at_saddle(a0, b0, target)
    end = theory.scalar_network_limit(a0, b0, target)
    assert end.output == 0
    np.testing.assert_array_equal(end.a, 0)
    np.testing.assert_array_equal(end.b, 0)
    assert not theory.ends_at_saddle(a0, b0 + np.array([0.0, 1e-9]), target)


def test_richness_is_the_root_of_the_paper():
    """NTK(inf) / NTK(0) = sqrt(1 + (S^2 - S0^2) / Sigma0^2)."""
    s0, sigma0 = np.sum(A0 * B0) / 2, np.sum(A0**2 + B0**2) / 4
    expected = math.sqrt(1 + (1.5**2 - s0**2) / sigma0**2)
    np.testing.assert_allclose(theory.kernel_growth(A0, B0, 1.5, z=2.0), expected, rtol=1e-14)
    assert theory.kernel_growth(np.zeros(2), np.zeros(2), 1.0) == 1


def test_width_one_is_a_pair_of_layers():
    ts = np.linspace(0.0, 6.0, 5)
    pair = theory.layer_pair(ts, 0.4, -1.1, 0.9, 0.7)
    network = theory.scalar_network(ts, np.array([0.4]), np.array([-1.1]), 0.9, variance=0.7)
    np.testing.assert_allclose(network.output, pair.strength, rtol=1e-13)
    np.testing.assert_allclose(network.a[:, 0], pair.a, rtol=1e-13)


@jax.jit
def time_of(level, a0, b0, target, z):
    return theory.scalar_network_time(level, a0, b0, target, z=z, variance=0.7)


@few
@given(weights, weights, st.sampled_from([1.3, -0.8, 0.0]), st.sampled_from([1.0, -0.6, 3.0]), st.floats(0.01, 0.99))
def test_time_of_a_level_is_when_the_flow_is_there(a0, b0, target, z, share):
    a0, b0 = np.array(a0).round(3), np.array(b0).round(3)
    when = lambda level: time_of(level, a0, b0, target, z)
    start = float(np.sum(a0 * b0)) / z
    end = float(theory.scalar_network_limit(a0, b0, target, z=z).output)
    level = start + share * (end - start)
    if abs(end - start) > 1e-6:
        t = when(level)
        output = theory.scalar_network(t, a0, b0, target, z=z, variance=0.7).output
        np.testing.assert_allclose(output, level, rtol=1e-11, atol=1e-12)
        assert np.isinf(when(end + 0.1 * (end - start)))
        assert np.isinf(when(start - 0.1 * (end - start)))


def test_levels_beyond_a_saddle_have_infinite_time():
    assert np.isinf(theory.scalar_network_time(0.5, np.array([0.4]), np.array([-0.4]), 1.0))
    assert np.isinf(theory.scalar_network_time(-0.5, np.array([0.4]), np.array([0.4]), -1.0))
    assert np.isinf(theory.scalar_network_time(0.0, np.array([0.4]), np.array([0.4]), -1.0))
    assert np.isfinite(theory.scalar_network_time(-0.01, np.array([0.4]), np.array([-0.4]), 1.0))


@few
@given(weights, weights, st.sampled_from([1.3, -0.8, 0.1]))
def test_growth_bends_iff_weights_are_small(a0, b0, target):
    """Remark I.2: by second differences of gamma (of 1 / gamma for S < 0), where the target pulls it up."""
    a0, b0 = np.array(a0).round(2), np.array(b0).round(2)
    sign = np.sign(target)
    sums = 0.5 * np.sum((a0 + sign * b0) ** 2)
    t = float(theory.inflection_time(a0, b0, target))
    assert np.isfinite(t) == (0 < sums < abs(target))
    if sign * np.sum(a0 * b0) < abs(target) and sums > 0:
        grid = np.linspace(0.0, (2 * t if np.isfinite(t) else 2.0) + 0.1, 401)
        gamma = np.asarray(theory.scalar_network(grid, a0, b0, target).growth) ** sign
        fastest = grid[np.argmax(np.diff(gamma))]
        assert abs(fastest - (t if np.isfinite(t) else 0.0)) < 2 * grid[1]


def test_inflection_is_at_the_centre_of_the_sigmoid():
    t = theory.inflection_time(A0, B0, 1.5, z=2.0, variance=0.3)
    now = theory.scalar_network(t, A0, B0, 1.5, z=2.0, variance=0.3)
    np.testing.assert_allclose(now.growth, 1.5 / 0.2325, rtol=1e-13)


@few
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1.3, -0.8, 0.1]), st.sampled_from([1.0, 2.5]))
def test_toy_model_is_a_network_of_signs(aligned, anti_aligned, target, z):
    """Eqs. 16 to 20; three and three at most, padded with zeros so that one program serves all."""
    a0 = np.array([1.0] * aligned + [0.0] * (3 - aligned) + [1.0] * anti_aligned + [0.0] * (3 - anti_aligned))
    b0 = np.sign(target) * np.array([1.0] * 3 + [-1.0] * 3) * a0
    ts = np.linspace(0.0, 3.0, 5)
    network = theory.scalar_network(ts, a0, b0, target, z=z, variance=0.7)
    toy = theory.aligned_features(ts, aligned, anti_aligned, target, z=z, variance=0.7)
    products = np.asarray(network.a * network.b) / z
    np.testing.assert_allclose(toy.aligned, products[:, :3].sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(toy.anti_aligned, products[:, 3:].sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(toy.output, network.output, atol=1e-12)
    np.testing.assert_allclose(toy.weight_scale, network.weight_scale, atol=1e-12)


def test_toy_model_obeys_its_two_equations():
    """Eqs. 17 and 18, by automatic differentiation."""
    state = lambda t: theory.aligned_features(t, 3, 2, 0.8, z=2.0, variance=0.7)
    now, speed = jax.jvp(state, (jnp.array(0.6),), (jnp.array(1.0),))
    gap = 2 * 0.7 / 2.0 * (0.8 - now.output)
    np.testing.assert_allclose(speed.output, gap * now.weight_scale, rtol=1e-12)
    np.testing.assert_allclose(speed.weight_scale, gap * now.output, rtol=1e-12)


def test_wide_networks_and_small_targets_keep_their_kernel():
    """NTK limit: Z = sqrt(p). Target downscaling: S -> 0. The error falls as 1 / p and as S^2, relative to S."""
    ts = np.linspace(0.0, 2.0, 9)
    signs = np.array([1.0, 1.0]), np.array([1.0, -1.0])
    lazy = theory.frozen_kernel_output(ts, *signs, 1.0, z=2**0.5)
    np.testing.assert_allclose(lazy, -np.expm1(-2 * ts), rtol=1e-12)
    for scale in (1e-2, 1e-4):
        wide = theory.aligned_features(ts, 0.5 / scale, 0.5 / scale, 1.0, z=scale**-0.5).output
        small = theory.scalar_network(ts, *signs, scale**0.5).output / scale**0.5
        assert 0 < np.max(np.abs(wide - lazy)) < scale
        limit = theory.frozen_kernel_output(ts, *signs, 1.0)
        assert 0 < np.max(np.abs(small - limit)) < scale


CASES = {
    "output": lambda t, a, b, s, z: theory.scalar_network(t, a, b, s, z=z).output,
    "weights": lambda t, a, b, s, z: theory.scalar_network(t, a, b, s, z=z).a[0],
    "limit": lambda t, a, b, s, z: theory.scalar_network_limit(a, b, s, z=z).b[1],
    "time": lambda t, a, b, s, z: theory.scalar_network_time(0.5 * t, a, b, s, z=z),
    "richness": lambda t, a, b, s, z: theory.kernel_growth(a, b, s, z=z),
    "inflection": lambda t, a, b, s, z: theory.inflection_time(a, b, s, z=z),
    "frozen": lambda t, a, b, s, z: theory.frozen_kernel_output(t, a, b, s, z=z),
}


def flat(function):
    return lambda x: function(x[0], x[1:3], x[3:5], x[5], x[6])


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_differences(name):
    function = jax.jit(flat(CASES[name]))
    point = np.array([1.1, 0.3, -0.2, 0.4, 0.5, 1.4, 1.7])
    forward, backward = jax.jit(jax.jacfwd(function))(point), jax.jit(jax.jacrev(function))(point)
    differences = [(function(point + d) - function(point - d)) / 2e-6 for d in 1e-6 * np.eye(7)]
    np.testing.assert_allclose(forward, differences, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(forward, backward, rtol=1e-12, atol=1e-13)


SWITCHES = {
    "A = 0": ([0.5, -0.3], [-0.5, 0.3], 1.0),
    "A = 0, S < 0": ([0.5, -0.3], [-0.5, 0.3], -1.0),
    "B = 0": ([0.5, -0.3], [0.5, -0.3], -1.0),
    "S = 0": ([0.5, -0.3], [0.2, 0.1], 0.0),
    "S = 0, B = 0": ([0.5, -0.3], [0.5, -0.3], 0.0),
    "S = S0": ([0.5, -0.3], [0.5, 0.5], 0.1),
    "nothing": ([0.0, 0.0], [0.0, 0.0], 1.0),
}


@pytest.fixture(scope="module")
def state_and_slopes():
    """Weights, output and kernel, and their derivatives by t, a0, b0, S and Z."""

    def values(x):
        state = theory.scalar_network(x[0], x[1:3], x[3:5], x[5], z=x[6])
        return jnp.concatenate([state.a, state.b, jnp.stack([state.output, state.ntk])])

    return jax.jit(values), jax.jit(jax.jacfwd(values)), jax.jit(jax.jacrev(values))


@pytest.mark.parametrize("case", SWITCHES)
def test_derivatives_at_switch_points_are_those_of_a_smooth_function(case, state_and_slopes):
    values, forward, backward = state_and_slopes
    a0, b0, target = SWITCHES[case]
    for t in (0.4, 2.0):
        point = np.array([t, *a0, *b0, target, 1.3])
        differences = np.stack([(values(point + d) - values(point - d)) / 2e-5 for d in 1e-5 * np.eye(7)], axis=-1)
        np.testing.assert_allclose(forward(point), differences, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(forward(point), backward(point), rtol=1e-12, atol=1e-13)
    for t in (0.0, 1e8):
        point = np.array([t, *a0, *b0, target, 1.3])
        for function in state_and_slopes:
            assert np.all(np.isfinite(function(point)))


def test_scalar_networks_broadcast_jit_vmap_and_keep_their_precision():
    rng = np.random.default_rng(0)
    a0, b0, targets, ts = rng.normal(size=(2, 1, 3)), rng.normal(size=3), rng.normal(size=(2, 1)), np.array([0.5, 1e8])
    whole = theory.scalar_network(ts, a0, b0, targets)
    assert whole.a.shape == (2, 2, 3)
    assert whole.output.shape == (2, 2)
    for i in range(2):
        for j in range(2):
            alone = theory.scalar_network(ts[j], a0[i, 0], b0, targets[i, 0])
            jax.tree.map(lambda x, y, i=i, j=j: np.testing.assert_allclose(x[i, j], y, rtol=1e-12), whole, alone)
    mapped = jax.jit(jax.vmap(theory.scalar_network, (None, 0, None, 0)))(ts, a0, b0, targets)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), mapped, whole)
    single = theory.scalar_network(*(jnp.asarray(x, jnp.float32) for x in (ts, a0, b0, targets)))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(single))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), single, whole)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.scalar_network(-1.0, A0, B0, 1.0),
            r"`t` needs finite times that are not negative, but it holds -1",
        ),
        (
            lambda: theory.scalar_network(1.0, A0, B0, 1.0, z=0.0),
            r"divided by Z.*other than 0, but it holds 0\.0",
        ),
        (lambda: theory.scalar_network(1.0, A0, B0, 1.0, variance=-1.0), r"at least 0, but it holds -1\.0"),
        (lambda: theory.scalar_network(1.0, A0 * 1j, B0, 1.0), r"`a0` needs real numbers"),
        (lambda: theory.scalar_network(1.0, 0.5, B0, 1.0), r"`a0` holds one number per unit, so its last axis is p"),
        (
            lambda: theory.scalar_network(1.0, A0, B0[:2], 1.0),
            r"`a0` \(3,\), `b0` \(2,\).*last axis of a0 and b0 stands apart",
        ),
        (lambda: theory.scalar_network(np.ones(2), A0[None].repeat(3, 0), B0, 1.0), r"need to broadcast, but they are"),
        (
            lambda: theory.aligned_features(1.0, -1, 1, 1.0),
            r"`aligned` is a number of features .* at least 0, but it holds -1",
        ),
        (
            lambda: theory.aligned_features(1.0, 1, 1, 1.0, z=-2.0),
            r"`z` is what divides the output and needs to be positive",
        ),
    ],
)
def test_errors_name_what_was_assumed_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_values_are_checked_as_well():
    with pytest.raises(eqx.EquinoxRuntimeError, match="divided by Z"):
        eqx.filter_jit(lambda z: theory.scalar_network(1.0, A0, B0, 1.0, z=z).output)(jnp.array(0.0))
