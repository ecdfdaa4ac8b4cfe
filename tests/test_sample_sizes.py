"""How many samples, how much noise, how sparse a teacher: as numbers that are axes, against tasks made one by one."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow import observables
from layerflow.cli._datafile import write_data
from layerflow.observables._at_hand import at_hand

RNG = np.random.default_rng(5)
CLASSES = np.eye(3)[[0, 1, 2, 1, 0, 2, 2, 1, 0]]  # of every class among the first three
REFUSED = {"features", "ntk"}  # a row for each sample
ELSEWHERE = {"observable", "on_test", "sharpness", "scaled_sharpness"}  # the last two go by the loss alone


def data(inp, out=3):
    return RNG.normal(size=(9, inp)), CLASSES[:, :out] + 0.1 * RNG.normal(size=(9, out))


NETWORKS = {  # inputs, outputs and the network; nine samples are few for twelve inputs
    "linear": lambda key: (4, 3, lf.gaussian(key, (4, 5, 3), std=0.6)),
    "linear, few samples": lambda key: (12, 3, lf.gaussian(key, (12, 5, 3), std=0.6)),
    "diagonal": lambda key: (4, 1, lf.DiagonalNetwork(tuple(jax.random.normal(key, (2, 4))))),
    "diagonal, few samples": lambda key: (12, 1, lf.DiagonalNetwork(tuple(jax.random.normal(key, (2, 12))))),
    "MLP": lambda key: (4, 3, lf.MLP.gaussian(key, (4, 5, 3), std=0.6)),
}


def measured(start, x, y, weight, refused):
    """All that can be measured of a moved network, and all that a task says of itself."""
    network = jax.tree.map(lambda w: 1.3 * w - 0.1, start)
    task = lf.Samples(x, y, weight)
    problem, found = lf.Problem(start, task, test=task), {}
    functions = {name: getattr(lf, name) for name in observables.__all__ if name not in ELSEWHERE}

    def left(network, problem):
        with at_hand(flow=jax.tree.map(lambda w: 1.2 * w, start)):
            return lf.leaving_flow(network, problem)

    functions |= {
        "function_distance": lambda network, problem: lf.function_distance(network, start, problem),
        "laziness": lambda network, problem: lf.laziness.follow(network, lf.linearise(network), problem),
        "leaving_flow": left,
        "null": lambda network, problem: task.null_loss(),
        "least": lambda network, problem: task.least_loss(network),
        "slope": lambda network, problem: ravelled(problem.velocity(network, task)),
        "reduced": lambda network, problem: ravelled(problem.velocity(network, task.reduced(network))),
        "rescaled": lambda network, problem: task.rescale(input=2.0, target=3.0).loss(network),
    }
    for name, function in functions.items():
        try:
            found[name] = function(network, problem)
        except (TypeError, ValueError) as error:
            refused[name] = str(error)
    return found


def ravelled(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_count_in_all_that_is_measured(key, name):
    """A sample of weight 2 is there twice, one of weight 0 is not; so the first n are the first n."""
    inp, out, start = NETWORKS[name](key)
    (x, y), counts = data(inp, out), RNG.permutation([0, 0, 1, 1, 1, 2, 2, 3, 4])
    refused, plainly = {}, {}
    weighted = jax.jit(lambda x, y, weight: measured(start, x, y, weight, refused))
    repeated = jax.jit(lambda x, y: measured(start, x, y, None, plainly))
    first = lambda n: lf.Samples(x, y).first(jnp.asarray(n)).weight
    for weight, rows in ((counts / 3, np.repeat(np.arange(9), counts)), (first(3), np.arange(3))):
        found, expected = weighted(x, y, jnp.asarray(weight)), repeated(x[rows], y[rows])
        assert {*found} == {*expected} - REFUSED
        for one, value in found.items():
            for ours, theirs in zip(*map(jax.tree.leaves, (value, expected[one])), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=one)
    assert all("have weights" in refused[name] for name in REFUSED - {*plainly})


TEACHER = lf.linear_model(jnp.array([[1.0, 0.0, -2.0, 0.5]]))


def test_a_whole_number_cuts_and_an_array_weighs(key):
    task = lf.teacher(key, TEACHER, n=9, inp=4)

    for n in (4, 4.0, np.int64(4)):
        assert task.first(n).weight is None
        np.testing.assert_array_equal(task.first(n).x, task.x[:4])
    for n in (jnp.asarray(4), jnp.asarray(4.0), jnp.asarray(4, jnp.uint8)):
        np.testing.assert_array_equal(task.first(n).weight, [1.0] * 4 + [0.0] * 5)
    assert str(task.first(jnp.asarray(4))) == "Samples, 9 of inputs (4,) and targets (1,), weighted"
    twice = task.first(jnp.asarray(7)).first(jnp.asarray(3))
    np.testing.assert_array_equal(twice.weight, task.first(jnp.asarray(3)).weight)
    np.testing.assert_array_equal(twice.first(2).weight, [1.0, 1.0])


@pytest.mark.parametrize("n", [0, 10, -1, 2.5, True, np.nan, jnp.asarray(0), jnp.asarray(2.5), jnp.ones(1)])
def test_a_number_of_samples_that_there_is_not_is_told(key, n):
    with pytest.raises(ValueError, match=r"`n` counts samples and needs to be a whole number from 1 to 9.*but it is"):
        lf.teacher(key, TEACHER, n=9, inp=4).first(n)


class Absolute(lf.Samples):
    def loss(self, network):
        return jnp.mean(jnp.abs(jax.vmap(network)(self.x) - self.y))


BAD_WEIGHTS = {
    "shape": ([1.0, 2.0], r"needs shape \(3,\), but it has shape \(2,\)"),
    "negative": ([1.0, -1.0, 1.0], "none negative and not all zero"),
    "zero": ([0.0, 0.0, 0.0], "none negative and not all zero"),
    "not finite": ([1.0, np.inf, 1.0], "finite numbers"),
    "no number": ([1.0, np.nan, 1.0], "finite numbers"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_none_are_told(case):
    weight, words = BAD_WEIGHTS[case]
    for kind in (lf.Samples, lf.Moments.from_samples):
        with pytest.raises(ValueError, match=words):
            kind(np.eye(3), np.eye(3), np.array(weight))


def test_what_weights_cannot_tell_is_refused(key, tmp_path):
    task = lf.teacher(key, TEACHER, n=9, inp=4).first(jnp.asarray(4))
    with pytest.raises(
        TypeError, match=r"of a Absolute cannot be told by weights, for its own `loss` may not read them"
    ):
        Absolute(task.x, task.y).first(jnp.asarray(4))
    assert Absolute(task.x, task.y).first(4).x.shape == (4, 4)
    with pytest.raises(ValueError, match=r"Mini-batches are drawn from .* alike.*Leave out `batch`"):
        lf.solve(lf.Problem(TEACHER, task), lf.Descent(optax.sgd, learning_rate=0.1, steps=1, batch=2))
    with pytest.raises(ValueError, match="A data file holds no weights"):
        write_data(tmp_path / "data.npz", task)
    with pytest.raises(ValueError, match="none negative and not all zero"):
        lf.Samples(task.x, task.y, jnp.arange(9.0)).first(1)


FLOW, DESCENT = lf.Flow(t1=2.0), lf.Descent(optax.sgd, learning_rate=0.05, steps=20)
STARTS = {
    "linear": lambda key: lf.gaussian(key, (6, 4, 1), std=0.3),
    "diagonal": lambda key: lf.DiagonalNetwork((jnp.full(6, 0.3), jnp.full(6, 0.2))),
    "MLP": lambda key: eqx.nn.MLP(6, 1, 5, 1, activation=jnp.tanh, key=key),
}
AXES = {"n": np.arange(1, 41), "noise": [0.0, 0.3], "nonzero": [1, 3]}


def student(name, most, key, n, noise, nonzero):
    """A student of a sparse teacher on the first n of its noisy samples."""
    teacher = lf.sparse_teacher(lf.fold(key, "teacher"), 6, nonzero=nonzero)
    task = lf.teacher(lf.fold(key, "samples"), teacher, n=most, inp=6, noise=noise)
    test = lf.teacher(lf.fold(key, "test"), teacher, n=30, inp=6) if name == "MLP" else lf.population(teacher)
    return lf.Problem(STARTS[name](lf.fold(key, "start")), task.first(n), test=test)


@pytest.mark.parametrize(
    ("name", "most", "method"),
    [("linear", 40, FLOW), ("diagonal", 5, FLOW), ("MLP", 40, FLOW), ("linear", 5, DESCENT), ("MLP", 40, DESCENT)],
)
def test_sizes_noise_and_sparseness_are_axes_of_one_program(compiled, name, most, method):
    """Against students of samples that were cut; five samples are fewer than inputs."""
    cell = lambda key, n, noise, nonzero: student(name, most, key, n, noise, nonzero)
    axes = AXES | {"n": AXES["n"][:most]}
    diagram = lf.sweep(cell, axes, seeds=2, method=method, observe=(lf.loss, lf.on_test(lf.loss)), progress=False)

    assert len({*compiled}) == len(compiled) <= 5
    assert diagram.sizes == {"n": most, "noise": 2, "nonzero": 2, "seed": 2}
    assert (diagram.status == lf.Status.REACHED_T1).all()
    key = jax.random.fold_in(jax.random.key(0), 1)
    n = most // 2
    path = lf.solve(student(name, most, key, n, 0.3, 3), method, observe=lf.on_test(lf.loss))
    found = diagram.test_loss.sel(n=n, noise=0.3, nonzero=3, seed=1)
    np.testing.assert_allclose(found, path.observed["test_loss"], rtol=1e-5)


@pytest.mark.parametrize("coloured", [False, True])
def test_a_population_is_what_many_samples_come_to(key, coloured):
    """xx, yx and yy against the moments of samples, and the loss of any student against the formula."""
    root = RNG.normal(size=(4, 4)) if coloured else np.eye(4)
    teacher, student = lf.gaussian(key, (4, 3, 2), std=0.8), lf.gaussian(jax.random.key(1), (4, 2), std=0.8)
    task = lf.population(teacher, noise=0.5, xx=root @ root.T if coloured else None)
    x = RNG.normal(size=(200_000, 4)) @ root.T
    many = lf.Moments.from_samples(x, x @ teacher.matrix.T + 0.5 * RNG.normal(size=(200_000, 2)))

    for name in ("xx", "yx", "yy", "inverse", "floor"):  # 200,000 samples know moments to 0.5 % of their size
        size = np.abs(getattr(task, name)).max()
        np.testing.assert_allclose(getattr(task, name), getattr(many, name), atol=0.02 * size)
    gap = (student.matrix - teacher.matrix) @ root
    problem = lf.Problem(student, task, test=task)
    np.testing.assert_allclose(lf.excess_error(student, problem), np.sum(gap**2), rtol=1e-12)
    np.testing.assert_allclose(lf.loss(student, problem), np.sum(gap**2) / 2 + 2 * 0.5**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(task.least_loss(student), 0.25, rtol=1e-12)
    assert float(task.loss(teacher)) == pytest.approx(0.25, rel=1e-14)


def test_a_population_of_inputs_that_follow_from_others_is_one():
    """What the inputs do not span is not asked for."""
    root = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1e-3]])
    teacher = lf.linear_model(jnp.array([1.0, -1.0, 2.0]))
    task = lf.population(teacher, xx=root @ root.T)
    along = lf.linear_model(teacher.matrix + jnp.array([[2.0, -1.0, 0.0]]))

    assert float(task.excess(along)) < 1e-25
    np.testing.assert_allclose(task.excess(lf.linear_model(jnp.zeros(3))), 1 + (2e-3) ** 2, rtol=1e-12)


def test_an_excess_error_keeps_its_digits(key):
    teacher = lf.gaussian(key, (5, 2), std=1.0)
    miss = 1e-9 * RNG.normal(size=(2, 5))
    near = lf.LinearNetwork((teacher.matrix + miss,))
    problem = lf.Problem(near, lf.teacher(key, teacher, n=3, inp=5), test=lf.population(teacher, noise=0.7))

    np.testing.assert_allclose(lf.excess_error(near, problem), np.sum(miss**2), rtol=1e-6)


def test_an_excess_error_is_twice_what_the_loss_has_above_its_floor(key):
    """On moments of data and on modes too."""
    modes = lf.Modes(jnp.array([1.0, 0.5]), jnp.array([2.0, 1.0]))
    network = lf.skill_network(jnp.array([0.3, 0.4]))
    data = lf.random_regression(key, n=9, inp=2, out=1).moments
    for task in (modes, data):
        above = task.loss(network) - task.least_loss(network)
        np.testing.assert_allclose(
            lf.excess_error(network, lf.Problem(network, modes, test=task)), 2 * above, rtol=1e-12
        )


def test_derivatives_of_the_excess_error_are_those_of_its_formula():
    """By noise it is 0, by the student 2 (W - W*) xx, by the teacher the opposite, by xx the squares of the gap."""
    w, v = RNG.normal(size=(2, 1, 3))
    excess = lambda w, v, noise, xx: lf.population(lf.linear_model(v), noise=noise, xx=xx).excess(lf.linear_model(w))
    xx = np.diag([1.0, 1.0, 0.5])

    by_w, by_v, by_noise, by_xx = jax.jacfwd(excess, argnums=(0, 1, 2, 3))(*map(jnp.asarray, (w, v, 0.3, xx)))

    np.testing.assert_allclose(by_w, 2 * (w - v) @ xx, rtol=1e-12)
    np.testing.assert_allclose(by_v, -2 * (w - v) @ xx, rtol=1e-12)
    np.testing.assert_allclose(by_noise, 0.0, atol=1e-14)
    np.testing.assert_allclose(by_xx + by_xx.T, 2 * (w - v).T @ (w - v), rtol=1e-12)  # along symmetric directions


def test_a_sparse_teacher_sees_as_many_inputs_as_asked_for(key):
    drawn = jax.vmap(lambda nonzero: lf.sparse_teacher(key, 9, nonzero=nonzero, out=2, size=0.5).matrix)
    matrices = np.asarray(drawn(jnp.arange(1, 10)))

    np.testing.assert_array_equal((matrices != 0).all(1).sum(1), np.arange(1, 10))
    np.testing.assert_array_equal(np.abs(matrices).sum((1, 2)), np.arange(1, 10))
    for sparse, denser in itertools.pairwise(matrices):
        np.testing.assert_array_equal(denser[sparse != 0], sparse[sparse != 0])
    np.testing.assert_array_equal(lf.sparse_teacher(key, 9, nonzero=4, out=2, size=0.5).matrix, matrices[3])
    every = np.asarray(
        jax.vmap(lambda key: lf.sparse_teacher(key, 5, nonzero=2).matrix[0])(jax.random.split(key, 4000))
    )
    # Of 4000 draws: shares of 2/5 and of 1/2 to 4 standard deviations.
    np.testing.assert_allclose((every != 0).mean(0), 0.4, atol=4 * 0.49 / 4000**0.5)
    np.testing.assert_allclose((every > 0).sum() / (every != 0).sum(), 0.5, atol=4 * 0.5 / 8000**0.5)


def cell_of(task):
    return lambda n: lf.Problem(lf.linear_model(jnp.zeros(4)), task(n))


MOST = lf.teacher(jax.random.key(0), TEACHER, n=9, inp=4)
NO = {
    "slice": (
        cell_of(lambda n: lf.Samples(MOST.x[:n], MOST.y[:n])),
        r"lf.static.*lf.Samples\(x, y\).first\(n\), which",
    ),
    "mask": (cell_of(lambda n: lf.Samples(MOST.x[jnp.arange(9) < n], MOST.y)), r"lf.Samples\(x, y\).first\(n\), which"),
    "shape": (
        cell_of(lambda n: lf.Samples(jnp.ones((n, 4)), MOST.y)),
        r"lf.Samples\(x, y\).first\(n\), which compiles",
    ),
    "drawn": (
        cell_of(lambda n: lf.Samples(jax.random.normal(jax.random.key(0), (n, 4)), MOST.y)),
        r"lf.static\(\[...\]\).*lf.Samples\(x, y\).first\(n\), which compiles once.*JAX says",
    ),
    "teacher": (cell_of(lambda n: lf.teacher(jax.random.key(0), TEACHER, n=n, inp=4)), r"`n` decides a .*first\(n\)"),
    "regression": (
        cell_of(lambda n: lf.random_regression(jax.random.key(0), n=n, inp=4, out=1)),
        r"`n` decides a shape",
    ),
    "polynomial": (
        cell_of(lambda n: lf.polynomial_regression(jax.random.key(0), n=n, inp=4)[0]),
        r"`n` decides a shape, but a value of an axis came. Draw the most samples and take `.first\(n\)`.*lf.static",
    ),
    "inputs": (
        cell_of(lambda n: lf.population(lf.sparse_teacher(jax.random.key(0), n, nonzero=1))),
        r"`inp` decides a shape, but a value of an axis came. Make that axis lf.static",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", NO)
def test_sizes_that_decide_shapes_are_told_what_to_do(case):
    cell, words = NO[case]
    with pytest.raises(TypeError, match=words):
        lf.sweep(cell, {"n": [2, 3]}, method=lf.Exact(t1=1.0), progress=False)


def test_a_branch_on_an_axis_is_not_told_of_samples():
    with pytest.raises(TypeError) as told:
        lf.sweep(
            cell_of(lambda n: MOST.first(4 if n > 2 else 3)), {"n": [2, 3]}, method=lf.Exact(t1=1.0), progress=False
        )
    assert "first(n)" not in str(told.value)


OUTSIDE = {
    "samples": (
        "n",
        [2, 10, 0],
        r"`n` counts samples.*from 1 to 9, as many as there are. First at n=10, in 2 of 3 cells",
    ),
    "half a sample": ("n", [2.0, 2.5], r"`n` counts samples.*First at n=2.5, in 1 of 2 cells"),
    "noise": (
        "noise",
        [0.0, -0.1],
        r"`noise` is a standard deviation, not negative. First at noise=-0.1, in 1 of 2 cells",
    ),
    "non-zero inputs": (
        "nonzero",
        [4, 5],
        r"`nonzero` counts non-zero inputs.*from 1 to 4.*First at nonzero=5, in 1 of 2",
    ),
    "no input": ("nonzero", [0, 1], r"`nonzero` counts non-zero inputs.*First at nonzero=0, in 1 of 2 cells"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_numbers_outside_are_told_with_the_first_cell(case):
    def cell(n=3, noise=0.1, nonzero=2):
        teacher = lf.sparse_teacher(jax.random.key(0), 4, nonzero=nonzero)
        most = lf.teacher(jax.random.key(1), teacher, n=9, inp=4, noise=noise)
        return lf.Problem(lf.linear_model(jnp.zeros(4)), most.first(n), test=lf.population(teacher, noise=noise))

    name, values, words = OUTSIDE[case]
    with pytest.raises(ValueError, match=words):
        lf.sweep(cell, {name: values}, method=lf.Exact(t1=1.0), progress=False)


STUDENT = lf.linear_model(jnp.zeros(4))
WRONG = {
    "no test task": (
        lambda: lf.excess_error(STUDENT, lf.Problem(STUDENT, MOST)),
        ValueError,
        r"test=lf.population\(teac",
    ),
    "samples to test on": (
        lambda: lf.excess_error(STUDENT, lf.Problem(STUDENT, MOST, test=MOST)),
        TypeError,
        r"test task is of type Samples, which knows of samples alone.*test=lf.population\(teacher\)",
    ),
    "no linear teacher": (
        lambda: lf.population(lf.MLP.gaussian(jax.random.key(0), (2, 2, 1), std=1.0)),
        TypeError,
        r"a MLP has non",
    ),
    "negative noise": (lambda: lf.population(TEACHER, noise=-1.0), ValueError, r"not negative, but it is -1.0"),
    "noise of each output": (lambda: lf.population(TEACHER, noise=jnp.ones(2)), ValueError, r"has shape \(2,\)"),
    "moment of another width": (lambda: lf.population(TEACHER, xx=jnp.eye(3)), ValueError, r"needs shape \(4, 4\)"),
    "moment of no data": (lambda: lf.population(TEACHER, xx=-jnp.eye(4)), ValueError, r"no negative variance"),
    "moment askew": (lambda: lf.population(TEACHER, xx=jnp.tri(4)), ValueError, r"needs to be symmetric"),
    "two sizes": (
        lambda: lf.sparse_teacher(jax.random.key(0), 4, nonzero=1, size=jnp.ones(2)),
        ValueError,
        r"`size` is one number, but it has shape \(2,\)",
    ),
    "more than inputs": (
        lambda: lf.sparse_teacher(jax.random.key(0), 4, nonzero=5),
        ValueError,
        r"1 to 4.*but it is 5",
    ),
    "half an input": (lambda: lf.sparse_teacher(jax.random.key(0), 4, nonzero=1.5), ValueError, r"but it is 1.5"),
    "no output": (lambda: lf.sparse_teacher(jax.random.key(0), 4, nonzero=1, out=0), ValueError, r"`out` is a whole"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_told(case):
    call, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        call()


def test_derivatives_by_noise_are_central_differences():
    """Where weights are 0 too, whose roots have no derivative."""
    cell = lambda n, noise: student("linear", 12, jax.random.key(1), n, noise, 2)
    observe = (lf.loss, lf.mode_strengths, lf.excess_error)
    axes = {"n": [4, 9], "noise": [0.2 - 1e-4, 0.2, 0.2 + 1e-4]}

    found = lf.sweep(cell, axes, method=DESCENT, observe=observe, derivative="noise", progress=False)

    for name in ("loss", "mode_strengths", "excess_error"):
        slope = (found[name].isel(noise=2) - found[name].isel(noise=0)) / 2e-4
        np.testing.assert_allclose(found[f"{name}_d_noise"].isel(noise=1), slope, rtol=1e-6, atol=1e-9)


def test_derivatives_by_weights_of_zero_are_those_of_the_loss():
    x, y = jax.random.normal(jax.random.key(0), (7, 3)), jax.random.normal(jax.random.key(1), (7, 1))
    weight, network = jnp.ones(7).at[2].set(0.0), lf.linear_model(jnp.array([0.5, -1.0, 2.0]))

    by_moments = jax.grad(lambda w: lf.Moments.from_samples(x, y, w).loss(network))(weight)
    by_samples = jax.grad(lambda w: lf.Samples(x, y, w).loss(network))(weight)

    np.testing.assert_allclose(by_moments, by_samples, rtol=1e-9)


def test_accuracy_of_one_output_counts_weights():
    x, y = jnp.array([[1.0], [1.0], [-1.0], [-1.0]]), jnp.array([[1.0], [-1.0], [-1.0], [1.0]])
    network = lf.linear_model(jnp.ones(1))

    task = lf.Samples(x, y, weight=jnp.array([3.0, 1.0, 0.0, 1.0]))

    assert lf.accuracy(network, lf.Problem(network, task)) == 0.6
