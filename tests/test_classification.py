"""Logistic and cross-entropy losses: against NumPy and SciPy, their digits at large margins, and their flows."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special

import layerflow as lf
from layerflow.cli._datafile import write_data
from layerflow.engine._cell import Cell

RNG = np.random.default_rng(5)
X = RNG.normal(size=(7, 3))
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
CLASSES = np.eye(4)[[2, 0, 1, 3, 1, 0, 2]]
SOFT = RNG.dirichlet(np.ones(4), 7)
WEIGHT = np.array([1.0, 2.0, 0.5, 0.0, 3.0, 1.0, 1.5])
FLOW = lf.Flow(t1=20.0, rtol=1e-9)
DESCENT = lf.Descent(optax.sgd, learning_rate=0.3, steps=60)
SIGNED = lf.Samples(X, SIGNS[:, None], loss="logistic")
CLASSED = lf.Samples(X, CLASSES, loss="cross-entropy")
BOTH = {"logistic": SIGNED, "cross-entropy": CLASSED}
EVERYDAY = ["cross-entropy", pytest.param("logistic", marks=pytest.mark.slow)]


def start_of(task, key, **kwargs):
    """A two-layer linear network for a task."""
    return lf.gaussian(key, (task.x.shape[1], 5, task.y.shape[1]), std=0.4, **kwargs)


def reference(task, outputs):
    """The mean loss by SciPy, of outputs that are not large."""
    y = np.asarray(task.y)
    if task.criterion == "logistic":
        losses = np.log1p(np.exp(-y * outputs)).sum(axis=1)
    else:
        losses = -(y * scipy.special.log_softmax(outputs, axis=1)).sum(axis=1)
    return np.average(losses, weights=task.weight)


def slope(task, outputs):
    """The derivative of the mean loss by the outputs, by hand."""
    y, count = np.asarray(task.y), np.ones(len(outputs)) if task.weight is None else np.asarray(task.weight)
    by_output = (
        -y * scipy.special.expit(-y * outputs)
        if task.criterion == "logistic"
        else scipy.special.softmax(outputs, axis=1) - y
    )
    return by_output * (count / count.sum())[:, None]


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(
    ("loss", "y"), [("logistic", SIGNS[:, None]), ("cross-entropy", CLASSES), ("cross-entropy", SOFT)]
)
def test_the_losses_and_their_gradients_are_those_of_scipy(key, loss, y, weight):
    task = lf.Samples(X, y, weight, loss=loss)
    network = start_of(task, key)
    outputs = X @ np.asarray(network.matrix).T

    np.testing.assert_allclose(task.loss(network), reference(task, outputs), rtol=1e-14)
    w1, w2 = map(np.asarray, network.weights)
    by_output = slope(task, outputs)
    expected = (w2.T @ by_output.T @ X, by_output.T @ (X @ w1.T))
    for found, right in zip(jax.grad(task.loss)(network).weights, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-15)


def test_labels_in_a_vector_are_those_in_a_column(key):
    network = lf.MLP.lecun(key, (3, 8, 1))
    scalar = lambda x: network(x)[0]

    of_vector = lf.Samples(X, SIGNS, loss="logistic").loss(scalar)

    np.testing.assert_allclose(of_vector, SIGNED.loss(network), rtol=1e-15)


def test_two_classes_by_cross_entropy_are_the_logistic_loss_of_the_difference(key):
    network = lf.MLP.lecun(key, (3, 8, 2))
    difference = lambda x: (network(x)[0] - network(x)[1])[None]
    rows = np.stack([SIGNS == 1, SIGNS == -1], axis=1).astype(float)

    by_classes = lf.Samples(X, rows, loss="cross-entropy").loss(network)

    np.testing.assert_allclose(by_classes, SIGNED.loss(difference), rtol=1e-14)


@pytest.mark.parametrize("margin", [0.0, 50.0, 700.0, -1e4, 1e4])
def test_losses_and_slopes_keep_their_digits_at_any_margin(margin):
    """L = log(1 + e^-m) and dL/dm = -1 / (1 + e^m), where log_softmax and p - y are rounding of 1 beyond m = 36."""
    one = lf.Samples(jnp.ones((1, 1)), jnp.ones((1, 1)), loss="logistic")
    two = lf.Samples(jnp.ones((1, 1)), jnp.array([[0.0, 1.0]]), loss="cross-entropy")
    logistic = lambda m: one.loss(lf.linear_model(m[None, None]))
    entropy = lambda m: two.loss(lf.linear_model(jnp.stack([-m / 2, m / 2])[:, None]))
    expected = np.logaddexp(0.0, -margin)

    for loss in (logistic, entropy):
        value, slope = jax.value_and_grad(loss)(jnp.asarray(margin))
        bend = jax.grad(jax.grad(loss))(jnp.asarray(margin))
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(slope, -scipy.special.expit(-margin), rtol=1e-13)
        np.testing.assert_allclose(bend, scipy.special.expit(margin) * scipy.special.expit(-margin), rtol=1e-12)


def test_each_slope_of_many_classes_keeps_its_digits():
    """dL/df_k = e^{f_k - f_c} of a class that is wrong, and minus their sum of the right one, to rounding."""
    outputs, y = jnp.array([[80.0, 3.0, -5.0, 41.0]]), jnp.array([[1.0, 0.0, 0.0, 0.0]])
    task = lf.Samples(jnp.ones((1, 1)), y, loss="cross-entropy")

    slopes = jax.grad(lambda f: task.loss(lf.linear_model(f.T)))(outputs)[0]

    wrong = np.exp(np.array([3.0, -5.0, 41.0]) - 80.0)
    np.testing.assert_allclose(slopes, np.append(-wrong.sum(), wrong), rtol=1e-13)


def test_equal_outputs_have_the_slope_of_equal_probabilities():
    """Where the largest output is not one alone: p = 1/c whatever of them is taken first."""
    task = lf.Samples(jnp.ones((1, 1)), jnp.array([[0.0, 0.0, 1.0]]), loss="cross-entropy")

    slopes = jax.grad(lambda f: task.loss(lf.linear_model(f)))(jnp.full((3, 1), 2.5))

    np.testing.assert_allclose(slopes[:, 0], [1 / 3, 1 / 3, -2 / 3], rtol=1e-15)


def test_in_float32_losses_are_right_to_its_rounding_at_large_margins():
    w = np.array([[30.0], [-50.0]], np.float32)
    task = lf.Samples(np.ones((1, 1), np.float32), np.array([[1.0, 0.0]], np.float32), loss="cross-entropy")
    signed = lf.Samples(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), loss="logistic")

    (entropy, slopes), logistic = (
        jax.value_and_grad(task.loss)(lf.linear_model(w)),
        signed.loss(lf.linear_model(w[:1] - w[1:])),
    )

    assert entropy.dtype == logistic.dtype == jnp.float32
    for value in (entropy, logistic, slopes.weights[0][1, 0], -slopes.weights[0][0, 0]):
        np.testing.assert_allclose(value, np.exp(-80.0), rtol=1e-6)


def test_the_loss_of_nothing_is_that_of_equal_probabilities():
    assert SIGNED.null_loss() == pytest.approx(np.log(2), rel=1e-15)
    for y in (CLASSES, SOFT):
        assert lf.Samples(X, y, WEIGHT, loss="cross-entropy").null_loss() == pytest.approx(np.log(4), rel=1e-14)


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("kind", BOTH)
def test_linear_networks_go_by_the_samples_by_the_cheapest_product(key, kind, n):
    """No moments, whatever the number of samples; wide layers meet the inputs last."""
    task = BOTH[kind].first(n)
    problem = lf.Problem(start_of(task, key), task)

    for method in (FLOW, DESCENT):
        assert Cell.of(problem, method).task is problem.task
    each = jnp.mean(jnp.stack([task._rows(slice(i, i + 1)).loss(lambda x: problem.start(x)) for i in range(n)]))
    np.testing.assert_allclose(task.loss(problem.start), each, rtol=1e-14)
    wide = lf.gaussian(key, (3, 500, task.y.shape[1]), std=0.1)
    widest = max(v.aval.size for e in jax.make_jaxpr(task.loss)(wide).eqns for v in e.outvars)
    assert widest <= 500 * 3  # a product of all samples with the layer has 500 n entries


@pytest.mark.parametrize("kind", BOTH)
def test_a_flow_is_that_of_scipy(key, kind):
    """dW/dt = -sum_n slope_n x_n^T of one layer, by an eighth-order integrator."""
    task = BOTH[kind]
    start = lf.gaussian(key, (3, task.y.shape[1]), std=0.4)
    velocity = lambda _, w: -(slope(task, X @ w.reshape(-1, 3).T).T @ X).ravel()
    right = scipy.integrate.solve_ivp(velocity, (0, 20), np.ravel(start.matrix), "DOP853", rtol=1e-12, atol=1e-13).y[
        :, -1
    ]

    path = lf.solve(lf.Problem(start, task), lf.Flow(t1=20.0, rtol=1e-11))

    np.testing.assert_allclose(np.ravel(path.network.matrix), right, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(path.observed["loss"], reference(task, X @ right.reshape(-1, 3).T), rtol=1e-9)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_descent_takes_the_steps_of_numpy(key, kind):
    task = BOTH[kind]
    start = lf.gaussian(key, (3, task.y.shape[1]), std=0.4)
    w = np.asarray(start.matrix)
    for _ in range(60):
        w = w - 0.3 * slope(task, X @ w.T).T @ X

    path = lf.solve(lf.Problem(start, task), DESCENT)

    np.testing.assert_allclose(path.network.matrix, w, rtol=1e-11)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_batches_keep_the_loss(key, kind):
    """An epoch of batches takes every sample once: their mean gradient is that of all."""
    task = BOTH[kind].first(6)
    start = start_of(task, key)
    batches = [task.batch(key, jnp.asarray(step), 2) for step in range(3)]

    losses = [batch.loss(start) for batch in batches]

    assert {batch.criterion for batch in batches} == {kind}
    np.testing.assert_allclose(np.mean(losses), task.loss(start), rtol=1e-14)
    method = lf.Descent(optax.sgd, learning_rate=0.3, steps=200, batch=2)
    assert lf.solve(lf.Problem(start, task), method, key=key).observed["loss"] < 0.5 * task.null_loss()


@pytest.mark.slow
def test_a_sweep_of_the_number_of_samples_is_that_of_tasks_cut_off(key):
    start = start_of(SIGNED, key)
    cell = lambda n: lf.Problem(start, SIGNED.first(n))

    diagram = lf.sweep(cell, {"n": [3, 7]}, method=FLOW, progress=False)

    alone = [lf.solve(lf.Problem(start, SIGNED.first(n)), FLOW).observed["loss"] for n in (3, 7)]
    np.testing.assert_allclose(diagram.loss, alone, rtol=1e-7)


@pytest.mark.slow
def test_stores_and_programs_tell_losses_apart(key, tmp_path):
    """The same numbers under another loss are another diagram; the same loss goes on with what is there."""
    rows = np.stack([SIGNS == 1, SIGNS == -1], axis=1).astype(float)
    start, axes = lf.gaussian(key, (3, 2), std=0.4), {"scale": [0.5, 2.0]}
    data = {loss: lf.Samples(X, rows, loss=loss) for loss in ("square", "cross-entropy")}

    def run(loss, **kwargs):
        cell = lambda scale: lf.Problem(start, data[loss].rescale(input=scale))
        return lf.sweep(cell, axes, method=FLOW, progress=False, **kwargs)

    entropy, square = run("cross-entropy", store=tmp_path / "kept"), run("square")

    again = run("cross-entropy", store=tmp_path / "kept")
    np.testing.assert_array_equal(again.loss, entropy.loss)
    assert entropy.attrs["fingerprint"] != square.attrs["fingerprint"]
    assert not np.allclose(entropy.loss, square.loss)
    with pytest.raises(ValueError, match="store"):
        run("square", store=tmp_path / "kept")


@pytest.mark.slow
def test_a_prepared_sweep_is_the_sweep():
    cell = lambda key, scale: lf.Problem(start_of(CLASSED, key), CLASSED.rescale(input=scale))
    axes = {"scale": [0.5, 1.0]}

    prepared = lf.prepare(cell, axes, seeds=2, method=FLOW, observe=(lf.loss, lf.accuracy))()

    direct = lf.sweep(cell, axes, seeds=2, method=FLOW, observe=(lf.loss, lf.accuracy), progress=False)
    np.testing.assert_array_equal(prepared.loss, direct.loss)
    np.testing.assert_array_equal(prepared.accuracy, direct.accuracy)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_tasks_are_made_under_jit_vmap_and_grad(key, kind):
    task = BOTH[kind]
    start = start_of(task, key)
    made = lambda scale: lf.Samples(scale * task.x, task.y, loss=kind).loss(start)
    scales = jnp.array([0.5, 1.0, 2.0])

    alone = jnp.stack([made(scale) for scale in scales])

    np.testing.assert_allclose(jax.vmap(made)(scales), alone, rtol=1e-14)
    np.testing.assert_allclose(eqx.filter_jit(lambda y: lf.Samples(X, y, loss=kind).loss(start))(task.y), alone[1])
    step = 1e-5
    by_hand = (made(scales[0] + step) - made(scales[0] - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(made)(scales[0]), by_hand, rtol=1e-8)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_a_flow_is_differentiable_by_the_scale_of_its_inputs(key, kind):
    task = BOTH[kind]
    start = start_of(task, key)
    flow = lf.Flow(t1=3.0, rtol=1e-10)
    end = lambda scale: lf.solve(lf.Problem(start, task.rescale(input=scale)), flow).observed["loss"]

    _, slope = jax.jvp(end, (jnp.asarray(1.0),), (jnp.asarray(1.0),))

    np.testing.assert_allclose(slope, (end(1.0 + 1e-4) - end(1.0 - 1e-4)) / 2e-4, rtol=1e-6)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_laziness_is_the_distance_from_the_flow_of_the_linearised_network(key, kind):
    problem = lf.Problem(start_of(BOTH[kind], key), BOTH[kind])
    flow = lf.Flow(t1=2.0, rtol=1e-9)
    ends = [lf.solve(one, flow, observe=lf.laziness) for one in (problem, problem.linearised)]
    network, twin = (end.network for end in ends)

    gap = lf.function_distance(network, twin, problem)

    # Both have gone farthest, and apart, at the end.
    way = max(lf.function_distance(one, problem.start, problem) for one in (network, twin))
    np.testing.assert_allclose(ends[0].observed["laziness"], gap / way, rtol=1e-6)
    assert ends[0].observed["laziness"] > 0.05
    assert ends[1].observed["laziness"] < 1e-14


def test_linear_networks_conserve_their_imbalance(key):
    path = lf.solve(lf.Problem(start_of(CLASSED, key), CLASSED), FLOW, observe=lf.layer_imbalance)

    initial = lf.layer_imbalance(path.problem.start, path.problem)
    np.testing.assert_allclose(path.observed["layer_imbalance"], initial, atol=1e-7)


def test_observables_of_inputs_and_weights_do_not_see_the_loss(key):
    start = start_of(CLASSED, key)
    moved = jax.tree.map(lambda w: 1.1 * w + 0.1, start)
    square = lf.Problem(start, lf.Samples(X, CLASSES))
    problem = lf.Problem(start, CLASSED)

    for observable in (lf.ntk, lf.kernel_distance, lf.features, lf.accuracy):
        np.testing.assert_array_equal(observable(moved, problem), observable(moved, square))
    distance = functools.partial(lf.function_distance, moved, start)
    np.testing.assert_array_equal(distance(problem), distance(square))
    jax.tree.map(np.testing.assert_array_equal, *(lf.neural_collapse(moved, one) for one in (problem, square)))


def test_sharpness_is_that_of_the_true_loss():
    """H = X^T diag(p (1 - p)) X / n of a linear model under the logistic loss."""
    w = np.array([0.3, -0.2, 0.5])
    p = scipy.special.expit(X @ w)
    hessian = X.T @ (X * (p * (1 - p))[:, None]) / 7
    network = lf.linear_model(jnp.asarray(w))

    np.testing.assert_allclose(
        lf.sharpness(network, lf.Problem(network, SIGNED)), np.linalg.eigvalsh(hessian)[-1], rtol=1e-10
    )


def test_accuracy_counts_signs_and_classes():
    sign = lf.linear_model(jnp.array([1.0, 0.0, 0.0]))
    four = lf.linear_model(jnp.asarray(RNG.normal(size=(4, 3))))

    signs = lf.accuracy(sign, lf.Problem(sign, SIGNED))
    classes = lf.accuracy(four, lf.Problem(four, CLASSED))

    assert signs == pytest.approx(np.mean(np.sign(X[:, 0]) == SIGNS), rel=1e-15)
    right = np.argmax(X @ np.asarray(four.matrix).T, axis=1) == np.argmax(CLASSES, axis=1)
    assert classes == pytest.approx(right.mean(), rel=1e-15)


def test_on_a_test_task_losses_are_its_own(key):
    start = start_of(CLASSED, key)
    test = lf.Samples(X[::-1], SOFT, loss="cross-entropy")
    problem = lf.Problem(start, CLASSED, test=test)

    assert lf.on_test(lf.loss)(start, problem) == test.loss(start)


def test_streams_train_by_their_loss(key):
    def draw(key, n):
        x = jax.random.normal(key, (n, 2))
        return x, jnp.where(x[:, :1] + 2 * x[:, 1:] > 0, 1.0, -1.0)

    stream = lf.Stream(draw, loss="logistic")
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), stream)

    path = lf.solve(
        problem, lf.Descent(optax.sgd, learning_rate=1.0, steps=400, batch=50), observe=(lf.loss, lf.accuracy)
    )

    assert stream.batch(key, jnp.asarray(0), 5).criterion == "logistic"
    assert path.observed["loss"] < 0.1
    assert path.observed["accuracy"] > 0.98
    w = path.network.matrix[0]
    assert w[1] / w[0] == pytest.approx(2, rel=0.05)
    assert str(stream) == "Stream of inputs (2,) and targets (1,), logistic loss"


def test_a_loss_to_stop_at_is_met():
    """Although it falls like 1/t, without a noise of the tolerance that it would stay at."""
    task = lf.Samples(X, np.where(X[:, :1] > 0, 1.0, -1.0), loss="logistic")
    problem = lf.Problem(lf.linear_model(jnp.zeros(3)), task)

    path = lf.solve(problem, lf.Flow(t1=1e12, until=1e-7))

    assert path.status == lf.Status.CONVERGED
    assert 1e-8 < path.observed["loss"] <= 1e-7


def linear(out, loss, y):
    return lf.Problem(lf.linear_model(jnp.zeros((out, 3))), lf.Samples(X, y, loss=loss))


SIGNED_PROBLEM, CLASSED_PROBLEM = linear(1, "logistic", SIGNS[:, None]), linear(4, "cross-entropy", CLASSES)
ERRORS = {
    "labels 0 and 1": (
        lambda: lf.Samples(X, (SIGNS + 1) / 2, loss="logistic"),
        ValueError,
        r"needs labels -1 and 1, but that of sample 1 is 0.0. Of labels 0 and 1 write 2 \* y - 1",
    ),
    "one-hot labels of two classes": (
        lambda: lf.Samples(X, np.eye(2)[[0, 1, 0, 0, 1, 1, 0]], loss="logistic"),
        ValueError,
        r"shape \(n,\) or \(n, 1\), but it has shape \(7, 2\)",
    ),
    "numbers of classes": (
        lambda: lf.Samples(X, np.arange(7) % 3, loss="cross-entropy"),
        ValueError,
        r"has shape \(7,\). Of numbers of classes write jax.nn.one_hot",
    ),
    "numbers of classes in a column": (
        lambda: lf.Samples(X, np.arange(7)[:, None] % 3, loss="cross-entropy"),
        ValueError,
        r"has shape \(7, 1\). Of numbers of classes",
    ),
    "rows that do not sum to 1": (
        lambda: lf.Samples(X, 2 * CLASSES, loss="cross-entropy"),
        ValueError,
        r"needs rows of probabilities.*but that of sample 0 is \[0. 0. 2. 0.\]",
    ),
    "negative probabilities": (
        lambda: lf.Samples(X, CLASSES - 0.25 + np.eye(4)[0], loss="cross-entropy"),
        ValueError,
        r"none negative and of sum 1",
    ),
    "labels under a trace": (
        lambda: lf.sweep(
            lambda size: lf.Problem(
                lf.linear_model(jnp.zeros(3)), lf.Samples(X, size * SIGNS[:, None], loss="logistic")
            ),
            {"size": [1.0, 2.0]},
            method=FLOW,
            progress=False,
        ),
        ValueError,
        r"needs labels -1 and 1",
    ),
    "targets times a factor": (
        lambda: SIGNED.rescale(target=2.0),
        TypeError,
        r"labels and have no scale: leave out `target`",
    ),
    "targets times a traced factor": (
        lambda: jax.jit(lambda s: CLASSED.rescale(target=s).y)(1.0),
        TypeError,
        r"no scale",
    ),
    "moments": (lambda: CLASSED.moments, TypeError, r"square loss alone, but this one has the cross-entropy loss"),
    "converged": (
        lambda: lf.solve(SIGNED_PROBLEM, lf.Flow(t1=1.0, until="converged")),
        TypeError,
        r"No least loss is known for the logistic loss.*weights grow without end.*until=1e-3",
    ),
    "a sweep until converged": (
        lambda: lf.sweep(lambda: CLASSED_PROBLEM, {}, method=lf.Flow(t1=1.0, until="converged"), progress=False),
        TypeError,
        r"No least loss is known for the cross-entropy loss",
    ),
    "a closed form": (
        lambda: lf.solve(SIGNED_PROBLEM, lf.Exact(t1=1.0)),
        ValueError,
        r"closed forms are of the square loss, but the loss of these samples is logistic. Use lf.Flow",
    ),
    "mode strengths": (
        lambda: lf.mode_strengths(CLASSED_PROBLEM.start, CLASSED_PROBLEM),
        TypeError,
        r"Those of the same data are lf.Samples\(task.x, task.y\).moments",
    ),
    "an aligned start": (
        lambda: lf.aligned(CLASSED, 0.0, 0.1, hid=2),
        TypeError,
        r"square loss alone",
    ),
    "excess error": (
        lambda: lf.excess_error(SIGNED_PROBLEM.start, lf.Problem(SIGNED_PROBLEM.start, SIGNED, test=SIGNED)),
        TypeError,
        r"samples alone. Give second moments",
    ),
    "collapse of one output": (
        lambda: lf.neural_collapse(lf.gaussian(jax.random.key(0), (3, 2, 1)), SIGNED_PROBLEM),
        ValueError,
        r"one output per class",
    ),
    "as many outputs as labels are given": (
        lambda: lf.Problem(lf.linear_model(jnp.zeros(3)), lf.Samples(X, SIGNS, loss="logistic")),
        ValueError,
        r"one column each: y\[:, None\]",
    ),
    "a stream of other labels": (
        lambda: lf.Stream(lambda key, n: (jax.random.normal(key, (n, 2)), jnp.zeros((n, 1))), loss="logistic"),
        ValueError,
        r"needs labels -1 and 1",
    ),
    "a data file": (lambda: write_data("labels.npz", SIGNED), ValueError, r"A data file names no loss"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_is_said_before_anything_runs(case):
    call, error, words = ERRORS[case]

    with pytest.raises(error, match=words):
        call()


@pytest.mark.usefixtures("as_users_see_it")
def test_an_unknown_loss_is_said_at_the_call():
    with pytest.raises(ValueError, match=r"`loss` is \"square\", \"logistic\" or \"cross-entropy\", but it is 'hinge'"):
        lf.Samples(X, SIGNS, loss="hinge")
    with pytest.raises(ValueError, match=r"but it is 'hinge'"):
        lf.Stream(lambda key, n: (jnp.ones((n, 2)), jnp.ones((n, 1))), loss="hinge")


def test_values_under_jit_are_checked_as_elsewhere():
    with pytest.raises(Exception, match=r"needs labels -1 and 1"):
        jax.block_until_ready(eqx.filter_jit(lambda y: lf.Samples(X, y, loss="logistic").y)(jnp.zeros(7)))


def test_the_data_of_a_task_are_told_with_another_loss():
    """Moments and aligned starts are of the same data under squares; ready-made tasks take a loss so."""
    square = lf.Samples(CLASSED.x, CLASSED.y)
    train, _ = lf.modular_arithmetic(jax.random.key(0), 5)

    task = lf.Samples(train.x, train.y, loss="cross-entropy")

    assert lf.aligned(square, 0.0, 0.1, hid=2).widths == (3, 2, 4)
    assert task.null_loss() == pytest.approx(np.log(5), rel=1e-14)
    assert "cross-entropy loss" in str(task)
    assert "cross-entropy loss" in str(lf.Problem(lf.linear_model(jnp.zeros((5, 10))), task))
    assert str(square) == "Samples, 7 of inputs (3,) and targets (4,)"


# Where the classes are separated: the direction of a linear model.


def separable():
    """Points of two classes, and rows y x: two support vectors, the others beyond three times the margin.

    w_hat = (1, 0) and alpha = (1/4, 3/4). Of sum_n alpha_n x_n x_n^T the eigenvalues are 1 and 3: what
    w(t) - w_hat log t keeps of its start fades at least like 1/t.
    """
    x = np.array([[1.0, 3.0], [1.0, -1.0], [4.0, 3.0], [-5.0, -2.0], [3.5, -2.0]])
    y = np.array([1.0, 1.0, 1.0, -1.0, 1.0])
    return x, y, y[:, None] * x


def max_margin(rows):
    """The L2 max-margin vector w_hat = sum_n alpha_n y_n x_n, min |w| with y_n x_n . w >= 1, and alpha.

    Non-negative a that minimise |sum a_n rows_n|^2 + (sum a_n - 1)^2 have rows . (rows^T a) >= 1 - sum a, with equality
    where a > 0: over 1 - sum a these are the conditions of the max-margin vector.
    """
    a, _ = scipy.optimize.nnls(np.vstack([rows.T, np.ones(len(rows))]), np.array([0.0] * rows.shape[1] + [1.0]))
    alpha = a / (1 - a.sum())
    return rows.T @ alpha, alpha


def test_the_max_margin_vector_of_these_tests_is_that_of_a_constrained_minimisation():
    *_, rows = separable()
    w_hat, alpha = max_margin(rows)

    constraint = {"type": "ineq", "fun": lambda w: rows @ w - 1, "jac": lambda _: rows}
    found = scipy.optimize.minimize(
        lambda w: w @ w / 2,
        np.ones(2),
        jac=lambda w: w,
        method="SLSQP",
        constraints=constraint,
        options={"ftol": 1e-15},
    )

    np.testing.assert_allclose(w_hat, found.x, atol=1e-9)
    np.testing.assert_allclose((rows @ w_hat)[alpha > 0], 1, rtol=1e-13)
    assert (alpha > 0).sum() == 2
    assert (rows @ w_hat).min() > 1 - 1e-13


TIMES = np.geomspace(1e2, 1e12, 11)


@functools.cache
def long_flow():
    """w(t) of the linear model on separable points, from 0 to t = 1e12."""
    x, y, _ = separable()
    task = lf.Samples(x, y[:, None], loss="logistic")
    flow = lf.Flow(t1=1e12, rtol=1e-12, atol=1e-13)
    path = lf.solve(lf.Problem(lf.linear_model(jnp.zeros(2)), task), flow, ts=TIMES, observe=end_to_end)
    assert path.status == lf.Status.REACHED_T1
    return np.asarray(path.observed["end_to_end"])[:, 0], path


def end_to_end(network, problem):  # noqa: ARG001
    return network.matrix


def test_weights_follow_the_max_margin_vector_at_the_logarithm_of_time():
    """w(t) = w_hat log t + w_tilde + o(1), n alpha_n = exp(-y_n x_n . w_tilde) on support vectors (Soudry et al.)."""
    *_, rows = separable()
    (w, _), (w_hat, alpha) = long_flow(), max_margin(rows)
    on = alpha > 0
    w_tilde = np.linalg.solve(rows[on], -np.log(len(rows) * alpha[on]))

    rest = w - w_hat * np.log(TIMES)[:, None]

    np.testing.assert_allclose(rest[-1], w_tilde, atol=1e-9)
    np.testing.assert_allclose(np.exp(-rest[-1] @ rows[on].T), len(rows) * alpha[on], rtol=1e-9)
    gaps = np.linalg.norm(rest - w_tilde, axis=1)
    assert (gaps[3:6] < 0.2 * gaps[2:5]).all()  # about a tenth for each decade: the next order is log t / t


def test_the_direction_converges_like_one_over_the_logarithm_of_time():
    """(w/|w| - w_hat/|w_hat|) log t tends to a constant, what of w_tilde is orthogonal to w_hat, over |w_hat|."""
    *_, rows = separable()
    (w, _), (w_hat, alpha) = long_flow(), max_margin(rows)
    w_tilde = np.linalg.solve(rows[alpha > 0], -np.log(len(rows) * alpha[alpha > 0]))
    size = np.linalg.norm(w_hat)
    limit = (w_tilde - w_hat * (w_hat @ w_tilde) / size**2) / size

    scaled = (w / np.linalg.norm(w, axis=1)[:, None] - w_hat / size) * np.log(TIMES)[:, None]

    left = np.linalg.norm(scaled - limit, axis=1)
    assert np.linalg.norm(limit) > 0.1
    assert (np.diff(left) < 0).all()
    assert left[-1] < 0.1 * np.linalg.norm(limit)
    # At t and t^2 the gap halves; to first order in 1 / log t the two say the limit.
    np.testing.assert_allclose(left[-1] / left[4], 0.5, rtol=0.05)
    np.testing.assert_allclose(2 * scaled[-1] - scaled[4], limit, atol=0.01 * np.linalg.norm(limit))


def test_the_loss_falls_as_one_over_time_by_the_sum_of_the_dual():
    """L t -> sum_n alpha_n = |w_hat|^2."""
    *_, rows = separable()
    w_hat, alpha = max_margin(rows)
    x, y, _ = separable()
    network = long_flow()[1].network

    loss = lf.Samples(x, y[:, None], loss="logistic").loss(network)

    np.testing.assert_allclose(loss * 1e12, alpha.sum(), rtol=1e-9)
    np.testing.assert_allclose(alpha.sum(), w_hat @ w_hat, rtol=1e-12)


def test_descent_finds_the_same_direction():
    """At t = learning rate times steps, from where the loss is small."""
    x, y, rows = separable()
    task = lf.Samples(x, y[:, None], loss="logistic")
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), task)

    w = lf.solve(problem, lf.Descent(optax.sgd, learning_rate=1.0, steps=10_000)).network.matrix[0]

    w_hat, alpha = max_margin(rows)
    w_tilde = np.linalg.solve(rows[alpha > 0], -np.log(len(rows) * alpha[alpha > 0]))
    np.testing.assert_allclose(w, w_hat * np.log(1e4) + w_tilde, atol=2e-3)


# Unconstrained features.


def collapse_scale(classes, each, decay):
    """The a of logits a (I - 1/c) that minimise log(1 + (c - 1) e^-a) + decay a (c - 1) sqrt(n/c).

    The second is what decay / 2 on the squares of both layers costs at least: the decay times the nuclear norm.
    """
    slope = decay * np.sqrt(each)
    return np.log(1 / slope - (classes - 1))


def test_cross_entropy_with_decay_collapses_free_features_to_a_simplex(key):
    """Class means and classifier become one simplex equiangular tight frame (Zhu et al., 2021)."""
    classes, each, decay = 3, 4, 0.05
    labels = np.repeat(np.arange(classes), each)
    task = lf.Samples(jnp.eye(12), np.eye(classes)[labels], loss="cross-entropy")
    start = lf.feature_model(0.5 * jax.random.normal(key, (5, 12)), jnp.asarray(0.5 * RNG.normal(size=(3, 5))))
    observe = (lf.neural_collapse, lf.loss, end_to_end, lf.weight_norms)

    path = lf.solve(lf.Problem(start, task, decay=decay), lf.Flow(t1=1e4, rtol=1e-10), observe=observe)

    collapsed = {name: float(value) for name, value in path.observed.items() if name.startswith("neural_collapse")}
    assert max(collapsed.values()) < 1e-6
    a = collapse_scale(classes, each, decay)
    logits = a * (np.eye(classes) - 1 / classes)[:, labels]
    np.testing.assert_allclose(path.observed["end_to_end"], logits, atol=1e-8)
    np.testing.assert_allclose(path.observed["loss"], np.log1p((classes - 1) * np.exp(-a)), rtol=1e-9)
