"""Summaries of whole paths, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

TARGETS = jnp.array([2.0, 1.0, 0.5])
TS = np.linspace(0.0, 40.0, 2001)


def modes(size):
    return lf.Problem(lf.DiagonalNetwork((jnp.full(3, size), jnp.full(3, size))), lf.Modes(1.0, TARGETS))


@pytest.fixture(scope="module")
def path():
    summary = {
        "half": lf.half_times,
        "order": lf.mode_order,
        "rest": lf.plateaus(),
        "nine_tenths": lf.time_to_fraction(0.9),
        "second": lf.time_to_fraction(0.5, of="mode_strengths"),
    }
    observe = (lf.loss, lf.mode_strengths)
    return lf.solve(modes(1e-3), lf.Flow(t1=40.0, rtol=1e-9), ts=TS, observe=observe, summary=summary)


def test_half_times_are_those_of_the_sigmoid(path):
    """t = log(S/u0 - 1) / (2 S), interpolated between times 0.02 apart."""
    expected = np.log(TARGETS / 1e-6 - 1) / (2 * TARGETS)

    np.testing.assert_allclose(path.summary["half"], expected, atol=1e-3)
    np.testing.assert_allclose(path.summary["second"], expected, atol=1e-3)
    np.testing.assert_array_equal(path.summary["order"], [1, 2, 3])


def test_one_plateau_per_mode_and_the_rest_at_the_end(path):
    """Heights are half the sum of squares of what is not learned yet."""
    rest = {name.removeprefix("rest_"): value for name, value in path.summary.items() if name.startswith("rest")}

    assert rest["count"] == 4
    np.testing.assert_allclose(rest["height"][:4], [2.625, 0.625, 0.125, 0.0], atol=0.02)
    assert np.isnan(rest["height"][4:]).all()
    half = path.summary["half"]
    assert (rest["end"][:3] < half).all()
    assert (rest["begin"][1:4] > half).all()


def test_a_straight_fall_has_no_plateau_but_its_end():
    """Exponential decay falls fastest at first."""
    problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), 1.0))

    path = lf.solve(problem, lf.Flow(t1=20.0), ts=np.linspace(0, 20, 400), summary=lf.plateaus())

    assert path.summary["plateaus_count"] == 1
    assert path.summary["plateaus_begin"][0] > 1.0


def test_the_time_to_a_fraction_is_that_of_the_exponential():
    """L = e^{-2t}/2: nine tenths of the way at log(10)/2; the loss itself at a level likewise."""
    problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), 1.0))
    summary = {"way": lf.time_to_fraction(0.9), "level": lf.first_time("loss", 0.05, falling=True)}
    summary["never"] = lf.first_time("loss", 0.6)

    path = lf.solve(problem, lf.Flow(t1=20.0), ts=np.linspace(0, 20, 4001), summary=summary)

    np.testing.assert_allclose(path.summary["way"], np.log(10) / 2, atol=1e-4)
    np.testing.assert_allclose(path.summary["level"], np.log(10) / 2, atol=1e-4)
    assert path.summary["never"] == np.inf


def test_half_times_on_data_ask_for_the_best_linear_map():
    """A mode that nothing excites does not get halfway."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([1.0, 0.5])))
    start = lf.LinearNetwork((1e-2 * jnp.diag(jnp.array([1.0, 0.0])),) * 2)

    path = lf.solve(
        lf.Problem(start, task),
        lf.Flow(t1=20.0),
        ts=np.linspace(0, 20, 2001),
        observe=lf.mode_strengths,
        summary=(lf.half_times, lf.mode_order),
    )

    np.testing.assert_allclose(path.summary["half_times"], [np.log(1e4 - 1) / 2, np.inf], atol=1e-3)
    np.testing.assert_array_equal(path.summary["mode_order"], [1, np.inf])


def test_grokking_delay_is_the_wait_between_two_crossings():
    """Two paths that cross at known times, by a network whose weight is the time."""

    def rising(at):
        return lambda network, problem: jnp.tanh(network.weights[0][0, 0] - at)

    class Clock(lf.Task):
        def loss(self, network):
            return -jnp.sum(network.weights[0])

    observe = {"train": rising(2.0), "test": rising(7.5), "late": rising(50.0)}
    summary = {
        "seen": lf.grokking_delay(train="train", test="test", level=0.0),
        "never": lf.grokking_delay(train="train", test="late", level=0.0),
        "neither": lf.grokking_delay(train="late", test="late", level=0.0),
    }
    problem = lf.Problem(lf.linear_model(jnp.zeros(1)), Clock())
    told = lf.solve(problem, lf.Flow(t1=10.0), ts=np.linspace(0, 10, 1001), observe=observe, summary=summary).summary

    np.testing.assert_allclose([told["seen_train"], told["seen_test"], told["seen_delay"]], [2.0, 7.5, 5.5], atol=1e-4)
    assert told["never_delay"] == np.inf
    assert np.isnan(told["neither_delay"])


def cell(key, size):
    start = lf.gaussian(key, (2, 2, 2), std=size)
    return lf.Problem(start, lf.Moments.whitened(yx=jnp.diag(jnp.array([1.0, 0.5]))))


@pytest.mark.slow
def test_a_sweep_summarises_every_cell_as_solve_does_and_may_drop_the_paths():
    axes, method = {"size": [1e-2, 1e-1]}, lf.Flow(t1=20.0)
    what = {"ts": np.linspace(0, 20, 201), "observe": lf.loss, "summary": lf.time_to_fraction(0.5)}

    kept, dropped = (lf.sweep(cell, axes, seeds=2, method=method, paths=paths, **what) for paths in (True, False))

    assert kept.time_to_fraction.dims == ("size", "seed")
    assert kept.loss.dims == ("size", "seed", "t")
    assert set(dropped.data_vars) == {"time_to_fraction", "status", "num_steps", "end"}
    np.testing.assert_array_equal(kept.time_to_fraction, dropped.time_to_fraction)
    for seed in range(2):
        alone = lf.solve(cell(jax.random.fold_in(jax.random.key(0), seed), jnp.asarray(1e-2)), method, **what)
        np.testing.assert_allclose(kept.time_to_fraction[0, seed], alone.summary["time_to_fraction"], rtol=1e-5)


def test_other_levels_compile_nothing(compilations):
    """The fraction is a number of the program, not a part of it."""
    axes, method = {"size": [1e-2, 1e-1]}, lf.Flow(t1=20.0)
    run = lambda fraction: lf.sweep(cell, axes, method=method, ts=TS[:50], summary=lf.time_to_fraction(fraction))
    first = run(0.3)
    before = compilations.count

    second = run(0.6)

    assert compilations.count == before
    assert (second.time_to_fraction > first.time_to_fraction).all()


def test_a_failed_cell_has_no_summary():
    task = lf.Modes(jnp.ones(1), 1.0)
    cell = lambda eta: (
        lf.Problem(lf.linear_model(jnp.zeros(1)), task),
        lf.Descent(optax.sgd, learning_rate=eta, steps=5000),
    )

    diagram = lf.sweep(cell, {"eta": [0.1, 4.0]}, ts=np.arange(0, 5000, 100), summary=lf.time_to_fraction(0.5))

    np.testing.assert_array_equal(diagram.status, [lf.Status.REACHED_T1, lf.Status.NOT_FINITE])
    assert np.isfinite(diagram.time_to_fraction[0])
    assert np.isnan(diagram.time_to_fraction[1])


def test_the_trajectory_that_a_summary_sees_is_the_one_that_solve_returns():
    """Its problem, network, status and end too."""
    problem, method = modes(0.1), lf.Flow(t1=3.0)

    def seen(path):
        return {
            "target": path.problem.task.target,
            "network": path.network.strengths,
            "status": path.status,
            "end": path.end,
            "last": path.observed["loss"][-1],
        }

    path = lf.solve(problem, method, ts=[0.0, 3.0], summary=seen)

    np.testing.assert_array_equal(path.summary["seen_target"], TARGETS)
    np.testing.assert_allclose(path.summary["seen_network"], path.network.strengths, rtol=1e-14)
    assert (path.summary["seen_status"], path.summary["seen_end"]) == (0, 3.0)
    assert path.summary["seen_last"] == path.observed["loss"][-1]
