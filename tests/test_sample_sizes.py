"""How many samples, how much noise, how sparse a teacher: as numbers that are axes, against tasks made one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow import observables
from layerflow.cli._datafile import write_data

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
    functions |= {
        "function_distance": lambda network, problem: lf.function_distance(network, start, problem),
        "laziness": lambda network, problem: lf.laziness.follow(network, lf.linearise(network), problem),
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
