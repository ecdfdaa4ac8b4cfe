"""Modes under weight decay: where they rest and die at any depth, and two layers exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize_scalar

from layerflow import theory

STATES = {  # S, depth, nu: spinodal, Maxwell, unstable and stable strength
    "three": ((1.0, 3, 0.3), (0.472470393710577, 0.396850262992050, 0.029541523662289, 0.654464612346852)),
    "four": ((2.0, 4, 0.5), (1.088662107903635, 0.769800358919501, 0.066900868745489, 1.605377940479580)),
    "ten": ((1.0, 10, 0.2), (0.290389882104858, 0.101119630176752, 0.168427159166904, 0.747595850874463)),
}


def flow(start, target, decay, ts, variance=1.0):
    """Layers of a chain at `ts`, integrated: a_l' = E (S - u) u / a_l - nu a_l."""

    def velocity(_, a):
        pull = variance * (target - np.prod(a))
        return [pull * np.prod(np.delete(a, k)) - decay * a[k] for k in range(len(a))]

    ts = np.asarray(ts, float)
    return solve_ivp(velocity, (0, ts[-1]), start, t_eval=ts, method="LSODA", rtol=1e-12, atol=1e-14).y.T


@pytest.mark.parametrize("case", STATES)
def test_decay_has_the_reference_strengths_and_thresholds(case):
    (target, depth, decay), (spinodal, maxwell, unstable, stable) = STATES[case]
    at, states = theory.decay_thresholds(target, depth), theory.decay_states(target, depth, decay)

    assert at.spinodal == pytest.approx(spinodal, rel=1e-13)
    assert at.maxwell == pytest.approx(maxwell, rel=1e-13)
    assert states.unstable == pytest.approx(unstable, rel=1e-12)
    assert states.stable == pytest.approx(stable, rel=1e-12)


@pytest.mark.parametrize("depth", [3, 4, 6, 25])
def test_thresholds_are_those_of_the_energy(depth):
    """The spinodal is the most that the pull u^(1 - 2 / L) (S - u) bears, and Maxwell's has two equal minima."""
    target, variance = 1.4, 0.7
    at = theory.decay_thresholds(target, depth, variance)
    pull = lambda u: u ** (1 - 2 / depth) * (target - u) * variance
    most = minimize_scalar(lambda u: -pull(u), bounds=(0, target), method="bounded", options={"xatol": 1e-10})

    assert at.spinodal == pytest.approx(-most.fun, rel=1e-12)
    assert at.spinodal_strength == pytest.approx(most.x, rel=1e-6)
    assert at.spinodal / at.maxwell == pytest.approx(depth / 4 * 2 ** (2 / depth), rel=1e-13)
    rest = theory.decay_states(target, depth, at.maxwell, variance).stable
    assert rest == pytest.approx(float(at.maxwell_strength), rel=1e-12)
    dead, alive = theory.decay_energy(jnp.array([0.0, rest]), target, depth, at.maxwell, variance)
    assert alive == pytest.approx(float(dead), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_states_are_the_stationary_points_of_the_energy(depth):
    target, variance, decays = 1.2, 0.8, np.array([0.01, 0.1, 0.3])
    states = theory.decay_states(target, depth, decays, variance)
    slope = jax.vmap(jax.grad(lambda u, nu: theory.decay_energy(u, target, depth, nu, variance)))

    np.testing.assert_allclose(slope(states.stable, decays), 0, atol=1e-14)
    if depth > 2:
        np.testing.assert_allclose(slope(states.unstable, decays), 0, atol=1e-13)
        assert (slope(0.9 * states.unstable, decays) > 0).all()
        assert (slope(1.1 * states.unstable, decays) < 0).all()


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_the_live_strength_is_found_by_another_root_finder(share):
    nu = share * 0.472470393710577
    f = lambda u: u ** (1 / 3) * (1 - u) - nu
    states = theory.decay_states(1.0, 3, nu)

    assert states.stable == pytest.approx(brentq(f, 0.25, 1, xtol=1e-16), rel=1e-12)
    assert states.unstable == pytest.approx(brentq(f, 0, 0.25, xtol=1e-16), rel=1e-9)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize(("share", "lives"), [(0.99, False), (1.01, True)])
def test_a_start_lives_above_the_unstable_strength_and_dies_below(depth, share, lives):
    states = theory.decay_states(1.0, depth, 0.3)
    start = np.full(depth, float(share * states.unstable) ** (1 / depth))
    end = np.prod(flow(start, 1.0, 0.3, [0.0, 200.0])[-1])

    assert end == pytest.approx(float(states.stable) if lives else 0.0, abs=1e-9)


@pytest.mark.parametrize(("depth", "alive"), [(2, 0.98), (3, 0.46), (4, 0.38)])
def test_a_mode_that_died_comes_back_at_depth_two_only(depth, alive):
    """Up and down in nu in steps of 0.02, weights kept above 1e-3."""
    grid = np.arange(2, 56) * 0.02
    a, strengths = 1.0, []
    for nu in [*grid, *grid[::-1]]:
        for _ in range(6000 if depth == 2 else 600):
            a = max(a + 0.1 * (a ** (depth - 1) * (1 - a**depth) - nu * a), 1e-3)
        strengths.append(a**depth)
    up, down = np.array(strengths[: grid.size]), np.array(strengths[grid.size :][::-1])

    last = grid[up > 1e-2].max()
    assert last == pytest.approx(alive)
    assert last < theory.decay_thresholds(1.0, depth).spinodal <= last + 0.02 + 1e-12
    np.testing.assert_allclose(up[grid <= last], theory.decay_states(1.0, depth, grid[grid <= last]).stable, atol=2e-3)
    if depth == 2:
        apart = abs(grid - 1) > 1e-9  # at the threshold a mode dies like 1 / t
        np.testing.assert_allclose(down[apart], up[apart], atol=1e-5)
    else:
        assert down[grid <= 0.5 * last].max() < 1e-8


def test_unequal_starts_end_in_the_same_states_and_grow_equal():
    """a_k^2 - a_l^2 decays as e^(-2 nu t) at every depth."""
    start, ts = np.array([1.5, 0.5, 0.8, 0.7]), np.array([0.0, 1.0, 100.0])
    layers = flow(start, 2.0, 0.3, ts)
    np.testing.assert_allclose(np.prod(layers[-1]), theory.decay_states(2.0, 4, 0.3).stable, rtol=1e-9)
    gap = layers[:, 0] ** 2 - layers[:, 1] ** 2
    assert gap[1] == pytest.approx(float(theory.decayed(gap[0], 0.3, 1.0)), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "critical"), [(1, 0.0295), (2, 0.0259), (5, 0.0149), (20, 0.0036)])
def test_imbalance_enlarges_the_basin(ratio, critical):
    def lives(strength):
        b = (strength / ratio) ** (1 / 3)
        return np.prod(flow(np.array([ratio * b, b, b]), 1.0, 0.3, [0.0, 300.0])[-1]) > 0.3

    assert lives(critical + 1e-4)
    assert not lives(critical - 1e-4)


def test_modes_die_one_by_one_and_the_rank_of_the_least_energy_falls_before():
    targets = np.array([1.0, 0.8, 0.5])
    at = theory.decay_thresholds(targets, 3)
    assert (np.diff(at.spinodal) < 0).all()
    for nu in (0.1, 0.2, 0.3, 0.35, 0.45):
        states = theory.decay_states(targets, 3, nu)
        np.testing.assert_array_equal(states.stable > 0, nu < at.spinodal)
        best = theory.decay_energy(states.stable, targets, 3, nu) < theory.decay_energy(0.0, targets, 3, nu)
        assert best.sum() == (nu < at.maxwell).sum()


def test_depths_one_and_two_have_no_jump():
    decays = np.array([0.1, 0.6, 0.9, 5.0])
    one, two = (theory.decay_states(1.5, depth, decays, 0.5) for depth in (1, 2))

    np.testing.assert_allclose(one.stable, 0.5 * 1.5 / (0.5 + decays), rtol=1e-14)
    np.testing.assert_array_equal(one.unstable, 0)
    np.testing.assert_allclose(two.stable, np.maximum(1.5 - decays / 0.5, 0), rtol=1e-14)
    np.testing.assert_array_equal(two.unstable, np.where(decays < 0.75, 0, np.inf))
    at = theory.decay_thresholds(1.5, 2, 0.5)
    assert at.spinodal == at.maxwell == 0.75
    assert at.spinodal_strength == at.maxwell_strength == 0


def test_states_at_the_ends_of_their_range_have_digits_and_derivatives():
    decays = jnp.array([0.0, 1e-12, 1e-4, 0.47, 0.48, 50.0])
    states = theory.decay_states(1.0, 3, decays)
    np.testing.assert_array_equal(states.stable[4:], 0)
    np.testing.assert_array_equal(states.unstable[4:], np.inf)
    np.testing.assert_allclose(states.unstable[:3], [0, 1e-36, 1e-12], rtol=1e-11)
    assert states.stable[0] == 1
    for name in ("stable", "unstable"):
        value = lambda nu, name=name: getattr(theory.decay_states(1.0, 3, nu), name)
        slopes = jax.vmap(jax.grad(value))(decays)
        u = getattr(states, name)[1:4]
        law = 1 / (u ** (1 / 3) * ((1 - u) / (3 * u) - 1))
        np.testing.assert_allclose(slopes[1:4], law, rtol=1e-9)
        np.testing.assert_array_equal(slopes[4:], 0)
    assert jax.grad(lambda nu: theory.decay_states(1.0, 3, nu).stable)(0.0) == -1
    assert jnp.isfinite(jax.grad(lambda u: theory.decay_energy(u, 1.0, 3, 0.3))(0.0))


def test_states_keep_float32():
    states = theory.decay_states(jnp.float32(1.0), 3, jnp.float32(0.3))
    assert states.stable.dtype == states.unstable.dtype == jnp.float32
    assert states.stable == pytest.approx(0.654464612346852, rel=1e-5)
    assert states.unstable == pytest.approx(0.029541523662289, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.decay_thresholds(1.0, 1), r"A single layer has no threshold.*Take depth=2"),
        (lambda: theory.decay_thresholds(1.0, -2), r"`depth` is a whole number of at least 1, but it is -2"),
        (lambda: theory.decay_thresholds(-1.0, 3), r"`target` is .* needs to be positive, but it holds -1"),
        (lambda: theory.decay_states(1.0, 3, -0.1), r"`decay` is a weight decay and needs to be at least 0"),
        (lambda: theory.decay_states(1.0, 3, 0.1, 0.0), r"`variance` needs to be positive, but it holds 0"),
        (lambda: theory.decay_energy(1.0, 1.0, 0, 0.1), r"`depth` is a whole number of at least 1, but it is 0"),
    ],
)
def test_decay_refuses_what_it_is_not(call, words):
    with pytest.raises(ValueError, match=words):
        call()
