"""Skills and their scaling laws, against the flow, brute-force sums and printed values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize_scalar
from scipy.special import zeta

from layerflow import theory
from layerflow.theory._scaling import _unlearned, _zeta

ALPHAS = np.array([0.3, 0.6, 0.9])


def test_reference_values_of_skills():
    frequency = theory.skill_frequencies(5, 0.6)
    expected = [0.59267363816, 0.19550938851, 0.10219310691, 0.064494046194, 0.045129820226]
    np.testing.assert_allclose(frequency, expected, rtol=1e-10)
    strengths = theory.skill_strengths_in_time(2.0, frequency, 1e-3, 5.0)
    expected = [0.96565929174, 0.0098849729896, 0.0015420012016, 0.00072608853626, 0.00049305494323]
    np.testing.assert_allclose(strengths / 5, expected, rtol=1e-10)
    np.testing.assert_allclose(theory.skill_loss(strengths, frequency, 5.0), 5.0465768833, rtol=1e-10)


def test_reference_values_of_scaling_constants():
    np.testing.assert_allclose(
        theory.time_law(ALPHAS, 0.01, 1.0).constant, [0.64532374726, 0.60006177308, 0.53033713040], rtol=1e-10
    )
    np.testing.assert_allclose(
        theory.data_law(ALPHAS, 1.0).constant, [0.52938987983, 0.44185876471, 0.36653498920], rtol=1e-10
    )
    np.testing.assert_allclose(
        theory.parameter_law(ALPHAS, 1.0).constant, [0.42387797423, 0.36457513815, 0.31750632229], rtol=1e-10
    )


def test_reference_values_of_the_compute_constant():
    """2 L / S^2 at S = 5, R(0) = 0.01, whose zeta is that of 5e4 skills: G ~ zeta^(alpha / (alpha + 2) - 1)."""
    constant = 2 * theory.compute_law(ALPHAS, 0.01, 5.0).loss.constant / 25
    finite = np.array([np.sum(np.arange(1.0, 50001.0) ** -(alpha + 1)) for alpha in ALPHAS])
    scaled = constant * (finite / zeta(ALPHAS + 1)) ** (ALPHAS / (ALPHAS + 2) - 1)
    np.testing.assert_allclose(scaled, [0.981, 0.789, 0.646], atol=5e-4)


def test_reference_values_of_figure_4():
    """THEORY.md, section 14: time with nu = 22 and c = 3.6 S / sigma^2 - 1, data with 800 shots, 4 parameters each."""
    frequency = theory.skill_frequencies(5, 0.6)
    steps = np.array([2000.0, 8000.0])
    shares = theory.skill_strengths_in_time(2 * 0.02 * steps / 22, frequency, 1e-4 / 3.6, 5.0) / 5
    np.testing.assert_allclose(shares[0, :2], [0.999921, 0.006751], atol=5e-7)
    np.testing.assert_allclose(shares[1, 2:4], [0.940685, 0.061818], atol=5e-7)
    data = theory.skill_strengths_in_data(np.array([500, 1500, 5000, 35000]), frequency, 1.0, shots=800)
    np.testing.assert_allclose((data[0, 0], data[1, 1], data[2, 2]), (0.206540, 0.204123, 0.398923), atol=5e-7)
    np.testing.assert_array_equal(data[3], 1)
    learned = theory.skill_strengths_in_parameters(np.array([0, 6, 20]), 5, 5.0, per_skill=4)
    np.testing.assert_array_equal(learned / 5, [[0, 0, 0, 0, 0], [1, 0.5, 0, 0, 0], [1, 1, 1, 1, 1]])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.floats(0.1, 2.0), st.floats(0.2, 5.0), st.floats(1e-4, 0.9))
def test_skills_follow_the_flow_of_their_layers(alpha, target, share):
    """a_k' = p_k b_k (S - a_k b_k), and the same for b_k, from a_k = b_k; 50 relaxation times of the first skill."""
    frequency = np.asarray(theory.skill_frequencies(4, alpha))

    def velocity(_, y):
        gap = frequency * (target - y[:4] * y[4:])
        return np.concatenate([gap * y[4:], gap * y[:4]])

    end = 50 / (2 * target * frequency[0])
    times, start = np.linspace(0.0, end, 6), np.full(8, (share * target) ** 0.5)
    run = solve_ivp(velocity, (0, end), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14)
    strengths = theory.skill_strengths_in_time(times, frequency, share * target, target)
    np.testing.assert_allclose(strengths, (run.y[:4] * run.y[4:]).T, rtol=1e-8)


def test_one_shot_emergence_is_the_average_over_data_sets():
    """Each skill is learned iff a sample asks for it: 20000 data sets, five standard errors."""
    frequency, rng = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    counts = rng.multinomial(7, frequency, size=20000)
    strengths = np.where(counts > 0, 5.0, 0.2)
    mean = theory.skill_strengths_in_data(7, frequency, 5.0, start=0.2)
    np.testing.assert_allclose(mean, strengths.mean(axis=0), atol=5 * 2.4 / 20000**0.5)
    losses = np.asarray(theory.skill_loss(strengths, frequency, 5.0))
    expected = theory.expected_skill_loss(7, frequency, 5.0, start=0.2)
    np.testing.assert_allclose(expected, losses.mean(), atol=5 * losses.std() / 20000**0.5)


def test_certain_skills_take_one_sample():
    strengths = theory.skill_strengths_in_data(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 5.0)
    np.testing.assert_array_equal(strengths, [[0, 0], [5, 0]])


def sums(alpha, skills=400_000):
    """Frequencies of the first skills of infinitely many, and the frequency of all others together."""
    ranks = np.arange(1, skills + 1.0)
    return ranks ** -(alpha + 1) / zeta(alpha + 1), zeta(alpha + 1, skills + 1) / zeta(alpha + 1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_laws_are_the_sums_over_skills(alpha):
    """Skills beyond those summed are not learned yet. What is left is the sum against the integral."""
    frequency, others = sums(alpha)
    unlearned = lambda share: 12.5 * (np.sum(frequency * (1 - share) ** 2) + others)
    share = 1 / (1 + 99 * np.exp(-2 * 5.0 * frequency * 600.0))
    brute = unlearned(share) - 12.5 * others * (1 - 0.99**2)  # the others are at R(0) = S / 100
    np.testing.assert_allclose(theory.time_law(alpha, 0.05, 5.0)(600.0), brute, rtol=3e-4)
    brute = 12.5 * (np.sum(frequency * (1 - frequency) ** 3000.0) + others)
    np.testing.assert_allclose(theory.data_law(alpha, 5.0)(3000), brute, rtol=3e-4)
    brute = 12.5 * (np.sum(frequency[2000:]) + others)
    np.testing.assert_allclose(theory.parameter_law(alpha, 5.0)(2000), brute, rtol=1e-3)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_optimal_parameters_are_those_of_least_loss(alpha):
    """Over all N at one compute, the skills beyond N being at 0."""
    frequency, others = sums(alpha)
    beyond = others + np.concatenate([np.cumsum(frequency[::-1])[::-1], [0.0]])
    law, compute = theory.compute_law(alpha, 0.01, 5.0), 1e9
    best = float(law.parameters(compute))
    candidates = np.unique(np.geomspace(best / 2, 2 * best, 101).astype(int))

    def loss(n):
        shares = 1 / (1 + 499 * np.exp(-10.0 * frequency[:n] * compute / n))
        return 12.5 * (np.sum(frequency[:n] * (1 - shares) ** 2) + beyond[n])

    losses = np.array([loss(n) for n in candidates])
    assert abs(np.log(candidates[np.argmin(losses)] / best)) < 0.03
    np.testing.assert_allclose(law.loss(compute), losses.min(), rtol=3e-3)
    np.testing.assert_allclose(law.parameters(compute) * law.time(compute), compute, rtol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_compute_law_is_the_minimum_of_its_envelope(alpha):
    """2 L / S^2 = C^(-alpha / (alpha + 2)) x^(alpha / (alpha + 2)) G(x), minimised without its derivative."""
    power = alpha + 1

    def envelope(log_x):
        speed = 2 * 5.0 * np.exp(log_x) / zeta(power)
        # In v = 1 / q, whose integrand falls off beyond the odds of 499.
        integrand = lambda v: v ** (alpha - 1) * (1 + np.exp(min(speed * v**power, 700.0)) / 499) ** -2.0
        integral = quad(integrand, 1, max((40 / speed) ** (1 / power), 1.1), epsabs=1e-13, epsrel=1e-13, limit=500)[0]
        return np.exp(alpha / (alpha + 2) * log_x) * (integral + 1 / alpha) / zeta(power)

    least = minimize_scalar(envelope, bounds=(-4, 6), method="bounded", options={"xatol": 1e-9})
    law = theory.compute_law(alpha, 0.01, 5.0)
    np.testing.assert_allclose(law.loss.constant, 12.5 * least.fun, rtol=1e-10)
    np.testing.assert_allclose(law.parameters.constant, np.exp(-least.x / (alpha + 2)), rtol=1e-5)


def test_integral_of_what_is_not_learned():
    """The quadrature over its whole range of exponents and starts; the reference has no end-point singularity."""
    alphas, odds = np.meshgrid([0.1, 0.3, 1.0, 2.0, 10.0], np.log([1e-2, 1.0, 99.0, 1e9]))
    found = _unlearned(jnp.zeros(alphas.shape), jnp.asarray(alphas), jnp.asarray(odds))

    def reference(alpha, c):
        power = (alpha + 1) / alpha
        integrand = lambda v: power * (1 + np.exp(min(v**power, 700.0) - c)) ** -2.0
        return quad(integrand, 0, (max(c, 0) + 30) ** (1 / power), epsabs=0, epsrel=1e-12, limit=500)[0]

    np.testing.assert_allclose(found, np.vectorize(reference)(alphas, odds), rtol=1e-11)


def test_zeta_function():
    s = jnp.array([1.001, 1.3, 2.0, 6.0, 30.0])
    np.testing.assert_allclose(_zeta(s), zeta(np.asarray(s)), rtol=1e-14)


def constants(x):
    """All constants of the laws, of alpha, R(0) and S."""
    laws = (theory.time_law(*x), theory.data_law(x[0], x[2]), theory.parameter_law(x[0], x[2]), theory.compute_law(*x))
    return jnp.stack(jax.tree.leaves(laws))


@pytest.mark.slow
def test_derivatives_of_laws_agree_with_differences():
    values, point = jax.jit(constants), np.array([0.6, 0.05, 2.0])
    forward, backward = jax.jit(jax.jacfwd(constants))(point), jax.jit(jax.jacrev(constants))(point)
    differences = np.stack([(values(point + d) - values(point - d)) / 2e-5 for d in 1e-5 * np.eye(3)], axis=-1)
    np.testing.assert_allclose(forward, differences, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(forward, backward, rtol=1e-11, atol=1e-13)
    single = values(np.float32(point))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, values(point), rtol=1e-5)


def test_strengths_of_skills_have_finite_derivatives_at_their_ends():
    frequency = jnp.array([0.5, 0.3, 0.2])
    last_shot = jax.grad(lambda d: theory.skill_strengths_in_data(d, frequency, 1.0, shots=10.0)[0])
    one_shot = jax.grad(lambda p: theory.skill_strengths_in_data(3.0, p, 1.0)[0])
    part = jax.grad(lambda n: theory.skill_strengths_in_parameters(n, 3, 1.0)[1])
    assert np.isfinite(last_shot(20.0))
    assert np.all(np.isfinite(one_shot(jnp.array([1.0, 0.0, 0.0]))))
    assert np.isfinite(part(2.0))
    np.testing.assert_allclose(last_shot(10.0), 0.5 * 0.05 / 0.5**0.5)


def test_skills_broadcast_and_stay_finite():
    frequency = theory.skill_frequencies(4, np.array([0.3, 0.9]))
    np.testing.assert_allclose(jnp.sum(frequency, axis=-1), 1.0)
    strengths = theory.skill_strengths_in_time(np.array([[0.0], [1e8], [1.0]]), frequency, 0.1, 1.0)
    assert strengths.shape == (3, 2, 4)
    np.testing.assert_allclose(strengths[:2], np.array([0.1, 1.0])[:, None, None] * np.ones((2, 2, 4)))
    assert theory.skill_loss(strengths, frequency, 1.0).shape == (3, 2)
    assert theory.time_law(ALPHAS[:, None], 0.1, np.array([1.0, 2.0]))(10.0).shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.skill_frequencies(0, 0.6), r"`n_skills` is a number of skills and .* at least 1, but it is 0"),
        (lambda: theory.skill_frequencies(3, -0.6), r"`alpha` is the exponent .* positive, but it holds -0\.6"),
        (lambda: theory.skill_strengths_in_time(-1.0, np.ones(2) / 2, 0.1, 1.0), r"not negative, but it holds -1\.0"),
        (lambda: theory.skill_loss(np.ones(2), np.array([0.5, 1.5]), 1.0), r"numbers in \[0, 1\], but it holds 1\.5"),
        (lambda: theory.skill_strengths_in_data(-3, np.ones(2) / 2, 1.0), r"`samples` .* at least 0, but it holds -3"),
        (
            lambda: theory.skill_strengths_in_data(3, np.ones(2) / 2, 1.0, shots=0),
            r"`shots` .* positive, but it holds 0",
        ),
        (
            lambda: theory.skill_strengths_in_parameters(3, 2, 1.0, per_skill=0),
            r"`per_skill` .* positive, but it holds 0",
        ),
        (lambda: theory.time_law(0.6, 2.0, 1.0), r"`start - target` needs to be negative, but it holds 1\.0"),
        (lambda: theory.data_law(0.6, 1.0)(0.0), r"`resource` is what is spent .* positive, but it holds 0\.0"),
    ],
)
def test_errors_name_what_was_assumed_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_values_are_checked_as_well():
    with pytest.raises(eqx.EquinoxRuntimeError, match="exponent of the law of frequencies"):
        eqx.filter_jit(theory.data_law)(jnp.array(-0.6), jnp.array(1.0))
