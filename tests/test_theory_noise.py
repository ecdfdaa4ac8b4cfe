"""Linear regression on finite noisy samples, when to stop it and its grokking."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp

from layerflow import theory
from layerflow.theory._marchenko_pastur import kept, spectrum

ROUNDING = dict(rtol=2e-12)
ACCURACY_95 = 1e-3 / 3.841458820694124  # the variance of Gaussian errors of which 95 % are within sqrt(1e-3)
RATIOS = [0.01, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0, 1 + 1e-6, 1.1, 2.0, 10.0, 100.0]
FEW_RATIOS = [0.01, 1 + 1e-6, 2.0]


def squared(signal=1.0, noise=0.0, start=0.0):
    """Sizes from their squares, which the reference values are told by."""
    return {"signal": signal**0.5, "noise": noise**0.5, "start": start**0.5}


def least_error(ratio, **sizes):
    return theory.estimator_errors(theory.best_stopping_time(ratio, **sizes), ratio, **sizes).test


def exact_mean(function, ratio):
    """Mean over the eigenvalues that are not 0, to 25 digits: a sum in the logarithm of the distance from the edge."""
    with mp.workdps(30):
        a = mp.mpf(ratio)
        lowest, half = (1 - 1 / mp.sqrt(a)) ** 2, 2 / mp.sqrt(a)

        def density(log_angle):
            angle = mp.exp(log_angle)
            eta = lowest + 2 * half * mp.sin(angle / 2) ** 2
            return function(eta) * a * half**2 * mp.sin(angle) ** 2 / (2 * mp.pi * eta) * angle

        top = mp.log(mp.pi)
        return mp.quad(density, [top - 70, top - 45, *(top - k for k in range(30, -1, -1))])


def exact_errors(t, ratio, signal=1.0, noise=0.0, start=0.0, decay=0.0):
    """The averages over the eigenvalues as they stand in the docstring."""
    with mp.workdps(30):
        t, a, nu = mp.mpf(t), mp.mpf(ratio), mp.mpf(decay)
        s2, n2, w2 = (mp.mpf(size) ** 2 for size in (signal, noise, start))
        e = lambda eta: mp.exp(-(eta + nu) * t)
        q = lambda eta: -mp.expm1(-(eta + nu) * t) / (eta + nu) if eta + nu else t
        left = lambda eta: nu * q(eta) + e(eta)
        test = lambda eta: s2 * left(eta) ** 2 + w2 * e(eta) ** 2 + n2 / a * eta * q(eta) ** 2
        train = lambda eta: eta * (s2 * left(eta) ** 2 + w2 * e(eta) ** 2) + n2 / a * left(eta) ** 2
        # mpmath stops at an absolute error: what all have in common is taken out.
        least = mp.mpf(1) if decay else e((1 - 1 / mp.sqrt(a)) ** 2) ** 2
        unit = mp.mpf(1) if noise else least
        found_test = unit * exact_mean(lambda eta: test(eta) / unit, ratio) + max(1 - a, 0) * test(mp.mpf(0))
        found_train = least * exact_mean(lambda eta: train(eta) / least, ratio) + n2 * max(1 - 1 / a, 0)
        return found_test, found_train


# ---- The quadrature


@pytest.mark.parametrize("ratio", RATIOS)
def test_moments_of_the_spectrum(ratio):
    """1, 1 + 1/a and 1 + 3/a + 1/a^2, and <1/eta> of what is not 0."""
    law = spectrum(jnp.array(ratio))
    moments = [law.mean(law.eta**n) for n in range(4)]
    expected = [min(ratio, 1.0), 1.0, 1 + 1 / ratio, 1 + 3 / ratio + 1 / ratio**2]
    np.testing.assert_allclose(moments, expected, rtol=1e-14)
    if ratio != 1:
        inverse = ratio / (ratio - 1) if ratio > 1 else ratio**2 / (1 - ratio)
        np.testing.assert_allclose(law.mean(1 / law.eta), inverse, rtol=1e-13)


def check_errors(t, ratio, **sizes):
    errors = theory.estimator_errors(t, ratio, **sizes)
    test, train = exact_errors(t, ratio, **sizes)
    for found, expected in ((errors.test, test), (errors.train, train)):
        if expected > 1e-300:  # floats end there
            assert abs(mp.mpf(float(found)) / expected - 1) < 2e-12, (t, ratio, sizes, found, expected)


@pytest.mark.parametrize("ratio", FEW_RATIOS)
def test_errors_are_exact_to_rounding(ratio):
    """A few of the cases that the slow test has all of."""
    check_errors(1e3, ratio, noise=0.5, start=0.3, decay=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.0, 0.3, 30.0, 1e3, 1e6, 1e8, 1e15])
@pytest.mark.parametrize("ratio", RATIOS)
def test_errors_are_exact_to_rounding_everywhere(ratio, t):
    """Also where the test error is as small as floats can be."""
    check_errors(t, ratio, start=0.3)
    check_errors(t, ratio, noise=0.5)
    check_errors(t, ratio, noise=0.5, start=2.0, decay=1e-3)


@pytest.mark.parametrize("ratio", [1 - 1e-9, 1 + 1e-6])
def test_few_samples_more_or_less_than_inputs_count_to_all_digits(ratio):
    """At late times the share of zeros, 1e-9 or 1e-6 here, is all there is of an error."""
    check_errors(1e15, ratio, noise=0.5)


def test_errors_keep_their_digits_where_they_are_small():
    """1e-100 and less."""
    check_errors(1500.0, 2.0)
    assert theory.estimator_errors(1500.0, 2.0).test < 1e-100


# ---- Reference values


@pytest.mark.parametrize(
    ("t", "ratio", "signal", "start", "noise", "decay", "test", "train"),
    [
        (2.0, 0.5, 1.0, 0.0, 0.25, 0.0, 0.657730597430462, 0.0224106003835859),
        (10.0, 1.0, 1.0, 0.5, 0.25, 0.0, 0.593436307595691, 0.0361262944180025),
        (5.0, 2.0, 1.0, 0.0, 0.25, 0.0, 0.184460073545683, 0.135302439189717),
        (30.0, 0.8, 1.0, 2.0, 0.1, 0.02, 0.552428883072070, 0.00309833555917448),
        (100.0, 1.0, 1.0, 0.0, 0.04, 0.0, 0.284642304162790, 0.00169491220442826),
    ],
)
def test_reference_values_of_the_errors(t, ratio, signal, start, noise, decay, test, train):
    errors = theory.estimator_errors(t, ratio, **squared(signal, noise, start), decay=decay)
    np.testing.assert_allclose([errors.test, errors.train], [test, train], **ROUNDING)


@pytest.mark.parametrize(
    ("ratio", "signal", "noise", "decay", "test"),
    [
        (0.5, 1.0, 0.25, 0.5, 0.640388203202208),
        (1.0, 1.0, 0.01, 0.01, 0.0951249219725039),
        (3.0, 2.0, 0.1, 1 / 60, 0.0482135258357287),
    ],
)
def test_reference_values_of_the_best_ridge(ratio, signal, noise, decay, test):
    ridge = theory.optimal_ridge(ratio, signal=signal**0.5, noise=noise**0.5)
    np.testing.assert_allclose([ridge.decay, ridge.test], [decay, test], **ROUNDING)


def test_reference_value_of_an_estimator():
    x = jnp.array([[1.1, -0.3, 0.2], [0.4, 0.9, -0.5]])
    w = theory.linear_estimator(3.0, x, jnp.array([1.0, -0.5]), jnp.array([0.1, 0.2, -0.3]))
    np.testing.assert_allclose(w, [0.592571201319568, -0.564066225990183, 0.146971944516579], **ROUNDING)


# ---- Given data


@pytest.mark.parametrize("samples", [5, 3, 2])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_an_estimator_is_the_flow(samples, decay):
    """More samples than inputs, as many, and fewer."""
    x, y, w0 = (np.random.default_rng(1).normal(size=shape) for shape in ((samples, 3), (samples,), (3,)))
    times = np.array([0.0, 0.1, 2.0, 30.0])
    velocity = lambda _, w: -(x.T @ (x @ w - y)) / samples - decay * w
    run = solve_ivp(velocity, (0.0, 30.0), w0, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(theory.linear_estimator(times, x, y, w0, decay=decay), run.y.T, rtol=1e-9, atol=1e-11)


def test_an_estimator_keeps_what_no_sample_sees():
    """At any time, with the same sample twice and an input that is always 0."""
    x = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    w = theory.linear_estimator(1e12, x, np.array([2.0, 4.0]), np.array([0.7, 0.3, 5.0]))
    np.testing.assert_allclose(w, [1.7, 1.3, 5.0], rtol=1e-3)  # rounding of 1e-16 has grown for 1e12
    w = theory.linear_estimator(100.0, x, np.array([2.0, 4.0]), np.array([0.7, 0.3, 5.0]))
    np.testing.assert_allclose(w, [1.7, 1.3, 5.0], rtol=1e-12)
    w = theory.linear_estimator(2.0, x, np.zeros(2), np.array([0.5, -0.5, 5.0]), decay=0.1)
    np.testing.assert_allclose(w, np.exp(-0.2) * np.array([0.5, -0.5, 5.0]), rtol=1e-12)


def draws(ratio, count, inp, t, decay=0.0, signal=1.0, noise=0.0, start=0.0):
    """Errors of finite draws."""
    rng, n, errors = np.random.default_rng(0), round(ratio * inp), []
    for _ in range(count):
        x, w_star, w0 = rng.normal(size=(n, inp)), rng.normal(size=inp), rng.normal(size=inp)
        w_star, w0 = signal * w_star / np.linalg.norm(w_star), start * w0 / np.linalg.norm(w0)
        y = x @ w_star + noise * rng.normal(size=n)
        w = np.asarray(theory.linear_estimator(t, x, y, w0, decay=decay))
        errors.append((np.sum((w - w_star) ** 2), np.mean((x @ w - y) ** 2)))
    return np.array(errors)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_finite_draws_agree_within_three_standard_errors(ratio):
    sizes = dict(signal=1.0, noise=0.5, start=0.7, decay=0.02)
    errors = draws(ratio, 20, 40, 4.0, **sizes)
    expected = theory.estimator_errors(4.0, ratio, **sizes)
    standard_errors = errors.std(axis=0, ddof=1) / len(errors) ** 0.5
    distance = (errors.mean(axis=0) - np.array([expected.test, expected.train])) / standard_errors
    assert np.all(np.abs(distance) < 3), distance


@pytest.mark.slow
@pytest.mark.parametrize(("inp", "spread"), [(200, 0.12), (800, 0.05)])
def test_one_draw_deviates_as_stated(inp, spread):
    """Root mean square deviation of the test error, over times and ratios, within a factor 2."""
    deviations = []
    for ratio in (0.5, 1.0, 2.0):
        for t in (2.0, 30.0):
            errors = draws(ratio, 6, inp, t, noise=0.5)[:, 0]
            deviations.append(errors / float(theory.estimator_errors(t, ratio, noise=0.5).test) - 1)
    assert spread / 2 < np.sqrt(np.mean(np.square(deviations))) < 2 * spread


# ---- Limits


@pytest.mark.parametrize("ratio", [0.3, 0.999, 1.001, 3.0])
def test_limits_without_decay(ratio):
    limit = theory.estimator_limit(ratio, **squared(1.3, 0.25, 0.4))
    if ratio > 1:
        expected = 0.25 / (ratio - 1), (1 - 1 / ratio) * 0.25
    else:
        expected = (1 - ratio) * (1.3 + 0.4) + 0.25 * ratio / (1 - ratio), 0.0
    np.testing.assert_allclose([limit.test, limit.train], expected, rtol=1e-13)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.999, 1.0, 1.001, 3.0, 100.0])
@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.5])
def test_errors_go_to_their_limits(ratio, decay):
    sizes = dict(signal=1.2, noise=0.5, start=0.3, decay=decay)
    limit, late = theory.estimator_limit(ratio, **sizes), theory.estimator_errors(1e10, ratio, **sizes)
    if ratio == 1 and decay == 0:
        assert limit.test == np.inf
        assert limit.train == 0
        assert late.train < 1e-5
    else:
        np.testing.assert_allclose([limit.test, limit.train], [late.test, late.train], rtol=1e-11, atol=1e-300)


def test_without_noise_as_many_samples_as_inputs_learn_all():
    limit = theory.estimator_limit(1.0)
    assert (limit.test, limit.train) == (0, 0)


def test_where_no_samples_are_the_start_stays():
    """(1 - a) |w0|^2 is the price of a large start, for ever without decay."""
    large, zero = (theory.estimator_errors(1e6, 0.5, start=start).test for start in (3.0, 0.0))
    np.testing.assert_allclose(large - zero, 0.5 * 9.0, rtol=1e-12)
    assert theory.estimator_limit(0.5, start=3.0, decay=1e-9).test == theory.estimator_limit(0.5, decay=1e-9).test


# ---- Stopping


def test_overtraining_grows_with_the_root_of_time_at_as_many_samples_as_inputs_only():
    times = jnp.array([1e6, 4e6])
    noise, signal = (theory.estimator_errors(times, 1.0, **sizes).test for sizes in (squared(0, 1), squared(1, 0)))
    np.testing.assert_allclose(noise, 0.66099 * times**0.5, rtol=1e-3)
    np.testing.assert_allclose(noise[0] / theory.critical_error(1e6, signal=0.0, noise=1.0), 0.9992, atol=5e-5)
    np.testing.assert_allclose(signal, 1 / jnp.sqrt(2 * math.pi * times), rtol=1e-3)
    np.testing.assert_allclose(signal, theory.critical_error(times), rtol=1e-6)
    for ratio in (0.9, 1.1):
        noise = theory.estimator_errors(times, ratio, **squared(0, 1)).test
        np.testing.assert_allclose(noise[1], noise[0], rtol=1e-12)


def test_best_stopping_times_come_to_their_law():
    snr = 10.0 ** np.arange(1, 5)
    time = theory.best_stopping_time(1.0, noise=snr**-0.5)
    np.testing.assert_allclose(theory.critical_stopping_time(noise=snr**-0.5), 0.60355 * snr, rtol=1e-5)
    ratio = time / theory.critical_stopping_time(noise=snr**-0.5)
    np.testing.assert_allclose(ratio[:3], [1.0077, 1.0007, 1.00007], rtol=5e-5)
    error = theory.estimator_errors(time, 1.0, noise=snr**-0.5).test * snr**0.5
    np.testing.assert_allclose(error, [0.878, 0.978, 1.011, 1.022], atol=5e-4)
    best = theory.critical_error(theory.critical_stopping_time(noise=1e-3), noise=1e-3) * 1e3
    np.testing.assert_allclose(best, 1.02703, atol=5e-6)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.999, 1.0, 1.5, 30.0])
@pytest.mark.parametrize("snr", [0.1, 4.0, 1e4])
def test_the_best_stopping_time_is_best(ratio, snr):
    """On a fine grid, and where the derivative is 0."""
    sizes = squared(0.6, 1 / snr, 0.4)
    time = theory.best_stopping_time(ratio, **sizes)
    others = theory.estimator_errors(time * np.logspace(-3, 3, 61), ratio, **sizes).test
    assert np.argmin(others) == 30
    slope = jax.grad(lambda t: jnp.log(theory.estimator_errors(t, ratio, **sizes).test))(time) * time
    assert abs(slope) < 1e-12


def test_stopping_where_there_is_nothing_to_stop():
    assert theory.best_stopping_time(2.0, noise=0.0) == np.inf
    assert theory.best_stopping_time(2.0, signal=0.0, noise=0.5) == 0
    assert theory.direction_stopping_time(1.0, 2.0, noise=0.0) == np.inf
    assert theory.critical_stopping_time(noise=0.0) == np.inf
    time = theory.direction_stopping_time(0.0, 2.0, signal=3.0, noise=0.5, start=1.0)
    np.testing.assert_allclose(time, 2.0 * 10 / 0.25, rtol=1e-14)


@pytest.mark.parametrize(("ratio", "signal", "noise"), [(0.5, 1, 0.25), (1.0, 1, 0.25), (3.0, 2, 0.1), (0.2, 1, 0.01)])
def test_directions_stopped_each_at_its_own_time_are_the_best_ridge(ratio, signal, noise):
    """To rounding; nothing is learned where the eigenvalue is 0."""
    sizes = squared(signal, noise)
    law = spectrum(jnp.array(ratio))
    times = theory.direction_stopping_time(law.eta, ratio, **sizes)
    e = jnp.exp(-law.eta * times)
    error = signal * e**2 + noise / ratio * (1 - e) ** 2 / law.eta
    stopped = law.mean(error) + max(1 - ratio, 0) * signal
    ridge = theory.optimal_ridge(ratio, signal=sizes["signal"], noise=sizes["noise"])
    np.testing.assert_allclose(stopped, ridge.test, rtol=1e-13)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_the_best_ridge_is_the_best_decay(ratio):
    ridge = theory.optimal_ridge(ratio, noise=0.5)
    decays = ridge.decay * np.logspace(-2, 2, 41)
    others = theory.estimator_limit(ratio, noise=0.5, decay=decays).test
    assert np.argmin(others) == 20
    np.testing.assert_allclose(others[20], ridge.test, rtol=1e-14)
    np.testing.assert_allclose(
        jax.grad(lambda nu: theory.estimator_limit(ratio, noise=0.5, decay=nu).test)(ridge.decay), 0.0, atol=1e-14
    )


def test_ridge_without_noise_or_without_signal():
    exact, nothing = theory.optimal_ridge(0.4, noise=0.0), theory.optimal_ridge(2.0, signal=0.0, noise=0.5)
    assert exact.decay == 0
    np.testing.assert_allclose(exact.test, 0.6, rtol=1e-14)
    assert (nothing.decay, nothing.test) == (np.inf, 0)


def test_one_stopping_time_loses_little_against_ridge():
    """0.7 %, 2.5 % and 1.5 %, and at most 4 % for ratios from 0.2 to 3."""
    ratio, sizes = np.array([0.5, 1.0, 3.0]), squared(np.array([1.0, 1.0, 2.0]), np.array([0.25, 0.25, 0.1]))
    ridge = theory.optimal_ridge(ratio, signal=sizes["signal"], noise=sizes["noise"]).test
    np.testing.assert_allclose(least_error(ratio, **sizes) / ridge - 1, [0.007, 0.025, 0.015], atol=5e-4)
    ratio, noise = np.linspace(0.2, 3.0, 57)[:, None], np.array([1.0, 0.5, 0.2])
    lost = least_error(ratio, noise=noise) / theory.optimal_ridge(ratio, noise=noise).test - 1
    assert 0 < lost.min() < lost.max() < 0.04


def test_the_peak_over_samples_comes_long_after_the_best_time_only():
    """Near as many samples as inputs at fixed times; none with the best time, or ridge."""
    ratios = np.linspace(0.2, 2.0, 181)
    snr, t = np.array([1, 4, 4, 25, 25.0])[:, None], np.array([30, 30, 300, 300, 3000.0])[:, None]
    error = np.asarray(theory.estimator_errors(t, ratios, noise=snr**-0.5).test)
    # At 25 and 300 there is a maximum by itself, at 0.98, but lower than the error of few samples.
    np.testing.assert_allclose(ratios[error.argmax(axis=1)], [0.95, 0.87, 0.99, 0.2, 1.0], atol=1e-9)
    assert error[3].max() > 1.5 * error[3, ratios > 0.8].max()
    noise = np.array([1.0, 0.5, 0.2])[:, None]
    assert np.all(np.diff(least_error(ratios[::3], noise=noise), axis=1) < 0)
    assert np.all(np.diff(theory.optimal_ridge(ratios, noise=noise).test, axis=1) < 0)


# ---- Grokking


def test_accuracies_of_gaussian_errors():
    np.testing.assert_allclose(theory.variance_of_accuracy(0.95, 1e-3), ACCURACY_95, rtol=1e-12)
    np.testing.assert_allclose(theory.accuracy_of_variance(ACCURACY_95, 1e-3), 0.95, rtol=1e-12)
    errors = np.random.default_rng(0).normal(size=100_000)
    share = np.mean(errors**2 < 0.7)
    assert abs(theory.accuracy_of_variance(1.0, 0.7) - share) < 3 * 0.5 / len(errors) ** 0.5
    assert theory.accuracy_of_variance(0.0, 1.0) == 1


def test_delays_and_the_edge_law():
    """The law is for thresholds much smaller than those in use."""
    loads = np.array([0.3, 0.5, 0.7, 0.9, 0.97])
    delays = theory.estimator_times(ACCURACY_95, 1 / loads).delay
    np.testing.assert_allclose(delays, [2.394, 8.596, 36.80, 405.6, 3417], rtol=2e-4)
    law = theory.edge_delay(1 / loads)
    np.testing.assert_allclose(law, [3.88, 14.3, 67.9, 1128, 18351], rtol=2e-3)
    assert 5 < law[-1] / delays[-1] < 6
    small = theory.estimator_times(10.0 ** np.array([-10.0, -30.0, -100.0, -200.0, -290.0]), 2.0).delay
    distance = 1 - small / theory.edge_delay(2.0)
    assert np.all(np.diff(distance) < 0)
    assert 0 < distance[-1] < 0.01


def test_times_are_where_the_errors_are_at_the_threshold():
    decay = np.array([0.1, 0.01, 1e-3, 0.0, 0.0])
    ratio, sizes = np.array([0.2, 0.8, 1.0, 1.2, 5.0]), dict(signal=0.8, start=2.0, decay=decay)
    threshold = theory.estimator_limit(ratio, **sizes).test + 0.02
    times = theory.estimator_times(threshold, ratio, **sizes)
    np.testing.assert_allclose(theory.estimator_errors(times.test, ratio, **sizes).test, threshold, rtol=1e-12)
    np.testing.assert_allclose(theory.estimator_errors(times.train, ratio, **sizes).train, threshold, rtol=1e-12)
    np.testing.assert_array_equal(times.delay, times.test - times.train)


def test_times_that_never_come_and_that_are_over():
    """The last comes after 1e23, beyond what is computed."""
    threshold, ratio = np.array([0.3, 0.3, 1.5, 0.1, 1e-12]), np.array([0.3, 0.9, 0.3, 0.3, 1.0])
    times = theory.estimator_times(threshold, ratio, signal=np.array([1.0, 1.0, 1.0, 0.0, 1.0]))
    assert np.isfinite(times.test).tolist() == [False, True, True, True, False]
    assert np.all(times.train[:2] < times.test[:2])
    np.testing.assert_array_equal(times.test[2:], [0, 0, np.inf])
    np.testing.assert_array_equal(times.train[2:4], 0)
    assert times.train[4] < np.inf


def test_late_errors_are_those_of_the_edge():
    """For a = 2, less than the law by 6.8 %, 1.8 % and 0.5 % at eta_- t = 10, 40 and 160."""
    lowest = (1 - 0.5**0.5) ** 2
    t = np.array([10.0, 40.0, 160.0]) / lowest
    errors, law = theory.estimator_errors(t, 2.0), theory.edge_errors(t, 2.0)
    np.testing.assert_allclose(errors.test / law.test - 1, [-0.068, -0.018, -0.005], atol=5e-4)
    np.testing.assert_allclose(law.train, lowest * law.test, rtol=1e-13)
    np.testing.assert_allclose(errors.train[-1] / law.train[-1], 1, atol=0.01)


def test_the_delay_at_as_many_samples_as_inputs():
    threshold = np.array([ACCURACY_95, 2e-4, 1e-4, 3e-5, 1e-5])
    delay = theory.estimator_times(threshold, 1.0).delay
    np.testing.assert_allclose(delay, theory.critical_delay(threshold), rtol=1e-9)
    np.testing.assert_allclose(delay, 1 / (2 * math.pi * threshold**2), rtol=1e-3)
    larger = theory.critical_delay(threshold * 5, signal=1.0, start=2.0)
    np.testing.assert_allclose(larger, theory.critical_delay(threshold), rtol=1e-13)


def test_fewer_samples_generalise_by_decay_alone():
    """a = 0.8, nu = 1e-3, |w0|^2 = 100, at 1.5 floors."""
    sizes = dict(start=10.0, decay=1e-3)
    threshold = 1.5 * theory.estimator_limit(0.8, **sizes).test
    decay = np.array([0.0, 1e-3, 1e-3, 1e-3, 1e-3])
    times = theory.estimator_times(threshold, 0.8, start=10.0, decay=decay)
    np.testing.assert_allclose(times.train[1], 7.9, atol=0.05)
    np.testing.assert_allclose(times.test[1], 2649, atol=0.5)
    np.testing.assert_allclose(times.test[1], theory.forgetting_time(threshold, 0.8, **sizes), rtol=1e-12)
    assert times.test[0] == np.inf
    assert theory.forgetting_time(0.1, 0.8, **sizes) == np.inf  # below the floor
    assert theory.forgetting_time(50.0, 0.8, **sizes) == 0  # above the start


# ---- As arrays and under transformations

ARGUMENTS = dict(signal=1.1, noise=0.5, start=0.7)


def check_slopes(function, *arguments, second=True):
    """First derivatives, forwards and backwards, and second ones against differences, for arrays of numbers."""
    arguments = [jnp.broadcast_to(jnp.asarray(a), (3,)) for a in arguments]

    def slope(k):
        along = lambda *at: jax.jvp(lambda x: function(*at[:k], x, *at[k + 1 :]), (at[k],), (jnp.ones(3),))[1]
        return jax.jit(along)

    backwards = jax.jit(jax.grad(lambda at: jnp.sum(function(*at))))(arguments)
    for k in range(len(arguments)):
        np.testing.assert_allclose(backwards[k], slope(k)(*arguments), rtol=1e-9, atol=1e-12)
    pairs = [(function, slope(0))]
    pairs += [(slope(0), jax.jit(lambda *at: jax.jvp(lambda x: slope(0)(x, *at[1:]), at[:1], (jnp.ones(3),))[1]))]
    for k, (value, expected) in enumerate(pairs[: 1 + second]):
        step = 1e-5
        up, down = (value(arguments[0] + sign * step, *arguments[1:]) for sign in (1, -1))
        difference = (up - down) / (2 * step)
        np.testing.assert_allclose(expected(*arguments), difference, rtol=1e-6 * 10**k, atol=1e-8)


def test_errors_have_derivatives():
    """Those by the ratio are smooth at 1, where the share of zeros has a kink."""
    ratio = jnp.array([0.5, 1.0, 3.0])

    def errors(ratio, t, signal, noise, start, decay):
        errors = theory.estimator_errors(t, ratio, signal=signal, noise=noise, start=start, decay=decay)
        return errors.test + 2 * errors.train

    check_slopes(errors, ratio, 3.0, 1.1, 0.5, 0.7, 0.1)


def test_derivatives_by_the_ratio_are_smooth_at_one():
    """First and second at late times, from both sides."""
    error = lambda ratio: theory.estimator_errors(1e4, ratio, **ARGUMENTS).test
    for derivative, apart in ((jax.grad(error), 1e-6), (jax.grad(jax.grad(error)), 1e-7)):
        below, at, above = (derivative(1 + step) for step in (-apart, 0.0, apart))
        np.testing.assert_allclose([below, above], at, rtol=0.1)
        np.testing.assert_allclose(0.5 * (below + above), at, rtol=1e-6)


def test_the_errors_have_no_kink_where_the_sum_changes_its_form():
    """At (slope of the function) eta_- = 1."""
    lowest = 0.01
    ratio = 1 / (1 - lowest**0.5) ** 2
    t = 0.5 / lowest * (1 + np.array([-1e-9, 1e-9]))
    both = theory.estimator_errors(t, ratio, **squared(1.0, 0.3))
    np.testing.assert_allclose(np.diff(both.test), [2e-9 * t[0] * derivative_by_time(t[0], ratio)], rtol=1e-4)


def derivative_by_time(t, ratio):
    return jax.grad(lambda t: theory.estimator_errors(t, ratio, **squared(1.0, 0.3)).test)(t)


@pytest.mark.slow
def test_times_have_derivatives():
    ratio = jnp.array([0.5, 1.0, 3.0])
    best = lambda ratio, signal, noise, start: theory.best_stopping_time(ratio, signal=signal, noise=noise, start=start)
    check_slopes(best, ratio, 1.1, 0.5, 0.7)

    def when(ratio, threshold, signal, start):
        times = theory.estimator_times(threshold, ratio, signal=signal, start=start, decay=0.02)
        return times.test + 2 * times.train

    check_slopes(when, ratio, 0.6, 0.9, 1.0, second=False)


@pytest.mark.slow
def test_derivatives_are_finite_where_nothing_is_to_be_found():
    ratio, threshold = jnp.array([0.3, 0.3, 0.3]), jnp.array([0.3, 2.0, 0.9])

    def come(ratio):
        times = theory.estimator_times(threshold, ratio)
        return jnp.sum(jnp.where(times.test < jnp.inf, times.test, 0.0) + times.train)

    slopes = jax.grad(come)(ratio)
    assert np.all(np.isfinite(slopes))
    assert slopes[1] == 0
    assert jax.grad(lambda noise: theory.best_stopping_time(1.0, noise=noise))(0.0) == 0
    for ratio in (0.5, 1.0, 2.0):
        limit = lambda noise, ratio=ratio: theory.estimator_limit(ratio, noise=noise).train
        assert np.isfinite(jax.grad(limit)(0.5))


def test_estimators_and_limits_have_derivatives():
    rng = np.random.default_rng(0)
    x, y, w0 = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=2))
    flow = lambda t, x, y, w0, decay: theory.linear_estimator(t, x, y, w0, decay=decay)
    check_grads(flow, (1.3, x, y, w0, 0.1), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)

    def limit(ratio, signal, noise, decay):
        errors = theory.estimator_limit(ratio, signal=signal, noise=noise, decay=decay)
        ridge = theory.optimal_ridge(ratio, signal=signal, noise=noise)
        return errors.test, errors.train, ridge.test, ridge.decay

    for ratio in (0.5, 1.0, 2.0):
        check_grads(limit, (ratio, 1.1, 0.5, 0.1), order=1, modes=("rev",), atol=1e-4, rtol=1e-4)


def test_all_arguments_broadcast_and_can_be_mapped():
    t, ratio, noise = jnp.array([[0.5], [3.0]]), jnp.array([0.5, 1.0, 2.0]), 0.3
    errors = jax.jit(lambda t, ratio: theory.estimator_errors(t, ratio, noise=noise, decay=0.1))(t, ratio)
    assert errors.test.shape == (2, 3)
    one = theory.estimator_errors(3.0, 2.0, noise=noise, decay=0.1)
    np.testing.assert_allclose([errors.test[1, 2], errors.train[1, 2]], [one.test, one.train], rtol=1e-14)
    best = theory.best_stopping_time(ratio, noise=noise)
    mapped = jax.vmap(lambda ratio: theory.best_stopping_time(ratio, noise=noise))(ratio)
    np.testing.assert_allclose(mapped, best, rtol=1e-14)
    assert theory.linear_estimator(t, jnp.eye(2), jnp.ones(2), jnp.zeros(2), decay=jnp.zeros(3)).shape == (2, 3, 2)


def test_float32_keeps_its_digits():
    """Nodes that float32 can hold are used there."""
    t, ratio = np.array([0.5, 30.0, 1e4])[:, None], np.array([0.5, 1.0, 1.001, 2.0])
    single = [jnp.asarray(x, jnp.float32) for x in (t, ratio)]
    sizes = dict(noise=0.5, start=0.3, decay=1e-3)
    for name in ("test", "train"):
        found = getattr(theory.estimator_errors(*single, **sizes), name)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, getattr(theory.estimator_errors(t, ratio, **sizes), name), rtol=3e-5)
    best = theory.best_stopping_time(single[1], noise=0.1)
    np.testing.assert_allclose(best, theory.best_stopping_time(ratio, noise=0.1), rtol=1e-4)


# ---- What is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: theory.estimator_errors(1.0, 2.0, noise=-0.5),
            r"`noise` is the standard deviation.*at least 0.*-0\.5",
        ),
        (lambda: theory.estimator_errors(1.0, 0.0), r"`samples_per_input` is the number.*positive, but it holds 0"),
        (lambda: theory.estimator_limit(-1.0), r"`samples_per_input` is the number.*positive, but it holds -1"),
        (lambda: theory.estimator_errors(-1.0, 2.0), r"`t` needs finite times that are not negative, but it holds -1"),
        (lambda: theory.estimator_errors(np.inf, 2.0), r"`t` needs finite times that are not negative"),
        (lambda: theory.estimator_errors(1.0, 2.0, signal=-1.0), r"`signal` is the length of the target"),
        (lambda: theory.estimator_errors(1.0, 2.0, start=-1.0), r"`start` is the length of the weights at t = 0"),
        (lambda: theory.estimator_errors(1.0, 2.0, decay=-1.0), r"`decay` is the strength of the weight decay"),
        (lambda: theory.estimator_errors(np.ones(2), np.ones(3)), r"shapes of the arguments need to broadcast"),
        (lambda: theory.best_stopping_time(0.0, noise=0.5), r"`samples_per_input` is the number"),
        (lambda: theory.direction_stopping_time(-1.0, 1.0, noise=0.5), r"`eigenvalue` is an eigenvalue"),
        (lambda: theory.estimator_times(0.0, 2.0), r"`threshold` is a mean squared error"),
        (lambda: theory.edge_delay(1.0), r"`samples_per_input - 1` needs to be positive, but it holds 0"),
        (lambda: theory.edge_errors(0.0, 2.0), r"`t` is a time of a law of late times"),
        (lambda: theory.edge_errors(1.0, 0.5), r"`samples_per_input - 1` needs to be positive, but it holds -0\.5"),
        (
            lambda: theory.forgetting_time(0.3, 1.5, start=1.0, decay=0.1),
            r"`samples_per_input - 1` needs to be negative",
        ),
        (lambda: theory.forgetting_time(0.3, 0.5, start=1.0, decay=0.0), r"`decay` is what forgets the start"),
        (lambda: theory.variance_of_accuracy(1.0, 1.0), r"`accuracy - 1` needs to be negative, but it holds 0"),
        (lambda: theory.accuracy_of_variance(-1.0, 1.0), r"`variance` is a mean squared error"),
        (
            lambda: theory.linear_estimator(1.0, np.eye(2), np.ones(3), np.ones(2)),
            r"shapes \(2, 2\), \(3,\) and \(2,\)",
        ),
        (lambda: theory.linear_estimator(-1.0, np.eye(2), np.ones(2), np.ones(2)), r"`t` needs finite times"),
    ],
)
def test_what_cannot_be_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_share_that_decay_keeps():
    """Closed form against the sum, without divisions by 0 at either end."""
    for ratio in (0.5, 1.0, 2.0):
        law = spectrum(jnp.array(ratio))
        mean = law.mean(0.3 / (0.3 + 2.0 * law.eta)) + max(1 - ratio, 0.0)
        np.testing.assert_allclose(kept(jnp.array(0.3), jnp.array(2.0), jnp.array(ratio)), mean, rtol=1e-14)
        ends = [kept(*map(jnp.array, pair), jnp.array(ratio)) for pair in ((0.0, 1.0), (1.0, 0.0))]
        np.testing.assert_allclose(ends, [max(1 - ratio, 0.0), 1.0], rtol=1e-15)


def test_directions_of_rounding_learn_nothing():
    x, y = np.array([[1.1, -0.3, 0.2]] * 2), np.array([1.0, -0.5])

    late = theory.linear_estimator(1e16, x, y, np.zeros(3))

    np.testing.assert_allclose(late, 0.25 * x[0] / (x[0] @ x[0]), rtol=1e-9)


def test_derivatives_in_single_precision_exist_at_as_many_samples_as_inputs():
    ratio = jnp.float32(1.0)

    slope = jax.grad(lambda ratio: theory.estimator_errors(jnp.float32(3.0), ratio, noise=jnp.float32(0.5)).test)(ratio)

    assert slope.dtype == jnp.float32
    np.testing.assert_allclose(slope, -0.39844, rtol=1e-3)
