"""The claims of the figures of modes: 2, 3, 3+, 7, 9, G and I."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

import layerflow as lf
from layerflow import theory
from layerflow.figures import FIGURES, _figure2

SMALL = {
    "2": {},
    "3": {"times": 200},
    "3+": {"seeds": 2, "depths": (2, 4), "times": 400},
    "7": {"times": 60},
    "9": {"times": 60},
    "G": {"grid": 13, "times": 100},
    "I": {"grid": 7, "seeds": 4, "times": 200},
}


@functools.cache
def computed(name):
    return FIGURES[name].compute(**SMALL[name])


def test_figure_2_has_a_line_for_every_weight_and_the_network_is_the_sum_over_paths():
    diagram = computed("2")

    for name, network in _figure2.models().items():
        weights = jax.tree.leaves(eqx.filter(network, lf.networks.is_weight(network)))
        drawn = diagram.weight.values[diagram.of.values == name]
        # Each weight is drawn once: the same numbers in some order.
        flat = np.concatenate([np.ravel(weight) for weight in weights])
        np.testing.assert_array_equal(np.sort(drawn), np.sort(flat))
    # Sums of at most twelve products of numbers below 1.
    assert diagram.difference.max() < 1e-14


def test_figure_2_reads_connections_off_the_object():
    network = lf.LayerwiseNetwork(((2, 0), (0, 1)), np.array([0.1, 0.2]), np.array([0.3, 0.4]), bias=0.5)

    edges = {(edge.source, edge.target): edge.weight for edge in _figure2.connections(network)}

    one = (0, _figure2.ONE)
    assert edges == {
        ((0, 2), (1, 0)): 0.1,
        ((0, 0), (1, 1)): 0.2,
        ((1, 0), (2, 0)): 0.3,
        ((1, 1), (2, 0)): 0.4,
        (one, (2, 0)): 0.5,
    }
    with pytest.raises(TypeError, match=r"Diagrams are of linear, diagonal and layerwise networks, not of a str"):
        _figure2.connections("network")


def test_figure_3_saturates_all_at_once_in_the_linear_model_and_in_stages_in_the_layerwise_one():
    """Half-times log 2 / E and log(S/u0 - 1) / (2 S E) (Eqs. 10, 9); the first mode full, the next negligible."""
    diagram = computed("3")
    variance, start = diagram.variance.values, 9.8e-6

    linear, layerwise = (diagram.half_times.sel(model=name).values for name in ("linear", "layerwise"))
    # Between times half a unit apart, over which a mode moves by much less than its width.
    np.testing.assert_allclose(linear, np.log(2) / variance, rtol=0.01)
    np.testing.assert_allclose(layerwise, np.log(1 / start - 1) / (2 * variance), rtol=0.01)
    np.testing.assert_allclose(diagram.mode_strengths, diagram.closed_form, atol=1e-7)

    strengths = diagram.mode_strengths
    first_full = strengths.sel(model="layerwise", mode=0) > 0.99
    second_sets_in = strengths.sel(model="layerwise", mode=1) > 0.05
    assert diagram.t[first_full][0] < diagram.t[second_sets_in][0]
    assert theory.stages_separate(start, 1.0, variance, margin=0.05)
    first_full = strengths.sel(model="linear", mode=0) > 0.99
    assert strengths.sel(model="linear", mode=1)[first_full][0] > 0.8


def test_figure_3_at_the_speeds_of_the_drawing_is_slower_by_them():
    slow = FIGURES["3"].compute(times=200, linear_speed=0.6, layerwise_speed=0.7)

    ratio = computed("3").predicted_half_times / slow.predicted_half_times
    np.testing.assert_allclose(ratio.sel(model="linear"), 0.6, rtol=1e-12)
    np.testing.assert_allclose(ratio.sel(model="layerwise"), 0.7, rtol=1e-12)
    np.testing.assert_allclose(slow.mode_strengths, slow.closed_form, atol=1e-7)


@pytest.mark.slow
def test_figure_3_plus_has_one_plateau_for_each_feature_of_the_predicted_height():
    """L_k = 1/2 sum over unlearned modes of S^2: 10.5, 2.5, 0.5 and 0 for 4, 2, 1."""
    diagonal = computed("3+").sel(model="diagonal network").isel(seed=0)
    targets = np.array([4.0, 2.0, 1.0])
    expected = np.array([0.5 * np.sum(targets[k:] ** 2) for k in range(4)])

    assert (diagonal.plateaus_count == 4).all()
    # A plateau is where the loss falls slowly, so its mean is a little below its height.
    np.testing.assert_allclose(diagonal.plateaus_height[:, :4], np.broadcast_to(expected, (2, 4)), atol=0.05)
    np.testing.assert_allclose(diagonal.half_times, diagonal.predicted_half_times, rtol=0.02)
    assert (np.diff(diagonal.half_times, axis=-1) > 0).all()


def test_figure_3_plus_says_which_depths_it_has():
    with pytest.raises(ValueError, match=r"`depths` takes numbers of layers among 2, 3, 4, 5, but has 7"):
        FIGURES["3+"].compute(depths=(2, 7))


@pytest.mark.slow
def test_figure_3_plus_linear_networks_rest_at_the_same_heights_from_random_directions():
    diagram = computed("3+")
    heights = diagram.plateaus_height.sel(model="linear network").values
    found = heights[np.isfinite(heights)]

    distance = np.abs(found[:, None] - diagram.predicted_height.values).min(axis=1)
    assert distance.max() < 0.05
    assert len(found) >= 12  # of four runs: none skips more than one


def test_figure_7_has_the_growth_that_theory_gives_for_its_setups():
    """gamma_+ = (S + r)/A: 1000.001, 1.0512492197 and 1.0321226516 (THEORY 6.4 and 14)."""
    diagram = computed("7")

    np.testing.assert_allclose(diagram.growth.isel(t=-1), [1000.001, 1.0512492197, 1.0321226516], rtol=1e-6)
    for name in ("aligned", "anti_aligned"):
        np.testing.assert_allclose(diagram[name], diagram[f"predicted_{name}"], atol=1e-6)


def test_figure_7_rich_selects_and_lazy_moves_aligned_and_anti_aligned_features_alike():
    """Section 7.1: in the lazy limits Delta_theta, and with it the kernel, stays as it is."""
    diagram = computed("7")
    up, down = diagram.aligned, -diagram.anti_aligned

    ratio = (up / down).isel(t=-1)
    np.testing.assert_allclose(ratio.sel(setup="rich"), 1e6, rtol=1e-4)
    # Delta_theta at the end over that at the start: sqrt(1 + S^2/Sigma0^2).
    kernel = ((up + down).isel(t=-1) / (up + down).isel(t=0)).values
    np.testing.assert_allclose(kernel, np.sqrt(1 + np.array([10 / 0.02, 0.1 / 2, 1 / np.sqrt(1000)]) ** 2), rtol=1e-6)
    # Each of 1000 features moves by O(1/p), all of them together by 1.
    moved = (up.isel(t=-1) - up.isel(t=0)).sel(setup="ntk") / 500
    np.testing.assert_allclose(moved, 1 / 1000, rtol=0.05)
    far = (abs(up - down - diagram.frozen_output) / diagram.target).max("t")
    assert far.sel(setup="rich") > 0.9
    assert far.sel(setup="downscaled") < 1e-3
    assert far.sel(setup="ntk") < 1e-3


def test_figure_9_rich_features_turn_to_the_target_at_predicted_shares_and_lazy_ones_hardly_move():
    diagram = computed("9")
    size = np.linalg.norm(diagram.target, axis=-1)

    np.testing.assert_allclose(diagram.output.isel(t=-1) / size[:, None], diagram.target / size[:, None], atol=1e-4)
    rich = diagram.sel(setup="rich").isel(feature=slice(0, 2))
    along = rich.features @ rich.target / size[0] ** 2
    assert along.isel(t=0, feature=1) < 0 < along.isel(t=-1, feature=1)  # began against the target
    # The shares are those of weights -> 0; here they are 0.1, so Sigma0/S is 0.002.
    np.testing.assert_allclose(along.isel(t=-1), rich.predicted_share, atol=1e-3)
    # At 40 degrees c_1 = 1 + cos 40 = 2 cos^2 20 and c_2 = cos 40 - 1 = -2 sin^2 20.
    cosine, sine = np.cos(np.deg2rad(20)) ** 4, np.sin(np.deg2rad(20)) ** 4
    np.testing.assert_allclose(rich.predicted_share, np.array([cosine, sine]) / (cosine + sine), rtol=1e-12)
    for name in ("downscaled", "ntk"):
        lazy = diagram.sel(setup=name)
        change = np.linalg.norm(lazy.features - lazy.features.isel(t=0), axis=-1)
        assert (change[:, :2] < 0.06 * np.linalg.norm(lazy.features.isel(t=0)[:2], axis=-1)).all()
        off = np.linalg.norm(lazy.output - lazy.frozen_output, axis=-1).max() / np.linalg.norm(lazy.target)
        assert off < 1e-3


def test_figure_g_transition_is_that_of_the_theorem_for_either_sign_and_above_both_limits():
    """T >= the sigmoid of lambda = 0 and T >= 1 - e^{-|lam| t}, for rho' grows with |lam|, and >= |lam| (s - rho)."""
    diagram = computed("G")
    T = diagram.transition

    np.testing.assert_allclose(T, diagram.closed_form, atol=1e-7)
    np.testing.assert_allclose(T, T[::-1], atol=1e-9)
    assert (T - diagram.sigmoid > -1e-7).all()
    assert (T - diagram.exponential > -1e-7).all()
    assert (T.diff("t") > -1e-7).all()


def test_figure_g_transition_comes_to_its_limits_as_the_square_of_the_imbalance():
    diagram = computed("G")
    far = lambda limit: abs(diagram.transition - diagram[limit]).max("t")

    at = lambda array, lam: float(array.sel(lam=lam, method="nearest"))
    lams = diagram.lam.values
    small, large = lams[lams > 0][:2], lams[-2:]
    slope = lambda array, pair: np.diff(np.log([at(array, lam) for lam in pair]))[0] / np.diff(np.log(pair))[0]
    # The next order is (lam/rho0)^2 = 1e-3 below and (s/lam)^2 = 1e-3 above; times are a grid.
    np.testing.assert_allclose(slope(far("sigmoid"), small), 2.0, atol=0.02)
    np.testing.assert_allclose(slope(far("exponential"), large), -2.0, atol=0.02)


def test_figure_i_flow_is_theorem_i_1_from_every_start():
    diagram = computed("I")

    np.testing.assert_allclose(diagram.output, diagram.predicted_output, atol=1e-7)
    np.testing.assert_allclose(
        diagram.growth / diagram.final_growth, diagram.predicted_growth / diagram.final_growth, atol=1e-7
    )
    # The exponent that the paper prints, twice as fast, is off by far more.
    faster = theory.scalar_network(
        2 * diagram.t.values * _unit(diagram)[..., None],
        diagram.start_a.values[..., None, :],
        diagram.start_b.values[..., None, :],
        1.0,
    )
    assert abs(diagram.output - np.asarray(faster.output)).max(("seed", "t")).min() > 0.1


def test_figure_i_growth_has_an_inflection_iff_the_target_exceeds_the_aligned_scale():
    """Remark I.2: iff S > A = Sigma(0) + f(0), and then at gamma = S/A."""
    diagram = computed("I")
    bends = np.isfinite(diagram.inflection)

    np.testing.assert_array_equal(bends, diagram.target_to_aligned > 1)
    assert 0 < bends.sum() < bends.size
    where = bends.values
    np.testing.assert_allclose(diagram.inflection.values[where], diagram.predicted_inflection.values[where], atol=1e-3)
    for scale, seed in np.argwhere(where):
        one = diagram.isel(scale=int(scale), seed=int(seed))
        at_bend = np.interp(float(one.inflection), one.t, one.growth)
        np.testing.assert_allclose(at_bend, one.target_to_aligned, rtol=5e-3)  # linear between times


def _unit(diagram):
    """1/r of every start."""
    a, b = diagram.start_a.values, diagram.start_b.values
    return 1 / np.sqrt(1 + np.sum((a + b) ** 2, axis=-1) * np.sum((a - b) ** 2, axis=-1) / 4)
