"""How descent ends, in classes, and how far it leaves the flow on its way."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp

import layerflow as lf

NAMES = [one.name.lower() for one in lf.DescentClass]


def scalar_problem(a, b, target, task=lf.Moments.whitened):
    """F(x) = sum_i a_i b_i x."""
    return lf.Problem(lf.LinearNetwork((a[:, None], b[None, :])), task(yx=jnp.reshape(target, (1, 1))))


def scalar_cell(a, b, target, learning_rate, steps):
    return scalar_problem(a, b, target), lf.Descent(optax.sgd, learning_rate=learning_rate, steps=steps)


def loop(a, b, target, eta, steps, tolerance=1e-6):
    """The definition, step by step in NumPy."""
    before, raised, crossed = [], False, False
    first = 0.5 * (a @ b - target) ** 2
    for _ in range(steps):
        e = a @ b - target
        moves = max(np.abs(e * a).max(), np.abs(e * b).max()) >= tolerance
        before = [*before[-1:], np.concatenate([a, b])]
        a, b = a - eta * e * b, b - eta * e * a
        after = a @ b - target
        if not np.abs(after + target) <= 1e6:
            return "diverges"
        raised |= bool(moves and 0.5 * after**2 > first)
        crossed |= bool(moves and after * e < 0)
    e = a @ b - target
    if max(np.abs(e * a).max(), np.abs(e * b).max()) < tolerance:
        return "catapults" if raised else "oscillates" if crossed else "follows"
    by_two, by_one = (np.abs(np.concatenate([a, b]) - w).max() for w in before)
    return "period_two" if by_two < tolerance <= by_one else "wanders"


def random_cells(count, width, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, width)) * rng.uniform(0.05, 1.5, size=(2, count, 1))
    return {"a": a, "b": b, "target": rng.uniform(0.1, 1.6, count), "learning_rate": rng.uniform(0.05, 1.3, count)}


@pytest.mark.parametrize("width", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_classes_are_those_of_a_loop_on_random_cells(width):
    """250 random networks of each width; every class is met."""
    cells, steps = random_cells(250, width, seed=width), 3000
    # All a and b equal in some, where descent ends in a cycle of two steps.
    cells["b"][:40] = cells["a"][:40]
    cells["target"][:40], cells["learning_rate"][:40] = 1.0, np.linspace(1.01, 1.23, 40)
    cell = lambda a, b, target, learning_rate: scalar_cell(a, b, target, learning_rate, steps)

    found = lf.sweep(cell, {"cell": lf.paired(cells)}, summary=lf.descent_class(), progress=False).descent_class

    rows = zip(*cells.values(), strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = [loop(*row, steps) for row in rows]
    assert [NAMES[int(code)] for code in found] == expected
    assert set(expected) == set(NAMES)


def test_a_class_says_what_it_means_and_a_line_runs_between_two():
    """As `status` does; failed cells have theirs; maps and lines take them."""
    cell = lambda a, rate: scalar_cell(jnp.reshape(a, 1), jnp.array([0.05]), 0.5, rate, 400)
    axes = {"a": np.linspace(1.0, 2.0, 4), "rate": np.linspace(0.1, 1.9, 10)}

    diagram = lf.sweep(cell, axes, summary=lf.descent_class(), progress=False)

    classes = diagram.descent_class
    assert classes.attrs["flag_meanings"].split() == NAMES
    assert classes.attrs["flag_values"] == [int(one) for one in lf.DescentClass]
    assert np.all(classes.values[diagram.failed.values] == lf.DescentClass.DIVERGES)
    assert diagram.failed.any()
    critical = lf.theory.critical_steps(axes["a"][:, None], np.full((4, 1), 0.05), 0.5).bounded
    np.testing.assert_array_equal(classes == lf.DescentClass.DIVERGES, axes["rate"] > np.asarray(critical)[:, None])
    edge = lf.boundary(classes, ("catapults", "diverges"))
    assert np.all(np.abs(edge.rate - np.interp(edge.a, axes["a"], critical)) < 0.3)  # a grid step and its slope
    drawn = lf.plot.heatmap(classes).figure.axes[-1].get_yticklabels()
    assert [label.get_text() for label in drawn] == ["diverges", "follows", "oscillates", "catapults"]
    assert all(lf.DescentClass(int(code)).meaning for code in np.unique(classes))


def test_networks_of_several_modes_follow_at_small_steps_and_overshoot_at_large_ones(key):
    start = lf.gaussian(key, (3, 4, 2), std=0.3)
    problem = lf.Problem(start, lf.random_regression(key, n=20, inp=3, out=2))
    rates = {"learning_rate": [0.02, 1.8, 5.0]}
    cell = lambda learning_rate: (problem, lf.Descent(optax.sgd, learning_rate=learning_rate, steps=4000))

    diagram = lf.sweep(cell, rates, observe=lf.scaled_sharpness, summary=lf.descent_class(), progress=False)

    assert [NAMES[int(code)] for code in diagram.descent_class] == ["follows", "oscillates", "diverges"]
    assert diagram.scaled_sharpness[0] < 1 < diagram.scaled_sharpness[1] < 2


def test_a_start_at_the_target_follows_and_one_that_ran_short_wanders():
    at_rest = lf.solve(*scalar_cell(jnp.ones(1), jnp.ones(1), 1.0, 0.5, 10), summary=lf.descent_class())
    short = lf.solve(*scalar_cell(jnp.ones(1), 0.1 * jnp.ones(1), 1.0, 1e-3, 10), summary=lf.descent_class())
    assert int(at_rest.summary["descent_class"]) == lf.DescentClass.FOLLOWS
    assert int(short.summary["descent_class"]) == lf.DescentClass.WANDERS


@pytest.mark.slow
def test_momentum_and_adam_have_classes_too():
    problem = scalar_problem(jnp.array([0.8]), jnp.array([0.1]), 1.0)
    for optimiser, more in ((optax.sgd, {"momentum": 0.95}), (optax.adam, {})):
        method = lf.Descent(optimiser, learning_rate=0.05, steps=3000, **more)
        ended = lf.solve(problem, method, summary=lf.descent_class()).summary["descent_class"]
        assert int(ended) == lf.DescentClass.OSCILLATES


def test_watching_changes_no_bit_and_needs_no_times():
    problem, method = scalar_cell(jnp.array([1.2]), jnp.array([0.1]), 1.0, 0.7, 50)
    plain = lf.solve(problem, method, ts=[0, 10, 50])
    watched = lf.solve(
        problem, method, ts=[0, 10, 50], observe=(lf.loss, lf.leaving_flow), summary=(lf.descent_class(), lf.plateaus())
    )
    np.testing.assert_array_equal(plain.observed["loss"], watched.observed["loss"])
    with pytest.raises(ValueError, match="needs times to measure at"):
        lf.solve(problem, method, summary=(lf.descent_class(), lf.plateaus()))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lf.Flow(t1=1.0), "watches every step of a descent"),
        (lf.Exact(t1=1.0), "watches every step of a descent"),
        (lf.Descent(optax.sgd, learning_rate=0.1, steps=2, batch=1), "draws a batch at every step"),
    ],
    ids=["flow", "exact", "batches"],
)
def test_a_class_of_what_is_no_descent_is_refused_before_anything_runs(method, message):
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Samples(jnp.ones((3, 2)), jnp.ones((3, 1))))
    with pytest.raises(TypeError, match=message):
        lf.solve(problem, method, summary=lf.descent_class())
    with pytest.raises(TypeError, match=message):
        lf.sweep(lambda x: problem, {"x": [1.0]}, method=method, summary=lf.descent_class(), progress=False)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`tolerance` needs to be positive, but it is 0"):
        lf.descent_class(tolerance=0.0)
    path = lf.solve(*scalar_cell(jnp.ones(1), jnp.ones(1), 1.0, 0.5, 2))
    with pytest.raises(TypeError, match="descent_class watches every step"):
        lf.descent_class()(path)
    for rate in (0.0, -0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="`learning_rate` is the size of a step and needs to be positive"):
            lf.Descent(optax.sgd, learning_rate=rate, steps=2)
    cell = lambda rate: scalar_cell(jnp.ones(1), jnp.ones(1), 1.0, rate, 2)
    with pytest.raises(ValueError, match="`learning_rate` is the size of a step"):
        lf.sweep(cell, {"rate": [0.1, 0.0]}, progress=False)


# ---- Leaving the flow


def flow_of(problem, ts):
    """The outputs of a scalar network by SciPy."""
    w1, w2 = map(np.ravel, problem.start.weights)
    target = float(problem.task.yx[0, 0])

    def velocity(_, w):
        a, b = np.split(w, 2)
        return (target - a @ b) * np.concatenate([b, a])

    how = dict(t_eval=ts, method="DOP853", rtol=1e-12, atol=1e-14)
    return np.prod(np.split(solve_ivp(velocity, (0, ts[-1]), np.concatenate([w1, w2]), **how).y, 2), axis=0).sum(axis=0)


def test_it_is_the_distance_of_descent_from_the_flow_at_equal_time():
    problem, eta, steps = scalar_problem(jnp.array([0.9, 0.2]), jnp.array([0.1, -0.3]), 1.3), 0.05, np.arange(0, 41, 8)

    path = lf.solve(
        problem,
        lf.Descent(optax.sgd, learning_rate=eta, steps=40),
        ts=steps,
        observe={"gap": lf.leaving_flow, "f": lambda network, problem: network.matrix[0, 0]},
    )

    flow, descent = flow_of(problem, eta * steps), path.observed["f"]
    expected = np.abs(descent - flow)[1:] / np.abs(flow - flow[0])[1:]
    np.testing.assert_allclose(path.observed["gap"], [0.0, *expected], rtol=1e-5)
    assert path.followed_status["gap"] == lf.Status.REACHED_T1


def test_descent_comes_to_the_flow_at_first_order_in_its_step(key):
    """Of matrices; the ratio at half the step is 1/2 up to the step."""
    problem = lf.Problem(lf.gaussian(key, (3, 4, 2), std=0.4), lf.random_regression(key, n=20, inp=3, out=2))
    cell = lambda halvings: (
        problem,
        lf.Descent(optax.sgd, learning_rate=0.1 / 2**halvings, steps=jnp.round(20 * 2**halvings).astype(int)),
    )

    gaps = lf.sweep(
        cell, {"halvings": [2.0, 3.0, 4.0, 5.0, 6.0]}, observe=lf.leaving_flow, progress=False
    ).leaving_flow.values

    ratios = gaps[1:] / gaps[:-1]
    assert np.all(np.diff(np.abs(ratios - 0.5)) < 0)
    assert abs(ratios[-1] - 0.5) < 2e-3


class Quartic(lf.Samples):
    """Its flow w' = w^3 leaves the numbers at t = 1 / (2 w^2), and descent with steps does not for long."""

    def loss(self, network):
        return -jnp.mean(jax.vmap(network)(self.x) ** 4) / 4


def test_a_flow_that_fails_tells_so_and_leaves_descent_alone():
    problem = lf.Problem(lf.linear_model(jnp.ones(1)), Quartic(jnp.ones((1, 1)), jnp.ones((1, 1))))
    ts, method = [0, 2, 4, 8], lf.Descent(optax.sgd, learning_rate=0.1, steps=8)
    diagram = lf.sweep(
        lambda x: (problem, method), {"x": [1.0]}, ts=ts, observe=(lf.loss, lf.leaving_flow), progress=False
    )
    assert diagram.status.item() == lf.Status.REACHED_T1
    assert lf.Status(diagram.leaving_flow_status.item()).failed
    np.testing.assert_array_equal(np.isnan(diagram.leaving_flow.values[0]), [False, False, False, True])
    assert np.all(np.isfinite(diagram.loss))


def test_descent_that_diverges_has_no_distance_and_the_flow_its_own_status():
    path = lf.solve(
        *scalar_cell(jnp.array([1.2]), jnp.array([0.1]), 1.0, 1.9, 100), ts=[1, 100], observe=lf.leaving_flow
    )
    assert path.status == lf.Status.NOT_FINITE
    assert path.followed_status["leaving_flow"] == lf.Status.REACHED_T1
    np.testing.assert_array_equal(np.isnan(path.observed["leaving_flow"]), [False, True])


SAMPLES = lf.Samples(jnp.eye(2), jnp.ones((2, 1)))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lf.Flow(t1=1.0), "needs lf.Descent.*but the method is Flow"),
        (lf.Exact(t1=1.0), "needs lf.Descent.*but the method is Exact"),
        (lf.Descent(optax.adam, learning_rate=0.1, steps=2), "the optimiser is .*adam"),
        (lf.Descent(optax.sgd, learning_rate=0.1, momentum=0.9, steps=2), "the optimiser is .*sgd with momentum"),
        (lf.Descent(optax.sgd, learning_rate=optax.linear_schedule(0.1, 0.0, 9), steps=2), "at a scheduled rate"),
    ],
    ids=["flow", "exact", "adam", "momentum", "schedule"],
)
def test_only_plain_descent_at_one_rate_is_held_against_the_flow(method, message):
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), SAMPLES)
    with pytest.raises(TypeError, match=message):
        lf.solve(problem, method, observe=lf.leaving_flow)
    with pytest.raises(TypeError, match=message):
        lf.sweep(lambda x: problem, {"x": [1.0]}, method=method, observe=lf.leaving_flow, progress=False)


def test_a_stream_has_no_flow_and_no_distance_is_there_by_itself():
    stream = lf.Stream(lambda key, n: (jax.random.normal(key, (n, 2)), jnp.ones((n, 1))))
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), stream)
    with pytest.raises(TypeError, match="A Stream gives fresh samples"):
        lf.solve(problem, lf.Descent(optax.sgd, learning_rate=0.1, steps=2, batch=4), observe={"gap": lf.leaving_flow})
    with pytest.raises(TypeError, match="measured along both"):
        lf.leaving_flow(lf.linear_model(jnp.zeros(2)), lf.Problem(lf.linear_model(jnp.zeros(2)), SAMPLES))


@pytest.mark.slow
def test_batches_laziness_decay_rates_float32_and_derivatives_go_with_it(key):
    """All of one cell: what is beside what."""
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
    start = single(lf.gaussian(key, (2, 3, 1), std=0.3))
    task = single(lf.random_regression(key, n=8, inp=2, out=1))
    rates = eqx.tree_at(lambda network: network.weights, start, (1.0, 0.5))
    problem = lf.Problem(start, task, test=task, decay=0.01, rates=rates)
    observe = (lf.leaving_flow, lf.on_test(lf.leaving_flow), lf.laziness)
    method = lf.Descent(optax.sgd, learning_rate=0.01, steps=40, batch=4)
    path = lf.solve(problem, method, ts=[0, 20, 40], observe=observe)
    gap = path.observed["leaving_flow"]
    assert gap.dtype == jnp.float32
    assert 0 < gap[1] < 0.3
    np.testing.assert_array_equal(gap, path.observed["test_leaving_flow"])
    assert set(path.followed_status) == {"leaving_flow", "test_leaving_flow", "laziness"}

    cell = lambda rate: scalar_cell(jnp.array([0.9]), jnp.array([0.2]), 1.0, rate, 10)
    how = {"observe": lf.leaving_flow, "progress": False}
    slope = lf.sweep(cell, {"rate": [0.1]}, derivative=["rate"], **how).leaving_flow_d_rate
    near = lf.sweep(cell, {"rate": [0.0999, 0.1001]}, **how).leaving_flow
    np.testing.assert_allclose(slope, np.diff(near) / 2e-4, rtol=1e-4)


def test_a_store_keeps_classes_and_what_is_beside(tmp_path):
    cell = lambda b, rate: scalar_cell(jnp.array([1.2]), jnp.reshape(b, 1), 1.0, rate, 60)
    axes = {"b": [0.0, 0.2], "rate": [0.1, 0.7, 1.9]}
    how = {"observe": lf.leaving_flow, "summary": lf.descent_class(), "progress": False}
    memory = lf.sweep(cell, axes, **how)
    stored = lf.sweep(cell, axes, store=tmp_path / "classes.zarr", **how)
    opened = lf.open_diagram(tmp_path / "classes.zarr")
    for name in ("descent_class", "leaving_flow", "leaving_flow_status", "status"):
        np.testing.assert_array_equal(memory[name], stored[name])
        np.testing.assert_array_equal(memory[name], opened[name])
    assert opened.descent_class.attrs["flag_meanings"].split() == NAMES
    again = lf.prepare(cell, axes, **how)()
    np.testing.assert_array_equal(again.descent_class, memory.descent_class)


def test_small_starts_leave_the_flow_by_what_theory_says():
    """Their growth is decided by digits far below 1, and squares of their outputs are none in float32."""
    for dtype, atol in ((jnp.float64, 1e-6), (jnp.float32, 1e-3)):
        weights = (jnp.full(1, 1e-9, dtype), jnp.full(1, 1e-9, dtype))
        problem = lf.Problem(lf.DiagonalNetwork(weights), lf.Modes(jnp.ones(1, dtype), jnp.asarray(1.0, dtype)))
        descent = lf.Descent(optax.sgd, learning_rate=0.1, steps=100)
        gap = lf.solve(problem, descent, ts=[10, 100], observe=lf.leaving_flow).observed["leaving_flow"]
        # From a = b = e << 1: (1 + eta)^(2k) against e^(2 eta k), over e^(2 eta k) - 1.
        grown, flow = 1.1 ** (2 * np.array([10, 100])), np.exp(0.2 * np.array([10, 100]))
        np.testing.assert_allclose(gap, (flow - grown) / (flow - 1), atol=atol)


def test_descent_towards_infinite_weights_does_not_diverge():
    """Outputs of the logistic loss have no end to come to; with decay the flow itself passes the target."""
    samples = lf.Samples(jnp.eye(2), jnp.array([[1.0], [-1.0]]), loss="logistic")
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), samples)
    method = lf.Descent(optax.sgd, learning_rate=1e7, steps=20)
    path = lf.solve(problem, method, summary=lf.descent_class(), observe=lf.loss)
    assert path.observed["loss"] == 0
    assert int(path.summary["descent_class"]) == lf.DescentClass.FOLLOWS
    with pytest.raises(TypeError, match="Leave out `decay`"):
        lf.solve(lf.Problem(lf.linear_model(jnp.zeros(2)), SAMPLES, decay=0.1), method, summary=lf.descent_class())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lf.descent_class([1e-6, 1e-5]), ValueError, "`tolerance` is one number"),
        (lambda: lf.observable(watch=3), TypeError, "needs lf.Watch"),
        (lambda: lf.observable(watch=lf.Watch(None, None)), TypeError, "needs lf.Watch"),
        (lambda: lf.observable(classes={0: "two words"}), TypeError, "a word without spaces for each code"),
        (lambda: lf.observable(classes=["a", "b"]), TypeError, "a word without spaces for each code"),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_what_a_summary_is_made_of_is_checked_when_it_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_watch_keeps_its_shapes_and_a_factory_is_called_first():
    grows = lf.Watch(lambda network, problem: jnp.zeros(()), lambda seen, *_: jnp.stack([seen, seen]))

    @lf.observable(watch=grows)
    def growing(trajectory):
        return trajectory.end

    problem, method = scalar_cell(jnp.ones(1), jnp.ones(1), 1.0, 0.5, 2)
    with pytest.raises(TypeError, match=r"`growing` has seen needs arrays of the same shapes.*float64\[2\]"):
        lf.solve(problem, method, summary=growing)
    with pytest.raises(TypeError, match=r"call it first: summary=descent_class\(...\)"):
        lf.solve(problem, method, summary=lf.descent_class)
