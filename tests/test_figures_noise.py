"""Claims of the figures noise and linear-grokking: draws of finite data beside their averages, and the laws."""

import numpy as np
import pytest

from layerflow import theory
from layerflow.figures import _linear_grokking, _noise

slow = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def noise(quick_figure):
    return quick_figure("noise")


@pytest.fixture(scope="module")
def grokking(quick_figure):
    return quick_figure("linear-grokking")


class TestNoise:
    """By the quick recipe: 8 draws of 100 inputs."""

    pytestmark = slow

    def test_the_mean_of_draws_is_the_average(self, noise):
        """Within three standard errors at nine of ten points; draws of one seed share their noise over time."""
        for name, average in (("test", "at_draws"), ("train", "train_at_draws")):
            error = noise[name].std("seed", ddof=1) / noise.sizes["seed"] ** 0.5
            off = np.abs(noise[name].mean("seed") - noise[average])
            seen = noise[average].values > 1e-3
            assert np.mean((off < 3 * error).values[seen]) > 0.9

    def test_the_error_rises_again_after_the_best_time_in_draws_too(self, noise):
        """Least error of the mean of draws near the best stopping time, as many samples as inputs."""
        mean = noise.test.sel(samples_per_input=1.0).mean("seed")
        best = float(theory.best_stopping_time(1.0, signal=_noise.SIGNAL, noise=_noise.NOISE))
        # Times are a factor 2.2 apart.
        assert 1 / 2.3 < mean.t.values[mean.values.argmin()] / best < 2.3
        assert mean[-1] > 10 * mean.min()

    def test_the_peak_over_samples_is_seen_in_draws_of_late_times_only(self, noise):
        peak = lambda t: noise.test.sel(t=t, method="nearest").mean("seed")
        assert noise.samples_per_input.values[peak(300.0).values.argmax()] == 1.0
        assert np.all(peak(3.0).diff("samples_per_input") < 0.05)

    def test_a_small_imbalance_learns_the_task_before_the_noise(self, noise):
        rich, *_, lazy = noise.student.mean("draw")
        assert rich.min() < 0.4 * _noise.STRENGTH**2
        assert lazy.min() > 0.8 * _noise.STRENGTH**2
        np.testing.assert_allclose(rich[-1], lazy[-1], rtol=0.1)


class TestLinearGrokking:
    """By the quick recipe: 8 draws of 100 inputs."""

    pytestmark = slow

    def test_delays_of_draws_grow_towards_as_many_samples_as_inputs(self, grokking):
        delay = grokking.grokking_delay.median("seed")
        assert np.all(np.diff(delay) > 0)
        exact = np.interp(grokking.inputs_per_sample, grokking.fine_load, grokking.exact_delay)
        np.testing.assert_allclose(delay[:2], exact[:2], rtol=0.1)

    def test_the_edge_law_is_above_the_delay_everywhere(self, grokking):
        assert np.all(grokking.edge_delay > grokking.exact_delay)

    def test_times_with_decay_fall_like_its_inverse(self, grokking):
        """ln(...) / (2 nu): a factor of ten in decay is one in time."""
        time = grokking.decay_test.median("draw")
        slope = np.polyfit(np.log(grokking.decay), np.log(time), 1)[0]
        np.testing.assert_allclose(slope, -1, atol=0.05)
        assert np.all(grokking.decay_train.median("draw") < 12)


@pytest.mark.slow
def test_times_of_the_figure_are_those_of_single_calls():
    """They are solved in one call with those over decay."""
    loads = np.array([0.3, 1.0])
    times = _linear_grokking._times(loads, 1e-3)
    np.testing.assert_allclose(times["exact_delay"][1], theory.estimator_times(1e-3, 1 / loads).delay, rtol=1e-9)
    late = {"start": _linear_grokking.START, "decay": _linear_grokking.SLOW}
    exact = theory.estimator_times(_linear_grokking.LEVEL, _linear_grokking.FEW, **late)
    np.testing.assert_allclose(times["exact_test"][1], exact.test, rtol=1e-9)
    np.testing.assert_allclose(times["exact_train"][1], exact.train, rtol=1e-9)
