"""Problems, methods and trajectories."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import layerflow as lf
from layerflow.tasks._order import shuffled


def mode(strength, depth=2, target=1.0, variance=1.0):
    """One mode with equal layers."""
    layer = jnp.full(1, strength ** (1 / depth))
    return lf.Problem(lf.DiagonalNetwork((layer,) * depth), lf.Modes(variance=jnp.full(1, variance), target=target))


def sigmoid(t, start, target, variance):
    """Eq. 9."""
    return target / (1 + (target / start - 1) * np.exp(-2 * target * variance * t))


def test_one_diagonal_mode_grows_as_a_sigmoid():
    """Eq. 9, at the reference value of THEORY section 13 and along the way."""
    ts = np.linspace(0, 4, 9)
    path = lf.solve(mode(1e-3, variance=2.0), lf.Flow(t1=4.0, rtol=1e-9), ts=ts, observe=lf.mode_strengths)

    np.testing.assert_allclose(path.observed["mode_strengths"][:, 0], sigmoid(ts, 1e-3, 1.0, 2.0), atol=1e-8)
    np.testing.assert_allclose(path.observed["mode_strengths"][3, 0], 0.28766436868, atol=1e-8)


def test_a_linear_model_saturates_exponentially():
    """Eq. 10: theta = S (1 - e^{-E t})."""
    ts = np.linspace(0, 3, 7)
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Modes(variance=jnp.array([0.5, 2.0]), target=3.0))

    path = lf.solve(problem, lf.Flow(t1=3.0, rtol=1e-9), ts=ts, observe=lf.mode_strengths)

    np.testing.assert_allclose(
        path.observed["mode_strengths"], 3 * -np.expm1(-ts[:, None] * np.array([0.5, 2.0])), atol=1e-8
    )


def test_an_aligned_network_follows_diagonal_modes():
    """On whitened inputs, mode by mode (Saxe et al., 2014; Eq. 12)."""
    u, _, vt = np.linalg.svd(np.random.default_rng(0).normal(size=(3, 3)))
    strengths, targets = jnp.array([0.01, 0.02, 0.03]), jnp.array([3.0, 2.0, 1.0])
    root = jnp.diag(jnp.sqrt(strengths))
    matrix = lf.Problem(lf.LinearNetwork((root @ vt, u @ root)), lf.Moments.whitened(yx=u @ jnp.diag(targets) @ vt))
    diagonal = lf.Problem(lf.DiagonalNetwork((jnp.sqrt(strengths),) * 2), lf.Modes(variance=1.0, target=targets))

    paths = [lf.solve(p, lf.Flow(t1=1.5, rtol=1e-9), observe=lf.mode_strengths) for p in (matrix, diagonal)]

    np.testing.assert_allclose(*(path.observed["mode_strengths"] for path in paths), atol=1e-7)


@pytest.mark.parametrize(
    "solver", [diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Dopri8(), diffrax.Bosh3(), diffrax.Heun(), diffrax.Kvaerno5()]
)
def test_the_steps_are_those_of_diffeqsolve(solver, key, coloured_samples):
    """Same solver, controller and first step, so the same number of steps and the same end, to rounding."""
    task = coloured_samples.moments
    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.5), task)
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-8)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.start.weights)

    def velocity(t, w, args):  # noqa: ARG001
        return jax.flatten_util.ravel_pytree(problem.velocity(lf.LinearNetwork(unravel(w))))[0]

    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity), solver, 0.0, 5.0, 0.01, flat, stepsize_controller=controller, max_steps=10_000
    )
    ours = lf.solve(problem, lf.Flow(t1=5.0, solver=solver, controller=controller, dt0=0.01))

    assert int(ours.num_steps) == int(theirs.stats["num_steps"])
    weights = jax.flatten_util.ravel_pytree(ours.network.weights)[0]
    # An implicit stage is solved to the tolerance only, about a displacement here and a weight there.
    tolerance = 1e-6 if isinstance(solver, diffrax.AbstractImplicitSolver) else 1e-11
    np.testing.assert_allclose(weights, theirs.ys[0], atol=tolerance)


def test_fixed_steps_of_euler_are_descent(key, coloured_samples):
    """w <- w + dt velocity, in two libraries and in NumPy."""
    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.5), coloured_samples)
    euler = lf.Flow(t1=1.0, solver=diffrax.Euler(), controller=diffrax.ConstantStepSize(), dt0=0.01)
    descent = lf.Descent(optax.sgd, learning_rate=0.01, steps=100)

    w1, w2 = map(np.asarray, problem.start.weights)
    x, y = np.asarray(coloured_samples.x), np.asarray(coloured_samples.y)
    for _ in range(100):
        miss = (y - x @ (w2 @ w1).T).T @ x / len(x)
        w1, w2 = w1 + 0.01 * w2.T @ miss, w2 + 0.01 * miss @ w1.T

    for method in (euler, descent):
        network = lf.solve(problem, method).network
        np.testing.assert_allclose(network.weights[0], w1, atol=1e-12)
        np.testing.assert_allclose(network.weights[1], w2, atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_until_converged_stops_at_the_least_loss_whatever_the_scale(key, scale):
    """Relative, so that large and small targets stop equally exactly."""
    task = lf.random_regression(key, n=10, inp=3, out=2).rescale(target=scale)
    problem = lf.Problem(lf.gaussian(key, (3, 3, 2), std=0.5 * scale**0.5), task)
    t1 = 1000 / scale

    path = lf.solve(problem, lf.Flow(t1=t1, until="converged"))

    assert path.status == lf.Status.CONVERGED
    assert path.end < t1 / 2
    least = task.moments.floor
    scale = max(float(task.null_loss()), float(task.loss(problem.start)))
    np.testing.assert_allclose(path.observed["loss"], least, rtol=0, atol=1e-8 * scale)


def test_a_bottleneck_converges_to_the_best_fit_of_its_rank(key):
    """The least loss of rank 1 is half the sum of the squares of all other singular values."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 2.0, 1.0])))
    problem = lf.Problem(lf.gaussian(key, (3, 1, 3), std=0.5), task)

    path = lf.solve(problem, lf.Flow(t1=100.0, until="converged"))

    assert path.status == lf.Status.CONVERGED
    # The stop leaves an excess of rtol/100 of the loss of the zero function, 7.
    np.testing.assert_allclose(path.observed["loss"], 0.5 * (4 + 1), rtol=0, atol=7 * 1e-8)


def test_depth_five_from_small_weights_is_a_saddle_and_not_converged():
    """Its velocity is 1e-8 at t = 0, far below that of many a converged cell."""
    problem = mode(1e-10, depth=5)

    path = lf.solve(problem, lf.Flow(t1=10.0, until="converged"))

    assert path.status == lf.Status.SADDLE
    assert path.end == 10.0
    np.testing.assert_allclose(path.observed["loss"], 0.5, rtol=1e-6)


def test_a_loss_can_be_the_stop():
    """Stops at the end of the first step with a loss that small."""
    path = lf.solve(mode(0.1), lf.Flow(t1=50.0, until=1e-3))

    assert path.status == lf.Status.CONVERGED
    assert path.end < 10.0
    assert 0 < path.observed["loss"] <= 1e-3


def test_after_a_stop_the_last_value_holds():
    ts = np.linspace(0, 50, 101)
    path = lf.solve(mode(0.1), lf.Flow(t1=50.0, until=1e-3), ts=ts)

    beyond = ts > float(path.end)
    assert beyond.sum() > 50
    assert len(set(np.asarray(path.observed["loss"])[beyond])) == 1
    assert path.observed["loss"][0] > 0.1


def test_after_a_failure_values_are_nan_and_those_before_it_stay():
    """A negative variance turns the parabola over: the mode grows as e^{t}, until it overflows."""
    task = lf.Modes(variance=jnp.full(1, -1.0), target=1.0)
    problem = lf.Problem(lf.linear_model(jnp.zeros(1)), task)
    ts = np.array([0.0, 1.0, 2.0, 500.0])

    path = lf.solve(problem, lf.Flow(t1=500.0, rtol=1e-8), ts=ts, observe=lf.mode_strengths)

    assert path.status == lf.Status.BLEW_UP
    np.testing.assert_allclose(path.observed["mode_strengths"][:3, 0], 1 - np.exp(ts[:3]), atol=1e-6)
    assert np.isnan(path.observed["mode_strengths"][3])
    assert np.isnan(path.network.weights[0])


def test_a_blow_up_in_finite_time_ends_at_once():
    """u' = 2 |E| u^2 is infinite at t = 1/2 for u(0) = 1; steps must not shrink for ever before it."""
    path = lf.solve(mode(1.0, target=0.0, variance=-1.0), lf.Flow(t1=10.0))

    assert path.status == lf.Status.BLEW_UP
    assert path.num_steps < 500


def test_not_finite_starts_and_too_many_steps_say_so():
    assert lf.solve(mode(jnp.nan), lf.Flow(t1=1.0)).status == lf.Status.NOT_FINITE
    assert lf.solve(mode(jnp.nan), lf.Flow(t1=1.0)).num_steps == 0
    assert lf.solve(mode(0.1), lf.Flow(t1=100.0, max_steps=3)).status == lf.Status.OUT_OF_STEPS
    diverging = lf.Descent(optax.sgd, learning_rate=50.0, steps=100)
    assert lf.solve(mode(0.1), diverging).status == lf.Status.NOT_FINITE


def test_descent_measures_at_steps_and_takes_structured_optimisers(key, coloured_samples):
    """`ts` counts steps; optimisers that look at whole matrices see them."""
    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.5), coloured_samples)
    method = lf.Descent(optax.adam, learning_rate=0.02, steps=200)

    path = lf.solve(problem, method, ts=[0, 50, 200], observe=(lf.loss, lf.layer_movement))
    alone = lf.solve(problem, lf.Descent(optax.adam, learning_rate=0.02, steps=50))
    scaled = lf.solve(problem, lf.Descent(optax.lamb, learning_rate=0.02, steps=50))

    assert path.observed["loss"].shape == (3,)
    assert path.observed["layer_movement"].shape == (3, 2)
    np.testing.assert_allclose(path.observed["loss"][0], lf.loss(problem.start, problem), rtol=1e-12)
    np.testing.assert_allclose(path.observed["loss"][1], alone.observed["loss"], rtol=1e-12)
    # LAMB scales each matrix by its own norm; on one flat vector both layers would get one factor.
    weights = problem.start.weights
    optimiser = optax.lamb(0.02)
    state = optimiser.init(weights)
    for _ in range(50):
        gradient = jax.tree.map(jnp.negative, problem.velocity(lf.LinearNetwork(weights)).weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
    np.testing.assert_allclose(scaled.network.weights[0], weights[0], atol=1e-12)


def test_batches_run_through_all_samples_once_an_epoch(key):
    task = lf.Samples(jnp.arange(10.0)[:, None], jnp.arange(10.0)[:, None])
    epochs = [
        np.concatenate([task.batch(key, jnp.asarray(3 * epoch + step), 3).x[:, 0] for step in range(3)])
        for epoch in range(2)
    ]

    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 100, 1009])
def test_an_order_that_is_asked_place_by_place_has_everything_once(key, n):
    np.testing.assert_array_equal(np.sort(shuffled(key, jnp.arange(n), n)), np.arange(n))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_all_orders_of_a_few_are_equally_likely(key, n):
    """By chi-squared over all n! orders of 20,000 draws, from a fixed key."""
    draws = jax.vmap(lambda number: shuffled(jax.random.fold_in(key, number), jnp.arange(n), n))
    _, counts = np.unique(jax.jit(draws)(jnp.arange(20_000)), axis=0, return_counts=True)

    assert len(counts) == math.factorial(n)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_places_of_an_order_are_drawn_apart(key):
    """What stands at one place says no more of the next than that it is another: a correlation of -1 / (n - 1)."""
    n, count = 101, 20_000
    first, second = jax.vmap(lambda number: shuffled(jax.random.fold_in(key, number), jnp.arange(2), n))(
        jnp.arange(count)
    ).T

    assert np.corrcoef(first, second)[0, 1] == pytest.approx(-1 / (n - 1), abs=4 / count**0.5)
    assert scipy.stats.chisquare(np.bincount((second - first) % n)[1:]).pvalue > 0.01


def test_a_descent_in_batches_differentiates_in_both_modes(key, coloured_samples):
    def end(size, adjoint=None):
        method = lf.Descent(optax.sgd, learning_rate=0.1, steps=5, batch=5, adjoint=adjoint)
        problem = lf.Problem(lf.gaussian(key, (4, 3, 2)), coloured_samples.rescale(target=size))
        return lf.solve(problem, method, key=key).observed["loss"]

    backward = float(jax.grad(lambda size: end(size, diffrax.RecursiveCheckpointAdjoint()))(1.0))

    assert jax.jvp(end, (1.0,), (1.0,))[1] == pytest.approx(backward, rel=1e-9)
    assert (end(1.0 + 1e-6) - end(1.0 - 1e-6)) / 2e-6 == pytest.approx(backward, rel=1e-5)


def test_mini_batches_descend_in_the_mean(key, coloured_samples):
    """Batches of one sample, averaged over an epoch at a tiny rate, are full descent."""
    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.5), coloured_samples)
    small = dict(learning_rate=1e-5, steps=12)

    batched = lf.solve(problem, lf.Descent(optax.sgd, batch=1, **small), key=key).network.weights[0]
    full = lf.solve(problem, lf.Descent(optax.sgd, **small)).network.weights[0]

    moved = full - problem.start.weights[0]
    np.testing.assert_allclose(batched, full, atol=1e-3 * np.abs(moved).max())
    assert np.abs(batched - full).max() > 0


@pytest.mark.slow
def test_any_equinox_module_is_a_network(key):
    """An MLP learns, and so does a convolutional network inside the user's own module."""

    class Small(eqx.Module):
        conv: eqx.nn.Conv2d
        read: eqx.nn.Linear

        def __call__(self, image):
            return self.read(jax.nn.tanh(self.conv(image)).mean((1, 2)))

    k1, k2, k3 = jax.random.split(key, 3)
    images = lf.Samples(jax.random.normal(k1, (6, 1, 5, 5)), jnp.eye(2)[jnp.arange(6) % 2])
    rows = lf.Samples(jax.random.normal(k1, (6, 3)), jax.random.normal(k2, (6, 2)))
    conv = Small(eqx.nn.Conv2d(1, 3, 3, key=k2), eqx.nn.Linear(3, 2, key=k3))
    mlp = eqx.nn.MLP(3, 2, 8, 1, activation=jnp.tanh, key=k3)

    with jax.numpy_rank_promotion("allow"):
        for network, task in ((conv, images), (mlp, rows)):
            path = lf.solve(lf.Problem(network, task), lf.Flow(t1=30.0), ts=[0.0, 30.0])
            assert path.observed["loss"][1] < 0.5 * path.observed["loss"][0]
            assert type(path.network) is type(network)


def test_constants_and_frozen_layers_do_not_move(key, coloured_samples):
    """`lf.constant()` fields and layers of rate None neither move nor decay."""
    start = lf.gaussian(key, (4, 3, 2), std="ntk")
    rates = eqx.tree_at(lambda network: network.weights, start, (1.0, None))
    problem = lf.Problem(start, coloured_samples, rates=rates, decay=0.1)

    end = lf.solve(problem, lf.Flow(t1=1.0)).network

    np.testing.assert_array_equal(end.weights[1], start.weights[1])
    assert end.output_scale == start.output_scale
    assert np.abs(end.weights[0] - start.weights[0]).max() > 1e-3


def test_rates_conserve_the_weighted_imbalance():
    """eta_w a^2 - eta_a w^2 is constant (Kunin et al., 2024; THEORY 9.7)."""
    start = lf.LinearNetwork((jnp.array([[0.5, -0.2]]), jnp.array([[0.8]])))
    rates = eqx.tree_at(lambda network: network.weights, start, (3.0, 0.5))
    problem = lf.Problem(start, lf.Moments.whitened(yx=jnp.array([[1.0, 2.0]])), rates=rates)

    end = lf.solve(problem, lf.Flow(t1=3.0, rtol=1e-9)).network

    conserved = lambda network: 3.0 * jnp.sum(network.weights[1] ** 2) - 0.5 * jnp.sum(network.weights[0] ** 2)
    np.testing.assert_allclose(conserved(end), conserved(start), atol=1e-7)
    assert np.abs(end.matrix - start.matrix).max() > 0.5


def test_decay_per_layer_counts_in_the_velocity(key, coloured_samples):
    start = lf.gaussian(key, (4, 3, 2), std=0.5)
    decay = eqx.tree_at(lambda network: network.weights, start, (0.1, 0.7))

    plain = lf.Problem(start, coloured_samples).velocity(start)
    decayed = lf.Problem(start, coloured_samples, decay=decay).velocity(start)

    for mu, before, after, weight in zip((0.1, 0.7), plain.weights, decayed.weights, start.weights, strict=True):
        np.testing.assert_allclose(after, before - mu * weight, atol=1e-14)


def test_solve_differentiates_forward(key):
    """The derivative by the horizon is the velocity of the loss, -|v|^2 at t1; that by lam a finite difference."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))

    def end_loss(t1, lam):
        start = lf.lambda_balanced(key, lam, 0.5, inp=2, hid=2, out=2)
        return lf.solve(lf.Problem(start, task), lf.Flow(t1=t1, rtol=1e-10)).observed["loss"]

    slope = jax.jacfwd(end_loss, argnums=1)(1.0, 0.7)
    np.testing.assert_allclose(slope, (end_loss(1.0, 0.7001) - end_loss(1.0, 0.6999)) / 2e-4, rtol=1e-5)


def test_solve_runs_inside_vmap_and_continues_where_it_ended(key, whitened_task):
    """Two flows of t = 1 are one of t = 2."""
    start = lf.gaussian(key, (3, 3, 3), std=0.3)
    half, whole = lf.Flow(t1=1.0, rtol=1e-10), lf.Flow(t1=2.0, rtol=1e-10)

    first = lf.solve(lf.Problem(start, whitened_task), half).network
    second = lf.solve(lf.Problem(first, whitened_task), half).network
    batch = jax.vmap(lambda s: lf.solve(lf.Problem(start, whitened_task.rescale(target=s)), whole).observed["loss"])

    np.testing.assert_allclose(
        second.matrix, lf.solve(lf.Problem(start, whitened_task), whole).network.matrix, atol=1e-8
    )
    assert batch(jnp.array([1.0, 2.0])).shape == (2,)


def test_a_second_solve_compiles_nothing(key, coloured_samples, compilations):
    """Other weights, data, horizon and tolerance, the same program."""

    def run(scale, rtol):
        problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=scale), coloured_samples.rescale(target=scale))
        return jax.block_until_ready(lf.solve(problem, lf.Flow(t1=scale, rtol=rtol), observe=lf.kernel_distance))

    run(0.5, 1e-6)
    before = compilations.count
    run(0.7, 1e-7)
    assert compilations.count == before
