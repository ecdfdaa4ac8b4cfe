"""Spikes in large noisy matrices, and the two-layer students that learn them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad

from layerflow import theory

ROUNDING = dict(rtol=2e-12)
ONE_SPIKE = dict(inp=100, out=100, noise=0.1)  # the unit sqrt(inp) noise is 1


def test_reference_values_of_spikes():
    found = theory.spike(jnp.array([3.0, 2.5, 4.0]), jnp.array([1.0, 0.5, 2.0]))
    np.testing.assert_allclose(found.observed, [3.33333333333333, 2.79821371592664, 4.37321392113398], **ROUNDING)
    np.testing.assert_allclose(found.overlap, [0.888888888888889, 0.881991245326559, 0.907513346379109], **ROUNDING)


def test_a_spike_appears_where_it_leaves_the_noise():
    """Both limits of its observed value are the noise's largest, and the overlap begins at 0."""
    for aspect in (0.5, 1.0, 3.0):
        edge = aspect**0.25
        below, above = theory.spike(edge * (1 - 1e-9), aspect), theory.spike(edge * (1 + 1e-9), aspect)
        np.testing.assert_allclose([below.observed, above.observed], 1 + aspect**0.5, rtol=1e-8)
        assert below.overlap == 0
        assert 0 < above.overlap < 1e-8
    strong = theory.spike(1e6, 2.0)
    np.testing.assert_allclose([strong.observed / 1e6, strong.overlap], 1, rtol=1e-11)


@pytest.mark.parametrize("lam", [0.0, 1.0, -10.0])
@pytest.mark.parametrize("widths", [dict(inp=60, out=60), dict(inp=30, out=90), dict(inp=90, out=45)])
def test_the_mean_over_the_noise_is_that_of_its_density(widths, lam):
    """Singular values of noise are roots of Marchenko-Pastur eigenvalues."""
    aspect, few = widths["out"] / widths["inp"], min(widths.values())
    unit, t, start = 0.2 * widths["inp"] ** 0.5, 1.3, 1e-3

    def density(x):
        """Of the singular values over the unit."""
        edges = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
        return math.sqrt(max((edges[1] - x**2) * (x**2 - edges[0]), 0.0)) / (math.pi * min(aspect, 1.0) * x)

    rho = jax.jit(lambda x: theory.balanced_strength(t, lam, unit * x, start))
    low, high = abs(1 - aspect**0.5), 1 + aspect**0.5
    mean = quad(lambda x: float(rho(x)) ** 2 * density(x), low, high, epsabs=0, epsrel=1e-9, limit=200)[0]
    lost = jnp.zeros(1)
    np.testing.assert_allclose(theory.student_error(t, lam, lost, start, noise=0.2, **widths), few * mean, rtol=1e-8)


def test_a_student_without_noise_learns_its_modes():
    strengths, times = jnp.array([2.0, 0.7]), jnp.array([0.0, 1.0, 3.0])
    error = theory.student_error(times, 0.5, strengths, 0.1, inp=5, out=4, noise=0.0)
    rho = np.asarray(theory.balanced_strength(times[:, None], 0.5, strengths, 0.1))
    idle = theory.balanced_strength(times, 0.5, 0.0, 0.1)
    np.testing.assert_allclose(error, np.sum((rho - np.asarray(strengths)) ** 2, axis=1) + 2 * idle**2, rtol=1e-12)


@functools.cache
def simulated(inp, out, strength, lam, draws, start=1e-3, unit=1.0):
    """Mean squared error of aligned students over random matrices, at some times, and its standard error."""
    rng, times, errors = np.random.default_rng(0), np.array([0.3, 0.8, 1.5, 2.5, 6.0]), []
    learned = jax.jit(lambda s: theory.balanced_strength(times[:, None], lam, s, start))
    task = np.zeros((out, inp))
    task[0, 0] = strength
    for _ in range(draws):
        u, s, vt = np.linalg.svd(task + unit * rng.normal(size=(out, inp)) / inp**0.5, full_matrices=False)
        rho = np.asarray(learned(s))
        errors.append(np.sum(rho**2, axis=1) - 2 * strength * (rho @ (u[0] * vt[:, 0])) + strength**2)
    return times, np.mean(errors, axis=0), np.std(errors, axis=0, ddof=1) / draws**0.5


def test_students_of_random_matrices_agree():
    """0.95 to 1.02 of the theory, as stated for larger ones."""
    times, mean, _ = simulated(80, 120, 2.5, 0.5, 10)
    expected = theory.student_error(times, 0.5, jnp.array([2.5]), 1e-3, inp=80, out=120, noise=80**-0.5)
    np.testing.assert_allclose(mean / expected, 1, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("inp", "out"), [(400, 400), (300, 600), (500, 250)])
def test_students_of_large_random_matrices_agree(inp, out):
    """Four draws of three shapes at five times: 0.95 to 1.02 of the theory."""
    times, mean, _ = simulated(inp, out, 2.5, 0.5, 4)
    expected = theory.student_error(times, 0.5, jnp.array([2.5]), 1e-3, inp=inp, out=out, noise=inp**-0.5)
    np.testing.assert_allclose(mean / expected, 1, atol=0.05)


@pytest.mark.slow
def test_a_mode_that_is_lost_stays_among_the_noise():
    """No singular value of its own at the edge of the noise: that would be more by 7 standard errors and more."""
    times, mean, error = simulated(200, 400, 0.6, 0.0, 60)
    expected = theory.student_error(times, 0.0, jnp.array([0.6]), 1e-3, inp=200, out=400, noise=200**-0.5)
    late = times > 1
    assert np.all(np.abs(mean - expected)[late] < 3 * error[late])
    with_edge = theory.balanced_strength(times, 0.0, 1 + 2**0.5, 1e-3) ** 2 - (expected - 0.36) / 200
    assert np.all(with_edge[late] > 7 * error[late])


def test_small_starts_learn_the_spike_first_and_large_imbalances_all_at_once():
    """The minimum comes a little after ln(observed / start) / (2 observed)."""
    times = jnp.linspace(0.0, 8.0, 401)
    rich, lazy = (theory.student_error(times, lam, jnp.array([3.0]), 1e-3, **ONE_SPIKE) for lam in (0.0, 10.0))
    observed = theory.spike(3.0).observed
    ratio = times[jnp.argmin(rich)] / (jnp.log(observed / 1e-3) / (2 * observed))
    assert 1 < ratio < 1.3
    assert rich.min() < 0.3 * 9.0
    assert lazy.min() > 0.9 * 9.0
    np.testing.assert_allclose(rich[-1], lazy[-1], rtol=0.05)  # the same end


@pytest.mark.parametrize(("first", "second", "alignment"), [(1.5, 0.7, 0.4), (1.0, 1.0, -1.0), (2.0, 1.0, 0.0)])
def test_joint_strengths_are_singular_values(first, second, alignment):
    v = np.array([[1.0, 0.0], [alignment, math.sqrt(1 - alignment**2)]])
    s = np.linalg.svd(np.diag([first, second]) @ v, compute_uv=False)
    np.testing.assert_allclose(theory.joint_strengths(first, second, alignment), s, atol=1e-15)
    equal = theory.joint_strengths(first, first, 0.3)
    np.testing.assert_allclose(equal, first * np.sqrt([1.3, 0.7]), rtol=1e-14)
    zero = theory.joint_strengths(0.0, 0.0, 0.3)
    np.testing.assert_array_equal(zero, 0)


def test_only_well_aligned_tasks_gain_from_learning_together():
    """Least errors alone less those together; s = 1.5 at 0.5 has a mode that is lost, which has no value of its own."""
    times = jnp.linspace(0.5, 3.0, 401)

    def benefit(strength, alignment):
        alone = theory.student_error(times, 0.0, jnp.array([strength]), 1e-3, **ONE_SPIKE)
        return (
            alone.min() - theory.joint_student_error(times, 0.0, strength, strength, alignment, 1e-3, **ONE_SPIKE).min()
        )

    found = [benefit(strength, alignment) for strength in (1.5, 2.5) for alignment in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(found, [-0.144, -0.071, 0.257, -0.946, -0.638, 0.682], atol=6e-4)


def test_students_have_derivatives():
    def student(t, lam, strengths, start, noise):
        return theory.student_error(t, lam, strengths, start, inp=20, out=30, noise=noise)

    point = (0.8, 0.5, jnp.array([3.0, 0.2]), 0.1, 0.2)
    check_grads(student, point, order=1, modes=("rev",), atol=1e-5, rtol=1e-5)


def test_students_broadcast():
    t = jnp.array([[0.5], [3.0]])
    students = theory.student_error(t, jnp.zeros(3), jnp.ones((3, 4)), 0.1, inp=9, out=5, noise=0.1)
    assert students.shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.spike(-1.0), r"`strength` is a singular value"),
        (lambda: theory.spike(1.0, 0.0), r"`outputs_per_input` is the number"),
        (lambda: theory.joint_strengths(1.0, 1.0, 1.5), r"`alignment` is the cosine of two vectors.*it holds 1\.5"),
        (lambda: theory.student_error(1.0, 0.0, np.ones(3), 0.1, inp=2, out=5, noise=0.1), r"has 2 singular values"),
        (lambda: theory.student_error(1.0, 0.0, np.ones(1), 0.1, inp=0, out=5, noise=0.1), r"`inp` is a whole number"),
        (lambda: theory.student_error(1.0, 0.0, 1.0, 0.1, inp=2, out=5, noise=0.1), r"`strengths`.*it is a scalar"),
    ],
)
def test_what_cannot_be_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
