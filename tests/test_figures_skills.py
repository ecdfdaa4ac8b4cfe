"""The claims of Figures 4 and 4+: skills emerge in order and on time, and what is left of the loss is a power."""

import jax
import numpy as np
import pytest
from scipy.special import zeta

from layerflow import theory
from layerflow.figures import FIGURES, _figure4, _figure4plus, _skill_losses

pytestmark = pytest.mark.optimised


pytestmark = pytest.mark.slow  # the figures take ten seconds each


@pytest.fixture(scope="module")
def figure_4():
    return FIGURES["4"].compute(grid=101, seeds=100)


@pytest.fixture(scope="module")
def figure_4plus():
    return FIGURES["4+"].compute(grid=9)


def test_skills_emerge_in_the_order_and_at_the_times_of_the_closed_form(figure_4):
    """Half of S at t = ln(S / R(0) - 1) / (2 S p_k) (THEORY section 4), so in the order of their frequency."""
    steps = _figure4.half_times(figure_4)
    start, target = _figure4.START, _figure4.TARGET
    expected = np.log(target / start - 1) / (2 * target * figure_4.frequency.values) / _figure4.T_PER_STEP

    # Steps are 5 % apart; the curve between two of them is off its chord by less than 1 %.
    np.testing.assert_allclose(steps, expected, rtol=0.01)
    assert (np.diff(steps) > 0).all()


def test_stages_come_apart_where_frequencies_do(figure_4):
    """Skill k is above 95 % before k + 1 exceeds 5 % if p_k / p_(k+1) > (l + m) / (l - m) (THEORY section 4)."""
    size, margin = np.log(_figure4.TARGET / _figure4.START - 1), np.log(0.95 / 0.05)
    ratios = figure_4.frequency.values[:-1] / figure_4.frequency.values[1:]
    at = lambda share: np.array([np.interp(share, curve, figure_4.step) for curve in figure_4.flow_in_time.values.T])

    apart = at(0.95)[:-1] < at(0.05)[1:]

    assert apart.tolist() == (ratios > (size + margin) / (size - margin)).tolist() == [True, True, False, False]


def test_the_lines_are_those_of_the_published_constants(figure_4):
    """Values of the published curves, THEORY section 14."""
    at_2000 = figure_4.sel(step=2000, method="nearest")
    data = lambda samples: theory.skill_strengths_in_data(
        float(samples), figure_4.frequency.values, 1.0, shots=_figure4.SHOTS
    )

    assert at_2000.step == pytest.approx(2000)
    np.testing.assert_allclose(at_2000.in_time[:2], [0.999921, 0.006751], atol=1e-6)
    np.testing.assert_allclose([data(500)[0], data(1500)[1], data(5000)[2]], [0.206540, 0.204123, 0.398923], atol=1e-6)


def test_one_sample_teaches_a_skill(figure_4):
    """R is S with a sample of the skill and stays R(0) without, so on average 1 - (1 - p)^D (THEORY section 11.1)."""
    flow = figure_4.flow_in_data
    expected = 1 - (1 - figure_4.frequency) ** figure_4.drawn

    assert np.minimum(abs(flow), abs(flow - 1)).max() < 1e-3
    # Four standard errors of a share of 100 draws; one more for shares that no draw can show.
    errors = np.sqrt(expected * (1 - expected) / flow.sizes["seed"]) + 0.25 / flow.sizes["seed"]
    assert (abs(flow.mean("seed") - expected) < 4 * errors).all()


def test_the_skills_at_hand_are_learned_and_no_others(figure_4):
    """R is S for k <= N and else stays (THEORY section 11.1); N_c units a skill join these points by a line."""
    flow = figure_4.flow_in_parameters
    at_hand = figure_4.skill <= flow.held / _figure4.PER_SKILL

    np.testing.assert_allclose(flow, np.where(at_hand.transpose("held", "skill"), 1.0, 0.0), atol=1e-4)
    np.testing.assert_allclose(figure_4.in_parameters.sel(parameters=flow.held), flow, atol=1e-4)


def test_flow_and_closed_form_agree_in_time(figure_4):
    # rtol is 1e-6 a step, and a sigmoid makes the error of its delay ten times larger on its way up.
    np.testing.assert_allclose(figure_4.flow_in_time, figure_4.in_time, atol=2e-5)


def test_fitted_exponents_are_the_predicted_ones(figure_4plus):
    """-a/(a+1) in time and data, -a in parameters, -a/(a+2) in compute (THEORY 11.2), for a = 0.3, 0.6, 0.9.

    Fitted between ten and a hundred of 10^5 skills learned; later the missing tail bends a = 0.3 most.
    """
    a = figure_4plus.alpha.values
    expected = np.stack([-a / (a + 1), -a / (a + 1), -a, -a / (a + 2)])

    np.testing.assert_allclose(figure_4plus.predicted, expected, atol=1e-12)
    assert figure_4plus.in_window.sum() >= 3
    assert (abs(figure_4plus.fitted - expected) < 0.05).all()
    np.testing.assert_allclose(figure_4plus.best_fitted, 1 / (a + 2), atol=0.05)


def test_constants_are_those_of_the_laws_and_finite_skills_bend_the_curves(figure_4plus):
    """Of the law, n skills lack the share (N / n)^alpha at N skills learned, and are more frequent by zeta / zeta_n."""
    ratio = figure_4plus.loss / figure_4plus.law
    in_parameters = figure_4plus.sel(resource="parameters").isel(point=-1)
    a, n = figure_4plus.alpha, figure_4plus.attrs["n_skills"]
    more_frequent = 1 / (1 - n**-a / a / zeta(a + 1))

    assert (abs(ratio.where(figure_4plus.in_window).sel(alpha=0.9) - 1).max("point") < 0.05).all()
    expected = (1 - (in_parameters.spent / n) ** a) * more_frequent
    # Sums for integrals: an error of one in N skills.
    np.testing.assert_allclose(in_parameters.loss / in_parameters.law, expected, rtol=1e-3)


def test_the_flow_of_all_modes_has_the_loss_of_the_sum(figure_4plus):
    # A hundred steps of rtol 1e-6 each.
    assert _figure4plus.flow_error(figure_4plus) < 1e-3


def test_the_least_loss_over_parameters_is_the_least_of_all():
    """The narrowing mesh against every N there is, in plain NumPy."""
    frequency = np.asarray(theory.skill_frequencies(300, 0.6))
    odds = _skill_losses.TARGET / _skill_losses.START - 1

    for compute in np.geomspace(10.0, 1e5, 12):
        number = np.arange(1, 301)[:, None]
        left = 1 - 1 / (1 + odds * np.exp(-2 * frequency * compute / number))
        losses = 0.5 * np.sum(frequency * np.where(np.arange(300) < number, left, 1.0) ** 2, axis=1)
        least, best = _skill_losses.least_over_parameters(compute, jax.numpy.asarray(frequency))

        assert least == pytest.approx(losses.min(), rel=1e-9)
        assert best == losses.argmin() + 1
