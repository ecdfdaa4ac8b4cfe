"""Chains of unequal layers against their flow, equal chains and two layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from layerflow import theory

CHAINS = {  # c, x at the start and at the end, S, E: time
    "heavy": (((0.0, 0.0, 1.0), 0.01, 0.9, 2.0, 0.7), 1.724666870159352),
    "unequal": (((0.0, 0.5, 2.0), 0.05, 0.6, 1.5, 1.0), 0.610522968578786),
    "two heavy": (((0.0, 0.0, 0.0, 4.0, 9.0), 0.04, 0.5, 3.0, 1.2), 0.198691960667050),
}
STARTS = [(0.4,), (0.3, 0.7), (0.2, 0.5, 0.9), (0.3, 0.3, 0.3, 1.5), (0.5, 0.9, 0.4, 2.0, 0.7)]


def flow(start, target, variance, decay, ts):
    """Layers of a chain at `ts`, integrated: a_l' = E (S - u) u / a_l - nu a_l."""

    def velocity(_, a):
        pull = variance * (target - np.prod(a))
        return [pull * np.prod(np.delete(a, k)) - decay * a[k] for k in range(len(a))]

    ts = np.asarray(ts, float)
    return solve_ivp(velocity, (0, ts[-1]), start, t_eval=ts, method="DOP853", rtol=1e-13, atol=1e-15).y.T


@pytest.mark.parametrize("case", CHAINS)
def test_a_chain_has_the_reference_times(case):
    (excess, begin, end, target, variance), time = CHAINS[case]
    excess = np.array(excess)
    strength = np.sqrt(np.prod(end + excess))

    found = theory.layer_chain_time(np.sqrt(begin + excess), strength, target, variance)
    mode = theory.layer_chain(found, np.sqrt(begin + excess), target, variance)

    assert found == pytest.approx(time, rel=1e-13)
    np.testing.assert_allclose(mode.layers, np.sqrt(end + excess), rtol=1e-13)
    assert mode.strength == pytest.approx(strength, rel=1e-13)


@pytest.mark.parametrize("start", STARTS, ids=len)
def test_a_chain_is_its_flow(start):
    ts = np.linspace(0, 4, 9)
    mode = theory.layer_chain(ts, np.array(start), 1.3, 0.8)

    np.testing.assert_allclose(mode.layers, flow(start, 1.3, 0.8, 0.0, ts), rtol=1e-11)
    np.testing.assert_allclose(mode.strength, np.prod(mode.layers, axis=-1), rtol=1e-13)


def test_the_time_is_the_integral():
    start, target = np.array([0.02, 0.1, 1.7]), 0.9
    excess = start**2 - start[0] ** 2
    strength = lambda x: np.sqrt(np.prod(x + excess))
    by_log = lambda y: np.exp(y) / (2 * strength(np.exp(y)) * (target - strength(np.exp(y))))
    low, high = np.log(start[0] ** 2), np.log(0.2)

    expected = quad(by_log, low, high, epsabs=0, epsrel=1e-12)[0]
    assert theory.layer_chain_time(start, strength(0.2), target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
@pytest.mark.parametrize("start", [1e-6, 0.3])
def test_equal_layers_are_the_deep_mode(depth, start):
    layers, ends = np.full(depth, start ** (1 / depth)), np.array([0.35, 0.9, 1.29999])
    times = theory.deep_time(start, ends, 1.3, depth, 0.7)
    found = theory.layer_chain_time(layers, ends, 1.3, 0.7)
    mode = theory.layer_chain(times, layers, 1.3, 0.7)

    # At 1e-6 a rounding of the layers is one of the wait, which the rise is short beside.
    np.testing.assert_allclose(found, times, rtol=1e-13)
    np.testing.assert_allclose(mode.strength, ends, rtol=1e-9 if start < 1e-3 else 1e-12)
    np.testing.assert_allclose(mode.effective_depth, depth, rtol=1e-14)


def test_two_layers_are_the_scalar_network():
    a, b, ts = np.array([0.9]), np.array([0.05]), np.linspace(0, 6, 13)
    pair = theory.scalar_network(ts, a, b, 1.2, variance=0.6)
    mode = theory.layer_chain(ts, np.concatenate([a, b]), 1.2, 0.6)

    np.testing.assert_allclose(mode.strength, pair.output, rtol=1e-12)
    np.testing.assert_allclose(mode.layers, np.concatenate([pair.a, pair.b], axis=-1), rtol=1e-12)


def test_every_layer_gains_the_same_square_so_heavy_ones_rest():
    start = np.array([0.1, 0.4, 5.0])
    end = theory.layer_chain(50.0, start, 1.0)

    gained = end.layers**2 - start**2
    np.testing.assert_allclose(gained, gained[0], rtol=1e-12)
    assert end.layers[2] / start[2] - 1 < 0.01 < end.layers[1] / start[1] - 1 < end.layers[0] / start[0] - 1


def test_the_effective_depth_gives_the_local_law():
    """u' = n E u^2 (S - u) / x, n from 1 to L."""
    start, variance = np.array([0.2, 0.3, 1.5]), 0.7
    ts = jnp.linspace(0.0, 5.0, 6)
    strength = lambda t: theory.layer_chain(t, start, 1.1, variance).strength
    _, speed = jax.jvp(strength, (ts,), (jnp.ones_like(ts),))
    mode = theory.layer_chain(ts, start, 1.1, variance)

    law = mode.effective_depth * variance * mode.strength**2 * (1.1 - mode.strength) / mode.layers[:, 0] ** 2
    np.testing.assert_allclose(speed, law, rtol=1e-11)
    np.testing.assert_allclose(mode.effective_depth, theory.effective_depth(mode.layers), rtol=1e-12)
    assert theory.effective_depth(np.array([1e-3, 1e-3, 4.0])) == pytest.approx(2 + 1e-6 / 16, rel=1e-14)


@pytest.mark.parametrize(("light", "rest"), [(1, 1e-2), (2, 1e-2), (3, 1e-4)])
def test_light_layers_are_a_chain_of_their_own(light, rest):
    """Depth n for w = u / K, with target S / K and time K^2 t."""
    heavy = np.array([4.0, 5.0])
    start, product = np.array([1e-4] * light + [*heavy]), heavy.prod()
    time = theory.layer_chain_time(start, 0.5, 1.0)
    alone = theory.deep_time(1e-4**light, 0.5 / product, 1 / product, light) / product**2

    assert time == pytest.approx(float(alone), rel=rest)
    assert time < alone


def test_delays_are_powers_of_the_start_by_the_number_of_light_layers():
    """Exponents 0, 0 with a logarithm, -1 and -2 for one to four light layers."""
    for light in (1, 2, 3, 4):
        small, smaller = (np.array([a] * light + [2.0]) for a in (1e-3, 1e-4))
        times = [float(theory.layer_chain_time(start, 0.6, 1.2, 0.8)) for start in (small, smaller)]
        laws = [theory.layer_chain_delay(a, light, 1.2, heavy=2.0, variance=0.8) for a in (1e-3, 1e-4)]
        if light > 2:
            assert np.log10(times[1] / times[0]) == pytest.approx(light - 2, abs=3e-3)
        if light == 2:
            assert times[1] - times[0] == pytest.approx(2 * np.log(10) / (2 * 1.2 * 2.0 * 0.8), rel=1e-4)
        if light == 1:
            assert times[1] == pytest.approx(times[0], rel=5e-3)
        np.testing.assert_allclose(times, laws, rtol=0.1 if light < 3 else 1e-2)


@pytest.mark.parametrize(("light", "rest"), [(3, 2e-3), (4, 2e-6)])
def test_the_power_law_delay_without_heavy_layers(light, rest):
    time = float(theory.layer_chain_time(np.full(light, 1e-3), 0.5, 1.0))
    assert theory.layer_chain_delay(1e-3, light, 1.0) == pytest.approx(time, rel=rest)


def test_a_heavy_layer_of_three_makes_the_delay_logarithmic_and_two_remove_it():
    starts = np.array([[1e-4, 1e-4, 1e-4], [1e-4, 1e-4, 1.0], [1e-4, 1.0, 1.0]])
    delays = theory.layer_chain_time(starts, 0.5, 1.0)
    assert delays[0] > 9e3
    assert delays[1] == pytest.approx(np.log(1e8) / 2, rel=0.1)
    assert delays[2] < 1


def test_chains_begin_and_end_where_they_should():
    start = jnp.array([1e-9, 1e-9, 5.0])
    speed = jax.grad(lambda t: theory.layer_chain(t, start, 1.3).strength)

    assert theory.layer_chain(0.0, start, 1.3).strength == pytest.approx(5e-18, rel=1e-13)
    assert theory.layer_chain(1e6, start, 1.3).strength == pytest.approx(1.3, rel=1e-15)
    assert speed(1e6) == 0
    assert theory.layer_chain(1.0, start, 1.3, 0.0).strength == pytest.approx(5e-18, rel=1e-13)
    np.testing.assert_allclose(theory.layer_chain(1.0, np.full(12, 1e-30), 1.0).layers, 1e-30, rtol=1e-12)
    there = theory.layer_chain_time(np.array([0.5, 0.8]), np.array([0.1, 0.4, 0.9]), 1.0)
    assert there[0] < 0 < there[2]
    assert there[1] == pytest.approx(0, abs=1e-14)


def test_chains_have_derivatives_by_all_that_they_depend_on():
    at = (jnp.array(2.0), jnp.array([0.2, 0.2, 1.4]), jnp.array(1.1), jnp.array(0.8))
    time = lambda a, s, e: theory.layer_chain_time(a, 0.7, s, e)
    for function, point in ((lambda *p: theory.layer_chain(*p).strength, at), (time, at[1:])):
        slopes = jax.jit(jax.grad(function, argnums=tuple(range(len(point)))))(*point)
        for k, slope in enumerate(slopes):
            way = jnp.arange(1.0, 1.0 + point[k].size).reshape(point[k].shape)
            far, near = (
                float(function(*point[:k], point[k] + h * way, *point[k + 1 :]))
                - float(function(*point[:k], point[k] - h * way, *point[k + 1 :]))
                for h in (2e-4, 1e-4)
            )
            assert jnp.sum(slope * way) == pytest.approx((8 * near - far) / 12e-4, rel=1e-8)


def test_chains_map_and_keep_float32():
    starts = jnp.array([[0.1, 0.2], [0.3, 0.4]], jnp.float32)
    mapped = jax.vmap(lambda a: theory.layer_chain(jnp.float32(3.0), a, jnp.float32(1.0)))(starts)
    exact = theory.layer_chain(3.0, np.asarray(starts, float), 1.0)

    assert mapped.strength.dtype == mapped.layers.dtype == jnp.float32
    np.testing.assert_allclose(mapped.strength, exact.strength, rtol=2e-5)
    np.testing.assert_allclose(mapped.layers, exact.layers, rtol=2e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.layer_chain(1.0, 0.5, 1.0), r"`a0` holds one number per layer.*it is a scalar"),
        (lambda: theory.layer_chain(1.0, np.array([0.5, -0.5]), 1.0), r"`a0` is the layers.*positive.*holds -0\.5"),
        (lambda: theory.layer_chain(1.0, np.array([2.0, 1.0]), 1.0), r"`prod\(a0\) - target` needs to be negative"),
        (lambda: theory.layer_chain(-1.0, np.array([0.2, 1.0]), 1.0), r"times that are not negative, but it holds -1"),
        (lambda: theory.layer_chain(1.0, np.array([0.2, 1.0]), -1.0), r"`target` is .* needs to be positive"),
        (lambda: theory.layer_chain_time(np.array([0.2, 1.0]), 1.5, 1.0), r"`end - target` needs to be negative"),
        (lambda: theory.layer_chain_delay(0.1, 0, 1.0), r"`light` is a whole number of at least 1, but it is 0"),
    ],
)
def test_chains_refuse_what_they_are_not(call, words):
    with pytest.raises(ValueError, match=words):
        call()
