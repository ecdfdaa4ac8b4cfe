"""The claims of Figures 6a, 6b, 6+ and 10: where networks are lazy, where rich, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow import theory
from layerflow.figures import FIGURES, _figure6, _figure6plus, _figure10


@pytest.fixture(scope="module")
def figure_6a():
    return FIGURES["6a"].compute(grid=9, seeds=2)


@pytest.fixture(scope="module")
def figure_6plus():
    return FIGURES["6+"].compute(grid=7, seeds=3)


@pytest.fixture(scope="module")
def figure_10():
    return FIGURES["10"].compute(grid=7, seeds=8)


def log_mean(distance):
    return np.log10(distance).mean("seed")


def test_figure_6a_has_a_line_around_the_rich_cells_near_balance(figure_6a):
    """The map is even in lam; at large |lam| D falls as lam^-4, so every ratio is lazy (THEORY section 10)."""
    decades = log_mean(figure_6a.kernel_distance)
    line = _figure6.line_of(figure_6a)

    np.testing.assert_allclose(decades, decades[::-1], atol=1e-3)
    inside = decades.where(abs(decades.lam) < abs(line.lam).min().item())
    assert inside.isel(weight_to_target=0).max() > np.log10(_figure6.LEVEL)
    assert (decades.sel(lam=[-9, 9]) < np.log10(_figure6.LEVEL)).all()
    assert abs(line.lam).max() < 9


def test_a_large_ratio_is_lazy_by_the_kernel_distance_alone(figure_6a):
    """A kernel that shrinks with its function keeps its direction, not its size (THEORY 6.3: r < Sigma0 for S < S0)."""
    row = figure_6a.sel(lam=2.25).mean("seed").isel(weight_to_target=[0, -1])
    distance, laziness = row.kernel_distance.values, row.laziness.values

    assert distance[1] < 1e-3 * distance[0]
    assert laziness[1] > laziness[0] > 0.01


def test_singular_vectors_of_the_start_matter_at_exact_balance_alone(figure_6a):
    """At lam = 0 the sign of the determinant stays, and half of the starts end at a saddle (THEORY 9.5)."""
    spread = _figure6.spread(figure_6a)
    off_balance = spread.where(abs(spread.lam) > 0)

    assert off_balance.max() < 0.01
    assert spread.sel(lam=0.0).min() > 0.1


def test_laziness_is_left_out_where_there_is_no_path_to_follow():
    diagram = FIGURES["6a"].compute(grid=3, seeds=1, method="exact")

    assert "laziness" not in diagram
    assert len(FIGURES["6a"].draw(diagram).axes) == 4  # two maps and their colour bars
    said = [*map(str, FIGURES["6a"].claims(diagram)), *FIGURES["6a"].remarks(diagram)]
    assert not any("aziness" in sentence for sentence in said)


@pytest.mark.slow
def test_figure_6b_leaves_out_directions_that_nothing_moves():
    """Networks 10-12-2 in the place of 20-20-2 have the same kernel on the samples, and the same course."""
    diagram = FIGURES["6b"].compute(grid=3, seeds=1)
    task = lf.random_regression(jax.random.key(1), n=10, inp=20, out=2).moments

    def whole(key, weight_to_target, std_difference):
        stds = (0.1 + jnp.maximum(std_difference, 0.0), 0.1 + jnp.maximum(-std_difference, 0.0))
        return lf.Problem(lf.symmetrised(key, (20, 20, 2), std=stds), task.rescale(target=1 / weight_to_target))

    axes = {name: diagram[name].values for name in ("weight_to_target", "std_difference")}
    observe = (lf.kernel_distance, lf.laziness)
    expected = lf.sweep(whole, axes, seeds=1, method=lf.Flow(t1=39.99), observe=observe)
    # The two step apart, at rtol 1e-6; rich cells amplify that, and it is all that laziness has below 1e-5.
    np.testing.assert_allclose(diagram.kernel_distance, expected.kernel_distance, rtol=1e-3)
    np.testing.assert_allclose(diagram.laziness, expected.laziness, rtol=1e-3, atol=1e-5)


def test_in_balance_a_growing_scale_makes_the_course_exponential_up_to_that_of_the_target(figure_6plus):
    """T = (e^2st - 1) / (e^2st - 1 + s / rho(0)), which is 1 - e^-2st at rho(0) = s (THEORY 8.2)."""
    departures = _figure6plus.departures(figure_6plus)[0]
    scale = figure_6plus.scale.values
    below = scale < 1.5

    assert departures[0] > 0.3
    assert (np.diff(departures[below]) < 0).all()
    # Beyond: T = tau / (1 + tau) for rho(0) -> inf, tau = 2 rho(0) t, is quicker than 1 - 2^-tau at first.
    tau = np.linspace(0, 50, 5001)
    limit = abs(tau / (1 + tau) - (1 - 2.0**-tau)).max()
    assert 0.5 * limit < departures[-1] < limit
    exact = theory.transition(figure_6plus.t.values, 0.0, 1.0, 1.0)
    assert _figure6plus.departure(figure_6plus.t.values, np.asarray(exact)) < 1e-3


def end_of_kernel(lam, seed):
    """Kernel distance at the end from any start of equal singular values: w1^T w1 and w2 w2^T are as in THEORY 9.5."""
    key = jax.random.fold_in(jax.random.key(0), seed)
    task = lf.random_regression(key, n=10, inp=3, out=3, whiten=True).moments
    s = np.linalg.svd(task.yx, compute_uv=False)
    root = np.sqrt(lam**2 + 4 * (s / s[0]) ** 2)
    eigenvalues = 0.5 * np.add.outer(root - lam, root + lam)  # of the kernel on whitened inputs; all equal at t = 0
    return 1 - eigenvalues.mean() / np.sqrt((eigenvalues**2).mean())


def test_the_kernel_adapts_at_every_scale_in_balance_and_at_none_out_of_it(figure_6plus):
    """The kernel ends where task and lam say, whatever the scale of the start."""
    ends = figure_6plus.kernel_distance.isel(t=-1)
    # A weak mode of a small start is on its way still at t = 40.
    done = ends.where(ends.scale > 0.01, drop=True)

    for lam in _figure6plus.LAMS:
        expected = [end_of_kernel(lam, seed) for seed in range(ends.sizes["seed"])]
        measured = done.sel(lam=lam).transpose("scale", "seed")
        np.testing.assert_allclose(measured, np.broadcast_to(expected, measured.shape), rtol=0.01)
    assert ends.sel(lam=0.0).min() > 100 * ends.sel(lam=9.0).max()


def test_figure_6plus_follows_the_transition_function(figure_6plus):
    """rho(t) = rho(0) + T(t; lam) (s - rho(0)) (Theorem G.2)."""
    for lam in _figure6plus.LAMS:
        line = theory.balanced_strength(figure_6plus.t.values[:, None], lam, 1.0, figure_6plus.scale.values[None, :])
        flow = figure_6plus.leading_strength.sel(lam=lam).transpose("seed", "t", "scale")
        # rtol 1e-6 a step, amplified by the growth from small scales.
        np.testing.assert_allclose(flow, np.broadcast_to(line, flow.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_funnel_is_lazy_for_large_lam_and_rich_for_large_negative_lam_and_the_anti_funnel_the_reverse(figure_10):
    """Mean log10 D over random tasks at lam = -9, -3, 3, 9 (THEORY section 14), with lam as in Eq. 14."""
    ends = log_mean(figure_10.kernel_distance.isel(t=-1)).sel(lam=[-9, -3, 3, 9])

    # Eight tasks here and as many there, which spread by half a decade each.
    np.testing.assert_allclose(ends.sel(shape="funnel"), [-0.9, -0.6, -2.8, -4.5], atol=0.5)
    np.testing.assert_allclose(ends.sel(shape="anti-funnel"), [-4.6, -2.8, -0.6, -1.1], atol=0.5)


@pytest.mark.parametrize("shape", ["funnel", "anti-funnel"])
def test_the_rich_side_is_entered_late_and_the_later_the_larger_the_imbalance(figure_10, shape):
    here = figure_10.sel(shape=shape)
    rich = -np.sign(_figure10.LAZY_SIDE[shape])
    times = {size: [np.median(t) for t in _figure10.half_times(here.sel(lam=rich * size))] for size in (3, 9)}

    for learned, turned in times.values():
        assert turned > 20 * learned
    assert times[9][0] < times[3][0]  # the light layer learns the faster,
    assert times[9][1] > times[3][1]  # and the heavy one turns the later
    lazy = here.sel(lam=-rich * 9)
    # Lazy: all is learned while the kernel stays.
    assert _figure10.relative_excess(lazy).isel(t=-1).max() < 1e-6
    assert lazy.kernel_distance.max() < 1e-3


@pytest.mark.slow
def test_figure_10_by_closed_form_is_figure_10_by_flow(figure_10):
    exact = FIGURES["10"].compute(grid=7, seeds=8, method="exact")

    # rtol 1e-6 a step; small |lam| passes near saddles, which amplify it.
    np.testing.assert_allclose(exact.kernel_distance, figure_10.kernel_distance, atol=1e-4)


def test_the_claims_of_figure_10_come_from_its_numbers(figure_10):
    """With lam read the other way round, the lazy sides are not those of theory."""
    mirrored = figure_10.assign_coords(lam=-figure_10.lam).sortby("lam")
    held = [[claim.holds for claim in FIGURES["10"].claims(data)[:4]] for data in (figure_10, mirrored)]

    assert all(held[0])
    assert not any(held[1])
