"""Descent with large steps on the scalar network, against plain loops and the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow import theory

WIDE = ([0.5, -0.2, 0.1], [0.3, 0.4, -0.6])


def descend(eta, steps, a, b, target, z=1.0, variance=1.0):
    """Gradient descent of E/2 (S - sum a b / Z)^2, as it stands; all that it passed."""
    a, b = np.array(a, float), np.array(b, float)
    way = [(a, b)]
    with np.errstate(all="ignore"):
        for _ in range(steps):
            pull = eta * variance / z * (target - (a * b).sum(-1, keepdims=True) / z)
            a, b = a + pull * b, b + pull * a
            way.append((a, b))
    return [np.stack(parts) for parts in zip(*way, strict=True)]


def weights(width, seed=0):
    return np.random.default_rng(seed).normal(size=(2, width)) * 0.8 / width**0.5


CASES = {  # eta, steps, a, b, S, Z, E: ellipse at the start; f, Sigma and C at the end
    "follows": (
        (0.4, 10, [1.2], [0.1], 1.0, 1.0, 1.0),
        0.146041666666667,
        (0.999999999966108, 1.172959545826921, 1.226106188246807),
    ),
    "wide": ((0.5, 20, *WIDE, 1.5, 2.0, 1.5), 0.046033934252386, (None, 1.503721820230115, -0.144109548783946)),
    "catapult": (
        (1.0, 40, [1.8], [0.05], 0.5, 1.0, 1.0),
        0.852666666666667,
        (0.5, 0.507027389355481, -0.168247122491112),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_map_gives_the_reference_values(case):
    (eta, steps, a, b, target, z, variance), ellipse, end = CASES[case]
    way = theory.scalar_descent(eta, steps, jnp.array(a), jnp.array(b), target, z=z, variance=variance)

    assert way.ellipse[0] == pytest.approx(ellipse, abs=1e-12)
    for found, value in zip((way.output, way.weight_scale, way.difference), end, strict=True):
        assert value is None or found[-1] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("width", [1, 5, 40])
@pytest.mark.parametrize(("target", "z"), [(0.7, 1.0), (-0.4, 0.5), (0.6, -2.0)])
def test_two_numbers_move_all_weights(width, target, z):
    a, b = weights(width)
    way = theory.scalar_descent(0.3, 30, a, b, target, z=z, variance=1.3)
    of_loop = descend(0.3, 30, a, b, target, z, 1.3)

    np.testing.assert_allclose(way.a, of_loop[0], rtol=0, atol=2e-13)
    np.testing.assert_allclose(way.b, of_loop[1], rtol=0, atol=2e-13)
    np.testing.assert_allclose(way.output, (of_loop[0] * of_loop[1]).sum(-1) / z, atol=1e-12)
    np.testing.assert_allclose(way.weight_scale, (way.a**2 + way.b**2).sum(-1) / (2 * abs(z)), atol=1e-12)
    np.testing.assert_allclose(way.difference, (way.a**2 - way.b**2).sum(-1), atol=1e-12)


def test_descent_of_the_engine_is_this_map():
    a, b = weights(4, seed=3)
    start = lf.LinearNetwork((jnp.asarray(a)[:, None], jnp.asarray(b)[None, :]))
    task = lf.Moments(xx=jnp.array([[1.2]]), yx=jnp.array([[1.2 * 0.9]]), yy=jnp.array([[1.2 * 0.81]]))
    ts = jnp.arange(21)
    method = lf.Descent(optax.sgd, learning_rate=0.5, steps=20)
    path = lf.solve(lf.Problem(start, task), method, ts=ts, observe={"slope": lambda network, _: network.matrix[0, 0]})

    np.testing.assert_allclose(
        path.observed["slope"], theory.scalar_descent(0.5, 20, a, b, 0.9, variance=1.2).output, atol=1e-12
    )


def test_inside_of_the_ellipse_stays_inside_and_outside_outside():
    """q - 1 is multiplied by 1 + e (e + mu), which is positive."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-2, 2, (2, 400, 2))
    target, eta = rng.uniform(-1.5, 1.5, 400), rng.uniform(0.05, 1.2, 400)
    way = theory.scalar_descent(eta, 6, a, b, target)
    q, mu = np.asarray(way.ellipse), eta * target
    error = eta * np.asarray(way.output) - mu
    kept = np.abs(mu) < 2
    sane = np.isfinite(q[1:]) & (np.abs(q[:-1]) < 1e6) & kept

    with np.errstate(all="ignore"):
        predicted = (q[:-1] - 1) * (1 + error[:-1] * (error[:-1] + mu))
    assert sane.mean() > 0.5
    np.testing.assert_allclose((q[1:] - 1)[sane], predicted[sane], rtol=1e-9, atol=1e-10)
    assert (((q[0] < 1) == (q[1] < 1))[kept & np.isfinite(q[1])]).all()
    assert np.isinf(q[:, ~kept]).all()


def test_on_the_ellipse_the_angle_is_tripled():
    h, mu, phi = 0.8, 0.6, np.linspace(0.1, 1.4, 9)
    of = lambda phi: (2 / h * (2 + mu) * np.cos(phi) ** 2, 2 / h * (2 - mu) * np.sin(phi) ** 2)
    aligned, opposed = (np.sqrt(2 * part) for part in of(phi))
    way = theory.scalar_descent(h, 1, ((aligned + opposed) / 2)[:, None], ((aligned - opposed) / 2)[:, None], mu / h)

    expected = of(3 * phi)
    np.testing.assert_allclose(way.weight_scale[1] + way.output[1], expected[0], atol=1e-12)
    np.testing.assert_allclose(way.weight_scale[1] - way.output[1], expected[1], atol=1e-12)


def test_critical_steps_are_the_reference_values():
    far, wide, saddle = (
        theory.critical_steps(jnp.array([1.2]), jnp.array([0.1]), 1.0),
        theory.critical_steps(*map(jnp.array, WIDE), 1.5, z=2.0, variance=1.5),
        theory.critical_steps(jnp.array([3.0]), jnp.array([-0.4]), 0.5),
    )

    assert far.bounded == pytest.approx(1.4617885324444, abs=1e-12)
    assert far.convergent == pytest.approx(1.0)
    assert wide.bounded == pytest.approx(1.65061247295328, abs=1e-12)
    assert saddle.bounded == pytest.approx(0.420289642362893, abs=1e-12)
    assert saddle.convergent == saddle.bounded


@pytest.mark.parametrize("width", [1, 2, 5])
def test_beyond_the_critical_step_descent_diverges_and_below_it_does_not(width):
    """Against loops of 3000 steps, at 3 % and 0.1 % on either side; below both steps all converge."""
    a, b = np.random.default_rng(width).normal(size=(2, 12, width))
    target = np.random.default_rng(9).uniform(-1.2, 1.2, 12)
    steps = theory.critical_steps(a, b, target)
    for factor in (0.97, 0.999, 1.001, 1.03):
        eta = factor * np.asarray(steps.bounded)
        of_a, of_b = descend(eta[:, None], 3000, a, b, target[:, None])
        output = (of_a[-1] * of_b[-1]).sum(-1)
        bounded = np.isfinite(output) & (np.abs(output) < 1e6)
        assert (bounded == (factor < 1)).all()
    eta = 0.97 * np.asarray(steps.convergent)
    of_a, of_b = descend(eta[:, None], 3000, a, b, target[:, None])
    np.testing.assert_allclose((of_a[-1] * of_b[-1]).sum(-1), target, atol=1e-6)


@pytest.mark.slow
def test_the_ellipse_and_two_lines_decide_every_cell():
    """A map of 60 x 60 over mu = eta S and eta C, from f = 0.01 S: converges, bounded or diverges, none misplaced."""
    mu, tilt = (grid.ravel() for grid in np.meshgrid(np.linspace(0.01, 2.3, 60), np.linspace(0.02, 4.6, 60)))
    output = 0.01 * mu
    scale = np.sqrt(output**2 + tilt**2 / 4)
    a = np.sqrt(scale + tilt / 2)
    b = output / a
    start = a[:, None], b[:, None]
    found = theory.critical_steps(*start, mu)
    bounded, convergent = np.asarray(found.bounded) > 1, np.asarray(found.convergent) > 1
    with np.errstate(all="ignore"):
        for _ in range(20_000):
            pull = mu - a * b
            a, b = a + pull * b, b + pull * a
        error = np.abs(a * b - mu)

    ellipse = np.asarray(theory.scalar_descent(1.0, 1, start[0], start[1], mu).ellipse[0])
    assert (bounded == ((ellipse < 1) & (mu < 2))).all()
    assert (convergent == (bounded & (mu < 1))).all()
    assert ((error < 1e-6) == convergent).all()
    assert ((np.isfinite(error) & (error < 1e6)) == bounded).all()


def test_the_sharpness_is_that_of_the_minimum_of_the_flow():
    a, b = map(jnp.array, WIDE)
    end = theory.scalar_network_limit(a, b, 1.5, z=2.0)
    loss = lambda weights: 0.75 * (1.5 - weights[:3] @ weights[3:] / 2) ** 2
    largest = np.linalg.eigvalsh(jax.hessian(loss)(jnp.concatenate([end.a, end.b])))[-1]

    assert theory.flow_sharpness(a, b, 1.5, z=2.0, variance=1.5) == pytest.approx(largest, rel=1e-10)


def test_the_product_of_both_halves_shrinks_by_a_square():
    a, b = weights(5, seed=2)
    way = theory.scalar_descent(0.6, 20, a, b, 0.9, z=1.7, variance=1.2)
    e = 0.6 * 1.2 / 1.7 * (np.asarray(way.output) - 0.9)
    product = np.asarray(way.weight_scale**2 - way.output**2)

    np.testing.assert_allclose(product[1:], product[:-1] * (1 - e[:-1] ** 2) ** 2, rtol=1e-10)


def test_descent_ends_below_two_over_its_step():
    """From all starts and at all steps that converge, those that overshoot and catapult among them."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 300, 3))
    target, z, variance = rng.uniform(-1.5, 1.5, 300), rng.uniform(0.5, 2, 300), rng.uniform(0.5, 2, 300)
    eta = rng.uniform(0.3, 0.98, 300) * theory.critical_steps(a, b, target, z=z, variance=variance).convergent
    way = theory.scalar_descent(eta, 3000, a, b, target, z=z, variance=variance)
    sharpness = 2 * variance / z * way.weight_scale[-1]

    np.testing.assert_allclose(way.output[-1], target, atol=1e-8)
    assert (eta * sharpness < 2).all()
    assert (eta * theory.flow_sharpness(a, b, target, z=z, variance=variance) > 2).sum() > 30  # catapults


@pytest.mark.parametrize("width", [1, 4])
def test_without_a_target_the_ellipse_is_the_rule_of_four(width):
    """Bounded iff the sharpness E times the kernel, E sum (a_i^2 + b_i^2) / Z^2, is below 4 / eta."""
    a, b = weights(width, seed=5)
    steps = theory.critical_steps(a, b, 0.0, z=1.7, variance=1.3)

    np.testing.assert_allclose(4 / steps.bounded, 1.3 * np.sum(a**2 + b**2) / 1.7**2, rtol=1e-13)
    assert steps.convergent == steps.bounded


def one_step(network, task, eta):
    """The weights after one step of descent by the engine."""
    method = lf.Descent(optax.sgd, learning_rate=eta, steps=1)
    return [np.asarray(w) for w in lf.solve(lf.Problem(network, task), method, ts=jnp.arange(2)).network.weights]


def test_matrices_balance_by_the_squares_of_a_step():
    rng = np.random.default_rng(6)
    w1, w2, sigma_yx = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    task = lf.Moments.whitened(yx=jnp.asarray(sigma_yx))
    v1, v2 = one_step(lf.LinearNetwork((jnp.asarray(w1), jnp.asarray(w2))), task, 0.2)
    left = sigma_yx - w2 @ w1

    gain = 0.2**2 * (w1 @ left.T @ left @ w1.T - w2.T @ left @ left.T @ w2)
    np.testing.assert_allclose(v2.T @ v2 - v1 @ v1.T, w2.T @ w2 - w1 @ w1.T + gain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_deep_chains_balance_by_the_square_of_a_step(depth):
    a = np.random.default_rng(depth).uniform(0.6, 1.4, depth)
    variance, target, eta = 1.3, 0.8, 0.15
    moment = lambda number: jnp.array([[number]])
    task = lf.Moments(moment(variance), moment(variance * target), moment(variance * target**2))
    after = np.ravel(one_step(lf.LinearNetwork(tuple(moment(weight) for weight in a)), task, eta))
    u = a.prod()
    shrink = 1 - (eta * variance * (u - target) * u) ** 2 / np.multiply.outer(a**2, a**2)

    between = lambda weights: np.subtract.outer(weights**2, weights**2)
    np.testing.assert_allclose(between(after), between(a) * shrink, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mu", [1.05, -1.1, 1.2, 1.8])
def test_two_cycle_returns_after_two_steps(mu):
    eta, z, variance = 0.5, -2.0, 1.5
    target = mu * 2.0 / (eta * variance)
    cycle = theory.two_cycle(eta, target, z=z, variance=variance)
    weight = np.sqrt(2.0 * abs(cycle.smaller))
    way = theory.scalar_descent(
        eta, 2, np.array([weight]), np.array([-np.sign(mu) * weight]), target, z=z, variance=variance
    )
    np.testing.assert_allclose(way.output, [cycle.smaller, cycle.larger, cycle.smaller], rtol=1e-12)

    def twice(a):
        for _ in range(2):
            a = a * (1 - (a**2 - abs(mu)))
        return a

    np.testing.assert_allclose(cycle.multiplier, jax.grad(twice)(np.sqrt(abs(mu) * cycle.smaller / target)), rtol=1e-12)


def test_balanced_descent_ends_on_the_two_cycle_while_it_attracts():
    for target in (1.1, 1.2, -1.2):
        cycle, a = theory.two_cycle(1.0, target), np.array([0.3])
        ends = np.abs(theory.scalar_descent(1.0, 2000, a, np.sign(target) * a, target).output[-2:])
        np.testing.assert_allclose(np.sort(ends), np.abs([cycle.smaller, cycle.larger]), rtol=1e-11)


def test_two_cycle_lives_between_one_and_the_root_of_five_less_one():
    for mu in (0.0, 0.5, 1.0):
        assert all(np.isnan(leaf) for leaf in jax.tree.leaves(theory.two_cycle(1.0, mu)))
        assert jnp.isfinite(jax.grad(lambda s: jnp.nan_to_num(theory.two_cycle(1.0, s).larger))(jnp.asarray(mu)))
    np.testing.assert_allclose(theory.two_cycle(1.0, 1 + 1e-9).multiplier, 1, atol=1e-8)
    np.testing.assert_allclose(theory.two_cycle(1.0, 5**0.5 - 1).multiplier, -1, rtol=1e-13)
    assert theory.two_cycle(jnp.float32(1.1), 1.0).larger.dtype == jnp.float32


def test_what_does_not_move_has_no_critical_step():
    still = theory.critical_steps(jnp.zeros(2), jnp.zeros(2), 0.0)
    blind = theory.critical_steps(*map(jnp.array, WIDE), 1.0, variance=0.0)

    assert np.isinf([still.bounded, still.convergent, blind.bounded, blind.convergent]).all()


@pytest.mark.parametrize(
    "function",
    [
        theory.flow_sharpness,
        lambda *s: theory.critical_steps(*s).bounded,
        lambda *s: theory.two_cycle(0.8, s[2]).larger,
    ],
)
def test_derivatives_are_those_of_differences(function):
    start = (jnp.array(WIDE[0]), jnp.array(WIDE[1]), jnp.asarray(1.5))
    slope, step = jax.grad(function, argnums=2)(*start), 1e-5
    of_differences = (function(*start[:2], 1.5 + step) - function(*start[:2], 1.5 - step)) / (2 * step)

    assert slope == pytest.approx(float(of_differences), rel=1e-7)


def test_float32_stays_float32_and_near():
    a, b = (jnp.array(part, jnp.float32) for part in WIDE)
    way = theory.scalar_descent(0.5, 20, a, b, 1.5, z=2.0, variance=1.5)

    assert {leaf.dtype for leaf in jax.tree.leaves(way)} == {np.dtype("float32")}
    assert way.weight_scale[-1] == pytest.approx(1.503721820230115, rel=1e-5)


def test_steps_are_counted_and_not_negative():
    with pytest.raises(ValueError, match=r"`steps`.*at least 1"):
        theory.scalar_descent(0.1, 0, jnp.ones(1), jnp.ones(1), 1.0)
    with pytest.raises(ValueError, match="`learning_rate` is the size of a step and needs to be at least 0"):
        theory.scalar_descent(-0.1, 1, jnp.ones(1), jnp.ones(1), 1.0)
