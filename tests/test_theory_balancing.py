"""How descent and noise of labels balance the layers of a scalar network, against integrals, loops and limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad, solve_ivp

from layerflow import theory

ROUNDING = {"rtol": 2e-13, "atol": 1e-15}
WIDE = ([0.5, -0.2, 0.1], [0.3, 0.4, -0.6])


def one(*values):
    """Weights of width 1."""
    return [np.array([float(value)]) for value in values]


def from_output(output, difference):
    """Weights of width 1 with a b = `output` and a^2 - b^2 = `difference`."""
    a = np.sqrt((difference + np.hypot(difference, 2 * output)) / 2)
    return one(a, output / a)


@pytest.mark.parametrize(
    ("output", "tilt", "target", "variance", "value"),
    [
        (0.0, 1.5, 1.0, 1.0, 0.299306144334055),
        (-0.2, 0.6, 2.0, 0.7, 1.673056384555823),
        (0.1, 3.0, 1.0, 1.0, 0.129540867450080),
    ],
)
def test_balancing_is_the_reference_value_and_the_integral(output, tilt, target, variance, value):
    scale = np.hypot(output, tilt / 2)
    a = np.sqrt(scale + tilt / 2)
    found = theory.balancing(jnp.array([a]), jnp.array([output / a]), target, variance=variance)
    density = lambda f: variance * (target - f) / (2 * np.hypot(f, tilt / 2))

    assert found == pytest.approx(value, abs=1e-12)
    assert found == pytest.approx(quad(density, output, target, epsabs=1e-13)[0], abs=1e-10)


@pytest.mark.parametrize(("target", "z"), [(1.5, 2.0), (-0.8, 0.5)])
def test_small_steps_balance_by_the_law_at_any_width(target, z):
    a, b = map(jnp.array, WIDE)
    law = float(theory.balancing(a, b, target, z=z))
    small = []
    for eta in (4e-3, 2e-3):
        way = theory.scalar_descent(eta, int(40 / eta), a, b, target, z=z)
        small.append(-np.log(float(way.difference[-1] / way.difference[0])) / eta)

    assert 2 * small[1] - small[0] == pytest.approx(law, rel=2e-4)
    assert abs(small[1] - law) < 0.6 * abs(small[0] - law)  # first order in the step


@pytest.mark.parametrize("width", [1, 3])
def test_balancing_is_the_integral_along_the_flow(width):
    for seed in range(3):
        random = np.random.default_rng(seed)
        a, b = random.normal(size=(2, width)) * 0.8
        target, variance, z = random.normal(), random.uniform(0.5, 2), random.choice([-1, 1]) * random.uniform(0.5, 2)

        def velocity(_, y, target=target, variance=variance, z=z):
            a, b = np.split(y[:-1], 2)
            pull = variance / z * (target - np.sum(a * b) / z)
            return np.concatenate([pull * b, pull * a, [pull**2]])

        flow = solve_ivp(velocity, (0, 400), [*a, *b, 0], method="DOP853", rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(theory.balancing(a, b, target, z=z, variance=variance), flow.y[-1, -1], rtol=1e-9)


def test_balancing_is_the_first_order_of_descent():
    """-log(C_inf / C_0) / eta at eta, eta / 2, eta / 4 and eta / 8, extrapolated to 0."""
    network = (*from_output(0.1, 1.5), 1.0)
    slopes = []
    for eta in (0.02, 0.01, 0.005, 0.0025):
        difference = theory.scalar_descent(eta, round(40 / eta), *network).difference
        slopes.append(float(-np.log(difference[-1] / difference[0]) / eta))
    for order in (1, 2, 3):
        slopes = [(2**order * fine - coarse) / (2**order - 1) for coarse, fine in itertools.pairwise(slopes)]
    np.testing.assert_allclose(slopes, theory.balancing(*network), rtol=2e-8)


def test_balancing_keeps_its_digits_near_the_target_and_at_the_ends():
    """J -> E (S - f)^2 / (4 |Z| r) near f = S; at S = 0 from one half alone E Sigma / (2 |Z|)."""
    for target in (1.0, -1.0):
        b = target / 2 * (1 - 1e-9)
        r = np.sqrt(target**2 + ((4 - 0.25) / 2) ** 2)
        np.testing.assert_allclose(theory.balancing(*one(2.0, b), target), (target - 2.0 * b) ** 2 / (4 * r), rtol=1e-8)
    for b in (0.7, -0.7):
        np.testing.assert_allclose(theory.balancing(*one(0.7, b), 0.0), 0.49 / 2, **ROUNDING)
    assert theory.balancing(*one(0.7, -0.7), 1.0) == theory.balancing(*one(0.7, 0.7), -1.0) == np.inf  # the saddle
    assert theory.balancing(*one(0.0, 0.0), 0.0) == 0
    # Almost balanced and S = 0: E (A^(1/2) - B^(1/2))^2 / (4 |Z|), with all digits of the small one.
    a, b = 0.6, 0.6 * (1 + 1e-12)
    for sign in (1, -1):
        expected = (abs(a + b) - abs(a - b)) ** 2 / 8
        np.testing.assert_allclose(theory.balancing(*one(a, sign * b), 0.0), expected, **ROUNDING)
    # From a = b down to S << f: (E / 2) S (g - 1 - log g) with g = f / S.
    g = 1e12
    np.testing.assert_allclose(theory.balancing(*one(1, 1), 1 / g), (1 - 1 / g - np.log(g) / g) / 2, **ROUNDING)


@pytest.mark.parametrize("difference", [1.5, 0.01, 1e-6])
def test_balancing_is_its_closed_form_at_width_1(difference):
    c = difference
    expected = 0.7 * (np.arcsinh(4 / c) - np.arcsinh(-0.4 / c) - (np.hypot(c, 4) - np.hypot(c, 0.4)) / 4)
    np.testing.assert_allclose(theory.balancing(*from_output(-0.2, c), 2.0, variance=0.7), expected, rtol=1e-9)


def test_noise_of_the_target_balances_the_layers():
    """The mean of C over descents from a minimum: the exponent of the law is right within 0.5 %."""
    random = np.random.default_rng(0)
    eta, sigma, variance, steps, n = 0.02, 0.5, 1.2, 2000, 4000
    a, b = np.full(n, 1.6), np.full(n, 1 / 1.6)
    start = a[0] ** 2 - b[0] ** 2
    sharpness = theory.flow_sharpness(*one(1.6, 1 / 1.6), 1.0, variance=variance)
    for _ in range(steps):
        pull = eta * variance * (1 + sigma * random.normal(size=n) - a * b)
        a, b = a + pull * b, b + pull * a
    exponent = -np.log(np.mean(a**2 - b**2) / start)
    law = theory.label_noise_balancing(eta, sigma, sharpness=sharpness, variance=variance) * eta * steps
    without = theory.label_noise_balancing(eta, sigma, variance=variance) * eta * steps
    np.testing.assert_allclose(exponent, law, rtol=5e-3)
    assert exponent > 1.02 * without


def test_noise_at_an_unstable_minimum_has_no_rate():
    assert theory.label_noise_balancing(1.0, 0.5, sharpness=2.0) == np.inf
    np.testing.assert_allclose(theory.label_noise_balancing(0.5, 0.3, variance=2.0, z=-4.0), 0.5 * 0.15**2, **ROUNDING)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: theory.label_noise_balancing(x, 1.0), "learning_rate"),
        (lambda x: theory.label_noise_balancing(1.0, x), "noise"),
        (lambda x: theory.label_noise_balancing(1.0, 1.0, sharpness=x), "sharpness"),
        (lambda x: theory.two_cycle(x, 1.0), "learning_rate"),
        (lambda x: theory.balancing(*one(1.2, 0.1), 1.0, variance=x), "variance"),
    ],
)
def test_negative_sizes_are_told(function, name):
    with pytest.raises(ValueError, match=rf"`{name}` is .* needs to be at least 0, but it holds -1"):
        function(-1.0)


@pytest.mark.parametrize("function", [theory.two_cycle, theory.label_noise_balancing])
def test_outputs_are_not_divided_by_zero(function):
    with pytest.raises(ValueError, match=r"`z` needs numbers other than 0"):
        function(1.0, 1.0, z=0.0)


def test_float32_stays_float32_and_near():
    single = lambda *values: [jnp.asarray(value, jnp.float32) for value in values]
    found = theory.balancing(*single(*WIDE, 1.5), z=2.0), theory.label_noise_balancing(*single(0.5, 1.5), sharpness=1.0)
    exact = theory.balancing(*map(jnp.array, WIDE), 1.5, z=2.0), theory.label_noise_balancing(0.5, 1.5, sharpness=1.0)
    assert {number.dtype for number in found} == {np.dtype("float32")}
    np.testing.assert_allclose(found, exact, rtol=2e-6)


def test_derivatives_are_those_of_differences_and_exist_at_the_ends():
    order = {"order": 1, "eps": 1e-5, "atol": 1e-7, "rtol": 1e-7}
    check_grads(theory.balancing, (*map(jnp.array, WIDE), jnp.array(1.5)), **order)
    noise = lambda eta, sigma: theory.label_noise_balancing(eta, sigma, sharpness=1.0)
    check_grads(noise, (jnp.array(0.5), jnp.array(1.5)), **order)
    slope = jax.jit(jax.grad(lambda *s: jnp.nan_to_num(theory.balancing(*s), posinf=0.0), argnums=(0, 1, 2)))
    zero, half = jnp.zeros(2), jnp.full(2, 0.5)
    for a, b in ((zero, zero), (half, half), (half, -half), (half, zero)):
        for target in (0.0, 0.5, 1.0, -1.0):
            assert all(jnp.isfinite(part).all() for part in slope(a, b, jnp.array(target))), (a, b, target)
